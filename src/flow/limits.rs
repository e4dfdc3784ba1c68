//! The bounds of every wait and every buffer, as the settings' `limits` gives them, and what each is called where it is counted.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// How much a client may ask of us, and how long anything may take. Zero means *no limit* where the field says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Downstream connections open at once.
    pub connections: usize,
    /// The same, of one client.
    pub connections_per_client: usize,
    /// Requests of one downstream connection; zero: no limit.
    pub requests_per_connection: usize,
    /// A request's or answer's head; longer ones are refused with 431 (requests).
    pub head_bytes: usize,
    /// Fields of a head.
    pub head_fields: usize,
    /// From the first byte of a head to its end.
    pub head_time: Duration,
    /// Tunnels open at once.
    pub tunnels: usize,
    /// The same, of one client.
    pub tunnels_per_client: usize,
    /// Flows being resolved or dialled at once.
    pub pending_dials: usize,
    /// The same, of one client.
    pub pending_dials_per_client: usize,
    /// DNS queries under way at once.
    pub dns_queries: usize,
    /// Idle upstream connections kept, in all.
    pub idle_pool: usize,
    /// Longest pause inside a body.
    pub body_idle: Duration,
    /// Bytes per second that a client's body brings at least, once it has kept us waiting for `body_idle` in all; zero: no limit.
    pub body_rate_min: usize,
    /// Longest time between two requests of a connection; zero: no limit.
    pub keep_alive_idle: Duration,
    /// Longest pause of a tunnel in which neither side sends; zero: no limit.
    pub tunnel_idle: Duration,
    /// Longest life of a tunnel; zero: no limit.
    pub tunnel_lifetime: Duration,
    /// Requests of one client, CONNECT and hellos on `sni` listeners included; zero: no limit.
    pub requests_per_second_per_client: usize,
    /// Requests that a client may send at once after a pause; zero: as many as in a second.
    pub requests_burst_per_client: usize,
    /// Bytes of bodies and tunnels of one client, both ways together; zero: no limit.
    pub bytes_per_second_per_client: usize,
    /// Addresses of IPv6 with the same first so many bits are one client.
    pub ipv6_client_prefix: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_client: 2_000,
            requests_per_connection: 0,
            head_bytes: 32 * 1024,
            head_fields: 100,
            head_time: Duration::from_secs(10),
            tunnels: 20_000,
            tunnels_per_client: 2_000,
            pending_dials: 2_000,
            pending_dials_per_client: 400, // two DNS queries each leave a fifth of `dns_queries` to others
            dns_queries: 1_000,
            idle_pool: 512,
            body_idle: Duration::from_secs(300),
            body_rate_min: 240,                         // Kestrel's MinRequestBodyDataRate
            keep_alive_idle: Duration::from_secs(3600), // Envoy's idle_timeout of HTTP connections
            tunnel_idle: Duration::from_secs(3600),
            tunnel_lifetime: Duration::ZERO,
            requests_per_second_per_client: 0,
            requests_burst_per_client: 0,
            bytes_per_second_per_client: 0,
            ipv6_client_prefix: 64, // a host may take any address of its /64 (RFC 4862), and changes it by itself (RFC 8981)
        }
    }
}

impl Limits {
    /// The address that stands for the client of this peer wherever clients are counted, however a socket spells it.
    pub fn client(&self, peer: IpAddr) -> IpAddr {
        match peer.to_canonical() {
            IpAddr::V6(ip) => {
                let host_bits = 128_u32.saturating_sub(self.ipv6_client_prefix.into());
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
            }
            v4 => v4,
        }
    }
}

/// The limits by name, as `egret_limit_reached_total` counts what met them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// `connections`: the connection was closed.
    Connections,
    /// `connectionsPerClient`: the same.
    ConnectionsPerClient,
    /// `requestsPerConnection`: the connection ended after its answer.
    RequestsPerConnection,
    /// `headBytes`: 431.
    HeadBytes,
    /// `headFields`: 431.
    HeadFields,
    /// `headTime`: 408, or a connection that said nothing.
    HeadTime,
    /// `tunnels`: 503.
    Tunnels,
    /// `tunnelsPerClient`: 503.
    TunnelsPerClient,
    /// `pendingDials`: 503.
    PendingDials,
    /// `pendingDialsPerClient`: 503.
    PendingDialsPerClient,
    /// `dnsQueries`: 503.
    DnsQueries,
    /// `idlePool`: the oldest idle connection was closed.
    IdlePool,
    /// `bodyIdle`: 408, or a broken-off answer.
    BodyIdle,
    /// `bodyRateMin`: 408.
    BodyRateMin,
    /// `keepAliveIdle`: the connection was closed.
    KeepAliveIdle,
    /// `tunnelIdle`: the tunnel was closed.
    TunnelIdle,
    /// `tunnelLifetime`: the same.
    TunnelLifetime,
    /// `requestsPerSecondPerClient`: 429.
    RequestsPerSecondPerClient,
    /// `bytesPerSecondPerClient`: reading paused.
    BytesPerSecondPerClient,
    /// Descriptors of this process (`ulimit -n`): accepting paused, or 503.
    Descriptors,
}

impl Limit {
    /// Every limit, in the order of their numbers.
    pub const ALL: [Self; 20] = [
        Self::Connections,
        Self::ConnectionsPerClient,
        Self::RequestsPerConnection,
        Self::HeadBytes,
        Self::HeadFields,
        Self::HeadTime,
        Self::Tunnels,
        Self::TunnelsPerClient,
        Self::PendingDials,
        Self::PendingDialsPerClient,
        Self::DnsQueries,
        Self::IdlePool,
        Self::BodyIdle,
        Self::BodyRateMin,
        Self::KeepAliveIdle,
        Self::TunnelIdle,
        Self::TunnelLifetime,
        Self::RequestsPerSecondPerClient,
        Self::BytesPerSecondPerClient,
        Self::Descriptors,
    ];

    /// Its name in metrics: the settings' key in the spelling of labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerClient => "connections_per_client",
            Self::RequestsPerConnection => "requests_per_connection",
            Self::HeadBytes => "head_bytes",
            Self::HeadFields => "head_fields",
            Self::HeadTime => "head_time",
            Self::Tunnels => "tunnels",
            Self::TunnelsPerClient => "tunnels_per_client",
            Self::PendingDials => "pending_dials",
            Self::PendingDialsPerClient => "pending_dials_per_client",
            Self::DnsQueries => "dns_queries",
            Self::IdlePool => "idle_pool",
            Self::BodyIdle => "body_idle",
            Self::BodyRateMin => "body_rate_min",
            Self::KeepAliveIdle => "keep_alive_idle",
            Self::TunnelIdle => "tunnel_idle",
            Self::TunnelLifetime => "tunnel_lifetime",
            Self::RequestsPerSecondPerClient => "requests_per_second_per_client",
            Self::BytesPerSecondPerClient => "bytes_per_second_per_client",
            Self::Descriptors => "descriptors",
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_client_of_ipv6_is_a_network_and_of_ipv4_an_address() {
        let client = |prefix, ip: &str| {
            let limits = Limits { ipv6_client_prefix: prefix, ..Limits::default() };
            limits.client(ip.parse().unwrap()).to_string()
        };
        assert_eq!(client(64, "2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(client(64, "2001:db8:1:3:3:4:5:6"), "2001:db8:1:3::");
        assert_eq!(client(128, "2001:db8::7"), "2001:db8::7");
        assert_eq!(client(56, "2001:db8:1:2ff::7"), "2001:db8:1:200::");
        assert_eq!(client(32, "192.0.2.7"), "192.0.2.7");
        assert_eq!(client(32, "::ffff:192.0.2.7"), "192.0.2.7", "however a socket spells it");
    }

    #[test]
    fn limits_stand_at_their_numbers_each_under_a_name_of_its_own() {
        let mut names = std::collections::HashSet::new();
        for (number, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, number);
            assert!(names.insert(limit.name()), "{} stands twice", limit.name());
        }
    }

    #[test]
    fn one_client_alone_cannot_use_up_what_all_share() {
        let limits = Limits::default();
        assert!(limits.connections_per_client < limits.connections);
        assert!(limits.tunnels_per_client < limits.tunnels);
        assert!(limits.pending_dials_per_client < limits.pending_dials);
        assert!(2 * limits.pending_dials_per_client < limits.dns_queries, "A and AAAA");
    }
}
