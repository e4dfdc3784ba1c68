//! `connectionPool`: bounds and times of connections (ISTIO 6.4).

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{COUNT_MAX, is_empty};
use crate::config::diagnostic::{Code, Context};
use crate::config::kinds::scalars::read_duration;
use crate::config::read::Fields;
use crate::config::source::Span;
use crate::config::yaml::Node;
use crate::route::connection_pool::Keepalive;
use crate::route::upstream_http::{Http2Options, Keepalive as Ping};

/// `connectionPool`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pool {
    /// Where it stands.
    pub span: Span,
    /// `tcp.connectTimeout`.
    pub connect_timeout: Option<Duration>,
    /// `tcp.idleTimeout`.
    pub idle_timeout: Option<Duration>,
    /// `http.idleTimeout`.
    pub http_idle_timeout: Option<Duration>,
    /// `tcp.maxConnectionDuration`.
    pub lifetime: Option<Duration>,
    /// `tcp.tcpKeepalive`.
    pub keepalive: Option<Keepalive>,
    /// `tcp.maxConnections`.
    pub connections_max: Option<u32>,
    /// `http.http1MaxPendingRequests`.
    pub pending_requests_max: Option<u32>,
    /// `http.http2MaxRequests`.
    pub requests_max: Option<u32>,
    /// `http.maxRetries`.
    pub retries_max: Option<u32>,
    /// `http.maxRequestsPerConnection`; 0: no limit.
    pub requests_per_connection_max: u32,
    /// `http.h2UpgradePolicy`; `None`: DEFAULT, which is the mesh's.
    pub upgrades: Option<bool>,
    /// `http.useClientProtocol`.
    pub uses_client_protocol: bool,
    /// `http.maxConcurrentStreams` and `http.http2KeepAlive`.
    pub http2: Http2Options,
}

impl Pool {
    /// True where nothing has to be counted, and connections are kept as all are.
    pub fn is_unbounded(&self) -> bool {
        let counts = [self.connections_max, self.pending_requests_max, self.requests_max, self.retries_max];
        let times = [self.lifetime, self.http_idle_timeout, self.idle_timeout];
        counts.iter().all(Option::is_none) && times.iter().all(Option::is_none) && self.keepalive.is_none()
    }
}

pub(super) fn read_pool(node: &Node, cx: &mut Context<'_>) -> Option<Pool> {
    let mut fields = Fields::of(node, cx)?;
    if is_empty(node) {
        cx.report(Code::EmptyPolicy, node.span, "`connectionPool` needs `tcp` or `http`");
    }
    let mut pool = Pool { span: node.span, ..Pool::default() };
    if let Some(mut tcp) = fields.fields("tcp", cx) {
        pool.connect_timeout = tcp.get("connectTimeout").and_then(|node| read_duration(node, cx));
        pool.idle_timeout = tcp.get("idleTimeout").and_then(|node| read_duration(node, cx));
        pool.lifetime = tcp.get("maxConnectionDuration").and_then(|node| read_duration(node, cx));
        pool.connections_max = count(&mut tcp, "maxConnections", cx);
        pool.keepalive = tcp.fields("tcpKeepalive", cx).map(|fields| read_keepalive(fields, cx));
        tcp.finish(cx);
    }
    if let Some(mut http) = fields.fields("http", cx) {
        pool.requests_per_connection_max = count(&mut http, "maxRequestsPerConnection", cx).unwrap_or(0);
        pool.pending_requests_max = count(&mut http, "http1MaxPendingRequests", cx);
        pool.requests_max = count(&mut http, "http2MaxRequests", cx);
        pool.retries_max = count(&mut http, "maxRetries", cx);
        pool.http_idle_timeout = http.get("idleTimeout").and_then(|node| read_duration(node, cx));
        read_pool_http2(&mut http, &mut pool, cx);
        http.finish(cx);
    }
    fields.finish(cx);
    Some(pool)
}

/// A bound; 0 is none, as everywhere in `connectionPool`.
fn count(fields: &mut Fields<'_>, name: &'static str, cx: &mut Context<'_>) -> Option<u32> {
    fields.whole(name, 0..=COUNT_MAX, cx).and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0)
}

/// Times in whole seconds: the kernel knows no others, and at least one.
fn read_keepalive(mut fields: Fields<'_>, cx: &mut Context<'_>) -> Keepalive {
    let probes = fields.get("probes").and_then(|node| node.whole(0..=PROBES_MAX, cx));
    let mut seconds = |name, cx: &mut Context<'_>| {
        let time = fields.get(name).and_then(|node| node.duration(KEEPALIVE_TIMES, cx))?;
        Some(Duration::from_secs(time.as_secs().max(1)))
    };
    let (time, interval) = (seconds("time", cx), seconds("interval", cx));
    fields.finish(cx);
    Keepalive {
        probes: probes.and_then(|probes| u32::try_from(probes).ok()).filter(|probes| *probes > 0),
        time,
        interval,
    }
}

fn read_pool_http2(http: &mut Fields<'_>, pool: &mut Pool, cx: &mut Context<'_>) {
    pool.upgrades = http.one_of("h2UpgradePolicy", UPGRADES, cx).flatten();
    if let Some(node) = http.get("useClientProtocol") {
        pool.uses_client_protocol = node.boolean(cx) == Some(true);
        if pool.uses_client_protocol && pool.upgrades == Some(true) {
            let message = "`useClientProtocol` and `h2UpgradePolicy: UPGRADE` exclude each other";
            cx.report(Code::BadValue, node.span, message);
        }
    }
    let streams = http.whole("maxConcurrentStreams", 0..=COUNT_MAX, cx);
    pool.http2.streams_max = streams.and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0);
    if let Some(mut keepalive) = http.fields("http2KeepAlive", cx) {
        let [interval, timeout] =
            ["interval", "timeout"].map(|name| keepalive.required(name, cx).and_then(|node| read_duration(node, cx)));
        keepalive.finish(cx);
        pool.http2.keepalive = interval.zip(timeout).map(|(interval, timeout)| Ping { interval, timeout });
    }
}

const PROBES_MAX: u64 = 127; // tcp(7): the kernel takes no more, and times up to 32767 s
const KEEPALIVE_TIMES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(32_767);
/// What a policy says, if it says something.
pub const UPGRADES: &[(&str, Option<bool>)] =
    &[("DEFAULT", None), ("DO_NOT_UPGRADE", Some(false)), ("UPGRADE", Some(true))];
