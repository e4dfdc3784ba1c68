//! Holding us open: each way of it ends by a named limit, and leaves nothing behind.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::dns_server::SilentDns;
use super::injection::{behind_parent, hello};
use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::{Egret, Folder, client, eventually};
use crate::wire::{proxy, read_to_end, read_to_reset};

/// Open files of the proxy.
fn files(egret: &Egret) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", egret.pid())).unwrap().count()
}

fn metric(egret: &Egret, name: &str) -> String {
    let text = String::from_utf8(client::get_from(egret.admin(), "/metrics").body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned);
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// Runs an attack and waits until all of it is gone.
fn leaves_nothing(egret: &Egret, attack: impl FnOnce()) {
    metric(egret, "egret_connections_open"); // whatever is opened once, is open
    let before = files(egret);
    attack();
    eventually("no connection and no tunnel is open", || {
        metric(egret, "egret_connections_open") == "0" && metric(egret, "egret_tunnels_open") == "0"
    });
    eventually("open files are as before", || files(egret) <= before);
}

#[test]
fn the_first_bytes_of_a_hello_and_then_silence_end_by_the_time_of_a_hello() {
    let folder = Folder::with_settings("listeners: [{ name: proxy, protocol: sni, address: \"127.0.0.1:0\" }]\n");
    let egret = Egret::with_settings(&folder.settings());
    leaves_nothing(&egret, || {
        let whole = hello(b"a.test");
        let mut held: Vec<_> = [&b"\x16\x03\x01"[..], b"\x16\x03\x01\x40\x00", &whole[..whole.len() - 1], b""]
            .into_iter()
            .map(|begin| {
                let mut stream = client::dial(egret.proxy());
                stream.write_all(begin).unwrap();
                stream
            })
            .collect();
        let began = Instant::now();
        for stream in &mut held {
            let _ = stream.read_to_end(&mut Vec::new()); // closed or reset; a time-out would show below
        }
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    });
}

#[test]
fn connections_that_say_nothing_or_little_end_by_the_time_of_a_head() {
    let (egret, _folder) = proxy("limits: { headTime: 500ms }");
    leaves_nothing(&egret, || {
        let mut held: Vec<TcpStream> = (0..300)
            .map(|n| {
                let mut stream = client::dial(egret.proxy());
                stream.write_all(&b"GET http://a.test/ HTTP/1.1\r\nHost:"[..n % 30]).unwrap();
                stream
            })
            .collect();
        for stream in &mut held {
            let text = read_to_end(stream);
            assert!(text.is_empty() || text.starts_with("HTTP/1.1 408 "), "{text:?}");
        }
    });
}

#[test]
fn a_connection_that_waits_for_its_next_request_ends_by_the_time_between_two() {
    let (egret, _folder) = proxy("limits: { keepAliveIdle: 500ms, idlePool: 0 }");
    let origin = Origin::http(HELLO);
    leaves_nothing(&egret, || {
        let mut stream = client::dial(egret.proxy());
        assert_eq!(client::ask(&mut stream, "GET", &format!("http://{}/", origin.address)).status, 200);
        assert_eq!(read_to_end(&mut stream), "");
    });
}

#[test]
fn bodies_that_pause_end_by_their_own_time() {
    let (egret, _folder) = proxy("limits: { bodyIdle: 500ms }");
    let silent = Origin::new(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let pausing = Origin::new(|mut stream| {
        let _ = read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    leaves_nothing(&egret, || {
        for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
            let mut stream = client::dial(egret.proxy());
            write!(stream, "POST http://{o}/ HTTP/1.1\r\nHost: {o}\r\n{framing}\r\n\r\n5\r\nh", o = silent.address)
                .unwrap();
            let text = read_to_end(&mut stream);
            assert!(text.starts_with("HTTP/1.1 408 "), "{text:?}");
        }
        let mut stream = client::dial(egret.proxy());
        write!(stream, "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n", o = pausing.address).unwrap();
        read_to_reset(&mut stream);
    });
}

#[test]
fn a_parent_that_dribbles_its_answer_ends_by_the_connect_timeout() {
    let parent = Origin::new(|mut stream| {
        let _ = read_head(&mut stream);
        for byte in b"HTTP/1.1 200 OK\r\nA: ".iter().chain(std::iter::repeat(&b'x')) {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let (egret, folder) = behind_parent(&parent, "");
    let settings = std::fs::read_to_string(folder.settings()).unwrap();
    folder.write("egret.yaml", &settings.replace("mesh: {", "mesh: { connectTimeout: 600ms,"));
    let line = egret.reload();
    assert!(!line.contains("not reloaded"), "{line}");
    leaves_nothing(&egret, || {
        let (_, head) = client::connect(egret.proxy(), "far.example.org:443");
        assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
    });
}

#[test]
fn tunnels_and_switched_connections_that_are_silent_end_by_the_time_of_a_tunnel() {
    let (egret, _folder) = proxy("limits: { tunnelIdle: 500ms }");
    let silent = Origin::new(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let switching = Origin::new(|mut stream| {
        let _ = read_head(&mut stream);
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            .unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    leaves_nothing(&egret, || {
        let mut tunnel = client::tunnel(egret.proxy(), silent.address);
        let mut socket = client::dial(egret.proxy());
        write!(
            socket,
            "GET ws://{o}/ HTTP/1.1\r\nHost: {o}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            o = switching.address
        )
        .unwrap();
        assert!(read_head(&mut socket).unwrap().starts_with("HTTP/1.1 101 "));
        assert_eq!(read_to_end(&mut socket), "");
        assert_eq!(read_to_end(&mut tunnel), "");
    });
    for asked in ["CONNECT", "GET"] {
        let line = egret.stdout.wait_for(asked);
        assert!(line.contains(" SI "), "{line}");
    }
}

#[test]
fn clients_that_leave_in_every_stage_leave_nothing() {
    let (egret, _folder) = proxy("limits: { idlePool: 0 }");
    let echo = Origin::echo();
    let silent = Origin::new(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    leaves_nothing(&egret, || {
        for n in 0..200 {
            let mut stream = client::dial(egret.proxy());
            let (o, s) = (echo.address, silent.address);
            match n % 5 {
                0 => stream.write_all(b"CONNECT ").unwrap(),
                1 => write!(stream, "CONNECT {o} HTTP/1.1\r\nHost: {o}\r\n\r\nx").unwrap(),
                2 => drop(client::tunnel(egret.proxy(), o)),
                3 => write!(stream, "GET http://{s}/ HTTP/1.1\r\nHost: {s}\r\n\r\n").unwrap(),
                _ => write!(stream, "POST http://{s}/ HTTP/1.1\r\nHost: {s}\r\nContent-Length: 9\r\n\r\nx").unwrap(),
            }
            if n % 2 == 0 {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(); // a reset
            }
        }
    });
}

#[test]
fn a_dial_whose_client_is_gone_is_cancelled() {
    // Without an answer of DNS a dial lasts 20 s.
    let dns = SilentDns::new();
    let (egret, _folder) = proxy(&format!("dns: {{ servers: [\"{}\"], hosts: null, timeout: 30s }}", dns.address()));
    for request in [
        "CONNECT n{n}.example.org:443 HTTP/1.1\r\nHost: n{n}.example.org:443\r\n\r\n",
        "CONNECT n{n}.example.org:443 HTTP/1.1\r\nHost: n{n}.example.org:443\r\n\r\nwith early bytes",
        "GET http://n{n}.example.org/ HTTP/1.1\r\nHost: n{n}.example.org\r\n\r\n",
        "POST http://n{n}.example.org/ HTTP/1.1\r\nHost: n{n}.example.org\r\nContent-Length: 9\r\n\r\nwith",
    ] {
        leaves_nothing(&egret, || {
            let began = Instant::now();
            for n in 0..20 {
                let mut stream = client::dial(egret.proxy());
                stream.write_all(request.replace("{n}", &n.to_string()).as_bytes()).unwrap();
                dns.wait_for_query(); // the dial is under way
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(); // a reset
            }
            eventually("no connection is open", || metric(&egret, "egret_connections_open") == "0");
            assert!(began.elapsed() < Duration::from_secs(15), "{request:?}: {:?}", began.elapsed());
        });
    }
}

#[test]
fn a_client_that_asks_on_and_reads_nothing_ends_by_the_time_of_a_body() {
    let (egret, _folder) = proxy("limits: { bodyIdle: 1s }");
    leaves_nothing(&egret, || {
        let mut stream = client::dial(egret.proxy());
        stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let refused = b"GET http://10.0.0.1/ HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n".repeat(100);
        while stream.write_all(&refused).is_ok() {}
        eventually("the proxy lets go", || metric(&egret, "egret_connections_open") == "0");
        drop(stream);
    });
}

#[test]
fn a_client_has_its_share_of_connections_and_tunnels() {
    let (egret, _folder) = proxy("limits: { connectionsPerClient: 4, tunnelsPerClient: 2 }");
    let origin = Origin::echo();
    let tunnels: Vec<_> = (0..2).map(|_| client::tunnel(egret.proxy(), origin.address)).collect();
    let (third, head) = client::connect(egret.proxy(), origin.address);
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nRetry-After: "), "{head}");
    drop(third);
    eventually("it is gone", || metric(&egret, "egret_connections_open") == "2");
    let _idle: Vec<_> = (0..2).map(|_| client::dial(egret.proxy())).collect();
    eventually("they are in", || metric(&egret, "egret_connections_open") == "4");
    let mut fifth = client::dial(egret.proxy());
    assert!(client::ends(&mut fifth), "closed without an answer");
    drop(tunnels);
    eventually("there is room again", || metric(&egret, "egret_connections_open") == "2");
    client::tunnel(egret.proxy(), origin.address);
}
