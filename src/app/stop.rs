//! The orderly end: nothing new is taken, idle tunnels go first, busy ones get until the deadline, the rest is cut and counted.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use crate::account::Tunnels;
use crate::flow::Ending;
use crate::tunnel::Proxy;

// A tunnel that moved nothing for a sixth of the drain time counts as idle: long enough for a slow answer, and the deadline does
// not meet all of them at once.
const IDLE_PART: u32 = 6;
const LOOK_MAX: Duration = Duration::from_secs(1);
const CUT_TIME: Duration = Duration::from_secs(2); // tunnels that were told to end write their lines

/// What became of the flows that were running when the end began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Drained {
    /// Tasks that ran when the end began.
    pub(super) running: usize,
    /// Tunnels ended because nothing moved in them.
    pub(super) idle: usize,
    /// Tunnels cut at the deadline.
    pub(super) cut: usize,
    /// Tasks dropped after that: exchanges in the middle of a body.
    pub(super) dropped: usize,
}

/// Waits for the flows of `proxy` to end: at most `deadline`, or for as long as they take where that is `None`. Listeners must be
/// closed already.
pub(super) async fn drain(proxy: &Proxy, deadline: Option<Duration>) -> Drained {
    proxy.drain.begin();
    let mut drained = Drained { running: proxy.drain.running(), ..Drained::default() };
    let Some(deadline) = deadline else {
        proxy.drain.finished().await;
        return drained;
    };
    let end = Instant::now() + deadline;
    tokio::select! {
        biased;
        () = proxy.drain.finished() => return drained,
        () = end_idle(&proxy.tunnels, end, deadline / IDLE_PART, &mut drained.idle) => {}
    }
    proxy.tunnels.for_each(|live| {
        live.end(Ending::Drained);
        drained.cut += 1;
    });
    if timeout(CUT_TIME, proxy.drain.finished()).await.is_err() {
        drained.dropped = proxy.drain.running();
    }
    drained
}

/// Ends tunnels in which nothing moves for `idle`, until `end`.
async fn end_idle(tunnels: &Tunnels, end: Instant, idle: Duration, ended: &mut usize) {
    let mut seen: HashMap<u64, Seen> = HashMap::new();
    loop {
        let now = Instant::now();
        let mut open = HashMap::with_capacity(seen.len());
        tunnels.for_each(|live| {
            let moved = live.received() + live.sent();
            let seen = match seen.get(&live.id) {
                Some(before) if before.moved == moved => *before,
                _ => Seen { moved, since: now, ended: false },
            };
            let is_idle = now.duration_since(seen.since) >= idle;
            if is_idle && !seen.ended {
                live.end(Ending::Drained);
                *ended += 1;
            }
            open.insert(live.id, Seen { ended: is_idle, ..seen });
        });
        seen = open;
        sleep_until((now + (idle / 2).clamp(Duration::from_millis(10), LOOK_MAX)).min(end)).await;
        if Instant::now() >= end {
            return;
        }
    }
}

/// A tunnel as seen in the last round.
#[derive(Clone, Copy)]
struct Seen {
    moved: u64,
    since: Instant,
    ended: bool,
}
