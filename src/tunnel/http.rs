//! HTTP over a route: which upstream connection serves a request, and when it may be asked a second time.

use std::sync::Arc;

use bytes::BytesMut;

use super::Proxy;
use super::downstream::Downstream;
use super::exchange::{Asking, ExchangeError, ExchangeLimits, Exchanged, Next, Upstream, exchange, exchange_with_body};
use super::headers::{self, Outbound};
use super::patience::Patience;
use crate::account::hosts::HostCounts;
use crate::account::{AccessRecord, Share, destinations};
use crate::dial::PoolKey;
use crate::flow::{ErrorType, Failure, Scheme, Target};
use crate::http1::{BodyLength, RequestHead};
use crate::route::Route;
use crate::route::cluster::{Cluster, Hop, Via};

/// What is done with one request.
#[derive(Debug)]
pub struct HttpPlan<'a> {
    /// The route.
    pub route: Route,
    /// What was asked for.
    pub target: &'a Target,
    /// The scheme asked for.
    pub scheme: Scheme,
    /// Path and query as received.
    pub path: &'a str,
    /// `Max-Forwards`, already counted down.
    pub max_forwards: Option<u64>,
    /// What the client holds.
    pub share: &'a Share,
}

/// An upstream connection that authenticated one client (NTLM, Negotiate): it serves this client's connection only.
pub struct Pinned {
    key: PoolKey,
    upstream: Upstream,
}

impl Proxy {
    /// Sends the request of `plan` upstream and its answer to the client, over a pooled connection where one is free.
    ///
    /// A reused connection that was closed before the first byte of an answer is silently replaced once, if the request has no body
    /// and is idempotent (RFC 9110 §9.2.2: a proxy must not repeat others).
    ///
    /// # Errors
    /// See [`ExchangeError`]; `Stale` does not come out of here.
    #[expect(clippy::too_many_arguments, reason = "what one request depends on, of two owners")]
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn would hold `down` twice: as the argument and where it is moved to"
    )]
    pub fn exchange<D: Downstream>(
        &self,
        mut down: D,
        patience: &mut Patience,
        head: &RequestHead,
        plan: &HttpPlan<'_>,
        keep_alive: bool,
        pinned: &mut Option<Pinned>,
        record: &mut AccessRecord,
    ) -> impl Future<Output = Result<Exchanged, ExchangeError>> {
        async move {
            let (cluster, hop) = first_stop(&plan.route.cluster);
            let authorization = match hop.and_then(|hop| hop.authorization.as_ref()).map(|credential| &credential.value)
            {
                Some(Err(why)) => {
                    let failure = Failure::new(ErrorType::Configuration, "the parent proxy's credential is missing");
                    return Err(ExchangeError::Failed(Failure { log: why.as_ref().into(), ..failure }));
                }
                Some(Ok(value)) => Some(value.as_ref()),
                None => None,
            };
            if hop.is_some() {
                // Before a kept connection to the parent is looked for: that one leads anywhere.
                self.dialer
                    .judge_asked(&plan.route.cluster, plan.target)
                    .map_err(|error| ExchangeError::Failed(error.failure(plan.target)))?;
            }
            let via = self.via.load_full();
            let outbound = Outbound {
                path: plan.path,
                target: plan.target,
                scheme: plan.scheme,
                absolute_form: hop.is_some(),
                proxy_authorization: authorization,
                websocket: head.upgrade_websocket(),
                max_forwards: plan.max_forwards,
                via: via.sent(),
            };
            let limits = ExchangeLimits::new(&self.limits.load(), plan.share.pace());
            let key = self.dialer.pool_key(cluster, plan.target);
            let own = pinned.take_if(|pinned| pinned.key == key);
            let mut owned = own.is_some();
            let idle = own.map(|pinned| pinned.upstream).or_else(|| self.idle(&key));
            let mut reused = idle.is_some();
            let mut upstream = match idle {
                Some(upstream) => {
                    upstream.dialed.retrace(record.trace_mut());
                    upstream
                }
                None => Box::pin(self.fresh(cluster, hop, plan, head, &mut down, record)).await?,
            };
            let mut host = upstream.dialed.lease.host().cloned();
            let asking = Asking { head, outbound: &outbound, keep_alive, limits: &limits };
            let result = if head.body() == BodyLength::None {
                loop {
                    record.trace_mut().reused = reused;
                    match exchange(&mut down, upstream, &asking, patience).await {
                        Err(ExchangeError::Stale) if reused && may_repeat(head) => {
                            upstream = Box::pin(self.fresh(cluster, hop, plan, head, &mut down, record)).await?;
                            host = upstream.dialed.lease.host().cloned();
                            (reused, owned) = (false, false);
                        }
                        result => break result,
                    }
                }
            } else {
                record.trace_mut().reused = reused;
                // Boxed with what else is rare, so that a connection's future stays small.
                Box::pin(exchange_with_body(down, upstream, &asking, patience)).await
            };
            if let Some(host) = host {
                tally(&host, &result);
            }
            let mut exchanged = result.map_err(|error| match error {
                ExchangeError::Stale => {
                    let detail = format!("{} closed the connection without an answer", plan.target);
                    ExchangeError::Failed(Failure::new(ErrorType::ConnectionTerminated, detail))
                }
                error => error,
            })?;
            destinations::note(plan.target, exchanged.received + exchanged.sent);
            if let Some(upstream) = reusable(&mut exchanged, cluster) {
                // What authenticated a client once is that client's to its end, whatever later requests on it look like.
                if owned || exchanged.connection_bound_auth {
                    *pinned = Some(Pinned { key, upstream });
                } else {
                    self.dialer.checkin(key, upstream.dialed);
                }
            }
            Ok(exchanged)
        }
    }

    fn idle(&self, key: &PoolKey) -> Option<Upstream> {
        self.dialer.checkout(key).map(|dialed| Upstream { dialed, buf: BytesMut::new() })
    }

    async fn fresh<D: Downstream>(
        &self,
        cluster: &Arc<Cluster>,
        parent: Option<&Hop>,
        plan: &HttpPlan<'_>,
        head: &RequestHead,
        client: &mut D,
        record: &mut AccessRecord,
    ) -> Result<Upstream, ExchangeError> {
        let dialing = async {
            let (target, share) = (plan.target, plan.share);
            match parent {
                Some(hop) => self.dial_parent(hop, target, share, record).await,
                None => self.dial(cluster, target, share, headers::received_via(head).as_deref(), record).await,
            }
        };
        let dialed = tokio::select! {
            biased;
            dialed = dialing => dialed.map_err(ExchangeError::Failed)?,
            () = client.reset() => return Err(ExchangeError::ClientGone),
        };
        Ok(Upstream { dialed, buf: BytesMut::new() })
    }
}

/// Counts at its address how a request ended.
fn tally(host: &HostCounts, result: &Result<Exchanged, ExchangeError>) {
    match result {
        Ok(exchanged) if exchanged.head.status() < 500 => host.succeeded(),
        Err(ExchangeError::Failed(failure)) if failure.error == ErrorType::ResponseTimeout => host.timed_out(),
        Ok(_) | Err(ExchangeError::Failed(_) | ExchangeError::Stale) => host.erred(),
        Err(ExchangeError::ClientGone) => {}
    }
}

/// Takes the upstream connection out, where it may serve another request.
fn reusable(exchanged: &mut Exchanged, cluster: &Cluster) -> Option<Upstream> {
    let upstream = match &mut exchanged.next {
        Next::KeepAlive(upstream) | Next::Close(upstream) => upstream.take()?,
        Next::Abort(_) | Next::Switched(_) => return None,
    };
    let requests_max = cluster.requests_per_connection_max;
    (requests_max == 0 || upstream.dialed.requests.saturating_add(1) < requests_max).then_some(upstream)
}

/// The cluster to connect to, and the parent that is asked in absolute-form there; TLS that we originate goes through a CONNECT instead.
fn first_stop(cluster: &Arc<Cluster>) -> (&Arc<Cluster>, Option<&Hop>) {
    match &cluster.via {
        Via::Connect(hop) if hop.absolute_form && cluster.tls.is_none() => (&hop.cluster, Some(hop)),
        Via::Connect(_) | Via::Direct => (cluster, None),
    }
}

fn may_repeat(head: &RequestHead) -> bool {
    matches!(head.body(), BodyLength::None)
        && matches!(head.method(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}
