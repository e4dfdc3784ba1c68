//! Bodies and connections that take their time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::reached;
use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::{Egret, client, eventually};
use crate::wire::{proxy, read_to_end};

/// Sends `pieces` of a body of 1000 bytes or more, each after `pause`, for as long as the proxy takes them.
fn dribble(egret: &Egret, origin: &Origin, piece: usize, pieces: usize, pause: Duration) -> (String, Duration) {
    let mut stream = client::dial(egret.proxy());
    let length = piece * pieces;
    write!(stream, "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: {length}\r\n\r\n", o = origin.address)
        .unwrap();
    let mut sender = stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        for _ in 0..pieces {
            std::thread::sleep(pause); // the client is slow: that is what is tested
            if sender.write_all(&vec![b'x'; piece]).is_err() {
                return;
            }
        }
    });
    let began = Instant::now();
    let answer = read_head(&mut stream).unwrap_or_default();
    let took = began.elapsed();
    drop(stream);
    sending.join().unwrap();
    (answer, took)
}

#[test]
fn a_body_that_never_pauses_for_long_but_never_gets_on_ends_by_its_rate() {
    let (egret, _folder) = proxy("limits: { bodyIdle: 1s, bodyRateMin: 100 }");
    let origin = Origin::mirror();
    // A byte each 100 ms: no pause is long, and after a second and a tenth of another one it is too slow all the same.
    let (answer, took) = dribble(&egret, &origin, 1, 100, Duration::from_millis(100));
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("too slowly"), "{answer}");
    assert!(took >= Duration::from_millis(950) && took < Duration::from_secs(6), "{took:?}");
    assert_eq!((reached(&egret, "body_rate_min"), reached(&egret, "body_idle")), (1, 0));
    // Twenty times as fast as asked for: it may take longer than bodyIdle in all.
    let (answer, took) = dribble(&egret, &origin, 200, 20, Duration::from_millis(100));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(took > Duration::from_secs(1), "{took:?}");
    assert_eq!(reached(&egret, "body_rate_min"), 1);
}

#[test]
fn without_a_rate_only_a_pause_ends_a_body() {
    let (egret, _folder) = proxy("limits: { bodyIdle: 1s, bodyRateMin: 0 }");
    let (answer, _) = dribble(&egret, &Origin::mirror(), 1, 25, Duration::from_millis(100));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let (answer, _) = dribble(&egret, &Origin::mirror(), 1, 2, Duration::from_millis(2500));
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("paused"), "{answer}");
    assert_eq!((reached(&egret, "body_rate_min"), reached(&egret, "body_idle")), (0, 1));
}

#[test]
fn an_answer_may_be_as_slow_as_an_event_stream() {
    let (egret, _folder) = proxy("limits: { bodyIdle: 1s, bodyRateMin: 1KiB }");
    let events = Origin::new(|mut stream| {
        let _ = read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").unwrap();
        for _ in 0..25 {
            std::thread::sleep(Duration::from_millis(100)); // an event now and then
            if stream.write_all(b"data: x\n\n").is_err() {
                return;
            }
        }
    });
    let mut stream = client::dial(egret.proxy());
    write!(stream, "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nConnection: close\r\n\r\n", o = events.address).unwrap();
    assert_eq!(read_to_end(&mut stream).matches("data: x").count(), 25);
    assert_eq!(reached(&egret, "body_rate_min"), 0);
}

#[test]
fn what_the_origin_is_waited_for_is_not_held_against_the_client() {
    let (egret, _folder) = proxy("limits: { bodyIdle: 2s, bodyRateMin: 1MiB }");
    let slow_reader = Origin::new(|mut stream| {
        let _ = read_head(&mut stream);
        let mut left = 12 << 20;
        let mut piece = vec![0; 512 * 1024];
        while left > 0 {
            std::thread::sleep(Duration::from_millis(150)); // the origin is slow
            let Ok(read @ 1..) = stream.read(&mut piece) else { return };
            left -= read;
        }
        stream.write_all(HELLO).unwrap();
    });
    let mut stream: TcpStream = client::dial(egret.proxy());
    write!(
        stream,
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: {}\r\n\r\n",
        12 << 20,
        o = slow_reader.address
    )
    .unwrap();
    stream.write_all(&vec![b'x'; 12 << 20]).unwrap();
    assert_eq!(client::read_answer(&mut stream).status, 200);
}

#[test]
fn a_connection_waits_for_its_next_request_for_a_time_of_its_own() {
    let (egret, _folder) = proxy("limits: { keepAliveIdle: 500ms, tunnelIdle: 1h, headTime: 20s }");
    let origin = Origin::http(HELLO);
    let url = format!("http://{}/", origin.address);
    let mut stream = client::dial(egret.proxy());
    for _ in 0..2 {
        assert_eq!(client::ask(&mut stream, "GET", &url).status, 200);
    }
    assert_eq!(reached(&egret, "keep_alive_idle"), 0);
    assert_eq!(read_to_end(&mut stream), "", "closed in order");
    assert_eq!(reached(&egret, "keep_alive_idle"), 1);
    let (egret, _folder) = proxy("limits: { keepAliveIdle: 0, tunnelIdle: 100ms, headTime: 100ms }");
    let mut stream = client::dial(egret.proxy());
    assert_eq!(client::ask(&mut stream, "GET", &url).status, 200);
    let waited = Instant::now();
    eventually("it waits longer than for a head", || waited.elapsed() > Duration::from_millis(500));
    assert_eq!(client::ask(&mut stream, "GET", &url).status, 200, "no limit");
}

#[test]
fn tunnels_end_by_their_idle_time_and_their_lifetime() {
    let origin = Origin::echo();
    for (settings, limit, flag) in
        [("tunnelIdle: 500ms", "tunnel_idle", " SI "), ("tunnelLifetime: 500ms", "tunnel_lifetime", " DT ")]
    {
        let (egret, _folder) = proxy(&format!("limits: {{ {settings} }}"));
        let mut tunnel = client::tunnel(egret.proxy(), origin.address);
        let began = Instant::now();
        while limit == "tunnel_lifetime" && began.elapsed() < Duration::from_millis(300) {
            assert!(client::echoes(&mut tunnel, b"busy"));
        }
        assert_eq!(reached(&egret, limit), 0);
        assert!(client::ends(&mut tunnel));
        assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());
        egret.stdout.wait_for(flag);
        assert_eq!(reached(&egret, limit), 1);
    }
}

#[test]
fn heads_are_counted_by_what_is_too_much_about_them() {
    let (egret, _folder) = proxy("limits: { headBytes: 1KiB, headFields: 10, headTime: 300ms }");
    let head = |fields: usize, bytes: usize| {
        let filler: String = (1..fields).map(|n| format!("A{n}: x\r\n")).collect();
        let head = format!("GET http://10.0.0.1/ HTTP/1.1\r\nHost: 10.0.0.1\r\n{filler}");
        let padding = bytes.saturating_sub(head.len() + 2);
        head.replace("/ HTTP", &format!("/{} HTTP", "p".repeat(padding))) + "\r\n"
    };
    let status = |bytes: String| {
        let mut stream = client::dial(egret.proxy());
        stream.write_all(bytes.as_bytes()).unwrap();
        client::read_answer(&mut stream).status
    };
    assert_eq!((status(head(10, 0)), reached(&egret, "head_fields")), (403, 0));
    assert_eq!((status(head(11, 0)), reached(&egret, "head_fields")), (431, 1));
    assert_eq!((status(head(2, 1024)), reached(&egret, "head_bytes")), (403, 0));
    assert_eq!((status(head(2, 1025)), reached(&egret, "head_bytes")), (431, 1));
    assert_eq!((status("GET http://10.0.0.1/ HTTP/1.1\r\n".to_owned()), reached(&egret, "head_time")), (408, 1));
}
