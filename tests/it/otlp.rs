//! Spans at a collector; with the feature `otlp` only.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::{Folder, Setup, client, eventually};

/// A collector that keeps the spans it is sent, and answers with this status.
struct Collector {
    port: u16,
    spans: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, spans) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
        let kept = spans.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let head = read_head(&mut stream).unwrap();
                assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
                let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
                let mut body = vec![0; length.parse().unwrap()];
                stream.read_exact(&mut body).unwrap();
                let body: Value = serde_json::from_slice(&body).unwrap();
                let resource = &body["resourceSpans"][0];
                assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "egret");
                kept.lock().unwrap().extend(resource["scopeSpans"][0]["spans"].as_array().unwrap().iter().cloned());
                write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
            }
        });
        Self { port, spans }
    }

    fn settings(&self) -> String {
        format!("otlp: {{ endpoint: \"http://127.0.0.1:{}\" }}\n", self.port)
    }

    fn span(&self, attribute: &str) -> Option<Value> {
        let spans = self.spans.lock().unwrap();
        spans.iter().find(|span| span["attributes"].to_string().contains(attribute)).cloned()
    }
}

#[test]
fn each_flow_is_a_span_of_its_clients_trace() {
    let (collector, origin, folder) = (Collector::start("200 OK"), Origin::http(HELLO), Folder::new());
    let echo = Origin::echo();
    let more = collector.settings();
    let mesh = "accessLogFile: \"\", outboundTrafficPolicy: { mode: ALLOW_ANY }";
    let egret = Setup { more: &more, mesh, ..Setup::default() }.start(&folder);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let ask = |path: &str, flags: &str| {
        let mut stream = client::dial(egret.proxy());
        let parent = format!("traceparent: 00-{trace}-00f067aa0ba902b7-{flags}\r\n");
        let at = origin.address;
        client::send(&mut stream, &format!("GET http://{at}{path} HTTP/1.1\r\nHost: {at}\r\n{parent}\r\n"));
        assert_eq!(client::read_answer(&mut stream).status, 200);
    };
    ask("/not-sampled", "00");
    ask("/sampled", "01");
    drop(client::tunnel(egret.proxy(), echo.address));
    assert_eq!(client::get(egret.proxy(), "http://127.0.0.1:1/refused").status, 502);
    for attribute in ["/sampled", "CONNECT", "/refused"] {
        eventually("its span comes", || collector.span(attribute).is_some());
    }
    let span = collector.span("/sampled").unwrap();
    assert_eq!((&span["traceId"], &span["parentSpanId"]), (&trace.into(), &"00f067aa0ba902b7".into()));
    assert_eq!((&span["name"], &span["kind"]), (&"GET".into(), &2.into()));
    let time = |key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
    assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"));
    let tunnel = collector.span("CONNECT").unwrap();
    assert_eq!(
        (tunnel["traceId"].as_str().unwrap().len(), &tunnel["parentSpanId"]),
        (32, &"".into()),
        "a trace of its own"
    );
    let refused = collector.span("/refused").unwrap();
    assert_eq!(refused["status"]["code"], 2);
    assert!(refused["attributes"].to_string().contains("connection_refused"), "{refused}");
    assert!(collector.span("/not-sampled").is_none());
    // What the client sent travels on as it came.
    assert!(origin.requests()[1].contains(&format!("traceparent: 00-{trace}-00f067aa0ba902b7-01\r\n")));
}

#[test]
fn spans_that_wait_at_the_end_are_sent() {
    let (collector, origin, folder) = (Collector::start("200 OK"), Origin::http(HELLO), Folder::new());
    let more = collector.settings();
    let mut egret = Setup { more: &more, ..Setup::default() }.start(&folder);
    for n in 0..20 {
        assert_eq!(client::get(egret.proxy(), &format!("http://{}/last-{n}", origin.address)).status, 200);
    }
    egret.signal(Signal::TERM);
    assert!(egret.wait().success());
    assert!(collector.span("/last-19").is_some(), "the process ended before its spans were there");
    assert_eq!(collector.spans.lock().unwrap().len(), 20);
}

#[test]
fn a_collector_that_refuses_or_hangs_costs_spans_and_no_flow() {
    let (origin, folder) = (Origin::http(HELLO), Folder::new());
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap(); // accepts by the kernel, and says nothing
    let refusing = Collector::start("503 Service Unavailable");
    for port in [refusing.port, hanging.local_addr().unwrap().port()] {
        let more = format!("otlp: {{ endpoint: \"http://127.0.0.1:{port}/v1/traces\" }}\n");
        let egret = Setup { more: &more, ..Setup::default() }.start(&folder);
        for _ in 0..20 {
            assert_eq!(client::get(egret.proxy(), &format!("http://{}/", origin.address)).status, 200);
        }
        eventually("they are counted as lost", || {
            let metrics = client::get_from(egret.admin(), "/metrics").body;
            String::from_utf8(metrics).unwrap().contains("\negret_spans_lost_total 20\n")
        });
        egret.stderr.wait_for("spans are lost");
    }
}
