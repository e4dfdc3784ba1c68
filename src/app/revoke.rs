//! After a reload every live tunnel is judged again by the rules that are now in force.

use serde::Serialize;

use crate::account::live::Live;
use crate::config::settings::OnRevoke;
use crate::flow::{Ask, Ending, Flow, Identity};
use crate::route::{Refusal, Snapshot};
use crate::tunnel::Proxy;

/// The tunnels that the rules in force would not open.
#[derive(Debug, Default)]
pub(super) struct Revocation {
    /// All of them.
    pub(super) count: usize,
    /// They were told to end.
    pub(super) closed: bool,
    /// The first [`SHOWN_MAX`].
    pub(super) first: Vec<Revoked>,
}

/// A tunnel that is no longer allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Revoked {
    id: u64,
    client: Box<str>,
    identity: Option<Box<str>>,
    target: Box<str>,
    /// Why, in a sentence.
    why: Box<str>,
    /// `file:line:column` of the rule that refuses; null where none does and none allows.
    rule: Option<Box<str>>,
}

/// Judges all live tunnels, and ends those that are no longer allowed where the settings want that.
pub(super) fn judge_again(proxy: &Proxy, snapshot: &Snapshot, what: OnRevoke) -> Revocation {
    let mut revocation = Revocation { closed: what == OnRevoke::Close, ..Revocation::default() };
    if what == OnRevoke::Keep {
        return revocation;
    }
    proxy.tunnels.for_each(|live| {
        let Some(refusal) = refusal(snapshot, live) else { return };
        revocation.count += 1;
        if revocation.first.len() < SHOWN_MAX {
            let revoked = Revoked::new(live, &refusal);
            let (ended, Revoked { id, client, target, why, rule, .. }) = (revocation.closed, &revoked);
            tracing::info!(id, client, target, why, rule, ended, "the new rules do not allow this tunnel");
            revocation.first.push(revoked);
        }
        if revocation.closed {
            live.end(Ending::Revoked);
        }
    });
    revocation
}

const SHOWN_MAX: usize = 100; // the number of all is told too

impl Revoked {
    fn new(live: &Live, refusal: &Refusal) -> Self {
        Self {
            id: live.id,
            client: live.source.peer.to_string().into(),
            identity: live.source.identity.as_deref().map(Identity::as_str).map(Into::into),
            target: live.target.to_string().into(),
            why: refusal.detail.clone(),
            rule: refusal.origin.as_ref().map(|origin| origin.to_string().into()),
        }
    }
}

fn refusal(snapshot: &Snapshot, live: &Live) -> Option<Refusal> {
    let ask = if live.by_sni { Ask::Sni } else { Ask::Connect };
    let flow = Flow { source: &live.source, ask, target: live.target.clone() };
    snapshot.route(&flow).verdict.err()
}
