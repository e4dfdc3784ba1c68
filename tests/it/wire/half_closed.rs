//! Clients that end their side behind a request, and wait for the answer; and those that leave after that.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::{converse, proxy, read_to_end};
use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::{PATIENCE, client};

/// How long an origin looks whether the proxy gives it up: it would within microseconds.
const NOTICED: Duration = Duration::from_millis(300);

/// True while the proxy keeps the connection open.
fn is_waited_for(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(NOTICED)).unwrap();
    let read = stream.read(&mut [0]);
    matches!(&read, Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// An origin that answers after the proxy had time to give it up, if it does not.
fn slow() -> Origin {
    Origin::new(|mut stream| {
        while read_head(&mut stream).is_some() {
            if is_waited_for(&mut stream) {
                stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").unwrap();
            }
            if is_waited_for(&mut stream) {
                stream.write_all(HELLO).unwrap();
            }
            stream.set_read_timeout(None).unwrap();
        }
    })
}

#[test]
fn a_client_that_ends_its_side_behind_a_request_is_answered() {
    let (egret, _folder) = proxy("");
    let origin = slow();
    for request in ["GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n", "GET http://{o}/ HTTP/1.0\r\n\r\n"] {
        for count in 1..=2 {
            let mut stream = client::dial(egret.proxy());
            stream.write_all(request.replace("{o}", &origin.address.to_string()).repeat(count).as_bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let text = read_to_end(&mut stream);
            let answered = if request.contains("1.0") { 1 } else { count };
            assert_eq!(text.matches("\r\n\r\nhello").count(), answered, "{request:?} {count} times: {text}");
        }
    }
    let refused = converse(egret.proxy(), "GET http://10.0.0.1/ HTTP/1.0\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
}

#[test]
fn netcat_is_answered() {
    let (egret, _folder) = proxy("");
    let origin = slow();
    let [host, port] = [egret.proxy().ip().to_string(), egret.proxy().port().to_string()];
    let mut nc = Command::new("nc");
    nc.args(["-N", "-w", "20", &host, &port]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut nc = nc.spawn().unwrap();
    write!(nc.stdin.take().unwrap(), "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n", o = origin.address).unwrap();
    let output = nc.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("HTTP/1.1 200 OK\r\n") && text.ends_with("hello"), "{text:?}");
}

#[test]
fn a_client_that_ends_its_side_does_not_keep_an_origin_busy() {
    let (egret, _folder) = proxy("");
    let (tell, told) = mpsc::channel();
    let origin = Origin::new(move |mut stream| {
        let _ = read_head(&mut stream);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        tell.send(client::ends(&mut stream)).unwrap();
    });
    let mut stream = client::dial(egret.proxy());
    write!(stream, "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n", o = origin.address).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(told.recv_timeout(PATIENCE * 2).unwrap());
    assert!(client::ends(&mut stream), "it is not waited for any more, and sees it");
}

#[test]
fn a_client_that_leaves_by_a_reset_is_not_waited_for_half_closed_or_not() {
    let (egret, _folder) = proxy("");
    let (tell, told) = mpsc::channel();
    let origin = Origin::new(move |mut stream| {
        let _ = read_head(&mut stream);
        let kept = is_waited_for(&mut stream);
        tell.send(kept).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        tell.send(client::ends(&mut stream)).unwrap();
    });
    for half_closed in [false, true] {
        let mut stream = client::dial(egret.proxy());
        write!(stream, "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n", o = origin.address).unwrap();
        if half_closed {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        assert!(told.recv_timeout(PATIENCE).unwrap(), "half-closed: {half_closed}");
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        assert!(told.recv_timeout(PATIENCE * 2).unwrap(), "half-closed: {half_closed}");
    }
}
