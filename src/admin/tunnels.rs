//! `/tunnels`: what is open now, the rule that lets it, and how fast it runs.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use super::query::Query;
use crate::account::Live;
use crate::flow::{Ask, Flow, Identity, Source, Target};
use crate::route::cluster::{EndpointAddress, Hop, Via};
use crate::route::{Discovery, Snapshot};
use crate::tunnel::Proxy;

/// Which part of the list is wanted, and in which order.
#[derive(Debug)]
pub(super) struct Wanted {
    sort: Sort,
    ascending: bool,
    offset: usize,
    limit: usize,
    /// Part of the target, the client, the identity or the cluster; lower case.
    filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Rate,
    Bytes,
    Age,
    Id,
    Target,
    Client,
}

const SORTS: [(&str, Sort); 6] = [
    ("rate", Sort::Rate),
    ("bytes", Sort::Bytes),
    ("age", Sort::Age),
    ("id", Sort::Id),
    ("target", Sort::Target),
    ("client", Sort::Client),
];
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// `/tunnels`.
#[derive(Debug, Serialize)]
pub(super) struct Listing {
    /// Open now.
    open: usize,
    /// Of these, that fit the filter.
    matching: usize,
    offset: usize,
    tunnels: Vec<Tunnel>,
}

/// One open tunnel.
#[derive(Debug, Serialize)]
struct Tunnel {
    id: u64,
    client: String,
    identity: Option<String>,
    listener: String,
    /// `connect` or `sni`.
    asked_by: &'static str,
    target: String,
    cluster: Arc<str>,
    /// The service that the rules in force know it as.
    service: Option<Arc<str>>,
    /// The rule in force that lets it; null where none does any more (`onRevoke: report`).
    rule: Option<Rule>,
    /// The parent proxy on the way.
    hop: Option<String>,
    opened_at: String,
    age_s: f64,
    received_bytes: u64,
    sent_bytes: u64,
    /// Bytes per second from the client, of the last second or more; of its whole life while nothing newer is known.
    received_rate: f64,
    sent_rate: f64,
}

/// What decides, and where it stands.
#[derive(Debug, Serialize)]
pub(super) struct Rule {
    pub(super) route: Arc<str>,
    pub(super) resource: Arc<str>,
    /// `file:line:column`; null for what is built in.
    pub(super) at: Option<String>,
}

/// What is copied of each tunnel before anything is sorted.
struct Row {
    id: u64,
    source: Arc<Source>,
    target: Target,
    by_sni: bool,
    cluster: Arc<str>,
    age: Duration,
    bytes: Bytes,
    rate: (f64, f64),
}

#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    received: u64,
    sent: u64,
}

/// Byte counts of two looks at all tunnels, at least a second apart.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<Looks>);

#[derive(Debug, Default)]
struct Looks {
    older: Option<Look>,
    newer: Option<Look>,
}

#[derive(Debug)]
struct Look {
    at: Instant,
    counts: HashMap<u64, Bytes>,
}

const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const LOOK_AGE_MAX: Duration = Duration::from_secs(30); // a rate over more than that says nothing of now

impl Wanted {
    /// Reads `sort`, `order`, `offset`, `limit`, `filter`.
    ///
    /// # Errors
    /// A sentence on the first that makes no sense.
    pub(super) fn parse(query: &Query<'_>) -> Result<Self, String> {
        Ok(Self {
            sort: query.one_of("sort", &SORTS)?,
            ascending: query.one_of("order", &[("desc", false), ("asc", true)])?,
            offset: query.number("offset", 0, 0..=usize::MAX >> 1)?,
            limit: query.number("limit", LIMIT, 1..=LIMIT_MAX)?,
            filter: query.get("filter").unwrap_or_default().to_lowercase(),
        })
    }
}

/// Lists them. Takes milliseconds where there are tens of thousands: not for a worker.
pub(super) fn list(proxy: &Proxy, rates: &Rates, wanted: &Wanted) -> Listing {
    let now = Instant::now();
    let mut rows = Vec::with_capacity(proxy.tunnels.len());
    proxy.tunnels.for_each(|live| rows.push(Row::of(live, now)));
    rates.fill(&mut rows, now);
    let open = rows.len();
    if !wanted.filter.is_empty() {
        rows.retain(|row| row.fits(&wanted.filter));
    }
    let matching = rows.len();
    sort(&mut rows, wanted);
    let snapshot = proxy.snapshot.load();
    let page = rows.into_iter().skip(wanted.offset).take(wanted.limit);
    let time = Timestamp::now();
    Listing { open, matching, offset: wanted.offset, tunnels: page.map(|row| row.tell(&snapshot, time)).collect() }
}

fn sort(rows: &mut [Row], wanted: &Wanted) {
    let rate = |row: &Row| row.rate.0 + row.rate.1;
    let by = |a: &Row, b: &Row| match wanted.sort {
        Sort::Rate => rate(a).total_cmp(&rate(b)),
        Sort::Bytes => (a.bytes.received + a.bytes.sent).cmp(&(b.bytes.received + b.bytes.sent)),
        Sort::Age => a.age.cmp(&b.age),
        Sort::Id => a.id.cmp(&b.id),
        Sort::Target => target_key(a).cmp(&target_key(b)),
        Sort::Client => a.source.peer.cmp(&b.source.peer),
    };
    let ordered = |ordering: Ordering| if wanted.ascending { ordering } else { ordering.reverse() };
    // Equal ones by their age: a list that is asked for each second must not dance.
    rows.sort_unstable_by(|a, b| ordered(by(a, b)).then_with(|| Reverse(a.id).cmp(&Reverse(b.id))));
}

fn target_key(row: &Row) -> (Option<&str>, Option<std::net::IpAddr>, u16) {
    (row.target.host.name().map(crate::flow::Name::as_str), row.target.host.ip(), row.target.port)
}

impl Row {
    fn of(live: &Live, now: Instant) -> Self {
        Self {
            id: live.id,
            source: live.source.clone(),
            target: live.target.clone(),
            by_sni: live.by_sni,
            cluster: live.traffic.cluster().clone(),
            age: now.saturating_duration_since(live.opened),
            bytes: Bytes { received: live.received(), sent: live.sent() },
            rate: (0.0, 0.0),
        }
    }

    fn fits(&self, filter: &str) -> bool {
        let holds = |text: &str| text.to_lowercase().contains(filter);
        holds(&self.target.to_string())
            || holds(&self.source.peer.to_string())
            || holds(&self.cluster)
            || self.source.identity.as_deref().is_some_and(|identity| holds(identity.as_str()))
    }

    fn tell(self, snapshot: &Snapshot, now: Timestamp) -> Tunnel {
        let ask = if self.by_sni { Ask::Sni } else { Ask::Connect };
        let target = self.target.to_string();
        let flow = Flow { source: &self.source, ask, target: self.target };
        // Asked again rather than remembered: a tunnel that does nothing has to be small.
        let choice = snapshot.route(&flow);
        let route = choice.verdict.ok();
        let hop = route.as_ref().and_then(|route| match &route.cluster.via {
            Via::Direct => None,
            Via::Connect(hop) => Some(describe_hop(hop)),
        });
        let opened = Timestamp::try_from(std::time::SystemTime::from(now) - self.age).unwrap_or(now);
        Tunnel {
            id: self.id,
            client: self.source.peer.to_string(),
            identity: self.source.identity.as_deref().map(Identity::as_str).map(str::to_owned),
            listener: self.source.listener.name.clone(),
            asked_by: if self.by_sni { "sni" } else { "connect" },
            target,
            cluster: self.cluster,
            service: choice.service.map(|service| service.host.clone()),
            rule: route.map(|route| Rule {
                route: route.name.clone(),
                resource: route.origin.resource.clone(),
                at: (route.origin.line > 0).then(|| route.origin.to_string()),
            }),
            hop,
            opened_at: format!("{opened:.3}"),
            age_s: self.age.as_secs_f64(),
            received_bytes: self.bytes.received,
            sent_bytes: self.bytes.sent,
            received_rate: self.rate.0,
            sent_rate: self.rate.1,
        }
    }
}

pub(super) fn describe_hop(hop: &Hop) -> String {
    match &hop.cluster.discovery {
        Discovery::Dns { endpoints, .. } | Discovery::Static(endpoints) if endpoints.len() == 1 => {
            match &endpoints[0].at {
                EndpointAddress::Host(host, port) => Target { host: host.clone(), port: *port }.to_string(),
                EndpointAddress::Unix(path) => format!("unix:{}", path.display()),
            }
        }
        _ => hop.cluster.name.to_string(),
    }
}

impl Rates {
    /// Tells each row its rate, and remembers the counts for the next time.
    fn fill(&self, rows: &mut [Row], now: Instant) {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let old = |look: &Look| now.saturating_duration_since(look.at) > LOOK_AGE_MAX;
        if looks.newer.as_ref().is_some_and(old) {
            *looks = Looks::default();
        }
        if looks.newer.as_ref().is_none_or(|look| now.saturating_duration_since(look.at) >= LOOK_INTERVAL) {
            let counts = rows.iter().map(|row| (row.id, row.bytes)).collect();
            looks.older = looks.newer.replace(Look { at: now, counts });
        }
        for row in rows {
            let before = looks.older.as_ref().filter(|look| look.at < now);
            let known = before.and_then(|look| Some((look.at, look.counts.get(&row.id)?)));
            let (since, bytes) = match known {
                Some((at, bytes)) => (now - at, *bytes),
                None => (row.age, Bytes::default()),
            };
            let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / since.as_secs_f64().max(0.001);
            row.rate = (per_second(row.bytes.received, bytes.received), per_second(row.bytes.sent, bytes.sent));
        }
    }
}
