//! Lines of tunnels that are still open: one when they open, and one in each interval that they live.
//!
//! The line of the end stays the one that every flow has. No tunnel has a timer for this: one task looks at all of them.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::live::Tunnels;

/// The settings `accessLog`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// A line when a tunnel opens.
    pub start: bool,
    /// A line after each interval in the life of a tunnel; zero: none.
    pub interval: Duration,
}

/// What a line is about. The names are Envoy's, as in `%ACCESS_LOG_TYPE%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LineType {
    Start,
    Interim,
    /// The flow is over.
    #[default]
    End,
}

impl LineType {
    /// Of a flow of HTTP, CONNECT included, or of TLS that is forwarded as it comes.
    pub(super) const fn as_str(self, is_http: bool) -> &'static str {
        match (self, is_http) {
            (Self::Start, true) => "DownstreamTunnelSuccessfullyEstablished",
            (Self::Interim, true) => "DownstreamPeriodic",
            (Self::End, true) => "DownstreamEnd",
            (Self::Start, false) => "TcpUpstreamConnected",
            (Self::Interim, false) => "TcpPeriodic",
            (Self::End, false) => "TcpConnectionEnd",
        }
    }
}

/// Asks each tunnel for a line, once in each interval that it has lived through. Never ends by itself.
pub async fn sweep(tunnels: &Tunnels, mut progress: watch::Receiver<Progress>) {
    loop {
        let interval = progress.borrow_and_update().interval;
        if interval.is_zero() {
            if progress.changed().await.is_err() {
                return;
            }
            continue;
        }
        let next = Instant::now() + interval;
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return },
            () = sleep_until(next) => tunnels.for_each(|live| {
                if live.opened.elapsed() >= interval {
                    live.ask_for_line();
                }
            }),
        }
    }
}
