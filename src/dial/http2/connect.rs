//! CONNECT as a client over HTTP/2, to a parent proxy (RFC 9113 §8.5), or POST: a tunnel is a stream of a connection that many share.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use h2::RecvStream;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use tokio::time::timeout_at;

use super::super::connect::{Asking, INTERIM_ANSWERS_MAX, authorization};
use super::super::endpoints::Lease;
use super::super::{DialError, Dialer, Reached, Way};
use super::{Http2Sent, is_refused};
use crate::flow::{DialTrace, Target};
use crate::route::Hop;
use crate::route::cluster::TunnelMethod;
use crate::stream::Stream;
use crate::stream::http2::{Http2Stream, broken};

impl Dialer {
    /// Asks a parent for a tunnel to `asked`; `way` leads to the parent. A stream that the parent refuses without looking at it is asked
    /// for once more.
    ///
    /// # Errors
    /// [`DialError::HopRefused`] for any answer but 2xx, [`DialError::HopProtocol`] for what is no answer, [`DialError::Hop`] for what
    /// fails on the way.
    pub(in crate::dial) async fn connect_http2(
        &self,
        way: Way<'_>,
        hop: &Hop,
        asked: &Target,
        asking: Asking<'_>,
        trace: &mut DialTrace,
    ) -> Result<Reached, DialError> {
        let on_the_way = |source| DialError::Hop { hop: asking.hop.clone(), source: Box::new(source) };
        let request = request(hop, asked, asking).map_err(on_the_way)?;
        let mut is_first = true;
        loop {
            let upstream = match self.http2_tunnel(hop, way, trace).await {
                Ok(upstream) => upstream,
                Err(error @ DialError::Hop { .. }) => return Err(error),
                Err(error) => return Err(on_the_way(error)),
            };
            upstream.retrace(trace);
            let started = Instant::now();
            let until = way.deadline.min(started + way.cluster.connect_timeout);
            let opening = async {
                let sent = upstream.send(request.clone(), false).map_err(Trouble::Stream)?;
                answered(sent).await
            };
            let opened = timeout_at(until.into(), opening).await;
            trace.connect += started.elapsed();
            match opened {
                Ok(Ok((stream, lease))) => return Ok(Reached { stream, lease, began: Instant::now() }),
                Ok(Err(Trouble::Stream(error))) if is_first && is_refused(&error) => is_first = false,
                Ok(Err(trouble)) => {
                    let error = trouble.error(asked, asking.hop);
                    trace.hop_status = error.hop_status();
                    return Err(match error {
                        DialError::HopRefused { hop: name, status: 407, reason, .. } => {
                            DialError::HopRefused { hop: name, status: 407, reason, about: hop.about_407().into() }
                        }
                        DialError::HopRefused { .. } | DialError::HopProtocol { .. } => error,
                        error => on_the_way(error),
                    });
                }
                Err(_) => {
                    let step = format!("CONNECT {asked}").into();
                    return Err(on_the_way(DialError::Timeout { step, after: until - started }));
                }
            }
        }
    }
}

/// Why there is no tunnel.
enum Trouble {
    Stream(h2::Error),
    Refused(StatusCode),
    Interim,
}

impl Trouble {
    fn error(self, asked: &Target, hop: &Arc<str>) -> DialError {
        let protocol =
            |problem: String| DialError::HopProtocol { hop: hop.clone(), problem: problem.into(), version: "HTTP/2" };
        match self {
            Self::Refused(status) => {
                // HTTP/2 has no reason phrase.
                let reason = status.canonical_reason().unwrap_or_default().into();
                DialError::HopRefused { hop: hop.clone(), status: status.as_u16(), reason, about: "".into() }
            }
            Self::Interim => protocol(format!("more than {INTERIM_ANSWERS_MAX} interim answers")),
            // What h2 finds wrong with what the parent says.
            Self::Stream(error) if error.is_library() => protocol(error.to_string()),
            Self::Stream(error) => {
                DialError::Connect { peer: format!("{hop} for {asked}").into(), source: broken(error) }
            }
        }
    }
}

async fn answered(sent: Http2Sent) -> Result<(Stream, Lease), Trouble> {
    let Http2Sent { mut response, body, hold, lease } = sent;
    for _ in 0..=INTERIM_ANSWERS_MAX {
        let Some(answer) = next_answer(&mut response).await.map_err(Trouble::Stream)? else { continue };
        if !answer.status().is_success() {
            return Err(Trouble::Refused(answer.status()));
        }
        return Ok((Http2Stream::outgoing(body, answer.into_body(), hold).into(), lease));
    }
    Err(Trouble::Interim)
}

/// The final answer; `None`: an interim one.
async fn next_answer(response: &mut h2::client::ResponseFuture) -> Result<Option<Response<RecvStream>>, h2::Error> {
    poll_fn(|cx| match response.poll_informational(cx) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Some(interim)) => Poll::Ready(interim.map(|_| None)),
        Poll::Ready(None) => std::pin::Pin::new(&mut *response).poll(cx).map_ok(Some),
    })
    .await
}

/// The request, so that a parent that cannot be asked is not dialled.
fn request(hop: &Hop, asked: &Target, asking: Asking<'_>) -> Result<Request<()>, DialError> {
    let uri = Uri::builder().authority(asked.to_string());
    let (method, uri) = match hop.method {
        TunnelMethod::Connect => (Method::CONNECT, uri),
        TunnelMethod::Post => (Method::POST, uri.scheme("http").path_and_query("/")),
    };
    let uri =
        uri.build().map_err(|_| DialError::Configuration(format!("{asked} cannot be asked of a parent").into()))?;
    let mut request = Request::new(());
    (*request.method_mut(), *request.uri_mut()) = (method, uri);
    let fields = request.headers_mut();
    if let Some(via) = asking.via_value()
        && let Ok(via) = HeaderValue::from_str(&via)
    {
        fields.insert(http::header::VIA, via);
    }
    if let Some(authorization) = authorization(hop)? {
        let mut value = HeaderValue::from_str(authorization)
            .map_err(|_| DialError::Configuration("the parent's credentials hold control characters".into()))?;
        value.set_sensitive(true); // never indexed by HPACK
        fields.insert(http::header::PROXY_AUTHORIZATION, value);
    }
    Ok(request)
}
