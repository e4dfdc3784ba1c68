//! The orderly end: nothing new is taken, idle tunnels go first, busy ones get until the deadline, the rest is cut and counted.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::drain::Cut;
use crate::tunnel::Proxy;

/// What became of the flows that were running when the end began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Drained {
    /// Tasks that ran when the end began.
    pub(super) running: usize,
    /// Tunnels that did not end by themselves.
    pub(super) cut: Cut,
    /// Tasks that are left after that: exchanges in the middle of a body, heads that were never finished.
    pub(super) dropped: usize,
}

// A tunnel that carries nothing for a sixth of the drain time counts as idle: long enough for a slow answer, and not all of them
// are cut at once at the deadline.
const QUIET_PART: u32 = 6;
const CUT_TIME: Duration = Duration::from_secs(1); // what was told to end ends within a poll, and writes its line

/// Waits for the flows of `proxy` to end: at most `deadline`, or for as long as they take where that is `None`. Listeners must be
/// closed already.
pub(super) async fn drain(proxy: &Proxy, deadline: Option<Duration>) -> Drained {
    proxy.drain.begin();
    let running = proxy.drain.running();
    let Some(time) = deadline else {
        proxy.drain.finished().await;
        return Drained { running, ..Drained::default() };
    };
    let cut = proxy.drain.end_tunnels(&proxy.tunnels, time / QUIET_PART, Instant::now() + time).await;
    let ended = timeout(CUT_TIME, proxy.drain.finished()).await.is_ok();
    Drained { running, cut, dropped: if ended { 0 } else { proxy.drain.running() } }
}
