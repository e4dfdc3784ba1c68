//! After a reload every live tunnel is judged again by the rules that are now in force.

use crate::account::live::Live;
use crate::config::settings::OnRevoke;
use crate::flow::{Ask, Ending, Flow};
use crate::route::Snapshot;
use crate::tunnel::Proxy;

/// Judges all live tunnels; gives the number of those that are no longer allowed.
pub(super) fn judge_again(proxy: &Proxy, snapshot: &Snapshot, what: OnRevoke) -> usize {
    if what == OnRevoke::Keep {
        return 0;
    }
    let mut revoked = 0;
    proxy.tunnels.for_each(|live| {
        let Some(why) = refusal(snapshot, live) else { return };
        revoked += 1;
        let ended = what == OnRevoke::Close;
        tracing::info!(target = %live.target, client = %live.source.peer, why, ended, "the new rules do not allow this tunnel");
        if ended {
            live.end(Ending::Revoked);
        }
    });
    revoked
}

fn refusal(snapshot: &Snapshot, live: &Live) -> Option<Box<str>> {
    let ask = if live.by_sni { Ask::Sni } else { Ask::Connect };
    let flow = Flow { source: &live.source, ask, target: live.target.clone() };
    snapshot.route(&flow).verdict.err().map(|refusal| refusal.detail)
}
