//! A stream of bytes: plain TCP, Unix, TLS, a stream of HTTP/2, or a POST used as one, with a replay prefix for bytes that were read too early.
//!
//! The plain TCP socket stays visible ([`Stream::tcp`]), because the relay splices it and the tests look at it.

pub mod client_hello;
pub mod descriptors;
pub mod http2;
pub mod posted;
pub mod sniff;
pub mod unix_socket;

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use http2::{Http2Stream, Window};
use posted::Posted;

/// One side of a flow.
///
/// A TLS stream that ends without `close_notify` reads as `UnexpectedEof`: only the reader knows whether its message was complete
/// (RFC 8446 §6.1); an HTTP body with a length is, one delimited by the end of the connection is not.
#[derive(Debug)]
pub struct Stream {
    /// Boxed, because most streams have none, and an idle tunnel pays for two.
    prefix: Option<Box<Bytes>>,
    io: Io,
}

/// What carries the bytes. Boxed TLS state, so that an idle plain tunnel does not pay for it.
#[derive(Debug)]
enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
    TlsClient(Box<tokio_rustls::client::TlsStream<Stream>>),
    TlsServer(Box<tokio_rustls::server::TlsStream<Stream>>),
    Http2(Box<Http2Stream>),
    Posted(Box<Posted>),
}

/// What the other side of a quiet stream does first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It sends: what comes behind cannot be seen before that is read.
    Bytes,
    /// It sends no more. It may be gone, or wait for an answer: only a reset tells ([`Stream::reset`]).
    HalfClosed,
    /// It is gone.
    Reset,
}

impl Stream {
    /// Gives back bytes that were read already: they are read again before anything else.
    ///
    /// # Panics
    /// If an earlier prefix has not been read: only a bug of ours could put two layers of lookahead on one stream.
    #[must_use]
    pub fn with_prefix(mut self, prefix: Bytes) -> Self {
        assert!(self.prefix.is_none(), "two prefixes on one stream");
        // An empty slice would keep the buffer alive that it was cut from: kilobytes for each idle tunnel.
        self.prefix = (!prefix.is_empty()).then(|| Box::new(prefix));
        self
    }

    /// Takes the replay prefix out; what the stream reads next comes from the wire.
    pub fn take_prefix(&mut self) -> Bytes {
        self.prefix.take().map_or_else(Bytes::new, |prefix| *prefix)
    }

    /// Bytes waiting to be replayed.
    pub fn prefix(&self) -> &[u8] {
        self.prefix.as_deref().map_or(&[], |prefix| prefix)
    }

    /// The socket, where the stream is plain TCP. Bytes of the prefix are not in it.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match &self.io {
            Io::Tcp(tcp) => Some(tcp),
            Io::Unix(_) | Io::TlsClient(_) | Io::TlsServer(_) | Io::Http2(_) | Io::Posted(_) => None,
        }
    }

    /// The TCP socket at the bottom, under any layers of TLS; `None` on a Unix socket, and on a stream that shares its socket (HTTP/2).
    pub fn transport(&self) -> Option<&TcpStream> {
        match &self.io {
            Io::Tcp(tcp) => Some(tcp),
            Io::Unix(_) | Io::Http2(_) => None,
            Io::TlsClient(tls) => tls.get_ref().0.transport(),
            Io::TlsServer(tls) => tls.get_ref().0.transport(),
            Io::Posted(posted) => posted.inner().transport(),
        }
    }

    /// The address at the other end of the transport.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.transport().and_then(|tcp| tcp.peer_addr().ok())
    }

    /// Our end of the transport.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.transport().and_then(|tcp| tcp.local_addr().ok())
    }

    /// The descriptor at the bottom, under any layers of TLS; a stream that shares its socket (HTTP/2) has none.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.io {
            Io::Tcp(tcp) => Some(tcp.as_fd()),
            Io::Unix(unix) => Some(unix.as_fd()),
            Io::TlsClient(tls) => tls.get_ref().0.descriptor(),
            Io::TlsServer(tls) => tls.get_ref().0.descriptor(),
            Io::Posted(posted) => posted.inner().descriptor(),
            Io::Http2(_) => None,
        }
    }

    /// The same connection at another descriptor of it, before anything was read; this one is closed.
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    pub fn moved_to(self, descriptor: OwnedFd) -> io::Result<Self> {
        match self.io {
            Io::Tcp(tcp) => {
                drop(tcp);
                TcpStream::from_std(descriptor.into()).map(Self::from)
            }
            Io::Unix(unix) => {
                drop(unix);
                UnixStream::from_std(descriptor.into()).map(Self::from)
            }
            Io::TlsClient(_) | Io::TlsServer(_) | Io::Http2(_) | Io::Posted(_) => {
                Err(io::ErrorKind::Unsupported.into())
            }
        }
    }

    /// Waits until a read may bring something, without a buffer for it: at once where bytes were read already that the reader has not
    /// seen (a prefix, a TLS session's plaintext).
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn readable(&mut self) -> io::Result<()> {
        if let (None, Io::Http2(http2)) = (&self.prefix, &mut self.io) {
            poll_fn(|cx| http2.poll_readable(cx)).await;
            return Ok(());
        }
        let mut stream = &*self;
        loop {
            if stream.prefix.is_some() {
                return Ok(());
            }
            let (inner, holds_nothing) = match &stream.io {
                // One task reads: it is registered for less than any number of them would be.
                Io::Tcp(tcp) => return poll_fn(|cx| tcp.poll_read_ready(cx)).await,
                Io::Unix(unix) => return poll_fn(|cx| unix.poll_read_ready(cx)).await,
                Io::TlsClient(tls) => (tls.get_ref().0, tls.get_ref().1.wants_read()),
                Io::TlsServer(tls) => (tls.get_ref().0, tls.get_ref().1.wants_read()),
                Io::Posted(posted) => (posted.inner(), !posted.holds_bytes()),
                Io::Http2(_) => return Ok(()), // with a prefix, or inside of TLS, which is not done
            };
            if !holds_nothing {
                return Ok(());
            }
            stream = inner;
        }
    }

    /// What the other side shares with other streams of its connection, if that is one of HTTP/2.
    pub fn window(&self) -> Option<&Arc<Window>> {
        match &self.io {
            Io::Http2(http2) => http2.window(),
            _ => None,
        }
    }

    /// Ends when the other side resets the connection or the stream; bytes that wait, or a half-close, say nothing. Costs no system
    /// call.
    pub async fn reset(&mut self) {
        if let Io::Http2(http2) = &mut self.io {
            return poll_fn(|cx| http2.poll_reset(cx)).await;
        }
        let Some(tcp) = self.transport() else { return std::future::pending().await };
        // The kernel reports errors whether asked for or not. An error of this call means that the runtime is going down.
        let _ = tcp.ready(Interest::ERROR).await;
    }

    /// Ready with what a side that was quiet does first. No system call unless the socket is readable; under TLS nothing can be seen.
    pub fn poll_sign(&mut self, cx: &mut Context<'_>) -> Poll<Sign> {
        match &mut self.io {
            Io::Tcp(tcp) => {
                let mut byte = [0];
                tcp.poll_peek(cx, &mut ReadBuf::new(&mut byte)).map(|peeked| match peeked {
                    Ok(0) => Sign::HalfClosed,
                    Ok(_) => Sign::Bytes,
                    Err(_) => Sign::Reset,
                })
            }
            Io::Http2(http2) => http2.poll_reset(cx).map(|()| Sign::Reset),
            Io::Unix(_) | Io::TlsClient(_) | Io::TlsServer(_) | Io::Posted(_) => Poll::Pending,
        }
    }

    /// Ready once the other side has reset a stream of HTTP/2: it can do so after its END_STREAM, when nobody reads any more. Of
    /// sockets the next write tells.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.io {
            Io::Http2(http2) => http2.poll_reset(cx),
            _ => Poll::Pending,
        }
    }

    /// Makes the close that follows an orderly end, which it is on a socket anyway.
    pub fn finish(&mut self) {
        if let Io::Http2(http2) = &mut self.io {
            http2.finish();
        }
    }

    /// Makes the close that follows a reset, so that the other side does not take what it got for all.
    pub fn abort(&mut self) {
        if let Io::Http2(http2) = &mut self.io {
            http2.abort();
        } else if let Some(tcp) = self.transport() {
            let _ = tcp.set_zero_linger(); // fails only on a socket that is gone already
        }
    }

    /// True where bytes pass through a TLS session of ours.
    pub fn is_tls(&self) -> bool {
        matches!(self.io, Io::TlsClient(_) | Io::TlsServer(_))
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self { prefix: None, io: Io::Tcp(tcp) }
    }
}

impl From<UnixStream> for Stream {
    fn from(unix: UnixStream) -> Self {
        Self { prefix: None, io: Io::Unix(unix) }
    }
}

impl From<tokio_rustls::client::TlsStream<Stream>> for Stream {
    fn from(tls: tokio_rustls::client::TlsStream<Stream>) -> Self {
        Self { prefix: None, io: Io::TlsClient(Box::new(tls)) }
    }
}

impl From<tokio_rustls::server::TlsStream<Stream>> for Stream {
    fn from(tls: tokio_rustls::server::TlsStream<Stream>) -> Self {
        Self { prefix: None, io: Io::TlsServer(Box::new(tls)) }
    }
}

impl From<Http2Stream> for Stream {
    fn from(stream: Http2Stream) -> Self {
        Self { prefix: None, io: Io::Http2(Box::new(stream)) }
    }
}

impl From<Posted> for Stream {
    fn from(posted: Posted) -> Self {
        Self { prefix: None, io: Io::Posted(Box::new(posted)) }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(prefix) = &mut self.prefix {
            let n = prefix.len().min(buf.remaining());
            buf.put_slice(&prefix[..n]);
            prefix.advance(n);
            if prefix.is_empty() {
                self.prefix = None; // lets the buffer go
            }
            return Poll::Ready(Ok(()));
        }
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_read(cx, buf),
            Io::TlsClient(io) => Pin::new(io).poll_read(cx, buf),
            Io::TlsServer(io) => Pin::new(io).poll_read(cx, buf),
            Io::Http2(io) => Pin::new(io).poll_read(cx, buf),
            Io::Posted(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_write(cx, buf),
            Io::TlsClient(io) => Pin::new(io).poll_write(cx, buf),
            Io::TlsServer(io) => Pin::new(io).poll_write(cx, buf),
            Io::Http2(io) => Pin::new(io).poll_write(cx, buf),
            Io::Posted(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Unix(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::TlsClient(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::TlsServer(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Http2(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Posted(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(_) | Io::Unix(_) => Poll::Ready(Ok(())), // nothing of ours is between us and the kernel
            Io::TlsClient(io) => Pin::new(io).poll_flush(cx),
            Io::TlsServer(io) => Pin::new(io).poll_flush(cx),
            Io::Http2(io) => Pin::new(io).poll_flush(cx),
            Io::Posted(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Io::Unix(io) => Pin::new(io).poll_shutdown(cx),
            Io::TlsClient(io) => Pin::new(io).poll_shutdown(cx),
            Io::TlsServer(io) => Pin::new(io).poll_shutdown(cx),
            Io::Http2(io) => Pin::new(io).poll_shutdown(cx),
            Io::Posted(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::{Duration, timeout};

    use super::*;

    #[tokio::test]
    async fn a_reset_is_told_from_a_half_close_and_seen_behind_bytes_that_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut stream = Stream::from(listener.accept().await.unwrap().0);
        client.write_all(b"ab").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'a');
        stream.tcp().unwrap().ready(Interest::READABLE).await.unwrap();
        assert!(stream.reset().now_or_never().is_none());
        client.set_zero_linger().unwrap();
        drop(client);
        timeout(Duration::from_secs(10), stream.reset()).await.unwrap();
    }
}
