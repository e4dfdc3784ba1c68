#![allow(clippy::unwrap_used)]

use super::*;
use crate::route::http::{Destination, Routes, Split, TlsRoute};
use crate::route::sample::{cluster, origin, policy, service};
use crate::stream::client_hello::testing::{hello, hello_with_ech, in_records};

fn expected(mode: Mode, service: Option<Service>, asked: &str) -> Expected {
    let service = service.map(Arc::new);
    Expected::new(&Arc::new(policy(mode)), service.as_ref(), &Name::parse(asked.as_bytes()).unwrap()).unwrap()
}

/// A tunnel to ok.com on a port of this protocol.
fn ok_com(protocol: Protocol) -> Expected {
    expected(Mode::Enforce, Some(service("ok.com", 443, protocol)), "ok.com")
}

/// The judgement of all, after checking that what was said of less was `More` or the same.
fn judged(expected: &Expected, bytes: &[u8]) -> Result<(), Unfit> {
    let last = expected.judge(bytes, false);
    for len in 1..bytes.len().min(2_000) {
        let early = expected.judge(&bytes[..len], false);
        assert!(
            matches!(early, Judgement::More | Judgement::Open) || early == last,
            "{early:?} after {len} bytes, then {last:?}"
        );
    }
    match last {
        Judgement::More | Judgement::Open => panic!("undecided: {:?}", String::from_utf8_lossy(bytes)),
        Judgement::Fits(_) => Ok(()),
        Judgement::Unfit(finding) => Err(finding.kind),
    }
}

#[test]
fn the_server_name_has_to_fit_in_every_spelling_and_fragmentation() {
    let expected = ok_com(Protocol::Tls);
    for name in ["ok.com", "OK.Com"] {
        for fragment_bytes in [1, 7, 16 * 1024] {
            assert_eq!(judged(&expected, &in_records(&hello(Some(name)), fragment_bytes)), Ok(()), "{name}");
        }
    }
    assert_eq!(judged(&expected, &hello(Some("evil.com"))), Err(Unfit::Differs));
    assert_eq!(judged(&expected, &in_records(&hello(Some("evil.com")), 1)), Err(Unfit::Differs));
    for near in ["www.ok.com", "ok.com.evil.com", "ok.co", "evilok.com"] {
        assert_eq!(judged(&expected, &hello(Some(near))), Err(Unfit::Differs), "{near}");
    }
    for name in [&b"ok.com."[..], b"ok.com\0", b"192.0.2.1", b"", "bücher.example".as_bytes(), b"ok.com\0.evil.com"] {
        let raw = crate::stream::client_hello::testing::hello_of(name);
        let fits = name == b"ok.com.";
        assert_eq!(judged(&expected, &raw).is_ok(), fits, "{name:?}");
    }
    let idn = self::expected(Mode::Enforce, None, "bücher.example");
    assert_eq!(judged(&idn, &hello(Some("xn--bcher-kva.example"))), Ok(()));
}

#[test]
fn a_hello_inside_of_tls_of_ours_fits_nobody_and_the_rest_is_judged_as_ever() {
    let tls = Origination {
        mode: "SIMPLE",
        sni: crate::route::cluster::Sni::Asked,
        client: Err("no roots in this test".into()),
        origin: origin("DestinationRule default/ok", 7),
    };
    let wrapped = ok_com(Protocol::Tcp).wrapped(Some(Arc::new(tls)));
    assert_eq!(judged(&wrapped, &hello(Some("ok.com"))), Err(Unfit::DoubleTls));
    assert_eq!(judged(&wrapped, &hello(None)), Err(Unfit::DoubleTls));
    let Judgement::Unfit(finding) = wrapped.judge(&hello(Some("ok.com")), false) else { panic!("it fits") };
    assert_eq!(
        &*finding.detail,
        "the client speaks TLS itself, which would go inside of the TLS that DestinationRule default/ok originates"
    );
    assert_eq!(judged(&wrapped, b"GET / HTTP/1.1\r\nHost: ok.com\r\n\r\n"), Ok(()));
    assert_eq!(judged(&wrapped, b"GET / HTTP/1.1\r\nHost: evil.com\r\n\r\n"), Err(Unfit::Differs));
    assert_eq!(judged(&wrapped, b"*1\r\n$4\r\nPING\r\n"), Ok(()));
}

#[test]
fn what_names_nobody_passes_only_where_nobody_has_to_be_named() {
    let (tls, tcp) = (ok_com(Protocol::Tls), ok_com(Protocol::Tcp));
    let (http, unknown) = (ok_com(Protocol::Http), expected(Mode::Enforce, None, "ok.com"));
    for (bytes, unfit) in [
        (hello(None), Unfit::NoName),
        (b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), Unfit::NotTls),
        (b"EHLO mail.example\r\n".to_vec(), Unfit::NotTls),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), Unfit::NotTls),
        (b"GET / HTTP/1.1\r\nHost: ok.com\r\n\r\n".to_vec(), Unfit::NotTls),
        (b"\x00\x00\x01".to_vec(), Unfit::NotTls),
    ] {
        assert_eq!(judged(&tls, &bytes), Err(unfit), "{bytes:?}");
        for passes in [&tcp, &http, &unknown] {
            assert_eq!(judged(passes, &bytes), Ok(()), "{bytes:?}");
        }
    }
}

#[test]
fn the_host_of_plain_http_has_to_fit() {
    let expected = ok_com(Protocol::Http);
    for (head, judgement) in [
        ("GET / HTTP/1.1\r\nHost: ok.com\r\n\r\n", Ok(())),
        ("GET / HTTP/1.1\r\nHost: OK.com.:8080\r\n\r\n", Ok(())),
        ("GET / HTTP/1.0\r\n\r\n", Ok(())),
        ("\r\nGET / HTTP/1.1\r\nHost: ok.com\r\n\r\n", Ok(())),
        ("OPTIONS * HTTP/1.1\r\nHost: ok.com\r\n\r\n", Ok(())),
        ("GET http://ok.com/ HTTP/1.1\r\nHost: ok.com\r\n\r\n", Ok(())),
        // Only the first request is judged.
        ("GET / HTTP/1.1\r\nHost: ok.com\r\n\r\nGET / HTTP/1.1\r\nHost: evil.com\r\n\r\n", Ok(())),
        ("GET / HTTP/1.1\r\nHost: evil.com\r\n\r\n", Err(Unfit::Differs)),
        ("\r\nGET / HTTP/1.1\r\nHost: evil.com\r\n\r\n", Err(Unfit::Differs)),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: evil.com\r\n\r\n", Err(Unfit::Differs)),
        (" GET / HTTP/1.1\r\nHost: evil.com\r\n\r\n", Err(Unfit::Differs)),
        ("GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", Err(Unfit::Differs)),
        ("GET http://evil.com/ HTTP/1.1\r\nHost: ok.com\r\n\r\n", Err(Unfit::Differs)),
        ("GET http://ok.com/ HTTP/1.1\r\nHost: evil.com\r\n\r\n", Err(Unfit::Differs)),
        ("CONNECT evil.com:443 HTTP/1.1\r\nHost: evil.com:443\r\n\r\n", Err(Unfit::Differs)),
        ("CONNECT ok.com:443 HTTP/1.1\r\nHost: ok.com:443\r\n\r\n", Ok(())),
        ("GET / HTTP/1.1\r\nHost: ok.com\r\nHost: evil.com\r\n\r\n", Err(Unfit::Malformed)),
        ("GET / HTTP/1.1\r\nHost: evil.com\nHost: ok.com\r\n\r\n", Err(Unfit::Malformed)),
        ("GET  / HTTP/1.1\r\nHost: evil.com\r\n\r\n", Err(Unfit::Malformed)),
        ("GET\t/ HTTP/1.1\r\nHost: evil.com\r\n\r\n", Err(Unfit::Malformed)),
        ("GET / HTTP/1.1\r\nHost : evil.com\r\n\r\n", Err(Unfit::Malformed)),
        ("GET / HTTP/1.1\r\n\r\n", Err(Unfit::Malformed)),
        ("GET / HTTP/1.1\r\nHost: u@ok.com\r\n\r\n", Err(Unfit::Malformed)),
    ] {
        assert_eq!(judged(&expected, head.as_bytes()), judgement, "{head:?}");
    }
}

#[test]
fn other_hosts_of_the_service_and_of_the_route_fit() {
    let mut of_many = service("*.ok.com", 443, Protocol::Tls);
    of_many.hosts = Arc::new(["*.ok.com".into(), "ok.net".into()]);
    let to = Destination { origin: origin("", 1), to: Split::one(cluster("c")) };
    let route = |names: &[&str]| TlsRoute {
        sni_hosts: names.iter().map(|name| (*name).into()).collect(),
        subnets: None,
        to: to.clone(),
    };
    of_many.routes = Some(Arc::new(Routes {
        rule: "VirtualService default/ok".into(),
        tls: vec![route(&["other.com"]), route(&["a.ok.com", "cdn.net"])],
        ..Routes::default()
    }));
    let expected = expected(Mode::Enforce, Some(of_many), "a.ok.com");
    for name in ["a.ok.com", "b.ok.com", "ok.net", "cdn.net"] {
        assert_eq!(judged(&expected, &hello(Some(name))), Ok(()), "{name}");
    }
    for name in ["ok.com", "other.com", "x.ok.net"] {
        assert_eq!(judged(&expected, &hello(Some(name))), Err(Unfit::Differs), "{name}");
    }
}

#[test]
fn sixteen_kib_are_looked_at_and_no_more() {
    let expected = ok_com(Protocol::Http);
    let head = |bytes: usize| {
        let begin = "GET / HTTP/1.1\r\nHost: ok.com\r\nCookie: ";
        format!("{begin}{}\r\n\r\n", "x".repeat(bytes - begin.len() - 4)).into_bytes()
    };
    assert!(matches!(expected.judge(&head(FIRST_BYTES_MAX), false), Judgement::Fits(_)));
    let Judgement::Unfit(finding) = expected.judge(&head(FIRST_BYTES_MAX + 1), false) else { panic!("judged") };
    assert_eq!(finding.kind, Unfit::Undecided);
    assert_eq!(expected.judge(&head(FIRST_BYTES_MAX + 1)[..FIRST_BYTES_MAX - 1], false), Judgement::More);
    // A hello that never ends: one record header after the other.
    let long: Vec<u8> = [&[22, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfa][..], &vec![0; 17_000]].concat();
    assert_eq!(expected.judge(&long[..FIRST_BYTES_MAX - 1], false), Judgement::More);
    let Judgement::Unfit(finding) = expected.judge(&long[..FIRST_BYTES_MAX], false) else { panic!("judged") };
    assert_eq!((finding.kind, finding.speaks), (Unfit::Undecided, Speaks::Tls));
    let blanks = vec![b' '; FIRST_BYTES_MAX];
    assert!(matches!(expected.judge(&blanks, false), Judgement::Unfit(_)));
    assert_eq!(expected.judge(&blanks[1..], false), Judgement::More);
}

#[test]
fn at_its_end_everything_is_decided() {
    let (http, tls) = (ok_com(Protocol::Http), ok_com(Protocol::Tls));
    let hello = hello(Some("ok.com"));
    for expected in [&http, &tls] {
        let Judgement::Unfit(finding) = expected.judge(&hello[..hello.len() - 1], true) else { panic!("judged") };
        assert_eq!(finding.kind, Unfit::Undecided);
    }
    for (bytes, fits) in
        [(&b"GE"[..], true), (b"QUIT", true), (b"\x16", true), (b"GET / HTTP/1.1\r\nHost: evil.com\r\n", false)]
    {
        assert_eq!(matches!(http.judge(bytes, true), Judgement::Fits(_)), fits, "{bytes:?}");
        assert!(matches!(tls.judge(bytes, true), Judgement::Unfit(_)), "{bytes:?}");
    }
}

#[test]
fn an_encrypted_hello_passes_by_its_outer_name_unless_denied() {
    let mut expected = ok_com(Protocol::Tls);
    assert_eq!(judged(&expected, &hello_with_ech("ok.com")), Ok(()));
    assert_eq!(judged(&expected, &hello_with_ech("evil.com")), Err(Unfit::Differs));
    expected.policy = Arc::new(Policy { deny_ech: true, ..policy(Mode::Enforce) });
    assert_eq!(judged(&expected, &hello_with_ech("ok.com")), Err(Unfit::Ech));
    assert_eq!(judged(&expected, &hello(Some("ok.com"))), Ok(()));
}

#[test]
fn the_services_rule_stands_above_that_of_the_settings() {
    let asked = Name::parse(b"ok.com").unwrap();
    for (settings, own, mode) in [
        (Mode::Off, None, None),
        (Mode::Warn, None, Some(Mode::Warn)),
        (Mode::Warn, Some(Mode::Enforce), Some(Mode::Enforce)),
        (Mode::Enforce, Some(Mode::Off), None),
        (Mode::Off, Some(Mode::Warn), Some(Mode::Warn)),
    ] {
        let mut service = service("ok.com", 443, Protocol::Tls);
        service.consistency = own.map(|mode| Arc::new(policy(mode)));
        let expected = Expected::new(&Arc::new(policy(settings)), Some(&Arc::new(service)), &asked);
        assert_eq!(expected.map(|expected| expected.policy.mode), mode);
    }
}

#[test]
fn what_nobody_can_act_on_need_not_wait() {
    let (http, tls) = (ok_com(Protocol::Tcp), ok_com(Protocol::Tls));
    for (bytes, open) in [
        (&b"x"[..], true),
        (b"hello", true),
        (b"GET ", true),
        (b"GET http", true),
        (b"\r\n", true),
        (b"\x16", true),
        (b"GET /", false),
        (b"CONNECT x", false),
        (b"\x16\x03", false),
        (&[b' '; 64], true),
        (&[b' '; 65], false),
    ] {
        let expected = if open { Judgement::Open } else { Judgement::More };
        assert_eq!(http.judge(bytes, false), expected, "{bytes:?}");
    }
    assert!(matches!(tls.judge(b"x", false), Judgement::Unfit(_)));
    assert_eq!(tls.judge(b"\x16", false), Judgement::Open);
}
