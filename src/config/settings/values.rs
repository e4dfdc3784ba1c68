//! The texts that settings hold: addresses, networks, sizes, paths.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::config::diagnostic::{Code, Context};
use crate::config::read::Form;
use crate::config::source::Spanned;
use crate::config::yaml::Node;

/// `127.0.0.1:3128`, `[::1]:3128`.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "not an address with port such as 127.0.0.1:3128 or [::1]:3128".to_owned())
}

/// `10.0.0.0/8`, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map(|network| network.trunc()).map_err(|_| "neither a network such as 10.0.0.0/8 nor an address".to_owned())
}

/// `10.0.0.53`, `10.0.0.53:5353`, `[fd00::53]:53`.
pub(super) fn dns_server(text: &str) -> Result<SocketAddr, String> {
    const DNS_PORT: u16 = 53; // RFC 1035 §4.2
    let server = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT)).or_else(|_| text.parse());
    let server =
        server.map_err(|_| "not the address of a DNS server such as 10.0.0.53 or 10.0.0.53:5353".to_owned())?;
    if server.port() == 0 { Err("port 0 is no port to ask".to_owned()) } else { Ok(server) }
}

/// Permissions as chmod takes them: `0660`.
pub(super) fn file_mode(text: &str) -> Result<u32, &'static str> {
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    match u32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o777) if octal => Ok(mode),
        _ => Err("not permissions in octal such as \"0660\""),
    }
}

/// A list of networks.
pub(super) fn networks(node: &Node, cx: &mut Context<'_>) -> Option<Vec<IpNet>> {
    let items = node.items(cx)?;
    Some(items.iter().filter_map(|item| item.parsed(network, cx)).map(|network| network.value).collect())
}

/// A path, taken from `folder` if it is relative.
pub(super) fn path(node: &Node, folder: &Path, cx: &mut Context<'_>) -> Option<Spanned<PathBuf>> {
    let text = node.text(cx)?;
    if text.is_empty() {
        cx.report_value(Code::BadValue, node, "the path is empty");
        return None;
    }
    Some(text.map(|text| folder.join(text)))
}

/// `32KiB`, `1MiB`, or a number of bytes.
pub(super) fn size(node: &Node, bounds: RangeInclusive<usize>, cx: &mut Context<'_>) -> Option<usize> {
    cx.asks(node.span, || Form::Size);
    let Some(bytes) = node.scalar().and_then(parse_size) else {
        let message = format!("{} is not a size", cx.quote(node.scalar().unwrap_or_default()));
        match node.scalar() {
            Some(_) => cx.report_value(Code::BadValue, node, message),
            None => node.wrong_type("a size", cx),
        }
        .help("write it like 32KiB or 1MiB, or as a number of bytes");
        return None;
    };
    if !bounds.contains(&bytes) {
        let message = format!(
            "{} is not between {} and {}",
            node.excerpt(),
            show_size(*bounds.start()),
            show_size(*bounds.end())
        );
        cx.report_value(Code::OutOfRange, node, message);
        return None;
    }
    Some(bytes)
}

fn parse_size(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(unit)
}

fn show_size(bytes: usize) -> String {
    match bytes {
        _ if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => format!("{bytes}B"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_binary_units() {
        assert_eq!(parse_size("32KiB"), Some(32768));
        assert_eq!(parse_size("1 MiB"), Some(1 << 20));
        assert_eq!(parse_size("512"), Some(512));
        for text in ["", "KiB", "32kb", "32K", "-1", "1.5KiB", "99999999999999GiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        assert_eq!([1000, 1024, 3 << 20].map(show_size), ["1000B", "1KiB", "3MiB"]);
    }

    #[test]
    fn permissions_are_octal() {
        assert_eq!((file_mode("0660"), file_mode("600")), (Ok(0o660), Ok(0o600)));
        for text in ["", "66", "0888", "01777", "4755", "rw", "+660", "00660"] {
            assert!(file_mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_read_in_their_usual_forms() {
        assert_eq!(network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(network("::1").unwrap().to_string(), "::1/128");
        assert!(network("10.0.0.0/33").is_err() && network("localhost").is_err());
        assert_eq!(dns_server("10.0.0.53").unwrap().to_string(), "10.0.0.53:53");
        assert_eq!(dns_server("[fd00::53]:5353").unwrap().port(), 5353);
        assert!(dns_server("10.0.0.53:0").is_err() && dns_server("dns.example").is_err());
        assert!(
            socket_address("[::1]:0").is_ok() && socket_address("3128").is_err() && socket_address(":3128").is_err()
        );
    }
}
