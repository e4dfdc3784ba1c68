//! `connectionPool` and `retryBudget` that a rule gives a service port or a subset of it.

use crate::config::compile::rules::Rule;
use crate::config::kinds::destination_rule::{Settings, Subset};
use crate::route::ConnectionPool;

/// `None` where nothing is said that would have to be counted or done.
pub(super) fn connection_pool(
    rule: &Rule<'_, '_>,
    subset: Option<&Subset>,
    settings: &Settings,
) -> Option<ConnectionPool> {
    let written = settings.pool.unwrap_or_default();
    let budget = rule.retry_budget(subset);
    if written.is_unbounded() && budget.is_none() {
        return None;
    }
    let (resource, span) = rule.place_of_pool(subset, &written, budget.map(|budget| budget.span));
    Some(ConnectionPool {
        origin: resource.origin(span),
        connections_max: written.connections_max,
        pending_requests_max: written.pending_requests_max,
        requests_max: written.requests_max,
        retries_max: written.retries_max,
        retry_budget: budget.map(|budget| budget.value),
        lifetime: written.lifetime,
        idle: written.http_idle_timeout.or(written.idle_timeout),
        keepalive: written.keepalive,
        ..ConnectionPool::default()
    })
}
