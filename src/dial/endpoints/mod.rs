//! Live state of endpoints: how many flows each has, how it fared, since when it is known. Keyed by cluster name and address, so that it
//! survives snapshots. Which one is taken is [`pick`]'s, who is left out [`health`]'s, who stays counted [`lease`]'s.

mod health;
mod host;
mod lease;
mod members;
mod pick;
mod state;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;

use crate::account::hosts::ClusterHosts;
use crate::route::Cluster;

pub(super) use host::{Host, Key};
pub(super) use lease::ParkedLease;
pub use lease::{Lease, Witness};
pub(super) use pick::Nobody;
pub use pick::{Chosen, PickBy};
pub(super) use state::ClusterState;

/// The live state of all clusters that need any.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    clusters: Mutex<HashMap<Arc<str>, Arc<ClusterState>>>,
    hosts: Mutex<HashMap<Arc<str>, Arc<ClusterHosts>>>,
}

const CLUSTERS_MIN: usize = 1024; // below that many, clusters that vanished are not looked for

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

    /// The live state of the cluster of this name, if it has any.
    pub(super) fn find(&self, name: &str) -> Option<Arc<ClusterState>> {
        lock(&self.clusters).get(name).cloned()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
