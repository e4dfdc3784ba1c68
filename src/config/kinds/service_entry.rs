//! ServiceEntry as written: which hosts, addresses and ports exist, and where their endpoints are (ISTIO 2).
//!
//! A Kubernetes Service takes the same shape once its endpoints are found, see [`super::super::compile`]: Istio has one model for both.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use super::parent::{PROXY_PROBE, VIA, ViaRef, read_probe, read_via};
use super::scalars::{check_fqdn, check_wildcard_domain, is_dns_label, parse_network};
use super::selector::Selector;
use super::{ExportTo, SharedText, canonical_host, check_annotations, choice_annotation, list_annotation};
use crate::config::diagnostic::{Code, Context, Diagnostics};
use crate::config::read::Fields;
use crate::config::resource::Resource;
use crate::config::settings::{CONSISTENCY_MODES, ConsistencyMode};
use crate::config::source::{Span, Spanned};
use crate::config::yaml::{Key, Node};
use crate::flow::{Host, Origin};
use crate::route::Protocol;
use crate::route::probe::Probe;

/// A ServiceEntry that passed its own rules, or of which the wrong parts were left out and reported.
#[derive(Debug)]
pub struct ServiceEntry<'r> {
    /// Where it stands.
    pub resource: &'r Resource,
    /// Where what it was expanded from stands, for entries of `allow`.
    pub origin: Option<Origin>,
    /// Names and wildcards, at least one unless that was reported.
    pub hosts: Vec<SharedText>,
    /// Single addresses are networks of one.
    pub addresses: Vec<Spanned<IpNet>>,
    /// In the order written.
    pub ports: Vec<Port>,
    /// Where addresses come from.
    pub resolution: Resolution,
    /// In the order written; with a selector those that it picks.
    pub endpoints: Vec<Endpoint<'r>>,
    /// `workloadSelector`: endpoints are picked among the WorkloadEntries of the namespace.
    pub selector: Option<Selector>,
    /// Which registry it belongs to.
    pub provider: Provider,
    /// Who sees it.
    pub export_to: ExportTo,
    /// Names that the server's certificate must have where the DestinationRule gives none.
    pub subject_alt_names: Vec<String>,
    /// What our own annotations say.
    pub annotations: Annotations,
}

/// Where a declaration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provider {
    /// A ServiceEntry.
    External,
    /// A Kubernetes Service with addresses.
    Kubernetes {
        /// `clusterIP: None`: its endpoints are asked for by their addresses.
        headless: bool,
    },
    /// A Kubernetes Service of type ExternalName: an alias where the registry knows this name.
    ExternalName(SharedText),
}

/// One entry of `ports`.
#[derive(Clone, Debug)]
pub struct Port {
    /// What clients ask for.
    pub number: u16,
    /// Its place; the data plane names it as the rule that decided.
    pub span: Span,
    /// Endpoints refer to it.
    pub name: Box<str>,
    /// How flows to it are treated; `None`: UDP, which no flow can be.
    pub protocol: Option<Protocol>,
    /// The port dialled, where it differs.
    pub target_port: Option<u16>,
}

/// `resolution`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Istio's own names
pub enum Resolution {
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}

/// One entry of `endpoints`, or of what stands for it.
#[derive(Clone, Debug)]
pub struct Endpoint<'r> {
    /// The resource it stands in.
    pub resource: &'r Resource,
    /// Where in it.
    pub span: Span,
    /// Where it is; `None`: the address is missing or wrong, which was reported.
    pub address: Option<EndpointAddress>,
    /// Port by the name of a service port.
    pub ports: Vec<(Box<str>, u16)>,
    /// Chosen by subsets.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// At least 1.
    pub weight: u32,
    /// `region/zone/subzone`.
    pub locality: Option<Box<str>>,
}

/// `endpoints[].address`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointAddress {
    /// Name or literal.
    Host(Host),
    /// `unix:///path`.
    Unix(PathBuf),
}

/// Annotations of ours.
#[derive(Clone, Debug, Default)]
pub struct Annotations {
    /// `egret.dev/allow-addresses`: ranges opened for this service.
    pub allow_addresses: Vec<IpNet>,
    /// `egret.dev/source`: own addresses to dial from.
    pub source: Vec<IpAddr>,
    /// `egret.dev/consistency`: the rule of this service's tunnels.
    pub consistency: Option<Spanned<ConsistencyMode>>,
    /// `egret.dev/proxy-http: absolute-form`: plain HTTP goes to this parent in absolute-form.
    pub absolute_form: bool,
    /// `egret.dev/proxy-probe`: how this parent is asked whether it is there.
    pub probe: Option<Spanned<Probe>>,
    /// `egret.dev/via`: the way to this service.
    pub via: Option<Spanned<ViaRef>>,
}

impl<'r> ServiceEntry<'r> {
    /// Reads and judges one resource by the rules that concern it alone. `None`: nothing of use is left.
    pub fn read(resource: &'r Resource, diagnostics: &mut Diagnostics) -> Option<Self> {
        let cx = &mut resource.context(diagnostics);
        let Some(spec) = resource.spec() else {
            cx.report(Code::MissingField, resource.root.span, "`spec` is missing");
            return None;
        };
        let mut fields = Fields::of(spec, cx)?;
        let resolution = fields.one_of("resolution", RESOLUTIONS, cx).unwrap_or(Resolution::None);
        let location = fields.one_of("location", LOCATIONS, cx).unwrap_or(Location::External);
        let endpoints = fields.get("endpoints");
        let entry = Self {
            resource,
            origin: None,
            hosts: read_hosts(&mut fields, cx),
            addresses: read_addresses(&mut fields, resolution, cx),
            ports: read_ports(&mut fields, cx),
            resolution,
            selector: read_selector(&mut fields, endpoints.is_some(), resolution, cx),
            provider: Provider::External,
            endpoints: read_endpoints(endpoints, resource, resolution, cx),
            export_to: ExportTo::read(fields.list("exportTo", cx), &resource.metadata.namespace, true, cx),
            subject_alt_names: texts(fields.list("subjectAltNames", cx), cx),
            annotations: Annotations::read(resource, cx),
        };
        let places = Places { endpoints, location, spec: fields.span() };
        fields.finish(cx);
        entry.check(&places, cx);
        Some(entry)
    }

    /// Rules that look at several fields.
    fn check(&self, places: &Places<'_>, cx: &mut Context<'_>) {
        match self.resolution {
            Resolution::None => self.check_none(places, cx),
            Resolution::Static => self.check_static(places, cx),
            Resolution::Dns | Resolution::DnsRoundRobin => self.check_dns(places, cx),
            Resolution::DynamicDns => self.check_dynamic_dns(places, cx),
        }
        if self.resolution != Resolution::DynamicDns {
            for host in self.hosts.iter().filter(|host| is_partial_wildcard(host)) {
                let message = "a wildcard inside a label covers plain HTTP only in Istio; here it covers TLS too";
                cx.report(Code::PartialWildcard, host.span, message).found(&*host.value);
            }
        }
        self.check_endpoint_ports(places, cx);
        self.check_shared_ports(cx);
    }

    fn check_none(&self, places: &Places<'_>, cx: &mut Context<'_>) {
        if let Some(node) = places.endpoints.filter(|_| !self.endpoints.is_empty()) {
            let report = cx.report(
                Code::EndpointsWithoutUse,
                node.span,
                "with resolution NONE the client's target is dialled, so endpoints have no use",
            );
            report.help("resolution STATIC dials the endpoints, DNS resolves them");
        }
    }

    fn check_static(&self, places: &Places<'_>, cx: &mut Context<'_>) {
        let unix = self.endpoints.iter().any(|endpoint| matches!(endpoint.address, Some(EndpointAddress::Unix(_))));
        if let Some(node) = places.endpoints.filter(|_| unix && self.ports.len() != 1) {
            let message = format!("a unix socket serves exactly one port, found {}", self.ports.len());
            cx.report(Code::UnixEndpointPorts, node.span, message);
        }
    }

    fn check_dns(&self, places: &Places<'_>, cx: &mut Context<'_>) {
        if self.endpoints.is_empty() && self.selector.is_none() {
            for host in self.hosts.iter().filter(|host| host.value.starts_with('*')) {
                let report = cx.report(Code::WildcardNotResolvable, host.span, "a wildcard cannot be resolved by DNS");
                report.found(&*host.value).help("name endpoints, or use resolution DYNAMIC_DNS or NONE");
            }
        }
        if let (Resolution::DnsRoundRobin, Some(node), 2..) = (self.resolution, places.endpoints, self.endpoints.len())
        {
            let message = format!("DNS_ROUND_ROBIN takes at most one endpoint, found {}", self.endpoints.len());
            cx.report(Code::RoundRobinEndpoints, node.span, message).help("resolution DNS takes several");
        }
    }

    fn check_dynamic_dns(&self, places: &Places<'_>, cx: &mut Context<'_>) {
        for host in self.hosts.iter().filter(|host| !host.value.starts_with('*')) {
            let report =
                cx.report(Code::DynamicDnsHost, host.span, "with resolution DYNAMIC_DNS every host is a wildcard");
            report.found(&*host.value).help("resolution DNS resolves a plain name");
        }
        if let Some(address) = self.addresses.first() {
            let message = "with resolution DYNAMIC_DNS the name asked for is resolved, so addresses have no use";
            cx.report(Code::DynamicDnsAddresses, address.span, message).found(address.value.to_string());
        }
        if let Some(node) = places.endpoints.filter(|_| !self.endpoints.is_empty()) {
            let message = "with resolution DYNAMIC_DNS the name asked for is resolved, so endpoints have no use";
            cx.report(Code::EndpointsWithoutUse, node.span, message);
        }
        for port in &self.ports {
            if !matches!(port.protocol, Some(Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Tls)) {
                let message = format!(
                    "DYNAMIC_DNS needs a protocol that carries names: port {} has none of HTTP, HTTP2, GRPC, TLS",
                    port.number
                );
                cx.report(Code::DynamicDnsProtocol, port.span, message);
            }
        }
        if places.location == Location::Internal && self.resource.metadata.labels.contains_key("istio.io/use-waypoint")
        {
            let message = "DYNAMIC_DNS with MESH_INTERNAL cannot go through a waypoint";
            cx.report(Code::DynamicDnsInternal, places.spec, message);
        }
    }

    fn check_endpoint_ports(&self, places: &Places<'_>, cx: &mut Context<'_>) {
        let known: HashSet<&str> = self.ports.iter().map(|port| &*port.name).collect();
        let items = places.endpoints.and_then(|node| match &node.value {
            crate::config::yaml::Value::List(items) => Some(items),
            _ => None,
        });
        for ports in items.into_iter().flatten().filter_map(|item| item.entry("ports")) {
            let crate::config::yaml::Value::Map(entries) = &ports.value else { continue };
            for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&*key.text)) {
                let report = cx.report(
                    Code::EndpointPortUnknown,
                    key.span,
                    format!("{:?} names no port of this ServiceEntry", key.text),
                );
                report.found(&*key.text);
                match crate::config::read::nearest(&key.text, known.iter().copied()) {
                    Some(name) => report.help(format!("did you mean {name}?")),
                    None => report,
                };
            }
        }
    }

    /// Ports that cannot be told apart by a name.
    fn check_shared_ports(&self, cx: &mut Context<'_>) {
        let find =
            |kinds: &[Protocol]| self.ports.iter().find(|port| port.protocol.is_some_and(|kind| kinds.contains(&kind)));
        let nameless = find(&[Protocol::Tcp, Protocol::Auto]);
        if self.hosts.len() > 1 {
            // An address of its own is matched without looking at the name, TLS or not.
            let is_vip = self.resolution == Resolution::Dns && !self.addresses.is_empty();
            let shared = if is_vip { find(&[Protocol::Tcp, Protocol::Auto, Protocol::Tls]) } else { nameless };
            if let Some(port) = shared.filter(|_| self.resolution != Resolution::None) {
                let (code, message) = if is_vip {
                    (
                        Code::SharedTcpAddress,
                        "several hosts share addresses: connections to an address go to the first host",
                    )
                } else {
                    (
                        Code::SharedTcpPort,
                        "several hosts share a port whose protocol carries no name: they cannot be told apart",
                    )
                };
                cx.report(code, port.span, message).help("one ServiceEntry per host, or resolution NONE");
            }
        }
        if let (Some(port), true) = (nameless, self.addresses.is_empty()) {
            let message = format!("port {} carries no name and the entry has no addresses", port.number);
            let report = cx.report(Code::TcpWithoutAddress, port.span, message);
            report.help(
                "explicit clients reach it by its name; redirected ones take every connection on this port to it",
            );
        }
    }

    /// A place in this entry, as the data plane names it.
    pub fn origin(&self, span: Span) -> Origin {
        self.origin.clone().unwrap_or_else(|| self.resource.origin(span))
    }

    /// True for entries of the settings' `allow`: they add to what resources declare.
    pub fn is_settings(&self) -> bool {
        self.origin.is_some()
    }

    /// Where `port` is dialled at an endpoint (ISTIO 2.3); `None`: an endpoint of a Kubernetes Service that does not serve this port.
    pub fn endpoint_port(&self, endpoint: &Endpoint<'_>, port: &Port) -> Option<u16> {
        let own = endpoint.ports.iter().find(|(name, _)| *name == port.name).map(|(_, number)| *number);
        match self.provider {
            Provider::Kubernetes { .. } => own,
            Provider::External | Provider::ExternalName(_) => Some(own.or(port.target_port).unwrap_or(port.number)),
        }
    }

    /// True for what Kubernetes declares.
    pub fn is_kubernetes(&self) -> bool {
        self.provider != Provider::External
    }

    /// True where the address of an endpoint names the service: nothing else does.
    pub fn is_named_by_endpoints(&self) -> bool {
        match self.provider {
            Provider::External => self.addresses.is_empty() && self.resolution == Resolution::Static,
            Provider::Kubernetes { headless } => headless,
            Provider::ExternalName(_) => false,
        }
    }
}

/// What rules over several fields point at.
struct Places<'n> {
    endpoints: Option<&'n Node>,
    location: Location,
    spec: Span,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Location {
    External,
    Internal,
}

fn read_hosts(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Vec<SharedText> {
    let Some(node) = fields.required("hosts", cx) else { return Vec::new() };
    let items = node.items(cx).unwrap_or_default();
    if items.is_empty() {
        cx.report(Code::MissingField, node.span, "at least one host is needed");
    }
    check_count("hosts", items.len(), HOSTS_MAX, node.span, cx);
    let mut hosts: Vec<SharedText> = Vec::with_capacity(items.len());
    for item in items {
        let Some(text) = item.text(cx) else { continue };
        if text.value == "*" {
            let report = cx.report(Code::HostOfEverything, item.span, "`*` alone would open every destination");
            report.found("*").help("name the domains; mesh.outboundTrafficPolicy.mode: ALLOW_ANY opens everything");
            continue;
        }
        if let Err(error) = check_wildcard_domain(text.value) {
            cx.report(Code::BadHost, item.span, format!("{:?}: {error}", text.value)).found(text.value);
            continue;
        }
        let host = canonical_host(text.value);
        if hosts.iter().any(|other| other.value == host) {
            cx.report(Code::HostTwice, item.span, format!("{host:?} is listed twice")).found(text.value);
            continue;
        }
        hosts.push(Spanned { value: host, span: item.span });
    }
    hosts
}

fn read_addresses(fields: &mut Fields<'_>, resolution: Resolution, cx: &mut Context<'_>) -> Vec<Spanned<IpNet>> {
    let Some(node) = fields.get("addresses") else { return Vec::new() };
    let items = node.items(cx).unwrap_or_default();
    check_count("addresses", items.len(), ADDRESSES_MAX, node.span, cx);
    let mut addresses = Vec::with_capacity(items.len());
    for item in items {
        let Some(text) = item.text(cx) else { continue };
        if is_shell_variable(item, cx) {
            continue;
        }
        match parse_network(text.value) {
            Ok(net) => {
                let is_network = net.prefix_len() != net.max_prefix_len();
                if is_network && !matches!(resolution, Resolution::None | Resolution::Static | Resolution::DynamicDns) {
                    let report = cx.report(
                        Code::NetworkNeedsNone,
                        item.span,
                        "a network is possible with resolution NONE or STATIC only",
                    );
                    report.found(text.value);
                }
                addresses.push(Spanned { value: net, span: item.span });
            }
            Err(error) => {
                cx.report(Code::BadAddress, item.span, format!("{:?} is {error}", text.value)).found(text.value);
            }
        }
    }
    addresses
}

fn read_ports(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Vec<Port> {
    let Some(node) = fields.required("ports", cx) else { return Vec::new() };
    let items = node.items(cx).unwrap_or_default();
    if items.is_empty() {
        cx.report(Code::MissingField, node.span, "at least one port is needed");
    }
    check_count("ports", items.len(), PORTS_MAX, node.span, cx);
    let mut ports: Vec<Port> = Vec::with_capacity(items.len());
    for item in items {
        let Some(port) = read_port(item, cx) else { continue };
        if ports.iter().any(|other| other.number == port.number) {
            cx.report(Code::PortTwice, item.span, format!("port {} is listed twice", port.number));
        } else if ports.iter().any(|other| other.name == port.name) {
            cx.report(Code::PortNameTwice, item.span, format!("the name {:?} is used by two ports", port.name));
        } else {
            ports.push(port);
        }
    }
    ports
}

fn read_port(node: &Node, cx: &mut Context<'_>) -> Option<Port> {
    let mut fields = Fields::of(node, cx)?;
    let number =
        fields.required("number", cx).filter(|node| !is_shell_variable(node, cx)).and_then(|node| node.port(cx));
    let name = fields.required("name", cx).and_then(|node| node.text(cx));
    if let Some(name) = name.filter(|name| !is_dns_label(name)) {
        let message = format!("{:?} is not a DNS label (lower-case letters, digits, `-`)", name.value);
        cx.report(Code::BadPortName, name.span, message).found(name.value);
    }
    let protocol = match fields.text("protocol", cx) {
        Some(text) => read_protocol(text, cx),
        None => Some(Protocol::Auto),
    };
    let target_port = fields.get("targetPort").and_then(|node| target_port(node, cx));
    fields.finish(cx);
    Some(Port { number: number?, span: node.span, name: name?.value.into(), protocol, target_port })
}

/// True for `$NAME` and `${NAME}`, perhaps with `/32` behind: here-documents of guides leave them to the shell. Reported, and to be left
/// out: a service without address or port opens nothing.
fn is_shell_variable(node: &Node, cx: &mut Context<'_>) -> bool {
    let name = node.scalar().and_then(|text| text.strip_prefix('$')).map(|text| text.split('/').next().unwrap_or(text));
    let name = name.map(|name| name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name));
    let is_one = name.is_some_and(|name| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    });
    if is_one {
        let message = format!("{} is a shell variable that nobody filled in: left out", node.excerpt());
        cx.report_value(Code::ShellVariable, node, message).help("envsubst < FILE fills it in");
    }
    is_one
}

/// 0 is "not set", as in protobuf.
fn target_port(node: &Node, cx: &mut Context<'_>) -> Option<u16> {
    if node.scalar() == Some("0") { None } else { node.port(cx) }
}

fn read_protocol(text: Spanned<&str>, cx: &mut Context<'_>) -> Option<Protocol> {
    if text.value.is_empty() {
        return Some(Protocol::Auto);
    }
    let known = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.value));
    if let Some((_, protocol)) = known {
        if protocol.is_none() {
            cx.report(Code::UdpPort, text.span, "UDP is not carried: the port is left out");
        }
        return *protocol;
    }
    let report = cx.report(Code::UnknownProtocol, text.span, format!("{:?} is no protocol of a port", text.value));
    report.found(text.value);
    let names = || PROTOCOLS.iter().map(|(name, _)| *name);
    match crate::config::read::nearest(&text.value.to_ascii_uppercase(), names()) {
        Some(name) => report.help(format!("did you mean {name}?")),
        None => report.help(format!("one of {}", names().collect::<Vec<_>>().join(", "))),
    };
    Some(Protocol::Auto)
}

fn read_endpoints<'r>(
    node: Option<&Node>,
    resource: &'r Resource,
    resolution: Resolution,
    cx: &mut Context<'_>,
) -> Vec<Endpoint<'r>> {
    let Some(node) = node else { return Vec::new() };
    let items = node.items(cx).unwrap_or_default();
    check_count("endpoints", items.len(), ENDPOINTS_MAX, node.span, cx);
    items.iter().filter_map(|item| read_endpoint(item, resource, Some(resolution), cx)).collect()
}

/// Reads an endpoint; without a resolution (a WorkloadEntry stands by itself) every kind of address passes.
pub(super) fn read_endpoint<'r>(
    node: &Node,
    resource: &'r Resource,
    resolution: Option<Resolution>,
    cx: &mut Context<'_>,
) -> Option<Endpoint<'r>> {
    let mut fields = Fields::of(node, cx)?;
    let text = fields.text("address", cx).filter(|text| !text.value.is_empty());
    let network = fields.text("network", cx).is_some_and(|network| !network.value.is_empty());
    let ports_node = fields.get("ports");
    let ports: Vec<(Box<str>, u16)> = ports_node
        .and_then(|node| node.entries(cx))
        .unwrap_or_default()
        .iter()
        .filter_map(|(name, node)| Some((name.text.clone(), node.port(cx)?)))
        .collect();
    let labels = fields.map("labels", cx).iter().filter_map(|entry| label(entry, cx)).collect();
    let weight = fields.whole("weight", 0..=u64::from(u32::MAX), cx).unwrap_or(1);
    let locality = fields.text("locality", cx).filter(|text| !text.value.is_empty()).map(|text| text.value.into());
    fields.ignored("serviceAccount", "identities inside a mesh are not verified", cx);
    fields.finish(cx);
    let address = match text {
        Some(text) => read_endpoint_address(text, resolution, ports_node, cx),
        None if network => {
            cx.report(
                Code::EndpointWithoutAddress,
                node.span,
                "an endpoint of another network without an address is not reachable from here",
            );
            None
        }
        None => {
            cx.report(Code::MissingField, node.span, "`address` is missing");
            None
        }
    };
    let weight = u32::try_from(weight).unwrap_or(u32::MAX).max(1);
    Some(Endpoint { resource, span: node.span, address, ports, labels, weight, locality })
}

fn label((key, node): &(Key, Node), cx: &mut Context<'_>) -> Option<(Box<str>, Box<str>)> {
    Some((key.text.clone(), node.text(cx)?.value.into()))
}

fn read_endpoint_address(
    text: Spanned<&str>,
    resolution: Option<Resolution>,
    ports: Option<&Node>,
    cx: &mut Context<'_>,
) -> Option<EndpointAddress> {
    if let Some(path) = text.value.strip_prefix("unix:") {
        return read_unix_address(text, path, resolution.unwrap_or(Resolution::Static), ports, cx);
    }
    let ip = text.value.parse::<IpAddr>().ok();
    let resolution = resolution.unwrap_or(Resolution::Dns);
    match (resolution, ip) {
        (_, Some(ip)) => Some(EndpointAddress::Host(Host::Ip(ip.to_canonical()))),
        (Resolution::Static, None) => {
            let message = format!("{:?} is no IP address, which resolution STATIC needs", text.value);
            cx.report(Code::StaticEndpointAddress, text.span, message)
                .found(text.value)
                .help("resolution DNS resolves names");
            None
        }
        // Endpoints have no use with these at all, which is reported once for the list.
        (Resolution::None | Resolution::DynamicDns, None) => None,
        (Resolution::Dns | Resolution::DnsRoundRobin, None) => {
            match (check_fqdn(text.value), Host::parse(text.value.as_bytes())) {
                (Ok(()), Ok(host)) => Some(EndpointAddress::Host(host)),
                (checked, _) => {
                    let why = checked.err().map_or_else(|| "not a DNS name".to_owned(), |error| error.to_string());
                    let message = format!("{:?} is neither an IP address nor a DNS name: {why}", text.value);
                    cx.report(Code::DnsEndpointAddress, text.span, message).found(text.value);
                    None
                }
            }
        }
    }
}

fn read_unix_address(
    text: Spanned<&str>,
    path: &str,
    resolution: Resolution,
    ports: Option<&Node>,
    cx: &mut Context<'_>,
) -> Option<EndpointAddress> {
    if resolution != Resolution::Static {
        cx.report(Code::UnixEndpoint, text.span, "a unix socket needs resolution STATIC").found(text.value);
        return None;
    }
    if let Some(ports) = ports {
        cx.report(Code::UnixEndpoint, ports.span, "a unix socket has no ports");
    }
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.ends_with('/') {
        cx.report(Code::UnixEndpoint, text.span, "a folder is no unix socket").found(text.value);
        return None;
    }
    // `@name` is an abstract socket: well formed, and under none of the folders that may be dialled.
    if !path.starts_with(['/', '@']) {
        let report = cx.report(Code::UnixEndpoint, text.span, "the path of a unix socket is absolute");
        report.found(text.value).help("write unix:///path/to/socket");
        return None;
    }
    Some(EndpointAddress::Unix(path.into()))
}

fn read_selector(
    fields: &mut Fields<'_>,
    has_endpoints: bool,
    resolution: Resolution,
    cx: &mut Context<'_>,
) -> Option<Selector> {
    let node = fields.get("workloadSelector")?;
    let selector = Selector::read(node, "labels", cx)?;
    if has_endpoints {
        cx.report(Code::SelectorWithEndpoints, node.span, "workloadSelector and endpoints exclude each other");
    } else if matches!(resolution, Resolution::None | Resolution::DynamicDns) {
        let message = "the target asked for is dialled with this resolution, so selected workloads have no use";
        cx.report(Code::SelectorWithoutUse, node.span, message).help("resolution STATIC dials them, DNS resolves them");
    }
    Some(selector)
}

fn check_count(what: &str, count: usize, max: usize, span: Span, cx: &mut Context<'_>) {
    if count > max {
        cx.report(Code::TooMany, span, format!("{what}: {count} entries, {max} are the most"));
    }
}

fn texts(items: &[Node], cx: &mut Context<'_>) -> Vec<String> {
    items.iter().filter_map(|item| item.text(cx)).map(|text| text.value.to_owned()).collect()
}

/// `*foo.com`, where `*.foo.com` is none.
fn is_partial_wildcard(host: &Arc<str>) -> bool {
    host.strip_prefix('*').is_some_and(|rest| !rest.is_empty() && !rest.starts_with('.'))
}

impl Annotations {
    pub(super) fn read(resource: &Resource, cx: &mut Context<'_>) -> Self {
        if resource.metadata.annotations.is_empty() {
            return Self::default();
        }
        check_annotations(resource, KNOWN_ANNOTATIONS, cx);
        let consistency = choice_annotation(resource, CONSISTENCY, &CONSISTENCY_MODES, cx);
        let consistency = consistency.zip(resource.metadata.annotations.get(CONSISTENCY));
        let absolute_form = choice_annotation(resource, PROXY_HTTP, PROXY_HTTP_FORMS, cx);
        Self {
            allow_addresses: list_annotation(resource, ALLOW_ADDRESSES, parse_network, cx),
            source: list_annotation(resource, SOURCE, str::parse::<IpAddr>, cx),
            consistency: consistency.map(|(value, text)| Spanned { value, span: text.span }),
            absolute_form: absolute_form.unwrap_or(false),
            probe: read_probe(resource, cx),
            via: read_via(resource, cx),
        }
    }
}

const ALLOW_ADDRESSES: &str = "egret.dev/allow-addresses";
const CONSISTENCY: &str = "egret.dev/consistency";
const SOURCE: &str = "egret.dev/source";
/// How plain HTTP reaches a parent proxy.
pub(super) const PROXY_HTTP: &str = "egret.dev/proxy-http";
const KNOWN_ANNOTATIONS: &[&str] = &[ALLOW_ADDRESSES, CONSISTENCY, SOURCE, PROXY_HTTP, PROXY_PROBE, VIA];
/// Values of [`PROXY_HTTP`]: true is absolute-form.
pub(super) const PROXY_HTTP_FORMS: &[(&str, bool)] = &[("absolute-form", true), ("connect", false)];

const RESOLUTIONS: &[(&str, Resolution)] = &[
    ("NONE", Resolution::None),
    ("STATIC", Resolution::Static),
    ("DNS", Resolution::Dns),
    ("DNS_ROUND_ROBIN", Resolution::DnsRoundRobin),
    ("DYNAMIC_DNS", Resolution::DynamicDns),
];

const LOCATIONS: &[(&str, Location)] = &[("MESH_EXTERNAL", Location::External), ("MESH_INTERNAL", Location::Internal)];

/// ISTIO 2.1; UDP is what no flow of ours can be.
pub(super) const PROTOCOLS: &[(&str, Option<Protocol>)] = &[
    ("HTTP", Some(Protocol::Http)),
    ("HTTP2", Some(Protocol::Http2)),
    ("GRPC", Some(Protocol::Grpc)),
    ("GRPC-WEB", Some(Protocol::Grpc)),
    ("HTTPS", Some(Protocol::Tls)),
    ("TLS", Some(Protocol::Tls)),
    ("TCP", Some(Protocol::Tcp)),
    ("MONGO", Some(Protocol::Tcp)),
    ("REDIS", Some(Protocol::Tcp)),
    ("MYSQL", Some(Protocol::Tcp)),
    ("UDP", None),
];

// ISTIO 2.4, rule 9: limits of the CRD's schema.
const HOSTS_MAX: usize = 256;
const ADDRESSES_MAX: usize = 256;
const PORTS_MAX: usize = 256;
const ENDPOINTS_MAX: usize = 4096;
