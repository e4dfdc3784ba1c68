//! `tls` and `tcp`: routes of connections, by the name asked for and by address (ISTIO 5.4, 5.5).

use ipnet::IpNet;

use super::binding::Scope;
use super::destination::{Weighted, read_all};
use super::{Reader, is_empty_list};
use crate::config::diagnostic::{Code, Context};
use crate::config::kinds::scalars::{check_wildcard_domain, parse_network};
use crate::config::kinds::{SharedText, canonical_host};
use crate::config::read::Fields;
use crate::config::source::{Span, Spanned};
use crate::config::yaml::Node;
use crate::route::hosts;

/// One match of one entry of `tls`.
#[derive(Debug)]
pub struct TlsRoute {
    /// Where it stands.
    pub span: Span,
    /// For whom.
    pub scope: Scope,
    /// Names and wildcards, at least one.
    pub sni_hosts: Vec<SharedText>,
    /// `destinationSubnets`; `None`: every address.
    pub subnets: Option<Vec<IpNet>>,
    /// Where to; at least one.
    pub to: Vec<Weighted>,
}

/// One match of one entry of `tcp`.
#[derive(Debug)]
pub struct TcpRoute {
    /// Where it stands.
    pub span: Span,
    /// For whom.
    pub scope: Scope,
    /// `destinationSubnets`; `None`: every address.
    pub subnets: Option<Vec<IpNet>>,
    /// Where to; at least one.
    pub to: Vec<Weighted>,
}

impl TlsRoute {
    pub(super) fn read(node: &Node, reader: &Reader<'_>, cx: &mut Context<'_>) -> Vec<Self> {
        let Some(mut fields) = Fields::of(node, cx) else { return Vec::new() };
        let matches = fields.list("match", cx);
        if matches.is_empty() {
            cx.report(Code::TlsMatchMissing, node.span, "a tls route needs a match with `sniHosts`");
        }
        let matches: Vec<_> = matches.iter().filter_map(|node| TlsMatch::read(node, reader, cx)).collect();
        let to = destinations(&mut fields, reader, cx);
        fields.finish(cx);
        let Some(to) = to else { return Vec::new() };
        let scopes = matches.iter().map(|found| &found.scope);
        warn_of_gateways(node.span, scopes, reader, cx);
        let route = |found: TlsMatch| Self {
            span: found.span,
            scope: found.scope,
            sni_hosts: found.sni_hosts,
            subnets: found.subnets,
            to: to.clone(),
        };
        matches.into_iter().map(route).collect()
    }
}

impl TcpRoute {
    pub(super) fn read(node: &Node, reader: &Reader<'_>, cx: &mut Context<'_>) -> Vec<Self> {
        let Some(mut fields) = Fields::of(node, cx) else { return Vec::new() };
        let nodes = fields.list("match", cx);
        let matches: Vec<_> = nodes.iter().filter_map(|node| read_tcp_match(node, reader, cx)).collect();
        let to = destinations(&mut fields, reader, cx);
        fields.finish(cx);
        let Some(to) = to else { return Vec::new() };
        if nodes.is_empty() {
            let scope = Scope::whole(reader.gateways);
            return vec![Self { span: node.span, scope, subnets: None, to }];
        }
        warn_of_gateways(node.span, matches.iter().map(|(_, scope, _)| scope), reader, cx);
        let route = |(span, scope, subnets)| Self { span, scope, subnets, to: to.clone() };
        matches.into_iter().map(route).collect()
    }
}

struct TlsMatch {
    span: Span,
    scope: Scope,
    sni_hosts: Vec<SharedText>,
    subnets: Option<Vec<IpNet>>,
}

impl TlsMatch {
    fn read(node: &Node, reader: &Reader<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let mut fields = Fields::of(node, cx)?;
        let scope = Scope::read(&mut fields, reader.gateways, true, cx);
        let sni_hosts = read_sni_hosts(node, &mut fields, reader.hosts, cx);
        let subnets = read_subnets(&mut fields, cx);
        fields.finish(cx);
        (!sni_hosts.is_empty()).then_some(Self { span: node.span, scope, sni_hosts, subnets })
    }
}

fn read_sni_hosts(
    node: &Node,
    fields: &mut Fields<'_>,
    own_hosts: &[SharedText],
    cx: &mut Context<'_>,
) -> Vec<SharedText> {
    let list = fields.get("sniHosts").filter(|node| !is_empty_list(node));
    let Some(list) = list else {
        cx.report(Code::TlsMatchMissing, node.span, "`sniHosts` is missing");
        return Vec::new();
    };
    let mut sni_hosts = Vec::new();
    for item in list.items(cx).unwrap_or_default() {
        let Some(text) = item.text(cx) else { continue };
        if text.value.parse::<std::net::IpAddr>().is_ok() {
            let message = format!("{} is an address, which no client sends as a server name (RFC 6066)", text.value);
            cx.report(Code::SniHostIsAddress, item.span, message).found(text.value);
            continue;
        }
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
    sni_hosts
}

fn read_tcp_match(node: &Node, reader: &Reader<'_>, cx: &mut Context<'_>) -> Option<(Span, Scope, Option<Vec<IpNet>>)> {
    let mut fields = Fields::of(node, cx)?;
    let scope = Scope::read(&mut fields, reader.gateways, true, cx);
    let subnets = read_subnets(&mut fields, cx);
    // Envoy's match on it was never built, and Istio took the field out of its documents.
    fields.refused("sourceSubnet", "the route would take more connections than it says", cx);
    fields.finish(cx);
    Some((node.span, scope, subnets))
}

/// An entry that is wrong is left out, and the others stay: the route takes less, never more.
fn read_subnets(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Option<Vec<IpNet>> {
    let items = fields.get("destinationSubnets")?.items(cx)?;
    let nets: Vec<IpNet> =
        items.iter().filter_map(|item| item.parsed(parse_network, cx)).map(|net| net.value).collect();
    (!items.is_empty()).then_some(nets)
}

fn destinations(fields: &mut Fields<'_>, reader: &Reader<'_>, cx: &mut Context<'_>) -> Option<Vec<Weighted>> {
    match fields.get("route") {
        Some(node) => read_all(node, reader, cx),
        None => {
            cx.report(Code::NoDestination, fields.span(), "a route needs a destination");
            None
        }
    }
}

/// Says of a route that only Gateways would take that it has no effect.
pub(super) fn warn_of_gateways<'s>(
    span: Span,
    mut scopes: impl Iterator<Item = &'s Scope>,
    reader: &Reader<'_>,
    cx: &mut Context<'_>,
) {
    let mut is_written = false;
    let is_passed_over = scopes.all(|scope| {
        is_written = true;
        !scope.in_mesh
    });
    // Where the whole VirtualService is of Gateways, that has been said once.
    if is_written && is_passed_over && (reader.gateways.in_mesh() || reader.gateways.is_empty()) {
        cx.report(Code::Ignored, span, "a route of Gateways, which are not supported yet: passed over");
    }
}

/// ISTIO 5.5: the first rule without port and subnets is terminal.
pub(super) fn warn_unreachable(routes: &[TcpRoute], cx: &mut Context<'_>) {
    let is_terminal = |route: &TcpRoute| route.scope.is_everybody() && route.subnets.is_none();
    let Some(last) = routes.iter().position(is_terminal) else { return };
    for route in &routes[last + 1..] {
        cx.report(Code::NeverMatches, route.span, "never reached: an earlier tcp route takes every connection");
    }
}
