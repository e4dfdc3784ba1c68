//! Requests that go upstream in HTTP/2: a stream each, of connections that they share.

use std::sync::Arc;
use std::time::Instant;

use super::downstream::Downstream;
use super::exchange::{Asking, Carrier, ExchangeError, Exchanged};
use super::headers;
use super::http::{HttpPlan, Way, event_of};
use super::patience::Patience;
use super::routed::Client;
use super::{DNS_TIME, Proxy, failed};
use crate::account::{AccessRecord, destinations};
use crate::dial::{Asker, Http2Upstream, PickBy};
use crate::flow::{ErrorType, Failure};
use crate::http1::{RequestHead, Version};
use crate::route::http::retries::is_idempotent;

impl Proxy {
    /// Whether the request goes in HTTP/2: a websocket does only where the upstream says that it knows them (RFC 8441).
    pub(super) async fn goes_in_http2(
        &self,
        way: &Way<'_>,
        plan: &HttpPlan<'_>,
        head: &RequestHead,
        by: PickBy<'_>,
        record: &mut AccessRecord,
    ) -> Result<bool, Failure> {
        if !head.upgrade_websocket() {
            return Ok(true);
        }
        Ok(self.http2_for(way, plan, head, &by, record).await?.carries_websockets().await)
    }

    /// A stream to where the request goes.
    pub(super) async fn http2_for(
        &self,
        way: &Way<'_>,
        plan: &HttpPlan<'_>,
        head: &RequestHead,
        by: &PickBy<'_>,
        record: &mut AccessRecord,
    ) -> Result<Box<Http2Upstream>, Failure> {
        let _dialling = self.dialling(plan.share).map_err(|error| failed(&error, plan.target, record))?;
        let deadline = Instant::now() + way.cluster.connect_timeout + DNS_TIME;
        let dialed = match way.hop {
            Some(hop) => {
                let asker = Asker { client: Some(plan.source), received_via: None, by };
                self.dialer.http2_parent(hop, plan.target, asker, deadline, record.trace_mut()).await
            }
            None => {
                let via = headers::received_via(head);
                let asker = Asker { client: Some(plan.source), received_via: via.as_deref(), by };
                self.dialer.http2(way.cluster, plan.target, asker, deadline, record.trace_mut()).await
            }
        };
        let upstream = dialed.map_err(|error| failed(&error, plan.target, record))?;
        let trace = record.trace_mut();
        upstream.retrace(trace);
        trace.http2 = true;
        Ok(Box::new(upstream))
    }

    /// Sends the request as a stream, and its answer to the client. What the upstream says it did nothing with is sent once more, as long
    /// as the whole body is at hand; what a connection that was used before took along when it broke, only if twice is as once.
    ///
    /// # Errors
    /// See [`ExchangeError`]; neither `Stale` nor `Refused` comes out of here.
    #[expect(clippy::too_many_arguments, reason = "what one request depends on, of two owners")]
    pub(super) async fn exchange_http2<D: Downstream>(
        self: &Arc<Self>,
        down: D,
        way: &Way<'_>,
        plan: &HttpPlan<'_>,
        asking: &Asking<'_>,
        by: PickBy<'_>,
        patience: &mut Patience,
        record: &mut AccessRecord,
    ) -> Result<Exchanged, ExchangeError> {
        let head = asking.head;
        let mut client = Client::Whole(down);
        let mut is_first = true;
        loop {
            let upstream = tokio::select! {
                biased;
                upstream = self.http2_for(way, plan, head, &by, record) => upstream.map_err(ExchangeError::Failed)?,
                () = client.gone() => return Err(ExchangeError::ClientGone),
            };
            let (witness, reused) = (upstream.lease().witness(), upstream.reused);
            let result = client.ask(Carrier::Stream(upstream), asking, true, patience).await;
            let is_stale = reused && matches!(result, Err(ExchangeError::Stale)); // the end of a kept connection is no failure
            if let Some(event) = event_of(&result).filter(|_| !is_stale) {
                self.dialer.note(way.cluster, &witness, event);
            }
            let again = is_first && client.can_repeat();
            match result {
                Err(ExchangeError::Refused) if again => is_first = false,
                Err(ExchangeError::Stale) if again && reused && is_idempotent(head.method()) => is_first = false,
                Err(error @ (ExchangeError::Refused | ExchangeError::Stale)) => {
                    let what = match error {
                        ExchangeError::Refused => "refused the request without looking at it",
                        _ => "closed the connection without an answer",
                    };
                    let detail = format!("{} {what}", plan.target);
                    return Err(ExchangeError::Failed(Failure::new(ErrorType::ConnectionTerminated, detail)));
                }
                Err(error) => return Err(error),
                Ok(exchanged) => {
                    destinations::note(plan.target, exchanged.received + exchanged.sent);
                    return Ok(exchanged);
                }
            }
        }
    }
}

/// Whether the rules have the request go in HTTP/2.
pub(super) fn wants_http2(way: &Way<'_>, head: &RequestHead) -> bool {
    way.cluster.http.is_http2(head.version() == Version::Http2)
}
