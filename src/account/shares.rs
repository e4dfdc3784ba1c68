//! What clients hold of something that is bounded in all and for each of them: connections, tunnels, dials under way.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;

/// Counts in all and per client ([`crate::flow::Limits::client`]). Taking and giving back is one short lock of one of many shards,
/// and no memory is kept of clients that hold nothing.
#[derive(Debug, Default)]
pub struct Shares {
    taken: AtomicUsize,
    clients: [Mutex<HashMap<IpAddr, usize>>; SHARDS],
}

/// How much may be held at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// By all clients together.
    pub all: usize,
    /// By each.
    pub per_client: usize,
}

/// Which bound is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// [`Bounds::all`].
    All,
    /// [`Bounds::per_client`].
    Client,
}

pub(super) const SHARDS: usize = 16; // workers that serve different clients seldom meet in one
const SPARE_MIN: usize = 64; // below that, giving memory back is not worth its copying

impl Shares {
    /// Counts one in for this client; whoever took it gives it back once.
    ///
    /// # Errors
    /// The bound that is reached; nothing is counted then.
    pub fn take(&self, client: IpAddr, bounds: Bounds) -> Result<(), Exceeded> {
        if self.taken.fetch_add(1, Ordering::Relaxed) >= bounds.all {
            self.taken.fetch_sub(1, Ordering::Relaxed);
            return Err(Exceeded::All);
        }
        let mut clients = self.clients_of(client);
        let count = clients.get(&client).copied().unwrap_or(0);
        if count >= bounds.per_client {
            drop(clients);
            self.taken.fetch_sub(1, Ordering::Relaxed);
            return Err(Exceeded::Client);
        }
        clients.insert(client, count + 1);
        Ok(())
    }

    /// Counts one out.
    pub fn give_back(&self, client: IpAddr) {
        let mut clients = self.clients_of(client);
        if let Some(count) = clients.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&client); // the map is as large as the number of clients now, not ever
                if clients.capacity() > SPARE_MIN && clients.len() < clients.capacity() / 4 {
                    let spare = clients.len() * 2;
                    clients.shrink_to(spare);
                }
            }
        }
        drop(clients);
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many are held now.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn clients_of(&self, client: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.clients[shard(client)].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which of [`SHARDS`] maps a client is in.
pub(super) fn shard(client: IpAddr) -> usize {
    let last = match client {
        IpAddr::V4(ip) => ip.octets()[3],
        // Of a /64 the host part differs, of a whole network the part before it.
        IpAddr::V6(ip) => ip.octets()[15] ^ ip.octets()[7],
    };
    usize::from(last) % SHARDS
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { all: 3, per_client: 2 };

    #[test]
    fn both_bounds_hold_and_give_back() {
        let shares = Shares::default();
        let [a, b]: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::".parse().unwrap()];
        assert_eq!(shares.take(a, BOUNDS), Ok(()));
        assert_eq!(shares.take(a, BOUNDS), Ok(()));
        assert_eq!(shares.take(a, BOUNDS), Err(Exceeded::Client));
        assert_eq!(shares.take(b, BOUNDS), Ok(()));
        assert_eq!(shares.take(b, BOUNDS), Err(Exceeded::All));
        assert_eq!(shares.taken(), 3, "what was refused is not counted");
        shares.give_back(a);
        assert_eq!((shares.taken(), shares.take(a, BOUNDS)), (2, Ok(())));
        for client in [a, a, b] {
            shares.give_back(client);
        }
        assert_eq!(shares.taken(), 0);
        assert!(shares.clients.iter().all(|clients| clients.lock().unwrap().is_empty()));
    }

    #[test]
    fn a_burst_of_clients_leaves_no_memory_behind() {
        let shares = Shares::default();
        let bounds = Bounds { all: 100_000, per_client: 1 };
        let clients: Vec<IpAddr> = (0..20_000_u32).map(|n| std::net::Ipv4Addr::from_bits(n << 3).into()).collect();
        assert!(clients.iter().all(|client| shares.take(*client, bounds).is_ok()));
        clients.iter().for_each(|client| shares.give_back(*client));
        assert!(shares.clients.iter().all(|clients| clients.lock().unwrap().capacity() <= SPARE_MIN * 4));
    }

    #[test]
    fn threads_that_take_and_give_back_come_to_nothing_and_never_beyond_the_bound() {
        let shares = Shares::default();
        let client = "192.0.2.1".parse().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if shares.take(client, BOUNDS).is_ok() {
                            assert!(shares.clients_of(client)[&client] <= BOUNDS.per_client);
                            shares.give_back(client);
                        }
                    }
                });
            }
        });
        assert_eq!(shares.taken(), 0);
    }
}
