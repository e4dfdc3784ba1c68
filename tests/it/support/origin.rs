//! Origins on loopback, each connection a thread.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A server that runs until the test process ends.
pub(crate) struct Origin {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Origin {
    /// Hands each connection to `serve`.
    pub(crate) fn new(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0", serve)
    }

    /// The same at an address that is the test's.
    pub(crate) fn at(address: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let serve = serve.clone();
                std::thread::spawn(move || serve(stream));
            }
        });
        Self { address, requests: Arc::default() }
    }

    /// Sends back what it gets; closes when the client does.
    pub(crate) fn echo() -> Self {
        Self::new(|mut stream| {
            let mut reader = stream.try_clone().unwrap();
            let _ = std::io::copy(&mut reader, &mut stream);
            let _ = stream.shutdown(Shutdown::Write);
        })
    }

    /// Answers each request of a connection with `answer`, the bytes of a whole response; keeps the heads for [`Origin::requests`].
    /// Requests with a body are not its thing.
    pub(crate) fn http(answer: &'static [u8]) -> Self {
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = requests.clone();
        let origin = Self::new(move |mut stream| {
            while let Some(head) = read_head(&mut stream) {
                seen.lock().unwrap().push(head);
                if stream.write_all(answer).is_err() {
                    return;
                }
            }
        });
        Self { requests, ..origin }
    }

    /// Sends bodies back: each request is answered with its own body, whatever its framing. HEAD gets the head alone.
    pub(crate) fn mirror() -> Self {
        Self::mirror_over(|stream| stream)
    }

    /// The same behind TLS.
    pub(crate) fn mirror_tls(config: Arc<ServerConfig>) -> Self {
        Self::mirror_over(move |stream| {
            StreamOwned::new(ServerConnection::new(config.clone()).expect("a configuration of ours"), stream)
        })
    }

    fn mirror_over<S: Read + Write>(wrap: impl Fn(TcpStream) -> S + Send + Sync + 'static) -> Self {
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = requests.clone();
        let origin = Self::new(move |stream| {
            let mut stream = wrap(stream);
            while let Some(head) = read_head(&mut stream) {
                seen.lock().unwrap().push(head.clone());
                if mirror(&head, &mut stream).is_none() {
                    return;
                }
            }
        });
        Self { requests, ..origin }
    }

    /// The heads of the requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// An answer that allows keep-alive.
pub(crate) const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// Reads up to and including an empty line; `None` at the end of the stream.
pub(crate) fn read_head(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
        if head == b"\r\n" {
            head.clear(); // empty lines before a request are none of it (RFC 9112 §2.2)
        }
    }
    String::from_utf8(head).ok()
}

/// The value of a field of a head.
pub(crate) fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, v)| v.trim())
}

fn mirror(head: &str, stream: &mut (impl Read + Write)) -> Option<()> {
    if field(head, "expect").is_some() {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let body = match field(head, "transfer-encoding") {
        Some(_) => read_chunked(stream)?,
        None => read_bytes(stream, field(head, "content-length").map_or(0, |length| length.parse().unwrap()))?,
    };
    let shown = if head.starts_with("HEAD ") { &[][..] } else { &body };
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nServer: mirror\r\n\r\n", body.len());
    stream.write_all(&[answer.as_bytes(), shown].concat()).ok()
}

fn read_bytes(stream: &mut impl Read, count: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).ok().map(|()| bytes)
}

fn read_chunked(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(read_bytes(stream, 1)?);
        }
        let size = usize::from_str_radix(std::str::from_utf8(&line).ok()?.trim(), 16).ok()?;
        body.extend(read_bytes(stream, size)?);
        read_bytes(stream, 2)?;
        if size == 0 {
            return Some(body);
        }
    }
}
