//! HTTP over a route: which upstream connection serves a request, and when it may be asked a second time.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use bytes::BytesMut;

use super::downstream::Downstream;
use super::exchange::{
    Asking, Carrier, ExchangeError, ExchangeLimits, Exchanged, Next, Upstream, exchange, exchange_with_body,
};
use super::headers::{self, Outbound};
use super::over_http2::wants_http2;
use super::patience::Patience;
use super::routed::Routed;
use super::{Proxy, failed};
use crate::account::{AccessRecord, Share, destinations};
use crate::dial::{Asker, Chosen, DialError, Dialed, PickBy, PoolKey};
use crate::flow::{ErrorType, Failure, Scheme, Side, Source, Target};
use crate::http1::{BodyLength, RequestHead};
use crate::route::Route;
use crate::route::balancing::hashing::{Asked, Hashed};
use crate::route::balancing::outliers::Event;
use crate::route::cluster::{Cluster, Hop, Via};
use crate::route::http::Actions;
use crate::route::http::changes::Changes;

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
    /// The client.
    pub source: &'a Source,
}

/// An upstream connection that authenticated one client (NTLM, Negotiate): it serves this client's connection only.
pub struct Pinned {
    pub(super) key: PoolKey,
    pub(super) upstream: Upstream,
}

/// Where a request goes first: to the upstream itself, or to a parent that is asked in absolute-form.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) cluster: &'a Arc<Cluster>,
    pub(super) hop: Option<&'a Hop>,
    pub(super) authorization: Option<&'a str>,
    /// Where the request failed before.
    pub(super) avoid: &'a [SocketAddr],
}

impl Way<'_> {
    /// Says of a parent's 407, for the operator, where the credentials come from that it does not accept.
    pub(super) fn about(&self, error: ExchangeError) -> ExchangeError {
        match (error, self.hop) {
            (ExchangeError::Failed(failure), Some(hop)) if failure.hop_status == Some(407) => {
                let log = format!("{}: {}", failure.log, hop.about_407());
                ExchangeError::Failed(failure.logged(log))
            }
            (error, _) => error,
        }
    }
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
        self: &Arc<Self>,
        mut down: D,
        patience: &mut Patience,
        head: &RequestHead,
        plan: &HttpPlan<'_>,
        keep_alive: bool,
        pinned: &mut Option<Pinned>,
        record: &mut AccessRecord,
    ) -> impl Future<Output = Result<Exchanged, ExchangeError>> {
        async move {
            let taken = plan.route.taken.as_ref().map(|taken| &*taken.actions);
            // What the mesh says may go by the answer; what is built in goes by the connection alone, and is looked at where there is none.
            let by_answer = plan.route.cluster.retries.as_ref().is_some_and(|retries| !retries.is_built_in);
            if taken.is_some() || by_answer {
                let routed = Routed { proxy: self, head, plan, actions: taken.unwrap_or(&NO_ACTIONS), keep_alive };
                return Box::pin(routed.exchange(down, None, patience, pinned, record)).await;
            }
            let way = self.way(plan)?;
            let Way { cluster, hop, authorization, .. } = way;
            let affinity = affinity(cluster, plan, head);
            let choice = self.choose(cluster, plan, affinity, &[], record)?;
            let by = || choice.as_ref().map_or(PickBy::NOTHING, |choice| choice.by(&[]));
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
                changes: None,
                answer_changes: choice.as_ref().and_then(|choice| choice.set_cookie.as_ref()),
            };
            let admitted = self.admit(cluster, plan, record)?;
            let limits = self.exchange_limits(plan);
            if wants_http2(&way, head) {
                let goes = Box::pin(self.goes_in_http2(&way, plan, head, by(), record)).await;
                if goes.map_err(ExchangeError::Failed)? {
                    let asking = Asking { head, outbound: &outbound, keep_alive, limits: &limits, unwanted: None };
                    return Box::pin(self.exchange_http2(down, &way, plan, &asking, by(), patience, record)).await;
                }
            }
            let key = self.dialer.pool_key(cluster, plan.target, plan.source, by().chosen.copied());
            let own = pinned.take_if(|pinned| pinned.key.leads_as(&key));
            let mut owned = own.is_some();
            let idle = own.map(|pinned| pinned.upstream).or_else(|| self.idle(&key, &by()));
            let mut upstream = match idle {
                Some(upstream) => {
                    upstream.dialed.retrace(record.trace_mut());
                    upstream
                }
                None => match Box::pin(self.fresh(&way, plan, head, &key, by(), &mut down, record)).await {
                    Ok(upstream) => upstream,
                    Err(ExchangeError::Failed(failure)) if plan.route.cluster.retries.is_some() => {
                        drop(admitted); // it is counted again
                        let routed = Routed { proxy: self, head, plan, actions: &NO_ACTIONS, keep_alive };
                        return Box::pin(routed.exchange(down, Some(failure), patience, pinned, record)).await;
                    }
                    Err(error) => return Err(error),
                },
            };
            let mut reused = upstream.dialed.requests > 0;
            let mut witness = upstream.dialed.lease.witness();
            let asking = Asking { head, outbound: &outbound, keep_alive, limits: &limits, unwanted: None };
            let result = if head.body() == BodyLength::None {
                loop {
                    record.trace_mut().reused = reused;
                    match exchange(&mut down, Carrier::Connection(upstream), &asking, patience).await {
                        Err(ExchangeError::Stale) if reused && may_repeat(head) => {
                            upstream = Box::pin(self.fresh(&way, plan, head, &key, by(), &mut down, record)).await?;
                            witness = upstream.dialed.lease.witness();
                            (reused, owned) = (upstream.dialed.requests > 0, false);
                        }
                        result => break result,
                    }
                }
            } else {
                record.trace_mut().reused = reused;
                // Boxed with what else is rare, so that a connection's future stays small.
                Box::pin(async {
                    let (mut body, mut reply) = down.split(head.body());
                    exchange_with_body(&mut body, &mut reply, Carrier::Connection(upstream), &asking, patience).await
                })
                .await
            };
            if let Some(event) = event_of(&result) {
                self.dialer.note(cluster, &witness, event);
            }
            let mut exchanged = result.map_err(|error| match error {
                ExchangeError::Stale => {
                    let detail = format!("{} closed the connection without an answer", plan.target);
                    ExchangeError::Failed(Failure::new(ErrorType::ConnectionTerminated, detail))
                }
                error => way.about(error),
            })?;
            self.settle(&mut exchanged, cluster, key, owned, plan, pinned);
            Ok(exchanged)
        }
    }

    /// Where the plan leads first.
    pub(super) fn way<'p>(&self, plan: &'p HttpPlan<'_>) -> Result<Way<'p>, ExchangeError> {
        let (cluster, hop) = first_stop(&plan.route.cluster);
        let authorization = match hop.and_then(|hop| hop.authorization.as_ref()).map(|credential| &credential.value) {
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
        Ok(Way { cluster, hop, authorization, avoid: &[] })
    }

    /// The settings' limits of an exchange for this client.
    pub(super) fn exchange_limits(&self, plan: &HttpPlan<'_>) -> ExchangeLimits {
        ExchangeLimits::new(&self.limits.load(), plan.share.pace())
    }

    /// Counts what was moved, and keeps the upstream connection if it may serve another request.
    pub(super) fn settle(
        &self,
        exchanged: &mut Exchanged,
        cluster: &Cluster,
        key: PoolKey,
        owned: bool,
        plan: &HttpPlan<'_>,
        pinned: &mut Option<Pinned>,
    ) {
        destinations::note(plan.target, exchanged.received + exchanged.sent);
        if let Some(upstream) = reusable(exchanged, cluster) {
            // What authenticated a client once is that client's to its end, whatever later requests on it look like.
            if owned || exchanged.connection_bound_auth {
                *pinned = Some(Pinned { key, upstream });
            } else {
                self.dialer.checkin(key, upstream.dialed);
            }
        }
    }

    /// Chooses the endpoint of a request, so that a kept connection to it can be looked for. `None`: there is nothing to choose.
    pub(super) fn choose(
        &self,
        cluster: &Arc<Cluster>,
        plan: &HttpPlan<'_>,
        affinity: Option<Box<Choice>>,
        avoid: &[SocketAddr],
        record: &mut AccessRecord,
    ) -> Result<Option<Box<Choice>>, ExchangeError> {
        let by = affinity.as_ref().map_or(PickBy { avoid, ..PickBy::NOTHING }, |choice| choice.by(avoid));
        match self.dialer.choose(cluster, by) {
            Ok(None) => Ok(affinity),
            Ok(chosen) => {
                let mut choice = affinity.unwrap_or_default();
                choice.chosen = chosen;
                Ok(Some(choice))
            }
            Err(error) => Err(ExchangeError::Failed(failed(&error, plan.target, record))),
        }
    }

    pub(super) fn idle(&self, key: &PoolKey, by: &PickBy<'_>) -> Option<Upstream> {
        self.dialer.checkout(key, by).map(|dialed| Upstream { dialed, buf: BytesMut::new() })
    }

    #[expect(clippy::too_many_arguments, reason = "what one request depends on, and what a connection for it does")]
    async fn fresh<D: Downstream>(
        &self,
        way: &Way<'_>,
        plan: &HttpPlan<'_>,
        head: &RequestHead,
        key: &PoolKey,
        by: PickBy<'_>,
        client: &mut D,
        record: &mut AccessRecord,
    ) -> Result<Upstream, ExchangeError> {
        let dialed = tokio::select! {
            biased;
            dialed = self.connection(way, plan, head, key, &by, record) => dialed.map_err(ExchangeError::Failed)?,
            () = client.reset() => return Err(ExchangeError::ClientGone),
        };
        Ok(Upstream { dialed, buf: BytesMut::new() })
    }

    /// A connection to where the request goes, for one that found none idle.
    pub(super) async fn connection(
        &self,
        way: &Way<'_>,
        plan: &HttpPlan<'_>,
        head: &RequestHead,
        key: &PoolKey,
        by: &PickBy<'_>,
        record: &mut AccessRecord,
    ) -> Result<Dialed, Failure> {
        match self.dialer.usage(way.cluster) {
            Some(usage) => Box::pin(self.bounded(usage, way, plan, head, key, by, record)).await,
            None => {
                let dialed = self.try_dial_for(way, plan, head, by, record).await;
                dialed.map_err(|error| failed(&error, plan.target, record))
            }
        }
    }

    /// Connects to where the request goes.
    pub(super) async fn try_dial_for(
        &self,
        way: &Way<'_>,
        plan: &HttpPlan<'_>,
        head: &RequestHead,
        by: &PickBy<'_>,
        record: &mut AccessRecord,
    ) -> Result<Dialed, DialError> {
        match way.hop {
            Some(hop) => {
                let asker = Asker { client: Some(plan.source), received_via: None, by };
                self.dial_parent(hop, plan.target, plan.share, asker, record).await
            }
            None => {
                let via = headers::received_via(head);
                let asker = Asker { client: Some(plan.source), received_via: via.as_deref(), by };
                self.try_dial(way.cluster, plan.target, plan.share, asker, record).await
            }
        }
    }
}

/// Of routes that want nothing done.
static NO_ACTIONS: LazyLock<Actions> = LazyLock::new(Actions::default);

/// Where a request to a cluster of several endpoints goes. Apart from the exchange, which most often has no such choice.
#[derive(Clone, Default)]
pub(super) struct Choice {
    /// Of clusters that hash: keeps requests of one client at one endpoint.
    hash: Option<u64>,
    /// The cookie that the client is given.
    pub(super) set_cookie: Option<Changes>,
    pub(super) chosen: Option<Chosen>,
}

impl Choice {
    pub(super) fn by<'a>(&'a self, avoid: &'a [SocketAddr]) -> PickBy<'a> {
        PickBy { hash: self.hash, avoid, chosen: self.chosen.as_ref() }
    }
}

/// Hashes what the cluster's balancing goes by. `None`: it does not hash.
pub(super) fn affinity(cluster: &Cluster, plan: &HttpPlan<'_>, head: &RequestHead) -> Option<Box<Choice>> {
    let hashing = cluster.balancing.hashing()?;
    let Source { peer, local, .. } = *plan.source;
    let Hashed { hash, set_cookie } = hashing.of_request(&Asked { fields: head, path: plan.path, peer, local });
    let set_cookie = set_cookie.map(|cookie| {
        let mut changes = Changes::default();
        changes.add("Set-Cookie", &cookie);
        changes
    });
    Some(Box::new(Choice { hash, set_cookie, chosen: None }))
}

/// What the end of a request says of its endpoint. What the client did says nothing.
pub(super) fn event_of(result: &Result<Exchanged, ExchangeError>) -> Option<Event> {
    match result {
        Ok(exchanged) => Some(Event::Answered(exchanged.head.status())),
        Err(ExchangeError::Unwanted(status)) => Some(Event::Answered(*status)),
        Err(ExchangeError::Failed(failure)) if failure.error == ErrorType::ResponseTimeout => Some(Event::TimedOut),
        Err(ExchangeError::Failed(failure)) => (failure.error.row().side == Side::Upstream).then_some(Event::Broken),
        Err(ExchangeError::Stale | ExchangeError::Refused) => Some(Event::Broken),
        Err(ExchangeError::ClientGone) => None,
    }
}

/// Takes the upstream connection out, where it may serve another request.
fn reusable(exchanged: &mut Exchanged, cluster: &Cluster) -> Option<Upstream> {
    let upstream = match &mut exchanged.next {
        Next::KeepAlive(upstream) | Next::Close(upstream) => upstream.take()?,
        Next::Abort(_) | Next::Switched(_) => return None,
    };
    let requests_max = cluster.requests_per_connection_max();
    let is_over = upstream.dialed.lease.has_expired();
    (!is_over && (requests_max == 0 || upstream.dialed.requests.saturating_add(1) < requests_max)).then_some(upstream)
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
