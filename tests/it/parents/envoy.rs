//! Envoy, which is asked in HTTP/1 and in HTTP/2.

use super::{by_policy, parent, refused, rule};
use crate::support::certificates::Authority;
use crate::support::client;
use crate::support::envoy::Envoy;
use crate::support::origin::{Origin, field};
use crate::support::{Egret, Folder};

const ANY: &str = "any.example:443";

fn start(folder: &Folder, authority: &Authority, origin: &Origin) -> Envoy {
    Envoy::start(folder, origin.address, &authority.issue(folder, "parent", &["parent.example"]))
}

fn through(folder: &Folder, rules: &str) -> Egret {
    by_policy(rules).start(folder)
}

fn speaking(port: u16, protocol: &str) -> String {
    parent(port).replace("protocol: TCP", &format!("protocol: {protocol}"))
}

#[test]
fn the_ports_protocol_says_which_version_it_is_asked_in() {
    let (folder, authority, origin) = (Folder::new(), Authority::new(), Origin::echo());
    let envoy = start(&folder, &authority, &origin);
    let ca = authority.write(&folder, "ca");
    let tls = rule("", &format!("trafficPolicy: {{ tls: {{ mode: SIMPLE, caCertificates: {} }} }}", ca.display()));
    for (protocol, port, policy, line) in [
        ("HTTP", envoy.plain().port(), "", "HTTP/1.1 CONNECT clear-http.example:443 200"),
        ("HTTP2", envoy.plain().port(), "", "HTTP/2 CONNECT clear-http2.example:443 200"),
        ("HTTP", envoy.tls().port(), &*tls, "HTTP/1.1 CONNECT tls-http.example:443 200"),
        ("HTTP2", envoy.tls().port(), &*tls, "HTTP/2 CONNECT tls-http2.example:443 200"),
    ] {
        let own = Folder::new();
        let egret = through(&own, &(speaking(port, protocol) + policy));
        let target = line.split(' ').nth(2).unwrap();
        let mut tunnel = client::tunnel(egret.proxy(), target);
        assert!(client::echoes(&mut tunnel, &[b'x'; 100_000]), "{line}");
        // The end of our side reaches the origin, whose own end comes back.
        tunnel.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(client::ends(&mut tunnel), "{line}");
        let record = egret.record(target);
        record.shows(&[("response_code", "200"), ("response_flags", "-"), ("hop", &format!("127.0.0.1:{port}"))]);
        record.shows(&[("bytes_received", "100000"), ("bytes_sent", "100000")]);
        let seen = envoy.line(line);
        assert!(seen.contains("via=1.1 egret-"), "{seen}");
    }
}

#[test]
fn tunnels_share_connections_up_to_its_bound() {
    let (folder, authority, origin) = (Folder::new(), Authority::new(), Origin::echo());
    let envoy = start(&folder, &authority, &origin);
    let own = Folder::new();
    let egret = through(&own, &speaking(envoy.plain().port(), "HTTP2"));
    let mut tunnels: Vec<_> = (0..9).map(|_| client::tunnel(egret.proxy(), ANY)).collect();
    for tunnel in &mut tunnels {
        assert!(client::echoes(tunnel, b"one of nine"));
    }
    assert_eq!(egret.metric("egret_upstream_http2_connections_open"), 3, "four on each at most");
    assert_eq!(egret.metric("egret_upstream_http2_streams_open"), 9);
    drop(tunnels);
    crate::support::eventually("all streams are over", || egret.metric("egret_upstream_http2_streams_open") == 0);
    assert!(client::echoes(&mut client::tunnel(egret.proxy(), ANY), b"on one that stands"));
    assert_eq!(egret.metric("egret_upstream_http2_connections_total"), 3);
}

#[test]
fn what_it_denies_is_502_and_says_that_it_was_the_parent() {
    let (folder, authority, origin) = (Folder::new(), Authority::new(), Origin::echo());
    let envoy = start(&folder, &authority, &origin);
    let own = Folder::new();
    let egret = through(&own, &speaking(envoy.plain().port(), "HTTP2"));
    let target = "denied.example:443";
    let mut stream = client::dial(egret.proxy());
    client::send(&mut stream, &format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
    let answer = client::read_answer(&mut stream);
    assert!(answer.head.starts_with("HTTP/1.1 502 Parent Proxy Refused (403)\r\n"), "{}", answer.head);
    let status = field(&answer.head, "proxy-status").unwrap();
    assert!(status.contains(&format!("the parent proxy on the way to {target} answered 403 Forbidden")), "{status}");
    egret.record(target).shows(&refused("403"));
}

#[test]
fn it_goes_down_with_tunnels_open_and_they_are_reset() {
    let (folder, authority, origin) = (Folder::new(), Authority::new(), Origin::echo());
    let envoy = start(&folder, &authority, &origin);
    let own = Folder::new();
    let egret = through(&own, &speaking(envoy.plain().port(), "HTTP2"));
    let mut tunnel = client::tunnel(egret.proxy(), ANY);
    assert!(client::echoes(&mut tunnel, b"up"));
    drop(envoy);
    assert!(std::io::Read::read(&mut tunnel, &mut [0; 1]).is_err(), "it never looks complete");
    egret.record(ANY).shows(&[("response_code", "200"), ("response_flags", "UC")]);
}
