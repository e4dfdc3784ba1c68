//! Bytes of peers in logs, terminals and answers: they are shown, not obeyed.

use std::io::{Read, Write};

use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::{Egret, Folder, client};
use crate::wire::{read_to_end, settings};

/// What a terminal would obey, and what would end a quoted or a bare column.
const NASTY: &str = "a\" 200 - \\\" \u{9b}2J é";

fn logging(encoding: &str, more: &str) -> (Egret, Folder) {
    let folder = settings(&format!("mesh: {{ accessLogEncoding: {encoding} }}\n{more}"));
    (Egret::with_settings(&folder.settings()), folder)
}

fn is_harmless(line: &str) {
    assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line:?}");
}

/// Columns of a text line, what stands in quotes being one.
fn columns(line: &str) -> usize {
    let (mut columns, mut quoted) = (1, false);
    for c in line.chars() {
        quoted ^= c == '"';
        columns += usize::from(c == ' ' && !quoted);
    }
    assert!(!quoted, "{line}");
    columns
}

fn ask(egret: &Egret, origin: &Origin, agent: &str, id: &str) -> client::Answer {
    let mut stream = client::dial(egret.proxy());
    write!(
        stream,
        "GET http://{o}/a HTTP/1.1\r\nHost: {o}\r\nUser-Agent: {agent}\r\nX-Request-Id: {id}\r\nX-Forwarded-For: {agent}\r\n\r\n",
        o = origin.address
    )
    .unwrap();
    client::read_answer(&mut stream)
}

#[test]
fn fields_of_a_request_stay_within_their_column_of_a_text_log() {
    let origin = Origin::http(HELLO);
    let (egret, _folder) = logging("TEXT", "");
    assert_eq!(ask(&egret, &origin, "curl/8", "7f").status, 200);
    let plain = egret.stdout.wait_for_nth("GET /a", 1);
    assert_eq!(ask(&egret, &origin, NASTY, NASTY).status, 200);
    let nasty = egret.stdout.wait_for_nth("GET /a", 2);
    is_harmless(&nasty);
    assert_eq!(columns(&nasty), columns(&plain), "{nasty}");
    assert!(nasty.contains("\\x22 200 - \\x5c\\x22 \\xc2\\x9b2J \\xc3\\xa9"), "{nasty}");
}

#[test]
fn fields_of_a_request_stay_within_their_string_of_a_json_log() {
    let origin = Origin::http(HELLO);
    let (egret, _folder) = logging("JSON", "");
    assert_eq!(ask(&egret, &origin, NASTY, NASTY).status, 200);
    let line = egret.stdout.wait_for("/a");
    is_harmless(&line);
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((line["user_agent"].as_str(), line["request_id"].as_str()), (Some(NASTY), Some(NASTY)), "{line}");
}

#[test]
fn fields_of_a_request_stay_within_their_column_of_a_squid_log() {
    let origin =
        Origin::http(b"HTTP/1.1 200 OK\r\nContent-Type: text/x \" \xc2\x9b 0 evil\r\nContent-Length: 5\r\n\r\nhello");
    let plain = Origin::http(b"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 5\r\n\r\nhello");
    let (egret, _folder) = logging("SQUID", "");
    assert_eq!(ask(&egret, &plain, "curl/8", "7f").status, 200);
    assert_eq!(ask(&egret, &origin, NASTY, NASTY).status, 200);
    let plain = egret.stdout.wait_for_nth("/a", 1);
    let nasty = egret.stdout.wait_for_nth("/a", 2);
    is_harmless(&nasty);
    let count = |line: &str| line.split(' ').filter(|column| !column.is_empty()).count();
    assert_eq!(count(&nasty), count(&plain), "{nasty}");
}

#[test]
fn control_bytes_in_targets_and_fields_are_refused_and_not_shown() {
    let (egret, _folder) = logging("TEXT", "");
    for request in [
        "CONNECT a\x1b[2J.test:443 HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT \"a b\".test:443 HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a%0d%0aX:443 HTTP/1.1\r\nHost: a%0d%0aX:443\r\n\r\n",
        "GET http://a\u{9b}2J.test/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a\"b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nUser-Agent: \x1b[2J\r\n\r\n",
        "GET http://a.test/ HTTP/1.1\r\nHost: a.test\"\x1b\r\n\r\n",
    ] {
        let mut stream = client::dial(egret.proxy());
        stream.write_all(request.as_bytes()).unwrap();
        let text = read_to_end(&mut stream);
        assert!(text.starts_with("HTTP/1.1 400 "), "{request:?}: {text:?}");
        assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\r' | b'\n')), "{text:?}");
    }
    egret.stdout.wait_for_nth(" 400 ", 7);
    egret.stdout.so_far().iter().for_each(|line| is_harmless(line));
    egret.stderr.so_far().iter().for_each(|line| is_harmless(line));
}

#[test]
fn check_and_explain_show_control_characters_as_something_else() {
    let folder = Folder::with_settings("thr\u{9b}2J: 1 # \u{9b}2J \u{202e}\ndrain: \"\\e[2J\"\n");
    let settings = folder.settings();
    let outputs = [
        crate::support::egret(&["check".as_ref(), "-c".as_ref(), settings.as_os_str()]),
        crate::support::egret(&["explain", "a\x1b[2J.test:443"]),
        crate::support::egret(&["explain", "http://a.test/\u{9b}2J"]),
        crate::support::egret(&["explain", "--user", "\x1b[2J\u{9b}", "http://a.test/"]),
        crate::support::egret(&["explain", "-X", "\x1b[2J", "-o", "json", "http://a.test/"]),
    ];
    for output in outputs {
        for bytes in [output.stdout, output.stderr] {
            let text = String::from_utf8(bytes).unwrap();
            let driving = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
            assert!(!text.contains(driving), "{text:?}");
        }
    }
}

#[test]
fn a_refusal_quotes_what_it_repeats() {
    let (egret, _folder) = logging("TEXT", "");
    let id = "\u{9b}2J\", \"status\": 200, \"x\": \"\\";
    let ask = |more: &str| {
        let mut stream = client::dial(egret.proxy());
        write!(stream, "GET http://10.0.0.1/ HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n{more}\r\n").unwrap();
        client::read_answer(&mut stream)
    };
    let answer = ask("Accept: application/problem+json\r\n");
    assert_eq!(answer.status, 403);
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((body["status"].as_u64(), body["request_id"].as_str()), (Some(403), Some(id)), "{body}");
    assert!(
        answer.body.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n')),
        "C1 controls drive terminals too: {body}"
    );
    for answer in [answer, ask("")] {
        let head = &answer.head;
        assert!(head.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\r' | b'\n')), "{head:?}");
        assert!(head.contains("request-id=\"?2J\\\", \\\"status\\\": 200"), "{head:?}");
    }
}

#[test]
fn the_reason_phrase_of_a_parent_is_quoted_to_clients_and_logs() {
    let parent = Origin::new(|mut stream| {
        let _ = read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 403 No \"entry\" \xc2\x9b2J \\ here\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    let (egret, _folder) = behind_parent(&parent, "");
    for _ in 0..2 {
        let (_, head) = client::connect(egret.proxy(), "far.example.org:443");
        assert!(head.starts_with("HTTP/1.1 502 Parent Proxy Refused (403)\r\n"), "{head}");
        assert!(head.contains("received-status=403"), "{head}");
        assert!(head.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\r' | b'\n')), "{head:?}");
        let line = head.lines().find(|line| line.starts_with("Proxy-Status:")).unwrap();
        assert_eq!(line.replace("\\\"", "").matches('"').count(), 4, "{line}");
    }
    let line = egret.stdout.wait_for("CONNECT");
    is_harmless(&line);
    columns(&line);
}

/// A proxy whose unknown targets go through this parent.
pub(crate) fn behind_parent(parent: &Origin, more: &str) -> (Egret, Folder) {
    let folder = settings(&format!(
        "mesh: {{ outboundTrafficPolicy: {{ mode: ALLOW_ANY, egressProxy: {{ host: parent.test, port: {{ number: 3128 }} }} }} }}\n\
         resources: [parent.yaml]\n{more}"
    ));
    folder.write("parent.yaml", &parent_entry(parent.address.port()));
    (Egret::with_settings(&folder.settings()), folder)
}

/// `parent.test:3128` is this port of 127.0.0.1.
pub(crate) fn parent_entry(port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: parent }}\nspec:\n  hosts: [parent.test]\n  \
         resolution: STATIC\n  endpoints: [{{ address: 127.0.0.1 }}]\n  \
         ports: [{{ number: 3128, name: tcp, protocol: TCP, targetPort: {port} }}]\n"
    )
}

#[test]
fn a_server_name_stays_within_its_column() {
    let folder = Folder::with_settings(
        "listeners: [{ name: proxy, protocol: sni, address: \"127.0.0.1:0\" }]\nmesh: { outboundTrafficPolicy: { mode: REGISTRY_ONLY } }\n",
    );
    let egret = Egret::with_settings(&folder.settings());
    for name in [&b"plain.test"[..], b"a b\" \x1b[2J\r\nx \xc2\x9b\\"] {
        let mut stream = client::dial(egret.proxy());
        stream.write_all(&hello(name)).unwrap();
        let mut alert = Vec::new();
        stream.read_to_end(&mut alert).unwrap();
        assert_eq!(alert, [21, 3, 3, 0, 2, 2, 112], "unrecognized_name");
    }
    let plain = egret.stdout.wait_for_nth(" ", 1);
    let nasty = egret.stdout.wait_for_nth(" ", 2);
    is_harmless(&nasty);
    assert_eq!(columns(&nasty), columns(&plain), "{nasty}");
    assert!(nasty.contains("a\\x20b\\x22\\x20\\x1b[2J\\x0d\\x0ax\\x20"), "{nasty}");
}

/// A ClientHello with this server name and nothing else to say.
pub(crate) fn hello(name: &[u8]) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let server_name = sized(&[&[0][..], &sized(name)].concat());
    let extensions = sized(&[&[0, 0][..], &sized(&server_name)].concat());
    let body = [&[3, 3][..], &[7; 32], &[0], &sized(&[0x13, 0x01]), &[1, 0], &extensions].concat();
    let handshake = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, 1][..], &sized(&handshake)].concat()
}
