//! One stream of HTTP/2: a CONNECT, a websocket or a plain request, on the same way as in HTTP/1.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};

use super::super::super::ListenerSettings;
use super::super::client::Client;
use super::super::plain;
use super::super::{Connection, Hold, accepts_problem_json};
use super::StreamGuard;
use super::request::{self, Read};
use crate::account::{AccessRecord, Requested, Share};
use crate::flow::{Ask, Ending, ErrorType, Failure, Flow, Outcome, Source, Target};
use crate::http1::{HeadLimits, RequestHead, RequestTarget};
use crate::route::{Route, TunnelKind};
use crate::stream::Stream;
use crate::stream::http2::Window;
use crate::tunnel::answer::{Answering, Refusal, has_body};
use crate::tunnel::body::Sink;
use crate::tunnel::downstream::Reply;
use crate::tunnel::exchange::{Broken, ExchangeError, Exchanged, Next};
use crate::tunnel::http2::{Http2, Http2Body, Http2Reply};
use crate::tunnel::patience::Patience;
use crate::tunnel::routed::answer::{Before, OwnAnswer, before};
use crate::tunnel::{Opened, Opening, Proxy, headers};

/// A stream that was opened.
pub(super) struct Exchange {
    proxy: Arc<Proxy>,
    settings: Arc<ListenerSettings>,
    source: Arc<Source>,
    share: Arc<Share>,
    patience: Patience,
    guard: StreamGuard,
    window: Arc<Window>,
}

/// What a CONNECT became.
enum Connected {
    Tunnel(Opened),
    Inside(Route),
    ClientGone,
}

impl Exchange {
    pub(super) fn new(
        proxy: Arc<Proxy>,
        settings: Arc<ListenerSettings>,
        source: Arc<Source>,
        share: Arc<Share>,
        guard: StreamGuard,
        window: Arc<Window>,
    ) -> Self {
        Self { proxy, settings, source, share, patience: Patience::default(), guard, window }
    }

    pub(super) async fn serve(mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let (parts, recv) = request.into_parts();
        let limits = self.proxy.limits.load_full();
        let limits = HeadLimits { bytes: limits.head_bytes, fields: limits.head_fields };
        match request::read(&parts, recv.is_end_stream(), &limits) {
            Ok(Read { head, accept }) => {
                drop(parts);
                let (reply, body) = (Http2Reply::new(respond, accept), Http2Body::new(recv, &self.window));
                match head.target() {
                    RequestTarget::Authority(target) => {
                        let target = target.clone();
                        self.connect(head, target, reply, body).await;
                    }
                    _ => self.plain(head, reply, body).await,
                }
            }
            Err(failure) => {
                let mut record = self.proxy.account.record(&self.source);
                record.request("HTTP/2", parts.method.as_str(), Requested::Unreadable);
                let mut reply = Http2Reply::new(respond, None);
                self.refuse(None, parts.method == Method::HEAD, record, failure, &mut reply).await;
            }
        }
    }

    fn client(&self) -> Client<'_> {
        Client { proxy: &self.proxy, settings: &self.settings, source: &self.source, share: &self.share }
    }

    async fn connect(mut self, head: RequestHead, target: Target, mut reply: Http2Reply, mut body: Http2Body) {
        let mut record = self.client().record(&head, Requested::Tunnel(&target));
        let connected = match self.client().admit(&head, false, &mut record).await {
            Ok(source) => {
                self.source = source;
                self.open(&head, &target, Http2::new(&mut reply, &mut body), &mut record).await
            }
            Err(failure) => Err(failure),
        };
        match connected {
            Ok(Connected::Tunnel(opened)) => {
                record.answered(200, "via_upstream");
                match established(reply, body) {
                    Some(stream) => self.tunnel(stream, opened, record),
                    None => record.finish(Outcome::Ended(Ending::DownstreamReset)),
                }
            }
            Ok(Connected::Inside(route)) => {
                record.answered(200, "terminated");
                match established(reply, body) {
                    Some(stream) => self.go_inside(stream, target, route, record),
                    None => record.finish(Outcome::Ended(Ending::DownstreamReset)),
                }
            }
            Ok(Connected::ClientGone) => {
                reply.reset(Reason::CANCEL);
                record.finish(Outcome::Ended(Ending::DownstreamReset));
            }
            Err(failure) => self.refuse(Some(&head), false, record, failure, &mut reply).await,
        }
    }

    async fn open(
        &self,
        head: &RequestHead,
        target: &Target,
        mut client: Http2<'_, '_>,
        record: &mut AccessRecord,
    ) -> Result<Connected, Failure> {
        let flow = Flow { source: &self.source, ask: Ask::Connect, target: target.clone() };
        let route = self.proxy.route(&flow, record)?;
        if route.tunnel != TunnelKind::Opaque {
            return Ok(Connected::Inside(route));
        }
        let via = headers::received_via(head);
        let (source, share) = (&self.source, &self.share);
        let opening = Opening { route: &route, source, share, target, by_sni: false, received_via: via.as_deref() };
        tokio::select! {
            biased;
            opened = self.proxy.open(opening, record) => Ok(Connected::Tunnel(opened?)),
            () = client.reset() => Ok(Connected::ClientGone),
        }
    }

    /// Hands both streams to the relay, as a small future of its own, so that this one can end.
    fn tunnel(self, stream: Stream, opened: Opened, record: Box<AccessRecord>) {
        let tunnel = self.proxy.tunnel(stream, opened, record, self.guard);
        self.proxy.drain.spawn(tunnel.relay());
    }

    /// HTTP/1 inside the stream, as on a connection of its own.
    fn go_inside(self, stream: Stream, target: Target, route: Route, record: Box<AccessRecord>) {
        let Self { proxy, settings, source, share, patience, guard, .. } = self;
        let tasks = proxy.drain.clone();
        let connection = Box::new(Connection {
            proxy,
            settings,
            source,
            share,
            stream,
            buf: BytesMut::new(),
            patience,
            pinned: None,
            inside: None,
            requests: 0,
            hold: Hold::Stream { _guard: guard },
        });
        tasks.spawn(connection.serve_inside(target, route, record));
    }

    async fn plain(mut self, head: RequestHead, mut reply: Http2Reply, mut body: Http2Body) {
        let asked = match plain::asked(&head, None) {
            Ok(asked) => asked,
            Err(failure) => {
                let record = self.client().record(&head, Requested::Unreadable);
                return self.refuse(Some(&head), false, record, failure, &mut reply).await;
            }
        };
        let requested = Requested::Url { scheme: asked.scheme, target: &asked.target, path: asked.path };
        let mut record = self.client().record(&head, requested);
        let source = match self.client().admit(&head, false, &mut record).await {
            Ok(source) => source,
            Err(failure) => return self.refuse(Some(&head), false, record, failure, &mut reply).await,
        };
        let share = self.share.clone();
        let plan = match plain::plan(&self.proxy, (&source, &share), &head, &asked, false, &mut record) {
            Ok(Some(plan)) => plan,
            Ok(None) => return self.answer_ourselves(&head, record, plain::reflection(&head), &mut reply).await,
            Err(failure) => return self.refuse(Some(&head), false, record, failure, &mut reply).await,
        };
        if plan.route.taken.is_some() {
            let Before { delay, answer } = before(&plan, &head);
            if let Some(delay) = delay {
                record.delayed();
                let mut client = Http2::new(&mut reply, &mut body);
                if self.patience.within(delay, client.reset()).await.is_ok() {
                    return record.finish(Outcome::Ended(Ending::DownstreamReset));
                }
            }
            if let Some(answer) = answer {
                return self.answer_ourselves(&head, record, answer, &mut reply).await;
            }
        }
        let down = Http2::new(&mut reply, &mut body);
        // Authentication that binds to a connection (NTLM) has none to bind to here: what it pins ends with the request.
        let mut pinned = None;
        let exchanged =
            self.proxy.exchange(down, &mut self.patience, &head, &plan, true, &mut pinned, &mut record).await;
        match exchanged {
            Ok(exchanged) => {
                let Exchanged { head, received, sent, upstream_time, next, .. } = exchanged;
                record.response_fields(|name| head.field(name));
                record.exchanged(head.status(), received, sent, upstream_time);
                match next {
                    Next::KeepAlive(_) | Next::Close(_) => record.finish(Outcome::Complete),
                    Next::Abort(Broken { why, ending }) => {
                        reply.reset(Reason::INTERNAL_ERROR);
                        record.broke_off(&why);
                        record.finish(Outcome::Ended(ending));
                    }
                    Next::Switched(upstream) => {
                        let mut dialed = upstream.dialed;
                        dialed.stream = dialed.stream.with_prefix(upstream.buf.freeze());
                        let (route, source, target) = (&plan.route, &source, plan.target);
                        let opening =
                            Opening { route, source, share: &share, target, by_sni: false, received_via: None };
                        let opened = self.proxy.switched(opening, dialed);
                        match (opened, reply.into_stream(body)) {
                            (Ok(opened), Some(stream)) => self.tunnel(stream, opened, record),
                            (Ok(_), None) => record.finish(Outcome::Ended(Ending::DownstreamReset)),
                            (Err(failure), _) => record.finish(Outcome::failed(failure.error, failure.log)),
                        }
                    }
                }
            }
            Err(ExchangeError::Failed(failure)) => {
                self.refuse(Some(&head), false, record, failure, &mut reply).await;
            }
            Err(
                ExchangeError::ClientGone | ExchangeError::Stale | ExchangeError::Refused | ExchangeError::Unwanted(_),
            ) => {
                reply.reset(Reason::CANCEL);
                record.finish(Outcome::Ended(Ending::DownstreamReset));
            }
        }
    }

    /// Answers a request that failed and writes its line. What is left of its body is not wanted: h2 says so (RFC 9113 §8.1).
    async fn refuse(
        &mut self,
        head: Option<&RequestHead>,
        head_only: bool,
        mut record: Box<AccessRecord>,
        failure: Failure,
        reply: &mut Http2Reply,
    ) {
        let head_only = head_only || head.is_some_and(|head| head.method() == "HEAD");
        let request_id = record.ensure_request_id();
        let retry = failure.error == ErrorType::AuthenticationRequired;
        let challenge = self.settings.basic.as_ref().filter(|_| retry).map(|basic| basic.challenge());
        let via = self.proxy.via.load_full();
        let refusal = Refusal::new(
            &failure,
            &Answering {
                proxy: &via.name,
                request_id: &request_id,
                problem_json: head.is_some_and(accepts_problem_json),
                keep_alive: true,
                head_only,
                challenge: challenge.as_deref(),
            },
        );
        let body = if head_only { String::new() } else { refusal.body };
        record.refused(&failure, refusal.status);
        record.moved(0, body.len() as u64);
        record.finish(Outcome::failed(failure.error, failure.log));
        let fields = refusal.fields.iter().map(|(name, value)| (*name, value.as_str()));
        self.answer(refusal.status, fields, body.into(), reply).await;
    }

    /// An answer that is no refusal.
    async fn answer_ourselves(
        &mut self,
        head: &RequestHead,
        mut record: Box<AccessRecord>,
        answer: OwnAnswer,
        reply: &mut Http2Reply,
    ) {
        record.answered(answer.status, answer.details);
        if answer.is_fault {
            record.aborted();
        }
        let length = answer.body.len().to_string();
        let length = has_body(answer.status).then_some(("content-length", &*length));
        let fields = answer.fields.iter().map(|(name, value)| (&**name, &**value)).chain(length);
        let is_bare = head.method() == "HEAD" || !has_body(answer.status);
        let body = if is_bare { Bytes::new() } else { answer.body.clone() };
        record.moved(0, body.len() as u64);
        self.answer(answer.status, fields, body, reply).await;
        record.finish(Outcome::Complete);
    }

    /// An answer of ours. A client that does not take it within `limits.bodyIdle` gets a reset.
    async fn answer<'f>(
        &mut self,
        status: u16,
        fields: impl Iterator<Item = (&'f str, &'f str)>,
        body: Bytes,
        reply: &mut Http2Reply,
    ) {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        for (name, value) in fields {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
                response.headers_mut().append(name, value);
            }
        }
        let idle = self.proxy.limits.load().body_idle;
        // What fails here resets the stream when the reply is dropped.
        if reply.head(response, body.is_empty()).is_ok()
            && !body.is_empty()
            && reply.data(body, &mut self.patience, idle).await.is_ok()
        {
            let _ = reply.end(None, &mut self.patience, idle).await;
        }
    }
}

/// 200 and nothing else: what follows is the tunnel's.
fn established(mut reply: Http2Reply, body: Http2Body) -> Option<Stream> {
    reply.head(Response::new(()), false).ok()?;
    reply.into_stream(body)
}
