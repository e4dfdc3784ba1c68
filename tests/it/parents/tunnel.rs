//! `tunnel` of a DestinationRule: routes of bytes, of TLS and of HTTP through a parent to a target of its own, by CONNECT and by POST.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};

use crate::support::certificates::Authority;
use crate::support::client;
use crate::support::origin::{Origin, field};
use crate::support::peer::{Peer, command, free_ports, run};
use crate::support::squid::{Squid, Squidly};
use crate::support::{Egret, Folder, Setup};

const NAMES: &[&str] = &["far.target"];

/// Routes of `far.example` through the parent at `port`, each port by the tunnel of a subset of its own to `far.target`.
fn rules(port: u16, protocol: &str, [tcp, tls, http]: [SocketAddr; 3], more: &str) -> String {
    let subset = |name: &str, target: SocketAddr| {
        format!(
            "  - name: {name}\n    trafficPolicy: {{ tunnel: {{ protocol: {protocol}, targetHost: far.target, targetPort: {} }} }}\n",
            target.port()
        )
    };
    let to = |subset: &str| {
        format!("{{ destination: {{ host: parent.example, subset: {subset}, port: {{ number: 3128 }} }} }}")
    };
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: parent }}
spec:
  hosts: [parent.example]
  resolution: STATIC
  ports: [{{ number: 3128, name: http-connect, protocol: HTTP, targetPort: {port} }}]
  endpoints: [{{ address: 127.0.0.1 }}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: far }}
spec:
  hosts: [far.example]
  addresses: [240.0.0.1]
  resolution: DNS
  ports:
  - {{ number: 86, name: tcp, protocol: TCP }}
  - {{ number: 443, name: tls, protocol: TLS }}
  - {{ number: 80, name: http, protocol: HTTP }}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: parent }}
spec:
  host: parent.example
  subsets:
{}{}{}  - name: none
{more}---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: far }}
spec:
  hosts: [far.example]
  tcp:
  - match: [{{ port: 86 }}]
    route: [{}]
  tls:
  - match: [{{ port: 443, sniHosts: [far.example] }}]
    route: [{}]
  http:
  - route: [{}]
",
        subset("tcp", tcp),
        subset("tls", tls),
        subset("http", http),
        to("tcp"),
        to("tls"),
        to("http"),
    )
}

fn start(folder: &Folder, rules: &str) -> Egret {
    Setup { mesh: "outboundTrafficPolicy: { mode: REGISTRY_ONLY }", rules, ..Setup::default() }.start(folder)
}

/// Counts what it reads to the end, and says so behind it.
fn counting() -> Origin {
    Origin::new(|mut stream| {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let _ = write!(stream, "{} bytes", bytes.len());
        let _ = stream.shutdown(Shutdown::Write);
    })
}

/// An HTTP server of node's that makes of each POST a connection to the port that Host names.
fn post_terminator() -> Peer {
    const SCRIPT: &str = "
const http = require('http'), net = require('net');
http.createServer({ requestTimeout: 0 }, (request, answer) => {
    if (request.method !== 'POST' || request.url !== '/') return answer.writeHead(405).end();
    const [name, port] = request.headers.host.split(':');
    if (name !== 'far.target') return answer.writeHead(403).end('not ' + name);
    const origin = net.connect({ host: '127.0.0.1', port, allowHalfOpen: true });
    origin.on('connect', () => {
        answer.writeHead(200, { 'X-Tunnel': 'yes' });
        answer.flushHeaders();
        request.pipe(origin);
        origin.pipe(answer);
    });
    origin.on('error', () => answer.headersSent ? answer.destroy() : answer.writeHead(502).end('no origin'));
}).listen(process.argv[1], '127.0.0.1');
";
    Peer::start(|[port]: [u16; 1]| {
        let mut node = command("node");
        node.args(["-e", SCRIPT, "--", &port.to_string()]);
        node
    })
}

/// All three kinds of route through a parent on this port, which reaches the origins.
fn all_kinds_of_route_are_served(port: u16, protocol: &str) {
    let authority = Authority::new();
    let (echo, secure, plain) =
        (Origin::echo(), Origin::mirror_tls(authority.server(&["far.example"])), Origin::mirror());
    let folder = Folder::new();
    let ca = authority.write(&folder, "ca.pem");
    let egret = start(&folder, &rules(port, protocol, [echo.address, secure.address, plain.address], ""));
    let hop = format!("127.0.0.1:{port}");

    let mut tunnel = client::tunnel(egret.proxy(), "far.example:86");
    assert!(client::echoes(&mut tunnel, b"bytes"));
    let mut sender = tunnel.try_clone().unwrap();
    let bulk: Vec<u8> = (0..4 << 20).map(|n: u32| (n % 251) as u8).collect();
    let sent = bulk.clone();
    let sending = std::thread::spawn(move || sender.write_all(&sent).unwrap());
    let mut back = vec![0; bulk.len()];
    tunnel.read_exact(&mut back).unwrap();
    assert!(back == bulk, "what comes back is what was sent");
    sending.join().unwrap();
    drop(tunnel);
    egret.record("far.example:86").shows(&[
        ("response_code", "200"),
        ("response_flags", "-"),
        ("upstream_cluster", "outbound|3128|tcp|parent.example"),
        ("hop", &hop),
        ("bytes_sent", &(bulk.len() + 5).to_string()),
    ]);

    let proxy = format!("http://{}", egret.proxy());
    let mut curl = command("curl");
    curl.args(["-q", "-sS", "--max-time", "15", "-x", &proxy, "--cacert"]).arg(&ca);
    assert_eq!(run(curl.args(["-d", "inside TLS", "https://far.example/"])).succeeded(), "inside TLS");
    egret.record("far.example:443").shows(&[
        ("response_code", "200"),
        ("upstream_cluster", "outbound|3128|tls|parent.example"),
        ("hop", &hop),
    ]);

    for n in 1..=2 {
        let answer = client::get(egret.proxy(), &format!("http://far.example/page{n}"));
        assert_eq!(answer.status, 200, "{}", answer.head);
        egret.record(&format!("/page{n}")).shows(&[
            ("response_code", "200"),
            ("upstream_cluster", "outbound|3128|http|parent.example"),
            ("hop", &hop),
            ("reused", if n == 1 { "false" } else { "true" }),
        ]);
    }
    let head = &plain.requests()[0];
    assert!(head.starts_with("GET /page1 HTTP/1.1\r\n") && field(head, "host") == Some("far.example"), "{head}");
}

#[test]
fn routes_of_every_kind_go_by_connect_through_squid() {
    let squid = Squid::start(Squidly { hosts: NAMES, ..Squidly::default() }, &Authority::new());
    all_kinds_of_route_are_served(squid.plain().port(), "CONNECT");
    assert!(squid.line("CONNECT far.target:").contains("TCP_TUNNEL/200"));
}

#[test]
fn routes_of_every_kind_go_by_post_through_node() {
    let parent = post_terminator();
    all_kinds_of_route_are_served(parent.address().port(), "POST");
}

#[test]
fn the_end_of_either_side_of_a_post_is_the_end_of_that_side_alone() {
    let (parent, origin) = (post_terminator(), counting());
    let folder = Folder::new();
    let egret = start(&folder, &rules(parent.address().port(), "POST", [origin.address; 3], ""));
    let mut tunnel = client::tunnel(egret.proxy(), "far.example:86");
    tunnel.write_all(&[1; 100_000]).unwrap();
    tunnel.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    tunnel.read_to_string(&mut said).unwrap();
    assert_eq!(said, "100000 bytes");
    drop(tunnel);
    egret.record("far.example:86").shows(&[
        ("response_flags", "-"),
        ("bytes_received", "100000"),
        ("bytes_sent", "12"),
    ]);
}

#[test]
fn a_post_that_is_refused_is_told_as_the_parents() {
    let parent = post_terminator();
    let folder = Folder::new();
    let [closed] = free_ports();
    let egret =
        start(&folder, &rules(parent.address().port(), "POST", [SocketAddr::from(([127, 0, 0, 1], closed)); 3], ""));
    let (_, head) = client::connect(egret.proxy(), "far.example:86");
    assert!(head.starts_with("HTTP/1.1 502 Parent Proxy Refused (502)\r\n"), "{head}");
    egret.record("far.example:86").shows(&[
        ("response_code", "502"),
        ("response_flags", "UF"),
        ("reason", "hop_refused"),
        ("hop_status", "502"),
    ]);
}

/// What ends inside of its framing must not look complete.
#[test]
fn a_post_that_breaks_off_resets_the_client() {
    let parent = Origin::new(|mut stream| {
        crate::support::origin::read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhalf of");
        let _ = stream.shutdown(Shutdown::Both);
    });
    let folder = Folder::new();
    let egret = start(&folder, &rules(parent.address.port(), "POST", [parent.address; 3], ""));
    let mut tunnel = client::tunnel(egret.proxy(), "far.example:86");
    let mut seen = Vec::new();
    let end = tunnel.read_to_end(&mut seen);
    assert!(end.is_err() && b"half of".starts_with(&seen), "{end:?} after {seen:?}");
    egret.record("far.example:86").shows(&[("response_flags", "UC")]);
}

/// ISTIO 8: a route with a subset uses that subset's tunnel and only that; of several destinations the rule's own counts alone.
#[test]
fn which_tunnel_counts_is_said_by_subset_and_number_of_destinations() {
    let squid = Squid::start(Squidly { hosts: &["far.target", "top.target"], ..Squidly::default() }, &Authority::new());
    let echo = Origin::echo();
    let top =
        format!("  trafficPolicy: {{ tunnel: {{ targetHost: top.target, targetPort: {} }} }}\n", echo.address.port());
    let rules = rules(squid.plain().port(), "CONNECT", [echo.address; 3], &top);
    let to = |subset: &str, weight: u32| {
        format!("{{ destination: {{ host: parent.example{subset}, port: {{ number: 3128 }} }}, weight: {weight} }}")
    };
    let one = to(", subset: tcp", 100);
    for (routes, asked_for) in [
        (one.clone(), "far.target"),
        (to("", 100), "top.target"),
        // The subset without tunnel is the parent itself, which is no echo.
        (to(", subset: none", 100), ""),
        (format!("{one}, {one}"), "top.target"),
        (format!("{}, {}", to(", subset: none", 50), one), "top.target"),
    ] {
        let single = "[{ destination: { host: parent.example, subset: tcp, port: { number: 3128 } } }]";
        assert!(rules.contains(single));
        let folder = Folder::new();
        let egret = start(&folder, &rules.replace(single, &format!("[{routes}]")));
        let mut tunnel = client::tunnel(egret.proxy(), "far.example:86");
        if asked_for.is_empty() {
            client::send(&mut tunnel, "GET / HTTP/1.1\r\nHost: far.example:86\r\n\r\n");
            let head = client::read_answer(&mut tunnel).head;
            assert!(head.starts_with("HTTP/1.1 ") && head.to_lowercase().contains("squid"), "{head}");
            continue;
        }
        assert!(client::echoes(&mut tunnel, b"which"), "{routes}");
        drop((tunnel, egret));
        squid.line(&format!("CONNECT {asked_for}:{}", echo.address.port()));
    }
}
