//! How a client's connection is closed so that our last words arrive.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::patience::Patience;
use crate::stream::Stream;

/// Closes our side and reads on for a moment: closing with unread bytes resets the connection, and the reset can overtake the answer.
pub(crate) async fn linger(stream: &mut Stream, patience: &mut Patience) {
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

/// Ends a TLS session in order, without waiting for the client to do the same.
pub(crate) async fn end_session(stream: &mut Stream, patience: &mut Patience) {
    // One small record: if it cannot go out at once the client takes nothing any more.
    let _ = patience.within(END_TIME, stream.shutdown()).await;
}

const END_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 256 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(2);
