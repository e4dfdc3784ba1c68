//! Settings of the outbound half.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::flow::Name;

/// Settings of the outbound half.
#[derive(Clone, Debug)]
pub struct DialSettings {
    /// `dns`.
    pub dns: DnsSettings,
    /// `dial.happyEyeballsDelay`.
    pub happy_eyeballs_delay: Duration,
    /// `dial.tcpUserTimeout`.
    pub tcp_user_timeout: Duration,
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
    pub timeout: Duration,
    /// Queries sent for one question.
    pub attempts: usize,
    /// The hosts file; `None`: none.
    pub hosts: Option<std::path::PathBuf>,
    /// How long an answer "no such name" without SOA is remembered.
    pub negative_ttl: Duration,
    /// How long a failure is remembered.
    pub failure_ttl: Duration,
    /// Addresses of one answer that are looked at.
    pub addresses_max: usize,
    /// Servers for names under a suffix.
    pub forward: Vec<(Name, Vec<SocketAddr>)>,
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
