//! `/events`: server-sent events, until the client leaves or its time is over; browsers come again by themselves.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use http::StatusCode;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::answer::{Answer, with_body};
use crate::account::events::{self, Event, Subscription};

/// Longest life of one stream: a client that does not read is not held for ever.
pub(super) const STREAM_TIME: Duration = Duration::from_secs(600);
const BEAT: Duration = Duration::from_secs(15); // below the idle limits of proxies on the way

struct Following {
    subscription: Subscription,
    begun: bool,
    _permit: OwnedSemaphorePermit,
}

pub(super) fn events(permit: OwnedSemaphorePermit) -> Answer {
    let following = Following { subscription: events::subscribe(), begun: false, _permit: permit };
    let stream = unfold(following, |mut following| async move {
        if !std::mem::replace(&mut following.begun, true) {
            return Some((frame("retry: 1000\n\n".to_owned()), following));
        }
        let text = match timeout(BEAT, following.subscription.next()).await {
            Ok(event) => text(&event),
            Err(_) => ":\n\n".to_owned(),
        };
        Some((frame(text), following))
    });
    with_body(StatusCode::OK, "text/event-stream", StreamBody::new(stream).boxed_unsync())
}

fn frame(text: String) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(text.into()))
}

/// JSON has no line break outside of strings and escapes those inside: one `data` line is enough.
fn text(event: &Event) -> String {
    format!("event: {}\ndata: {}\n\n", event.name, event.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_an_event_ends_its_line() {
        let event = Event { name: "refused", data: serde_json::json!({ "detail": "a\n\nevent: x\rb" }) };
        let text = text(&event);
        assert_eq!(text.lines().count(), 3, "{text:?}");
        assert!(text.ends_with("}\n\n") && !text.contains('\r'), "{text:?}");
    }
}
