//! `connectionPool` and `proxyProtocol` of DestinationRules over real sockets: both sides of each bound.

mod proxy_protocol;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::{Egret, Folder, PATIENCE, Setup, client, eventually, hello};

/// An origin that answers nobody until it is told to, and counts who came.
#[derive(Clone, Default)]
struct Gate {
    open: Arc<(Mutex<usize>, Condvar)>,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Gate {
    fn origin(&self) -> Origin {
        let gate = self.clone();
        Origin::new(move |mut stream| {
            gate.connections.fetch_add(1, Ordering::SeqCst);
            while read_head(&mut stream).is_some() {
                gate.requests.fetch_add(1, Ordering::SeqCst);
                gate.pass();
                if stream.write_all(HELLO).is_err() {
                    return;
                }
            }
        })
    }

    fn pass(&self) {
        let open = self.open.0.lock().unwrap();
        let (mut open, late) = self.open.1.wait_timeout_while(open, PATIENCE, |open| *open == 0).unwrap();
        if !late.timed_out() {
            *open -= 1;
        }
    }

    /// Lets so many answers go.
    fn let_go(&self, answers: usize) {
        *self.open.0.lock().unwrap() += answers;
        self.open.1.notify_all();
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// `api.example`: port 80 speaks HTTP, 443 TLS, 81 TCP; one origin behind all.
fn rules(port: u16, policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: api }}\nspec:\n  \
         hosts: [api.example, other.example]\n  resolution: DNS\n  ports:\n  \
         - {{ number: 80, name: http, protocol: HTTP, targetPort: {port} }}\n  \
         - {{ number: 443, name: tls, protocol: TLS, targetPort: {port} }}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: api }}\nspec:\n  \
         host: api.example\n  trafficPolicy: {{ {policy} }}\n"
    )
}

fn start(folder: &Folder, origin: &Origin, policy: &str) -> Egret {
    let listeners = "{ name: proxy, address: \"127.0.0.1:0\" }, { name: sni, protocol: sni, address: \"127.0.0.1:0\" }";
    let mesh = "outboundTrafficPolicy: { mode: REGISTRY_ONLY }";
    let rules = rules(origin.address.port(), policy);
    let hosts = &["api.example", "other.example"];
    Setup { mesh, listeners, rules: &rules, hosts, more: "consistency: { mode: off }", ..Setup::default() }
        .start(folder)
}

/// A GET whose answer is read later.
fn asked(egret: &Egret, url: &str) -> TcpStream {
    let mut stream = client::dial(egret.proxy());
    let host = url.split('/').nth(2).unwrap();
    write!(stream, "GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    stream
}

fn text(egret: &Egret, path: &str) -> String {
    String::from_utf8(client::get_from(egret.admin(), path).body).unwrap()
}

fn overflows(egret: &Egret, bound: &str) -> u64 {
    let text = text(egret, "/metrics");
    let line = format!("egret_cluster_overflows_total{{bound=\"{bound}\"}} ");
    text.lines().find_map(|told| told.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
}

const URL: &str = "http://api.example/";

#[test]
fn tunnels_beyond_the_connections_are_refused_by_the_rules_name() {
    let (origin, folder) = (Origin::echo(), Folder::new());
    let egret = start(&folder, &origin, "connectionPool: { tcp: { maxConnections: 2 } }");
    let one = client::tunnel(egret.proxy(), "api.example:443");
    let two = client::tunnel(egret.proxy(), "api.example:443");
    let (mut third, head) = client::connect(egret.proxy(), "api.example:443");
    assert!(head.starts_with("HTTP/1.1 503 Proxy Limit Reached\r\n"), "{head}");
    assert!(head.contains("error=connection_limit_reached"), "{head}");
    let why = "connectionPool.tcp.maxConnections of DestinationRule default/api";
    assert!(head.contains(why), "{head}");
    assert!(client::ends(&mut {
        third.read_to_end(&mut Vec::new()).unwrap();
        third
    }));
    egret.record("CONNECT").shows(&[
        ("response_flags", "UO"),
        ("response_code", "503"),
        ("reason", "connection_limit_reached"),
    ]);
    // Other clusters are not meant, and other ports of the host neither.
    let _other = client::tunnel(egret.proxy(), "other.example:443");
    let mut hello = client::dial(egret.address("sni"));
    hello.write_all(&hello::of("api.example")).unwrap();
    let mut told = Vec::new();
    let _ = hello.read_to_end(&mut told);
    assert!(told.first().is_none_or(|first| *first == 21), "an alert, or nothing: {told:?}");
    eventually("the hello is refused too", || overflows(&egret, "max_connections") == 2);
    // What is held outlives a reload.
    egret.reload();
    assert!(client::connect(egret.proxy(), "api.example:443").1.starts_with("HTTP/1.1 503 "));
    drop((one, two));
    eventually("there is room again", || {
        client::connect(egret.proxy(), "api.example:443").1.starts_with("HTTP/1.1 200 ")
    });
}

#[test]
fn limits_are_shown_as_envoy_shows_them() {
    let (origin, folder) = (Origin::echo(), Folder::new());
    let policy = "connectionPool: { tcp: { maxConnections: 7 }, http: { http1MaxPendingRequests: 8, http2MaxRequests: 9, maxRetries: 10 } }";
    let egret = start(&folder, &origin, policy);
    let told = text(&egret, "/clusters");
    for (name, max) in [("connections", 7), ("pending_requests", 8), ("requests", 9), ("retries", 10)] {
        let line = format!("outbound|443||api.example::default_priority::max_{name}::{max}\n");
        assert!(told.contains(&line), "{line}{told}");
        let line = format!("outbound|443||other.example::default_priority::max_{name}::{}\n", u32::MAX);
        assert!(told.contains(&line), "{line}{told}");
    }
}

#[test]
fn requests_wait_for_one_of_the_connections_and_use_it_again() {
    let (gate, folder) = (Gate::default(), Folder::new());
    let origin = gate.origin();
    let egret = start(&folder, &origin, "connectionPool: { tcp: { maxConnections: 1 } }");
    let mut streams: Vec<_> = (0..4).map(|_| asked(&egret, URL)).collect();
    eventually("one is there", || gate.requests() == 1);
    for n in 1..=4 {
        gate.let_go(1);
        eventually("the next is there", || gate.requests() == (n + 1).min(4));
    }
    assert!(streams.iter_mut().all(|stream| client::read_answer(stream).status == 200));
    assert_eq!(gate.connections(), 1);
    assert_eq!(overflows(&egret, "max_connections"), 0);
}

#[test]
fn a_wait_ends_with_the_connect_timeout_and_the_bound_is_told() {
    let (gate, folder) = (Gate::default(), Folder::new());
    let origin = gate.origin();
    let egret = start(&folder, &origin, "connectionPool: { tcp: { maxConnections: 1, connectTimeout: 300ms } }");
    let mut held = asked(&egret, URL);
    eventually("it is there", || gate.requests() == 1);
    let began = Instant::now();
    let answer = client::get(egret.proxy(), URL);
    assert_eq!(answer.status, 503);
    assert!(
        answer.head.contains("connectionPool.tcp.maxConnections of DestinationRule default/api"),
        "{}",
        answer.head
    );
    assert!((290..5_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    egret.record("503").shows(&[("response_flags", "UO"), ("reason", "connection_limit_reached")]);
    assert!(egret.record("503").get("rule").contains("rules.yaml:"));
    assert_eq!((overflows(&egret, "max_connections"), gate.connections()), (1, 1));
    // A client that leaves while it waits leaves nothing behind.
    drop(asked(&egret, URL));
    gate.let_go(2);
    assert_eq!(client::read_answer(&mut held).status, 200);
    assert_eq!(client::get(egret.proxy(), URL).status, 200);
    assert_eq!(gate.connections(), 1);
}

#[test]
fn more_requests_than_may_wait_are_refused() {
    let (gate, folder) = (Gate::default(), Folder::new());
    let origin = gate.origin();
    let policy = "connectionPool: { tcp: { maxConnections: 1 }, http: { http1MaxPendingRequests: 2 } }";
    let egret = start(&folder, &origin, policy);
    // One is on its way, and two wait.
    let mut streams = vec![asked(&egret, URL)];
    eventually("one is there", || gate.requests() == 1);
    streams.extend((0..4).map(|_| asked(&egret, URL)));
    eventually("two are refused", || overflows(&egret, "max_pending_requests") == 2);
    gate.let_go(5);
    let answers: Vec<_> = streams.iter_mut().map(client::read_answer).collect();
    let (served, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert_eq!((served.len(), refused.len(), gate.requests(), gate.connections()), (3, 2, 3, 1));
    for answer in refused {
        let why = "connectionPool.http.http1MaxPendingRequests of DestinationRule default/api";
        assert!(answer.status == 503 && answer.head.contains(why), "{}", answer.head);
    }
}

#[test]
fn active_requests_have_a_bound_of_their_own() {
    let (gate, folder) = (Gate::default(), Folder::new());
    let origin = gate.origin();
    let egret = start(&folder, &origin, "connectionPool: { http: { http2MaxRequests: 2 } }");
    let mut two = [asked(&egret, URL), asked(&egret, URL)];
    eventually("both are there", || gate.requests() == 2);
    let answer = client::get(egret.proxy(), URL);
    assert_eq!(answer.status, 503);
    assert!(
        answer.head.contains("connectionPool.http.http2MaxRequests of DestinationRule default/api"),
        "{}",
        answer.head
    );
    egret.record("503").shows(&[("response_flags", "UO")]);
    assert_eq!((overflows(&egret, "max_requests"), gate.requests()), (1, 2));
    gate.let_go(3);
    assert!(two.iter_mut().all(|stream| client::read_answer(stream).status == 200));
    assert_eq!(client::get(egret.proxy(), URL).status, 200);
}

#[test]
fn an_idle_connection_that_cannot_be_used_gives_way() {
    let (origin, folder) = (Origin::http(HELLO), Folder::new());
    let port = origin.address.port();
    // Of a wildcard each name has connections of its own, and all of them one bound.
    let rules = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: any }}\nspec:\n  hosts: [\"*.any.example\"]\n  \
         resolution: NONE\n  ports: [{{ number: 80, name: http, protocol: HTTP, targetPort: {port} }}]\n\
         ---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: any }}\nspec:\n  host: \"*.any.example\"\n  \
         trafficPolicy: {{ connectionPool: {{ tcp: {{ maxConnections: 1 }} }} }}\n"
    );
    let hosts = &["a.any.example", "b.any.example"];
    let egret = Setup { rules: &rules, hosts, ..Setup::default() }.start(&folder);
    for host in ["a", "b", "a", "b"] {
        assert_eq!(client::get(egret.proxy(), &format!("http://{host}.any.example/")).status, 200, "{host}");
    }
    assert_eq!(egret.metric("egret_pool_idle_connections"), 1);
}

#[test]
fn connections_and_tunnels_end_with_their_time() {
    let (gate, folder) = (Gate::default(), Folder::new());
    gate.let_go(usize::MAX / 2);
    let origin = gate.origin();
    let egret = start(&folder, &origin, "connectionPool: { tcp: { maxConnectionDuration: 400ms } }");
    let began = Instant::now();
    let mut tunnel = client::tunnel(egret.proxy(), "api.example:443");
    assert_eq!(client::get(egret.proxy(), URL).status, 200);
    assert_eq!((client::get(egret.proxy(), URL).status, gate.connections()), (200, 2), "one of them the tunnel's");
    assert!(client::ends(&mut tunnel));
    assert!((390..5_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    egret.record("CONNECT").shows(&[("response_flags", "DT"), ("reason", "max_duration")]);
    assert_eq!((client::get(egret.proxy(), URL).status, gate.connections()), (200, 3), "the old one serves no more");
}

#[test]
fn idle_connections_are_kept_as_long_as_the_rule_says() {
    for policy in ["http: { idleTimeout: 200ms }", "tcp: { idleTimeout: 200ms }"] {
        let (gate, folder) = (Gate::default(), Folder::new());
        gate.let_go(usize::MAX / 2);
        let origin = gate.origin();
        let egret = start(&folder, &origin, &format!("connectionPool: {{ {policy} }}"));
        assert_eq!(client::get(egret.proxy(), URL).status, 200);
        eventually("it is kept", || egret.metric("egret_pool_idle_connections") == 1);
        eventually("it is closed", || egret.metric("egret_pool_idle_connections") == 0);
        assert_eq!((client::get(egret.proxy(), URL).status, gate.connections()), (200, 2), "{policy}");
    }
}

#[test]
fn keepalive_is_set_on_the_socket_as_the_rule_says() {
    let (origin, folder) = (Origin::echo(), Folder::new());
    let egret =
        start(&folder, &origin, "connectionPool: { tcp: { tcpKeepalive: { probes: 3, time: 7200s, interval: 75s } } }");
    let _tunnel = client::tunnel(egret.proxy(), "api.example:443");
    let _plain = client::tunnel(egret.proxy(), "other.example:443");
    // The fourth column group of /proc/net/tcp: 02 is a keepalive timer (proc(5)).
    let port = format!("{:04X}", origin.address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let timers = table.lines().filter_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        (columns[2].ends_with(&format!(":{port}")) && columns[3] == "01").then(|| columns[5].to_owned())
    });
    let timers: Vec<_> = timers.collect();
    assert_eq!(timers.iter().filter(|timer| timer.starts_with("02:")).count(), 1, "{timers:?} in {table}");
    assert_eq!(timers.len(), 2, "{timers:?}");
}
