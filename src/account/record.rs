//! What the access log may say of one flow. The line is written exactly once: on finish, or when the record is dropped unfinished.
//!
//! How a line looks is [`super::format`]'s; where it goes, the writer's.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::format::flags;
use super::progress::LineType;
use super::traffic::{Done, Traffic};
use super::{Account, metrics, refusals};
use crate::flow::{
    DialTrace, ErrorType, Failure, Finding, Identity, ListenerKind, Origin, Outcome, Scheme, Side, Source, Target,
};

/// Everything the access log may say of one flow.
///
/// One box and one text for all strings: plain HTTP makes a record every 20 µs, and each idle tunnel holds one. Without an access log
/// no text is kept, but for the request's id.
#[derive(Debug)]
pub struct AccessRecord {
    account: Arc<Account>,
    /// Of the cluster, once one is known.
    traffic: Option<Traffic>,
    pub(super) source: Arc<Source>,
    pub(super) started: Instant,
    pub(super) trace: DialTrace,
    pub(super) outcome: Outcome,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) protocol: Option<&'static str>,
    /// Envoy's RESPONSE_CODE_DETAILS; empty until something was answered.
    pub(super) details: &'static str,
    pub(super) upstream_time: Option<Duration>,
    text: Vec<u8>,
    spans: [Span; Field::COUNT],
    /// Fields that the format asks for beyond those that every format knows.
    extras: Vec<Extra>,
    /// 0: no HTTP answer went out.
    pub(super) status: u16,
    pub(super) refused: bool,
    /// It stands among the recent refusals.
    noted: bool,
    pub(super) marks: Marks,
    /// What the request says of its trace.
    #[cfg(feature = "otlp")]
    pub(super) trace_parent: Option<super::otlp::TraceParent>,
    pub(super) asked: Asked,
    pub(super) scheme: Scheme,
    pub(super) line_type: LineType,
    logged: bool,
}

/// What a route did to a request, for Envoy's flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) delayed: bool,
    pub(super) aborted: bool,
    pub(super) retries_used_up: bool,
}

/// What the request asked for, as the log shows it.
#[derive(Clone, Copy, Debug)]
pub enum Requested<'a> {
    /// Nothing that could be read.
    Unreadable,
    /// `CONNECT host:port`.
    Tunnel(&'a Target),
    /// A URL, whatever form it came in.
    Url {
        /// `http` or `https`.
        scheme: Scheme,
        /// Host and port.
        target: &'a Target,
        /// Path and query as received.
        path: &'a str,
    },
}

/// How the flow was asked for, for metrics and the squid format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Unreadable,
    Connect,
    Http,
    Sni,
}

/// The texts that a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Method,
    Path,
    Authority,
    UserAgent,
    RequestId,
    ForwardedFor,
    ServerName,
    Identity,
    Cluster,
    Route,
    WouldDeny,
    Audited,
    Inconsistent,
    Rule,
    Detail,
}

impl Field {
    const COUNT: usize = Self::Detail as usize + 1;
}

/// A piece of the record's text; empty: not known.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    end: u32,
}

#[derive(Debug)]
struct Extra {
    of: Message,
    name: Arc<str>,
    span: Span,
}

/// Whose field it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Request,
    Response,
}

const TEXT_BYTES: usize = 112; // what a CONNECT of a usual client needs; a size class of jemalloc
const FIELD_BYTES_MAX: usize = 64 * 1024; // twice the default of limits.headBytes; keeps spans within u32

impl AccessRecord {
    pub(super) fn new(account: Arc<Account>, source: Arc<Source>, logged: bool) -> Box<Self> {
        let asked = match source.listener.kind {
            ListenerKind::Forward => Asked::Unreadable,
            ListenerKind::Sni => Asked::Sni,
        };
        Box::new(Self {
            account,
            traffic: None,
            source,
            started: Instant::now(),
            trace: DialTrace::default(),
            outcome: Outcome::Abandoned,
            received: 0,
            sent: 0,
            protocol: None,
            details: "",
            upstream_time: None,
            text: if logged { Vec::with_capacity(TEXT_BYTES) } else { Vec::new() },
            spans: [Span::default(); Field::COUNT],
            extras: Vec::new(),
            status: 0,
            refused: false,
            noted: false,
            marks: Marks::default(),
            #[cfg(feature = "otlp")]
            trace_parent: None,
            asked,
            scheme: Scheme::Http,
            line_type: LineType::End,
            logged,
        })
    }

    /// `HTTP/1.1`, the method, and what it asks for.
    pub fn request(&mut self, protocol: &'static str, method: &str, requested: Requested<'_>) {
        self.protocol = Some(protocol);
        self.keep(Field::Method, method.as_bytes());
        match requested {
            Requested::Unreadable => {}
            Requested::Tunnel(target) => {
                self.asked = Asked::Connect;
                self.keep_authority(target, None);
            }
            Requested::Url { scheme, target, path } => {
                self.asked = Asked::Http;
                self.scheme = scheme;
                self.keep(Field::Path, path.as_bytes());
                self.keep_authority(target, Some(scheme.default_port()));
            }
        }
    }

    /// Fields of the request that the log shows; `field` gives the value of a field by its lower-case name.
    pub fn request_fields<'h>(&mut self, field: impl Fn(&str) -> Option<&'h [u8]>) {
        if let Some(id) = field("x-request-id") {
            self.keep_always(Field::RequestId, id); // shown to the client of a refusal too
        }
        if !self.logged {
            return;
        }
        #[cfg(feature = "otlp")]
        {
            self.trace_parent = field("traceparent").and_then(super::otlp::TraceParent::parse);
        }
        for (kept, name) in [(Field::UserAgent, "user-agent"), (Field::ForwardedFor, "x-forwarded-for")] {
            if let Some(value) = field(name) {
                self.keep(kept, value);
            }
        }
        self.keep_extras(Message::Request, field);
    }

    /// Fields of the answer, if the log's format asks for any; `field` gives the value of a field by its lower-case name.
    pub fn response_fields<'h>(&mut self, field: impl Fn(&str) -> Option<&'h [u8]>) {
        if self.logged {
            self.keep_extras(Message::Response, field);
        }
    }

    /// Who the client proved to be.
    pub fn identity(&mut self, identity: Option<&Identity>) {
        if let Some(identity) = identity {
            self.keep(Field::Identity, identity.as_str().as_bytes());
        }
    }

    /// The SNI of the client's hello.
    pub fn server_name(&mut self, sni: &str) {
        self.keep(Field::ServerName, sni.as_bytes());
    }

    /// The SNI of the client's hello is the name that the tunnel was asked for. Costs nothing: the text is there.
    pub fn server_name_is_asked(&mut self) {
        let Span { start, .. } = self.spans[Field::Authority as usize];
        let host = self.text(Field::Authority).iter().rposition(|b| *b == b':').unwrap_or_default();
        self.spans[Field::ServerName as usize] = Span { start, end: start + host as u32 };
    }

    /// What was decided: cluster, route name (empty: none), and the sentence of what would have been refused (`report: true`).
    pub fn routed(&mut self, cluster: &str, route: &str, would_deny: Option<&str>) {
        self.keep(Field::Cluster, cluster.as_bytes());
        self.keep(Field::Route, route.as_bytes());
        if let Some(sentence) = would_deny {
            metrics::would_deny();
            self.keep(Field::WouldDeny, sentence.as_bytes());
        }
    }

    /// An AuthorizationPolicy of action AUDIT holds for the flow.
    pub fn audited(&mut self, policy: &str) {
        metrics::audited();
        self.keep(Field::Audited, policy.as_bytes());
    }

    /// The cluster to whose counters the flow belongs.
    pub fn counts_to(&mut self, traffic: &Traffic) {
        self.traffic = Some(traffic.clone());
    }

    /// We refuse the flow to this target: it goes among the recent refusals.
    pub fn note_refusal(&mut self, target: &Target, error: ErrorType, detail: &str, rule: Option<&Origin>) {
        self.note(Some(target), error, detail, rule);
    }

    fn note(&mut self, target: Option<&Target>, error: ErrorType, detail: &str, rule: Option<&Origin>) {
        self.noted = true;
        let asked = match self.asked {
            Asked::Sni => refusals::Asked::Sni,
            Asked::Http => refusals::Asked::Http(self.scheme),
            Asked::Connect => refusals::Asked::Connect,
            Asked::Unreadable => refusals::Asked::Unreadable,
        };
        refusals::note(&self.source, asked, target, error, detail, rule);
    }

    /// The rule that refused (`file:line:column`).
    pub fn refused_by(&mut self, rule: &str) {
        self.keep(Field::Rule, rule.as_bytes());
    }

    /// The tunnel carried something else than it was asked for; `enforced`: it was refused for it.
    pub fn inconsistent(&mut self, finding: &Finding, enforced: bool) {
        metrics::inconsistent(finding.kind, enforced);
        self.keep(Field::Inconsistent, finding.detail.as_bytes());
        if let Some(name) = &finding.server_name {
            self.server_name(name.as_str());
        }
    }

    /// The id of the request: the client's `x-request-id`, or one made now.
    ///
    /// Made only here, for those who are told it (a refused client, another Egret): an id that stands in our log alone joins nothing.
    pub fn ensure_request_id(&mut self) -> Box<str> {
        if self.text(Field::RequestId).is_empty() {
            let id = new_request_id();
            self.keep_always(Field::RequestId, &id);
        }
        String::from_utf8_lossy(self.text(Field::RequestId)).into()
    }

    /// Who asks, as known when the flow began.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What is tried on the way out.
    pub fn trace_mut(&mut self) -> &mut DialTrace {
        &mut self.trace
    }

    /// We answered with this status; `details` is Envoy's RESPONSE_CODE_DETAILS.
    pub fn answered(&mut self, status: u16, details: &'static str) {
        self.status = status;
        self.details = details;
    }

    /// We refused with this status (0 where nobody could be sent one).
    pub fn refused(&mut self, failure: &Failure, status: u16) {
        self.refused = true;
        // What comes before routing has no place of its own to say so: credentials, the client's address, its pace, what is no request.
        if !self.noted && failure.error.row().side != Side::Upstream {
            self.note(None, failure.error, &failure.log, None);
        }
        self.answered(status, failure.error.row().reason);
        if failure.hop_status.is_some() {
            self.trace.hop_status = failure.hop_status;
        }
        self.keep(Field::Detail, failure.log.as_bytes());
    }

    /// A route had the request wait.
    pub fn delayed(&mut self) {
        self.marks.delayed = true;
    }

    /// A route had the request aborted.
    pub fn aborted(&mut self) {
        self.marks.aborted = true;
    }

    /// The request was sent as often as its route allows, and failed each time.
    pub fn retries_used_up(&mut self) {
        self.marks.retries_used_up = true;
    }

    /// An exchange is over: bytes of the request's and the answer's body, and the time to the answer's first byte.
    pub fn exchanged(&mut self, status: u16, received: u64, sent: u64, upstream_time: Duration) {
        self.answered(status, "via_upstream");
        self.upstream_time = Some(upstream_time);
        self.moved(received, sent);
        metrics::bytes_received(received);
        metrics::bytes_sent(sent);
    }

    /// The answer broke off after its head went out.
    pub fn broke_off(&mut self, why: &str) {
        self.keep(Field::Detail, why.as_bytes());
    }

    /// Bytes of a tunnel, both ways; added to those of the exchange that it came of (101).
    pub fn moved(&mut self, received: u64, sent: u64) {
        self.received += received;
        self.sent += sent;
    }

    /// Writes a line of a tunnel that has just opened.
    pub fn opened(&mut self) {
        self.write_early(LineType::Start, 0, 0);
    }

    /// Writes a line of a tunnel that goes on; with what it has moved so far.
    pub fn goes_on(&mut self, received: u64, sent: u64) {
        self.write_early(LineType::Interim, received, sent);
    }

    /// Nothing of what an early line says stays.
    fn write_early(&mut self, line_type: LineType, received: u64, sent: u64) {
        let before = (self.received, self.sent);
        self.moved(received, sent);
        self.line_type = line_type;
        self.outcome = Outcome::Complete;
        self.account.write(self);
        self.outcome = Outcome::Abandoned;
        self.line_type = LineType::End;
        (self.received, self.sent) = before;
    }

    /// Writes the line.
    pub fn finish(mut self: Box<Self>, outcome: Outcome) {
        self.outcome = outcome;
    }

    pub(super) fn text(&self, field: Field) -> &[u8] {
        self.slice(self.spans[field as usize])
    }

    /// A field that only this format asks for.
    pub(super) fn extra(&self, of: Message, name: &str) -> &[u8] {
        let extra = self.extras.iter().find(|extra| extra.of == of && *extra.name == *name);
        extra.map_or(&[], |extra| self.slice(extra.span))
    }

    fn slice(&self, span: Span) -> &[u8] {
        &self.text[span.start as usize..span.end as usize]
    }

    fn keep(&mut self, field: Field, text: &[u8]) {
        if self.logged {
            self.keep_always(field, text);
        }
    }

    fn keep_always(&mut self, field: Field, text: &[u8]) {
        self.spans[field as usize] = self.push(text);
    }

    /// Without the port where it is the one that the scheme means, as browsers write an authority.
    fn keep_authority(&mut self, target: &Target, default_port: Option<u16>) {
        if !self.logged {
            return;
        }
        let start = self.text.len();
        let port = (default_port != Some(target.port)).then_some(target.port);
        target.put_with_port(&mut self.text, port);
        self.spans[Field::Authority as usize] = Span { start: start as u32, end: self.text.len() as u32 };
    }

    fn keep_extras<'h>(&mut self, of: Message, field: impl Fn(&str) -> Option<&'h [u8]>) {
        let format = self.account.format.load();
        let Some(format) = format.as_ref() else { return };
        for name in format.wanted(of) {
            if let Some(value) = field(name) {
                let span = self.push(value);
                self.extras.push(Extra { of, name: name.clone(), span });
            }
        }
    }

    fn push(&mut self, text: &[u8]) -> Span {
        let start = self.text.len() as u32;
        self.text.extend_from_slice(&text[..text.len().min(FIELD_BYTES_MAX)]);
        Span { start, end: self.text.len() as u32 }
    }
}

impl AccessRecord {
    /// Counts a request, or a connection that was refused; open tunnels count themselves ([`super::Live`]).
    fn count(&self) {
        let traffic = self.traffic.as_ref().unwrap_or_else(|| Traffic::unknown());
        let (workload, flags) = (&self.source.workload, flags(self));
        if self.asked == Asked::Sni {
            if matches!(self.outcome, Outcome::Failed { .. }) {
                traffic.connection(workload, flags, |connections| {
                    connections.opened.fetch_add(1, Ordering::Relaxed);
                    connections.closed.fetch_add(1, Ordering::Relaxed);
                });
            }
            return;
        }
        // A CONNECT is a request until it is answered; what follows is a connection.
        let tunnel = self.asked == Asked::Connect && self.status == 200;
        let (lasted, received, sent) = if tunnel {
            (self.trace.dns + self.trace.connect, 0, 0)
        } else {
            (self.started.elapsed(), self.received, self.sent)
        };
        let flags = if tunnel { "-" } else { flags };
        traffic.request(workload, &Done { code: self.status, flags, lasted, received, sent });
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        metrics::flow_ended(self.asked, &self.outcome);
        self.count();
        self.account.write(self);
        #[cfg(feature = "otlp")]
        super::otlp::span(self);
    }
}

/// A random UUID (RFC 9562 §5.4), in text. It names a request; it proves nothing, so a fast generator is enough.
fn new_request_id() -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let random = fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let mut id = [b'-'; 36];
    let digits = (0..36).filter(|at| !matches!(at, 8 | 13 | 18 | 23));
    for (at, shift) in digits.zip((0..128).step_by(4).rev()) {
        id[at] = HEX[(random >> shift) as usize & 0xf];
    }
    id
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::account::testing::{account, account_off, source_from};
    use crate::account::{AccountSettings, Encoding, LogTarget};
    use crate::flow::Ending;

    const LIMIT: Duration = Duration::from_secs(10);

    fn source() -> Arc<Source> {
        Arc::new(source_from("10.1.2.3:40000".parse().unwrap()))
    }

    fn logging_to(path: &std::path::Path, encoding: Encoding, format: &str) -> AccountSettings {
        AccountSettings { target: LogTarget::File(path.to_owned()), encoding, format: format.to_owned() }
    }

    #[test]
    fn each_flow_leaves_exactly_one_line_finished_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let account = Account::new(&logging_to(&path, Encoding::Text, "%RESPONSE_FLAGS% %EGRET(reason)%")).unwrap();
        let source = source();
        account.record(&source).finish(Outcome::Complete);
        account.record(&source).finish(Outcome::Ended(Ending::DownstreamReset));
        account.record(&source).finish(Outcome::failed(ErrorType::DnsError, "no such name"));
        drop(account.record(&source));
        assert!(account.close(LIMIT));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "- -\nDC downstream_reset\nDF dns_error\nLR abandoned\n");
    }

    #[test]
    fn a_record_of_a_task_that_is_cut_off_leaves_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let account = Account::new(&logging_to(&path, Encoding::Text, "%EGRET(reason)%")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let record = account.record(&source());
        runtime.spawn(async move {
            let _held = record;
            std::future::pending::<()>().await;
        });
        runtime.shutdown_timeout(LIMIT);
        assert!(account.close(LIMIT));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "abandoned\n");
    }

    #[test]
    fn new_settings_hold_for_flows_that_end_after_them_and_bad_ones_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| folder.path().join(name));
        let account = Account::new(&logging_to(&old, Encoding::Text, "%REQ(USER-AGENT)% %REQ(X-TEAM)%")).unwrap();
        let source = source();
        let mut running = account.record(&source);
        running.request_fields(|name| match name {
            "user-agent" => Some(b"curl"),
            "x-team" => Some(b"payments"),
            _ => None,
        });
        drop(account.record(&source));
        assert!(account.set(&logging_to(&new, Encoding::Text, "%NONSENSE%")).is_err());
        assert!(account.set(&logging_to("/nonexistent/log".as_ref(), Encoding::Text, "")).is_err());
        drop(account.record(&source));
        account.set(&logging_to(&new, Encoding::Text, "new %REQ(X-COST)% %REQ(USER-AGENT)%")).unwrap();
        drop(running);
        assert!(account.flush(LIMIT));
        account
            .set(&AccountSettings { target: LogTarget::Off, encoding: Encoding::Json, format: String::new() })
            .unwrap();
        drop(account.record(&source));
        assert!(account.close(LIMIT));
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "- -\n- -\n");
        assert_eq!(std::fs::read_to_string(&new).unwrap(), "new - curl\n");
    }

    #[test]
    fn without_a_log_no_text_is_kept_but_the_requests_id() {
        let account = account_off();
        let mut record = account.record(&source());
        let target = Target::parse_authority(b"api.example.com:443").unwrap();
        record.request("HTTP/1.1", "CONNECT", Requested::Tunnel(&target));
        record.request_fields(|name| (name != "x-request-id").then_some(b"curl/7.88.1".as_slice()));
        record.routed("cluster", "route", Some("no rule allows it"));
        assert_eq!(record.text.capacity(), 0);
        record.request_fields(|name| (name == "x-request-id").then_some(b"7f".as_slice()));
        assert_eq!(&*record.ensure_request_id(), "7f");
    }

    #[test]
    fn an_id_is_made_when_it_is_told_and_stays() {
        let account = account(Encoding::Text, "");
        let mut record = account.record(&source());
        assert!(record.text(Field::RequestId).is_empty());
        let id = record.ensure_request_id();
        assert_eq!(record.ensure_request_id(), id);
        assert_eq!(record.text(Field::RequestId), id.as_bytes());
    }

    #[test]
    fn ids_are_random_uuids_of_version_4() {
        let ids: HashSet<_> = (0..10_000).map(|_| new_request_id()).collect();
        assert_eq!(ids.len(), 10_000);
        for id in ids {
            let id = std::str::from_utf8(&id).unwrap();
            let parts: Vec<_> = id.split('-').collect();
            assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{id}");
            assert!(parts[2].starts_with('4') && parts[3].starts_with(['8', '9', 'a', 'b']), "{id}");
            assert!(id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-')), "{id}");
        }
    }

    #[test]
    fn an_authority_shows_its_port_unless_the_scheme_means_it() {
        let account = account(Encoding::Text, "");
        for (scheme, target, shown) in [
            (Scheme::Http, "a.example:80", "a.example"),
            (Scheme::Https, "a.example:443", "a.example"),
            (Scheme::Http, "a.example:443", "a.example:443"),
            (Scheme::Http, "[2001:db8::1]:80", "[2001:db8::1]"),
            (Scheme::Http, "192.0.2.1:8080", "192.0.2.1:8080"),
        ] {
            let mut record = account.record(&source());
            let target = Target::parse_authority(target.as_bytes()).unwrap();
            record.request("HTTP/1.1", "GET", Requested::Url { scheme, target: &target, path: "/" });
            assert_eq!(String::from_utf8_lossy(record.text(Field::Authority)), shown);
        }
    }

    #[test]
    fn a_server_name_as_asked_is_the_host_of_the_authority() {
        for (account, shown) in [(account(Encoding::Text, ""), "api.example"), (account_off(), "")] {
            let mut record = account.record(&source());
            let target = Target::parse_authority(b"api.example:8443").unwrap();
            record.request("HTTP/1.1", "CONNECT", Requested::Tunnel(&target));
            record.server_name_is_asked();
            assert_eq!(String::from_utf8_lossy(record.text(Field::ServerName)), shown);
        }
    }

    #[test]
    fn an_overlong_field_is_cut() {
        let account = account(Encoding::Text, "");
        let mut record = account.record(&source());
        for length in [FIELD_BYTES_MAX, FIELD_BYTES_MAX + 1] {
            record.server_name(&"x".repeat(length));
            assert_eq!(record.text(Field::ServerName).len(), FIELD_BYTES_MAX);
        }
    }

    #[test]
    fn a_record_is_a_small_part_of_an_idle_tunnels_2_kb() {
        assert!(size_of::<AccessRecord>() <= 512, "{}", size_of::<AccessRecord>());
    }
}
