//! The PROXY protocol, versions 1 and 2 (`proxy-protocol.txt` of HAProxy): a load balancer tells whom it speaks for.
//!
//! Pure: bytes in, a header or a reason out. Whom to believe is decided by the caller.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How many bytes it took; what follows is the client's.
    pub length: usize,
    /// Source and destination of the client's connection. `None`: the balancer speaks for itself (LOCAL, health checks), or for
    /// somebody without an address (UNKNOWN, UNSPEC, unix sockets): the connection's own addresses hold then.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
}

/// Bytes that are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// Neither signature.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// Version 1: not of its grammar.
    #[error("the PROXY line is malformed")]
    Line,
    /// Version 1: no line end within its bound.
    #[error("the PROXY line is longer than {LINE_BYTES_MAX} bytes")]
    LongLine,
    /// Version 2: version, command, family or transport that does not exist or is no stream.
    #[error("the PROXY header has an unknown version, command or family")]
    Unknown,
    /// Version 2: too few bytes for the addresses of its family.
    #[error("the PROXY header is too short for its addresses")]
    Short,
    /// Version 2: a header that no balancer sends.
    #[error("the PROXY header is longer than {HEADER_BYTES_MAX} bytes")]
    Long,
}

/// Reads a header; `None`: more bytes are needed.
///
/// # Errors
/// See [`HeaderError`]: as soon as it is known, whatever is still to come.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    match may_begin(bytes) {
        Begins::More => Ok(None),
        Begins::No => Err(HeaderError::Missing),
        Begins::Line => parse_line(bytes),
        Begins::Binary => parse_binary(bytes),
    }
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// Too few to tell.
    More,
    /// No PROXY header.
    No,
    /// One of version 1.
    Line,
    /// One of version 2.
    Binary,
}

/// Tells a header from anything else; 12 bytes are enough.
pub fn may_begin(bytes: &[u8]) -> Begins {
    if bytes.starts_with(LINE_SIGNATURE) {
        Begins::Line
    } else if bytes.starts_with(BINARY_SIGNATURE) {
        Begins::Binary
    } else if LINE_SIGNATURE.starts_with(bytes) || BINARY_SIGNATURE.starts_with(bytes) {
        Begins::More
    } else {
        Begins::No
    }
}

const LINE_SIGNATURE: &[u8] = b"PROXY ";
const BINARY_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const LINE_BYTES_MAX: usize = 107; // §2.1, CRLF included
const PREFIX_BYTES: usize = 16; // §2.2: signature, version and command, family, length
const HEADER_BYTES_MAX: usize = 4096; // addresses take 232; the rest is TLVs, and certificates' names are the longest that are sent

/// `PROXY TCP4 192.0.2.1 192.0.2.2 40000 443`.
fn parse_line(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let within = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = within.windows(2).position(|two| two == b"\r\n") else {
        // A lone line feed ends nothing; waiting for more of it would only take longer.
        let broken = within.iter().any(|&b| b == b'\n' || b == 0);
        return match (broken, within.len() == LINE_BYTES_MAX) {
            (true, _) => Err(HeaderError::Line),
            (_, true) => Err(HeaderError::LongLine),
            _ => Ok(None),
        };
    };
    let text = std::str::from_utf8(&within[LINE_SIGNATURE.len()..end]).map_err(|_| HeaderError::Line)?;
    let length = end + 2;
    // What stands behind UNKNOWN is to be ignored.
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return Ok(Some(Header { length, addresses: None }));
    }
    let words: Vec<&str> = text.split(' ').collect();
    let addresses = match *words {
        ["TCP4", from, to, from_port, to_port] => {
            let ip = |text: &str| text.parse::<Ipv4Addr>().ok().map(IpAddr::from);
            ip(from).zip(ip(to)).zip(port(from_port).zip(port(to_port)))
        }
        ["TCP6", from, to, from_port, to_port] => {
            let ip = |text: &str| text.parse::<Ipv6Addr>().ok().map(IpAddr::from);
            ip(from).zip(ip(to)).zip(port(from_port).zip(port(to_port)))
        }
        _ => None,
    };
    let ((from, to), (from_port, to_port)) = addresses.ok_or(HeaderError::Line)?;
    Ok(Some(Header { length, addresses: Some((address(from, from_port), address(to, to_port))) }))
}

/// Decimal, without sign and leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
    plain.then(|| text.parse().ok()).flatten()
}

fn parse_binary(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let Some((prefix, rest)) = bytes.split_at_checked(PREFIX_BYTES) else {
        // The command is judged when the whole prefix is there: four bytes more.
        return Ok(None);
    };
    let rest_length = usize::from(u16::from_be_bytes([prefix[14], prefix[15]]));
    let length = PREFIX_BYTES + rest_length;
    let local = match prefix[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(HeaderError::Unknown),
    };
    let family = Family::of(prefix[13], local)?;
    if rest_length < family.address_bytes() {
        return Err(HeaderError::Short);
    }
    if length > HEADER_BYTES_MAX {
        return Err(HeaderError::Long);
    }
    if rest.len() < rest_length {
        return Ok(None);
    }
    // TLVs behind the addresses are passed over.
    Ok(Some(Header { length, addresses: family.read(rest) }))
}

#[derive(Clone, Copy)]
enum Family {
    /// No address that we could use: UNSPEC, unix sockets, or LOCAL with anything.
    None(usize),
    V4,
    V6,
}

impl Family {
    fn of(byte: u8, local: bool) -> Result<Self, HeaderError> {
        let family = match byte {
            0x00 => Self::None(0),
            0x11 => Self::V4,
            0x21 => Self::V6,
            0x31 => Self::None(216),
            // Datagrams do not come over a stream; a LOCAL header may hold whatever it likes.
            _ if local => Self::None(0),
            _ => return Err(HeaderError::Unknown),
        };
        Ok(if local { Self::None(0) } else { family })
    }

    fn address_bytes(self) -> usize {
        match self {
            Self::None(bytes) => bytes,
            Self::V4 => 12,
            Self::V6 => 36,
        }
    }

    /// `bytes` are at least as many as the addresses take.
    fn read(self, bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
        let (from, to, ports): (IpAddr, IpAddr, usize) = match self {
            Self::None(_) => return None,
            Self::V4 => {
                let ip = |at| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
                (ip(0)?.into(), ip(4)?.into(), 8)
            }
            Self::V6 => {
                let ip = |at| Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?));
                (ip(0)?.into(), ip(16)?.into(), 32)
            }
        };
        let port = |at| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        Some((address(from, port(ports)?), address(to, port(ports + 2)?)))
    }
}

/// One client has one spelling: an IPv4 address written as IPv6 must not pass by a rule for it.
fn address(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [BINARY_SIGNATURE, &[command, family], &length, rest].concat()
    }

    /// What the whole gives, after checking that every beginning of it asks for more or says the same.
    fn read(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
        let whole = parse(bytes);
        for length in 0..bytes.len() {
            let early = parse(&bytes[..length]);
            assert!(early == Ok(None) || early == whole, "{early:?} after {length} of {bytes:?}, then {whole:?}");
            if let Ok(Some(header)) = early {
                assert!(header.length <= length);
            }
        }
        whole
    }

    fn addresses(bytes: &[u8]) -> Option<(String, String)> {
        let header = read(bytes).unwrap().unwrap();
        assert_eq!(header.length, bytes.len());
        header.addresses.map(|(from, to)| (from.to_string(), to.to_string()))
    }

    #[test]
    fn lines_are_read() {
        let pair = |from: &str, to: &str| Some((from.to_owned(), to.to_owned()));
        let tcp4 = addresses(b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n");
        assert_eq!(tcp4, pair("192.0.2.1:40000", "192.0.2.2:443"));
        let tcp6 = addresses(b"PROXY TCP6 2001:db8::1 2001:db8::2 0 65535\r\n");
        assert_eq!(tcp6, pair("[2001:db8::1]:0", "[2001:db8::2]:65535"));
        assert_eq!(addresses(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n"), pair("192.0.2.1:1", "[::1]:2"));
        assert_eq!(addresses(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(addresses(b"PROXY UNKNOWN whatever it says\r\n"), None);
    }

    #[test]
    fn what_follows_a_header_is_the_clients() {
        let header = parse(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nPROXY TCP4 10.0.0.1 ").unwrap().unwrap();
        assert_eq!(header.length, 36);
        let header = parse(&[binary(0x21, 0x11, &[0; 12]), b"GET /".to_vec()].concat()).unwrap().unwrap();
        assert_eq!(header.length, 28);
    }

    #[test]
    fn malformed_lines_are_refused() {
        for line in [
            "PROXY TCP4 192.0.2.1 192.0.2.2 40000\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 40000 443 1\r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 40000 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 40000 443 \r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 40000 443\r\n",
            "PROXY TCP4 192.0.2.256 192.0.2.2 40000 443\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 40000 443\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 40000 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2  443\r\n",
            "PROXY tcp4 192.0.2.1 192.0.2.2 1 443\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 443\r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY \r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 443\n\r\n",
            "PROXY TCP4 192.0.2.1\x00192.0.2.2 1 443\r\n",
        ] {
            assert_eq!(read(line.as_bytes()), Err(HeaderError::Line), "{line:?}");
        }
        assert_eq!(parse(b"PROXY TCP4 \xff 192.0.2.2 1 443\r\n"), Err(HeaderError::Line));
    }

    #[test]
    fn a_line_has_107_bytes_at_most() {
        let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
        assert_eq!(read(line(LINE_BYTES_MAX).as_bytes()).unwrap().unwrap().length, LINE_BYTES_MAX);
        assert_eq!(read(line(LINE_BYTES_MAX + 1).as_bytes()), Err(HeaderError::LongLine));
        assert_eq!(read(&[b'x'; 4]), Err(HeaderError::Missing));
        assert_eq!(parse(&[b"PROXY ".as_slice(), &[b'x'; 1000]].concat()), Err(HeaderError::LongLine));
    }

    #[test]
    fn binary_headers_are_read_and_their_tlvs_passed_over() {
        let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 0x9c, 0x40, 1, 0xbb];
        assert_eq!(addresses(&binary(0x21, 0x11, &v4)).unwrap().0, "192.0.2.1:40000");
        let with_tlv = [&v4[..], &[4, 0, 3, 1, 2, 3], &[0xff, 0xff, 0xff]].concat();
        assert_eq!(addresses(&binary(0x21, 0x11, &with_tlv)).unwrap().1, "192.0.2.2:443");
        let v6 = [&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7][..], &[0; 16], &[0, 80, 0, 81]].concat();
        assert_eq!(addresses(&binary(0x21, 0x21, &v6)).unwrap(), ("[2001:db8::7]:80".into(), "[::]:81".into()));
    }

    #[test]
    fn who_has_no_address_is_the_balancer() {
        assert_eq!(addresses(&binary(0x20, 0x00, &[])), None);
        assert_eq!(addresses(&binary(0x20, 0x11, &[1; 12])), None, "LOCAL: the addresses are to be ignored");
        assert_eq!(addresses(&binary(0x20, 0x11, &[])), None);
        assert_eq!(addresses(&binary(0x21, 0x00, &[1, 2, 3])), None);
        assert_eq!(addresses(&binary(0x21, 0x31, &[b'/'; 216])), None);
    }

    #[test]
    fn binary_headers_that_cannot_be_are_refused() {
        for (command, family, rest, error) in [
            (0x11, 0x11, &[0; 12][..], HeaderError::Unknown),
            (0x22, 0x11, &[0; 12], HeaderError::Unknown),
            (0x21, 0x12, &[0; 12], HeaderError::Unknown), // datagrams
            (0x21, 0x41, &[0; 12], HeaderError::Unknown),
            (0x21, 0x11, &[0; 11], HeaderError::Short),
            (0x21, 0x21, &[0; 35], HeaderError::Short),
            (0x21, 0x31, &[0; 215], HeaderError::Short),
            (0x21, 0x11, &[0; HEADER_BYTES_MAX - PREFIX_BYTES + 1], HeaderError::Long),
        ] {
            assert_eq!(read(&binary(command, family, rest)), Err(error), "{command:#x} {family:#x} {}", rest.len());
        }
        let longest = binary(0x21, 0x11, &[0; HEADER_BYTES_MAX - PREFIX_BYTES]);
        assert_eq!(read(&longest).unwrap().unwrap().length, HEADER_BYTES_MAX);
    }

    #[test]
    fn what_begins_otherwise_is_no_header() {
        for bytes in
            [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"PROXYY", b"PROX\r\n", b"\r\n\r\n\0\r\nQUIT\r", b"\r\n\r\nX"]
        {
            assert_eq!(read(bytes), Err(HeaderError::Missing), "{bytes:?}");
            assert_eq!(may_begin(bytes), Begins::No);
        }
        assert_eq!(may_begin(b""), Begins::More);
        assert_eq!(may_begin(b"PROXY"), Begins::More);
        assert_eq!(may_begin(b"\r\n\r\n\0\r\nQUIT"), Begins::More);
    }

    #[test]
    fn random_bytes_never_break_it() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..20_000 {
            let mut bytes = if random.bool() { LINE_SIGNATURE.to_vec() } else { BINARY_SIGNATURE.to_vec() };
            bytes.extend((0..random.usize(..300)).map(|_| random.u8(..)));
            if let Ok(Some(header)) = parse(&bytes) {
                assert!(header.length <= bytes.len());
            }
        }
    }
}
