//! The floor is a proxy too: what it does not do right would make the comparison unfair.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

struct Relay {
    child: Child,
    address: SocketAddr,
}

impl Relay {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_load-tests"));
        let mut child =
            command.args(["relay", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().expect("the relay starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening ").and_then(|address| address.parse().ok());
        Self { child, address: address.unwrap_or_else(|| panic!("not an address: {line}")) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the relay accepts");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        stream
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a whole head");
        head.extend(byte);
    }
    String::from_utf8(head).expect("text")
}

#[test]
fn bytes_sent_with_the_head_and_both_ends_reach_the_other_side() {
    let (relay, origin) = (Relay::start(), TcpListener::bind("127.0.0.1:0").expect("bound"));
    let target = origin.local_addr().expect("an address");
    let mut client = relay.connect();
    client.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nearly").as_bytes()).expect("sent");
    client.shutdown(Shutdown::Write).expect("half closed");

    let (mut upstream, _) = origin.accept().expect("dialled");
    let mut received = String::new();
    upstream.read_to_string(&mut received).expect("read to the end");
    assert_eq!(received, "early");
    // The other direction is open still.
    upstream.write_all(b"late").expect("sent");
    drop(upstream);
    assert_eq!(read_head(&mut client), "HTTP/1.1 200 OK\r\n\r\n");
    let mut received = String::new();
    client.read_to_string(&mut received).expect("read to the end");
    assert_eq!(received, "late");
}

#[test]
fn a_head_may_come_byte_by_byte() {
    let (relay, origin) = (Relay::start(), TcpListener::bind("127.0.0.1:0").expect("bound"));
    let target = origin.local_addr().expect("an address");
    let mut client = relay.connect();
    client.set_nodelay(true).expect("set");
    for byte in format!("CONNECT {target} HTTP/1.1\r\n\r\n").bytes() {
        client.write_all(&[byte]).expect("sent");
    }
    assert_eq!(read_head(&mut client), "HTTP/1.1 200 OK\r\n\r\n");
}

#[test]
fn nothing_is_lost_while_the_client_does_not_read() {
    const BYTES: usize = 16 * 1024 * 1024;
    let (relay, origin) = (Relay::start(), TcpListener::bind("127.0.0.1:0").expect("bound"));
    let target = origin.local_addr().expect("an address");
    let mut client = relay.connect();
    client.write_all(format!("CONNECT {target} HTTP/1.1\r\n\r\n").as_bytes()).expect("sent");
    let (mut upstream, _) = origin.accept().expect("dialled");
    let sent: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
    let writer = std::thread::spawn({
        let sent = sent.clone();
        move || upstream.write_all(&sent).expect("sent")
    });
    assert_eq!(read_head(&mut client), "HTTP/1.1 200 OK\r\n\r\n");
    let mut received = Vec::new();
    client.read_to_end(&mut received).expect("read to the end");
    assert!(received == sent, "{} bytes of {BYTES}", received.len());
    writer.join().expect("the writer ends");
}

#[test]
fn what_is_not_a_connect_is_closed() {
    let relay = Relay::start();
    let mut client = relay.connect();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    let mut received = Vec::new();
    let _ = client.read_to_end(&mut received); // an end or a reset
    assert!(received.is_empty());
}
