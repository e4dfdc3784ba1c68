#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::account::testing::{account_logging, source_from};
use crate::account::{AccessRecord, Requested};
use crate::flow::{Ending, ErrorType, Failure, Identity, ListenerKind, ListenerName, Outcome, Scheme, Source, Target};

const END: End = End { at: Duration::from_millis(1_763_865_600_965), lasted: Duration::from_millis(842) };

fn record() -> Box<AccessRecord> {
    account_logging().record(&Arc::new(source_from("10.1.2.3:40000".parse().unwrap())))
}

fn sni_record() -> Box<AccessRecord> {
    let listener = Arc::new(ListenerName { name: "tls".to_owned(), kind: ListenerKind::Sni });
    let source = Source { listener, ..source_from("10.1.2.3:40000".parse().unwrap()) };
    account_logging().record(&Arc::new(source))
}

fn target(text: &str) -> Target {
    Target::parse_authority(text.as_bytes()).unwrap()
}

fn dialled(record: &mut AccessRecord, upstream: &str) {
    let trace = record.trace_mut();
    trace.upstream = Some(upstream.parse().unwrap());
    trace.local = Some("192.0.2.100:51000".parse().unwrap());
    trace.attempts = 1;
    trace.dns = Duration::from_millis(3);
    trace.connect = Duration::from_millis(11);
}

fn connect_ok() -> Box<AccessRecord> {
    let mut record = record();
    record.request("HTTP/1.1", "CONNECT", Requested::Tunnel(&target("api.example.com:443")));
    record.request_fields(|name| (name == "user-agent").then_some(b"curl/7.88.1".as_slice()));
    record.identity(Some(&Identity::User("alice".into())));
    record.routed("outbound|443||api.example.com", "default", None);
    dialled(&mut record, "192.0.2.7:443");
    record.answered(200, "via_upstream");
    record.moved(517, 4456);
    record.outcome = Outcome::Complete;
    record
}

fn connect_refused() -> Box<AccessRecord> {
    let mut record = record();
    record.request("HTTP/1.1", "CONNECT", Requested::Tunnel(&target("evil.example:8443")));
    record.request_fields(|name| (name == "x-request-id").then_some(b"7f".as_slice()));
    record.refused_by("conf/rules.yaml:12:3");
    let failure = Failure::new(ErrorType::NotFound, "no rule allows evil.example:8443")
        .logged("no rule allows evil.example:8443 (conf/rules.yaml:12:3)");
    record.refused(&failure, 403);
    record.outcome = Outcome::failed(failure.error, failure.log);
    record
}

fn plain_get() -> Box<AccessRecord> {
    let mut record = record();
    let target = target("api.example.com:80");
    record.request("HTTP/1.1", "GET", Requested::Url { scheme: Scheme::Http, target: &target, path: "/v1/items?q=a" });
    record.request_fields(|name| match name {
        "user-agent" => Some(b"curl/7.88.1"),
        "x-forwarded-for" => Some(b"10.9.9.9"),
        _ => None,
    });
    record.routed("outbound|80||api.example.com", "default", None);
    dialled(&mut record, "192.0.2.7:80");
    record.exchanged(200, 0, 612, Duration::from_millis(4));
    record.outcome = Outcome::Complete;
    record
}

fn sni() -> Box<AccessRecord> {
    let mut record = sni_record();
    record.server_name("api.example.com");
    record.routed("outbound|443||api.example.com", "default", None);
    dialled(&mut record, "192.0.2.7:443");
    record.moved(517, 4456);
    record.outcome = Outcome::Ended(Ending::IdleTimeout);
    record
}

fn would_deny() -> Box<AccessRecord> {
    let mut record = connect_ok();
    record.routed("PassthroughCluster", "allow_any", Some("no rule allows api.example.com:443"));
    record
}

fn abandoned() -> Box<AccessRecord> {
    let mut record = connect_ok();
    record.outcome = Outcome::Abandoned;
    record
}

fn through_a_parent_that_refused() -> Box<AccessRecord> {
    let mut record = record();
    record.request("HTTP/1.1", "CONNECT", Requested::Tunnel(&target("api.example.com:443")));
    record.routed("outbound|443||api.example.com", "default", None);
    dialled(&mut record, "192.0.2.8:3128");
    record.trace_mut().hop = Some("squid.corp.example:3128".into());
    let failure =
        Failure { hop_status: Some(407), ..Failure::new(ErrorType::HopRefused, "the parent proxy answered 407") };
    record.refused(&failure, 502);
    record.outcome = Outcome::failed(failure.error, failure.log);
    record
}

fn line(encoding: Encoding, format: &str, record: &AccessRecord) -> String {
    let format = Format::compile(encoding, format).unwrap();
    let mut out = Vec::new();
    format.render_at(record, END, &mut out);
    assert_eq!(out.pop(), Some(b'\n'));
    assert!(!out.contains(&b'\n'));
    String::from_utf8(out).unwrap()
}

#[test]
fn istios_text_lines() {
    for (record, expected) in [
        (
            connect_ok(),
            r#"[2025-11-23T02:40:00.123Z] "CONNECT - HTTP/1.1" 200 - via_upstream - "-" 517 4456 842 - "-" "curl/7.88.1" "-" "api.example.com:443" "192.0.2.7:443" outbound|443||api.example.com 192.0.2.100:51000 127.0.0.1:3128 10.1.2.3:40000 - default"#,
        ),
        (
            connect_refused(),
            r#"[2025-11-23T02:40:00.123Z] "CONNECT - HTTP/1.1" 403 NR not_found - "-" 0 0 842 - "-" "-" "7f" "evil.example:8443" "-" - - 127.0.0.1:3128 10.1.2.3:40000 - -"#,
        ),
        (
            plain_get(),
            r#"[2025-11-23T02:40:00.123Z] "GET /v1/items?q=a HTTP/1.1" 200 - via_upstream - "-" 0 612 842 4 "10.9.9.9" "curl/7.88.1" "-" "api.example.com" "192.0.2.7:80" outbound|80||api.example.com 192.0.2.100:51000 127.0.0.1:3128 10.1.2.3:40000 - default"#,
        ),
        (
            sni(),
            r#"[2025-11-23T02:40:00.123Z] "- - -" 0 SI - idle_timeout "-" 517 4456 842 - "-" "-" "-" "-" "192.0.2.7:443" outbound|443||api.example.com 192.0.2.100:51000 127.0.0.1:3128 10.1.2.3:40000 api.example.com default"#,
        ),
        (
            abandoned(),
            r#"[2025-11-23T02:40:00.123Z] "CONNECT - HTTP/1.1" 200 LR via_upstream abandoned "-" 517 4456 842 - "-" "curl/7.88.1" "-" "api.example.com:443" "192.0.2.7:443" outbound|443||api.example.com 192.0.2.100:51000 127.0.0.1:3128 10.1.2.3:40000 - default"#,
        ),
        (
            would_deny(),
            r#"[2025-11-23T02:40:00.123Z] "CONNECT - HTTP/1.1" 200 - via_upstream - "-" 517 4456 842 - "-" "curl/7.88.1" "-" "api.example.com:443" "192.0.2.7:443" PassthroughCluster 192.0.2.100:51000 127.0.0.1:3128 10.1.2.3:40000 - allow_any"#,
        ),
    ] {
        assert_eq!(line(Encoding::Text, "", &record), expected);
    }
}

/// Envoy's own line of a refused TLS call (ISTIO 1.1), but for the flag and the name that Egret knows.
#[test]
fn a_refused_hello_looks_like_envoys_but_says_why() {
    let mut record = sni_record();
    record.server_name("evil.example");
    record.outcome = Outcome::failed(ErrorType::NotFound, "no rule allows evil.example:443");
    assert_eq!(
        line(Encoding::Text, "", &record),
        r#"[2025-11-23T02:40:00.123Z] "- - -" 0 NR - not_found "-" 0 0 842 - "-" "-" "-" "-" "-" - - 127.0.0.1:3128 10.1.2.3:40000 evil.example -"#
    );
}

#[test]
fn json_lines_have_istios_keys_and_ours_where_known() {
    assert_eq!(
        line(Encoding::Json, "", &connect_ok()),
        r#"{"start_time":"2025-11-23T02:40:00.123Z","method":"CONNECT","path":null,"protocol":"HTTP/1.1","response_code":200,"response_flags":"-","response_code_details":"via_upstream","connection_termination_details":null,"upstream_transport_failure_reason":null,"bytes_received":517,"bytes_sent":4456,"duration":842,"upstream_service_time":null,"x_forwarded_for":null,"user_agent":"curl/7.88.1","request_id":null,"authority":"api.example.com:443","upstream_host":"192.0.2.7:443","upstream_cluster":"outbound|443||api.example.com","upstream_local_address":"192.0.2.100:51000","downstream_local_address":"127.0.0.1:3128","downstream_remote_address":"10.1.2.3:40000","requested_server_name":null,"route_name":"default","listener":"proxy","identity":"alice","attempts":1,"reused":false,"dns_ms":3,"connect_ms":11}"#
    );
    let ours = |record: &AccessRecord, keys: &[&str]| -> Vec<serde_json::Value> {
        let line: serde_json::Value = serde_json::from_str(&line(Encoding::Json, "", record)).unwrap();
        keys.iter().map(|key| line.get(*key).cloned().unwrap_or_default()).collect()
    };
    assert_eq!(
        ours(&connect_refused(), &["reason", "rule", "detail", "response_code", "upstream_host", "attempts"]),
        [
            "not_found".into(),
            "conf/rules.yaml:12:3".into(),
            "no rule allows evil.example:8443 (conf/rules.yaml:12:3)".into(),
            403.into(),
            serde_json::Value::Null,
            serde_json::Value::Null,
        ]
    );
    assert_eq!(ours(&plain_get(), &["upstream_service_time", "authority"]), ["4", "api.example.com"]);
    assert_eq!(
        ours(&sni(), &["requested_server_name", "reason", "listener"]),
        ["api.example.com", "idle_timeout", "tls"]
    );
    assert_eq!(ours(&would_deny(), &["would_deny"]), ["no rule allows api.example.com:443"]);
    assert_eq!(ours(&abandoned(), &["reason", "response_flags"]), ["abandoned", "LR"]);
    assert_eq!(
        ours(&through_a_parent_that_refused(), &["hop", "hop_status", "reason"]),
        ["squid.corp.example:3128".into(), 407.into(), serde_json::Value::from("hop_refused")]
    );
}

#[test]
fn squids_native_lines() {
    for (record, expected) in [
        (
            connect_ok(),
            "1763865600.965    842 10.1.2.3 TCP_TUNNEL/200 4456 CONNECT api.example.com:443 alice HIER_DIRECT/192.0.2.7 -",
        ),
        (
            connect_refused(),
            "1763865600.965    842 10.1.2.3 TCP_DENIED/403 0 CONNECT evil.example:8443 - HIER_NONE/- -",
        ),
        (
            plain_get(),
            "1763865600.965    842 10.1.2.3 TCP_MISS/200 612 GET http://api.example.com/v1/items?q=a - HIER_DIRECT/192.0.2.7 -",
        ),
        (
            sni(),
            "1763865600.965    842 10.1.2.3 TCP_TUNNEL_TIMEDOUT/200 4456 CONNECT api.example.com:443 - HIER_DIRECT/192.0.2.7 -",
        ),
        (
            abandoned(),
            "1763865600.965    842 10.1.2.3 TCP_TUNNEL_ABORTED/200 4456 CONNECT api.example.com:443 alice HIER_DIRECT/192.0.2.7 -",
        ),
        (
            would_deny(),
            "1763865600.965    842 10.1.2.3 TCP_TUNNEL/200 4456 CONNECT api.example.com:443 alice HIER_DIRECT/192.0.2.7 -",
        ),
        (
            through_a_parent_that_refused(),
            "1763865600.965    842 10.1.2.3 TCP_TUNNEL/502 0 CONNECT api.example.com:443 - FIRSTUP_PARENT/squid.corp.example:3128 -",
        ),
    ] {
        assert_eq!(line(Encoding::Squid, "", &record), expected);
    }
    let mut html = crate::account::testing::account(Encoding::Squid, "")
        .record(&Arc::new(source_from("10.1.2.3:40000".parse().unwrap())));
    html.response_fields(|name| (name == "content-type").then_some(b"text/html ; charset=utf-8".as_slice()));
    assert!(line(Encoding::Squid, "", &html).ends_with(" HIER_NONE/- text/html"));
    let mut unreadable = record();
    let failure = Failure::new(ErrorType::BadRequest, "bare LF");
    unreadable.refused(&failure, 400);
    unreadable.outcome = Outcome::failed(failure.error, failure.log);
    assert_eq!(
        line(Encoding::Squid, "", &unreadable),
        "1763865600.965    842 10.1.2.3 NONE_NONE/400 0 NONE error:invalid-request - HIER_NONE/- -"
    );
}

#[test]
fn a_duration_wider_than_squids_column_is_not_cut() {
    let format = Format::compile(Encoding::Squid, "").unwrap();
    let mut out = Vec::new();
    let end = End { lasted: Duration::from_millis(12_345_678), ..END };
    format.render_at(&connect_ok(), end, &mut out);
    assert!(out.starts_with(b"1763865600.965 12345678 10.1.2.3 "), "{}", String::from_utf8_lossy(&out));
}

#[test]
fn custom_formats_read_as_in_envoy() {
    let shown = |format: &str| line(Encoding::Text, format, &plain_get());
    for (format, expected) in [
        ("%REQ(:METHOD)% %PROTOCOL% 100%%\n", "GET HTTP/1.1 100%"),
        ("%START_TIME(%Y/%m/%d %s.%3f)%|", "2025/11/23 1763865600.123|"),
        ("%START_TIME()%", "2025-11-23T02:40:00.123Z"),
        ("%REQ(:PATH):5%", "/v1/i"),
        ("%REQ(X-NONE?USER-AGENT):4%", "curl"),
        ("%REQ(X-NONE)% %RESP(X-NONE)%", "- -"),
        ("%REQ(:SCHEME)%", "http"),
        ("%UPSTREAM_HOST% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT%", "192.0.2.7:80 192.0.2.7 80"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.1.2.3"),
        ("%RESP(:STATUS)% %RESPONSE_CODE% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", "200 200 1"),
        ("%EGRET(dns_ms)% %EGRET(connect_ms)% %EGRET(identity)% %EGRET(reused)%", "3 11 - false"),
        ("no operator at all", "no operator at all"),
        ("", line(Encoding::Text, TEXT, &plain_get()).as_str()),
    ] {
        assert_eq!(shown(format), expected, "{format}");
    }
}

#[test]
fn fields_that_a_format_asks_for_are_kept_for_it() {
    let format = "%REQ(X-Team)% %REQ(x-team?HOST)% %RESP(Content-Type)%";
    let mut record = crate::account::testing::account(Encoding::Text, format)
        .record(&Arc::new(source_from("10.1.2.3:40000".parse().unwrap())));
    record.request_fields(|name| (name == "x-team").then_some(b"payments".as_slice()));
    record.response_fields(|name| (name == "content-type").then_some(b"text/html; charset=x".as_slice()));
    assert_eq!(line(Encoding::Text, format, &record), "payments payments text/html;\\x20charset=x");
}

#[test]
fn a_custom_json_object_keeps_types_of_lone_operators() {
    let format = r#"{"code": "%RESPONSE_CODE%", "who": "%REQ(USER-AGENT)%", "sni": "%REQUESTED_SERVER_NAME%",
        "line": "%REQ(:METHOD)% \"%REQ(X-NONE)%\" %RESPONSE_CODE%"}"#;
    assert_eq!(
        line(Encoding::Json, format, &plain_get()),
        r#"{"code":200,"line":"GET \"-\" 200","sni":null,"who":"curl/7.88.1"}"#
    );
}

#[test]
fn what_is_wrong_with_a_format_is_said_with_its_place() {
    let error = |encoding, format: &str| Format::compile(encoding, format).unwrap_err().to_string();
    for (format, expected) in [
        ("a %FOO% b", "column 3: `%FOO%` is no operator that Egret knows"),
        ("%FOO(x)%", "column 1: `%FOO(x)%` is no operator that Egret knows"),
        ("%REQ%", "column 1: `%REQ%` needs the name of a field in parentheses"),
        ("%REQ()%", "column 1: `%REQ()%` does not name a field"),
        ("%REQ(a b)%", "column 1: `%REQ(a b)%` does not name a field"),
        ("%REQ(A?)%", "column 1: `%REQ(A?)%` does not name a field"),
        ("%REQ(A):x%", "column 1: `%REQ(A):x%` has no closing percent sign; write %% for a percent sign"),
        ("%REQ(A):%", "column 1: `%REQ(A):%` has a length that is no number"),
        ("%REQ(A", "column 1: `%REQ(A` has no closing parenthesis"),
        ("%DURATION(ms)%", "column 1: `%DURATION(ms)%` takes nothing in parentheses"),
        ("100% of it", "column 4: `% of it` has no closing percent sign; write %% for a percent sign"),
        ("%", "column 1: `%` has no closing percent sign; write %% for a percent sign"),
    ] {
        assert_eq!(error(Encoding::Text, format), expected);
    }
    assert!(
        error(Encoding::Text, "%START_TIME(%!)%").starts_with("column 1: `%START_TIME(%!)%` has a bad time format: ")
    );
    assert!(error(Encoding::Text, "%EGRET(foo)%").contains("needs one of these in parentheses: listener, reason,"));
    assert_eq!(
        error(Encoding::Json, r#"{"a": "%FOO%"}"#),
        "key \"a\": column 1: `%FOO%` is no operator that Egret knows"
    );
    assert!(error(Encoding::Json, "[1]").starts_with("not a JSON object of format strings"));
    assert_eq!(Format::compile(Encoding::Squid, "x").unwrap_err(), FormatError::NotForSquid);
}

/// ATTACKS 8: nothing that a peer sends can make a second line, leave its quotes, or add a column.
#[test]
fn hostile_texts_stay_in_their_place_in_every_format() {
    let hostile = "x\" 200 - \"\r\n[2025] \"GET / HTTP/1.1\" 200\\\u{1b}[2J\u{9b}31m é";
    let mut record = sni_record();
    record.request(
        "HTTP/1.1",
        hostile,
        Requested::Url { scheme: Scheme::Https, target: &target("a.example:8443"), path: hostile },
    );
    record.request_fields(|_| Some(b"\xff\"\\\r\n \x1b]0;title\x07\x00"));
    record.server_name(hostile);
    record.identity(Some(&Identity::User(hostile.into())));
    record.routed(hostile, hostile, Some(hostile));
    record.refused_by(hostile);
    record.trace_mut().hop = Some(hostile.into());
    record.trace_mut().transport_failure = Some(hostile.into());
    record.outcome = Outcome::failed(ErrorType::TlsCertificate, hostile);

    let text = line(Encoding::Text, "", &record);
    assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{text}");
    let outside: String = text.split('"').step_by(2).collect();
    assert_eq!(text.matches('"').count(), line(Encoding::Text, "", &plain_get()).matches('"').count());
    let plain: String = line(Encoding::Text, "", &plain_get()).split('"').step_by(2).map(str::to_owned).collect();
    assert_eq!(outside.matches(' ').count(), plain.matches(' ').count());

    let squid = line(Encoding::Squid, "", &record);
    assert!(squid.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{squid}");
    assert_eq!(squid.split_ascii_whitespace().count(), 10, "{squid}");

    let json = line(Encoding::Json, "", &record);
    assert!(json.is_ascii());
    let read: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(read["method"], hostile);
    assert_eq!(read["detail"], hostile);
    assert_eq!(read["user_agent"], "\\xff\"\\\r\n \u{1b}]0;title\u{7}\0");
}

#[test]
fn a_length_never_cuts_an_escape_in_two() {
    let mut record = record();
    record.server_name("ab\"\"\"\"");
    assert_eq!(line(Encoding::Text, "%REQUESTED_SERVER_NAME%", &record), "ab\\x22\\x22\\x22\\x22");
    record.request_fields(|name| (name == "user-agent").then_some(b"ab\"\"\"".as_slice()));
    assert_eq!(line(Encoding::Text, "%REQ(USER-AGENT):3%", &record), "ab\\x22");
}

#[test]
fn ipv6_addresses_stand_in_brackets_and_mapped_ones_are_ipv4() {
    let mut record = record();
    record.trace_mut().upstream = Some("[2001:db8::7]:443".parse().unwrap());
    record.trace_mut().local = Some("[::ffff:192.0.2.1]:5".parse().unwrap());
    let format = "%UPSTREAM_HOST% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_LOCAL_ADDRESS%";
    assert_eq!(line(Encoding::Text, format, &record), "[2001:db8::7]:443 2001:db8::7 192.0.2.1:5");
}

proptest::proptest! {
    #[test]
    fn no_format_makes_the_compiler_or_the_renderer_fail(format: String, percent in "[%()A-Z:?0-9a-z\" ]{0,30}") {
        for format in [format, percent] {
            for encoding in [Encoding::Text, Encoding::Json, Encoding::Squid] {
                if let Ok(format) = Format::compile(encoding, &format) {
                    format.render(&plain_get(), &mut Vec::new());
                }
            }
        }
    }
}

#[test]
fn objects_of_a_json_format_may_hold_objects() {
    let format = r#"{"a": {"code": "%RESPONSE_CODE%", "deep": {"x": "%REQ(X-TEAM)%"}}, "b": "%PROTOCOL%"}"#;
    let compiled = Format::compile(Encoding::Json, format).expect("as Envoy has it");
    assert_eq!(compiled.wanted(Message::Request), ["x-team".into()], "fields inside are kept too");
    let mut line = Vec::new();
    compiled.render(&would_deny(), &mut line);
    let shown: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
    assert!(shown["a"]["deep"]["x"].is_null() && shown["a"]["code"].is_number() && shown["b"].is_string(), "{shown}");
    let error = |format| Format::compile(Encoding::Json, format).expect_err("bad").to_string();
    assert!(
        error(r#"{"a": {"b": "%NO%"}}"#).starts_with("key \"a\": key \"b\": "),
        "{}",
        error(r#"{"a": {"b": "%NO%"}}"#)
    );
    for bad in [r#"{"a": [1]}"#, r#"{"a": {"b": 1}}"#, r#"{"a": null}"#] {
        assert!(error(bad).contains("a format string, or an object of them"), "{}", error(bad));
    }
    let deep = format!("{}\"\"{}", "{\"a\":".repeat(500), "}".repeat(500));
    assert!(Format::compile(Encoding::Json, &deep).is_err(), "serde_json bounds the depth");
}
