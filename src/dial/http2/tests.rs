//! Connections that flows share, against servers of the same library, and against peers that say what no server should.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use h2::server::{Builder, SendResponse};
use h2::{RecvStream, server};
use http::{Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::testing::*;
use super::super::{DialSettings, Dialed};
use super::*;
use crate::flow::{ErrorType, Failure, Host};
use crate::route::Discovery;
use crate::route::cluster::{Authorization, Origination, Sni, TrafficPolicy, TunnelMethod};
use crate::route::upstream_http::{Http2Options, Keepalive, UpstreamHttp, UpstreamVersion};
use crate::tls::testing::{Authority, Server};
use crate::tls::{ClientTls, ClientTlsSpec};

/// A server of HTTP/2 in the clear.
struct Peer {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<http::request::Parts>>>,
}

/// Serves one stream; the second number counts the streams of its connection from 0.
type Serve = Arc<dyn Fn(Stream, usize) + Send + Sync>;

struct Stream {
    recv: RecvStream,
    respond: SendResponse<Bytes>,
}

impl Stream {
    /// Opens a tunnel and sends everything back.
    fn echo(self) {
        let Self { mut recv, mut respond } = self;
        tokio::spawn(async move {
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            while let Some(Ok(data)) = recv.data().await {
                let _ = recv.flow_control().release_capacity(data.len());
                if send.send_data(data, false).is_err() {
                    return;
                }
            }
            let _ = send.send_data(Bytes::new(), true);
        });
    }

    fn answer(mut self, status: u16) {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        self.respond.send_response(response, true).unwrap();
    }

    fn reset(mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }
}

impl Peer {
    async fn start(builder: Builder, serve: impl Fn(Stream, usize) + Send + Sync + 'static) -> Self {
        let listener = listen("127.0.0.1", 0).await;
        let addr = listener.local_addr().unwrap();
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (count, log, serve): (_, _, Serve) = (connections.clone(), requests.clone(), Arc::new(serve));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let (builder, log, serve) = (builder.clone(), log.clone(), serve.clone());
                tokio::spawn(async move {
                    let Ok(mut connection) = builder.handshake::<_, Bytes>(tcp).await else { return };
                    let mut served = 0;
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let (parts, recv) = request.into_parts();
                        log.lock().unwrap().push(parts);
                        serve(Stream { recv, respond }, served);
                        served += 1;
                    }
                });
            }
        });
        Self { addr, connections, requests }
    }

    async fn echo() -> Self {
        Self::start(server::Builder::new(), |stream, _| stream.echo()).await
    }

    /// Says these bytes to each connection, once it has said something, and then no more.
    async fn saying(bytes: Vec<u8>) -> Self {
        let listener = listen("127.0.0.1", 0).await;
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let bytes = bytes.clone();
                tokio::spawn(async move {
                    let mut sink = vec![0; 64 * 1024];
                    let _ = tcp.read(&mut sink).await;
                    let (mut reader, mut writer) = tcp.split();
                    let writing = async {
                        let _ = writer.write_all(&bytes).await;
                    };
                    let reading = async { while reader.read(&mut sink).await.is_ok_and(|read| read > 0) {} };
                    tokio::join!(writing, reading);
                });
            }
        });
        Self { addr, connections, requests: Arc::default() }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn cluster(&self) -> Cluster {
        Cluster {
            name: "outbound|3128||parent.example".into(),
            discovery: Discovery::Static(vec![endpoint(&self.addr.to_string())]),
            http: UpstreamHttp { version: UpstreamVersion::Http2, http2: None },
            ..cluster()
        }
    }

    fn hop(&self) -> Hop {
        hop(self.cluster())
    }
}

fn hop(cluster: Cluster) -> Hop {
    Hop {
        cluster: Arc::new(cluster),
        target: None,
        method: Default::default(),
        authorization: None,
        absolute_form: false,
        probe: None,
        origin: Default::default(),
    }
}

fn behind(hop: Hop) -> Arc<Cluster> {
    Arc::new(Cluster { via: Via::Connect(Arc::new(hop)), ..cluster() })
}

async fn tunnel(dialer: &Dialer, cluster: &Arc<Cluster>) -> Result<Dialed, Failure> {
    tunnel_traced(dialer, cluster, &mut DialTrace::default()).await
}

async fn tunnel_traced(dialer: &Dialer, cluster: &Arc<Cluster>, trace: &mut DialTrace) -> Result<Dialed, Failure> {
    let target = target("api.example:443");
    let dialed = dialer.dial(cluster, &target, soon(), trace).await;
    dialed.map_err(|error| error.failure(&target))
}

async fn echoes(dialed: &mut Dialed, bytes: &[u8]) {
    dialed.stream.write_all(bytes).await.unwrap();
    let mut echo = vec![0; bytes.len()];
    tokio::time::timeout(Duration::from_secs(10), dialed.stream.read_exact(&mut echo)).await.unwrap().unwrap();
    assert_eq!(echo, bytes);
}

#[tokio::test]
async fn another_parent_is_asked_where_one_cannot_reach_the_target_and_not_where_it_refuses() {
    for (status, opens) in [(503, true), (403, false)] {
        let broken = Peer::start(server::Builder::new(), move |stream, _| stream.answer(status)).await;
        let good = Peer::echo().await;
        let endpoints = [broken.addr, good.addr].map(|addr| endpoint(&addr.to_string())).to_vec();
        let balancing = crate::route::cluster::Balancing::RoundRobin;
        let both = Cluster { discovery: Discovery::Static(endpoints), balancing, ..broken.cluster() };
        let (cluster, dialer) = (behind(hop(both)), dialer());
        let mut refused = 0;
        for _ in 0..4 {
            let mut trace = DialTrace::default();
            match tunnel_traced(&dialer, &cluster, &mut trace).await {
                Ok(mut dialed) => {
                    echoes(&mut dialed, b"ping").await;
                    assert_eq!((trace.hop.as_deref(), trace.hop_status), (Some(good.addr.to_string().as_str()), None));
                }
                Err(failure) => {
                    assert_eq!(failure.hop_status, Some(status));
                    refused += 1;
                }
            }
        }
        assert_eq!(refused, if opens { 0 } else { 2 }, "{status}");
        assert_eq!((broken.connections(), good.connections()), (1, 1), "each has a connection that flows share");
    }
}

#[tokio::test]
async fn a_probe_asks_one_parent_for_a_tunnel_of_its_own() {
    let broken = Peer::start(server::Builder::new(), |stream, _| stream.answer(503)).await;
    let good = Peer::echo().await;
    let endpoints = [broken.addr, good.addr].map(|addr| endpoint(&addr.to_string())).to_vec();
    let hop = hop(Cluster { discovery: Discovery::Static(endpoints), ..broken.cluster() });
    let (dialer, probe) = (dialer(), target("probe.example:443"));
    let failed = dialer.probe(&hop, 0, &probe, soon()).await.unwrap_err();
    assert_eq!(&*failed, format!("parent proxy {} answered 503 Service Unavailable", broken.addr));
    assert_eq!(dialer.probe(&hop, 1, &probe, soon()).await, Ok(()));
    assert_eq!(good.requests.lock().unwrap()[0].uri.to_string(), "probe.example:443");
}

fn bare_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn settings_frame() -> Vec<u8> {
    bare_frame(4, 0, 0, &[])
}

#[tokio::test]
async fn tunnels_are_streams_of_one_connection_and_the_parent_is_told_the_name() {
    let peer = Peer::echo().await;
    let (dialer, cluster) = (dialer(), behind(peer.hop()));
    let mut trace = DialTrace::default();
    let mut tunnels = Vec::new();
    for n in 0..20 {
        let mut dialed = tunnel_traced(&dialer, &cluster, &mut trace).await.unwrap();
        assert_eq!((trace.reused, trace.upstream, trace.hop_status), (n > 0, Some(peer.addr), None));
        assert_eq!(trace.hop.as_deref(), Some(&*peer.addr.to_string()));
        assert!(dialed.local.is_some_and(|local| local.ip().is_loopback()));
        echoes(&mut dialed, format!("tunnel {n}").as_bytes()).await;
        tunnels.push(dialed);
    }
    for (n, dialed) in tunnels.iter_mut().enumerate() {
        echoes(dialed, format!("still {n}").as_bytes()).await;
    }
    assert_eq!(peer.connections(), 1);
    let requests = peer.requests.lock().unwrap();
    let request = &requests[0];
    assert_eq!((request.method.as_str(), request.uri.to_string().as_str()), ("CONNECT", "api.example:443"));
    assert_eq!(request.headers.iter().collect::<Vec<_>>().len(), 1);
    assert_eq!(request.headers["via"], "1.1 egret-test");
}

#[tokio::test]
async fn the_end_of_either_side_is_end_stream_and_the_other_goes_on() {
    let peer = Peer::echo().await;
    let mut dialed = tunnel(&dialer(), &behind(peer.hop())).await.unwrap();
    let bulk = vec![b'x'; 3 << 20]; // more than all windows
    let (mut reader, mut writer) = tokio::io::split(&mut dialed.stream);
    let sending = async {
        writer.write_all(&bulk).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let (_, read) = tokio::join!(sending, reader.read_to_end(&mut back));
    assert_eq!((read.unwrap(), back == bulk), (bulk.len(), true));
}

#[tokio::test]
async fn another_connection_is_opened_when_the_parents_bound_is_reached() {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(2);
    let peer = Peer::start(builder, |stream, _| stream.echo()).await;
    let (dialer, cluster) = (dialer(), behind(peer.hop()));
    let mut tunnels = Vec::new();
    for _ in 0..7 {
        let mut dialed = tunnel(&dialer, &cluster).await.unwrap();
        echoes(&mut dialed, b"ping").await;
        tunnels.push(dialed);
    }
    assert_eq!(peer.connections(), 4);
    tunnels.truncate(6); // the room that one gives back is taken by the next
    let _again = tunnel(&dialer, &cluster).await.unwrap();
    assert_eq!(peer.connections(), 4);
}

#[tokio::test]
async fn flows_that_begin_together_share_one_dial() {
    let peer = Peer::echo().await;
    let (dialer, cluster) = (Arc::new(dialer()), behind(peer.hop()));
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let (dialer, cluster) = (dialer.clone(), cluster.clone());
            tokio::spawn(async move {
                let mut dialed = tunnel(&dialer, &cluster).await.unwrap();
                echoes(&mut dialed, b"ping").await;
                dialed
            })
        })
        .collect();
    let mut open = Vec::new();
    for task in tasks {
        open.push(task.await.unwrap());
    }
    assert_eq!((peer.connections(), open.len()), (1, 50));
}

#[tokio::test]
async fn a_rules_own_bounds_count_too() {
    let peer = Peer::echo().await;
    let http2 = Some(Arc::new(Http2Options { streams_max: Some(3), keepalive: None }));
    let http = UpstreamHttp { version: UpstreamVersion::Http2, http2 };
    let dialer = dialer();
    let few = behind(hop(Cluster { http, ..peer.cluster() }));
    let mut tunnels = Vec::new();
    for _ in 0..6 {
        tunnels.push(tunnel(&dialer, &few).await.unwrap());
    }
    assert_eq!(peer.connections(), 2);
    let policy = TrafficPolicy { requests_per_connection_max: 2, ..TrafficPolicy::default() }.if_any();
    let once = behind(hop(Cluster { policy, name: "once".into(), ..peer.cluster() }));
    for _ in 0..4 {
        echoes(&mut tunnel(&dialer, &once).await.unwrap(), b"ping").await;
    }
    assert_eq!(peer.connections(), 4);
}

#[tokio::test]
async fn a_refusal_is_told_as_the_parents_with_its_status() {
    for (status, reason) in [(407, "Proxy Authentication Required"), (403, "Forbidden"), (502, "Bad Gateway")] {
        let peer = Peer::start(server::Builder::new(), move |stream, _| stream.answer(status)).await;
        let mut trace = DialTrace::default();
        let failure = tunnel_traced(&dialer(), &behind(peer.hop()), &mut trace).await.unwrap_err();
        assert_eq!((failure.error, failure.hop_status), (ErrorType::HopRefused, Some(status)));
        assert_eq!(trace.hop_status, Some(status));
        let sentence = format!("the parent proxy on the way to api.example:443 answered {status} {reason}");
        assert_eq!(&*failure.detail, sentence);
        assert!(failure.log.contains(&peer.addr.to_string()) && !failure.detail.contains("127.0.0.1"));
    }
}

#[tokio::test]
async fn a_refused_stream_is_asked_for_once_more() {
    let peer = Peer::start(server::Builder::new(), |stream, n| match n {
        0 => stream.reset(Reason::REFUSED_STREAM),
        _ => stream.echo(),
    })
    .await;
    echoes(&mut tunnel(&dialer(), &behind(peer.hop())).await.unwrap(), b"ping").await;
    assert_eq!(peer.requests.lock().unwrap().len(), 2);
    let peer = Peer::start(server::Builder::new(), |stream, _| stream.reset(Reason::REFUSED_STREAM)).await;
    let failure = tunnel(&dialer(), &behind(peer.hop())).await.unwrap_err();
    assert_eq!((failure.error, peer.requests.lock().unwrap().len()), (ErrorType::ConnectionTerminated, 2));
    assert!(failure.detail.starts_with("the parent proxy on the way to api.example:443 failed"));
    // Other resets may mean that something was done.
    let peer = Peer::start(server::Builder::new(), |stream, _| stream.reset(Reason::INTERNAL_ERROR)).await;
    assert!(tunnel(&dialer(), &behind(peer.hop())).await.is_err());
    assert_eq!(peer.requests.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn credentials_and_the_rules_target_go_to_the_parent() {
    let peer = Peer::echo().await;
    let with = |value| Hop {
        authorization: Some(Authorization { from: "secret://default/parent".into(), value }),
        target: Some(target("other.example:8443")),
        ..peer.hop()
    };
    let cluster = behind(with(Ok("Basic dXNlcjpwYXNz".into())));
    let (target, mut trace) = (target("api.example:443"), DialTrace::default());
    let asker = super::super::Asker { received_via: Some("1.1 one"), ..Default::default() };
    assert!(dialer().dial_for(&cluster, &target, asker, soon(), &mut trace).await.is_ok());
    {
        let requests = peer.requests.lock().unwrap();
        let fields = &requests[0].headers;
        assert_eq!(requests[0].uri.to_string(), "other.example:8443");
        assert_eq!(fields["proxy-authorization"], "Basic dXNlcjpwYXNz");
        assert_eq!(fields["via"], "1.1 one, 1.1 egret-test");
    }
    for bad in [Err("secret default/parent does not exist".into()), Ok("Basic a\r\nX: y".into())] {
        let failure = tunnel(&dialer(), &behind(with(bad))).await.unwrap_err();
        assert_eq!(failure.error, ErrorType::Configuration);
    }
    assert_eq!(peer.connections(), 1);
    let silent = Dialer::new(DialSettings { via: None, ..settings() }).unwrap();
    assert!(tunnel(&silent, &behind(peer.hop())).await.is_ok());
    assert!(peer.requests.lock().unwrap()[1].headers.is_empty());
}

#[tokio::test]
async fn a_tunnel_by_post_is_one_too() {
    let peer = Peer::echo().await;
    let cluster = behind(Hop { method: TunnelMethod::Post, ..peer.hop() });
    echoes(&mut tunnel(&dialer(), &cluster).await.unwrap(), b"posted").await;
    let requests = peer.requests.lock().unwrap();
    assert_eq!((requests[0].method.as_str(), &*requests[0].uri.to_string()), ("POST", "http://api.example:443/"));
}

#[tokio::test]
async fn tunnels_go_on_after_goaway_and_new_ones_go_elsewhere() {
    let listener = listen("127.0.0.1", 0).await;
    let addr = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut connection = server::handshake(tcp).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    Stream { recv: request.into_body(), respond }.echo();
                    connection.graceful_shutdown(); // one stream each
                }
            });
        }
    });
    let peer = Peer { addr, connections, requests: Arc::default() };
    let (dialer, cluster) = (dialer(), behind(peer.hop()));
    let mut tunnels = Vec::new();
    for n in 1..=3 {
        let mut dialed = tunnel(&dialer, &cluster).await.unwrap();
        echoes(&mut dialed, b"new").await;
        tunnels.push(dialed);
        for dialed in &mut tunnels {
            echoes(dialed, b"old").await;
        }
        assert_eq!(peer.connections(), n);
    }
}

#[tokio::test]
async fn a_reset_is_an_error_and_no_end() {
    let peer = Peer::start(server::Builder::new(), |stream, _| {
        let Stream { mut respond, recv } = stream;
        tokio::spawn(async move {
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            send.send_data(Bytes::from_static(b"half"), false).unwrap();
            let mut recv = recv;
            let _ = recv.data().await; // the client's word
            send.send_reset(Reason::CONNECT_ERROR);
        });
    })
    .await;
    let mut dialed = tunnel(&dialer(), &behind(peer.hop())).await.unwrap();
    let mut half = [0; 4];
    dialed.stream.read_exact(&mut half).await.unwrap();
    dialed.stream.write_all(b"go").await.unwrap();
    let error = dialed.stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_parent_behind_tls_is_asked_by_alpn() {
    let authority = Authority::new();
    let leaf = authority.issue(&["parent.example"], |_| {});
    let server = Server::start(&leaf, None).await; // offers no ALPN, and sends back what it gets: no HTTP/2
    let spec = ClientTlsSpec { ca_pem: Some(authority.pem.clone().into_bytes()), ..ClientTlsSpec::default() };
    let name = Host::parse(b"parent.example").unwrap();
    let Host::Name(name) = name else { panic!("a name") };
    let client = ClientTls::new(&spec).map_err(|error| error.to_string().into());
    let tls = Origination { mode: "SIMPLE", sni: Sni::Fixed(name), client, origin: Default::default() };
    let peer = Peer { addr: server.addr, connections: Arc::default(), requests: Arc::default() };
    let cluster = behind(hop(Cluster { tls: Some(Arc::new(tls)), ..peer.cluster() }));
    let failure = tunnel(&dialer(), &cluster).await.unwrap_err();
    assert_eq!(failure.error, ErrorType::UpstreamProtocol, "{}", failure.log);
    assert!(failure.detail.ends_with("does not speak HTTP/2"), "{}", failure.detail);
}

#[tokio::test]
async fn what_does_not_speak_http2_ends_the_dial() {
    for bytes in [&b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..], b"SSH-2.0-OpenSSH_9.2\r\n\r\n\r\n"] {
        let peer = Peer::saying(bytes.to_vec()).await;
        let failure = tunnel(&dialer(), &behind(peer.hop())).await.unwrap_err();
        assert_eq!(failure.error, ErrorType::UpstreamProtocol, "{}", failure.log);
    }
    let listener = listen("127.0.0.1", 0).await;
    let addr = listener.local_addr().unwrap();
    let peer = Peer { addr, connections: Arc::default(), requests: Arc::default() };
    let closing = tokio::spawn(async move { drop(listener.accept().await.unwrap()) });
    let failure = tunnel(&dialer(), &behind(peer.hop())).await.unwrap_err();
    closing.await.unwrap();
    assert_eq!(failure.error, ErrorType::ConnectionTerminated, "{}", failure.log);
    let failure = tunnel(&dialer(), &behind(peer.hop())).await.unwrap_err();
    assert_eq!(failure.error, ErrorType::ConnectionRefused, "{}", failure.log);
}

#[tokio::test]
async fn a_parent_without_settings_or_answer_ends_at_the_connect_timeout_for_all_who_wait() {
    for (bytes, left) in [(Vec::new(), 0), (settings_frame(), 1)] {
        let peer = Peer::saying(bytes).await;
        let slow = Cluster { connect_timeout: Duration::from_millis(300), ..peer.cluster() };
        let (dialer, cluster) = (Arc::new(dialer()), behind(hop(slow)));
        let started = Instant::now();
        let tasks: Vec<_> = (0..5)
            .map(|_| {
                let (dialer, cluster) = (dialer.clone(), cluster.clone());
                tokio::spawn(async move { tunnel(&dialer, &cluster).await.map(drop).unwrap_err() })
            })
            .collect();
        for task in tasks {
            let failure = task.await.unwrap();
            let expected = [ErrorType::ConnectionTimeout, ErrorType::ConnectionTerminated];
            assert!(expected.contains(&failure.error), "{}", failure.log);
        }
        assert!((250..3000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
        until("a connection without settings is closed", || dialer.http2.len() == left).await;
    }
}

#[tokio::test]
async fn endless_interim_answers_end_the_dial() {
    // HEADERS of stream 1 with END_HEADERS: `:status: 103`, literal, its name from the static table.
    let interim = bare_frame(1, 4, 1, &[0x08, 3, b'1', b'0', b'3']);
    let peer = Peer::saying([settings_frame(), interim.repeat(200_000)].concat()).await;
    let failure = tunnel(&dialer(), &behind(peer.hop())).await.unwrap_err();
    assert_eq!(failure.error, ErrorType::UpstreamProtocol, "{}", failure.log);
}

#[tokio::test]
async fn floods_end_the_connection_and_not_us() {
    let headers = bare_frame(1, 0, 1, &[0x08, 3, b'2', b'0', b'0']);
    let field = [&[0x40, 1, b'a', 0x7f, 0x80, 0x7c][..], &[b'x'; 16_000]].concat();
    let continuation = [headers, bare_frame(9, 0, 1, &field).repeat(2_000)].concat();
    let empty = bare_frame(9, 0, 1, &[]).repeat(1_000_000);
    let empty = [bare_frame(1, 0, 1, &[0x08, 3, b'2', b'0', b'0']), empty].concat();
    let bad_settings = bare_frame(4, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]); // a window beyond 2^31
    let push = bare_frame(5, 4, 1, &[0, 0, 0, 2, 0x82, 0x86, 0x84]);
    let long = bare_frame(0, 0, 1, &vec![0; 20_000]);
    for (what, bytes) in [
        ("CONTINUATION", continuation),
        ("empty CONTINUATION", empty),
        ("SETTINGS", bad_settings),
        ("PUSH_PROMISE", push),
        ("a frame beyond our bound", long),
    ] {
        let peer = Peer::saying([settings_frame(), bytes].concat()).await;
        let slow = Cluster { connect_timeout: Duration::from_secs(3), ..peer.cluster() };
        let failure = tunnel(&dialer(), &behind(hop(slow))).await.map(drop).unwrap_err();
        assert!(
            matches!(failure.error, ErrorType::UpstreamProtocol | ErrorType::ConnectionTerminated),
            "{what}: {}",
            failure.log
        );
    }
}

#[tokio::test]
async fn settings_and_pings_without_end_do_not_keep_a_connection_or_our_memory() {
    let flood = [bare_frame(6, 0, 0, b"12345678"), settings_frame()].concat().repeat(100_000);
    let peer = Peer::saying([settings_frame(), flood].concat()).await;
    let slow = Cluster { connect_timeout: Duration::from_millis(500), ..peer.cluster() };
    let dialer = dialer();
    assert!(tunnel(&dialer, &behind(hop(slow))).await.is_err(), "it never answers");
}

#[tokio::test]
async fn a_ping_without_answer_ends_the_connection() {
    // Settings, and 200 to the first stream; then nothing.
    let peer = Peer::saying([settings_frame(), bare_frame(1, 4, 1, &[0x88])].concat()).await;
    let keepalive = Some(Keepalive { interval: Duration::from_millis(50), timeout: Duration::from_millis(100) });
    let http2 = Some(Arc::new(Http2Options { streams_max: None, keepalive }));
    let http = UpstreamHttp { version: UpstreamVersion::Http2, http2 };
    let dialer = dialer();
    let mut dialed = tunnel(&dialer, &behind(hop(Cluster { http: http.clone(), ..peer.cluster() }))).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(10), dialed.stream.read_u8()).await;
    assert!(read.expect("its end is seen").is_err());
    // One that answers is kept.
    let peer = Peer::echo().await;
    let mut dialed = tunnel(&dialer, &behind(hop(Cluster { http, ..peer.cluster() }))).await.unwrap();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(20)).await; // several pings
        echoes(&mut dialed, b"ping").await;
    }
}

#[tokio::test]
async fn connections_are_closed_when_nobody_needs_them() {
    let peer = Peer::echo().await;
    let (dialer, cluster) = (dialer(), behind(peer.hop()));
    let mut kept = tunnel(&dialer, &cluster).await.unwrap();
    dialer.close_idle();
    echoes(&mut kept, b"goes on").await;
    drop(kept);
    until("it is closed after its last stream", || dialer.http2.len() == 0).await;
    // Beyond the bound of the pool nothing is kept.
    dialer.http2.set_max(0);
    drop(tunnel(&dialer, &cluster).await.unwrap());
    until("it is closed at once", || dialer.http2.len() == 0).await;
    dialer.http2.set_max(1);
    drop(tunnel(&dialer, &cluster).await.unwrap());
    until("it is idle", || dialer.idle() == 1).await;
    assert!(tunnel(&dialer, &cluster).await.is_ok());
    assert_eq!(peer.connections(), 3);
}

#[tokio::test]
async fn a_connection_that_breaks_takes_its_tunnels_along_and_the_next_one_is_new() {
    let listener = listen("127.0.0.1", 0).await;
    let addr = listener.local_addr().unwrap();
    let cut = Arc::new(tokio::sync::Notify::new());
    let (cutting, connections) = (cut.clone(), Arc::new(AtomicUsize::new(0)));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let cutting = cutting.clone();
            tokio::spawn(async move {
                let _ = tcp.read(&mut [0; 1024]).await;
                let _ = tcp.write_all(&[settings_frame(), bare_frame(1, 4, 1, &[0x88])].concat()).await;
                cutting.notified().await;
            });
        }
    });
    let peer = Peer { addr, connections, requests: Arc::default() };
    let (dialer, cluster) = (dialer(), behind(peer.hop()));
    let mut dialed = tunnel(&dialer, &cluster).await.unwrap();
    cut.notify_one();
    assert!(dialed.stream.read_u8().await.is_err(), "no orderly end was sent");
    drop(dialed);
    assert!(tunnel(&dialer, &cluster).await.is_ok());
    assert_eq!(peer.connections(), 2);
}
