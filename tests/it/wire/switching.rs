//! Upgrade: websocket is passed, everything else is removed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;

use super::{converse, proxy, read_to_end};
use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::{PATIENCE, client};

const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";

/// Switches, its first bytes in the packet of the 101, then echoes.
fn switching() -> (Origin, mpsc::Receiver<String>) {
    let (tell, told) = mpsc::channel();
    let origin = Origin::new(move |mut stream| {
        tell.send(read_head(&mut stream).unwrap()).unwrap();
        stream.write_all(format!("{SWITCHED}welcome").as_bytes()).unwrap();
        let mut reader = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut reader, &mut stream);
        let _ = stream.shutdown(std::net::Shutdown::Write);
    });
    (origin, told)
}

fn upgrade(stream: &mut TcpStream, url: &str, host: impl std::fmt::Display, protocol: &str) {
    write!(
        stream,
        "GET {url} HTTP/1.1\r\nHost: {host}\r\nUpgrade: {protocol}\r\nConnection: Upgrade, HTTP2-Settings\r\n\
         HTTP2-Settings: AAMAAABkAAQAoAAA\r\nSec-WebSocket-Key: y\r\n\r\n"
    )
    .unwrap();
}

#[test]
fn a_websocket_passes_bytes_both_ways_from_the_first() {
    let (egret, _folder) = proxy("");
    let (origin, told) = switching();
    for scheme in ["http", "ws", "WS"] {
        let mut stream = client::dial(egret.proxy());
        upgrade(&mut stream, &format!("{scheme}://{}/chat", origin.address), origin.address, "WebSocket");
        stream.write_all(b"early").unwrap();
        let head = read_head(&mut stream).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
        assert!(head.contains("\r\nUpgrade: websocket\r\n") && head.contains("\r\nConnection: Upgrade\r\n"), "{head}");
        assert!(head.contains("\r\nSec-WebSocket-Accept: x\r\n"), "{head}");
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"welcomeearly");
        assert!(client::echoes(&mut stream, b"frame"));
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut stream), "");
        let asked = told.recv_timeout(PATIENCE).unwrap();
        assert!(asked.starts_with("GET /chat HTTP/1.1\r\n"), "{asked}");
        assert!(
            asked.contains("\r\nConnection: Upgrade\r\n") && asked.contains("\r\nUpgrade: websocket\r\n"),
            "{asked}"
        );
        assert!(!asked.to_ascii_lowercase().contains("http2-settings"), "{asked}");
    }
    let line = egret.stdout.wait_for_nth("GET /chat", 3);
    assert!(line.contains("\" 101 "), "{line}");
}

#[test]
fn other_protocols_are_not_offered_to_the_origin() {
    let (egret, _folder) = proxy("");
    let origin = Origin::http(HELLO);
    for protocol in ["h2c", "TLS/1.0", "foo", "h2c, foo"] {
        let mut stream = client::dial(egret.proxy());
        upgrade(&mut stream, &format!("http://{}/", origin.address), origin.address, protocol);
        assert_eq!(client::read_answer(&mut stream).status, 200, "{protocol}");
        // HTTP/1.1 goes on; what would be HTTP/2 is no request.
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        assert!(read_to_end(&mut stream).starts_with("HTTP/1.1 400 "), "{protocol}");
    }
    // A server might take the bare field for an offer, too: nothing in Connection names it.
    let bare = "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    let text = converse(
        egret.proxy(),
        format!("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n{bare}Connection: close\r\n\r\n", o = origin.address),
    );
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    assert_eq!(origin.requests().len(), 5);
    for head in origin.requests() {
        let head = head.to_ascii_lowercase();
        assert!(
            !head.contains("upgrade") && !head.contains("http2-settings") && !head.contains("connection"),
            "{head}"
        );
    }
}

#[test]
fn an_origin_that_switches_unasked_or_to_something_else_is_502() {
    let (egret, _folder) = proxy("");
    let h2c = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n";
    for (asked, answer) in
        [("h2c", SWITCHED), ("h2c", h2c), ("websocket", h2c), ("websocket", "HTTP/1.1 101 X\r\n\r\n")]
    {
        let origin = Origin::http(answer.as_bytes());
        let mut stream = client::dial(egret.proxy());
        upgrade(&mut stream, &format!("http://{}/", origin.address), origin.address, asked);
        assert_eq!(client::read_answer(&mut stream).status, 502, "{asked} {answer:?}");
    }
    let origin = Origin::http(SWITCHED.as_bytes());
    assert_eq!(client::get(egret.proxy(), &format!("http://{}/", origin.address)).status, 502);
}

#[test]
fn a_websocket_that_the_origin_declines_is_an_answer_like_any_other() {
    let (egret, _folder) = proxy("");
    let origin = Origin::http(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    let mut stream = client::dial(egret.proxy());
    for _ in 0..2 {
        upgrade(&mut stream, &format!("ws://{}/", origin.address), origin.address, "websocket");
        let answer = client::read_answer(&mut stream);
        assert_eq!((answer.status, answer.body.as_slice()), (403, &b"no"[..]));
    }
}
