//! `limits`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::values;
use crate::config::diagnostic::Context;
use crate::config::read::Fields;
use crate::flow::Limits;

const COUNT: RangeInclusive<usize> = 1..=10_000_000; // above what one machine has ports and memory for
const HEAD_BYTES: RangeInclusive<usize> = 1024..=1024 * 1024; // below, cookies break; above, heads are an attack
const HEAD_FIELDS: RangeInclusive<usize> = 10..=1000;
const WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);
const WAIT_OR_NONE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 86_400); // 0: no limit

pub(super) fn read(mut fields: Fields<'_>, cx: &mut Context<'_>) -> Limits {
    let mut limits = Limits::default();
    let Limits {
        connections,
        connections_per_client,
        head_bytes,
        head_fields,
        head_time,
        tunnels,
        tunnels_per_client,
        pending_dials,
        dns_queries,
        idle_pool,
        body_idle,
        tunnel_idle,
        tunnel_lifetime,
    } = &mut limits;
    for (name, field, bounds) in [
        ("connections", connections, COUNT),
        ("connectionsPerClient", connections_per_client, COUNT),
        ("headFields", head_fields, HEAD_FIELDS),
        ("tunnels", tunnels, COUNT),
        ("tunnelsPerClient", tunnels_per_client, COUNT),
        ("pendingDials", pending_dials, COUNT),
        ("dnsQueries", dns_queries, COUNT),
        ("idlePool", idle_pool, 0..=*COUNT.end()), // 0: no connection is kept
    ] {
        if let Some(count) = fields.get(name).and_then(|node| node.count(bounds, cx)) {
            *field = count;
        }
    }
    for (name, field, bounds) in [
        ("headTime", head_time, WAIT),
        ("bodyIdle", body_idle, WAIT),
        ("tunnelIdle", tunnel_idle, WAIT_OR_NONE),
        ("tunnelLifetime", tunnel_lifetime, WAIT_OR_NONE),
    ] {
        if let Some(duration) = fields.get(name).and_then(|node| node.duration(bounds, cx)) {
            *field = duration;
        }
    }
    if let Some(bytes) = fields.get("headBytes").and_then(|node| values::size(node, HEAD_BYTES, cx)) {
        *head_bytes = bytes;
    }
    fields.finish(cx);
    limits
}
