//! The origin: the servers that the measured proxies reach.
//!
//! It runs in the load generator's thread. It knows its requests by heart: a head is what ends in an empty line, and the path
//! says what to do. `/` is a small answer, `/bulk/N` is N bytes, `/echo` sends back whatever follows.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Where the origin listens. The servers run as local tasks until the runtime ends.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// Plain HTTP/1.1, and `/bulk/` and `/echo` for tunnels, on several addresses. A proxy that closes first keeps its port
    /// in TIME_WAIT per target, and a connect that has to search for a free one would be paid by who is measured.
    pub(crate) plain: Vec<SocketAddr>,
    /// The same over TLS, as `origin.test`.
    pub(crate) tls: SocketAddr,
    /// Reads a ClientHello, answers with an alert, closes: the least that a TLS server says.
    pub(crate) hello: SocketAddr,
}

impl Origin {
    /// Binds all three on loopback. Must run inside a `LocalSet`.
    pub(crate) fn start(tls: rustls::ServerConfig) -> std::io::Result<Self> {
        let (tls_listener, hello) = (listen(1)?, listen(1)?);
        let mut addresses = Self { plain: Vec::new(), tls: tls_listener.local_addr()?, hello: hello.local_addr()? };
        let bulk: Rc<[u8]> = vec![b'x'; BULK_WRITE_BYTES].into();

        for last in 1..=PLAIN_ADDRESSES {
            let plain = listen(last)?;
            addresses.plain.push(plain.local_addr()?);
            let body = Rc::clone(&bulk);
            tokio::task::spawn_local(accept(plain, move |stream| {
                let body = Rc::clone(&body);
                async move { http(stream, &body).await }
            }));
        }
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        tokio::task::spawn_local(accept(tls_listener, move |stream| {
            let (acceptor, body) = (acceptor.clone(), Rc::clone(&bulk));
            async move { http(acceptor.accept(stream).await?, &body).await }
        }));
        tokio::task::spawn_local(accept(hello, alert));
        Ok(addresses)
    }
}

fn listen(last: u8) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_nodelay(true)?; // accepted sockets inherit it
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0)))?;
    socket.listen(4096)
}

async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = std::io::Result<()>> + 'static,
{
    loop {
        match listener.accept().await {
            // What goes wrong on a connection shows on the generator's side, where it is counted.
            Ok((stream, _)) => drop(tokio::task::spawn_local(serve(stream))),
            // Out of descriptors: the generator reports what it could not open.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn http(mut stream: impl AsyncRead + AsyncWrite + Unpin, bulk: &[u8]) -> std::io::Result<()> {
    // Small on purpose: thousands of idle tunnels end here.
    let mut buffer = Vec::with_capacity(512);
    loop {
        let end = loop {
            if let Some(end) = head_end(&buffer) {
                break end;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let path = path(&buffer[..end]);
        if let Some(bytes) = path.strip_prefix("/bulk/").and_then(|bytes| bytes.parse::<u64>().ok()) {
            stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n").as_bytes()).await?;
            let mut left = bytes;
            while left > 0 {
                let count = left.min(bulk.len() as u64);
                stream.write_all(&bulk[..count as usize]).await?;
                left -= count;
            }
        } else if path == "/echo" {
            stream.write_all(ECHO_ANSWER).await?;
            return echo(stream).await;
        } else {
            stream.write_all(SMALL_ANSWER).await?;
            // TLS may hold the record back until it is flushed.
            stream.flush().await?;
        }
        buffer.drain(..end);
    }
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read]).await?;
    }
}

async fn alert(mut stream: TcpStream) -> std::io::Result<()> {
    let mut hello = Vec::with_capacity(2048);
    loop {
        if stream.read_buf(&mut hello).await? == 0 {
            return Ok(());
        }
        // A record: type, two bytes of version, two of length.
        if let [_, _, _, high, low, rest @ ..] = hello.as_slice()
            && rest.len() >= usize::from(u16::from_be_bytes([*high, *low]))
        {
            return stream.write_all(ALERT).await;
        }
    }
}

/// Where the first head in `bytes` ends, past its empty line.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The path of origin-form and absolute-form alike.
fn path(head: &[u8]) -> &str {
    let target =
        head.split(|byte| *byte == b' ').nth(1).and_then(|target| std::str::from_utf8(target).ok()).unwrap_or("/");
    match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => target,
    }
}

const SMALL_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 14\r\n\r\nhello, egress\n";
const ECHO_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
const PLAIN_ADDRESSES: u8 = 32;
const BULK_WRITE_BYTES: usize = 256 * 1024;
/// handshake_failure, fatal (RFC 8446 §6): what a client sees of a server that does not like its hello.
pub(crate) const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 40];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_found_in_both_forms() {
        assert_eq!(path(b"GET /bulk/7 HTTP/1.1\r\n\r\n"), "/bulk/7");
        assert_eq!(path(b"GET http://origin.test/bulk/7 HTTP/1.1\r\n\r\n"), "/bulk/7");
        assert_eq!(path(b"GET http://origin.test HTTP/1.1\r\n\r\n"), "/");
    }

    #[test]
    fn a_head_ends_after_its_empty_line() {
        assert_eq!(head_end(b"GET / HTTP/1.1\r\n\r"), None);
        assert_eq!(head_end(b"GET / HTTP/1.1\r\n\r\nmore"), Some(18));
    }
}
