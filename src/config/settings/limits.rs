//! `limits`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::values;
use crate::config::diagnostic::{Code, Context};
use crate::config::read::Fields;
use crate::config::yaml::Node;
use crate::flow::Limits;

const COUNT: RangeInclusive<usize> = 1..=10_000_000; // above what one machine has ports and memory for
const COUNT_OR_NONE: RangeInclusive<usize> = 0..=*COUNT.end();
const HEAD_BYTES: RangeInclusive<usize> = 1024..=1024 * 1024; // below, cookies break; above, heads are an attack
const HEAD_FIELDS: RangeInclusive<usize> = 10..=1000;
const BODY_RATE: RangeInclusive<usize> = 0..=1024 * 1024; // 0: no limit; above, honest clients on bad lines are cut off
const BYTE_RATE: RangeInclusive<usize> = 0..=1 << 40; // 0: no limit
const BYTE_RATE_MIN: usize = 1024; // a flow would wait for minutes after each read
const IPV6_PREFIX: RangeInclusive<usize> = 32..=128; // an allocation to a provider, and one address
const WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);
const WAIT_OR_NONE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 86_400); // 0: no limit

pub(super) fn read(mut fields: Fields<'_>, cx: &mut Context<'_>) -> Limits {
    let mut limits = Limits::default();
    let Limits {
        connections,
        connections_per_client,
        requests_per_connection,
        head_bytes,
        head_fields,
        head_time,
        tunnels,
        tunnels_per_client,
        pending_dials,
        pending_dials_per_client,
        dns_queries,
        idle_pool,
        body_idle,
        body_rate_min,
        keep_alive_idle,
        tunnel_idle,
        tunnel_lifetime,
        requests_per_second_per_client,
        requests_burst_per_client,
        bytes_per_second_per_client,
        ipv6_client_prefix,
    } = &mut limits;
    let mut written = Written::default();
    for (name, field, bounds) in [
        ("connections", connections, COUNT),
        ("connectionsPerClient", connections_per_client, COUNT),
        ("requestsPerConnection", requests_per_connection, COUNT_OR_NONE),
        ("headFields", head_fields, HEAD_FIELDS),
        ("tunnels", tunnels, COUNT),
        ("tunnelsPerClient", tunnels_per_client, COUNT),
        ("pendingDials", pending_dials, COUNT),
        ("pendingDialsPerClient", pending_dials_per_client, COUNT),
        ("dnsQueries", dns_queries, COUNT),
        ("idlePool", idle_pool, COUNT_OR_NONE), // 0: no connection is kept
        ("requestsPerSecondPerClient", requests_per_second_per_client, COUNT_OR_NONE),
        ("requestsBurstPerClient", requests_burst_per_client, COUNT_OR_NONE),
    ] {
        if let Some(node) = fields.get(name)
            && let Some(count) = node.count(bounds, cx)
        {
            *field = count;
            written.push((name, count, node));
        }
    }
    for (name, field, bounds) in [
        ("headTime", head_time, WAIT),
        ("bodyIdle", body_idle, WAIT),
        ("keepAliveIdle", keep_alive_idle, WAIT_OR_NONE),
        ("tunnelIdle", tunnel_idle, WAIT_OR_NONE),
        ("tunnelLifetime", tunnel_lifetime, WAIT_OR_NONE),
    ] {
        if let Some(duration) = fields.get(name).and_then(|node| node.duration(bounds, cx)) {
            *field = duration;
        }
    }
    for (name, field, bounds) in [
        ("headBytes", head_bytes, HEAD_BYTES),
        ("bodyRateMin", body_rate_min, BODY_RATE),
        ("bytesPerSecondPerClient", bytes_per_second_per_client, BYTE_RATE),
    ] {
        let Some(node) = fields.get(name) else { continue };
        let Some(bytes) = values::size(node, bounds, cx) else { continue };
        if name == "bytesPerSecondPerClient" && (1..BYTE_RATE_MIN).contains(&bytes) {
            let message = format!("{bytes} bytes per second are fewer than {BYTE_RATE_MIN}: nothing would get through");
            cx.report_value(Code::OutOfRange, node, message).help("0 means no limit");
            continue;
        }
        *field = bytes;
    }
    if let Some(bits) = fields.get("ipv6ClientPrefix").and_then(|node| node.count(IPV6_PREFIX, cx)) {
        *ipv6_client_prefix = u8::try_from(bits).unwrap_or(u8::MAX); // at most 128
    }
    report_ineffective(&written, &limits, cx);
    fields.finish(cx);
    limits
}

/// Counts that the settings spell out.
type Written<'n> = Vec<(&'static str, usize, &'n Node)>;

/// Says which of them cannot have an effect.
fn report_ineffective(written: &Written<'_>, limits: &Limits, cx: &mut Context<'_>) {
    for (name, count, node) in written {
        let (all, max) = match *name {
            "connectionsPerClient" => ("connections", limits.connections),
            "tunnelsPerClient" => ("tunnels", limits.tunnels),
            "pendingDialsPerClient" => ("pendingDials", limits.pending_dials),
            "requestsBurstPerClient" if *count > 0 && limits.requests_per_second_per_client == 0 => {
                let message = "a burst of a rate that is not limited: requestsPerSecondPerClient is 0";
                cx.report_value(Code::NoEffect, node, message);
                continue;
            }
            _ => continue,
        };
        if *count > max {
            let message = format!("{count} of one client is above {all} ({max}), which is reached before");
            cx.report_value(Code::NoEffect, node, message);
        }
    }
}
