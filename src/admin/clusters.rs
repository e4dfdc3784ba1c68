//! `/clusters`: every cluster with its addresses and what is counted of them, in Envoy's text, or its JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::query::Query;
use crate::account::hosts::{ClusterHosts, HostCounts};
use crate::account::parents::{self, Probed};
use crate::account::usage::{Resource, Usage};
use crate::flow::Host;
use crate::route::cluster::EndpointAddress;
use crate::route::{Cluster, Discovery};
use crate::tunnel::Proxy;

/// Which of them are wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) json: bool,
    limit: usize,
    filter: String,
}

const LIMIT: usize = 1000;
const LIMIT_MAX: usize = 100_000;

impl Wanted {
    /// Reads `format`, `limit`, `filter` (a part of the name).
    ///
    /// # Errors
    /// A sentence on the first that makes no sense.
    pub(super) fn parse(query: &Query<'_>) -> Result<Self, String> {
        Ok(Self {
            json: query.one_of("format", &[("text", false), ("json", true)])?,
            limit: query.number("limit", LIMIT, 1..=LIMIT_MAX)?,
            filter: query.get("filter").unwrap_or_default().into_owned(),
        })
    }
}

/// One cluster: in the rules, or dialled by flows of earlier ones that are still open.
#[derive(Default)]
struct Shown {
    /// Addresses that the rules spell, with their weight.
    spelled: BTreeMap<SocketAddr, u32>,
    hosts: Option<Arc<ClusterHosts>>,
    /// What flows may hold of it at once; `None`: it is in the rules no more.
    bounds: Option<[u64; Resource::ALL.len()]>,
}

struct Line {
    peer: SocketAddr,
    host: Arc<HostCounts>,
    weight: u32,
}

fn shown(proxy: &Proxy, wanted: &Wanted) -> BTreeMap<Arc<str>, Shown> {
    let mut all: BTreeMap<Arc<str>, Shown> = BTreeMap::new();
    for (name, hosts) in proxy.dialer.hosts() {
        if name.contains(&wanted.filter) {
            all.entry(name).or_default().hosts = Some(hosts);
        }
    }
    proxy.snapshot.load().for_each_cluster(|cluster| {
        if !cluster.name.contains(&wanted.filter) {
            return;
        }
        let shown = all.entry(cluster.name.clone()).or_default();
        shown.bounds = Some(bounds(cluster));
        if let Discovery::Static(endpoints) | Discovery::Dns { endpoints, .. } = &cluster.discovery {
            for endpoint in endpoints {
                if let EndpointAddress::Host(Host::Ip(ip), port) = endpoint.at {
                    shown.spelled.insert(SocketAddr::new(ip, port), endpoint.weight);
                }
            }
        }
    });
    all
}

/// Envoy's number for "any number" is the largest that it knows.
fn bounds(cluster: &Cluster) -> [u64; Resource::ALL.len()] {
    Resource::ALL.map(|resource| {
        let pool = cluster.pool.as_deref();
        let max = pool.and_then(|pool| pool.max(resource, &Usage::default()));
        max.map_or(u64::from(u32::MAX), |max| max as u64)
    })
}

impl Shown {
    fn lines(&self) -> Vec<Line> {
        let seen = self.hosts.as_ref().map(|hosts| hosts.list()).unwrap_or_default();
        let weight = |peer: &SocketAddr| self.spelled.get(peer).copied().unwrap_or(1);
        let mut lines: Vec<Line> =
            seen.into_iter().map(|(peer, host)| Line { peer, weight: weight(&peer), host }).collect();
        for (peer, weight) in &self.spelled {
            if !lines.iter().any(|line| line.peer == *peer) {
                lines.push(Line { peer: *peer, weight: *weight, host: Arc::default() });
            }
        }
        lines.sort_unstable_by_key(|line| line.peer);
        lines
    }
}

/// Envoy's text: `cluster::address::name::value`, with its health where that is probed. What Envoy says of things that are not carried out
/// here (outliers, localities) is left out: a constant would be taken for an observation.
pub(super) fn text(proxy: &Proxy, wanted: &Wanted) -> String {
    let mut out = String::new();
    for (name, shown) in shown(proxy, wanted).iter().take(wanted.limit) {
        let name = printable(name);
        let mut line = |of: &str, key: &str, value: &dyn std::fmt::Display| {
            writeln!(out, "{name}::{of}{key}::{value}").expect("a String takes everything");
        };
        line("", "observability_name", &name);
        for (resource, max) in Resource::ALL.iter().zip(shown.bounds.iter().flatten()) {
            line("default_priority::", resource.name(), max);
        }
        for Line { peer, host, weight } in shown.lines() {
            let of = format!("{peer}::");
            for (key, value) in host.values() {
                line(&of, key, &value);
            }
            line(&of, "hostname", &printable(&host.hostname));
            line(&of, "weight", &weight);
            if let Some(probed) = probed(&name, peer, &host.hostname) {
                line(&of, "health_flags", &if probed.is_down() { "/failed_active_hc" } else { "healthy" });
            }
        }
    }
    out
}

/// The endpoint of a parent that led to this address, if that is probed.
fn probed(cluster: &str, peer: SocketAddr, hostname: &str) -> Option<Arc<Probed>> {
    let all = parents::all();
    let named = format!("{hostname}:{}", peer.port());
    let is_it = |probed: &&Arc<Probed>| {
        *probed.cluster == *cluster && (*probed.endpoint == *peer.to_string() || *probed.endpoint == *named)
    };
    all.iter().find(is_it).cloned()
}

/// Envoy's JSON.
pub(super) fn json(proxy: &Proxy, wanted: &Wanted) -> Value {
    let all = shown(proxy, wanted);
    let statuses = all.iter().take(wanted.limit).map(|(name, shown)| {
        let hosts = shown.lines().into_iter().map(|Line { peer, host, weight }| {
            let stats = host.values().map(|(name, value)| {
                let kind = if name.ends_with("_active") { "GAUGE" } else { "COUNTER" };
                json!({ "name": name, "value": value.to_string(), "type": kind })
            });
            json!({
                "address": { "socket_address": { "address": peer.ip(), "port_value": peer.port() } },
                "stats": stats,
                "weight": weight,
                "hostname": &*host.hostname,
                "health_status": probed(name, peer, &host.hostname).map(|probed| {
                    json!({ "failed_active_health_check": probed.is_down(), "reason": probed.reason() })
                }),
            })
        });
        json!({ "name": name, "host_statuses": hosts.collect::<Vec<_>>() })
    });
    json!({ "cluster_statuses": statuses.collect::<Vec<_>>() })
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
