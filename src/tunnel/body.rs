//! Copies one message body from the side that sends it to the side that takes it, in the framing of the latter.

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
}

/// What bounds a body on its way.
#[derive(Clone, Debug)]
pub struct BodyLimits {
    /// Longest pause, and longest time in which the taking side takes nothing.
    pub idle: Duration,
    /// Bytes per second that the sending side brings at least, once it has kept us waiting for `idle` in all; zero: no limit. What the
    /// taking side is waited for does not count.
    pub rate_min: usize,
    /// What the bytes have to keep to.
    pub pace: Option<Arc<Pace>>,
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

/// The side that sends: its reader, what was read of it already, and where in the body it is.
pub struct Sender<'a, R> {
    /// Bytes come from here.
    pub reader: R,
    /// Read ahead; what is left after the body belongs to the next message.
    pub buf: &'a mut BytesMut,
    /// The framing of the sending side.
    pub decoder: &'a mut Decoder,
}

/// The side that takes: its writer, what was written for it but not sent yet (a head), and how the body is framed there.
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

/// Copies until the body's end; every byte is flushed on return. `moved` counts bytes of the body, without framing, as they go.
///
/// # Errors
/// See [`CopyError`]. What was written until then stays written: the caller must not let the message look complete.
pub async fn copy<R, W>(
    sender: &mut Sender<'_, R>,
    taker: &mut Taker<W>,
    patience: &mut Patience,
    limits: &BodyLimits,
    moved: &mut u64,
) -> Result<(), CopyError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let chunked = matches!(taker.framing, BodyLength::Chunked);
    let idle = limits.idle;
    let mut read_bytes = FIRST_READ_BYTES;
    let mut waited = Duration::ZERO;
    let mut pause = None;
    loop {
        match sender.decoder.decode(sender.buf).map_err(CopyError::Malformed)? {
            Decoded::Data(data) => {
                *moved += data.len() as u64;
                pause = limits.pace.as_ref().and_then(|pace| pace.moved(data.len()));
                if chunked {
                    write::chunk_head(&mut taker.out, data.len());
                }
                pass_on(taker, data, patience, idle).await?;
                if chunked {
                    taker.out.extend_from_slice(b"\r\n");
                }
            }
            Decoded::More => {
                flush(taker, patience, idle).await?;
                if let Some(pause) = pause.take() {
                    let _ = patience.within(pause, std::future::pending::<()>()).await;
                }
                sender.buf.reserve(read_bytes);
                let at_once = limits.pace.as_ref().map_or(usize::MAX, |pace| pace.quantum());
                let mut room = (&mut *sender.buf).limit(at_once);
                let limit = idle.min(limits.patience_left(*moved, waited));
                if limit.is_zero() {
                    return Err(late(limit, idle));
                }
                let began = (limits.rate_min != 0).then(Instant::now);
                let read = patience.within(limit, sender.reader.read_buf(&mut room)).await;
                waited += began.map_or(Duration::ZERO, |began| began.elapsed());
                match read.map_err(|_| late(limit, idle))?.map_err(CopyError::Read)? {
                    0 => {
                        let end = sender.decoder.finish_at_eof();
                        end.map_err(|_| CopyError::Read(io::ErrorKind::UnexpectedEof.into()))?;
                        if chunked {
                            write::last_chunk(&mut taker.out);
                        }
                        return flush(taker, patience, idle).await;
                    }
                    read if read >= read_bytes => read_bytes = READ_BYTES,
                    _ => {}
                }
            }
            Decoded::Trailers(trailers) => {
                if chunked {
                    write::last_chunk_with_trailers(&mut taker.out, &trailers);
                }
                return flush(taker, patience, idle).await;
            }
            Decoded::End => {
                if chunked {
                    write::last_chunk(&mut taker.out);
                }
                return flush(taker, patience, idle).await;
            }
        }
    }
}

/// Which limit a wait of `limit` met.
fn late(limit: Duration, idle: Duration) -> CopyError {
    if limit < idle {
        metrics::limit_reached(Limit::BodyRateMin);
        return CopyError::TooSlow;
    }
    metrics::limit_reached(Limit::BodyIdle);
    CopyError::Idle
}

/// Writes what waits in `out`.
async fn flush<W: AsyncWrite + Unpin>(
    taker: &mut Taker<W>,
    patience: &mut Patience,
    idle: Duration,
) -> Result<(), CopyError> {
    write_all(&mut taker.writer, &mut taker.out, Bytes::new(), patience, idle).await
}

/// Appends a small piece to `out`, writes a large one behind it without copying.
async fn pass_on<W: AsyncWrite + Unpin>(
    taker: &mut Taker<W>,
    data: Bytes,
    patience: &mut Patience,
    idle: Duration,
) -> Result<(), CopyError> {
    if data.len() <= COPY_BYTES_MAX && taker.out.len() < OUT_BYTES_MAX {
        taker.out.extend_from_slice(&data);
        return Ok(());
    }
    write_all(&mut taker.writer, &mut taker.out, data, patience, idle).await
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
        let written = patience.within(idle, write).await.map_err(|_| late(idle, idle))?.map_err(CopyError::Write)?;
        if written == 0 {
            return Err(CopyError::Write(io::ErrorKind::WriteZero.into()));
        }
        let of_out = written.min(out.len());
        out.advance(of_out);
        data.advance(written - of_out);
    }
    patience.within(idle, writer.flush()).await.map_err(|_| late(idle, idle))?.map_err(CopyError::Write)
}
