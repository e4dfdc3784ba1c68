//! `connectionPool`: bounds and times of connections (ISTIO 6.4).

use std::time::Duration;

use super::{COUNT_MAX, is_empty};
use crate::config::diagnostic::{Code, Context};
use crate::config::kinds::scalars::read_duration;
use crate::config::read::Fields;
use crate::config::yaml::Node;

/// `connectionPool`, as far as it is carried out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pool {
    /// `tcp.connectTimeout`.
    pub connect_timeout: Option<Duration>,
    /// `tcp.idleTimeout`.
    pub idle_timeout: Option<Duration>,
    /// `http.maxRequestsPerConnection`; 0: no limit.
    pub requests_per_connection_max: u32,
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
        let counts = ["http1MaxPendingRequests", "http2MaxRequests", "maxRetries", "maxConcurrentStreams"];
        ignored_counts(&mut http, &counts, cx);
        read_pool_http2(&mut http, cx);
        if let Some(node) = http.get("idleTimeout") {
            read_duration(node, cx);
            http.ignored("idleTimeout", "idle connections are kept as long as limits.idlePool has room", cx);
        }
        http.finish(cx);
    }
    fields.finish(cx);
    Some(pool)
}

fn read_pool_http2(http: &mut Fields<'_>, cx: &mut Context<'_>) {
    let upgrade = http.one_of("h2UpgradePolicy", UPGRADES, cx).unwrap_or(false);
    if let Some(node) = http.get("useClientProtocol") {
        if upgrade && node.boolean(cx) == Some(true) {
            let message = "`useClientProtocol` and `h2UpgradePolicy: UPGRADE` exclude each other";
            cx.report(Code::BadValue, node.span, message);
        }
        http.ignored("useClientProtocol", "HTTP/1.1 is spoken to upstreams", cx);
    }
    if upgrade {
        http.ignored("h2UpgradePolicy", "HTTP/1.1 is spoken to upstreams", cx);
    }
    if let Some(mut keepalive) = http.fields("http2KeepAlive", cx) {
        for name in ["interval", "timeout"] {
            keepalive.required(name, cx).and_then(|node| read_duration(node, cx));
        }
        keepalive.finish(cx);
        http.ignored("http2KeepAlive", "HTTP/1.1 is spoken to upstreams", cx);
    }
}

fn ignored_counts(fields: &mut Fields<'_>, names: &[&'static str], cx: &mut Context<'_>) {
    for name in names {
        if fields.whole(name, 0..=COUNT_MAX, cx).is_some() {
            fields.ignored(name, "circuit breakers are not carried out yet; `limits` bounds the whole process", cx);
        }
    }
}

const UPGRADES: &[(&str, bool)] = &[("DEFAULT", false), ("DO_NOT_UPGRADE", false), ("UPGRADE", true)];
