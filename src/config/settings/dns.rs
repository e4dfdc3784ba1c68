//! `dns`: how names are resolved.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::values;
use crate::config::diagnostic::{Code, Context};
use crate::config::read::Fields;
use crate::config::yaml::Node;
use crate::flow::Name;

/// `dns`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// `servers`; empty: those of the system.
    pub servers: Vec<SocketAddr>,
    /// `family`.
    pub family: Family,
    /// `timeout` of one query.
    pub timeout: Duration,
    /// `attempts`: queries sent for one question.
    pub attempts: usize,
    /// `hosts`: the hosts file; `None`: none.
    pub hosts: Option<PathBuf>,
    /// `negativeTtl`: how long "no such name" without SOA is remembered.
    pub negative_ttl: Duration,
    /// `failureTtl`: how long a failure is remembered.
    pub failure_ttl: Duration,
    /// `addressesMax`: addresses of one answer that are looked at.
    pub addresses_max: usize,
    /// `forward`: servers for names under a suffix.
    pub forward: Vec<(Name, Vec<SocketAddr>)>,
}

/// `dns.family`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Both.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            family: Family::Any,
            timeout: Duration::from_secs(2),
            attempts: 2,
            hosts: Some("/etc/hosts".into()),
            negative_ttl: Duration::from_secs(5),
            failure_ttl: Duration::from_secs(2),
            addresses_max: 16, // DESIGN 4.6
            forward: Vec::new(),
        }
    }
}

const FAMILIES: [(&str, Family); 3] = [("any", Family::Any), ("v4", Family::V4), ("v6", Family::V6)];
const QUERY_TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);
const TTL: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(86_400);

pub(super) fn read(mut fields: Fields<'_>, folder: &Path, cx: &mut Context<'_>) -> Dns {
    let mut dns = Dns::default();
    if let Some(node) = fields.get("servers") {
        dns.servers = read_servers(node, true, cx);
    }
    dns.family = fields.one_of("family", &FAMILIES, cx).unwrap_or_default();
    for (name, field, bounds) in [
        ("timeout", &mut dns.timeout, QUERY_TIME),
        ("negativeTtl", &mut dns.negative_ttl, TTL),
        ("failureTtl", &mut dns.failure_ttl, TTL),
    ] {
        if let Some(duration) = fields.get(name).and_then(|node| node.duration(bounds, cx)) {
            *field = duration;
        }
    }
    for (name, field, bounds) in
        [("attempts", &mut dns.attempts, 1..=10), ("addressesMax", &mut dns.addresses_max, 1..=64)]
    {
        if let Some(count) = fields.get(name).and_then(|node| node.count(bounds, cx)) {
            *field = count;
        }
    }
    if let Some(node) = fields.get("hosts") {
        dns.hosts = match node.scalar() {
            Some("") => None, // no hosts file at all
            _ => values::path(node, folder, cx).map(|path| path.value),
        };
    }
    for (suffix, servers) in fields.map("forward", cx) {
        match Name::parse(suffix.text.as_bytes()) {
            Ok(name) => dns.forward.push((name, read_servers(servers, false, cx))),
            Err(error) => {
                cx.report(Code::BadValue, suffix.span, format!("{}: {error}", cx.quote(&suffix.text)))
                    .help("a suffix such as corp.example, without wildcard or leading dot");
            }
        }
    }
    fields.finish(cx);
    dns
}

/// A list of at least one server, or the word `system` where that has a meaning.
fn read_servers(node: &Node, or_system: bool, cx: &mut Context<'_>) -> Vec<SocketAddr> {
    if or_system && node.is_word("system", cx) {
        return Vec::new();
    }
    let expected = if or_system { "`system`, or a list such as [10.0.0.53]" } else { "a list such as [10.0.0.53]" };
    if node.scalar().is_some() || node.is_null() {
        node.wrong_type(expected, cx);
        return Vec::new();
    }
    let Some(items) = node.items(cx) else { return Vec::new() };
    if items.is_empty() {
        cx.report(Code::MissingField, node.span, "no DNS server is named").help(format!("write {expected}"));
    }
    items.iter().filter_map(|item| item.parsed(values::dns_server, cx)).map(|server| server.value).collect()
}
