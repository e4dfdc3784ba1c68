//! How parents are asked whether they are there: a CONNECT of our own from time to time (`egret.dev/proxy-probe`).

use std::time::Duration;

use crate::flow::{Origin, Target};

/// One probe of each endpoint of a parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What the parent is asked to open; the tunnel is closed at once.
    pub target: Target,
    /// From the end of one probe to the next.
    pub interval: Duration,
    /// Bounds one probe: name, TCP, TLS and the answer.
    pub timeout: Duration,
    /// Probes that fail in a row until the parent counts as down.
    pub unhealthy_threshold: u32,
    /// Probes that succeed in a row until it counts as up again.
    pub healthy_threshold: u32,
    /// The annotation.
    pub origin: Origin,
}

impl Probe {
    /// With the defaults: those of HAProxy's checks (fall 3, rise 2), not as often.
    pub fn new(target: Target, origin: Origin) -> Self {
        Self {
            target,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(3),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
            origin,
        }
    }
}
