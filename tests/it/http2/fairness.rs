//! A stream whose reader stopped takes nothing from the others of its connection.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::frames::{DATA, Frames, WINDOW_UPDATE};
use crate::support::origin::Origin;
use crate::support::{Egret, PATIENCE};

const STREAMS: u32 = 99;
const CHUNK_BYTES: usize = 16 * 1024;
const VOLUME_MIB: usize = 99; // of each half, both ways together: seconds of an unoptimised build
const NOISE: Duration = Duration::from_millis(20); // of a busy machine

/// Sends 16 KiB on each stream and reads it back, round by round; the time that 99 of 100 exchanges stay below.
fn p99(client: &mut Frames, streams: impl Iterator<Item = u32> + Clone) -> Duration {
    let chunk = vec![7; CHUNK_BYTES];
    let mut times = Vec::new();
    for _ in 0..(volume_mib() << 20) / (STREAMS as usize * 2 * CHUNK_BYTES) {
        for stream in streams.clone() {
            let begin = Instant::now();
            client.send(DATA, 0, stream, &chunk);
            assert_eq!(client.data(stream, CHUNK_BYTES).len(), CHUNK_BYTES);
            client.grant(stream, CHUNK_BYTES as u32);
            times.push(begin.elapsed());
        }
    }
    times.sort();
    times[times.len() * 99 / 100]
}

/// `FAIRNESS_MIB`, which is for looking more closely by hand.
#[expect(
    clippy::disallowed_methods,
    reason = "asked of whoever runs the test; the product's own variables are src/cli's"
)]
fn volume_mib() -> usize {
    std::env::var("FAIRNESS_MIB").map_or(VOLUME_MIB, |text| text.parse().expect("FAIRNESS_MIB is a number of MiB"))
}

fn open(client: &mut Frames, stream: u32, target: std::net::SocketAddr) {
    client.connect(stream, target);
    assert_eq!(client.status(stream), 200);
}

#[test]
fn the_others_are_as_fast_as_without_it() {
    // Without delay: 40 ms of Nagle's algorithm meeting a delayed ACK would be the origin's, now and then.
    let echo = Origin::new(|mut stream| {
        stream.set_nodelay(true).unwrap();
        let mut reader = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut reader, &mut stream);
    });
    // Sends without end, and reads nothing: both directions of its tunnel stand still.
    let stuck = Origin::new(|mut stream| {
        while stream.write_all(&[7; 64 * 1024]).is_ok() {}
        std::thread::sleep(PATIENCE);
    });
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    // The connection's window is no bound here: what the stopped stream got does not come back.
    client.send(WINDOW_UPDATE, 0, 0, &(1u32 << 29).to_be_bytes());
    let others = (0..STREAMS).map(|n| 2 * n + 1);
    others.clone().for_each(|stream| open(&mut client, stream, echo.address));
    let without = p99(&mut client, others.clone());
    let before = egret.resident_bytes();

    let stopped = 2 * STREAMS + 1;
    open(&mut client, stopped, stuck.address);
    // Its window towards us fills and is never granted anew; a window's worth of ours goes to an origin that does not read.
    let chunk = vec![7; CHUNK_BYTES];
    for _ in 0..256 * 1024 / CHUNK_BYTES {
        client.send(DATA, 0, stopped, &chunk);
    }
    let with = p99(&mut client, others);
    assert!(with <= without * 2 + NOISE, "p99 {with:?} beside a stopped stream, {without:?} without it");
    let grown = egret.resident_bytes().saturating_sub(before);
    println!("{} MiB each: p99 {without:?} without it, {with:?} beside it; {grown} bytes more", volume_mib());
    assert!(grown < 8 << 20, "grew by {grown} bytes for one stream"); // 256 KiB of a window, and the allocator's share
}
