//! CONNECT over HTTP/2: a stream is a tunnel.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;

use crate::support::frames::{
    CANCEL, CONNECT_ERROR, DATA, END_STREAM, Frames, PROTOCOL_ERROR, RST_STREAM, WINDOW_UPDATE,
};
use crate::support::origin::Origin;
use crate::support::{Egret, Folder, PATIENCE, Setup, eventually};

#[test]
fn bytes_flow_both_ways_and_end_stream_is_fin() {
    let origin = Origin::echo();
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    client.connect(1, origin.address);
    assert_eq!(client.status(1), 200);
    client.send(DATA, 0, 1, b"hello");
    assert_eq!(client.data(1, 5), b"hello");
    client.send(DATA, END_STREAM, 1, b" and bye");
    let mut rest = client.data(1, 8);
    assert_eq!(rest, b" and bye");
    // The echo closes when it sees our end.
    let end = client.wait(|frame| frame.stream == 1 && frame.kind == DATA && frame.flags & END_STREAM != 0);
    rest.extend(end.payload);
    assert_eq!(rest, b" and bye");
    let line = egret.stdout.wait_for("CONNECT");
    assert!(line.contains("\"CONNECT - HTTP/2\" 200 "), "{line}");
    assert!(client.is_alive());
}

#[test]
fn a_server_that_closes_first_ends_the_stream_and_the_client_may_send_on() {
    let (tell, told) = mpsc::channel();
    let origin = Origin::new(move |mut stream| {
        stream.write_all(b"greeting").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        tell.send(rest).unwrap();
    });
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    client.connect(1, origin.address);
    assert_eq!(client.status(1), 200);
    assert_eq!(client.data(1, usize::MAX), b"greeting");
    client.send(DATA, 0, 1, b"late ");
    client.send(DATA, END_STREAM, 1, b"words");
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), b"late words");
}

#[test]
fn an_upstream_reset_becomes_connect_error() {
    let origin = Origin::new(|mut stream| {
        stream.read_exact(&mut [0]).unwrap(); // sooner, it would be a connection that was never there
        socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    });
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    client.connect(1, origin.address);
    assert_eq!(client.status(1), 200);
    client.send(DATA, 0, 1, b"anybody?");
    assert_eq!(client.reset(1), CONNECT_ERROR);
    assert!(client.is_alive(), "the other streams of the connection are not concerned");
}

#[test]
fn a_client_reset_becomes_a_tcp_reset() {
    let (tell, told) = mpsc::channel();
    let origin = Origin::new(move |mut stream| {
        let mut bytes = Vec::new();
        tell.send(stream.read_to_end(&mut bytes).map(|_| bytes)).unwrap();
    });
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    client.connect(1, origin.address);
    assert_eq!(client.status(1), 200);
    client.send(DATA, 0, 1, b"half");
    client.send(RST_STREAM, 0, 1, &CANCEL.to_be_bytes());
    let read = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(egret.stdout.wait_for("CONNECT").contains(" DC "));
}

#[test]
fn a_client_that_resets_after_its_end_of_stream_ends_the_tunnel() {
    let origin = Origin::new(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
        let _ = stream.set_read_timeout(Some(PATIENCE));
        std::thread::sleep(PATIENCE); // never closes by itself
    });
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    client.connect(1, origin.address);
    assert_eq!(client.status(1), 200);
    client.send(DATA, END_STREAM, 1, b"");
    client.send(RST_STREAM, 0, 1, &CANCEL.to_be_bytes());
    eventually("the tunnel is gone", || egret.metric("egret_tunnels_open") == 0);
}

#[test]
fn a_connection_that_breaks_off_resets_every_upstream() {
    let (tell, told) = mpsc::channel();
    let origin = Origin::new(move |mut stream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        let read = stream.read(&mut byte);
        tell.send(read.map_err(|error| error.kind())).unwrap();
    });
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    for stream in [1, 3, 5] {
        client.connect(stream, origin.address);
        assert_eq!(client.status(stream), 200);
        client.send(DATA, 0, stream, b"x");
    }
    eventually("all bytes are there", || egret.metric("egret_received_bytes_total") == 3);
    drop(client);
    for _ in 0..3 {
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Err(std::io::ErrorKind::ConnectionReset));
    }
    eventually("no stream is left", || egret.metric("egret_http2_streams_open") == 0);
}

#[test]
fn capacity_comes_back_only_as_the_upstream_takes_bytes() {
    const WINDOW: usize = 256 * 1024;
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::new(move |mut stream| {
        let _ = wait.lock().unwrap().recv();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    client.connect(1, origin.address);
    assert_eq!(client.status(1), 200);
    let chunk = vec![7; 16 * 1024];
    // The kernel's buffers take their part; then nothing comes back any more, and the rest of the window fills.
    let (mut sent, mut granted) = (0, WINDOW);
    client.set_patience(std::time::Duration::from_millis(300));
    loop {
        while sent + chunk.len() <= granted {
            client.send(DATA, 0, 1, &chunk);
            sent += chunk.len();
        }
        let more = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            client.wait(|frame| frame.kind == WINDOW_UPDATE && frame.stream == 1)
        }));
        let Ok(more) = more else { break };
        granted += u32::from_be_bytes(more.payload.try_into().unwrap()) as usize;
        assert!(sent < 256 << 20, "capacity comes back although nobody reads");
    }
    client.set_patience(PATIENCE);
    let taken = egret.metric("egret_received_bytes_total") as usize;
    assert!(sent - taken <= WINDOW, "{} bytes of one stream are held", sent - taken);
    go.send(()).unwrap();
    client.wait(|frame| frame.kind == WINDOW_UPDATE && frame.stream == 1);
    client.send(DATA, END_STREAM, 1, b"");
    eventually("everything has arrived", || egret.metric("egret_received_bytes_total") as usize == sent);
}

#[test]
fn refusals_are_answers_with_status_reason_and_request_id() {
    let folder = Folder::new();
    let setup = Setup { mesh: "outboundTrafficPolicy: { mode: REGISTRY_ONLY }", ..Setup::default() };
    let egret = setup.start(&folder);
    let mut client = Frames::open(egret.proxy());
    client.connect(1, "api.example.com:8443");
    assert_eq!(client.status(1), 403);
    let body = String::from_utf8(client.data(1, usize::MAX)).unwrap();
    assert!(body.contains("api.example.com:8443") && body.contains("(not_found)"), "{body}");
    egret.record("api.example.com:8443").shows(&[("protocol", "HTTP/2"), ("response_code", "403")]);
    // The connection serves on: unlike in HTTP/1 nothing that follows can be taken for another request.
    client.connect(3, "api.example.com");
    assert_eq!(client.status(3), 400);
    client.request(5, true, &[(":method", "CONNECT")]);
    assert!(
        matches!(client.wait(|frame| frame.stream == 5), frame if frame.kind == RST_STREAM || frame.status() == 400)
    );
}

#[test]
fn connect_with_a_path_or_a_scheme_is_malformed() {
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    for (stream, extra) in [(1, (":path", "/")), (3, (":scheme", "http"))] {
        client.request(stream, false, &[(":method", "CONNECT"), (":authority", "a.example:443"), extra]);
        assert_eq!(client.reset(stream), PROTOCOL_ERROR);
    }
    assert!(client.is_alive());
}

#[test]
fn a_terminated_tunnel_carries_http1_inside_the_stream() {
    let origin = Origin::mirror();
    let folder = Folder::new();
    let rules = format!(
        "{{ apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{ name: web }}, spec: {{ hosts: [web.example], \
         ports: [{{ number: {0}, name: http, protocol: HTTP }}], resolution: DNS }} }}\n---\n\
         {{ apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{ name: web }}, spec: {{ hosts: [web.example], \
         http: [{{ route: [{{ destination: {{ host: web.example, port: {{ number: {0} }} }} }}] }}] }} }}\n",
        origin.address.port()
    );
    let setup = Setup { rules: &rules, hosts: &["web.example"], ..Setup::default() };
    let egret = setup.start(&folder);
    let mut client = Frames::open(egret.proxy());
    let target = format!("web.example:{}", origin.address.port());
    client.connect(1, &target);
    assert_eq!(client.status(1), 200);
    let ask = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: {target}\r\nContent-Length: 2\r\n\r\nhi");
    client.send(DATA, 0, 1, ask("/ok").as_bytes());
    let answer = String::from_utf8(client.data(1, 10)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    client.send(DATA, 0, 1, b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n");
    let mut answer = client.data(1, 10);
    while !String::from_utf8_lossy(&answer).contains("421") {
        answer.extend(client.data(1, 1));
    }
    client.wait(|frame| frame.stream == 1 && frame.kind == DATA && frame.flags & END_STREAM != 0);
}
