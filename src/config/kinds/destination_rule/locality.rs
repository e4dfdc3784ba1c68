//! `localityLbSetting`: endpoints that are near first, or shares for places.

use crate::config::diagnostic::{Code, Context};
use crate::config::read::Fields;
use crate::config::source::{Span, Spanned};
use crate::config::yaml::Node;

/// `localityLbSetting`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalityLb {
    /// `enabled`, true unless written.
    pub enabled: bool,
    /// For workloads of a place, the shares of places.
    pub distribute: Vec<Distribute>,
    /// From region to region.
    pub failover: Vec<(Box<str>, Box<str>)>,
    /// Labels, `key` or `key=value`, the most important first.
    pub failover_priority: Vec<Box<str>>,
}

/// One entry of `distribute`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribute {
    /// `region/zone/*`.
    pub from: Box<str>,
    /// The same, with shares of 100.
    pub to: Vec<(Box<str>, u32)>,
}

impl Default for LocalityLb {
    fn default() -> Self {
        Self { enabled: true, distribute: Vec::new(), failover: Vec::new(), failover_priority: Vec::new() }
    }
}

pub(super) fn read_locality(node: &Node, has_outliers: bool, cx: &mut Context<'_>) -> Option<LocalityLb> {
    let mut fields = Fields::of(node, cx)?;
    let enabled = fields.boolean("enabled", cx).unwrap_or(true);
    let distribute_node = fields.get("distribute");
    let distribute = read_distribute(fields.list("distribute", cx), cx);
    let failover_node = fields.get("failover");
    let failover: Vec<_> = fields.list("failover", cx).iter().filter_map(|item| read_failover(item, cx)).collect();
    let priorities: Vec<_> = fields.list("failoverPriority", cx).iter().filter_map(|item| item.text(cx)).collect();
    fields.finish(cx);
    if let (Some(_), Some(node)) = (distribute_node, failover_node) {
        cx.report(Code::BadLocality, node.span, "`distribute` and `failover` exclude each other");
    }
    if failover_node.is_some()
        && let Some(label) = priorities.iter().find(|label| TOPOLOGY.contains(&label.value))
    {
        let message = format!("`failover` says already what {} would: they exclude each other", label.value);
        cx.report(Code::BadLocality, label.span, message);
    }
    if !has_outliers && (!failover.is_empty() || !priorities.is_empty()) {
        let report =
            cx.report(Code::FailoverWithoutOutliers, node.span, "without `outlierDetection` nothing fails over");
        report.help("an empty `outlierDetection: {}` beside `loadBalancer` has Istio's defaults");
    }
    let failover_priority = priorities.iter().map(|label| label.value.into()).collect();
    Some(LocalityLb { enabled, distribute, failover, failover_priority })
}

fn read_distribute(items: &[Node], cx: &mut Context<'_>) -> Vec<Distribute> {
    let (mut all, mut sources) = (Vec::new(), Vec::new());
    for item in items {
        let Some(mut fields) = Fields::of(item, cx) else { continue };
        let from = fields.text("from", cx);
        let shares = fields.map("to", cx);
        let span = fields.get("to").map_or(item.span, |node| node.span);
        fields.finish(cx);
        let mut to: Vec<(Box<str>, u32)> = Vec::new();
        for (place, node) in shares {
            check_locality(&place.text, place.span, to.iter().map(|(other, _)| &**other), cx);
            let share = node.whole(1..=100, cx).and_then(|share| u32::try_from(share).ok());
            to.extend(share.map(|share| (place.text.clone(), share)));
        }
        let total: u32 = to.iter().map(|(_, share)| share).sum();
        if to.len() == shares.len() && total != 100 {
            cx.report(Code::BadLocality, span, format!("the shares add up to {total}, and have to add up to 100"));
        }
        if let Some(Spanned { value, span }) = from {
            check_locality(value, span, sources.iter().copied(), cx);
            sources.push(value);
            all.push(Distribute { from: value.into(), to });
        }
    }
    all
}

/// `region[/zone[/subzone]]`; `*` stands for all there is below, and two entries have to be apart.
fn check_locality<'o>(text: &str, span: Span, others: impl Iterator<Item = &'o str>, cx: &mut Context<'_>) {
    let parts: Vec<&str> = text.split('/').collect();
    let problem = if text.is_empty() || parts.iter().any(|part| part.is_empty()) || parts.len() > 3 {
        "a place is written region, region/zone or region/zone/subzone".to_owned()
    } else if parts[..parts.len() - 1].iter().any(|part| part.contains('*'))
        || parts.last().is_some_and(|last| last.contains('*') && *last != "*")
    {
        "`*` stands for all of a place, at its end".to_owned()
    } else if let Some(other) = { others }.find(|other| covers(other, text) || covers(text, other)) {
        format!("{text} and {other} overlap")
    } else {
        return;
    };
    cx.report(Code::BadLocality, span, problem).found(text);
}

/// True if all of `inner` lies in `pattern`.
pub(in crate::config) fn covers(pattern: &str, inner: &str) -> bool {
    let mut parts = inner.split('/');
    for wanted in pattern.split('/') {
        if wanted == "*" {
            return true;
        }
        if parts.next() != Some(wanted) {
            return false;
        }
    }
    true
}

fn read_failover(item: &Node, cx: &mut Context<'_>) -> Option<(Box<str>, Box<str>)> {
    let mut fields = Fields::of(item, cx)?;
    let regions = ["from", "to"].map(|name| fields.text(name, cx));
    fields.finish(cx);
    for region in regions.iter().flatten() {
        if region.value.contains(['/', '*']) {
            let message = format!("{:?} is no region: flows fail over from region to region", region.value);
            cx.report(Code::BadLocality, region.span, message).found(region.value);
        }
    }
    let [from, to] = regions;
    let (from, to) = (from?, to?);
    if from.value == to.value {
        cx.report(Code::BadLocality, to.span, "a region does not fail over to itself").found(to.value);
    }
    Some((from.value.into(), to.value.into()))
}

/// The labels that `failover` goes by.
const TOPOLOGY: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];
