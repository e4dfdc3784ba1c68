//! What is measured: the kinds of work, and how much of each makes a round.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A kind of work. The order is that of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// CONNECT, one small request and its answer through the tunnel, close
    Connect,
    /// Plain HTTP, absolute-form, keep-alive, small answer
    Http,
    /// Plain keep-alive request in, TLS to the origin
    TlsOrigination,
    /// Connect, ClientHello, forwarded by its SNI, answer, close
    Sni,
    /// As `connect`, each tunnel a stream of one of four HTTP/2 connections
    H2Connect,
    /// As `http`, each request a stream of one of four HTTP/2 connections; HTTP/1 to the origin
    H2Http,
    /// Download in one tunnel
    Bulk1,
    /// Download in sixteen tunnels at once
    Bulk16,
    /// 64-byte messages to and fro in one tunnel
    PingPong,
    /// CONNECT to what policy refuses: 403, close
    Refuse,
    /// CONNECT through a parent proxy (squid), one small request, close
    Chain,
    /// Idle tunnels: resident memory while they are open, and after
    Idle,
}

/// How a contestant is entered; each has its own port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// CONNECT from any client to any target
    Connect,
    /// Everything to the origin's plain port, nothing parsed
    Tcp,
    /// Absolute-form or reverse HTTP to the origin's plain port
    Http,
    /// The same to the origin's TLS port
    TlsOrigination,
    /// By SNI to the origin's hello port
    Sni,
    /// CONNECT is refused
    Refuse,
    /// CONNECT through the parent
    Chain,
    /// HTTP/2 by prior knowledge: CONNECT and requests to the origin's plain port
    H2,
}

/// How much work is a round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Operations, or for bulk bytes, or for idle tunnels.
    pub(crate) count: u64,
    pub(crate) concurrency: usize,
}

impl Scenario {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Http => "http",
            Self::TlsOrigination => "tls-origination",
            Self::Sni => "sni",
            Self::H2Connect => "h2-connect",
            Self::H2Http => "h2-http",
            Self::Bulk1 => "bulk1",
            Self::Bulk16 => "bulk16",
            Self::PingPong => "ping-pong",
            Self::Refuse => "refuse",
            Self::Chain => "chain",
            Self::Idle => "idle",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT + one small request + close",
            Self::Http => "plain HTTP, keep-alive, small answer",
            Self::TlsOrigination => "TLS origination, keep-alive, small answer",
            Self::Sni => "SNI routing, connect + hello + close",
            Self::H2Connect => "HTTP/2: CONNECT + one small request + end, 4 connections",
            Self::H2Http => "HTTP/2: requests, small answer, 4 connections",
            Self::Bulk1 => "bulk download, 1 tunnel",
            Self::Bulk16 => "bulk download, 16 tunnels",
            Self::PingPong => "ping-pong, 64 bytes, one tunnel",
            Self::Refuse => "refused CONNECT (403) + close",
            Self::Chain => "CONNECT through a squid parent + one small request + close",
            Self::Idle => "idle tunnels, resident memory",
        }
    }

    /// The doors that will do, the better first.
    pub(crate) fn doors(self) -> &'static [Door] {
        match self {
            Self::Connect => &[Door::Connect],
            Self::Bulk1 | Self::Bulk16 | Self::PingPong | Self::Idle => &[Door::Connect, Door::Tcp],
            Self::Http => &[Door::Http],
            Self::TlsOrigination => &[Door::TlsOrigination],
            Self::Sni => &[Door::Sni],
            Self::Refuse => &[Door::Refuse],
            Self::Chain => &[Door::Chain],
            Self::H2Connect | Self::H2Http => &[Door::H2],
        }
    }

    /// A full round takes a second or so of the proxy's core, or the memory would not tell.
    pub(crate) fn size(self, quick: bool) -> Size {
        let (full, quickly, concurrency) = match self {
            Self::Connect => (3_000, 100, 16),
            Self::Http => (20_000, 500, 64),
            Self::TlsOrigination => (20_000, 500, 64),
            Self::Sni => (3_000, 100, 16),
            Self::H2Connect => (3_000, 100, 16),
            Self::H2Http => (20_000, 500, 64),
            Self::Bulk1 | Self::Bulk16 => (2_000_000_000, 50_000_000, if self == Self::Bulk1 { 1 } else { 16 }),
            Self::PingPong => (20_000, 500, 1),
            Self::Refuse => (5_000, 100, 16),
            Self::Chain => (2_000, 50, 16),
            Self::Idle => (5_000, 200, 64),
        };
        Size { count: if quick { quickly } else { full }, concurrency }
    }

    /// Memory is no matter of luck: three rounds tell it.
    pub(crate) fn rounds(self, rounds: usize) -> usize {
        if self == Self::Idle { rounds.min(3) } else { rounds }
    }

    /// What the number of the report is.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Bulk1 | Self::Bulk16 => "CPU s/GB",
            Self::Idle => "KB per tunnel",
            _ => "CPU µs per operation",
        }
    }
}
