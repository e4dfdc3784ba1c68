//! Compiled rules, pure: [`Snapshot::route`] says for a flow what will be done and why, without clock, randomness or I/O.

pub mod addresses;
pub mod authz;
pub mod balancing;
pub mod cluster;
pub mod connection_pool;
pub mod consistency;
pub mod hosts;
pub mod http;
mod nearest;
pub mod parents;
pub mod probe;
pub mod remedy;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
pub(crate) mod shared_cases;
pub mod snapshot;
pub mod upstream_http;
mod walk;
pub mod weighed;

use std::sync::Arc;

use crate::flow::{ErrorType, Origin};

pub use addresses::{AddressPolicy, AddressRules, IpSet};
pub use cluster::{Cluster, Discovery, Hop, Origination, TunnelMethod, Via};
pub use connection_pool::ConnectionPool;
pub use consistency::Expected;
pub use snapshot::{Mode, Outbound, Snapshot, View};

/// What [`Snapshot::route`] decided: the whole plan, with what `explain` and the log need to say why.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The service that matched host and port, if any.
    pub service: Option<Arc<Service>>,
    /// Allowed, with the way; or refused.
    pub verdict: Result<Route, Refusal>,
    /// What REGISTRY_ONLY would have refused, had `report: true` not been set.
    pub would_deny: Option<Refusal>,
    /// The rule of an AuthorizationPolicy by which it may go, where one was needed.
    pub authorized: Option<Origin>,
    /// The AuthorizationPolicy of action AUDIT that holds for it; it changes nothing else.
    pub audited: Option<Origin>,
}

/// Where an allowed flow goes.
#[derive(Clone, Debug)]
pub struct Route {
    /// What to connect to.
    pub cluster: Arc<Cluster>,
    /// Name for the log: `default`, `allow_any`, `would_deny`, or the route's own.
    pub name: Arc<str>,
    /// The rule that decided.
    pub origin: Origin,
    /// A CONNECT is a blind tunnel, or HTTP of ours is spoken inside it.
    pub tunnel: TunnelKind,
    /// What the first bytes of the tunnel are held against; `None`: nothing is judged.
    pub expected: Option<Expected>,
    /// What a VirtualService has done with the request beside sending it on; `None`: nothing.
    pub taken: Option<http::Taken>,
}

impl Route {
    /// The route answers requests itself: nothing goes out, and the cluster is the service's own.
    pub fn answers(&self) -> bool {
        self.taken.as_ref().is_some_and(|taken| taken.actions.answer.is_some())
    }
}

/// What a CONNECT to this route becomes (CONTRACT "CONNECT meets routes").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelKind {
    /// Bytes are copied; `200` goes out after the dial.
    Opaque,
    /// HTTP is served inside; `200` goes out at once. Holds the reason: `VirtualService default/foo`.
    Terminated(Arc<str>),
    /// Decided by the first client bytes: HTTP is served by the HTTP code, anything else is copied (empty protocol with http rules). `200` at once.
    Detect(Arc<str>),
}

/// Why a flow is refused by policy, before any I/O.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Row of the outcome table.
    pub error: ErrorType,
    /// Which of the seven stages refused.
    pub stage: Stage,
    /// One sentence for the client.
    pub detail: Box<str>,
    /// The rule that refused, where one did.
    pub origin: Option<Origin>,
}

impl Refusal {
    /// The cluster that the flow counts to: Istio's, where the registry knows no way for it; none where a rule refuses.
    pub fn cluster(&self) -> Option<&'static str> {
        (self.error == ErrorType::NotFound).then_some(BLACK_HOLE_CLUSTER)
    }
}

/// The seven stages of a decision, in order (DESIGN 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Who asks, and may they use this listener.
    Listener,
    /// What is asked for.
    Target,
    /// Is the pair of host and port known.
    Registry,
    /// May this client ask this of that service.
    Authorization,
    /// Where it goes.
    Route,
    /// What DNS gave, and whether that may be dialled.
    Addresses,
    /// Does what flows fit what was asked.
    Consistency,
}

impl Stage {
    /// All, in the order in which they decide.
    pub const ALL: [Self; 7] = [
        Self::Listener,
        Self::Target,
        Self::Registry,
        Self::Authorization,
        Self::Route,
        Self::Addresses,
        Self::Consistency,
    ];

    /// The name in `explain -o json`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Target => "target",
            Self::Registry => "registry",
            Self::Authorization => "authorization",
            Self::Route => "route",
            Self::Addresses => "addresses",
            Self::Consistency => "consistency",
        }
    }
}

/// One port of one service, as seen from one namespace: what the registry finds for a pair of host and port.
#[derive(Clone, Debug)]
pub struct Service {
    /// The host as declared (`*.example.com`), lower case.
    pub host: Arc<str>,
    /// The declared port.
    pub port: u16,
    /// The port's protocol.
    pub protocol: Protocol,
    /// Where it was declared.
    pub origin: Origin,
    /// All hosts of the same resource, and what else the service is called: names that fit a tunnel to any of them.
    pub hosts: Arc<[Arc<str>]>,
    /// The annotation `egret.dev/consistency`, where the service has its own rule.
    pub consistency: Option<Arc<consistency::Policy>>,
    /// The service's own cluster.
    pub cluster: Arc<Cluster>,
    /// Routes of the VirtualService bound to this host, if any.
    pub routes: Option<Arc<http::Routes>>,
    /// The policies that protect it by name; `None` for most.
    pub policies: Option<Arc<authz::Policies>>,
}

/// Protocol of a service port (ISTIO 2.1), as far as flows differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP2, prior knowledge.
    Http2,
    /// GRPC, GRPC-WEB.
    Grpc,
    /// HTTPS, TLS: passed through, matched by SNI.
    Tls,
    /// TCP, MONGO, REDIS, MYSQL.
    Tcp,
    /// Not declared: detected from the first bytes.
    Auto,
}

impl Protocol {
    /// HTTP kinds.
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }

    /// The name to show; `TLS` stands for HTTPS too, `TCP` for what is plain TCP to us.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Http2 => "HTTP2",
            Self::Grpc => "GRPC",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Auto => "detected",
        }
    }
}

/// The nearest rule that would have allowed a refused flow, for `explain` and the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// `ServiceEntry default/api`.
    pub rule: Arc<str>,
    /// Where it stands.
    pub origin: Origin,
    /// In what it differs: `port`, `host`, `protocol`.
    pub differs_in: &'static str,
    /// The declared value that differs.
    pub declared: Box<str>,
}

/// The reserved cluster names of Istio.
pub const PASSTHROUGH_CLUSTER: &str = "PassthroughCluster";
/// The cluster that refuses.
pub const BLACK_HOLE_CLUSTER: &str = "BlackHoleCluster";
