//! Plain requests: absolute-form to the proxy, origin-form inside a tunnel that we terminate.

use std::sync::Arc;
use std::time::Duration;

use super::{After, Connection, Switched, closing};
use crate::account::{AccessRecord, Requested, Share};
use crate::flow::{Ask, Ending, ErrorType, Failure, Flow, Outcome, Request, Scheme, Source, Target};
use crate::http1::{BodyLength, RequestHead, RequestTarget};
use crate::tunnel::answer;
use crate::tunnel::downstream::Http1;
use crate::tunnel::exchange::{Broken, ExchangeError, Exchanged, Next};
use crate::tunnel::http::HttpPlan;
use crate::tunnel::routed::answer::{Before, OwnAnswer, before};
use crate::tunnel::{Opening, Proxy};

/// What a request asks for, whatever its form.
pub(super) struct Asked<'a> {
    pub(super) target: Target,
    pub(super) scheme: Scheme,
    pub(super) path: &'a str,
}

impl Connection {
    pub(super) async fn plain(&mut self, head: &RequestHead) -> After {
        let asked = match asked(head, self.inside.as_ref().map(|inside| &inside.target)) {
            Ok(asked) => asked,
            Err(failure) => {
                let record = self.client().record(head, Requested::Unreadable);
                return self.refuse(head, record, failure).await;
            }
        };
        let requested = Requested::Url { scheme: asked.scheme, target: &asked.target, path: asked.path };
        let mut record = self.client().record(head, requested);
        let inside = self.inside.as_ref().map(|inside| &inside.target);
        let source = match inside.map_or(Ok(()), |tunnel| same_authority(&asked.target, tunnel)) {
            Ok(()) => self.client().admit(head, inside.is_some(), &mut record).await,
            Err(failure) => Err(failure),
        };
        let source = match source {
            Ok(source) => source,
            Err(failure) => return self.refuse(head, record, failure).await,
        };
        let share = self.share.clone();
        let plan = match plan(&self.proxy, (&source, &share), head, &asked, inside.is_some(), &mut record) {
            Ok(Some(plan)) => plan,
            Ok(None) => return Box::pin(self.answer_ourselves(head, record, reflection(head))).await,
            Err(failure) => return self.refuse(head, record, failure).await,
        };
        if plan.route.taken.is_some() {
            let Before { delay, answer } = before(&plan, head);
            if let Some(delay) = delay {
                record.delayed();
                if !Box::pin(self.still_there(delay)).await {
                    record.finish(Outcome::Ended(Ending::DownstreamReset));
                    return After::Abort;
                }
            }
            if let Some(answer) = answer {
                return Box::pin(self.answer_ourselves(head, record, answer)).await;
            }
        }
        let keep_alive = self.may_ask_again(head);
        let Self { proxy, stream, buf, patience, pinned, .. } = self;
        let down = Http1::new(stream, buf);
        match proxy.exchange(down, patience, head, &plan, keep_alive, pinned, &mut record).await {
            Ok(exchanged) => {
                let unread = !exchanged.request_whole;
                let after = self.exchanged(exchanged, &source, plan, record);
                if unread && matches!(after, After::Close) {
                    closing::linger(&mut self.stream, &mut self.patience).await;
                }
                after
            }
            Err(ExchangeError::Failed(failure)) => self.refuse(head, record, failure).await,
            Err(
                ExchangeError::ClientGone | ExchangeError::Stale | ExchangeError::Refused | ExchangeError::Unwanted(_),
            ) => {
                record.finish(Outcome::Ended(Ending::DownstreamReset));
                After::Abort
            }
        }
    }

    fn exchanged(
        &mut self,
        exchanged: Exchanged,
        source: &Arc<Source>,
        plan: HttpPlan<'_>,
        mut record: Box<AccessRecord>,
    ) -> After {
        record.response_fields(|name| exchanged.head.field(name));
        record.exchanged(exchanged.head.status(), exchanged.received, exchanged.sent, exchanged.upstream_time);
        match exchanged.next {
            Next::KeepAlive(_) => {
                record.finish(Outcome::Complete);
                After::Next
            }
            Next::Close(_) => {
                record.finish(Outcome::Complete);
                After::Close
            }
            Next::Abort(Broken { why, ending }) => {
                record.broke_off(&why);
                record.finish(Outcome::Ended(ending));
                After::Abort
            }
            Next::Switched(upstream) => {
                self.source = source.clone();
                let early = upstream.buf.freeze();
                let mut dialed = upstream.dialed;
                dialed.stream = dialed.stream.with_prefix(early);
                let (route, share, target) = (&plan.route, &self.share, plan.target);
                let opening = Opening { route, source, share, target, by_sni: false, received_via: None };
                match self.proxy.switched(opening, dialed) {
                    Ok(opened) => After::Switch(Box::new(Switched { opened, record })),
                    Err(failure) => {
                        record.finish(Outcome::failed(failure.error, failure.log));
                        After::Abort
                    }
                }
            }
        }
    }

    /// Waits; false if the client went away meanwhile.
    async fn still_there(&mut self, delay: Duration) -> bool {
        let Self { stream, patience, .. } = self;
        patience.within(delay, stream.reset()).await.is_err()
    }

    /// An answer that is no refusal.
    async fn answer_ourselves(
        &mut self,
        head: &RequestHead,
        mut record: Box<AccessRecord>,
        answer: OwnAnswer,
    ) -> After {
        let keep_alive = head.body() == BodyLength::None && self.may_ask_again(head);
        let bytes = answer::own(&answer, head.method() == "HEAD", keep_alive);
        record.answered(answer.status, answer.details);
        if answer.is_fault {
            record.aborted();
        }
        if head.method() != "HEAD" {
            record.moved(0, answer.body.len() as u64);
        }
        let written = self.tell(&bytes).await;
        record.finish(Outcome::Complete);
        if written && keep_alive {
            return After::Next;
        }
        if head.body() != BodyLength::None {
            closing::linger(&mut self.stream, &mut self.patience).await; // nobody reads that body
        }
        After::Close
    }
}

/// Decides, up to the point where something is sent anywhere; `None`: we answer it (`Max-Forwards: 0`).
pub(super) fn plan<'a>(
    proxy: &Proxy,
    (source, share): (&'a Source, &'a Share),
    head: &RequestHead,
    asked: &'a Asked<'_>,
    inside_tunnel: bool,
    record: &mut AccessRecord,
) -> Result<Option<HttpPlan<'a>>, Failure> {
    let max_forwards = match max_forwards(head)? {
        Some(0) => return Ok(None),
        left => left.map(|left| left - 1),
    };
    let request =
        Request { method: head.method(), scheme: asked.scheme, path: asked.path, inside_tunnel, fields: head };
    let flow = Flow { source, ask: Ask::Http(request), target: asked.target.clone() };
    let route = proxy.route(&flow, record)?;
    let Asked { target, scheme, path } = asked;
    Ok(Some(HttpPlan { route, target, scheme: *scheme, path, max_forwards, share, source }))
}

/// Reads what is asked for: absolute-form wins over Host. Inside a tunnel it is still to be compared with the tunnel's target.
pub(super) fn asked<'h>(head: &'h RequestHead, inside: Option<&Target>) -> Result<Asked<'h>, Failure> {
    let bad = |detail: &str| Failure::new(ErrorType::BadRequest, detail);
    match (head.target(), inside) {
        (RequestTarget::Absolute { scheme, target }, None) => {
            Ok(Asked { target: target.clone(), scheme: *scheme, path: head.path() })
        }
        (RequestTarget::Absolute { scheme: Scheme::Http, target }, Some(_)) => {
            Ok(Asked { target: target.clone(), scheme: Scheme::Http, path: head.path() })
        }
        (RequestTarget::Origin, Some(tunnel)) => {
            let target = match head.host() {
                Some(host) => Target::parse_or_port(host, Scheme::Http.default_port())
                    .map_err(|error| bad(&format!("Host: {error}")))?,
                None => tunnel.clone(),
            };
            Ok(Asked { target, scheme: Scheme::Http, path: head.path() })
        }
        (RequestTarget::Asterisk, Some(tunnel)) => {
            Ok(Asked { target: tunnel.clone(), scheme: Scheme::Http, path: "*" })
        }
        (RequestTarget::Origin | RequestTarget::Asterisk, None) => {
            Err(bad("this is a proxy: ask with CONNECT host:port or with a whole URL"))
        }
        (RequestTarget::Absolute { .. }, Some(_)) => Err(bad("inside this tunnel only http is spoken")),
        (RequestTarget::Authority(_), _) => Err(bad("CONNECT inside a tunnel that carries HTTP")),
    }
}

/// `Max-Forwards: 0`: we are the last recipient (RFC 9110 §7.6.2). TRACE gets the request as received, without what must not be
/// reflected (§9.3.8).
pub(super) fn reflection(head: &RequestHead) -> OwnAnswer {
    let mut fields = vec![("Allow".into(), ALLOW.to_owned())];
    let mut body = String::new();
    if head.method() == "TRACE" {
        fields.push(("Content-Type".into(), "message/http".to_owned()));
        for line in String::from_utf8_lossy(head.raw()).split_inclusive("\r\n") {
            let name = line.split(':').next().unwrap_or_default();
            if !SECRETS.iter().any(|secret| name.eq_ignore_ascii_case(secret)) {
                body.push_str(line);
            }
        }
    }
    OwnAnswer { status: 200, fields, body: body.into(), details: "direct_response", is_fault: false }
}

const SECRETS: [&str; 3] = ["proxy-authorization", "authorization", "cookie"];

/// What a proxy passes on.
const ALLOW: &str = "CONNECT, GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS, TRACE";

/// RFC 9110 §15.5.20: a request that names another authority than its tunnel is misdirected; it may try to leave the tunnel's rules.
fn same_authority(asked: &Target, tunnel: &Target) -> Result<(), Failure> {
    if asked == tunnel {
        return Ok(());
    }
    Err(Failure::new(ErrorType::Misdirected, format!("this tunnel leads to {tunnel}, not to {asked}")))
}

/// `Max-Forwards` of TRACE and OPTIONS; other methods may ignore it (RFC 9110 §7.6.2).
fn max_forwards(head: &RequestHead) -> Result<Option<u64>, Failure> {
    if !matches!(head.method(), "TRACE" | "OPTIONS") {
        return Ok(None);
    }
    let Some(value) = head.field("max-forwards") else { return Ok(None) };
    let digits =
        std::str::from_utf8(value).ok().filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    match digits.map(str::parse::<u64>) {
        Some(parsed) => Ok(Some(parsed.unwrap_or(u64::MAX))),
        None => Err(Failure::new(ErrorType::BadRequest, "Max-Forwards is not a number")),
    }
}
