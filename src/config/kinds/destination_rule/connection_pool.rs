//! `connectionPool`: bounds and times of connections (ISTIO 6.4).

use std::time::Duration;

use super::{COUNT_MAX, is_empty};
use crate::config::diagnostic::{Code, Context};
use crate::config::kinds::scalars::read_duration;
use crate::config::read::Fields;
use crate::config::yaml::Node;
use crate::route::upstream_http::{Http2Options, Keepalive};

/// `connectionPool`, as far as it is carried out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pool {
    /// `tcp.connectTimeout`.
    pub connect_timeout: Option<Duration>,
    /// `tcp.idleTimeout`.
    pub idle_timeout: Option<Duration>,
    /// `http.maxRequestsPerConnection`; 0: no limit.
    pub requests_per_connection_max: u32,
    /// `http.h2UpgradePolicy`; `None`: DEFAULT, which is the mesh's.
    pub upgrades: Option<bool>,
    /// `http.useClientProtocol`.
    pub uses_client_protocol: bool,
    /// `http.maxConcurrentStreams` and `http.http2KeepAlive`.
    pub http2: Http2Options,
}

pub(super) fn read_pool(node: &Node, cx: &mut Context<'_>) -> Option<Pool> {
    let mut fields = Fields::of(node, cx)?;
    if is_empty(node) {
        cx.report(Code::EmptyPolicy, node.span, "`connectionPool` needs `tcp` or `http`");
    }
    let mut pool = Pool::default();
    if let Some(mut tcp) = fields.fields("tcp", cx) {
        pool.connect_timeout = tcp.get("connectTimeout").and_then(|node| read_duration(node, cx));
        pool.idle_timeout = tcp.get("idleTimeout").and_then(|node| read_duration(node, cx));
        ignored_counts(&mut tcp, &["maxConnections"], cx);
        if let Some(node) = tcp.get("maxConnectionDuration") {
            read_duration(node, cx);
            tcp.ignored("maxConnectionDuration", "limits.tunnelLifetime bounds tunnels", cx);
        }
        tcp.ignored("tcpKeepalive", "keepalive is set for every upstream", cx);
        tcp.finish(cx);
    }
    if let Some(mut http) = fields.fields("http", cx) {
        let requests = http.whole("maxRequestsPerConnection", 0..=COUNT_MAX, cx);
        pool.requests_per_connection_max = requests.and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
        ignored_counts(&mut http, &["http1MaxPendingRequests", "http2MaxRequests", "maxRetries"], cx);
        read_pool_http2(&mut http, &mut pool, cx);
        if let Some(node) = http.get("idleTimeout") {
            read_duration(node, cx);
            http.ignored("idleTimeout", "idle connections are kept as long as limits.idlePool has room", cx);
        }
        http.finish(cx);
    }
    fields.finish(cx);
    Some(pool)
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
        pool.http2.keepalive = interval.zip(timeout).map(|(interval, timeout)| Keepalive { interval, timeout });
    }
}

fn ignored_counts(fields: &mut Fields<'_>, names: &[&'static str], cx: &mut Context<'_>) {
    for name in names {
        if fields.whole(name, 0..=COUNT_MAX, cx).is_some() {
            fields.ignored(name, "circuit breakers are not carried out yet; `limits` bounds the whole process", cx);
        }
    }
}

/// What a policy says, if it says something.
pub const UPGRADES: &[(&str, Option<bool>)] =
    &[("DEFAULT", None), ("DO_NOT_UPGRADE", Some(false)), ("UPGRADE", Some(true))];
