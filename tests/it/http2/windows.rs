//! Flow control: what is held for a stream, and who pays for a window that is closed.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::SendStream;
use h2::client::SendRequest;
use http::Request;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::limits::reached;
use crate::support::frames::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PROTOCOL_ERROR, block};
use crate::support::origin::Origin;
use crate::support::{Egret, PATIENCE, eventually};
use crate::wire::proxy;

/// A client that keeps the protocol's rules, and its connection's task.
async fn client(egret: &Egret) -> SendRequest<Bytes> {
    let tcp = TcpStream::connect(egret.proxy()).await.unwrap();
    let (send, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    send
}

/// Sends `bytes`; true once that stands still for `quiet`.
async fn stands_still(send: &mut SendStream<Bytes>, mut bytes: usize, quiet: Duration) -> bool {
    while bytes > 0 {
        send.reserve_capacity(bytes.min(16 * 1024));
        let room = match send.capacity() {
            0 => match timeout(quiet, poll_fn(|cx| send.poll_capacity(cx))).await {
                Ok(room) => room.unwrap().unwrap(),
                Err(_) => {
                    send.reserve_capacity(0);
                    return true;
                }
            },
            room => room,
        };
        let piece = room.min(bytes);
        send.send_data(Bytes::from(vec![b'x'; piece]), false).unwrap();
        bytes -= piece;
    }
    false
}

/// A tunnel in which nothing moves any more: what the proxy holds of it, a whole window, is held.
async fn stuffed(mut requests: SendRequest<Bytes>, target: SocketAddr) -> SendStream<Bytes> {
    let connect = Request::connect(target.to_string()).body(()).unwrap();
    let (answer, mut send) = requests.send_request(connect, false).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    assert!(stands_still(&mut send, 256 << 20, QUIET).await, "capacity comes back although nobody reads");
    send
}

const QUIET: Duration = Duration::from_millis(300);

/// Reads nothing until it is told to, and then everything.
fn stuck() -> (Origin, mpsc::Sender<()>) {
    let (go, wait) = mpsc::channel::<()>();
    let gate = Mutex::new(Some(wait));
    let origin = Origin::new(move |mut stream| {
        socket2::SockRef::from(&stream).set_recv_buffer_size(16 * 1024).unwrap();
        // The first one waits, and the others wait for it.
        if let Some(wait) = gate.lock().unwrap().take() {
            let _ = wait.recv();
        }
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    (origin, go)
}

#[tokio::test]
async fn a_body_is_not_too_slow_while_other_streams_hold_the_connections_window() {
    let (egret, _folder) = proxy("limits: { bodyIdle: 4s, bodyRateMin: 1MiB }");
    let (stuck, go) = stuck();
    let mirror = Origin::mirror();
    let requests = client(&egret).await;
    // Tunnels that hold 256 KiB each: 64 hold all 16 MiB of the connection. The last ones come later.
    let mut tunnels = join_all((0..60).map(|_| stuffed(requests.clone(), stuck.address))).await;
    let request = Request::post(format!("http://{}/", mirror.address)).header("content-length", 40_000);
    let (answer, mut body) = requests.clone().send_request(request.body(()).unwrap(), false).unwrap();
    assert!(!stands_still(&mut body, 1, PATIENCE).await);
    // Three of the four seconds that it may be waited for in all: its own fault.
    sleep(Duration::from_secs(3)).await;
    assert!(!stands_still(&mut body, 1, PATIENCE).await);
    tunnels.extend(join_all((0..20).map(|_| stuffed(requests.clone(), stuck.address))).await);
    assert!(stands_still(&mut body, 1, Duration::from_millis(1800)).await, "the connection's window is open");
    go.send(()).unwrap();
    assert!(!stands_still(&mut body, 39_998, PATIENCE).await);
    body.send_data(Bytes::new(), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    assert_eq!((reached(&egret, "body_rate_min"), reached(&egret, "body_idle")), (0, 0));
}

#[test]
fn a_body_that_is_slow_by_itself_ends_by_its_rate_over_http2_too() {
    let (egret, _folder) = proxy("limits: { bodyIdle: 1s, bodyRateMin: 100 }");
    let origin = Origin::mirror();
    let mut client = Frames::open(egret.proxy());
    let authority = origin.address.to_string();
    let post = [(":method", "POST"), (":scheme", "http"), (":authority", &*authority), (":path", "/")];
    client.request(1, false, &post);
    let began = std::time::Instant::now();
    let status = loop {
        client.send(DATA, 0, 1, b"x");
        std::thread::sleep(Duration::from_millis(100)); // the client is slow: that is what is tested
        client.is_alive();
        if let Some(head) = client.seen(|frame| frame.stream == 1 && frame.kind == HEADERS) {
            break head.status();
        }
        assert!(began.elapsed() < PATIENCE);
    };
    assert_eq!((status, reached(&egret, "body_rate_min"), reached(&egret, "body_idle")), (408, 1, 0));
    assert!(began.elapsed() >= Duration::from_millis(950), "{:?}", began.elapsed());
    // Fast enough, it may take longer than that in all.
    client.request(3, false, &post);
    for _ in 0..15 {
        client.send(DATA, 0, 3, &[b'x'; 200]);
        std::thread::sleep(Duration::from_millis(100)); // the same
    }
    client.send(DATA, END_STREAM, 3, b"");
    assert_eq!(client.status(3), 200);
    assert_eq!(reached(&egret, "body_rate_min"), 1);
}

#[test]
fn tunnels_whose_readers_stopped_hold_no_more_than_a_window_each() {
    const STREAMS: u32 = 100;
    let pouring = Origin::new(|mut stream| while stream.write_all(&[7; 64 * 1024]).is_ok() {});
    let egret = Egret::start();
    let mut client = Frames::open_with(egret.proxy(), &[(4, 0)]);
    let open = |client: &mut Frames, streams: std::ops::Range<u32>| {
        for stream in streams {
            client.connect(2 * stream + 1, pouring.address);
            assert_eq!(client.status(2 * stream + 1), 200);
        }
    };
    let before = egret.resident_bytes();
    open(&mut client, 0..STREAMS);
    let mut last = 0;
    eventually("nothing grows any more", || {
        std::thread::sleep(Duration::from_millis(100)); // between two looks
        let now = egret.resident_bytes();
        std::mem::replace(&mut last, now) == now
    });
    let grown = last.saturating_sub(before) / u64::from(STREAMS);
    assert!(grown <= 256 * 1024, "{grown} bytes for each");
    assert!(client.is_alive());
}

#[test]
fn trailers_in_a_tunnel_are_an_error() {
    let (tell, told) = mpsc::channel();
    let origin = Origin::new(move |mut stream| {
        let read = stream.read_to_end(&mut Vec::new());
        tell.send(read.map_err(|error| error.kind())).unwrap();
    });
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    client.connect(1, origin.address);
    assert_eq!(client.status(1), 200);
    client.send(DATA, 0, 1, b"data");
    client.send(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("checksum", "7")]));
    assert_eq!(client.reset(1), PROTOCOL_ERROR);
    let read = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(read, Err(std::io::ErrorKind::ConnectionReset), "no end that looks like one in order");
    assert!(client.is_alive());
}
