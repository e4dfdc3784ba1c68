//! `connectionPool` and `retryBudget` of a DestinationRule: what a cluster may hold at once, and how its connections are kept.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::account::usage::{Resource, Usage};
use crate::flow::Origin;

/// Part of the clusters whose rule says something of it; the others have none, and nothing is counted for them.
#[derive(Debug, Default)]
pub struct ConnectionPool {
    /// The traffic policy that says so.
    pub origin: Origin,
    /// `tcp.maxConnections`.
    pub connections_max: Option<u32>,
    /// `http.http1MaxPendingRequests`.
    pub pending_requests_max: Option<u32>,
    /// `http.http2MaxRequests`; also of HTTP/1.1.
    pub requests_max: Option<u32>,
    /// `http.maxRetries`.
    pub retries_max: Option<u32>,
    /// `retryBudget`: counts in place of `maxRetries`.
    pub retry_budget: Option<RetryBudget>,
    /// `tcp.maxConnectionDuration`: tunnels end then; connections of HTTP serve no further request.
    pub lifetime: Option<Duration>,
    /// How long a connection of HTTP stays without a request (`http.idleTimeout`, else `tcp.idleTimeout`).
    pub idle: Option<Duration>,
    /// `tcp.tcpKeepalive`.
    pub keepalive: Option<Keepalive>,
    /// Found once for all flows.
    pub(crate) usage: OnceLock<Arc<Usage>>,
}

/// `retryBudget`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// `percent` of the active requests, 0 to 100.
    pub percent: f64,
    /// `minRetryConcurrency`: so many in any case.
    pub min: u32,
}

/// `tcpKeepalive`; what is not said is the kernel's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// Probes without an answer until the connection is given up.
    pub probes: Option<u32>,
    /// Without traffic until the first probe; whole seconds.
    pub time: Option<Duration>,
    /// Between probes; whole seconds.
    pub interval: Option<Duration>,
}

impl ConnectionPool {
    /// What is held of the cluster, once somebody has found it.
    pub fn usage(&self, find: impl FnOnce() -> Arc<Usage>) -> &Arc<Usage> {
        self.usage.get_or_init(find)
    }

    /// How many of a resource may be held; `None`: any number. A budget goes by what is `used` now.
    pub fn max(&self, of: Resource, used: &Usage) -> Option<usize> {
        let max = match of {
            Resource::Connections => self.connections_max,
            Resource::PendingRequests => self.pending_requests_max,
            Resource::Requests => self.requests_max,
            Resource::Retries => match self.retry_budget {
                Some(budget) => return Some(budget.max(used)),
                None => self.retries_max,
            },
        };
        max.map(|max| max as usize)
    }

    /// The field that bounds a resource.
    pub fn field(&self, of: Resource) -> &'static str {
        match (of, self.retry_budget) {
            (Resource::Retries, Some(_)) => "retryBudget",
            (of, _) => of.field(),
        }
    }
}

impl RetryBudget {
    /// Envoy's: a part of the requests that are active or wait, and never fewer than the minimum.
    fn max(self, used: &Usage) -> usize {
        let active = used.held(Resource::Requests);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most all of them"
        )]
        let part = (active as f64 * self.percent / 100.0) as usize;
        part.max(self.min as usize)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_part_of_the_requests_and_never_below_its_minimum() {
        let usage = Arc::new(Usage::default());
        let pool = ConnectionPool {
            retries_max: Some(7),
            retry_budget: Some(RetryBudget { percent: 20.0, min: 3 }),
            ..ConnectionPool::default()
        };
        assert_eq!(pool.max(Resource::Retries, &usage), Some(3), "in place of maxRetries");
        let held: Vec<_> = (0..19).map(|_| usage.take(Resource::Requests, usize::MAX).unwrap()).collect();
        assert_eq!(pool.max(Resource::Retries, &usage), Some(3));
        let more: Vec<_> = (0..6).map(|_| usage.take(Resource::Requests, usize::MAX).unwrap()).collect();
        assert_eq!(pool.max(Resource::Retries, &usage), Some(5));
        drop((held, more));
        assert_eq!(pool.max(Resource::Connections, &usage), None);
        let plain = ConnectionPool { retries_max: Some(7), ..ConnectionPool::default() };
        assert_eq!(plain.max(Resource::Retries, &usage), Some(7));
    }
}
