//! Kubernetes Service as written (core/v1): its host, address, ports, and whom it selects (ISTIO 13).

use std::net::IpAddr;
use std::sync::Arc;

use super::endpoints::{TRANSPORTS, read_ip};
use super::scalars::{check_fqdn, is_dns_label};
use super::selector::Selector;
use super::service_entry::{Annotations, PROTOCOLS, Port};
use super::{ExportTo, SharedText, canonical_host};
use crate::config::diagnostic::{Code, Context, Diagnostics};
use crate::config::read::Fields;
use crate::config::resource::Resource;
use crate::config::source::Spanned;
use crate::config::yaml::Node;
use crate::route::Protocol;

/// A Service that passed its own rules, or of which the wrong parts were left out and reported.
#[derive(Debug)]
pub struct Service<'r> {
    /// Where it stands.
    pub resource: &'r Resource,
    /// `name.namespace.svc.cluster.local`, with the place of the name.
    pub host: SharedText,
    /// How it is found and where it leads.
    pub address: ServiceAddress,
    /// In the order written.
    pub ports: Vec<ServicePort>,
    /// Pods; here WorkloadEntries of the namespace.
    pub selector: Option<Selector>,
    /// Endpoints that are not ready count too.
    pub publishes_not_ready: bool,
    /// `networking.istio.io/exportTo`.
    pub export_to: ExportTo,
    /// What our own annotations say.
    pub annotations: Annotations,
}

/// What stands for a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceAddress {
    /// Addresses of its own: `clusterIP` first, then the rest of `clusterIPs`.
    Cluster(Vec<Spanned<IpAddr>>),
    /// None in the file: a cluster would have given it one.
    Unassigned,
    /// What is written is wrong, which was reported.
    Wrong,
    /// `clusterIP: None`: those of its endpoints.
    Headless,
    /// Another name.
    ExternalName(SharedText),
}

/// One entry of `ports`.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// Number, name and protocol; a name may be empty where there is one port only.
    pub port: Port,
    /// `targetPort`: of selected workloads. Endpoints have numbers of their own.
    pub target: Option<TargetPort>,
}

/// `targetPort`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// A port of the workload by its name.
    Name(Box<str>),
}

impl<'r> Service<'r> {
    /// Reads and judges one resource by the rules that concern it alone. `None`: nothing of use is left.
    pub fn read(resource: &'r Resource, domain: &str, diagnostics: &mut Diagnostics) -> Option<Self> {
        let cx = &mut resource.context(diagnostics);
        let Some(spec) = resource.spec() else {
            cx.report(Code::MissingField, resource.root.span, "`spec` is missing");
            return None;
        };
        let mut fields = Fields::of(spec, cx)?;
        let host = host(resource, domain, cx);
        let address = read_address(&mut fields, cx);
        let ports_node = fields.get("ports");
        let ports = ports_node.map(|node| read_ports(node, cx)).unwrap_or_default();
        if ports_node.is_none() && matches!(address, ServiceAddress::Cluster(_) | ServiceAddress::Unassigned) {
            cx.report(
                Code::MissingField,
                fields.span(),
                "`ports` is missing: only headless and ExternalName go without",
            );
        }
        let selector = read_selector(&mut fields, cx);
        let publishes_not_ready = fields.boolean("publishNotReadyAddresses", cx).unwrap_or(false);
        read_affinity(&mut fields, cx);
        for known in KNOWN_FIELDS {
            fields.get(known);
        }
        fields.finish(cx);
        let export_to = ExportTo::read_annotation(resource, cx);
        let annotations = Annotations::read(resource, cx);
        Some(Self { resource, host: host?, address, ports, selector, publishes_not_ready, export_to, annotations })
    }

    /// Namespace and name.
    pub fn key(&self) -> (Arc<str>, Arc<str>) {
        (self.resource.metadata.namespace.clone(), self.resource.metadata.name.clone())
    }
}

/// A Service's name is one DNS label, so that its host can be told from others.
fn host(resource: &Resource, domain: &str, cx: &mut Context<'_>) -> Option<SharedText> {
    let name = &resource.metadata.name;
    let node = resource.root.entry("metadata").and_then(|metadata| metadata.entry("name"));
    let span = node.map_or(resource.root.span, |node| node.span);
    if !is_dns_label(name) {
        if name.contains('.') {
            cx.report(Code::BadMetadata, span, "the name of a Service is one DNS label, without dots").found(&**name);
        }
        return None;
    }
    Some(Spanned { value: format!("{name}.{}.svc.{domain}", resource.metadata.namespace).into(), span })
}

fn read_address(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> ServiceAddress {
    let kind = fields.one_of("type", TYPES, cx).unwrap_or(ServiceType::Addressed);
    let own = fields.get("clusterIP").filter(|node| node.scalar() != Some(""));
    let is_headless = own.is_some_and(|node| node.scalar() == Some("None"));
    let list = fields.list("clusterIPs", cx);
    let external = fields.get("externalName");
    if kind == ServiceType::ExternalName {
        let Some(node) = external else {
            cx.report(Code::MissingField, fields.span(), "`externalName` is missing");
            return ServiceAddress::Wrong;
        };
        return read_external_name(node, cx).map_or(ServiceAddress::Wrong, ServiceAddress::ExternalName);
    }
    if let Some(node) = external.filter(|node| node.scalar() != Some("")) {
        cx.report(Code::Ignored, node.span, "not used: the Service is not of type ExternalName");
    }
    if is_headless || list.iter().any(|node| node.scalar() == Some("None")) {
        return ServiceAddress::Headless;
    }
    let mut ips: Vec<Spanned<IpAddr>> = Vec::new();
    for node in own.into_iter().chain(list) {
        let Some(ip) = read_ip(node, cx) else { continue };
        if ips.iter().all(|other| other.value != ip.value) {
            ips.push(ip);
        }
    }
    match (ips.is_empty(), own.is_some() || !list.is_empty()) {
        (false, _) => ServiceAddress::Cluster(ips),
        (true, true) => ServiceAddress::Wrong,
        (true, false) => ServiceAddress::Unassigned,
    }
}

/// A DNS name. Kubernetes takes an address, too, and then asks DNS for its digits: nobody wants that.
fn read_external_name(node: &Node, cx: &mut Context<'_>) -> Option<SharedText> {
    let text = node.text(cx)?;
    if let Err(error) = check_fqdn(text.value) {
        let report = cx.report(Code::BadHost, node.span, format!("{:?}: {error}", text.value));
        report
            .found(text.value)
            .help("addresses belong into an EndpointSlice or Endpoints of a Service without selector");
        return None;
    }
    Some(text.map(canonical_host))
}

fn read_ports(node: &Node, cx: &mut Context<'_>) -> Vec<ServicePort> {
    let items = node.items(cx).unwrap_or_default();
    let mut ports: Vec<ServicePort> = Vec::with_capacity(items.len());
    for item in items {
        let Some(port) = read_port(item, items.len() > 1, cx) else { continue };
        let number = port.port.number;
        // UDP and TCP may share a number.
        let shares = |other: &&ServicePort| {
            other.port.number == number && other.port.protocol.is_some() && port.port.protocol.is_some()
        };
        if ports.iter().find(shares).is_some() {
            cx.report(Code::PortTwice, item.span, format!("port {number} is listed twice"));
        } else if ports.iter().any(|other| other.port.name == port.port.name) {
            let message = format!("the name {:?} is used by two ports", port.port.name);
            cx.report(Code::PortNameTwice, item.span, message);
        } else {
            ports.push(port);
        }
    }
    ports
}

fn read_port(node: &Node, needs_name: bool, cx: &mut Context<'_>) -> Option<ServicePort> {
    let mut fields = Fields::of(node, cx)?;
    let number = fields.required("port", cx).and_then(|node| node.port(cx));
    let name = fields.text("name", cx);
    if let Some(name) = name.filter(|name| !is_dns_label(name)) {
        let message = format!("{:?} is not a DNS label (lower-case letters, digits, `-`)", name.value);
        cx.report(Code::BadPortName, name.span, message).found(name.value);
    } else if name.is_none() && needs_name {
        cx.report(Code::MissingField, node.span, "`name` is missing: one of several ports needs it");
    }
    let is_tcp = fields.one_of("protocol", TRANSPORTS, cx).unwrap_or(true);
    let application = fields.text("appProtocol", cx);
    let target = fields.get("targetPort").and_then(|node| read_target_port(node, cx));
    fields.get("nodePort");
    fields.finish(cx);
    let (number, name) = (number?, name.map_or("", |name| name.value));
    let protocol = is_tcp.then(|| protocol(application.map(|text| text.value), name, number)).flatten();
    let port = Port { number, span: node.span, name: name.into(), protocol, target_port: None };
    Some(ServicePort { port, target })
}

fn read_target_port(node: &Node, cx: &mut Context<'_>) -> Option<TargetPort> {
    // The API server reads 8080 and "8080" alike.
    match node.scalar() {
        Some("" | "0") => None,
        Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => match text.parse::<u16>() {
            Ok(number) => Some(TargetPort::Number(number)),
            Err(_) => node.port(cx).map(TargetPort::Number),
        },
        _ => {
            let text = node.text(cx)?;
            if !is_dns_label(text.value) {
                let message = format!("{:?} is neither a number nor the name of a port", text.value);
                cx.report(Code::BadPortName, node.span, message).found(text.value);
                return None;
            }
            Some(TargetPort::Name(text.value.into()))
        }
    }
}

/// ISTIO 13: `appProtocol`, else what stands before the first `-` of the name; unnamed ports of protocols whose servers speak first are
/// TCP. `None`: UDP.
fn protocol(application: Option<&str>, name: &str, number: u16) -> Option<Protocol> {
    let text = match application.filter(|text| !text.is_empty()) {
        Some("kubernetes.io/h2c") => "http2",
        Some("kubernetes.io/ws") => "http",
        Some("kubernetes.io/wss") => "https",
        Some(text) => text,
        None => name,
    };
    let lower = text.to_ascii_lowercase();
    let prefix = if lower.starts_with("grpc-web") { "grpc-web" } else { lower.split('-').next().unwrap_or_default() };
    let known = PROTOCOLS.iter().find(|(known, _)| known.eq_ignore_ascii_case(prefix)).map(|(_, protocol)| *protocol);
    known.unwrap_or(Some(if SERVER_FIRST.contains(&number) { Protocol::Tcp } else { Protocol::Auto }))
}

fn read_selector(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Option<Selector> {
    let node = fields.get("selector")?;
    let entries = node.entries(cx)?;
    let labels: Vec<_> =
        entries.iter().filter_map(|(key, node)| Some((key.text.clone(), node.text(cx)?.value.into()))).collect();
    // Unlike a workloadSelector, one without labels selects nothing.
    (!labels.is_empty()).then_some(Selector { labels, span: node.span })
}

fn read_affinity(fields: &mut Fields<'_>, cx: &mut Context<'_>) {
    let affinity = fields.get("sessionAffinity");
    if affinity.is_some_and(|node| node.one_of(&[("None", false), ("ClientIP", true)], cx) == Some(true)) {
        fields.ignored("sessionAffinity", "as in Istio, a DestinationRule says how endpoints are picked", cx);
    }
    for name in ["internalTrafficPolicy", "externalTrafficPolicy"] {
        let policy = fields.get(name).and_then(|node| node.one_of(&[("Cluster", false), ("Local", true)], cx));
        if policy == Some(true) && name == "internalTrafficPolicy" {
            fields.ignored(name, "endpoints are taken wherever they are", cx);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ServiceType {
    Addressed,
    ExternalName,
}

const TYPES: &[(&str, ServiceType)] = &[
    ("ClusterIP", ServiceType::Addressed),
    ("NodePort", ServiceType::Addressed),
    ("LoadBalancer", ServiceType::Addressed),
    ("ExternalName", ServiceType::ExternalName),
];

/// ISTIO 4: never sniffed when unnamed (SMTP, DNS, MySQL, MongoDB).
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

/// What a Service says to others than its clients: to nodes, load balancers, the allocation of addresses.
const KNOWN_FIELDS: [&str; 11] = [
    "externalIPs",
    "loadBalancerIP",
    "loadBalancerClass",
    "loadBalancerSourceRanges",
    "allocateLoadBalancerNodePorts",
    "healthCheckNodePort",
    "ipFamilies",
    "ipFamilyPolicy",
    "sessionAffinityConfig",
    "trafficDistribution",
    "topologyKeys",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_of_a_port_is_read_as_istio_reads_it() {
        for (application, name, number, expected) in [
            (None, "http", 80, Some(Protocol::Http)),
            (None, "http2-api", 80, Some(Protocol::Http2)),
            (None, "HTTPS-x", 1, Some(Protocol::Tls)),
            (None, "tls", 1, Some(Protocol::Tls)),
            (None, "grpc-web-x", 1, Some(Protocol::Grpc)),
            (None, "grpcweb", 1, Some(Protocol::Auto)),
            (None, "mysql-main", 1, Some(Protocol::Tcp)),
            (None, "udp-x", 1, None),
            (None, "", 443, Some(Protocol::Auto)),
            (None, "httpx", 80, Some(Protocol::Auto)),
            (None, "web", 3306, Some(Protocol::Tcp)),
            (None, "http", 3306, Some(Protocol::Http)),
            (Some("https"), "http", 80, Some(Protocol::Tls)),
            (Some("kubernetes.io/h2c"), "tcp", 80, Some(Protocol::Http2)),
            (Some("kubernetes.io/ws"), "tcp", 80, Some(Protocol::Http)),
            (Some("kubernetes.io/wss"), "tcp", 80, Some(Protocol::Tls)),
            (Some("example.com/own"), "http", 80, Some(Protocol::Auto)),
            (Some(""), "http", 80, Some(Protocol::Http)),
        ] {
            assert_eq!(protocol(application, name, number), expected, "{application:?} {name:?} {number}");
        }
    }
}
