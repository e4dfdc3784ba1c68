//! Connections and requests by upstream address, as Envoy counts them of each host of a cluster.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The addresses of one cluster that were ever dialled, as many as there is room for.
#[derive(Debug, Default)]
pub struct ClusterHosts {
    hosts: Mutex<HashMap<SocketAddr, Arc<HostCounts>>>,
    /// Counts what there is no room for.
    other: Arc<HostCounts>,
}

/// What is counted of one address.
#[derive(Debug, Default)]
pub struct HostCounts {
    /// The name that led to it first; empty: it was asked for or spelled as an address.
    pub hostname: Box<str>,
    cx_active: AtomicU64,
    cx_connect_fail: AtomicU64,
    cx_total: AtomicU64,
    rq_active: AtomicU64,
    rq_error: AtomicU64,
    rq_success: AtomicU64,
    rq_timeout: AtomicU64,
    rq_total: AtomicU64,
}

/// One connection, from its first packet to its end.
#[derive(Debug)]
pub struct Connection(Arc<HostCounts>);

/// One flow on a connection.
#[derive(Debug)]
pub struct Request(On);

#[derive(Debug)]
enum On {
    /// A connection of its own.
    Whole(Connection),
    /// One of many on a connection (HTTP/2).
    Shared(Arc<HostCounts>),
    Nothing,
}

const HOSTS_MAX: usize = 1024; // of one cluster; through PassthroughCluster clients may reach any number of addresses

impl ClusterHosts {
    /// The counters of an address; where the table is full, addresses without connections make room.
    pub fn host(&self, peer: SocketAddr, hostname: Option<&str>) -> Arc<HostCounts> {
        let mut hosts = self.lock();
        if let Some(host) = hosts.get(&peer) {
            return host.clone();
        }
        if hosts.len() >= HOSTS_MAX {
            hosts.retain(|_, host| Arc::strong_count(host) > 1);
            if hosts.len() >= HOSTS_MAX {
                return self.other.clone();
            }
        }
        let host = Arc::new(HostCounts { hostname: hostname.unwrap_or_default().into(), ..HostCounts::default() });
        hosts.insert(peer, host.clone());
        host
    }

    /// All addresses, sorted.
    pub fn list(&self) -> Vec<(SocketAddr, Arc<HostCounts>)> {
        let mut list: Vec<_> = self.lock().iter().map(|(peer, host)| (*peer, host.clone())).collect();
        list.sort_unstable_by_key(|(peer, _)| *peer);
        list
    }

    /// True while a connection of it is open.
    pub fn is_used(&self) -> bool {
        self.lock().values().any(|host| Arc::strong_count(host) > 1)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<HostCounts>>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HostCounts {
    /// Envoy's names and values, in its order.
    pub fn values(&self) -> [(&'static str, u64); 8] {
        let value = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [
            ("cx_active", value(&self.cx_active)),
            ("cx_connect_fail", value(&self.cx_connect_fail)),
            ("cx_total", value(&self.cx_total)),
            ("rq_active", value(&self.rq_active)),
            ("rq_error", value(&self.rq_error)),
            ("rq_success", value(&self.rq_success)),
            ("rq_timeout", value(&self.rq_timeout)),
            ("rq_total", value(&self.rq_total)),
        ]
    }

    /// A flow was served: a tunnel stands, or an answer came that was no 5xx.
    pub fn succeeded(&self) {
        add(&self.rq_success);
    }

    /// A flow was not served.
    pub fn erred(&self) {
        add(&self.rq_error);
    }

    /// No answer came in time.
    pub fn timed_out(&self) {
        add(&self.rq_timeout);
        add(&self.rq_error);
    }
}

impl Connection {
    /// A connection is tried.
    pub fn begin(host: Arc<HostCounts>) -> Self {
        add(&host.cx_total);
        add(&host.cx_active);
        Self(host)
    }

    /// It did not come to stand.
    pub fn failed(self) {
        add(&self.0.cx_connect_fail);
    }

    /// A flow begins on it.
    pub fn request(self) -> Request {
        add(&self.0.rq_total);
        add(&self.0.rq_active);
        Request(On::Whole(self))
    }

    /// One of many flows begins on it.
    pub fn shared_request(&self) -> Request {
        add(&self.0.rq_total);
        add(&self.0.rq_active);
        Request(On::Shared(self.0.clone()))
    }
}

impl Request {
    /// The flow is over, the connection stays.
    pub fn release(mut self) -> Option<Connection> {
        match std::mem::replace(&mut self.0, On::Nothing) {
            On::Whole(connection) => {
                subtract(&connection.0.rq_active);
                Some(connection)
            }
            shared => {
                self.0 = shared;
                None
            }
        }
    }

    /// No flow came of it; the connection stays.
    pub fn unused(self) -> Option<Connection> {
        let connection = self.release();
        connection.inspect(|connection| subtract(&connection.0.rq_total))
    }

    /// The connection did not come to stand after all (TLS).
    pub fn connect_failed(&self) {
        if let On::Whole(connection) = &self.0 {
            add(&connection.0.cx_connect_fail);
        }
    }

    /// Its counters.
    pub fn host(&self) -> Option<&Arc<HostCounts>> {
        match &self.0 {
            On::Whole(connection) => Some(&connection.0),
            On::Shared(host) => Some(host),
            On::Nothing => None,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        subtract(&self.0.cx_active);
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(host) = self.host() {
            subtract(&host.rq_active);
        }
    }
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn subtract(count: &AtomicU64) {
    count.fetch_sub(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(host: &HostCounts, name: &str) -> u64 {
        host.values().iter().find(|(known, _)| *known == name).map_or(u64::MAX, |(_, value)| *value)
    }

    #[test]
    fn a_connection_is_active_until_it_is_dropped_and_a_request_until_it_is_released() {
        let host = Arc::new(HostCounts::default());
        let request = Connection::begin(host.clone()).request();
        assert_eq!((value(&host, "cx_active"), value(&host, "rq_active")), (1, 1));
        let parked = request.release().expect("its connection");
        assert_eq!((value(&host, "cx_active"), value(&host, "rq_active")), (1, 0));
        let shared = [parked.shared_request(), parked.shared_request()];
        assert_eq!((value(&host, "cx_active"), value(&host, "rq_active")), (1, 2));
        drop(shared);
        drop(parked.request());
        assert_eq!((value(&host, "cx_active"), value(&host, "rq_active")), (0, 0));
        assert_eq!((value(&host, "cx_total"), value(&host, "rq_total")), (1, 4));
        Connection::begin(host.clone()).failed();
        assert_eq!((value(&host, "cx_active"), value(&host, "cx_connect_fail"), value(&host, "cx_total")), (0, 1, 2));
    }

    #[test]
    fn addresses_without_connections_make_room_and_the_rest_is_counted_together() {
        let hosts = ClusterHosts::default();
        let peer = |n: usize| SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 443));
        let kept: Vec<_> = (0..10).map(|n| Connection::begin(hosts.host(peer(n), Some("a.example")))).collect();
        for n in 10..5 * HOSTS_MAX {
            Connection::begin(hosts.host(peer(n), None)).failed();
        }
        let list = hosts.list();
        assert!(list.len() <= HOSTS_MAX && kept.len() == 10);
        assert!((0..10).all(|n| list.iter().any(|(known, host)| *known == peer(n) && &*host.hostname == "a.example")));
        let full: Vec<_> = (0..HOSTS_MAX).map(|n| Connection::begin(hosts.host(peer(n), None))).collect();
        let over = hosts.host(peer(HOSTS_MAX), None);
        assert!(Arc::ptr_eq(&over, &hosts.other));
        drop((kept, full));
        assert!(hosts.is_used() || hosts.list().len() <= HOSTS_MAX);
        assert!(!Arc::ptr_eq(&hosts.host(peer(HOSTS_MAX), None), &hosts.other));
    }
}
