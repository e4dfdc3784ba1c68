//! Plain requests: absolute-form to the proxy, origin-form inside a tunnel that we terminate.

use std::fmt::Write as _;
use std::sync::Arc;

use super::{After, Connection, Switched, closing};
use crate::account::{AccessRecord, Requested};
use crate::flow::{Ask, Ending, ErrorType, Failure, Flow, Outcome, Request, Scheme, Source, Target};
use crate::http1::{BodyLength, RequestHead, RequestTarget};
use crate::tunnel::exchange::{Downstream, ExchangeError, Exchanged, Next};
use crate::tunnel::http::HttpPlan;

/// What a request asks for, whatever its form.
struct Asked<'a> {
    target: Target,
    scheme: Scheme,
    path: &'a str,
}

impl Connection {
    pub(super) async fn plain(&mut self, head: &RequestHead) -> After {
        let asked = match self.asked(head) {
            Ok(asked) => asked,
            Err(failure) => {
                let record = self.record(head, Requested::Unreadable);
                return self.refuse(head, record, failure).await;
            }
        };
        let requested = Requested::Url { scheme: asked.scheme, target: &asked.target, path: asked.path };
        let mut record = self.record(head, requested);
        let source = match self.admitted(head, &asked.target, &mut record).await {
            Ok(source) => source,
            Err(failure) => return self.refuse(head, record, failure).await,
        };
        let max_forwards = match max_forwards(head) {
            Ok(Some(0)) => return self.answer_ourselves(head, record).await,
            Ok(left) => left.map(|left| left - 1),
            Err(failure) => return self.refuse(head, record, failure).await,
        };
        let request = Request {
            method: head.method(),
            scheme: asked.scheme,
            path: asked.path,
            inside_tunnel: self.inside.is_some(),
        };
        let flow = Flow { source: &source, ask: Ask::Http(request), target: asked.target.clone() };
        let plan = match self.proxy.route(&flow, &mut record) {
            Ok(route) => {
                HttpPlan { route, target: &asked.target, scheme: asked.scheme, path: asked.path, max_forwards }
            }
            Err(failure) => return self.refuse(head, record, failure).await,
        };
        let keep_alive = self.may_ask_again(head);
        let mut down = Downstream { stream: &mut self.stream, buf: &mut self.buf, patience: &mut self.patience };
        match self.proxy.exchange(&mut down, head, &plan, keep_alive, &mut self.pinned, &mut record).await {
            Ok(exchanged) => {
                let unread = !exchanged.request_whole;
                let after = self.exchanged(exchanged, &source, plan, record);
                if unread && matches!(after, After::Close) {
                    closing::linger(&mut self.stream, &mut self.patience).await;
                }
                after
            }
            Err(ExchangeError::Failed(failure)) => self.refuse(head, record, failure).await,
            Err(ExchangeError::ClientGone | ExchangeError::Stale) => {
                record.finish(Outcome::Ended(Ending::DownstreamReset));
                After::Abort
            }
        }
    }

    async fn admitted(
        &self,
        head: &RequestHead,
        target: &Target,
        record: &mut AccessRecord,
    ) -> Result<Arc<Source>, Failure> {
        if let Some(inside) = &self.inside {
            same_authority(target, &inside.target)?;
        }
        let source = self.authenticate(head).await?;
        record.identity(source.identity.as_ref());
        self.refuse_loop(head)?;
        Ok(source)
    }

    /// Reads what is asked for: absolute-form wins over Host. Inside a tunnel it is still to be compared with the tunnel's target.
    fn asked<'h>(&self, head: &'h RequestHead) -> Result<Asked<'h>, Failure> {
        let bad = |detail: &str| Failure::new(ErrorType::BadRequest, detail);
        match (head.target(), &self.inside) {
            (RequestTarget::Absolute { scheme, target }, None) => {
                Ok(Asked { target: target.clone(), scheme: *scheme, path: head.path() })
            }
            (RequestTarget::Absolute { scheme: Scheme::Http, target }, Some(_)) => {
                Ok(Asked { target: target.clone(), scheme: Scheme::Http, path: head.path() })
            }
            (RequestTarget::Origin, Some(inside)) => {
                let target = match head.host() {
                    Some(host) => Target::parse_or_port(host, Scheme::Http.default_port())
                        .map_err(|error| bad(&format!("Host: {error}")))?,
                    None => inside.target.clone(),
                };
                Ok(Asked { target, scheme: Scheme::Http, path: head.path() })
            }
            (RequestTarget::Asterisk, Some(inside)) => {
                Ok(Asked { target: inside.target.clone(), scheme: Scheme::Http, path: "*" })
            }
            (RequestTarget::Origin | RequestTarget::Asterisk, None) => {
                Err(bad("this is a proxy: ask with CONNECT host:port or with a whole URL"))
            }
            (RequestTarget::Absolute { .. }, Some(_)) => Err(bad("inside this tunnel only http is spoken")),
            (RequestTarget::Authority(_), _) => Err(bad("CONNECT inside a tunnel that carries HTTP")),
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
            Next::Abort(why) => {
                record.broke_off(&why);
                record.finish(Outcome::Ended(Ending::UpstreamReset));
                After::Abort
            }
            Next::Switched(upstream) => {
                self.source = source.clone();
                let early = upstream.buf.freeze();
                let mut dialed = upstream.dialed;
                dialed.stream = dialed.stream.with_prefix(early);
                match self.proxy.switched(&plan.route, source, plan.target, dialed) {
                    Ok(opened) => After::Switch(Box::new(Switched { opened, record })),
                    Err(failure) => {
                        record.finish(Outcome::failed(failure.error, failure.log));
                        After::Abort
                    }
                }
            }
        }
    }

    /// `Max-Forwards: 0`: we are the last recipient (RFC 9110 §7.6.2).
    async fn answer_ourselves(&mut self, head: &RequestHead, mut record: Box<AccessRecord>) -> After {
        let mut body = String::new();
        if head.method() == "TRACE" {
            // The request as received, without what must not be reflected (RFC 9110 §9.3.8).
            for line in String::from_utf8_lossy(head.raw()).split_inclusive("\r\n") {
                let name = line.split(':').next().unwrap_or_default();
                if !["proxy-authorization", "authorization", "cookie"]
                    .iter()
                    .any(|secret| name.eq_ignore_ascii_case(secret))
                {
                    body.push_str(line);
                }
            }
        }
        let mut answer = String::from("HTTP/1.1 200 OK\r\n");
        let media_type = if body.is_empty() { "" } else { "Content-Type: message/http\r\n" };
        let keep_alive = head.body() == BodyLength::None && self.may_ask_again(head);
        let connection = if keep_alive { "" } else { "Connection: close\r\n" };
        write!(
            answer,
            "{media_type}Allow: CONNECT, GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS, TRACE\r\n\
             Content-Length: {}\r\n{connection}\r\n{body}",
            body.len()
        )
        .expect("a String takes everything");
        record.answered(200, "direct_response");
        let written = self.tell(answer.as_bytes()).await;
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
