//! Idle upstream connections: kept by what they are, the last one used first, the oldest out when the pool is full.

use std::hash::{BuildHasher, Hash, Hasher};
use std::mem::discriminant;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use foldhash::HashMap;
use foldhash::fast::RandomState;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::coop::unconstrained;

use super::Dialed;
use super::endpoints::{Chosen, ParkedLease};
use crate::account::metrics;
use crate::account::usage::Usage;
use crate::flow::{Limit, Source, Target};
use crate::route::balancing::Outliers;
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
    pub(super) cluster: Arc<Cluster>,
    target: Option<Target>,
    /// Whom the PROXY header of the connection names.
    client: Option<Box<SocketAddr>>,
    /// Of a cluster that has several.
    endpoint: Option<u32>,
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
    hop: Option<Arc<str>>,
    /// Kept without a request until then at most.
    until: Instant,
}

/// One for all keys, which are compared by their hashes first.
static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::default);

const NONE: u32 = u32::MAX;
const IDLE_TIME: Duration = Duration::from_secs(60); // below the 65 to 75 s after which nginx and Apache's peers close
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

impl PoolKey {
    pub(super) fn new(
        cluster: &Arc<Cluster>,
        target: &Target,
        client: Option<&Source>,
        chosen: Option<Chosen>,
    ) -> Self {
        let target = depends_on_target(cluster).then(|| target.clone());
        let client = client.filter(|_| says_client(cluster)).map(|client| Box::new(client.peer));
        let endpoint = chosen.map(|chosen| chosen.endpoint);
        let hash = KEYS.hash_one((&cluster.name, &target, endpoint));
        Self { hash, cluster: cluster.clone(), target, client, endpoint }
    }

    /// True where a connection of the other key would be as good, whichever endpoint of the cluster either is of.
    pub fn leads_as(&self, other: &Self) -> bool {
        self.target == other.target
            && self.client == other.client
            && (Arc::ptr_eq(&self.cluster, &other.cluster) || same_way(&self.cluster, &other.cluster))
    }

    pub(super) fn outliers(&self) -> Option<&Outliers> {
        self.cluster.outliers()
    }

    /// How many endpoints the flows of this key may be spread over.
    pub(super) fn endpoints(&self) -> usize {
        match &self.cluster.discovery {
            Discovery::Dns { .. } | Discovery::Static(_) if self.endpoint.is_some() => 1,
            Discovery::Dns { endpoints, .. } | Discovery::Static(endpoints) => endpoints.len(),
            Discovery::Asked { .. } | Discovery::Missing(_) => 1,
        }
    }
}

impl PartialEq for PoolKey {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.endpoint == other.endpoint && self.leads_as(other)
    }
}

impl Eq for PoolKey {}

impl Hash for PoolKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

fn depends_on_target(cluster: &Cluster) -> bool {
    let asked = |tls: &Option<Arc<Origination>>| tls.as_ref().is_some_and(|tls| tls.sni == Sni::Asked);
    matches!(cluster.discovery, Discovery::Asked { .. }) || asked(&cluster.tls)
}

/// A PROXY header is sent on the way.
fn says_client(cluster: &Cluster) -> bool {
    cluster.proxy_protocol().is_some()
        || matches!(&cluster.via, Via::Connect(hop) if hop.cluster.proxy_protocol().is_some())
}

fn same_way(one: &Cluster, other: &Cluster) -> bool {
    one.name == other.name
        && one.discovery == other.discovery
        // A connection that is not counted at its host would say nothing of it.
        && one.outliers().is_some() == other.outliers().is_some()
        && one.source == other.source
        && one.http == other.http
        && one.proxy_protocol() == other.proxy_protocol()
        && one.addresses.opened == other.addresses.opened
        && one.addresses.policy.allow == other.addresses.policy.allow
        && one.addresses.policy.deny == other.addresses.policy.deny
        && same_tls(one.tls.as_deref(), other.tls.as_deref())
        && match (&one.via, &other.via) {
            (Via::Direct, Via::Direct) => true,
            (Via::Connect(one), Via::Connect(other)) => Arc::ptr_eq(one, other) || same_hop(one, other),
            _ => false,
        }
}

pub(super) fn same_hop(one: &Hop, other: &Hop) -> bool {
    let credentials = |hop: &Hop| hop.authorization.as_ref().map(|authorization| authorization.value.clone());
    one.target == other.target
        && one.method == other.method
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
            let evicted = idle.evict(0);
            metrics::pool_idle(idle.len());
            evicted
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
            metrics::pool_idle(0);
            std::mem::replace(&mut *idle, empty)
        };
        drop(closed);
    }

    /// The connection of this key to an address that `fits` which was used last, still open and without an unread byte.
    pub(super) fn checkout(&self, key: &PoolKey, fits: impl Fn(Option<SocketAddr>) -> bool) -> Option<Dialed> {
        let now = Instant::now();
        loop {
            let mut held = self.take_newest(key, &fits)?;
            // Outside the lock: a look at TLS may read records, and dropping closes a socket.
            if !held.is_over(now) && is_quiet(&mut held.stream) {
                let Held { stream, lease, requests, peer, local, hop, .. } = held;
                return Some(Dialed { stream, lease: lease.resume(), requests, peer, local, hop });
            }
        }
    }

    /// Closes the oldest connection that counts against a bound; false where none does.
    pub(super) fn close_one_of(&self, usage: &Arc<Usage>) -> bool {
        let mut idle = lock(&self.idle);
        let closed = idle.take_oldest(|held| held.lease.usages().any(|own| Arc::ptr_eq(own, usage)));
        metrics::pool_idle(idle.len());
        drop(idle);
        closed.is_some()
    }

    fn take_newest(&self, key: &PoolKey, fits: impl Fn(Option<SocketAddr>) -> bool) -> Option<Held> {
        let mut idle = lock(&self.idle);
        let held = idle.take_newest(key, fits)?;
        metrics::pool_idle(idle.len());
        Some(held)
    }

    /// Keeps a connection.
    pub(super) fn checkin(&self, key: PoolKey, dialed: Dialed) {
        let Dialed { stream, lease, requests, peer, local, hop } = dialed;
        let until = Instant::now() + key.cluster.pool().and_then(|pool| pool.idle).unwrap_or(IDLE_TIME);
        let requests = requests.saturating_add(1);
        let held = Held { key, stream, lease: lease.park(), requests, peer, local, hop, until };
        let usages: Vec<_> = held.lease.usages().cloned().collect();
        let evicted = {
            let mut idle = lock(&self.idle);
            if idle.max == 0 {
                return;
            }
            let evicted = idle.evict(1);
            evicted.iter().for_each(|_| metrics::limit_reached(Limit::IdlePool));
            idle.put(held);
            metrics::pool_idle(idle.len());
            if !std::mem::replace(&mut idle.sweeping, true) {
                tokio::spawn(sweep(Arc::downgrade(&self.idle)));
            }
            evicted
        };
        drop(evicted);
        usages.iter().for_each(|usage| usage.has_freed()); // whoever waits finds it now
    }
}

/// Closes connections that were idle for too long or that the upstream closed; ends when none is left.
async fn sweep(idle: Weak<Mutex<Idle>>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(idle) = idle.upgrade() else { return };
        let mut idle = lock(&idle);
        let closed = idle.take_dead(Instant::now());
        metrics::pool_idle(idle.len());
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
            by_key: HashMap::default(),
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

    fn take_newest(&mut self, key: &PoolKey, fits: impl Fn(Option<SocketAddr>) -> bool) -> Option<Held> {
        let indexes = self.by_key.get(&key.hash)?;
        let is_of = |index: &u32| {
            let held = self.slots[*index as usize].held.as_ref();
            held.is_some_and(|held| fits(held.peer) && held.key == *key)
        };
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
            let is_dead = |held: &mut Held| held.is_over(now) || !is_quiet(&mut held.stream);
            if slot.held.as_mut().is_some_and(is_dead) {
                dead.extend(self.take(index));
            }
            index = newer;
        }
        self.by_key.retain(|_, indexes| !indexes.is_empty());
        dead
    }

    /// The oldest that is `wanted`.
    fn take_oldest(&mut self, wanted: impl Fn(&Held) -> bool) -> Option<Held> {
        let mut index = self.oldest;
        while index != NONE {
            let slot = &self.slots[index as usize];
            if slot.held.as_ref().is_some_and(&wanted) {
                return self.take(index);
            }
            index = slot.newer;
        }
        None
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

impl Held {
    fn is_over(&self, now: Instant) -> bool {
        now >= self.until || self.lease.has_expired()
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpStream;

    use super::super::Lease;
    use super::super::testing::*;
    use super::*;
    use crate::flow::Name;
    use crate::route::cluster::ProxyProtocol::{V1, V2};
    use crate::route::cluster::TrafficPolicy;
    use crate::tls::{ClientTls, ClientTlsSpec};

    /// A connection, and the upstream's end of it.
    async fn connection() -> (Dialed, TcpStream) {
        let (ours, theirs) = pair().await;
        (
            Dialed { stream: ours.into(), lease: Lease::default(), requests: 0, peer: None, local: None, hop: None },
            theirs,
        )
    }

    fn client() -> Source {
        crate::route::sample::source(crate::flow::ListenerKind::Forward, "default")
    }

    fn key(target_: &str) -> PoolKey {
        PoolKey::new(&Arc::new(cluster()), &target(target_), Some(&client()), None)
    }

    fn port(dialed: &Dialed) -> u16 {
        dialed.stream.local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn the_last_one_used_is_taken_first_and_counts_its_requests() {
        let (pool, key) = (Pool::new(8), key("a.example:80"));
        let (one, _one) = connection().await;
        let (two, _two) = connection().await;
        let ports = (port(&one), port(&two));
        pool.checkin(key.clone(), one);
        pool.checkin(key.clone(), two);
        let two = pool.checkout(&key, |_| true).unwrap();
        assert_eq!((port(&two), two.requests), (ports.1, 1));
        pool.checkin(key.clone(), two);
        let two = pool.checkout(&key, |_| true).unwrap();
        assert_eq!((port(&two), two.requests), (ports.1, 2));
        assert_eq!(port(&pool.checkout(&key, |_| true).unwrap()), ports.0);
        assert!(pool.checkout(&key, |_| true).is_none());
        assert_eq!(pool.len(), 0);
    }

    #[tokio::test]
    async fn connections_with_unread_bytes_or_an_end_are_not_handed_out() {
        let (pool, key) = (Pool::new(8), key("a.example:80"));
        let (good, _good) = connection().await;
        let good_port = port(&good);
        pool.checkin(key.clone(), good);
        let (closed, theirs) = connection().await;
        drop(theirs);
        closed.stream.tcp().unwrap().readable().await.unwrap();
        pool.checkin(key.clone(), closed);
        let (talking, mut theirs) = connection().await;
        theirs.write_all(b"HTTP/1.1 408").await.unwrap();
        talking.stream.tcp().unwrap().readable().await.unwrap();
        pool.checkin(key.clone(), talking);
        assert_eq!(pool.len(), 3);
        assert_eq!(port(&pool.checkout(&key, |_| true).unwrap()), good_port);
        assert_eq!(pool.len(), 0);
    }

    #[tokio::test]
    async fn a_full_pool_lets_the_oldest_go_whatever_its_key() {
        let (pool, keys) = (Pool::new(2), ["a.example:80", "b.example:80", "c.example:80"].map(key));
        let mut theirs = Vec::new();
        for key in &keys {
            let (dialed, end) = connection().await;
            pool.checkin(key.clone(), dialed);
            theirs.push(end);
        }
        assert_eq!(pool.len(), 2);
        theirs[0].readable().await.unwrap(); // its end
        assert!(pool.checkout(&keys[0], |_| true).is_none());
        assert!(pool.checkout(&keys[2], |_| true).is_some() && pool.checkout(&keys[1], |_| true).is_some());
        let none = Pool::new(0);
        none.checkin(keys[0].clone(), connection().await.0);
        assert_eq!(none.len(), 0);
    }

    #[tokio::test]
    async fn a_lower_bound_and_the_drain_close_at_once() {
        let (pool, key) = (Pool::new(8), key("a.example:80"));
        let mut theirs = Vec::new();
        for _ in 0..4 {
            let (dialed, end) = connection().await;
            pool.checkin(key.clone(), dialed);
            theirs.push(end);
        }
        pool.set_max(1);
        assert_eq!(pool.len(), 1);
        theirs[0].readable().await.unwrap();
        pool.close();
        theirs[3].readable().await.unwrap();
        assert_eq!(pool.len(), 0);
        pool.checkin(key.clone(), connection().await.0);
        assert_eq!(pool.len(), 1, "the bound stays what it was");
    }

    #[tokio::test]
    async fn slots_and_their_order_survive_any_use() {
        let (pool, keys) = (Pool::new(5), ["a.example:80", "b.example:80", "c.example:80"].map(key));
        let mut theirs = Vec::new();
        let mut model: Vec<(usize, u16)> = Vec::new(); // oldest first
        for _ in 0..300 {
            let which = fastrand::usize(..3);
            if fastrand::bool() {
                let (dialed, end) = connection().await;
                theirs.push(end);
                model.push((which, port(&dialed)));
                if model.len() > 5 {
                    model.remove(0);
                }
                pool.checkin(keys[which].clone(), dialed);
            } else {
                let expected = model.iter().rposition(|(key, _)| *key == which).map(|index| model.remove(index).1);
                assert_eq!(pool.checkout(&keys[which], |_| true).map(|dialed| port(&dialed)), expected);
            }
            assert_eq!(pool.len(), model.len());
        }
    }

    #[tokio::test]
    async fn what_was_idle_for_too_long_is_neither_handed_out_nor_kept() {
        let (pool, key) = (Pool::new(8), key("a.example:80"));
        let (dialed, _theirs) = connection().await;
        pool.checkin(key.clone(), dialed);
        let now = Instant::now();
        assert!(lock(&pool.idle).take_dead(now + IDLE_TIME / 2).is_empty());
        assert_eq!(lock(&pool.idle).take_dead(now + IDLE_TIME).len(), 1);
        let (dialed, _theirs) = connection().await;
        pool.checkin(key.clone(), dialed);
        lock(&pool.idle).slots.iter_mut().for_each(|slot| slot.held.as_mut().unwrap().until -= IDLE_TIME);
        assert!(pool.checkout(&key, |_| true).is_none());
    }

    #[tokio::test]
    async fn the_sweep_ends_with_the_last_connection_and_begins_anew() {
        tokio::time::pause();
        let (pool, key) = (Pool::new(8), key("a.example:80"));
        for _ in 0..2 {
            let (dialed, theirs) = connection().await;
            drop(theirs);
            dialed.stream.tcp().unwrap().readable().await.unwrap();
            pool.checkin(key.clone(), dialed);
            assert!(lock(&pool.idle).sweeping);
            tokio::time::sleep(SWEEP_INTERVAL + Duration::from_millis(1)).await;
            assert_eq!((pool.len(), lock(&pool.idle).sweeping), (0, false));
        }
    }

    #[test]
    fn flows_that_need_another_connection_have_another_key() {
        let of = |cluster: Cluster, to: &str| PoolKey::new(&Arc::new(cluster), &target(to), Some(&client()), None);
        let fixed = |endpoints: &[&str]| Cluster {
            name: "outbound|80||api.example".into(),
            discovery: Discovery::Static(endpoints.iter().map(|at| endpoint(at)).collect()),
            ..cluster()
        };
        let tls = |cluster: Cluster, sni: Sni, insecure_skip_verify: bool| {
            let spec = ClientTlsSpec { ca_pem: None, insecure_skip_verify, ..Default::default() };
            let client = ClientTls::new(&spec).map_err(|error| error.to_string().into());
            let tls = Origination { mode: "SIMPLE", sni, client, origin: Default::default() };
            Cluster { tls: Some(Arc::new(tls)), ..cluster }
        };
        let via = |cluster: Cluster, parent: &str, user: Option<&str>| {
            let value = |user: &str| crate::route::cluster::Authorization {
                from: "secret://default/parent".into(),
                value: Ok(user.into()),
            };
            let hop = Hop {
                cluster: Arc::new(fixed(&[parent])),
                method: Default::default(),
                target: None,
                authorization: user.map(value),
                absolute_form: false,
                probe: None,
                origin: Default::default(),
            };
            Cluster { via: Via::Connect(Arc::new(hop)), ..cluster }
        };
        let name = |text: &str| Sni::Fixed(Name::parse(text.as_bytes()).unwrap());
        let one = "192.0.2.1:80";

        // The same plan, compiled twice, is the same connection; and the target counts only where it decides something.
        let plans: [&dyn Fn() -> Cluster; 2] = [&cluster, &|| fixed(&[one])];
        for plan in plans {
            assert_eq!(of(plan(), "a.example:80"), of(plan(), "a.example:80"));
        }
        assert_eq!(
            of(via(cluster(), one, Some("u")), "a.example:80"),
            of(via(cluster(), one, Some("u")), "a.example:80")
        );
        let spec = ClientTls::new(&ClientTlsSpec { insecure_skip_verify: true, ..Default::default() }).unwrap();
        assert_eq!(
            of(tls(fixed(&[one]), name("x.example"), true), "a.example:80"),
            of(tls(fixed(&[one]), name("x.example"), true), "b.example:80")
        );
        drop(spec);
        assert_eq!(of(fixed(&[one]), "a.example:80"), of(fixed(&[one]), "b.example:81"));

        // Whom a PROXY header names decides, and nothing else of the client does.
        let proxied = |version, port| {
            let client = Source { peer: SocketAddr::from(([10, 0, 0, 1], port)), ..client() };
            let policy = TrafficPolicy { proxy_protocol: Some(version), ..TrafficPolicy::default() }.if_any();
            let cluster = Cluster { policy, ..fixed(&[one]) };
            PoolKey::new(&Arc::new(cluster), &target("a.example:80"), Some(&client), None)
        };
        assert_eq!(proxied(V1, 1), proxied(V1, 1));
        let mut denied = cluster();
        denied.addresses.opened = nets(&["10.0.0.0/8"]);
        let different = [
            of(cluster(), "a.example:80"),
            of(cluster(), "a.example:81"),
            of(cluster(), "b.example:80"),
            of(denied, "a.example:80"),
            of(Cluster { source: Arc::new(["192.0.2.9".parse().unwrap()]), ..cluster() }, "a.example:80"),
            of(fixed(&[one]), "a.example:80"),
            of(fixed(&["192.0.2.2:80"]), "a.example:80"),
            of(tls(fixed(&[one]), name("x.example"), true), "a.example:80"),
            of(tls(fixed(&[one]), name("y.example"), true), "a.example:80"),
            of(tls(fixed(&[one]), name("x.example"), false), "a.example:80"),
            of(tls(fixed(&[one]), Sni::Asked, true), "a.example:80"),
            of(tls(fixed(&[one]), Sni::Asked, true), "b.example:80"),
            of(via(cluster(), one, None), "a.example:80"),
            of(via(cluster(), one, Some("u")), "a.example:80"),
            of(via(cluster(), one, Some("v")), "a.example:80"),
            of(via(cluster(), "192.0.2.2:80", None), "a.example:80"),
            proxied(V1, 1),
            proxied(V1, 2),
            proxied(V2, 1),
        ];
        for (index, one) in different.iter().enumerate() {
            for other in &different[index + 1..] {
                assert_ne!(one, other);
            }
        }
    }
}
