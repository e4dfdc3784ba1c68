//! The one timer of a tunnel: idle limit, lifetime, pauses of a client that goes too fast, and the moment from which keepalive is
//! worth its system calls.
//!
//! Traffic does not touch the timer: it leaves a time stamp, and the timer looks at the stamp when it fires. So a busy tunnel
//! costs one timer event per idle limit.

use std::future::Future;
use std::num::NonZero;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::RelayLimits;
use crate::flow::Ending;

#[derive(Debug)]
pub(super) struct Clock {
    opened: Instant,
    /// Since `opened`, as are both limits: a third of the size of instants and durations.
    moved: Millis,
    /// Nothing is read until then; 0 where nothing holds it back.
    paused: Millis,
    idle: Option<NonZero<Millis>>,
    lifetime: Option<NonZero<Millis>>,
    /// Armed by the first poll; its state is on the heap, because tokio's timer wheel points into it.
    timer: Option<Pin<Box<Sleep>>>,
    old: bool,
    keeps_alive: bool,
}

impl Clock {
    pub(super) fn new(limits: RelayLimits) -> Self {
        let limit = |limit| NonZero::new(millis(limit));
        let (idle, lifetime) = (limit(limits.idle), limit(limits.lifetime));
        let keeps_alive = limits.keeps_alive;
        Self { opened: Instant::now(), moved: 0, paused: 0, idle, lifetime, timer: None, old: false, keeps_alive }
    }

    /// Bytes were moved now.
    pub(super) fn moved(&mut self) {
        self.moved = self.age().max(self.paused);
    }

    /// Nothing is to be read for so long; the time does not count as idle.
    pub(super) fn pause(&mut self, wait: Duration) {
        let paused = self.age().saturating_add(millis(wait)).saturating_add(1); // the timer counts whole milliseconds
        (self.paused, self.moved) = (paused, paused);
        if let (Some(timer), Some(end)) = (&mut self.timer, self.opened.checked_add(Duration::from_millis(paused))) {
            timer.as_mut().reset(end);
        }
    }

    /// True while [`Self::pause`] lasts.
    pub(super) fn is_paused(&mut self) -> bool {
        if self.paused != 0 && self.age() >= self.paused {
            self.paused = 0;
        }
        self.paused != 0
    }

    /// Nothing has moved for a while.
    pub(super) fn is_quiet(&self) -> bool {
        self.age() >= self.moved.saturating_add(QUIET_TIME)
    }

    /// Ready once a limit is reached; calls `grown_old` once, when the tunnel has lived for [`YOUNG_TIME`], or for `user_timeout`
    /// where that is shorter (0: there is none).
    ///
    /// No byte can have waited longer for its acknowledgement than the tunnel is old: a user timeout that is set then holds as if it
    /// had been set at once, and tunnels that are gone before cost no system call for it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, user_timeout: u32, grown_old: impl Fn(bool)) -> Poll<Ending> {
        let young = if user_timeout == 0 { YOUNG_TIME } else { YOUNG_TIME.min(user_timeout.into()) };
        loop {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
            }
            let now = self.age();
            if !self.old && now >= young {
                self.old = true;
                grown_old(self.keeps_alive);
            }
            if self.lifetime_end().is_some_and(|end| now >= end) {
                return Poll::Ready(Ending::LifetimeExceeded);
            }
            if self.idle_end().is_some_and(|end| now >= end) {
                return Poll::Ready(Ending::IdleTimeout);
            }
            let Some(next) = self.next(young) else {
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
    fn next(&self, young: Millis) -> Option<Instant> {
        let old = (!self.old).then_some(young);
        let paused = NonZero::new(self.paused).map(NonZero::get);
        let next = [old, paused, self.idle_end(), self.lifetime_end()].into_iter().flatten().min()?;
        self.opened.checked_add(Duration::from_millis(next)) // later than time can tell: never
    }

    fn idle_end(&self) -> Option<Millis> {
        self.idle.map(|idle| self.moved.saturating_add(idle.get()))
    }

    fn lifetime_end(&self) -> Option<Millis> {
        self.lifetime.map(NonZero::get)
    }

    fn age(&self) -> Millis {
        millis(self.opened.elapsed())
    }
}

/// What tokio's timers count in.
type Millis = u64;

fn millis(time: Duration) -> Millis {
    time.as_millis().try_into().unwrap_or(Millis::MAX)
}

const YOUNG_TIME: Millis = 30_000; // from then on a tunnel gets keepalive, DESIGN 5
const QUIET_TIME: Millis = 1_000; // longer than a retransmission, so that a lost packet does not pass for the end
