#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

struct Port {
    address: SocketAddr,
    state: Arc<AdminState>,
    drain: Drain,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

async fn port() -> Port {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let drain = Drain::default();
    let state = Arc::new(AdminState::new(drain.clone(), vec!["egret.internal".to_owned()]));
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, state.clone(), stop.clone()));
    Port { address, state, drain, stop, serving }
}

impl Port {
    /// What comes back until the port closes.
    async fn send(&self, request: &str) -> String {
        let mut tcp = TcpStream::connect(self.address).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(LIMIT, tcp.read_to_string(&mut answer)).await.expect("closes").unwrap();
        answer
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
    port.state.set_ready(true);
    assert!(port.get("/readyz").await.ends_with("\r\n\r\nready\n"));
    port.drain.begin();
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
