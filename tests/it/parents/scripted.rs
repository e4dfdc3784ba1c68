//! A parent that says exactly what it is told to.

use std::io::Write;
use std::net::TcpStream;

use super::{by_policy, parent, refused, rule};
use crate::support::client::{self, Answer};
use crate::support::origin::{Origin, field, read_head};
use crate::support::peer::free_ports;
use crate::support::setup::Record;
use crate::support::{Egret, Folder};

/// Answers every CONNECT in its own way, then sends bytes back.
fn saying(answer: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Origin {
    Origin::new(move |mut stream| {
        stream.set_nodelay(true).unwrap();
        if read_head(&mut stream).is_none() {
            return;
        }
        answer(&mut stream);
        let Ok(mut reader) = stream.try_clone() else { return };
        let _ = std::io::copy(&mut reader, &mut stream);
    })
}

fn saying_bytes(answer: impl Into<Vec<u8>>) -> Origin {
    let answer = answer.into();
    saying(move |stream| {
        let _ = stream.write_all(&answer);
    })
}

fn behind(parent_origin: &Origin) -> (Folder, Egret) {
    let folder = Folder::new();
    let egret = by_policy(&parent(parent_origin.address.port())).start(&folder);
    (folder, egret)
}

const TARGET: &str = "origin.example:443";

/// The answer to a CONNECT through this parent, and its line.
fn refusal(parent: &Origin) -> (Answer, Record) {
    let (_folder, egret) = behind(parent);
    let mut stream = client::dial(egret.proxy());
    client::send(&mut stream, &format!("CONNECT {TARGET} HTTP/1.1\r\nHost: {TARGET}\r\n\r\n"));
    let answer = client::read_answer(&mut stream);
    assert!(client::ends(&mut stream), "a refused CONNECT closes");
    (answer, egret.record("CONNECT"))
}

/// What a tunnel through this parent yields before the client has sent a byte, and that it then works.
fn opens(parent: &Origin, early: &str) {
    let (_folder, egret) = behind(parent);
    let (mut stream, head) = client::connect(egret.proxy(), TARGET);
    assert_eq!(head, "HTTP/1.1 200 Connection Established\r\n\r\n", "ours, whatever the parent's was");
    let mut seen = vec![0; early.len()];
    std::io::Read::read_exact(&mut stream, &mut seen).unwrap();
    assert_eq!(String::from_utf8_lossy(&seen), early);
    assert!(client::echoes(&mut stream, b"ping"));
    drop(stream);
    let record = egret.record("CONNECT");
    record.shows(&[
        ("response_code", "200"),
        ("response_flags", "-"),
        ("hop", &parent.address.to_string()),
        ("hop_status", ""),
    ]);
    record.shows(&[("bytes_sent", &(early.len() + 4).to_string()), ("bytes_received", "4")]);
}

#[test]
fn an_answer_that_comes_byte_by_byte_opens() {
    let parent = saying(|stream| {
        for byte in b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nProxy-Agent: slow\r\n\r\nSSH-2.0-early\r\n" {
            stream.write_all(&[*byte]).unwrap();
            std::thread::yield_now();
        }
    });
    opens(&parent, "SSH-2.0-early\r\n");
}

#[test]
fn bytes_in_the_packet_of_the_200_reach_the_client() {
    opens(&saying_bytes("HTTP/1.1 200 OK\r\n\r\n220 mail.example ESMTP\r\n"), "220 mail.example ESMTP\r\n");
    let long = "x".repeat(100_000);
    opens(&saying_bytes(format!("HTTP/1.1 200 OK\r\n\r\n{long}")), &long);
}

#[test]
fn any_2xx_opens_and_its_length_means_nothing() {
    for head in
        ["HTTP/1.1 204 No Content", "HTTP/1.0 200 Connection established", "HTTP/1.1 200 OK\r\nContent-Length: 5"]
    {
        opens(&saying_bytes(format!("{head}\r\n\r\n")), "");
    }
}

#[test]
fn a_big_refusal_is_told_in_a_sentence_and_not_passed_on() {
    let page = "<html>blocked by corporate policy</html>".repeat(50_000); // 2 MB
    let parent = saying_bytes(format!("HTTP/1.1 403 Blocked\r\nContent-Length: {}\r\n\r\n{page}", page.len()));
    let (answer, record) = refusal(&parent);
    assert!(answer.head.starts_with("HTTP/1.1 502 Parent Proxy Refused (403)\r\n"), "{}", answer.head);
    let sentence = format!("egret: the parent proxy on the way to {TARGET} answered 403 Blocked (hop_refused)\n");
    assert_eq!(String::from_utf8_lossy(&answer.body), sentence);
    record.shows(&refused("403"));
}

#[test]
fn a_refusal_cannot_write_into_our_head() {
    let (answer, record) =
        refusal(&saying_bytes("HTTP/1.1 503 \"\\\x1b[31mX\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"));
    assert!(!answer.head.contains('\x1b') && field(&answer.head, "set-cookie").is_none(), "{}", answer.head);
    assert_eq!(answer.status, 502);
    assert!(!record.get("detail").contains('\x1b'), "{record:?}");
}

#[test]
fn what_is_no_answer_is_502_and_the_parents_fault() {
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(100_000));
    for garbage in ["SSH-2.0-OpenSSH_9.2\r\n", "\0\0\0\0\0\0\0\0", "HTTP/1.1 200 OK\nServer: x\n\n", &endless] {
        let parent = saying_bytes(garbage);
        let (answer, record) = refusal(&parent);
        assert!(answer.head.starts_with("HTTP/1.1 502 Upstream Protocol Error\r\n"), "{}", answer.head);
        let sentence =
            format!("egret: the parent proxy on the way to {TARGET} does not speak HTTP/1.1 (http_protocol_error)\n");
        assert_eq!(String::from_utf8_lossy(&answer.body), sentence);
        record.shows(&[("response_code", "502"), ("response_flags", "UPE"), ("reason", "http_protocol_error")]);
        record.shows(&[("hop", &parent.address.to_string()), ("hop_status", "")]);
    }
}

#[test]
fn one_that_hangs_up_is_502_and_the_parents_fault() {
    let parent = Origin::new(|mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 Connection est");
    });
    let (answer, record) = refusal(&parent);
    assert!(answer.head.starts_with("HTTP/1.1 502 Upstream Closed Connection\r\n"), "{}", answer.head);
    assert!(answer.head.contains(&format!("the parent proxy on the way to {TARGET} failed")), "{}", answer.head);
    record.shows(&[("response_code", "502"), ("response_flags", "UC"), ("reason", "connection_terminated")]);
    record.shows(&[("hop", &parent.address.to_string())]);
}

#[test]
fn early_bytes_of_the_client_follow_the_parents_answer() {
    let (_folder, egret) = behind(&saying_bytes("HTTP/1.1 200 OK\r\n\r\n"));
    let mut stream = client::dial(egret.proxy());
    client::send(&mut stream, &format!("CONNECT {TARGET} HTTP/1.1\r\nHost: {TARGET}\r\n\r\nClientHello"));
    assert!(read_head(&mut stream).unwrap().starts_with("HTTP/1.1 200 "));
    let mut back = [0; 11];
    std::io::Read::read_exact(&mut stream, &mut back).unwrap();
    assert_eq!(&back, b"ClientHello");
}

#[test]
fn what_the_client_tells_us_is_not_told_to_the_parent() {
    let parent_origin = Origin::http(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n");
    let port = parent_origin.address.port();
    let secrets =
        "Proxy-Authorization: Basic YWRhOnMzY3JldA==\r\nProxy-Connection: keep-alive\r\nX-Team: blue\r\nUser-Agent: me";
    for (annotations, request) in [
        ("", format!("CONNECT {TARGET} HTTP/1.1\r\nHost: {TARGET}\r\n{secrets}\r\n\r\n")),
        (
            "egret.dev/proxy-http: absolute-form",
            format!("GET http://origin.example/ HTTP/1.1\r\nHost: origin.example\r\n{secrets}\r\n\r\n"),
        ),
    ] {
        let folder = Folder::new();
        let egret = by_policy(&(parent(port) + &rule(annotations, ""))).start(&folder);
        let mut stream = client::dial(egret.proxy());
        client::send(&mut stream, &request);
        client::read_answer(&mut stream);
    }
    let [connect, whole] = &parent_origin.requests()[..] else { panic!("{:?}", parent_origin.requests()) };
    let via = field(connect, "via").unwrap();
    assert_eq!(connect, &format!("CONNECT {TARGET} HTTP/1.1\r\nHost: {TARGET}\r\nVia: {via}\r\n\r\n"));
    assert!(whole.starts_with("GET http://origin.example/ HTTP/1.1\r\nHost: origin.example\r\n"), "{whole}");
    assert_eq!(field(whole, "proxy-authorization").or(field(whole, "proxy-connection")), None, "{whole}");
    assert_eq!(field(whole, "x-team"), Some("blue"), "the origin's, end to end: {whole}");
}

#[test]
fn of_two_parents_the_one_that_is_up_is_asked() {
    let up = saying_bytes("HTTP/1.1 200 OK\r\n\r\n");
    let [down] = free_ports();
    let endpoints = format!(
        "[{{ address: 127.0.0.1, ports: {{ tcp: {down} }} }}, {{ address: 127.0.0.1, ports: {{ tcp: {} }} }}]",
        up.address.port()
    );
    let rules = parent(down).replace("[{ address: 127.0.0.1 }]", &endpoints);
    let folder = Folder::new();
    let egret = by_policy(&rules).start(&folder);
    for n in 1..=4 {
        let target = format!("n{n}.example:443");
        assert!(client::echoes(&mut client::tunnel(egret.proxy(), &target), b"up"));
        egret.record(&target).shows(&[("response_code", "200"), ("upstream_host", &up.address.to_string())]);
    }
}
