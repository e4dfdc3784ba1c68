//! Requests and bytes per second of a client.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::reached;
use crate::attacks::injection::hello;
use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::{Egret, Folder, client};
use crate::wire::{converse, proxy};

const KIB: usize = 1024;

#[test]
fn requests_beyond_the_burst_are_answered_429_and_let_in_again_later() {
    let (egret, _folder) = proxy("limits: { requestsPerSecondPerClient: 1, requestsBurstPerClient: 3 }");
    let origin = Origin::http(HELLO);
    let url = format!("http://{}/", origin.address);
    let began = Instant::now();
    let mut stream = client::dial(egret.proxy());
    for _ in 0..2 {
        assert_eq!(client::ask(&mut stream, "GET", &url).status, 200);
    }
    drop(client::tunnel(egret.proxy(), origin.address)); // a CONNECT counts as one
    let refused = client::ask(&mut stream, "GET", &url);
    if began.elapsed() < Duration::from_secs(1) {
        assert!(refused.head.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{}", refused.head);
        assert!(refused.head.contains("\r\nRetry-After: 1\r\n"), "{}", refused.head);
        assert!(refused.head.contains("error=http_request_denied"), "{}", refused.head);
        assert!(!refused.head.contains("Connection: close"), "the connection may wait: {}", refused.head);
        assert_eq!(reached(&egret, "requests_per_second_per_client"), 1);
        let log = egret.stdout.wait_for(" 429 ");
        assert!(log.contains(" RL "), "{log}");
    }
    crate::support::eventually("it is let in again", || client::ask(&mut stream, "GET", &url).status == 200);
    let (_, head) = client::connect(egret.proxy(), origin.address);
    if began.elapsed() < Duration::from_secs(2) {
        assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
    }
    assert_eq!(origin.requests().iter().filter(|head| head.starts_with("GET ")).count(), 3, "none that was refused");
}

#[test]
fn connections_of_an_sni_listener_count_as_requests() {
    let folder = Folder::with_settings(
        "listeners: [{ name: proxy, protocol: sni, address: \"127.0.0.1:0\" }]\n\
         limits: { requestsPerSecondPerClient: 1, requestsBurstPerClient: 1 }\ndns: { hosts: null, servers: [\"127.0.0.1:1\"], timeout: 200ms, attempts: 1 }\n",
    );
    let egret = Egret::with_settings(&folder.settings());
    for _ in 0..3 {
        let mut stream = client::dial(egret.proxy());
        stream.write_all(&hello(b"a.test")).unwrap();
        let mut alert = Vec::new();
        let _ = stream.read_to_end(&mut alert);
        assert_eq!(alert.first(), Some(&21), "an alert: {alert:?}");
    }
    egret.stdout.wait_for(" RL ");
    assert!(reached(&egret, "requests_per_second_per_client") >= 1);
}

#[test]
fn a_reload_turns_the_rates_on_and_off() {
    let (egret, folder) = proxy("limits: { requestsPerSecondPerClient: 1, requestsBurstPerClient: 1 }");
    let ask =
        || converse(egret.proxy(), "GET http://10.0.0.1/ HTTP/1.1\r\nHost: 10.0.0.1\r\nConnection: close\r\n\r\n");
    let settings = std::fs::read_to_string(folder.settings()).unwrap();
    assert!((0..3).any(|_| ask().starts_with("HTTP/1.1 429 ")));
    folder.write("egret.yaml", &settings.replace("requestsPerSecondPerClient: 1, requestsBurstPerClient: 1", ""));
    let line = egret.reload();
    assert!(!line.contains("not reloaded"), "{line}");
    assert!((0..20).all(|_| ask().starts_with("HTTP/1.1 403 ")));
    folder.write("egret.yaml", &settings);
    egret.reload();
    assert!((0..3).any(|_| ask().starts_with("HTTP/1.1 429 ")));
}

/// Sends what it is asked to: after an empty line as many bytes as the path says.
fn source() -> Origin {
    Origin::new(|mut stream| {
        while let Some(head) = read_head(&mut stream) {
            let count: usize = head.split(['/', ' ']).find_map(|word| word.parse().ok()).unwrap();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {count}\r\n\r\n");
            if stream.write_all(&[answer.as_bytes(), &vec![b'x'; count]].concat()).is_err() {
                return;
            }
        }
    })
}

/// How long it takes until everything asked for has come.
fn took(stream: &mut std::net::TcpStream, request: &str, count: usize) -> Duration {
    let began = Instant::now();
    stream.write_all(request.as_bytes()).unwrap();
    assert!(read_head(stream).unwrap().starts_with("HTTP/1.1 200 "));
    let mut body = vec![0; count];
    stream.read_exact(&mut body).unwrap();
    began.elapsed()
}

#[test]
fn bytes_beyond_a_seconds_worth_come_slowly_in_bodies_and_tunnels() {
    for in_tunnel in [false, true] {
        let (egret, _folder) = proxy("limits: { bytesPerSecondPerClient: 256KiB }");
        let origin = source();
        let (mut stream, url) = match in_tunnel {
            true => (client::tunnel(egret.proxy(), origin.address), String::new()),
            false => (client::dial(egret.proxy()), format!("http://{}", origin.address)),
        };
        let request = |count: usize| format!("GET {url}/{count} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.address);
        let at_once = took(&mut stream, &request(200 * KIB), 200 * KIB);
        assert_eq!(reached(&egret, "bytes_per_second_per_client"), 0, "within a second's worth, in {at_once:?}");
        let slowly = took(&mut stream, &request(768 * KIB), 768 * KIB);
        // 1.5 s if all of the second's worth was whole again, 1.8 s if none was.
        assert!(slowly > Duration::from_millis(1800), "in tunnel {in_tunnel}: {slowly:?}");
        assert!(slowly < Duration::from_secs(10), "in tunnel {in_tunnel}: {slowly:?}");
        assert!(reached(&egret, "bytes_per_second_per_client") > 0);
    }
}

#[test]
fn bodies_of_requests_are_paced_too_and_their_pauses_do_not_make_them_slow() {
    let (egret, _folder) = proxy("limits: { bytesPerSecondPerClient: 64KiB, bodyIdle: 1s, bodyRateMin: 48KiB }");
    let origin = Origin::mirror();
    let body = "x".repeat(160 * KIB);
    let began = Instant::now();
    let mut stream = client::dial(egret.proxy());
    write!(
        stream,
        "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len(),
        o = origin.address
    )
    .unwrap();
    let answer = client::read_answer(&mut stream);
    assert_eq!((answer.status, answer.body.len()), (200, body.len()));
    // Both ways together: 320 KiB, of which 64 KiB are let through at once.
    assert!(began.elapsed() > Duration::from_secs(3), "{:?}", began.elapsed());
}
