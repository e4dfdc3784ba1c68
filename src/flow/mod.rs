//! The words everybody uses: what a flow is, where it came from, what it asked for and how it ended. No I/O here.

pub mod finding;
pub mod limits;
pub mod listen;
pub mod outcome;
pub mod target;
pub mod transport;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

pub use finding::{Finding, Speaks, Unfit};
pub use limits::{Limit, Limits};
pub use listen::ListenAddress;
pub use outcome::{DialTrace, Ending, ErrorType, Failure, Outcome, Side};
pub use target::{Host, Name, Target, TargetError, put_ip};
pub use transport::{PeerCertificate, TlsSession, Transport};

/// One client request as policy sees it, borrowed from the bytes it came in.
///
/// Built by `accept::classify` for the proxy and by `cli::explain` for a question; [`crate::route::Snapshot::route`] reads nothing else.
#[derive(Clone, Debug)]
pub struct Flow<'a> {
    /// Who asks, and through which listener.
    pub source: &'a Source,
    /// How the client asked.
    pub ask: Ask<'a>,
    /// What the client asked for.
    pub target: Target,
}

/// How a client asked for its target.
#[derive(Clone, Copy, Debug)]
pub enum Ask<'a> {
    /// `CONNECT host:port`.
    Connect,
    /// A plain HTTP request (absolute-form, or inside a terminated tunnel).
    Http(Request<'a>),
    /// A ClientHello on an `sni` listener; the target is the SNI and the listener's upstream port.
    Sni,
}

/// The parts of an HTTP request that rules may look at.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method as sent (methods are case-sensitive, RFC 9110 §9.1).
    pub method: &'a str,
    /// What the client asked us to speak to the origin.
    pub scheme: Scheme,
    /// Path and query as sent, beginning with `/` (or `*` for `OPTIONS *`).
    pub path: &'a str,
    /// The request came inside a CONNECT tunnel that we terminate.
    pub inside_tunnel: bool,
    /// Its fields.
    pub fields: &'a dyn RequestFields,
}

/// The fields of a request, whoever read them.
pub trait RequestFields: fmt::Debug + Sync {
    /// Shows the value of each field of that name (any case), in order.
    fn each<'f>(&'f self, name: &str, look: &mut dyn FnMut(&'f [u8]));
}

/// Of a request that is only asked about.
#[derive(Clone, Copy, Debug)]
pub struct NoFields;

impl RequestFields for NoFields {
    fn each<'f>(&'f self, _: &str, _: &mut dyn FnMut(&'f [u8])) {}
}

/// The scheme of an absolute-form request; `ws` and `wss` are read as these with an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plaintext to the origin, unless a rule originates TLS.
    Http,
    /// TLS is originated by us.
    Https,
}

impl Scheme {
    /// The port meant when none is written.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// `http` or `https`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Where a flow came from: one per downstream connection.
#[derive(Clone, Debug)]
pub struct Source {
    /// The client's address, as a trusted PROXY header gives it, else that of the connection; `0.0.0.0:0` on a unix socket.
    pub peer: SocketAddr,
    /// The address that the client reached; the same holds.
    pub local: SocketAddr,
    /// What the connection runs over.
    pub transport: Transport,
    /// The listener that accepted it.
    pub listener: Arc<ListenerName>,
    /// Who we act for.
    pub workload: Arc<Workload>,
    /// Who the client proved to be; `None` where nobody asked. Boxed: each idle tunnel keeps its source.
    pub identity: Option<Box<Identity>>,
}

/// Name and kind of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerName {
    /// `listeners[].name`.
    pub name: String,
    /// Which answers it gives.
    pub kind: ListenerKind,
}

/// The kinds of listener, as far as they answer differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// Explicit proxy: CONNECT and absolute-form HTTP.
    Forward,
    /// TLS forwarded by SNI; there is nobody to send an HTTP status to.
    Sni,
}

/// Who a client proved to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A user of Basic authentication.
    User(Arc<str>),
    /// The holder of a client certificate; see [`PeerCertificate::name`].
    Certificate(Arc<str>),
}

impl Identity {
    /// The name as it stands in logs.
    pub fn as_str(&self) -> &str {
        match self {
            Self::User(name) | Self::Certificate(name) => name,
        }
    }
}

/// The workload that a listener acts for: it decides which resources apply (Istio: the proxy's node metadata).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Kubernetes service account.
    pub service_account: Arc<str>,
    /// Labels of the workload.
    pub labels: BTreeMap<String, String>,
}

impl Workload {
    /// True if the same resources apply to both: accounts make no difference.
    pub fn has_same_rules(&self, other: &Self) -> bool {
        self.namespace == other.namespace && self.labels == other.labels
    }

    /// This workload with the namespace and account that a certificate of the form `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT` names;
    /// `None` for all other names.
    pub fn certified(&self, name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(SPIFFE)?.split('/');
        let (domain, ns, namespace) = (parts.next()?, parts.next()?, parts.next()?);
        let (sa, account) = (parts.next()?, parts.next()?);
        let is_whole = [domain, namespace, account].iter().all(|part| !part.is_empty()) && parts.next().is_none();
        (is_whole && (ns, sa) == ("ns", "sa")).then(|| Self {
            namespace: namespace.into(),
            service_account: account.into(),
            labels: self.labels.clone(),
        })
    }
}

/// Before the trust domain of an identity.
pub const SPIFFE: &str = "spiffe://";

impl Default for Workload {
    fn default() -> Self {
        Self { namespace: "default".into(), service_account: "default".into(), labels: BTreeMap::new() }
    }
}

/// Where in the configuration something was written; shown by `explain` and the log, never to a client.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Origin {
    /// The file as named on the command line, or what stands for it (`built-in`, `egret.yaml allow[2]`).
    pub file: Arc<str>,
    /// 1-based; 0 when there is no file.
    pub line: u32,
    /// 1-based, in characters; 0 when there is no file.
    pub column: u32,
    /// `Kind namespace/name`.
    pub resource: Arc<str>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.file.is_empty()) {
            (0, true) => f.write_str(&self.resource),
            (0, false) => f.write_str(&self.file),
            (line, _) => write!(f, "{}:{line}:{}", self.file, self.column),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_small_part_of_an_idle_tunnels_2_kb() {
        assert!(size_of::<Source>() <= 112, "{}", size_of::<Source>()); // with the counts of its Arc, 128
    }
}
