//! What a client may make us hold and do: floods are answered with ENHANCE_YOUR_CALM, or held within bounds.

use std::io::Read;

use rustix::process::Signal;

use crate::support::frames::{
    CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frames, GOAWAY, HEADERS, NO_ERROR, PING,
    RST_STREAM, SETTINGS, block, frame, get,
};
use crate::support::origin::{HELLO, Origin};
use crate::support::{Egret, eventually};

const GROWTH_MAX: u64 = 32 * 1024 * 1024; // of the whole process, for one hostile connection

/// Sends the same bytes until the proxy hangs up; gives the code of its GOAWAY.
fn flood(egret: &Egret, client: &mut Frames, mut next: impl FnMut(u32) -> Vec<u8>) -> Option<u32> {
    let before = egret.resident_bytes();
    for n in 0..200_000 {
        let bytes = next(n);
        client.bytes(&bytes);
        if n % 1000 == 999 && std::io::Write::write(&mut client.stream, &[]).is_err() {
            break;
        }
    }
    let code = client.find(|frame| frame.kind == GOAWAY).map(|frame| frame.code());
    let grown = egret.resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "grew by {grown} bytes");
    code
}

#[test]
fn rapid_reset_ends_the_connection() {
    let origin = Origin::http(HELLO);
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    let authority = origin.address.to_string();
    let mut burst = Vec::new();
    for n in 0..500 {
        burst.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &block(&get(&authority, "/"))));
        burst.extend(frame(RST_STREAM, 0, 2 * n + 1, &CANCEL.to_be_bytes()));
    }
    client.bytes(&burst);
    assert_eq!(client.wait(|frame| frame.kind == GOAWAY).code(), ENHANCE_YOUR_CALM);
    eventually("nothing is left of it", || egret.metric("egret_http2_streams_open") == 0);
    assert!(Frames::open(egret.proxy()).is_alive());
}

#[test]
fn a_flood_of_continuations_ends_the_connection() {
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    client.send(HEADERS, 0, 1, &block(&get("a.example", "/")));
    let more = frame(CONTINUATION, 0, 1, &block(&[("x", "y")]));
    assert_eq!(flood(&egret, &mut client, |_| more.clone()), Some(ENHANCE_YOUR_CALM));
}

#[test]
fn a_bomb_of_fields_is_refused_within_bounds() {
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    let before = egret.resident_bytes();
    // One entry of 4 KB in the table, and then 12,000 references to it: 48 MB of fields in 12 KB.
    let mut bomb = block(&get("a.example", "/"));
    let value = "v".repeat(4000);
    let literal = block(&[("x", &value)]);
    bomb.push(0x40);
    bomb.extend(&literal[1..]);
    bomb.extend(std::iter::repeat_n(0xbe, 11_000)); // index 62: the newest entry
    client.send(HEADERS, END_HEADERS | END_STREAM, 1, &bomb);
    let answer = client.wait(|frame| matches!(frame.kind, HEADERS | RST_STREAM | GOAWAY));
    assert!(answer.kind != HEADERS || answer.status() == 431, "{answer:?}");
    assert!(egret.resident_bytes().saturating_sub(before) < GROWTH_MAX);
}

#[test]
fn floods_of_settings_and_pings_are_held_back_by_the_socket() {
    let egret = Egret::start();
    for bytes in [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, b"12345678")] {
        let client = Frames::open(egret.proxy());
        let before = egret.resident_bytes();
        client.stream.set_nonblocking(true).unwrap();
        // Nothing is read: at some point nothing can be written any more, and that is all that happens.
        let burst = bytes.repeat(1000);
        let (mut at, mut refused) = (0, 0);
        for _ in 0..20_000 {
            match std::io::Write::write(&mut &client.stream, &burst[at..]) {
                Ok(n) => (at, refused) = ((at + n) % burst.len(), 0),
                Err(_) => {
                    refused += 1;
                    std::thread::yield_now();
                }
            }
            if refused > 1000 {
                break;
            }
        }
        assert!(egret.resident_bytes().saturating_sub(before) < GROWTH_MAX);
    }
    assert!(Frames::open(egret.proxy()).is_alive());
}

#[test]
fn a_flood_of_tiny_data_frames_ends_the_connection() {
    let origin = Origin::echo();
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    client.connect(1, origin.address);
    assert_eq!(client.status(1), 200);
    let before = egret.resident_bytes();
    client.bytes(&frame(DATA, 0, 1, b"").repeat(100_000));
    assert_eq!(client.wait(|frame| frame.kind == GOAWAY).code(), ENHANCE_YOUR_CALM);
    assert!(egret.resident_bytes().saturating_sub(before) < GROWTH_MAX);
}

#[test]
fn windows_of_zero_hold_no_more_than_a_queue_for_each_stream() {
    let origin = Origin::new(|mut stream| {
        let _ = crate::support::origin::read_head(&mut stream);
        let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 16777216\r\n\r\n");
        let _ = std::io::Write::write_all(&mut stream, &vec![7; 16 << 20]);
        let _ = stream.read(&mut [0]);
    });
    let egret = Egret::start();
    let mut client = Frames::open_with(egret.proxy(), &[(4, 0)]);
    let before = egret.resident_bytes();
    for n in 0..100 {
        client.get(2 * n + 1, origin.address, "/big");
    }
    for n in 0..100 {
        assert_eq!(client.status(2 * n + 1), 200);
    }
    // The 101st waits or is refused, and the connection lives.
    client.get(201, origin.address, "/one-too-many");
    assert!(client.is_alive());
    let grown = egret.resident_bytes().saturating_sub(before);
    assert!(grown < 100 * 256 * 1024, "grew by {grown} bytes");
}

#[test]
fn drain_says_goaway_and_serves_what_runs() {
    let origin = Origin::echo();
    let mut egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    client.connect(1, origin.address);
    assert_eq!(client.status(1), 200);
    egret.signal(Signal::TERM);
    assert_eq!(client.wait(|frame| frame.kind == GOAWAY).code(), NO_ERROR);
    client.send(DATA, 0, 1, b"still here");
    assert_eq!(client.data(1, 10), b"still here");
    client.send(DATA, END_STREAM, 1, b"");
    assert_eq!(egret.wait().code(), Some(0));
}
