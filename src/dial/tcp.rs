//! TCP connections: one address with as few system calls as can be, several by RFC 8305 racing.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep_until;

use super::error::DialError;
use super::resolve::{IpFamily, Lookup, ResolveError};
use crate::route::connection_pool::Keepalive;
use crate::stream::descriptors;

/// Connects to exactly this address, from the first of `source` that is of its family. Dropping the future closes the socket.
///
/// Five system calls and the wait: socket, connect, epoll_ctl, setsockopt (NODELAY), and no SO_ERROR where the readiness
/// says that the connection stands. TCP_USER_TIMEOUT and keepalive are set by the relay on tunnels that live long enough.
///
/// # Errors
/// What the kernel said.
pub(super) async fn connect(peer: SocketAddr, source: &[IpAddr]) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(peer), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if descriptors::is_reserved(&socket) {
        return Err(descriptors::exhausted());
    }
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

/// Sets what a rule says of keepalive.
pub(super) fn keep_alive(stream: &TcpStream, keepalive: Keepalive) {
    let Keepalive { probes, time, interval } = keepalive;
    let mut asked = TcpKeepalive::new();
    if let Some(time) = time {
        asked = asked.with_time(time);
    }
    if let Some(interval) = interval {
        asked = asked.with_interval(interval);
    }
    if let Some(probes) = probes {
        asked = asked.with_retries(probes);
    }
    // Fails only on a socket that is gone already.
    let _ = SockRef::from(stream).set_tcp_keepalive(&asked);
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
pub(super) async fn race<T, F: Future<Output = Result<T, DialError>>>(
    mut lookup: Lookup,
    pacing: Pacing,
    mut arrange: impl FnMut(&mut Vec<IpAddr>),
    mut attempt: impl FnMut(IpAddr) -> Result<F, DialError>,
) -> Result<(IpAddr, T), RaceError> {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::*;
    use super::super::{Dialed, Dialer};
    use super::*;
    use crate::flow::{DialTrace, ErrorType};
    use crate::route::{Cluster, Discovery};

    async fn dial(dialer: &Dialer, cluster: Cluster, port: u16) -> (Result<Dialed, DialError>, DialTrace, Duration) {
        let (mut trace, started) = (DialTrace::default(), Instant::now());
        let target = target(&format!("a.example:{port}"));
        let dialed = dialer.dial(&Arc::new(cluster), &target, soon(), &mut trace).await;
        (dialed, trace, started.elapsed())
    }

    fn addresses(ips: &[&str]) -> impl Fn(&str, u16) -> Reply + Send + Sync + 'static {
        let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        move |_, _| Reply::Addresses(ips.clone(), 60)
    }

    /// Every wait that must not be waited out takes five seconds: also a busy machine tells them from none.
    fn patient(dns: &FakeDns) -> Dialer {
        let mut settings = settings();
        settings.dns.servers = vec![dns.addr];
        settings.dns.timeout = Duration::from_secs(5);
        settings.happy_eyeballs_delay = Duration::from_secs(5);
        Dialer::new(settings).unwrap()
    }

    const AT_ONCE: Duration = Duration::from_secs(4);

    #[tokio::test]
    async fn the_next_address_is_tried_after_the_delay_while_the_first_gets_no_answer() {
        let good = listen("127.0.0.3", 0).await;
        let port = good.local_addr().unwrap().port();
        let _hole = BlackHole::open(SocketAddr::from(([127, 0, 0, 2], port)));
        let dns = FakeDns::start(addresses(&["127.0.0.2", "127.0.0.3"])).await;
        let (dialed, trace, took) = dial(&dialer_asking(&dns), cluster(), port).await;
        assert!(dialed.is_ok());
        assert_eq!((trace.upstream, trace.attempts), (Some(good.local_addr().unwrap()), 2));
        assert!(took >= Duration::from_millis(240) && took < AT_ONCE, "{took:?}");
    }

    #[tokio::test]
    async fn a_refused_address_is_followed_by_the_next_at_once() {
        let good = listen("127.0.0.3", 0).await;
        let port = good.local_addr().unwrap().port();
        let dns = FakeDns::start(addresses(&["127.0.0.2", "::1", "127.0.0.3"])).await;
        let (dialed, trace, took) = dial(&patient(&dns), cluster(), port).await;
        assert!(dialed.is_ok());
        assert_eq!(trace.attempts, 3);
        assert!(took < AT_ONCE, "{took:?}");
    }

    #[tokio::test]
    async fn families_alternate_beginning_with_ipv6() {
        let mut queue = Queue::default();
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse::<IpAddr>().unwrap()).collect::<Vec<_>>();
        queue.add(IpFamily::V4, ips(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]));
        queue.add(IpFamily::V6, ips(&["2001:db8::1", "2001:db8::2"]));
        let order: Vec<_> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(order, ips(&["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.3"]));
    }

    #[tokio::test]
    async fn a_dead_aaaa_question_delays_ipv4_by_fifty_milliseconds_only() {
        let good = listen("127.0.0.1", 0).await;
        let ip = good.local_addr().unwrap().ip();
        let say = move |_: &str, kind| if kind == AAAA { Reply::Silence } else { Reply::Addresses(vec![ip], 60) };
        let dns = FakeDns::start(say).await;
        let (dialed, trace, took) = dial(&patient(&dns), cluster(), good.local_addr().unwrap().port()).await;
        assert!(dialed.is_ok());
        assert_eq!(trace.attempts, 1);
        assert!(took >= Duration::from_millis(50) && took < AT_ONCE, "{took:?}");
        assert!(trace.dns >= Duration::from_millis(50));
    }

    #[tokio::test]
    async fn dialling_begins_with_the_first_ipv6_answer() {
        let good = listen("::1", 0).await;
        let (ip, port) = (good.local_addr().unwrap().ip(), good.local_addr().unwrap().port());
        let say = move |_: &str, kind| if kind == A { Reply::Silence } else { Reply::Addresses(vec![ip], 60) };
        let dns = FakeDns::start(say).await;
        let (dialed, _, took) = dial(&patient(&dns), cluster(), port).await;
        assert!(dialed.is_ok());
        assert!(took < AT_ONCE, "{took:?}");
    }

    #[tokio::test]
    async fn each_address_is_judged_and_only_permitted_ones_are_dialled() {
        let good = listen("127.0.0.1", 0).await;
        let port = good.local_addr().unwrap().port();
        let dns = FakeDns::start(addresses(&["10.0.0.1", "169.254.169.254", "::ffff:10.0.0.2", "127.0.0.1"])).await;
        let (dialed, trace, took) = dial(&patient(&dns), cluster(), port).await;
        assert!(dialed.is_ok());
        assert_eq!((trace.attempts, trace.upstream), (1, good.local_addr().ok()));
        assert!(took < AT_ONCE, "{took:?}");

        let dns = FakeDns::start(addresses(&["10.0.0.1", "192.168.0.1"])).await;
        let (dialed, trace, _) = dial(&dialer_asking(&dns), cluster(), port).await;
        assert_eq!(dialed.unwrap_err().error_type(), ErrorType::IpProhibited);
        assert_eq!(trace.attempts, 0);
    }

    #[tokio::test]
    async fn no_more_than_sixteen_addresses_are_dialled_of_both_families_together() {
        let port = listen("127.0.0.1", 0).await.local_addr().unwrap().port();
        let many: Vec<_> = (1..=200_u8).map(|n| IpAddr::from([127, 0, 1, n])).chain(["::1".parse().unwrap()]).collect();
        let dns = FakeDns::start(move |_, _| Reply::Addresses(many.clone(), 60)).await;
        let (dialed, trace, _) = dial(&dialer_asking(&dns), cluster(), port).await;
        assert_eq!(dialed.unwrap_err().error_type(), ErrorType::ConnectionRefused);
        assert_eq!(trace.attempts, 16);
    }

    #[tokio::test]
    async fn an_endpoint_name_with_first_address_only_dials_no_other() {
        let good = listen("127.0.0.3", 0).await;
        let port = good.local_addr().unwrap().port();
        let dns = FakeDns::start(addresses(&["127.0.0.2", "127.0.0.3"])).await;
        let of = |first_address_only| Cluster {
            discovery: Discovery::Dns { endpoints: vec![endpoint(&format!("api.example:{port}"))], first_address_only },
            ..cluster()
        };
        let dialer = dialer_asking(&dns);
        assert!(dial(&dialer, of(true), 80).await.0.is_err());
        assert!(dial(&dialer, of(false), 80).await.0.is_ok());
    }

    #[tokio::test]
    async fn the_only_address_to_be_dialled_is_the_first_that_may_be() {
        let good = listen("127.0.0.1", 0).await;
        let port = good.local_addr().unwrap().port();
        let dns = FakeDns::start(addresses(&["10.0.0.1", "127.0.0.1", "127.0.0.2"])).await;
        let endpoints = vec![endpoint(&format!("api.example:{port}"))];
        let cluster = Cluster { discovery: Discovery::Dns { endpoints, first_address_only: true }, ..cluster() };
        let (dialed, trace, _) = dial(&dialer_asking(&dns), cluster, 80).await;
        assert!(dialed.is_ok(), "{dialed:?}");
        assert_eq!((trace.attempts, trace.upstream), (1, good.local_addr().ok()));
    }

    #[tokio::test]
    async fn the_most_telling_error_of_a_lost_race_is_given() {
        let port = listen("127.0.0.1", 0).await.local_addr().unwrap().port();
        let _hole = BlackHole::open(SocketAddr::from(([127, 0, 0, 2], port)));
        let dns = FakeDns::start(addresses(&["10.0.0.1", "127.0.0.2", "127.0.0.1"])).await;
        let cluster = Cluster { connect_timeout: Duration::from_millis(300), ..cluster() };
        let (dialed, trace, _) = dial(&dialer_asking(&dns), cluster, port).await;
        assert_eq!(dialed.unwrap_err().error_type(), ErrorType::ConnectionRefused);
        assert_eq!(trace.attempts, 2);
    }

    #[tokio::test]
    async fn the_deadline_ends_a_silent_server_and_a_silent_address() {
        let port = listen("127.0.0.1", 0).await.local_addr().unwrap().port();
        let _hole = BlackHole::open(SocketAddr::from(([127, 0, 0, 1], port)));
        let silent = FakeDns::start(|_, _| Reply::Silence).await;
        let hole = FakeDns::start(addresses(&["127.0.0.1", "127.0.0.1"])).await;
        for (dns, error) in [(silent, ErrorType::DnsTimeout), (hole, ErrorType::ConnectionTimeout)] {
            let started = Instant::now();
            let target = target(&format!("a.example:{port}"));
            let deadline = started + Duration::from_millis(150);
            let mut trace = DialTrace::default();
            let dialed = dialer_asking(&dns).dial(&Arc::new(cluster()), &target, deadline, &mut trace).await;
            assert_eq!(dialed.unwrap_err().error_type(), error);
            assert!(started.elapsed() >= Duration::from_millis(140) && started.elapsed() < AT_ONCE);
        }
    }

    #[tokio::test]
    async fn losers_of_a_race_are_closed() {
        let slow = listen("127.0.0.2", 0).await;
        // Both connect at about the same time; one is taken, and the other's end is seen by its peer.
        let port = slow.local_addr().unwrap().port();
        let other = listen("127.0.0.3", port).await;
        let dns = FakeDns::start(addresses(&["127.0.0.2", "127.0.0.3"])).await;
        let mut settings = settings();
        settings.dns.servers = vec![dns.addr];
        settings.happy_eyeballs_delay = Duration::ZERO;
        let dialer = Dialer::new(settings).unwrap();
        let (dialed, trace, _) = dial(&dialer, cluster(), port).await;
        let dialed = dialed.unwrap();
        assert_eq!(trace.attempts, 2);
        let loser = if trace.upstream == slow.local_addr().ok() { other } else { slow };
        let (mut peer, _) = loser.accept().await.unwrap();
        let mut byte = [0];
        let read = tokio::io::AsyncReadExt::read(&mut peer, &mut byte);
        assert!(matches!(tokio::time::timeout(Duration::from_secs(5), read).await.unwrap(), Ok(0) | Err(_)));
        drop(dialed);
    }
}
