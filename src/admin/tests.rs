#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::account::live::{Entry, LiveGuard};
use crate::account::testing::{account_off, source_from};
use crate::account::{Bounds, Shares};
use crate::dial::testing::dialer;
use crate::drain::Drain;
use crate::flow::{Ending, Limits, Target};
use crate::route::sample::{service, snapshot};
use crate::route::{Mode, Protocol};
use crate::tunnel::ViaName;

const LIMIT: Duration = Duration::from_secs(10);

struct Running {
    address: SocketAddr,
    port: Arc<Port>,
    commands: Commands,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

fn proxy() -> Arc<Proxy> {
    Arc::new(Proxy {
        snapshot: ArcSwap::from_pointee(snapshot(Mode::AllowAny, vec![service("api.example.com", 443, Protocol::Tls)])),
        limits: ArcSwap::default(),
        via: ArcSwap::from_pointee(ViaName { name: "egret-test".into(), send: true }),
        account: account_off(),
        tunnels: Arc::default(),
        shares: Shares::new(&Limits::default()),
        dialer: dialer(),
        drain: Drain::default(),
    })
}

async fn port() -> Running {
    let socket = Socket::Tcp(TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = socket.address().unwrap().tcp().unwrap();
    let (tell, commands) = command::channel();
    let port = Arc::new(Port::new(proxy(), tell, vec!["egret.internal".to_owned()]));
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(socket, port.clone(), stop.clone()));
    Running { address, port, commands, stop, serving }
}

impl Running {
    /// What comes back until the port closes.
    async fn send(&self, request: &str) -> String {
        let mut tcp = TcpStream::connect(self.address).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(LIMIT, tcp.read_to_string(&mut answer)).await.expect("closes").unwrap();
        answer
    }

    async fn post(&self, path: &str, fields: &str) -> String {
        let host = self.address;
        self.send(&format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n{fields}\r\n")).await
    }

    fn open(&self, client: &str, target: &str) -> LiveGuard {
        let target = Target::parse_authority(target.as_bytes()).unwrap();
        let source = Arc::new(source_from(client.parse().unwrap()));
        let cluster = format!("outbound|{}||{}", target.port, target.host);
        let share = self.port.proxy.shares.of(source.peer.ip());
        let entry = Entry { source, target, by_sni: false, traffic: cluster.into(), share };
        self.port.proxy.tunnels.open(entry, Bounds { all: 100, per_client: 100 }).unwrap()
    }

    async fn get(&self, path: &str) -> String {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address)).await
    }
}

#[tokio::test]
async fn readiness_follows_start_and_drain_and_health_does_not() {
    let port = port().await;
    for path in ["/readyz", "/healthz/ready"] {
        let answer = port.get(path).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\nstarting\n"), "{answer}");
    }
    port.port.set_ready(true);
    assert!(port.get("/readyz").await.ends_with("\r\n\r\nready\n"));
    port.port.proxy.drain.begin();
    let answer = port.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\ndraining\n"), "{answer}");
    assert!(port.get("/healthz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn metrics_are_found_under_both_names() {
    let port = port().await;
    for path in ["/metrics", "/stats/prometheus", "/metrics?format=x"] {
        let answer = port.get(path).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("\r\ncontent-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
        assert!(answer.contains("\negret_build_info{version=\"") && answer.ends_with("# EOF\n"), "{answer}");
    }
}

#[tokio::test]
async fn the_index_names_every_page_and_nothing_else_is_there() {
    let port = port().await;
    let index = port.get("/").await;
    for path in ["/healthz", "/readyz", "/metrics", "/stats/prometheus", "/healthz/ready"] {
        assert!(index.contains(path), "{path}");
    }
    for path in ["/healthz/", "/quitquitquit", "//metrics", "/metrics/x"] {
        assert!(port.get(path).await.starts_with("HTTP/1.1 404 "), "{path}");
    }
}

#[tokio::test]
async fn only_get_and_head_are_answered() {
    let port = port().await;
    let answer = port.send("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nallow: GET, HEAD\r\n"), "{answer}");
    let answer = port.send("HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn foreign_hosts_are_refused_whatever_they_ask() {
    let port = port().await;
    for path in ["/metrics", "/", "/nonsense"] {
        let answer = port.send(&format!("GET {path} HTTP/1.1\r\nHost: rebound.evil.example:15000\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
    let two = "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n";
    assert!(!port.send(two).await.starts_with("HTTP/1.1 200 "));
    assert!(port.send("GET / HTTP/1.1\r\nHost: egret.internal\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
    assert!(port.send("GET / HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200 "));
}

#[tokio::test]
async fn each_connection_serves_one_request() {
    let port = port().await;
    let answer = port.send(&"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2)).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 1);
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn an_oversized_head_is_refused() {
    let port = port().await;
    let request = |bytes: usize| format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(bytes));
    assert!(port.send(&request(HEAD_BYTES_MAX / 2)).await.starts_with("HTTP/1.1 200 "));
    let mut tcp = TcpStream::connect(port.address).await.unwrap();
    // The port may close before it has read everything: both ends of the exchange may then fail with a reset.
    let _ = tcp.write_all(request(2 * HEAD_BYTES_MAX).as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(LIMIT, tcp.read_to_end(&mut answer)).await.expect("closes");
    assert!(!answer.starts_with(b"HTTP/1.1 200 "));
}

#[tokio::test]
async fn clients_that_say_nothing_cannot_keep_others_out() {
    let port = port().await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(TcpStream::connect(port.address).await.unwrap());
    }
    // Waits for the first of them to run into its limit.
    let started = tokio::time::Instant::now();
    assert!(port.get("/healthz").await.starts_with("HTTP/1.1 200 "));
    assert!(started.elapsed() < CONNECTION_TIME + Duration::from_secs(1));
}

#[tokio::test]
async fn stopping_ends_the_port_with_whoever_is_on_it() {
    let port = port().await;
    let mut silent = TcpStream::connect(port.address).await.unwrap();
    assert!(port.get("/healthz").await.starts_with("HTTP/1.1 200 "));
    port.stop.cancel();
    tokio::time::timeout(END_TIME + LIMIT, port.serving).await.expect("ends").unwrap();
    let read = tokio::time::timeout(LIMIT, silent.read(&mut [0; 1])).await.expect("closed");
    assert_eq!(read.unwrap_or(0), 0);
    assert!(TcpStream::connect(port.address).await.is_err());
}

const TOKEN: &str = "0123456789abcdef";

fn body(answer: &str) -> serde_json::Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

#[tokio::test]
async fn tunnels_are_listed_in_the_order_and_part_that_is_asked_for() {
    let port = port().await;
    let api = port.open("192.0.2.1:4000", "api.example.com:443");
    let other = port.open("192.0.2.2:4000", "10.0.0.1:5432");
    api.add_received(10);
    other.add_sent(1000);
    let listed = body(&port.get("/tunnels?sort=bytes").await);
    assert_eq!((&listed["open"], &listed["matching"]), (&2.into(), &2.into()));
    let [first, second] = [&listed["tunnels"][0], &listed["tunnels"][1]];
    assert_eq!((&first["target"], &first["sent_bytes"]), (&"10.0.0.1:5432".into(), &1000.into()));
    assert_eq!(first["service"], serde_json::Value::Null);
    assert_eq!((&second["target"], &second["client"]), (&"api.example.com:443".into(), &"192.0.2.1:4000".into()));
    assert_eq!(second["rule"]["resource"], "ServiceEntry default/api.example.com");
    assert_eq!(second["rule"]["at"], "rules.yaml:443:5");
    assert!(second["received_rate"].as_f64().unwrap() > 0.0);
    let part = body(&port.get("/tunnels?sort=id&order=asc&limit=1&offset=1").await);
    assert_eq!((part["tunnels"].as_array().unwrap().len(), &part["tunnels"][0]["id"]), (1, &other.id.into()));
    let part = body(&port.get("/tunnels?filter=API.Example").await);
    assert_eq!((&part["open"], &part["matching"], &part["tunnels"][0]["id"]), (&2.into(), &1.into(), &api.id.into()));
    for bad in ["limit=0", "limit=1001", "limit=x", "sort=size", "order=up"] {
        assert!(port.get(&format!("/tunnels?{bad}")).await.starts_with("HTTP/1.1 400 "), "{bad}");
    }
    assert!(port.get("/tunnels?limit=1000").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_rate_is_that_of_the_last_second_or_more() {
    let port = port().await;
    let live = port.open("192.0.2.1:4000", "api.example.com:443");
    live.add_received(1_000_000);
    let rate = async || body(&port.get("/tunnels").await)["tunnels"][0]["received_rate"].as_f64().unwrap();
    assert!(rate().await > 0.0);
    // The rate of a tunnel that stopped falls to nothing as soon as two looks a second apart are known.
    let end = tokio::time::Instant::now() + LIMIT;
    while rate().await > 0.0 {
        assert!(tokio::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn without_a_token_a_tcp_port_changes_nothing() {
    let port = port().await;
    let live = port.open("192.0.2.1:4000", "api.example.com:443");
    for path in ["/reload", "/drain", &format!("/tunnels/{}/kill", live.id)] {
        let answer = port.post(path, "").await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("admin.tokenFile"), "{path}: {answer}");
        let answer = port.get(path).await;
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nallow: POST\r\n"), "{path}: {answer}");
    }
    assert_eq!(live.ending(), None);
}

#[tokio::test]
async fn with_the_token_a_tunnel_is_killed_by_its_id() {
    let port = port().await;
    port.port.set_token(Some(Token::parse(TOKEN.as_bytes()).unwrap()));
    let live = port.open("192.0.2.1:4000", "api.example.com:443");
    let path = format!("/tunnels/{}/kill", live.id);
    let answer = port.post(&path, "").await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("\r\nwww-authenticate: Bearer "), "{answer}");
    assert!(port.post(&path, "Authorization: Bearer 0123456789abcdeX\r\n").await.starts_with("HTTP/1.1 401 "));
    let foreign = format!("Authorization: Bearer {TOKEN}\r\nOrigin: http://evil.example\r\n");
    assert!(port.post(&path, &foreign).await.starts_with("HTTP/1.1 403 "));
    assert_eq!(live.ending(), None);
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let answer = port.post(&path, &bearer).await;
    assert_eq!(body(&answer)["killed"], true, "{answer}");
    assert_eq!(live.ending(), Some(Ending::Killed));
    drop(live);
    assert!(port.post(&path, &bearer).await.starts_with("HTTP/1.1 404 "));
    for path in ["/tunnels/x/kill", "/tunnels//kill", "/tunnels/-1/kill", "/tunnels/99999999999999999999/kill"] {
        assert!(port.post(path, &bearer).await.starts_with("HTTP/1.1 404 "), "{path}");
    }
}

#[tokio::test]
async fn a_reload_is_asked_of_the_app_and_its_report_is_the_answer() {
    let mut port = port().await;
    port.port.set_token(Some(Token::parse(TOKEN.as_bytes()).unwrap()));
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let (_, never) = command::channel();
    let mut commands = std::mem::replace(&mut port.commands, never);
    let app = tokio::spawn(async move {
        for ok in [true, false] {
            let Some(Command::Reload(answer)) = commands.recv().await else { panic!("a reload") };
            answer.send(Reloaded { ok, report: serde_json::json!({ "ok": ok, "generation": 7 }) }).unwrap();
        }
        let Some(Command::Drain(answer)) = commands.recv().await else { panic!("a drain") };
        answer.send(30.0).unwrap();
    });
    let answer = port.post("/reload", &bearer).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && body(&answer)["generation"] == 7, "{answer}");
    let answer = port.post("/reload", &bearer).await;
    assert!(answer.starts_with("HTTP/1.1 422 ") && body(&answer)["ok"] == false, "{answer}");
    let answer = port.post("/drain", &bearer).await;
    assert!(answer.starts_with("HTTP/1.1 202 ") && body(&answer)["deadline_s"] == 30.0, "{answer}");
    app.await.unwrap();
    assert!(port.post("/reload", &bearer).await.starts_with("HTTP/1.1 503 "), "nobody is there any more");
}
