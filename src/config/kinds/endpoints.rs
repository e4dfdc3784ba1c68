//! Endpoints as written: the addresses of the Service of the same name (Kubernetes core/v1).

use std::net::IpAddr;
use std::sync::Arc;

use super::SharedText;
use crate::config::diagnostic::{Code, Context, Diagnostics};
use crate::config::read::Fields;
use crate::config::resource::Resource;
use crate::config::source::{Span, Spanned};
use crate::config::yaml::Node;

/// Addresses of one Service, of an Endpoints or of an EndpointSlice.
#[derive(Debug)]
pub struct Endpoints<'r> {
    /// Where they stand.
    pub resource: &'r Resource,
    /// The Service's name; its namespace is the resource's.
    pub service: SharedText,
    /// In the order written.
    pub groups: Vec<Group>,
}

/// Addresses that serve the same ports.
#[derive(Debug)]
pub struct Group {
    /// In the order written.
    pub addresses: Vec<Address>,
    /// TCP ports by the name of the service port; a Service with one port may leave the name out (empty).
    pub ports: Vec<NamedPort>,
}

/// Name of a service port, and the number that it has at an address.
pub type NamedPort = (Box<str>, u16);

/// One address.
#[derive(Debug)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Where it stands.
    pub span: Span,
    /// Used always; the others only where the Service says `publishNotReadyAddresses`.
    pub is_ready: bool,
}

impl<'r> Endpoints<'r> {
    /// Reads and judges one resource by the rules that concern it alone. `None`: nothing of use is left.
    pub fn read(resource: &'r Resource, diagnostics: &mut Diagnostics) -> Option<Self> {
        let cx = &mut resource.context(diagnostics);
        let mut fields = Fields::of(&resource.root, cx)?;
        let subsets = fields.list("subsets", cx);
        let groups = subsets.iter().filter_map(|node| read_subset(node, cx)).collect();
        let name = resource.root.entry("metadata").and_then(|metadata| metadata.entry("name"));
        let span = name.map_or(resource.root.span, |node| node.span);
        Some(Self { resource, service: Spanned { value: resource.metadata.name.clone(), span }, groups })
    }

    /// The Service's namespace and name.
    pub fn key(&self) -> (Arc<str>, Arc<str>) {
        (self.resource.metadata.namespace.clone(), self.service.value.clone())
    }
}

fn read_subset(node: &Node, cx: &mut Context<'_>) -> Option<Group> {
    let mut fields = Fields::of(node, cx)?;
    let mut addresses = Vec::new();
    for (name, is_ready) in [("addresses", true), ("notReadyAddresses", false)] {
        for item in fields.list(name, cx) {
            let Some(mut fields) = Fields::of(item, cx) else { continue };
            let ip = fields.required("ip", cx).and_then(|node| read_ip(node, cx));
            for known in ["hostname", "nodeName", "targetRef"] {
                fields.get(known);
            }
            fields.finish(cx);
            addresses.extend(ip.map(|ip| Address { ip: ip.value, span: ip.span, is_ready }));
        }
    }
    let ports = fields.list("ports", cx).iter().filter_map(|node| read_port(node, cx)).collect();
    fields.finish(cx);
    Some(Group { addresses, ports })
}

pub(super) fn read_ip(node: &Node, cx: &mut Context<'_>) -> Option<Spanned<IpAddr>> {
    let text = node.text(cx)?;
    match text.value.parse::<IpAddr>() {
        Ok(ip) => Some(text.map(|_| ip.to_canonical())),
        Err(_) => {
            let message = format!("{:?} is no IP address", text.value);
            cx.report(Code::BadAddress, node.span, message).found(text.value);
            None
        }
    }
}

/// A port of an Endpoints or a slice. `None`: wrong, or not TCP, which no flow can be, or (in slices) no number.
pub(super) fn read_port(node: &Node, cx: &mut Context<'_>) -> Option<NamedPort> {
    let mut fields = Fields::of(node, cx)?;
    let name = fields.text("name", cx).map_or("", |name| name.value);
    let number = fields.get("port").and_then(|node| node.port(cx));
    let protocol = fields.one_of("protocol", TRANSPORTS, cx).unwrap_or(true);
    fields.get("appProtocol"); // the Service's counts
    fields.finish(cx);
    Some((name.into(), number.filter(|_| protocol)?))
}

/// Transports of Kubernetes; true is the one that flows have.
pub(super) const TRANSPORTS: &[(&str, bool)] = &[("TCP", true), ("UDP", false), ("SCTP", false)];
