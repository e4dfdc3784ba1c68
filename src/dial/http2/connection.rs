//! One connection of HTTP/2 that flows share, and the task that drives it.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep};

use super::super::DialSettings;
use super::super::endpoints::ParkedLease;
use super::{Http2Upstream, retrace};
use crate::account::metrics;
use crate::flow::DialTrace;
use crate::route::Cluster;
use crate::route::upstream_http::{Keepalive, STREAMS_MAX};
use crate::stream::Stream;
use crate::stream::http2::SEND_BYTES_MAX;

/// What h2 drives.
pub(super) type Io = h2::client::Connection<Stream, Bytes>;

/// A connection, for those who want a stream of it.
pub(super) struct Connection {
    state: Mutex<State>,
    /// The driver's: a stream has ended, or no more begin.
    changed: AtomicWaker,
    /// The upstream's settings are here, or will never be.
    settled: Notify,
    bounds: Bounds,
    facts: Facts,
}

#[derive(Debug)]
struct State {
    /// `None`: no more streams begin here.
    send: Option<SendRequest<Bytes>>,
    live: usize,
    opened: u32,
    settled: bool,
}

/// What a connection has to keep to.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    /// Streams of ours at once.
    streams_max: usize,
    /// Streams of ours in all; 0: no limit.
    requests_max: u32,
    keepalive: Option<Keepalive>,
    /// How long the upstream's settings may take, after ours went out.
    settings_time: Duration,
    header_list_bytes_max: u32,
}

/// Where it leads, and what it is counted by.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) lease: ParkedLease,
    pub(super) peer: Option<SocketAddr>,
    pub(super) local: Option<SocketAddr>,
    pub(super) hop: Option<Arc<str>>,
}

/// One stream counted at its connection until it is dropped.
#[derive(Debug)]
pub(super) struct StreamGuard(Arc<Connection>);

/// h2's bound on streams until the upstream's settings have come: with it the two are told apart. No upstream asks for just that.
const UNSETTLED: usize = (1 << 31) + 1;
// As on a client's connection: a stream that nobody reads holds its window at most. All streams together fit into the connection's, so
// that a slow client holds up no other.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * STREAMS_MAX;
const IDLE_TIME: Duration = Duration::from_secs(60); // as the pool of HTTP/1 keeps connections
const CLOSING_TIME: Duration = Duration::from_secs(2); // for our GOAWAY to go out
const FIELD_BYTES: u32 = 32 * 100; // RFC 9113 §6.5.2 counts 32 bytes more for each field than HTTP/1 needs

impl Bounds {
    pub(super) fn new(cluster: &Cluster, settings: &DialSettings) -> Self {
        Self {
            streams_max: cluster.http.streams_max(),
            requests_max: cluster.requests_per_connection_max(),
            keepalive: cluster.http.keepalive(),
            settings_time: cluster.connect_timeout,
            header_list_bytes_max: u32::try_from(settings.head_bytes).unwrap_or(u32::MAX).saturating_add(FIELD_BYTES),
        }
    }
}

/// Sends the preface and our settings. What the upstream may make us hold is bounded here; what h2 bounds by itself (CONTINUATION frames,
/// empty DATA, answers to PING and SETTINGS, streams that were reset) it bounds well.
pub(super) async fn shake_hands(stream: Stream, bounds: &Bounds) -> Result<(SendRequest<Bytes>, Io), h2::Error> {
    Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_max_send_streams(UNSETTLED)
        .max_send_buffer_size(SEND_BYTES_MAX)
        .max_header_list_size(bounds.header_list_bytes_max)
        .handshake(stream)
        .await
}

impl Connection {
    pub(super) fn new(send: SendRequest<Bytes>, bounds: Bounds, facts: Facts) -> Arc<Self> {
        metrics::upstream_http2_connected();
        Arc::new(Self {
            state: Mutex::new(State { send: Some(send), live: 0, opened: 0, settled: false }),
            changed: AtomicWaker::new(),
            settled: Notify::new(),
            bounds,
            facts,
        })
    }

    /// Room for one stream, if there is any. Until the upstream has said how many it allows there is one.
    pub(super) fn claim(self: &Arc<Self>) -> Option<Http2Upstream> {
        let mut state = self.lock();
        if self.facts.lease.has_expired() {
            self.retire(&mut state); // `maxConnectionDuration`
        }
        let mut send = state.send.clone()?;
        // Never pending: nothing was sent by this handle. An error: the other side has said GOAWAY, or the connection is gone.
        if !matches!(send.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))) {
            self.retire(&mut state);
            return None;
        }
        let allowed = match send.current_max_send_streams() {
            UNSETTLED => 1,
            allowed => allowed.max(1), // an upstream that allows none may allow some later: one waits there
        };
        if state.live >= self.bounds.streams_max.min(allowed) {
            return None;
        }
        let reused = state.opened > 0;
        state.live += 1;
        state.opened = state.opened.saturating_add(1);
        if self.bounds.requests_max != 0 && state.opened >= self.bounds.requests_max {
            self.retire(&mut state);
        }
        drop(state);
        metrics::upstream_http2_stream_opened();
        let lease = self.facts.lease.share();
        Some(Http2Upstream { send, guard: StreamGuard(self.clone()), lease, reused })
    }

    /// No more streams begin here; the connection is closed once those that run are over.
    pub(super) fn close(&self) {
        self.retire(&mut self.lock());
    }

    fn retire(&self, state: &mut State) {
        state.send = None;
        self.changed.wake();
    }

    /// Streams that run; `None`: no more begin.
    pub(super) fn live(&self) -> Option<usize> {
        let state = self.lock();
        state.send.is_some().then_some(state.live)
    }

    /// Ends once the upstream's settings are here, or the connection is over.
    pub(super) async fn settled(&self) {
        let notified = self.settled.notified();
        if !self.lock().settled {
            notified.await;
        }
    }

    pub(super) fn retrace(&self, trace: &mut DialTrace) {
        retrace(trace, self.facts.peer, self.facts.local, self.facts.hop.as_ref());
    }

    fn settle(&self) {
        self.lock().settled = true;
        self.settled.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        metrics::upstream_http2_closed();
    }
}

impl StreamGuard {
    pub(super) fn connection(&self) -> &Connection {
        &self.0
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        metrics::upstream_http2_stream_closed();
        self.0.lock().live -= 1;
        self.0.changed.wake();
    }
}

/// Moves a connection on, for all its streams.
struct Driver<'c> {
    connection: &'c Connection,
    pings: Option<Pings>,
    /// Until the upstream's settings are here: when they are overdue. Then: when a connection without streams is closed.
    timer: Pin<Box<Sleep>>,
    settled: bool,
    busy: bool,
}

/// Drives a connection to its end: it breaks, or nobody has used it for [`IDLE_TIME`], or no more streams are to begin and none is left.
/// `may_idle` says of one without streams whether it may wait for others; `settled` is dropped once the upstream has said how many streams
/// it allows, or the connection is over.
pub(super) async fn drive(mut io: Io, connection: Arc<Connection>, may_idle: impl Fn() -> bool, settled: impl Sized) {
    let mut settled = Some(settled);
    let mut driver = Driver {
        pings: connection.bounds.keepalive.and_then(|keepalive| Pings::new(&mut io, keepalive)),
        timer: Box::pin(sleep(connection.bounds.settings_time)),
        settled: false,
        busy: true,
        connection: &connection,
    };
    let is_orderly = std::future::poll_fn(|cx| {
        let end = driver.poll(&mut io, cx, &may_idle);
        if driver.settled {
            settled = None;
        }
        end
    })
    .await;
    connection.close();
    connection.settle();
    drop(settled);
    if is_orderly {
        // With the last handle gone h2 says GOAWAY and closes.
        let _ = tokio::time::timeout(CLOSING_TIME, io).await;
    }
}

impl Driver<'_> {
    /// Ready when the connection is over: true where it is to be closed in order.
    fn poll(&mut self, io: &mut Io, cx: &mut Context<'_>, may_idle: &impl Fn() -> bool) -> Poll<bool> {
        self.connection.changed.register(cx.waker());
        if Pin::new(&mut *io).poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        if !self.settled && io.max_concurrent_send_streams() != UNSETTLED {
            self.settled = true;
            self.connection.settle();
        }
        if let Some(pings) = &mut self.pings
            && pings.poll(cx).is_ready()
        {
            return Poll::Ready(false);
        }
        if !self.settled {
            return self.timer.as_mut().poll(cx).map(|()| false);
        }
        let mut state = self.connection.lock();
        if state.live > 0 {
            self.busy = true;
            return Poll::Pending;
        }
        if std::mem::take(&mut self.busy) {
            self.timer.as_mut().reset(Instant::now() + IDLE_TIME);
            if state.send.is_some() {
                drop(state);
                let may = may_idle();
                state = self.connection.lock();
                if !may && state.live == 0 {
                    state.send = None;
                }
            }
        }
        if state.send.is_none() || self.timer.as_mut().poll(cx).is_ready() {
            state.send = None;
            return Poll::Ready(true);
        }
        Poll::Pending
    }
}

/// `http2KeepAlive`.
struct Pings {
    pings: PingPong,
    keepalive: Keepalive,
    timer: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl Pings {
    fn new(io: &mut Io, keepalive: Keepalive) -> Option<Self> {
        let pings = io.ping_pong()?;
        Some(Self { pings, keepalive, timer: Box::pin(sleep(keepalive.interval)), is_waiting: false })
    }

    /// Ready once the other side is known to be gone.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.is_waiting {
                match self.pings.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => {
                        self.is_waiting = false;
                        self.timer.as_mut().reset(Instant::now() + self.keepalive.interval);
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            std::task::ready!(self.timer.as_mut().poll(cx));
            if self.is_waiting || self.pings.send_ping(Ping::opaque()).is_err() {
                return Poll::Ready(());
            }
            self.is_waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.keepalive.timeout);
        }
    }
}
