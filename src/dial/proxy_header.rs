//! PROXY headers that we send (`proxyProtocol` of a DestinationRule; HAProxy's proxy-protocol.txt, versions 1 and 2).

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncWriteExt;
use tokio::time::timeout_at;

use super::{DialError, Reached, Way};
use crate::flow::{DialTrace, Source, Transport};
use crate::route::cluster::ProxyProtocol;

/// Writes the header, the first bytes of a connection.
///
/// # Errors
/// [`DialError::Connect`] and [`DialError::Timeout`]: the upstream is gone, or takes nothing.
pub(super) async fn send(
    reached: &mut Reached,
    version: ProxyProtocol,
    way: Way<'_>,
    trace: &DialTrace,
) -> Result<(), DialError> {
    let Reached { stream, began, .. } = reached;
    let header = header(version, way.client.and_then(|client| ends(client, trace.upstream)));
    let until = way.deadline.min(*began + way.cluster.connect_timeout);
    let failed =
        |source: io::Error| DialError::Connect { peer: format!("{} (PROXY header)", way.target).into(), source };
    let writing = async {
        stream.write_all(&header).await?;
        stream.flush().await
    };
    match timeout_at(until.into(), writing).await {
        Ok(written) => written.map_err(failed),
        Err(_) => {
            let after = until.saturating_duration_since(*began);
            Err(DialError::Timeout { step: format!("PROXY header for {}", way.target).into(), after })
        }
    }
}

/// Source and destination as the header says them: the client, and what is dialled for it. `None`: one of them has no address.
fn ends(client: &Source, upstream: Option<SocketAddr>) -> Option<(SocketAddr, SocketAddr)> {
    if matches!(client.transport, Transport::Unix(_)) && client.peer.port() == 0 {
        return None;
    }
    Some((client.peer, upstream?))
}

fn header(version: ProxyProtocol, ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    // Both are of one family: where they are not, IPv4 is written as IPv6 (RFC 4291 §2.5.5.2), as HAProxy does.
    let ends = ends.map(|(from, to)| match (from.ip().to_canonical(), to.ip().to_canonical()) {
        (IpAddr::V4(from_ip), IpAddr::V4(to_ip)) => (IpAddr::V4(from_ip), from.port(), IpAddr::V4(to_ip), to.port()),
        (from_ip, to_ip) => (mapped(from_ip).into(), from.port(), mapped(to_ip).into(), to.port()),
    });
    match version {
        ProxyProtocol::V1 => match ends {
            Some((from, from_port, to, to_port)) => {
                let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
                format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n").into_bytes()
            }
            None => b"PROXY UNKNOWN\r\n".to_vec(),
        },
        ProxyProtocol::V2 => {
            let mut header = SIGNATURE.to_vec();
            let Some((from, from_port, to, to_port)) = ends else {
                header.extend([LOCAL, UNSPECIFIED, 0, 0]);
                return header;
            };
            header.extend([PROXY, if from.is_ipv4() { TCP4 } else { TCP6 }]);
            header.extend(if from.is_ipv4() { 12_u16 } else { 36 }.to_be_bytes());
            for ip in [from, to] {
                match ip {
                    IpAddr::V4(ip) => header.extend(ip.octets()),
                    IpAddr::V6(ip) => header.extend(ip.octets()),
                }
            }
            header.extend(from_port.to_be_bytes());
            header.extend(to_port.to_be_bytes());
            header
        }
    }
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

// proxy-protocol.txt, section 2.2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(version: ProxyProtocol, from: &str, to: &str) -> Vec<u8> {
        header(version, Some((from.parse().unwrap(), to.parse().unwrap())))
    }

    #[test]
    fn text_names_both_ends_in_one_family() {
        for (from, to, expected) in [
            ("192.0.2.1:40000", "198.51.100.7:443", "PROXY TCP4 192.0.2.1 198.51.100.7 40000 443\r\n"),
            ("[::ffff:192.0.2.1]:40000", "198.51.100.7:443", "PROXY TCP4 192.0.2.1 198.51.100.7 40000 443\r\n"),
            ("[2001:db8::1]:1", "[2001:db8::2]:65535", "PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n"),
            ("192.0.2.1:40000", "[2001:db8::2]:443", "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 40000 443\r\n"),
        ] {
            assert_eq!(of(ProxyProtocol::V1, from, to), expected.as_bytes(), "{from} {to}");
        }
        assert_eq!(header(ProxyProtocol::V1, None), b"PROXY UNKNOWN\r\n");
        let longest = of(
            ProxyProtocol::V1,
            "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe]:65535",
        );
        assert!(longest.len() < 108, "what receivers have room for (proxy-protocol.txt, section 2.1)");
    }

    #[test]
    fn binary_has_the_length_of_its_family() {
        let four = of(ProxyProtocol::V2, "192.0.2.1:258", "198.51.100.7:443");
        assert_eq!(four[..16], [&SIGNATURE[..], &[0x21, 0x11, 0, 12]].concat());
        assert_eq!(four[16..], [192, 0, 2, 1, 198, 51, 100, 7, 1, 2, 1, 187]);
        let six = of(ProxyProtocol::V2, "192.0.2.1:258", "[2001:db8::2]:443");
        assert_eq!((six[13], six[15], six.len()), (0x21, 36, 16 + 36));
        assert_eq!(header(ProxyProtocol::V2, None)[12..], [0x20, 0, 0, 0]);
    }
}
