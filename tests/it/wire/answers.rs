//! How answers are delimited on both sides, and that a broken one never looks complete.

use std::io::Write;
use std::net::SocketAddr;

use super::{converse, proxy, read_to_end, read_to_reset, read_until};
use crate::support::client;
use crate::support::origin::{HELLO, Origin, read_head};

/// An origin that answers the one request of each connection and closes.
fn closing(answer: &'static [u8]) -> Origin {
    Origin::new(move |mut stream| {
        if read_head(&mut stream).is_some() {
            stream.write_all(answer).unwrap();
        }
    })
}

fn request(method: &str, origin: SocketAddr, version: &str) -> String {
    format!("{method} http://{origin}/ HTTP/{version}\r\nHost: {origin}\r\n\r\n")
}

#[test]
fn answers_without_body_leave_the_connection_in_step() {
    let (egret, _folder) = proxy("");
    let hello = Origin::http(HELLO);
    let mut stream = client::dial(egret.proxy());
    for (method, answer) in [
        ("HEAD", &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"[..]),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let origin = Origin::http(answer);
        for _ in 0..2 {
            stream.write_all(request(method, origin.address, "1.1").as_bytes()).unwrap();
            let head = read_head(&mut stream).unwrap();
            let status = &answer[..12];
            assert!(head.as_bytes().starts_with(status), "{method} {head:?}");
            let had = answer.windows(17).any(|bytes| bytes == b"Content-Length: 5");
            assert_eq!(head.contains("\r\nContent-Length: 5\r\n"), had, "{method} {head:?}");
            assert!(!head.contains("Connection: close"), "{method} {head:?}");
        }
        let next = client::ask(&mut stream, "GET", &format!("http://{}/", hello.address));
        assert_eq!(next.body, b"hello", "behind {method} {:?}", String::from_utf8_lossy(answer));
    }
}

#[test]
fn an_answer_that_ends_with_its_connection_becomes_chunked_for_1_1_and_stays_so_for_1_0() {
    let (egret, _folder) = proxy("");
    for answer in [
        &b"HTTP/1.1 200 OK\r\n\r\nhello"[..],
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
    ] {
        let origin = closing(answer);
        let mut stream = client::dial(egret.proxy());
        for _ in 0..2 {
            stream.write_all(request("GET", origin.address, "1.1").as_bytes()).unwrap();
            let head = read_head(&mut stream).unwrap();
            assert!(head.contains("\r\nTransfer-Encoding: chunked\r\n") && !head.contains("Connection:"), "{head:?}");
            assert_eq!(read_until(&mut stream, "0\r\n\r\n"), "5\r\nhello\r\n0\r\n\r\n");
        }
        let text = converse(egret.proxy(), request("GET", origin.address, "1.0"));
        assert!(text.ends_with("\r\n\r\nhello") && !text.contains("Transfer-Encoding"), "{text:?}");
        assert!(text.contains("\r\nConnection: close\r\n"), "{text:?}");
    }
}

#[test]
fn an_origin_of_http_1_0_with_a_length_is_read_by_its_length() {
    let (egret, _folder) = proxy("");
    let origin = Origin::http(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    let mut stream = client::dial(egret.proxy());
    for _ in 0..3 {
        let answer = client::ask(&mut stream, "GET", &format!("http://{}/", origin.address));
        assert_eq!(answer.body, b"hello");
        assert!(answer.head.starts_with("HTTP/1.1 200 OK\r\n") && answer.head.contains("Via: 1.0 egret-test"));
    }
}

#[test]
fn chunks_and_trailers_of_an_answer_reach_the_client() {
    let (egret, _folder) = proxy("");
    let origin = Origin::http(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;ext=\"a\"\r\nhe\r\n003\r\nllo\r\n0\r\nX-Sum: 7\r\nx-sum: 8\r\n\r\n",
    );
    let mut stream = client::dial(egret.proxy());
    for _ in 0..2 {
        stream.write_all(request("GET", origin.address, "1.1").as_bytes()).unwrap();
        assert!(read_head(&mut stream).unwrap().contains("\r\nTransfer-Encoding: chunked\r\n"));
        let body = read_until(&mut stream, "\r\n\r\n");
        assert_eq!(body, "2\r\nhe\r\n3\r\nllo\r\n0\r\nX-Sum: 7\r\nx-sum: 8\r\n\r\n");
    }
    let text = converse(egret.proxy(), request("GET", origin.address, "1.0"));
    assert!(text.ends_with("\r\n\r\nhello") && !text.contains("X-Sum") && !text.contains("chunked"), "{text:?}");
}

#[test]
fn an_answer_that_broke_off_ends_in_a_reset() {
    let (egret, _folder) = proxy("");
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!!!\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let origin = closing(answer);
        for version in ["1.1", "1.0"] {
            let mut stream = client::dial(egret.proxy());
            stream.write_all(request("GET", origin.address, version).as_bytes()).unwrap();
            let text = read_to_reset(&mut stream);
            assert!(!text.contains("\r\n0\r\n"), "{text:?}");
        }
    }
    let line = egret.stdout.wait_for_nth("GET / HTTP/1.0", 2);
    assert!(line.contains(" UC "), "{line}");
}

#[test]
fn an_answer_that_ends_with_a_reset_is_not_taken_for_whole() {
    let (egret, _folder) = proxy("");
    let origin = Origin::new(|mut stream| {
        let _ = read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello").unwrap();
        let _ = read_head(&mut stream); // until the client has seen the beginning, and says so
        socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    });
    // By a tunnel to the same origin nothing could be said; so the origin waits for its own second connection's word instead.
    let mut stream = client::dial(egret.proxy());
    let body = "x\r\n\r\n";
    write!(
        stream,
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: {}\r\n\r\n",
        body.len(),
        o = origin.address
    )
    .unwrap();
    let head = read_head(&mut stream).unwrap();
    assert!(head.contains("\r\nTransfer-Encoding: chunked\r\n"), "{head:?}");
    assert_eq!(read_until(&mut stream, "hello\r\n"), "5\r\nhello\r\n");
    stream.write_all(body.as_bytes()).unwrap();
    assert_eq!(read_to_reset(&mut stream), "");
}

#[test]
fn an_origin_that_closes_without_a_word_or_inside_its_head_is_502() {
    let (egret, _folder) = proxy("");
    for answer in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Le"] {
        let origin = closing(answer);
        let mut stream = client::dial(egret.proxy());
        let got = client::ask(&mut stream, "GET", &format!("http://{}/", origin.address));
        assert_eq!(got.status, 502);
        assert!(got.head.contains("error=connection_terminated"), "{}", got.head);
        let hello = Origin::http(HELLO);
        assert_eq!(client::ask(&mut stream, "GET", &format!("http://{}/", hello.address)).status, 200);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (egret, _folder) = proxy("");
    let origin = Origin::new(|mut stream| {
        while let Some(head) = read_head(&mut stream) {
            let path = head.split(' ').nth(1).unwrap().to_owned();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()).unwrap();
        }
    });
    let mut stream = client::dial(egret.proxy());
    let all: String =
        (0..20).map(|n| format!("GET http://{o}/{n} HTTP/1.1\r\nHost: {o}\r\n\r\n", o = origin.address)).collect();
    stream.write_all(all.as_bytes()).unwrap();
    for n in 0..20 {
        assert_eq!(client::read_answer(&mut stream).body, format!("/{n}").as_bytes());
    }
    stream.write_all(request("GET", origin.address, "1.0").as_bytes()).unwrap();
    assert!(read_to_end(&mut stream).ends_with("\r\n\r\n/"));
}
