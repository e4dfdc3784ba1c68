//! A POST as a tunnel (Envoy's TCP over POST): what is written is the body of the request, in chunks, what is read the body of the
//! answer, however that is framed.
//!
//! The last chunk is the half-close of our side; the connection stays open behind it, or the answer would be lost with it. The
//! answer's end is the other side's. An answer that ends inside its framing reads as `UnexpectedEof`: it must not look complete.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stream;
use crate::http1::body::{Decoded, Decoder};
use crate::http1::{BodyLength, write};

/// The two bodies of one request, over the connection that carries them. Owns no buffer while nothing waits.
#[derive(Debug)]
pub struct Posted {
    inner: Stream,
    decoder: Decoder,
    /// Read and not decoded yet.
    encoded: BytesMut,
    /// Decoded, and not read yet.
    data: Bytes,
    /// Framed, and not written yet.
    out: BytesMut,
    sent_end: bool,
    received_end: bool,
}

/// Of one chunk; a writer that is not waited for holds no more than this.
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;
const READ_BYTES: usize = 16 * 1024; // on the stack

impl Posted {
    /// Behind the head of an answer whose body is framed so; what came with the head is the prefix of `inner`.
    pub fn new(inner: Stream, answer: BodyLength) -> Self {
        Self {
            inner,
            decoder: Decoder::new(answer),
            encoded: BytesMut::new(),
            data: Bytes::new(),
            out: BytesMut::new(),
            sent_end: false,
            received_end: false,
        }
    }

    /// The connection.
    pub(super) fn inner(&self) -> &Stream {
        &self.inner
    }

    /// True where a read needs nothing from the connection.
    pub(super) fn holds_bytes(&self) -> bool {
        !self.data.is_empty() || !self.encoded.is_empty() || self.received_end
    }

    /// Writes what is framed.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
        }
        self.out = BytesMut::new(); // an idle tunnel does not pay for it
        Poll::Ready(Ok(()))
    }

    /// Reads more of the answer's body; false at the end of the connection.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut bytes = [0; READ_BYTES];
        let mut read = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut read))?;
        self.encoded.extend_from_slice(read.filled());
        Poll::Ready(Ok(!read.filled().is_empty()))
    }
}

impl AsyncRead for Posted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.data.is_empty() {
                let n = this.data.len().min(buf.remaining());
                buf.put_slice(&this.data.split_to(n));
                if this.data.is_empty() {
                    this.data = Bytes::new(); // lets the buffer go
                }
                return Poll::Ready(Ok(()));
            }
            if this.received_end {
                return Poll::Ready(Ok(()));
            }
            let decoded = this.decoder.decode(&mut this.encoded);
            match decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
                Decoded::Data(data) => this.data = data,
                Decoded::End | Decoded::Trailers(_) => {
                    this.received_end = true;
                    this.encoded = BytesMut::new(); // what follows the answer is nobody's
                }
                Decoded::More => {
                    if this.encoded.is_empty() {
                        this.encoded = BytesMut::new();
                    }
                    if !ready!(this.poll_fill(cx))? {
                        this.decoder
                            .finish_at_eof()
                            .map_err(|error| io::Error::new(io::ErrorKind::UnexpectedEof, error))?;
                        this.received_end = true;
                    }
                }
            }
        }
    }
}

impl AsyncWrite for Posted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        if self.sent_end {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let data = &buf[..buf.len().min(CHUNK_BYTES_MAX)];
        if data.is_empty() {
            return Poll::Ready(Ok(0)); // a chunk of no bytes would be the last one
        }
        self.out.reserve(data.len() + 16);
        write::chunk_head(&mut self.out, data.len());
        self.out.extend_from_slice(data);
        self.out.extend_from_slice(b"\r\n");
        if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.sent_end, true) {
            let this = &mut *self;
            write::last_chunk(&mut this.out);
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair(answer: BodyLength) -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        theirs.set_nodelay(true).unwrap();
        (Posted::new(ours.into(), answer).into(), theirs)
    }

    #[tokio::test]
    async fn what_is_written_goes_out_in_chunks_and_a_shutdown_is_the_last_one() {
        let (mut stream, mut theirs) = pair(BodyLength::Chunked).await;
        stream.write_all(b"hello").await.unwrap();
        stream.write_all(b"").await.unwrap();
        stream.write_all(&[b'x'; 17]).await.unwrap();
        stream.flush().await.unwrap();
        stream.shutdown().await.unwrap();
        stream.shutdown().await.unwrap();
        let expected = format!("5\r\nhello\r\n11\r\n{}\r\n0\r\n\r\n", "x".repeat(17));
        let mut seen = vec![0; expected.len()];
        theirs.read_exact(&mut seen).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&seen), expected);
        assert_eq!(stream.write(b"late").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        // The answer still comes.
        theirs.write_all(b"3\r\nbye\r\n0\r\n\r\n").await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"bye");
    }

    #[tokio::test]
    async fn a_writer_that_is_not_taken_from_holds_one_chunk() {
        let (mut stream, mut theirs) = pair(BodyLength::Chunked).await;
        let big = vec![7; 8 * 1024 * 1024];
        let sending = tokio::spawn(async move {
            stream.write_all(&big).await.unwrap();
            stream.shutdown().await.unwrap();
            stream
        });
        let (mut encoded, mut decoder, mut total) = (BytesMut::new(), Decoder::new(BodyLength::Chunked), 0);
        loop {
            match decoder.decode(&mut encoded).unwrap() {
                Decoded::Data(data) => {
                    assert!(data.iter().all(|byte| *byte == 7));
                    total += data.len();
                }
                Decoded::More => assert_ne!(theirs.read_buf(&mut encoded).await.unwrap(), 0),
                Decoded::End | Decoded::Trailers(_) => break,
            }
        }
        assert_eq!(total, 8 * 1024 * 1024);
        drop(sending.await.unwrap());
    }

    #[tokio::test]
    async fn an_answer_is_read_in_every_framing_and_split_anywhere() {
        for (framing, bytes) in [
            (BodyLength::Chunked, &b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nT: v\r\n\r\n"[..]),
            (BodyLength::Length(5), b"hello"),
            (BodyLength::UntilClose, b"hello"),
        ] {
            let (mut stream, mut theirs) = pair(framing).await;
            for byte in bytes {
                theirs.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(theirs);
            let mut back = Vec::new();
            stream.read_to_end(&mut back).await.unwrap();
            assert_eq!(back, b"hello", "{framing:?}");
        }
        let (mut stream, _theirs) = pair(BodyLength::None).await;
        assert_eq!(stream.read(&mut [0; 4]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_breaks_off_or_is_malformed_is_no_end() {
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        for (framing, bytes, kind) in [
            (BodyLength::Chunked, &b"5\r\nhel"[..], UnexpectedEof),
            (BodyLength::Chunked, b"5\r\nhello\r\n", UnexpectedEof),
            (BodyLength::Chunked, b"5\r\nhello\r\n0\r\n", UnexpectedEof),
            (BodyLength::Length(6), b"hello", UnexpectedEof),
            (BodyLength::Chunked, b"hello", InvalidData),
            (BodyLength::Chunked, b"5\r\nhelloX", InvalidData),
            (BodyLength::Chunked, b"fffffffffffffffff\r\n", InvalidData),
        ] {
            let (mut stream, mut theirs) = pair(framing).await;
            theirs.write_all(bytes).await.unwrap();
            drop(theirs);
            let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{framing:?} {:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[tokio::test]
    async fn bytes_that_came_with_the_head_are_read_first() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let inner = Stream::from(ours).with_prefix(Bytes::from_static(b"4\r\nearl"));
        let mut stream = Stream::from(Posted::new(inner, BodyLength::Chunked));
        let (mut theirs, _) = listener.accept().await.unwrap();
        theirs.write_all(b"\r\n1\r\ny\r\n0\r\n\r\nGARBAGE").await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"early");
    }
}
