//! What probes found of parents that are several, for who chooses among them.

use std::sync::Arc;

use arc_swap::ArcSwap;
use foldhash::HashMap;

use super::Dialer;
use super::pool::same_hop;
use crate::account::parents::Probed;
use crate::route::Hop;

/// By the name of the parent's cluster: its endpoints, in their order, as far as they are probed.
#[derive(Debug, Default)]
pub(super) struct Parents(ArcSwap<ByCluster>);

type ByCluster = HashMap<Arc<str>, Arc<[Arc<Probed>]>>;

impl Dialer {
    /// Tells which parents are probed from now on: of each cluster all endpoints, in their order.
    pub fn set_probed(&self, probed: impl IntoIterator<Item = (Arc<str>, Arc<[Arc<Probed>]>)>) {
        self.parents.0.store(Arc::new(probed.into_iter().collect()));
    }

    /// True if two plans lead to one parent in one way: same endpoints, TLS and credentials.
    pub fn is_same_parent(one: &Hop, other: &Hop) -> bool {
        same_hop(one, other)
    }

    /// The endpoints of a parent that are down.
    pub(super) fn parents_down(&self, hop: &Hop) -> Vec<usize> {
        if hop.probe.is_none() {
            return Vec::new();
        }
        let probed = self.parents.0.load();
        let Some(probed) = probed.get(&hop.cluster.name) else { return Vec::new() };
        let endpoints = hop.cluster.endpoints();
        // Flows of the snapshot before may still have other endpoints.
        let is_down = |(index, endpoint): (usize, &crate::route::cluster::Endpoint)| {
            let known = probed.get(index).filter(|probed| *probed.endpoint == *endpoint.at.to_string())?;
            known.is_down().then_some(index)
        };
        endpoints.iter().enumerate().filter_map(is_down).collect()
    }
}
