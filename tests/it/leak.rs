//! What a flow took is given back, however it ended.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::crowd::{self, BYE, ECHO, HALF_CLOSE, RESET};
use crate::support::{Egret, Folder, eventually};

const AT_ONCE: usize = 200;
const GROWTH_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The ways in which flows end.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// The client closes, and sees the other side close too.
    Orderly,
    ClientReset,
    OriginReset,
    /// Nobody listens at the target.
    Refused,
    OriginClosesFirst,
    /// The client closes its side before it reads.
    ClientClosesFirst,
    /// The client is gone before it is answered.
    Hasty,
}

const WAYS: [Way; 7] = [
    Way::Orderly,
    Way::ClientReset,
    Way::OriginReset,
    Way::Refused,
    Way::OriginClosesFirst,
    Way::ClientClosesFirst,
    Way::Hasty,
];

#[test]
fn descriptors_and_memory_are_flat_after_20_000_tunnels_and_each_has_one_line() {
    flat_after(20_000, 2_000, |place, flow| tunnel(WAYS[flow % WAYS.len()], place, flow));
}

#[test]
fn descriptors_and_memory_are_flat_after_5_000_requests_and_each_has_one_line() {
    flat_after(5_000, 1_000, |place, flow| exchange(EXCHANGES[flow % EXCHANGES.len()], place, flow));
}

/// Where flows go.
#[derive(Clone)]
struct Place {
    proxy: SocketAddr,
    origin: String,
    /// Nobody listens there.
    closed: String,
}

/// Runs `flows` of them, [`AT_ONCE`] at a time, and compares with the start, and with what was there after `warm` of them: then caches
/// and buffers are as large as they get.
fn flat_after<F: Future<Output = ()> + Send + 'static>(flows: usize, warm: usize, go: impl Fn(Place, usize) -> F) {
    let folder = Folder::new();
    let log = folder.path().join("access.log");
    let settings = format!(
        "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}]\naddresses: {{ allow: [127.0.0.0/8] }}\n\
         limits: {{ idlePool: 0 }}\nmesh: {{ accessLogFile: {}, accessLogEncoding: JSON }}\n",
        log.display()
    );
    let egret = Egret::with_settings(&folder.write("egret.yaml", &settings));
    let runtime = crowd::runtime();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let origin = runtime.block_on(crowd::origin()).to_string();
    let place = Place { proxy: egret.proxy(), origin, closed };
    let run = |range: std::ops::Range<usize>| {
        for start in range.clone().step_by(AT_ONCE) {
            let end = range.end.min(start + AT_ONCE);
            runtime.block_on(async {
                let mut running = JoinSet::new();
                for flow in start..end {
                    running.spawn(crowd::within(go(place.clone(), flow)));
                }
                running.join_all().await
            });
        }
    };
    let idle = || eventually("no tunnel is open", || egret.metric("egret_tunnels_open") == 0);
    run(0..AT_ONCE);
    idle();
    eventually("the first connections are closed", || egret.metric("egret_connections_open") == 0);
    let files = egret.open_files().len();
    run(AT_ONCE..warm);
    idle();
    let resident = egret.resident_bytes();
    run(warm..flows);
    idle();
    eventually("all connections are closed", || egret.metric("egret_connections_open") == 0);
    let mut found = 0;
    eventually("the descriptors are those of the start", || {
        found = egret.open_files().len();
        found <= files
    });
    eventually("the memory is that of the start", || egret.resident_bytes() <= resident + GROWTH_BYTES_MAX);
    eventually("all lines are written", || egret.metric("egret_access_log_lines_written_total") >= flows as u64);
    assert_eq!(egret.metric("egret_access_log_lines_dropped_total"), 0);
    let log = std::fs::read_to_string(&log).unwrap();
    let ids: HashSet<String> = log.lines().map(request_id).collect();
    assert_eq!((log.lines().count(), ids.len()), (flows, flows), "a line for each flow, and only one");
}

fn request_id(line: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line["request_id"].as_str().unwrap().to_owned()
}

async fn tunnel(way: Way, place: Place, flow: usize) {
    let target = if matches!(way, Way::Refused) { &place.closed } else { &place.origin };
    let id = format!("flow-{flow}");
    if matches!(way, Way::Hasty) {
        let mut stream = TcpStream::connect(place.proxy).await.unwrap();
        return crowd::ask_connect(&mut stream, target, &id).await;
    }
    let (mut stream, status) = crowd::connect(place.proxy, target, &id).await;
    assert_eq!(status, if matches!(way, Way::Refused) { 502 } else { 200 }, "{way:?}");
    let mut rest = Vec::new();
    match way {
        Way::Refused | Way::Hasty => {}
        Way::Orderly => {
            crowd::echoes(&mut stream, &[ECHO, b'1']).await;
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read_to_end(&mut rest).await.unwrap(), 0);
        }
        Way::ClientReset => {
            crowd::echoes(&mut stream, &[ECHO, b'2']).await;
            crowd::reset(&stream);
        }
        Way::OriginReset => {
            stream.write_all(&[RESET]).await.unwrap();
            let _ = stream.read_to_end(&mut rest).await; // an end or a reset
            assert!(rest.is_empty());
        }
        Way::OriginClosesFirst => {
            stream.write_all(&[HALF_CLOSE]).await.unwrap();
            stream.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, BYE);
            stream.write_all(b"still open this way").await.unwrap();
        }
        Way::ClientClosesFirst => {
            let sent = [ECHO; 100];
            stream.write_all(&sent).await.unwrap();
            stream.shutdown().await.unwrap();
            stream.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, sent);
        }
    }
}

/// The ways in which requests go.
#[derive(Clone, Copy, Debug)]
enum Exchange {
    Whole,
    /// The client leaves in the middle of the answer.
    ClientLeaves,
    /// The client leaves in the middle of its own body.
    BodyCut,
    /// The origin closes in the middle of its answer.
    AnswerCut,
    /// Nobody listens at the origin.
    Refused,
    /// The origin's answer is no HTTP.
    NoHttp,
    /// The client leaves while the origin thinks.
    Impatient,
}

const EXCHANGES: [Exchange; 7] = [
    Exchange::Whole,
    Exchange::ClientLeaves,
    Exchange::BodyCut,
    Exchange::AnswerCut,
    Exchange::Refused,
    Exchange::NoHttp,
    Exchange::Impatient,
];

async fn exchange(way: Exchange, place: Place, flow: usize) {
    let (target, method, fields) = match way {
        Exchange::Whole => (&place.origin, "GET", ""),
        Exchange::ClientLeaves => (&place.origin, "LARGE", ""),
        Exchange::BodyCut => (&place.origin, "POST", "Content-Length: 100000\r\n"),
        Exchange::AnswerCut => (&place.origin, "CUT", ""),
        Exchange::Refused => (&place.closed, "GET", ""),
        Exchange::NoHttp => (&place.origin, "NONSENSE", ""),
        Exchange::Impatient => (&place.origin, "WAIT", ""),
    };
    let head =
        format!("{method} http://{target}/ HTTP/1.1\r\nHost: {target}\r\nX-Request-Id: flow-{flow}\r\n{fields}\r\n");
    let mut stream = TcpStream::connect(place.proxy).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut rest = Vec::new();
    match way {
        Exchange::Impatient => {}
        Exchange::BodyCut => stream.write_all(&[b'x'; 1000]).await.unwrap(),
        Exchange::ClientLeaves => {
            assert_eq!(crowd::status(&crowd::head(&mut stream).await), 200);
            stream.read_exact(&mut [0; 10_000]).await.unwrap();
        }
        Exchange::AnswerCut => {
            assert_eq!(crowd::status(&crowd::head(&mut stream).await), 200);
            let _ = stream.read_to_end(&mut rest).await; // a reset
            assert!(rest.len() < crowd::LARGE_BYTES);
        }
        Exchange::Whole => {
            assert_eq!(crowd::status(&crowd::head(&mut stream).await), 200);
            stream.read_exact(&mut [0; 5]).await.unwrap();
        }
        Exchange::Refused | Exchange::NoHttp => {
            assert_eq!(crowd::status(&crowd::head(&mut stream).await), 502);
        }
    }
}
