//! How flows end: the one table of failures, and the trace of what was dialled.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::ListenerKind;

/// Every way a flow can fail before it is open. One row each in the table that [`ErrorType::row`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorType {
    /// Not HTTP as RFC 9112 has it, or a target that is none.
    BadRequest,
    /// Head over `limits.headBytes` or `limits.headFields`.
    HeadTooLarge,
    /// Head not complete after `limits.headTime`, body paused longer than `limits.bodyIdle` or slower than `limits.bodyRateMin`.
    RequestTimeout,
    /// Missing or wrong proxy credentials.
    AuthenticationRequired,
    /// The client's address may not use this listener.
    ClientDenied,
    /// The registry does not know the pair of host and port, and policy lets nothing unknown out.
    NotFound,
    /// The host is known, and no route of its VirtualService takes this request.
    NoRoute,
    /// A rule refuses this request.
    RequestDenied,
    /// The address found or asked for may not be dialled.
    IpProhibited,
    /// We would reach ourselves.
    LoopDetected,
    /// A request inside a tunnel names another authority than the tunnel (RFC 9110 §15.5.20).
    Misdirected,
    /// What flows in a tunnel is not what it was asked for (`consistency`).
    Inconsistent,
    /// The method or expectation is one we do not carry out.
    NotImplemented,
    /// The name does not resolve.
    DnsError,
    /// The resolver did not answer in time.
    DnsTimeout,
    /// The cluster has no endpoint.
    Unavailable,
    /// A rule names a cluster, a subset or a parent's credential that does not exist.
    Configuration,
    /// The certificate, key or authority that a rule asks for is missing or of no use.
    Credential,
    /// TCP: refused.
    ConnectionRefused,
    /// TCP: no route to the address.
    Unroutable,
    /// TCP, TLS or CONNECT to the upstream not done in time.
    ConnectionTimeout,
    /// The upstream closed before its answer was complete.
    ConnectionTerminated,
    /// The upstream's certificate is not valid for what we asked.
    TlsCertificate,
    /// The upstream does not speak TLS as we need it.
    TlsProtocol,
    /// The upstream ended the handshake with an alert.
    TlsAlert,
    /// The parent proxy answered other than 2xx to our CONNECT.
    HopRefused,
    /// The upstream's answer is not HTTP as RFC 9112 has it.
    UpstreamProtocol,
    /// The upstream's answer did not come in time.
    ResponseTimeout,
    /// A limit of ours is reached.
    Overloaded,
    /// The client asks faster than `limits.requestsPerSecondPerClient`.
    RateLimited,
    /// We are draining.
    Draining,
    /// A bug of ours.
    Internal,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Downstream,
    /// Policy's: the request was understood and refused.
    Policy,
    /// The upstream's, or the way there.
    Upstream,
    /// Ours.
    Proxy,
}

/// One row of the table of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Our stable name of the reason: log, metrics, `explain`.
    pub reason: &'static str,
    /// RFC 9209 §2.3 error type for `Proxy-Status`.
    pub rfc9209: &'static str,
    /// Envoy's response flag; `-` where it has none.
    pub flag: &'static str,
    /// Whose fault it is.
    pub side: Side,
    /// Status on a `forward` listener.
    pub status: u16,
    /// Reason phrase: all that wget, Go and corkscrew show their users.
    pub phrase: &'static str,
}

impl ErrorType {
    /// Every failure, for tests and the documentation.
    pub const ALL: [Self; 32] = [
        Self::BadRequest,
        Self::HeadTooLarge,
        Self::RequestTimeout,
        Self::AuthenticationRequired,
        Self::ClientDenied,
        Self::NotFound,
        Self::NoRoute,
        Self::RequestDenied,
        Self::IpProhibited,
        Self::LoopDetected,
        Self::Misdirected,
        Self::Inconsistent,
        Self::NotImplemented,
        Self::DnsError,
        Self::DnsTimeout,
        Self::Unavailable,
        Self::Configuration,
        Self::Credential,
        Self::ConnectionRefused,
        Self::Unroutable,
        Self::ConnectionTimeout,
        Self::ConnectionTerminated,
        Self::TlsCertificate,
        Self::TlsProtocol,
        Self::TlsAlert,
        Self::HopRefused,
        Self::UpstreamProtocol,
        Self::ResponseTimeout,
        Self::Overloaded,
        Self::RateLimited,
        Self::Draining,
        Self::Internal,
    ];

    /// The table: what each failure is called, whose it is, and what a client of an explicit listener gets.
    #[rustfmt::skip]
    pub const fn row(self) -> Row {
        use Side::{Downstream, Policy, Proxy, Upstream};
        let (reason, rfc9209, flag, side, status, phrase) = match self {
            Self::BadRequest             => ("http_request_error", "http_request_error", "DPE", Downstream, 400, "Bad Request"),
            Self::HeadTooLarge           => ("http_request_head_too_large", "http_request_error", "DPE", Downstream, 431, "Request Header Fields Too Large"),
            Self::RequestTimeout         => ("http_request_timeout", "http_request_error", "DPE", Downstream, 408, "Request Timeout"),
            Self::AuthenticationRequired => ("authentication_required", "http_request_denied", "-", Policy, 407, "Proxy Authentication Required"),
            Self::ClientDenied           => ("client_denied", "http_request_denied", "-", Policy, 403, "Client Address Not Allowed"),
            Self::NotFound               => ("not_found", "destination_not_found", "NR", Policy, 403, "Destination Not Allowed"),
            Self::NoRoute                => ("route_not_found", "destination_not_found", "NR", Policy, 404, "No Route For This Request"),
            Self::RequestDenied          => ("http_request_denied", "http_request_denied", "-", Policy, 403, "Request Denied By Policy"),
            Self::IpProhibited           => ("destination_ip_prohibited", "destination_ip_prohibited", "-", Policy, 403, "Destination Address Prohibited"),
            Self::LoopDetected           => ("proxy_loop_detected", "proxy_loop_detected", "-", Policy, 508, "Proxy Loop Detected"),
            Self::Misdirected            => ("misdirected_request", "http_request_denied", "-", Policy, 421, "Misdirected Request"),
            Self::Inconsistent           => ("inconsistent_tunnel", "http_request_denied", "-", Policy, 421, "Misdirected Request"),
            Self::NotImplemented         => ("not_implemented", "http_request_error", "DPE", Downstream, 501, "Not Implemented"),
            Self::DnsError               => ("dns_error", "dns_error", "DF", Upstream, 502, "Name Not Resolved"),
            Self::DnsTimeout             => ("dns_timeout", "dns_timeout", "DF", Upstream, 504, "Name Resolution Timed Out"),
            Self::Unavailable            => ("destination_unavailable", "destination_unavailable", "UH", Upstream, 503, "No Healthy Upstream"),
            Self::Configuration          => ("proxy_configuration_error", "proxy_configuration_error", "NC", Proxy, 503, "Proxy Configuration Error"),
            Self::Credential             => ("credential_missing", "proxy_configuration_error", "UF", Proxy, 503, "Proxy Credential Missing"),
            Self::ConnectionRefused      => ("connection_refused", "connection_refused", "UF", Upstream, 502, "Connection Refused By Upstream"),
            Self::Unroutable             => ("destination_ip_unroutable", "destination_ip_unroutable", "UF", Upstream, 502, "Upstream Unreachable"),
            Self::ConnectionTimeout      => ("connection_timeout", "connection_timeout", "UF", Upstream, 504, "Connection To Upstream Timed Out"),
            Self::ConnectionTerminated   => ("connection_terminated", "connection_terminated", "UC", Upstream, 502, "Upstream Closed Connection"),
            Self::TlsCertificate         => ("tls_certificate_error", "tls_certificate_error", "UF", Upstream, 502, "Upstream Certificate Invalid"),
            Self::TlsProtocol            => ("tls_protocol_error", "tls_protocol_error", "UF", Upstream, 502, "Upstream TLS Error"),
            Self::TlsAlert               => ("tls_alert_received", "tls_alert_received", "UF", Upstream, 502, "Upstream TLS Alert"),
            Self::HopRefused             => ("hop_refused", "destination_unavailable", "UF", Upstream, 502, "Parent Proxy Refused"),
            Self::UpstreamProtocol       => ("http_protocol_error", "http_protocol_error", "UPE", Upstream, 502, "Upstream Protocol Error"),
            Self::ResponseTimeout        => ("http_response_timeout", "http_response_timeout", "UT", Upstream, 504, "Upstream Answer Timed Out"),
            Self::Overloaded             => ("connection_limit_reached", "connection_limit_reached", "UO", Proxy, 503, "Proxy Limit Reached"),
            Self::RateLimited            => ("request_rate_limited", "http_request_denied", "RL", Policy, 429, "Too Many Requests"),
            Self::Draining               => ("draining", "proxy_internal_response", "-", Proxy, 503, "Proxy Is Shutting Down"),
            Self::Internal               => ("proxy_internal_error", "proxy_internal_error", "-", Proxy, 500, "Proxy Internal Error"),
        };
        Row { reason, rfc9209, flag, side, status, phrase }
    }

    /// What an HTTP client of such a listener gets; `None` where there is nobody to send a status to (the flow is then refused
    /// with a TLS alert, or closed).
    pub const fn status(self, listener: ListenerKind) -> Option<u16> {
        match listener {
            ListenerKind::Forward => Some(self.row().status),
            ListenerKind::Sni => None,
        }
    }
}

/// How a flow ended, as accounted: fine, refused or failed before it was open, or ended early after that.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Outcome {
    /// The task of the flow was dropped before it said how it ended.
    #[default]
    Abandoned,
    /// Both sides are done.
    Complete,
    /// Failed before it was open; `detail` is one sentence for operators and, unless it says otherwise, for the client.
    Failed {
        /// Which row of the table.
        error: ErrorType,
        /// What was found, without line breaks.
        detail: Box<str>,
    },
    /// Was open and ended early.
    Ended(Ending),
}

/// Why an open flow ended before both sides were done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The client went away.
    DownstreamReset,
    /// The upstream went away.
    UpstreamReset,
    /// Neither side sent anything for `limits.tunnelIdle`.
    IdleTimeout,
    /// `limits.tunnelLifetime` is over.
    LifetimeExceeded,
    /// Cut at the end of the drain time.
    Drained,
    /// A reload no longer allows it.
    Revoked,
    /// An operator ended it.
    Killed,
    /// The answer was not complete within the timeout of its route.
    AnswerTimeout,
}

impl Ending {
    /// Name in `CONNECTION_TERMINATION_DETAILS`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DownstreamReset => "downstream_reset",
            Self::UpstreamReset => "upstream_reset",
            Self::IdleTimeout => "idle_timeout",
            Self::LifetimeExceeded => "max_duration",
            Self::Drained => "drained",
            Self::Revoked => "revoked",
            Self::Killed => "killed",
            Self::AnswerTimeout => "answer_timeout",
        }
    }

    /// Envoy's response flag.
    pub const fn flag(self) -> &'static str {
        match self {
            Self::DownstreamReset => "DC",
            Self::UpstreamReset => "UC",
            Self::LifetimeExceeded => "DT",
            Self::IdleTimeout => "SI",
            Self::AnswerTimeout => "UT",
            Self::Drained | Self::Revoked | Self::Killed => "LR",
        }
    }
}

impl Outcome {
    /// A failure with its sentence.
    pub fn failed(error: ErrorType, detail: impl Into<Box<str>>) -> Self {
        Self::Failed { error, detail: detail.into() }
    }
}

/// Why a flow could not be opened: what the client is told, and what only the operator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Row of the outcome table.
    pub error: ErrorType,
    /// One sentence about the client's request; nothing about our inside.
    pub detail: Box<str>,
    /// The same for the operator, with addresses, files and causes.
    pub log: Box<str>,
    /// The status a parent proxy answered.
    pub hop_status: Option<u16>,
}

impl Failure {
    /// A failure whose sentence is fit for both.
    pub fn new(error: ErrorType, detail: impl Into<Box<str>>) -> Self {
        let detail = detail.into();
        Self { error, log: detail.clone(), detail, hop_status: None }
    }

    /// The same with a sentence of its own for the operator.
    #[must_use]
    pub fn logged(mut self, log: impl Into<Box<str>>) -> Self {
        self.log = log.into();
        self
    }
}

/// What was tried on the way out, step by step: filled by `dial`, read by the access log and `Proxy-Status`.
#[derive(Clone, Debug, Default)]
pub struct DialTrace {
    /// The address whose connection was taken, or the last one tried.
    pub upstream: Option<SocketAddr>,
    /// Our own end of that connection.
    pub local: Option<SocketAddr>,
    /// The parent proxy that was asked, as written in the configuration.
    pub hop: Option<Arc<str>>,
    /// The status the parent answered, where that was no 2xx.
    pub hop_status: Option<u16>,
    /// Addresses dialled.
    pub attempts: u32,
    /// The connection came from the pool.
    pub reused: bool,
    /// A request went out in HTTP/2.
    pub http2: bool,
    /// Time spent in DNS.
    pub dns: Duration,
    /// Time spent in TCP, hop and TLS.
    pub connect: Duration,
    /// Envoy's `UPSTREAM_TRANSPORT_FAILURE_REASON`: the error chain of a failed handshake.
    pub transport_failure: Option<Box<str>>,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_failure_has_a_reason_of_its_own_and_an_error_status() {
        let mut reasons = HashSet::new();
        for error in ErrorType::ALL {
            let row = error.row();
            assert!(reasons.insert(row.reason), "{} stands twice", row.reason);
            assert!((400..600).contains(&row.status), "{}", row.reason);
            assert!(!row.phrase.is_empty());
            assert_eq!(error.status(ListenerKind::Forward), Some(row.status));
            assert_eq!(error.status(ListenerKind::Sni), None);
        }
    }
}
