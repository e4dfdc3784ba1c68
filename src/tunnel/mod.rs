//! One flow from start to end: [`Proxy::route`] decides, [`Proxy::open`] dials, [`Tunnel::relay`] copies; HTTP is exchanged instead.

pub mod answer;
pub mod body;
mod bounded;
pub(crate) mod closing;
pub mod downstream;
pub mod exchange;
pub mod headers;
pub mod http;
pub mod http2;
mod over_http2;
pub mod patience;
pub mod routed;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::io::AsyncWriteExt;

use self::answer::Answering;
use self::patience::Patience;
use crate::account::live::{Entry, LiveGuard};
use crate::account::usage;
use crate::account::{AccessRecord, Account, Bounds, Count, Exceeded, Share, Shares, Traffic, Tunnels, metrics};
use crate::dial::{Asker, DialError, Dialed, Dialer, Lease, PickBy};
use crate::drain::Drain;
use crate::flow::{Ask, Ending, ErrorType, Failure, Flow, Limit, Limits, Outcome, Side, Source, Speaks, Target};
use crate::relay::{Guard, Relay, RelayEnd, RelayLimits, ShownName};
use crate::route::balancing::outliers::Event;
use crate::route::{Cluster, Hop, Refusal, Route, Snapshot, Via};
use crate::stream::Stream;
use crate::tls::UNRECOGNIZED_NAME_ALERT;

/// The data plane: everything that flows share. What a reload changes can be swapped while flows run.
#[derive(Debug)]
pub struct Proxy {
    /// The rules in force.
    pub snapshot: ArcSwap<Snapshot>,
    /// The bounds in force.
    pub limits: ArcSwap<Limits>,
    /// Our name towards other proxies.
    pub via: ArcSwap<ViaName>,
    /// Where access records go.
    pub account: Arc<Account>,
    /// Open tunnels.
    pub tunnels: Arc<Tunnels>,
    /// What each client holds, and how fast it goes.
    pub shares: Arc<Shares>,
    /// The way out.
    pub dialer: Dialer,
    /// Running tasks, and the orderly end.
    pub drain: Drain,
}

/// What we call ourselves in `Via` and `Proxy-Status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViaName {
    /// `via.name`, or drawn per process (two Egrets in a chain are no loop).
    pub name: Arc<str>,
    /// `via.send`.
    pub send: bool,
}

impl ViaName {
    /// The name, where `Via` is sent at all.
    pub fn sent(&self) -> Option<&str> {
        self.send.then_some(&*self.name)
    }
}

/// A flow that the rules allow, to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The way.
    pub route: &'a Route,
    /// Who asks.
    pub source: &'a Arc<Source>,
    /// What it holds.
    pub share: &'a Arc<Share>,
    /// For what.
    pub target: &'a Target,
    /// Asked by SNI (else by CONNECT).
    pub by_sni: bool,
    /// `Via` of the client's CONNECT: goes on to a parent, so that two proxies that are each other's parent find the loop.
    pub received_via: Option<&'a str>,
}

/// A flow whose upstream is ready for the client's first byte.
#[derive(Debug)]
pub struct Opened {
    upstream: Stream,
    lease: Lease,
    live: LiveGuard,
    times: Times,
    guard: Option<Box<Guard>>,
}

/// What the rule of a cluster, or of the parent on the way to it, says of the times of a tunnel.
#[derive(Clone, Copy, Debug)]
struct Times {
    idle: Option<Duration>,
    lifetime: Option<Duration>,
    /// Keepalive is as the rule says.
    keeps_alive: bool,
}

const LAST_WORDS_TIME: Duration = Duration::from_secs(2); // they are a packet, and the client reads or does not
const BLOCK_ALL: &str = "block_all"; // Istio's name of the route that refuses what no rule knows
const DNS_TIME: Duration = Duration::from_secs(10); // above the resolver's own limit (dns.timeout × dns.attempts, 4 s by default)

impl Proxy {
    /// Asks the rules; what they decide stands in the record.
    ///
    /// # Errors
    /// The refusal, as the client is told.
    pub fn route(&self, flow: &Flow<'_>, record: &mut AccessRecord) -> Result<Route, Failure> {
        let choice = self.snapshot.load().route_drawing(flow, |total| fastrand::u64(..total));
        let named = !matches!(flow.ask, Ask::Sni); // routes of HTTP have names, in Istio's log too; a CONNECT is a request
        match choice.verdict {
            Ok(route) => {
                let would_deny = choice.would_deny.as_ref().map(|refusal| refusal.detail.as_ref());
                record.counts_to(&route.cluster.traffic);
                let cluster = if route.answers() { "" } else { &*route.cluster.name }; // it goes to none
                record.routed(cluster, if named { &route.name } else { "" }, would_deny);
                if let Some(policy) = &choice.audited {
                    record.audited(&policy.resource);
                }
                Ok(route)
            }
            Err(refusal) => {
                if let Some(cluster) = refusal.cluster() {
                    record.counts_to(Traffic::black_hole());
                    record.routed(cluster, if named { BLOCK_ALL } else { "" }, None);
                }
                record.note_refusal(&flow.target, refusal.error, &refusal.detail, refusal.origin.as_ref());
                if let Some(origin) = &refusal.origin {
                    record.refused_by(&origin.to_string());
                }
                Err(refused(refusal))
            }
        }
    }

    /// Opens the upstream of a tunnel.
    ///
    /// # Errors
    /// [`ErrorType::Overloaded`] when a bound on tunnels is reached, else what dialling said.
    pub async fn open(&self, opening: Opening<'_>, record: &mut AccessRecord) -> Result<Opened, Failure> {
        let Opening { route, source, share, target, by_sni, received_via } = opening;
        let live = self.enter(opening)?;
        let cluster = &route.cluster;
        let hash = cluster.balancing.hashing().and_then(|hashing| hashing.of_source(source.peer.ip()));
        let asker = Asker { client: Some(source), received_via, by: &PickBy { hash, ..PickBy::NOTHING } };
        let Dialed { stream, lease, .. } = self.dial(cluster, target, share, asker, record).await?;
        self.dialer.note(cluster, &lease.witness(), Event::Connected);
        // By SNI the hello was judged before it was routed.
        let guard = route.expected.as_ref().filter(|_| !by_sni).map(|expected| {
            let proxy = expected.is_enforced().then(|| self.via.load().name.clone());
            Guard::new(expected.clone(), proxy)
        });
        Ok(Opened { upstream: stream, lease, live, times: Times::of(&route.cluster), guard })
    }

    /// Makes a tunnel of an upstream connection that switched protocols (101).
    ///
    /// # Errors
    /// [`ErrorType::Overloaded`] when a bound on tunnels is reached.
    pub fn switched(&self, opening: Opening<'_>, dialed: Dialed) -> Result<Opened, Failure> {
        let live = self.enter(opening)?;
        let times = Times::of(&opening.route.cluster);
        Ok(Opened { upstream: dialed.stream, lease: dialed.lease, live, times, guard: None })
    }

    /// Joins the client's stream to an opened upstream. `hold` is kept until the tunnel ends.
    pub fn tunnel<H: Send + 'static>(
        &self,
        downstream: Stream,
        opened: Opened,
        mut record: Box<AccessRecord>,
        hold: H,
    ) -> Tunnel<H> {
        let limits = self.limits.load();
        let Times { idle, lifetime, keeps_alive } = opened.times;
        let idle = idle.unwrap_or(limits.tunnel_idle);
        let both = [Some(limits.tunnel_lifetime), lifetime].into_iter().flatten().filter(|time| !time.is_zero());
        let lifetime = both.min().unwrap_or_default();
        let user_timeout = self.dialer.tcp_user_timeout();
        let limits = RelayLimits { idle, lifetime, user_timeout, keeps_alive };
        opened.live.begin();
        let relay = Relay::new(downstream, opened.upstream, opened.live, limits, opened.guard);
        if self.account.logs_starts() {
            record.opened();
        }
        Tunnel { relay, held: Box::new(Held { record: Some(record), _lease: opened.lease, _hold: hold }) }
    }

    pub(crate) async fn dial(
        &self,
        cluster: &Arc<Cluster>,
        target: &Target,
        share: &Share,
        asker: Asker<'_>,
        record: &mut AccessRecord,
    ) -> Result<Dialed, Failure> {
        let _dialling = self.dialling(share).map_err(|error| failed(&error, target, record))?;
        let deadline = Instant::now() + cluster.connect_timeout + DNS_TIME;
        let dialed = self.dialer.dial_for(cluster, target, asker, deadline, record.trace_mut()).await;
        dialed.map_err(|error| failed(&error, target, record))
    }

    /// The same for who knows what to do about a failure.
    async fn try_dial(
        &self,
        cluster: &Arc<Cluster>,
        target: &Target,
        share: &Share,
        asker: Asker<'_>,
        record: &mut AccessRecord,
    ) -> Result<Dialed, DialError> {
        let _dialling = self.dialling(share)?;
        let deadline = Instant::now() + cluster.connect_timeout + DNS_TIME;
        self.dialer.dial_for(cluster, target, asker, deadline, record.trace_mut()).await
    }

    /// Connects to a parent that is asked for `target` in absolute-form.
    async fn dial_parent(
        &self,
        hop: &Hop,
        target: &Target,
        share: &Share,
        asker: Asker<'_>,
        record: &mut AccessRecord,
    ) -> Result<Dialed, DialError> {
        let _dialling = self.dialling(share)?;
        let deadline = Instant::now() + hop.cluster.connect_timeout + DNS_TIME;
        self.dialer.dial_parent(hop, target, asker, deadline, record.trace_mut()).await
    }

    fn enter(&self, opening: Opening<'_>) -> Result<LiveGuard, Failure> {
        let limits = self.limits.load();
        let bounds = Bounds { all: limits.tunnels, per_client: limits.tunnels_per_client };
        let entry = Entry {
            source: opening.source.clone(),
            target: opening.target.clone(),
            by_sni: opening.by_sni,
            traffic: opening.route.cluster.traffic.clone(),
            share: opening.share.clone(),
        };
        self.tunnels.open(entry, bounds).map_err(|exceeded| match exceeded {
            Exceeded::All => over(Limit::Tunnels, bounds.all, "tunnels"),
            Exceeded::Client => over(Limit::TunnelsPerClient, bounds.per_client, "tunnels of this client"),
        })
    }

    /// Counts a request of this client; the first thing that is asked about one, before anything is spent on it.
    ///
    /// # Errors
    /// [`ErrorType::RateLimited`] beyond `limits.requestsPerSecondPerClient`.
    pub fn admit_request(&self, share: &Share) -> Result<(), Failure> {
        share.pace().request().map_err(|wait| {
            let rate = self.limits.load().requests_per_second_per_client;
            let detail = format!("more than {rate} requests per second of this client");
            let log = format!("{detail}: the next one is let through in {wait:?}");
            Failure::new(ErrorType::RateLimited, detail).logged(log)
        })
    }

    /// Counts a dial of this client until the guard is dropped; how many there are in all is the dialer's to bound.
    fn dialling<'s>(&self, share: &'s Share) -> Result<Dialling<'s>, DialError> {
        let max = self.limits.load().pending_dials_per_client;
        match share.dials.take(max) {
            true => Ok(Dialling(&share.dials)),
            false => {
                metrics::limit_reached(Limit::PendingDialsPerClient);
                Err(DialError::Overloaded { what: "pending dials of this client", max })
            }
        }
    }
}

impl Times {
    fn of(cluster: &Cluster) -> Self {
        let parent = match &cluster.via {
            Via::Connect(hop) => Some(&*hop.cluster),
            Via::Direct => None,
        };
        let clusters = || [Some(cluster), parent].into_iter().flatten();
        let pools = || clusters().filter_map(|cluster| cluster.pool());
        Self {
            idle: clusters().find_map(|cluster| cluster.idle_timeout()),
            lifetime: pools().filter_map(|pool| pool.lifetime).min(),
            keeps_alive: pools().any(|pool| pool.keepalive.is_some()),
        }
    }
}

/// One dial of a client under way.
struct Dialling<'a>(&'a Count);

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// The refusal of what is beyond a bound; counts it.
fn over(limit: Limit, bound: usize, what: &str) -> Failure {
    metrics::limit_reached(limit);
    Failure::new(ErrorType::Overloaded, format!("the limit of {bound} {what} is reached"))
}

fn failed(error: &DialError, target: &Target, record: &mut AccessRecord) -> Failure {
    let failure = error.failure(target);
    metrics::dial_failed(failure.error);
    if error.is_for_want_of_descriptors() {
        metrics::limit_reached(Limit::Descriptors);
    }
    let rule = error.overflow().map(|(resource, rule)| {
        usage::overflowed(resource);
        record.refused_by(&rule.to_string());
        rule
    });
    if failure.error.row().side != Side::Upstream {
        record.note_refusal(target, failure.error, &failure.log, rule);
    }
    failure
}

/// An open tunnel.
#[derive(Debug)]
pub struct Tunnel<H> {
    relay: Relay,
    held: Box<Held<H>>,
}

/// What an open tunnel keeps to its end and does not look at. Beside the relay it would make the task of an idle tunnel larger than
/// a size class of the allocator.
#[derive(Debug)]
struct Held<H> {
    /// Until its line is written.
    record: Option<Box<AccessRecord>>,
    _lease: Lease,
    _hold: H,
}

impl<H> Tunnel<H> {
    /// Writes a line in between where somebody wants one.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        let end = Pin::new(&mut self.relay).poll(cx);
        let live = self.relay.live();
        if end.is_pending()
            && live.take_line_wanted()
            && let Some(record) = &mut self.held.record
        {
            record.goes_on(live.received(), live.sent());
        }
        end
    }

    /// Copies until both sides are done or a limit ends it, then writes the flow's line.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn would hold `self` twice: as the argument and where it is moved to"
    )]
    pub fn relay(mut self) -> impl Future<Output = ()> {
        async move {
            let end = poll_fn(|cx| self.poll(cx)).await;
            match end {
                RelayEnd::Early(Ending::IdleTimeout) => metrics::limit_reached(Limit::TunnelIdle),
                RelayEnd::Early(Ending::LifetimeExceeded) => metrics::limit_reached(Limit::TunnelLifetime),
                _ => {}
            }
            if end == RelayEnd::Refused {
                // Boxed: rare, and all idle tunnels would have room for it.
                Box::pin(turn_away(&mut self.relay, &mut self.held.record)).await;
            } else if let Some(record) = self.held.record.take() {
                account(record, &self.relay, end);
            }
        }
    }
}

fn account(mut record: Box<AccessRecord>, relay: &Relay, end: RelayEnd) {
    record.moved(relay.live().received(), relay.live().sent());
    if let RelayEnd::Early(why) = end {
        relay.live().ended(why);
    }
    match relay.server_name() {
        Some(ShownName::Asked) => record.server_name_is_asked(),
        Some(ShownName::Other(name)) => record.server_name(name.as_str()),
        None => {}
    }
    if let Some((finding, expected)) = relay.finding() {
        record.inconsistent(finding, end == RelayEnd::Refused);
        let rule = &expected.policy.origin;
        record.refused_by(&rule.to_string());
        if end == RelayEnd::Refused {
            record.note_refusal(&relay.live().target, ErrorType::Inconsistent, &finding.detail, Some(rule));
        }
    }
    record.finish(match end {
        RelayEnd::Complete => Outcome::Complete,
        RelayEnd::Early(why) => Outcome::Ended(why),
        RelayEnd::Refused => {
            let detail = relay.finding().map(|(finding, _)| finding.detail.clone());
            Outcome::failed(ErrorType::Inconsistent, detail.unwrap_or_default())
        }
    });
}

/// What a client is told, in its own protocol, whose tunnel is refused for what it said.
fn last_words(relay: &Relay, record: &mut AccessRecord) -> Vec<u8> {
    let Some((finding, _)) = relay.finding() else { return Vec::new() };
    match finding.speaks {
        Speaks::Tls => UNRECOGNIZED_NAME_ALERT.to_vec(),
        // Behind an answer that has begun, another one would only be taken for a part of it.
        Speaks::Http if relay.live().sent() == 0 => {
            let proxy = relay.proxy();
            let failure = Failure::new(ErrorType::Inconsistent, finding.detail.clone());
            let request_id = record.ensure_request_id();
            let answering = Answering::bare(proxy.as_deref().unwrap_or("egret"), &request_id);
            let answer = answer::refusal(&failure, &answering);
            record.moved(0, answer.body_bytes);
            answer.bytes
        }
        Speaks::Http | Speaks::Other => Vec::new(),
    }
}

/// Writes the line of a tunnel that is refused, and then tells the client: it may take its time to go.
async fn turn_away(relay: &mut Relay, record: &mut Option<Box<AccessRecord>>) {
    let Some(mut record) = record.take() else { return };
    let last_words = last_words(relay, &mut record);
    account(record, relay, RelayEnd::Refused);
    if last_words.is_empty() {
        return;
    }
    let mut patience = Patience::default();
    let downstream = relay.downstream_mut();
    if let Ok(Ok(())) = patience.within(LAST_WORDS_TIME, downstream.write_all(&last_words)).await {
        closing::linger(downstream, &mut patience).await;
    }
}

fn refused(refusal: Refusal) -> Failure {
    let log = match &refusal.origin {
        Some(origin) => format!("{} ({origin})", refusal.detail).into(),
        None => refusal.detail.clone(),
    };
    Failure { error: refusal.error, detail: refusal.detail, log, hop_status: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_size<T, F: Future>(_: fn(T) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_future_of_an_open_tunnel_is_the_tunnel_and_no_more() {
        let (future, tunnel) = (future_size(Tunnel::<()>::relay), size_of::<Tunnel<()>>());
        assert!((tunnel..=tunnel + 16).contains(&future), "{future} bytes for a tunnel of {tunnel}");
        // With what the runtime keeps of a task it is within 384 bytes, a size class of the allocator; the next is 512.
        assert!(tunnel <= 264, "{tunnel}");
    }
}
