//! The outbound half: resolve → judge addresses → TCP → hop → TLS, under one deadline. No policy but the cluster's own is here.

mod connect;
mod endpoints;
mod error;
mod hosts;
mod own;
mod pool;
mod resolve;
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
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout_at;

use self::connect::Asking;
use self::endpoints::{ClusterState, Endpoints};
use self::own::Before;
use self::pool::Pool;
use self::resolve::Resolver;
use self::tcp::{Pacing, RaceError};
use crate::account::hosts::{ClusterHosts, Connection};
use crate::account::{Count, metrics};
use crate::flow::{DialTrace, Host, Limit, Name, Target};
use crate::http1::HeadLimits;
use crate::route::cluster::{Authorization, Endpoint, EndpointAddress, Sni};
use crate::route::{Cluster, Discovery, Hop, Origination, Via};
use crate::stream::Stream;
use crate::stream::descriptors::{self, Shortage};
use crate::tls::ClientTls;

pub use endpoints::Lease;
pub use error::DialError;
pub use own::OwnListeners;
pub use pool::PoolKey;
pub use resolve::ResolveError;

/// Settings of the outbound half.
#[derive(Clone, Debug)]
pub struct DialSettings {
    /// `dns`.
    pub dns: DnsSettings,
    /// `dial.happyEyeballsDelay`.
    pub happy_eyeballs_delay: std::time::Duration,
    /// `dial.tcpUserTimeout`.
    pub tcp_user_timeout: std::time::Duration,
    /// `limits.pendingDials`.
    pub pending_dials: usize,
    /// `limits.dnsQueries`.
    pub dns_queries: usize,
    /// `limits.idlePool`.
    pub idle_pool: usize,
    /// `limits.headBytes`: of a parent's answer to our CONNECT.
    pub head_bytes: usize,
    /// Our name in `Via` of a CONNECT to a parent; `None`: none is sent (`via.send: false`).
    pub via: Option<Arc<str>>,
}

/// `dns` of the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// Servers; empty: those of the system.
    pub servers: Vec<SocketAddr>,
    /// Which families are asked for.
    pub family: Family,
    /// Of one query.
    pub timeout: std::time::Duration,
    /// Queries sent for one question.
    pub attempts: usize,
    /// The hosts file; `None`: none.
    pub hosts: Option<std::path::PathBuf>,
    /// How long an answer "no such name" without SOA is remembered.
    pub negative_ttl: std::time::Duration,
    /// How long a failure is remembered.
    pub failure_ttl: std::time::Duration,
    /// Addresses of one answer that are looked at.
    pub addresses_max: usize,
    /// Servers for names under a suffix.
    pub forward: Vec<(crate::flow::Name, Vec<SocketAddr>)>,
}

/// Address families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Both.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// Owns all live state of the way out: DNS cache, idle connections, counts per endpoint. Survives snapshots.
#[derive(Debug)]
pub struct Dialer {
    settings: ArcSwap<DialSettings>,
    resolver: ArcSwap<Resolver>,
    own: ArcSwap<OwnListeners>,
    endpoints: Endpoints,
    pool: Pool,
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
        trace.local = stream.local_addr();
        Self { stream, lease, requests: 0, peer: trace.upstream, local: trace.local, hop: trace.hop.clone() }
    }

    /// Tells the trace of a flow that uses a kept connection where that leads.
    pub fn retrace(&self, trace: &mut DialTrace) {
        (trace.upstream, trace.local, trace.hop) = (self.peer, self.local, self.hop.clone());
    }
}

/// One flow on its way out.
#[derive(Clone, Copy, Debug)]
struct Way<'a> {
    cluster: &'a Arc<Cluster>,
    target: &'a Target,
    deadline: Instant,
}

/// A transport that stands.
#[derive(Debug)]
struct Reached {
    stream: Stream,
    lease: Lease,
    /// When the attempt that succeeded began: its TLS shares the cluster's connect timeout.
    began: Instant,
}

const ENDPOINTS_TRIED_MAX: usize = 3; // of one cluster for one flow: the client waits
const HEAD_FIELDS_MAX: usize = 100; // of a parent's answer, as `limits.headFields` by default

impl Dialer {
    /// Reads the system's resolver configuration where the settings ask for it.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn new(settings: DialSettings) -> Result<Self, String> {
        Ok(Self {
            resolver: ArcSwap::from_pointee(Resolver::new(&settings.dns, settings.dns_queries)?),
            pool: Pool::new(settings.idle_pool),
            settings: ArcSwap::from_pointee(settings),
            own: ArcSwap::default(),
            endpoints: Endpoints::default(),
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
        self.dial_onward(cluster, target, None, deadline, trace).await
    }

    /// The same for a client whose request has passed proxies before: `received_via` is its `Via`, and goes on to a parent, so that
    /// two proxies that are each other's parent find the loop.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial_onward(
        &self,
        cluster: &Arc<Cluster>,
        target: &Target,
        received_via: Option<&str>,
        deadline: Instant,
        trace: &mut DialTrace,
    ) -> Result<Dialed, DialError> {
        nothing_is_missing(cluster, trace)?;
        let _pending = self.enter()?;
        let way = Way { cluster, target, deadline };
        let Reached { mut stream, lease, began } = match &cluster.via {
            Via::Direct => self.reach(way, trace).await?,
            Via::Connect(hop) => Box::pin(self.through(way, hop, received_via, trace)).await?,
        };
        if let Some(tls) = &cluster.tls {
            let name = sni(tls, &target.host);
            stream = match Box::pin(originate(way, tls, &name, stream, began, trace)).await {
                Ok(stream) => stream,
                Err(error) => {
                    lease.connect_failed();
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
        deadline: Instant,
        trace: &mut DialTrace,
    ) -> Result<Dialed, DialError> {
        nothing_is_missing(&hop.cluster, trace)?;
        let _pending = self.enter()?;
        let way = Way { cluster: &hop.cluster, target, deadline };
        let Reached { stream, lease, .. } = Box::pin(self.reach_parent(way, hop, trace)).await?;
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

    /// Connects through a parent: to the parent, its TLS, CONNECT.
    async fn through(
        &self,
        way: Way<'_>,
        hop: &Hop,
        received_via: Option<&str>,
        trace: &mut DialTrace,
    ) -> Result<Reached, DialError> {
        let (asked, lease) = self.asked_of(way, hop)?;
        let name = hop_name(hop);
        trace.hop = Some(name.clone()); // also where it is not reached
        let on_the_way = |source| DialError::Hop { hop: name.clone(), source: Box::new(source) };
        let settings = self.settings.load_full();
        let asking = Asking {
            hop: &name,
            via: settings.via.as_deref(),
            received_via,
            head: HeadLimits { bytes: settings.head_bytes, fields: HEAD_FIELDS_MAX },
        };
        let request = connect::request(hop, &asked, asking).map_err(on_the_way)?;
        let to_hop = Way { cluster: &hop.cluster, ..way };
        let Reached { stream, lease: hop_lease, .. } = self.reach_parent(to_hop, hop, trace).await?;
        let started = Instant::now();
        let until = way.deadline.min(started + way.cluster.connect_timeout);
        let tunnel = timeout_at(until.into(), connect::connect(stream, &request, &asked, asking)).await;
        trace.connect += started.elapsed();
        let stream = match tunnel {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                trace.hop_status = error.hop_status();
                return Err(match error {
                    DialError::HopRefused { .. } | DialError::HopProtocol { .. } => error,
                    error => on_the_way(error),
                });
            }
            Err(_) => {
                let step = format!("CONNECT {asked}").into();
                return Err(on_the_way(DialError::Timeout { step, after: until - started }));
            }
        };
        // The flow counts at the parent and at the endpoint asked for; the parent's count is the one that spreads load.
        Ok(Reached { stream, lease: hop_lease.or(lease), began: Instant::now() })
    }

    /// Connects to a parent: TCP and the TLS that it wants.
    async fn reach_parent(&self, way: Way<'_>, hop: &Hop, trace: &mut DialTrace) -> Result<Reached, DialError> {
        let name = hop_name(hop);
        trace.hop = Some(name.clone());
        let on_the_way = |source| DialError::Hop { hop: name, source: Box::new(source) };
        let mut reached = match self.reach(way, trace).await {
            Ok(reached) => reached,
            Err(error) => return Err(on_the_way(error)),
        };
        if let Some(tls) = &hop.cluster.tls {
            let name = sni(tls, hop_host(hop).unwrap_or(&way.target.host));
            reached.stream =
                originate(way, tls, &name, reached.stream, reached.began, trace).await.map_err(on_the_way)?;
        }
        Ok(reached)
    }

    /// What the parent is asked for: the rule's own target, else an endpoint of the cluster, else what the client asked for. A name
    /// is the parent's to resolve; a literal is judged here.
    fn asked_of(&self, way: Way<'_>, hop: &Hop) -> Result<(Target, Lease), DialError> {
        if let Some(target) = &hop.target {
            return Ok((target.clone(), Lease::default()));
        }
        let (host, port, spelled, lease) = match &way.cluster.discovery {
            Discovery::Asked { port } => (&way.target.host, port.unwrap_or(way.target.port), false, Lease::default()),
            Discovery::Dns { endpoints, .. } | Discovery::Static(endpoints) => {
                let picked = self.endpoints.of(way.cluster).pick(way.cluster.balancing, endpoints, &[]);
                let (index, lease) = picked.ok_or_else(|| no_endpoint(way.cluster))?;
                match &endpoints[index].at {
                    EndpointAddress::Host(host, port) => (host, *port, true, lease),
                    EndpointAddress::Unix(path) => {
                        let reason = format!("{} cannot be reached through a parent proxy", path.display());
                        return Err(DialError::Configuration(reason.into()));
                    }
                }
            }
            Discovery::Missing(reason) => return Err(DialError::Configuration(reason.clone())),
        };
        if let Host::Ip(ip) = host {
            self.judge(way.cluster, SocketAddr::new(*ip, port), spelled)?;
        }
        Ok((Target { host: host.clone(), port }, lease))
    }

    /// Connects to where the cluster is, without what is around the transport.
    async fn reach(&self, way: Way<'_>, trace: &mut DialTrace) -> Result<Reached, DialError> {
        match &way.cluster.discovery {
            Discovery::Asked { port } => {
                let port = port.unwrap_or(way.target.port);
                match &way.target.host {
                    Host::Ip(ip) => self.reach_address(way, SocketAddr::new(*ip, port), None, false, trace).await,
                    Host::Name(name) => Box::pin(self.reach_name(way, name, port, None, trace)).await,
                }
            }
            Discovery::Static(endpoints) | Discovery::Dns { endpoints, .. } => match endpoints.as_slice() {
                [] => Err(no_endpoint(way.cluster)),
                [endpoint] => self.reach_endpoint(way, endpoint, trace).await,
                endpoints => Box::pin(self.reach_one_of(way, endpoints, trace)).await,
            },
            Discovery::Missing(reason) => Err(DialError::Configuration(reason.clone())),
        }
    }

    /// Tries endpoints until one connects.
    async fn reach_one_of(
        &self,
        way: Way<'_>,
        endpoints: &[Endpoint],
        trace: &mut DialTrace,
    ) -> Result<Reached, DialError> {
        let state = self.endpoints.of(way.cluster);
        let mut tried = Vec::with_capacity(ENDPOINTS_TRIED_MAX);
        let mut failed: Option<DialError> = None;
        while tried.len() < ENDPOINTS_TRIED_MAX
            && let Some((index, lease)) = state.pick(way.cluster.balancing, endpoints, &tried)
        {
            tried.push(index);
            match self.reach_endpoint(way, &endpoints[index], trace).await {
                Ok(reached) => return Ok(Reached { lease: lease.or(reached.lease), ..reached }),
                Err(error) if error.is_of_one_endpoint() && Instant::now() < way.deadline => {
                    failed = Some(match failed {
                        Some(kept) if kept.weight() >= error.weight() => kept,
                        _ => error,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or_else(|| no_endpoint(way.cluster)))
    }

    async fn reach_endpoint(
        &self,
        way: Way<'_>,
        endpoint: &Endpoint,
        trace: &mut DialTrace,
    ) -> Result<Reached, DialError> {
        match &endpoint.at {
            EndpointAddress::Host(Host::Ip(ip), port) => {
                self.reach_address(way, SocketAddr::new(*ip, *port), None, true, trace).await
            }
            EndpointAddress::Host(Host::Name(name), port) => {
                let state = self.endpoints.of(way.cluster);
                Box::pin(self.reach_name(way, name, *port, Some(&state), trace)).await
            }
            EndpointAddress::Unix(path) => {
                let began = Instant::now();
                trace.attempts += 1;
                let until = way.deadline.min(began + way.cluster.connect_timeout);
                let peer = || path.display().to_string().into();
                match timeout_at(until.into(), UnixStream::connect(path)).await {
                    Ok(Ok(stream)) => Ok(Reached { stream: stream.into(), lease: Lease::default(), began }),
                    Ok(Err(source)) => Err(DialError::Connect { peer: peer(), source }),
                    Err(_) => {
                        let step = format!("connect to {}", path.display()).into();
                        Err(DialError::Timeout { step, after: until - began })
                    }
                }
            }
        }
    }

    /// The straight way: one address, one attempt.
    async fn reach_address(
        &self,
        way: Way<'_>,
        peer: SocketAddr,
        name: Option<&str>,
        spelled: bool,
        trace: &mut DialTrace,
    ) -> Result<Reached, DialError> {
        let before = self.judge(way.cluster, peer, spelled)?;
        let began = Instant::now();
        trace.upstream = Some(peer);
        trace.attempts += 1;
        let connection = Connection::begin(self.endpoints.hosts(way.cluster).host(peer, name));
        let connected = attempt(way, connection, peer, before, began).await;
        trace.connect += began.elapsed();
        let (stream, connection) = connected?;
        Ok(Reached { stream: stream.into(), lease: Lease::on(connection), began })
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

    /// Resolves, then dials what is found. `state`: the name is an endpoint of a cluster, and each of its addresses one too.
    async fn reach_name(
        &self,
        way: Way<'_>,
        name: &Name,
        port: u16,
        state: Option<&ClusterState>,
        trace: &mut DialTrace,
    ) -> Result<Reached, DialError> {
        let started = Instant::now();
        let lookup = self.resolver.load().lookup(name);
        if let Some(ip) = lookup.sole_address() {
            return self.reach_address(way, SocketAddr::new(ip, port), Some(name.as_str()), false, trace).await;
        }
        let settings = self.settings.load_full();
        let pacing = Pacing {
            delay: settings.happy_eyeballs_delay,
            attempts_max: settings.dns.addresses_max,
            deadline: way.deadline,
        };
        let first_only = matches!(way.cluster.discovery, Discovery::Dns { first_address_only: true, .. });
        let arrange = |ips: &mut Vec<IpAddr>| match state {
            // The first that may be dialled: one that may not says nothing against the others, as explain says too.
            _ if first_only => {
                let may = |ip: &IpAddr| self.judge(way.cluster, SocketAddr::new(*ip, port), false).is_ok();
                let first = ips.iter().position(may).unwrap_or_default();
                ips.swap(0, first);
                ips.truncate(1);
            }
            Some(state) => state.order(way.cluster.balancing, ips, port),
            None => {}
        };
        let (mut resolved, mut upstream, mut attempts) = (None, None, 0);
        let hosts = self.endpoints.hosts(way.cluster);
        let begin = |ip: IpAddr| {
            let now = Instant::now();
            resolved.get_or_insert(now);
            let peer = SocketAddr::new(ip, port);
            let before = self.judge(way.cluster, peer, false)?;
            tracing::debug!(%peer, %name, "dialling");
            upstream = Some(peer);
            attempts += 1;
            let connection = Connection::begin(hosts.host(peer, Some(name.as_str())));
            Ok(attempt(way, connection, peer, before, now))
        };
        let raced = tcp::race(lookup, pacing, arrange, begin).await;
        let began = resolved.unwrap_or_else(Instant::now);
        trace.dns += began - started;
        trace.connect += began.elapsed();
        trace.attempts += attempts;
        let failed = match raced {
            Ok((ip, (stream, connection))) => {
                trace.upstream = Some(SocketAddr::new(ip, port));
                let mut lease = Lease::on(connection);
                if let Some(state) = state {
                    state.count_address(&mut lease, ip, port);
                }
                return Ok(Reached { stream: stream.into(), lease, began });
            }
            Err(failed) => failed,
        };
        trace.upstream = upstream.or(trace.upstream);
        Err(match (failed, upstream) {
            (RaceError::Dial(error), _) => error,
            (RaceError::Late, Some(peer)) => {
                DialError::Timeout { step: format!("connect to {peer}").into(), after: began.elapsed() }
            }
            (RaceError::Late, None) => DialError::Resolve { name: name.clone(), source: ResolveError::Timeout },
            (RaceError::Resolve(source), _) => DialError::Resolve { name: name.clone(), source },
        })
    }

    /// Judges exactly the address that is dialled next.
    fn judge(&self, cluster: &Cluster, peer: SocketAddr, spelled: bool) -> Result<Before, DialError> {
        cluster.addresses.judge(peer.ip()).map_err(DialError::Prohibited)?;
        match self.own.load().before(peer, spelled) {
            Before::Own => Err(DialError::Loop(peer)),
            before => Ok(before),
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
    pub fn pool_key(&self, cluster: &Arc<Cluster>, target: &Target) -> PoolKey {
        PoolKey::new(cluster, target)
    }

    /// An idle connection that is still open and has no unread byte, the most recently used first.
    pub fn checkout(&self, key: &PoolKey) -> Option<Dialed> {
        let idle = self.pool.checkout(key);
        if idle.is_some() {
            metrics::pool_hit();
        } else {
            metrics::pool_miss();
        }
        idle
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

    /// Closes every idle connection; the drain does so once no flow begins any more.
    pub fn close_idle(&self) {
        self.pool.close();
    }

    /// Idle connections.
    pub fn idle(&self) -> usize {
        self.pool.len()
    }
}

/// Connects to an address that was judged; what only the connected socket tells is judged on it.
async fn attempt(
    way: Way<'_>,
    connection: Connection,
    peer: SocketAddr,
    before: Before,
    began: Instant,
) -> Result<(TcpStream, Connection), DialError> {
    match connect_to(way, peer, before, began).await {
        Ok(stream) => Ok((stream, connection)),
        Err(error) => {
            connection.failed();
            Err(error)
        }
    }
}

async fn connect_to(way: Way<'_>, peer: SocketAddr, before: Before, began: Instant) -> Result<TcpStream, DialError> {
    let until = way.deadline.min(began + way.cluster.connect_timeout);
    let failed = |source| DialError::Connect { peer: peer.to_string().into(), source };
    let stream = match timeout_at(until.into(), tcp::connect(peer, &way.cluster.source)).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => {
            let after = until.saturating_duration_since(began);
            return Err(DialError::Timeout { step: format!("connect to {peer}").into(), after });
        }
    };
    if before == Before::AskSocket && OwnListeners::is_own_end(peer, stream.local_addr().map_err(failed)?) {
        return Err(DialError::Loop(peer));
    }
    Ok(stream)
}

/// Wraps TLS of ours around a stream.
async fn originate(
    way: Way<'_>,
    tls: &Origination,
    name: &Host,
    stream: Stream,
    began: Instant,
    trace: &mut DialTrace,
) -> Result<Stream, DialError> {
    let client = client_of(tls, trace)?;
    let started = Instant::now();
    let until = way.deadline.min(began + way.cluster.connect_timeout);
    let shaken = timeout_at(until.into(), client.connect(stream, name)).await;
    trace.connect += started.elapsed();
    let error = match shaken {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(source)) => DialError::Tls { name: name.to_string().into(), source },
        Err(_) => {
            let after = until.saturating_duration_since(began);
            DialError::Timeout { step: format!("TLS handshake with {name}").into(), after }
        }
    };
    trace.transport_failure = Some(error.reason().into());
    Err(error)
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
        Some(Authorization { value: Err(problem) }) => Err(DialError::Configuration(problem.clone())),
        _ => Ok(()),
    }
}

/// The client of a rule, which is there unless what it is made of is missing.
fn client_of<'a>(tls: &'a Origination, trace: &mut DialTrace) -> Result<&'a ClientTls, DialError> {
    tls.client.as_ref().map_err(|problem| {
        trace.transport_failure = Some((&**problem).into());
        DialError::Credential(problem.clone())
    })
}

/// The name that TLS asks for and verifies.
fn sni(tls: &Origination, asked: &Host) -> Host {
    match &tls.sni {
        Sni::Fixed(name) => Host::Name(name.clone()),
        Sni::Asked => asked.clone(),
    }
}

/// The parent as written: its address where it has one, else the name of its cluster.
fn hop_name(hop: &Hop) -> Arc<str> {
    match &hop.cluster.discovery {
        Discovery::Dns { endpoints, .. } | Discovery::Static(endpoints) => match endpoints.as_slice() {
            [Endpoint { at: EndpointAddress::Host(host, port), .. }] => {
                Target { host: host.clone(), port: *port }.to_string().into()
            }
            [Endpoint { at: EndpointAddress::Unix(path), .. }] => path.display().to_string().into(),
            _ => hop.cluster.name.clone(),
        },
        Discovery::Asked { .. } | Discovery::Missing(_) => hop.cluster.name.clone(),
    }
}

fn hop_host(hop: &Hop) -> Option<&Host> {
    match &hop.cluster.discovery {
        Discovery::Dns { endpoints, .. } | Discovery::Static(endpoints) => match endpoints.first()?.at {
            EndpointAddress::Host(ref host, _) => Some(host),
            EndpointAddress::Unix(_) => None,
        },
        Discovery::Asked { .. } | Discovery::Missing(_) => None,
    }
}

fn no_endpoint(cluster: &Cluster) -> DialError {
    DialError::NoEndpoint(cluster.name.clone())
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
