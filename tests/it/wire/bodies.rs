//! Bodies of requests: as they are, while they come, and when nobody waits for their end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use super::{proxy, read_to_end, read_until};
use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::{PATIENCE, client};

fn post(stream: &mut TcpStream, origin: SocketAddr, more: &str) {
    write!(stream, "POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n{more}\r\n").unwrap();
}

/// An origin that reads until what it got ends so, tells what it was, and answers.
fn reading_until(end: &'static str) -> (Origin, mpsc::Receiver<String>) {
    let (tell, told) = mpsc::channel();
    let origin = Origin::new(move |mut stream| {
        let head = read_head(&mut stream).unwrap();
        tell.send(head + &read_until(&mut stream, end)).unwrap();
        stream.write_all(HELLO).unwrap();
    });
    (origin, told)
}

#[test]
fn chunks_and_trailers_of_a_request_reach_the_origin() {
    let (egret, _folder) = proxy("");
    let (origin, told) = reading_until("X-Sum: 7\r\n\r\n");
    let mut stream = client::dial(egret.proxy());
    post(&mut stream, origin.address, "Transfer-Encoding: Chunked\r\nTrailer: X-Sum\r\n");
    // Byte by byte: every state of the decoder is left and entered again.
    for byte in b"2;ext\r\nhe\r\n03\r\nllo\r\n0\r\nX-Sum: 7\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(client::read_answer(&mut stream).status, 200);
    let got = told.recv_timeout(PATIENCE).unwrap();
    let (head, body) = got.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\nTransfer-Encoding: chunked") && head.contains("\r\nTrailer: X-Sum"), "{head}");
    assert!(body.ends_with("\r\n0\r\nX-Sum: 7\r\n\r\n") && !body.contains("ext"), "{body:?}");
    let data: String = body.lines().skip(1).step_by(2).take_while(|line| *line != "X-Sum: 7").collect();
    assert_eq!(data, "hello", "{body:?}");
}

#[test]
fn a_body_of_a_length_travels_with_it_and_the_next_request_is_in_step() {
    let (egret, _folder) = proxy("");
    let (origin, told) = reading_until("hello");
    let mut stream = client::dial(egret.proxy());
    post(&mut stream, origin.address, "cOntent-length: 5\r\n");
    stream.write_all(b"hel").unwrap();
    stream
        .write_all(format!("loGET http://{o}/ HTTP/1.0\r\n\r\n", o = Origin::http(HELLO).address).as_bytes())
        .unwrap();
    assert_eq!(client::read_answer(&mut stream).body, b"hello");
    assert!(read_to_end(&mut stream).starts_with("HTTP/1.1 200 "));
    let got = told.recv_timeout(PATIENCE).unwrap();
    assert!(got.contains("\r\ncOntent-length: 5\r\n") && got.ends_with("\r\n\r\nhello"), "{got:?}");
}

#[test]
fn a_client_that_expects_100_gets_it_from_the_origin_before_it_sends() {
    let (egret, _folder) = proxy("");
    let origin = Origin::new(|mut stream| {
        let head = read_head(&mut stream).unwrap();
        assert!(head.contains("\r\nExpect: 100-continue\r\n"), "{head}");
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        read_until(&mut stream, "body");
        stream.write_all(HELLO).unwrap();
    });
    let mut stream = client::dial(egret.proxy());
    post(&mut stream, origin.address, "Expect: 100-continue\r\nContent-Length: 4\r\n");
    assert_eq!(read_head(&mut stream).unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").unwrap();
    assert_eq!(client::read_answer(&mut stream).body, b"hello");
}

#[test]
fn a_refused_expectation_ends_the_connection_because_the_body_may_still_come() {
    let (egret, _folder) = proxy("");
    let origin = Origin::http(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n");
    let mut stream = client::dial(egret.proxy());
    post(&mut stream, origin.address, "Expect: 100-continue\r\nContent-Length: 4\r\n");
    let text = read_to_end(&mut stream);
    assert!(text.starts_with("HTTP/1.1 417 ") && text.contains("\r\nConnection: close\r\n"), "{text:?}");
}

#[test]
fn an_early_answer_reaches_a_client_that_still_sends() {
    let (egret, _folder) = proxy("");
    let origin = Origin::new(|mut stream| {
        let _ = read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").unwrap();
        // Closed with bytes of the body unread: the kernel resets.
    });
    for _ in 0..10 {
        let mut stream = client::dial(egret.proxy());
        post(&mut stream, origin.address, "Content-Length: 100000000\r\n");
        let mut writer = stream.try_clone().unwrap();
        let sending = std::thread::spawn(move || while writer.write_all(&[b'x'; 16 * 1024]).is_ok() {});
        let answer = client::read_answer(&mut stream);
        assert_eq!((answer.status, answer.body.as_slice()), (413, &b"big"[..]));
        assert!(answer.head.contains("\r\nConnection: close\r\n"), "{}", answer.head);
        drop(stream);
        sending.join().unwrap();
    }
}

#[test]
fn an_upload_may_take_longer_than_an_origin_may_take_to_answer() {
    let (egret, _folder) = proxy("limits: { tunnelIdle: 1s }");
    let (origin, told) = reading_until("0123456789abcdef");
    let mut stream = client::dial(egret.proxy());
    post(&mut stream, origin.address, "Content-Length: 16\r\n");
    for digit in b"0123456789abcdef" {
        stream.write_all(&[*digit]).unwrap();
        std::thread::sleep(Duration::from_millis(100)); // what is tested is time that passes: 1.6 s in all
    }
    assert_eq!(client::read_answer(&mut stream).status, 200);
    told.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn an_origin_that_has_the_whole_request_and_does_not_answer_is_504() {
    let (egret, _folder) = proxy("limits: { tunnelIdle: 300ms }");
    let origin = Origin::new(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let mut stream = client::dial(egret.proxy());
    post(&mut stream, origin.address, "Content-Length: 2\r\n");
    stream.write_all(b"hi").unwrap();
    assert_eq!(client::read_answer(&mut stream).status, 504);
    assert_eq!(client::get(egret.proxy(), &format!("http://{}/", origin.address)).status, 504);
}

#[test]
fn a_body_that_breaks_off_never_looks_complete_to_the_origin() {
    let (tell, told) = mpsc::channel();
    let origin = Origin::new(move |mut stream| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        tell.send(String::from_utf8(all).unwrap()).unwrap();
    });
    let (egret, _folder) = proxy("");
    for (more, body) in [("Content-Length: 10\r\n", "hello"), ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n")] {
        let mut stream = client::dial(egret.proxy());
        post(&mut stream, origin.address, more);
        stream.write_all(body.as_bytes()).unwrap();
        drop(stream);
        let got = told.recv_timeout(PATIENCE).unwrap();
        assert!(!got.ends_with("0\r\n\r\n"), "{got:?}");
    }
    egret.stdout.wait_for_nth("POST / HTTP/1.1", 2);
}

#[test]
fn a_connection_that_was_answered_early_serves_nobody_else() {
    let (egret, _folder) = proxy("");
    let (tell, told) = mpsc::channel();
    let origin = Origin::new(move |mut stream| {
        let _ = read_head(&mut stream);
        stream.write_all(HELLO).unwrap();
        let mut rest = String::new();
        let _ = stream.read_to_string(&mut rest);
        tell.send(rest).unwrap();
    });
    // The rest of its body would be the next client's request.
    let mut stream = client::dial(egret.proxy());
    post(&mut stream, origin.address, "Content-Length: 10000\r\n");
    assert_eq!(client::read_answer(&mut stream).body, b"hello");
    assert_eq!(client::get(egret.proxy(), &format!("http://{}/", origin.address)).body, b"hello");
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "");
}
