#![allow(clippy::unwrap_used)]

use super::*;
use crate::flow::{ErrorType, Scheme};
use crate::http1::write;

const LIMITS: HeadLimits = HeadLimits { bytes: 32 * 1024, fields: 100 };

fn request(bytes: impl AsRef<[u8]>) -> Result<RequestHead, HeadError> {
    parse_request(&mut BytesMut::from(bytes.as_ref()), &LIMITS).map(|head| head.expect("a whole head"))
}

fn answer(method: &str, bytes: impl AsRef<[u8]>) -> Result<ResponseHead, HeadError> {
    parse_response(&mut BytesMut::from(bytes.as_ref()), method, &LIMITS).map(|head| head.expect("a whole head"))
}

/// Refused for this reason at once, and byte by byte at the latest with its last byte; never for another one.
fn refused(bytes: impl AsRef<[u8]>, error: HeadError) {
    let bytes = bytes.as_ref();
    let shown = String::from_utf8_lossy(bytes);
    assert_eq!(request(bytes).map(|head| head.target), Err(error), "{shown:?}");
    let mut buf = BytesMut::new();
    for &byte in bytes {
        buf.extend_from_slice(&[byte]);
        match parse_request(&mut buf, &LIMITS) {
            Ok(None) => {}
            Ok(Some(_)) => panic!("accepted byte by byte: {shown:?}"),
            Err(early) => return assert_eq!(early, error, "{shown:?}"),
        }
    }
    panic!("not refused byte by byte: {shown:?}");
}

fn accepted(bytes: impl AsRef<[u8]>) -> RequestHead {
    let bytes = bytes.as_ref();
    request(bytes).unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(bytes)))
}

/// A GET of HTTP/1.1 with these lines behind its Host.
fn get(lines: &str) -> String {
    format!("GET http://a.com/ HTTP/1.1\r\nHost: a.com\r\n{lines}\r\n")
}

fn post(lines: &str) -> String {
    format!("POST http://a.com/ HTTP/1.1\r\nHost: a.com\r\n{lines}\r\n")
}

fn connect(target: &str) -> String {
    format!("CONNECT {target} HTTP/1.0\r\n\r\n")
}

#[test]
fn a_request_is_read_as_it_was_sent() {
    let text = "POST http://A.com:8080/x?y=1 HTTP/1.1\r\nhOST: a.com\r\nX-A:  one \r\nx-a:two\r\nEmpty:\r\n\
                Content-Length: 5\r\n\r\n";
    let mut buf = BytesMut::from(format!("{text}hello").as_str());
    let head = parse_request(&mut buf, &LIMITS).unwrap().unwrap();
    assert_eq!(&buf[..], b"hello");
    assert_eq!(head.raw(), text.as_bytes());
    assert_eq!((head.method(), head.path(), head.version()), ("POST", "/x?y=1", Version::Http11));
    let target = Target::parse_authority(b"a.com:8080").unwrap();
    assert_eq!(head.target(), &RequestTarget::Absolute { scheme: Scheme::Http, target });
    assert_eq!(head.host(), Some(&b"a.com"[..]));
    assert_eq!(head.field("x-A"), Some(&b"one"[..]));
    assert_eq!(head.all("X-a").collect::<Vec<_>>(), [b"one", b"two"]);
    assert_eq!(head.field("empty"), Some(&b""[..]));
    assert_eq!(head.field("absent"), None);
    let fields: Vec<_> = head.fields().collect();
    let expected: [(&str, &[u8]); 5] =
        [("hOST", b"a.com"), ("X-A", b"one"), ("x-a", b"two"), ("Empty", b""), ("Content-Length", b"5")];
    assert_eq!(fields, expected);
    assert_eq!(head.body(), BodyLength::Length(5));
    assert!(head.persistent());
}

#[test]
fn targets_are_read_by_their_form() {
    let path = |target: &str| {
        let head = accepted(format!("GET {target} HTTP/1.1\r\nHost: a.com\r\n\r\n"));
        (head.target().clone(), head.path().to_owned())
    };
    let absolute = |scheme, authority: &str| {
        let target = Target::parse_authority(authority.as_bytes()).unwrap();
        RequestTarget::Absolute { scheme, target }
    };
    for (text, target, expected) in [
        ("/", RequestTarget::Origin, "/"),
        ("/a/../b//c?d=?&e=[{|}]^`\\", RequestTarget::Origin, "/a/../b//c?d=?&e=[{|}]^`\\"),
        ("//a@b", RequestTarget::Origin, "//a@b"),
        ("http://a.com", absolute(Scheme::Http, "a.com:80"), "/"),
        ("HTTP://a.com/", absolute(Scheme::Http, "a.com:80"), "/"),
        ("http://a.com:/", absolute(Scheme::Http, "a.com:80"), "/"),
        ("http://a.com?q=http://b", absolute(Scheme::Http, "a.com:80"), "/?q=http://b"),
        ("https://A.COM.:8443/x@y", absolute(Scheme::Https, "a.com:8443"), "/x@y"),
        ("ws://a.com/chat", absolute(Scheme::Http, "a.com:80"), "/chat"),
        ("wss://a.com/chat", absolute(Scheme::Https, "a.com:443"), "/chat"),
        ("http://[2001:db8::1]/", absolute(Scheme::Http, "[2001:db8::1]:80"), "/"),
        ("http://0x7f.1/", absolute(Scheme::Http, "127.0.0.1:80"), "/"),
    ] {
        assert_eq!(path(text), (target, expected.to_owned()), "{text}");
    }
    let head = accepted("OPTIONS * HTTP/1.1\r\nHost: a.com\r\n\r\n");
    assert_eq!((head.target(), head.path()), (&RequestTarget::Asterisk, "*"));
    let head = accepted("CONNECT a.com:443 HTTP/1.1\r\nHost: a.com:443\r\n\r\n");
    let target = Target::parse_authority(b"a.com:443").unwrap();
    assert_eq!((head.target(), head.path()), (&RequestTarget::Authority(target), "-"));
}

#[test]
fn what_is_no_request_line_is_refused() {
    for (line, error) in [
        ("GET  / HTTP/1.1", HeadError::RequestLine),
        ("GET /  HTTP/1.1", HeadError::RequestLine),
        ("GET / HTTP/1.1 ", HeadError::RequestLine),
        ("GET /a b HTTP/1.1", HeadError::RequestLine),
        ("GET /", HeadError::RequestLine),
        ("GET  HTTP/1.1", HeadError::RequestLine),
        ("GET", HeadError::Method),
        (" GET / HTTP/1.1", HeadError::Method),
        ("G@T / HTTP/1.1", HeadError::Method),
        ("GET\t/ HTTP/1.1", HeadError::Method),
        ("\x16\x03\x01\x02", HeadError::Method),
        ("\r\nGET / HTTP/1.1", HeadError::Method), // a second empty line; the first is passed over
        ("G\0T / HTTP/1.1", HeadError::Method),
        ("GET /\0 HTTP/1.1", HeadError::ControlByte),
        ("GET /\x7f HTTP/1.1", HeadError::ControlByte),
        ("GET /\rx HTTP/1.1", HeadError::BareCr),
        ("GET /\t HTTP/1.1", HeadError::TargetCharacter),
        ("GET / HTTP/1.2", HeadError::Version),
        ("GET / HTTP/2.0", HeadError::Version),
        ("GET / HTTP/0.9", HeadError::Version),
        ("GET / http/1.1", HeadError::Version),
        ("GET / HTTP/1.10", HeadError::Version),
        ("GET / HTTP/01.1", HeadError::Version),
        ("GET /é HTTP/1.1", HeadError::TargetCharacter),
        ("GET http://é.com/ HTTP/1.1", HeadError::TargetCharacter),
        ("CONNECT é.com:443 HTTP/1.1", HeadError::TargetCharacter),
        ("GET /# HTTP/1.1", HeadError::TargetCharacter),
        ("GET /?a#b HTTP/1.1", HeadError::TargetCharacter),
        ("GET /<a> HTTP/1.1", HeadError::TargetCharacter),
        ("GET /\" HTTP/1.1", HeadError::TargetCharacter),
        ("GET /` HTTP/1.1", HeadError::TargetCharacter),
        ("GET * HTTP/1.1", HeadError::Asterisk),
        ("OPTIONS ** HTTP/1.1", HeadError::TargetForm),
        ("GET a.com:80 HTTP/1.1", HeadError::TargetForm),
        ("GET a.com HTTP/1.1", HeadError::TargetForm),
        ("GET http:/a.com/ HTTP/1.1", HeadError::TargetForm),
        ("GET ftp://a.com/ HTTP/1.1", HeadError::Scheme),
        ("GET file:///etc/passwd HTTP/1.1", HeadError::Scheme),
        ("GET ://a.com/ HTTP/1.1", HeadError::Scheme),
        ("GET http:/// HTTP/1.1", HeadError::Target(TargetError::Empty)),
        ("GET http://:80/ HTTP/1.1", HeadError::Target(TargetError::Empty)),
        ("GET http://a.com#b HTTP/1.1", HeadError::TargetCharacter),
        ("GET http://a.com:0/ HTTP/1.1", HeadError::Target(TargetError::BadPort)),
        ("GET http://a.com:65616/ HTTP/1.1", HeadError::Target(TargetError::BadPort)),
        ("GET http://a.com:4294967376/ HTTP/1.1", HeadError::Target(TargetError::BadPort)),
        ("GET http://a_b!.com/ HTTP/1.1", HeadError::Target(TargetError::BadName)),
        ("GET http://a%2ecom/ HTTP/1.1", HeadError::Target(TargetError::BadName)),
        ("GET http://1.2.3.256/ HTTP/1.1", HeadError::Target(TargetError::BadIpv4)),
        ("GET http://user:secret@a.com/ HTTP/1.1", HeadError::Target(TargetError::Userinfo)),
        ("GET http://@a.com/ HTTP/1.1", HeadError::Target(TargetError::Userinfo)),
    ] {
        refused(format!("{}{line}\r\nHost: a.com\r\n\r\n", if line.starts_with('\r') { "\r\n" } else { "" }), error);
    }
    for line in ["GET / HTTP/1.1", "\r\nGET / HTTP/1.1", "get / HTTP/1.0", "M-SEARCH!#$%&'*+.^_`|~ / HTTP/1.1"] {
        accepted(format!("{line}\r\nHost: a.com\r\n\r\n"));
    }
}

#[test]
fn connect_takes_host_and_port_and_nothing_else() {
    for (target, error) in [
        ("a.com", HeadError::Target(TargetError::MissingPort)),
        ("a.com:", HeadError::Target(TargetError::BadPort)),
        ("a.com:0", HeadError::Target(TargetError::BadPort)),
        ("a.com:+443", HeadError::Target(TargetError::BadPort)),
        ("a.com:65536", HeadError::Target(TargetError::BadPort)),
        ("a.com:65979", HeadError::Target(TargetError::BadPort)), // 65536 + 443
        ("a.com:4294967739", HeadError::Target(TargetError::BadPort)), // 2^32 + 443
        (":443", HeadError::Target(TargetError::Empty)),
        ("2001:db8::1:443", HeadError::Target(TargetError::BadIpv6)),
        ("user:secret@a.com:443", HeadError::Target(TargetError::Userinfo)),
        ("http://user:secret@a.com:443/", HeadError::Target(TargetError::Userinfo)),
        ("http://a.com:443/", HeadError::ConnectForm),
        ("https://a.com", HeadError::ConnectForm),
        ("a.com:443/", HeadError::ConnectForm),
        ("/", HeadError::ConnectForm),
        ("*", HeadError::Target(TargetError::MissingPort)),
        ("a.com:443?x", HeadError::Target(TargetError::BadPort)),
        ("a.com:443#x", HeadError::Target(TargetError::BadPort)),
    ] {
        refused(connect(target), error);
    }
    for target in ["a.com:443", "a.com:1", "a.com:65535", "[2001:db8::1]:443", "192.0.2.1:22", "A.Com.:443"] {
        accepted(connect(target));
    }
    let with = |line: &str| format!("CONNECT a.com:443 HTTP/1.1\r\nHost: a.com:443\r\n{line}\r\n\r\n");
    refused(with("Content-Length: 1"), HeadError::ConnectBody);
    refused(with("Transfer-Encoding: chunked"), HeadError::ConnectBody);
    assert_eq!(accepted(with("Content-Length: 0")).body(), BodyLength::None);
    assert_eq!(accepted(with("X-A: b")).body(), BodyLength::None);
}

#[test]
fn a_password_in_a_target_is_never_said_again() {
    let error = request(connect("user:secret@a.com:443")).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("secret"));
}

#[test]
fn host_stands_once_and_names_a_host() {
    let with = |hosts: &str| format!("GET http://a.com/ HTTP/1.1\r\n{hosts}\r\n");
    refused(with(""), HeadError::HostMissing);
    refused(with("X-Host: a.com\r\n"), HeadError::HostMissing);
    refused(with("Host: a.com\r\nHost: a.com\r\n"), HeadError::HostTwice);
    refused(with("Host: a.com\r\nhost: b.com\r\n"), HeadError::HostTwice);
    refused(with("Host:\r\n"), HeadError::Host(TargetError::Empty));
    refused(with("Host: a.com, b.com\r\n"), HeadError::Host(TargetError::BadName));
    refused(with("Host: a b\r\n"), HeadError::Host(TargetError::BadName));
    refused(with("Host: é.com\r\n"), HeadError::Host(TargetError::BadName));
    refused(with("Host: a.com/x\r\n"), HeadError::Host(TargetError::BadName));
    refused(with("Host: u@a.com\r\n"), HeadError::Host(TargetError::Userinfo));
    refused(with("Host: a.com:99999\r\n"), HeadError::Host(TargetError::BadPort));
    refused("GET http://a.com/ HTTP/1.0\r\nHost: a.com\r\nHost: a.com\r\n\r\n", HeadError::HostTwice);
    refused("GET / HTTP/1.0\r\nHost: a/b\r\n\r\n", HeadError::Host(TargetError::BadName));
    for host in ["a.com", "A.COM:80", "other.example", "[::1]:8080", "192.0.2.1"] {
        let host = format!("Host: {host}\r\n");
        accepted(with(&host)); // absolute-form wins over Host
        accepted(format!("GET / HTTP/1.1\r\n{host}\r\n"));
    }
    assert_eq!(accepted("GET http://a.com/ HTTP/1.0\r\n\r\n").host(), None);
}

#[test]
fn the_target_of_a_connect_wins_over_its_host() {
    let with = |host: &str| format!("CONNECT a.com:8443 HTTP/1.1\r\nHost: {host}\r\n\r\n");
    for host in ["a.com:8443", "A.com.:8443", "a.com", "b.com:8443", "b.com", "a.com:443", "127.0.0.1:3128"] {
        let head = accepted(with(host));
        assert!(matches!(head.target(), RequestTarget::Authority(target) if target.to_string() == "a.com:8443"));
    }
    for host in ["a.com:8443/", "a.com, b.com", ""] {
        assert!(matches!(parse_request(&mut BytesMut::from(with(host).as_bytes()), &LIMITS), Err(HeadError::Host(_))));
    }
}

#[test]
fn fields_are_lines_of_name_colon_value() {
    for (lines, error) in [
        ("X-A : b\r\n", HeadError::SpaceBeforeColon),
        ("X-A\t: b\r\n", HeadError::SpaceBeforeColon),
        ("X-A: b\r\n c\r\n", HeadError::ObsFold),
        ("X-A: b\r\n\tc: d\r\n", HeadError::ObsFold),
        ("X-A\r\n", HeadError::FieldName),
        (": b\r\n", HeadError::FieldName),
        ("X A: b\r\n", HeadError::FieldName),
        ("X(A): b\r\n", HeadError::FieldName),
        ("Xé: b\r\n", HeadError::FieldName),
        ("X-A: b\n", HeadError::BareLf),
        ("X-A: b\nX-B: c\r\n", HeadError::BareLf),
        ("X-A: b\rX-B: c\r\n", HeadError::BareCr),
        ("X-A: b\r\r\n", HeadError::BareCr),
        ("X-\rA: b\r\n", HeadError::BareCr),
        ("X-A: \0\r\n", HeadError::ControlByte),
        ("X-\0A: b\r\n", HeadError::ControlByte),
        ("X-A: \x1b[2J\r\n", HeadError::ControlByte),
        ("X-A: \x0b\r\n", HeadError::ControlByte),
        ("X-A: \x7f\r\n", HeadError::ControlByte),
    ] {
        refused(get(lines), error);
    }
    refused("GET http://a.com/ HTTP/1.1\r\n Host: a.com\r\n\r\n", HeadError::ObsFold);
    refused("GET http://a.com/ HTTP/1.1\nHost: a.com\r\n\r\n", HeadError::BareLf);
    refused("GET http://a.com/ HTTP/1.1\r\nHost: a.com\r\n\n", HeadError::BareLf);
    for lines in ["X-A:b\r\n", "X-A: \t b \t\r\n", "X-A: b\tc\r\n", "X-A: é\r\n", "X-A: b: c\r\n", "X-A:\r\n"] {
        accepted(get(lines));
    }
}

#[test]
fn framing_is_unambiguous() {
    for (lines, error) in [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", HeadError::LengthTwice),
        ("Content-Length: 5\r\ncontent-length: 6\r\n", HeadError::LengthTwice),
        ("Content-Length: 5, 5\r\n", HeadError::Length),
        ("Content-Length: +5\r\n", HeadError::Length),
        ("Content-Length: -5\r\n", HeadError::Length),
        ("Content-Length:\r\n", HeadError::Length),
        ("Content-Length: 0x5\r\n", HeadError::Length),
        ("Content-Length: 5 5\r\n", HeadError::Length),
        ("Content-Length: 18446744073709551616\r\n", HeadError::Length),
        ("Content-Length: 99999999999999999999999\r\n", HeadError::Length),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", HeadError::LengthAndCoding),
        ("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", HeadError::LengthAndCoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", HeadError::Coding),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", HeadError::Coding),
        ("Transfer-Encoding: gzip, chunked\r\n", HeadError::Coding),
        ("Transfer-Encoding: chunked, gzip\r\n", HeadError::Coding),
        ("Transfer-Encoding: chunked, chunked\r\n", HeadError::Coding),
        ("Transfer-Encoding: identity\r\n", HeadError::Coding),
        ("Transfer-Encoding: xchunked\r\n", HeadError::Coding),
        ("Transfer-Encoding: chunked;q=1\r\n", HeadError::Coding),
        ("Transfer-Encoding: \"chunked\"\r\n", HeadError::Coding),
        ("Transfer-Encoding: , chunked\r\n", HeadError::Coding),
        ("Transfer-Encoding:\r\n", HeadError::Coding),
        ("Transfer-Encoding : chunked\r\n", HeadError::SpaceBeforeColon),
        ("Transfer-Encoding: \x0bchunked\r\n", HeadError::ControlByte),
    ] {
        refused(post(lines), error);
        refused(get(lines), error);
    }
    refused("POST http://a.com/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", HeadError::CodingOf10);
    for (lines, body) in [
        ("", BodyLength::None),
        ("Content-Length: 0\r\n", BodyLength::None),
        ("Content-Length: 5\r\n", BodyLength::Length(5)),
        ("Content-Length: \t5 \r\n", BodyLength::Length(5)),
        ("Content-Length: 007\r\n", BodyLength::Length(7)),
        ("Content-Length: 18446744073709551615\r\n", BodyLength::Length(u64::MAX)),
        ("Transfer-Encoding: chunked\r\n", BodyLength::Chunked),
        ("tRANSFER-eNCODING: Chunked \r\n", BodyLength::Chunked),
    ] {
        assert_eq!(accepted(post(lines)).body(), body, "{lines:?}");
    }
}

#[test]
fn connection_says_what_persists_and_what_stays_here() {
    let persistent = |version: &str, lines: &str| {
        accepted(format!("GET http://a.com/ HTTP/{version}\r\nHost: a.com\r\n{lines}\r\n")).persistent()
    };
    assert!(persistent("1.1", ""));
    assert!(persistent("1.1", "Connection: te\r\n"));
    assert!(!persistent("1.1", "Connection: close\r\n"));
    assert!(!persistent("1.1", "Connection: keep-alive\r\nConnection: foo, Close\r\n"));
    assert!(!persistent("1.0", ""));
    assert!(persistent("1.0", "Connection: Keep-Alive\r\n"));
    assert!(!persistent("1.0", "Connection: keep-alive, close\r\n"));

    let head = accepted(get("Connection: X-A , ,TE\r\nX-A: b\r\nConnection: x-b\r\n"));
    for (name, nominated) in [("x-a", true), ("X-B", true), ("te", true), ("x-c", false), ("host", false)] {
        assert_eq!(head.nominates(name.as_bytes()), nominated, "{name}");
    }
    assert!(!accepted(get("Connection: keep-alive, close\r\nKeep-Alive: 5\r\n")).nominates(b"keep-alive"));
}

#[test]
fn framing_and_routing_fields_cannot_be_nominated() {
    for name in [
        "host",
        "Content-Length",
        "transfer-encoding",
        "connection",
        "authorization",
        "proxy-authorization",
        "cookie",
        "via",
        "forwarded",
        "X-Forwarded-For",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
        "max-forwards",
    ] {
        refused(get(&format!("Connection: {name}\r\n")), HeadError::Nominated);
        refused(get(&format!("Connection: close\r\nConnection: x-a, {name} ,te\r\n")), HeadError::Nominated);
        accepted(get(&format!("Connection: x-{name}\r\n")));
    }
    for value in ["x a", "\"x\"", "x;y", "x/y"] {
        refused(get(&format!("Connection: {value}\r\n")), HeadError::Connection);
    }
    accepted(get("Connection: close, keep-alive, upgrade, te, http2-settings, proxy-connection\r\n"));
}

#[test]
fn only_a_plain_get_upgrades_to_websocket() {
    let upgrades = |text: String| accepted(text).upgrade_websocket();
    let lines = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n";
    assert!(upgrades(get(lines)));
    assert!(upgrades(get("Connection: upgrade\r\nUpgrade: h2c, websocket\r\n")));
    assert!(!upgrades(post(lines)));
    assert!(!upgrades(get("Upgrade: websocket\r\n")));
    assert!(!upgrades(get("Connection: upgrade\r\nUpgrade: h2c\r\n")));
    assert!(!upgrades(get("Connection: upgrade\r\n")));
    assert!(!upgrades(get(&format!("{lines}Content-Length: 1\r\n"))));
    assert!(!upgrades(get(lines).replace("HTTP/1.1", "HTTP/1.0")));
}

#[test]
fn the_limits_hold_on_both_sides_and_for_heads_without_end() {
    let head = get("X-A: b\r\n");
    let parse = |bytes: &[u8], limit| {
        let limits = HeadLimits { bytes: limit, fields: 100 };
        parse_request(&mut BytesMut::from(bytes), &limits).map(|head| head.is_some())
    };
    let too_large = |bytes_max| Err(HeadError::TooLarge { bytes_max });
    assert_eq!(parse(head.as_bytes(), head.len()), Ok(true));
    assert_eq!(parse(format!("{head}body").as_bytes(), head.len()), Ok(true));
    assert_eq!(parse(head.as_bytes(), head.len() - 1), too_large(head.len() - 1));
    let endless = [head.as_bytes(), &[b'a'; 100]].concat();
    let endless = &endless[2..][..head.len() - 4]; // no end in it
    assert_eq!(parse(endless, endless.len() + 1), Ok(false));
    assert_eq!(parse(endless, endless.len()), too_large(endless.len()));
    assert_eq!(HeadError::TooLarge { bytes_max: 1 }.error_type(), ErrorType::HeadTooLarge);

    let fields = |count: usize, end: &str| {
        let limits = HeadLimits { bytes: 32 * 1024, fields: 130 };
        let text = format!("GET / HTTP/1.0\r\n{}{end}", "a: b\r\n".repeat(count));
        parse_request(&mut BytesMut::from(text.as_str()), &limits).map(|head| head.map(|head| head.fields().count()))
    };
    let too_many = Err(HeadError::TooManyFields { fields_max: 130 });
    assert_eq!(fields(0, "\r\n"), Ok(Some(0)));
    assert_eq!(fields(130, "\r\n"), Ok(Some(130)));
    assert_eq!(fields(131, "\r\n"), too_many.clone());
    assert_eq!(fields(130, ""), Ok(None));
    assert_eq!(fields(131, ""), too_many);
}

#[test]
fn one_byte_at_a_time_gives_the_same_head() {
    let text = get("X-A: b\r\nConnection: x-a\r\n");
    for leading in ["", "\r\n"] {
        let mut buf = BytesMut::new();
        let mut head = None;
        for (at, byte) in format!("{leading}{text}").bytes().enumerate() {
            assert!(head.is_none(), "done before byte {at}");
            buf.extend_from_slice(&[byte]);
            head = parse_request(&mut buf, &LIMITS).unwrap();
        }
        let head = head.unwrap();
        assert_eq!(head.raw(), text.as_bytes());
        assert!(head.nominates(b"X-A") && buf.is_empty());
    }
}

#[test]
fn pipelined_heads_are_taken_one_by_one() {
    let mut buf = BytesMut::from([get("A: 1\r\n"), get("A: 2\r\n"), "GET".to_owned()].concat().as_str());
    for number in [b"1", b"2"] {
        let head = parse_request(&mut buf, &LIMITS).unwrap().unwrap();
        assert_eq!(head.field("a"), Some(&number[..]));
    }
    assert!(parse_request(&mut buf, &LIMITS).unwrap().is_none());
    assert_eq!(&buf[..], b"GET");
}

#[test]
fn an_answer_is_read_as_it_was_sent() {
    let head = answer("GET", "HTTP/1.1 404 Not  Found\r\nServer: x\r\nContent-Length: 3\r\n\r\n").unwrap();
    assert_eq!((head.status(), head.reason(), head.version()), (404, &b"Not  Found"[..], Version::Http11));
    assert_eq!(head.fields().collect::<Vec<_>>(), [("Server", &b"x"[..]), ("Content-Length", b"3")]);
    assert_eq!((head.body(), head.persistent()), (BodyLength::Length(3), true));
    for (line, reason) in [
        ("HTTP/1.1 200 ", &b""[..]),
        ("HTTP/1.1 200", b""),
        ("HTTP/1.0 200 ü", "ü".as_bytes()),
        ("HTTP/1.1 599 a\tb", b"a\tb"),
    ] {
        assert_eq!(answer("GET", format!("{line}\r\n\r\n")).unwrap().reason(), reason, "{line:?}");
    }
}

#[test]
fn an_answers_body_ends_as_rfc_9112_says() {
    use BodyLength::{Chunked, Length, None, UntilClose};
    let length = "Content-Length: 5\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    for (method, status, lines, body, persistent) in [
        ("GET", 200, "", UntilClose, false),
        ("GET", 200, length, Length(5), true),
        ("GET", 200, "Content-Length: 0\r\n", None, true),
        ("GET", 200, chunked, Chunked, true),
        ("GET", 200, "Content-Length: 5\r\nConnection: close\r\n", Length(5), false),
        ("HEAD", 200, length, None, true),
        ("HEAD", 200, chunked, None, true),
        ("HEAD", 200, "", None, true),
        ("GET", 304, length, None, true),
        ("GET", 204, "", None, true),
        ("GET", 204, "Content-Length: 0\r\n", None, true),
        ("GET", 204, length, None, false),
        ("GET", 204, chunked, None, false),
        ("GET", 100, "", None, true),
        ("GET", 101, "Connection: upgrade\r\nUpgrade: websocket\r\n", None, true),
        ("CONNECT", 200, "", None, true),
        ("CONNECT", 299, length, None, true),
        ("CONNECT", 200, "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", None, true),
        ("CONNECT", 407, length, Length(5), true),
        ("CONNECT", 502, "", UntilClose, false),
    ] {
        let head = answer(method, format!("HTTP/1.1 {status} x\r\n{lines}\r\n")).unwrap();
        assert_eq!((head.body(), head.persistent()), (body, persistent), "{method} {status} {lines:?}");
    }
    let of_10 = |lines: &str| answer("GET", format!("HTTP/1.0 200 x\r\n{lines}\r\n")).unwrap();
    assert!(!of_10(length).persistent());
    assert!(of_10("Content-Length: 5\r\nConnection: keep-alive\r\n").persistent());
    assert!(!of_10("Connection: keep-alive\r\n").persistent());
}

#[test]
fn answers_that_could_be_read_in_two_ways_are_refused() {
    for (text, error) in [
        ("HTTP/1.1 200 x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", HeadError::LengthTwice),
        ("HTTP/1.1 200 x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", HeadError::LengthAndCoding),
        ("HTTP/1.1 200 x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", HeadError::Coding),
        ("HTTP/1.0 200 x\r\nTransfer-Encoding: chunked\r\n\r\n", HeadError::CodingOf10),
        ("HTTP/1.1 200 x\r\nContent-Length: -1\r\n\r\n", HeadError::Length),
        ("HTTP/1.1 200 x\r\nA: b\r\n c\r\n\r\n", HeadError::ObsFold),
        ("HTTP/1.1 200 x\r\nA : b\r\n\r\n", HeadError::SpaceBeforeColon),
        ("HTTP/1.1 200 x\r\nA: b\n\r\n", HeadError::BareLf),
        ("HTTP/1.1 200 x\nA: b\r\n\r\n", HeadError::BareLf),
        ("HTTP/1.1 200 x\r\nA: \0\r\n\r\n", HeadError::ControlByte),
        ("HTTP/1.1 200 \x1b\r\n\r\n", HeadError::ControlByte),
        ("HTTP/1.1 200 x\ry\r\n\r\n", HeadError::BareCr),
        ("HTTP/1.1 200 x\r\nConnection: Content-Length\r\n\r\n", HeadError::Nominated),
        ("HTTP/1.1 099 x\r\n\r\n", HeadError::StatusLine),
        ("HTTP/1.1 600 x\r\n\r\n", HeadError::StatusLine),
        ("HTTP/1.1 20 x\r\n\r\n", HeadError::StatusLine),
        ("HTTP/1.1 2000 x\r\n\r\n", HeadError::StatusLine),
        ("HTTP/1.1  200 x\r\n\r\n", HeadError::StatusLine),
        ("HTTP/1.2 200 x\r\n\r\n", HeadError::Version),
        ("HTTP/2 200 x\r\n\r\n", HeadError::StatusLine),
        ("SSH-2.0-x\r\n", HeadError::StatusLine),
        ("\r\nHTTP/1.1 200 x\r\n\r\n", HeadError::StatusLine),
        ("ICY 200 OK\r\n\r\n", HeadError::StatusLine),
    ] {
        assert_eq!(answer("GET", text).map(|head| head.status), Err(error), "{text:?}");
    }
    for text in ["HTTP/1.1 100 x\r\n\r\n", "HTTP/1.1 599 x\r\nConnection: via\r\nHost: a\r\nHost: b\r\n\r\n"] {
        answer("GET", text).unwrap();
    }
}

#[test]
fn fields_pass_in_order_and_as_received_whatever_lies_between_them() {
    let head =
        accepted("GET / HTTP/1.1\r\nA: 1\r\nB:2\r\nHost: a.com\r\nC:   3  \r\nD: \r\nE: 5\r\nF: 6\r\nG: 7\r\n\r\n");
    let mut out = BytesMut::new();
    head.pass_fields(
        &mut out,
        |name| match name {
            b"Host" => Passing::Replaced,
            b"F" => Passing::Dropped,
            _ => Passing::Kept,
        },
        |out, name| write::field_with(out, name, |out| out.extend_from_slice(b"b.com")),
    );
    assert_eq!(String::from_utf8_lossy(&out), "A: 1\r\nB: 2\r\nHost: b.com\r\nC: 3\r\nD: \r\nE: 5\r\nG: 7\r\n");
}
