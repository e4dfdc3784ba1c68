//! The `forward` listener: an explicit proxy. CONNECT becomes a tunnel, absolute-form requests are exchanged one by one, and a tunnel
//! whose routes need HTTP is served by the same loop from the inside. Here is HTTP/1; a client whose first bytes are the preface of
//! HTTP/2 is [`http2`]'s.

mod client;
mod connect;
pub mod http2;
mod plain;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use super::admission::Admitted;
use super::{Accepted, ListenerSettings, closing};
use crate::account::{AccessRecord, Share, metrics};
use crate::flow::{ErrorType, Failure, Limit, Outcome, Source, Target};
use crate::http1::{BodyLength, HeadLimits, RequestHead, RequestTarget, parse_request};
use crate::stream::Stream;
use crate::tunnel::answer::{self, Answering};
use crate::tunnel::exchange::read_more;
use crate::tunnel::http::Pinned;
use crate::tunnel::patience::Patience;
use crate::tunnel::{Opened, Proxy};

use client::Client;
use http2::StreamGuard;

/// Serves one client connection to its end, or until a task of its own relays it.
pub fn serve(proxy: Arc<Proxy>, accepted: Accepted) -> impl Future<Output = ()> + Send {
    let Accepted { stream, source, settings, admitted } = accepted;
    // Boxed, because it moves from one step of a CONNECT to the next.
    let connection = Box::new(Connection {
        proxy,
        settings,
        source: Arc::new(source),
        share: admitted.share().clone(),
        stream,
        buf: BytesMut::new(),
        patience: Patience::default(),
        pinned: None,
        inside: None,
        requests: 0,
        hold: Hold::Connection(admitted),
    });
    connection.serve()
}

/// A client's connection between requests.
struct Connection {
    proxy: Arc<Proxy>,
    settings: Arc<ListenerSettings>,
    source: Arc<Source>,
    share: Arc<Share>,
    stream: Stream,
    buf: BytesMut,
    patience: Patience,
    /// An upstream connection that authenticated this client (NTLM, Negotiate).
    pinned: Option<Pinned>,
    /// The CONNECT whose tunnel we are inside of.
    inside: Option<Inside>,
    requests: u64,
    hold: Hold,
}

/// What is counted, and given back at the end.
enum Hold {
    Connection(Admitted),
    /// A stream of HTTP/2; its connection is held by a task of its own.
    Stream {
        _guard: StreamGuard,
    },
}

/// A tunnel that we terminate.
struct Inside {
    target: Target,
    record: Box<AccessRecord>,
    /// When its last line was due, that of its start at first.
    lined: Instant,
}

impl Inside {
    /// How long until the tunnel is to have a line; `None`: it has none but those of its start and end.
    fn next_line(&self, proxy: &Proxy) -> Option<Duration> {
        const AT_ONCE: Duration = Duration::from_millis(1); // zero would be no limit
        let interval = proxy.account.line_interval();
        (!interval.is_zero()).then(|| interval.saturating_sub(self.lined.elapsed()).max(AT_ONCE))
    }

    /// Its bytes stand in the lines of the requests inside.
    fn write_line(&mut self) {
        self.lined = Instant::now();
        self.record.goes_on(0, 0);
    }
}

/// What follows a request.
enum After {
    /// The next request.
    Next,
    /// The end of the connection, in order.
    Close,
    /// A reset: what was sent must not look complete.
    Abort,
    /// A relay: both sides speak another protocol from here.
    Switch(Box<Switched>),
}

/// A connection that changed to another protocol (101).
struct Switched {
    opened: Opened,
    record: Box<AccessRecord>,
}

impl Connection {
    async fn serve(mut self: Box<Self>) {
        loop {
            let head = match self.next_head().await {
                Ok(Some(head)) => head,
                Ok(None) if self.speaks_http2() => return self.change_to_http2(),
                Ok(None) => return self.close().await,
                Err(failure) => {
                    self.refuse_unread(failure).await;
                    return self.close().await;
                }
            };
            self.requests += 1;
            let after = match (head.target(), self.inside.is_some()) {
                (RequestTarget::Authority(target), false) => {
                    let target = target.clone();
                    match self.connect(head, target).await {
                        Some(inside) => {
                            self = inside;
                            After::Next
                        }
                        None => return,
                    }
                }
                _ => self.plain(&head).await,
            };
            match after {
                After::Next => {}
                After::Close => {
                    if self.asked_enough() {
                        metrics::limit_reached(Limit::RequestsPerConnection);
                    }
                    return self.close().await;
                }
                After::Abort => {
                    self.stream.abort();
                    return self.ended(Outcome::Complete);
                }
                After::Switch(switched) => {
                    let Switched { opened, record } = *switched;
                    return self.tunnel(opened, record);
                }
            }
        }
    }

    /// The first bytes of the connection are the preface of HTTP/2.
    fn speaks_http2(&self) -> bool {
        self.requests == 0 && self.buf.starts_with(http2::PREFACE)
    }

    /// Hands the connection to a task that is made for it.
    fn change_to_http2(self: Box<Self>) {
        let Self { proxy, settings, source, stream, buf, hold, .. } = *self;
        let Hold::Connection(admitted) = hold else { return }; // a tunnel that carries HTTP carries HTTP/1
        let source = Source::clone(&source);
        let stream = stream.with_prefix(buf.freeze());
        let tasks = proxy.drain.clone();
        tasks.spawn(http2::serve(proxy, Accepted { stream, source, settings, admitted }));
    }

    /// Closes in order: a TLS session that ends without saying so looks cut off to the client (RFC 8446 §6.1).
    async fn close(mut self: Box<Self>) {
        if self.stream.is_tls() {
            closing::end_session(&mut self.stream, &mut self.patience).await;
        }
        self.stream.finish();
        self.ended(Outcome::Complete);
    }

    /// Writes the line of the tunnel that we were inside of, if any.
    fn ended(self: Box<Self>, outcome: Outcome) {
        if let Some(inside) = self.inside {
            inside.record.finish(outcome);
        }
    }

    /// Reads the next head; `None` when the client is done, or speaks HTTP/2, or the drain begins between two requests.
    async fn next_head(&mut self) -> Result<Option<RequestHead>, Failure> {
        let limits = self.proxy.limits.load_full();
        let head_limits = HeadLimits { bytes: limits.head_bytes, fields: limits.head_fields };
        if self.buf.is_empty() {
            let first = self.requests == 0;
            let (idle, limit) = match first {
                true => (limits.head_time, Limit::HeadTime),
                false => (limits.keep_alive_idle, Limit::KeepAliveIdle),
            };
            if !self.wait_for_client(idle, limit).await {
                return Ok(None);
            }
        }
        let deadline = Instant::now() + limits.head_time;
        loop {
            if self.speaks_http2() {
                return Ok(None);
            }
            match parse_request(&mut self.buf, &head_limits) {
                Ok(Some(head)) => return Ok(Some(head)),
                Ok(None) => {}
                Err(error) => {
                    error.limit().into_iter().for_each(metrics::limit_reached);
                    return Err(Failure::new(error.error_type(), error.to_string()));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(head_too_late());
            }
            match read_more(&mut self.stream, &mut self.buf, &mut self.patience, left).await {
                Ok(0) | Err(_) if self.buf.is_empty() => return Ok(None),
                Ok(0) => return Err(Failure::new(ErrorType::BadRequest, "the request ends inside its head")),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(head_too_late()),
                Err(_) => return Ok(None),
            }
        }
    }

    /// Waits without a buffer until the client sends something; false when it does not, or when we are draining.
    async fn wait_for_client(&mut self, idle: Duration, limit: Limit) -> bool {
        self.buf = BytesMut::new();
        let mut left = idle;
        loop {
            let line = self.inside.as_ref().and_then(|inside| inside.next_line(&self.proxy));
            let wait = line.filter(|line| left.is_zero() || *line < left);
            let drain = &self.proxy.drain;
            let waiting = self.patience.within(wait.unwrap_or(left), async {
                tokio::select! {
                    biased;
                    readable = self.stream.readable() => readable.is_ok(),
                    () = drain.draining() => false,
                }
            });
            match (waiting.await, wait) {
                (Ok(readable), _) => return readable,
                (Err(_), Some(wait)) => {
                    left = left.saturating_sub(wait);
                    self.inside.iter_mut().for_each(Inside::write_line);
                }
                (Err(_), None) => {
                    metrics::limit_reached(limit);
                    return false;
                }
            }
        }
    }

    /// Whether the client may ask again after this request.
    fn may_ask_again(&self, head: &RequestHead) -> bool {
        head.persistent() && !self.asked_enough() && !self.proxy.drain.is_draining()
    }

    fn asked_enough(&self) -> bool {
        let requests_max = self.proxy.limits.load().requests_per_connection;
        requests_max != 0 && self.requests >= requests_max as u64
    }

    fn client(&self) -> Client<'_> {
        Client { proxy: &self.proxy, settings: &self.settings, source: &self.source, share: &self.share }
    }

    /// Answers a request that failed and writes its line.
    async fn refuse(&mut self, head: &RequestHead, mut record: Box<AccessRecord>, failure: Failure) -> After {
        let connect = head.method() == "CONNECT";
        // A body that we did not read would be taken for the next request; a refused CONNECT always closes (RFC 9931), but for a 407
        // that no bytes followed: clients ask again on the same connection with credentials.
        let clean = matches!(head.body(), BodyLength::None) && (!connect || self.buf.is_empty());
        let retry = failure.error == ErrorType::AuthenticationRequired;
        // So does a request that would leave its tunnel: what else it brings is not to be read.
        let misdirected = failure.error == ErrorType::Misdirected;
        let keep_alive = clean && (!connect || retry) && !misdirected && self.may_ask_again(head);
        let request_id = record.ensure_request_id();
        let challenge = self.settings.basic.as_ref().filter(|_| retry).map(|basic| basic.challenge());
        let via = self.proxy.via.load_full();
        let answer = answer::refusal(
            &failure,
            &Answering {
                proxy: &via.name,
                request_id: &request_id,
                problem_json: accepts_problem_json(head),
                keep_alive,
                head_only: head.method() == "HEAD",
                challenge: challenge.as_deref(),
            },
        );
        record.refused(&failure, failure.error.row().status);
        record.moved(0, answer.body_bytes);
        record.finish(Outcome::failed(failure.error, failure.log));
        if !self.tell(&answer.bytes).await {
            return After::Close;
        }
        if keep_alive {
            return After::Next;
        }
        // A client that did not ask for the end may send on (behind CONNECT many do at once), and that would reset our answer away.
        if !clean || head.persistent() {
            closing::linger(&mut self.stream, &mut self.patience).await;
        }
        After::Close
    }

    /// Answers bytes that are no request.
    async fn refuse_unread(&mut self, failure: Failure) {
        let mut record = self.proxy.account.record(&self.source);
        let request_id = record.ensure_request_id();
        let via = self.proxy.via.load_full();
        let answer = answer::refusal(&failure, &Answering::bare(&via.name, &request_id));
        record.refused(&failure, failure.error.row().status);
        record.moved(0, answer.body_bytes);
        record.finish(Outcome::failed(failure.error, failure.log));
        if self.tell(&answer.bytes).await {
            closing::linger(&mut self.stream, &mut self.patience).await;
        }
    }

    /// Writes an answer of ours; false if the client is gone, or takes nothing for `limits.bodyIdle`.
    async fn tell(&mut self, answer: &[u8]) -> bool {
        let limit = self.proxy.limits.load().body_idle;
        let telling = async {
            self.stream.write_all(answer).await?;
            self.stream.flush().await // a TLS session may hold what the kernel did not take at once
        };
        let told = self.patience.within(limit, telling).await;
        if told.is_err() {
            metrics::limit_reached(Limit::BodyIdle);
        }
        matches!(told, Ok(Ok(())))
    }
}

fn head_too_late() -> Failure {
    metrics::limit_reached(Limit::HeadTime);
    Failure::new(ErrorType::RequestTimeout, "the request's head was not complete in time")
}

fn accepts_problem_json(head: &RequestHead) -> bool {
    head.all("accept").any(|value| {
        value.split(|&b| b == b',').any(|member| {
            let media_type = member.split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
            media_type.eq_ignore_ascii_case(b"application/problem+json")
                || media_type.eq_ignore_ascii_case(b"application/json")
        })
    })
}
