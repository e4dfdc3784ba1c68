//! The named thing we connect to: where its addresses come from, which way leads there, and what is wrapped around the stream.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::account::Traffic;
use crate::flow::{Host, Name, Origin, Target};
use crate::route::addresses::AddressRules;
use crate::route::balancing::{Outliers, Standing};
use crate::route::connection_pool::ConnectionPool;
use crate::route::http::retries::Retries;
use crate::route::probe::Probe;
use crate::route::upstream_http::UpstreamHttp;
use crate::tls::ClientTls;

pub use crate::route::balancing::Balancing;

/// Compiled from a service port, an optional subset and the DestinationRule that covers it. Live state (connections, counters,
/// ejections) is not here but in `dial` and `account`, keyed by [`Cluster::name`], so that it survives a reload;
/// [`Cluster::traffic`] leads there without a look-up.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Istio's name: `outbound|443||api.example.com`, `PassthroughCluster`.
    pub name: Arc<str>,
    /// Where it was declared.
    pub origin: Origin,
    /// Where addresses come from.
    pub discovery: Discovery,
    /// The way there.
    pub via: Via,
    /// The rule that says that no parent is on the way, where one does: `parents.never`, `egret.dev/via: direct`.
    pub straight: Option<Arc<Origin>>,
    /// TLS that we originate around whatever stream came out of `via`. Shared: few clusters of 100,000 have any.
    pub tls: Option<Arc<Origination>>,
    /// Bounds TCP and TLS of one attempt (`connectionPool.tcp.connectTimeout`, else the mesh's `connectTimeout`).
    pub connect_timeout: Duration,
    /// Which of the addresses found may be dialled.
    pub addresses: AddressRules,
    /// Our own addresses to dial from, first of the right family; empty: the kernel chooses (`dial.source`, `egret.dev/source`).
    pub source: Arc<[IpAddr]>,
    /// How an endpoint is picked among several.
    pub balancing: Balancing,
    /// Which HTTP is spoken to it.
    pub http: UpstreamHttp,
    /// What else a rule says of it; `None` for most.
    pub policy: Option<Arc<TrafficPolicy>>,
    /// When a request is sent again whose route says nothing of it; `None`: never. One for all clusters of a mesh.
    pub retries: Option<Arc<Retries>>,
    /// What is counted of flows to it.
    pub traffic: Traffic,
}

/// The parts of a DestinationRule's `trafficPolicy` that most rules leave out, apart from the cluster: of 100,000 few have any.
#[derive(Debug, Default)]
pub struct TrafficPolicy {
    /// What makes endpoints unequal: failures, age, distance. `None`: nothing does.
    pub standing: Option<Standing>,
    /// `connectionPool.tcp.idleTimeout` where set: replaces `limits.tunnelIdle`.
    pub idle_timeout: Option<Duration>,
    /// `connectionPool.http.maxRequestsPerConnection`; 0: no limit, 1: no keep-alive.
    pub requests_per_connection_max: u32,
    /// What it may hold at once, and how its connections are kept; `None`: nothing is said, and nothing counted.
    pub pool: Option<ConnectionPool>,
    /// `proxyProtocol`: each connection to it begins with a PROXY header.
    pub proxy_protocol: Option<ProxyProtocol>,
}

impl TrafficPolicy {
    /// Itself, unless it says nothing.
    pub fn if_any(self) -> Option<Arc<Self>> {
        let Self { standing, idle_timeout, requests_per_connection_max, pool, proxy_protocol } = &self;
        let says_nothing = standing.is_none()
            && idle_timeout.is_none()
            && *requests_per_connection_max == 0
            && pool.is_none()
            && proxy_protocol.is_none();
        (!says_nothing).then(|| Arc::new(self))
    }
}

/// Where the addresses of a cluster come from (ServiceEntry `resolution`; CONTRACT "resolution on explicit listeners").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// What the client asked for: its name resolved by us, or its literal (NONE, DYNAMIC_DNS, pass-through).
    Asked {
        /// `targetPort`: dialled in place of the asked-for port.
        port: Option<u16>,
    },
    /// Fixed names or addresses, each resolved when dialled (DNS, DNS_ROUND_ROBIN).
    Dns {
        /// At least one.
        endpoints: Vec<Endpoint>,
        /// Only the first address of the answer that may be dialled is used, taken anew for each connection (DNS_ROUND_ROBIN).
        first_address_only: bool,
    },
    /// Fixed addresses (STATIC); none: 503 UH.
    Static(Vec<Endpoint>),
    /// A rule refers to something that does not exist: 503 NC, with the sentence for the operator.
    Missing(Arc<str>),
}

/// One endpoint as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub at: EndpointAddress,
    /// Load balancing weight, at least 1.
    pub weight: u32,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointAddress {
    /// Name or literal, and port.
    Host(Host, u16),
    /// A Unix socket, already checked against `files.sockets`.
    Unix(PathBuf),
}

/// The version of a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Text.
    V1,
    /// Binary.
    V2,
}

impl ProxyProtocol {
    /// Istio's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "V1",
            Self::V2 => "V2",
        }
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host, port) => Target { host: host.clone(), port: *port }.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The way to a cluster.
#[derive(Clone, Debug)]
pub enum Via {
    /// TCP straight to an endpoint.
    Direct,
    /// A tunnel through a parent proxy.
    Connect(Arc<Hop>),
}

/// A parent proxy on the way. The cluster that goes `via` it is not resolved by us: the parent is told the name.
#[derive(Clone, Debug)]
pub struct Hop {
    /// The parent itself: its addresses, its TLS, its connect timeout. Its own `via` is [`Via::Direct`].
    pub cluster: Arc<Cluster>,
    /// `tunnel.protocol`: how it is asked for a tunnel.
    pub method: TunnelMethod,
    /// `tunnel.targetHost` and `targetPort`: asked for in place of the flow's own target.
    pub target: Option<Target>,
    /// Credentials; a rotated file or Secret counts with the reload that its change causes.
    pub authorization: Option<Authorization>,
    /// Plain HTTP goes to the parent in absolute-form instead of through a tunnel (`egret.dev/proxy-http: absolute-form`).
    pub absolute_form: bool,
    /// How each of its endpoints is asked from time to time whether it is there (`egret.dev/proxy-probe`).
    pub probe: Option<Arc<Probe>>,
    /// The rule that chose this parent.
    pub origin: Origin,
}

/// How a parent is asked for a tunnel (`tunnel.protocol`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TunnelMethod {
    /// CONNECT (RFC 9110 §9.3.6).
    #[default]
    Connect,
    /// `POST /` with the target as Host; the bodies of request and answer are the two directions (Envoy's TCP over POST).
    Post,
}

impl TunnelMethod {
    /// The method of the request.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Post => "POST",
        }
    }
}

/// `Proxy-Authorization` for a parent, already encoded; never printed.
#[derive(Clone)]
pub struct Authorization {
    /// Where it comes from, as the annotation says it: `secret://default/login`, `file:///etc/egret/login`.
    pub from: Arc<str>,
    /// The whole field value, such as `Basic dXNlcjpwYXNz`; or what is wrong with the credential it comes from.
    pub value: Result<Arc<str>, Arc<str>>,
}

impl Hop {
    /// What a 407 of the parent means, for the operator: where the credentials come from that it does not accept.
    pub fn about_407(&self) -> String {
        match &self.authorization {
            Some(authorization) => format!("it does not accept the credentials of {}", authorization.from),
            None => "it asks for credentials, and no egret.dev/proxy-authorization names any".to_owned(),
        }
    }
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.value.is_ok() { "Authorization(redacted)" } else { "Authorization(missing)" })
    }
}

/// TLS that we originate.
#[derive(Clone, Debug)]
pub struct Origination {
    /// Istio's mode, for `explain`: `SIMPLE`, `MUTUAL`.
    pub mode: &'static str,
    /// Which name goes out as SNI.
    pub sni: Sni,
    /// The compiled client; or why the flow has to fail (missing file, secret …): never plaintext instead.
    pub client: Result<ClientTls, Arc<str>>,
    /// The rule that asked for it.
    pub origin: Origin,
}

/// Which name goes out as SNI, and is verified where no `subjectAltNames` are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sni {
    /// `tls.sni`.
    Fixed(Name),
    /// The host asked for (Istio's auto-SNI); a literal sends none and is verified as an IP address.
    Asked,
}

impl Cluster {
    /// A cluster of which no rule says anything: dialled straight, in plain text, from whatever address the kernel chooses.
    pub fn new(
        name: Arc<str>,
        origin: Origin,
        discovery: Discovery,
        addresses: AddressRules,
        connect_timeout: Duration,
    ) -> Self {
        Self {
            traffic: Traffic::new(name.clone(), origin.resource.clone()),
            name,
            origin,
            discovery,
            via: Via::Direct,
            straight: None,
            tls: None,
            connect_timeout,
            addresses,
            source: Arc::default(),
            balancing: Balancing::default(),
            http: UpstreamHttp::default(),
            policy: None,
            retries: None,
        }
    }

    /// What is written of its endpoints; none where the target itself is dialled.
    pub fn endpoints(&self) -> &[Endpoint] {
        match &self.discovery {
            Discovery::Dns { endpoints, .. } | Discovery::Static(endpoints) => endpoints,
            Discovery::Asked { .. } | Discovery::Missing(_) => &[],
        }
    }

    /// True where the service says `HTTPS` on its own account: the stream that comes out is TLS of ours.
    pub fn originates_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// `outlierDetection`, where there is one.
    pub fn outliers(&self) -> Option<&Outliers> {
        self.standing()?.outliers.as_ref()
    }

    /// See [`TrafficPolicy::standing`].
    pub fn standing(&self) -> Option<&Standing> {
        self.policy.as_deref()?.standing.as_ref()
    }

    /// See [`TrafficPolicy::idle_timeout`].
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.policy.as_deref()?.idle_timeout
    }

    /// See [`TrafficPolicy::requests_per_connection_max`].
    pub fn requests_per_connection_max(&self) -> u32 {
        self.policy.as_deref().map_or(0, |policy| policy.requests_per_connection_max)
    }

    /// See [`TrafficPolicy::pool`].
    pub fn pool(&self) -> Option<&ConnectionPool> {
        self.policy.as_deref()?.pool.as_ref()
    }

    /// See [`TrafficPolicy::proxy_protocol`].
    pub fn proxy_protocol(&self) -> Option<ProxyProtocol> {
        self.policy.as_deref()?.proxy_protocol
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_with_its_counts_fits_256_bytes() {
        // 100,000 of them are held; the allocator's next size is 320.
        assert!(size_of::<Cluster>() <= 256 - 2 * size_of::<usize>(), "{}", size_of::<Cluster>());
    }
}
