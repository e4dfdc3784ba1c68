//! The outbound half: resolve → judge addresses → TCP → hop → TLS, under one deadline. No policy but the cluster's own is here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use thiserror::Error;

use crate::flow::{DialTrace, Failure, Target};
use crate::route::Cluster;
use crate::stream::Stream;

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
    own: ArcSwap<Vec<SocketAddr>>,
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

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum DialError {}

impl DialError {
    /// What the client and the operator are told.
    pub fn failure(&self, _target: &Target) -> Failure {
        unimplemented!()
    }
}

impl Dialer {
    /// Reads the system's resolver configuration where the settings ask for it.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn new(_settings: DialSettings) -> Result<Self, String> {
        unimplemented!()
    }
    /// Takes new settings; the DNS cache is kept where its part did not change.
    ///
    /// # Errors
    /// A sentence for the operator; the old settings stay.
    pub fn set_settings(&self, _settings: DialSettings) -> Result<(), String> {
        unimplemented!()
    }
    /// Our own listening addresses, the admin port's included: never dialled by way of a literal or DNS.
    pub fn set_own(&self, own: Vec<SocketAddr>) {
        self.own.store(Arc::new(own));
    }
    /// Opens a stream to `target` the way `cluster` says.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(
        &self,
        _cluster: &Arc<Cluster>,
        _target: &Target,
        _deadline: Instant,
        _trace: &mut DialTrace,
    ) -> Result<Dialed, DialError> {
        unimplemented!()
    }
    /// The key under which a connection of this flow is kept.
    pub fn pool_key(&self, _cluster: &Cluster, _target: &Target) -> PoolKey {
        unimplemented!()
    }
    /// An idle connection that is still open and has no unread byte, the most recently used first.
    pub fn checkout(&self, _key: &PoolKey) -> Option<Dialed> {
        unimplemented!()
    }
    /// Keeps a connection for the next flow of this key; the oldest gives way when the pool is full.
    pub fn checkin(&self, _key: PoolKey, _dialed: Dialed) {
        unimplemented!()
    }
}
