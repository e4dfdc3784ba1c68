//! Counters and gauges of the whole process, and their text for Prometheus.
//!
//! The data plane counts with one relaxed atomic each; names, labels and encoding exist only while somebody asks. No label holds
//! anything that a peer chose: their number is fixed.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::istio;
use super::parents::Probed;
use super::record::Asked;
use super::usage::Resource;
use crate::flow::{Ending, ErrorType, Limit, Outcome, Side, Unfit};

/// How a DNS query ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsResult {
    /// With addresses.
    Found,
    /// There is no such name, or it has no address.
    NotFound,
    /// The server did not answer in time.
    TimedOut,
    /// Any other failure.
    Failed,
}

/// What became of a TLS handshake with a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// There is a session.
    Completed,
    /// The client went away.
    ClientGone,
    /// Not complete within `limits.headTime`.
    TimedOut,
    /// The client spoke something else.
    NotTls,
    /// The client showed no certificate, and has to.
    NoCertificate,
    /// The client's certificate is not good.
    BadCertificate,
    /// Anything else.
    Failed,
}

/// What became of a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// It named a client.
    Accepted,
    /// It named none: the balancer's own connection.
    Local,
    /// It came from somebody who may not send one.
    Refused,
    /// It was none, or cut short.
    Malformed,
    /// Not complete within `limits.headTime`.
    TimedOut,
}

/// A certificate in use, and its last second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Who uses it.
    pub holder: Holder,
    /// The setting or field that names it: `certificate`, `clientCa`; `clientCertificate`, `caCertificates`.
    pub role: &'static str,
    /// In seconds since 1970.
    pub not_after: i64,
}

/// Who uses a certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A listener, by its name.
    Listener(Arc<str>),
    /// A rule, as `DestinationRule default/api`.
    Rule(Arc<str>),
}

/// All of them.
#[derive(Debug)]
struct Metrics {
    flows: [[Counter; ENDS]; KINDS],
    would_deny: Counter,
    audited: Counter,
    /// By what is done: logged, refused.
    inconsistent: [[Counter; Unfit::ALL.len()]; 2],
    connections_accepted: Counter,
    connections_refused: Counter,
    connections_open: Gauge,
    handshakes: [Counter; HANDSHAKES.len()],
    proxy_headers: [Counter; PROXY_HEADERS.len()],
    certificates: Mutex<Vec<Certificate>>,
    tunnels_open: Gauge,
    limits_reached: [Counter; Limit::ALL.len()],
    overflows: [Counter; Resource::ALL.len()],
    mirrors_dropped: Counter,
    dials_pending: Gauge,
    dns_queries_pending: Gauge,
    pool_idle: Gauge,
    http2_connections: Counter,
    http2_streams: Counter,
    http2_streams_open: Gauge,
    upstream_http2_connections: Counter,
    upstream_http2_connections_open: Gauge,
    upstream_http2_streams: Counter,
    upstream_http2_streams_open: Gauge,
    bytes_received: Counter,
    bytes_sent: Counter,
    dial_failures: [Counter; ErrorType::ALL.len()],
    ejections: Mutex<Ejections>,
    dns_queries: [Counter; DNS_RESULTS.len()],
    dns_cache_hits: Counter,
    pool_hits: Counter,
    pool_misses: Counter,
    log_lines_written: Counter,
    log_lines_dropped: Counter,
    config_loaded: Counter,
    config_rejected: Counter,
    config_good: Gauge,
    config_generation: Gauge,
    config_loaded_at: Gauge,
}

static METRICS: Metrics = Metrics {
    flows: [const { [const { Counter::new() }; ENDS] }; KINDS],
    would_deny: Counter::new(),
    audited: Counter::new(),
    inconsistent: [const { [const { Counter::new() }; Unfit::ALL.len()] }; 2],
    connections_accepted: Counter::new(),
    connections_refused: Counter::new(),
    connections_open: Gauge::new(),
    handshakes: [const { Counter::new() }; HANDSHAKES.len()],
    proxy_headers: [const { Counter::new() }; PROXY_HEADERS.len()],
    certificates: Mutex::new(Vec::new()),
    tunnels_open: Gauge::new(),
    limits_reached: [const { Counter::new() }; Limit::ALL.len()],
    overflows: [const { Counter::new() }; Resource::ALL.len()],
    mirrors_dropped: Counter::new(),
    dials_pending: Gauge::new(),
    dns_queries_pending: Gauge::new(),
    pool_idle: Gauge::new(),
    http2_connections: Counter::new(),
    http2_streams: Counter::new(),
    http2_streams_open: Gauge::new(),
    upstream_http2_connections: Counter::new(),
    upstream_http2_connections_open: Gauge::new(),
    upstream_http2_streams: Counter::new(),
    upstream_http2_streams_open: Gauge::new(),
    bytes_received: Counter::new(),
    bytes_sent: Counter::new(),
    dial_failures: [const { Counter::new() }; ErrorType::ALL.len()],
    ejections: Mutex::new(Ejections { by_cause: Vec::new(), until: Vec::new() }),
    dns_queries: [const { Counter::new() }; DNS_RESULTS.len()],
    dns_cache_hits: Counter::new(),
    pool_hits: Counter::new(),
    pool_misses: Counter::new(),
    log_lines_written: Counter::new(),
    log_lines_dropped: Counter::new(),
    config_loaded: Counter::new(),
    config_rejected: Counter::new(),
    config_good: Gauge::new(),
    config_generation: Gauge::new(),
    config_loaded_at: Gauge::new(),
};

/// Endpoints that were left out because they failed: how often why, and until when those that still are.
#[derive(Debug)]
struct Ejections {
    by_cause: Vec<(&'static str, u64)>,
    until: Vec<Instant>,
}

/// On a cache line of its own: workers that count different things do not wait for each other.
#[derive(Debug)]
#[repr(align(64))]
struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// As [`Counter`].
#[derive(Debug)]
#[repr(align(64))]
struct Gauge(AtomicI64);

impl Gauge {
    const fn new() -> Self {
        Self(AtomicI64::new(0))
    }

    fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn set(&self, n: u64) {
        self.0.store(i64::try_from(n).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A flow ended.
pub(super) fn flow_ended(asked: Asked, outcome: &Outcome) {
    METRICS.flows[asked as usize][end_index(outcome)].add(1);
}

/// A flow passed that REGISTRY_ONLY without `report: true` would have refused.
pub(super) fn would_deny() {
    METRICS.would_deny.add(1);
}

/// A flow passed that an AuthorizationPolicy wants to know of.
pub(super) fn audited() {
    METRICS.audited.add(1);
}

/// A tunnel carried something else than it was asked for.
pub(super) fn inconsistent(unfit: Unfit, enforced: bool) {
    METRICS.inconsistent[usize::from(enforced)][unfit as usize].add(1);
}

/// A connection was accepted and is open.
pub fn connection_opened() {
    METRICS.connections_accepted.add(1);
    METRICS.connections_open.add(1);
}

/// A connection that was open is closed.
pub fn connection_closed() {
    METRICS.connections_open.add(-1);
}

/// A connection was closed because a bound on connections was reached.
pub fn connection_refused() {
    METRICS.connections_refused.add(1);
}

/// A TLS handshake with a client ended so.
pub fn handshake(result: Handshake) {
    METRICS.handshakes[result as usize].add(1);
}

/// A connection began with a PROXY header, or had to.
pub fn proxy_header(result: ProxyHeader) {
    METRICS.proxy_headers[result as usize].add(1);
}

/// The certificates that are in use from now on.
pub fn set_certificates(certificates: Vec<Certificate>) {
    *METRICS.certificates.lock().unwrap_or_else(PoisonError::into_inner) = certificates;
}

/// A client has opened a connection of HTTP/2.
pub fn http2_connection() {
    METRICS.http2_connections.add(1);
}

/// A stream of HTTP/2 is being served.
pub fn http2_stream_opened() {
    METRICS.http2_streams.add(1);
    METRICS.http2_streams_open.add(1);
}

/// It is not any more.
pub fn http2_stream_closed() {
    METRICS.http2_streams_open.add(-1);
}

/// A connection of HTTP/2 to an upstream or a parent stands.
pub fn upstream_http2_connected() {
    METRICS.upstream_http2_connections.add(1);
    METRICS.upstream_http2_connections_open.add(1);
}

/// It is closed.
pub fn upstream_http2_closed() {
    METRICS.upstream_http2_connections_open.add(-1);
}

/// A flow takes a stream of such a connection.
pub fn upstream_http2_stream_opened() {
    METRICS.upstream_http2_streams.add(1);
    METRICS.upstream_http2_streams_open.add(1);
}

/// It is over.
pub fn upstream_http2_stream_closed() {
    METRICS.upstream_http2_streams_open.add(-1);
}

pub(super) fn tunnel_opened() {
    METRICS.tunnels_open.add(1);
}

pub(super) fn tunnel_closed() {
    METRICS.tunnels_open.add(-1);
}

/// A bound was met, and what met it was refused, ended or held back.
pub fn limit_reached(limit: Limit) {
    METRICS.limits_reached[limit as usize].add(1);
}

/// A bound of a DestinationRule turned something away.
pub(super) fn overflowed(resource: Resource) {
    METRICS.overflows[resource as usize].add(1);
}

/// A copy of a request did not go out: too many were on their way, or its upstream was not there.
pub fn mirror_dropped() {
    METRICS.mirrors_dropped.add(1);
}

/// A dial begins.
pub fn dial_began() {
    METRICS.dials_pending.add(1);
}

/// A dial is over, whatever came of it.
pub fn dial_ended() {
    METRICS.dials_pending.add(-1);
}

/// So many DNS queries more, or fewer, are under way.
pub fn dns_queries_pending(change: i64) {
    METRICS.dns_queries_pending.add(change);
}

/// So many upstream connections are idle.
pub fn pool_idle(connections: usize) {
    METRICS.pool_idle.set(connections as u64);
}

/// Bytes came from a client: of a tunnel as they come, of a body when its exchange ends.
pub fn bytes_received(bytes: u64) {
    METRICS.bytes_received.add(bytes);
}

/// Bytes went to a client.
pub fn bytes_sent(bytes: u64) {
    METRICS.bytes_sent.add(bytes);
}

/// There is no connection to an upstream, for this reason.
pub fn dial_failed(error: ErrorType) {
    METRICS.dial_failures[error as usize].add(1);
}

/// An endpoint failed too often, for this cause, and is left out for so long.
pub fn endpoint_ejected(cause: &'static str, time: Duration) {
    let mut ejections = METRICS.ejections.lock().unwrap_or_else(PoisonError::into_inner);
    match ejections.by_cause.iter_mut().find(|(known, _)| *known == cause) {
        Some((_, count)) => *count += 1,
        None => ejections.by_cause.push((cause, 1)),
    }
    let now = Instant::now();
    ejections.until.retain(|until| *until > now);
    ejections.until.extend(now.checked_add(time));
}

/// A query left for a DNS server, and ended so.
pub fn dns_query(result: DnsResult) {
    METRICS.dns_queries[result as usize].add(1);
}

/// A name was answered without a query.
pub fn dns_cache_hit() {
    METRICS.dns_cache_hits.add(1);
}

/// A request found an idle upstream connection.
pub fn pool_hit() {
    METRICS.pool_hits.add(1);
}

/// A request found none.
pub fn pool_miss() {
    METRICS.pool_misses.add(1);
}

/// Lines of the access log went to the kernel.
pub(super) fn access_log_lines_written(lines: u64) {
    METRICS.log_lines_written.add(lines);
}

/// Lines of the access log were lost.
pub(super) fn access_log_lines_dropped(lines: u64) {
    METRICS.log_lines_dropped.add(lines);
}

/// Lines of the access log lost since the process began, for the last words of the application log.
pub fn access_log_lines_dropped_so_far() -> u64 {
    METRICS.log_lines_dropped.value()
}

/// A configuration came into force.
pub fn config_loaded(generation: u64) {
    METRICS.config_loaded.add(1);
    METRICS.config_good.set(1);
    METRICS.config_generation.set(generation);
    METRICS.config_loaded_at.set(seconds_since_1970());
}

/// A configuration was read and refused; the one before stays in force.
pub fn config_rejected() {
    METRICS.config_rejected.add(1);
    METRICS.config_good.set(0);
}

/// What throughput is made of, since the process began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Bytes from clients.
    pub received: u64,
    /// Bytes to clients.
    pub sent: u64,
    /// Flows that ended.
    pub flows: u64,
    /// Of these, refused by policy.
    pub refused: u64,
    /// Tunnels open now.
    pub tunnels: i64,
}

/// All of them, as of now.
pub fn totals() -> Totals {
    let ends = |index: usize| METRICS.flows.iter().map(|kind| kind[index].value()).sum::<u64>();
    let by_policy = |error: &&ErrorType| error.row().side == Side::Policy;
    Totals {
        received: METRICS.bytes_received.value(),
        sent: METRICS.bytes_sent.value(),
        flows: (0..ENDS).map(ends).sum(),
        refused: ErrorType::ALL.iter().filter(by_policy).map(|error| ends(2 + ENDINGS.len() + *error as usize)).sum(),
        tunnels: METRICS.tunnels_open.value(),
    }
}

/// Everything, in the OpenMetrics text format 1.0.0 ([`CONTENT_TYPE`]).
pub fn exposition() -> String {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    let registry = REGISTRY.get_or_init(|| {
        let mut registry = Registry::with_prefix("egret");
        registry.register_collector(Box::new(&METRICS));
        registry
    });
    let mut out = String::with_capacity(16 * 1024);
    text::encode_registry(&mut out, registry).expect("a String takes everything");
    istio::write(&mut out);
    text::encode_eof(&mut out).expect("a String takes everything");
    out
}

/// Of [`exposition`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Collector for &'static Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Exposition(&mut encoder);
        out.info("build", "What runs here", &[("version", env!("CARGO_PKG_VERSION"))])?;
        out.family("flows", "Flows that ended", self.flow_rows())?;
        out.counter(
            "flows_would_deny",
            "Flows passed that REGISTRY_ONLY without report would have refused",
            &self.would_deny,
        )?;
        out.counter("flows_audited", "Flows that an AuthorizationPolicy of action AUDIT holds for", &self.audited)?;
        let inconsistent = ["warn", "enforce"].into_iter().zip(&self.inconsistent).flat_map(|(mode, kinds)| {
            let rows = Unfit::ALL.into_iter().zip(kinds);
            rows.map(move |(unfit, count)| ([("mode", mode), ("reason", unfit.as_str())], count.value()))
        });
        out.family("tunnels_inconsistent", "Tunnels that carried something else than asked for", seen(inconsistent))?;
        out.counter("connections_accepted", "Connections of clients accepted", &self.connections_accepted)?;
        out.counter(
            "connections_refused",
            "Connections closed because a bound was reached",
            &self.connections_refused,
        )?;
        out.gauge("connections_open", "Connections of clients open now", &self.connections_open)?;
        let handshakes =
            HANDSHAKES.iter().map(|(result, name)| ([("result", *name)], self.handshakes[*result as usize].value()));
        out.family("tls_handshakes", "TLS handshakes with clients", seen(handshakes))?;
        let headers = PROXY_HEADERS
            .iter()
            .map(|(result, name)| ([("result", *name)], self.proxy_headers[*result as usize].value()));
        out.family("proxy_protocol_headers", "PROXY headers of connections", seen(headers))?;
        out.certificates(&self.certificates.lock().unwrap_or_else(PoisonError::into_inner))?;
        out.parents(&super::parents::all())?;
        out.gauge("tunnels_open", "Tunnels open now", &self.tunnels_open)?;
        out.gauge("dials_pending", "Flows being resolved or dialled now", &self.dials_pending)?;
        out.gauge("dns_queries_pending", "DNS queries under way now", &self.dns_queries_pending)?;
        out.gauge("pool_idle_connections", "Idle upstream connections kept now", &self.pool_idle)?;
        let reached =
            Limit::ALL.iter().map(|limit| ([("limit", limit.name())], self.limits_reached[*limit as usize].value()));
        out.family(
            "limit_reached",
            "What met a bound of the settings and was refused, ended or held back",
            seen(reached),
        )?;
        let overflows = Resource::ALL.iter().map(|of| ([("bound", of.name())], self.overflows[*of as usize].value()));
        out.family("cluster_overflows", "What met a bound of a DestinationRule and was turned away", seen(overflows))?;
        out.counter("mirrors_dropped", "Copies of requests that did not go out", &self.mirrors_dropped)?;
        out.counter("http2_connections", "Connections of clients that speak HTTP/2", &self.http2_connections)?;
        out.counter("http2_streams", "Streams that clients opened on them", &self.http2_streams)?;
        out.gauge("http2_streams_open", "Streams served now", &self.http2_streams_open)?;
        out.counter(
            "upstream_http2_connections",
            "Connections of HTTP/2 to upstreams and parents",
            &self.upstream_http2_connections,
        )?;
        out.gauge(
            "upstream_http2_connections_open",
            "Of those the ones that are open now",
            &self.upstream_http2_connections_open,
        )?;
        out.counter("upstream_http2_streams", "Flows that took a stream of them", &self.upstream_http2_streams)?;
        out.gauge("upstream_http2_streams_open", "Of those the ones that go on", &self.upstream_http2_streams_open)?;
        out.counter("received_bytes", "Bytes from clients, without heads", &self.bytes_received)?;
        out.counter("sent_bytes", "Bytes to clients, without heads", &self.bytes_sent)?;
        let failures = ErrorType::ALL
            .iter()
            .map(|error| ([("reason", error.row().reason)], self.dial_failures[*error as usize].value()));
        out.family("dial_failures", "Upstream connections that could not be made", seen(failures))?;
        let (ejections, ejected) = self.ejections();
        let ejections = ejections.iter().map(|(cause, count)| ([("cause", *cause)], *count));
        out.family("endpoint_ejections", "Endpoints left out because they failed (outlierDetection)", ejections)?;
        out.level("endpoints_ejected", "Endpoints left out now", ejected)?;
        let queries =
            DNS_RESULTS.iter().map(|(result, name)| ([("result", *name)], self.dns_queries[*result as usize].value()));
        out.family("dns_queries", "Queries to DNS servers", queries)?;
        out.counter("dns_cache_hits", "Names answered without a query", &self.dns_cache_hits)?;
        out.counter("pool_hits", "Requests sent on an idle upstream connection", &self.pool_hits)?;
        out.counter("pool_misses", "Requests that found no idle upstream connection", &self.pool_misses)?;
        out.counter("access_log_lines_written", "Lines of the access log written", &self.log_lines_written)?;
        #[cfg(feature = "otlp")]
        {
            let (exported, lost) = super::otlp::counts();
            out.number("spans_exported", "Spans that the collector took", exported)?;
            out.number("spans_lost", "Spans that did not get there", lost)?;
        }
        out.counter("access_log_lines_dropped", "Lines of the access log lost", &self.log_lines_dropped)?;
        out.counter("config_loads", "Configurations that came into force", &self.config_loaded)?;
        out.counter("config_rejections", "Configurations refused", &self.config_rejected)?;
        out.gauge("config_last_load_successful", "1 unless the last configuration was refused", &self.config_good)?;
        out.gauge("config_generation", "Generation in force", &self.config_generation)?;
        out.gauge("config_loaded_timestamp_seconds", "When it came into force", &self.config_loaded_at)
    }
}

impl Metrics {
    fn ejections(&self) -> (Vec<(&'static str, u64)>, i64) {
        let ejections = self.ejections.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let active = ejections.until.iter().filter(|until| **until > now).count();
        (ejections.by_cause.clone(), i64::try_from(active).unwrap_or(i64::MAX))
    }

    fn flow_rows(&self) -> impl Iterator<Item = ([(&'static str, &'static str); 2], u64)> {
        let rows = KIND_NAMES.iter().zip(&self.flows).flat_map(|(kind, ends)| {
            (0..ENDS).map(move |index| ([("kind", *kind), ("reason", end_name(index))], ends[index].value()))
        });
        seen(rows)
    }
}

/// A row appears once it counted something: most of them never do.
fn seen<L>(rows: impl Iterator<Item = (L, u64)>) -> impl Iterator<Item = (L, u64)> {
    rows.filter(|(_, count)| *count > 0)
}

struct Exposition<'a, 'e>(&'a mut DescriptorEncoder<'e>);

impl Exposition<'_, '_> {
    #[cfg(feature = "otlp")]
    fn number(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn counter(&mut self, name: &str, help: &str, counter: &Counter) -> fmt::Result {
        let counter = ConstCounter::new(counter.value());
        counter.encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn gauge(&mut self, name: &str, help: &str, gauge: &Gauge) -> fmt::Result {
        self.level(name, help, gauge.value())
    }

    fn level(&mut self, name: &str, help: &str, value: i64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn certificates(&mut self, certificates: &[Certificate]) -> fmt::Result {
        let (name, help) = ("certificate_expiry_timestamp_seconds", "Last second of a certificate in use");
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for Certificate { holder, role, not_after } in certificates {
            let holder = match holder {
                Holder::Listener(name) => ("listener", &**name),
                Holder::Rule(name) => ("rule", &**name),
            };
            let labels = [holder, ("role", *role)];
            ConstGauge::new(*not_after).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn parents(&mut self, probed: &[Arc<Probed>]) -> fmt::Result {
        let mut up = self.0.encode_descriptor("parent_up", "0 while probes find it down", None, MetricType::Gauge)?;
        for parent in probed {
            let labels = [("parent", &*parent.endpoint), ("cluster", &*parent.cluster)];
            ConstGauge::new(i64::from(!parent.is_down())).encode(up.encode_family(&labels)?)?;
        }
        let (name, help) = ("parent_probes", "Probes of parent proxies");
        let mut probes = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for parent in probed {
            let (succeeded, failed) = parent.counts();
            for (result, count) in [("succeeded", succeeded), ("failed", failed)] {
                let labels = [("parent", &*parent.endpoint), ("cluster", &*parent.cluster), ("result", result)];
                ConstCounter::new(count).encode(probes.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn info(&mut self, name: &str, help: &str, labels: &[(&'static str, &'static str)]) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        encoder.encode_info(&labels)
    }

    fn family<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl Iterator<Item = ([(&'static str, &'static str); N], u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, count) in rows {
            ConstCounter::new(count).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

const KINDS: usize = KIND_NAMES.len();
/// In the order of [`Asked`].
const KIND_NAMES: [&str; 4] = ["unreadable", "connect", "http", "sni"];

const ENDINGS: [Ending; 8] = [
    Ending::DownstreamReset,
    Ending::UpstreamReset,
    Ending::IdleTimeout,
    Ending::LifetimeExceeded,
    Ending::Drained,
    Ending::Revoked,
    Ending::Killed,
    Ending::AnswerTimeout,
];

/// Complete, abandoned, each ending, each failure.
const ENDS: usize = 2 + ENDINGS.len() + ErrorType::ALL.len();

fn end_index(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Complete => 0,
        Outcome::Abandoned => 1,
        Outcome::Ended(ending) => 2 + *ending as usize,
        Outcome::Failed { error, .. } => 2 + ENDINGS.len() + *error as usize,
    }
}

fn end_name(index: usize) -> &'static str {
    match index {
        0 => "complete",
        1 => "abandoned",
        index => match ENDINGS.get(index - 2) {
            Some(ending) => ending.as_str(),
            None => ErrorType::ALL[index - 2 - ENDINGS.len()].row().reason,
        },
    }
}

const HANDSHAKES: [(Handshake, &str); 7] = [
    (Handshake::Completed, "completed"),
    (Handshake::ClientGone, "client_gone"),
    (Handshake::TimedOut, "timed_out"),
    (Handshake::NotTls, "not_tls"),
    (Handshake::NoCertificate, "no_certificate"),
    (Handshake::BadCertificate, "bad_certificate"),
    (Handshake::Failed, "failed"),
];

const PROXY_HEADERS: [(ProxyHeader, &str); 5] = [
    (ProxyHeader::Accepted, "accepted"),
    (ProxyHeader::Local, "local"),
    (ProxyHeader::Refused, "refused"),
    (ProxyHeader::Malformed, "malformed"),
    (ProxyHeader::TimedOut, "timed_out"),
];

const DNS_RESULTS: [(DnsResult, &str); 4] = [
    (DnsResult::Found, "found"),
    (DnsResult::NotFound, "not_found"),
    (DnsResult::TimedOut, "timed_out"),
    (DnsResult::Failed, "failed"),
];

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn value(line_start: &str) -> f64 {
        let text = exposition();
        let line = text.lines().find(|line| line.starts_with(line_start));
        line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().expect("a number"))
    }

    #[test]
    fn positions_in_the_tables_are_those_of_the_enums() {
        assert!(ErrorType::ALL.iter().enumerate().all(|(index, error)| *error as usize == index));
        assert!(ENDINGS.iter().enumerate().all(|(index, ending)| *ending as usize == index));
        assert!(Unfit::ALL.iter().enumerate().all(|(index, unfit)| *unfit as usize == index));
        assert!(HANDSHAKES.iter().enumerate().all(|(index, (result, _))| *result as usize == index));
        assert!(PROXY_HEADERS.iter().enumerate().all(|(index, (result, _))| *result as usize == index));
        assert!(DNS_RESULTS.iter().enumerate().all(|(index, (result, _))| *result as usize == index));
        assert_eq!(KIND_NAMES[Asked::Sni as usize], "sni");
        assert_eq!(KIND_NAMES[Asked::Unreadable as usize], "unreadable");
        assert_eq!(KIND_NAMES[Asked::Connect as usize], "connect");
        assert_eq!((0..ENDS).map(end_name).collect::<HashSet<_>>().len(), ENDS);
    }

    #[test]
    fn what_is_counted_stands_in_the_exposition() {
        let failed = Outcome::failed(ErrorType::NotFound, "x");
        let row = "egret_flows_total{kind=\"sni\",reason=\"not_found\"}";
        let before = value(row);
        flow_ended(Asked::Sni, &failed);
        assert!((value(row) - before - 1.0).abs() < 0.01);
        dial_failed(ErrorType::DnsTimeout);
        assert!(value("egret_dial_failures_total{reason=\"dns_timeout\"}") >= 1.0);
        limit_reached(Limit::TunnelsPerClient);
        assert!(value("egret_limit_reached_total{limit=\"tunnels_per_client\"}") >= 1.0);
        dns_query(DnsResult::TimedOut);
        assert!(value("egret_dns_queries_total{result=\"timed_out\"}") >= 1.0);
        config_loaded(7);
        assert!((value("egret_config_generation") - 7.0).abs() < 0.01);
        config_rejected();
        assert!(value("egret_config_last_load_successful").abs() < 0.01);
        assert!(value("egret_build_info{version=") > 0.0);
    }

    #[test]
    fn the_exposition_is_openmetrics() {
        let text = exposition();
        assert!(text.ends_with("# EOF\n"));
        let mut seen = HashSet::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, number) = line.rsplit_once(' ').expect("name and value");
            assert!(name.starts_with("egret_") || name.starts_with("istio_"), "{line}");
            assert!(number.parse::<f64>().is_ok(), "{line}");
            assert!(seen.insert(name.to_owned()), "{line} stands twice");
        }
    }
}
