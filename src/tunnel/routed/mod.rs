//! What a route wants done with one request beside sending it on: changed path, host and fields, a time for all of it, several
//! attempts, copies. What answers without an upstream is [`answer`]'s; requests whose routes want nothing never come here.

pub mod answer;
mod kept;
mod mirror;

use std::borrow::Cow;
use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::Proxy;
use super::downstream::{Downstream, Reply};
use super::exchange::{
    Asking, Carrier, ExchangeError, ExchangeLimits, Exchanged, Upstream, exchange, exchange_with_body,
};
use super::headers::Outbound;
use super::http::{Choice, HttpPlan, Pinned, Way, affinity, event_of};
use super::over_http2::wants_http2;
use super::patience::Patience;
use crate::account::AccessRecord;
use crate::account::usage::{Resource, overflowed};
use crate::dial::{PickBy, PoolKey};
use crate::flow::{ErrorType, Failure, Target};
use crate::http1::{BodyLength, RequestHead, ResponseHead};
use crate::route::http::actions::Actions;
use crate::route::http::changes::Changes;
use crate::route::http::retries::{Failed, Retries, is_idempotent};

use kept::Kept;

/// One request on a route that wants something done, with everything that its attempts share.
pub(super) struct Routed<'a> {
    pub(super) proxy: &'a Arc<Proxy>,
    pub(super) head: &'a RequestHead,
    pub(super) plan: &'a HttpPlan<'a>,
    pub(super) actions: &'a Actions,
    pub(super) keep_alive: bool,
}

/// What one attempt may use up.
struct Hands<'a> {
    patience: &'a mut Patience,
    pinned: &'a mut Option<Pinned>,
    record: &'a mut AccessRecord,
    /// What keeps the request at one endpoint.
    affinity: Option<Box<Choice>>,
}

/// Why an attempt gave no answer to pass on.
enum Trouble {
    /// There is no connection, so nothing was sent.
    Connect(Failure),
    /// The upstream did nothing with the request.
    Refused,
    /// The connection, or the stream, ended before an answer.
    Reset(Option<Failure>),
    /// The time of the attempt is over.
    Late(Failure),
    /// An answer that is to be asked for again.
    Unwanted,
    /// Nothing that another attempt could mend.
    Final(ExchangeError),
}

/// The client's side, whole until the first attempt that sends a body.
pub(super) enum Client<D: Downstream> {
    Whole(D),
    Parted(Kept<D::Body>, D::Rest),
    Parting,
}

impl Routed<'_> {
    /// Sends the request as the route wants it, as often as the route allows, and the answer to the client. `failed`: the first
    /// attempt was made already, and there was no connection.
    pub(super) async fn exchange<D: Downstream>(
        self,
        down: D,
        failed: Option<Failure>,
        patience: &mut Patience,
        pinned: &mut Option<Pinned>,
        record: &mut AccessRecord,
    ) -> Result<Exchanged, ExchangeError> {
        let Self { proxy, head, plan, actions, .. } = self;
        let way = proxy.way(plan)?;
        let _admitted = proxy.admit(way.cluster, plan, record)?;
        let affinity = affinity(way.cluster, plan, head);
        let via = proxy.via.load_full();
        let shape = Shape::new(&self, affinity.as_ref().and_then(|choice| choice.set_cookie.as_ref()));
        let outbound = shape.outbound(&self, &way, via.sent());
        let mirrors = mirror::drawn(actions, &outbound);
        let mut client = Client::Whole(down);
        let has_body = head.body() != BodyLength::None;
        if !has_body {
            mirror::send(proxy, &mirrors, &outbound, head, plan.target, None);
        }
        let mut hands = Hands { patience, pinned, record, affinity };
        let began = Instant::now();
        let retries = self.retries();
        let keeps = retries.is_some() || !mirrors.is_empty();
        let attempts = retries.map_or(0, |retries| retries.attempts);
        let mut repeated = 0;
        let mut failed = failed.map(trouble_of);
        let mut avoid = Vec::new();
        // From the first repetition to the end of the request it holds one of the retries that its cluster may have.
        let turn = OnceLock::new();
        let may_go_on = || turn.get_or_init(|| proxy.dialer.hold(way.cluster, Resource::Retries)).is_ok();
        loop {
            let complete = if has_body { client.complete_since() } else { Some(began) };
            let left = actions
                .timeout
                .map(|timeout| timeout.saturating_sub(complete.map_or(Duration::ZERO, |at| at.elapsed())));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(ExchangeError::Failed(self.too_late()));
            }
            let is_last = repeated >= attempts;
            let within = Within { left, per_try: retries.and_then(|retries| retries.per_try) };
            let way = Way { avoid: &avoid, ..way };
            let attempt = async {
                match failed.take() {
                    Some(trouble) => Err(trouble),
                    None => {
                        let wants = |answer: &ResponseHead| is_last || !self.is_unwanted(answer) || !may_go_on();
                        self.attempt(&mut client, &way, &outbound, keeps, &wants, within, &mut hands).await
                    }
                }
            };
            let attempted = Box::pin(attempt).await;
            let trouble = match attempted {
                Ok(exchanged) => {
                    if attempts > 0 && self.is_unwanted(&exchanged.head) {
                        match is_last {
                            true => hands.record.retries_used_up(),
                            false => overflowed(Resource::Retries), // it was to be asked for again, and must not be
                        }
                    }
                    if let Client::Parted(body, _) = &client
                        && let Some(body) = body.whole()
                    {
                        mirror::send(proxy, &mirrors, &outbound, head, plan.target, Some(body));
                    }
                    return Ok(exchanged);
                }
                Err(trouble) => trouble,
            };
            let Some(retries) = retries.filter(|_| self.may_repeat(&trouble, &client)) else {
                return Err(self.told(trouble));
            };
            if is_last {
                if !retries.is_built_in {
                    hands.record.retries_used_up();
                }
                return Err(self.told(trouble));
            }
            if !may_go_on() {
                overflowed(Resource::Retries);
                return Err(self.told(trouble));
            }
            repeated += 1;
            if retries.avoids_previous {
                avoid.extend(hands.record.trace_mut().upstream);
            }
            let pause = retries.pause(repeated, |below| fastrand::u64(..below));
            let pause = left.map_or(pause, |left| pause.min(left));
            let waiting = hands.patience.within(pause.max(MOMENT), client.gone());
            if waiting.await.is_ok() {
                return Err(ExchangeError::ClientGone);
            }
        }
    }

    /// One attempt; on a kept connection that turns out to be closed, and where that can do no harm, one more on a fresh one.
    #[expect(clippy::too_many_arguments, reason = "what the attempts share, and what differs in each")]
    async fn attempt<D: Downstream>(
        &self,
        client: &mut Client<D>,
        way: &Way<'_>,
        outbound: &Outbound<'_>,
        keeps: bool,
        wants: &(dyn Fn(&ResponseHead) -> bool + Sync),
        within: Within,
        hands: &mut Hands<'_>,
    ) -> Result<Exchanged, Trouble> {
        let Self { proxy, head, plan, .. } = *self;
        let began = Instant::now();
        // Flows that are hashed stay where they belong, as in Istio.
        let avoid = if way.cluster.balancing.hashing().is_some() { &[] } else { way.avoid };
        let affinity = hands.affinity.clone();
        let choice = proxy.choose(way.cluster, plan, affinity, avoid, hands.record).map_err(Trouble::Final)?;
        let by = choice.as_ref().map_or(PickBy { avoid, ..PickBy::NOTHING }, |choice| choice.by(avoid));
        let key = proxy.dialer.pool_key(way.cluster, plan.target, plan.source, by.chosen.copied());
        let own = hands.pinned.take_if(|pinned| pinned.key.leads_as(&key));
        let mut owned = own.is_some();
        let over_http2 = wants_http2(way, head)
            && proxy.goes_in_http2(way, plan, head, by, hands.record).await.map_err(trouble_of)?;
        let mut again = over_http2; // once, where the upstream did nothing with it
        let mut idle =
            own.map(|pinned| pinned.upstream).or_else(|| if over_http2 { None } else { proxy.idle(&key, &by) });
        let base = proxy.exchange_limits(plan);
        let unwanted = |answer: &ResponseHead| !wants(answer);
        loop {
            let carrier = match idle.take() {
                Some(upstream) => {
                    upstream.dialed.retrace(hands.record.trace_mut());
                    Carrier::Connection(upstream)
                }
                None => self.dial(client, way, over_http2, &key, within.from(began), by, hands).await?,
            };
            let reused = carrier.is_reused();
            hands.record.trace_mut().reused = reused;
            let witness = carrier.witness();
            let limits = ExchangeLimits { whole: within.from(began), ..base.clone() };
            let asking = Asking {
                head,
                outbound,
                keep_alive: self.keep_alive,
                limits: &limits,
                unwanted: self.retries().is_some().then_some(&unwanted),
            };
            let result = client.ask(carrier, &asking, keeps || over_http2, hands.patience).await;
            let is_stale = reused && matches!(result, Err(ExchangeError::Stale)); // the end of a kept connection is no failure
            if let Some(event) = event_of(&result).filter(|_| !is_stale) {
                proxy.dialer.note(way.cluster, &witness, event);
            }
            return match result {
                Ok(mut exchanged) => {
                    proxy.settle(&mut exchanged, way.cluster, key, owned, plan, hands.pinned);
                    Ok(exchanged)
                }
                Err(ExchangeError::Stale) if reused && is_idempotent(head.method()) && client.can_repeat() => {
                    owned = false;
                    continue;
                }
                Err(ExchangeError::Refused) if again && client.can_repeat() => {
                    again = false;
                    continue;
                }
                Err(ExchangeError::Refused) => Err(Trouble::Refused),
                Err(ExchangeError::Stale) => Err(Trouble::Reset(None)),
                Err(ExchangeError::Failed(failure)) if failure.error == ErrorType::ConnectionTerminated => {
                    Err(Trouble::Reset(Some(failure)))
                }
                Err(ExchangeError::Unwanted(_)) => Err(Trouble::Unwanted),
                Err(ExchangeError::Failed(failure)) if failure.error == ErrorType::ResponseTimeout => {
                    Err(Trouble::Late(failure))
                }
                Err(error) => Err(Trouble::Final(way.about(error))),
            };
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what the attempts share, and what differs in each")]
    async fn dial<D: Downstream>(
        &self,
        client: &mut Client<D>,
        way: &Way<'_>,
        over_http2: bool,
        key: &PoolKey,
        limit: Option<Duration>,
        by: PickBy<'_>,
        hands: &mut Hands<'_>,
    ) -> Result<Carrier, Trouble> {
        let Hands { patience, record, .. } = hands;
        let dialing = async {
            tokio::select! {
                biased;
                carrier = self.carrier(way, over_http2, key, &by, record) => carrier.map_err(trouble_of),
                () = client.gone() => Err(Trouble::Final(ExchangeError::ClientGone)),
            }
        };
        match limit {
            None => dialing.await,
            Some(limit) => match patience.within(limit.max(MOMENT), dialing).await {
                Ok(dialed) => dialed,
                Err(_) => Err(Trouble::Late(self.too_late())),
            },
        }
    }

    async fn carrier(
        &self,
        way: &Way<'_>,
        over_http2: bool,
        key: &PoolKey,
        by: &PickBy<'_>,
        record: &mut AccessRecord,
    ) -> Result<Carrier, Failure> {
        if over_http2 {
            return self.proxy.http2_for(way, self.plan, self.head, by, record).await.map(Carrier::Stream);
        }
        let dialed = self.proxy.connection(way, self.plan, self.head, key, by, record).await?;
        Ok(Carrier::Connection(Upstream { dialed, buf: BytesMut::new() }))
    }

    /// What the route says of retries, else the cluster.
    fn retries(&self) -> Option<&Retries> {
        self.actions.retries.as_ref().or(self.plan.route.cluster.retries.as_deref())
    }

    fn is_unwanted(&self, answer: &ResponseHead) -> bool {
        self.retries().is_some_and(|retries| retries.after_answer(answer.status(), |name| answer.field(name)))
    }

    fn may_repeat<D: Downstream>(&self, trouble: &Trouble, client: &Client<D>) -> bool {
        let Some(retries) = self.retries() else { return false };
        let twice_is_once = is_idempotent(self.head.method());
        let wants = match trouble {
            // The client has waited as long as the rule has it wait; only who asks for more gets it.
            Trouble::Connect(failure) if retries.is_built_in && failure.error == ErrorType::ConnectionTimeout => false,
            Trouble::Connect(_) => retries.after(Failed::Connect, twice_is_once),
            Trouble::Refused => retries.after(Failed::RefusedStream, twice_is_once),
            Trouble::Reset(_) => retries.after(Failed::Reset, twice_is_once),
            Trouble::Late(_) => retries.after(Failed::PerTry, twice_is_once),
            Trouble::Unwanted => twice_is_once,
            Trouble::Final(_) => false,
        };
        wants && client.can_repeat()
    }

    /// What the client is told in the end.
    fn told(&self, trouble: Trouble) -> ExchangeError {
        match trouble {
            Trouble::Connect(failure) | Trouble::Late(failure) | Trouble::Reset(Some(failure)) => {
                ExchangeError::Failed(failure)
            }
            Trouble::Refused => {
                let detail = format!("{} refused the request without looking at it", self.plan.target);
                ExchangeError::Failed(Failure::new(ErrorType::ConnectionTerminated, detail))
            }
            Trouble::Reset(None) | Trouble::Unwanted => {
                let detail = format!("{} closed the connection without an answer", self.plan.target);
                ExchangeError::Failed(Failure::new(ErrorType::ConnectionTerminated, detail))
            }
            Trouble::Final(error) => error,
        }
    }

    fn too_late(&self) -> Failure {
        Failure::new(ErrorType::ResponseTimeout, format!("{} did not answer in time", self.plan.target))
    }
}

/// Only what failed on the way to the upstream can be mended by another attempt; what policy and configuration say stays.
fn trouble_of(failure: Failure) -> Trouble {
    match failure.error {
        ErrorType::ConnectionRefused
        | ErrorType::Unroutable
        | ErrorType::ConnectionTimeout
        | ErrorType::ConnectionTerminated
        | ErrorType::TlsProtocol
        | ErrorType::TlsAlert => Trouble::Connect(failure),
        _ => Trouble::Final(ExchangeError::Failed(failure)),
    }
}

/// The times of one attempt.
#[derive(Clone, Copy)]
struct Within {
    left: Option<Duration>,
    per_try: Option<Duration>,
}

impl Within {
    /// What is left of the shorter one for an attempt that began then.
    fn from(self, began: Instant) -> Option<Duration> {
        let gone = began.elapsed();
        let rest = |limit: Option<Duration>| limit.map(|limit| limit.saturating_sub(gone));
        match (rest(self.left), rest(self.per_try)) {
            (Some(left), Some(per_try)) => Some(left.min(per_try)),
            (left, per_try) => left.or(per_try),
        }
    }
}

/// What goes out in place of what came.
struct Shape<'a> {
    path: Cow<'a, str>,
    target: Cow<'a, Target>,
    request: Option<&'a Changes>,
    answer: Option<Cow<'a, Changes>>,
}

impl<'a> Shape<'a> {
    fn new(routed: &Routed<'a>, set_cookie: Option<&Changes>) -> Self {
        let Routed { plan, actions, head, .. } = *routed;
        let matched_bytes = plan.route.taken.as_ref().map_or(0, |taken| taken.matched_bytes);
        let path = match &actions.rewrite {
            Some(rewrite) => Cow::Owned(rewrite.apply(plan.path, matched_bytes)),
            None => Cow::Borrowed(plan.path),
        };
        let target = match &actions.authority {
            // The scheme's own port is left out of `Host`.
            Some(authority) if !authority.has_port => {
                Cow::Owned(Target { port: plan.scheme.default_port(), ..authority.target.clone() })
            }
            Some(authority) => Cow::Borrowed(&authority.target),
            None => Cow::Borrowed(plan.target),
        };
        let origin = head.field("origin").and_then(|origin| std::str::from_utf8(origin).ok());
        let cors = actions.cors.as_ref().zip(origin).map(|(cors, origin)| cors.answer(origin)).unwrap_or_default();
        let answer = if cors.is_empty() && set_cookie.is_none() {
            (!actions.response.is_empty()).then_some(Cow::Borrowed(&actions.response))
        } else {
            let mut changes = Changes::default();
            cors.iter().for_each(|(name, value)| changes.set(name, value));
            let changed = changes.then(&actions.response);
            Some(Cow::Owned(set_cookie.map_or_else(|| changed.clone(), |cookie| changed.then(cookie))))
        };
        Self { path, target, request: (!actions.request.is_empty()).then_some(&actions.request), answer }
    }

    fn outbound<'s>(&'s self, routed: &Routed<'s>, way: &Way<'s>, via: Option<&'s str>) -> Outbound<'s> {
        Outbound {
            path: &self.path,
            target: &self.target,
            scheme: routed.plan.scheme,
            absolute_form: way.hop.is_some(),
            proxy_authorization: way.authorization,
            websocket: routed.head.upgrade_websocket(),
            max_forwards: routed.plan.max_forwards,
            via,
            changes: self.request,
            answer_changes: self.answer.as_deref(),
        }
    }
}

impl<D: Downstream> Client<D> {
    pub(super) async fn ask(
        &mut self,
        carrier: Carrier,
        asking: &Asking<'_>,
        keeps: bool,
        patience: &mut Patience,
    ) -> Result<Exchanged, ExchangeError> {
        let length = asking.head.body();
        if length == BodyLength::None
            && let Self::Whole(down) = self
        {
            return exchange(down, carrier, asking, patience).await;
        }
        if matches!(self, Self::Whole(_))
            && let Self::Whole(down) = std::mem::replace(self, Self::Parting)
        {
            let (body, rest) = down.split(length);
            *self = Self::Parted(Kept::new(body, keeps), rest);
        }
        let Self::Parted(body, rest) = self else { return Err(ExchangeError::ClientGone) };
        body.rewind();
        exchange_with_body(body, rest, carrier, asking, patience).await
    }

    /// Ends once the client is gone.
    pub(super) async fn gone(&mut self) {
        match self {
            Self::Whole(down) => down.reset().await,
            Self::Parted(_, rest) => rest.reset().await,
            Self::Parting => pending().await,
        }
    }

    /// True where the whole request is still at hand.
    pub(super) fn can_repeat(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Parted(body, _) => body.can_rewind(),
            Self::Parting => false,
        }
    }

    /// Since when the whole body is here.
    fn complete_since(&self) -> Option<Instant> {
        match self {
            Self::Parted(body, _) => body.complete_since(),
            Self::Whole(_) | Self::Parting => None,
        }
    }
}

const MOMENT: Duration = Duration::from_millis(1); // a zero limit would be none
