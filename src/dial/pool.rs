//! Idle upstream connections: kept by what they are, the last one used first, the oldest out when the pool is full.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::discriminant;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::coop::unconstrained;

use super::Dialed;
use super::endpoints::ParkedLease;
use crate::flow::Target;
use crate::route::cluster::{Origination, Sni};
use crate::route::{Cluster, Discovery, Hop, Via};
use crate::stream::Stream;

/// What a connection is: any flow whose plan gives an equal key may use it.
///
/// Two plans are equal if they come from one cluster, or from clusters of the same name, of two snapshots, that say the same about
/// everything between us and the upstream: endpoints, address rules, source, parent with its credentials, TLS. The target is part
/// of it where the connection depends on it (it is what is dialled, what a parent is asked for, or what TLS verifies).
#[derive(Clone, Debug)]
pub struct PoolKey {
    hash: u64,
    cluster: Arc<Cluster>,
    target: Option<Target>,
}

/// The idle connections of a process.
#[derive(Debug)]
pub(super) struct Pool {
    idle: Arc<Mutex<Idle>>,
}

/// Slots in order of their last use, doubly linked, and which of them hold a key's connections.
#[derive(Debug)]
struct Idle {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_key: HashMap<u64, Vec<u32>>,
    oldest: u32,
    newest: u32,
    max: usize,
    sweeping: bool,
}

#[derive(Debug)]
struct Slot {
    held: Option<Held>,
    older: u32,
    newer: u32,
}

#[derive(Debug)]
struct Held {
    key: PoolKey,
    stream: Stream,
    lease: ParkedLease,
    requests: u32,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    since: Instant,
}

const NONE: u32 = u32::MAX;
const IDLE_TIME: Duration = Duration::from_secs(60); // below the 65 to 75 s after which nginx and Apache's peers close
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

impl PoolKey {
    pub(super) fn new(cluster: &Arc<Cluster>, target: &Target) -> Self {
        let target = depends_on_target(cluster).then(|| target.clone());
        let mut hasher = DefaultHasher::new();
        (&cluster.name, &target).hash(&mut hasher);
        Self { hash: hasher.finish(), cluster: cluster.clone(), target }
    }
}

impl PartialEq for PoolKey {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
            && self.target == other.target
            && (Arc::ptr_eq(&self.cluster, &other.cluster) || same_way(&self.cluster, &other.cluster))
    }
}

impl Eq for PoolKey {}

impl Hash for PoolKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

fn depends_on_target(cluster: &Cluster) -> bool {
    let asked = |tls: &Option<Origination>| tls.as_ref().is_some_and(|tls| tls.sni == Sni::Asked);
    matches!(cluster.discovery, Discovery::Asked { .. }) || asked(&cluster.tls)
}

fn same_way(one: &Cluster, other: &Cluster) -> bool {
    one.name == other.name
        && one.discovery == other.discovery
        && one.source == other.source
        && one.addresses.opened == other.addresses.opened
        && one.addresses.policy.allow == other.addresses.policy.allow
        && one.addresses.policy.deny == other.addresses.policy.deny
        && same_tls(one.tls.as_ref(), other.tls.as_ref())
        && match (&one.via, &other.via) {
            (Via::Direct, Via::Direct) => true,
            (Via::Connect(one), Via::Connect(other)) => Arc::ptr_eq(one, other) || same_hop(one, other),
            _ => false,
        }
}

fn same_hop(one: &Hop, other: &Hop) -> bool {
    let credentials = |hop: &Hop| hop.authorization.as_ref().map(|authorization| authorization.value.clone());
    one.target == other.target
        && one.absolute_form == other.absolute_form
        && credentials(one) == credentials(other)
        && same_way(&one.cluster, &other.cluster)
}

fn same_tls(one: Option<&Origination>, other: Option<&Origination>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => {
            let client = |tls: &Origination| tls.client.as_ref().ok().map(crate::tls::ClientTls::id);
            one.sni == other.sni
                && discriminant(&one.client) == discriminant(&other.client)
                && client(one) == client(other)
        }
        _ => false,
    }
}

impl Pool {
    pub(super) fn new(max: usize) -> Self {
        Self { idle: Arc::new(Mutex::new(Idle::new(max))) }
    }

    /// Takes a new bound; the oldest connections leave at once where it is lower.
    pub(super) fn set_max(&self, max: usize) {
        let evicted = {
            let mut idle = lock(&self.idle);
            idle.max = max;
            idle.evict(0)
        };
        drop(evicted);
    }

    /// How many connections are idle.
    pub(super) fn len(&self) -> usize {
        lock(&self.idle).len()
    }

    /// Closes every idle connection.
    pub(super) fn close(&self) {
        let closed = {
            let mut idle = lock(&self.idle);
            let empty = Idle { sweeping: idle.sweeping, ..Idle::new(idle.max) };
            std::mem::replace(&mut *idle, empty)
        };
        drop(closed);
    }

    /// The connection of this key that was used last, still open and without an unread byte.
    pub(super) fn checkout(&self, key: &PoolKey) -> Option<Dialed> {
        let now = Instant::now();
        loop {
            let mut held = lock(&self.idle).take_newest(key)?;
            // Outside the lock: a look at TLS may read records, and dropping closes a socket.
            if now.saturating_duration_since(held.since) < IDLE_TIME && is_quiet(&mut held.stream) {
                let Held { stream, lease, requests, peer, local, .. } = held;
                return Some(Dialed { stream, lease: lease.resume(), requests, peer, local });
            }
        }
    }

    /// Keeps a connection.
    pub(super) fn checkin(&self, key: PoolKey, dialed: Dialed) {
        let Dialed { stream, lease, requests, peer, local } = dialed;
        let since = Instant::now();
        let requests = requests.saturating_add(1);
        let held = Held { key, stream, lease: lease.park(), requests, peer, local, since };
        let evicted = {
            let mut idle = lock(&self.idle);
            if idle.max == 0 {
                return;
            }
            let evicted = idle.evict(1);
            idle.put(held);
            if !std::mem::replace(&mut idle.sweeping, true) {
                tokio::spawn(sweep(Arc::downgrade(&self.idle)));
            }
            evicted
        };
        drop(evicted);
    }
}

/// Closes connections that were idle for too long or that the upstream closed; ends when none is left.
async fn sweep(idle: Weak<Mutex<Idle>>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(idle) = idle.upgrade() else { return };
        let mut idle = lock(&idle);
        let closed = idle.take_dead(Instant::now());
        if idle.len() == 0 {
            idle.sweeping = false;
            return;
        }
        drop(idle);
        drop(closed);
    }
}

impl Idle {
    fn new(max: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            oldest: NONE,
            newest: NONE,
            max,
            sweeping: false,
        }
    }

    fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn put(&mut self, held: Held) {
        let hash = held.key.hash;
        let slot = Slot { held: Some(held), older: self.newest, newer: NONE };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("the pool's bound is far below 2^32 connections")
            }
        };
        match self.newest {
            NONE => self.oldest = index,
            newest => self.slots[newest as usize].newer = index,
        }
        self.newest = index;
        self.by_key.entry(hash).or_default().push(index);
    }

    fn take_newest(&mut self, key: &PoolKey) -> Option<Held> {
        let indexes = self.by_key.get(&key.hash)?;
        let is_of = |index: &u32| self.slots[*index as usize].held.as_ref().is_some_and(|held| held.key == *key);
        let index = *indexes.iter().rev().find(|index| is_of(index))?;
        self.take(index)
    }

    /// Makes room for `room` more; the oldest leave.
    fn evict(&mut self, room: usize) -> Vec<Held> {
        let mut evicted = Vec::new();
        while self.len() + room > self.max && self.oldest != NONE {
            evicted.extend(self.take(self.oldest));
        }
        evicted
    }

    fn take_dead(&mut self, now: Instant) -> Vec<Held> {
        let mut dead = Vec::new();
        let mut index = self.oldest;
        while index != NONE {
            let slot = &mut self.slots[index as usize];
            let newer = slot.newer;
            let is_dead =
                |held: &mut Held| now.saturating_duration_since(held.since) >= IDLE_TIME || !is_quiet(&mut held.stream);
            if slot.held.as_mut().is_some_and(is_dead) {
                dead.extend(self.take(index));
            }
            index = newer;
        }
        self.by_key.retain(|_, indexes| !indexes.is_empty());
        dead
    }

    fn take(&mut self, index: u32) -> Option<Held> {
        let slot = &mut self.slots[index as usize];
        let (held, older, newer) = (slot.held.take()?, slot.older, slot.newer);
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        self.free.push(index);
        if let Some(indexes) = self.by_key.get_mut(&held.key.hash) {
            indexes.retain(|kept| *kept != index); // an empty list keeps its place until the next sweep: most keys come back
        }
        Some(held)
    }
}

/// Nothing can be read from it, not even its end. Asks the kernel only where the runtime has seen that something is there.
fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0; 1];
    let mut buf = ReadBuf::new(&mut byte);
    let read = std::future::poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut buf));
    // Unconstrained: a task out of budget would be told "pending" whatever is there.
    let polled = pin!(unconstrained(read)).poll(&mut Context::from_waker(Waker::noop()));
    matches!(polled, Poll::Pending)
}

fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
