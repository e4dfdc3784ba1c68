//! The one timer of a tunnel: idle limit, lifetime, and the moment from which keepalive is worth its system calls.
//!
//! Traffic does not touch the timer: it leaves a time stamp, and the timer looks at the stamp when it fires. So a busy tunnel
//! costs one timer event per idle limit.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::RelayLimits;
use crate::flow::Ending;

#[derive(Debug)]
pub(super) struct Clock {
    limits: RelayLimits,
    opened: Instant,
    moved: Instant,
    /// Armed by the first poll; its state is on the heap, because tokio's timer wheel points into it.
    timer: Option<Pin<Box<Sleep>>>,
    old: bool,
}

impl Clock {
    pub(super) fn new(limits: RelayLimits) -> Self {
        let now = Instant::now();
        Self { limits, opened: now, moved: now, timer: None, old: false }
    }

    /// Bytes were moved now.
    pub(super) fn moved(&mut self) {
        self.moved = Instant::now();
    }

    /// Nothing has moved for a while.
    pub(super) fn is_quiet(&self) -> bool {
        self.moved.elapsed() >= QUIET_TIME
    }

    /// Ready once a limit is reached; calls `grown_old` once, when the tunnel has lived for [`YOUNG_TIME`].
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, grown_old: impl Fn()) -> Poll<Ending> {
        loop {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
            }
            let now = Instant::now();
            if !self.old && now >= self.opened + YOUNG_TIME {
                self.old = true;
                grown_old();
            }
            if self.lifetime_end().is_some_and(|end| now >= end) {
                return Poll::Ready(Ending::LifetimeExceeded);
            }
            if self.idle_end().is_some_and(|end| now >= end) {
                return Poll::Ready(Ending::IdleTimeout);
            }
            let Some(next) = self.next() else {
                self.timer = None;
                return Poll::Pending;
            };
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(next),
                None => self.timer = Some(Box::pin(sleep_until(next))),
            }
        }
    }

    /// When there is something to do at the earliest.
    fn next(&self) -> Option<Instant> {
        let old = (!self.old).then_some(self.opened + YOUNG_TIME);
        [old, self.idle_end(), self.lifetime_end()].into_iter().flatten().min()
    }

    fn idle_end(&self) -> Option<Instant> {
        later(self.moved, self.limits.idle)
    }

    fn lifetime_end(&self) -> Option<Instant> {
        later(self.opened, self.limits.lifetime)
    }
}

/// `None` for no limit: zero, or longer than time itself.
fn later(since: Instant, limit: Duration) -> Option<Instant> {
    if limit.is_zero() { None } else { since.checked_add(limit) }
}

const YOUNG_TIME: Duration = Duration::from_secs(30); // from then on a tunnel gets keepalive, DESIGN 5
const QUIET_TIME: Duration = Duration::from_secs(1); // longer than a retransmission, so that a lost packet does not pass for the end
