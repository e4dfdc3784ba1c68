//! Parents that are probed: which of them are up, why not, and since when. Told to the dialler, to operators and to Prometheus.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use arc_swap::ArcSwap;
use serde_json::json;

use super::events;

/// One endpoint of a parent that is probed.
#[derive(Debug)]
pub struct Probed {
    /// The parent's cluster.
    pub cluster: Arc<str>,
    /// The endpoint, as written in the configuration: `proxy-1.corp.example:3128`.
    pub endpoint: Box<str>,
    down: AtomicBool,
    succeeded: AtomicU64,
    failed: AtomicU64,
    streak: Mutex<Streak>,
}

/// Results in a row that speak against what the parent counts as.
#[derive(Debug, Default)]
struct Streak {
    length: u32,
    /// Why the last probe failed.
    reason: Option<Box<str>>,
}

/// After how many probes in a row a parent counts as something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// That fail.
    pub unhealthy: u32,
    /// That succeed.
    pub healthy: u32,
}

/// Those that are probed now.
static PROBED: LazyLock<ArcSwap<Vec<Arc<Probed>>>> = LazyLock::new(ArcSwap::default);

/// Tells which are probed from now on.
pub fn set(probed: Vec<Arc<Probed>>) {
    PROBED.store(Arc::new(probed));
}

/// Those that are probed now.
pub fn all() -> Arc<Vec<Arc<Probed>>> {
    PROBED.load_full()
}

impl Probed {
    /// One that counts as up until probes say otherwise.
    pub fn new(cluster: Arc<str>, endpoint: impl Into<Box<str>>) -> Self {
        Self {
            cluster,
            endpoint: endpoint.into(),
            down: AtomicBool::new(false),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            streak: Mutex::default(),
        }
    }

    /// True while it is asked only where no other is left.
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// Probes that succeeded, and that failed.
    pub fn counts(&self) -> (u64, u64) {
        (self.succeeded.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    /// Why the last probe failed; `None`: it did not.
    pub fn reason(&self) -> Option<Box<str>> {
        self.streak.lock().unwrap_or_else(PoisonError::into_inner).reason.clone()
    }

    /// Takes the result of a probe; tells those who listen if the parent counts as something else now.
    pub fn note(&self, result: Result<(), Box<str>>, thresholds: Thresholds) {
        let is_good = result.is_ok();
        let count = if is_good { &self.succeeded } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
        let reason = result.err();
        {
            let mut streak = self.streak.lock().unwrap_or_else(PoisonError::into_inner);
            streak.reason.clone_from(&reason);
            if is_good != self.is_down() {
                streak.length = 0; // as it counts
                return;
            }
            streak.length += 1;
            if streak.length < if is_good { thresholds.healthy } else { thresholds.unhealthy } {
                return;
            }
            streak.length = 0;
            self.down.store(!is_good, Ordering::Relaxed);
        }
        let (parent, cluster) = (&*self.endpoint, &*self.cluster);
        match &reason {
            None => tracing::info!(parent, cluster, "the parent proxy is up again"),
            Some(reason) => tracing::warn!(parent, cluster, %reason, "the parent proxy is down"),
        }
        events::tell("parent", || json!({ "parent": parent, "cluster": cluster, "up": is_good, "reason": reason }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_changes_after_so_many_results_in_a_row_and_not_before() {
        let probed = Probed::new("outbound|3128||parent.example".into(), "192.0.2.1:3128");
        let thresholds = Thresholds { unhealthy: 3, healthy: 2 };
        // `x` fails, `.` succeeds; the state is that after the last one.
        for (results, down) in [("..xx.xx", false), ("x", true), ("x.x.x", true), (".", true), (".", false)] {
            for result in results.chars() {
                let result = if result == '.' { Ok(()) } else { Err("connection refused".into()) };
                probed.note(result, thresholds);
            }
            assert_eq!(probed.is_down(), down, "after {results}");
        }
        assert_eq!(probed.counts(), (7, 8));
        assert_eq!(probed.reason(), None);
        probed.note(Err("gone".into()), thresholds);
        assert_eq!((probed.reason().as_deref(), probed.is_down()), (Some("gone"), false));
    }

    #[tokio::test]
    async fn those_who_listen_are_told_of_a_change_alone() {
        let mut events = events::subscribe();
        let probed = Probed::new("outbound|3128||told.example".into(), "192.0.2.2:3128");
        let thresholds = Thresholds { unhealthy: 1, healthy: 1 };
        for result in [Ok(()), Err("refused".into()), Err("refused".into()), Ok(())] {
            probed.note(result, thresholds);
        }
        let mut told = Vec::new();
        while told.len() < 2 {
            let event = events.next().await;
            if event.data["cluster"] == "outbound|3128||told.example" {
                told.push((event.name, event.data["up"].as_bool(), event.data["reason"].as_str().map(str::to_owned)));
            }
        }
        assert_eq!(told, [("parent", Some(false), Some("refused".to_owned())), ("parent", Some(true), None)]);
    }
}
