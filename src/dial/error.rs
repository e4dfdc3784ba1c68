//! Why there is no upstream: one variant per step, with what the operator needs; [`DialError::failure`] says what the client is told.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::resolve::ResolveError;
use crate::account::usage::Resource;
use crate::flow::{ErrorType, Failure, Name, Origin, Target};
use crate::route::addresses::Prohibited;
use crate::tls::HandshakeError;

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum DialError {
    /// The name has no address.
    #[error("resolve {name}")]
    Resolve {
        /// The name that was asked for.
        name: Name,
        /// What DNS said.
        #[source]
        source: ResolveError,
    },
    /// Every address found is closed to this cluster; the first one is named.
    #[error("address policy")]
    Prohibited(#[source] Prohibited),
    /// The address is a listener of ours.
    #[error("{0} is a listener of this proxy")]
    Loop(SocketAddr),
    /// The cluster has no endpoint.
    #[error("cluster {0} has no endpoint")]
    NoEndpoint(Arc<str>),
    /// Every endpoint failed of late and is left out (`outlierDetection`).
    #[error("every endpoint of cluster {cluster} is left out by outlierDetection, the first for another {left:.1?}")]
    Ejected {
        /// The cluster.
        cluster: Arc<str>,
        /// Until the first of them is used again.
        left: Duration,
    },
    /// A rule refers to something that does not exist or cannot be used.
    #[error("{0}")]
    Configuration(Arc<str>),
    /// The certificate, key or authority that TLS of ours needs is missing or of no use.
    #[error("{0}")]
    Credential(Arc<str>),
    /// A bound of ours is reached.
    #[error("the limit of {max} {what} is reached")]
    Overloaded {
        /// What is bounded.
        what: &'static str,
        /// The bound.
        max: usize,
    },
    /// A bound of the rule of a cluster is reached.
    #[error("{} ({rule}): {field}: {max} {} of {cluster} are held", rule.resource, resource.noun())]
    Overflow {
        /// What is bounded.
        resource: Resource,
        /// The field that says so.
        field: &'static str,
        /// The bound.
        max: usize,
        /// Whose.
        cluster: Arc<str>,
        /// Where the rule stands.
        rule: Box<Origin>,
    },
    /// TCP, or the Unix socket.
    #[error("connect to {peer}")]
    Connect {
        /// Address or path.
        peer: Box<str>,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Not connected in time.
    #[error("{step}: not done within {after:?}")]
    Timeout {
        /// `connect to 192.0.2.7:443`, `TLS handshake with 192.0.2.7:443`, `CONNECT to …`.
        step: Box<str>,
        /// The time it had.
        after: Duration,
    },
    /// TLS of ours around the stream.
    #[error("TLS with {name}")]
    Tls {
        /// Whom the certificate has to name.
        name: Box<str>,
        /// Why it failed.
        #[source]
        source: HandshakeError,
    },
    /// The way to a parent proxy, or what it said.
    #[error("parent proxy {hop}")]
    Hop {
        /// The parent, as written in the configuration.
        hop: Arc<str>,
        /// What happened on the way to it.
        #[source]
        source: Box<DialError>,
    },
    /// The parent answered other than 2xx.
    #[error("parent proxy {hop} answered {status} {reason}{}{about}", if about.is_empty() { "" } else { ": " })]
    HopRefused {
        /// The parent, as written in the configuration.
        hop: Arc<str>,
        /// Its status.
        status: u16,
        /// Its reason phrase, printable ASCII, bounded.
        reason: Box<str>,
        /// What that means, where we know more; for the operator.
        about: Box<str>,
    },
    /// The parent's answer to CONNECT is no HTTP answer.
    #[error("parent proxy {hop}: {problem}")]
    HopProtocol {
        /// The parent, as written in the configuration.
        hop: Arc<str>,
        /// What is wrong.
        problem: Box<str>,
        /// What it was asked in.
        version: &'static str,
    },
}

impl DialError {
    /// What the client and the operator are told. The client's sentence names the target and nothing of our inside.
    pub fn failure(&self, target: &Target) -> Failure {
        let mut failure = Failure::new(self.error_type(), self.detail(target)).logged(self.chain(target));
        failure.hop_status = self.hop_status();
        failure
    }

    /// Row of the outcome table.
    pub fn error_type(&self) -> ErrorType {
        match self {
            Self::Resolve { source, .. } => source.error_type(),
            Self::Prohibited(_) => ErrorType::IpProhibited,
            Self::Loop(_) => ErrorType::LoopDetected,
            Self::NoEndpoint(_) | Self::Ejected { .. } => ErrorType::Unavailable,
            Self::Configuration(_) => ErrorType::Configuration,
            Self::Credential(_) => ErrorType::Credential,
            Self::Overloaded { .. } | Self::Overflow { .. } => ErrorType::Overloaded,
            Self::Connect { source, .. } => connect_error_type(source),
            Self::Timeout { .. } => ErrorType::ConnectionTimeout,
            Self::Tls { source, .. } => source.error,
            Self::Hop { source, .. } => source.error_type(),
            Self::HopRefused { .. } => ErrorType::HopRefused,
            Self::HopProtocol { .. } => ErrorType::UpstreamProtocol,
        }
    }

    /// True where this process, or the machine, may open no more files.
    pub fn is_for_want_of_descriptors(&self) -> bool {
        match self {
            Self::Connect { source, .. } => is_out_of_descriptors(source),
            Self::Hop { source, .. } => source.is_for_want_of_descriptors(),
            _ => false,
        }
    }

    /// What is bounded, and the rule that bounds it.
    pub fn overflow(&self) -> Option<(Resource, &Origin)> {
        match self {
            Self::Overflow { resource, rule, .. } => Some((*resource, rule)),
            _ => None,
        }
    }

    /// The status of the parent that refused.
    pub fn hop_status(&self) -> Option<u16> {
        match self {
            Self::HopRefused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// True where another endpoint of the same cluster may do better.
    pub(super) fn is_of_one_endpoint(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Timeout { .. } | Self::Resolve { .. } | Self::Tls { .. } => true,
            Self::Hop { source, .. } => source.is_of_one_endpoint(),
            Self::Prohibited(_) | Self::Loop(_) | Self::Ejected { .. } => true,
            Self::NoEndpoint(_)
            | Self::Configuration(_)
            | Self::Credential(_)
            | Self::Overloaded { .. }
            | Self::Overflow { .. }
            | Self::HopRefused { .. }
            | Self::HopProtocol { .. } => false,
        }
    }

    /// True where another parent may do better, nothing of the client having been sent. What a parent says of the request (4xx, 407
    /// among them), and what is wrong with ours, others would say too; that it cannot reach the target need not hold for them.
    pub(super) fn is_of_one_parent(&self) -> bool {
        match self {
            Self::HopRefused { status, .. } => matches!(status, 500 | 502..=504),
            Self::HopProtocol { .. } => true,
            error => error.is_of_one_endpoint(),
        }
    }

    /// How much the error tells, to choose one among several attempts: what happened beats what did not happen.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::Overloaded { .. } | Self::Overflow { .. } | Self::Configuration(_) | Self::Credential(_) => 6,
            Self::Tls { .. } | Self::HopRefused { .. } | Self::HopProtocol { .. } | Self::Loop(_) => 5,
            Self::Connect { source, .. } if connect_error_type(source) != ErrorType::Unroutable => 4,
            Self::Timeout { .. } => 3,
            Self::Connect { .. } => 2,
            Self::Hop { source, .. } => source.weight(),
            Self::Prohibited(_) | Self::Ejected { .. } => 1,
            Self::Resolve { .. } | Self::NoEndpoint(_) => 0,
        }
    }

    fn detail(&self, target: &Target) -> String {
        match self {
            Self::Resolve { source, .. } => format!("the name of {target} does not resolve: {source}"),
            Self::Prohibited(prohibited) => format!("{target} may not be reached: its address is {}", prohibited.class),
            Self::Loop(_) => format!("{target} leads back to this proxy"),
            Self::NoEndpoint(_) => format!("no endpoint is known for {target}"),
            Self::Ejected { .. } => format!("every endpoint of {target} failed of late, and none is tried for a while"),
            Self::Configuration(_) | Self::Credential(_) => format!("the rule for {target} cannot be carried out"),
            Self::Overloaded { what, max } => format!("the limit of {max} {what} is reached"),
            Self::Overflow { resource, field, max, rule, .. } => {
                format!("the limit of {max} {} is reached: {field} of {}", resource.noun(), rule.resource)
            }
            Self::Connect { source, .. } => match connect_error_type(source) {
                ErrorType::ConnectionRefused => format!("{target} refused the connection"),
                ErrorType::Unroutable => format!("{target} cannot be reached"),
                ErrorType::Overloaded => format!("no connection to {target} can be opened now"),
                _ => format!("{target} closed the connection"),
            },
            Self::Timeout { after, .. } => format!("{target} did not answer within {after:?}"),
            Self::Tls { source, .. } => match source.error {
                ErrorType::TlsCertificate => format!("the certificate of {target} is not valid: {}", source.source),
                _ => format!("TLS with {target} failed: {}", source.source),
            },
            Self::Hop { source, .. } => match source.as_ref() {
                Self::Configuration(_) | Self::Credential(_) => format!("the rule for {target} cannot be carried out"),
                source => format!("the parent proxy on the way to {target} failed: {}", source.row_phrase()),
            },
            Self::HopRefused { status, reason, .. } => {
                format!("the parent proxy on the way to {target} answered {status} {reason}").trim_end().to_owned()
            }
            Self::HopProtocol { version, .. } => {
                format!("the parent proxy on the way to {target} does not speak {version}")
            }
        }
    }

    fn row_phrase(&self) -> &'static str {
        self.error_type().row().phrase
    }

    fn chain(&self, target: &Target) -> String {
        format!("{target}: {}", self.reason())
    }

    /// The whole chain of causes in one line, for the log.
    pub(super) fn reason(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// What the kernel's answer to `connect` means.
fn connect_error_type(error: &io::Error) -> ErrorType {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused | Kind::NotFound | Kind::PermissionDenied => ErrorType::ConnectionRefused,
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof => {
            ErrorType::ConnectionTerminated
        }
        Kind::TimedOut => ErrorType::ConnectionTimeout,
        // No port or descriptor left: ours, not the upstream's.
        Kind::AddrNotAvailable | Kind::AddrInUse | Kind::OutOfMemory => ErrorType::Overloaded,
        _ if is_out_of_descriptors(error) => ErrorType::Overloaded,
        _ => ErrorType::Unroutable,
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS))
}
