//! Who may use a listener, and how much of it: source addresses, and connections open at once in all and per client.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::HashMap;

use crate::account::metrics;

/// Connections open now, over all listeners.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicUsize,
    by_client: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection counted; dropping it takes it off the count.
#[derive(Debug)]
pub struct Admitted {
    connections: Arc<Connections>,
    client: IpAddr,
}

/// Which bound a connection would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// `limits.connections`.
    All,
    /// `limits.connectionsPerClient`.
    Client,
}

impl Connections {
    /// Counts a connection of `client` in, unless a bound is reached.
    ///
    /// # Errors
    /// The bound that is reached; nothing is counted then.
    pub fn admit(self: &Arc<Self>, client: IpAddr, max: usize, per_client_max: usize) -> Result<Admitted, Exceeded> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Exceeded::All);
        }
        let mut by_client = self.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_client.entry(client).or_default();
        if *count >= per_client_max {
            drop(by_client);
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Exceeded::Client);
        }
        *count += 1;
        drop(by_client);
        metrics::connection_opened();
        Ok(Admitted { connections: self.clone(), client })
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        metrics::connection_closed();
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
        let mut by_client = self.connections.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_client.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                by_client.remove(&self.client); // the map is as large as the number of clients now, not ever
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_hold_and_give_back() {
        let connections = Arc::new(Connections::default());
        let [a, b]: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        let first = connections.admit(a, 3, 2).unwrap();
        let _second = connections.admit(a, 3, 2).unwrap();
        assert_eq!(connections.admit(a, 3, 2).unwrap_err(), Exceeded::Client);
        let _third = connections.admit(b, 3, 2).unwrap();
        assert_eq!(connections.admit(b, 3, 2).unwrap_err(), Exceeded::All);
        drop(first);
        assert_eq!(connections.open(), 2);
        assert!(connections.admit(a, 3, 2).is_ok());
        assert_eq!(connections.by_client.lock().unwrap().get(&a), Some(&1));
    }
}
