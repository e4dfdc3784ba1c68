//! Upstream connections that serve more than one request, and what happens when one of them has died.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{proxy, read_until};
use crate::support::client;
use crate::support::origin::{HELLO, Origin, read_head};

/// Counts its connections; serves `requests` of each and closes when one more arrives, without a word.
struct Fickle {
    origin: Origin,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Fickle {
    fn serving(per_connection: usize, answer: &'static [u8]) -> Self {
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (opened, seen) = (connections.clone(), requests.clone());
        let origin = Origin::new(move |mut stream| {
            opened.fetch_add(1, Ordering::SeqCst);
            for served in 0.. {
                let Some(head) = read_head(&mut stream) else { return };
                seen.fetch_add(1, Ordering::SeqCst);
                if served == per_connection {
                    return;
                }
                if head.contains("Content-Length: 2") {
                    read_until(&mut stream, "hi");
                }
                stream.write_all(answer).unwrap();
            }
        });
        Self { origin, connections, requests }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.origin.address)
    }

    fn counts(&self) -> (usize, usize) {
        (self.connections.load(Ordering::SeqCst), self.requests.load(Ordering::SeqCst))
    }
}

#[test]
fn one_upstream_connection_serves_clients_one_after_the_other() {
    let (egret, _folder) = proxy("");
    let origin = Fickle::serving(usize::MAX, HELLO);
    for _ in 0..3 {
        let mut stream = client::dial(egret.proxy());
        for _ in 0..3 {
            assert_eq!(client::ask(&mut stream, "GET", &origin.url()).body, b"hello");
        }
        write!(stream, "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", origin.url()).unwrap();
        assert_eq!(client::read_answer(&mut stream).body, b"hello");
    }
    assert_eq!(origin.counts(), (1, 12));
}

#[test]
fn a_connection_that_says_close_or_has_bytes_left_over_serves_nobody_else() {
    let (egret, _folder) = proxy("");
    for answer in [
        &b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"[..],
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    ] {
        let origin = Fickle::serving(usize::MAX, answer);
        for _ in 0..3 {
            assert_eq!(client::get(egret.proxy(), &origin.url()).body, b"hello");
        }
        assert_eq!(origin.counts(), (3, 3), "{}", String::from_utf8_lossy(answer));
    }
}

#[test]
fn bytes_that_come_between_two_requests_are_no_answer() {
    let (egret, _folder) = proxy("");
    let (poison, poisoned) = std::sync::mpsc::channel();
    let origin = Origin::new(move |mut stream| {
        while read_head(&mut stream).is_some() {
            stream.write_all(HELLO).unwrap();
            // Not together with the answer: the connection is in the pool when this comes.
            std::thread::sleep(std::time::Duration::from_millis(50));
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").unwrap();
            let _ = poison.send(());
        }
    });
    let url = format!("http://{}/", origin.address);
    for _ in 0..3 {
        assert_eq!(client::get(egret.proxy(), &url).body, b"hello");
        poisoned.recv_timeout(crate::support::PATIENCE).unwrap();
    }
}

#[test]
fn a_reused_connection_that_died_is_replaced_once_for_a_get_and_never_for_a_post() {
    let (egret, _folder) = proxy("");
    let origin = Fickle::serving(1, HELLO);
    let mut stream = client::dial(egret.proxy());
    for _ in 0..2 {
        assert_eq!(client::ask(&mut stream, "GET", &origin.url()).body, b"hello");
    }
    assert_eq!(origin.counts(), (2, 3), "the second request was sent twice");

    write!(stream, "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", origin.url()).unwrap();
    let answer = client::read_answer(&mut stream);
    assert_eq!(answer.status, 502);
    assert_eq!(origin.counts(), (2, 4), "a POST is sent once");

    let mut stream = client::dial(egret.proxy());
    assert_eq!(client::ask(&mut stream, "GET", &origin.url()).status, 200);
    write!(stream, "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", origin.url()).unwrap();
    assert_eq!(client::read_answer(&mut stream).status, 502, "without a body neither");
    assert_eq!(origin.counts(), (3, 6));
}

#[test]
fn a_fresh_connection_that_dies_is_not_replaced() {
    let (egret, _folder) = proxy("");
    let origin = Fickle::serving(0, HELLO);
    assert_eq!(client::get(egret.proxy(), &origin.url()).status, 502);
    assert_eq!(origin.counts(), (1, 1));
}

#[test]
fn a_connection_that_the_origin_closed_in_the_pool_is_not_used() {
    let (egret, _folder) = proxy("");
    let (gone, is_gone) = std::sync::mpsc::channel();
    let origin = Origin::new(move |mut stream| {
        let _ = read_head(&mut stream);
        stream.write_all(HELLO).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = gone.send(());
        let _ = stream.read(&mut [0]);
    });
    for _ in 0..3 {
        // POST: were the dead connection used, the request could not be repeated.
        let mut stream = client::dial(egret.proxy());
        write!(stream, "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n", o = origin.address).unwrap();
        assert_eq!(client::read_answer(&mut stream).status, 200);
        is_gone.recv_timeout(crate::support::PATIENCE).unwrap();
    }
}
