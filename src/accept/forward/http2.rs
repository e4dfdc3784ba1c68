//! HTTP/2 from clients (RFC 9113): the connection, which hands out its streams. Each of them is a flow in a task of its own.
//!
//! The `h2` crate frames and keeps the protocol's rules; what a client may make us hold is bounded here, see [`builder`].

mod request;
mod stream;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::super::Accepted;
use crate::account::metrics;
use crate::flow::{Limit, Limits};
use crate::stream::Stream;
use crate::stream::http2::{SEND_BYTES_MAX, Window};
use crate::tunnel::Proxy;

/// The first line of the preface (RFC 9113 §3.4): no request of HTTP/1 begins like this.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Serves a connection to its end. The client's preface is not read yet: it knew that we speak HTTP/2 (RFC 9113 §3.3), or ALPN said so.
pub async fn serve(proxy: Arc<Proxy>, accepted: Accepted) {
    let Accepted { stream, source, settings, admitted } = accepted;
    let limits = proxy.limits.load_full();
    let Ok(Ok(mut connection)) = timeout(limits.head_time, builder(&limits).handshake(stream)).await else { return };
    metrics::http2_connection();
    let source = Arc::new(source);
    let streams = Arc::new(Streams::default());
    let window = Arc::new(Window::new(CONNECTION_WINDOW_BYTES as usize));
    let mut driver = Driver {
        streams: streams.clone(),
        // The first request comes as soon as it would in HTTP/1.
        quiet: Box::pin(sleep(limits.head_time)),
        idle: limits.keep_alive_idle,
        busy: false,
        closing: false,
    };
    let mut requests = 0;
    let mut draining = pin!(proxy.drain.draining());
    loop {
        let event = poll_fn(|cx| {
            let event = driver.poll(&mut connection, cx);
            if event.is_pending() && !driver.closing && draining.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Drain);
            }
            event
        });
        match event.await {
            // It may not have been processed: the client can ask another proxy (RFC 9113 §8.7).
            Event::Stream(_, mut respond) if proxy.drain.is_draining() => respond.send_reset(Reason::REFUSED_STREAM),
            Event::Stream(request, respond) => {
                let (source, share) = (source.clone(), admitted.share().clone());
                let (guard, window) = (StreamGuard::new(&streams), window.clone());
                let stream = stream::Exchange::new(proxy.clone(), settings.clone(), source, share, guard, window);
                proxy.drain.spawn(stream.serve(request, respond));
                requests += 1;
                if limits.requests_per_connection != 0 && requests >= limits.requests_per_connection && !driver.closing
                {
                    metrics::limit_reached(Limit::RequestsPerConnection);
                    driver.close();
                    connection.graceful_shutdown();
                }
            }
            event @ (Event::Drain | Event::Quiet) if !driver.closing => {
                if matches!(event, Event::Quiet) {
                    metrics::limit_reached(if requests == 0 { Limit::HeadTime } else { Limit::KeepAliveIdle });
                }
                driver.close();
                connection.graceful_shutdown();
            }
            Event::Drain | Event::Quiet | Event::Closed => return,
        }
    }
}

/// What a connection may make us hold, and how often it may change its mind.
fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX as u32)
        .max_send_buffer_size(SEND_BYTES_MAX)
        .max_header_list_size(header_list_bytes_max(limits))
        // A client that resets more than so many streams before we have looked at them, or makes us reset so many, wants something else.
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(Some(ERRORS_MAX))
        .enable_connect_protocol();
    builder
}

// CONTRACT: a stream that nobody reads holds its window at most, and cannot take the connection's from the others.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
const STREAMS_MAX: usize = 100;
const RESETS_MAX: usize = 20; // as h2 has it: a burst of cancelled requests is usual, a flood is not
const ERRORS_MAX: usize = 100; // of 1024: each cost us a head
const CLOSING_TIME: Duration = Duration::from_secs(2); // for a client that does not answer our GOAWAY, or does not read it

/// RFC 9113 §6.5.2 counts 32 bytes more for each field than HTTP/1 needs. Twice the limit of a head passes here, so that one that is
/// too large is refused, with a reason and a line in the log, by the same rules as in HTTP/1; beyond that h2 answers 431 on its own.
fn header_list_bytes_max(limits: &Limits) -> u32 {
    let bytes = limits.head_bytes.saturating_add(limits.head_fields.saturating_mul(32)).saturating_mul(2);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// What happens on a connection.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for a moment, once per stream; a box would be an allocation each"
)]
enum Event {
    Stream(Request<RecvStream>, SendResponse<Bytes>),
    /// No stream for too long.
    Quiet,
    Drain,
    Closed,
}

struct Driver {
    streams: Arc<Streams>,
    /// When a connection without streams is closed.
    quiet: Pin<Box<Sleep>>,
    idle: Duration,
    busy: bool,
    /// GOAWAY went out.
    closing: bool,
}

impl Driver {
    /// Moves the connection on, also for the streams that run.
    fn poll(&mut self, connection: &mut Connection<Stream, Bytes>, cx: &mut Context<'_>) -> Poll<Event> {
        self.streams.ended.register(cx.waker());
        let live = self.streams.live();
        // A stream that was reset counts until its task, and with it its dial, has ended. What a client opens beyond that waits, and
        // what it resets there is counted by h2.
        let moved = if live < STREAMS_MAX {
            connection.poll_accept(cx)
        } else {
            connection.poll_closed(cx).map(|closed| closed.err().map(Err))
        };
        match moved {
            Poll::Ready(Some(Ok((request, respond)))) => return Poll::Ready(Event::Stream(request, respond)),
            Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Event::Closed),
            Poll::Pending => {}
        }
        if live > 0 {
            self.busy = true;
            return Poll::Pending;
        }
        if std::mem::take(&mut self.busy) {
            let wait = if self.closing { CLOSING_TIME } else { self.idle };
            self.quiet.as_mut().reset(later(wait));
        }
        self.quiet.as_mut().poll(cx).map(|()| Event::Quiet)
    }

    fn close(&mut self) {
        self.closing = true;
        self.quiet.as_mut().reset(later(CLOSING_TIME));
    }
}

/// A zero `wait` is none.
fn later(wait: Duration) -> Instant {
    let wait = if wait.is_zero() { FOREVER } else { wait };
    Instant::now() + wait
}

const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600); // as tokio has it

/// The streams of one connection whose tasks run.
#[derive(Debug, Default)]
struct Streams {
    live: AtomicUsize,
    ended: AtomicWaker,
}

impl Streams {
    fn live(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }
}

/// One stream counted; dropping it takes it off the count.
#[derive(Debug)]
pub(super) struct StreamGuard(Arc<Streams>);

impl StreamGuard {
    fn new(streams: &Arc<Streams>) -> Self {
        metrics::http2_stream_opened();
        streams.live.fetch_add(1, Ordering::AcqRel);
        Self(streams.clone())
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        metrics::http2_stream_closed();
        self.0.live.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.wake();
    }
}
