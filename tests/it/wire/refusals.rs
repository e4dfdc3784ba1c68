//! What is refused: as the first request of a connection, behind a good one, and with another one behind it that must not be served.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use super::{answers, converse, proxy, read_to_end};
use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::{Egret, client};

/// Requests with one thing wrong each; `{o}` is an origin that would answer.
const MALFORMED: &[(&str, &str)] = &[
    // the request line
    ("no method", " http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n"),
    ("a method that is no token", "GE(T http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n"),
    ("two spaces before the target", "GET  http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n"),
    ("two spaces before the version", "GET http://{o}/  HTTP/1.1\r\nHost: {o}\r\n\r\n"),
    ("a space behind the version", "GET http://{o}/ HTTP/1.1 \r\nHost: {o}\r\n\r\n"),
    ("a tab in the request line", "GET\thttp://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n"),
    ("no version", "GET http://{o}/\r\nHost: {o}\r\n\r\n"),
    ("HTTP/0.9", "GET http://{o}/ HTTP/0.9\r\nHost: {o}\r\n\r\n"),
    ("HTTP/1.2", "GET http://{o}/ HTTP/1.2\r\nHost: {o}\r\n\r\n"),
    ("HTTP/2.0", "GET http://{o}/ HTTP/2.0\r\nHost: {o}\r\n\r\n"),
    ("a version in lower case", "GET http://{o}/ http/1.1\r\nHost: {o}\r\n\r\n"),
    ("a fragment", "GET http://{o}/#top HTTP/1.1\r\nHost: {o}\r\n\r\n"),
    ("a quote in the path", "GET http://{o}/\" HTTP/1.1\r\nHost: {o}\r\n\r\n"),
    ("a control byte in the path", "GET http://{o}/\x01 HTTP/1.1\r\nHost: {o}\r\n\r\n"),
    ("a path beyond ASCII", "GET http://{o}/é HTTP/1.1\r\nHost: {o}\r\n\r\n"),
    // the target
    ("userinfo", "GET http://user:secret@{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n"),
    ("an empty host", "GET http:///a HTTP/1.1\r\nHost: {o}\r\n\r\n"),
    ("a URL without slashes", "GET http:{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n"),
    ("another scheme", "GET ftp://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n"),
    ("port 65536 + 80 in a URL", "GET http://127.0.0.1:65616/ HTTP/1.1\r\nHost: {o}\r\n\r\n"),
    ("* without OPTIONS", "GET * HTTP/1.1\r\nHost: {o}\r\n\r\n"),
    ("CONNECT without port", "CONNECT 127.0.0.1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
    ("CONNECT with an empty port", "CONNECT 127.0.0.1: HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
    ("CONNECT to port 0", "CONNECT 127.0.0.1:0 HTTP/1.1\r\nHost: 127.0.0.1:0\r\n\r\n"),
    ("CONNECT to port 65536 + 443", "CONNECT 127.0.0.1:65979 HTTP/1.1\r\nHost: 127.0.0.1:65979\r\n\r\n"),
    ("CONNECT to port 2^32 + 443", "CONNECT 127.0.0.1:4294967739 HTTP/1.1\r\nHost: 127.0.0.1:4294967739\r\n\r\n"),
    ("CONNECT to a signed port", "CONNECT 127.0.0.1:+443 HTTP/1.1\r\nHost: 127.0.0.1:+443\r\n\r\n"),
    ("CONNECT to a named port", "CONNECT 127.0.0.1:https HTTP/1.1\r\nHost: 127.0.0.1:https\r\n\r\n"),
    ("CONNECT with a URL", "CONNECT http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n"),
    ("CONNECT with a path", "CONNECT {o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n"),
    ("CONNECT with userinfo", "CONNECT user@{o} HTTP/1.1\r\nHost: {o}\r\n\r\n"),
    ("CONNECT whose Host is a list", "CONNECT {o} HTTP/1.1\r\nHost: {o}, other.test:443\r\n\r\n"),
    ("CONNECT with a length", "CONNECT {o} HTTP/1.1\r\nHost: {o}\r\nContent-Length: 1\r\n\r\nx"),
    ("CONNECT with chunks", "CONNECT {o} HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    // Host
    ("no Host", "GET http://{o}/ HTTP/1.1\r\n\r\n"),
    ("two Hosts", "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nHost: {o}\r\n\r\n"),
    ("two Hosts in HTTP/1.0", "GET http://{o}/ HTTP/1.0\r\nHost: {o}\r\nhost: other.test\r\n\r\n"),
    ("a Host that is a list", "GET http://{o}/ HTTP/1.1\r\nHost: {o}, other.test\r\n\r\n"),
    ("an empty Host", "GET http://{o}/ HTTP/1.1\r\nHost:\r\n\r\n"),
    ("a Host with userinfo", "GET http://{o}/ HTTP/1.1\r\nHost: user@{o}\r\n\r\n"),
    ("a Host with a path", "GET http://{o}/ HTTP/1.1\r\nHost: {o}/a\r\n\r\n"),
    // lines and fields
    ("a bare LF behind the request line", "GET http://{o}/ HTTP/1.1\nHost: {o}\r\n\r\n"),
    ("a bare LF behind a field", "GET http://{o}/ HTTP/1.1\r\nHost: {o}\nA: b\r\n\r\n"),
    ("bare LFs throughout", "GET http://{o}/ HTTP/1.1\nHost: {o}\n\n"),
    ("a bare LF at the end of the head", "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\n"),
    ("a bare CR in a value", "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: b\rc: d\r\n\r\n"),
    ("NUL in a value", "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: b\0c\r\n\r\n"),
    ("a control byte in a value", "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: b\x01c\r\n\r\n"),
    ("DEL in a value", "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: b\x7fc\r\n\r\n"),
    ("a folded field", "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: b\r\n c: d\r\n\r\n"),
    ("a fold before the first field", "GET http://{o}/ HTTP/1.1\r\n A: b\r\nHost: {o}\r\n\r\n"),
    ("a space before the colon", "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA : b\r\n\r\n"),
    ("a tab before the colon", "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA\t: b\r\n\r\n"),
    ("a field without colon", "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA\r\n\r\n"),
    ("a field without name", "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n: b\r\n\r\n"),
    ("a field name that is no token", "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA(b): c\r\n\r\n"),
    // framing
    (
        "both framings",
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "both framings, the other way round",
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    ("two equal lengths", "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
    ("two lengths", "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"),
    ("a list of lengths", "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 1, 1\r\n\r\nx"),
    ("a positive length", "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: +1\r\n\r\nx"),
    ("a negative length", "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: -1\r\n\r\nx"),
    ("a hexadecimal length", "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 0x1\r\n\r\nx"),
    ("a length with a space in it", "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 1 1\r\n\r\nx"),
    ("an empty length", "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length:\r\n\r\n"),
    ("a length of 2^64", "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 18446744073709551616\r\n\r\nx"),
    ("a coding of HTTP/1.0", "POST http://{o}/ HTTP/1.0\r\nHost: {o}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("gzip alone", "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n"),
    (
        "gzip, then chunked",
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunked, then gzip",
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunked twice in a list",
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunked in two fields",
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("identity", "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
    ("an unknown coding", "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    (
        "chunked with a parameter",
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    ),
    ("chunked in quotes", "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    ("an empty coding", "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n"),
    // fields that Connection may not name
    ("Connection: host", "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nConnection: host\r\n\r\n"),
    (
        "Connection: content-length",
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nConnection: close, Content-Length\r\nContent-Length: 1\r\n\r\nx",
    ),
    (
        "Connection: transfer-encoding",
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "Connection: authorization",
        "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nConnection: authorization\r\nAuthorization: Basic YTpi\r\n\r\n",
    ),
    ("Connection: cookie", "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nConnection: cookie\r\n\r\n"),
    ("Connection: via", "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nConnection: via\r\nVia: 1.1 a\r\n\r\n"),
    (
        "Connection: forwarded",
        "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nConnection: keep-alive\r\nConnection: Forwarded\r\n\r\n",
    ),
    ("Connection: x-forwarded-for", "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nConnection: x-forwarded-for\r\n\r\n"),
    ("a Connection that is no list", "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nConnection: a b\r\n\r\n"),
];

/// Bodies of a chunked request.
const MALFORMED_CHUNKS: &[(&str, &str)] = &[
    ("a size of 17 digits", "00000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("a size beyond 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("a negative size", "-5\r\nhello\r\n0\r\n\r\n"),
    ("a signed size", "+5\r\nhello\r\n0\r\n\r\n"),
    ("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("a space before the size", " 5\r\nhello\r\n0\r\n\r\n"),
    ("a space behind the size", "5 \r\nhello\r\n0\r\n\r\n"),
    ("no size", "\r\nhello\r\n0\r\n\r\n"),
    ("a bare LF behind the size", "5\nhello\r\n0\r\n\r\n"),
    ("a bare CR behind the size", "5\rXhello\r\n0\r\n\r\n"),
    ("a bare LF in an extension", "5;a=\nb\r\nhello\r\n0\r\n\r\n"),
    ("NUL in an extension", "5;a=\0\r\nhello\r\n0\r\n\r\n"),
    ("a longer chunk than its size", "4\r\nhello\r\n0\r\n\r\n"),
    ("a shorter chunk than its size", "6\r\nhello\r\n0\r\n\r\n"),
    ("a chunk that ends with a bare LF", "5\r\nhello\n0\r\n\r\n"),
    ("a chunk that ends with two bytes", "5\r\nhelloXX0\r\n\r\n"),
    ("a last chunk with a bare LF", "0\n\n"),
    ("a trailer without colon", "0\r\nA\r\n\r\n"),
    ("a folded trailer", "0\r\nA: b\r\n c\r\n\r\n"),
    ("a trailer with a bare LF", "0\r\nA: b\n\r\n"),
    ("a trailer with a space before the colon", "0\r\nA : b\r\n\r\n"),
    ("a trailer that frames", "0\r\nContent-Length: 5\r\n\r\n"),
    ("a trailer that routes", "0\r\nHost: other.test\r\n\r\n"),
    ("a trailer that authenticates", "0\r\nAuthorization: Basic YTpi\r\n\r\n"),
];

fn all_malformed(origin: SocketAddr) -> Vec<(&'static str, String)> {
    let origin = origin.to_string();
    let heads = MALFORMED.iter().map(|(what, request)| (*what, request.replace("{o}", &origin)));
    let bodies = MALFORMED_CHUNKS.iter().map(|(what, body)| {
        let head = format!("POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nTransfer-Encoding: chunked\r\n\r\n");
        (*what, head + body)
    });
    heads.chain(bodies).collect()
}

fn good(origin: SocketAddr, path: &str) -> String {
    format!("GET http://{origin}/{path} HTTP/1.1\r\nHost: {origin}\r\n\r\n")
}

/// One answer, 400, and the connection's end.
fn is_refused(what: &str, text: &str, status: u16) {
    assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {text:?}");
    assert!(text.contains("\r\nConnection: close\r\n"), "{what}: {text:?}");
    assert_eq!(answers(text), 1, "{what}: {text:?}");
}

#[test]
fn a_malformed_request_is_400_and_the_end_of_its_connection() {
    let origin = Origin::http(HELLO);
    let (egret, _folder) = proxy("");
    for (what, request) in all_malformed(origin.address) {
        is_refused(what, &converse(egret.proxy(), request + &good(origin.address, "behind")), 400);
    }
    let served: Vec<_> = origin.requests().into_iter().filter(|head| head.contains("/behind")).collect();
    assert!(served.is_empty(), "{served:?}");
}

#[test]
fn a_malformed_request_behind_a_good_one_is_400_and_the_end_of_its_connection() {
    let origin = Origin::http(HELLO);
    let (egret, _folder) = proxy("");
    for (what, request) in all_malformed(origin.address) {
        let mut stream = client::dial(egret.proxy());
        assert_eq!(client::ask(&mut stream, "GET", &format!("http://{}/", origin.address)).status, 200);
        stream.write_all((request + &good(origin.address, "behind")).as_bytes()).unwrap();
        is_refused(what, &read_to_end(&mut stream), 400);
    }
    assert!(!origin.requests().iter().any(|head| head.contains("/behind")));
}

#[test]
fn a_malformed_request_in_one_packet_with_a_good_one_is_refused_all_the_same() {
    let origin = Origin::http(HELLO);
    let (egret, _folder) = proxy("");
    for (what, request) in all_malformed(origin.address) {
        let text = converse(egret.proxy(), good(origin.address, "") + &request + &good(origin.address, "behind"));
        let (first, second) = text.split_once("hello").unwrap_or_else(|| panic!("{what}: {text:?}"));
        assert!(first.starts_with("HTTP/1.1 200 "), "{what}: {text:?}");
        is_refused(what, second, 400);
    }
    assert!(!origin.requests().iter().any(|head| head.contains("/behind")));
}

#[test]
fn neighbours_of_malformed_requests_pass() {
    let origin = Origin::http(HELLO);
    let (egret, _folder) = proxy("");
    let origin = origin.address.to_string();
    for request in [
        "\r\nGET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n",
        "GET HTTP://{o} HTTP/1.1\r\nHost: {o}\r\n\r\n",
        "GET http://{o}?q HTTP/1.1\r\nhost:{o}\r\nA:\r\nB: \t c\t \r\n\r\n",
        "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nA: \u{e9}\r\n\r\n",
        "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: 0\r\n\r\n",
        "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nConnection: keep-alive, , X-Mine\r\nX-Mine: 1\r\n\r\n",
        "CONNECT {o} HTTP/1.1\r\nHost: {o}\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = client::dial(egret.proxy());
        stream.write_all(request.replace("{o}", &origin).as_bytes()).unwrap();
        let head = read_head(&mut stream).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{request:?}: {head:?}");
    }
}

#[test]
fn a_head_of_100_fields_or_32_kib_passes_and_one_beyond_is_431() {
    let origin = Origin::http(HELLO);
    let (egret, _folder) = proxy("");
    let begin = format!("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n", o = origin.address);
    let of_fields = |count: usize| begin.clone() + &"A: b\r\n".repeat(count - 1) + "\r\n";
    let of_bytes = |bytes: usize| format!("{begin}A: {}\r\n\r\n", "x".repeat(bytes - begin.len() - 7));
    assert_eq!(of_bytes(32 * 1024).len(), 32 * 1024);
    for (fits, exceeds) in [(of_fields(100), of_fields(101)), (of_bytes(32 * 1024), of_bytes(32 * 1024 + 1))] {
        let mut stream = client::dial(egret.proxy());
        stream.write_all(fits.as_bytes()).unwrap();
        assert_eq!(client::read_answer(&mut stream).status, 200);
        stream.write_all((exceeds.clone() + &good(origin.address, "behind")).as_bytes()).unwrap();
        is_refused("behind a good one", &read_to_end(&mut stream), 431);
        is_refused("first", &converse(egret.proxy(), exceeds), 431);
    }
    let unending = format!("{begin}A: {}", "x".repeat(40 * 1024));
    is_refused("without an end", &converse(egret.proxy(), unending), 431);
    assert!(!origin.requests().iter().any(|head| head.contains("/behind")));
}

#[test]
fn an_answer_of_100_fields_or_32_kib_passes_and_one_beyond_is_502() {
    let (egret, _folder) = proxy("");
    let begin = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n";
    let of_fields = |count: usize| begin.to_owned() + &"A: b\r\n".repeat(count - 1) + "\r\nhello";
    let of_bytes = |bytes: usize| format!("{begin}A: {}\r\n\r\nhello", "x".repeat(bytes - begin.len() - 7));
    for (answer, status) in
        [(of_fields(100), 200), (of_fields(101), 502), (of_bytes(32 * 1024), 200), (of_bytes(32 * 1024 + 1), 502)]
    {
        let origin = Origin::http(Box::leak(answer.into_bytes().into_boxed_slice()));
        assert_eq!(client::get(egret.proxy(), &format!("http://{}/", origin.address)).status, status);
    }
}

#[test]
fn malformed_answers_are_502_and_tell_nothing_of_their_bytes() {
    let (egret, _folder) = proxy("");
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
        "HTTP/1.1 200 OK\r\nA: b\rX: c\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nA: \0\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 099 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 600 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/2 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "ICY 200 OK\r\n\r\nhello",
        "SSH-2.0-OpenSSH_9.2\r\n",
    ] {
        let origin = Origin::http(answer.as_bytes());
        let got = client::get(egret.proxy(), &format!("http://{}/", origin.address));
        assert_eq!(got.status, 502, "{answer:?}");
        assert!(!String::from_utf8_lossy(&got.body).contains("hello"), "{answer:?}");
    }
}

fn hurried() -> (Egret, crate::support::Folder) {
    proxy("limits: { headTime: 300ms }")
}

#[test]
fn a_head_that_does_not_end_in_time_is_408() {
    let origin = Origin::http(HELLO);
    let (egret, _folder) = hurried();
    is_refused("first", &converse(egret.proxy(), "GET http://h.test/ HTTP/1.1\r\nHost: h"), 408);
    let mut stream = client::dial(egret.proxy());
    assert_eq!(client::ask(&mut stream, "GET", &format!("http://{}/", origin.address)).status, 200);
    stream.write_all(b"G").unwrap();
    is_refused("second", &read_to_end(&mut stream), 408);
    assert_eq!(converse(egret.proxy(), ""), "", "a client that says nothing is told nothing");
}

#[test]
fn a_head_that_comes_byte_by_byte_has_no_longer() {
    let (egret, _folder) = hurried();
    let mut stream = client::dial(egret.proxy());
    let mut writer = stream.try_clone().unwrap();
    let dribble = std::thread::spawn(move || {
        let bytes = b"GET http://h.test/ HTTP/1.1\r\nHost: h.test\r\nA: ".iter().chain(std::iter::repeat(&b'x'));
        for byte in bytes {
            if writer.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let head = read_head(&mut stream).unwrap();
    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
    drop(stream);
    dribble.join().unwrap();
}

#[test]
fn the_log_counts_the_bodies_of_refusals() {
    let (egret, _folder) = proxy("mesh: { accessLogFormat: \"%RESPONSE_CODE% %BYTES_SENT%\" }");
    for request in [
        "GET http://10.0.0.1/ HTTP/1.1\r\nHost: 10.0.0.1\r\nConnection: close\r\n\r\n",
        "CONNECT 10.0.0.1:443 HTTP/1.1\r\nHost: 10.0.0.1:443\r\n\r\n",
        "HEAD http://10.0.0.1/ HTTP/1.1\r\nHost: 10.0.0.1\r\nConnection: close\r\n\r\n",
        "GET nonsense HTTP/1.1\r\n\r\n",
        "TRACE http://10.0.0.1/ HTTP/1.1\r\nHost: 10.0.0.1\r\nMax-Forwards: 0\r\nConnection: close\r\n\r\n",
    ] {
        let seen = egret.stdout.so_far().len();
        let text = converse(egret.proxy(), request);
        let body = text.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(body.is_empty(), request.starts_with("HEAD"), "{text}");
        crate::support::eventually("its line", || egret.stdout.so_far().len() > seen);
        assert_eq!(egret.stdout.so_far()[seen], format!("{} {}", &text[9..12], body.len()), "{text}");
    }
}
