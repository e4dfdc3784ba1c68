//! How fast each client may go: requests per second, and bytes per second.
//!
//! One generic cell rate algorithm (ITU-T I.371) serves both: a moment that each request or byte moves on by its share of a second,
//! and that may be ahead of now by the burst. Requests that would move it further are refused; bytes have been read already when
//! they are counted, so they move it all the same, and who read them waits until it is not ahead any more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::metrics;
use crate::flow::{Limit, Limits};

/// The pace of one client, shared by its flows.
#[derive(Debug)]
pub struct Pace {
    rates: Arc<Rates>,
    requests: Cell,
    bytes: Cell,
}

/// What the settings say; a reload changes it under those that go.
#[derive(Debug, Default)]
pub(super) struct Rates {
    requests_per_second: AtomicU64,
    requests_burst: AtomicU64,
    bytes_per_second: AtomicU64,
}

/// The moment up to which is taken, in nanoseconds since [`now`] began to count.
#[derive(Debug, Default)]
struct Cell(AtomicU64);

const SECOND: u64 = 1_000_000_000;
const QUANTUM_MAX: usize = 64 * 1024; // as much as a relay reads at first
const QUANTUM_MIN: usize = 1024;

impl Rates {
    /// Takes what these settings say.
    pub(super) fn set(&self, limits: &Limits) {
        let requests = limits.requests_per_second_per_client as u64;
        let burst = limits.requests_burst_per_client as u64;
        self.requests_burst.store(if burst == 0 { requests } else { burst }, Ordering::Relaxed);
        self.requests_per_second.store(requests, Ordering::Relaxed);
        self.bytes_per_second.store(limits.bytes_per_second_per_client as u64, Ordering::Relaxed);
    }

    fn requests(&self) -> u64 {
        self.requests_per_second.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> u64 {
        self.bytes_per_second.load(Ordering::Relaxed)
    }
}

impl Pace {
    pub(super) fn new(rates: Arc<Rates>) -> Self {
        Self { rates, requests: Cell::default(), bytes: Cell::default() }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// How long until one more is let through; it is not counted then.
    pub fn request(&self) -> Result<(), Duration> {
        if self.rates.requests() == 0 {
            return Ok(());
        }
        self.request_at(now()).inspect_err(|_| metrics::limit_reached(Limit::RequestsPerSecondPerClient))
    }

    /// Whether bytes are limited.
    pub fn limits_bytes(&self) -> bool {
        self.rates.bytes() != 0
    }

    /// How many bytes a flow may read before it counts them: a sixty-fourth of a second's, so that flows of one client take turns.
    pub fn quantum(&self) -> usize {
        match self.rates.bytes() {
            0 => QUANTUM_MAX,
            rate => usize::try_from(rate / 64).unwrap_or(QUANTUM_MAX).clamp(QUANTUM_MIN, QUANTUM_MAX),
        }
    }

    /// Counts bytes that were read; how long to wait before more are, if at all. A second's worth is let through after a pause.
    pub fn moved(&self, bytes: usize) -> Option<Duration> {
        let ahead = self.take_bytes(bytes, now())?;
        metrics::limit_reached(Limit::BytesPerSecondPerClient);
        Some(ahead)
    }

    fn take_bytes(&self, bytes: usize, now: u64) -> Option<Duration> {
        let rate = self.rates.bytes();
        if rate == 0 {
            return None;
        }
        let cost = (bytes as u128 * u128::from(SECOND) / u128::from(rate)) as u64; // years even for a rate of 1
        let ahead = self.bytes.take(cost, now).saturating_sub(SECOND);
        (ahead > 0).then(|| Duration::from_nanos(ahead))
    }

    fn request_at(&self, now: u64) -> Result<(), Duration> {
        let rate = self.rates.requests();
        if rate == 0 {
            return Ok(());
        }
        let cost = SECOND / rate;
        let burst = self.rates.requests_burst.load(Ordering::Relaxed).max(1).saturating_mul(cost);
        self.requests.take_within(cost, burst, now).map_err(Duration::from_nanos)
    }

    /// A new one would say the same.
    pub(super) fn is_at_rest(&self) -> bool {
        let now = now();
        self.requests.0.load(Ordering::Relaxed) <= now && self.bytes.0.load(Ordering::Relaxed) <= now
    }
}

impl Cell {
    /// Moves on by `cost`; how far it is ahead of now then.
    fn take(&self, cost: u64, now: u64) -> u64 {
        let moved = |taken: u64| taken.max(now).saturating_add(cost);
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| Some(moved(taken)));
        moved(before.unwrap_or_else(|taken| taken)) - now
    }

    /// Moves on by `cost` unless it would be ahead by more than `burst`; how long until it would not.
    fn take_within(&self, cost: u64, burst: u64, now: u64) -> Result<(), u64> {
        let moved = |taken: u64| taken.max(now).saturating_add(cost);
        let fits = |taken: u64| Some(moved(taken)).filter(|moved| moved - now <= burst);
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(taken) => Err(moved(taken) - now - burst),
        }
    }
}

fn now() -> u64 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    BEGAN.get_or_init(Instant::now).elapsed().as_nanos() as u64 // in 584 years
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn set(rates: &Rates, requests: usize, burst: usize, bytes: usize) {
        rates.set(&Limits {
            requests_per_second_per_client: requests,
            requests_burst_per_client: burst,
            bytes_per_second_per_client: bytes,
            ..Limits::default()
        });
    }

    fn pace(requests: usize, burst: usize, bytes: usize) -> Pace {
        let rates = Arc::new(Rates::default());
        set(&rates, requests, burst, bytes);
        Pace::new(rates)
    }

    #[test]
    fn a_burst_passes_and_then_one_request_for_each_share_of_a_second() {
        let pace = pace(10, 3, 0);
        let at = 5 * SECOND;
        for _ in 0..3 {
            assert_eq!(pace.request_at(at), Ok(()));
        }
        assert_eq!(pace.request_at(at), Err(Duration::from_millis(100)));
        assert_eq!(pace.request_at(at + SECOND / 10 - 1), Err(Duration::from_nanos(1)), "a refused one is not counted");
        assert_eq!(pace.request_at(at + SECOND / 10), Ok(()));
        assert!(pace.request_at(at + SECOND / 10).is_err());
        for _ in 0..3 {
            assert_eq!(pace.request_at(at + 60 * SECOND), Ok(()), "no more than the burst is saved up");
        }
        assert!(pace.request_at(at + 60 * SECOND).is_err());
    }

    #[test]
    fn without_a_burst_of_its_own_it_is_a_seconds_worth() {
        let pace = pace(7, 0, 0);
        let passed = (0..20).filter(|_| pace.request_at(SECOND).is_ok()).count();
        assert_eq!(passed, 7);
    }

    #[test]
    fn bytes_beyond_a_seconds_worth_are_waited_for() {
        let pace = pace(0, 0, 1000);
        let at = 5 * SECOND;
        assert_eq!(pace.take_bytes(1000, at), None);
        assert_eq!(pace.take_bytes(250, at), Some(Duration::from_millis(250)));
        assert_eq!(pace.take_bytes(250, at), Some(Duration::from_millis(500)), "each in its turn");
        assert_eq!(pace.take_bytes(499, at + SECOND), None, "half a second of the burst is there again");
        assert_eq!(pace.take_bytes(2, at + SECOND), Some(Duration::from_millis(1)));
        assert_eq!(pace.take_bytes(1000, at + 60 * SECOND), None, "a second's worth is saved up");
        assert!(pace.take_bytes(1, at + 60 * SECOND).is_some());
    }

    #[test]
    fn what_is_not_limited_is_not_counted_and_a_reload_changes_those_that_go() {
        let pace = pace(0, 0, 0);
        assert!((0..1000).all(|_| pace.request().is_ok()));
        assert!(pace.is_at_rest() && !pace.limits_bytes());
        set(&pace.rates, 0, 0, 1024);
        assert!(pace.limits_bytes());
        assert_eq!(pace.take_bytes(2048, now()).map(|wait| wait.as_secs_f64().round()), Some(1.0));
        assert!(!pace.is_at_rest());
        set(&pace.rates, 0, 0, 0);
        assert_eq!(pace.take_bytes(1 << 30, now()), None);
    }

    #[test]
    fn a_quantum_is_a_part_of_a_second_and_no_more_than_a_read() {
        let quantum = |bytes| pace(0, 0, bytes).quantum();
        assert_eq!([1024, 640 * 1024, 1 << 30].map(quantum), [1024, 10 * 1024, 64 * 1024]);
    }
}
