//! Live tunnels: their byte counts, and the way to end one from outside (drain, revocation, an operator).

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use serde_json::{Value, json};

use super::pace::Pace;
use super::shares::{Bounds, Count, Exceeded, Share};
use super::traffic::{Connections, Traffic};
use super::{destinations, events, metrics};
use crate::flow::{Ending, Identity, Source, Target};

/// One open tunnel, shared between its relay and whoever looks at it.
#[derive(Debug)]
pub struct Live {
    /// Unique in the process.
    pub id: u64,
    /// Who asked.
    pub source: Arc<Source>,
    /// For what.
    pub target: Target,
    /// Came in by SNI (else by CONNECT or an upgrade).
    pub by_sni: bool,
    /// Its cluster, and what is counted of that.
    pub traffic: Traffic,
    /// When it was opened.
    pub opened: Instant,
    /// Its client's.
    share: Arc<Share>,
    received: AtomicU64,
    sent: AtomicU64,
    /// Of these, what its cluster's counters have.
    settled: [AtomicU64; 2],
    /// Bytes are copied: it counts as a connection.
    begun: AtomicBool,
    /// Where it stands in its shard; changes under the shard's lock only.
    slot: AtomicUsize,
    end: AtomicU8,
    /// Somebody wants a line of the access log.
    line_wanted: AtomicBool,
    relay: AtomicWaker,
}

impl Live {
    /// Counts bytes from the client.
    pub fn add_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        metrics::bytes_received(bytes);
    }

    /// Counts bytes to the client.
    pub fn add_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        metrics::bytes_sent(bytes);
    }

    /// Asks the relay to end with this reason; the first reason stays.
    pub fn end(&self, why: Ending) {
        let first = self.end.compare_exchange(RUNNING, code(why), Ordering::Release, Ordering::Relaxed);
        if first.is_ok() {
            self.relay.wake();
        }
    }

    /// Asks for a line in the access log that says how far it is.
    pub fn ask_for_line(&self) {
        self.line_wanted.store(true, Ordering::Release);
        self.relay.wake();
    }

    /// Whether somebody asked for a line since this was asked last; to be looked at behind [`Self::poll_end`], which registers the task.
    pub fn take_line_wanted(&self) -> bool {
        self.line_wanted.load(Ordering::Relaxed) && self.line_wanted.swap(false, Ordering::Acquire)
    }

    /// For the relay: ready once somebody asked for the end; else wakes the task then.
    pub fn poll_end(&self, cx: &mut Context<'_>) -> Poll<Ending> {
        if let Some(why) = self.ending() {
            return Poll::Ready(why);
        }
        self.relay.register(cx.waker());
        // Asked between the look and the registration: nobody wakes us for that any more.
        self.ending().map_or(Poll::Pending, Poll::Ready)
    }

    /// The reason somebody gave for ending it, if anybody did.
    pub fn ending(&self) -> Option<Ending> {
        let code = self.end.load(Ordering::Acquire);
        code.checked_sub(1).and_then(|index| ENDINGS.get(usize::from(index)).copied())
    }

    /// What its bytes have to keep to; `None` where they are not limited.
    pub fn pace(&self) -> Option<&Pace> {
        Some(&**self.share.pace()).filter(|pace| pace.limits_bytes())
    }

    /// Both sides are connected: from here on it counts as a connection of its cluster.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
        self.count(NO_FLAGS, |connections| {
            connections.opened.fetch_add(1, Ordering::Relaxed);
        });
        events::tell("opened", || self.describe());
    }

    /// The relay saw how it ended; the first reason stays.
    pub fn ended(&self, why: Ending) {
        let _ = self.end.compare_exchange(RUNNING, code(why), Ordering::Release, Ordering::Relaxed);
    }

    /// Hands the bytes that moved since the last time to its cluster's counters, and the end of the connection if it is one.
    fn settle(&self, flags: &'static str, closed: bool) {
        let since = |settled: &AtomicU64, now: u64| now.saturating_sub(settled.fetch_max(now, Ordering::Relaxed));
        let received = since(&self.settled[0], self.received());
        let sent = since(&self.settled[1], self.sent());
        if closed || received > 0 || sent > 0 {
            self.count(flags, |connections| {
                connections.received.fetch_add(received, Ordering::Relaxed);
                connections.sent.fetch_add(sent, Ordering::Relaxed);
                connections.closed.fetch_add(u64::from(closed), Ordering::Relaxed);
            });
        }
    }

    fn finish(&self) {
        if self.begun.load(Ordering::Relaxed) {
            let flags = self.ending().map_or(NO_FLAGS, Ending::flag);
            self.settle(flags, true);
            let (received, sent) = (self.received(), self.sent());
            destinations::note(&self.target, received + sent);
            events::tell("closed", || {
                let mut closed = self.describe();
                closed["received_bytes"] = received.into();
                closed["sent_bytes"] = sent.into();
                closed["age_s"] = self.opened.elapsed().as_secs_f64().into();
                closed["why"] = self.ending().map(Ending::as_str).into();
                closed
            });
        }
    }

    fn describe(&self) -> Value {
        json!({
            "id": self.id,
            "client": self.source.peer.to_string(),
            "identity": self.source.identity.as_deref().map(Identity::as_str),
            "target": self.target.to_string(),
            "cluster": self.traffic.cluster(),
        })
    }

    fn count(&self, flags: &'static str, count: impl FnOnce(&Connections)) {
        self.traffic.connection(&self.source.workload, flags, count);
    }

    /// Bytes from the client so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes to the client so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

const RUNNING: u8 = 0;
const NO_FLAGS: &str = "-";

const ENDINGS: [Ending; 8] = [
    Ending::DownstreamReset,
    Ending::UpstreamReset,
    Ending::IdleTimeout,
    Ending::LifetimeExceeded,
    Ending::Drained,
    Ending::Revoked,
    Ending::Killed,
    Ending::AnswerTimeout,
];

/// One more than the position in [`ENDINGS`].
const fn code(why: Ending) -> u8 {
    match why {
        Ending::DownstreamReset => 1,
        Ending::UpstreamReset => 2,
        Ending::IdleTimeout => 3,
        Ending::LifetimeExceeded => 4,
        Ending::Drained => 5,
        Ending::Revoked => 6,
        Ending::Killed => 7,
        Ending::AnswerTimeout => 8,
    }
}

/// All live tunnels. Entering and leaving take one short lock, of one of many shards.
#[derive(Debug, Default)]
pub struct Tunnels {
    open: Count,
    ids: AtomicU64,
    /// By id. Dense: the last takes the place of one that leaves.
    shards: [Mutex<Vec<Arc<Live>>>; SHARDS],
}

/// A tunnel to be entered.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Who asks.
    pub source: Arc<Source>,
    /// For what.
    pub target: Target,
    /// By SNI (else by CONNECT or an upgrade).
    pub by_sni: bool,
    /// Of its cluster.
    pub traffic: Traffic,
    /// Of its client.
    pub share: Arc<Share>,
}

const SHARDS: usize = 16; // at 20,000 tunnels a look at all holds each lock for 1,250 of them

impl Tunnels {
    /// Enters a tunnel, unless a bound is reached.
    ///
    /// # Errors
    /// The bound that is reached; nothing is counted then.
    pub fn open(self: &Arc<Self>, entry: Entry, bounds: Bounds) -> Result<LiveGuard, Exceeded> {
        let Entry { source, target, by_sni, traffic, share } = entry;
        bounds.take(&self.open, &share.tunnels)?;
        let live = Arc::new(Live {
            id: self.ids.fetch_add(1, Ordering::Relaxed),
            source,
            target,
            by_sni,
            traffic,
            opened: Instant::now(),
            share,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            settled: [const { AtomicU64::new(0) }; 2],
            begun: AtomicBool::new(false),
            slot: AtomicUsize::new(0),
            end: AtomicU8::new(RUNNING),
            line_wanted: AtomicBool::new(false),
            relay: AtomicWaker::new(),
        });
        let mut shard = self.shard(live.id);
        live.slot.store(shard.len(), Ordering::Relaxed);
        shard.push(live.clone());
        drop(shard);
        metrics::tunnel_opened();
        Ok(LiveGuard { live, tunnels: self.clone() })
    }

    fn leave(&self, live: &Live) {
        let mut shard = self.shard(live.id);
        let slot = live.slot.load(Ordering::Relaxed);
        let left = shard.swap_remove(slot);
        if let Some(moved) = shard.get(slot) {
            moved.slot.store(slot, Ordering::Relaxed);
        }
        if shard.capacity() > SPARE_MIN && shard.len() < shard.capacity() / 4 {
            let spare = shard.len() * 2;
            shard.shrink_to(spare);
        }
        drop(shard);
        live.finish();
        drop(left); // outside the lock
        metrics::tunnel_closed();
        live.share.tunnels.give_back();
        self.open.give_back();
    }

    /// Asks the tunnel with this id to end; false if none that is open has it.
    pub fn end(&self, id: u64, why: Ending) -> bool {
        let live = self.shard(id).iter().find(|live| live.id == id).cloned();
        live.inspect(|live| live.end(why)).is_some()
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.get()
    }

    /// True if none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands what moved until now to the counters of the clusters, so that long tunnels are seen before they end.
    pub fn settle(&self) {
        self.for_each(|live| {
            if live.begun.load(Ordering::Relaxed) {
                live.settle(NO_FLAGS, false);
            }
        });
    }

    /// Looks at each that is open now, with no lock held meanwhile; one that enters or leaves during the look may be seen or not.
    pub fn for_each(&self, mut look: impl FnMut(&Live)) {
        for shard in &self.shards {
            let tunnels = lock(shard).clone();
            tunnels.iter().for_each(|live| look(live));
        }
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, Vec<Arc<Live>>> {
        lock(&self.shards[(id % SHARDS as u64) as usize])
    }
}

const SPARE_MIN: usize = 64; // below that, giving memory back is not worth its copying

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A live tunnel that leaves the table when this is dropped.
#[derive(Debug)]
pub struct LiveGuard {
    live: Arc<Live>,
    tunnels: Arc<Tunnels>,
}

impl std::ops::Deref for LiveGuard {
    type Target = Live;
    fn deref(&self) -> &Live {
        &self.live
    }
}

impl Drop for LiveGuard {
    fn drop(&mut self) {
        self.tunnels.leave(&self.live);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::account::testing::{entry, share};

    fn open(tunnels: &Arc<Tunnels>, max: usize) -> Result<LiveGuard, Exceeded> {
        tunnels.open(entry(share()), Bounds { all: max, per_client: max })
    }

    #[test]
    fn both_bounds_hold_and_give_back() {
        let tunnels = Arc::new(Tunnels::default());
        let [a, b] = [share(), share()];
        let open = |share: &Arc<Share>| tunnels.open(entry(share.clone()), Bounds { all: 3, per_client: 2 });
        let first = open(&a).unwrap();
        let _second = open(&a).unwrap();
        assert_eq!(open(&a).unwrap_err(), Exceeded::Client);
        let _third = open(&b).unwrap();
        assert_eq!(open(&b).unwrap_err(), Exceeded::All);
        assert_eq!((tunnels.len(), a.tunnels.get()), (3, 2));
        drop(first);
        assert_eq!((tunnels.len(), a.tunnels.get()), (2, 1));
        assert!(open(&a).is_ok());
    }

    #[test]
    fn those_that_stay_are_all_seen_after_others_left_from_the_middle() {
        let tunnels = Arc::new(Tunnels::default());
        let mut guards: Vec<_> = (0..1000).map(|_| open(&tunnels, 2000).unwrap()).collect();
        let mut random = fastrand::Rng::with_seed(7);
        while guards.len() > 300 {
            guards.swap_remove(random.usize(..guards.len()));
        }
        let mut expected: Vec<_> = guards.iter().map(|guard| guard.id).collect();
        let mut seen = Vec::new();
        tunnels.for_each(|live| seen.push(live.id));
        expected.sort_unstable();
        seen.sort_unstable();
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_burst_leaves_no_memory_behind() {
        let tunnels = Arc::new(Tunnels::default());
        let burst: Vec<_> = (0..20_000).map(|_| open(&tunnels, 20_000).unwrap()).collect();
        assert_eq!(tunnels.len(), 20_000);
        drop(burst);
        assert!(tunnels.is_empty());
        assert!(tunnels.shards.iter().all(|shard| shard.lock().unwrap().capacity() <= SPARE_MIN * 4));
    }

    #[test]
    fn a_tunnel_may_leave_while_all_are_looked_at() {
        let tunnels = Arc::new(Tunnels::default());
        let mut guard = Some(open(&tunnels, 2).unwrap());
        tunnels.for_each(|_| drop(guard.take())); // would lock up if a lock were held
        assert!(tunnels.is_empty());
    }

    #[tokio::test]
    async fn every_ending_arrives_as_itself_and_the_first_stays() {
        let tunnels = Arc::new(Tunnels::default());
        for why in ENDINGS {
            let live = open(&tunnels, 2).unwrap();
            assert_eq!(live.ending(), None);
            live.end(why);
            live.end(if why == Ending::Drained { Ending::Revoked } else { Ending::Drained });
            assert_eq!(poll_fn(|cx| live.poll_end(cx)).await, why);
        }
    }

    #[test]
    fn one_of_many_is_ended_by_its_id() {
        let tunnels = Arc::new(Tunnels::default());
        let guards: Vec<_> = (0..40).map(|_| open(&tunnels, 40).unwrap()).collect();
        let id = guards[17].id;
        assert!(tunnels.end(id, Ending::Killed));
        let ended: Vec<_> = guards.iter().filter(|guard| guard.ending().is_some()).map(|guard| guard.id).collect();
        assert_eq!(ended, [id]);
        drop(guards);
        assert!(!tunnels.end(id, Ending::Killed));
    }

    #[test]
    fn no_wakeup_is_lost_between_threads() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        let tunnels = Arc::new(Tunnels::default());
        runtime.block_on(async {
            for _ in 0..5_000 {
                let guard = open(&tunnels, 2).unwrap();
                let live = guard.live.clone();
                let waits = tokio::spawn(async move { poll_fn(|cx| guard.poll_end(cx)).await });
                live.end(Ending::Drained);
                let ended = tokio::time::timeout(std::time::Duration::from_secs(10), waits).await;
                assert_eq!(ended.expect("woken").unwrap(), Ending::Drained);
            }
        });
    }

    #[test]
    fn bytes_are_counted_per_direction() {
        let tunnels = Arc::new(Tunnels::default());
        let live = open(&tunnels, 2).unwrap();
        live.add_received(3);
        live.add_received(4);
        live.add_sent(5);
        assert_eq!((live.received(), live.sent()), (7, 5));
    }

    #[test]
    fn an_entry_is_a_small_part_of_an_idle_tunnels_2_kb() {
        // Two words of it say what its cluster's counters have already: without them a scrape would cost every chunk a count.
        assert!(size_of::<Live>() <= 176, "{}", size_of::<Live>());
        assert_eq!(size_of::<LiveGuard>(), 16);
    }
}
