//! Bounds of clusters (`connectionPool`): what is held, keyed by the cluster's name, so that it survives snapshots.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use foldhash::HashMap;

use super::{DialError, Dialed, Dialer, PickBy, PoolKey};
use crate::account::usage::{Held, Resource, Usage};
use crate::route::Cluster;
use crate::route::connection_pool::ConnectionPool;

/// What is held of the clusters that have bounds.
#[derive(Debug, Default)]
pub(super) struct Usages(Mutex<HashMap<Arc<str>, Arc<Usage>>>);

const CLUSTERS_MIN: usize = 1024; // below that many, clusters that vanished are not looked for

impl Usages {
    fn of<'p>(&self, cluster: &Cluster, pool: &'p ConnectionPool) -> &'p Arc<Usage> {
        pool.usage(|| {
            let mut usages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if usages.len() >= CLUSTERS_MIN && usages.len().is_power_of_two() {
                usages.retain(|_, usage| Arc::strong_count(usage) > 1 || usage.is_used());
            }
            usages.entry(cluster.name.clone()).or_default().clone()
        })
    }
}

impl Dialer {
    /// What is held of a cluster; `None` where nothing bounds it.
    pub fn usage<'c>(&self, cluster: &'c Cluster) -> Option<&'c Arc<Usage>> {
        cluster.pool().map(|pool| self.usages.of(cluster, pool))
    }

    /// Takes one of a resource of a cluster until it is dropped; `None` where nothing bounds the cluster.
    ///
    /// # Errors
    /// [`DialError::Overflow`].
    pub fn hold(&self, cluster: &Cluster, of: Resource) -> Result<Option<Held>, DialError> {
        let Some(pool) = cluster.pool() else { return Ok(None) };
        let usage = self.usages.of(cluster, pool);
        let max = pool.max(of, usage);
        let take = || usage.take(of, max.unwrap_or(usize::MAX));
        let held = take().or_else(|| {
            // An idle connection that this flow cannot use gives way to one that it can.
            let gives_way = of == Resource::Connections && self.pool.close_one_of(usage);
            gives_way.then(take).flatten()
        });
        held.map(Some).ok_or_else(|| DialError::Overflow {
            resource: of,
            field: pool.field(of),
            max: max.unwrap_or(usize::MAX),
            cluster: cluster.name.clone(),
            rule: Box::new(pool.origin.clone()),
        })
    }

    /// An idle connection for a request that found none at first.
    pub fn become_idle(&self, key: &PoolKey, by: &PickBy<'_>) -> Option<Dialed> {
        self.checkout_chosen(key, by)
    }
}

/// When a connection of the cluster that was opened just now has to serve no more requests.
pub(super) fn expiry(cluster: &Cluster) -> Option<Instant> {
    Instant::now().checked_add(cluster.pool()?.lifetime?)
}
