//! The upstream's side of one exchange over HTTP/2: the request is a stream of a connection that others share.
//!
//! The answer's head is written down as one of HTTP/1.1, so that the same rules judge it and the same code passes it on.

use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, PROXY_AUTHORIZATION, TE, VIA};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use super::{
    Answer, Answering, Asking, ExchangeError, Exchanged, HALF_CLOSED_TIME, INTERIM_MAX, MOMENT, Next, Upstream,
    refused_by_parent, unexpected_switch,
};
use crate::dial::{Dialed, Http2Sent, Http2Upstream, is_refused};
use crate::flow::{ErrorType, Failure};
use crate::http1::body::Decoded;
use crate::http1::{BodyLength, RequestHead, ResponseHead, Version, parse_response, websocket, write};
use crate::stream::Sign;
use crate::stream::http2::{Http2Stream, Window};
use crate::tunnel::body::{self, CopyError, Source};
use crate::tunnel::downstream::Reply;
use crate::tunnel::headers::{self, Outbound};
use crate::tunnel::http2::{Http2Body, Sending};
use crate::tunnel::patience::Patience;

/// Sends a request without body and passes the answer on; a websocket is opened by extended CONNECT (RFC 8441).
///
/// # Errors
/// See [`ExchangeError`].
pub(super) async fn exchange<D: Reply>(
    down: &mut D,
    up: Http2Upstream,
    asking: &Asking<'_>,
    patience: &mut Patience,
) -> Result<Exchanged, ExchangeError> {
    let answering = Answering::new(asking);
    let is_websocket = asking.outbound.websocket;
    let Http2Sent { mut response, body: send, hold, lease } = sent(up, asking, !is_websocket)?;
    answering.request_end.get_or_init(|| answering.started);
    let (head, recv) = answering.final_http2(&mut response, down, patience).await?;
    let waited = answering.started.elapsed();
    if let Some(refused) = refused_by_parent(asking.outbound, &head) {
        return Err(refused);
    }
    if asking.unwanted.is_some_and(|unwanted| unwanted(&head)) {
        return Err(ExchangeError::Unwanted(head.status()));
    }
    if is_websocket && (200..300).contains(&head.status()) {
        let head = switched(&head, asking)?;
        down.switch(&head, asking.outbound.via, patience, asking.limits.answer.idle).await?;
        let stream = Http2Stream::outgoing(send, recv, hold).into();
        let dialed = Dialed { stream, lease, requests: 0, peer: None, local: None, hop: None };
        return Ok(Exchanged {
            head,
            received: 0,
            sent: 0,
            upstream_time: waited,
            connection_bound_auth: false,
            request_whole: true,
            next: Next::Switched(Upstream { dialed, buf: BytesMut::new() }),
        });
    }
    let mut answer = Answer::over_http2(&answering, &head, recv.is_end_stream());
    let result = pass(&mut answer, recv, down, &head, &answering, patience).await;
    drop((send, hold, lease)); // the stream is over
    Ok(answer.into_exchanged(&answering, None, result, 0, waited, head))
}

/// Sends a request with a body and passes the answer on; both flow at the same time.
///
/// # Errors
/// See [`ExchangeError`].
pub(super) async fn exchange_with_body<S: Source, P: Reply>(
    request: &mut S,
    reply: &mut P,
    up: Http2Upstream,
    asking: &Asking<'_>,
    patience: &mut Patience,
) -> Result<Exchanged, ExchangeError> {
    let answering = Answering::new(asking);
    let Http2Sent { mut response, body: send, hold, lease } = sent(up, asking, false)?;
    let mut sink = Sending::new(send);
    let mut received = 0;
    let begun = AtomicBool::new(false);
    let (head, waited, answer, result) = {
        let mut sending = Patience::default();
        let pump = body::copy(request, &mut sink, &mut sending, &asking.limits.request, &mut received);
        let answered = async {
            let (head, recv) = answering.final_http2(&mut response, reply, patience).await?;
            let waited = answering.started.elapsed();
            if let Some(refused) = refused_by_parent(asking.outbound, &head) {
                return Err(refused);
            }
            begun.store(true, Ordering::Relaxed);
            let mut answer = Answer::over_http2(&answering, &head, recv.is_end_stream());
            answer.keep_alive &= answering.request_whole();
            let result = pass(&mut answer, recv, reply, &head, &answering, patience).await;
            Ok((head, waited, answer, result))
        };
        tokio::pin!(pump, answered);
        answering.both(pump, answered, &begun).await?
    };
    drop((sink, hold, lease)); // the stream is over
    Ok(answer.into_exchanged(&answering, None, result, received, waited, head))
}

fn sent(up: Http2Upstream, asking: &Asking<'_>, end: bool) -> Result<Http2Sent, ExchangeError> {
    let request = request(asking.head, asking.outbound)?;
    up.send(request, end).map_err(|error| {
        if error.is_io() || error.is_go_away() {
            return ExchangeError::Refused; // by a connection that takes no more: nothing was sent
        }
        ExchangeError::Failed(Failure::new(ErrorType::BadRequest, format!("it cannot be sent in HTTP/2: {error}")))
    })
}

async fn pass<P: Reply>(
    answer: &mut Answer,
    recv: RecvStream,
    client: &mut P,
    head: &ResponseHead,
    answering: &Answering<'_>,
    patience: &mut Patience,
) -> Result<(), CopyError> {
    if head.body() == BodyLength::None {
        // Whatever frames come behind it: the client expects nothing (HEAD, 204, 304).
        return answer.pass(&mut Nothing, client, head, answering, patience).await;
    }
    let mut body = Http2Body::of_answer(recv);
    answer.pass(&mut &mut body, client, head, answering, patience).await
}

/// No body.
struct Nothing;

impl Source for Nothing {
    fn next(&mut self) -> Result<Decoded, CopyError> {
        Ok(Decoded::End)
    }

    async fn fill(&mut self, _: usize) -> Result<(), CopyError> {
        pending().await
    }

    fn window(&self) -> Option<&Window> {
        None
    }
}

/// What is seen while an answer is waited for.
enum Seen {
    /// `None`: an interim one.
    Answer(Result<(Parts, Option<RecvStream>), h2::Error>),
    Client(Sign),
}

/// The next head of an answer.
fn poll_answer(response: &mut ResponseFuture, cx: &mut Context<'_>) -> Poll<Seen> {
    match response.poll_informational(cx) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Some(interim)) => Poll::Ready(Seen::Answer(interim.map(|interim| (interim.into_parts().0, None)))),
        Poll::Ready(None) => Pin::new(response).poll(cx).map(|answer| {
            Seen::Answer(answer.map(|answer| {
                let (parts, recv) = answer.into_parts();
                (parts, Some(recv))
            }))
        }),
    }
}

impl Answering<'_> {
    /// Waits for the final answer; interim ones are passed on as they come, and an eye is kept on the client.
    async fn final_http2<P: Reply>(
        &self,
        response: &mut ResponseFuture,
        client: &mut P,
        patience: &mut Patience,
    ) -> Result<(ResponseHead, RecvStream), ExchangeError> {
        let (mut passed, mut began) = (0, Instant::now());
        let mut half_closed: Option<Instant> = None;
        loop {
            let limit = self.limit_of_silence(began);
            let seen = match half_closed {
                None => {
                    let seen = poll_fn(|cx| {
                        if let Poll::Ready(seen) = poll_answer(response, cx) {
                            return Poll::Ready(seen);
                        }
                        match client.poll_sign(cx) {
                            Poll::Ready(Sign::Bytes) | Poll::Pending => Poll::Pending,
                            Poll::Ready(sign) => Poll::Ready(Seen::Client(sign)),
                        }
                    });
                    patience.within(limit, seen).await
                }
                Some(since) => {
                    let left = HALF_CLOSED_TIME.saturating_sub(since.elapsed()).max(MOMENT);
                    let seen = async {
                        tokio::select! {
                            biased;
                            seen = poll_fn(|cx| poll_answer(response, cx)) => seen,
                            () = client.reset() => Seen::Client(Sign::Reset),
                        }
                    };
                    match patience.within(if limit.is_zero() { left } else { limit.min(left) }, seen).await {
                        Err(_) if limit.is_zero() || left < limit => return Err(ExchangeError::ClientGone),
                        seen => seen,
                    }
                }
            };
            match seen {
                Ok(Seen::Client(Sign::HalfClosed)) => half_closed = Some(Instant::now()),
                Ok(Seen::Client(_)) => return Err(ExchangeError::ClientGone),
                Ok(Seen::Answer(Err(error))) => return Err(self.broken_http2(&error)),
                Ok(Seen::Answer(Ok((parts, Some(recv))))) => {
                    return Ok((self.head_of(&parts, recv.is_end_stream())?, recv));
                }
                Ok(Seen::Answer(Ok((parts, None)))) => {
                    let head = self.head_of(&parts, false)?;
                    if head.status() == 101 {
                        return Err(ExchangeError::Failed(unexpected_switch())); // RFC 9113 §8.6: there is none
                    }
                    passed += 1;
                    if passed > INTERIM_MAX {
                        let detail = format!("{} sent more than {INTERIM_MAX} interim answers", self.outbound.target);
                        return Err(ExchangeError::Failed(Failure::new(ErrorType::UpstreamProtocol, detail)));
                    }
                    if self.head.version() != Version::Http10 {
                        let sent = client.interim(&head, patience, self.limits.answer.idle).await;
                        sent.map_err(|_| ExchangeError::ClientGone)?;
                    }
                    began = Instant::now();
                }
                // The request ended after this wait began.
                Err(_)
                    if !self.answer_time_left(began).is_zero()
                        && self.whole_left().is_none_or(|left| !left.is_zero()) => {}
                Err(_) => {
                    let detail = format!("{} did not answer in time", self.outbound.target);
                    return Err(ExchangeError::Failed(Failure::new(ErrorType::ResponseTimeout, detail)));
                }
            }
        }
    }

    /// How long the next head may still take; zero: no limit.
    fn limit_of_silence(&self, began: Instant) -> Duration {
        let limit = match self.limits.answer_time {
            Duration::ZERO => Duration::ZERO,
            _ => self.answer_time_left(began).max(MOMENT),
        };
        match self.whole_left() {
            Some(left) if limit.is_zero() || left < limit => left.max(MOMENT),
            _ => limit,
        }
    }

    /// An answer's head as one of HTTP/1.1; `ends`: nothing follows it.
    fn head_of(&self, parts: &Parts, ends: bool) -> Result<ResponseHead, ExchangeError> {
        let mut text = BytesMut::with_capacity(512);
        let reason = parts.status.canonical_reason().unwrap_or_default();
        write::status_line(&mut text, parts.status.as_u16(), reason.as_bytes());
        for (name, value) in &parts.headers {
            write::field(&mut text, name.as_str(), value.as_bytes());
        }
        // Said to clients of HTTP/1; in HTTP/2 END_STREAM says it, and an answer of gRPC that is trailers only has no length.
        let may_have_body = !matches!(parts.status.as_u16(), 100..200 | 204 | 304) && self.head.method() != "HEAD";
        let is_said = self.head.version() == Version::Http2 || parts.headers.contains_key(CONTENT_LENGTH);
        if ends && may_have_body && !is_said {
            write::field(&mut text, "Content-Length", b"0");
        }
        write::end(&mut text);
        let detail = || format!("the answer of {} is not valid HTTP", self.outbound.target);
        match parse_response(&mut text, self.head.method(), &self.limits.head) {
            Ok(Some(head)) if text.is_empty() => Ok(head.over_http2()),
            Ok(_) => Err(ExchangeError::Failed(Failure::new(ErrorType::UpstreamProtocol, detail()))),
            Err(error) => {
                let log = format!("{}: {error}", detail());
                Err(ExchangeError::Failed(Failure::new(ErrorType::UpstreamProtocol, detail()).logged(log)))
            }
        }
    }

    /// Why no answer came.
    fn broken_http2(&self, error: &h2::Error) -> ExchangeError {
        let target = self.outbound.target;
        if is_refused(error) {
            return ExchangeError::Refused;
        }
        if error.is_library() {
            // What h2 finds wrong with what the upstream says.
            let detail = format!("{target} does not speak HTTP/2");
            let log = format!("{detail}: {error}");
            return ExchangeError::Failed(Failure::new(ErrorType::UpstreamProtocol, detail).logged(log));
        }
        match error.reason() {
            Some(reason) if error.is_reset() => {
                let detail = format!("{target} reset the stream ({reason:?})");
                ExchangeError::Failed(Failure::new(ErrorType::ConnectionTerminated, detail))
            }
            _ => ExchangeError::Stale,
        }
    }
}

/// The request as one of HTTP/2: nothing in it belongs to a connection (RFC 9113 §8.2.2).
///
/// # Errors
/// [`ExchangeError::Failed`] for the few requests of HTTP/1 that have no form there.
pub(in crate::tunnel) fn request(head: &RequestHead, to: &Outbound<'_>) -> Result<Request<()>, ExchangeError> {
    let none = |what: &str| {
        ExchangeError::Failed(Failure::new(ErrorType::BadRequest, format!("{what} cannot be sent in HTTP/2")))
    };
    let uri = Uri::builder()
        .scheme(to.scheme.as_str())
        .authority(headers::authority(to.target, to.scheme).as_str())
        .path_and_query(to.path)
        .build()
        .map_err(|_| none("a path with these characters"))?;
    let mut request = Request::new(());
    *request.uri_mut() = uri;
    if to.websocket {
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from_static("websocket"));
    } else {
        let method = Method::from_bytes(head.method().as_bytes()).map_err(|_| none("this method"))?;
        if method == Method::CONNECT {
            return Err(none("CONNECT"));
        }
        *request.method_mut() = method;
    }
    *request.headers_mut() = fields(head, to).ok_or_else(|| none("a field with these characters"))?;
    Ok(request)
}

/// `None`: HTTP/2 has no way to say one of them.
fn fields(head: &RequestHead, to: &Outbound<'_>) -> Option<HeaderMap> {
    let mut fields = HeaderMap::with_capacity(16);
    let mut add = |name: HeaderName, value: HeaderValue| fields.append(name, value);
    for (name, value) in head.fields() {
        let is_of_http1 = name.eq_ignore_ascii_case("host")
            || to.websocket && name.eq_ignore_ascii_case("sec-websocket-key")
            || to.max_forwards.is_some() && name.eq_ignore_ascii_case("max-forwards");
        if is_of_http1 || !headers::travels(head, to, name.as_bytes()) {
            continue;
        }
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let mut value = HeaderValue::from_bytes(value).ok()?;
        // Clients share the connection and its compression: what is secret is never indexed (RFC 7541 §7.1.3).
        value.set_sensitive(name == AUTHORIZATION || name == COOKIE);
        add(name, value);
    }
    for (name, value) in to.changes.into_iter().flat_map(|changes| changes.fields()) {
        add(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    if let Some(left) = to.max_forwards {
        add(http::header::MAX_FORWARDS, HeaderValue::from(left));
    }
    // The only one of a connection's fields that HTTP/2 knows (RFC 9113 §8.2.2); gRPC asks for it.
    let asks =
        |value: &[u8]| value.split(|b| *b == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(b"trailers"));
    if head.all("te").any(asks) {
        add(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(authorization) = to.proxy_authorization {
        let mut value = HeaderValue::from_str(authorization).ok()?;
        value.set_sensitive(true);
        add(PROXY_AUTHORIZATION, value);
    }
    if let Some(name) = to.via {
        add(VIA, HeaderValue::from_str(&headers::via_value(head.version(), name)).ok()?);
    }
    Some(fields)
}

/// The answer that opened a websocket, as a client of HTTP/1 expects it.
fn switched(answer: &ResponseHead, asking: &Asking<'_>) -> Result<ResponseHead, ExchangeError> {
    let mut text = BytesMut::with_capacity(512);
    write::status_line(&mut text, 101, b"Switching Protocols");
    write::field(&mut text, "Connection", b"Upgrade");
    write::field(&mut text, "Upgrade", b"websocket");
    let key = asking.head.field("sec-websocket-key").unwrap_or_default();
    write::field(&mut text, "Sec-WebSocket-Accept", websocket::accept(key.trim_ascii()).as_bytes());
    for (name, value) in answer.fields() {
        if !["content-length", "sec-websocket-accept"].iter().any(|of_http1| name.eq_ignore_ascii_case(of_http1)) {
            write::field(&mut text, name, value);
        }
    }
    write::end(&mut text);
    match parse_response(&mut text, "GET", &asking.limits.head) {
        Ok(Some(head)) => Ok(head.over_http2()),
        _ => Err(ExchangeError::Failed(unexpected_switch())),
    }
}

/// Sends a request whose answer nobody waits for, and reads it to its end or to `bytes_max`.
pub(in crate::tunnel) async fn send_and_forget(up: Http2Upstream, request: Request<()>, body: Bytes, bytes_max: usize) {
    let Ok(Http2Sent { response, body: send, hold: _hold, lease: _lease }) = up.send(request, body.is_empty()) else {
        return;
    };
    let sent = if body.is_empty() { Ok(()) } else { whole(send, body).await };
    let (Ok(()), Ok(answer)) = (sent, response.await) else { return };
    let (mut recv, mut read) = (answer.into_body(), 0);
    while read < bytes_max
        && let Some(Ok(data)) = recv.data().await
    {
        read += data.len();
        let _ = recv.flow_control().release_capacity(data.len()); // never more than was received
    }
}

async fn whole(send: SendStream<Bytes>, body: Bytes) -> Result<(), CopyError> {
    let (mut sending, mut patience) = (Sending::new(send), Patience::default());
    body::Sink::data(&mut sending, body, &mut patience, Duration::ZERO).await?;
    body::Sink::end(&mut sending, None, &mut patience, Duration::ZERO).await
}
