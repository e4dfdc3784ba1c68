//! The live state of one cluster: its hosts, whose turn it is, who is left out.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use foldhash::HashMap;

use super::host::{Counted, Host, Key};
use super::lease::Lease;
use super::lock;
use super::members::Members;
use crate::route::Cluster;
use crate::route::balancing::Outliers;
use crate::route::balancing::outliers::{Cause, Event};
use crate::route::cluster::Endpoint;

/// Live state of one cluster.
#[derive(Debug, Default)]
pub(in crate::dial) struct ClusterState {
    turn: AtomicUsize,
    hosts: Mutex<HashMap<Key, Arc<Host>>>,
    /// Of the clusters of this name that are in use: mostly one, during a reload two.
    members: Mutex<Vec<(Weak<Cluster>, Arc<Members>)>>,
    /// One ejection at a time, so that together they stay below their bound.
    ejecting: Mutex<()>,
}

const ADDRESSES_MIN: usize = 64; // below that many, addresses that no flow uses are not looked for
const CLUSTERS_MAX: usize = 16; // of one name: one for each workload that sees it

impl ClusterState {
    /// The endpoints of a cluster with their live state.
    pub(super) fn members(&self, cluster: &Arc<Cluster>, endpoints: &[Endpoint]) -> Arc<Members> {
        let mut known = lock(&self.members);
        let is_of = |of: &Weak<Cluster>| std::ptr::eq(of.as_ptr(), Arc::as_ptr(cluster)); // a Weak keeps the place taken
        if let Some((_, members)) = known.iter().find(|(of, _)| is_of(of)) {
            return members.clone();
        }
        let hosts = endpoints.iter().map(|endpoint| self.host(Key::of(&endpoint.at))).collect();
        let members = Arc::new(Members::new(hosts));
        // After the new ones are there, so that what they share with past ones has not been let go.
        known.retain(|(of, _)| of.strong_count() > 0);
        if known.len() >= CLUSTERS_MAX {
            known.remove(0);
        }
        known.push((Arc::downgrade(cluster), members.clone()));
        members
    }

    /// Whose turn it is.
    pub(super) fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// The live state of an address.
    pub(in crate::dial) fn host(&self, key: Key) -> Arc<Host> {
        let mut hosts = lock(&self.hosts);
        if let Some(host) = hosts.get(&key) {
            return host.clone();
        }
        if hosts.len() >= ADDRESSES_MIN && hosts.len().is_power_of_two() {
            hosts.retain(|_, host| Arc::strong_count(host) > 1 || !host.health.is_blank());
            if hosts.len() >= ADDRESSES_MAX {
                hosts.retain(|_, host| Arc::strong_count(host) > 1);
            }
        }
        hosts.entry(key.clone()).or_insert_with(|| Arc::new(Host::new(key))).clone()
    }

    /// The live state of an address, if it has any.
    pub(in crate::dial) fn find(&self, key: &Key) -> Option<Arc<Host>> {
        lock(&self.hosts).get(key).cloned()
    }

    /// All addresses that have any.
    pub(in crate::dial) fn keys(&self) -> Vec<Key> {
        lock(&self.hosts).keys().cloned().collect()
    }

    /// Counts a flow at an address that an endpoint's name resolved to, in addition to the endpoint itself.
    pub(in crate::dial) fn count_address(&self, lease: &mut Lease, peer: SocketAddr) {
        lease.address = Some(Counted::new(self.host(peer.into())));
    }

    /// How long an address is still left out.
    pub(in crate::dial) fn left_out(&self, key: &Key, now: Instant) -> Option<Duration> {
        self.find(key)?.health.left_out(now)
    }

    /// Takes one more event of a host; says for how long and why it is left out from now on, if it is. `population` names all hosts that
    /// the cluster has now, and is asked for only then.
    pub(in crate::dial) fn note(
        &self,
        host: &Host,
        outliers: &Outliers,
        event: Event,
        population: impl FnOnce() -> Vec<Key>,
    ) -> Option<(Duration, Cause)> {
        let now = Instant::now();
        let cause = host.health.count(outliers, event, now)?;
        let population = population();
        let _one_at_a_time = lock(&self.ejecting);
        let active = population.iter().filter(|key| self.left_out(key, now).is_some()).count();
        if host.health.left_out(now).is_some() || !outliers.allows(active, population.len().max(1)) {
            return None;
        }
        Some((host.health.eject(outliers, now), cause))
    }

    /// Makes a host so old; members of clusters that are known already do not notice.
    #[cfg(test)]
    pub(super) fn age(&self, key: Key, age: Duration) {
        let mut host = Host::new(key.clone());
        host.since = Instant::now().checked_sub(age).unwrap_or(host.since);
        lock(&self.hosts).insert(key, Arc::new(host));
    }

    /// True while flows or rules need it.
    pub(super) fn is_used(&self) -> bool {
        lock(&self.members).iter().any(|(of, _)| of.strong_count() > 0)
            || lock(&self.hosts).values().any(|host| host.flows() > 0)
    }
}

const ADDRESSES_MAX: usize = 4096; // beyond, what is known of addresses without flows is let go

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;

    use super::super::super::testing::{cluster, endpoint};
    use super::*;
    use crate::route::Discovery;

    fn peer(index: u32) -> SocketAddr {
        SocketAddr::new(IpAddr::from(index.to_be_bytes()), 80)
    }

    #[test]
    fn addresses_without_flows_leave_a_full_table() {
        let state = ClusterState::default();
        let mut kept = Lease::default();
        state.count_address(&mut kept, peer(1));
        for index in 2..10_000 {
            let mut lease = Lease::default();
            state.count_address(&mut lease, peer(index));
        }
        assert!(lock(&state.hosts).len() <= ADDRESSES_MIN);
        assert_eq!(state.find(&peer(1).into()).unwrap().flows(), 1);
        drop(kept);
        assert_eq!(state.find(&peer(1).into()).unwrap().flows(), 0);
    }

    #[test]
    fn what_is_known_of_failures_is_kept_as_long_as_there_is_room() {
        let (state, outliers) = (ClusterState::default(), Outliers::default());
        for index in 0..3 * ADDRESSES_MAX as u32 {
            let host = state.host(peer(index).into());
            state.note(&host, &outliers, Event::Answered(500), Vec::new);
        }
        let kept = lock(&state.hosts).len();
        assert!((ADDRESSES_MIN + 1..=ADDRESSES_MAX).contains(&kept), "{kept}");
    }

    #[test]
    fn no_more_endpoints_are_left_out_than_their_share_and_a_reload_changes_nothing() {
        let of = |count: u32| {
            let endpoints = (0..count).map(|index| endpoint(&peer(index).to_string())).collect();
            Arc::new(Cluster { discovery: Discovery::Static(endpoints), ..cluster() })
        };
        let endpoints = |cluster: &Cluster| match &cluster.discovery {
            Discovery::Static(endpoints) => endpoints.clone(),
            _ => unreachable!(),
        };
        let outliers = Outliers { consecutive_5xx: 1, max_ejection_percent: 50, ..Outliers::default() };
        let (state, before) = (ClusterState::default(), of(4));
        let members = state.members(&before, &endpoints(&before));
        assert!(Arc::ptr_eq(&members, &state.members(&before, &endpoints(&before))));
        let population = || (0..4).map(|index| peer(index).into()).collect::<Vec<Key>>();
        let note =
            |index: usize| state.note(&members.hosts[index], &outliers, Event::Answered(500), population).is_some();
        assert_eq!([note(0), note(1), note(1), note(2), note(3)], [true, true, false, false, false]);
        drop(before);
        let after = of(5);
        let members = state.members(&after, &endpoints(&after));
        let now = Instant::now();
        let left_out: Vec<bool> = members.hosts.iter().map(|host| host.health.left_out(now).is_some()).collect();
        assert_eq!(left_out, [true, true, false, false, false]);
        assert_eq!(lock(&state.members).len(), 1, "the past one is gone");
        assert!(state.is_used());
        drop(after);
        assert!(!state.is_used());
    }
}
