//! The orderly end: no new work is begun, what runs is counted and waited for.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::account::live::Tunnels;
use crate::flow::Ending;

/// Counts the tasks of the data plane and tells them when the end begins.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    tasks: TaskTracker,
    draining: CancellationToken,
}

/// Tunnels that were asked to end, because their clients did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// They carried nothing: their clients lose a connection, not bytes.
    pub quiet: usize,
    /// They were in use at the deadline.
    pub busy: usize,
}

impl Drain {
    /// Starts a task that the end waits for.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Begins the end; tasks see it in [`Drain::draining`].
    pub fn begin(&self) {
        self.draining.cancel();
    }

    /// Ends the tunnels: those that carried nothing for `quiet` as soon as that is known, the others at `deadline`.
    ///
    /// Returns once no task is left, or when the deadline has passed and every tunnel has been told; those end within a poll, and
    /// [`Drain::finished`] waits for them. [`Drain::begin`] comes first, or new tunnels follow the old ones.
    pub async fn end_tunnels(&self, tunnels: &Tunnels, quiet: Duration, deadline: Instant) -> Cut {
        let mut cut = Cut::default();
        tokio::select! {
            () = self.finished() => {}
            () = end_tunnels(tunnels, quiet, deadline, &mut cut) => {}
        }
        cut
    }

    /// True once the end has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Waits until the end begins.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Waits until every task has ended; [`Drain::begin`] must have been called.
    pub async fn finished(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Tasks that run now.
    pub fn running(&self) -> usize {
        self.tasks.len()
    }
}

async fn end_tunnels(tunnels: &Tunnels, quiet: Duration, deadline: Instant, cut: &mut Cut) {
    let mut before = HashMap::new();
    while Instant::now() < deadline {
        before = end_quiet(tunnels, &before, cut);
        sleep_until(deadline.min(Instant::now() + quiet)).await;
    }
    tunnels.for_each(|live| {
        if live.ending().is_none() {
            live.end(Ending::Drained);
            cut.busy += 1;
        }
    });
}

/// Ends the tunnels whose count is the one of `before`, by id; gives the counts of the others.
fn end_quiet(tunnels: &Tunnels, before: &HashMap<u64, u64>, cut: &mut Cut) -> HashMap<u64, u64> {
    let mut counts = HashMap::new();
    tunnels.for_each(|live| {
        let count = live.received() + live.sent();
        if live.ending().is_some() {
            return; // it has been told already
        }
        if before.get(&live.id) == Some(&count) {
            live.end(Ending::Drained);
            cut.quiet += 1;
        } else {
            counts.insert(live.id, count);
        }
    });
    counts
}
