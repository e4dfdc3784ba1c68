//! Sidecar as written: which services the workloads of a namespace know, and what becomes of their flows to others (ISTIO 20).

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::scalars::check_wildcard_domain;
use super::selector::Selector;
use crate::config::diagnostic::{Code, Context, Diagnostics};
use crate::config::names;
use crate::config::read::Fields;
use crate::config::resource::Resource;
use crate::config::settings::OutboundPolicy;
use crate::config::source::Spanned;
use crate::config::yaml::Node;
use crate::flow::Workload;
use crate::route::hosts;

/// A Sidecar that passed its own rules, or of which the wrong parts were left out and reported.
#[derive(Debug)]
pub struct Sidecar<'r> {
    /// Where it stands.
    pub resource: &'r Resource,
    /// `workloadSelector`; `None`: every workload of its namespace.
    pub selector: Option<Selector>,
    /// `egress`; empty: everything is known.
    pub egress: Vec<Egress>,
    /// `outboundTrafficPolicy`, where it is given.
    pub policy: Option<Spanned<OutboundPolicy>>,
}

/// `egress[]`: what is known, on one port or on all.
#[derive(Debug)]
pub struct Egress {
    /// `port.number`.
    pub port: Option<u16>,
    /// `hosts`.
    pub hosts: Vec<Import>,
}

/// `namespace/host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Where the resource lives.
    pub namespace: Of,
    /// A name or a wildcard.
    pub host: Arc<str>,
}

/// The namespaces that an import is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Of {
    /// `*`.
    All,
    /// By name; `.` is that of the Sidecar.
    One(Box<str>),
    /// `~`: none.
    None,
    /// `~name`: not this one, whatever else says so.
    Not(Box<str>),
}

impl<'r> Sidecar<'r> {
    /// Reads and judges one resource by the rules that concern it alone.
    pub fn read(resource: &'r Resource, diagnostics: &mut Diagnostics) -> Option<Self> {
        let cx = &mut resource.context(diagnostics);
        let Some(spec) = resource.spec() else {
            cx.report(Code::MissingField, resource.root.span, "`spec` is missing");
            return None;
        };
        let mut fields = Fields::of(spec, cx)?;
        let selector = fields.get("workloadSelector").and_then(|node| Selector::read(node, "labels", cx));
        let egress = fields.list("egress", cx);
        let ingress = fields.list("ingress", cx);
        let policy_node = fields.get("outboundTrafficPolicy");
        let pool = fields.get("inboundConnectionPool");
        if egress.is_empty() && ingress.is_empty() && policy_node.is_none() && pool.is_none() {
            let message =
                "one of `egress`, `ingress`, `outboundTrafficPolicy` and `inboundConnectionPool` has to be there";
            cx.report(Code::MissingField, spec.span, message);
        }
        if let Some(node) = pool {
            read_pool(node, cx);
        }
        read_ingress(ingress, cx);
        let namespace = &resource.metadata.namespace;
        let mut ports = HashSet::new();
        let count = egress.len();
        let egress: Vec<Egress> = egress
            .iter()
            .enumerate()
            .filter_map(|(index, node)| read_egress(node, namespace, index + 1 == count, &mut ports, cx))
            .collect();
        let policy = policy_node.and_then(|node| {
            let span = node.span;
            Fields::of(node, cx).map(|fields| Spanned { value: OutboundPolicy::read_of_sidecar(fields, cx), span })
        });
        fields.finish(cx);
        Some(Self { resource, selector, egress, policy })
    }

    /// True if it is the one of this workload by its labels.
    pub fn is_selecting(&self, workload: &Workload) -> bool {
        *self.resource.metadata.namespace == *workload.namespace
            && self.selector.as_ref().is_some_and(|selector| selector.selects(&workload.labels))
    }

    /// True if it is for all workloads of this namespace that none selects.
    pub fn is_default_of(&self, namespace: &str) -> bool {
        self.selector.is_none() && *self.resource.metadata.namespace == *namespace
    }

    /// True if a service of a resource in this namespace is known on a port, or on some.
    pub fn imports_service(&self, namespace: &str, host: &str, port: Option<u16>) -> bool {
        self.imports(namespace, port, |import| hosts::is_subset(host, &import.host))
    }

    /// True if a VirtualService's host is: that of a wildcard is where one of its names is.
    pub fn imports_routes(&self, namespace: &str, host: &str) -> bool {
        self.imports(namespace, None, |import| hosts::overlap(host, &import.host))
    }

    fn imports(&self, namespace: &str, port: Option<u16>, covers: impl Fn(&Import) -> bool) -> bool {
        if self.egress.is_empty() {
            return true;
        }
        let on_port = |egress: &&Egress| egress.port.is_none() || port.is_none() || egress.port == port;
        let imports =
            || self.egress.iter().filter(on_port).flat_map(|egress| &egress.hosts).filter(|import| covers(import));
        let is_out = imports().any(|import| matches!(&import.namespace, Of::Not(not) if **not == *namespace));
        !is_out
            && imports().any(|import| match &import.namespace {
                Of::All => true,
                Of::One(name) => **name == *namespace,
                Of::None | Of::Not(_) => false,
            })
    }
}

fn read_egress(
    node: &Node,
    namespace: &str,
    is_last: bool,
    ports: &mut HashSet<u64>,
    cx: &mut Context<'_>,
) -> Option<Egress> {
    let mut fields = Fields::of(node, cx)?;
    let bind = fields.text("bind", cx);
    let is_unix = bind.as_ref().is_some_and(|bind| bind.value.starts_with("unix://"));
    let capture = fields.text("captureMode", cx);
    if let (true, Some(capture)) = (is_unix, &capture)
        && capture.value == "IPTABLES"
    {
        cx.report(Code::Conflict, capture.span, "what is bound to a unix socket is not redirected to");
    }
    let port_node = fields.get("port");
    let port = port_node.and_then(|node| read_port(node, is_unix, ports, cx));
    if port_node.is_none() {
        if let Some(bind) = &bind {
            cx.report(Code::MissingField, bind.span, "`bind` needs a `port` beside it");
        }
        if !is_last {
            let message = "only the last entry may be without `port`: it takes what the others leave";
            cx.report(Code::Conflict, node.span, message);
        }
    }
    if let Some(bind) = &bind {
        cx.report(
            Code::Ignored,
            bind.span,
            "not supported, and ignored: `listeners` of the settings say where clients connect",
        );
    }
    let items = fields.required("hosts", cx).and_then(|node| node.items(cx));
    if items.is_some_and(<[Node]>::is_empty) {
        cx.report(Code::MissingField, node.span, "`hosts` is empty");
    }
    let hosts = items.unwrap_or_default().iter().filter_map(|node| read_import(node, namespace, cx)).collect();
    fields.finish(cx);
    Some(Egress { port: port.flatten(), hosts })
}

/// `None`: wrong; `Some(None)`: that of a unix socket.
fn read_port(node: &Node, is_unix: bool, ports: &mut HashSet<u64>, cx: &mut Context<'_>) -> Option<Option<u16>> {
    let mut fields = Fields::of(node, cx)?;
    let number = fields.get("number").and_then(|node| node.whole(if is_unix { 0..=65535 } else { 1..=65535 }, cx));
    fields.text("protocol", cx);
    fields.text("name", cx);
    fields.whole("targetPort", 0..=65535, cx);
    fields.finish(cx);
    let number = number?;
    if number != 0 && !ports.insert(number) {
        cx.report(Code::Conflict, node.span, format!("port {number} is there already"));
    }
    Some(u16::try_from(number).ok().filter(|number| *number != 0))
}

fn read_import(node: &Node, own: &str, cx: &mut Context<'_>) -> Option<Import> {
    let parse = |text: &str| -> Result<Import, String> {
        let (namespace, host) =
            text.split_once('/').ok_or("this is NAMESPACE/HOST, with `.`, `*` or `~` as namespaces")?;
        let namespace = match namespace {
            "*" => Of::All,
            "." => Of::One(own.into()),
            "~" => Of::None,
            _ => match namespace.strip_prefix('~') {
                Some(not) => Of::Not(names::namespace(not)?),
                None => Of::One(names::namespace(namespace)?),
            },
        };
        check_wildcard_domain(host).map_err(|error| error.to_string())?;
        if host.starts_with('*') && host != "*" && !host.starts_with("*.") {
            return Err("a wildcard stands for whole labels: `*.example.com`".to_owned());
        }
        Ok(Import { namespace, host: host.to_ascii_lowercase().into() })
    };
    Some(node.parsed(parse, cx)?.value)
}

/// Nothing comes in here: read for its mistakes.
fn read_ingress(items: &[Node], cx: &mut Context<'_>) {
    let mut ports = HashSet::new();
    for node in items {
        let Some(mut fields) = Fields::of(node, cx) else { continue };
        let port = fields.required("port", cx);
        let protocol = port.and_then(|node| node.entry("protocol")).and_then(Node::scalar).map(str::to_ascii_uppercase);
        if let Some(port) = port {
            read_port(port, false, &mut ports, cx);
        }
        if let Some(endpoint) = fields.get("defaultEndpoint") {
            endpoint.parsed(default_endpoint, cx);
        }
        if let Some(tls) = fields.get("tls") {
            read_ingress_tls(tls, protocol.as_deref(), cx);
        }
        if let Some(pool) = fields.get("connectionPool") {
            read_pool(pool, cx);
        }
        fields.text("bind", cx);
        fields.text("captureMode", cx);
        fields.finish(cx);
    }
}

fn default_endpoint(text: &str) -> Result<(), &'static str> {
    const RIGHT: &str = "127.0.0.1:PORT, [::1]:PORT, 0.0.0.0:PORT, [::]:PORT or unix:///PATH";
    if let Some(path) = text.strip_prefix("unix://") {
        return if path.len() > 1 { Ok(()) } else { Err(RIGHT) };
    }
    let address: SocketAddr = text.parse().map_err(|_| RIGHT)?;
    let is_own = address.ip().is_loopback() || address.ip().is_unspecified();
    if is_own && address.port() != 0 { Ok(()) } else { Err(RIGHT) }
}

fn read_ingress_tls(node: &Node, protocol: Option<&str>, cx: &mut Context<'_>) {
    let Some(mut fields) = Fields::of(node, cx) else { return };
    fields.one_of("mode", &[("SIMPLE", ()), ("MUTUAL", ()), ("OPTIONAL_MUTUAL", ())], cx);
    for file in ["serverCertificate", "privateKey", "caCertificates"] {
        fields.text(file, cx);
    }
    for other in ["httpsRedirect", "subjectAltNames", "credentialName", "credentialNames", "tlsCertificates"] {
        if let Some(node) = fields.get(other) {
            cx.report(Code::Conflict, node.span, format!("`{other}` is for gateways, not for a Sidecar"));
        }
    }
    if !matches!(protocol, Some("HTTPS" | "TLS")) {
        cx.report(Code::Conflict, node.span, "TLS is opened on ports of protocol HTTPS or TLS");
    }
    fields.finish(cx);
}

/// Of what comes in.
fn read_pool(node: &Node, cx: &mut Context<'_>) {
    let Some(mut fields) = Fields::of(node, cx) else { return };
    let [tcp, http] = ["tcp", "http"].map(|name| fields.get(name));
    if tcp.is_none() && http.is_none() {
        cx.report(Code::MissingField, node.span, "`tcp` or `http` is missing");
    }
    fields.finish(cx);
}
