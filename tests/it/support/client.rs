//! A client on a plain socket: nothing is retried, nothing repaired.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;
use super::origin::read_head;

/// What a proxy answered.
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The whole head.
    pub(crate) head: String,
    /// The body, as long as Content-Length says, or to the end.
    pub(crate) body: Vec<u8>,
}

/// Connects; reads give up after [`PATIENCE`].
pub(crate) fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends exactly this.
pub(crate) fn send(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
}

/// Asks for a tunnel; gives the stream and the answer's head.
pub(crate) fn connect(proxy: SocketAddr, target: impl std::fmt::Display) -> (TcpStream, String) {
    let mut stream = dial(proxy);
    write!(stream, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").unwrap();
    let head = read_head(&mut stream).expect("an answer");
    (stream, head)
}

/// An open tunnel.
pub(crate) fn tunnel(proxy: SocketAddr, target: impl std::fmt::Display) -> TcpStream {
    let (stream, head) = connect(proxy, target);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    stream
}

/// A GET of a URL on a connection of its own.
pub(crate) fn get(proxy: SocketAddr, url: &str) -> Answer {
    ask(&mut dial(proxy), "GET", url)
}

/// A request on an open connection to a proxy.
pub(crate) fn ask(stream: &mut TcpStream, method: &str, url: &str) -> Answer {
    let host = url.split('/').nth(2).unwrap();
    write!(stream, "{method} {url} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    read_answer(stream)
}

/// A request in origin-form: to a server, such as the admin port.
pub(crate) fn get_from(server: SocketAddr, path: &str) -> Answer {
    let mut stream = dial(server);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {server}\r\n\r\n").unwrap();
    read_answer(&mut stream)
}

/// Reads one answer.
pub(crate) fn read_answer(stream: &mut TcpStream) -> Answer {
    let head = read_head(stream).expect("an answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<u64>().unwrap())
    });
    let mut body = Vec::new();
    stream.take(length.unwrap_or(u64::MAX)).read_to_end(&mut body).unwrap();
    Answer { status, head, body }
}

/// Sends bytes through and expects them back.
pub(crate) fn echoes(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    let mut back = vec![0; bytes.len()];
    stream.write_all(bytes).is_ok() && stream.read_exact(&mut back).is_ok() && back == bytes
}

/// Waits for the other side to close; true if it did so in order or by a reset, false if bytes came.
pub(crate) fn ends(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}
