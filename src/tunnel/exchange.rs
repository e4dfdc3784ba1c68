//! One HTTP request and its answer. The same task drives both sockets; nothing is buffered but heads and one read.

mod http2;

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::future::Either;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, split};

use super::body::{self, BodyLimits, CopyError, Sender, Source, Taker};
use super::downstream::Reply;
use super::headers::{self, Inbound, Outbound};
use super::patience::Patience;
use crate::account::{Pace, metrics};
use crate::dial::{Dialed, Http2Upstream, Witness};
use crate::flow::{Ending, ErrorType, Failure, Limit, Limits};
use crate::http1::{BodyLength, HeadLimits, RequestHead, ResponseHead, Version, parse_response};
use crate::stream::{Sign, Stream};

pub(super) use self::http2::{request as http2_request, send_and_forget};

/// An upstream connection and what was read ahead of it.
pub struct Upstream {
    /// The connection.
    pub dialed: Dialed,
    /// Read ahead of the message at hand; empty in a connection that may be used again.
    pub buf: BytesMut,
}

/// What carries one request.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for one request; a box would be an allocation for each of HTTP/1"
)]
pub enum Carrier {
    /// A connection of its own.
    Connection(Upstream),
    /// A stream of one that is shared (HTTP/2).
    Stream(Box<Http2Upstream>),
}

impl Carrier {
    /// It has carried others before.
    pub fn is_reused(&self) -> bool {
        match self {
            Self::Connection(upstream) => upstream.dialed.requests > 0,
            Self::Stream(upstream) => upstream.reused,
        }
    }

    /// Where to note what becomes of the exchange.
    pub fn witness(&self) -> Witness {
        match self {
            Self::Connection(upstream) => upstream.dialed.lease.witness(),
            Self::Stream(upstream) => upstream.lease().witness(),
        }
    }
}

/// What became of an exchange whose answer went out.
pub struct Exchanged {
    /// Head of the final answer, as it came.
    pub head: ResponseHead,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the answer's body.
    pub sent: u64,
    /// From the end of the request's head to the first byte of the answer.
    pub upstream_time: Duration,
    /// The answer asks for authentication that binds to the connection (NTLM, Negotiate): it belongs to this client now.
    pub connection_bound_auth: bool,
    /// The request's body was read to its end; else the client may still be sending it.
    pub request_whole: bool,
    /// What happens to the two connections.
    pub next: Next,
}

/// What happens to the connections after an exchange.
pub enum Next {
    /// The client may ask again; `upstream` too, if it is given.
    KeepAlive(Option<Upstream>),
    /// The client's connection ends here, in order; the upstream may still be used.
    Close(Option<Upstream>),
    /// The answer broke off after its head went out: the client's connection has to be reset, so that it does not look complete.
    Abort(Broken),
    /// 101: both sides speak websocket from here.
    Switched(Upstream),
}

/// How an answer broke off after its head went out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// A sentence for the log.
    pub why: Box<str>,
    /// As accounted.
    pub ending: Ending,
}

/// Why there is no answer to send on.
#[derive(Debug)]
pub enum ExchangeError {
    /// A reused connection was closed before the first byte of an answer: nothing is known to have been processed, and a request
    /// that may be repeated is sent once more on a fresh one.
    Stale,
    /// The upstream says that it did nothing with the request (REFUSED_STREAM, GOAWAY): any may be sent again.
    Refused,
    /// The client is gone.
    ClientGone,
    /// An answer of this status came that the route has asked for again; nothing of it went out.
    Unwanted(u16),
    /// Nothing of an answer went out: the client can be told.
    Failed(Failure),
}

/// Limits of an exchange, from the settings.
#[derive(Clone, Debug)]
pub struct ExchangeLimits {
    /// Of the answer's head.
    pub head: HeadLimits,
    /// Of the request's body. Its `idle` is also the longest time in which a side takes none of what is written for it.
    pub request: BodyLimits,
    /// Of the answer's body: it may be as slow as it likes, as event streams are.
    pub answer: BodyLimits,
    /// From the first byte of an answer's head to its end.
    pub head_time: Duration,
    /// From the end of the request to the first byte of the answer.
    pub answer_time: Duration,
    /// From the end of the request to the end of the answer, where a route says so.
    pub whole: Option<Duration>,
}

impl ExchangeLimits {
    /// Takes what concerns an exchange; `pace` is that of its client.
    pub fn new(limits: &Limits, pace: &Arc<Pace>) -> Self {
        let pace = pace.limits_bytes().then(|| pace.clone());
        let answer = BodyLimits { idle: limits.body_idle, rate_min: 0, pace, deadline: None };
        Self {
            head: HeadLimits { bytes: limits.head_bytes, fields: limits.head_fields },
            request: BodyLimits { rate_min: limits.body_rate_min, ..answer.clone() },
            answer,
            head_time: limits.head_time,
            // Istio waits without end for an answer; we wait as long as for an idle tunnel.
            answer_time: limits.tunnel_idle,
            whole: None,
        }
    }
}

/// Sends a request without body and passes the answer on.
///
/// # Errors
/// See [`ExchangeError`].
pub fn exchange<D: Reply>(
    down: &mut D,
    carrier: Carrier,
    asking: &Asking<'_>,
    patience: &mut Patience,
) -> impl Future<Output = Result<Exchanged, ExchangeError>> {
    match carrier {
        Carrier::Connection(up) => {
            Either::Left(Answering::new(asking).without_body(down, up, asking.written(), patience))
        }
        Carrier::Stream(up) => Either::Right(Box::pin(http2::exchange(down, *up, asking, patience))),
    }
}

/// Sends a request with a body and passes the answer on; both flow at the same time.
///
/// # Errors
/// See [`ExchangeError`]; after an error both connections are out of step.
pub async fn exchange_with_body<S: Source, P: Reply>(
    body: &mut S,
    reply: &mut P,
    carrier: Carrier,
    asking: &Asking<'_>,
    patience: &mut Patience,
) -> Result<Exchanged, ExchangeError> {
    match carrier {
        Carrier::Connection(up) => Answering::new(asking).with_body(body, reply, up, asking.written(), patience).await,
        Carrier::Stream(up) => Box::pin(http2::exchange_with_body(body, reply, *up, asking, patience)).await,
    }
}

/// One request, as it goes out.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// As it came.
    pub head: &'a RequestHead,
    /// What of it goes out, and how.
    pub outbound: &'a Outbound<'a>,
    /// The client's connection may stay open.
    pub keep_alive: bool,
    /// The settings' limits.
    pub limits: &'a ExchangeLimits,
    /// Says of the head of an answer that it is not wanted; asked for requests without body only, and before anything went out.
    pub unwanted: Option<&'a (dyn Fn(&ResponseHead) -> bool + Sync)>,
}

impl Asking<'_> {
    fn written(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(self.head.raw().len() + 128);
        headers::write_request(&mut out, self.head, self.outbound);
        out
    }
}

/// What the answer of one request depends on.
struct Answering<'a> {
    head: &'a RequestHead,
    outbound: &'a Outbound<'a>,
    keep_alive: bool,
    limits: &'a ExchangeLimits,
    unwanted: Option<&'a (dyn Fn(&ResponseHead) -> bool + Sync)>,
    started: Instant,
    /// When the last byte of the request went out; empty while its body is still on the way.
    request_end: OnceLock<Instant>,
}

impl<'a> Answering<'a> {
    fn new(asking: &Asking<'a>) -> Self {
        let Asking { head, outbound, keep_alive, limits, unwanted } = *asking;
        Self { head, outbound, keep_alive, limits, unwanted, started: Instant::now(), request_end: OnceLock::new() }
    }

    /// Once the request is out the answer is read and passed on, while an eye is kept on the client.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn would hold `up` twice: as the argument and where it is moved to"
    )]
    fn without_body<D: Reply>(
        self,
        down: &mut D,
        mut up: Upstream,
        mut out: BytesMut,
        patience: &mut Patience,
    ) -> impl Future<Output = Result<Exchanged, ExchangeError>> {
        async move {
            write_out(&mut up.dialed.stream, &mut out, patience, self.limits.answer.idle)
                .await
                .map_err(|_| ExchangeError::Stale)?;
            self.request_end.get_or_init(|| self.started);
            let head = self.final_head(&mut up.dialed.stream, &mut up.buf, down, patience).await?;
            let waited = self.started.elapsed();
            if let Some(refused) = refused_by_parent(self.outbound, &head) {
                return Err(refused);
            }
            if self.unwanted.is_some_and(|unwanted| unwanted(&head)) {
                return Err(ExchangeError::Unwanted(head.status()));
            }
            if head.status() == 101 {
                return self.switch(down, up, head, waited, patience).await;
            }
            if self.is_unswitched(&head) {
                return Err(ExchangeError::Failed(unswitched()));
            }
            let mut answer = Answer::new(&self, &head);
            let mut sender = Sender::new(&mut up.dialed.stream, &mut up.buf, answer.upstream_framing);
            let result = answer.pass(&mut sender, down, &head, &self, patience).await;
            Ok(answer.into_exchanged(&self, Some(up), result, 0, waited, head))
        }
    }

    /// Over HTTP/2 a 2xx says that the websocket is open (RFC 8441 §5); an origin that did not switch must not seem to say it.
    fn is_unswitched(&self, head: &ResponseHead) -> bool {
        self.outbound.websocket && self.head.version() == Version::Http2 && (200..300).contains(&head.status())
    }

    /// Request body and answer flow at the same time: an origin may answer before it has read everything.
    async fn with_body<S: Source, P: Reply>(
        self,
        body: &mut S,
        reply: &mut P,
        mut up: Upstream,
        out: BytesMut,
        patience: &mut Patience,
    ) -> Result<Exchanged, ExchangeError> {
        let mut received = 0;
        let begun = AtomicBool::new(false);
        let (head, waited, answer, result) = {
            let length = self.head.body();
            let (mut up_reader, up_writer) = split(&mut up.dialed.stream);
            let mut taker = Taker { writer: up_writer, out, framing: length };
            let mut sending = Patience::default();
            let pump = body::copy(body, &mut taker, &mut sending, &self.limits.request, &mut received);
            let answered = async {
                let head = self.final_head(&mut up_reader, &mut up.buf, reply, patience).await?;
                let waited = self.started.elapsed();
                if let Some(refused) = refused_by_parent(self.outbound, &head) {
                    return Err(refused);
                }
                if head.status() == 101 {
                    return Err(ExchangeError::Failed(unexpected_switch()));
                }
                begun.store(true, Ordering::Relaxed);
                let mut answer = Answer::new(&self, &head);
                // The client may still be sending: what follows the answer on its connection is the rest of a body.
                answer.keep_alive &= self.request_whole();
                let mut sender = Sender::new(&mut up_reader, &mut up.buf, answer.upstream_framing);
                let result = answer.pass(&mut sender, reply, &head, &self, patience).await;
                Ok((head, waited, answer, result))
            };
            tokio::pin!(pump, answered);
            self.both(pump, answered, &begun).await?
        };
        Ok(answer.into_exchanged(&self, Some(up), result, received, waited, head))
    }

    /// Waits for an answer to have passed, while the request's body is sent; `begun`: some of the answer is out. What is left of a body
    /// that nobody waits for any more is not sent.
    async fn both<T>(
        &self,
        mut pump: Pin<&mut impl Future<Output = Result<(), CopyError>>>,
        mut answered: Pin<&mut impl Future<Output = Result<T, ExchangeError>>>,
        begun: &AtomicBool,
    ) -> Result<T, ExchangeError> {
        tokio::select! {
            biased;
            pumped = &mut pump => match pumped {
                Ok(()) => {
                    self.request_end.get_or_init(Instant::now);
                    answered.await
                }
                // The upstream may have answered and wants no more of the body: its answer counts.
                Err(CopyError::Write(_)) => answered.await,
                // Half an answer is out: it cannot be followed by another one.
                Err(_) if begun.load(Ordering::Relaxed) => Err(ExchangeError::ClientGone),
                Err(error) => Err(client_failed(error)),
            },
            answered = &mut answered => answered,
        }
    }

    /// Reads the head of the final answer; interim ones are passed on as they come.
    async fn final_head<R: AsyncRead + Unpin, P: Reply>(
        &self,
        upstream: &mut R,
        buf: &mut BytesMut,
        client: &mut P,
        patience: &mut Patience,
    ) -> Result<ResponseHead, ExchangeError> {
        let mut passed = 0;
        loop {
            let watched = Watched { upstream: &mut *upstream, client: &mut *client };
            let head = self.next_head(watched, buf, patience).await?;
            if !is_interim(&head) {
                return Ok(head);
            }
            passed += 1;
            if passed > INTERIM_MAX {
                let detail = format!("{} sent more than {INTERIM_MAX} interim answers", self.outbound.target);
                return Err(ExchangeError::Failed(Failure::new(ErrorType::UpstreamProtocol, detail)));
            }
            // 1xx travel to clients that know them (RFC 9110 §15.2).
            if self.head.version() != Version::Http10 {
                let sent = client.interim(&head, patience, self.limits.answer.idle).await;
                sent.map_err(|_| ExchangeError::ClientGone)?;
            }
        }
    }

    /// Reads the next head of an answer, interim ones included.
    async fn next_head<R: AsyncRead + Unpin, P: Reply>(
        &self,
        mut from: Watched<'_, R, P>,
        buf: &mut BytesMut,
        patience: &mut Patience,
    ) -> Result<ResponseHead, ExchangeError> {
        let began = Instant::now();
        let mut first_byte: Option<Instant> = None;
        let mut half_closed: Option<Instant> = None;
        loop {
            match parse_response(buf, self.head.method(), &self.limits.head) {
                Ok(Some(head)) => return Ok(head),
                Ok(None) => {}
                Err(error) => {
                    let detail = format!("the answer of {} is not valid HTTP/1.1", self.outbound.target);
                    let log = format!("{detail}: {error}");
                    return Err(ExchangeError::Failed(Failure {
                        log: log.into(),
                        ..Failure::new(ErrorType::UpstreamProtocol, detail)
                    }));
                }
            }
            let limit = match first_byte {
                None if self.limits.answer_time.is_zero() => Duration::ZERO,
                None => self.answer_time_left(began).max(MOMENT),
                Some(at) => self.limits.head_time.saturating_sub(at.elapsed()).max(MOMENT),
            };
            let limit = match self.whole_left() {
                Some(left) if limit.is_zero() || left < limit => left.max(MOMENT),
                _ => limit,
            };
            buf.reserve(8 * 1024);
            let read = match half_closed {
                None => patience.within(limit, from.read_buf(buf)).await,
                Some(since) => {
                    let left = HALF_CLOSED_TIME.saturating_sub(since.elapsed()).max(MOMENT);
                    let reading = Box::pin(from.read_until_reset(buf)); // boxed, because it is rare
                    match patience.within(limit.min(left), reading).await {
                        Err(_) if left < limit => return Err(ExchangeError::ClientGone),
                        read => read,
                    }
                }
            };
            match read {
                Ok(Ok(0)) if buf.is_empty() => return Err(ExchangeError::Stale),
                Ok(Ok(0)) => return Err(self.broke_off()),
                Ok(Ok(_)) => first_byte = first_byte.or_else(|| Some(Instant::now())),
                Ok(Err(error)) if is_of_client(&error, CLIENT_GONE) => return Err(ExchangeError::ClientGone),
                // A client may end its side behind its request (RFC 9112 §9.6 has it read on): from here only a reset says that it left.
                Ok(Err(error)) if is_of_client(&error, CLIENT_HALF_CLOSED) => half_closed = Some(Instant::now()),
                Ok(Err(_)) if buf.is_empty() => return Err(ExchangeError::Stale),
                Ok(Err(_)) => return Err(self.broke_off()),
                // The request ended after this wait began.
                Err(_)
                    if first_byte.is_none()
                        && !self.answer_time_left(began).is_zero()
                        && self.whole_left().is_none_or(|left| !left.is_zero()) => {}
                Err(_) => {
                    let detail = format!("{} did not answer in time", self.outbound.target);
                    return Err(ExchangeError::Failed(Failure::new(ErrorType::ResponseTimeout, detail)));
                }
            }
        }
    }

    /// How long the origin may still be silent, whose last interim answer came at `began`. All of it while the request's body is on
    /// the way: a pause in that has a limit of its own.
    fn answer_time_left(&self, began: Instant) -> Duration {
        let silent = self.request_end.get().map_or(Duration::ZERO, |end| began.max(*end).elapsed());
        self.limits.answer_time.saturating_sub(silent)
    }

    /// How much is left of the time that the route gives. All of it while the request's body is on the way.
    fn whole_left(&self) -> Option<Duration> {
        let gone = self.request_end.get().map_or(Duration::ZERO, Instant::elapsed);
        self.limits.whole.map(|whole| whole.saturating_sub(gone))
    }

    fn request_whole(&self) -> bool {
        self.request_end.get().is_some()
    }

    fn broke_off(&self) -> ExchangeError {
        let detail = format!("{} closed the connection inside its answer's head", self.outbound.target);
        ExchangeError::Failed(Failure::new(ErrorType::ConnectionTerminated, detail))
    }

    /// 101: only to a client that asked for websocket, and only from an origin that switches to it.
    async fn switch<D: Reply>(
        self,
        down: &mut D,
        up: Upstream,
        head: ResponseHead,
        waited: Duration,
        patience: &mut Patience,
    ) -> Result<Exchanged, ExchangeError> {
        if !(self.outbound.websocket && head.upgrade_websocket()) {
            return Err(ExchangeError::Failed(unexpected_switch()));
        }
        down.switch(&head, self.outbound.via, patience, self.limits.answer.idle).await?;
        Ok(Exchanged {
            head,
            received: 0,
            sent: 0,
            upstream_time: waited,
            connection_bound_auth: false,
            request_whole: true,
            next: Next::Switched(up),
        })
    }
}

fn is_interim(head: &ResponseHead) -> bool {
    (100..200).contains(&head.status()) && head.status() != 101
}

const INTERIM_MAX: usize = 32; // an origin that sends more of them before an answer sends no answer
const MOMENT: Duration = Duration::from_millis(1); // a zero limit would be none
/// How long a client that sends no more is waited for: most that end their side have left, and no proxy keeps an origin busy for them.
const HALF_CLOSED_TIME: Duration = Duration::from_secs(5);

/// Writes and flushes within a limit.
async fn write_out<W: AsyncWrite + Unpin>(
    to: &mut W,
    out: &mut BytesMut,
    patience: &mut Patience,
    limit: Duration,
) -> io::Result<()> {
    let written = patience.within(limit, async {
        to.write_all_buf(out).await?;
        to.flush().await
    });
    written.await.unwrap_or_else(|_| {
        metrics::limit_reached(Limit::BodyIdle);
        Err(io::ErrorKind::TimedOut.into())
    })
}

/// The passing on of one final answer.
struct Answer {
    upstream_framing: BodyLength,
    framing: BodyLength,
    keep_alive: bool,
    sent: u64,
    reusable: bool,
}

impl Answer {
    fn new(answering: &Answering<'_>, head: &ResponseHead) -> Self {
        let upstream_framing = head.body();
        let framing = match (upstream_framing, answering.head.version()) {
            // An answer that ends with its connection becomes chunked where the client understands it, so that it can tell a
            // whole answer from a broken one, and its connection lives on.
            (BodyLength::UntilClose | BodyLength::Chunked, Version::Http11) => BodyLength::Chunked,
            (BodyLength::UntilClose | BodyLength::Chunked, Version::Http10) => BodyLength::UntilClose,
            // HTTP/2 has a framing of its own, which tells the two apart as well.
            (length, _) => length,
        };
        let ends_with_connection = framing == BodyLength::UntilClose && answering.head.version() != Version::Http2;
        let keep_alive = answering.keep_alive && !ends_with_connection;
        let reusable = head.persistent() && !matches!(upstream_framing, BodyLength::UntilClose);
        Self { upstream_framing, framing, keep_alive, sent: 0, reusable }
    }

    /// The same over HTTP/2, which says by itself where an answer ends; `ends`: with its head.
    fn over_http2(answering: &Answering<'_>, head: &ResponseHead, ends: bool) -> Self {
        let answer = Self::new(answering, head);
        match answering.head.version() {
            Version::Http2 if ends => Self { framing: BodyLength::None, ..answer },
            _ => answer,
        }
    }

    async fn pass<S: Source, P: Reply>(
        &mut self,
        body: &mut S,
        client: &mut P,
        head: &ResponseHead,
        answering: &Answering<'_>,
        patience: &mut Patience,
    ) -> Result<(), CopyError> {
        let inbound = Inbound {
            framing: self.framing,
            version: answering.head.version(),
            keep_alive: self.keep_alive,
            websocket: false,
            via: answering.outbound.via,
            changes: answering.outbound.answer_changes,
        };
        client.begin(head, &inbound)?;
        let limits = &answering.limits.answer;
        match answering.whole_left() {
            None => body::copy(body, client, patience, limits, &mut self.sent).await,
            Some(left) => {
                let limits = BodyLimits { deadline: Some(Instant::now() + left), ..limits.clone() };
                Box::pin(body::copy(body, client, patience, &limits, &mut self.sent)).await
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the facts of one finished exchange, gathered in one place")]
    fn into_exchanged(
        self,
        answering: &Answering<'_>,
        up: Option<Upstream>,
        result: Result<(), CopyError>,
        received: u64,
        upstream_time: Duration,
        head: ResponseHead,
    ) -> Exchanged {
        let request_whole = answering.request_whole();
        let reusable = self.reusable && request_whole && result.is_ok();
        let upstream = up.filter(|up| reusable && up.buf.is_empty());
        let next = match result {
            Ok(()) if self.keep_alive => Next::KeepAlive(upstream),
            Ok(()) => Next::Close(upstream),
            Err(error) => Next::Abort(describe(&error, answering, self.upstream_framing)),
        };
        Exchanged {
            connection_bound_auth: binds_authentication(answering.head, &head),
            head,
            received,
            sent: self.sent,
            upstream_time,
            request_whole,
            next,
        }
    }
}

fn describe(error: &CopyError, answering: &Answering<'_>, framing: BodyLength) -> Broken {
    let target = answering.outbound.target;
    let ending = match error {
        CopyError::Late => Ending::AnswerTimeout,
        CopyError::Write(_) => Ending::DownstreamReset,
        CopyError::Read(_) | CopyError::Malformed(_) | CopyError::Idle | CopyError::TooSlow => Ending::UpstreamReset,
    };
    let why = match error {
        CopyError::Read(cause) => format!("answer of {target} ended early ({framing:?}): {cause}"),
        CopyError::Malformed(cause) => format!("answer of {target} is malformed: {cause}"),
        CopyError::Write(cause) => format!("client went away: {cause}"),
        CopyError::Idle | CopyError::TooSlow => format!("answer of {target} paused for too long"),
        CopyError::Late => format!("answer of {target} was not complete within the timeout of its route"),
    };
    Broken { why: why.into(), ending }
}

/// A parent's 407 is about our credentials, not the client's, which would take it for a question to itself.
fn refused_by_parent(outbound: &Outbound<'_>, head: &ResponseHead) -> Option<ExchangeError> {
    (outbound.absolute_form && head.status() == 407).then(|| {
        let failure = Failure::new(ErrorType::HopRefused, "the parent proxy does not accept our credentials");
        ExchangeError::Failed(Failure { hop_status: Some(407), ..failure })
    })
}

fn unswitched() -> Failure {
    Failure::new(ErrorType::UpstreamProtocol, "the origin answered without switching to websocket")
}

fn unexpected_switch() -> Failure {
    Failure::new(ErrorType::UpstreamProtocol, "the origin switched protocols without being asked for websocket")
}

/// The client's body failed: a malformed one is answered, a client that went away is not.
fn client_failed(error: CopyError) -> ExchangeError {
    match error {
        CopyError::Malformed(cause) => ExchangeError::Failed(Failure::new(
            ErrorType::BadRequest,
            format!("the request's body is malformed: {cause}"),
        )),
        CopyError::Idle => {
            ExchangeError::Failed(Failure::new(ErrorType::RequestTimeout, "the request's body paused for too long"))
        }
        CopyError::TooSlow => {
            ExchangeError::Failed(Failure::new(ErrorType::RequestTimeout, "the request's body came too slowly"))
        }
        CopyError::Read(_) | CopyError::Write(_) | CopyError::Late => ExchangeError::ClientGone,
    }
}

/// True where the answer asks for, or the request brings, a scheme that authenticates the connection, not the request (RFC 4559,
/// MS-NTHT): from then on the connection is this client's.
fn binds_authentication(request: &RequestHead, answer: &ResponseHead) -> bool {
    let binds = |value: &[u8]| {
        let value = value.trim_ascii_start();
        ["ntlm", "negotiate"]
            .iter()
            .any(|scheme| value.len() >= scheme.len() && value[..scheme.len()].eq_ignore_ascii_case(scheme.as_bytes()))
    };
    answer.status() == 401 && answer.all("www-authenticate").any(binds)
        || request.field("authorization").is_some_and(binds)
}

/// The upstream to read an answer from, and the client to keep an eye on meanwhile: one that leaves is not waited for.
struct Watched<'a, R, P> {
    upstream: &'a mut R,
    client: &'a mut P,
}

/// Mark the errors with which [`Watched`] reports what it sees of the client.
const CLIENT_GONE: io::ErrorKind = io::ErrorKind::NotConnected;
const CLIENT_HALF_CLOSED: io::ErrorKind = io::ErrorKind::NotFound;

/// No error of a socket is of either kind.
fn is_of_client(error: &io::Error, mark: io::ErrorKind) -> bool {
    error.kind() == mark
}

impl<R: AsyncRead + Unpin, P: Reply> Watched<'_, R, P> {
    /// Reads for a client that sends no more.
    async fn read_until_reset(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        tokio::select! {
            biased;
            read = self.upstream.read_buf(buf) => read,
            () = self.client.reset() => Err(CLIENT_GONE.into()),
        }
    }
}

impl<R: AsyncRead + Unpin, P: Reply> AsyncRead for Watched<'_, R, P> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut *self.upstream).poll_read(cx, buf) {
            return Poll::Ready(read);
        }
        match ready!(self.client.poll_sign(cx)) {
            Sign::Reset => Poll::Ready(Err(CLIENT_GONE.into())),
            Sign::HalfClosed => Poll::Ready(Err(CLIENT_HALF_CLOSED.into())),
            Sign::Bytes => Poll::Pending, // a pipelined request; the upstream wakes us
        }
    }
}

/// Reads more of a client's head or of anything else, at most `limit` long.
///
/// # Errors
/// `TimedOut` when the limit is over, else what the stream says.
pub async fn read_more(
    stream: &mut Stream,
    buf: &mut BytesMut,
    patience: &mut Patience,
    limit: Duration,
) -> io::Result<usize> {
    buf.reserve(4 * 1024);
    match patience.within(limit, stream.read_buf(buf)).await {
        Ok(read) => read,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
