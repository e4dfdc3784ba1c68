//! Work inside tunnels: short ones, long ones, full ones, idle ones.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream};
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

/// The same, each to another target: `authority` of the number of the tunnel.
pub(crate) async fn connects_by_name(
    entrance: Entrance,
    authority: impl Fn(u64) -> String + Clone + 'static,
    operations: u64,
    concurrency: usize,
    begin: impl FnOnce(),
) -> Seen {
    let next = Rc::new(Cell::new(0));
    begin();
    each(operations, concurrency, async move || {
        let target = authority(next.replace(next.get() + 1));
        let answered = async {
            let mut wire = Wire::tunnel(entrance, &target).await?;
            wire.exchange(SMALL_REQUEST).await
        };
        match answered.await {
            Ok(200) => Ok(()),
            Ok(status) => Err(std::io::Error::other(format!("{target}: answered {status} inside the tunnel"))),
            Err(error) => Err(std::io::Error::other(format!("{target}: {error}"))),
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

/// Tunnels that stay open, of several clients.
pub(crate) struct Held(Vec<Wire>);

impl Held {
    /// Opens `tunnels` tunnels to `target`, from `sources` in turn, each used once.
    pub(crate) async fn open(
        entrance: Entrance,
        target: &'static str,
        sources: &[IpAddr],
        tunnels: usize,
    ) -> std::io::Result<Self> {
        let mut held = Vec::with_capacity(tunnels);
        while held.len() < tunnels {
            let mut opening = JoinSet::new();
            for n in held.len()..tunnels.min(held.len() + HOLD_CONCURRENCY) {
                let source = sources[n % sources.len()];
                opening.spawn_local(async move {
                    let socket = TcpSocket::new_v4()?;
                    socket.bind(SocketAddr::from((source, 0)))?;
                    let stream = socket.connect(entrance.address).await?;
                    let mut wire = Wire { stream, buffer: Vec::new() };
                    wire.connect(target).await?;
                    wire.exchange(SMALL_REQUEST).await?;
                    std::io::Result::Ok(wire)
                });
            }
            for wire in opening.join_all().await {
                held.push(wire?);
            }
        }
        Ok(Self(held))
    }

    /// Another request and its answer in each.
    pub(crate) async fn use_again(&mut self) -> std::io::Result<()> {
        for some in self.0.chunks_mut(HOLD_CONCURRENCY) {
            for wire in &mut *some {
                wire.stream.write_all(SMALL_REQUEST).await?;
            }
            for wire in some {
                let length = wire.head().await?.content_length;
                wire.body(length).await?;
            }
        }
        Ok(())
    }

    /// Waits until the proxy has ended each of them.
    pub(crate) async fn all_end(&mut self, limit: Duration) -> std::io::Result<()> {
        let ended = async {
            for wire in &mut self.0 {
                // A reset is an end too.
                if wire.stream.read_buf(&mut wire.buffer).await.is_ok_and(|count| count > 0) {
                    return Err(std::io::Error::other("bytes came where an end was waited for"));
                }
            }
            Ok(())
        };
        tokio::time::timeout(limit, ended).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }
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
