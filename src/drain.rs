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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use super::*;
    use crate::account::Bounds;
    use crate::account::live::LiveGuard;
    use crate::account::testing::{entry, share};

    const QUIET: Duration = Duration::from_secs(2);

    fn open(tunnels: &Arc<Tunnels>) -> LiveGuard {
        tunnels.open(entry(share()), Bounds { all: 100, per_client: 100 }).unwrap()
    }

    /// A tunnel's task: ends when it is told to, or by itself; while it runs a byte moves every `pace`. Says when it was over.
    fn run(drain: &Drain, live: LiveGuard, pace: Option<Duration>, ends: Option<Duration>) -> Ended {
        let (tell, ended) = tokio::sync::oneshot::channel();
        drain.spawn(async move {
            let begin = Instant::now();
            let traffic = async {
                loop {
                    tokio::time::sleep(pace.unwrap_or(Duration::MAX)).await;
                    live.add_sent(1);
                }
            };
            let why = tokio::select! {
                why = poll_fn(|cx| live.poll_end(cx)) => Some(why),
                () = traffic => None,
                () = tokio::time::sleep(ends.unwrap_or(Duration::MAX)) => None,
            };
            let _ = tell.send((why, begin.elapsed()));
        });
        ended
    }

    type Ended = tokio::sync::oneshot::Receiver<(Option<Ending>, Duration)>;

    #[tokio::test(start_paused = true)]
    async fn quiet_tunnels_end_first_and_busy_ones_at_the_deadline() {
        let (drain, tunnels) = (Drain::default(), Arc::new(Tunnels::default()));
        let quiet = run(&drain, open(&tunnels), None, None);
        let busy = run(&drain, open(&tunnels), Some(Duration::from_millis(500)), None);
        let done = run(&drain, open(&tunnels), Some(Duration::from_millis(500)), Some(Duration::from_secs(10)));
        let begin = Instant::now();
        drain.begin();
        let cut = drain.end_tunnels(&tunnels, QUIET, begin + Duration::from_secs(30)).await;
        assert_eq!(cut, Cut { quiet: 1, busy: 1 });
        drain.finished().await;
        let millis = |(why, after): (Option<Ending>, Duration)| (why, after.as_millis() / 100 * 100);
        assert_eq!(millis(quiet.await.unwrap()), (Some(Ending::Drained), 2_000));
        assert_eq!(millis(busy.await.unwrap()), (Some(Ending::Drained), 30_000));
        assert_eq!(millis(done.await.unwrap()), (None, 10_000));
        assert!(tunnels.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_cut_and_nobody_waits_when_all_end_by_themselves() {
        let (drain, tunnels) = (Drain::default(), Arc::new(Tunnels::default()));
        let _done = run(&drain, open(&tunnels), None, Some(Duration::from_secs(1)));
        let begin = Instant::now();
        drain.begin();
        assert_eq!(drain.end_tunnels(&tunnels, QUIET, begin + Duration::from_secs(30)).await, Cut::default());
        assert!(begin.elapsed() < QUIET, "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_has_passed_ends_all_at_once() {
        let (drain, tunnels) = (Drain::default(), Arc::new(Tunnels::default()));
        let _quiet = run(&drain, open(&tunnels), None, None);
        let begin = Instant::now();
        drain.begin();
        assert_eq!(drain.end_tunnels(&tunnels, QUIET, begin).await, Cut { quiet: 0, busy: 1 });
        drain.finished().await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}
