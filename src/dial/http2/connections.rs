//! The connections of HTTP/2 of a process, by what they are, and the dials under way for more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use foldhash::HashMap;
use h2::client::SendRequest;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::super::pool::PoolKey;
use super::Http2Upstream;
use super::connection::{Bounds, Connection, Facts, Io, drive};

/// All of them.
#[derive(Debug)]
pub(in crate::dial) struct Connections(Arc<Mutex<Table>>);

#[derive(Debug)]
struct Table {
    by_key: HashMap<PoolKey, Entry>,
    /// `limits.idlePool`: of those without streams.
    idle_max: usize,
}

#[derive(Debug, Default)]
struct Entry {
    /// In the order of their opening; the first with room is taken, so that the others fall idle.
    connections: Vec<Arc<Connection>>,
    /// A dial that others wait for.
    dialling: Option<Arc<Notify>>,
    waiting: usize,
}

/// What a flow that wants a stream has to do.
pub(super) enum Claim {
    /// Nothing.
    Stream(Http2Upstream),
    /// Wait: a connection is being made, and may have room.
    Wait(OwnedNotified),
    /// Dial.
    Dial(Dialling),
}

/// A dial under way; dropped when the new connection has said how many streams it takes, or there is none.
#[derive(Debug)]
pub(super) struct Dialling {
    table: Weak<Mutex<Table>>,
    /// What others wait for; `None`: they have another to wait for.
    key: Option<(PoolKey, Arc<Notify>)>,
}

const WAITING_MAX: usize = 100; // flows for which one new connection is enough, as most upstreams have it
const CONNECTIONS_SPREAD_MAX: usize = 8; // among which the flows of a cluster of several endpoints are spread

impl Connections {
    pub(in crate::dial) fn new(idle_max: usize) -> Self {
        Self(Arc::new(Mutex::new(Table { by_key: HashMap::default(), idle_max })))
    }

    /// Takes a new bound on connections without streams; those that fall idle from now on keep to it.
    pub(in crate::dial) fn set_max(&self, idle_max: usize) {
        lock(&self.0).idle_max = idle_max;
    }

    /// Closes every connection once its streams are over.
    pub(in crate::dial) fn close(&self) {
        let all: Vec<_> = lock(&self.0).by_key.values().flat_map(|entry| entry.connections.clone()).collect();
        all.iter().for_each(|connection| connection.close());
    }

    /// Connections without streams.
    pub(in crate::dial) fn idle(&self) -> usize {
        lock(&self.0).idle()
    }

    /// All connections.
    #[cfg(test)]
    pub(in crate::dial) fn len(&self) -> usize {
        lock(&self.0).by_key.values().map(|entry| entry.connections.len()).sum()
    }

    /// A stream, or what to do for one. `joins`: the flow may wait for what another one dials.
    pub(super) fn claim(&self, key: &PoolKey, joins: bool) -> Claim {
        let mut table = lock(&self.0);
        let entry = table.by_key.entry(key.clone()).or_default();
        entry.connections.retain(|connection| connection.live().is_some());
        let spread = key.endpoints().clamp(1, CONNECTIONS_SPREAD_MAX);
        if entry.connections.len() >= spread || entry.dialling.is_some() || !joins {
            if spread > 1 {
                entry.connections.sort_by_key(|connection| connection.live());
            }
            if let Some(upstream) = entry.connections.iter().find_map(Connection::claim) {
                return Claim::Stream(upstream);
            }
        }
        match &entry.dialling {
            Some(dialling) if joins && entry.waiting < WAITING_MAX => {
                entry.waiting += 1;
                Claim::Wait(dialling.clone().notified_owned())
            }
            Some(_) => Claim::Dial(Dialling { table: Weak::new(), key: None }),
            None => {
                let notify = Arc::new(Notify::new());
                entry.dialling = Some(notify.clone());
                entry.waiting = 0;
                Claim::Dial(Dialling { table: Arc::downgrade(&self.0), key: Some((key.clone(), notify)) })
            }
        }
    }

    /// Takes in a new connection, and gives its first stream.
    pub(super) fn open(
        &self,
        key: PoolKey,
        send: SendRequest<Bytes>,
        io: Io,
        bounds: Bounds,
        facts: Facts,
        dialling: Dialling,
    ) -> Http2Upstream {
        let connection = Connection::new(send, bounds, facts);
        let upstream = connection.claim().expect("a connection that nobody knows yet has room for one stream");
        lock(&self.0).by_key.entry(key.clone()).or_default().connections.push(connection.clone());
        let table = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let may_idle = || table.upgrade().is_some_and(|table| lock(&table).may_idle());
            drive(io, connection.clone(), may_idle, dialling).await;
            if let Some(table) = table.upgrade() {
                lock(&table).remove(&key, &connection);
            }
        });
        upstream
    }
}

impl Table {
    fn idle(&self) -> usize {
        let all = self.by_key.values().flat_map(|entry| &entry.connections);
        all.filter(|connection| connection.live() == Some(0)).count()
    }

    fn may_idle(&self) -> bool {
        self.idle() <= self.idle_max
    }

    fn remove(&mut self, key: &PoolKey, connection: &Arc<Connection>) {
        if let Some(entry) = self.by_key.get_mut(key) {
            entry.connections.retain(|known| !Arc::ptr_eq(known, connection));
            self.forget(key);
        }
    }

    fn forget(&mut self, key: &PoolKey) {
        if self.by_key.get(key).is_some_and(|entry| entry.connections.is_empty() && entry.dialling.is_none()) {
            self.by_key.remove(key);
        }
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        let Some((key, notify)) = self.key.take() else { return };
        if let Some(table) = self.table.upgrade() {
            let mut table = lock(&table);
            if let Some(entry) = table.by_key.get_mut(&key) {
                entry.dialling = None;
            }
            table.forget(&key);
        }
        notify.notify_waiters();
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
