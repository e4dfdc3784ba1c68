//! Inside a tunnel that we terminate, only the tunnel's own target may be asked for.

use std::io::Write;

use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::{Egret, Folder, client};
use crate::wire::{answers, read_to_end};

/// `shop.test:PORT` leads to the origin by an http route, so that a CONNECT to it is terminated. `evil.test` would lead there too.
fn terminating(origin: &Origin) -> (Egret, Folder, String) {
    let port = origin.address.port();
    let folder = Folder::new();
    let hosts = folder.write("hosts", "127.0.0.1 shop.test evil.test\n");
    folder.write(
        "egret.yaml",
        &format!(
            "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}]\naddresses: {{ allow: [127.0.0.0/8] }}\n\
             dns: {{ hosts: {} }}\nresources: [rules.yaml]\n",
            hosts.display()
        ),
    );
    folder.write(
        "rules.yaml",
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: shop }}\nspec:\n  hosts: [shop.test]\n  \
             resolution: DNS\n  ports: [{{ number: {port}, name: http, protocol: HTTP }}]\n---\n\
             apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: shop }}\nspec:\n  hosts: [shop.test]\n  \
             http: [{{ route: [{{ destination: {{ host: shop.test, port: {{ number: {port} }} }} }}] }}]\n"
        ),
    );
    (Egret::with_settings(&folder.settings()), folder, format!("shop.test:{port}"))
}

#[test]
fn requests_for_the_tunnels_own_target_are_served() {
    let origin = Origin::http(HELLO);
    let (egret, _folder, shop) = terminating(&origin);
    let mut tunnel = client::tunnel(egret.proxy(), &shop);
    let port = origin.address.port();
    for request in [
        format!("GET /a HTTP/1.1\r\nHost: {shop}\r\nProxy-Authorization: Basic YTpi\r\n\r\n"),
        format!("GET /a HTTP/1.1\r\nHost: SHOP.test.:{port}\r\n\r\n"),
        format!("GET http://{shop}/a HTTP/1.1\r\nHost: evil.test\r\n\r\n"),
        "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".to_owned(),
    ] {
        tunnel.write_all(request.as_bytes()).unwrap();
        assert_eq!(client::read_answer(&mut tunnel).body, b"hello", "{request}");
        let head = origin.requests().pop().unwrap();
        assert!(head.starts_with("GET /a HTTP/1.1\r\n") && head.contains(&format!("\r\nHost: {shop}\r\n")), "{head}");
        assert!(!head.contains("YTpi") && !head.contains("evil"), "{head}");
    }
}

#[test]
fn a_request_for_anybody_else_is_421_and_the_end_whether_first_or_second() {
    let origin = Origin::http(HELLO);
    let (egret, _folder, shop) = terminating(&origin);
    let port = origin.address.port();
    let good = format!("GET /good HTTP/1.1\r\nHost: {shop}\r\n\r\n");
    for (bad, status) in [
        (format!("GET /bad HTTP/1.1\r\nHost: evil.test:{port}\r\n\r\n"), 421),
        ("GET /bad HTTP/1.1\r\nHost: shop.test\r\n\r\n".to_owned(), 421),
        (format!("GET /bad HTTP/1.1\r\nHost: shop.test:{}\r\n\r\n", port ^ 1), 421),
        (format!("GET /bad HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"), 421),
        (format!("GET http://evil.test:{port}/bad HTTP/1.1\r\nHost: {shop}\r\n\r\n"), 421),
        (format!("GET https://{shop}/bad HTTP/1.1\r\nHost: {shop}\r\n\r\n"), 400),
        (format!("CONNECT evil.test:{port} HTTP/1.1\r\nHost: evil.test:{port}\r\n\r\n"), 400),
        (format!("GET /bad HTTP/1.1\r\nHost: {shop}\r\nHost: evil.test\r\n\r\n"), 400),
        (format!("GET /bad HTTP/1.1\r\nHost: {shop}\nHost: evil.test\r\n\r\n"), 400),
        (
            format!(
                "POST /bad HTTP/1.1\r\nHost: {shop}\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            400,
        ),
    ] {
        for before in [0, 1] {
            let mut tunnel = client::tunnel(egret.proxy(), &shop);
            for _ in 0..before {
                tunnel.write_all(good.as_bytes()).unwrap();
                assert_eq!(client::read_answer(&mut tunnel).status, 200);
            }
            tunnel.write_all((bad.clone() + if status == 421 { &good } else { "" }).as_bytes()).unwrap();
            if bad.starts_with("GET https") {
                assert_eq!(client::read_answer(&mut tunnel).status, 400);
                continue;
            }
            let text = read_to_end(&mut tunnel);
            if text.is_empty() && before == 0 && bad.starts_with("CONNECT") {
                continue; // does not begin as HTTP inside a tunnel does
            }
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{bad:?} after {before}: {text:?}");
            assert!(text.contains("\r\nConnection: close\r\n") && answers(&text) == 1, "{text:?}");
        }
    }
    let served: Vec<_> = origin.requests().into_iter().filter(|head| head.contains("/bad")).collect();
    assert!(served.is_empty(), "{served:?}");
}

#[test]
fn what_is_not_http_inside_is_closed_without_reaching_anybody() {
    let origin = Origin::http(HELLO);
    let (egret, _folder, shop) = terminating(&origin);
    for bytes in [&b"\x16\x03\x01\x00\x05hello"[..], b"SSH-2.0-x\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0"] {
        let mut tunnel = client::tunnel(egret.proxy(), &shop);
        tunnel.write_all(bytes).unwrap();
        assert!(read_head(&mut tunnel).is_none(), "{bytes:?}");
    }
    assert!(origin.requests().is_empty());
    let line = egret.stdout.wait_for_nth("CONNECT", 4);
    assert!(line.contains(" DPE "), "{line}");
}

#[test]
fn a_websocket_inside_leaves_a_good_line_for_the_tunnel_and_one_for_itself() {
    let origin = Origin::new(|mut stream| {
        let _ = read_head(&mut stream);
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            .unwrap();
        let mut reader = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut reader, &mut stream);
    });
    let (egret, _folder, shop) = terminating(&origin);
    let mut tunnel = client::tunnel(egret.proxy(), &shop);
    write!(tunnel, "GET /chat HTTP/1.1\r\nHost: {shop}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").unwrap();
    assert!(read_head(&mut tunnel).unwrap().starts_with("HTTP/1.1 101 "));
    assert!(client::echoes(&mut tunnel, b"frame"));
    tunnel.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut tunnel), "");
    for (asked, status) in [("\"GET /chat", "\" 101 - "), ("\"CONNECT", "\" 200 - ")] {
        let line = egret.stdout.wait_for(asked);
        assert!(line.contains(status), "{line}");
    }
}
