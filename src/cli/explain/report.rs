//! What is said of a flow: the document of `explain -o json`, and the words for its parts.

use std::collections::BTreeMap;

use serde::Serialize;

use super::stages::StageReport;
use crate::flow::{Name, Origin, Target, Workload};
use crate::route::cluster::{EndpointAddress, Sni};
use crate::route::remedy::Remedy;
use crate::route::weighed::Weighed;
use crate::route::{Cluster, Discovery, Hop, Nearest, Origination, Via};

/// `egret explain -o json`, key by key (CONTRACT).
#[derive(Debug, Serialize)]
pub(super) struct Explanation {
    pub(super) decision: Decision,
    /// Name in the outcome table; null where allowed.
    pub(super) reason: Option<&'static str>,
    /// What an HTTP client gets from us; null where the upstream answers, and where there is nobody to send a status to.
    pub(super) status: Option<u16>,
    /// RFC 9209.
    pub(super) error: Option<&'static str>,
    pub(super) target: String,
    pub(super) service: Option<String>,
    pub(super) route: Option<String>,
    pub(super) cluster: Option<String>,
    pub(super) endpoints: Vec<String>,
    pub(super) tls: Option<TlsReport>,
    pub(super) via: Vec<HopReport>,
    /// The rule by which no parent is on the way, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) straight: Option<StraightReport>,
    /// The clusters of a route that has several, by weight; `cluster` is the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) destinations: Vec<DestinationReport>,
    pub(super) stages: Vec<StageReport>,
    pub(super) workload: WorkloadReport,
    pub(super) generation: u64,
    pub(super) tunnel: Option<&'static str>,
    pub(super) unknown: Vec<String>,
    pub(super) nearest: Option<NearestReport>,
    /// The ServiceEntry that an `allow` entry stands for.
    pub(super) expansion: Option<String>,
    /// YAML that would allow what is refused.
    pub(super) suggestions: Vec<Remedy>,
    /// Names whose addresses would decide.
    #[serde(skip)]
    pub(super) names: Vec<Name>,
    /// What is asked, in one line.
    #[serde(skip)]
    pub(super) asked: String,
    /// The reason phrase of the refusal.
    #[serde(skip)]
    pub(super) phrase: Option<&'static str>,
    /// The sentence of the refusal.
    #[serde(skip)]
    pub(super) refusal: Option<String>,
}

/// Two decisions only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Decision {
    Allow,
    Deny,
}

/// TLS that we originate.
#[derive(Debug, Serialize)]
pub(super) struct TlsReport {
    pub(super) mode: &'static str,
    pub(super) sni: Option<String>,
    pub(super) at: Option<String>,
}

/// A parent proxy on the way.
#[derive(Debug, Serialize)]
pub(super) struct HopReport {
    pub(super) cluster: String,
    pub(super) endpoints: Vec<String>,
    pub(super) tls: Option<TlsReport>,
    pub(super) asks_for: String,
    /// `CONNECT` or `POST`.
    pub(super) method: &'static str,
    pub(super) authorization: bool,
    pub(super) absolute_form: bool,
    /// What said that it goes this way.
    pub(super) by: String,
    pub(super) at: Option<String>,
}

/// What said that no parent is on the way.
#[derive(Debug, Serialize)]
pub(super) struct StraightReport {
    pub(super) by: String,
    pub(super) at: Option<String>,
}

/// One of several destinations.
#[derive(Debug, Serialize)]
pub(super) struct DestinationReport {
    cluster: String,
    weight: u64,
}

/// Who we act for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WorkloadReport {
    namespace: String,
    service_account: String,
    labels: BTreeMap<String, String>,
}

/// The rule that comes nearest to allowing what is refused.
#[derive(Debug, Serialize)]
pub(super) struct NearestReport {
    pub(super) rule: String,
    pub(super) differs_in: &'static str,
    pub(super) declared: String,
    pub(super) at: Option<String>,
}

impl TlsReport {
    pub(super) fn of(tls: &Origination, target: &Target) -> Self {
        let sni = match &tls.sni {
            Sni::Fixed(name) => Some(name.to_string()),
            Sni::Asked => target.host.name().map(Name::to_string),
        };
        Self { mode: tls.mode, sni, at: place(&tls.origin) }
    }
}

impl DestinationReport {
    /// Nothing for a route that has one.
    pub(super) fn of(weighed: &Weighed) -> Vec<Self> {
        match &*weighed.destinations {
            several @ [_, _, ..] => {
                several.iter().map(|(cluster, weight)| Self { cluster: cluster.to_string(), weight: *weight }).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl HopReport {
    pub(super) fn of(hop: &Hop, target: &Target) -> Self {
        Self {
            cluster: hop.cluster.name.to_string(),
            endpoints: endpoints(&hop.cluster, target),
            tls: hop.cluster.tls.as_ref().map(|tls| TlsReport::of(tls, target)),
            asks_for: hop.target.as_ref().unwrap_or(target).to_string(),
            method: hop.method.as_str(),
            authorization: hop.authorization.is_some(),
            absolute_form: hop.absolute_form,
            by: hop.origin.resource.to_string(),
            at: place(&hop.origin),
        }
    }
}

impl StraightReport {
    pub(super) fn of(cluster: &Cluster) -> Option<Self> {
        let rule = cluster.straight.as_ref()?;
        Some(Self { by: rule.resource.to_string(), at: place(rule) })
    }
}

impl WorkloadReport {
    pub(super) fn of(workload: &Workload) -> Self {
        Self {
            namespace: workload.namespace.to_string(),
            service_account: workload.service_account.to_string(),
            labels: workload.labels.clone(),
        }
    }
}

impl NearestReport {
    pub(super) fn of(nearest: Nearest) -> Self {
        Self {
            rule: nearest.rule.to_string(),
            differs_in: nearest.differs_in,
            declared: nearest.declared.into(),
            at: place(&nearest.origin),
        }
    }
}

/// What is dialled, as `host:port`.
pub(super) fn endpoints(cluster: &Cluster, target: &Target) -> Vec<String> {
    match &cluster.discovery {
        Discovery::Asked { port } => {
            vec![Target { host: target.host.clone(), port: port.unwrap_or(target.port) }.to_string()]
        }
        Discovery::Dns { endpoints, .. } | Discovery::Static(endpoints) => {
            endpoints.iter().map(|endpoint| describe_endpoint(&endpoint.at)).collect()
        }
        Discovery::Missing(_) => Vec::new(),
    }
}

/// The parents on the way.
pub(super) fn hops(cluster: &Cluster, target: &Target) -> Vec<HopReport> {
    match &cluster.via {
        Via::Direct => Vec::new(),
        Via::Connect(hop) => vec![HopReport::of(hop, target)],
    }
}

fn describe_endpoint(at: &EndpointAddress) -> String {
    match at {
        EndpointAddress::Host(host, port) => Target { host: host.clone(), port: *port }.to_string(),
        EndpointAddress::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// `file:line:column`, where there is a file.
pub(super) fn place(origin: &Origin) -> Option<String> {
    (origin.line > 0).then(|| origin.to_string())
}

/// Control characters could drive the terminal that shows the answer.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
