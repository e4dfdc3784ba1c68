//! How fast each client may go: requests per second, and bytes per second.
//!
//! One generic cell rate algorithm (ITU-T I.371) serves both: a moment that each request or byte moves on by its share of a second,
//! and that may be ahead of now by the burst. Requests that would move it further are refused; bytes have been read already when
//! they are counted, so they move it all the same, and who read them waits until it is not ahead any more.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use foldhash::HashMap;

use super::metrics;
use super::shares::{SHARDS, shard};
use crate::flow::{Limit, Limits};

/// The pace of every client that goes, or went a moment ago. Holds nothing, and takes no lock, while no rate is limited.
#[derive(Debug)]
pub struct Paces {
    rates: Arc<Rates>,
    clients: [Mutex<Clients>; SHARDS],
}

/// The pace of one client, shared by its flows.
#[derive(Debug)]
pub struct Pace {
    rates: Arc<Rates>,
    requests: Cell,
    bytes: Cell,
}

/// What the settings say; a reload changes it under those that go.
#[derive(Debug, Default)]
struct Rates {
    requests_per_second: AtomicU64,
    requests_burst: AtomicU64,
    bytes_per_second: AtomicU64,
}

#[derive(Debug, Default)]
struct Clients {
    paces: HashMap<IpAddr, Arc<Pace>>,
    /// Those at rest are let go when there are so many.
    sweep_at: usize,
}

/// The moment up to which is taken, in nanoseconds since [`now`] began to count.
#[derive(Debug, Default)]
struct Cell(AtomicU64);

const SWEEP_MIN: usize = 64;
const SECOND: u64 = 1_000_000_000;
const QUANTUM_MAX: usize = 64 * 1024; // as much as a relay reads at first
const QUANTUM_MIN: usize = 1024;

impl Paces {
    /// With the rates of these settings.
    pub fn new(limits: &Limits) -> Self {
        let paces = Self { rates: Arc::default(), clients: Default::default() };
        paces.set(limits);
        paces
    }

    /// Takes new rates, for flows that go on too, unless they began while bytes were not limited.
    pub fn set(&self, limits: &Limits) {
        let requests = limits.requests_per_second_per_client as u64;
        let burst = limits.requests_burst_per_client as u64;
        self.rates.requests_burst.store(if burst == 0 { requests } else { burst }, Ordering::Relaxed);
        self.rates.requests_per_second.store(requests, Ordering::Relaxed);
        self.rates.bytes_per_second.store(limits.bytes_per_second_per_client as u64, Ordering::Relaxed);
        if self.rates.requests() == 0 && self.rates.bytes() == 0 {
            self.clients.iter().for_each(|clients| *lock(clients) = Clients::default());
        }
    }

    /// Counts a request of this client.
    ///
    /// # Errors
    /// How long until one more is let through; it is not counted then.
    pub fn request(&self, client: IpAddr) -> Result<(), Duration> {
        if self.rates.requests() == 0 {
            return Ok(());
        }
        self.of(client).request(now()).inspect_err(|_| metrics::limit_reached(Limit::RequestsPerSecondPerClient))
    }

    /// What a flow of this client that moves bytes has to keep to; `None` while bytes are not limited.
    pub fn bytes(&self, client: IpAddr) -> Option<Arc<Pace>> {
        (self.rates.bytes() != 0).then(|| self.of(client))
    }

    fn of(&self, client: IpAddr) -> Arc<Pace> {
        let mut clients = lock(&self.clients[shard(client)]);
        if let Some(pace) = clients.paces.get(&client) {
            return pace.clone();
        }
        clients.sweep(now());
        let pace = Arc::new(Pace { rates: self.rates.clone(), requests: Cell::default(), bytes: Cell::default() });
        clients.paces.insert(client, pace.clone());
        pace
    }
}

impl Clients {
    /// Lets go of those whose flows have ended and whose burst is whole again: a new entry would say the same.
    fn sweep(&mut self, now: u64) {
        if self.paces.len() < self.sweep_at.max(SWEEP_MIN) {
            return;
        }
        self.paces.retain(|_, pace| Arc::strong_count(pace) > 1 || !pace.is_at_rest(now));
        self.sweep_at = self.paces.len() * 2;
        self.paces.shrink_to(self.sweep_at);
    }
}

impl Rates {
    fn requests(&self) -> u64 {
        self.requests_per_second.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> u64 {
        self.bytes_per_second.load(Ordering::Relaxed)
    }
}

impl Pace {
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

    fn request(&self, now: u64) -> Result<(), Duration> {
        let rate = self.rates.requests();
        if rate == 0 {
            return Ok(());
        }
        let cost = SECOND / rate;
        let burst = self.rates.requests_burst.load(Ordering::Relaxed).max(1).saturating_mul(cost);
        self.requests.take_within(cost, burst, now).map_err(Duration::from_nanos)
    }

    fn is_at_rest(&self, now: u64) -> bool {
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

fn lock(clients: &Mutex<Clients>) -> MutexGuard<'_, Clients> {
    clients.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn paces(requests: usize, burst: usize, bytes: usize) -> Paces {
        Paces::new(&Limits {
            requests_per_second_per_client: requests,
            requests_burst_per_client: burst,
            bytes_per_second_per_client: bytes,
            ..Limits::default()
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_passes_and_then_one_request_for_each_share_of_a_second() {
        let pace = paces(10, 3, 0).of(ip("192.0.2.1"));
        let at = 5 * SECOND;
        for _ in 0..3 {
            assert_eq!(pace.request(at), Ok(()));
        }
        assert_eq!(pace.request(at), Err(Duration::from_millis(100)));
        assert_eq!(pace.request(at + SECOND / 10 - 1), Err(Duration::from_nanos(1)), "a refused one is not counted");
        assert_eq!(pace.request(at + SECOND / 10), Ok(()));
        assert!(pace.request(at + SECOND / 10).is_err());
        for _ in 0..3 {
            assert_eq!(pace.request(at + 60 * SECOND), Ok(()), "no more than the burst is saved up");
        }
        assert!(pace.request(at + 60 * SECOND).is_err());
    }

    #[test]
    fn without_a_burst_of_its_own_it_is_a_seconds_worth() {
        let pace = paces(7, 0, 0).of(ip("192.0.2.1"));
        let passed = (0..20).filter(|_| pace.request(SECOND).is_ok()).count();
        assert_eq!(passed, 7);
    }

    #[test]
    fn bytes_beyond_a_seconds_worth_are_waited_for() {
        let pace = paces(0, 0, 1000).of(ip("192.0.2.1"));
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
    fn clients_do_not_pay_for_each_other() {
        let paces = paces(1, 1, 0);
        assert!(paces.request(ip("192.0.2.1")).is_ok());
        assert!(paces.request(ip("192.0.2.1")).is_err());
        assert!(paces.request(ip("192.0.2.2")).is_ok());
    }

    #[test]
    fn what_is_not_limited_costs_nothing_and_a_reload_changes_those_that_go() {
        let paces = paces(0, 0, 0);
        assert!((0..1000).all(|_| paces.request(ip("192.0.2.1")).is_ok()));
        assert!(paces.bytes(ip("192.0.2.1")).is_none());
        assert!(paces.clients.iter().all(|clients| lock(clients).paces.is_empty()));
        let limits = |bytes| Limits { bytes_per_second_per_client: bytes, ..Limits::default() };
        paces.set(&limits(1024));
        let pace = paces.bytes(ip("192.0.2.1")).unwrap();
        assert_eq!(pace.take_bytes(2048, now()).map(|wait| wait.as_secs_f64().round()), Some(1.0));
        paces.set(&limits(0));
        assert_eq!(pace.take_bytes(1 << 30, now()), None);
        assert!(paces.clients.iter().all(|clients| lock(clients).paces.is_empty()));
    }

    #[test]
    fn a_flood_of_clients_is_forgotten_once_it_is_over_and_those_that_go_are_not() {
        let paces = paces(1_000_000, 1, 0);
        let kept = paces.of(ip("192.0.2.1"));
        assert!(kept.request(now() + 3600 * SECOND).is_ok(), "far ahead: not at rest");
        for n in 0..100_000_u32 {
            let _ = paces.request(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into());
        }
        let held: usize = paces.clients.iter().map(|clients| lock(clients).paces.len()).sum();
        assert!(held <= SHARDS * SWEEP_MIN * 2, "{held}");
        assert!(Arc::ptr_eq(&kept, &paces.of(ip("192.0.2.1"))));
    }

    #[test]
    fn a_quantum_is_a_part_of_a_second_and_no_more_than_a_read() {
        let quantum = |bytes| paces(0, 0, bytes).of(ip("192.0.2.1")).quantum();
        assert_eq!([1024, 640 * 1024, 1 << 30].map(quantum), [1024, 10 * 1024, 64 * 1024]);
    }
}
