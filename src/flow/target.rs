//! What a client asked for: a host and a port. One parser for every spelling, one canonical form.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bytes::BufMut;
use thiserror::Error;

/// A host and a port as asked for, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// Name or literal.
    pub host: Host,
    /// Never 0.
    pub port: u16,
}

/// A DNS name or an address literal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A DNS name.
    Name(Name),
    /// A literal; IPv4-mapped IPv6 (`::ffff:a.b.c.d`) is held as the IPv4 address it is.
    Ip(IpAddr),
}

/// A DNS name in canonical form: lower-case ASCII (IDNA A-labels), no trailing dot, at most 253 bytes, labels of 1 to 63 bytes of
/// letters, digits, `-` and `_`, and a last label that is no number (WHATWG URL "ends in a number": such a host is an IPv4 address).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// Why a text is no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TargetError {
    /// Nothing where a host should be.
    #[error("the host is empty")]
    Empty,
    /// Not a DNS name (RFC 1123 §2.1, with `_`).
    #[error("the host is not a DNS name")]
    BadName,
    /// Looks like a number but is no address.
    #[error("the host looks like an IPv4 address but is none")]
    BadIpv4,
    /// Brackets around something else than an IPv6 address; zone identifiers are refused too.
    #[error("the host is not an IPv6 address")]
    BadIpv6,
    /// `CONNECT host` without a port (RFC 9110 §9.3.6).
    #[error("the port is missing")]
    MissingPort,
    /// Not 1 to 65535 in plain digits.
    #[error("the port is not a number from 1 to 65535")]
    BadPort,
    /// `user:password@host` (RFC 9110 §4.2.4).
    #[error("user information does not belong into a target")]
    Userinfo,
}

const NAME_BYTES_MAX: usize = 253; // RFC 1035 §2.3.4, without the root label
const LABEL_BYTES_MAX: usize = 63; // RFC 1035 §2.3.4

impl Target {
    /// Reads `host:port`, the authority-form of CONNECT: the port has to be there.
    ///
    /// # Errors
    /// See [`TargetError`].
    pub fn parse_authority(text: &[u8]) -> Result<Self, TargetError> {
        Self::parse(text, None)
    }

    /// Reads `host` or `host:port`; `default_port` stands in for a missing or empty port (RFC 9110 §4.2.1).
    ///
    /// # Errors
    /// See [`TargetError`].
    pub fn parse_or_port(text: &[u8], default_port: u16) -> Result<Self, TargetError> {
        Self::parse(text, Some(default_port))
    }

    fn parse(text: &[u8], default_port: Option<u16>) -> Result<Self, TargetError> {
        if text.contains(&b'@') {
            return Err(TargetError::Userinfo);
        }
        let (host, port) = split_port(text)?;
        let port = match (port, default_port) {
            (Some(b""), Some(port)) | (None, Some(port)) => port,
            (Some(digits), _) => parse_port(digits)?,
            (None, None) => return Err(TargetError::MissingPort),
        };
        Ok(Self { host: Host::parse(host)?, port })
    }

    /// Appends as it is displayed, without the formatter: `host:port`, IPv6 in brackets; `port: None` leaves the port out.
    pub fn put_with_port(&self, out: &mut impl BufMut, port: Option<u16>) {
        match &self.host {
            Host::Name(name) => out.put_slice(name.as_str().as_bytes()),
            Host::Ip(IpAddr::V6(ip)) => {
                out.put_u8(b'[');
                put_ip(out, IpAddr::V6(*ip));
                out.put_u8(b']');
            }
            Host::Ip(ip) => put_ip(out, *ip),
        }
        if let Some(port) = port {
            out.put_u8(b':');
            out.put_slice(itoa::Buffer::new().format(port).as_bytes());
        }
    }
}

/// Each octet in decimal with a dot behind it, and the length of both.
static DECIMAL: [([u8; 4], u8); 256] = {
    let mut table = [([b'.'; 4], 0); 256];
    let mut octet = 0;
    while octet < 256 {
        let (text, length) = &mut table[octet];
        let mut left = octet;
        *length = if octet >= 100 { 3 } else { 1 + (octet >= 10) as u8 };
        let mut at = *length as usize;
        while at > 0 {
            at -= 1;
            text[at] = b'0' + (left % 10) as u8;
            left /= 10;
        }
        *length += 1;
        octet += 1;
    }
    table
};

/// Appends an address as it is displayed. Addresses stand four times in each line of the log: the formatter would take as long for
/// them as all the rest of the line.
pub fn put_ip(out: &mut impl BufMut, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            let (mut text, mut len) = ([0; 4 * 4], 0);
            for octet in ip.octets() {
                let (digits, count) = DECIMAL[usize::from(octet)];
                text[len..len + 4].copy_from_slice(&digits);
                len += usize::from(count);
            }
            out.put_slice(&text[..len - 1]);
        }
        IpAddr::V6(ip) => {
            let mut text = String::with_capacity("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255".len());
            fmt::Write::write_fmt(&mut text, format_args!("{ip}")).expect("a String takes everything");
            out.put_slice(text.as_bytes());
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

impl Host {
    /// Reads a name or literal in any spelling: case, one trailing dot, Unicode (IDNA, UTS 46), `[IPv6]`, and IPv4 as dotted
    /// parts or one number, each decimal, octal or hexadecimal (as `inet_aton` and browsers read them).
    ///
    /// # Errors
    /// See [`TargetError`]; what looks like an address but is none is refused rather than looked up as a name.
    pub fn parse(text: &[u8]) -> Result<Self, TargetError> {
        if text.is_empty() {
            return Err(TargetError::Empty);
        }
        if let Some(inner) = text.strip_prefix(b"[") {
            let inner = inner.strip_suffix(b"]").ok_or(TargetError::BadIpv6)?;
            return parse_ipv6(inner);
        }
        if let Some(ip) = dotted_quad(text) {
            return Ok(Self::Ip(IpAddr::V4(ip)));
        }
        if text.contains(&b':') {
            return parse_ipv6(text);
        }
        let name = canonical_name(text)?;
        if ends_in_number(&name) {
            return parse_ipv4(&name).map(|ip| Self::Ip(IpAddr::V4(ip)));
        }
        Ok(Self::Name(Name(name.into())))
    }

    /// The same of a host that stays in memory: a name in canonical form shares its text.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn of_resource(text: &Arc<str>) -> Result<Self, TargetError> {
        Ok(match Self::parse(text.as_bytes())? {
            Self::Name(name) if *name.0 == **text => Self::Name(Name(text.clone())),
            host => host,
        })
    }

    /// The name, if it is one.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Name(name) => Some(name),
            Self::Ip(_) => None,
        }
    }

    /// The literal, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Name(_) => None,
            Self::Ip(ip) => Some(*ip),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name.as_str()),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

impl Name {
    /// Reads a DNS name; literals are refused.
    ///
    /// # Errors
    /// [`TargetError::BadName`], also for what would be an address.
    pub fn parse(text: &[u8]) -> Result<Self, TargetError> {
        match Host::parse(text)? {
            Host::Name(name) => Ok(name),
            Host::Ip(_) => Err(TargetError::BadName),
        }
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Splits a port off; `[v6]` keeps its brackets. A bare IPv6 address without brackets is ambiguous with a port and refused.
fn split_port(text: &[u8]) -> Result<(&[u8], Option<&[u8]>), TargetError> {
    if text.first() == Some(&b'[') {
        let end = text.iter().position(|&b| b == b']').ok_or(TargetError::BadIpv6)?;
        let (host, rest) = text.split_at(end + 1);
        return match rest {
            [] => Ok((host, None)),
            [b':', port @ ..] => Ok((host, Some(port))),
            _ => Err(TargetError::BadIpv6),
        };
    }
    let mut parts = text.splitn(3, |&b| b == b':');
    let host = parts.next().unwrap_or_default();
    let port = parts.next();
    if parts.next().is_some() {
        return Err(TargetError::BadIpv6);
    }
    Ok((host, port))
}

fn parse_port(digits: &[u8]) -> Result<u16, TargetError> {
    // Five digits at most, so that 65536+n and 2^32+n cannot wrap into a port; "+80" is no number here.
    if digits.is_empty() || digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(TargetError::BadPort);
    }
    let port = digits.iter().fold(0u32, |port, digit| port * 10 + u32::from(digit - b'0'));
    u16::try_from(port).ok().filter(|port| *port != 0).ok_or(TargetError::BadPort)
}

fn parse_ipv6(text: &[u8]) -> Result<Host, TargetError> {
    let text = std::str::from_utf8(text).map_err(|_| TargetError::BadIpv6)?;
    let ip: Ipv6Addr = text.parse().map_err(|_| TargetError::BadIpv6)?;
    Ok(Host::Ip(match ip.to_ipv4_mapped() {
        Some(v4) => IpAddr::V4(v4),
        None => IpAddr::V6(ip),
    }))
}

fn canonical_name(text: &[u8]) -> Result<String, TargetError> {
    let text = std::str::from_utf8(text).map_err(|_| TargetError::BadName)?;
    let mut name = if text.is_ascii() {
        text.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii(text).map_err(|_| TargetError::BadName)?
    };
    if name.ends_with('.') {
        name.pop();
    }
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && has_good_labels(name.as_bytes()) {
        Ok(name)
    } else {
        Err(TargetError::BadName)
    }
}

/// Letters, digits, `-` and `_`, no label empty or too long, no `-` at its ends. One pass: each flow comes through here.
fn has_good_labels(name: &[u8]) -> bool {
    let (mut label_len, mut before) = (0, b'.');
    for &byte in name {
        match byte {
            b'.' if label_len == 0 || before == b'-' => return false,
            b'.' => label_len = 0,
            b'-' if label_len == 0 => return false,
            b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                label_len += 1;
                if label_len > LABEL_BYTES_MAX {
                    return false;
                }
            }
            _ => return false,
        }
        before = byte;
    }
    label_len > 0 && before != b'-'
}

/// The usual spelling of an IPv4 address: four decimal numbers without leading zeros. Others take the long way.
fn dotted_quad(text: &[u8]) -> Option<Ipv4Addr> {
    if text.len() > "255.255.255.255".len() || !text.first()?.is_ascii_digit() {
        return None;
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split(|&b| b == b'.');
    for octet in &mut octets {
        let digits = parts.next().filter(|digits| matches!(digits, [_] | [b'1'..=b'9', _] | [b'1'..=b'9', _, _]))?;
        for digit in digits {
            let value = digit.is_ascii_digit().then(|| digit - b'0')?;
            *octet = octet.checked_mul(10)?.checked_add(value)?;
        }
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// WHATWG URL, "ends in a number checker": such a host is an IPv4 address or an error, never a name.
fn ends_in_number(name: &str) -> bool {
    let bytes = name.as_bytes();
    let last = bytes.iter().rposition(|b| *b == b'.').map_or(bytes, |dot| &bytes[dot + 1..]);
    last.iter().all(u8::is_ascii_digit)
        || last.strip_prefix(b"0x").is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
}

/// WHATWG URL, "IPv4 parser": one to four parts, the last fills the remaining bytes.
fn parse_ipv4(name: &str) -> Result<Ipv4Addr, TargetError> {
    let mut parts = [0u64; 4];
    let mut count = 0;
    for part in name.split('.') {
        *parts.get_mut(count).ok_or(TargetError::BadIpv4)? = parse_ipv4_number(part)?;
        count += 1;
    }
    let (last, heads) = parts[..count].split_last().ok_or(TargetError::BadIpv4)?;
    if heads.iter().any(|part| *part > 255) || *last >= 1 << (8 * (5 - count)) {
        return Err(TargetError::BadIpv4);
    }
    let high = heads.iter().zip([24, 16, 8]).fold(0u64, |address, (part, shift)| address | part << shift);
    let address = u32::try_from(high | last).map_err(|_| TargetError::BadIpv4)?;
    Ok(Ipv4Addr::from(address))
}

fn parse_ipv4_number(part: &str) -> Result<u64, TargetError> {
    let (digits, radix) = match part.strip_prefix("0x") {
        Some("") => return Ok(0),
        Some(hex) => (hex, 16),
        None if part.len() > 1 && part.starts_with('0') => (&part[1..], 8),
        None => (part, 10),
    };
    if digits.len() > 16 || digits.starts_with('+') {
        return Err(TargetError::BadIpv4);
    }
    u64::from_str_radix(digits, radix).map_err(|_| TargetError::BadIpv4)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn host(text: &str) -> Result<String, TargetError> {
        Host::parse(text.as_bytes()).map(|host| host.to_string())
    }

    #[test]
    fn every_spelling_of_a_name_becomes_one() {
        for text in ["API.Example.com", "api.example.com.", "api.example.com"] {
            assert_eq!(host(text).unwrap(), "api.example.com", "{text}");
        }
        assert_eq!(host("bücher.example").unwrap(), "xn--bcher-kva.example");
        assert_eq!(host("_dmarc.example.com").unwrap(), "_dmarc.example.com");
    }

    #[test]
    fn every_spelling_of_an_ipv4_address_becomes_that_address() {
        for text in [
            "127.0.0.1",
            "127.1",
            "0x7f.1",
            "2130706433",
            "0x7f000001",
            "017700000001",
            "127.0.0.1.",
            "[::ffff:7f00:1]",
        ] {
            assert_eq!(host(text).unwrap(), "127.0.0.1", "{text}");
        }
    }

    #[test]
    fn what_is_put_is_what_is_displayed() {
        for text in ["1.2.3.4:1", "255.100.99.10:65535", "0.0.0.0:80", "[2001:db8::1]:443", "a.example:8080"] {
            let (target, mut out) = (Target::parse_authority(text.as_bytes()).unwrap(), Vec::new());
            target.put_with_port(&mut out, Some(target.port));
            assert_eq!((String::from_utf8(out).unwrap(), target.to_string()), (text.to_owned(), text.to_owned()));
        }
    }

    proptest::proptest! {
        #[test]
        fn the_short_way_of_a_dotted_quad_is_the_long_one(ip: Ipv4Addr, text in "[0-9]{1,3}(\\.[0-9]{1,3}){1,4}") {
            proptest::prop_assert_eq!(dotted_quad(ip.to_string().as_bytes()), Some(ip));
            let short = dotted_quad(text.as_bytes());
            proptest::prop_assert!(short.is_none() || short == parse_ipv4(&text).ok());
            proptest::prop_assert_eq!(short, text.parse().ok());
        }
    }

    #[test]
    fn what_looks_like_an_address_but_is_none_is_refused() {
        for text in ["1.2.3.256", "1.2.3.4.5", "4294967296", "08.1.1.1", "foo.1", "1..2", "0x1ffffffff"] {
            assert!(host(text).is_err(), "{text}");
        }
        assert_eq!(host("4294967295").unwrap(), "255.255.255.255");
    }

    #[test]
    fn malformed_names_are_refused() {
        let long = format!("{}.com", "a".repeat(64));
        for text in [
            "",
            ".",
            "..",
            "a..b",
            "-a.com",
            "a-.com",
            "a b.com",
            "a%2eb.com",
            "a/b",
            "a\0b",
            &long,
            "[::1",
            "::1]",
            "fe80::1%eth0",
        ] {
            assert!(host(text).is_err(), "{text:?}");
        }
        assert!(host(&format!("{}.com", "a".repeat(63))).is_ok());
    }

    #[test]
    fn ports_are_plain_digits_from_1_to_65535() {
        let port = |text: &str| Target::parse_authority(text.as_bytes()).map(|target| target.port);
        assert_eq!(port("a.com:1"), Ok(1));
        assert_eq!(port("a.com:65535"), Ok(65535));
        assert_eq!(port("a.com"), Err(TargetError::MissingPort));
        for text in [
            "a.com:0",
            "a.com:",
            "a.com:65536",
            "a.com:65979",
            "a.com:4294967739",
            "a.com:+80",
            "a.com:8o",
            "a.com:-1",
            "a.com: 80",
        ] {
            assert_eq!(port(text), Err(TargetError::BadPort), "{text}");
        }
        assert_eq!(port("u:p@a.com:443"), Err(TargetError::Userinfo));
        assert_eq!(port("1:2:3"), Err(TargetError::BadIpv6));
    }

    #[test]
    fn a_default_port_stands_in_for_a_missing_one() {
        assert_eq!(Target::parse_or_port(b"a.com", 80).unwrap().to_string(), "a.com:80");
        assert_eq!(Target::parse_or_port(b"a.com:", 80).unwrap().to_string(), "a.com:80");
        assert_eq!(Target::parse_or_port(b"[::1]", 80).unwrap().to_string(), "[::1]:80");
    }
}
