//! The outbound half: resolve → judge addresses → TCP → hop → TLS, under one deadline. No policy but the cluster's own is here.

mod bounds;
mod connect;
mod endpoints;
mod error;
mod hop;
mod hosts;
mod http2;
mod origination;
mod outliers;
mod own;
mod parents;
mod pool;
mod proxy_header;
mod reach;
mod resolve;
mod settings;
mod tcp;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use socket2::SockRef;

use self::bounds::{Usages, expiry};
use self::endpoints::Endpoints;
use self::http2::Connections;
use self::origination::{client_of, originate, sni};
use self::parents::Parents;
use self::pool::Pool;
use self::resolve::Resolver;
use crate::account::hosts::ClusterHosts;
use crate::account::usage::Resource;
use crate::account::{Count, metrics};
use crate::flow::{DialTrace, Host, Limit, Name, Source, Target};
use crate::route::balancing::outliers::Event;
use crate::route::cluster::Authorization;
use crate::route::{Cluster, Hop, Via};
use crate::stream::Stream;
use crate::stream::descriptors::{self, Shortage};

pub use endpoints::{Chosen, Lease, PickBy, Witness};
pub use error::DialError;
pub use http2::{Http2Sent, Http2Upstream, is_refused};
pub use own::OwnListeners;
pub use pool::PoolKey;
pub use resolve::ResolveError;
pub use settings::{DialSettings, DnsSettings, Family};

/// Owns all live state of the way out: DNS cache, idle connections, counts per endpoint. Survives snapshots.
#[derive(Debug)]
pub struct Dialer {
    settings: ArcSwap<DialSettings>,
    resolver: ArcSwap<Resolver>,
    own: ArcSwap<OwnListeners>,
    endpoints: Endpoints,
    usages: Usages,
    parents: Parents,
    pool: Pool,
    http2: Connections,
    pending: Count,
}

/// An upstream that is ready for the client's first byte.
#[derive(Debug)]
pub struct Dialed {
    /// The stream.
    pub stream: Stream,
    /// Counts the flow at its endpoint for least-request; drop it when the flow ends.
    pub lease: Lease,
    /// Requests served on this connection before (0 for a fresh one).
    pub requests: u32,
    /// The other end, as in the trace of the dial.
    pub peer: Option<SocketAddr>,
    /// Our end.
    pub local: Option<SocketAddr>,
    /// The parent proxy that it leads to or through.
    pub hop: Option<Arc<str>>,
}

impl Dialed {
    /// A new connection; its ends stand in the trace, and in itself for the flows that use it later.
    fn fresh(stream: Stream, lease: Lease, trace: &mut DialTrace) -> Self {
        trace.local = stream.local_addr().or(trace.local); // a stream of HTTP/2 has none of its own
        Self { stream, lease, requests: 0, peer: trace.upstream, local: trace.local, hop: trace.hop.clone() }
    }

    /// Tells the trace of a flow that uses a kept connection where that leads.
    pub fn retrace(&self, trace: &mut DialTrace) {
        (trace.upstream, trace.local, trace.hop) = (self.peer, self.local, self.hop.clone());
    }
}

/// For whom a connection is opened.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// Whom a PROXY header names; `None`: the connection is our own.
    pub client: Option<&'a Source>,
    /// `Via` of its request, which has passed proxies before: goes on to a parent, so that two proxies that are each other's parent
    /// find the loop.
    pub received_via: Option<&'a str>,
    /// What its endpoint depends on.
    pub by: &'a PickBy<'a>,
}

impl Default for Asker<'_> {
    fn default() -> Self {
        Self { client: None, received_via: None, by: &PickBy::NOTHING }
    }
}

impl<'a> Asker<'a> {
    fn way(&self, cluster: &'a Arc<Cluster>, target: &'a Target, deadline: Instant) -> Way<'a> {
        Way { cluster, target, client: self.client, deadline, by: self.by }
    }
}

/// One flow on its way out.
#[derive(Clone, Copy, Debug)]
struct Way<'a> {
    cluster: &'a Arc<Cluster>,
    target: &'a Target,
    client: Option<&'a Source>,
    deadline: Instant,
    by: &'a PickBy<'a>,
}

/// A transport that stands.
#[derive(Debug)]
struct Reached {
    stream: Stream,
    lease: Lease,
    /// When the attempt that succeeded began: its TLS shares the cluster's connect timeout.
    began: Instant,
}

impl Dialer {
    /// Reads the system's resolver configuration where the settings ask for it.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn new(settings: DialSettings) -> Result<Self, String> {
        Ok(Self {
            resolver: ArcSwap::from_pointee(Resolver::new(&settings.dns, settings.dns_queries)?),
            pool: Pool::new(settings.idle_pool),
            http2: Connections::new(settings.idle_pool),
            settings: ArcSwap::from_pointee(settings),
            own: ArcSwap::default(),
            endpoints: Endpoints::default(),
            usages: Usages::default(),
            parents: Parents::default(),
            pending: Count::default(),
        })
    }

    /// Takes new settings; the DNS cache is kept where its part did not change.
    ///
    /// # Errors
    /// A sentence for the operator; the old settings stay.
    pub fn set_settings(&self, settings: DialSettings) -> Result<(), String> {
        if !self.resolver.load().fits(&settings.dns, settings.dns_queries) {
            self.resolver.store(Arc::new(Resolver::new(&settings.dns, settings.dns_queries)?));
        }
        self.pool.set_max(settings.idle_pool);
        self.http2.set_max(settings.idle_pool);
        self.settings.store(Arc::new(settings));
        Ok(())
    }

    /// Our own listening addresses: none of them is dialled by way of a literal or DNS, the admin port by no way.
    pub fn set_own(&self, own: OwnListeners) {
        self.own.store(Arc::new(own));
    }

    /// `dial.tcpUserTimeout`, for whoever keeps a connection.
    pub fn tcp_user_timeout(&self) -> Duration {
        self.settings.load().tcp_user_timeout
    }

    /// The clusters that were ever dialled, with what is counted of their addresses.
    pub fn hosts(&self) -> Vec<(Arc<str>, Arc<ClusterHosts>)> {
        self.endpoints.all_hosts()
    }

    /// Dials under way.
    pub fn pending(&self) -> usize {
        self.pending.get()
    }

    /// Questions sent to DNS servers since the resolver's settings last changed.
    pub fn dns_queries(&self) -> u64 {
        self.resolver.load().asked()
    }

    /// Opens a stream to `target` the way `cluster` says.
    ///
    /// On return the stream is ready for the client's first byte: DNS, TCP, the parent's TLS and CONNECT, and TLS origination are
    /// done. `deadline` bounds all of it, the cluster's connect timeout each attempt. Dropping the future closes the sockets.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(
        &self,
        cluster: &Arc<Cluster>,
        target: &Target,
        deadline: Instant,
        trace: &mut DialTrace,
    ) -> Result<Dialed, DialError> {
        self.dial_for(cluster, target, Asker::default(), deadline, trace).await
    }

    /// The same for a client.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial_for(
        &self,
        cluster: &Arc<Cluster>,
        target: &Target,
        asker: Asker<'_>,
        deadline: Instant,
        trace: &mut DialTrace,
    ) -> Result<Dialed, DialError> {
        nothing_is_missing(cluster, trace)?;
        let held = self.hold(cluster, Resource::Connections)?;
        let _pending = self.enter()?;
        let way = asker.way(cluster, target, deadline);
        let mut reached = match &cluster.via {
            Via::Direct => self.reach(way, trace).await?,
            Via::Connect(hop) => Box::pin(self.through(way, hop, asker.received_via, trace)).await?,
        };
        reached.lease.keep(held, expiry(cluster));
        if let (Some(version), Via::Direct) = (cluster.proxy_protocol(), &cluster.via) {
            Box::pin(proxy_header::send(&mut reached, version, way, trace)).await?;
        }
        let Reached { mut stream, lease, began } = reached;
        if let Some(tls) = &cluster.tls {
            let name = sni(tls, &target.host);
            stream = match Box::pin(originate(way, tls, &name, stream, began, false, trace)).await {
                Ok(stream) => stream,
                Err(error) => {
                    lease.connect_failed();
                    if error.is_of_one_endpoint() {
                        self.note(cluster, &lease.witness(), Event::ConnectFailed);
                    }
                    return Err(error);
                }
            };
        }
        Ok(Dialed::fresh(stream, lease, trace))
    }

    /// Opens a stream to the parent itself, which is to be asked for `target` in absolute-form. The limits are those of
    /// [`Dialer::dial`]; whether it may be asked is for [`Dialer::judge_asked`] to say.
    ///
    /// # Errors
    /// [`DialError::Hop`] for all that fails on the way.
    pub async fn dial_parent(
        &self,
        hop: &Hop,
        target: &Target,
        asker: Asker<'_>,
        deadline: Instant,
        trace: &mut DialTrace,
    ) -> Result<Dialed, DialError> {
        nothing_is_missing(&hop.cluster, trace)?;
        let _pending = self.enter()?;
        let way = asker.way(&hop.cluster, target, deadline);
        let Reached { stream, lease, .. } = Box::pin(self.reach_parent(way, hop, false, trace)).await?;
        Ok(Dialed::fresh(stream, lease, trace))
    }

    /// Judges what a parent of `cluster` is asked for: a name is the parent's to resolve, a literal is judged here.
    ///
    /// # Errors
    /// [`DialError::Prohibited`] and [`DialError::Loop`].
    pub fn judge_asked(&self, cluster: &Cluster, target: &Target) -> Result<(), DialError> {
        match target.host {
            Host::Ip(ip) => self.judge(cluster, SocketAddr::new(ip, target.port), false).map(drop),
            Host::Name(_) => Ok(()),
        }
    }

    /// The addresses of a name as a dial would find them, none of them judged: what `explain --resolve` asks for.
    ///
    /// # Errors
    /// See [`ResolveError`]; where one family has addresses, what became of the other does not matter.
    pub async fn addresses(&self, name: &Name) -> Result<Vec<IpAddr>, ResolveError> {
        let mut lookup = self.resolver.load().lookup(name);
        let (mut found, mut failed) = (Vec::new(), None);
        while let Some((_, answer)) = lookup.next().await {
            match answer {
                Ok(ips) => found.extend_from_slice(&ips),
                Err(error) => failed = Some(failed.map_or(error.clone(), |before: ResolveError| before.or(error))),
            }
        }
        match failed {
            Some(error) if found.is_empty() => Err(error),
            _ => {
                found.truncate(self.settings.load().dns.addresses_max);
                Ok(found)
            }
        }
    }

    fn enter(&self) -> Result<Pending<'_>, DialError> {
        let max = self.settings.load().pending_dials;
        if !self.pending.take(max) {
            metrics::limit_reached(Limit::PendingDials);
            return Err(DialError::Overloaded { what: "pending dials", max });
        }
        metrics::dial_began();
        let pending = Pending(&self.pending);
        if Shortage::is_now() {
            // A socket would be refused anyhow, and those of DNS would be taken from the operator's.
            return Err(DialError::Connect { peer: "an upstream".into(), source: descriptors::exhausted() });
        }
        Ok(pending)
    }

    /// The key under which a connection of this flow is kept.
    pub fn pool_key(
        &self,
        cluster: &Arc<Cluster>,
        target: &Target,
        client: &Source,
        chosen: Option<Chosen>,
    ) -> PoolKey {
        PoolKey::new(cluster, target, Some(client), chosen)
    }

    /// An idle connection that is still open and has no unread byte, the most recently used first; of those to the address that was
    /// chosen, if one was, to none that is left out and to none that is avoided.
    pub fn checkout(&self, key: &PoolKey, by: &PickBy<'_>) -> Option<Dialed> {
        let idle = self.checkout_chosen(key, by);
        if idle.is_some() {
            metrics::pool_hit();
        } else {
            metrics::pool_miss();
        }
        idle
    }

    fn checkout_chosen(&self, key: &PoolKey, by: &PickBy<'_>) -> Option<Dialed> {
        if by.chosen.is_none() && by.avoid.is_empty() && key.outliers().is_none() {
            return self.pool.checkout(key, |_| true);
        }
        let leads_there = self.leads_there(key, by.chosen.copied());
        self.pool.checkout(key, |peer| leads_there(peer) && !peer.is_some_and(|peer| by.avoid.contains(&peer)))
    }

    /// Keeps a connection for the next flow of this key; the oldest gives way when the pool is full.
    pub fn checkin(&self, key: PoolKey, dialed: Dialed) {
        if let Some(tcp) = dialed.stream.transport()
            && dialed.requests == 0
        {
            // Not at the dial: most connections are gone before it could matter. The relay does the same for tunnels.
            let _ = SockRef::from(tcp).set_tcp_user_timeout(Some(self.settings.load().tcp_user_timeout));
        }
        self.pool.checkin(key, dialed);
    }

    /// Closes every idle connection, and those of HTTP/2 once they are idle; the drain does so when no flow begins any more.
    pub fn close_idle(&self) {
        self.pool.close();
        self.http2.close();
    }

    /// Idle connections.
    pub fn idle(&self) -> usize {
        self.pool.len() + self.http2.idle()
    }
}

/// Looks for what flows of the cluster cannot do without, before anything is resolved or dialled for one that has to fail.
fn nothing_is_missing(cluster: &Cluster, trace: &mut DialTrace) -> Result<(), DialError> {
    if let Some(tls) = &cluster.tls {
        client_of(tls, trace)?;
    }
    let Via::Connect(hop) = &cluster.via else { return Ok(()) };
    if let Some(tls) = &hop.cluster.tls {
        client_of(tls, trace)?;
    }
    match &hop.authorization {
        Some(Authorization { value: Err(problem), .. }) => Err(DialError::Configuration(problem.clone())),
        _ => Ok(()),
    }
}

/// One dial under way, counted until it is done or dropped.
#[derive(Debug)]
struct Pending<'a>(&'a Count);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        metrics::dial_ended();
        self.0.give_back();
    }
}
