//! Who may use a listener, and how much of it: source addresses, and connections open at once in all and per client.

use std::net::IpAddr;
use std::sync::Arc;

use crate::account::{Bounds, Exceeded, Shares, metrics};
use crate::flow::Limit;

/// Connections open now, over all listeners.
#[derive(Debug, Default)]
pub struct Connections {
    shares: Shares,
}

/// One connection counted; dropping it takes it off the count.
#[derive(Debug)]
pub struct Admitted {
    connections: Arc<Connections>,
    client: IpAddr,
}

impl Connections {
    /// Counts a connection of `client` in, unless a bound is reached.
    ///
    /// # Errors
    /// The bound that is reached; nothing is counted but that it was.
    pub fn admit(self: &Arc<Self>, client: IpAddr, max: usize, per_client_max: usize) -> Result<Admitted, Exceeded> {
        let bounds = Bounds { all: max, per_client: per_client_max };
        self.shares.take(client, bounds).inspect_err(|exceeded| {
            metrics::connection_refused();
            metrics::limit_reached(match exceeded {
                Exceeded::All => Limit::Connections,
                Exceeded::Client => Limit::ConnectionsPerClient,
            });
        })?;
        metrics::connection_opened();
        Ok(Admitted { connections: self.clone(), client })
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.shares.taken()
    }
}

impl Admitted {
    /// Counts the connection as one of `client` instead: a balancer said whom it speaks for.
    ///
    /// # Errors
    /// If the bound is reached; it stays counted as before.
    pub fn assign(&mut self, client: IpAddr, per_client_max: usize) -> Result<(), Exceeded> {
        if client == self.client {
            return Ok(());
        }
        // For a moment it counts twice in all: that bound was passed already.
        let bounds = Bounds { all: usize::MAX, per_client: per_client_max };
        self.connections.shares.take(client, bounds).inspect_err(|_| {
            metrics::connection_refused();
            metrics::limit_reached(Limit::ConnectionsPerClient);
        })?;
        self.connections.shares.give_back(self.client);
        self.client = client;
        Ok(())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        metrics::connection_closed();
        self.connections.shares.give_back(self.client);
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
    }

    #[test]
    fn a_connection_through_a_balancer_counts_for_its_client() {
        let connections = Arc::new(Connections::default());
        let [balancer, client]: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        let mut through = |_| connections.admit(balancer, 9, usize::MAX).unwrap();
        let [mut one, mut two, mut three] = [1, 2, 3].map(&mut through);
        one.assign(client, 2).unwrap();
        two.assign(client, 2).unwrap();
        assert_eq!(three.assign(client, 2).unwrap_err(), Exceeded::Client);
        assert_eq!(connections.admit(client, 9, 2).unwrap_err(), Exceeded::Client);
        drop(one);
        three.assign(client, 2).unwrap();
        assert_eq!(connections.open(), 2);
        drop((two, three));
        assert_eq!(connections.open(), 0);
    }
}
