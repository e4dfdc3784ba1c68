//! `/overview`: what the operator's page shows beside the tunnels, in one document. Its parts are pages too.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::Port;
use super::history::Second;
use super::tunnels::Rule;
use crate::account::destinations;
use crate::account::refusals::{self, Refused};
use crate::flow::{ErrorType, Source};
use crate::route::Snapshot;
use crate::route::remedy::{Remedy, client_denied, remedies};

#[derive(Debug, Serialize)]
pub(super) struct Overview {
    version: &'static str,
    /// `ready`, `starting`, `draining`.
    state: &'static str,
    generation: u64,
    tunnels: usize,
    /// What a client needs to change something: `token`, `socket` (nothing more, it came over one), or `none` (it cannot).
    changes: &'static str,
    history: Vec<Second>,
    destinations: Vec<Destination>,
    refusals: Vec<Refusal>,
}

#[derive(Debug, Serialize)]
pub(super) struct Destination {
    target: String,
    flows: u64,
    bytes: u64,
}

/// Flows refused for one reason, and what an operator could do.
#[derive(Debug, Serialize)]
pub(super) struct Refusal {
    /// Null where it was refused before its target was looked at.
    target: Option<String>,
    asked_by: &'static str,
    client: String,
    listener: String,
    reason: &'static str,
    detail: String,
    rule: Option<Rule>,
    nearest: Option<Nearest>,
    times: u64,
    first: String,
    last: String,
    /// The rules were changed meanwhile.
    allowed_now: bool,
    /// YAML, each of which would allow it.
    remedies: Vec<Remedy>,
}

#[derive(Debug, Serialize)]
struct Nearest {
    rule: Arc<str>,
    at: Option<String>,
    differs_in: &'static str,
    declared: Box<str>,
}

const REFUSALS: usize = 50; // each asks the rules for its nearest one

pub(super) fn overview(port: &Port, trusted: bool) -> Overview {
    Overview {
        version: env!("CARGO_PKG_VERSION"),
        state: port.readiness().map_or_else(str::trim_end, |()| "ready"),
        generation: port.proxy.snapshot.load().generation(),
        tunnels: port.proxy.tunnels.len(),
        changes: match (trusted, port.token.load().is_some()) {
            (true, _) => "socket",
            (false, true) => "token",
            (false, false) => "none",
        },
        history: port.history.list(),
        destinations: top(port, 20),
        refusals: refused(&port.proxy.snapshot.load(), REFUSALS),
    }
}

/// The heaviest destinations, open tunnels counted with what moved until now.
pub(super) fn top(port: &Port, max: usize) -> Vec<Destination> {
    let mut known = destinations::top(usize::MAX);
    let mut open: foldhash::HashMap<crate::flow::Target, (u64, u64)> = foldhash::HashMap::default();
    port.proxy.tunnels.for_each(|live| {
        let (flows, bytes) = open.entry(live.target.clone()).or_default();
        *flows += 1;
        *bytes += live.received() + live.sent();
    });
    for destination in &mut known {
        if let Some((flows, bytes)) = open.remove(&destination.target) {
            destination.flows += flows;
            destination.bytes += bytes;
        }
    }
    let shown = known.into_iter().map(|one| (one.target, one.flows, one.bytes));
    let mut all: Vec<_> =
        shown.chain(open.into_iter().map(|(target, (flows, bytes))| (target, flows, bytes))).collect();
    all.sort_unstable_by_key(|(_, flows, bytes)| std::cmp::Reverse((*bytes, *flows)));
    all.truncate(max);
    all.into_iter().map(|(target, flows, bytes)| Destination { target: target.to_string(), flows, bytes }).collect()
}

/// The latest refusals.
pub(super) fn refused(snapshot: &Snapshot, max: usize) -> Vec<Refusal> {
    refusals::list(max).iter().map(|refused| Refusal::of(refused, snapshot)).collect()
}

impl Refusal {
    fn of(refused: &Refused, snapshot: &Snapshot) -> Self {
        let flow = refused.flow();
        let choice = flow.as_ref().map(|flow| snapshot.route(flow));
        let nearest = flow.as_ref().and_then(|flow| snapshot.nearest(flow));
        let by_rules = refused.error == ErrorType::NotFound;
        let time =
            |at: std::time::SystemTime| Timestamp::try_from(at).map_or_else(|_| String::new(), |at| format!("{at:.3}"));
        let service = choice.as_ref().and_then(|choice| choice.service.as_deref());
        Self {
            target: refused.target.as_ref().map(ToString::to_string),
            asked_by: refused.asked.as_str(),
            client: refused.source.peer.ip().to_canonical().to_string(),
            listener: refused.source.listener.name.clone(),
            reason: refused.error.row().reason,
            detail: refused.detail.to_string(),
            rule: refused.rule.as_ref().map(|rule| Rule {
                route: "".into(),
                resource: rule.resource.clone(),
                at: (rule.line > 0).then(|| rule.to_string()),
            }),
            remedies: match (&flow, refused.error) {
                (Some(flow), error) => remedies(error, flow, service, nearest.as_ref()),
                (None, ErrorType::ClientDenied) => {
                    let Source { listener, peer, .. } = &*refused.source;
                    vec![client_denied(&listener.name, peer.ip().to_canonical())]
                }
                (None, _) => Vec::new(),
            },
            nearest: nearest.map(|nearest| Nearest {
                at: (nearest.origin.line > 0).then(|| nearest.origin.to_string()),
                rule: nearest.rule,
                differs_in: nearest.differs_in,
                declared: nearest.declared,
            }),
            times: refused.times,
            first: time(refused.first),
            last: time(refused.last),
            allowed_now: by_rules && choice.is_some_and(|choice| choice.verdict.is_ok()),
        }
    }
}

/// The parts, as documents of their own.
pub(super) fn part(name: &'static str, of: impl Serialize) -> Value {
    serde_json::json!({ name: of })
}
