//! Copies bytes both ways until both sides are done: half-close, idle limit, lifetime, counts per chunk.
//!
//! What is sent is never shown as complete when it was not: a side that breaks off resets the other one, and only a side that
//! closed in order, or a tunnel that was quiet, ends with an orderly close.

mod clock;
mod guard;
mod scratch;
mod splice;
#[cfg(test)]
mod tests;
mod way;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use self::clock::Clock;
use self::guard::Look;
use self::way::{End, Way};
use crate::account::Pace;
use crate::account::live::LiveGuard;
use crate::flow::{Ending, Finding, Name};
use crate::route::Expected;
use crate::stream::Stream;

pub use self::guard::Guard;
pub use self::splice::spliced_bytes;

/// The future of one open tunnel. Dropping it closes both sockets.
///
/// Written by hand because of its size: it is most of what an idle tunnel costs. It owns no buffer while nothing waits.
#[derive(Debug)]
pub struct Relay {
    downstream: Stream,
    upstream: Stream,
    up: Way,
    down: Way,
    clock: Clock,
    /// In milliseconds: a tunnel's size counts.
    user_timeout: u32,
    /// Until the client's first bytes are judged.
    guard: Option<Box<Guard>>,
    /// The client's TLS names what the tunnel was asked for.
    as_asked: bool,
    live: LiveGuard,
}

/// Bounds of a relay; zero means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayLimits {
    /// Longest pause in which neither side takes a byte.
    pub idle: Duration,
    /// Longest life.
    pub lifetime: Duration,
    /// How long bytes of ours may stay unacknowledged by the upstream (`dial.tcpUserTimeout`).
    pub user_timeout: Duration,
    /// The upstream's keepalive is set already, as its rule says.
    pub keeps_alive: bool,
}

/// The server name in a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShownName<'a> {
    /// The name that the tunnel was asked for.
    Asked,
    /// Another one.
    Other(&'a Name),
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayEnd {
    /// Both sides closed in order.
    Complete,
    /// Before that.
    Early(Ending),
    /// The client said something else than the tunnel was asked for ([`Relay::finding`]); nothing of it went on.
    Refused,
}

impl Relay {
    /// Joins the two sides. Bytes that were read too early on either ([`Stream::with_prefix`]) go first.
    /// What the client says first is watched by `guard`, if anything is expected of it.
    pub fn new(
        downstream: Stream,
        upstream: Stream,
        live: LiveGuard,
        limits: RelayLimits,
        guard: Option<Box<Guard>>,
    ) -> Self {
        let up = Way::new(&downstream, &upstream);
        let down = Way::new(&upstream, &downstream);
        let user_timeout = u32::try_from(limits.user_timeout.as_millis()).unwrap_or(u32::MAX);
        Self { downstream, upstream, up, down, clock: Clock::new(limits), user_timeout, guard, as_asked: false, live }
    }

    /// The tunnel's entry among the live ones.
    pub fn live(&self) -> &LiveGuard {
        &self.live
    }

    /// What of the client's first bytes did not fit, and what they were held against.
    pub fn finding(&self) -> Option<(&Finding, &Expected)> {
        self.guard.as_ref().and_then(|guard| guard.finding())
    }

    /// The server name that the client's TLS showed, as far as somebody looked.
    pub fn server_name(&self) -> Option<ShownName<'_>> {
        let other = || self.guard.as_ref()?.other_name().map(ShownName::Other);
        if self.as_asked { Some(ShownName::Asked) } else { other() }
    }

    /// What we call ourselves towards a client whose tunnel is refused.
    pub fn proxy(&self) -> Option<Arc<str>> {
        self.guard.as_ref().and_then(|guard| guard.proxy().cloned())
    }

    /// The client's side, for last words once the relay is over.
    pub fn downstream_mut(&mut self) -> &mut Stream {
        &mut self.downstream
    }

    /// Moves what can be moved now, both ways; ready when the tunnel is over by itself.
    fn poll_ways(&mut self, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        let Self { downstream, upstream, up, down, live, guard, as_asked, clock, .. } = self;
        let quantum = live.pace().map_or(usize::MAX, Pace::quantum);
        let (mut up_budget, mut down_budget) = (quantum, quantum); // one each, so that neither direction starves the other
        let (look, count) = (|bytes: &[u8]| Guard::look(guard, as_asked, bytes), |bytes| live.add_received(bytes));
        match up.poll(cx, (downstream, upstream), down.is_closed(), &mut up_budget, look, count) {
            Poll::Ready(Err(End::Source)) => return Poll::Ready(RelayEnd::Early(Ending::DownstreamReset)),
            Poll::Ready(Err(End::Sink)) => return Poll::Ready(RelayEnd::Early(Ending::UpstreamReset)),
            Poll::Ready(Err(End::Refused)) => return Poll::Ready(RelayEnd::Refused),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        let (look, count) = (|_: &[u8]| Look::Pass, |bytes| live.add_sent(bytes));
        match down.poll(cx, (upstream, downstream), up.is_closed(), &mut down_budget, look, count) {
            Poll::Ready(Err(End::Source)) => return Poll::Ready(RelayEnd::Early(Ending::UpstreamReset)),
            Poll::Ready(Err(End::Sink | End::Refused)) => {
                return Poll::Ready(RelayEnd::Early(Ending::DownstreamReset));
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        if Guard::poll_late(guard, cx).is_ready() {
            return Poll::Ready(RelayEnd::Refused);
        }
        if up.is_closed() && down.is_closed() {
            return Poll::Ready(RelayEnd::Complete);
        }
        if up.is_closed() && downstream.poll_reset(cx).is_ready() {
            return Poll::Ready(RelayEnd::Early(Ending::DownstreamReset));
        }
        let read = (quantum - up_budget) + (quantum - down_budget);
        if let Some(pace) = live.pace().filter(|_| read > 0) {
            match pace.moved(read) {
                Some(wait) => clock.pause(wait),
                None => cx.waker().wake_by_ref(), // what is left may be readable, and nobody else says so
            }
        }
        Poll::Pending
    }

    /// Ready once a bound is reached. Sets keepalive on the upstream socket when the tunnel has become an old one.
    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        let Self { clock, upstream, user_timeout, .. } = self;
        let user_timeout = *user_timeout;
        clock
            .poll(cx, user_timeout, |keeps| keep_alive(upstream, Duration::from_millis(user_timeout.into()), keeps))
            .map(RelayEnd::Early)
    }

    /// Makes the close of both sides a reset where bytes were lost or under way, so that neither peer takes what it has for all.
    fn close(&mut self, end: RelayEnd) {
        let holding =
            self.up.is_holding() || self.down.is_holding() || self.guard.as_ref().is_some_and(|g| g.is_holding());
        let orderly = match end {
            RelayEnd::Complete | RelayEnd::Early(Ending::IdleTimeout) => !holding,
            RelayEnd::Early(Ending::DownstreamReset | Ending::UpstreamReset) => false,
            RelayEnd::Early(
                Ending::LifetimeExceeded | Ending::Drained | Ending::Revoked | Ending::Killed | Ending::AnswerTimeout,
            ) => self.clock.is_quiet() && !holding,
            // Nothing of the client went on, so nothing can look complete; and it is told why, behind which its side is closed.
            RelayEnd::Refused => return,
        };
        for stream in [&mut self.downstream, &mut self.upstream] {
            if orderly {
                stream.finish();
            } else {
                stream.abort();
            }
        }
    }
}

impl Future for Relay {
    type Output = RelayEnd;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        let this = self.get_mut();
        let end = match this.live.poll_end(cx) {
            Poll::Ready(why) => RelayEnd::Early(why),
            Poll::Pending if this.clock.is_paused() => {
                let end = this.poll_clock(cx);
                if end.is_pending() && !this.clock.is_paused() {
                    cx.waker().wake_by_ref(); // the pause ended here
                }
                std::task::ready!(end)
            }
            Poll::Pending => match this.poll_ways(cx) {
                Poll::Ready(end) => end,
                Poll::Pending => {
                    if this.up.take_moved() | this.down.take_moved() {
                        this.clock.moved();
                    }
                    std::task::ready!(this.poll_clock(cx))
                }
            },
        };
        this.close(end);
        Poll::Ready(end)
    }
}

/// A peer that vanished without a word is found out. Not done for young tunnels: most end before the first probe would go out.
fn keep_alive(upstream: &Stream, user_timeout: Duration, keeps_alive: bool) {
    let probes = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    if let Some(tcp) = upstream.transport() {
        let socket = socket2::SockRef::from(tcp);
        // Both fail only on a socket that is gone already.
        if !keeps_alive {
            let _ = socket.set_tcp_keepalive(&probes);
        }
        let _ = socket.set_tcp_user_timeout((!user_timeout.is_zero()).then_some(user_timeout));
    }
}

// Two minutes until a dead peer is noticed, below the 350 s after which NAT gateways of the large clouds forget a flow.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 6;
