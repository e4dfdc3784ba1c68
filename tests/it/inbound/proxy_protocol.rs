//! The PROXY protocol in front of HTTP, TLS and SNI.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use super::{count, secure, trusting};
use crate::support::certificates::Authority;
use crate::support::client::{connect, dial, ends, read_answer};
use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::{Egret, Folder, PATIENCE, Setup, eventually};

const BALANCER: [u8; 4] = [127, 0, 0, 2];

/// A proxy whose balancer is 127.0.0.2, and whose clients come from 192.0.2.0/24 and this machine.
fn proxy(folder: &Folder, more: &str) -> Egret {
    let listeners = "{ name: proxy, address: \"127.0.0.1:0\", proxyProtocol: { from: [127.0.0.2] }, \
                       clients: { from: [192.0.2.0/24, 127.0.0.0/8, \"2001:db8::/32\"] } }";
    Setup { listeners, more, ..Setup::default() }.start(folder)
}

/// A connection from an address of this machine.
fn dial_from(source: [u8; 4], proxy: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::from(source), 0)).into()).unwrap();
    socket.connect(&proxy.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, rest].concat()
}

fn request(origin: &Origin) -> String {
    format!("GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.address)
}

#[test]
fn the_client_is_whom_the_balancer_names() {
    let folder = Folder::new();
    let egret = proxy(&folder, "");
    let origin = Origin::http(HELLO);
    let v6 = [&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7][..], &[0; 15], &[1, 0, 80, 12, 56]].concat();
    let with_tlv = [&[192, 0, 2, 9, 192, 0, 2, 2, 0, 99, 12, 56][..], &[4, 0, 2, 7, 7]].concat();
    for (header, client, local) in [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 40007 3128\r\n".to_vec(), "192.0.2.7:40007", "198.51.100.1:3128"),
        (b"PROXY TCP6 2001:db8::6 2001:db8::1 40006 3128\r\n".to_vec(), "[2001:db8::6]:40006", "[2001:db8::1]:3128"),
        (v2(0x21, 0x11, &with_tlv), "192.0.2.9:99", "192.0.2.2:3128"),
        (v2(0x21, 0x21, &v6), "[2001:db8::7]:80", "[::1]:3128"),
    ] {
        let mut stream = dial_from(BALANCER, egret.proxy());
        stream.write_all(&[&header[..], request(&origin).as_bytes()].concat()).unwrap();
        assert_eq!(read_answer(&mut stream).status, 200, "{client}");
        let record = egret.record(&format!("\"{client}\""));
        record.shows(&[("downstream_remote_address", client), ("downstream_local_address", local)]);
    }
    assert_eq!(count(&egret, "egret_proxy_protocol_headers_total{result=\"accepted\"}"), 4);
}

#[test]
fn a_header_may_come_in_pieces_and_the_clients_bytes_follow_it() {
    let folder = Folder::new();
    let egret = proxy(&folder, "");
    let echo = Origin::echo();
    let mut stream = dial_from(BALANCER, egret.proxy());
    stream.set_nodelay(true).unwrap();
    for byte in b"PROXY TCP4 192.0.2.7 198.51.100.1 40007 3128\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    write!(stream, "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", echo.address).unwrap();
    assert!(read_head(&mut stream).expect("an answer").starts_with("HTTP/1.1 200 "));
    stream.write_all(b"PROXY is a word like any other now").unwrap();
    let mut back = [0; 34];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"PROXY is a word like any other now");
}

#[test]
fn whoever_the_balancer_speaks_for_is_judged_and_not_the_balancer() {
    let folder = Folder::new();
    let egret = proxy(&folder, "");
    let origin = Origin::http(HELLO);
    let mut stream = dial_from(BALANCER, egret.proxy());
    write!(stream, "PROXY TCP4 203.0.113.1 198.51.100.1 1 2\r\n{}", request(&origin)).unwrap();
    let answer = read_answer(&mut stream);
    assert_eq!(answer.status, 403, "{}", answer.head);
    egret.record("203.0.113.1").shows(&[("reason", "client_denied")]);
    // A health check: the balancer itself is the client.
    let mut stream = dial_from(BALANCER, egret.proxy());
    stream.write_all(&[&v2(0x20, 0, &[])[..], request(&origin).as_bytes()].concat()).unwrap();
    assert_eq!(read_answer(&mut stream).status, 200);
    assert_eq!(count(&egret, "egret_proxy_protocol_headers_total{result=\"local\"}"), 1);
    assert!(egret.record("127.0.0.2").get("downstream_remote_address").starts_with("127.0.0.2:"));
}

#[test]
fn nobody_else_may_send_a_header_and_nobody_else_has_to() {
    let folder = Folder::new();
    let egret = proxy(&folder, "");
    let origin = Origin::http(HELLO);
    for header in [&b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n"[..], &v2(0x21, 0x11, &[0; 12])] {
        let mut stream = dial(egret.proxy());
        stream.write_all(&[header, request(&origin).as_bytes()].concat()).unwrap();
        assert!(ends(&mut stream));
    }
    egret.record("127.0.0.1 may not send a PROXY header").shows(&[("reason", "client_denied"), ("response_code", "0")]);
    assert_eq!(count(&egret, "egret_proxy_protocol_headers_total{result=\"refused\"}"), 2);
    assert!(origin.requests().is_empty());
    let mut stream = dial(egret.proxy());
    stream.write_all(request(&origin).as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream).status, 200);
}

#[test]
fn a_balancer_that_sends_none_or_half_of_one_is_closed() {
    let folder = Folder::new();
    let egret = proxy(&folder, "limits: { headTime: 300ms }");
    let origin = Origin::http(HELLO);
    let mut without = dial_from(BALANCER, egret.proxy());
    without.write_all(request(&origin).as_bytes()).unwrap();
    assert!(ends(&mut without));
    egret.record("does not begin with a PROXY header").shows(&[("reason", "http_request_error")]);
    let mut half = dial_from(BALANCER, egret.proxy());
    half.write_all(b"PROXY TCP4 192.0.2.7 ").unwrap();
    assert!(ends(&mut half));
    egret.record("the PROXY header was not complete in time").shows(&[("reason", "http_request_timeout")]);
    assert_eq!(count(&egret, "egret_proxy_protocol_headers_total{result=\"malformed\"}"), 1);
    assert_eq!(count(&egret, "egret_proxy_protocol_headers_total{result=\"timed_out\"}"), 1);
    assert!(origin.requests().is_empty());
}

#[test]
fn the_bound_per_client_is_the_clients_and_not_the_balancers() {
    let folder = Folder::new();
    let egret = proxy(&folder, "limits: { connectionsPerClient: 1 }");
    let origin = Origin::http(HELLO);
    let mut open = Vec::new();
    for (client, passes) in [(1, true), (2, true), (1, false), (3, true)] {
        let mut stream = dial_from(BALANCER, egret.proxy());
        write!(stream, "PROXY TCP4 192.0.2.{client} 198.51.100.1 1 2\r\n{}", request(&origin)).unwrap();
        match passes {
            true => assert_eq!(read_answer(&mut stream).status, 200),
            false => assert!(ends(&mut stream)),
        }
        open.push(stream);
    }
    drop(open);
    eventually("the count goes down again", || {
        let mut stream = dial_from(BALANCER, egret.proxy());
        write!(stream, "PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r\n{}", request(&origin)).unwrap();
        read_head(&mut stream).is_some()
    });
}

#[test]
fn it_comes_before_tls_and_before_a_hello_that_is_forwarded() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.write(&folder, "ca.pem");
    authority.issue(&folder, "own", &["proxy.example"]);
    let upstream = Origin::mirror_tls(authority.server(&["proxy.example"]));
    let port = upstream.address.port();
    let listeners = format!(
        "{{ name: proxy, address: \"127.0.0.1:0\", proxyProtocol: {{ from: [127.0.0.1] }}, clients: {{ open: true, from: [192.0.2.0/24] }}, \
            tls: {{ certificate: own.pem, privateKey: own.key }} }}, \
         {{ name: sni, protocol: sni, address: \"127.0.0.1:0\", proxyProtocol: {{ from: [127.0.0.1] }}, \
            clients: {{ from: [192.0.2.0/24] }}, upstreamPort: {port} }}"
    );
    let more = format!("allow: [\"proxy.example:{port}\"]");
    let egret =
        Setup { listeners: &listeners, more: &more, hosts: &["proxy.example"], ..Setup::default() }.start(&folder);
    let config = trusting(&ca, None);
    let echo = Origin::http(HELLO);
    for (name, request) in
        [("proxy", request(&echo)), ("sni", "GET / HTTP/1.1\r\nHost: proxy.example\r\n\r\n".to_owned())]
    {
        let mut tcp = dial(egret.address(name));
        tcp.write_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 40007 3128\r\n").unwrap();
        let mut stream = secure(&config, tcp).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        assert!(read_head(&mut stream).expect("an answer").starts_with("HTTP/1.1 200 "), "{name}");
        drop(stream);
        egret.record(&format!("\"listener\":\"{name}\"")).shows(&[("downstream_remote_address", "192.0.2.7:40007")]);
    }
}

#[test]
fn listeners_without_the_setting_know_no_header() {
    let egret = Egret::start();
    let mut stream = dial(egret.proxy());
    stream.write_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut stream).status, 400);
    let (_, head) = connect(egret.proxy(), "127.0.0.1:1");
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
}
