//! A side that does not read holds the other one back, and nothing piles up in between.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use super::proxy;
use crate::support::origin::{Origin, read_head};
use crate::support::{Egret, PATIENCE, client};

/// No byte for so long: whoever takes any at all does so within microseconds.
const STALLED: Duration = Duration::from_secs(1);
/// Far above what three pairs of socket buffers hold on loopback (6 MiB each at most), far below what is offered.
const BYTES_MAX: usize = 64 << 20;
const OFFERED: usize = 1 << 30;
const RSS_MAX: usize = 4 << 20;

/// Writes until nothing is taken any more; how much was.
fn fill(stream: &mut TcpStream) -> usize {
    stream.set_write_timeout(Some(STALLED)).unwrap();
    let (piece, mut taken) = (vec![b'x'; 64 * 1024], 0);
    while taken < OFFERED {
        match stream.write(&piece) {
            Ok(n) => taken += n,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return taken,
            Err(error) => panic!("{error} after {taken}"),
        }
    }
    taken
}

fn rss(egret: &Egret) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", egret.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1024
}

fn filling_after_head(head: &'static [u8]) -> (Origin, mpsc::Receiver<usize>) {
    let (tell, told) = mpsc::channel();
    let origin = Origin::new(move |mut stream| {
        if !head.is_empty() {
            let _ = read_head(&mut stream);
            stream.write_all(head).unwrap();
        }
        tell.send(fill(&mut stream)).unwrap();
        let _ = stream.read(&mut [0]); // holds it open until the other side is gone
    });
    (origin, told)
}

#[test]
fn a_client_that_does_not_read_holds_the_origin_back() {
    let (egret, _folder) = proxy("");
    for head in [&b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\n\r\n", b""] {
        let (origin, told) = filling_after_head(head);
        let before = rss(&egret);
        let mut stream = if head.is_empty() {
            client::tunnel(egret.proxy(), origin.address)
        } else {
            let mut stream = client::dial(egret.proxy());
            write!(stream, "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n", o = origin.address).unwrap();
            stream
        };
        let taken = told.recv_timeout(PATIENCE).unwrap();
        assert!(taken < BYTES_MAX, "{taken}");
        assert!(rss(&egret) < before + RSS_MAX, "{before} before, {} now", rss(&egret));
        let mut some = [0; 64 * 1024];
        assert!(stream.read(&mut some).unwrap() > 0, "what was taken is there");
    }
}

#[test]
fn an_origin_that_does_not_read_holds_the_client_back() {
    let (egret, _folder) = proxy("");
    let (hold, held) = mpsc::channel();
    let origin = Origin::new(move |stream| hold.send(stream).unwrap());
    let before = rss(&egret);
    let mut streams = Vec::new();
    for framing in ["Content-Length: 1073741824\r\n", "Transfer-Encoding: chunked\r\n", ""] {
        let mut stream = if framing.is_empty() {
            client::tunnel(egret.proxy(), origin.address)
        } else {
            let mut stream = client::dial(egret.proxy());
            write!(stream, "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\n{framing}\r\n", o = origin.address).unwrap();
            if framing.starts_with('T') {
                stream.write_all(b"40000000\r\n").unwrap();
            }
            stream
        };
        let taken = fill(&mut stream);
        assert!(taken < BYTES_MAX, "{framing:?} {taken}");
        streams.push((stream, held.recv_timeout(PATIENCE).unwrap()));
    }
    assert!(rss(&egret) < before + RSS_MAX, "{before} before, {} now", rss(&egret));
}
