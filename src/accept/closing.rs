//! How a client's connection ends: noticing that it has, and closing it so that our last words arrive.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};

use crate::stream::Stream;
use crate::tunnel::patience::Patience;

/// Closes our side and reads on for a moment: closing with unread bytes resets the connection, and the reset can overtake the answer.
pub(super) async fn linger(stream: &mut Stream, patience: &mut Patience) {
    let mut left = LINGER_BYTES_MAX;
    let reading = async {
        let mut scratch = vec![0; 4096]; // on the heap: an array would make the future of every connection so much larger
        if stream.shutdown().await.is_err() {
            return;
        }
        while left > 0 {
            match stream.read(&mut scratch).await {
                Ok(0) | Err(_) => return,
                Ok(read) => left = left.saturating_sub(read),
            }
        }
    };
    // Elapsed is one of three good ends.
    let _ = patience.within(LINGER_TIME, reading).await;
}

/// Ends when the client resets the connection; a half-close, or bytes that wait, say nothing and are not waited for.
pub(super) async fn reset(stream: &Stream) {
    let Some(tcp) = stream.tcp() else { return std::future::pending().await };
    let mut looked = false;
    poll_fn(|cx| {
        if looked {
            return Poll::Pending;
        }
        let mut byte = [0];
        match tcp.poll_peek(cx, &mut ReadBuf::new(&mut byte)) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(_)) => {
                looked = true;
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
}

const LINGER_BYTES_MAX: usize = 256 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(2);
