//! Waits with a limit, at the cost of one timer per connection instead of one per wait.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that is set anew for each wait. Moving it later is lock-free in tokio's wheel, so a keep-alive connection pays for
/// registering it once.
#[derive(Debug, Default)]
pub struct Patience {
    sleep: Option<Pin<Box<Sleep>>>,
}

/// The limit of a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl Patience {
    /// Waits for `wait`, at most `limit`; a zero `limit` is none.
    ///
    /// # Errors
    /// [`Elapsed`]; `wait` is dropped then.
    pub async fn within<T>(&mut self, limit: Duration, wait: impl Future<Output = T>) -> Result<T, Elapsed> {
        let mut wait = pin!(wait);
        let mut armed = false;
        poll_fn(|cx| {
            if let Poll::Ready(done) = wait.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            if limit.is_zero() {
                return Poll::Pending;
            }
            if !armed {
                armed = true;
                let deadline = Instant::now() + limit;
                match &mut self.sleep {
                    Some(sleep) => sleep.as_mut().reset(deadline),
                    None => self.sleep = Some(Box::pin(sleep_until(deadline))),
                }
            }
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().poll(cx).map(|()| Err(Elapsed)),
                None => Poll::Pending,
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_its_limit_and_the_next_has_its_own() {
        let mut patience = Patience::default();
        for seconds in [3, 1, 5] {
            let before = Instant::now();
            let limit = Duration::from_secs(seconds);
            assert_eq!(patience.within(limit, std::future::pending::<()>()).await, Err(Elapsed));
            assert!(before.elapsed() >= limit && before.elapsed() < limit + Duration::from_millis(10));
        }
        assert_eq!(patience.within(Duration::ZERO, async { 7 }).await, Ok(7));
    }
}
