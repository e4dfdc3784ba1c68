//! Dialling over real sockets: straight, by name, through parents, over TLS.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::testing::*;
use super::*;
use crate::flow::{ErrorType, Origin};
use crate::route::cluster::{Authorization, Balancing};
use crate::route::cluster::{Endpoint, EndpointAddress, Sni};
use crate::route::{Discovery, Origination};
use crate::tls::testing::{Authority, Leaf, Server};
use crate::tls::{ClientTls, ClientTlsSpec};

async fn dial(dialer: &Dialer, cluster: Cluster, target: &Target) -> (Result<Dialed, DialError>, DialTrace) {
    let mut trace = DialTrace::default();
    let dialed = dialer.dial(&Arc::new(cluster), target, soon(), &mut trace).await;
    (dialed, trace)
}

fn error_of(dialed: Result<Dialed, DialError>) -> ErrorType {
    dialed.map(|_| ()).unwrap_err().error_type()
}

#[tokio::test]
async fn a_literal_is_dialled_at_once_and_asks_no_server() {
    let listener = listen("127.0.0.1", 0).await;
    let addr = listener.local_addr().unwrap();
    let dialer = dialer();
    let (dialed, trace) = dial(&dialer, cluster(), &target_at(addr)).await;
    let stream = dialed.unwrap().stream;
    assert_eq!(stream.peer_addr(), Some(addr));
    assert!(stream.tcp().unwrap().nodelay().unwrap());
    assert_eq!((trace.upstream, trace.attempts, trace.reused), (Some(addr), 1, false));
    assert_eq!(trace.local, stream.local_addr());
    assert_eq!((dialer.dns_queries(), dialer.pending()), (0, 0));
}

#[tokio::test]
async fn target_port_replaces_the_port_asked_for() {
    let listener = listen("127.0.0.1", 0).await;
    let port = Some(listener.local_addr().unwrap().port());
    let cluster = Cluster { discovery: Discovery::Asked { port }, ..cluster() };
    assert!(dial(&dialer(), cluster, &target("127.0.0.1:1")).await.0.is_ok());
}

#[tokio::test]
async fn a_refused_connection_and_a_closed_address_are_told_apart() {
    let listener = listen("127.0.0.1", 0).await;
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let (dialed, trace) = dial(&dialer(), cluster(), &target_at(addr)).await;
    let error = dialed.unwrap_err();
    let failure = error.failure(&target_at(addr));
    assert_eq!(failure.error, ErrorType::ConnectionRefused);
    assert_eq!(&*failure.detail, format!("{addr} refused the connection"));
    assert!(failure.log.contains(&format!("connect to {addr}: Connection refused")), "{}", failure.log);
    assert_eq!(trace.upstream, Some(addr));

    let (dialed, trace) = dial(&dialer(), cluster(), &target("10.0.0.1:80")).await;
    assert_eq!(error_of(dialed), ErrorType::IpProhibited);
    assert_eq!(trace.attempts, 0);
}

#[tokio::test]
async fn an_address_that_never_answers_ends_at_the_connect_timeout() {
    let spare = listen("127.0.0.1", 0).await.local_addr().unwrap();
    let _hole = BlackHole::open(spare);
    let cluster = Cluster { connect_timeout: Duration::from_millis(100), ..cluster() };
    let started = Instant::now();
    let (dialed, _) = dial(&dialer(), cluster, &target_at(spare)).await;
    assert_eq!(error_of(dialed), ErrorType::ConnectionTimeout);
    assert!((100..2000).contains(&started.elapsed().as_millis()));
}

#[tokio::test]
async fn own_listeners_are_loops_unless_a_resource_spells_them_and_the_admin_port_always() {
    let listeners = [listen("127.0.0.1", 0).await, listen("127.0.0.1", 0).await];
    let [proxy, admin] = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
    let dialer = dialer();
    dialer.set_own(OwnListeners { proxies: vec![proxy], admin: Some(admin) });
    let mut open = cluster();
    open.addresses.policy =
        Arc::new(crate::route::AddressPolicy { allow: nets(&["0.0.0.0/0", "::/0"]), deny: Default::default() });
    for ip in ["127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]", "localhost"] {
        for own in [proxy, admin] {
            let asked = target(&format!("{ip}:{}", own.port()));
            let cluster = Cluster { addresses: open.addresses.clone(), ..cluster() };
            assert_eq!(error_of(dial(&dialer, cluster, &asked).await.0), ErrorType::LoopDetected, "{asked}");
        }
    }
    let spelled =
        |addr: SocketAddr| Cluster { discovery: Discovery::Static(vec![endpoint(&addr.to_string())]), ..cluster() };
    let asked = target("api.example:80");
    assert_eq!(error_of(dial(&dialer, spelled(admin), &asked).await.0), ErrorType::LoopDetected);
    assert!(dial(&dialer, spelled(proxy), &asked).await.0.is_ok());
}

#[tokio::test]
async fn a_listener_on_all_addresses_is_found_on_the_connected_socket() {
    let listener = listen("0.0.0.0", 0).await;
    let own = listener.local_addr().unwrap();
    let dialer = dialer();
    dialer.set_own(OwnListeners { proxies: vec![own], admin: None });
    let peer = SocketAddr::from(([127, 0, 0, 1], own.port()));
    let stream = tcp::connect(peer, &[]).await.unwrap();
    assert!(OwnListeners::is_own_end(peer, stream.local_addr().unwrap()));
    // Another address of this host, where it has one: nothing leaves it. Connecting a datagram socket sends nothing.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let Ok(()) = probe.connect("192.0.2.1:9") else {
        eprintln!("this host has loopback addresses only");
        return;
    };
    let peer = SocketAddr::new(probe.local_addr().unwrap().ip(), own.port());
    let mut lan = cluster();
    lan.addresses.opened = [peer.ip()].into_iter().collect();
    let (dialed, trace) = dial(&dialer, lan, &target_at(peer)).await;
    assert_eq!((error_of(dialed), trace.attempts), (ErrorType::LoopDetected, 1));
}

#[tokio::test]
async fn pending_dials_are_bounded_and_a_dropped_dial_leaves() {
    let spare = listen("127.0.0.1", 0).await.local_addr().unwrap();
    let _hole = BlackHole::open(spare);
    let dialer = Arc::new(Dialer::new(DialSettings { pending_dials: 1, ..settings() }).unwrap());
    let stuck = tokio::spawn({
        let dialer = dialer.clone();
        async move { dial(&dialer, cluster(), &target_at(spare)).await.0.map(|_| ()) }
    });
    until("one dial is pending", || dialer.pending() == 1).await;
    let (dialed, _) = dial(&dialer, cluster(), &target_at(spare)).await;
    assert_eq!(error_of(dialed), ErrorType::Overloaded);
    assert_eq!(dialer.pending(), 1);
    stuck.abort();
    until("it left", || dialer.pending() == 0).await;
}

#[tokio::test]
async fn flows_are_dialled_from_the_source_of_the_right_family() {
    let listener = listen("127.0.0.1", 0).await;
    let addr = listener.local_addr().unwrap();
    let source = Arc::new(["::1", "127.0.0.9", "127.0.0.8"].map(|ip| ip.parse().unwrap()));
    let (dialed, _) = dial(&dialer(), Cluster { source, ..cluster() }, &target_at(addr)).await;
    assert_eq!(dialed.unwrap().stream.local_addr().unwrap().ip(), IpAddr::from([127, 0, 0, 9]));
}

#[tokio::test]
async fn another_endpoint_is_tried_when_one_refuses_but_no_more_than_three() {
    let good = listen("127.0.0.1", 0).await;
    let good_addr = good.local_addr().unwrap();
    let dead = listen("127.0.0.2", 0).await.local_addr().unwrap();
    let of = |endpoints: Vec<Endpoint>| Cluster {
        discovery: Discovery::Static(endpoints),
        balancing: Balancing::RoundRobin,
        ..cluster()
    };
    let (dialer, asked) = (dialer(), target("api.example:80"));
    for _ in 0..4 {
        let endpoints = vec![endpoint(&dead.to_string()), endpoint(&good_addr.to_string())];
        let (dialed, trace) = dial(&dialer, of(endpoints), &asked).await;
        assert!(dialed.is_ok());
        assert_eq!(trace.upstream, Some(good_addr));
    }
    let (dialed, trace) = dial(&dialer, of(vec![endpoint(&dead.to_string()); 5]), &asked).await;
    assert_eq!((error_of(dialed), trace.attempts), (ErrorType::ConnectionRefused, 3));
    let (dialed, _) = dial(&dialer, of(vec![]), &asked).await;
    assert_eq!(error_of(dialed), ErrorType::Unavailable);
    let missing = Cluster { discovery: Discovery::Missing("subset v9 does not exist".into()), ..cluster() };
    let failure = dial(&dialer, missing, &asked).await.0.unwrap_err().failure(&asked);
    assert_eq!(failure.error, ErrorType::Configuration);
    assert!(failure.log.contains("subset v9") && !failure.detail.contains("subset v9"));
}

#[tokio::test]
async fn open_flows_spread_over_endpoints_across_snapshots() {
    let (one, other) = (listen("127.0.0.1", 0).await, listen("127.0.0.1", 0).await);
    let addrs = [one.local_addr().unwrap(), other.local_addr().unwrap()];
    let dialer = dialer();
    let mut open = Vec::new();
    let mut counts = [0_usize; 2];
    for _ in 0..100 {
        // A new cluster each time, as after a reload.
        let endpoints = addrs.iter().map(|addr| endpoint(&addr.to_string())).collect();
        let cluster = Cluster { discovery: Discovery::Static(endpoints), ..cluster() };
        let (dialed, trace) = dial(&dialer, cluster, &target("api.example:80")).await;
        counts[addrs.iter().position(|addr| trace.upstream == Some(*addr)).unwrap()] += 1;
        open.push(dialed.unwrap());
    }
    assert!(counts[0].abs_diff(50) < 12, "{counts:?}");
}

#[tokio::test]
async fn a_unix_socket_is_an_endpoint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let at = |path: &std::path::Path| Cluster {
        discovery: Discovery::Static(vec![Endpoint { at: EndpointAddress::Unix(path.to_owned()), weight: 1 }]),
        ..cluster()
    };
    let (dialed, _) = dial(&dialer(), at(&path), &target("api.example:80")).await;
    let mut stream = dialed.unwrap().stream;
    drop(listener.accept().await.unwrap());
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    let (dialed, _) = dial(&dialer(), at(&dir.path().join("none")), &target("api.example:80")).await;
    assert_eq!(error_of(dialed), ErrorType::ConnectionRefused);
}

#[tokio::test]
async fn the_straight_way_is_a_small_future() {
    let (dialer, cluster, target, mut trace) =
        (dialer(), Arc::new(cluster()), target("127.0.0.1:1"), DialTrace::default());
    let size = size_of_val(&dialer.dial(&cluster, &target, soon(), &mut trace));
    assert!(size <= 1600, "{size} bytes");
}

fn originating(authority: &Authority, sni: Sni) -> Origination {
    let spec = ClientTlsSpec { ca_pem: Some(authority.pem.clone().into_bytes()), ..Default::default() };
    let client = ClientTls::new(&spec).map_err(|error| error.to_string().into());
    Origination { mode: "SIMPLE", sni, client, origin: Default::default() }
}

async fn echoes(dialed: Dialed) {
    let mut stream = dialed.stream;
    stream.write_all(b"ping").await.unwrap();
    stream.flush().await.unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
}

#[tokio::test]
async fn tls_is_originated_for_the_name_asked_for_or_the_fixed_one() {
    let authority = Authority::new();
    let server = Server::start(&authority.issue(&["api.example"], |_| {}), None).await;
    let fixed = Sni::Fixed(Name::parse(b"api.example").unwrap());
    let to = |tls| Cluster {
        discovery: Discovery::Static(vec![endpoint(&server.addr.to_string())]),
        tls: Some(Arc::new(tls)),
        ..cluster()
    };
    for (sni, asked) in [(Sni::Asked, "api.example:80"), (fixed, "other.example:80")] {
        let (dialed, _) = dial(&dialer(), to(originating(&authority, sni)), &target(asked)).await;
        echoes(dialed.unwrap()).await;
    }
    let asked = target("other.example:80");
    let (dialed, trace) = dial(&dialer(), to(originating(&authority, Sni::Asked)), &asked).await;
    let failure = dialed.unwrap_err().failure(&asked);
    assert_eq!(failure.error, ErrorType::TlsCertificate);
    let sentence = "the certificate of other.example:80 is not valid: it is for api.example, not for other.example";
    assert_eq!(&*failure.detail, sentence);
    let reason = "TLS with other.example: TLS handshake: it is for api.example, not for other.example";
    assert_eq!(trace.transport_failure.as_deref(), Some(reason));

    let missing = Origination { client: Err("secret x/y".into()), ..originating(&authority, Sni::Asked) };
    let (dialed, trace) = dial(&dialer(), to(missing), &asked).await;
    assert_eq!((error_of(dialed), trace.attempts), (ErrorType::Credential, 0), "nothing is dialled");
}

#[tokio::test]
async fn what_is_missing_at_a_parent_is_found_before_anything_is_dialled() {
    let tls = Origination { client: Err("secret x/y".into()), ..originating(&Authority::new(), Sni::Asked) };
    let credentials = Authorization { from: "secret://x/z".into(), value: Err("secret x/z".into()) };
    for (tls, authorization, error) in
        [(Some(tls), None, ErrorType::Credential), (None, Some(credentials), ErrorType::Configuration)]
    {
        let hop = Hop {
            cluster: Arc::new(Cluster { tls: tls.map(Arc::new), ..cluster() }),
            method: Default::default(),
            target: None,
            authorization,
            absolute_form: false,
            probe: None,
            origin: Origin::default(),
        };
        let to = Cluster { via: Via::Connect(Arc::new(hop)), ..cluster() };
        let (dialed, trace) = dial(&dialer(), to, &target("127.0.0.1:1")).await;
        assert_eq!((error_of(dialed), trace.attempts, trace.hop), (error, 0, None));
    }
}

#[tokio::test]
async fn a_peer_that_is_silent_in_the_handshake_ends_at_the_connect_timeout() {
    let listener = listen("127.0.0.1", 0).await;
    let cluster = Cluster {
        tls: Some(Arc::new(originating(&Authority::new(), Sni::Asked))),
        connect_timeout: Duration::from_millis(100),
        ..cluster()
    };
    let started = Instant::now();
    let (dialed, _) = dial(&dialer(), cluster, &target_at(listener.local_addr().unwrap())).await;
    assert_eq!(error_of(dialed), ErrorType::ConnectionTimeout);
    assert!((100..2000).contains(&started.elapsed().as_millis()));
}

#[tokio::test]
async fn tls_to_a_parent_and_tls_inside_its_tunnel_are_two_wraps() {
    let authority = Authority::new();
    let origin = Server::start(&authority.issue(&["api.example"], |_| {}), None).await;
    let parent = tls_parent(&authority.issue(&["parent.example"], |_| {}), origin.addr).await;
    let hop = Hop {
        cluster: Arc::new(Cluster {
            discovery: Discovery::Static(vec![endpoint(&parent.to_string())]),
            tls: Some(Arc::new(originating(&authority, Sni::Fixed(Name::parse(b"parent.example").unwrap())))),
            ..cluster()
        }),
        method: Default::default(),
        target: None,
        authorization: None,
        absolute_form: false,
        probe: None,
        origin: Default::default(),
    };
    let cluster = Cluster {
        via: Via::Connect(Arc::new(hop)),
        tls: Some(Arc::new(originating(&authority, Sni::Asked))),
        ..cluster()
    };
    let (dialed, _) = dial(&dialer(), cluster, &target("api.example:443")).await;
    echoes(dialed.unwrap()).await;
    assert_eq!(origin.handshakes.lock().unwrap()[0].1.as_deref(), Some("api.example"));
}

/// A parent proxy behind TLS, whose every tunnel leads to `origin`.
#[allow(clippy::disallowed_methods, reason = "a parent of this test, not our relay")]
async fn tls_parent(leaf: &Leaf, origin: SocketAddr) -> SocketAddr {
    let acceptor = leaf.acceptor();
    let listener = listen("127.0.0.1", 0).await;
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut origin = TcpStream::connect(origin).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut origin).await;
    });
    addr
}
