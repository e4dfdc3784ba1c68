//! Many flows at once: an origin and clients that cost a task each, not a thread.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::PATIENCE;

/// A runtime for a test that holds thousands of sockets; the usual soft limit of 1024 descriptors would end it.
pub(crate) fn runtime() -> Runtime {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// An origin that does what the first byte of a connection asks for: [`ECHO`], [`RESET`] or [`HALF_CLOSE`]; or, if that is a capital
/// letter, what the method of the HTTP request does: `LARGE` and `CUT` announce [`LARGE_BYTES`], of which `CUT` sends a few, `WAIT` is
/// never answered, `NONSENSE` not in HTTP, all else with a greeting.
pub(crate) async fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(obey(stream));
        }
    });
    address
}

/// Sends back everything, this byte too.
pub(crate) const ECHO: u8 = b'e';
/// Resets the connection.
pub(crate) const RESET: u8 = b'r';
/// Says [`BYE`] and closes its side, then waits for the client's end.
pub(crate) const HALF_CLOSE: u8 = b'h';
/// What is said before a half-close.
pub(crate) const BYE: &[u8] = b"bye";

/// The length of a large answer.
pub(crate) const LARGE_BYTES: usize = 1_000_000;

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    loop {
        let head = head(&mut stream).await;
        let large = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE_BYTES}\r\n\r\n");
        match head.split(' ').next() {
            Some("LARGE") => {
                stream.write_all(large.as_bytes()).await?;
                stream.write_all(&[b'x'; LARGE_BYTES]).await?;
            }
            Some("CUT") => {
                stream.write_all(large.as_bytes()).await?;
                return stream.write_all(&[b'x'; 1000]).await;
            }
            Some("NONSENSE") => return stream.write_all(b"220 smtp.example ESMTP\r\n").await,
            Some("WAIT") => return stream.read_u8().await.map(drop),
            Some("POST") => return tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop),
            _ => stream.write_all(super::origin::HELLO).await?,
        }
    }
}

async fn obey(mut stream: TcpStream) -> io::Result<()> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase() {
        return answer(stream).await;
    }
    let first = stream.read_u8().await?;
    let (mut reader, mut writer) = stream.split();
    match first {
        ECHO => {
            writer.write_all(&[ECHO]).await?;
            tokio::io::copy(&mut reader, &mut writer).await?;
            writer.shutdown().await
        }
        HALF_CLOSE => {
            writer.write_all(BYE).await?;
            writer.shutdown().await?;
            tokio::io::copy(&mut reader, &mut tokio::io::sink()).await.map(drop)
        }
        _ => {
            reset(&stream);
            Ok(())
        }
    }
}

/// Makes the close of this socket a reset.
pub(crate) fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Asks for a tunnel under a request id; gives the stream and the status.
pub(crate) async fn connect(proxy: SocketAddr, target: &str, id: &str) -> (TcpStream, u16) {
    let asking = async {
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        ask_connect(&mut stream, target, id).await;
        let head = head(&mut stream).await;
        (stream, status(&head))
    };
    within(asking).await
}

/// Writes the head of a CONNECT.
pub(crate) async fn ask_connect(stream: &mut TcpStream, target: &str, id: &str) {
    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nX-Request-Id: {id}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
}

/// The status in an answer's head.
pub(crate) fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no answer: {head:?}"))
}

/// Reads up to and including an empty line; nothing after it is taken from the stream.
pub(crate) async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    String::from_utf8(head).unwrap()
}

/// Sends bytes through and expects them back.
pub(crate) async fn echoes(stream: &mut TcpStream, bytes: &[u8]) {
    let mut back = vec![0; bytes.len()];
    let exchange = async {
        stream.write_all(bytes).await?;
        stream.read_exact(&mut back).await
    };
    within(exchange).await.unwrap();
    assert_eq!(back, bytes);
}

/// Waits for something, but not for ever.
///
/// # Panics
/// When it does not come within [`PATIENCE`].
pub(crate) async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("in time")
}
