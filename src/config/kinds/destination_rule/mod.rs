//! DestinationRule as written: how a service is connected to (ISTIO 6 to 8).

mod connection_pool;
mod load_balancer;
pub(in crate::config) mod locality;
mod outlier_detection;
mod parent;
mod retry_budget;
mod tls;
mod tunnel;

use std::collections::HashSet;
use std::sync::Arc;

use self::connection_pool::read_pool;
use self::load_balancer::read_balancer;
use self::outlier_detection::read_outliers;
use self::parent::read_authorization;
use self::retry_budget::read_retry_budget;
use self::tls::read_tls;
use self::tunnel::read_tunnel;
use super::parent::{PROXY_PROBE, VIA, ViaRef, read_probe, read_via};
use super::scalars::{check_wildcard_domain, is_dns_label};
use super::selector::Selector;
use super::service_entry::{PROXY_HTTP, PROXY_HTTP_FORMS};
use super::{ExportTo, SharedText, check_annotations, choice_annotation};
use crate::config::diagnostic::{Code, Context, Diagnostics};
use crate::config::read::Fields;
use crate::config::resource::Resource;
use crate::config::source::Spanned;
use crate::config::yaml::{Node, Value};
use crate::flow::Workload;
use crate::route::balancing::Outliers;
use crate::route::cluster::ProxyProtocol;
use crate::route::connection_pool::RetryBudget;
use crate::route::hosts::resolve_short_name;
use crate::route::probe::Probe;

pub use self::connection_pool::{Pool, UPGRADES};
pub use self::load_balancer::{Balancer, How};
pub use self::locality::LocalityLb;
pub use self::parent::CredentialRef;
pub use self::tls::{Tls, TlsMode};
pub use self::tunnel::Tunnel;

/// A DestinationRule that passed its own rules, or of which the wrong parts were left out and reported.
#[derive(Debug)]
pub struct DestinationRule<'r> {
    /// Where it stands.
    pub resource: &'r Resource,
    /// Whole, lower case; may be a wildcard.
    pub host: SharedText,
    /// For all ports and subsets.
    pub policy: Policy,
    /// In the order written.
    pub subsets: Vec<Subset>,
    /// `workloadSelector`: it applies to these clients of its namespace only, and before rules without one.
    pub selector: Option<Selector>,
    /// Who sees it.
    pub export_to: ExportTo,
    /// `egret.dev/proxy-authorization`: credentials for this host as a parent proxy.
    pub authorization: Option<Spanned<CredentialRef>>,
    /// `egret.dev/proxy-http: absolute-form`.
    pub absolute_form: bool,
    /// `egret.dev/proxy-probe`: how this host as a parent proxy is asked whether it is there.
    pub probe: Option<Spanned<Probe>>,
    /// `egret.dev/via`: the way to this host.
    pub via: Option<Spanned<ViaRef>>,
}

/// A named part of a service with a policy of its own.
#[derive(Clone, Debug)]
pub struct Subset {
    /// The name.
    pub name: SharedText,
    /// Endpoints with all of these labels belong to it.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// Laid over the rule's.
    pub policy: Policy,
}

/// `trafficPolicy`.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// For ports without an entry of their own.
    pub settings: Settings,
    /// By port: these replace the settings above as a whole.
    pub ports: Vec<(u16, Settings)>,
    /// Through the service to a fixed target.
    pub tunnel: Option<Spanned<Tunnel>>,
    /// A PROXY header at the beginning of each connection.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `retryBudget`.
    pub retry_budget: Option<Spanned<RetryBudget>>,
}

/// The parts of a policy that can be given per port.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `tls`.
    pub tls: Option<Spanned<Tls>>,
    /// `connectionPool`.
    pub pool: Option<Pool>,
    /// `loadBalancer`.
    pub balancer: Option<Balancer>,
    /// `outlierDetection`.
    pub outliers: Option<Spanned<Outliers>>,
}

impl<'r> DestinationRule<'r> {
    /// Reads and judges one resource by the rules that concern it alone. `None`: nothing of use is left.
    pub fn read(resource: &'r Resource, domain: &str, diagnostics: &mut Diagnostics) -> Option<Self> {
        let cx = &mut resource.context(diagnostics);
        let Some(spec) = resource.spec() else {
            cx.report(Code::MissingField, resource.root.span, "`spec` is missing");
            return None;
        };
        let mut fields = Fields::of(spec, cx)?;
        let host = read_host(&mut fields, resource, domain, cx);
        let policy = fields.get("trafficPolicy").map(|node| read_policy(node, cx)).unwrap_or_default();
        let subsets = read_subsets(fields.list("subsets", cx), cx);
        let export_to = ExportTo::read(fields.list("exportTo", cx), &resource.metadata.namespace, false, cx);
        let selector = fields.get("workloadSelector").and_then(|node| Selector::read(node, "matchLabels", cx));
        if let (Some(_), Some(node)) = (&selector, fields.get("exportTo")) {
            let own = ExportTo::Only(vec![resource.metadata.namespace.clone()]);
            if !matches!(&node.value, Value::List(items) if items.is_empty()) && export_to != own {
                let report =
                    cx.report(Code::BadExportTo, node.span, "a rule for some workloads stays in its namespace");
                report.help("write `exportTo: [\".\"]`, or leave it out");
            }
        }
        fields.finish(cx);
        check_annotations(resource, KNOWN_ANNOTATIONS, cx);
        let absolute_form = choice_annotation(resource, PROXY_HTTP, PROXY_HTTP_FORMS, cx).unwrap_or(false);
        let (probe, via) = (read_probe(resource, cx), read_via(resource, cx));
        // Someone may have written the password itself: no line of it is shown.
        let authorization = read_authorization(resource, &mut resource.context(diagnostics).confidential());
        Some(Self {
            resource,
            host: host?,
            policy,
            subsets,
            selector,
            export_to,
            authorization,
            absolute_form,
            probe,
            via,
        })
    }
}

impl DestinationRule<'_> {
    /// True if it is for some workloads of a namespace, and this is one of them.
    pub fn is_selecting(&self, client: &Workload) -> bool {
        let own = self.resource.metadata.namespace == client.namespace;
        own && self.selector.as_ref().is_some_and(|selector| selector.selects(&client.labels))
    }
}

fn read_host(fields: &mut Fields<'_>, resource: &Resource, domain: &str, cx: &mut Context<'_>) -> Option<SharedText> {
    let node = fields.required("host", cx)?;
    let text = node.text(cx)?;
    if let Err(error) = check_wildcard_domain(text.value) {
        cx.report(Code::BadHost, node.span, format!("{:?}: {error}", text.value)).found(text.value);
        return None;
    }
    Some(Spanned { value: whole_host(text.value, resource, domain), span: node.span })
}

/// Short names are completed with the namespace of the resource they stand in.
pub(in crate::config::kinds) fn whole_host(text: &str, resource: &Resource, domain: &str) -> Arc<str> {
    let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    resolve_short_name(&host, &resource.metadata.namespace, domain).into()
}

fn read_subsets(items: &[Node], cx: &mut Context<'_>) -> Vec<Subset> {
    let mut subsets: Vec<Subset> = Vec::with_capacity(items.len());
    for item in items {
        let Some(mut fields) = Fields::of(item, cx) else { continue };
        let name = fields.required("name", cx).and_then(|node| node.text(cx));
        let labels = fields.map("labels", cx).iter().filter_map(|(key, node)| {
            let value = node.scalar()?;
            Some((key.text.clone(), value.into()))
        });
        let labels = labels.collect();
        let policy = fields.get("trafficPolicy").map(|node| read_policy(node, cx)).unwrap_or_default();
        fields.finish(cx);
        let Some(name) = name else { continue };
        if !is_dns_label(name.value) {
            cx.report(Code::BadSubsetName, name.span, format!("{:?} is not a DNS label", name.value)).found(name.value);
        } else if let Some(first) = subsets.iter().position(|subset| *subset.name.value == *name.value) {
            let message = format!("{:?} is used twice (first at subsets[{first}])", name.value);
            cx.report(Code::SubsetTwice, name.span, message).found(name.value);
        } else {
            subsets.push(Subset { name: name.map(Into::into), labels, policy });
        }
    }
    subsets
}

fn read_policy(node: &Node, cx: &mut Context<'_>) -> Policy {
    let Some(mut fields) = Fields::of(node, cx) else { return Policy::default() };
    if is_empty(node) {
        cx.report(Code::EmptyPolicy, node.span, "a traffic policy needs at least one field");
    }
    let settings = read_settings(&mut fields, cx);
    let mut seen = HashSet::new();
    let items = fields.list("portLevelSettings", cx);
    let ports = items.iter().filter_map(|item| read_port_settings(item, &mut seen, cx)).collect();
    let tunnel = fields.get("tunnel").and_then(|node| read_tunnel(node, cx));
    if let (Some(node), Some(_)) = (fields.get("proxyProtocol"), &tunnel) {
        cx.report(Code::TunnelWithProxyProtocol, node.span, "`tunnel` and `proxyProtocol` exclude each other");
    }
    let proxy_protocol = fields.get("proxyProtocol").and_then(|node| read_proxy_protocol(node, cx));
    let retry_budget = fields
        .get("retryBudget")
        .and_then(|node| Some(Spanned { value: read_retry_budget(node, cx)?, span: node.span }));
    fields.finish(cx);
    Policy { settings, ports, tunnel, proxy_protocol, retry_budget }
}

fn read_port_settings(node: &Node, seen: &mut HashSet<u16>, cx: &mut Context<'_>) -> Option<(u16, Settings)> {
    let mut fields = Fields::of(node, cx)?;
    let number = fields.required("port", cx).and_then(|node| {
        let mut port = Fields::of(node, cx)?;
        let number = port.required("number", cx).and_then(|node| node.port(cx));
        port.finish(cx);
        number
    });
    let settings = read_settings(&mut fields, cx);
    if ["loadBalancer", "connectionPool", "outlierDetection", "tls"].iter().all(|name| node.entry(name).is_none()) {
        cx.report(Code::EmptyPolicy, node.span, "settings of a port need at least one field beside the port");
    }
    fields.finish(cx);
    let number = number?;
    if !seen.insert(number) {
        cx.report(Code::PortTwice, node.span, format!("port {number} has settings already"));
        return None;
    }
    Some((number, settings))
}

fn read_settings(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Settings {
    let tls_node = fields.get("tls");
    let tls = tls_node.and_then(|node| Some(Spanned { value: read_tls(node, cx)?, span: node.span }));
    let pool = fields.get("connectionPool").and_then(|node| read_pool(node, cx));
    let outliers_node = fields.get("outlierDetection");
    let outliers = outliers_node.and_then(|node| Some(Spanned { value: read_outliers(node, cx)?, span: node.span }));
    let has_outliers = outliers_node.is_some();
    let balancer = fields.get("loadBalancer").and_then(|node| read_balancer(node, has_outliers, cx));
    Settings { tls, pool, balancer, outliers }
}

fn read_proxy_protocol(node: &Node, cx: &mut Context<'_>) -> Option<ProxyProtocol> {
    let mut fields = Fields::of(node, cx)?;
    let version = match fields.get("version") {
        Some(node) => node.one_of(PROXY_PROTOCOLS, cx),
        None => Some(ProxyProtocol::V1),
    };
    fields.finish(cx);
    version
}

fn is_empty(node: &Node) -> bool {
    matches!(&node.value, crate::config::yaml::Value::Map(entries) if entries.iter().all(|(_, node)| node.is_null()))
}

impl Policy {
    /// The settings of a port under this policy laid over `below` (ISTIO 6.3): a subset's fields win one by one, and an entry for the
    /// port, the subset's first, replaces all of them.
    pub fn settings_for<'p>(subset: Option<&'p Self>, below: &'p Self, port: u16) -> Settings {
        let of_port = |policy: &'p Self| policy.ports.iter().find(|(number, _)| *number == port).map(|(_, s)| s);
        if let Some(settings) = subset.and_then(of_port).or_else(|| of_port(below)) {
            return settings.clone();
        }
        let over = subset.map(|policy| policy.settings.clone()).unwrap_or_default();
        let below = &below.settings;
        Settings {
            tls: over.tls.or_else(|| below.tls.clone()),
            pool: over.pool.or(below.pool),
            balancer: over.balancer.or_else(|| below.balancer.clone()),
            outliers: over.outliers.or(below.outliers),
        }
    }

    /// True if nothing is set.
    pub fn is_empty(&self) -> bool {
        let Settings { tls, pool, balancer, outliers } = &self.settings;
        let is_bare = tls.is_none() && pool.is_none() && balancer.is_none() && outliers.is_none();
        let is_bare = is_bare && self.ports.is_empty() && self.tunnel.is_none();
        is_bare && self.proxy_protocol.is_none() && self.retry_budget.is_none()
    }
}

const KNOWN_ANNOTATIONS: &[&str] = &[parent::PROXY_AUTHORIZATION, PROXY_HTTP, PROXY_PROBE, VIA];
const PROXY_PROTOCOLS: &[(&str, ProxyProtocol)] = &[("V1", ProxyProtocol::V1), ("V2", ProxyProtocol::V2)];
const COUNT_MAX: u64 = i32::MAX as u64; // int32 in Istio's API
