//! The orderly end: no new work is begun, what runs is counted and waited for.

use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Counts the tasks of the data plane and tells them when the end begins.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    tasks: TaskTracker,
    draining: CancellationToken,
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
