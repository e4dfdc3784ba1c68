//! For whom routes are meant: sidecars (`mesh`) or Gateways, which port, and workloads by namespace and labels (ISTIO 5.1).

use std::net::IpAddr;

use crate::config::diagnostic::{Code, Context};
use crate::config::kinds::scalars::{check_fqdn, is_dns_label};
use crate::config::read::Fields;
use crate::config::yaml::Node;
use crate::flow::Workload;

/// `gateways` of a VirtualService: the default for all of its matches.
#[derive(Debug)]
pub(super) struct Gateways<'n> {
    items: &'n [Node],
}

impl<'n> Gateways<'n> {
    pub(super) fn read(fields: &mut Fields<'n>, cx: &mut Context<'_>) -> Self {
        let items = fields.list("gateways", cx);
        check_names(items, cx);
        Self { items }
    }

    /// None named means all sidecars.
    pub(super) fn in_mesh(&self) -> bool {
        self.items.is_empty() || self.items.iter().any(is_mesh)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Says what of the VirtualService has no effect, because there are no Gateways.
    pub(super) fn warn(&self, cx: &mut Context<'_>) {
        let Some(other) = self.items.iter().find(|item| !is_mesh(item)) else { return };
        let message = match self.in_mesh() {
            true => "Gateways are not supported yet: for this one the VirtualService has no effect",
            false => {
                "Gateways are not supported yet, and no other listener is meant: the VirtualService is passed over"
            }
        };
        cx.report(Code::Ignored, other.span, message).found(other.excerpt());
    }
}

/// Whom a match is for, beside what the request or connection looks like.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Our listeners are meant.
    pub in_mesh: bool,
    /// The service port; `None`: every port.
    pub port: Option<u16>,
    /// Labels that the client's workload has, all of them.
    pub source_labels: Vec<(Box<str>, Box<str>)>,
    /// The namespace of the client's workload.
    pub source_namespace: Option<Box<str>>,
}

impl Scope {
    /// Of a route without matches.
    pub(super) fn whole(gateways: &Gateways<'_>) -> Self {
        Self { in_mesh: gateways.in_mesh(), port: None, source_labels: Vec::new(), source_namespace: None }
    }

    /// Reads the fields of a match. A match that names gateways replaces the VirtualService's list, and for HTTP its `sourceLabels` do
    /// not count then (`labels_always`: they do).
    pub(super) fn read(
        fields: &mut Fields<'_>,
        gateways: &Gateways<'_>,
        labels_always: bool,
        cx: &mut Context<'_>,
    ) -> Self {
        let own = fields.list("gateways", cx);
        check_names(own, cx);
        let in_mesh = if own.is_empty() { gateways.in_mesh() } else { own.iter().any(is_mesh) };
        let port = fields.get("port").and_then(|node| node.port(cx));
        let labels = fields.map("sourceLabels", cx).iter().filter_map(|(key, node)| {
            let value = node.text(cx)?;
            Some((key.text.clone(), value.value.into()))
        });
        let mut source_labels: Vec<_> = labels.collect();
        if !labels_always && !own.is_empty() {
            source_labels.clear();
        }
        let source_namespace = fields.text("sourceNamespace", cx).filter(|text| !text.value.is_empty());
        Self { in_mesh, port, source_labels, source_namespace: source_namespace.map(|text| text.value.into()) }
    }

    /// True if flows of this client to this service port are meant.
    pub fn includes(&self, port: u16, client: &Workload) -> bool {
        self.in_mesh && self.port.is_none_or(|number| number == port) && self.includes_workload(client)
    }

    /// The same for any port.
    pub(super) fn includes_workload(&self, client: &Workload) -> bool {
        let has = |(key, value): &(Box<str>, Box<str>)| client.labels.get(&**key).is_some_and(|own| **own == **value);
        self.source_namespace.as_ref().is_none_or(|namespace| **namespace == *client.namespace)
            && self.source_labels.iter().all(has)
    }

    /// True for what leaves no flow of our listeners out.
    pub(super) fn is_everybody(&self) -> bool {
        self.in_mesh && self.port.is_none() && self.source_labels.is_empty() && self.source_namespace.is_none()
    }
}

fn is_mesh(node: &Node) -> bool {
    node.scalar() == Some(MESH)
}

/// `mesh`, a Gateway of the own namespace, or `namespace/name`; Istio takes names like those of hosts.
fn check_names(items: &[Node], cx: &mut Context<'_>) {
    for item in items {
        let Some(text) = item.text(cx) else { continue };
        let (namespace, name) = text.value.split_once('/').map_or((None, text.value), |(ns, name)| (Some(ns), name));
        let is_name = check_fqdn(name).is_ok() || name.parse::<IpAddr>().is_ok();
        if !is_name || namespace.is_some_and(|namespace| !is_dns_label(namespace) && namespace != ".") {
            let message = format!("{:?} is no name of a Gateway", text.value);
            let report = cx.report(Code::BadGatewayName, item.span, message).found(text.value);
            report.help("write mesh, the Gateway's name, or namespace/name");
        }
    }
}

const MESH: &str = "mesh"; // Istio's word for all sidecars
