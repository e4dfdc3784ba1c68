//! Work inside tunnels: short ones, long ones, full ones, idle ones.

use std::net::SocketAddr;
use std::time::Instant;

use rustix::net::RecvFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::requests::each;
use super::{Entrance, Seen, Wire};

/// Open a tunnel, one small request and its answer, close.
pub(crate) async fn connects(
    entrance: Entrance,
    target: SocketAddr,
    operations: u64,
    concurrency: usize,
    begin: impl FnOnce(),
) -> Seen {
    begin();
    each(operations, concurrency, async move || {
        let mut wire = Wire::tunnel(entrance, target).await?;
        match wire.exchange(SMALL_REQUEST).await? {
            200 => Ok(()),
            status => Err(std::io::Error::other(format!("answered {status} inside the tunnel"))),
        }
    })
    .await
}

/// `bytes` from the origin to the clients, shared by `tunnels` tunnels. An operation is a tunnel.
pub(crate) async fn bulk(
    entrance: Entrance,
    target: SocketAddr,
    bytes: u64,
    tunnels: u64,
    begin: impl FnOnce(),
) -> std::io::Result<Seen> {
    let mut wires = Vec::new();
    for _ in 0..tunnels {
        wires.push(Wire::tunnel(entrance, target).await?);
    }
    begin();
    let mut clients = JoinSet::new();
    for mut wire in wires {
        let share = bytes / tunnels;
        clients.spawn_local(async move {
            let mut seen = Seen::new();
            let started = Instant::now();
            match download(&mut wire, share).await {
                Ok(()) => {
                    seen.success(started.elapsed());
                    seen.bytes = share;
                }
                Err(error) => seen.failure(&error),
            }
            seen
        });
    }
    Ok(clients.join_all().await.into_iter().fold(Seen::new(), Seen::merge))
}

/// `operations` round trips of 64 bytes in one tunnel.
pub(crate) async fn ping_pong(
    entrance: Entrance,
    target: SocketAddr,
    operations: u64,
    begin: impl FnOnce(),
) -> std::io::Result<Seen> {
    let mut wire = Wire::tunnel(entrance, target).await?;
    wire.stream.write_all(b"GET /echo HTTP/1.1\r\nHost: origin.test\r\n\r\n").await?;
    wire.head().await?;
    let mut seen = Seen::new();
    let (message, mut echoed) = ([b'p'; 64], [0; 64]);
    begin();
    for _ in 0..operations {
        let started = Instant::now();
        wire.stream.write_all(&message).await?;
        wire.stream.read_exact(&mut echoed).await?;
        seen.success(started.elapsed());
    }
    Ok(seen)
}

/// Opens `tunnels` tunnels, each used once, and hands them over still open.
pub(crate) async fn hold(
    entrance: Entrance,
    targets: &[SocketAddr],
    tunnels: usize,
) -> std::io::Result<Vec<TcpStream>> {
    let mut held = Vec::with_capacity(tunnels);
    while held.len() < tunnels {
        let mut opening = JoinSet::new();
        for _ in 0..(tunnels - held.len()).min(HOLD_CONCURRENCY) {
            let target = targets[held.len() % targets.len()];
            opening.spawn_local(async move {
                let mut wire = Wire::tunnel(entrance, target).await?;
                wire.exchange(SMALL_REQUEST).await?;
                std::io::Result::Ok(wire.stream)
            });
        }
        for stream in opening.join_all().await {
            held.push(stream?);
        }
    }
    Ok(held)
}

async fn download(wire: &mut Wire, bytes: u64) -> std::io::Result<()> {
    wire.stream.write_all(format!("GET /bulk/{bytes} HTTP/1.1\r\nHost: origin.test\r\n\r\n").as_bytes()).await?;
    wire.head().await?;
    let mut left = bytes.saturating_sub(wire.buffer.len() as u64);
    let mut unused = vec![0; DISCARD_BYTES];
    while left > 0 {
        // MSG_TRUNC on TCP takes bytes off the socket without copying them: the generator shares its core with the origin.
        let discard = || Ok(rustix::net::recv(&wire.stream, &mut unused[..], RecvFlags::TRUNC | RecvFlags::DONTWAIT)?);
        match wire.stream.async_io(Interest::READABLE, discard).await? {
            (0, 0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            (_, count) => left = left.saturating_sub(count as u64),
        }
    }
    Ok(())
}

pub(super) const SMALL_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n";
/// As many as every contestant's listen queue holds.
const HOLD_CONCURRENCY: usize = 64;
const DISCARD_BYTES: usize = 1024 * 1024;
