//! Who is counted where: a flow at its endpoint and address, from the pick to its end, with a pause in the pool.

use std::sync::Arc;
use std::time::Instant;

use super::host::{Counted, Host};
use crate::account::hosts::{Connection, HostCounts, Request};
use crate::account::usage::{Held, Usage};

/// One open flow at one endpoint, and at the address of it that was taken. Counted until it is dropped.
#[derive(Debug, Default)]
pub struct Lease {
    request: Option<Request>,
    endpoint: Option<Counted>,
    pub(super) address: Option<Counted>,
    bounded: Option<Box<Bounded>>,
}

/// What a rule says of a connection. Boxed where it is kept: it says so of few, and leases are part of every future that dials.
#[derive(Debug, Default)]
struct Bounded {
    /// Its place within the bounds of its cluster, and of its parent's.
    held: [Option<Held>; 2],
    /// From then on it serves no further request.
    expires: Option<Instant>,
}

/// A lease of a connection that no flow uses now: it keeps its place but does not count.
#[derive(Debug, Default)]
pub(in crate::dial) struct ParkedLease {
    connection: Option<Connection>,
    endpoint: Option<Arc<Host>>,
    address: Option<Arc<Host>>,
    bounded: Option<Box<Bounded>>,
}

/// Where what becomes of a flow is noted, for as long as the flow itself has its connection elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Witness {
    pub(in crate::dial) counts: Option<Arc<HostCounts>>,
    pub(in crate::dial) host: Option<Arc<Host>>,
}

impl Lease {
    /// A flow on a connection that stands.
    pub(in crate::dial) fn on(connection: Connection) -> Self {
        Self { request: Some(connection.request()), ..Self::default() }
    }

    /// A flow that goes to this endpoint, and may find nothing there.
    pub(super) fn at(endpoint: Arc<Host>) -> Self {
        Self { endpoint: Some(Counted::new(endpoint)), ..Self::default() }
    }

    /// TLS on the connection failed.
    pub(in crate::dial) fn connect_failed(&self) {
        self.request.iter().for_each(Request::connect_failed);
    }

    /// Where to note what becomes of the flow: at the address at the other end, if it has one.
    pub fn witness(&self) -> Witness {
        let host = self.address.as_ref().or(self.endpoint.as_ref());
        Witness {
            counts: self.request.as_ref().and_then(Request::host).cloned(),
            host: host.map(|counted| counted.0.clone()),
        }
    }

    /// This lease, with the parts of `other` that it lacks.
    pub(in crate::dial) fn or(mut self, other: Self) -> Self {
        if let Some(other) = other.bounded {
            let Bounded { held, expires } = *other;
            held.into_iter().flatten().for_each(|held| self.keep(Some(held), expires));
        }
        Self {
            request: self.request.or(other.request),
            endpoint: self.endpoint.or(other.endpoint),
            address: self.address.or(other.address),
            bounded: self.bounded,
        }
    }

    /// The connection's place within a bound, where there is one, and its end.
    pub(in crate::dial) fn keep(&mut self, held: Option<Held>, expires: Option<Instant>) {
        let Some(held) = held else { return };
        let bounded = self.bounded.get_or_insert_default();
        let free = bounded.held.iter_mut().find(|place| place.is_none());
        *free.expect("a cluster and the parent on the way to it are two") = Some(held);
        bounded.expires = [bounded.expires, expires].into_iter().flatten().min();
    }

    /// True once the connection has to serve no further request (`maxConnectionDuration`).
    pub fn has_expired(&self) -> bool {
        has_expired(self.bounded.as_deref())
    }

    /// The connection goes to the pool: no flow any more.
    pub(in crate::dial) fn park(self) -> ParkedLease {
        self.park_as(Request::release)
    }

    /// The connection is one that flows share, none of which has begun.
    pub(in crate::dial) fn park_unused(self) -> ParkedLease {
        self.park_as(Request::unused)
    }

    fn park_as(self, end: fn(Request) -> Option<Connection>) -> ParkedLease {
        let parked = |counted: Option<Counted>| counted.map(|counted| counted.0.clone());
        let connection = self.request.and_then(end);
        let (endpoint, address) = (parked(self.endpoint), parked(self.address));
        ParkedLease { connection, endpoint, address, bounded: self.bounded }
    }
}

impl ParkedLease {
    /// One of many flows on the connection.
    pub(in crate::dial) fn share(&self) -> Lease {
        let counted = |host: &Option<Arc<Host>>| host.clone().map(Counted::new);
        Lease {
            request: self.connection.as_ref().map(Connection::shared_request),
            endpoint: counted(&self.endpoint),
            address: counted(&self.address),
            bounded: None, // the connection has it
        }
    }

    /// The bounds that its connection counts against.
    pub(in crate::dial) fn usages(&self) -> impl Iterator<Item = &Arc<Usage>> {
        self.bounded.iter().flat_map(|bounded| bounded.held.iter().flatten()).map(Held::usage)
    }

    /// As of a lease in use.
    pub(in crate::dial) fn has_expired(&self) -> bool {
        has_expired(self.bounded.as_deref())
    }

    /// The connection leaves the pool for another flow.
    pub(in crate::dial) fn resume(self) -> Lease {
        Lease {
            request: self.connection.map(Connection::request),
            endpoint: self.endpoint.map(Counted::new),
            address: self.address.map(Counted::new),
            bounded: self.bounded,
        }
    }
}

fn has_expired(bounded: Option<&Bounded>) -> bool {
    bounded.and_then(|bounded| bounded.expires).is_some_and(|expires| Instant::now() >= expires)
}
