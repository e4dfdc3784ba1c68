//! TCP connections: one address with as few system calls as can be, several by RFC 8305 racing.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep_until;

use super::error::DialError;
use super::resolve::{IpFamily, Lookup, ResolveError};

/// Connects to exactly this address, from the first of `source` that is of its family. Dropping the future closes the socket.
///
/// Five system calls and the wait: socket, connect, epoll_ctl, setsockopt (NODELAY), and no SO_ERROR where the readiness
/// says that the connection stands. TCP_USER_TIMEOUT and keepalive are set by the relay on tunnels that live long enough.
///
/// # Errors
/// What the kernel said.
pub(super) async fn connect(peer: SocketAddr, source: &[IpAddr]) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(peer), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if let Some(ip) = source.iter().find(|ip| ip.is_ipv4() == peer.is_ipv4()) {
        socket.bind(&SockAddr::from(SocketAddr::new(*ip, 0)))?;
    }
    match socket.connect(&SockAddr::from(peer)) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => return Err(error),
        _ => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    if stream.ready(Interest::WRITABLE).await?.is_write_closed()
        && let Some(error) = stream.take_error()?
    {
        return Err(error);
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// How attempts follow each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pacing {
    /// Between the begins of two attempts (`dial.happyEyeballsDelay`; RFC 8305 §5: 250 ms).
    pub(super) delay: Duration,
    /// Attempts in all.
    pub(super) attempts_max: usize,
    /// No attempt begins after this.
    pub(super) deadline: Instant,
}

const RESOLUTION_DELAY: Duration = Duration::from_millis(50); // RFC 8305 §3: IPv4 addresses wait that long for IPv6 ones

/// Dials the addresses of `lookup` as they arrive, families in turn, one attempt per delay or as soon as one failed, until one
/// connects; the others are dropped, which closes their sockets (RFC 8305 §5).
///
/// `arrange` may reorder or shorten each family's addresses; `attempt` judges an address and gives the future that connects to it.
///
/// # Errors
/// See [`RaceError`].
pub(super) async fn race<F: Future<Output = Result<TcpStream, DialError>>>(
    mut lookup: Lookup,
    pacing: Pacing,
    mut arrange: impl FnMut(&mut Vec<IpAddr>),
    mut attempt: impl FnMut(IpAddr) -> Result<F, DialError>,
) -> Result<(IpAddr, TcpStream), RaceError> {
    let mut queue = Queue::default();
    let mut running = FuturesUnordered::new();
    let mut failed = Failures::default();
    let mut begun = 0;
    // When the next attempt may begin.
    let mut gate = Instant::now();
    loop {
        while gate <= Instant::now() && begun < pacing.attempts_max {
            let Some(ip) = queue.next() else { break };
            begun += 1;
            match attempt(ip) {
                Ok(connecting) => {
                    running.push(async move { (ip, connecting.await) });
                    gate = Instant::now() + pacing.delay;
                }
                Err(error) => failed.add(error),
            }
        }
        let waiting = !queue.is_empty() && begun < pacing.attempts_max;
        if running.is_empty() && !waiting && (lookup.is_over() || begun >= pacing.attempts_max) {
            return Err(failed.into_error());
        }
        let until = if waiting { gate.min(pacing.deadline) } else { pacing.deadline };
        tokio::select! {
            biased;
            Some((ip, connected)) = running.next(), if !running.is_empty() => match connected {
                Ok(stream) => return Ok((ip, stream)),
                Err(error) => {
                    failed.add(error);
                    gate = Instant::now();
                }
            },
            Some((family, answer)) = lookup.next(), if !lookup.is_over() => {
                match answer {
                    Ok(ips) => {
                        let mut ips = ips.to_vec();
                        arrange(&mut ips);
                        queue.add(family, ips);
                    }
                    Err(error) => failed.unresolved(error),
                }
                if begun == 0 {
                    let early = family == IpFamily::V4 && lookup.awaits(IpFamily::V6);
                    gate = Instant::now() + if early { RESOLUTION_DELAY } else { Duration::ZERO };
                }
            },
            () = sleep_until(until.into()) => if Instant::now() >= pacing.deadline {
                failed.late = true;
                return Err(failed.into_error());
            },
        }
    }
}

/// Addresses to try, families in turn, IPv6 first.
#[derive(Debug, Default)]
struct Queue {
    v6: VecDeque<IpAddr>,
    v4: VecDeque<IpAddr>,
    v4_is_next: bool,
}

impl Queue {
    fn add(&mut self, family: IpFamily, ips: Vec<IpAddr>) {
        match family {
            IpFamily::V6 => self.v6.extend(ips),
            IpFamily::V4 => self.v4.extend(ips),
        }
    }

    fn next(&mut self) -> Option<IpAddr> {
        let (first, second) = match self.v4_is_next {
            true => (&mut self.v4, &mut self.v6),
            false => (&mut self.v6, &mut self.v4),
        };
        let ip = first.pop_front().or_else(|| second.pop_front())?;
        self.v4_is_next = ip.is_ipv6();
        Some(ip)
    }

    fn is_empty(&self) -> bool {
        self.v6.is_empty() && self.v4.is_empty()
    }
}

/// Why a race was lost.
#[derive(Debug)]
pub(super) enum RaceError {
    /// Addresses were found; this is the most telling error of dialling them.
    Dial(DialError),
    /// No address was found.
    Resolve(ResolveError),
    /// The deadline passed in DNS.
    Late,
}

#[derive(Debug, Default)]
struct Failures {
    dial: Option<DialError>,
    resolve: Option<ResolveError>,
    late: bool,
}

impl Failures {
    fn add(&mut self, error: DialError) {
        if self.dial.as_ref().is_none_or(|kept| error.weight() > kept.weight()) {
            self.dial = Some(error);
        }
    }

    fn unresolved(&mut self, error: ResolveError) {
        self.resolve = Some(match self.resolve.take() {
            Some(kept) => kept.or(error),
            None => error,
        });
    }

    fn into_error(self) -> RaceError {
        match (self.dial, self.resolve) {
            (Some(error), _) => RaceError::Dial(error),
            (None, _) if self.late => RaceError::Late,
            (None, Some(error)) => RaceError::Resolve(error),
            (None, None) => RaceError::Resolve(ResolveError::NoAddress),
        }
    }
}
