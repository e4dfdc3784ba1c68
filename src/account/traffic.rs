//! What is counted of the flows to one cluster, under Istio's standard metrics. A flow finds its counters by comparing a few words:
//! names and labels are put together once, when a combination of labels is first seen.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::hosts::ClusterHosts;
use super::istio;
use crate::flow::Workload;

/// The counters of one cluster: part of it, shared by its clones. Those of a cluster of the same name in the next snapshot go on
/// counting where these are.
#[derive(Clone, Debug)]
pub struct Traffic(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    cluster: Arc<str>,
    /// `ServiceEntry ns/name`: whose it is.
    resource: Arc<str>,
    /// Found before, by flows of this snapshot.
    found: ArcSwapOption<Vec<Found>>,
    hosts: OnceLock<Arc<ClusterHosts>>,
}

#[derive(Clone, Debug)]
struct Found {
    workload: Arc<Workload>,
    of: Of,
    series: Arc<Series>,
}

/// What distinguishes the series of one cluster and workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// A request, by its response's code (0: none) and flags.
    Request(u16, &'static str),
    /// A connection, by its flags.
    Connection(&'static str),
}

/// One combination of labels.
#[derive(Debug)]
pub(super) struct Series {
    /// `reporter="source",…`
    pub(super) labels: Box<str>,
    pub(super) counts: Counts,
}

#[derive(Debug)]
pub(super) enum Counts {
    Requests(Box<Requests>),
    Connections(Connections),
}

#[derive(Debug, Default)]
pub(super) struct Requests {
    pub(super) duration: Histogram,
    pub(super) request_bytes: Histogram,
    pub(super) response_bytes: Histogram,
}

#[derive(Debug, Default)]
pub(super) struct Connections {
    pub(super) opened: AtomicU64,
    pub(super) closed: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

/// Counts by [`BOUNDS`]; values are in thousandths.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    pub(super) buckets: [AtomicU64; BOUNDS.len() + 1],
    pub(super) sum: AtomicU64,
}

/// Envoy's default buckets, which Istio's dashboards are made for; in thousandths.
pub(super) const BOUNDS: [(u64, &str); 19] = [
    (500, "0.5"),
    (1_000, "1"),
    (5_000, "5"),
    (10_000, "10"),
    (25_000, "25"),
    (50_000, "50"),
    (100_000, "100"),
    (250_000, "250"),
    (500_000, "500"),
    (1_000_000, "1000"),
    (2_500_000, "2500"),
    (5_000_000, "5000"),
    (10_000_000, "10000"),
    (30_000_000, "30000"),
    (60_000_000, "60000"),
    (300_000_000, "300000"),
    (600_000_000, "600000"),
    (1_800_000_000, "1800000"),
    (3_600_000_000, "3600000"),
];

static SERIES: LazyLock<Mutex<Table>> = LazyLock::new(Mutex::default);

/// All series of the process.
#[derive(Debug, Default)]
struct Table {
    by_labels: HashMap<Box<str>, Arc<Series>>,
    /// Combinations without room since it was last looked for: a full table is not searched for each of them.
    refused: usize,
}

/// Series in all: a scrape writes up to 64 lines of each. Further combinations count to `__other__`.
const SERIES_MAX: usize = 1000;
/// Of one cluster: upstreams choose codes, and must not use up what is there for others.
const FOUND_MAX: usize = 64;

static BLACK_HOLE: LazyLock<Traffic> = LazyLock::new(|| Traffic::new("BlackHoleCluster".into(), "".into()));
static UNKNOWN: LazyLock<Traffic> = LazyLock::new(|| Traffic::new("".into(), "".into()));

impl Traffic {
    /// Nothing counted yet. `resource` is the `Kind namespace/name` that the cluster comes from.
    pub fn new(cluster: Arc<str>, resource: Arc<str>) -> Self {
        let (found, hosts) = (ArcSwapOption::empty(), OnceLock::new());
        Self(Arc::new(Counted { cluster, resource, found, hosts }))
    }

    /// Of flows that the registry knows no way for.
    pub fn black_hole() -> &'static Self {
        &BLACK_HOLE
    }

    /// Of flows whose cluster was never known.
    pub(super) fn unknown() -> &'static Self {
        &UNKNOWN
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &Arc<str> {
        &self.0.cluster
    }

    /// The counters of its addresses, once somebody has found them.
    pub fn hosts(&self, find: impl FnOnce() -> Arc<ClusterHosts>) -> &Arc<ClusterHosts> {
        self.0.hosts.get_or_init(find)
    }

    pub(super) fn request(&self, workload: &Arc<Workload>, done: &Done) {
        let series = self.series(workload, Of::Request(done.code, done.flags));
        let Counts::Requests(requests) = &series.counts else { return };
        requests.duration.add(u64::try_from(done.lasted.as_micros()).unwrap_or(u64::MAX));
        requests.request_bytes.add(done.received.saturating_mul(1000));
        requests.response_bytes.add(done.sent.saturating_mul(1000));
    }

    pub(super) fn connection(&self, workload: &Arc<Workload>, flags: &'static str, count: impl FnOnce(&Connections)) {
        let series = self.series(workload, Of::Connection(flags));
        if let Counts::Connections(connections) = &series.counts {
            count(connections);
        }
    }

    fn series(&self, workload: &Arc<Workload>, of: Of) -> Arc<Series> {
        if let Some(found) = self.0.found.load().as_ref() {
            let fits = |known: &&Found| known.of == of && Arc::ptr_eq(&known.workload, workload);
            if let Some(known) = found.iter().find(fits) {
                return known.series.clone();
            }
            if found.len() >= FOUND_MAX {
                return other(of);
            }
        }
        self.look_up(workload, of)
    }

    #[cold]
    fn look_up(&self, workload: &Arc<Workload>, of: Of) -> Arc<Series> {
        let labels = istio::labels(&self.0.cluster, &self.0.resource, workload, of);
        let series = named(labels, of).unwrap_or_else(|| other(of));
        let new = Found { workload: workload.clone(), of, series: series.clone() };
        self.0.found.rcu(|found| {
            let mut found = found.as_ref().map_or_else(Vec::new, |found| found.to_vec());
            found.push(new.clone());
            Some(Arc::new(found))
        });
        series
    }
}

/// A tunnel's cluster by its name alone, in tests.
#[cfg(test)]
impl<S: Into<Arc<str>>> From<S> for Traffic {
    fn from(cluster: S) -> Self {
        Self::new(cluster.into(), "".into())
    }
}

/// A request that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) code: u16,
    pub(super) flags: &'static str,
    pub(super) lasted: Duration,
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// The series with these labels; `None` where there are too many.
fn named(labels: String, of: Of) -> Option<Arc<Series>> {
    let mut table = SERIES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(series) = table.by_labels.get(labels.as_str()) {
        return Some(series.clone());
    }
    if !table.has_room() {
        return None;
    }
    let labels: Box<str> = labels.into();
    let series = Arc::new(Series { labels: labels.clone(), counts: Counts::new(of) });
    table.by_labels.insert(labels, series.clone());
    Some(series)
}

impl Table {
    /// Clusters of past snapshots make room: they are looked for at once, and then once for as many combinations as there are series.
    fn has_room(&mut self) -> bool {
        if self.by_labels.len() < SERIES_MAX {
            return true;
        }
        if self.refused.is_multiple_of(SERIES_MAX) {
            self.by_labels.retain(|_, series| Arc::strong_count(series) > 1);
        }
        let has_room = self.by_labels.len() < SERIES_MAX;
        self.refused = if has_room { 0 } else { self.refused + 1 };
        has_room
    }
}

fn other(of: Of) -> Arc<Series> {
    static OTHER: LazyLock<[Arc<Series>; 2]> = LazyLock::new(|| {
        [Of::Request(0, "-"), Of::Connection("-")].map(|of| {
            let labels = istio::labels("outbound|0||__other__", "", &Workload::default(), of);
            Arc::new(Series { labels: labels.into(), counts: Counts::new(of) })
        })
    });
    OTHER[usize::from(matches!(of, Of::Connection(_)))].clone()
}

/// All series that counted something, in the order of their labels.
pub(super) fn all() -> Vec<Arc<Series>> {
    let table = SERIES.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all: Vec<_> = table.by_labels.values().cloned().collect();
    drop(table);
    all.extend([other(Of::Request(0, "-")), other(Of::Connection("-"))].into_iter().filter(|series| series.counted()));
    all.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
    all
}

impl Series {
    fn counted(&self) -> bool {
        match &self.counts {
            Counts::Requests(requests) => requests.duration.count() > 0,
            Counts::Connections(connections) => {
                connections.opened.load(Ordering::Relaxed) + connections.closed.load(Ordering::Relaxed) > 0
            }
        }
    }
}

impl Counts {
    fn new(of: Of) -> Self {
        match of {
            Of::Request(..) => Self::Requests(Box::default()),
            Of::Connection(_) => Self::Connections(Connections::default()),
        }
    }
}

impl Histogram {
    fn add(&self, thousandths: u64) {
        let bucket = BOUNDS.partition_point(|(bound, _)| *bound < thousandths);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(thousandths, Ordering::Relaxed);
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(code: u16) -> Done {
        Done { code, flags: "-", lasted: Duration::from_millis(3), received: 0, sent: 10 }
    }

    #[test]
    fn a_value_on_a_bound_belongs_below_it() {
        let histogram = Histogram::default();
        for value in [0, 500, 501, 1_000, 3_600_000_000, 3_600_000_001] {
            histogram.add(value);
        }
        let counts: Vec<u64> = histogram.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        assert_eq!((counts[0], counts[1], counts[18], counts[19]), (2, 2, 1, 1));
        assert_eq!(histogram.count(), 6);
    }

    #[test]
    fn a_cluster_of_the_next_snapshot_counts_on_and_a_workload_apart() {
        let count = |traffic: &Traffic, workload: &Arc<Workload>| {
            traffic.request(workload, &done(200));
            let series = traffic.series(workload, Of::Request(200, "-"));
            let Counts::Requests(requests) = &series.counts else { panic!("requests") };
            requests.duration.count()
        };
        let (one, other) = (
            Arc::new(Workload { namespace: "one".into(), ..Workload::default() }),
            Arc::new(Workload { namespace: "other".into(), ..Workload::default() }),
        );
        let before = Traffic::from("outbound|443||next.example");
        assert_eq!((count(&before, &one), count(&before, &one), count(&before, &other)), (1, 2, 1));
        let after = Traffic::from("outbound|443||next.example");
        assert_eq!(count(&after, &Arc::new(Workload::clone(&one))), 3);
    }

    #[test]
    fn series_have_a_bound_for_each_cluster_and_in_all() {
        let workload = Arc::new(Workload::default());
        let greedy = Traffic::from("outbound|443||greedy.example");
        for code in 100..999 {
            greedy.request(&workload, &done(code));
        }
        assert_eq!(greedy.0.found.load().as_ref().map(|found| found.len()), Some(FOUND_MAX));
        let kept: Vec<Traffic> = (0..2 * SERIES_MAX)
            .map(|n| {
                let traffic = Traffic::from(format!("outbound|443||h{n}.example"));
                traffic.request(&workload, &done(200));
                traffic
            })
            .collect();
        assert!(all().len() <= SERIES_MAX + 2, "{}", all().len());
        let others = all().into_iter().filter(|series| series.labels.contains("__other__")).count();
        assert_eq!(others, 1);
        drop(kept);
        let has_room = (0..=SERIES_MAX).any(|n| {
            let late = Traffic::from(format!("outbound|443||late{n}.example"));
            late.request(&workload, &done(200));
            all().iter().any(|series| series.labels.contains("late"))
        });
        assert!(has_room, "room is made where clusters are gone");
    }
}
