//! Traces: one span for each flow, sent to a collector as OTLP over HTTP in JSON. Built with the feature `otlp` only.
//!
//! A flow never waits for the collector: its span goes into a queue that holds [`QUEUE_MAX`], and is counted as lost where that is full
//! or the collector does not take it. A thread of its own sends what is there about once a second.
//!
//! The trace of a span is that of the request's `traceparent` (W3C Trace Context, level 1), which travels on as it came: what we send to
//! others has nothing of ours in it but `Via`.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use serde_json::{Value, json};

use super::OtlpSettings;
use super::format::flags;
use super::record::{AccessRecord, Asked, Field};
use crate::flow::Outcome;

/// The trace that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceParent {
    trace: u128,
    span: u64,
    sampled: bool,
}

#[derive(Debug)]
struct Exporter {
    settings: OtlpSettings,
    queue: Mutex<Queue>,
    wake: Condvar,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    spans: Vec<Value>,
    closing: bool,
    ended: bool,
}

static EXPORTER: ArcSwapOption<Exporter> = ArcSwapOption::const_empty();
static EXPORTED: AtomicU64 = AtomicU64::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);

const QUEUE_MAX: usize = 4096; // a few MB, and several seconds of a busy proxy
const BATCH_MAX: usize = 512; // as OpenTelemetry's own batch processors have it
const BATCH_TIME: Duration = Duration::from_secs(1);
const CONNECT_TIME: Duration = Duration::from_secs(2);
const ANSWER_TIME: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 4096; // its status is all that counts

/// Sends to another collector from now on, or to none. What waits for the one before is sent to it.
///
/// # Errors
/// If the thread cannot be started; the collector stays the one it was.
pub fn set(settings: Option<&OtlpSettings>) -> io::Result<()> {
    let before = EXPORTER.load_full();
    if before.as_ref().map(|exporter| &exporter.settings) == settings {
        return Ok(());
    }
    let exporter = settings.map(Exporter::start).transpose()?;
    EXPORTER.store(exporter);
    before.iter().for_each(|before| before.close());
    Ok(())
}

/// Sends what waits and ends; false if that took longer than `limit`.
pub fn close(limit: Duration) -> bool {
    let Some(exporter) = EXPORTER.swap(None) else { return true };
    exporter.close();
    let queue = exporter.queue();
    let waited = exporter.ended.wait_timeout_while(queue, limit, |queue| !queue.ended);
    waited.is_ok_and(|(queue, _)| queue.ended)
}

/// True while spans are wanted.
pub(super) fn is_on() -> bool {
    EXPORTER.load().is_some()
}

/// Spans that a collector took, and those that were lost.
pub(super) fn counts() -> (u64, u64) {
    (EXPORTED.load(Ordering::Relaxed), LOST.load(Ordering::Relaxed))
}

/// Takes the span of a flow that is over.
pub(super) fn span(record: &AccessRecord) {
    let exporter = EXPORTER.load();
    let Some(exporter) = exporter.as_ref() else { return };
    let sampled = match record.trace_parent {
        Some(parent) => parent.sampled,
        None => fastrand::u8(..100) < exporter.settings.sampling_percent,
    };
    if sampled {
        exporter.take(describe(record));
    }
}

impl Exporter {
    fn start(settings: &OtlpSettings) -> io::Result<Arc<Self>> {
        let exporter = Arc::new(Self {
            settings: settings.clone(),
            queue: Mutex::default(),
            wake: Condvar::new(),
            ended: Condvar::new(),
        });
        let running = exporter.clone();
        std::thread::Builder::new().name("egret-otlp".to_owned()).spawn(move || running.run())?;
        Ok(exporter)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, span: Value) {
        let mut queue = self.queue();
        if queue.closing || queue.spans.len() >= QUEUE_MAX {
            LOST.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.spans.push(span);
        if queue.spans.len() == BATCH_MAX {
            self.wake.notify_one();
        }
    }

    fn close(&self) {
        self.queue().closing = true;
        self.wake.notify_one();
    }

    fn run(&self) {
        let mut is_failing = false;
        loop {
            let waiting = |queue: &mut Queue| !queue.closing && queue.spans.len() < BATCH_MAX;
            let waited = self.wake.wait_timeout_while(self.queue(), BATCH_TIME, waiting);
            let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
            let many = queue.spans.len().min(BATCH_MAX);
            let batch: Vec<Value> = queue.spans.drain(..many).collect();
            let is_last = queue.closing && queue.spans.is_empty();
            drop(queue);
            if !batch.is_empty() {
                let count = batch.len() as u64;
                match send(&self.settings, batch) {
                    Ok(()) => _ = EXPORTED.fetch_add(count, Ordering::Relaxed),
                    Err(error) => {
                        LOST.fetch_add(count, Ordering::Relaxed);
                        if !std::mem::replace(&mut is_failing, true) {
                            tracing::warn!(%error, collector = %self.settings, "spans are lost");
                        }
                        continue;
                    }
                }
                is_failing = false;
            }
            if is_last {
                break;
            }
        }
        self.queue().ended = true;
        self.ended.notify_all();
    }
}

/// One request on a connection of its own: collectors are near, and once a second is seldom.
fn send(settings: &OtlpSettings, spans: Vec<Value>) -> io::Result<()> {
    let OtlpSettings { host, port, path, .. } = settings;
    let body = json!({ "resourceSpans": [{
        "resource": { "attributes": [text("service.name", "egret"), text("service.version", env!("CARGO_PKG_VERSION"))] },
        "scopeSpans": [{ "scope": { "name": "egret", "version": env!("CARGO_PKG_VERSION") }, "spans": spans }],
    }] })
    .to_string();
    let mut stream = connect(host, *port)?;
    stream.set_write_timeout(Some(ANSWER_TIME))?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {settings}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         User-Agent: egret/{}\r\nConnection: close\r\n\r\n",
        body.len(),
        env!("CARGO_PKG_VERSION")
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let (mut answer, until) = (Vec::new(), Instant::now() + ANSWER_TIME);
    let mut piece = [0; 512];
    while !answer.contains(&b'\n') && answer.len() < ANSWER_BYTES_MAX && Instant::now() < until {
        match stream.read(&mut piece)? {
            0 => break,
            read => answer.extend_from_slice(&piece[..read]),
        }
    }
    match answer.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5)) {
        Some([b'2', _, _]) => Ok(()),
        Some(status) => Err(io::Error::other(format!("it answered {}", String::from_utf8_lossy(status)))),
        None => Err(io::Error::other("it does not speak HTTP/1")),
    }
}

fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut error = io::Error::other("its name has no address");
    for address in (host.trim_matches(['[', ']']), port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIME) {
            Ok(stream) => return Ok(stream),
            Err(failed) => error = failed,
        }
    }
    Err(error)
}

fn describe(record: &AccessRecord) -> Value {
    let end = SystemTime::now();
    let start = end.checked_sub(record.started.elapsed()).unwrap_or(end);
    let nanoseconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string();
    let (trace, parent) = match record.trace_parent {
        Some(TraceParent { trace, span, .. }) => (trace, format!("{span:016x}")),
        None => (fastrand::u128(1..), String::new()),
    };
    let method = String::from_utf8_lossy(record.text(Field::Method));
    let name = match record.asked {
        Asked::Sni => "SNI",
        _ if method.is_empty() => "HTTP",
        _ => &*method,
    };
    let mut attributes = vec![
        text("client.address", &record.source.peer.ip().to_canonical().to_string()),
        text("egret.listener", &record.source.listener.name),
        number("egret.bytes_received", record.received),
        number("egret.bytes_sent", record.sent),
        text("egret.response_flags", flags(record)),
    ];
    for (key, field) in [
        ("http.request.method", Field::Method),
        ("egret.authority", Field::Authority),
        ("url.path", Field::Path),
        ("tls.client.server_name", Field::ServerName),
        ("egret.upstream_cluster", Field::Cluster),
        ("egret.route_name", Field::Route),
        ("egret.rule", Field::Rule),
        ("egret.request_id", Field::RequestId),
        ("error.message", Field::Detail),
    ] {
        let value = record.text(field);
        if !value.is_empty() {
            attributes.push(text(key, &String::from_utf8_lossy(value)));
        }
    }
    if let Some(upstream) = record.trace.upstream {
        attributes.push(text("network.peer.address", &upstream.ip().to_string()));
        attributes.push(number("network.peer.port", upstream.port().into()));
    }
    if record.status != 0 {
        attributes.push(number("http.response.status_code", record.status.into()));
    }
    let is_error = record.status >= 500;
    if let Outcome::Failed { error, .. } = &record.outcome {
        attributes.push(text("error.type", error.row().reason));
    }
    json!({
        "traceId": format!("{trace:032x}"),
        "spanId": format!("{:016x}", fastrand::u64(1..)),
        "parentSpanId": parent,
        "name": name,
        "kind": 2, // SPAN_KIND_SERVER
        "startTimeUnixNano": nanoseconds(start),
        "endTimeUnixNano": nanoseconds(end),
        "attributes": attributes,
        "status": if is_error || matches!(record.outcome, Outcome::Failed { .. }) { json!({ "code": 2 }) } else { json!({}) },
    })
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// 64-bit integers are text in OTLP's JSON.
fn number(key: &str, value: u64) -> Value {
    let mut digits = String::new();
    write!(digits, "{value}").expect("a String takes everything");
    json!({ "key": key, "value": { "intValue": digits } })
}

impl TraceParent {
    /// Reads `00-TRACE-SPAN-FLAGS` (W3C Trace Context §3.2); `None` for what is none, which begins a new trace.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let value = std::str::from_utf8(value).ok()?;
        let (known, rest) = value.split_at_checked(55)?;
        let parts: Vec<&str> = known.split('-').collect();
        let [version, trace, span, flags] = parts[..] else { return None };
        let is_hex = |text: &str, length| {
            text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        if !(is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2)) || version == "ff" {
            return None;
        }
        if !rest.is_empty() && (version == "00" || !rest.starts_with('-')) {
            return None; // later versions may say more
        }
        let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|span| *span != 0)?;
        Some(Self { trace, span, sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_recommendation_has_it() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = TraceParent::parse(good.as_bytes()).expect("the example of the recommendation");
        assert_eq!((parent.span, parent.sampled), (0x00f0_67aa_0ba9_02b7, true));
        assert!(TraceParent::parse(good.replace("-01", "-00").as_bytes()).is_some_and(|parent| !parent.sampled));
        assert!(TraceParent::parse((good.replacen("00-", "01-", 1) + "-more").as_bytes()).is_some());
        for bad in [
            String::new(),
            good[..54].to_owned(),
            format!("{good}-more"),
            good.replacen("00-", "ff-", 1),
            good.to_uppercase(),
            good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            good.replace("00f067aa0ba902b7", &"0".repeat(16)),
            good.replace('-', "_"),
            "é".repeat(28),
        ] {
            assert_eq!(TraceParent::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
