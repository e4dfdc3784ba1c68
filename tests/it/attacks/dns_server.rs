//! A DNS server that says what a test wants, over UDP and TCP of one port of loopback.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::PATIENCE;

/// Runs until the test process ends.
pub(crate) struct DnsServer {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    queries: Arc<AtomicUsize>,
}

/// The answer to a question for IPv4 addresses; there are no others.
pub(crate) struct Reply {
    /// The asked-for name is an alias of this one.
    pub(crate) alias: Option<&'static str>,
    /// Its addresses, with a TTL of zero.
    pub(crate) addresses: Vec<Ipv4Addr>,
}

const A: u16 = 1;
const CNAME: u16 = 5;
const UDP_BYTES_MAX: usize = 1232; // what resolvers say they take since the DNS flag day of 2020

impl DnsServer {
    /// `reply` gets the name asked for.
    pub(crate) fn new(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
                break (tcp, udp);
            }
        };
        let server = Self { address: tcp.local_addr().unwrap(), queries: Arc::default() };
        let reply = Arc::new(reply);
        let (queries, say) = (server.queries.clone(), reply.clone());
        std::thread::spawn(move || {
            let mut buf = [0; 2048];
            while let Ok((n, peer)) = udp.recv_from(&mut buf) {
                queries.fetch_add(1, Ordering::SeqCst);
                let _ = udp.send_to(&answer(&buf[..n], &*say, UDP_BYTES_MAX), peer);
            }
        });
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().map_while(Result::ok) {
                let reply = reply.clone();
                std::thread::spawn(move || {
                    let mut length = [0; 2];
                    while stream.read_exact(&mut length).is_ok() {
                        let mut query = vec![0; u16::from_be_bytes(length).into()];
                        stream.read_exact(&mut query).unwrap();
                        let answer = answer(&query, &*reply, usize::from(u16::MAX));
                        stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
                        stream.write_all(&answer).unwrap();
                    }
                });
            }
        });
        server
    }

    /// The same addresses for every name.
    pub(crate) fn always(addresses: &[&str]) -> Self {
        let addresses = ips(addresses);
        Self::new(move |_| Reply { alias: None, addresses: addresses.clone() })
    }

    /// Queries so far.
    pub(crate) fn queries(&self) -> usize {
        self.queries.load(Ordering::SeqCst)
    }

    /// `dns:` of settings that ask this server.
    pub(crate) fn settings(&self) -> String {
        format!("dns: {{ servers: [\"{}\"], hosts: null }}", self.address)
    }
}

/// A DNS server that hears and says nothing.
pub(crate) struct SilentDns(UdpSocket);

impl SilentDns {
    pub(crate) fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Returns when another query has come.
    pub(crate) fn wait_for_query(&self) {
        self.0.recv_from(&mut [0; 512]).unwrap();
    }
}

/// Addresses as written.
pub(crate) fn ips(texts: &[&str]) -> Vec<Ipv4Addr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn answer(query: &[u8], reply: &dyn Fn(&str) -> Reply, bytes_max: usize) -> Vec<u8> {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..=at + length]).to_lowercase());
        at += length + 1;
    }
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let question = &query[12..at + 5];
    // A name without IPv6 addresses: the test's closure hears of the other question only.
    let Reply { alias, addresses } =
        if kind == A { reply(&labels.join(".")) } else { Reply { alias: None, addresses: Vec::new() } };
    let (mut records, mut count) = (Vec::new(), 0_u16);
    let mut owner = vec![0xc0, 12]; // the name asked for
    if let Some(alias) = alias {
        let name = wire_name(alias);
        record(&mut records, &owner, CNAME, &name);
        owner = name;
        count += 1;
    }
    for ip in addresses {
        record(&mut records, &owner, A, &ip.octets());
        count += 1;
    }
    let truncated = 12 + question.len() + records.len() > bytes_max;
    if truncated {
        records.clear();
        count = 0;
    }
    let mut message = query[..2].to_vec();
    message.extend([if truncated { 0x83 } else { 0x81 }, 0x80, 0, 1]);
    message.extend(count.to_be_bytes());
    message.extend([0; 4]);
    message.extend(question);
    message.extend(records);
    message
}

fn wire_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.') {
        wire.push(label.len() as u8);
        wire.extend(label.bytes());
    }
    wire.push(0);
    wire
}

fn record(out: &mut Vec<u8>, owner: &[u8], kind: u16, data: &[u8]) {
    out.extend(owner);
    out.extend(kind.to_be_bytes());
    out.extend([0, 1, 0, 0, 0, 0]); // IN, a TTL of zero
    out.extend((data.len() as u16).to_be_bytes());
    out.extend(data);
}

/// A port of 127.0.0.1 and of 127.0.0.2, nobody else's.
pub(crate) fn listen_on_both() -> (TcpListener, TcpListener) {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if let Ok(second) = TcpListener::bind((IpAddr::from([127, 0, 0, 2]), port)) {
            return (first, second);
        }
    }
}
