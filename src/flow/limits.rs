//! The bounds of every wait and every buffer, as the settings' `limits` gives them.

use std::time::Duration;

/// How much a client may ask of us, and how long anything may take. Zero durations mean *no limit* where the field says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Downstream connections open at once.
    pub connections: usize,
    /// The same, of one client address.
    pub connections_per_client: usize,
    /// A request's or answer's head; longer ones are refused with 431 (requests).
    pub head_bytes: usize,
    /// Fields of a head.
    pub head_fields: usize,
    /// From the first byte of a head to its end.
    pub head_time: Duration,
    /// Tunnels open at once.
    pub tunnels: usize,
    /// The same, of one client address.
    pub tunnels_per_client: usize,
    /// Flows being resolved or dialled at once.
    pub pending_dials: usize,
    /// DNS queries under way at once.
    pub dns_queries: usize,
    /// Idle upstream connections kept, in all.
    pub idle_pool: usize,
    /// Longest pause inside a body.
    pub body_idle: Duration,
    /// Longest pause of a tunnel in which neither side sends; zero: no limit.
    pub tunnel_idle: Duration,
    /// Longest life of a tunnel; zero: no limit.
    pub tunnel_lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_client: 2_000,
            head_bytes: 32 * 1024,
            head_fields: 100,
            head_time: Duration::from_secs(10),
            tunnels: 20_000,
            tunnels_per_client: 2_000,
            pending_dials: 2_000,
            dns_queries: 1_000,
            idle_pool: 512,
            body_idle: Duration::from_secs(300),
            tunnel_idle: Duration::from_secs(3600),
            tunnel_lifetime: Duration::ZERO,
        }
    }
}
