//! Reads a TLS ClientHello as it comes, without consuming it: reassembles handshake records, however fragmented.
//!
//! Only what a forwarder asks for is read; everything else is walked over by its lengths, so that hellos of TLS 1.0, GREASE and
//! extensions of the future pass. Whether the handshake is acceptable is the server's to say.

use std::borrow::Cow;
use std::net::IpAddr;

use thiserror::Error;

use crate::flow::{Host, Name};

/// What a ClientHello says, as far as a forwarder wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name extension (RFC 6066 §3).
    pub server_name: ServerName,
    /// ALPN protocol names (RFC 7301), in order.
    pub alpn: Vec<Box<[u8]>>,
    /// It carries an `encrypted_client_hello` extension (draft-ietf-tls-esni), GREASE or real.
    pub has_ech: bool,
}

/// The server name as sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// No extension.
    Absent,
    /// A DNS name, in canonical form.
    Host(Name),
    /// An address literal, which RFC 6066 forbids.
    IpLiteral(IpAddr),
    /// Something else.
    Invalid(Box<[u8]>),
}

/// Why bytes are no ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HelloError {
    /// Not a TLS handshake record with a ClientHello.
    #[error("not a TLS ClientHello")]
    NotTls,
    /// Longer than [`CLIENT_HELLO_BYTES_MAX`].
    #[error("the ClientHello is too long")]
    TooLong,
    /// Broken inside.
    #[error("the ClientHello is malformed")]
    Malformed,
}

/// Bytes of records looked at, at most.
pub const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;

/// Reads the hello at the front of `bytes`; `None`: more bytes are needed.
///
/// # Errors
/// See [`HelloError`]; told from the first wrong byte.
pub fn parse(bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    let Some(message) = reassemble(bytes)? else { return Ok(None) };
    let body = message.get(MESSAGE_HEADER_BYTES..).unwrap_or_default();
    read_hello(body).ok_or(HelloError::Malformed).map(Some)
}

/// Puts the first handshake message together from its records; `None` while parts are missing. A message that lies in one record,
/// as nearly all do, is not copied.
fn reassemble(bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, HelloError> {
    let window = &bytes[..bytes.len().min(CLIENT_HELLO_BYTES_MAX)];
    let mut message = Cow::Borrowed(&[][..]);
    let mut rest = window;
    while let Some(record) = next_record(rest, message.is_empty())? {
        if message.is_empty() {
            message = Cow::Borrowed(record.fragment);
        } else {
            message.to_mut().extend_from_slice(record.fragment);
        }
        if let Some(len) = message_len(&message)? {
            if len <= message.len() {
                return Ok(Some(truncated(message, len)));
            }
            if len > CLIENT_HELLO_BYTES_MAX {
                return Err(HelloError::TooLong);
            }
        }
        rest = record.behind;
    }
    if window.len() == CLIENT_HELLO_BYTES_MAX { Err(HelloError::TooLong) } else { Ok(None) }
}

/// A record's content, as much as has arrived of it.
struct Record<'a> {
    fragment: &'a [u8],
    behind: &'a [u8],
}

/// The record at the front (RFC 8446 §5.1); `None` while nothing of its content has arrived.
fn next_record(bytes: &[u8], first: bool) -> Result<Option<Record<'_>>, HelloError> {
    // What is wrong before the first handshake byte is another protocol; later it is TLS gone wrong.
    let wrong = if first { HelloError::NotTls } else { HelloError::Malformed };
    // TLS 1.3 writes 3.1 or 3.3 here, SSL 3.0 wrote 3.0; 3.4 is seen from clients that misread the RFC.
    let header_ok = |at: usize, byte: u8| match at {
        0 => byte == HANDSHAKE,
        1 => byte == 3,
        2 => byte <= 4,
        _ => true,
    };
    if bytes.iter().take(RECORD_HEADER_BYTES).enumerate().any(|(at, &byte)| !header_ok(at, byte)) {
        return Err(wrong);
    }
    let Some((header, rest)) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if len == 0 || len > RECORD_BYTES_MAX {
        return Err(wrong); // an empty fragment of a handshake is forbidden (RFC 8446 §5.1), and could be repeated without end
    }
    let (fragment, behind) = rest.split_at(len.min(rest.len()));
    Ok((!fragment.is_empty()).then_some(Record { fragment, behind }))
}

/// Length of the handshake message that begins so, header included (RFC 8446 §4).
fn message_len(begin: &[u8]) -> Result<Option<usize>, HelloError> {
    match *begin {
        [] => Ok(None),
        [CLIENT_HELLO, a, b, c, ..] => {
            let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            Ok(Some(MESSAGE_HEADER_BYTES + len))
        }
        [CLIENT_HELLO, ..] => Ok(None),
        _ => Err(HelloError::NotTls),
    }
}

fn truncated(message: Cow<'_, [u8]>, len: usize) -> Cow<'_, [u8]> {
    match message {
        Cow::Borrowed(message) => Cow::Borrowed(&message[..len]),
        Cow::Owned(mut message) => {
            message.truncate(len);
            Cow::Owned(message)
        }
    }
}

/// Reads the body of a ClientHello (RFC 8446 §4.1.2); `None` if a length does not fit.
fn read_hello(body: &[u8]) -> Option<ClientHello> {
    let mut body = Reader(body);
    let version = body.take(2)?;
    body.take(RANDOM_BYTES)?;
    let session_id = body.vector8()?;
    let cipher_suites = body.vector16()?;
    let compression_methods = body.vector8()?;
    let sane = version[0] == 3
        && session_id.len() <= SESSION_ID_BYTES_MAX
        && !cipher_suites.is_empty()
        && cipher_suites.len().is_multiple_of(2)
        && !compression_methods.is_empty();
    if !sane {
        return None;
    }
    let mut hello = ClientHello { server_name: ServerName::Absent, alpn: Vec::new(), has_ech: false };
    if body.0.is_empty() {
        return Some(hello); // SSL 3.0 and TLS 1.0 know hellos without extensions
    }
    let mut extensions = Reader(body.vector16()?);
    if !body.0.is_empty() {
        return None;
    }
    let (mut has_server_name, mut has_alpn) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.number16()?;
        let data = extensions.vector16()?;
        match kind {
            // Twice means that two readers may take two different ones (RFC 8446 §4.2 forbids it).
            EXTENSION_SERVER_NAME if has_server_name => return None,
            EXTENSION_ALPN if has_alpn => return None,
            EXTENSION_SERVER_NAME => {
                has_server_name = true;
                hello.server_name = read_server_name(data)?;
            }
            EXTENSION_ALPN => {
                has_alpn = true;
                hello.alpn = read_alpn(data)?;
            }
            EXTENSION_ECH => hello.has_ech = true,
            _ => {}
        }
    }
    Some(hello)
}

/// RFC 6066 §3: a list that can hold one `host_name`, and no other kind has ever been defined.
fn read_server_name(data: &[u8]) -> Option<ServerName> {
    let mut data = Reader(data);
    let mut list = Reader(data.vector16()?);
    let kind = list.take(1)?;
    let name = list.vector16()?;
    (kind == [HOST_NAME] && list.0.is_empty() && data.0.is_empty()).then(|| classify(name))
}

fn classify(name: &[u8]) -> ServerName {
    let invalid = || ServerName::Invalid(name.into());
    if !name.is_ascii() {
        return invalid(); // internationalised names travel as A-labels
    }
    match Host::parse(name) {
        Ok(Host::Name(name)) => ServerName::Host(name),
        Ok(Host::Ip(ip)) => ServerName::IpLiteral(ip),
        Err(_) => invalid(),
    }
}

fn read_alpn(data: &[u8]) -> Option<Vec<Box<[u8]>>> {
    let mut data = Reader(data);
    let mut list = Reader(data.vector16()?);
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let protocol = list.vector8()?;
        if protocol.is_empty() {
            return None;
        }
        protocols.push(protocol.into());
    }
    (data.0.is_empty() && !protocols.is_empty()).then_some(protocols)
}

/// Takes numbers and length-prefixed vectors (RFC 8446 §3.4) off the front of bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn number16(&mut self) -> Option<u16> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*number))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let len = self.take(1)?[0];
        self.take(len.into())
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let len = self.number16()?;
        self.take(len.into())
    }
}

const RECORD_HEADER_BYTES: usize = 5; // RFC 8446 §5.1
const RECORD_BYTES_MAX: usize = 16 * 1024; // RFC 8446 §5.1
const MESSAGE_HEADER_BYTES: usize = 4; // RFC 8446 §4
const RANDOM_BYTES: usize = 32;
const SESSION_ID_BYTES_MAX: usize = 32;
const HANDSHAKE: u8 = 22; // ContentType, RFC 8446 §5.1
const CLIENT_HELLO: u8 = 1; // HandshakeType, RFC 8446 §4
const HOST_NAME: u8 = 0; // NameType, RFC 6066 §3
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const EXTENSION_ECH: u16 = 0xfe0d;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::client::EchGreaseConfig;
    use rustls::crypto::aws_lc_rs;
    use rustls::server::Acceptor;

    use super::testing::{extension, hello_with, messages, records, vector8, vector16};
    use super::*;

    /// The first flight of rustls as client.
    fn rustls_hello(name: &str, alpn: &[&str], versions: &[&'static rustls::SupportedProtocolVersion]) -> Vec<u8> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        client_bytes(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth(), name, alpn)
    }

    fn client_bytes(mut config: rustls::ClientConfig, name: &str, alpn: &[&str]) -> Vec<u8> {
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// A hello as rustls reads it.
    struct Accepted {
        name: Option<String>,
        alpn: Vec<Box<[u8]>>,
    }

    /// What rustls reads as server; `None` if it refuses.
    fn acceptor(mut bytes: &[u8]) -> Option<Accepted> {
        let mut acceptor = Acceptor::default();
        while !bytes.is_empty() {
            acceptor.read_tls(&mut bytes).ok()?;
            if let Some(accepted) = acceptor.accept().ok()? {
                let hello = accepted.client_hello();
                let alpn = hello.alpn().map(|protocols| protocols.map(Into::into).collect()).unwrap_or_default();
                return Some(Accepted { name: hello.server_name().map(str::to_owned), alpn });
            }
        }
        None
    }

    fn with_names(names: &[&[u8]]) -> Vec<u8> {
        let list: Vec<u8> = names.iter().flat_map(|name| [vec![0], vector16(name)].concat()).collect();
        hello_with(Some(&extension(0, &vector16(&list))))
    }

    fn server_name(hello: &[u8]) -> Result<ServerName, HelloError> {
        parse(hello).map(|hello| hello.expect("whole").server_name)
    }

    fn host(name: &str) -> ServerName {
        ServerName::Host(Name::parse(name.as_bytes()).unwrap())
    }

    #[test]
    fn hellos_of_rustls_are_read_from_every_fragmentation() {
        let tls12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
        for versions in [rustls::ALL_VERSIONS, tls12] {
            let hello = rustls_hello("api.example.com", &["h2", "http/1.1"], versions);
            let expected = ClientHello {
                server_name: host("api.example.com"),
                alpn: vec![Box::from(&b"h2"[..]), Box::from(&b"http/1.1"[..])],
                has_ech: false,
            };
            let accepted = acceptor(&hello).unwrap();
            assert_eq!(
                (host(&accepted.name.unwrap()), accepted.alpn),
                (expected.server_name.clone(), expected.alpn.clone())
            );
            for fragment_bytes in [1, 2, 64, RECORD_BYTES_MAX] {
                let hello = records(&messages(&hello), fragment_bytes);
                for len in 0..hello.len() {
                    assert_eq!(parse(&hello[..len]), Ok(None), "{len} bytes in records of {fragment_bytes}");
                }
                assert_eq!(parse(&hello), Ok(Some(expected.clone())), "records of {fragment_bytes}");
                let early_data = [&hello[..], b"\x14\x03\x03\x00\x01\x01"].concat();
                assert_eq!(parse(&early_data), Ok(Some(expected.clone())));
            }
        }
    }

    #[test]
    fn a_hello_without_names_is_read() {
        let hello = rustls_hello("192.0.2.1", &[], rustls::ALL_VERSIONS);
        let nameless = ClientHello { server_name: ServerName::Absent, alpn: vec![], has_ech: false };
        assert_eq!(parse(&hello), Ok(Some(nameless.clone())));
        assert_eq!(parse(&hello_with(None)), Ok(Some(nameless.clone())), "TLS 1.0 without extensions");
        assert_eq!(parse(&hello_with(Some(&[]))), Ok(Some(nameless)));
    }

    #[test]
    fn ech_is_seen_and_the_outer_name_read() {
        let suite = aws_lc_rs::hpke::ALL_SUPPORTED_SUITES[0];
        let (public_key, _) = suite.generate_key_pair().unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_ech(EchGreaseConfig::new(suite, public_key).into()).unwrap();
        let config = builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        let hello = parse(&client_bytes(config, "a.com", &[])).unwrap().unwrap();
        assert!(hello.has_ech);
        assert_eq!(hello.server_name, host("a.com"));
        let empty = hello_with(Some(&extension(EXTENSION_ECH, b"")));
        assert!(parse(&empty).unwrap().unwrap().has_ech, "what is in it is not ours to judge");
    }

    #[test]
    fn grease_and_unknown_extensions_are_passed_over() {
        let grease = [extension(0x0a0a, b""), extension(0xfafa, b"\0"), extension(0x1234, &[9; 300])].concat();
        let sni = extension(0, &vector16(&[&[0][..], &vector16(b"a.com")].concat()));
        let hello = hello_with(Some(&[&grease[..], &sni, &grease].concat()));
        assert_eq!(server_name(&hello), Ok(host("a.com")));
    }

    #[test]
    fn names_are_canonical_and_what_is_none_is_told_apart() {
        for name in ["API.Example.COM", "api.example.com.", "api.example.com"] {
            assert_eq!(server_name(&with_names(&[name.as_bytes()])), Ok(host("api.example.com")), "{name}");
        }
        for (literal, ip) in [("192.0.2.1", "192.0.2.1"), ("::1", "::1"), ("[::1]", "::1"), ("0x7f.1", "127.0.0.1")] {
            let literal = server_name(&with_names(&[literal.as_bytes()]));
            assert_eq!(literal, Ok(ServerName::IpLiteral(ip.parse().unwrap())));
        }
        for name in
            [&b"a.com\0.b.com"[..], b"", b".", b"a b", b"a.com:443", b"b\xc3\xbc.com", b"\xff", b"a..b", b"*.a.com"]
        {
            assert_eq!(server_name(&with_names(&[name])), Ok(ServerName::Invalid(name.into())), "{name:?}");
        }
    }

    #[test]
    fn ambiguous_or_broken_extensions_are_malformed() {
        let sni = extension(0, &vector16(&[&[0][..], &vector16(b"a.com")].concat()));
        let alpn = extension(16, &vector16(&vector8(b"h2")));
        for (what, hello) in [
            ("two names", with_names(&[b"a.com", b"b.com"])),
            ("no name in the list", with_names(&[])),
            ("two server name extensions", hello_with(Some(&[&sni[..], &sni].concat()))),
            ("two ALPN extensions", hello_with(Some(&[&alpn[..], &alpn].concat()))),
            ("another kind of name", hello_with(Some(&extension(0, &vector16(&[1, 0, 1, b'a']))))),
            ("an empty server name extension", hello_with(Some(&extension(0, b"")))),
            (
                "bytes behind the list",
                hello_with(Some(&extension(0, &[&vector16(&[0, 0, 1, b'a'])[..], b"x"].concat()))),
            ),
            ("an empty ALPN list", hello_with(Some(&extension(16, &vector16(b""))))),
            ("an empty protocol", hello_with(Some(&extension(16, &vector16(&[0]))))),
            ("half an extension", hello_with(Some(&sni[..sni.len() - 1]))),
        ] {
            assert_eq!(parse(&hello), Err(HelloError::Malformed), "{what}");
        }
        assert_eq!(parse(&hello_with(Some(&[&sni[..], &alpn].concat()))).unwrap().unwrap().alpn.len(), 1);
    }

    #[test]
    fn other_protocols_are_told_from_their_first_wrong_byte() {
        for (bytes, error) in [
            (&b"S"[..], HelloError::NotTls),
            (b"G", HelloError::NotTls),
            (b"\x80", HelloError::NotTls), // SSL 2.0
            (b"\x16\x02", HelloError::NotTls),
            (b"\x16\x03\x05", HelloError::NotTls),
            (b"\x16\x03\x01\x00\x00", HelloError::NotTls),
            (b"\x16\x03\x01\x40\x01", HelloError::NotTls),
            (b"\x16\x03\x01\x00\x05\x02", HelloError::NotTls), // a ServerHello
            (b"\x16\x03\x01\x00\x01\x01\x15", HelloError::Malformed), // an alert inside
            (b"\x16\x03\x01\x00\x01\x01\x16\x03\x01\x00\x00", HelloError::Malformed),
        ] {
            assert_eq!(parse(bytes), Err(error), "{bytes:x?}");
            assert_eq!(parse(&bytes[..bytes.len() - 1]), Ok(None), "{bytes:x?}");
        }
    }

    #[test]
    fn hellos_are_bounded() {
        let padded = |len: usize| {
            let without = hello_with(Some(&extension(21, b""))).len();
            hello_with(Some(&extension(21, &vec![0; len - without])))
        };
        let whole = padded(CLIENT_HELLO_BYTES_MAX);
        assert_eq!(whole.len(), CLIENT_HELLO_BYTES_MAX);
        assert!(parse(&whole).unwrap().is_some());
        assert_eq!(parse(&whole[..whole.len() - 1]), Ok(None));
        let longer = records(&messages(&padded(CLIENT_HELLO_BYTES_MAX)), 8 * 1024); // one header more
        assert_eq!(parse(&longer[..CLIENT_HELLO_BYTES_MAX - 1]), Ok(None));
        assert_eq!(parse(&longer), Err(HelloError::TooLong));
        assert_eq!(parse(b"\x16\x03\x01\x00\x04\x01\x00\x40\x00"), Err(HelloError::TooLong), "told from the length");
    }

    proptest! {
        #[test]
        fn whatever_rustls_accepts_is_read_the_same(
            name in "[a-zA-Z0-9_-]{1,12}(\\.[a-zA-Z0-9-]{1,12}){0,3}\\.?",
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            fragment_bytes in 1usize..400,
        ) {
            let Ok(_) = rustls_pki_types::ServerName::try_from(name.clone()) else { return Ok(()) };
            let mut message = messages(&rustls_hello(&name, &["h2"], rustls::ALL_VERSIONS));
            let untouched = flips.is_empty();
            for (at, byte) in flips {
                let at = at.index(message.len());
                message[at] = byte;
            }
            let hello = records(&message, fragment_bytes);
            let ours = parse(&hello[..hello.len().min(CLIENT_HELLO_BYTES_MAX)]);
            if let (Some(accepted), true) = (acceptor(&hello), hello.len() < CLIENT_HELLO_BYTES_MAX) {
                // rustls takes some hellos that the RFC forbids (another legacy_version, another kind of name): we refuse those.
                if ours == Err(HelloError::Malformed) && !untouched {
                    return Ok(());
                }
                let ours = ours.unwrap().unwrap();
                prop_assert_eq!(ours.alpn, accepted.alpn);
                match (ours.server_name, accepted.name) {
                    (ServerName::Host(ours), Some(theirs)) => {
                        prop_assert_eq!(ours.as_str(), theirs.trim_end_matches('.').to_ascii_lowercase());
                    }
                    // rustls reads names leniently ("0x7f.1", "a-.b"): we refuse them, and never take them for another name.
                    (ServerName::Invalid(_) | ServerName::IpLiteral(_), _) | (ServerName::Absent, None) => {}
                    (ours, theirs) => prop_assert!(false, "{:?} and {:?}", ours, theirs),
                }
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
            let _ = parse(&records(&bytes, 7));
            let _ = parse(&records(&[&[1, 0, 0, 200][..], &bytes].concat(), 300));
        }
    }
}
