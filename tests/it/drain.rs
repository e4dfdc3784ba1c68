//! The orderly end.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::origin::{HELLO, Origin};
use crate::support::{Egret, Folder, client, eventually};

/// A proxy that may reach loopback and drains for so long.
fn draining_for(drain: &str) -> (Egret, Folder) {
    let folder = Folder::with_settings(&format!(
        "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}]\naddresses: {{ allow: [127.0.0.0/8] }}\ndrain: {drain}\n"
    ));
    (Egret::with_settings(&folder.settings()), folder)
}

#[test]
fn a_proxy_without_flows_ends_at_once() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let (mut egret, _folder) = draining_for("1h");
        egret.signal(signal);
        assert_eq!(egret.wait().code(), Some(0), "{signal:?}");
    }
}

#[test]
fn listeners_close_at_once_and_a_busy_tunnel_goes_on() {
    let origin = Origin::echo();
    let (mut egret, _folder) = draining_for("1h");
    let mut tunnel = client::tunnel(egret.proxy(), origin.address);
    egret.signal(Signal::TERM);
    egret.stderr.wait_for("draining");
    eventually("the listener is closed", || TcpStream::connect(egret.proxy()).is_err());
    assert!(client::echoes(&mut tunnel, b"still here"));
    drop(tunnel);
    assert_eq!(egret.wait().code(), Some(0));
    let line = egret.stderr.wait_for("drained");
    assert!(line.contains("cut_idle=0 cut_busy=0"), "{line}");
}

#[test]
fn idle_tunnels_go_long_before_the_deadline() {
    let origin = Origin::echo();
    let (mut egret, _folder) = draining_for("6s");
    let mut idle = client::tunnel(egret.proxy(), origin.address);
    let started = Instant::now();
    egret.signal(Signal::TERM);
    assert!(client::ends(&mut idle));
    assert_eq!(egret.wait().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let line = egret.stderr.wait_for("drained");
    assert!(line.contains("cut_idle=1 cut_busy=0"), "{line}");
}

#[test]
fn busy_tunnels_are_cut_at_the_deadline_counted_and_logged() {
    let origin = Origin::echo();
    let (mut egret, _folder) = draining_for("1s");
    let mut busy = client::tunnel(egret.proxy(), origin.address);
    let started = Instant::now();
    egret.signal(Signal::TERM);
    while client::echoes(&mut busy, b"busy") {}
    assert!(started.elapsed() >= Duration::from_secs(1), "cut after {:?}", started.elapsed());
    assert_eq!(egret.wait().code(), Some(0));
    let line = egret.stderr.wait_for("drained");
    assert!(line.contains("cut_busy=1"), "{line}");
    let lines = egret.stdout.all();
    assert!(lines.len() == 1 && lines[0].contains("CONNECT"), "{lines:?}");
}

#[test]
fn a_second_signal_ends_at_once_with_1_and_the_line_is_written() {
    let origin = Origin::echo();
    let (mut egret, _folder) = draining_for("1h");
    let mut tunnel = client::tunnel(egret.proxy(), origin.address);
    egret.signal(Signal::TERM);
    egret.stderr.wait_for("draining");
    egret.signal(Signal::INT);
    assert!(client::ends(&mut tunnel));
    assert_eq!(egret.wait().code(), Some(1));
    let lines = egret.stdout.all();
    assert!(lines.len() == 1 && lines[0].contains("CONNECT"), "{lines:?}");
}

#[test]
fn sigquit_waits_without_a_deadline() {
    let origin = Origin::echo();
    let (mut egret, _folder) = draining_for("0s");
    let mut tunnel = client::tunnel(egret.proxy(), origin.address);
    egret.signal(Signal::QUIT);
    egret.stderr.wait_for("draining");
    // Many times what a drain of 0 s would give it.
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        assert!(client::echoes(&mut tunnel, b"x"));
    }
    assert!(egret.is_running());
    drop(tunnel);
    assert_eq!(egret.wait().code(), Some(0));
}

#[test]
fn a_keep_alive_connection_is_closed_after_the_answer_that_runs() {
    let origin = Origin::http(HELLO);
    let (mut egret, _folder) = draining_for("1h");
    let url = format!("http://{}/", origin.address);
    let mut stream = client::dial(egret.proxy());
    assert_eq!(client::ask(&mut stream, "GET", &url).status, 200);
    egret.signal(Signal::TERM);
    assert!(client::ends(&mut stream), "an idle connection of a client is not waited for");
    assert_eq!(egret.wait().code(), Some(0));
}

#[test]
fn a_client_that_sends_half_a_head_does_not_hold_the_end_up() {
    let (mut egret, _folder) = draining_for("1s");
    let mut stream = client::dial(egret.proxy());
    stream.write_all(b"GET http://h/ HTT").unwrap();
    egret.signal(Signal::TERM);
    assert_eq!(egret.wait().code(), Some(0));
}
