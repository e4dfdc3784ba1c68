//! Which endpoint a flow goes to, as clients and origins see it: hashing, cookies, failures, places.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::origin::{Origin, field, read_head};
use crate::support::{Egret, Folder, Setup, client, eventually};

/// An origin that says its number, or answers 500 while it is broken.
struct Numbered {
    origin: Origin,
    is_broken: Arc<AtomicBool>,
}

impl Numbered {
    fn new(number: usize) -> Self {
        let is_broken = Arc::new(AtomicBool::new(false));
        let broken = is_broken.clone();
        let origin = Origin::new(move |mut stream| {
            while read_head(&mut stream).is_some() {
                let status = if broken.load(Ordering::SeqCst) { "500 Internal Server Error" } else { "200 OK" };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 1\r\n\r\n{number}");
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        });
        Self { origin, is_broken }
    }
}

struct World {
    egret: Egret,
    folder: Folder,
    origins: Vec<Numbered>,
    /// Said of each endpoint beside its address.
    places: &'static [&'static str],
}

impl World {
    fn new(origins: usize, policy: &str) -> Self {
        Self::placed(origins, &[], "", policy, "")
    }

    fn placed(count: usize, places: &'static [&'static str], more: &str, policy: &str, rules: &str) -> Self {
        let (folder, origins) = (Folder::new(), (0..count).map(Numbered::new).collect::<Vec<_>>());
        let rules = format!("{}{rules}", documents(&origins, places, policy));
        let egret = Setup { more, rules: &rules, mesh: REGISTRY_ONLY, ..Setup::default() }.start(&folder);
        Self { egret, folder, origins, places }
    }

    /// Puts another policy in force.
    fn reload(&self, policy: &str) {
        self.folder.write("rules.yaml", &documents(&self.origins, self.places, policy));
        let line = self.egret.reload();
        assert!(line.contains("reloaded") && !line.contains("not reloaded"), "{line}");
    }

    /// Asks over a connection; gives status and body.
    fn ask(&self, stream: &mut std::net::TcpStream, path: &str, fields: &str) -> client::Answer {
        client::send(stream, &format!("GET http://many.test{path} HTTP/1.1\r\nHost: many.test\r\n{fields}\r\n"));
        client::read_answer(stream)
    }

    fn client(&self) -> std::net::TcpStream {
        client::dial(self.egret.proxy())
    }

    /// How many of so many requests each origin answered, all on one connection of a client.
    fn shares(&self, requests: usize) -> HashMap<String, usize> {
        let mut stream = self.client();
        let mut shares = HashMap::new();
        for _ in 0..requests {
            let answer = self.ask(&mut stream, "/", "");
            *shares.entry(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body))).or_default() += 1;
        }
        shares
    }

    fn clusters(&self) -> String {
        String::from_utf8(client::get_from(self.egret.admin(), "/clusters?filter=many.test").body).unwrap()
    }

    fn health(&self, number: usize) -> String {
        let line = format!("outbound|80||many.test::{}::health_flags::", self.origins[number].origin.address);
        let clusters = self.clusters();
        let found = clusters.lines().find_map(|known| known.strip_prefix(&line)).map(str::to_owned);
        found.unwrap_or_else(|| panic!("no {line} in\n{clusters}"))
    }

    fn breaks(&self, number: usize, is_broken: bool) {
        self.origins[number].is_broken.store(is_broken, Ordering::SeqCst);
    }
}

fn documents(origins: &[Numbered], places: &[&str], policy: &str) -> String {
    let endpoints: Vec<String> = origins
        .iter()
        .enumerate()
        .map(|(index, numbered)| {
            let SocketAddr::V4(address) = numbered.origin.address else { unreachable!("bound to IPv4") };
            let port = address.port();
            let place = places.get(index).map(|place| format!(", locality: {place}")).unwrap_or_default();
            format!("{{ address: {}, ports: {{ http: {port}, tcp: {port} }}{place} }}", address.ip())
        })
        .collect();
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: many, namespace: default }}
spec:
  hosts: [many.test]
  resolution: STATIC
  ports: [{{ number: 80, name: http, protocol: HTTP }}, {{ number: 81, name: tcp, protocol: TCP }}]
  endpoints: [{}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: many, namespace: default }}
spec: {{ host: many.test, trafficPolicy: {policy} }}
",
        endpoints.join(", ")
    )
}

const REGISTRY_ONLY: &str = "outboundTrafficPolicy: { mode: REGISTRY_ONLY }";

#[test]
fn requests_on_one_connection_are_balanced_each() {
    let world = World::new(3, "{ loadBalancer: { simple: ROUND_ROBIN } }");
    let shares = world.shares(300);
    assert!(shares.len() == 3 && shares.values().all(|count| *count == 100), "{shares:?}");
    for numbered in &world.origins {
        let line = format!("outbound|80||many.test::{}::cx_total::1", numbered.origin.address);
        assert!(world.clusters().contains(&line), "a connection to each is kept:\n{}", world.clusters());
    }
}

#[test]
fn a_header_leads_to_one_endpoint_over_reloads_and_others_elsewhere() {
    let policy = "{ loadBalancer: { consistentHash: { httpHeaderName: x-user } } }";
    let world = World::new(4, policy);
    let users = || (0..60).map(|user| (format!("x-user: {user}\r\n"), world.client()));
    let first: Vec<_> = users().map(|(field, mut stream)| world.ask(&mut stream, "/", &field).body).collect();
    let mut seen = first.clone();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4, "60 users reach all endpoints");
    world.reload(policy);
    let again: Vec<_> = users().map(|(field, mut stream)| world.ask(&mut stream, "/", &field).body).collect();
    assert_eq!(first, again);
    world.reload("{ loadBalancer: { consistentHash: { httpQueryParameterName: u, maglev: { tableSize: 251 } } } }");
    let mut stream = world.client();
    let one = world.ask(&mut stream, "/?a=b&u=7", "").body;
    assert!((0..10).all(|_| world.ask(&mut stream, "/?u=7", "").body == one));
    let shares = world.shares(100);
    assert!(shares.len() > 1, "without the parameter anywhere: {shares:?}");
}

#[test]
fn a_client_without_cookie_is_given_one_and_stays_where_it_is() {
    let cookie = "{ name: where, ttl: 60s, path: /, attributes: [{ name: SameSite, value: Strict }] }";
    let world = World::new(4, &format!("{{ loadBalancer: {{ consistentHash: {{ httpCookie: {cookie} }} }} }}"));
    let mut homes = Vec::new();
    for _ in 0..20 {
        let first = world.ask(&mut world.client(), "/", "");
        let set = field(&first.head, "set-cookie").unwrap_or_else(|| panic!("{}", first.head)).to_owned();
        assert!(
            set.starts_with("where=\"") && set.ends_with("; Max-Age=60; Path=/; SameSite=Strict; HttpOnly"),
            "{set}"
        );
        let cookie = format!("Cookie: other=1; {}\r\n", set.split(';').next().unwrap());
        for _ in 0..3 {
            let next = world.ask(&mut world.client(), "/", &cookie);
            assert_eq!((&next.body, field(&next.head, "set-cookie")), (&first.body, None));
        }
        homes.push(first.body);
    }
    homes.sort();
    homes.dedup();
    assert!(homes.len() > 1, "not all clients live at one endpoint");
}

#[test]
fn tunnels_are_hashed_by_their_client_and_a_dead_endpoint_is_passed_over() {
    let world = World::new(4, "{ loadBalancer: { consistentHash: { useSourceIp: true } } }");
    let answer = || {
        let mut stream = client::tunnel(world.egret.proxy(), "many.test:81");
        client::send(&mut stream, "GET / HTTP/1.1\r\nHost: many.test\r\n\r\n");
        client::read_answer(&mut stream).body
    };
    let first = answer();
    assert!((0..10).all(|_| answer() == first));
}

const WATCHED: &str =
    "outlierDetection: { consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 2s, maxEjectionPercent: 100 }";

#[test]
fn an_origin_that_answers_500_is_left_out_and_comes_back() {
    let world = World::new(2, &format!("{{ loadBalancer: {{ simple: ROUND_ROBIN }}, {WATCHED} }}"));
    assert_eq!((world.health(0), world.health(1)), ("healthy".into(), "healthy".into()));
    world.breaks(0, true);
    let began = Instant::now();
    assert_eq!(world.shares(6), HashMap::from([("500 0".into(), 3), ("200 1".into(), 3)]));
    assert_eq!((world.health(0), world.health(1)), ("/failed_outlier_check".into(), "healthy".into()));
    world.egret.stderr.wait_for("left out");
    let ejected = world.egret.metric("egret_endpoints_ejected");
    // A reload in the middle changes nothing: it is left out for as long as it was to be.
    world.reload(&format!("{{ loadBalancer: {{ simple: RANDOM }}, {WATCHED} }}"));
    if began.elapsed() < Duration::from_millis(1500) {
        assert_eq!(ejected, 1);
        assert_eq!(world.shares(20), HashMap::from([("200 1".into(), 20)]));
    }
    world.breaks(0, false);
    eventually("it is used again", || world.shares(4).contains_key("200 0"));
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(world.health(0), "healthy");
    let metrics = String::from_utf8(client::get_from(world.egret.admin(), "/metrics").body).unwrap();
    assert!(metrics.contains("egret_endpoint_ejections_total{cause=\"consecutive_5xx\"} 1\n"), "{metrics}");
    assert_eq!(world.egret.metric("egret_endpoints_ejected"), 0);
}

#[test]
fn where_all_are_left_out_the_answer_is_503_uh_and_says_why() {
    let outliers = "{ consecutive5xxErrors: 1, baseEjectionTime: 10m, maxEjectionPercent: 100 }";
    let world = World::new(2, &format!("{{ outlierDetection: {outliers} }}"));
    (0..2).for_each(|number| world.breaks(number, true));
    eventually("both are left out", || world.shares(2).keys().any(|answer| answer.starts_with("503")));
    let answer = world.ask(&mut world.client(), "/", "");
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.status == 503 && body.contains("failed of late"), "{}{body}", answer.head);
    let record = world.egret.record("\"UH\"");
    record.shows(&[("response_code", "503"), ("response_flags", "UH")]);
    // Up to the share that may be left out, and not beyond.
    let half = World::new(
        2,
        "{ outlierDetection: { consecutive5xxErrors: 1, baseEjectionTime: 10m, maxEjectionPercent: 50 } }",
    );
    (0..2).for_each(|number| half.breaks(number, true));
    assert!(half.shares(50).keys().all(|answer| answer.starts_with("500")));
    let flags = [half.health(0), half.health(1)];
    assert_eq!(flags.iter().filter(|flags| **flags == "/failed_outlier_check").count(), 1);
}

#[test]
fn an_endpoint_that_refuses_connections_is_left_out_too_and_tunnels_count() {
    let outliers =
        "{ consecutiveGatewayErrors: 2, consecutive5xxErrors: 0, baseEjectionTime: 10m, maxEjectionPercent: 100 }";
    let policy = format!("{{ loadBalancer: {{ simple: ROUND_ROBIN }}, outlierDetection: {outliers} }}");
    let folder = Folder::new();
    let (alive, dead) = (Numbered::new(1), Numbered { origin: gone(), is_broken: Arc::default() });
    let dead_address = dead.origin.address;
    let rules = documents(&[alive, dead], &[], &policy);
    let egret = Setup { rules: &rules, mesh: REGISTRY_ONLY, ..Setup::default() }.start(&folder);
    for _ in 0..8 {
        drop(client::tunnel(egret.proxy(), "many.test:81")); // the other endpoint is tried at once
    }
    let clusters = client::get_from(egret.admin(), "/clusters?filter=many.test").body;
    let clusters = String::from_utf8(clusters).unwrap();
    let line = |text: &str| format!("outbound|81||many.test::{dead_address}::{text}");
    assert!(clusters.contains(&line("health_flags::/failed_outlier_check")), "{clusters}");
    assert!(clusters.contains(&line("cx_connect_fail::2")), "{clusters}");
}

/// An address where nobody listens any more.
fn gone() -> Origin {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut origin = Origin::new(drop);
    origin.address = address;
    origin
}

#[test]
fn a_retry_goes_to_an_endpoint_that_did_not_fail() {
    let retries = "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: many, namespace: default }
spec:
  hosts: [many.test]
  http: [{ retries: { attempts: 1, retryOn: 5xx }, route: [{ destination: { host: many.test, port: { number: 80 } } }] }]
";
    let world = World::placed(3, &[], "", "{ loadBalancer: { simple: RANDOM } }", retries);
    world.breaks(0, true);
    let shares = world.shares(200);
    assert!(shares.keys().all(|answer| answer.starts_with("200")), "{shares:?}");
}

#[test]
fn near_endpoints_come_first_and_others_when_they_fail() {
    let workload = "workload: { labels: { topology.kubernetes.io/region: r1, topology.kubernetes.io/zone: z1 } }";
    let outliers = "{ consecutive5xxErrors: 1, baseEjectionTime: 10m, maxEjectionPercent: 100 }";
    let policy = format!("{{ outlierDetection: {outliers} }}");
    let world = World::placed(3, &["r1/z1", "r1/z2", "r2/z1"], workload, &policy, "");
    assert_eq!(world.shares(30), HashMap::from([("200 0".into(), 30)]));
    let clusters = world.clusters();
    let line = |number: usize, text: &str| {
        format!("outbound|80||many.test::{}::{text}\n", world.origins[number].origin.address)
    };
    assert!(clusters.contains(&line(1, "zone::z2")) && clusters.contains(&line(2, "priority::2")), "{clusters}");
    world.breaks(0, true);
    world.shares(1);
    assert_eq!(world.shares(30), HashMap::from([("200 1".into(), 30)]));
    world.reload(
        "{ loadBalancer: { simple: ROUND_ROBIN, localityLbSetting: { distribute: [{ from: r1/*, to: { r2/z1: 100 } }] } } }",
    );
    assert_eq!(world.shares(30), HashMap::from([("200 2".into(), 30)]));
}
