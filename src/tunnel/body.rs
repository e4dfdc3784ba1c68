//! Copies one message body from the side that sends it to the side that takes it, in the framing of the latter.

use std::future::Future;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::patience::Patience;
use crate::account::{Pace, metrics};
use crate::flow::Limit;
use crate::http1::body::{BodyError, Decoded, Decoder};
use crate::http1::{BodyLength, write};
use crate::stream::http2::Window;

/// Why a body did not arrive whole.
#[derive(Debug, Error)]
pub enum CopyError {
    /// The sending side failed or closed before the end of the body.
    #[error("the body ended early")]
    Read(#[source] io::Error),
    /// The sending side's framing is broken.
    #[error("the body is malformed")]
    Malformed(#[source] BodyError),
    /// The taking side failed.
    #[error("the body could not be passed on")]
    Write(#[source] io::Error),
    /// Nothing moved for `limits.bodyIdle`.
    #[error("the body paused for too long")]
    Idle,
    /// Fewer bytes than `limits.bodyRateMin` asks for came in the time that was waited for them.
    #[error("the body came too slowly")]
    TooSlow,
    /// The time that a route gives the whole answer is over.
    #[error("the body was not complete in time")]
    Late,
}

/// What bounds a body on its way.
#[derive(Clone, Debug)]
pub struct BodyLimits {
    /// Longest pause, and longest time in which the taking side takes nothing.
    pub idle: Duration,
    /// Bytes per second that the sending side brings at least, once it has kept us waiting for `idle` in all; zero: no limit. What the
    /// taking side is waited for does not count, nor while our own flow control keeps the sending side back.
    pub rate_min: usize,
    /// What the bytes have to keep to.
    pub pace: Option<Arc<Pace>>,
    /// When all of it has to be there.
    pub deadline: Option<Instant>,
}

impl BodyLimits {
    /// How long a body of which `moved` bytes came and `waited` was waited for may still be waited for.
    fn patience_left(&self, moved: u64, waited: Duration) -> Duration {
        match self.rate_min as u64 {
            0 => self.idle,
            rate => (self.idle + Duration::from_secs(moved / rate)).saturating_sub(waited),
        }
    }
}

/// The side that sends a body.
pub trait Source {
    /// The next piece of what has arrived; [`Decoded::More`] when that is used up.
    ///
    /// # Errors
    /// [`CopyError::Malformed`].
    fn next(&mut self) -> Result<Decoded, CopyError>;

    /// Waits for more to arrive, `at_once` bytes at most where they are read here; called when everything that [`Source::next`] gave
    /// was taken by the other side, and not before.
    ///
    /// # Errors
    /// [`CopyError::Read`], also for an end that comes too early.
    fn fill(&mut self, at_once: usize) -> impl Future<Output = Result<(), CopyError>>;

    /// Where flow control of ours may keep it from sending, whatever it would like to; `None`: nothing does but the taking side.
    fn window(&self) -> Option<&Window>;
}

/// The side that takes a body. Each wait for it is at most `idle` long.
pub trait Sink {
    /// Takes a piece; may hold it back until [`Sink::flush`].
    ///
    /// # Errors
    /// [`CopyError::Write`] or [`CopyError::Idle`], as of the other two.
    fn data(
        &mut self,
        data: Bytes,
        patience: &mut Patience,
        idle: Duration,
    ) -> impl Future<Output = Result<(), CopyError>>;

    /// Sends what is held back.
    ///
    /// # Errors
    /// See [`Sink::data`].
    fn flush(&mut self, patience: &mut Patience, idle: Duration) -> impl Future<Output = Result<(), CopyError>>;

    /// Ends the message, with the lines of its trailers or without any, and sends everything.
    ///
    /// # Errors
    /// See [`Sink::data`].
    fn end(
        &mut self,
        trailers: Option<Bytes>,
        patience: &mut Patience,
        idle: Duration,
    ) -> impl Future<Output = Result<(), CopyError>>;
}

/// Copies until the body's end; every byte is flushed on return. `moved` counts bytes of the body, without framing, as they go.
///
/// # Errors
/// See [`CopyError`]. What was written until then stays written: the caller must not let the message look complete.
pub async fn copy<S: Source, T: Sink>(
    source: &mut S,
    sink: &mut T,
    patience: &mut Patience,
    limits: &BodyLimits,
    moved: &mut u64,
) -> Result<(), CopyError> {
    let idle = limits.idle;
    let mut waited = Duration::ZERO;
    let mut pause = None;
    loop {
        match source.next()? {
            Decoded::Data(data) => {
                *moved += data.len() as u64;
                pause = limits.pace.as_ref().and_then(|pace| pace.moved(data.len()));
                sink.data(data, patience, idle).await?;
            }
            Decoded::More => {
                sink.flush(patience, idle).await?;
                if let Some(pause) = pause.take() {
                    let _ = patience.within(pause, std::future::pending::<()>()).await;
                }
                let at_once = limits.pace.as_ref().map_or(usize::MAX, |pace| pace.quantum());
                let mut idle_left = idle;
                loop {
                    let limit = match idle_left.min(limits.patience_left(*moved, waited)) {
                        Duration::ZERO if idle_left.is_zero() => return Err(paused()),
                        Duration::ZERO => return Err(too_slow()),
                        limit if source.window().is_some() => limit.min(WINDOW_LOOK),
                        limit => limit,
                    };
                    let limit = match limits.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
                    {
                        Some(Duration::ZERO) => return Err(CopyError::Late),
                        Some(due) => limit.min(due),
                        None => limit,
                    };
                    let began = (limits.rate_min != 0).then(Instant::now);
                    match patience.within(limit, source.fill(at_once)).await {
                        Ok(filled) => {
                            waited += began.map_or(Duration::ZERO, |began| began.elapsed());
                            break filled?;
                        }
                        Err(_) => {
                            idle_left = idle_left.saturating_sub(limit);
                            if !source.window().is_some_and(Window::may_be_closed) {
                                waited += limit;
                            }
                        }
                    }
                }
            }
            Decoded::Trailers(trailers) => return sink.end(Some(trailers), patience, idle).await,
            Decoded::End => return sink.end(None, patience, idle).await,
        }
    }
}

const WINDOW_LOOK: Duration = Duration::from_secs(1); // what a closed window is told apart from a slow client by

/// The pause was too long, on whichever side.
pub(super) fn paused() -> CopyError {
    metrics::limit_reached(Limit::BodyIdle);
    CopyError::Idle
}

fn too_slow() -> CopyError {
    metrics::limit_reached(Limit::BodyRateMin);
    CopyError::TooSlow
}

/// A side that sends in HTTP/1: its reader, what was read of it already, and where in the body it is.
pub struct Sender<'a, R> {
    reader: R,
    /// Read ahead; what is left after the body belongs to the next message.
    buf: &'a mut BytesMut,
    decoder: Decoder,
    read_bytes: usize,
    window: Option<Arc<Window>>,
}

impl<'a, R> Sender<'a, R> {
    /// For a body delimited so, of which `buf` may hold the beginning.
    pub fn new(reader: R, buf: &'a mut BytesMut, length: BodyLength) -> Self {
        Self { reader, buf, decoder: Decoder::new(length), read_bytes: FIRST_READ_BYTES, window: None }
    }

    /// The same inside a stream of HTTP/2, whose connection has this window.
    #[must_use]
    pub fn within(self, window: Option<Arc<Window>>) -> Self {
        Self { window, ..self }
    }
}

impl<R: AsyncRead + Unpin> Source for Sender<'_, R> {
    fn next(&mut self) -> Result<Decoded, CopyError> {
        self.decoder.decode(self.buf).map_err(CopyError::Malformed)
    }

    async fn fill(&mut self, at_once: usize) -> Result<(), CopyError> {
        self.buf.reserve(self.read_bytes);
        let mut room = (&mut *self.buf).limit(at_once);
        match self.reader.read_buf(&mut room).await.map_err(CopyError::Read)? {
            0 => self.decoder.finish_at_eof().map_err(|_| CopyError::Read(io::ErrorKind::UnexpectedEof.into())),
            read => {
                if read >= self.read_bytes {
                    self.read_bytes = READ_BYTES;
                }
                Ok(())
            }
        }
    }

    fn window(&self) -> Option<&Window> {
        self.window.as_deref()
    }
}

/// A side that takes in HTTP/1: its writer, what was written for it but not sent yet (a head), and how the body is framed there.
pub struct Taker<W> {
    /// Bytes go there.
    pub writer: W,
    /// Goes out in one write with the first bytes of the body.
    pub out: BytesMut,
    /// The framing of the taking side.
    pub framing: BodyLength,
}

const READ_BYTES: usize = 64 * 1024; // what one read may bring while a body streams
const FIRST_READ_BYTES: usize = 8 * 1024;
const COPY_BYTES_MAX: usize = 4 * 1024; // a smaller piece is cheaper to copy behind the head than to hand over as a second slice
const OUT_BYTES_MAX: usize = 64 * 1024;

impl<W: AsyncWrite + Unpin> Sink for Taker<W> {
    async fn data(&mut self, data: Bytes, patience: &mut Patience, idle: Duration) -> Result<(), CopyError> {
        if data.is_empty() {
            return Ok(()); // a chunk of no bytes would end the body (RFC 9112 §7.1)
        }
        let chunked = matches!(self.framing, BodyLength::Chunked);
        if chunked {
            write::chunk_head(&mut self.out, data.len());
        }
        if data.len() <= COPY_BYTES_MAX && self.out.len() < OUT_BYTES_MAX {
            self.out.extend_from_slice(&data);
        } else {
            write_all(&mut self.writer, &mut self.out, data, patience, idle).await?;
        }
        if chunked {
            self.out.extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    async fn flush(&mut self, patience: &mut Patience, idle: Duration) -> Result<(), CopyError> {
        write_all(&mut self.writer, &mut self.out, Bytes::new(), patience, idle).await
    }

    async fn end(&mut self, trailers: Option<Bytes>, patience: &mut Patience, idle: Duration) -> Result<(), CopyError> {
        match (self.framing, trailers) {
            (BodyLength::Chunked, Some(trailers)) => write::last_chunk_with_trailers(&mut self.out, &trailers),
            (BodyLength::Chunked, None) => write::last_chunk(&mut self.out),
            _ => {}
        }
        self.flush(patience, idle).await
    }
}

async fn write_all<W: AsyncWrite + Unpin>(
    writer: &mut W,
    out: &mut BytesMut,
    mut data: Bytes,
    patience: &mut Patience,
    idle: Duration,
) -> Result<(), CopyError> {
    while !out.is_empty() || !data.is_empty() {
        let slices = [IoSlice::new(out), IoSlice::new(&data)];
        let write = async {
            match (out.is_empty(), data.is_empty()) {
                (false, true) => writer.write(out).await,
                (true, false) => writer.write(&data).await,
                _ => writer.write_vectored(&slices).await,
            }
        };
        let written = patience.within(idle, write).await.map_err(|_| paused())?.map_err(CopyError::Write)?;
        if written == 0 {
            return Err(CopyError::Write(io::ErrorKind::WriteZero.into()));
        }
        let of_out = written.min(out.len());
        out.advance(of_out);
        data.advance(written - of_out);
    }
    patience.within(idle, writer.flush()).await.map_err(|_| paused())?.map_err(CopyError::Write)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// Sends a byte after each pause, and then ends.
    struct Slow {
        pauses: Vec<Duration>,
        waiting: Duration,
        arrived: Option<Decoded>,
        window: Option<Window>,
    }

    impl Source for Slow {
        fn next(&mut self) -> Result<Decoded, CopyError> {
            Ok(self.arrived.take().unwrap_or(Decoded::More))
        }

        /// Goes on where a wait before was given up.
        async fn fill(&mut self, _: usize) -> Result<(), CopyError> {
            let Some(pause) = self.pauses.first().copied() else {
                self.arrived = Some(Decoded::End);
                return Ok(());
            };
            while self.waiting < pause {
                sleep(Duration::from_millis(100)).await;
                self.waiting += Duration::from_millis(100);
            }
            self.pauses.remove(0);
            self.waiting = Duration::ZERO;
            self.arrived = Some(Decoded::Data(Bytes::from_static(b"x")));
            Ok(())
        }

        fn window(&self) -> Option<&Window> {
            self.window.as_ref()
        }
    }

    async fn sent(pauses: &[u64], window: Option<Window>) -> Result<(), CopyError> {
        let pauses = pauses.iter().map(|seconds| Duration::from_secs(*seconds)).collect();
        let mut source = Slow { pauses, waiting: Duration::ZERO, arrived: None, window };
        let mut sink = Taker { writer: Vec::new(), out: BytesMut::new(), framing: BodyLength::UntilClose };
        let limits = BodyLimits { idle: Duration::from_secs(10), rate_min: 1 << 20, pace: None, deadline: None };
        copy(&mut source, &mut sink, &mut Patience::default(), &limits, &mut 0).await
    }

    #[tokio::test]
    async fn a_piece_of_no_bytes_is_no_chunk() {
        let mut taker = Taker { writer: Vec::new(), out: BytesMut::new(), framing: BodyLength::Chunked };
        let (mut patience, idle) = (Patience::default(), Duration::from_secs(1));
        for piece in [&b""[..], b"a", b"", b"bc", b""] {
            taker.data(Bytes::copy_from_slice(piece), &mut patience, idle).await.unwrap();
        }
        taker.end(None, &mut patience, idle).await.unwrap();
        assert_eq!(taker.writer, b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n");
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_our_window_is_closed_is_not_the_clients() {
        let (closed, open) = (|| Some(Window::new(0)), || Some(Window::new(16 << 20)));
        // 21 seconds, of which ten may be waited for; none of the pauses is too long.
        assert!(matches!(sent(&[7, 7, 7], open()).await, Err(CopyError::TooSlow)));
        assert!(sent(&[7, 7, 7], closed()).await.is_ok());
        // One that is too long ends the body all the same.
        assert!(matches!(sent(&[11], closed()).await, Err(CopyError::Idle)));
    }
}
