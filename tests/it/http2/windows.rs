//! Flow control: what is held for a stream, and who pays for a window that is closed.

use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use crate::limits::reached;
use crate::support::frames::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PROTOCOL_ERROR, block};
use crate::support::origin::Origin;
use crate::support::{Egret, PATIENCE, eventually};
use crate::wire::proxy;

#[test]
fn a_body_that_is_slow_by_itself_ends_by_its_rate_over_http2_too() {
    let (egret, _folder) = proxy("limits: { bodyIdle: 1s, bodyRateMin: 100 }");
    let origin = Origin::mirror();
    let mut client = Frames::open(egret.proxy());
    let authority = origin.address.to_string();
    let post = [(":method", "POST"), (":scheme", "http"), (":authority", &*authority), (":path", "/")];
    client.request(1, false, &post);
    let began = std::time::Instant::now();
    let status = loop {
        client.send(DATA, 0, 1, b"x");
        std::thread::sleep(Duration::from_millis(100)); // the client is slow: that is what is tested
        client.is_alive();
        if let Some(head) = client.seen(|frame| frame.stream == 1 && frame.kind == HEADERS) {
            break head.status();
        }
        assert!(began.elapsed() < PATIENCE);
    };
    assert_eq!((status, reached(&egret, "body_rate_min"), reached(&egret, "body_idle")), (408, 1, 0));
    assert!(began.elapsed() >= Duration::from_millis(950), "{:?}", began.elapsed());
    // Fast enough, it may take longer than that in all.
    client.request(3, false, &post);
    for _ in 0..15 {
        client.send(DATA, 0, 3, &[b'x'; 200]);
        std::thread::sleep(Duration::from_millis(100)); // the same
    }
    client.send(DATA, END_STREAM, 3, b"");
    assert_eq!(client.status(3), 200);
    assert_eq!(reached(&egret, "body_rate_min"), 1);
}

#[test]
fn tunnels_whose_readers_stopped_hold_no_more_than_a_window_each() {
    const STREAMS: u32 = 100;
    let pouring = Origin::new(|mut stream| while stream.write_all(&[7; 64 * 1024]).is_ok() {});
    let egret = Egret::start();
    let mut client = Frames::open_with(egret.proxy(), &[(4, 0)]);
    let open = |client: &mut Frames, streams: std::ops::Range<u32>| {
        for stream in streams {
            client.connect(2 * stream + 1, pouring.address);
            assert_eq!(client.status(2 * stream + 1), 200);
        }
    };
    let before = egret.resident_bytes();
    open(&mut client, 0..STREAMS);
    let mut last = 0;
    eventually("nothing grows any more", || {
        std::thread::sleep(Duration::from_millis(100)); // between two looks
        let now = egret.resident_bytes();
        std::mem::replace(&mut last, now) == now
    });
    let grown = last.saturating_sub(before) / u64::from(STREAMS);
    assert!(grown <= 256 * 1024, "{grown} bytes for each");
    assert!(client.is_alive());
}

#[test]
fn trailers_in_a_tunnel_are_an_error() {
    let (tell, told) = mpsc::channel();
    let origin = Origin::new(move |mut stream| {
        let read = stream.read_to_end(&mut Vec::new());
        tell.send(read.map_err(|error| error.kind())).unwrap();
    });
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    client.connect(1, origin.address);
    assert_eq!(client.status(1), 200);
    client.send(DATA, 0, 1, b"data");
    client.send(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("checksum", "7")]));
    assert_eq!(client.reset(1), PROTOCOL_ERROR);
    let read = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(read, Err(std::io::ErrorKind::ConnectionReset), "no end that looks like one in order");
    assert!(client.is_alive());
}
