//! What may be there at once: connections, requests of a connection, tunnels, dials.

use std::io::Write;
use std::time::Duration;

use super::reached;
use crate::attacks::dns_server::SilentDns;
use crate::support::origin::{HELLO, Origin};
use crate::support::{client, eventually};
use crate::wire::{proxy, read_to_end};

#[test]
fn connections_in_all_and_of_one_client() {
    for (settings, limit) in [
        ("connections: 2, connectionsPerClient: 2", "connections"),
        ("connections: 9, connectionsPerClient: 2", "connections_per_client"),
    ] {
        let (egret, _folder) = proxy(&format!("limits: {{ {settings} }}"));
        let origin = Origin::http(HELLO);
        let url = format!("http://{}/", origin.address);
        let mut held: Vec<_> = (0..2).map(|_| client::dial(egret.proxy())).collect();
        for stream in &mut held {
            assert_eq!(client::ask(stream, "GET", &url).status, 200, "{settings}");
        }
        assert_eq!(reached(&egret, limit), 0, "two are allowed");
        assert!(client::ends(&mut client::dial(egret.proxy())), "{settings}: a third is closed");
        assert_eq!(reached(&egret, limit), 1, "{settings}");
        held.pop();
        eventually("there is room again", || egret.metric("egret_connections_open") == 1);
        assert_eq!(client::get(egret.proxy(), &url).status, 200, "{settings}");
    }
}

#[test]
fn requests_of_one_connection() {
    let (egret, _folder) = proxy("limits: { requestsPerConnection: 3 }");
    let origin = Origin::http(HELLO);
    let url = format!("http://{}/", origin.address);
    let mut stream = client::dial(egret.proxy());
    for _ in 0..2 {
        assert!(!client::ask(&mut stream, "GET", &url).head.contains("\r\nConnection: close\r\n"));
    }
    assert_eq!(reached(&egret, "requests_per_connection"), 0);
    let last = client::ask(&mut stream, "GET", &url);
    assert_eq!(last.status, 200);
    assert!(last.head.to_lowercase().contains("\r\nconnection: close\r\n"), "{}", last.head);
    assert_eq!(read_to_end(&mut stream), "");
    eventually("it is counted", || reached(&egret, "requests_per_connection") == 1);
    // Refusals count too.
    let mut stream = client::dial(egret.proxy());
    for n in 1..=3 {
        let refused = client::ask(&mut stream, "GET", "http://10.0.0.1/");
        assert_eq!((refused.status, refused.head.contains("Connection: close")), (403, n == 3), "{}", refused.head);
    }
}

#[test]
fn tunnels_in_all_and_of_one_client() {
    for (settings, limit) in
        [("tunnels: 2, tunnelsPerClient: 2", "tunnels"), ("tunnels: 9, tunnelsPerClient: 2", "tunnels_per_client")]
    {
        let (egret, _folder) = proxy(&format!("limits: {{ {settings} }}"));
        let origin = Origin::echo();
        let mut tunnels: Vec<_> = (0..2).map(|_| client::tunnel(egret.proxy(), origin.address)).collect();
        assert_eq!((egret.metric("egret_tunnels_open"), reached(&egret, limit)), (2, 0));
        let (_, head) = client::connect(egret.proxy(), origin.address);
        assert!(head.starts_with("HTTP/1.1 503 Proxy Limit Reached\r\n"), "{head}");
        assert!(head.contains("error=connection_limit_reached") && head.contains("\r\nRetry-After: 1\r\n"), "{head}");
        assert_eq!(reached(&egret, limit), 1, "{settings}");
        egret.stdout.wait_for(" 503 UO ");
        assert!(client::echoes(&mut tunnels[0], b"those that are open are not touched"));
        tunnels.pop();
        eventually("there is room again", || egret.metric("egret_tunnels_open") == 1);
        client::tunnel(egret.proxy(), origin.address);
    }
}

#[test]
fn dials_and_queries_under_way() {
    for (settings, limit) in [
        ("pendingDials: 3", "pending_dials"),
        ("pendingDialsPerClient: 3", "pending_dials_per_client"),
        ("dnsQueries: 6", "dns_queries"),
    ] {
        let dns = SilentDns::new();
        let (egret, _folder) = proxy(&format!(
            "limits: {{ {settings} }}\ndns: {{ servers: [\"{}\"], hosts: null, timeout: 30s }}",
            dns.address()
        ));
        let held: Vec<_> = (0..3)
            .map(|n| {
                let mut stream = client::dial(egret.proxy());
                write!(stream, "CONNECT n{n}.example.org:443 HTTP/1.1\r\nHost: n{n}.example.org:443\r\n\r\n").unwrap();
                dns.wait_for_query();
                dns.wait_for_query(); // both families
                stream
            })
            .collect();
        assert_eq!(egret.metric("egret_dials_pending"), 3);
        assert_eq!((egret.metric("egret_dns_queries_pending"), reached(&egret, limit)), (6, 0), "{settings}");
        for request in ["CONNECT m.example.org:443", "GET http://m.example.org/"] {
            let mut stream = client::dial(egret.proxy());
            write!(
                stream,
                "{request} HTTP/1.1\r\nHost: m.example.org{}\r\n\r\n",
                if request.starts_with('C') { ":443" } else { "" }
            )
            .unwrap();
            assert_eq!(client::read_answer(&mut stream).status, 503, "{settings}: {request}");
        }
        assert!(reached(&egret, limit) >= 2, "{settings}");
        for stream in held {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(); // a reset: the dial is cancelled
        }
        eventually("nothing is under way", || {
            egret.metric("egret_dials_pending") == 0 && egret.metric("egret_dns_queries_pending") == 0
        });
    }
}

#[test]
fn one_network_of_ipv6_is_one_client() {
    let folder = crate::support::Folder::with_settings(
        "listeners: [{ name: proxy, address: \"[::1]:0\" }]\naddresses: { allow: [127.0.0.0/8] }\nlimits: { tunnelsPerClient: 1 }\n",
    );
    let egret = crate::support::Egret::with_settings(&folder.settings());
    let origin = Origin::echo();
    let _one = client::tunnel(egret.proxy(), origin.address);
    let (_, head) = client::connect(egret.proxy(), origin.address);
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(reached(&egret, "tunnels_per_client"), 1);
}

#[test]
fn idle_connections_kept_for_the_next_request() {
    let (egret, _folder) = proxy("limits: { idlePool: 2 }");
    let origins: Vec<_> = (0..3).map(|_| Origin::http(HELLO)).collect();
    for (n, origin) in origins.iter().enumerate() {
        assert_eq!(client::get(egret.proxy(), &format!("http://{}/", origin.address)).status, 200);
        eventually("it is kept", || egret.metric("egret_pool_idle_connections") == (n as u64 + 1).min(2));
        assert_eq!(reached(&egret, "idle_pool"), u64::from(n == 2));
    }
}
