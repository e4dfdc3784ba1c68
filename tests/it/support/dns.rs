//! A DNS server on loopback that says what a test wants it to say.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs until the test process ends.
pub(crate) struct Dns {
    /// Where it listens, over UDP; a TCP connection counts as a query and is closed.
    pub(crate) address: SocketAddr,
    queries: Arc<AtomicUsize>,
}

/// What is said to one query.
pub(crate) enum Reply {
    /// To a query for A these; to one for AAAA that there is none.
    Addresses(Vec<Ipv4Addr>),
    /// NXDOMAIN.
    NoSuchName,
    /// SERVFAIL.
    ServerFailure,
    /// Nothing.
    Silence,
}

const HEADER_BYTES: usize = 12; // RFC 1035 §4.1.1
const A: u16 = 1;

impl Dns {
    /// Answers each query by its name, lower case and without the final dot.
    pub(crate) fn new(answer: impl Fn(&str) -> Reply + Send + 'static) -> Self {
        Self::on(bind(), answer)
    }

    /// The same at an address that is the test's.
    pub(crate) fn at(address: SocketAddr, answer: impl Fn(&str) -> Reply + Send + 'static) -> Self {
        Self::on((UdpSocket::bind(address).unwrap(), TcpListener::bind(address).unwrap()), answer)
    }

    fn on((udp, tcp): (UdpSocket, TcpListener), answer: impl Fn(&str) -> Reply + Send + 'static) -> Self {
        let address = udp.local_addr().unwrap();
        let queries: Arc<AtomicUsize> = Arc::default();
        let seen = queries.clone();
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                seen.fetch_add(1, Ordering::Relaxed);
                drop(stream);
            }
        });
        let seen = queries.clone();
        std::thread::spawn(move || {
            let mut query = [0; 1500];
            while let Ok((length, client)) = udp.recv_from(&mut query) {
                seen.fetch_add(1, Ordering::Relaxed);
                if let Some(bytes) = reply(&query[..length], &answer) {
                    let _ = udp.send_to(&bytes, client);
                }
            }
        });
        Self { address, queries }
    }

    /// Queries so far.
    pub(crate) fn queries(&self) -> usize {
        self.queries.load(Ordering::Relaxed)
    }
}

fn bind() -> (UdpSocket, TcpListener) {
    for _ in 0..20 {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both UDP and TCP");
}

fn reply(query: &[u8], answer: &impl Fn(&str) -> Reply) -> Option<Vec<u8>> {
    let (name, end) = question(query)?;
    let kind = u16::from_be_bytes([query[end], query[end + 1]]);
    let (code, addresses) = match answer(&name) {
        Reply::Addresses(addresses) if kind == A => (0, addresses),
        Reply::Addresses(_) => (0, Vec::new()),
        Reply::NoSuchName => (3, Vec::new()),
        Reply::ServerFailure => (2, Vec::new()),
        Reply::Silence => return None,
    };
    let mut bytes = query[..2].to_vec();
    bytes.extend_from_slice(&[0x81, 0x80 | code, 0, 1]); // a recursive answer to one question
    bytes.extend_from_slice(&u16::try_from(addresses.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&query[HEADER_BYTES..end + 4]);
    for address in addresses {
        bytes.extend_from_slice(&[0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]); // the name asked for, A, IN, 60 s, 4 bytes
        bytes.extend_from_slice(&address.octets());
    }
    Some(bytes)
}

/// The name asked for, and where it ends.
fn question(query: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return (query.len() >= at + 4).then(|| (labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
}
