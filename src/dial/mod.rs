//! The outbound half: resolve → judge addresses → TCP → hop → TLS, under one deadline. No policy but the cluster's own is here.

mod error;
mod own;
mod resolve;
mod tcp;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio::time::timeout_at;

use self::own::Before;
use crate::flow::{DialTrace, Host, Target};
use crate::route::cluster::EndpointAddress;
use crate::route::{Cluster, Discovery, Via};
use crate::stream::Stream;

pub use error::DialError;
pub use own::OwnListeners;
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
    own: ArcSwap<OwnListeners>,
    pending: AtomicUsize,
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
}

/// One open flow at one endpoint.
#[derive(Debug, Default)]
pub struct Lease {}

/// What idle upstream connections are kept by: cluster, endpoint or target, TLS identity, hop, source address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {}

impl Dialer {
    /// Reads the system's resolver configuration where the settings ask for it.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn new(settings: DialSettings) -> Result<Self, String> {
        Ok(Self { settings: ArcSwap::from_pointee(settings), own: ArcSwap::default(), pending: AtomicUsize::new(0) })
    }

    /// Takes new settings; the DNS cache is kept where its part did not change.
    ///
    /// # Errors
    /// A sentence for the operator; the old settings stay.
    pub fn set_settings(&self, settings: DialSettings) -> Result<(), String> {
        self.settings.store(Arc::new(settings));
        Ok(())
    }

    /// Our own listening addresses: none of them is dialled by way of a literal or DNS, the admin port by no way.
    pub fn set_own(&self, own: OwnListeners) {
        self.own.store(Arc::new(own));
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
        let _pending = self.enter()?;
        let (peer, spelled) = match &cluster.discovery {
            Discovery::Asked { port } => match target.host {
                Host::Ip(ip) => (SocketAddr::new(ip, port.unwrap_or(target.port)), false),
                Host::Name(_) => return Err(DialError::NoEndpoint(cluster.name.clone())),
            },
            Discovery::Static(endpoints) | Discovery::Dns { endpoints, .. } => {
                match endpoints.first().map(|endpoint| &endpoint.at) {
                    Some(EndpointAddress::Host(Host::Ip(ip), port)) => (SocketAddr::new(*ip, *port), true),
                    _ => return Err(DialError::NoEndpoint(cluster.name.clone())),
                }
            }
            Discovery::Missing(reason) => return Err(DialError::Configuration(reason.clone())),
        };
        let Via::Direct = cluster.via else { return Err(DialError::Configuration("no parents yet".into())) };
        let stream = self.connect(cluster, peer, spelled, deadline, trace).await?;
        Ok(Dialed { stream: stream.into(), lease: Lease::default(), requests: 0 })
    }

    /// Connects to one address: judged, then dialled, nothing in between.
    async fn connect(
        &self,
        cluster: &Cluster,
        peer: SocketAddr,
        spelled: bool,
        deadline: Instant,
        trace: &mut DialTrace,
    ) -> Result<TcpStream, DialError> {
        cluster.addresses.judge(peer.ip()).map_err(DialError::Prohibited)?;
        let before = self.own.load().before(peer, spelled);
        if before == Before::Own {
            return Err(DialError::Loop(peer));
        }
        let started = Instant::now();
        let until = deadline.min(started + cluster.connect_timeout);
        trace.upstream = Some(peer);
        trace.attempts += 1;
        let connected = timeout_at(until.into(), tcp::connect(peer, &cluster.source)).await;
        trace.connect += started.elapsed();
        let stream = match connected {
            Ok(connected) => {
                connected.map_err(|source| DialError::Connect { peer: peer.to_string().into(), source })?
            }
            Err(_) => {
                let step = format!("connect to {peer}").into();
                return Err(DialError::Timeout { step, after: until - started });
            }
        };
        if before == Before::AskSocket {
            let local =
                stream.local_addr().map_err(|source| DialError::Connect { peer: peer.to_string().into(), source })?;
            if OwnListeners::is_own_end(peer, local) {
                return Err(DialError::Loop(peer));
            }
        }
        Ok(stream)
    }

    fn enter(&self) -> Result<Pending<'_>, DialError> {
        let max = self.settings.load().pending_dials;
        let pending = Pending(&self.pending);
        if self.pending.fetch_add(1, Ordering::Relaxed) >= max {
            return Err(DialError::Overloaded { what: "pending dials", max });
        }
        Ok(pending)
    }

    /// The key under which a connection of this flow is kept.
    pub fn pool_key(&self, _cluster: &Arc<Cluster>, _target: &Target) -> PoolKey {
        PoolKey {}
    }

    /// An idle connection that is still open and has no unread byte, the most recently used first.
    pub fn checkout(&self, _key: &PoolKey) -> Option<Dialed> {
        None
    }

    /// Keeps a connection for the next flow of this key; the oldest gives way when the pool is full.
    pub fn checkin(&self, _key: PoolKey, _dialed: Dialed) {}
}

/// One dial under way, counted until it is done or dropped.
#[derive(Debug)]
struct Pending<'a>(&'a AtomicUsize);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
