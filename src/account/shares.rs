//! What each client holds of that which is bounded for it (connections, tunnels, dials under way), and how fast it goes.
//!
//! A client has one entry, which is looked for once for each of its connections: from there on counting is an atomic step.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;

use super::pace::{Pace, Rates};
use crate::flow::Limits;

/// The entries of all clients that hold something, or went too fast a moment ago. No memory is kept of others.
#[derive(Debug)]
pub struct Shares {
    rates: Arc<Rates>,
    shards: [Mutex<Clients>; SHARDS],
}

/// The entry of one client: an address, or what stands for it ([`crate::flow::Limits::client`]).
#[derive(Debug)]
pub struct Share {
    client: IpAddr,
    /// Open connections.
    pub connections: Count,
    /// Open tunnels.
    pub tunnels: Count,
    /// Dials under way.
    pub dials: Count,
    pace: Arc<Pace>,
}

/// How many of something are held.
#[derive(Debug, Default)]
pub struct Count(AtomicUsize);

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

#[derive(Debug, Default)]
struct Clients {
    shares: HashMap<IpAddr, Arc<Share>>,
    /// Those that hold nothing are let go when there are so many.
    sweep_at: usize,
}

const SHARDS: usize = 16; // workers that serve different clients seldom meet in one
const SWEEP_MIN: usize = 64; // below that, giving memory back is not worth its copying

impl Count {
    /// Counts one in; whoever took it gives it back once. False at `max`: nothing is counted then.
    #[must_use]
    pub fn take(&self, max: usize) -> bool {
        // Never beyond, not even for a moment: somebody who looks would see it, and somebody who gives back leave room for nobody.
        let more = |taken| (taken < max).then_some(taken + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Counts one out; true if it was the last.
    pub fn give_back(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// How many are held now.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Bounds {
    /// Counts one in, of all and of a client.
    ///
    /// # Errors
    /// The bound that is reached; nothing is counted then.
    pub fn take(self, all: &Count, of_client: &Count) -> Result<(), Exceeded> {
        if !all.take(self.all) {
            return Err(Exceeded::All);
        }
        if !of_client.take(self.per_client) {
            all.give_back();
            return Err(Exceeded::Client);
        }
        Ok(())
    }
}

impl Shares {
    /// With the rates of these settings.
    pub fn new(limits: &Limits) -> Arc<Self> {
        let shares = Self { rates: Arc::default(), shards: Default::default() };
        shares.rates.set(limits);
        Arc::new(shares)
    }

    /// Takes new rates, for clients that go on too.
    pub fn set_rates(&self, limits: &Limits) {
        self.rates.set(limits);
    }

    /// The entry of a client; it is kept at least while somebody holds it.
    pub fn of(&self, client: IpAddr) -> Arc<Share> {
        let mut clients = self.shard(client);
        if let Some(share) = clients.shares.get(&client) {
            return share.clone();
        }
        clients.sweep();
        let share = Arc::new(Share {
            client,
            connections: Count::default(),
            tunnels: Count::default(),
            dials: Count::default(),
            pace: Arc::new(Pace::new(self.rates.clone())),
        });
        clients.shares.insert(client, share.clone());
        share
    }

    /// Lets go of a client's entry that nobody holds but the caller, who is done with it; one that may not go on yet is remembered
    /// until it may.
    pub fn forget(&self, share: &Arc<Share>) {
        let mut clients = self.shard(share.client); // nobody can take it out again meanwhile
        if share.is_idle_but_for(1) {
            clients.shares.remove(&share.client);
            clients.shrink();
        }
    }

    /// How many clients have an entry.
    pub fn len(&self) -> usize {
        let lens =
            self.shards.iter().map(|clients| clients.lock().unwrap_or_else(PoisonError::into_inner).shares.len());
        lens.sum()
    }

    /// True if none has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, client: IpAddr) -> MutexGuard<'_, Clients> {
        let last = match client {
            IpAddr::V4(ip) => ip.octets()[3],
            // Of a /64 the host part differs, of a whole network the part before it.
            IpAddr::V6(ip) => ip.octets()[15] ^ ip.octets()[7],
        };
        self.shards[usize::from(last) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clients {
    fn sweep(&mut self) {
        if self.shares.len() < self.sweep_at.max(SWEEP_MIN) {
            return;
        }
        self.shares.retain(|_, share| !share.is_idle_but_for(0));
        self.sweep_at = self.shares.len() * 2;
        self.shares.shrink_to(self.sweep_at);
    }

    /// The table is as large as the number of clients now, not ever.
    fn shrink(&mut self) {
        if self.shares.capacity() > SWEEP_MIN && self.shares.len() < self.shares.capacity() / 4 {
            self.shares.shrink_to(self.shares.len() * 2);
        }
    }
}

impl Share {
    /// How fast the client goes.
    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    /// Nobody but the table and so many others holds it, and a new entry would say the same.
    fn is_idle_but_for(self: &Arc<Self>, others: usize) -> bool {
        Arc::strong_count(self) == 1 + others && self.pace.is_at_rest()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const BOUNDS: Bounds = Bounds { all: 3, per_client: 2 };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn both_bounds_hold_and_give_back() {
        let shares = Shares::new(&Limits::default());
        let all = Count::default();
        let [a, b] = ["192.0.2.1", "2001:db8::"].map(|client| shares.of(ip(client)));
        let take = |share: &Share| BOUNDS.take(&all, &share.tunnels);
        assert_eq!([&a, &a, &a].map(|share| take(share)), [Ok(()), Ok(()), Err(Exceeded::Client)]);
        assert_eq!([&b, &b].map(|share| take(share)), [Ok(()), Err(Exceeded::All)]);
        assert_eq!((all.get(), a.tunnels.get(), b.tunnels.get()), (3, 2, 1), "what was refused is not counted");
        assert!(!a.tunnels.give_back());
        assert!(a.tunnels.give_back(), "the last");
    }

    #[test]
    fn a_client_has_one_entry_while_somebody_holds_it() {
        let shares = Shares::new(&Limits::default());
        let [first, second] = [(); 2].map(|()| shares.of(ip("192.0.2.1")));
        assert!(Arc::ptr_eq(&first, &second));
        shares.forget(&first);
        drop(first);
        assert!(Arc::ptr_eq(&second, &shares.of(ip("192.0.2.1"))));
        shares.forget(&second);
        assert!(shares.is_empty());
    }

    #[test]
    fn a_burst_of_clients_leaves_no_memory_behind() {
        let shares = Shares::new(&Limits::default());
        let burst: Vec<_> = (0..20_000_u32).map(|n| shares.of(Ipv4Addr::from_bits(n << 3).into())).collect();
        assert_eq!(shares.len(), 20_000);
        burst.into_iter().for_each(|share| shares.forget(&share));
        assert!(shares.shards.iter().all(|clients| clients.lock().unwrap().shares.capacity() <= SWEEP_MIN * 4));
    }

    #[test]
    fn a_flood_of_fast_clients_is_forgotten_once_it_is_over_and_those_that_go_are_not() {
        let rates =
            Limits { requests_per_second_per_client: 1_000_000, requests_burst_per_client: 1, ..Limits::default() };
        let shares = Shares::new(&rates);
        let kept = shares.of(ip("192.0.2.1"));
        for n in 0..100_000_u32 {
            let share = shares.of(Ipv4Addr::from_bits(0x0a00_0000 + n).into());
            assert!(share.pace().request().is_ok());
            shares.forget(&share);
        }
        assert!(shares.len() <= SHARDS * SWEEP_MIN * 2, "{}", shares.len());
        assert!(Arc::ptr_eq(&kept, &shares.of(ip("192.0.2.1"))));
    }

    #[test]
    fn who_went_too_fast_is_not_forgotten_by_closing_its_connection() {
        let rates = Limits { requests_per_second_per_client: 1, ..Limits::default() };
        let shares = Shares::new(&rates);
        let share = shares.of(ip("192.0.2.1"));
        assert!(share.pace().request().is_ok());
        shares.forget(&share);
        drop(share);
        assert!(shares.of(ip("192.0.2.1")).pace().request().is_err());
        assert!(shares.of(ip("192.0.2.2")).pace().request().is_ok(), "clients do not pay for each other");
    }

    #[test]
    fn threads_that_take_and_give_back_come_to_nothing_and_never_beyond_the_bound() {
        let shares = Shares::new(&Limits::default());
        let all = Count::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let share = shares.of(ip("192.0.2.1"));
                        if BOUNDS.take(&all, &share.tunnels).is_ok() {
                            share.tunnels.give_back();
                            all.give_back();
                        }
                        shares.forget(&share);
                    }
                });
            }
        });
        assert_eq!(all.get(), 0);
        let last = shares.of(ip("192.0.2.1")); // two that let go at once may both have seen the other
        assert_eq!(last.tunnels.get(), 0);
        shares.forget(&last);
        assert!(shares.is_empty());
    }
}
