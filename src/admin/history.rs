//! Throughput of the last five minutes, second by second.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::account::metrics::{self, Totals};

/// One second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Second {
    /// Bytes per second from clients.
    received: f64,
    /// Bytes per second to clients.
    sent: f64,
    /// Flows that ended, per second.
    flows: f64,
    /// Of these, refused by policy.
    refused: f64,
    /// Open tunnels at its end.
    tunnels: i64,
}

/// The last ones, the newest last.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<VecDeque<Second>>);

const SECONDS: usize = 300;

impl History {
    /// Looks each second, without end.
    pub(super) async fn follow(&self) {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut before, mut at) = (metrics::totals(), ticks.tick().await);
        loop {
            ticks.tick().await;
            let (now, totals) = (Instant::now(), metrics::totals());
            self.add(Second::between(&before, &totals, now - at));
            (before, at) = (totals, now);
        }
    }

    fn add(&self, second: Second) {
        let mut seconds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seconds.len() == SECONDS {
            seconds.pop_front();
        }
        seconds.push_back(second);
    }

    pub(super) fn list(&self) -> Vec<Second> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

impl Second {
    fn between(before: &Totals, after: &Totals, took: Duration) -> Self {
        let rate = |after: u64, before: u64| after.saturating_sub(before) as f64 / took.as_secs_f64().max(0.001);
        Self {
            received: rate(after.received, before.received),
            sent: rate(after.sent, before.sent),
            flows: rate(after.flows, before.flows),
            refused: rate(after.refused, before.refused),
            tunnels: after.tunnels,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn five_minutes_are_kept() {
        let history = History::default();
        tokio::time::timeout(Duration::from_secs(2), history.follow()).await.expect_err("goes on");
        assert!((1..=2).contains(&history.list().len()), "{}", history.list().len());
        tokio::time::timeout(Duration::from_secs(1000), history.follow()).await.expect_err("goes on");
        assert_eq!(history.list().len(), SECONDS);
    }

    #[test]
    fn a_second_that_took_longer_counts_by_its_length() {
        let before = Totals { received: 100, sent: 0, flows: 1, refused: 0, tunnels: 5 };
        let after = Totals { received: 300, sent: 50, flows: 2, refused: 1, tunnels: 7 };
        let second = Second::between(&before, &after, Duration::from_secs(2));
        assert_eq!(second, Second { received: 100.0, sent: 25.0, flows: 0.5, refused: 0.5, tunnels: 7 });
    }
}
