//! What happens, told to whoever listens just then (`/events`). With nobody listening, an event costs one look at a number.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::sync::broadcast::{Receiver, Sender, channel, error::RecvError};

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// `opened`, `closed`, `refused`, `reload`, `drain`, `parent`, `dropped`.
    pub name: &'static str,
    /// An object.
    pub data: Value,
}

/// Somebody who listens, until dropped.
#[derive(Debug)]
pub struct Subscription(Receiver<Event>);

static LISTENERS: AtomicUsize = AtomicUsize::new(0);
static BUS: LazyLock<Sender<Event>> = LazyLock::new(|| channel(EVENTS_KEPT).0);

const EVENTS_KEPT: usize = 512; // for one that is slow; what it misses beyond is counted

/// Tells those who listen, if there are any.
pub fn tell(name: &'static str, data: impl FnOnce() -> Value) {
    if LISTENERS.load(Ordering::Relaxed) > 0 {
        let _ = BUS.send(Event { name, data: data() }); // the last one may have left meanwhile
    }
}

/// Listens from now on.
pub fn subscribe() -> Subscription {
    LISTENERS.fetch_add(1, Ordering::Relaxed);
    Subscription(BUS.subscribe())
}

impl Subscription {
    /// The next event; `dropped` with their number in place of those that came too fast. Dropping the future loses none.
    pub async fn next(&mut self) -> Event {
        match self.0.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(count)) => Event { name: "dropped", data: json!({ "count": count }) },
            Err(RecvError::Closed) => std::future::pending().await, // the bus is never dropped
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        LISTENERS.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_is_told_unless_somebody_listens_and_the_slow_are_told_what_they_miss() {
        tell("opened", || unreachable!("nobody listens"));
        let mut subscription = subscribe();
        for n in 0..EVENTS_KEPT + 3 {
            tell("opened", || json!({ "id": n }));
        }
        let first = subscription.next().await;
        assert_eq!((first.name, &first.data["count"]), ("dropped", &json!(3)));
        assert_eq!(subscription.next().await.data["id"], 3);
        drop(subscription);
        tell("opened", || unreachable!("nobody listens any more"));
    }
}
