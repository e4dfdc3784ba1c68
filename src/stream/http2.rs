//! One stream of an HTTP/2 connection as a stream of bytes: what CONNECT (RFC 9113 §8.5) and a websocket (RFC 8441) become, a client's
//! and ours.
//!
//! FIN is END_STREAM, a reset is RST_STREAM with CONNECT_ERROR, both ways. Flow control is end to end: capacity is given back to the
//! client only when the reader comes again, that is when the other side has taken what was read before. [`Window`] is what all streams
//! of a connection share.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{FlowControl, Reason, RecvStream, SendStream, StreamId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Both halves of one stream. Dropping it before [`Http2Stream::finish`] resets the stream.
pub struct Http2Stream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// The rest of a DATA frame.
    held: Bytes,
    /// Bytes that the reader got and whose capacity the client does not have back yet.
    taken: usize,
    sent_end: bool,
    /// Of the window of a client's connection.
    share: Option<WindowShare>,
    /// What the connection of an upstream counts the stream by.
    _hold: Option<Hold>,
}

/// Kept to the end of a stream, and not looked at.
pub type Hold = Box<dyn Any + Send + Sync>;

/// What is handed over to the connection at once, at most: as much as it queues for one stream.
pub const SEND_BYTES_MAX: usize = 64 * 1024;

impl Http2Stream {
    /// Of a request whose answer has been begun; `share` is that of its body.
    pub fn new(send: SendStream<Bytes>, recv: RecvStream, share: WindowShare) -> Self {
        Self { send, recv, held: Bytes::new(), taken: 0, sent_end: false, share: Some(share), _hold: None }
    }

    /// Of a request of ours that was answered by 2xx; `hold` is kept until the stream is over.
    pub fn outgoing(send: SendStream<Bytes>, recv: RecvStream, hold: Hold) -> Self {
        Self { send, recv, held: Bytes::new(), taken: 0, sent_end: false, share: None, _hold: Some(hold) }
    }

    /// The window that all streams of a client's connection share.
    pub(super) fn window(&self) -> Option<&Arc<Window>> {
        self.share.as_ref().map(WindowShare::window)
    }

    /// Sends END_STREAM, behind everything that was written.
    pub(super) fn finish(&mut self) {
        if !std::mem::replace(&mut self.sent_end, true) {
            let _ = self.send.send_data(Bytes::new(), true); // fails only on a stream that is gone already
        }
    }

    /// Sends RST_STREAM.
    pub(super) fn abort(&mut self) {
        self.sent_end = true;
        self.send.send_reset(Reason::CONNECT_ERROR);
    }

    /// Ready once the client has reset the stream, or its connection is gone.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send.poll_reset(cx).map(drop)
    }

    /// Ready once something can be read, be it the end or an error.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.held.is_empty() {
            match ready!(self.poll_frame(cx)) {
                Ok(Some(data)) => self.held = data,
                Ok(None) | Err(_) => break, // still there when it is read
            }
        }
        Poll::Ready(())
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if let Some(data) = ready!(self.recv.poll_data(cx)) {
            return Poll::Ready(data.map(Some).map_err(broken));
        }
        match ready!(self.recv.poll_trailers(cx)).map_err(broken)? {
            // A tunnel has none (RFC 9113 §8.5). They come out once: only the reset is still there the next time.
            Some(_) => {
                self.sent_end = true;
                self.send.send_reset(Reason::PROTOCOL_ERROR);
                Poll::Ready(Err(io::ErrorKind::InvalidData.into()))
            }
            None => Poll::Ready(Ok(None)),
        }
    }
}

impl AsyncRead for Http2Stream {
    /// Fills `buf` from as many frames as have arrived: their size is the client's choice, that of a write upstream is not.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let taken = std::mem::take(&mut this.taken);
        if taken > 0 {
            let _ = this.recv.flow_control().release_capacity(taken); // never more than was received
        }
        let before = buf.filled().len();
        while buf.remaining() > 0 {
            if this.held.is_empty() {
                match this.poll_frame(cx) {
                    Poll::Ready(Ok(Some(data))) => this.held = data,
                    // What was read so far comes first; the end, or the error, is still there the next time.
                    Poll::Ready(Ok(None)) => break,
                    Poll::Ready(Err(_)) if buf.filled().len() > before => break,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending if buf.filled().len() > before => break,
                    Poll::Pending => return Poll::Pending,
                }
            }
            let len = this.held.len().min(buf.remaining());
            buf.put_slice(&this.held[..len]);
            this.held.advance(len);
        }
        this.taken = buf.filled().len() - before;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http2Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(poll_capacity(&mut self.send, cx, buf.len()))?;
        let len = room.min(buf.len());
        self.send.send_data(Bytes::copy_from_slice(&buf[..len]), false).map_err(broken)?;
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // the connection's task writes what it was handed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        if !self.sent_end {
            self.abort();
        }
    }
}

impl fmt::Debug for Http2Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2Stream").field("id", &self.send.stream_id()).finish_non_exhaustive()
    }
}

/// The window of a connection for what its client sends, whatever the stream: it closes when streams whose upstreams are slow hold all
/// of it, and then the other streams cannot go on although they would.
#[derive(Debug)]
pub struct Window {
    bytes: usize,
    streams: Mutex<HashMap<StreamId, FlowControl>>,
}

const KEPT_STREAMS_MAX: usize = 16;

/// Clients may wait until there is room for a whole frame.
const CLOSED_BELOW_BYTES: usize = 32 * 1024;

impl Window {
    /// For a connection whose window is so large.
    pub fn new(bytes: usize) -> Self {
        Self { bytes, streams: Mutex::default() }
    }

    /// Counts a stream in until the share is dropped.
    pub fn share(self: &Arc<Self>, recv: &mut RecvStream) -> WindowShare {
        let stream = recv.stream_id();
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(stream, recv.flow_control().clone());
        WindowShare { window: self.clone(), stream }
    }

    /// Whether the client may have to wait for capacity that its streams hold here. Looks at each of them.
    ///
    /// h2 tells the client of what is released once that is half of what the client has left, so of what is free up to a third may be
    /// unknown to it: the window can be closed when two thirds are held, and is when all of it is.
    pub fn may_be_closed(&self) -> bool {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let held: usize = streams.values().map(FlowControl::used_capacity).sum();
        held + CLOSED_BELOW_BYTES > self.bytes / 3 * 2
    }
}

/// One stream's part in the [`Window`] of its connection.
#[derive(Debug)]
pub struct WindowShare {
    window: Arc<Window>,
    stream: StreamId,
}

impl WindowShare {
    /// What it is a part of.
    pub fn window(&self) -> &Arc<Window> {
        &self.window
    }
}

impl Drop for WindowShare {
    fn drop(&mut self) {
        let mut streams = self.window.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.remove(&self.stream);
        // A client that asks one after the other needs no new table each time, and one that asked a hundred at once leaves none behind.
        if streams.is_empty() && streams.capacity() > KEPT_STREAMS_MAX {
            streams.shrink_to_fit();
        }
    }
}

/// Waits until the client's windows and our queue have room; gives how much of `wanted`, at least 1.
///
/// # Errors
/// `ConnectionReset` if the client has reset the stream, or is gone.
pub fn poll_capacity(send: &mut SendStream<Bytes>, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
    send.reserve_capacity(wanted.min(SEND_BYTES_MAX));
    loop {
        match send.capacity() {
            0 => match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            },
            room => return Poll::Ready(Ok(room)),
        }
    }
}

/// An error of the stream or its connection as one of bytes.
pub fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
