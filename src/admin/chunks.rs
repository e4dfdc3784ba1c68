//! Documents of any length, in pieces: what is not taken yet is not made yet.

use std::convert::Infallible;
use std::io::{self, Write};

use bytes::Bytes;
use futures_util::stream::unfold;
use http::StatusCode;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::answer::{Answer, JSON, with_body};

/// Where a document is written to; full until its reader has taken some of it.
pub(super) struct Chunks {
    buffer: Vec<u8>,
    to: mpsc::Sender<Bytes>,
}

const CHUNK_BYTES: usize = 64 * 1024;
const CHUNKS_MAX: usize = 4; // made and not sent: a reader that pauses does not stop us at once, and costs no more than this

/// An answer that `write` makes on a thread of its own; ends with its reader. `permit` is held until then.
pub(super) fn json(
    permit: OwnedSemaphorePermit,
    write: impl FnOnce(&mut Chunks) -> io::Result<()> + Send + 'static,
) -> Answer {
    let (to, from) = mpsc::channel(CHUNKS_MAX);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let mut chunks = Chunks { buffer: Vec::new(), to };
        // What fails here is the reader's: it has gone.
        let _ = write(&mut chunks).and_then(|()| chunks.write_all(b"\n")).and_then(|()| chunks.flush());
    });
    let stream = unfold(from, |mut from| async move {
        let chunk = from.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(chunk)), from))
    });
    with_body(StatusCode::OK, JSON, StreamBody::new(stream).boxed_unsync())
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.buffer);
        self.to.blocking_send(chunk.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Writes a list, one item after the other, each made when it is its turn.
pub(super) fn list(out: &mut impl Write, items: impl IntoIterator<Item = Value>) -> io::Result<()> {
    out.write_all(b"[")?;
    for (index, item) in items.into_iter().enumerate() {
        out.write_all(if index == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *out, &item)?;
    }
    out.write_all(b"]")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use serde_json::json;
    use tokio::sync::Semaphore;

    use super::*;

    const ITEMS: usize = 20_000;

    fn answer(made: &Arc<AtomicUsize>, free: &Arc<Semaphore>) -> Answer {
        let (made, permit) = (made.clone(), free.clone().try_acquire_owned().unwrap());
        json(permit, move |out| {
            let item = |n: usize| {
                made.fetch_add(1, Ordering::Relaxed);
                json!({ "n": n, "text": "x".repeat(100) })
            };
            list(out, (0..ITEMS).map(item))
        })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_long_document_comes_whole_and_is_made_as_it_is_read() {
        let (made, free) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(1)));
        let mut body = answer(&made, &free).into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!((CHUNK_BYTES..2 * CHUNK_BYTES).contains(&first.len()), "{}", first.len());
        let ahead = (CHUNKS_MAX + 3) * 2 * CHUNK_BYTES / 100;
        assert!(made.load(Ordering::Relaxed) <= ahead, "{}", made.load(Ordering::Relaxed));
        let rest = body.collect().await.unwrap().to_bytes();
        let whole: Value = serde_json::from_slice(&[first, rest].concat()).unwrap();
        assert_eq!((whole.as_array().unwrap().len(), &whole[ITEMS - 1]["n"]), (ITEMS, &(ITEMS - 1).into()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_that_leaves_ends_the_writer() {
        let (made, free) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(1)));
        drop(answer(&made, &free));
        let released = tokio::time::timeout(Duration::from_secs(10), free.acquire()).await;
        assert!(released.is_ok(), "the writer goes on");
        assert!(made.load(Ordering::Relaxed) < ITEMS);
    }

    #[test]
    fn an_empty_list_is_one() {
        let mut out = Vec::new();
        list(&mut out, []).unwrap();
        assert_eq!(out, b"[]");
    }
}
