//! What becomes of flows, noted at their endpoints: who failed too often is left out (`outlierDetection`). Before a flow looks for a
//! kept connection, its endpoint is chosen here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endpoints::{Chosen, Host as LiveHost, Key, PickBy, Witness};
use super::pool::PoolKey;
use super::reach::nobody_of;
use super::{DialError, Dialer};
use crate::account::metrics;
use crate::flow::{ErrorType, Host};
use crate::route::balancing::Balancing;
use crate::route::balancing::outliers::Event;
use crate::route::cluster::EndpointAddress;
use crate::route::{Cluster, Discovery, Via};

impl Dialer {
    /// Chooses the endpoint of a flow before a kept connection to it is looked for. `None`: there is nothing to choose.
    ///
    /// # Errors
    /// [`DialError::Ejected`] and [`DialError::NoEndpoint`].
    pub fn choose(&self, cluster: &Arc<Cluster>, by: PickBy<'_>) -> Result<Option<Chosen>, DialError> {
        let (endpoints, is_of_names) = match &cluster.discovery {
            Discovery::Static(endpoints) => (endpoints, false),
            Discovery::Dns { endpoints, first_address_only } => (endpoints, !first_address_only),
            Discovery::Asked { .. } | Discovery::Missing(_) => return Ok(None),
        };
        let watched = cluster.outliers().is_some();
        // One connection to a name is as good as the other, unless somebody said how its addresses share the flows.
        let by_address = is_of_names && (watched || cluster.balancing != Balancing::LeastRequest);
        if endpoints.is_empty() || endpoints.len() == 1 && !watched && !by_address || !is_straight(cluster) {
            return Ok(None);
        }
        let state = self.endpoints.of(cluster);
        let endpoint = match endpoints.len() {
            1 if !watched => 0,
            _ => state.choose(cluster, endpoints, by).map_err(|nobody| nobody_of(cluster, nobody))?,
        };
        let mut chosen = Chosen { endpoint: endpoint as u32, first: [None; 2], is_fresh: false };
        if let EndpointAddress::Host(Host::Name(name), port) = &endpoints[endpoint].at
            && by_address
        {
            match self.resolver.load().remembered(name) {
                Some(families) => {
                    chosen.first = families.map(|ips| {
                        let mut ips = ips.to_vec();
                        state.arrange(cluster, &mut ips, *port, by);
                        ips.first().copied()
                    });
                    chosen.is_fresh = chosen.first == [None; 2]; // all of them are left out: the dial says so
                }
                None => chosen.is_fresh = cluster.balancing.hashing().is_some(),
            }
        }
        Ok(Some(chosen))
    }

    /// Says of the other end of a kept connection whether it is what was chosen, and in use.
    pub(super) fn leads_there(
        &self,
        key: &PoolKey,
        chosen: Option<Chosen>,
    ) -> impl Fn(Option<SocketAddr>) -> bool + use<> {
        let panics = key.outliers().is_none_or(|outliers| outliers.panics(0, 1));
        let state = (!panics).then(|| self.endpoints.of(&key.cluster));
        let now = Instant::now();
        move |peer| {
            let is_chosen = chosen.is_none_or(|chosen| {
                !chosen.is_fresh
                    && (chosen.first == [None; 2] || peer.is_some_and(|peer| chosen.first.contains(&Some(peer.ip()))))
            });
            let left_out = || peer.and_then(|peer| state.as_ref()?.left_out(&peer.into(), now)).is_some();
            is_chosen && !left_out()
        }
    }

    /// Notes what became of a flow on a connection to `cluster`. What comes through a parent says nothing of the parent.
    pub fn note(&self, cluster: &Cluster, witness: &Witness, event: Event) {
        if let Some(counts) = &witness.counts {
            match event {
                Event::Answered(500..) | Event::Broken => counts.erred(),
                Event::Answered(_) | Event::Connected => counts.succeeded(),
                Event::TimedOut => counts.timed_out(),
                Event::ConnectFailed => {} // counted with the connection
            }
        }
        if let Some(host) = &witness.host
            && is_straight(cluster)
        {
            self.watch(cluster, host, event);
        }
    }

    /// Notes an attempt to connect that came to nothing, where that is the endpoint's fault.
    pub(super) fn note_failed(&self, cluster: &Cluster, at: impl FnOnce() -> Key, error: &DialError) {
        let is_theirs = matches!(error, DialError::Connect { .. } | DialError::Timeout { .. })
            && error.error_type() != ErrorType::Overloaded;
        if cluster.outliers().is_some() && is_theirs {
            let host = self.endpoints.of(cluster).host(at());
            self.watch(cluster, &host, Event::ConnectFailed);
        }
    }

    /// How long each address of a cluster that is left out still is; of a cluster of that name that watches its endpoints.
    pub fn left_out(&self, cluster: &str) -> impl Fn(SocketAddr) -> Option<Duration> + use<> {
        let (state, now) = (self.endpoints.find(cluster), Instant::now());
        move |peer| state.as_ref()?.left_out(&peer.into(), now)
    }

    fn watch(&self, cluster: &Cluster, host: &LiveHost, event: Event) {
        let Some(outliers) = cluster.outliers() else { return };
        let state = self.endpoints.of(cluster);
        let ejected = state.note(host, outliers, event, || self.population(cluster));
        if let Some((time, cause)) = ejected {
            metrics::endpoint_ejected(cause.as_str(), time);
            tracing::warn!(
                cluster = %cluster.name, endpoint = %host.key, cause = cause.as_str(), ?time,
                "an endpoint failed too often and is left out"
            );
        }
    }

    /// All hosts that a cluster has now: its addresses, those of its names as far as they are known.
    fn population(&self, cluster: &Cluster) -> Vec<Key> {
        let (endpoints, first_only) = match &cluster.discovery {
            Discovery::Static(endpoints) => (endpoints, false),
            Discovery::Dns { endpoints, first_address_only } => (endpoints, *first_address_only),
            Discovery::Asked { .. } => return self.endpoints.of(cluster).keys(),
            Discovery::Missing(_) => return Vec::new(),
        };
        let resolver = self.resolver.load();
        let mut keys = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let EndpointAddress::Host(Host::Name(name), port) = &endpoint.at else {
                keys.push(Key::of(&endpoint.at));
                continue;
            };
            match resolver.remembered(name) {
                Some(families) if !first_only => {
                    keys.extend(
                        families.iter().flat_map(|ips| ips.iter()).map(|ip| SocketAddr::new(*ip, *port).into()),
                    );
                }
                _ => keys.push(Key::of(&endpoint.at)),
            }
        }
        keys
    }
}

/// A connection to the cluster leads to its endpoints, and not to a parent.
fn is_straight(cluster: &Cluster) -> bool {
    matches!(cluster.via, Via::Direct)
}
