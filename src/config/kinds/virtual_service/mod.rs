//! VirtualService as written (ISTIO 5), each resource judged by the rules that concern it alone.
//!
//! [`binding`] for whom routes are meant · [`http`], [`bytes`] the three lists of routes · [`matching`] what a request has to look like ·
//! [`destination`] where to · [`actions`] what else is done.

pub mod actions;
pub mod binding;
pub mod bytes;
pub mod destination;
pub mod http;
pub mod matching;

use super::destination_rule::whole_host;
use super::scalars::check_wildcard_domain;
use super::{ExportTo, SharedText, check_annotations};
use crate::config::diagnostic::{Code, Context, Diagnostics};
use crate::config::read::Fields;
use crate::config::resource::Resource;
use crate::config::source::Spanned;
use crate::config::yaml::{Node, Value};
use crate::flow::Workload;
use crate::route::hosts;

use binding::{Gateways, Scope};
pub use bytes::{TcpRoute, TlsRoute};
pub use destination::{Destination, Weighted};
pub use http::{Action, HttpRoute};

/// A VirtualService that passed its own rules, or of which the wrong parts were left out and reported.
#[derive(Debug)]
pub struct VirtualService<'r> {
    /// Where it stands.
    pub resource: &'r Resource,
    /// Names, wildcards and addresses; none: a delegate of others.
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

impl<'r> VirtualService<'r> {
    /// Reads and judges one resource by the rules that concern it alone. `None`: nothing of use is left.
    pub fn read(resource: &'r Resource, domain: &str, diagnostics: &mut Diagnostics) -> Option<Self> {
        let cx = &mut resource.context(diagnostics);
        let Some(spec) = resource.spec() else {
            cx.report(Code::MissingField, resource.root.span, "`spec` is missing");
            return None;
        };
        let mut fields = Fields::of(spec, cx)?;
        let gateways = Gateways::read(&mut fields, cx);
        let is_delegate = fields.get("hosts").is_none_or(is_empty_list);
        if is_delegate && !gateways.is_empty() {
            cx.report(
                Code::BadDelegate,
                spec.span,
                "a delegate is bound to what its roots are bound to: it has no `gateways`",
            );
        }
        let hosts = read_hosts(&mut fields, resource, domain, &gateways, cx);
        let export_to = ExportTo::read(fields.list("exportTo", cx), &resource.metadata.namespace, false, cx);
        let [http, tls, tcp] = ["http", "tls", "tcp"].map(|name| fields.list(name, cx));
        fields.finish(cx);
        check_annotations(resource, &[], cx);
        if http.is_empty() && tls.is_empty() && tcp.is_empty() {
            cx.report(Code::NoRoutes, spec.span, "at least one of `http`, `tls` and `tcp` is needed");
        }
        gateways.warn(cx);
        let reader = Reader { resource, domain, hosts: &hosts, gateways: &gateways, is_delegate };
        let http = http.iter().enumerate().filter_map(|(at, node)| HttpRoute::read(at, node, &reader, cx));
        let http = http.collect::<Vec<_>>();
        let tls = tls.iter().flat_map(|node| TlsRoute::read(node, &reader, cx)).collect::<Vec<_>>();
        let tcp = tcp.iter().flat_map(|node| TcpRoute::read(node, &reader, cx)).collect::<Vec<_>>();
        http::warn_unreachable(&http, cx);
        bytes::warn_unreachable(&tcp, cx);
        // Of what is bound to Gateways alone, nothing can let more through than it says: no listener here is one.
        (gateways.in_mesh() || http.iter().any(HttpRoute::is_in_mesh)).then_some(Self {
            resource,
            hosts,
            export_to,
            http,
            tls,
            tcp,
        })
    }

    /// True if one of its routes is for workloads with labels like these, and others are not.
    pub fn is_selecting(&self, client: &Workload) -> bool {
        self.scopes().any(|scope| !scope.source_labels.is_empty() && scope.includes_workload(client))
    }

    fn scopes(&self) -> impl Iterator<Item = &Scope> {
        let http = self.http.iter().flat_map(|route| &route.matches).map(|found| &found.scope);
        http.chain(self.tls.iter().map(|route| &route.scope)).chain(self.tcp.iter().map(|route| &route.scope))
    }
}

/// What every part of one VirtualService is read with.
pub(super) struct Reader<'r> {
    resource: &'r Resource,
    domain: &'r str,
    hosts: &'r [SharedText],
    gateways: &'r Gateways<'r>,
    is_delegate: bool,
}

fn read_hosts(
    fields: &mut Fields<'_>,
    resource: &Resource,
    domain: &str,
    gateways: &Gateways<'_>,
    cx: &mut Context<'_>,
) -> Vec<SharedText> {
    let Some(node) = fields.get("hosts") else { return Vec::new() };
    let mut list: Vec<SharedText> = Vec::new();
    for item in node.items(cx).unwrap_or_default() {
        let Some(text) = item.text(cx) else { continue };
        let is_address = text.value.parse::<std::net::IpAddr>().is_ok();
        if text.value == "*" && gateways.in_mesh() {
            cx.report(Code::HostOfEverything, item.span, "`*` alone is possible for gateways only").found("*");
            continue;
        }
        if let (Err(error), false) = (check_wildcard_domain(text.value), is_address) {
            cx.report(Code::BadHost, item.span, format!("{:?}: {error}", text.value)).found(text.value);
            continue;
        }
        let host = whole_host(text.value, resource, domain);
        if let Some(other) = list.iter().find(|other| hosts::overlap(&other.value, &host)) {
            let message = format!("{host:?} overlaps with {:?}", other.value);
            cx.report(Code::HostsOverlap, item.span, message).found(text.value);
            continue;
        }
        list.push(Spanned { value: host, span: item.span });
    }
    list
}

fn is_empty_list(node: &Node) -> bool {
    matches!(&node.value, Value::List(items) if items.is_empty())
}
