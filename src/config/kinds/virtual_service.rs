//! VirtualService as written, as far as it is carried out: routes chosen by port, SNI and network, to one destination each (ISTIO 5).
//!
//! Everything else of Istio's routing is an error: a match that is ignored would send more flows down a route than the resource says.

use std::sync::Arc;

use ipnet::IpNet;

use super::destination_rule::whole_host;
use super::scalars::{check_wildcard_domain, is_dns_label, parse_network};
use super::{ExportTo, SharedText, canonical_host, check_annotations};
use crate::config::diagnostic::{Code, Context, Diagnostics};
use crate::config::read::Fields;
use crate::config::resource::Resource;
use crate::config::source::{Span, Spanned};
use crate::config::yaml::{Node, Value};
use crate::route::hosts;

/// A VirtualService that passed its own rules, or of which the wrong parts were left out and reported.
#[derive(Debug)]
pub struct VirtualService<'r> {
    /// Where it stands.
    pub resource: &'r Resource,
    /// Names, wildcards and addresses.
    pub hosts: Vec<SharedText>,
    /// Who sees it.
    pub export_to: ExportTo,
    /// In order.
    pub http: Vec<HttpRoute>,
    /// In order.
    pub tls: Vec<TlsRoute>,
    /// In order.
    pub tcp: Vec<TcpRoute>,
}

/// One entry of `http`.
#[derive(Debug)]
pub struct HttpRoute {
    /// `name`.
    pub name: Option<Box<str>>,
    /// Where it stands.
    pub span: Span,
    /// Ports that any of its matches names; `None`: every port.
    pub ports: Option<Vec<u16>>,
    /// Where to.
    pub to: Destination,
}

/// One match of one entry of `tls`.
#[derive(Debug)]
pub struct TlsRoute {
    /// Where it stands.
    pub span: Span,
    /// Names and wildcards, at least one.
    pub sni_hosts: Vec<SharedText>,
    /// `None`: every port.
    pub port: Option<u16>,
    /// Where to.
    pub to: Destination,
}

/// One match of one entry of `tcp`.
#[derive(Debug)]
pub struct TcpRoute {
    /// Where it stands.
    pub span: Span,
    /// `None`: every port.
    pub port: Option<u16>,
    /// `None`: every address.
    pub subnets: Option<Vec<IpNet>>,
    /// Where to.
    pub to: Destination,
}

/// `destination`.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Whole, lower case.
    pub host: SharedText,
    /// `subset`.
    pub subset: Option<SharedText>,
    /// `port.number`.
    pub port: Option<u16>,
}

impl<'r> VirtualService<'r> {
    /// Reads and judges one resource by the rules that concern it alone. `None`: nothing of use is left.
    pub fn read(resource: &'r Resource, domain: &str, diagnostics: &mut Diagnostics) -> Option<Self> {
        let cx = &mut resource.context(diagnostics);
        let Some(spec) = resource.spec() else {
            cx.report(Code::MissingField, resource.root.span, "`spec` is missing");
            return None;
        };
        let mut fields = Fields::of(spec, cx)?;
        let reader = Reader { resource, domain };
        let in_mesh = is_in_mesh(fields.list("gateways", cx), cx);
        if !in_mesh {
            // None of our listeners is meant, so nothing of it can let more through than it says.
            return None;
        }
        let hosts = reader.hosts(&mut fields, cx);
        let export_to = ExportTo::read(fields.list("exportTo", cx), &resource.metadata.namespace, false, cx);
        let [http, tls, tcp] = ["http", "tls", "tcp"].map(|name| fields.list(name, cx));
        fields.finish(cx);
        check_annotations(resource, &[], cx);
        if http.is_empty() && tls.is_empty() && tcp.is_empty() {
            cx.report(Code::NoRoutes, spec.span, "at least one of `http`, `tls` and `tcp` is needed");
        }
        let http = http.iter().filter_map(|node| reader.http(node, cx)).collect::<Vec<_>>();
        warn_unreachable(&http, cx);
        let tls = tls.iter().flat_map(|node| reader.tls(node, &hosts, cx)).collect();
        let tcp = tcp.iter().flat_map(|node| reader.tcp(node, cx)).collect::<Vec<_>>();
        warn_unreachable_tcp(&tcp, cx);
        Some(Self { resource, hosts, export_to, http, tls, tcp })
    }
}

struct Reader<'r> {
    resource: &'r Resource,
    domain: &'r str,
}

impl Reader<'_> {
    fn hosts(&self, fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Vec<SharedText> {
        let Some(node) = fields.get("hosts").filter(|node| !is_empty_list(node)) else {
            let message = "without `hosts` this is a delegate of another VirtualService, which is not supported";
            cx.report(Code::NotSupported, fields.span(), message);
            return Vec::new();
        };
        let mut list: Vec<SharedText> = Vec::new();
        for item in node.items(cx).unwrap_or_default() {
            let Some(text) = item.text(cx) else { continue };
            let is_address = text.value.parse::<std::net::IpAddr>().is_ok();
            if text.value == "*" {
                cx.report(Code::HostOfEverything, item.span, "`*` alone is possible for gateways only").found("*");
                continue;
            }
            if let (Err(error), false) = (check_wildcard_domain(text.value), is_address) {
                cx.report(Code::BadHost, item.span, format!("{:?}: {error}", text.value)).found(text.value);
                continue;
            }
            let host = whole_host(text.value, self.resource, self.domain);
            if let Some(other) = list.iter().find(|other| hosts::overlap(&other.value, &host)) {
                let message = format!("{host:?} overlaps with {:?}", other.value);
                cx.report(Code::HostsOverlap, item.span, message).found(text.value);
                continue;
            }
            list.push(Spanned { value: host, span: item.span });
        }
        list
    }

    fn http(&self, node: &Node, cx: &mut Context<'_>) -> Option<HttpRoute> {
        if is_of_gateways(node, cx) {
            return None;
        }
        let mut fields = Fields::of(node, cx)?;
        let name = fields.text("name", cx).map(|name| name.value.into());
        let matches = fields.list("match", cx).iter().filter(|node| is_match_in_mesh(node));
        let ports: Vec<Option<u16>> = matches.map(|node| http_match(node, cx)).collect();
        let to = self.destination(&mut fields, cx);
        for field in ["redirect", "directResponse", "delegate", "rewrite", "headers", "fault", "mirror", "mirrors"] {
            fields.refused(field, "what the resource wants done with requests would not be done", cx);
        }
        for (field, why) in [
            ("timeout", "limits of the whole process apply"),
            ("retries", "only requests on reused connections are sent again"),
            ("corsPolicy", "upstreams answer for themselves"),
            ("mirrorPercent", "nothing is mirrored"),
            ("mirror_percent", "nothing is mirrored"),
            ("mirrorPercentage", "nothing is mirrored"),
            ("websocketUpgrade", "websockets always pass"),
        ] {
            fields.ignored(field, why, cx);
        }
        fields.finish(cx);
        // One match without a port takes every port.
        let ports = if ports.is_empty() { None } else { ports.into_iter().collect() };
        Some(HttpRoute { name, span: node.span, ports, to: to? })
    }

    fn tls(&self, node: &Node, own_hosts: &[SharedText], cx: &mut Context<'_>) -> Vec<TlsRoute> {
        if is_of_gateways(node, cx) {
            return Vec::new();
        }
        let Some(mut fields) = Fields::of(node, cx) else { return Vec::new() };
        let matches = fields.list("match", cx);
        if matches.is_empty() {
            cx.report(Code::TlsMatchMissing, node.span, "a tls route needs a match with `sniHosts`");
        }
        let matches = matches.iter().filter(|node| is_match_in_mesh(node));
        let matches: Vec<_> = matches.filter_map(|node| tls_match(node, own_hosts, cx)).collect();
        let to = self.destination(&mut fields, cx);
        fields.finish(cx);
        let Some(to) = to else { return Vec::new() };
        let route = |(span, sni_hosts, port)| TlsRoute { span, sni_hosts, port, to: to.clone() };
        matches.into_iter().map(route).collect()
    }

    fn tcp(&self, node: &Node, cx: &mut Context<'_>) -> Vec<TcpRoute> {
        if is_of_gateways(node, cx) {
            return Vec::new();
        }
        let Some(mut fields) = Fields::of(node, cx) else { return Vec::new() };
        let nodes = fields.list("match", cx);
        let matches = nodes.iter().filter(|node| is_match_in_mesh(node));
        let matches: Vec<_> = matches.filter_map(|node| tcp_match(node, cx)).collect();
        let to = self.destination(&mut fields, cx);
        fields.finish(cx);
        let Some(to) = to else { return Vec::new() };
        if nodes.is_empty() {
            return vec![TcpRoute { span: node.span, port: None, subnets: None, to }];
        }
        let route = |(span, port, subnets)| TcpRoute { span, port, subnets, to: to.clone() };
        matches.into_iter().map(route).collect()
    }

    /// The one destination of a route.
    fn destination(&self, fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Option<Destination> {
        let Some(node) = fields.get("route") else {
            cx.report(Code::NoDestination, fields.span(), "a route needs a destination");
            return None;
        };
        let mut kept = Vec::new();
        let items = node.items(cx)?;
        for item in items {
            let mut route = Fields::of(item, cx)?;
            let weight = route.whole("weight", 0..=i32::MAX as u64, cx);
            let destination = route.required("destination", cx).and_then(|node| self.read_destination(node, cx));
            route.refused("headers", "headers would not be changed as the resource says", cx);
            route.finish(cx);
            // Istio drops entries of weight 0 among several; a single one ignores its weight.
            if items.len() == 1 || weight != Some(0) {
                kept.push(destination);
            }
        }
        if kept.len() == 1 {
            return kept.pop().flatten();
        }
        let message = format!("a route has one destination here, found {}", kept.len());
        cx.report(Code::NoDestination, node.span, message);
        None
    }

    fn read_destination(&self, node: &Node, cx: &mut Context<'_>) -> Option<Destination> {
        let mut fields = Fields::of(node, cx)?;
        let host = fields.required("host", cx).and_then(|node| {
            let text = node.text(cx)?;
            match check_wildcard_domain(text.value) {
                Ok(()) => Some(Spanned { value: whole_host(text.value, self.resource, self.domain), span: node.span }),
                Err(error) => {
                    cx.report(Code::BadHost, node.span, format!("{:?}: {error}", text.value)).found(text.value);
                    None
                }
            }
        });
        let subset = fields.text("subset", cx).filter(|subset| !subset.value.is_empty());
        if let Some(subset) = subset.filter(|subset| !is_dns_label(subset.value)) {
            let message = format!("{:?} is not a DNS label", subset.value);
            cx.report(Code::BadSubsetName, subset.span, message).found(subset.value);
        }
        let port = fields.get("port").and_then(|node| {
            let mut fields = Fields::of(node, cx)?;
            let number = fields.required("number", cx).and_then(|node| node.port(cx));
            fields.finish(cx);
            number
        });
        fields.finish(cx);
        Some(Destination { host: host?, subset: subset.map(|subset| subset.map(Arc::from)), port })
    }
}

/// The port of an http match; everything else it may hold is refused.
fn http_match(node: &Node, cx: &mut Context<'_>) -> Option<u16> {
    let mut fields = Fields::of(node, cx)?;
    let port = fields.get("port").and_then(|node| node.port(cx));
    for field in [
        "uri",
        "scheme",
        "method",
        "authority",
        "headers",
        "withoutHeaders",
        "queryParams",
        "ignoreUriCase",
        "sourceLabels",
        "sourceNamespace",
    ] {
        fields.refused(field, "the route would take more requests than it says", cx);
    }
    fields.get("gateways");
    fields.text("name", cx);
    fields.ignored("statPrefix", "there are no statistics per route", cx);
    fields.finish(cx);
    port
}

fn tls_match(
    node: &Node,
    own_hosts: &[SharedText],
    cx: &mut Context<'_>,
) -> Option<(Span, Vec<SharedText>, Option<u16>)> {
    let mut fields = Fields::of(node, cx)?;
    let port = fields.get("port").and_then(|node| node.port(cx));
    let mut sni_hosts = Vec::new();
    for item in fields.list("sniHosts", cx) {
        let Some(text) = item.text(cx) else { continue };
        if let Err(error) = check_wildcard_domain(text.value) {
            cx.report(Code::BadHost, item.span, format!("{:?}: {error}", text.value)).found(text.value);
            continue;
        }
        let host = canonical_host(text.value);
        if !own_hosts.iter().any(|own| hosts::is_subset(&host, &own.value)) {
            let message = format!("{host:?} is none of the hosts of this VirtualService, nor narrower than one");
            cx.report(Code::SniHostOutside, item.span, message).found(text.value);
            continue;
        }
        sni_hosts.push(Spanned { value: host, span: item.span });
    }
    if fields.get("sniHosts").is_none_or(is_empty_list) {
        cx.report(Code::TlsMatchMissing, node.span, "`sniHosts` is missing");
    }
    for field in ["destinationSubnets", "sourceLabels", "sourceNamespace"] {
        fields.refused(field, "the route would take more connections than it says", cx);
    }
    fields.get("gateways");
    fields.finish(cx);
    (!sni_hosts.is_empty()).then_some((node.span, sni_hosts, port))
}

fn tcp_match(node: &Node, cx: &mut Context<'_>) -> Option<(Span, Option<u16>, Option<Vec<IpNet>>)> {
    let mut fields = Fields::of(node, cx)?;
    let port = fields.get("port").and_then(|node| node.port(cx));
    let subnets = fields.get("destinationSubnets").map(|node| {
        let items = node.items(cx).unwrap_or_default();
        items.iter().filter_map(|item| item.parsed(parse_network, cx)).map(|net| net.value).collect()
    });
    for field in ["sourceLabels", "sourceNamespace", "sourceSubnet"] {
        fields.refused(field, "the route would take more connections than it says", cx);
    }
    fields.get("gateways");
    fields.finish(cx);
    Some((node.span, port, subnets))
}

/// True for a match of our listeners: one that names only Gateways replaces the VirtualService's own list (ISTIO 5.1).
fn is_match_in_mesh(node: &Node) -> bool {
    match node.entry("gateways").map(|node| &node.value) {
        Some(Value::List(items)) if !items.is_empty() => items.iter().any(|item| item.scalar() == Some("mesh")),
        _ => true,
    }
}

/// True for a route all of whose matches are of Gateways: it is passed over whole, whatever it holds.
fn is_of_gateways(node: &Node, cx: &mut Context<'_>) -> bool {
    let matches = match node.entry("match").map(|node| &node.value) {
        Some(Value::List(items)) => items.as_slice(),
        _ => &[],
    };
    let is_passed_over = !matches.is_empty() && !matches.iter().any(is_match_in_mesh);
    if is_passed_over {
        cx.report(Code::Ignored, node.span, "a route of Gateways, which are not supported yet: passed over");
    }
    is_passed_over
}

fn is_in_mesh(gateways: &[Node], cx: &mut Context<'_>) -> bool {
    let in_mesh = gateways.is_empty() || gateways.iter().any(|item| item.scalar() == Some("mesh"));
    if let Some(other) = gateways.iter().find(|item| item.scalar() != Some("mesh")) {
        let message = match in_mesh {
            true => "Gateways are not supported yet: for this one the VirtualService has no effect",
            false => {
                "Gateways are not supported yet, and no other listener is meant: the VirtualService is passed over"
            }
        };
        cx.report(Code::Ignored, other.span, message).found(other.excerpt());
    }
    in_mesh
}

/// A route that takes every port ends the list.
fn warn_unreachable(routes: &[HttpRoute], cx: &mut Context<'_>) {
    let Some(last) = routes.iter().position(|route| route.ports.is_none()) else { return };
    for route in &routes[last + 1..] {
        let message = format!("never reached: http[{last}] takes every request");
        cx.report(Code::NeverMatches, route.span, message);
    }
}

/// ISTIO 5.5: the first rule without port and subnets is terminal.
fn warn_unreachable_tcp(routes: &[TcpRoute], cx: &mut Context<'_>) {
    let Some(last) = routes.iter().position(|route| route.port.is_none() && route.subnets.is_none()) else { return };
    for route in &routes[last + 1..] {
        cx.report(Code::NeverMatches, route.span, "never reached: an earlier tcp route takes every connection");
    }
}

fn is_empty_list(node: &Node) -> bool {
    matches!(&node.value, Value::List(items) if items.is_empty())
}
