//! How many connections are open at once, in all and per client.

use std::net::IpAddr;
use std::sync::Arc;

use crate::account::{Bounds, Count, Exceeded, Share, Shares, metrics};
use crate::flow::Limit;

/// Connections open now, over all listeners.
#[derive(Debug)]
pub struct Connections {
    open: Count,
    shares: Arc<Shares>,
}

/// One connection counted; dropping it takes it off the count.
#[derive(Debug)]
pub struct Admitted {
    connections: Arc<Connections>,
    share: Arc<Share>,
}

impl Connections {
    /// None yet.
    pub fn new(shares: Arc<Shares>) -> Arc<Self> {
        Arc::new(Self { open: Count::default(), shares })
    }

    /// Counts a connection of `client` in, unless a bound is reached.
    ///
    /// # Errors
    /// The bound that is reached; nothing is counted but that it was.
    pub fn admit(self: &Arc<Self>, client: IpAddr, max: usize, per_client_max: usize) -> Result<Admitted, Exceeded> {
        let share = self.shares.of(client);
        let bounds = Bounds { all: max, per_client: per_client_max };
        if let Err(exceeded) = bounds.take(&self.open, &share.connections) {
            self.shares.forget(&share);
            metrics::connection_refused();
            metrics::limit_reached(match exceeded {
                Exceeded::All => Limit::Connections,
                Exceeded::Client => Limit::ConnectionsPerClient,
            });
            return Err(exceeded);
        }
        metrics::connection_opened();
        Ok(Admitted { connections: self.clone(), share })
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Takes a connection off its client's count.
    fn release(&self, share: &Arc<Share>) {
        if share.connections.give_back() {
            self.shares.forget(share);
        }
    }
}

impl Admitted {
    /// Whose it is.
    pub fn share(&self) -> &Arc<Share> {
        &self.share
    }

    /// Counts the connection as one of `client` instead: a balancer said whom it speaks for.
    ///
    /// # Errors
    /// If the bound is reached; it stays counted as before.
    pub fn assign(&mut self, client: IpAddr, per_client_max: usize) -> Result<(), Exceeded> {
        let share = self.connections.shares.of(client);
        if Arc::ptr_eq(&share, &self.share) {
            return Ok(());
        }
        if !share.connections.take(per_client_max) {
            self.connections.shares.forget(&share);
            metrics::connection_refused();
            metrics::limit_reached(Limit::ConnectionsPerClient);
            return Err(Exceeded::Client);
        }
        self.connections.release(&std::mem::replace(&mut self.share, share));
        Ok(())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        metrics::connection_closed();
        self.connections.open.give_back();
        self.connections.release(&self.share);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::flow::Limits;

    #[test]
    fn both_bounds_hold_and_give_back() {
        let connections = Connections::new(Shares::new(&Limits::default()));
        let [a, b]: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        let first = connections.admit(a, 3, 2).unwrap();
        let second = connections.admit(a, 3, 2).unwrap();
        assert_eq!(connections.admit(a, 3, 2).unwrap_err(), Exceeded::Client);
        let third = connections.admit(b, 3, 2).unwrap();
        assert_eq!(connections.admit(b, 3, 2).unwrap_err(), Exceeded::All);
        drop(first);
        assert_eq!(connections.open(), 2);
        assert!(connections.admit(a, 3, 2).is_ok());
        assert_eq!(connections.shares.len(), 2);
        drop((second, third));
        assert!(connections.shares.is_empty(), "nothing is kept of clients that are gone");
    }

    #[test]
    fn a_connection_through_a_balancer_counts_for_its_client() {
        let connections = Connections::new(Shares::new(&Limits::default()));
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
        assert!(connections.shares.is_empty());
    }
}
