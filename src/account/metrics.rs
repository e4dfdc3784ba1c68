//! Counters and gauges of the whole process.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter on a cache line of its own: two workers that count different things do not wait for each other.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
}

static BYTES_RECEIVED: Counter = Counter::new();
static BYTES_SENT: Counter = Counter::new();
static CONNECTIONS_REFUSED: Counter = Counter::new();

/// Bytes came from a client: of a tunnel as they come, of a body when its exchange ends.
pub fn bytes_received(bytes: u64) {
    BYTES_RECEIVED.add(bytes);
}

/// Bytes went to a client.
pub fn bytes_sent(bytes: u64) {
    BYTES_SENT.add(bytes);
}

/// A connection was closed because a bound on connections was reached.
pub fn connection_refused() {
    CONNECTIONS_REFUSED.add(1);
}
