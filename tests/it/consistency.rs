//! What flows in a tunnel fits what it was asked for: held until that is known, refused or logged, and server-first protocols lose nothing.

mod double_tls;
mod peers;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::{Egret, Folder, client, eventually, hello};
use crate::wire::read_to_end;

/// A server that keeps what it is sent, greets first if told to, and sends all back.
struct Upstream {
    origin: Origin,
    received: Arc<Mutex<Vec<u8>>>,
}

impl Upstream {
    fn new(greeting: &'static [u8]) -> Self {
        let received: Arc<Mutex<Vec<u8>>> = Arc::default();
        let seen = received.clone();
        let origin = Origin::new(move |mut stream| {
            let _ = stream.write_all(greeting);
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = stream.read(&mut piece) {
                seen.lock().unwrap().extend_from_slice(&piece[..read]);
                let _ = stream.write_all(&piece[..read]);
            }
            let _ = stream.shutdown(Shutdown::Write);
        });
        Self { origin, received }
    }

    fn port(&self) -> u16 {
        self.origin.address.port()
    }

    fn received(&self) -> Vec<u8> {
        self.received.lock().unwrap().clone()
    }
}

/// `ok.test` at the port, of this protocol; and what the settings say of consistency.
fn proxy(port: u16, protocol: &str, consistency: &str, annotation: &str) -> (Egret, Folder) {
    let folder = Folder::new();
    let hosts = folder.write("hosts", "127.0.0.1 ok.test evil.test\n");
    folder.write(
        "egret.yaml",
        &format!(
            "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}]\naddresses: {{ allow: [127.0.0.0/8] }}\n\
             mesh: {{ outboundTrafficPolicy: {{ mode: REGISTRY_ONLY }}, accessLogEncoding: JSON }}\n\
             consistency: {consistency}\ndns: {{ hosts: {} }}\nresources: [rules.yaml]\n",
            hosts.display()
        ),
    );
    // Several hosts of a protocol that carries no name could not be told apart.
    let alias = if protocol == "TCP" { "" } else { ", alias.test" };
    folder.write(
        "rules.yaml",
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: ok{annotation} }}\nspec:\n  \
             hosts: [ok.test{alias}]\n  resolution: STATIC\n  endpoints: [{{ address: 127.0.0.1 }}]\n  \
             ports: [{{ number: {port}, name: p, protocol: {protocol} }}]\n"
        ),
    );
    (Egret::with_settings(&folder.settings()), folder)
}

const ENFORCE: &str = "{ mode: enforce }";
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112]; // fatal alert 112, RFC 6066 §3

fn tunnel(egret: &Egret, port: u16) -> TcpStream {
    client::tunnel(egret.proxy(), format!("ok.test:{port}"))
}

/// Everything up to the end, or up to a reset.
fn all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

/// The line of the nth flow.
fn line(egret: &Egret, nth: usize) -> Value {
    serde_json::from_str(&egret.stdout.wait_for_nth("CONNECT", nth)).unwrap()
}

#[test]
fn another_server_name_is_refused_by_an_alert_before_the_upstream_has_a_byte() {
    let upstream = Upstream::new(b"");
    let (egret, folder) = proxy(upstream.port(), "TLS", ENFORCE, "");
    let (evil, nameless) = (hello::of("evil.test"), hello::without_name());
    let in_pieces = hello::in_records(&evil, 1);
    for (nth, bytes) in [&evil, &nameless, &in_pieces].into_iter().enumerate() {
        let mut stream = tunnel(&egret, upstream.port());
        stream.write_all(bytes).unwrap();
        assert_eq!(all(&mut stream), UNRECOGNIZED_NAME);
        let line = line(&egret, nth + 1);
        assert_eq!(
            (&line["response_code"], &line["reason"], &line["response_flags"]),
            (&200.into(), &"inconsistent_tunnel".into(), &"-".into()),
            "{line}"
        );
        assert_eq!(line["bytes_received"], 0, "{line}");
        assert_eq!(line["rule"], format!("{}:4:22", folder.settings().display()), "{line}");
        assert_eq!(line["detail"], line["inconsistent"], "{line}");
    }
    let first = line(&egret, 1);
    assert_eq!(first["detail"], "the server name is evil.test, the tunnel was asked for ok.test");
    assert_eq!(first["requested_server_name"], "evil.test");
    assert_eq!(upstream.received(), b"");
    assert_eq!(egret.metric("egret_tunnels_inconsistent_total{mode=\"enforce\",reason=\"differs\"}"), 2);
    assert_eq!(egret.metric("egret_tunnels_inconsistent_total{mode=\"enforce\",reason=\"no_name\"}"), 1);
}

#[test]
fn a_hello_that_fits_arrives_byte_for_byte_however_it_comes() {
    let upstream = Upstream::new(b"");
    let (egret, _folder) = proxy(upstream.port(), "TLS", ENFORCE, "");
    let mut expected = Vec::new();
    for name in ["ok.test", "OK.Test", "alias.test"] {
        for (fragment_bytes, write_bytes) in [(16_384, 16_384), (16_384, 1), (1, 7), (1, 16_384)] {
            let mut bytes = hello::in_records(&hello::of(name), fragment_bytes);
            bytes.extend_from_slice(b"and what follows it");
            let mut stream = tunnel(&egret, upstream.port());
            stream.set_nodelay(true).unwrap();
            bytes.chunks(write_bytes).for_each(|piece| stream.write_all(piece).unwrap());
            let mut back = vec![0; bytes.len()];
            stream.read_exact(&mut back).unwrap();
            assert!(back == bytes, "{name} in records of {fragment_bytes}, writes of {write_bytes}");
            assert!(client::echoes(&mut stream, b"later"));
            expected.extend_from_slice(&bytes);
            expected.extend_from_slice(b"later");
        }
    }
    assert!(upstream.received() == expected);
}

#[test]
fn bytes_sent_together_with_the_connect_are_judged_too() {
    let upstream = Upstream::new(b"");
    let (egret, _folder) = proxy(upstream.port(), "TLS", ENFORCE, "");
    let target = format!("ok.test:{}", upstream.port());
    let good = hello::of("ok.test");
    for (hello, fits) in [(good.clone(), true), (hello::of("evil.test"), false)] {
        let mut stream = client::dial(egret.proxy());
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        stream.write_all(&[head.as_bytes(), &hello].concat()).unwrap();
        assert!(read_head(&mut stream).unwrap().starts_with("HTTP/1.1 200 "));
        if fits {
            let mut back = vec![0; hello.len()];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, hello);
        } else {
            assert_eq!(all(&mut stream), UNRECOGNIZED_NAME);
        }
    }
    assert!(upstream.received() == good);
}

#[test]
fn another_host_in_plain_http_is_421_before_the_upstream_has_a_head() {
    let origin = Origin::http(HELLO);
    let port = origin.address.port();
    let (egret, _folder) = proxy(port, "TCP", ENFORCE, "");
    for bad in [
        "GET /bad HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        "GET http://evil.test/bad HTTP/1.1\r\nHost: ok.test\r\n\r\n",
        "GET /bad HTTP/1.1\r\nHost: ok.test\r\nHost: evil.test\r\n\r\n",
        "GET  /bad HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        "\r\n\r\nGET /bad HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n",
    ] {
        for piece_bytes in [1, 1_000] {
            let mut stream = tunnel(&egret, port);
            stream.set_nodelay(true).unwrap();
            for piece in bad.as_bytes().chunks(piece_bytes) {
                // It may be refused before its end.
                if stream.write_all(piece).is_err() {
                    break;
                }
            }
            let text = read_to_end(&mut stream);
            assert!(text.starts_with("HTTP/1.1 421 Misdirected Request\r\n") && text.contains("egret: "), "{text:?}");
            assert!(
                text.contains("\r\nProxy-Status: egret-") && text.contains("; error=http_request_denied; "),
                "{text:?}"
            );
            assert!(text.contains("; request-id=\""), "{text:?}");
        }
    }
    assert_eq!(origin.requests(), [""; 0]);
    let good = format!("GET /good HTTP/1.1\r\nHost: OK.test:{port}\r\n\r\n");
    let second = "GET /second HTTP/1.1\r\nHost: evil.test\r\n\r\n"; // only the first is judged
    let mut stream = tunnel(&egret, port);
    stream.write_all((good + second).as_bytes()).unwrap();
    for _ in 0..2 {
        assert_eq!(client::read_answer(&mut stream).body, b"hello");
    }
    assert_eq!(origin.requests().len(), 2);
}

#[test]
fn a_server_that_speaks_first_loses_nothing() {
    const GREETING: &[u8] = b"220 mail.example ESMTP\r\n";
    let upstream = Upstream::new(GREETING);
    for (protocol, passes) in [("TCP", true), ("TLS", false)] {
        let (egret, _folder) = proxy(upstream.port(), protocol, ENFORCE, "");
        let mut stream = tunnel(&egret, upstream.port());
        let mut greeting = vec![0; GREETING.len()];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting, GREETING, "before the client said a word");
        if passes {
            assert!(client::echoes(&mut stream, b"EHLO client.example\r\n"));
        } else {
            stream.write_all(b"EHLO client.example\r\n").unwrap();
            assert_eq!(all(&mut stream), b"");
        }
        drop(stream);
        // A client that only listens, and one that only leaves, are no finding.
        drop(tunnel(&egret, upstream.port()));
        let mut listening = tunnel(&egret, upstream.port());
        listening.read_exact(&mut greeting).unwrap();
        listening.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut listening), "");
        eventually("all have ended", || egret.stdout.so_far().len() == 3);
        let found = egret.stdout.so_far().iter().filter(|line| line.contains("\"inconsistent\"")).count();
        assert_eq!(found, usize::from(!passes), "{:?}", egret.stdout.so_far());
    }
    assert_eq!(upstream.received(), b"EHLO client.example\r\n");
}

#[test]
fn what_stays_unclear_ends_by_a_limit_of_time_and_of_bytes() {
    let upstream = Upstream::new(b"");
    let (egret, _folder) = proxy(upstream.port(), "TCP", ENFORCE, "");
    let started = Instant::now();
    let mut silent = tunnel(&egret, upstream.port());
    silent.write_all(b"\x16\x03\x01").unwrap();
    // Meanwhile the other bound: 16 KiB of a head without end, and one that ends there.
    let begin = "GET / HTTP/1.1\r\nHost: ok.test\r\nCookie: ";
    for (bytes, passes) in [(16 * 1024, true), (16 * 1024 + 1, false)] {
        let head = format!("{begin}{}\r\n\r\n", "x".repeat(bytes - begin.len() - 4));
        let mut stream = tunnel(&egret, upstream.port());
        stream.write_all(head.as_bytes()).unwrap();
        if passes {
            let mut back = vec![0; head.len()];
            stream.read_exact(&mut back).unwrap();
            assert!(back == head.as_bytes());
        } else {
            assert!(read_to_end(&mut stream).starts_with("HTTP/1.1 421 "));
        }
    }
    // A word that nobody can act on does not wait, and what comes behind it is still judged.
    let mut terse = tunnel(&egret, upstream.port());
    assert!(client::echoes(&mut terse, b"GET") && client::echoes(&mut terse, b" "));
    terse.write_all(b"/ HTTP/1.1\r\nHost: evil.test\r\n\r\n").unwrap();
    assert_eq!(all(&mut terse), b"");
    let mut quiet = tunnel(&egret, upstream.port());
    assert_eq!(all(&mut silent), b"");
    let waited = started.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(15)).contains(&waited), "{waited:?}");
    // Who says nothing is not waited for.
    assert!(client::echoes(&mut quiet, b"x") && client::echoes(&mut quiet, b"\x00\x01"));
    assert_eq!(egret.metric("egret_tunnels_inconsistent_total{mode=\"enforce\",reason=\"undecided\"}"), 2);
}

#[test]
fn a_warning_holds_nothing_back() {
    let upstream = Upstream::new(b"");
    let (egret, folder) = proxy(upstream.port(), "TLS", "{ mode: warn }", "");
    let evil = hello::of("evil.test");
    for (bytes, split) in [(&evil[..], evil.len()), (&evil[..], 1), (b"SSH-2.0-x\r\n", 4), (b"\x16\x03\x01", 3)] {
        let mut stream = tunnel(&egret, upstream.port());
        assert!(client::echoes(&mut stream, &bytes[..split]), "{bytes:?}");
        assert!(client::echoes(&mut stream, &bytes[split..]), "{bytes:?}");
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(all(&mut stream), b"");
    }
    for (nth, inconsistent) in [
        "the server name is evil.test, the tunnel was asked for ok.test",
        "the server name is evil.test, the tunnel was asked for ok.test",
        "no TLS, on a port that carries TLS to ok.test",
        "the client ended inside its ClientHello",
    ]
    .into_iter()
    .enumerate()
    {
        let line = line(&egret, nth + 1);
        assert_eq!((&line["inconsistent"], &line["reason"]), (&inconsistent.into(), &Value::Null), "{line}");
        assert_eq!(line["rule"], format!("{}:4:22", folder.settings().display()));
    }
    assert_eq!(egret.metric("egret_tunnels_inconsistent_total{mode=\"warn\",reason=\"differs\"}"), 2);
}

#[test]
fn the_mode_follows_the_outbound_policy_unless_the_service_or_the_settings_say() {
    let upstream = Upstream::new(b"");
    let evil = hello::of("evil.test");
    for (consistency, annotation, passes) in [
        ("{}", "", false),
        ("{ mode: off }", "", true),
        ("{ mode: off }", ", annotations: { egret.dev/consistency: enforce }", false),
        ("{}", ", annotations: { egret.dev/consistency: warn }", true),
        (ENFORCE, ", annotations: { egret.dev/consistency: off }", true),
    ] {
        let (egret, _folder) = proxy(upstream.port(), "TLS", consistency, annotation);
        let mut stream = tunnel(&egret, upstream.port());
        assert_eq!(client::echoes(&mut stream, &evil), passes, "{consistency} {annotation}");
    }
    // By address there is nothing to compare.
    let (egret, _folder) = proxy(upstream.port(), "TLS", ENFORCE, "");
    let mut by_address = client::tunnel(egret.proxy(), format!("127.0.0.1:{}", upstream.port()));
    assert!(client::echoes(&mut by_address, &evil));
    let default = Egret::start();
    let mut by_name = client::tunnel(default.proxy(), format!("localhost:{}", upstream.port()));
    assert!(client::echoes(&mut by_name, &evil), "ALLOW_ANY only warns");
}

#[test]
fn an_encrypted_hello_is_refused_only_where_that_is_said() {
    let upstream = Upstream::new(b"");
    let ech = hello::with_ech("ok.test");
    for (consistency, passes) in [("{}", true), ("{ ech: deny }", false), ("{ ech: deny, mode: warn }", true)] {
        let (egret, _folder) = proxy(upstream.port(), "TLS", consistency, "");
        let mut stream = tunnel(&egret, upstream.port());
        assert_eq!(client::echoes(&mut stream, &ech), passes, "{consistency}");
    }
}
