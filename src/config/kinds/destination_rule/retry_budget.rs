//! `retryBudget`: how many requests may be sent again at once (ISTIO 6.4).

use super::COUNT_MAX;
use crate::config::diagnostic::Context;
use crate::config::read::Fields;
use crate::config::yaml::Node;
use crate::route::connection_pool::RetryBudget;

pub(super) fn read_retry_budget(node: &Node, cx: &mut Context<'_>) -> Option<RetryBudget> {
    let mut fields = Fields::of(node, cx)?;
    let percent = fields.get("percent").map(|node| node.decimal(0.0..=100.0, cx));
    let min = fields.get("minRetryConcurrency").map(|node| node.whole(0..=COUNT_MAX, cx));
    fields.finish(cx);
    Some(RetryBudget {
        percent: percent.unwrap_or(Some(PERCENT))?,
        min: u32::try_from(min.unwrap_or(Some(MIN))?).unwrap_or(u32::MAX),
    })
}

const PERCENT: f64 = 20.0; // Envoy's defaults
const MIN: u64 = 3;
