//! Requests to clusters that a DestinationRule bounds: they are counted, and wait for a connection where all are in use.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::time::timeout_at;

use super::exchange::ExchangeError;
use super::http::{HttpPlan, Way};
use super::{Proxy, failed};
use crate::account::AccessRecord;
use crate::account::usage::{Held, Resource, Usage};
use crate::dial::{DialError, Dialed, PickBy, PoolKey};
use crate::flow::Failure;
use crate::http1::RequestHead;
use crate::route::Cluster;

impl Proxy {
    /// Counts a request until its answer has passed; `None` where nothing bounds the cluster.
    ///
    /// # Errors
    /// [`ExchangeError::Failed`] where as many are on their way as there may be.
    pub(super) fn admit(
        &self,
        cluster: &Cluster,
        plan: &HttpPlan<'_>,
        record: &mut AccessRecord,
    ) -> Result<Option<Held>, ExchangeError> {
        let held = self.dialer.hold(cluster, Resource::Requests);
        held.map_err(|error| ExchangeError::Failed(failed(&error, plan.target, record)))
    }

    /// A connection for a request to a cluster with bounds: one that becomes free, or a new one as soon as there may be one.
    ///
    /// # Errors
    /// As a dial; where none becomes free within the cluster's connect timeout, or too many wait already, that bound.
    #[expect(clippy::too_many_arguments, reason = "what one request depends on, and what a connection for it does")]
    pub(super) async fn bounded(
        &self,
        usage: &Arc<Usage>,
        way: &Way<'_>,
        plan: &HttpPlan<'_>,
        head: &RequestHead,
        key: &PoolKey,
        by: &PickBy<'_>,
        record: &mut AccessRecord,
    ) -> Result<Dialed, Failure> {
        let _pending = self
            .dialer
            .hold(way.cluster, Resource::PendingRequests)
            .map_err(|error| failed(&error, plan.target, record))?;
        let until = Instant::now() + way.cluster.connect_timeout;
        // Whoever came before has waited longer.
        let mut waits = usage.waiting() > 0;
        loop {
            let mut freed = pin!(usage.freed());
            freed.as_mut().enable();
            let mut full = None;
            if !waits {
                if let Some(idle) = self.dialer.become_idle(key, by) {
                    return Ok(idle);
                }
                match self.try_dial_for(way, plan, head, by, record).await {
                    Ok(dialed) => return Ok(dialed),
                    Err(error @ DialError::Overflow { resource: Resource::Connections, .. }) => full = Some(error),
                    Err(error) => return Err(failed(&error, plan.target, record)),
                }
            }
            let _waiting = usage.wait();
            if timeout_at(until.into(), freed).await.is_err()
                && let Some(error) = full
            {
                return Err(failed(&error, plan.target, record));
            }
            waits = false; // at the end of the time one look is left
        }
    }
}
