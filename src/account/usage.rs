//! What is held at once of a cluster that a DestinationRule bounds: connections, requests that wait for one, requests, retries.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::metrics;
use super::shares::Count;

/// What flows hold of one cluster. Only clusters with bounds have one.
#[derive(Debug, Default)]
pub struct Usage {
    held: [Count; Resource::ALL.len()],
    /// Requests that wait for one of the connections to become free.
    waiting: Count,
    freed: Notify,
}

/// What is bounded, as Envoy's circuit breakers have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Connections, those of tunnels among them, idle ones too.
    Connections,
    /// Requests without a connection: one is being opened, or they wait for one to become free.
    PendingRequests,
    /// Requests from their way out to the end of their answer.
    Requests,
    /// Requests that are being sent again.
    Retries,
}

/// One of a resource, until it is dropped.
#[derive(Debug)]
pub struct Held {
    usage: Arc<Usage>,
    of: Resource,
}

/// A request that waits for a connection, until it is dropped.
#[derive(Debug)]
pub struct Waiting<'u>(&'u Usage);

impl Usage {
    /// Takes one of a resource; `None` where `max` are held.
    pub fn take(self: &Arc<Self>, of: Resource, max: usize) -> Option<Held> {
        self.held[of as usize].take(max).then(|| Held { usage: self.clone(), of })
    }

    /// How many are held now.
    pub fn held(&self, of: Resource) -> usize {
        self.held[of as usize].get()
    }

    /// Counts a request among those that wait.
    pub fn wait(&self) -> Waiting<'_> {
        // The bound is that of pending requests, which it is one of.
        let _ = self.waiting.take(usize::MAX);
        Waiting(self)
    }

    /// Requests that wait for a connection.
    pub fn waiting(&self) -> usize {
        self.waiting.get()
    }

    /// Ends when a connection may be had: one was closed or has become idle. Those who wait are told in turn.
    pub fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// A connection has become idle.
    pub fn has_freed(&self) {
        self.freed.notify_one();
    }

    /// True while something is held.
    pub fn is_used(&self) -> bool {
        self.held.iter().any(|count| count.get() > 0)
    }
}

impl Resource {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Connections, Self::PendingRequests, Self::Requests, Self::Retries];

    /// Envoy's name, as in `/clusters` and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "max_connections",
            Self::PendingRequests => "max_pending_requests",
            Self::Requests => "max_requests",
            Self::Retries => "max_retries",
        }
    }

    /// The field of a traffic policy that bounds it.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Connections => "connectionPool.tcp.maxConnections",
            Self::PendingRequests => "connectionPool.http.http1MaxPendingRequests",
            Self::Requests => "connectionPool.http.http2MaxRequests",
            Self::Retries => "connectionPool.http.maxRetries",
        }
    }

    /// In a sentence.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::PendingRequests => "requests that wait for a connection",
            Self::Requests => "requests",
            Self::Retries => "retries",
        }
    }
}

impl Held {
    /// Whose it is.
    pub fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.usage.held[self.of as usize].give_back();
        if self.of == Resource::Connections {
            self.usage.has_freed();
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.give_back();
    }
}

/// A bound of a cluster turned something away.
pub fn overflowed(resource: Resource) {
    metrics::overflowed(resource);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_exact_and_what_is_given_back_can_be_taken_again() {
        let usage = Arc::new(Usage::default());
        for resource in Resource::ALL {
            assert!(usage.take(resource, 0).is_none(), "{resource:?}");
            let two = [usage.take(resource, 2).unwrap(), usage.take(resource, 2).unwrap()];
            assert!(usage.take(resource, 2).is_none());
            assert_eq!((usage.held(resource), usage.is_used()), (2, true));
            drop(two);
            assert_eq!((usage.held(resource), usage.is_used()), (0, false));
            assert!(usage.take(resource, 1).is_some());
        }
    }

    #[tokio::test]
    async fn who_waits_is_told_of_a_connection_that_ends_and_one_who_left_passes_it_on() {
        let usage = Arc::new(Usage::default());
        let held = usage.take(Resource::Connections, 1).unwrap();
        let (mut first, mut second) = (Box::pin(usage.freed()), Box::pin(usage.freed()));
        assert!(!first.as_mut().enable() && !second.as_mut().enable());
        drop(held);
        drop(first); // told, and gone before it looked
        second.await;
    }
}
