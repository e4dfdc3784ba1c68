//! One endpoint, or one address of it, while the process lives.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::health::Health;
use crate::flow::{Host as Name, Target};
use crate::route::cluster::EndpointAddress;

/// Live state of one endpoint, or of one address that its name led to.
#[derive(Debug)]
pub(in crate::dial) struct Host {
    /// Where it is.
    pub(in crate::dial) key: Key,
    /// How it fared.
    pub(in crate::dial) health: Health,
    /// When it was first heard of.
    pub(super) since: Instant,
    flows: AtomicU32,
}

/// What live state is kept by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::dial) enum Key {
    Host(Name, u16),
    Unix(PathBuf),
}

/// One open flow at a host, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(pub(super) Arc<Host>);

impl Host {
    pub(super) fn new(key: Key) -> Self {
        Self { key, health: Health::default(), since: Instant::now(), flows: AtomicU32::new(0) }
    }

    /// Open flows.
    pub(super) fn flows(&self) -> u32 {
        self.flows.load(Ordering::Relaxed)
    }
}

impl Counted {
    pub(super) fn new(host: Arc<Host>) -> Self {
        host.flows.fetch_add(1, Ordering::Relaxed);
        Self(host)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.flows.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Key {
    pub(in crate::dial) fn of(at: &EndpointAddress) -> Self {
        match at {
            EndpointAddress::Host(host, port) => Self::Host(host.clone(), *port),
            EndpointAddress::Unix(path) => Self::Unix(path.clone()),
        }
    }
}

impl From<SocketAddr> for Key {
    fn from(peer: SocketAddr) -> Self {
        Self::Host(Name::Ip(peer.ip()), peer.port())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host, port) => Target { host: host.clone(), port: *port }.fmt(f),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}
