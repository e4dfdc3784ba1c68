//! How an endpoint fared, and whether it is left out: the live half of `outlierDetection`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lock;
use crate::route::balancing::Outliers;
use crate::route::balancing::outliers::{Cause, Event, Streaks};

/// Of one endpoint, or of one address that its name led to.
#[derive(Debug, Default)]
pub(in crate::dial) struct Health(Mutex<Condition>);

#[derive(Debug, Default)]
struct Condition {
    streaks: Streaks,
    /// The end of its last ejection, which may be over.
    until: Option<Instant>,
    /// Of late: each makes the next one longer, until intervals without one have passed.
    ejections: u32,
}

impl Health {
    /// How long it is still left out; `None`: it is in use.
    pub(in crate::dial) fn left_out(&self, now: Instant) -> Option<Duration> {
        let until = lock(&self.0).until?;
        until.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// Takes one more event; says why the endpoint has to be left out, if it has to. What its last flows came to while it is left out
    /// already does not count.
    pub(super) fn count(&self, outliers: &Outliers, event: Event, now: Instant) -> Option<Cause> {
        let mut condition = lock(&self.0);
        if condition.until.is_some_and(|until| until > now) {
            return None;
        }
        outliers.count(&mut condition.streaks, event)
    }

    /// Leaves it out from now on; for how long.
    pub(super) fn eject(&self, outliers: &Outliers, now: Instant) -> Duration {
        let mut condition = lock(&self.0);
        let passed = condition.until.map_or(Duration::ZERO, |until| now.saturating_duration_since(until));
        let intervals = passed.as_millis() / outliers.interval.as_millis().max(1);
        condition.ejections =
            condition.ejections.saturating_sub(u32::try_from(intervals).unwrap_or(u32::MAX)).saturating_add(1);
        let time = outliers.ejection(condition.ejections);
        condition.until = now.checked_add(time);
        condition.streaks = Streaks::default();
        time
    }

    /// True where nothing would be lost with it.
    pub(super) fn is_blank(&self) -> bool {
        let condition = lock(&self.0);
        condition.until.is_none() && condition.streaks == Streaks::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ejection_is_longer_and_intervals_without_one_make_it_shorter_again() {
        let outliers = Outliers { consecutive_5xx: 1, ..Outliers::default() };
        let (health, mut now) = (Health::default(), Instant::now());
        let bad = Event::Answered(500);
        for expected in [30, 60, 90] {
            assert_eq!(health.count(&outliers, bad, now), Some(Cause::Consecutive5xx));
            assert_eq!(health.eject(&outliers, now), Duration::from_secs(expected));
            assert_eq!(health.count(&outliers, bad, now), None, "left out already");
            let end = now + Duration::from_secs(expected);
            assert_eq!(health.left_out(end - Duration::from_millis(1)), Some(Duration::from_millis(1)));
            assert_eq!(health.left_out(end), None);
            now = end + Duration::from_millis(9999);
        }
        now += Duration::from_millis(10_001); // two whole intervals
        assert_eq!(health.eject(&outliers, now), Duration::from_secs(60));
        assert_eq!(health.eject(&outliers, now + Duration::from_secs(100_000)), Duration::from_secs(30));
        assert!(!health.is_blank() && Health::default().is_blank());
    }
}
