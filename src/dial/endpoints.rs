//! Which endpoint of a cluster a flow goes to, and how many flows each one has. Live state, keyed by cluster name and address, so
//! that it survives snapshots.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use foldhash::HashMap;

use crate::account::hosts::{ClusterHosts, Connection, HostCounts, Request};
use crate::account::usage::{Held, Usage};
use crate::flow::Host;
use crate::route::Cluster;
use crate::route::cluster::{Balancing, Endpoint, EndpointAddress};

/// Flows per endpoint, of all clusters that have more than one.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    clusters: Mutex<HashMap<Arc<str>, Arc<ClusterState>>>,
    hosts: Mutex<HashMap<Arc<str>, Arc<ClusterHosts>>>,
}

/// Live state of one cluster.
#[derive(Debug, Default)]
pub(super) struct ClusterState {
    turn: AtomicUsize,
    flows: Mutex<HashMap<Key, Arc<AtomicU32>>>,
}

/// What flows are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Host(Host, u16),
    Unix(PathBuf),
}

/// One open flow at one endpoint, and at the address of it that was taken. Counted until it is dropped.
#[derive(Debug, Default)]
pub struct Lease {
    request: Option<Request>,
    endpoint: Option<Counted>,
    address: Option<Counted>,
    bounded: Option<Box<Bounded>>,
}

/// What a rule says of a connection. Boxed where it is kept: it says so of few, and leases are part of every future that dials.
#[derive(Debug, Default)]
struct Bounded {
    /// Its place within the bounds of its cluster, and of its parent's.
    held: [Option<Held>; 2],
    /// From then on it serves no further request.
    expires: Option<Instant>,
}

#[derive(Debug)]
struct Counted(Arc<AtomicU32>);

/// A lease of a connection that no flow uses now: it keeps its place but does not count.
#[derive(Debug, Default)]
pub(super) struct ParkedLease {
    connection: Option<Connection>,
    endpoint: Option<Arc<AtomicU32>>,
    address: Option<Arc<AtomicU32>>,
    bounded: Option<Box<Bounded>>,
}

const CLUSTERS_MIN: usize = 1024; // below that many, clusters that vanished are not looked for
const ADDRESSES_MIN: usize = 64; // the same for addresses of one cluster

impl Endpoints {
    /// The counters of a cluster's addresses; those of a cluster of this name in an earlier snapshot, if there was one.
    pub(super) fn hosts<'c>(&self, cluster: &'c Cluster) -> &'c Arc<ClusterHosts> {
        cluster.traffic.hosts(|| {
            let mut hosts = lock(&self.hosts);
            if hosts.len() >= CLUSTERS_MIN && hosts.len().is_power_of_two() {
                hosts.retain(|_, hosts| Arc::strong_count(hosts) > 1 || hosts.is_used());
            }
            hosts.entry(cluster.name.clone()).or_default().clone()
        })
    }

    /// All of them, by name.
    pub(super) fn all_hosts(&self) -> Vec<(Arc<str>, Arc<ClusterHosts>)> {
        let hosts = lock(&self.hosts);
        hosts.iter().map(|(name, hosts)| (name.clone(), hosts.clone())).collect()
    }

    /// The live state of a cluster.
    pub(super) fn of(&self, cluster: &Cluster) -> Arc<ClusterState> {
        let mut clusters = lock(&self.clusters);
        if let Some(state) = clusters.get(&cluster.name) {
            return state.clone();
        }
        // Clusters of past snapshots leave here, once their flows are over: the table at most doubles between two sweeps.
        if clusters.len() >= CLUSTERS_MIN && clusters.len().is_power_of_two() {
            clusters.retain(|_, state| Arc::strong_count(state) > 1 || state.is_used());
        }
        clusters.entry(cluster.name.clone()).or_default().clone()
    }
}

impl ClusterState {
    /// Picks one of `endpoints` that is not in `tried`, by the cluster's balancing; counts the flow there at once, so that many
    /// flows that begin together spread.
    pub(super) fn pick(&self, how: Balancing, endpoints: &[Endpoint], tried: &[usize]) -> Option<(usize, Lease)> {
        let mut order = Order { endpoints, tried, total: 0 };
        order.total = order.left().map(|(_, endpoint)| u64::from(endpoint.weight)).sum();
        if order.total == 0 {
            return None;
        }
        let index = match how {
            Balancing::Random => order.at(fastrand::u64(..order.total)),
            Balancing::RoundRobin => order.at(order.place_of_turn(self.turn.fetch_add(1, Ordering::Relaxed))),
            Balancing::LeastRequest => {
                let first = order.at(fastrand::u64(..order.total));
                let second = order.at(fastrand::u64(..order.total));
                self.less_loaded(endpoints, first, second)
            }
        };
        let endpoint = Some(self.count(Key::of(&endpoints[index].at)));
        Some((index, Lease { endpoint, ..Lease::default() }))
    }

    /// Puts the address first that a flow should take, of one answer's addresses of one family.
    pub(super) fn order(&self, how: Balancing, ips: &mut [IpAddr], port: u16) {
        if ips.len() < 2 {
            return;
        }
        let first = match how {
            Balancing::Random => fastrand::usize(..ips.len()),
            Balancing::RoundRobin => self.turn.fetch_add(1, Ordering::Relaxed) % ips.len(),
            Balancing::LeastRequest => {
                let (one, other) = (fastrand::usize(..ips.len()), fastrand::usize(..ips.len()));
                let flows = |index: usize| self.flows_at(&Key::Host(Host::Ip(ips[index]), port));
                if flows(other) < flows(one) { other } else { one }
            }
        };
        ips.rotate_left(first);
    }

    /// Counts a flow at an address that an endpoint's name resolved to, in addition to the endpoint itself.
    pub(super) fn count_address(&self, lease: &mut Lease, ip: IpAddr, port: u16) {
        lease.address = Some(self.count(Key::Host(Host::Ip(ip), port)));
    }

    fn less_loaded(&self, endpoints: &[Endpoint], first: usize, second: usize) -> usize {
        let flows = |index: usize| u64::from(self.flows_at(&Key::of(&endpoints[index].at)));
        let weight = |index: usize| u64::from(endpoints[index].weight);
        // Flows per weight, compared without division.
        if flows(second) * weight(first) < flows(first) * weight(second) { second } else { first }
    }

    fn count(&self, key: Key) -> Counted {
        let mut flows = lock(&self.flows);
        if flows.len() >= ADDRESSES_MIN && flows.len().is_power_of_two() {
            flows.retain(|_, flows| Arc::strong_count(flows) > 1);
        }
        Counted::new(flows.entry(key).or_default().clone())
    }

    fn flows_at(&self, key: &Key) -> u32 {
        lock(&self.flows).get(key).map_or(0, |flows| flows.load(Ordering::Relaxed))
    }

    fn is_used(&self) -> bool {
        lock(&self.flows).values().any(|flows| Arc::strong_count(flows) > 1)
    }
}

/// The endpoints that are left, laid out on a line by their weights.
struct Order<'a> {
    endpoints: &'a [Endpoint],
    tried: &'a [usize],
    total: u64,
}

impl<'a> Order<'a> {
    fn left(&self) -> impl Iterator<Item = (usize, &'a Endpoint)> {
        let tried = self.tried;
        self.endpoints.iter().enumerate().filter(move |(index, _)| !tried.contains(index))
    }

    /// The endpoint at this place of the line, 0 to `total - 1`.
    fn at(&self, mut place: u64) -> usize {
        for (index, endpoint) in self.left() {
            match place.checked_sub(endpoint.weight.into()) {
                Some(rest) => place = rest,
                None => return index,
            }
        }
        unreachable!("a place below the sum of the weights lies on an endpoint")
    }

    /// Equal weights: strictly in turn. Others: steps of about the golden ratio, so that a heavy endpoint's turns do not clump.
    fn place_of_turn(&self, turn: usize) -> u64 {
        let turn = turn as u64;
        let mut weights = self.left().map(|(_, endpoint)| u64::from(endpoint.weight));
        let first = weights.next().unwrap_or(1);
        if weights.all(|weight| weight == first) {
            return turn * first % self.total;
        }
        let mut step = (self.total * 5 / 8).max(1);
        while gcd(step, self.total) != 1 {
            step += 1;
        }
        (turn % self.total) * step % self.total
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Lease {
    /// A flow on a connection that stands.
    pub(super) fn on(connection: Connection) -> Self {
        Self { request: Some(connection.request()), ..Self::default() }
    }

    /// TLS on the connection failed.
    pub(super) fn connect_failed(&self) {
        self.request.iter().for_each(Request::connect_failed);
    }

    /// The counters of the address at the other end, if it has one.
    pub fn host(&self) -> Option<&Arc<HostCounts>> {
        self.request.as_ref()?.host()
    }

    /// This lease, with the parts of `other` that it lacks.
    pub(super) fn or(mut self, other: Self) -> Self {
        if let Some(other) = other.bounded {
            let Bounded { held, expires } = *other;
            held.into_iter().flatten().for_each(|held| self.keep(Some(held), expires));
        }
        Self {
            request: self.request.or(other.request),
            endpoint: self.endpoint.or(other.endpoint),
            address: self.address.or(other.address),
            bounded: self.bounded,
        }
    }

    /// The connection's place within a bound, where there is one, and its end.
    pub(super) fn keep(&mut self, held: Option<Held>, expires: Option<Instant>) {
        let Some(held) = held else { return };
        let bounded = self.bounded.get_or_insert_default();
        let free = bounded.held.iter_mut().find(|place| place.is_none());
        *free.expect("a cluster and the parent on the way to it are two") = Some(held);
        bounded.expires = [bounded.expires, expires].into_iter().flatten().min();
    }

    /// True once the connection has to serve no further request (`maxConnectionDuration`).
    pub fn has_expired(&self) -> bool {
        has_expired(self.bounded.as_deref())
    }

    /// The connection goes to the pool: no flow any more.
    pub(super) fn park(self) -> ParkedLease {
        self.park_as(Request::release)
    }

    /// The connection is one that flows share, none of which has begun.
    pub(super) fn park_unused(self) -> ParkedLease {
        self.park_as(Request::unused)
    }

    fn park_as(self, end: fn(Request) -> Option<Connection>) -> ParkedLease {
        let parked = |counted: Option<Counted>| counted.map(|counted| counted.0.clone());
        let connection = self.request.and_then(end);
        let (endpoint, address) = (parked(self.endpoint), parked(self.address));
        ParkedLease { connection, endpoint, address, bounded: self.bounded }
    }
}

impl ParkedLease {
    /// One of many flows on the connection.
    pub(super) fn share(&self) -> Lease {
        let counted = |flows: &Option<Arc<AtomicU32>>| flows.clone().map(Counted::new);
        Lease {
            request: self.connection.as_ref().map(Connection::shared_request),
            endpoint: counted(&self.endpoint),
            address: counted(&self.address),
            bounded: None, // the connection has it
        }
    }

    /// The bounds that its connection counts against.
    pub(super) fn usages(&self) -> impl Iterator<Item = &Arc<Usage>> {
        self.bounded.iter().flat_map(|bounded| bounded.held.iter().flatten()).map(Held::usage)
    }

    /// As of a lease in use.
    pub(super) fn has_expired(&self) -> bool {
        has_expired(self.bounded.as_deref())
    }

    /// The connection leaves the pool for another flow.
    pub(super) fn resume(self) -> Lease {
        Lease {
            request: self.connection.map(Connection::request),
            endpoint: self.endpoint.map(Counted::new),
            address: self.address.map(Counted::new),
            bounded: self.bounded,
        }
    }
}

impl Counted {
    fn new(flows: Arc<AtomicU32>) -> Self {
        flows.fetch_add(1, Ordering::Relaxed);
        Self(flows)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Key {
    fn of(at: &EndpointAddress) -> Self {
        match at {
            EndpointAddress::Host(host, port) => Self::Host(host.clone(), *port),
            EndpointAddress::Unix(path) => Self::Unix(path.clone()),
        }
    }
}

fn has_expired(bounded: Option<&Bounded>) -> bool {
    bounded.and_then(|bounded| bounded.expires).is_some_and(|expires| Instant::now() >= expires)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn endpoints(weights: &[u32]) -> Vec<Endpoint> {
        let at = |index: usize| EndpointAddress::Host(Host::Ip(IpAddr::from([192, 0, 2, index as u8])), 80);
        weights.iter().enumerate().map(|(index, weight)| Endpoint { at: at(index), weight: *weight }).collect()
    }

    /// Picks `n` times, each flow over before the next begins.
    fn picks(how: Balancing, weights: &[u32], n: usize) -> Vec<usize> {
        let (state, endpoints) = (ClusterState::default(), endpoints(weights));
        let mut counts = vec![0; weights.len()];
        for _ in 0..n {
            counts[state.pick(how, &endpoints, &[]).unwrap().0] += 1;
        }
        counts
    }

    #[test]
    fn ten_thousand_random_picks_follow_the_weights() {
        for how in [Balancing::Random, Balancing::LeastRequest] {
            let counts = picks(how, &[1, 3, 6], 10_000);
            for (count, expected) in counts.iter().zip([1000_usize, 3000, 6000]) {
                assert!(count.abs_diff(expected) < 300, "{how:?}: {counts:?}"); // more than six standard deviations
            }
        }
    }

    #[test]
    fn turns_are_exact_for_any_weights() {
        assert_eq!(picks(Balancing::RoundRobin, &[1, 1, 1], 9), [3, 3, 3]);
        assert_eq!(picks(Balancing::RoundRobin, &[2, 2], 4), [2, 2]);
        assert_eq!(picks(Balancing::RoundRobin, &[1, 3, 6], 100), [10, 30, 60]);
        let (state, endpoints) = (ClusterState::default(), endpoints(&[1, 9]));
        let order: Vec<_> = (0..10).map(|_| state.pick(Balancing::RoundRobin, &endpoints, &[]).unwrap().0).collect();
        assert_eq!(order.iter().filter(|index| **index == 0).count(), 1);
    }

    #[test]
    fn least_request_evens_out_open_flows_by_weight() {
        let (state, endpoints) = (ClusterState::default(), endpoints(&[1, 1, 2]));
        let leases: Vec<_> =
            (0..400).map(|_| state.pick(Balancing::LeastRequest, &endpoints, &[]).unwrap().1).collect();
        let flows = |index: usize| state.flows_at(&Key::of(&endpoints[index].at));
        assert_eq!((0..3).map(flows).sum::<u32>(), 400);
        assert!(flows(0).abs_diff(100) < 15 && flows(1).abs_diff(100) < 15 && flows(2).abs_diff(200) < 20);
        drop(leases);
        assert_eq!((0..3).map(flows).sum::<u32>(), 0);
    }

    #[test]
    fn endpoints_that_were_tried_are_not_picked_again() {
        let (state, endpoints) = (ClusterState::default(), endpoints(&[5, 1]));
        for how in [Balancing::Random, Balancing::LeastRequest, Balancing::RoundRobin] {
            assert_eq!(state.pick(how, &endpoints, &[0]).unwrap().0, 1);
            assert!(state.pick(how, &endpoints, &[0, 1]).is_none());
            assert!(state.pick(how, &[], &[]).is_none());
        }
    }

    #[test]
    fn a_parked_lease_does_not_count_until_it_is_resumed() {
        let (state, endpoints) = (ClusterState::default(), endpoints(&[1]));
        let lease = state.pick(Balancing::Random, &endpoints, &[]).unwrap().1;
        let key = Key::of(&endpoints[0].at);
        let parked = lease.park();
        assert_eq!(state.flows_at(&key), 0);
        let lease = parked.resume();
        assert_eq!(state.flows_at(&key), 1);
        drop(lease);
        assert_eq!(state.flows_at(&key), 0);
    }

    #[test]
    fn addresses_without_flows_leave_a_full_table() {
        let state = ClusterState::default();
        let mut kept = Lease::default();
        state.count_address(&mut kept, IpAddr::from([10, 0, 0, 1]), 1);
        for index in 0..10_000_u32 {
            let mut lease = Lease::default();
            state.count_address(&mut lease, IpAddr::from(index.to_be_bytes()), 80);
        }
        assert!(lock(&state.flows).len() <= ADDRESSES_MIN);
        assert_eq!(state.flows_at(&Key::Host(Host::Ip(IpAddr::from([10, 0, 0, 1])), 1)), 1);
    }
}
