//! Live tunnels: their byte counts, and the way to end one from outside (drain, revocation, an operator).

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::flow::{Ending, Source, Target};

/// One open tunnel, shared between its relay and whoever looks at it.
#[derive(Debug)]
pub struct Live {
    /// Unique in the process.
    pub id: u64,
    /// Who asked.
    pub source: Arc<Source>,
    /// For what.
    pub target: Target,
    /// Came in by SNI (else by CONNECT or an upgrade).
    pub by_sni: bool,
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// When it was opened.
    pub opened: Instant,
}

impl Live {
    /// Counts bytes from the client.
    pub fn add_received(&self, _bytes: u64) {
        unimplemented!()
    }
    /// Counts bytes to the client.
    pub fn add_sent(&self, _bytes: u64) {
        unimplemented!()
    }
    /// Bytes from the client so far.
    pub fn received(&self) -> u64 {
        unimplemented!()
    }
    /// Bytes to the client so far.
    pub fn sent(&self) -> u64 {
        unimplemented!()
    }
    /// Asks the relay to end with this reason; the first reason stays.
    pub fn end(&self, _why: Ending) {
        unimplemented!()
    }
    /// For the relay: ready once somebody asked for the end; else wakes the task then.
    pub fn poll_end(&self, _cx: &mut Context<'_>) -> Poll<Ending> {
        unimplemented!()
    }
}

/// All live tunnels.
#[derive(Debug, Default)]
pub struct Tunnels {}

/// Which bound a tunnel would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// `limits.tunnels`.
    All,
    /// `limits.tunnelsPerClient`.
    Client,
}

/// A live tunnel that leaves the table when this is dropped.
#[derive(Debug)]
pub struct LiveGuard {
    live: Arc<Live>,
}

impl std::ops::Deref for LiveGuard {
    type Target = Live;
    fn deref(&self) -> &Live {
        &self.live
    }
}

impl Tunnels {
    /// Enters a tunnel, unless a bound (`max` in all, `per_client_max` of this client's address) is reached.
    ///
    /// # Errors
    /// The bound that is reached.
    pub fn open(
        self: &Arc<Self>,
        _source: &Arc<Source>,
        _target: Target,
        _by_sni: bool,
        _cluster: Arc<str>,
        _max: usize,
        _per_client_max: usize,
    ) -> Result<LiveGuard, Exceeded> {
        unimplemented!()
    }
    /// How many are open.
    pub fn len(&self) -> usize {
        unimplemented!()
    }
    /// True if none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Looks at each; must not block.
    pub fn for_each(&self, _look: impl FnMut(&Live)) {
        unimplemented!()
    }
}
