//! Copies bytes both ways until both sides are done: half-close, idle limit, lifetime, counts per chunk.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::account::live::LiveGuard;
use crate::flow::Ending;
use crate::stream::Stream;

/// Bounds of a relay; zero means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayLimits {
    /// Longest pause in which neither side sends.
    pub idle: Duration,
    /// Longest life.
    pub lifetime: Duration,
}

/// How a relay ended; `None` when both sides closed in order.
pub type RelayEnd = Option<Ending>;

/// The future of one open tunnel.
#[derive(Debug)]
pub struct Relay {
    live: LiveGuard,
}

impl Relay {
    /// Joins the two sides.
    pub fn new(_downstream: Stream, _upstream: Stream, live: LiveGuard, _limits: RelayLimits) -> Self {
        Self { live }
    }
    /// The tunnel's entry among the live ones.
    pub fn live(&self) -> &LiveGuard {
        &self.live
    }
}

impl Future for Relay {
    type Output = RelayEnd;
    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<RelayEnd> {
        unimplemented!()
    }
}
