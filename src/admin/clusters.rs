//! `/clusters`: every cluster with its addresses and what is counted of them, in Envoy's text, or its JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::query::Query;
use crate::account::hosts::{ClusterHosts, HostCounts};
use crate::account::parents::{self, Probed};
use crate::account::usage::{Resource, Usage};
use crate::flow::Host;
use crate::route::balancing::locality::Place;
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
    /// Addresses that the rules spell.
    spelled: BTreeMap<SocketAddr, Spelled>,
    hosts: Option<Arc<ClusterHosts>>,
    /// What flows may hold of it at once; `None`: it is in the rules no more.
    bounds: Option<[u64; Resource::ALL.len()]>,
    /// Endpoints that fail are left out (`outlierDetection`).
    is_watched: bool,
}

#[derive(Clone)]
struct Spelled {
    weight: u32,
    /// Where distance counts.
    place: Option<Place>,
}

struct Line {
    peer: SocketAddr,
    host: Arc<HostCounts>,
    spelled: Spelled,
    /// `None`: nobody watches it.
    is_ejected: Option<bool>,
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
        shown.is_watched |= cluster.outliers().is_some();
        if let Discovery::Static(endpoints) | Discovery::Dns { endpoints, .. } = &cluster.discovery {
            let localities = cluster.standing().and_then(|standing| standing.localities.as_ref());
            for (index, endpoint) in endpoints.iter().enumerate() {
                if let EndpointAddress::Host(Host::Ip(ip), port) = endpoint.at {
                    let place = localities.and_then(|localities| localities.places.get(index)).cloned();
                    shown.spelled.insert(SocketAddr::new(ip, port), Spelled { weight: endpoint.weight, place });
                }
            }
        }
    });
    all
}

/// Envoy's number for "any number" is the largest that it knows.
fn bounds(cluster: &Cluster) -> [u64; Resource::ALL.len()] {
    Resource::ALL.map(|resource| {
        let pool = cluster.pool();
        let max = pool.and_then(|pool| pool.max(resource, &Usage::default()));
        max.map_or(u64::from(u32::MAX), |max| max as u64)
    })
}

impl Shown {
    fn lines(&self, left_out: impl Fn(SocketAddr) -> Option<Duration>) -> Vec<Line> {
        let seen = self.hosts.as_ref().map(|hosts| hosts.list()).unwrap_or_default();
        let line = |(peer, host): (SocketAddr, Arc<HostCounts>)| Line {
            peer,
            host,
            spelled: self.spelled.get(&peer).cloned().unwrap_or(Spelled { weight: 1, place: None }),
            is_ejected: self.is_watched.then(|| left_out(peer).is_some()),
        };
        let mut lines: Vec<Line> = seen.into_iter().map(line).collect();
        for peer in self.spelled.keys() {
            if !lines.iter().any(|line| line.peer == *peer) {
                lines.push(line((*peer, Arc::default())));
            }
        }
        lines.sort_unstable_by_key(|line| line.peer);
        lines
    }
}

/// Envoy's text: `cluster::address::name::value`. What Envoy says of things that are not carried out for a cluster (health that nobody
/// watches or probes, places where distance does not count) is left out: a constant would be taken for an observation.
pub(super) fn text(proxy: &Proxy, wanted: &Wanted) -> String {
    let mut out = String::new();
    for (name, shown) in shown(proxy, wanted).iter().take(wanted.limit) {
        let shown_name = printable(name);
        let mut line = |of: &str, key: &str, value: &dyn std::fmt::Display| {
            writeln!(out, "{shown_name}::{of}{key}::{value}").expect("a String takes everything");
        };
        line("", "observability_name", &shown_name);
        for (resource, max) in Resource::ALL.iter().zip(shown.bounds.iter().flatten()) {
            line("default_priority::", resource.name(), max);
        }
        for Line { peer, host, spelled, is_ejected } in shown.lines(proxy.dialer.left_out(name)) {
            let of = format!("{peer}::");
            for (key, value) in host.values() {
                line(&of, key, &value);
            }
            line(&of, "hostname", &printable(&host.hostname));
            let is_down = probed(name, peer, &host.hostname).map(|probed| probed.is_down());
            if is_down.is_some() || is_ejected.is_some() {
                let flags = [(is_down, "/failed_active_hc"), (is_ejected, "/failed_outlier_check")];
                let flags: String =
                    flags.into_iter().filter(|(is, _)| *is == Some(true)).map(|(_, flag)| flag).collect();
                line(&of, "health_flags", &if flags.is_empty() { "healthy" } else { &flags });
            }
            line(&of, "weight", &spelled.weight);
            if let Some(place) = &spelled.place {
                let mut parts = place.locality.split('/');
                for key in ["region", "zone", "sub_zone"] {
                    line(&of, key, &printable(parts.next().unwrap_or_default()));
                }
                line(&of, "priority", &place.priority);
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
        let lines = shown.lines(proxy.dialer.left_out(name)).into_iter();
        let hosts = lines.map(|Line { peer, host, spelled, is_ejected }| {
            let stats = host.values().map(|(name, value)| {
                let kind = if name.ends_with("_active") { "GAUGE" } else { "COUNTER" };
                json!({ "name": name, "value": value.to_string(), "type": kind })
            });
            let mut status = json!({
                "address": { "socket_address": { "address": peer.ip(), "port_value": peer.port() } },
                "stats": stats,
                "weight": spelled.weight,
                "hostname": &*host.hostname,
                "health_status": probed(name, peer, &host.hostname).map(|probed| {
                    json!({ "failed_active_health_check": probed.is_down(), "reason": probed.reason() })
                }),
            });
            if let Some(is_ejected) = is_ejected {
                status["health_status"]["failed_outlier_check"] = is_ejected.into();
            }
            if let Some(place) = &spelled.place {
                let parts = ["region", "zone", "sub_zone"].into_iter().zip(place.locality.split('/'));
                status["locality"] = parts.map(|(name, part)| (name.to_owned(), Value::from(part))).collect();
                status["priority"] = place.priority.into();
            }
            status
        });
        json!({ "name": name, "host_statuses": hosts.collect::<Vec<_>>() })
    });
    json!({ "cluster_statuses": statuses.collect::<Vec<_>>() })
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
