//! What the tests of this floor share: clusters as a snapshot would give them, a DNS server that says what a test wants, sockets
//! that never answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::{DialSettings, Dialer, DnsSettings, Family};
use crate::flow::{Host, Origin, Target};
use crate::route::addresses::{AddressPolicy, AddressRules, IpSet};
use crate::route::cluster::{Endpoint, EndpointAddress};
use crate::route::{Cluster, Discovery};

pub(super) fn nets(nets: &[&str]) -> IpSet {
    nets.iter().map(|net| net.parse::<IpNet>().unwrap()).collect()
}

/// Asked-for targets, straight, loopback open.
pub(super) fn cluster() -> Cluster {
    let policy = Arc::new(AddressPolicy { allow: nets(&["127.0.0.0/8", "::1/128"]), deny: IpSet::default() });
    let (discovery, addresses) = (Discovery::Asked { port: None }, AddressRules { policy, opened: IpSet::default() });
    Cluster::new("PassthroughCluster".into(), Origin::default(), discovery, addresses, Duration::from_secs(5))
}

pub(super) fn endpoint(at: &str) -> Endpoint {
    let Target { host, port } = target(at);
    Endpoint { at: EndpointAddress::Host(host, port), weight: 1 }
}

pub(super) fn target(text: &str) -> Target {
    Target::parse_authority(text.as_bytes()).unwrap()
}

pub(super) fn target_at(addr: SocketAddr) -> Target {
    Target { host: Host::Ip(addr.ip()), port: addr.port() }
}

pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

pub(super) fn settings() -> DialSettings {
    DialSettings {
        dns: DnsSettings {
            servers: vec![SocketAddr::from(([127, 0, 0, 1], 9))],
            family: Family::Any,
            timeout: Duration::from_millis(500),
            attempts: 2,
            hosts: None,
            negative_ttl: Duration::from_secs(5),
            failure_ttl: Duration::from_secs(2),
            addresses_max: 16,
            forward: Vec::new(),
        },
        happy_eyeballs_delay: Duration::from_millis(250),
        tcp_user_timeout: Duration::from_secs(120),
        pending_dials: 100,
        dns_queries: 100,
        idle_pool: 8,
        head_bytes: 8192,
        via: Some("egret-test".into()),
    }
}

/// Reaches loopback, asks a DNS server that is none.
pub(crate) fn dialer() -> Dialer {
    Dialer::new(settings()).unwrap()
}

pub(super) fn dialer_asking(dns: &FakeDns) -> Dialer {
    let mut settings = settings();
    settings.dns.servers = vec![dns.addr];
    Dialer::new(settings).unwrap()
}

/// Listens on this address of 127.0.0.0/8, or on the same port of another one.
pub(super) async fn listen(ip: &str, port: u16) -> TcpListener {
    TcpListener::bind((ip.parse::<IpAddr>().unwrap(), port)).await.unwrap()
}

/// A listening socket whose queue is full: a connection to it gets no answer at all.
pub(super) struct BlackHole {
    _listener: Socket,
    _queued: Vec<Socket>,
}

impl BlackHole {
    pub(super) fn open(addr: SocketAddr) -> Self {
        let listener = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
        listener.set_reuse_address(true).unwrap();
        listener.bind(&addr.into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap();
        let queue = |_| {
            let socket = Socket::new(addr.domain(), Type::STREAM.nonblocking(), None).unwrap();
            let _ = socket.connect(&addr); // in progress, or queued
            socket
        };
        let queued: Vec<_> = (0..4).map(queue).collect();
        Self { _listener: listener, _queued: queued }
    }
}

/// What the server says to one question.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// Addresses of the family asked for; none: NODATA.
    Addresses(Vec<IpAddr>, u32),
    /// NXDOMAIN, with an SOA of this minimum.
    NoSuchName(Option<u32>),
    /// SERVFAIL.
    Failure,
    /// Nothing.
    Silence,
    /// The same, later.
    Later(Duration, Box<Reply>),
}

/// A DNS server on UDP and TCP of one loopback port.
pub(super) struct FakeDns {
    pub(super) addr: SocketAddr,
    asked: Arc<Mutex<Vec<(String, u16)>>>,
}

pub(super) const A: u16 = 1;
pub(super) const AAAA: u16 = 28;
const UDP_BYTES_MAX: usize = 1232;

impl FakeDns {
    pub(super) async fn start(reply: impl Fn(&str, u16) -> Reply + Send + Sync + 'static) -> Self {
        let (tcp, udp) = loop {
            let tcp = listen("127.0.0.1", 0).await;
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, Arc::new(udp));
            }
        };
        let addr = tcp.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let reply = Arc::new(reply);
        let (log, say) = (asked.clone(), reply.clone());
        tokio::spawn(async move {
            let mut buf = [0; 2048];
            while let Ok((n, peer)) = udp.recv_from(&mut buf).await {
                let (name, kind) = question(&buf[..n]);
                log.lock().unwrap().push((name.clone(), kind));
                let (udp, query, reply) = (udp.clone(), buf[..n].to_vec(), say(&name, kind));
                tokio::spawn(async move {
                    if let Some(answer) = answer(&query, reply, UDP_BYTES_MAX).await {
                        let _ = udp.send_to(&answer, peer).await;
                    }
                });
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let reply = reply.clone();
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut query = vec![0; length.into()];
                        stream.read_exact(&mut query).await.unwrap();
                        let (name, kind) = question(&query);
                        let Some(answer) = answer(&query, reply(&name, kind), 65_535).await else { return };
                        stream.write_u16(answer.len() as u16).await.unwrap();
                        stream.write_all(&answer).await.unwrap();
                    }
                });
            }
        });
        Self { addr, asked }
    }

    /// Queries that arrived over UDP.
    pub(super) fn queries(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn question(query: &[u8]) -> (String, u16) {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..=at + length]).to_lowercase());
        at += length + 1;
    }
    (labels.join("."), u16::from_be_bytes([query[at + 1], query[at + 2]]))
}

async fn answer(query: &[u8], reply: Reply, bytes_max: usize) -> Option<Vec<u8>> {
    let mut reply = reply;
    while let Reply::Later(delay, then) = reply {
        tokio::time::sleep(delay).await;
        reply = *then;
    }
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let (_, kind) = question(query);
    let mut records = Vec::new();
    let (mut code, mut count, mut authorities) = (0, 0_u16, 0);
    match reply {
        Reply::Addresses(ips, ttl) => {
            for ip in ips.into_iter().filter(|ip| ip.is_ipv4() == (kind == A)) {
                let data = match ip {
                    IpAddr::V4(ip) => ip.octets().to_vec(),
                    IpAddr::V6(ip) => ip.octets().to_vec(),
                };
                record(&mut records, kind, ttl, &data);
                count += 1;
            }
        }
        Reply::NoSuchName(minimum) => {
            code = 3;
            if let Some(minimum) = minimum {
                let mut data = vec![0, 0]; // MNAME and RNAME: the root
                for number in [1, 3600, 600, 86_400, minimum] {
                    data.extend(u32::to_be_bytes(number));
                }
                record(&mut records, 6, 3600, &data);
                authorities = 1;
            }
        }
        Reply::Failure => code = 2,
        Reply::Silence | Reply::Later(..) => return None,
    }
    let truncated = end + records.len() > bytes_max;
    if truncated {
        (count, authorities) = (0, 0);
        records.clear();
    }
    let mut message = query[..2].to_vec();
    message.extend([if truncated { 0x83 } else { 0x81 }, 0x80 | code, 0, 1]);
    message.extend(count.to_be_bytes());
    message.extend([0, authorities, 0, 0]);
    message.extend(&query[12..end]);
    message.extend(records);
    Some(message)
}

fn record(out: &mut Vec<u8>, kind: u16, ttl: u32, data: &[u8]) {
    out.extend([0xc0, 12]); // the name asked for
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    out.extend(ttl.to_be_bytes());
    out.extend((data.len() as u16).to_be_bytes());
    out.extend(data);
}

/// Waits until `met` holds.
pub(super) async fn until(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !met() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// One end of a loopback connection each.
pub(super) async fn pair() -> (TcpStream, TcpStream) {
    let listener = listen("127.0.0.1", 0).await;
    let addr = listener.local_addr().unwrap();
    let (one, other) = tokio::join!(TcpStream::connect(addr), listener.accept());
    (one.unwrap(), other.unwrap().0)
}
