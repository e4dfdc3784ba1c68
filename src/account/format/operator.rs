//! What an operator of a format string shows of a record.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use super::{End, Piece};
use crate::account::progress::LineType;
use crate::account::record::{AccessRecord, Asked, Field, Marks, Message};
use crate::flow::{Outcome, PeerCertificate, Scheme, Transport};

/// One value of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    /// With a time format, or as `2020-08-25T14:55:49.810Z`.
    StartTime(Option<Box<str>>),
    /// A text that every record keeps.
    Text(Field),
    Scheme,
    /// A field that a record keeps for this format; lower case.
    RequestField(Arc<str>),
    ResponseField(Arc<str>),
    /// Never known here: headers that only Envoy sets.
    Never,
    UpstreamServiceTime,
    Protocol,
    UpstreamProtocol,
    ResponseCode,
    ResponseFlags,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    UpstreamTransportFailureReason,
    BytesReceived,
    BytesSent,
    Duration,
    Attempts,
    AccessLogType,
    Address(Peer, Part),
    TlsVersion,
    Certificate(Of),
    Ours(Ours),
}

/// What the client's certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Subject,
    Issuer,
    Serial,
    UriSans,
    DnsSans,
}

/// Whose address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Upstream,
    UpstreamLocal,
    DownstreamLocal,
    DownstreamRemote,
}

/// How much of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Ip,
    Port,
}

/// What Envoy has no name for: `%EGRET(NAME)%`, and a key of each JSON line that knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ours {
    LineType,
    Listener,
    Reason,
    Detail,
    Identity,
    Rule,
    WouldDeny,
    Audited,
    Inconsistent,
    Hop,
    HopStatus,
    Attempts,
    Reused,
    DnsMs,
    ConnectMs,
}

/// A value, by what it takes to write it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shown<'r> {
    Unset,
    /// Somebody else chose it: to be escaped.
    Peer(&'r [u8]),
    /// Ours, harmless.
    Word(&'static str),
    Number(u64),
    /// A string in JSON too.
    NumberText(u64),
    Flag(bool),
    Address(SocketAddr),
    Ip(IpAddr),
    Started(Option<&'r str>),
}

impl Piece {
    pub(super) fn shown<'r>(&'r self, record: &'r AccessRecord, end: End) -> Shown<'r> {
        let Self::Value { operator, otherwise, .. } = self else { return Shown::Unset };
        match (operator.shown(record, end), otherwise) {
            (Shown::Unset, Some(otherwise)) => otherwise.shown(record, end),
            (shown, _) => shown,
        }
    }
}

impl Operator {
    fn shown<'r>(&'r self, record: &'r AccessRecord, end: End) -> Shown<'r> {
        match self {
            Self::StartTime(format) => Shown::Started(format.as_deref()),
            Self::Text(field) => peer(record.text(*field)),
            Self::Scheme if record.text(Field::Path).is_empty() => Shown::Unset,
            Self::Scheme => Shown::Word(record.scheme.as_str()),
            Self::RequestField(name) => peer(record.extra(Message::Request, name)),
            Self::ResponseField(name) => peer(record.extra(Message::Response, name)),
            Self::Never => Shown::Unset,
            Self::UpstreamServiceTime => record.upstream_time.map_or(Shown::Unset, |t| Shown::NumberText(millis(t))),
            Self::UpstreamProtocol => match (record.upstream_time, record.trace.http2) {
                (None, _) => Shown::Unset, // no request went there, or none was answered
                (Some(_), true) => Shown::Word("HTTP/2"),
                (Some(_), false) => Shown::Word("HTTP/1.1"),
            },
            Self::Protocol => record.protocol.map_or(Shown::Unset, Shown::Word),
            Self::ResponseCode => Shown::Number(record.status.into()),
            Self::ResponseFlags => Shown::Word(flags(record)),
            Self::ResponseCodeDetails => word(record.details, record.status != 0),
            Self::ConnectionTerminationDetails => word(termination(record), true),
            Self::UpstreamTransportFailureReason => {
                peer(record.trace.transport_failure.as_deref().unwrap_or_default().as_bytes())
            }
            Self::BytesReceived => Shown::Number(record.received),
            Self::BytesSent => Shown::Number(record.sent),
            Self::Duration => Shown::Number(millis(end.lasted)),
            Self::Attempts => Shown::Number(record.trace.attempts.into()),
            Self::AccessLogType => Shown::Word(record.line_type.as_str(record.asked != Asked::Sni)),
            Self::Address(whose, part) => whose.shown(*part, record),
            Self::TlsVersion => match &record.source.transport {
                Transport::Tls(session) => Shown::Word(session.version),
                Transport::Tcp | Transport::Unix(_) => Shown::Unset,
            },
            Self::Certificate(of) => {
                record.source.transport.certificate().map_or(Shown::Unset, |shown| peer(of.text(shown).as_bytes()))
            }
            Self::Ours(ours) => ours.shown(record),
        }
    }
}

impl Of {
    fn text(self, certificate: &PeerCertificate) -> &str {
        match self {
            Self::Subject => &certificate.subject,
            Self::Issuer => &certificate.issuer,
            Self::Serial => &certificate.serial,
            Self::UriSans => &certificate.uri_sans,
            Self::DnsSans => &certificate.dns_sans,
        }
    }
}

impl Peer {
    /// Of a unix socket, Envoy writes the path on our side and `@` on the client's, which has no name.
    fn shown(self, part: Part, record: &AccessRecord) -> Shown<'_> {
        match (&record.source.transport, self, part) {
            (Transport::Unix(path), Self::DownstreamLocal, Part::Whole) => peer(path.as_os_str().as_bytes()),
            (Transport::Unix(_), Self::DownstreamRemote, Part::Whole) => Shown::Word("@"),
            (Transport::Unix(_), Self::DownstreamLocal | Self::DownstreamRemote, _) => Shown::Unset,
            _ => self.of(record).map_or(Shown::Unset, |address| part.of(address)),
        }
    }

    fn of(self, record: &AccessRecord) -> Option<SocketAddr> {
        match self {
            Self::Upstream => record.trace.upstream,
            Self::UpstreamLocal => record.trace.local,
            Self::DownstreamLocal => Some(record.source.local),
            Self::DownstreamRemote => Some(record.source.peer),
        }
    }
}

impl Part {
    fn of(self, address: SocketAddr) -> Shown<'static> {
        match self {
            Self::Whole => Shown::Address(address),
            Self::Ip => Shown::Ip(address.ip()),
            Self::Port => Shown::Number(address.port().into()),
        }
    }
}

impl Ours {
    /// In the order of their keys.
    pub(super) const ALL: [Self; 15] = [
        Self::Listener,
        Self::Reason,
        Self::Detail,
        Self::Identity,
        Self::Rule,
        Self::WouldDeny,
        Self::Audited,
        Self::Inconsistent,
        Self::Hop,
        Self::HopStatus,
        Self::Attempts,
        Self::Reused,
        Self::DnsMs,
        Self::ConnectMs,
        Self::LineType,
    ];

    /// Its JSON key, and its name in `%EGRET(NAME)%`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::LineType => "line_type",
            Self::Listener => "listener",
            Self::Reason => "reason",
            Self::Detail => "detail",
            Self::Identity => "identity",
            Self::Rule => "rule",
            Self::WouldDeny => "would_deny",
            Self::Audited => "audited",
            Self::Inconsistent => "inconsistent",
            Self::Hop => "hop",
            Self::HopStatus => "hop_status",
            Self::Attempts => "attempts",
            Self::Reused => "reused",
            Self::DnsMs => "dns_ms",
            Self::ConnectMs => "connect_ms",
        }
    }

    fn shown(self, record: &AccessRecord) -> Shown<'_> {
        let trace = &record.trace;
        let dialled = trace.attempts > 0;
        match self {
            Self::LineType if record.line_type == LineType::End => Shown::Unset, // as all lines were, and most are
            Self::LineType => Shown::Word(record.line_type.as_str(record.asked != Asked::Sni)),
            Self::Listener => peer(record.source.listener.name.as_bytes()),
            Self::Reason => word(reason(record), true),
            Self::Detail => match (record.text(Field::Detail), &record.outcome) {
                (b"", Outcome::Failed { detail, .. }) => peer(detail.as_bytes()),
                (detail, _) => peer(detail),
            },
            Self::Identity => peer(record.text(Field::Identity)),
            Self::Rule => peer(record.text(Field::Rule)),
            Self::WouldDeny => peer(record.text(Field::WouldDeny)),
            Self::Audited => peer(record.text(Field::Audited)),
            Self::Inconsistent => peer(record.text(Field::Inconsistent)),
            Self::Hop => peer(trace.hop.as_deref().unwrap_or_default().as_bytes()),
            Self::HopStatus => trace.hop_status.map_or(Shown::Unset, |status| Shown::Number(status.into())),
            Self::Attempts if dialled => Shown::Number(trace.attempts.into()),
            Self::Reused if dialled || trace.reused => Shown::Flag(trace.reused),
            Self::DnsMs if !trace.dns.is_zero() => Shown::Number(millis(trace.dns)),
            Self::ConnectMs if dialled && !trace.reused => Shown::Number(millis(trace.connect)),
            Self::Attempts | Self::Reused | Self::DnsMs | Self::ConnectMs => Shown::Unset,
        }
    }
}

/// Why a flow did not end in order; our stable name of it.
fn reason(record: &AccessRecord) -> &'static str {
    match &record.outcome {
        Outcome::Complete => "",
        Outcome::Failed { error, .. } => error.row().reason,
        Outcome::Ended(ending) => ending.as_str(),
        Outcome::Abandoned => ABANDONED,
    }
}

/// Nothing where an HTTP answer says it: the code's details hold the reason then.
fn termination(record: &AccessRecord) -> &'static str {
    if record.refused && record.status != 0 { "" } else { reason(record) }
}

/// Envoy's flags of how the flow ended.
pub(in crate::account) fn flags(record: &AccessRecord) -> &'static str {
    let ended = match &record.outcome {
        Outcome::Complete => "-",
        Outcome::Failed { error, .. } => error.row().flag,
        Outcome::Ended(ending) => ending.flag(),
        Outcome::Abandoned => "LR", // a reset of ours: the task was dropped
    };
    match record.marks {
        Marks { delayed: false, aborted: false, retries_used_up: false } => ended,
        Marks { retries_used_up: true, .. } => match ended {
            "-" => "URX",
            "UF" => "UF,URX",
            "UC" => "UC,URX",
            "UT" => "UT,URX",
            ended => ended,
        },
        Marks { delayed: true, aborted: true, .. } => "DI,FI",
        Marks { aborted: true, .. } => "FI",
        Marks { delayed: true, .. } => match ended {
            "-" => "DI",
            "DC" => "DC,DI",
            ended => ended,
        },
    }
}

pub(super) const ABANDONED: &str = "abandoned";

fn peer(text: &[u8]) -> Shown<'_> {
    if text.is_empty() { Shown::Unset } else { Shown::Peer(text) }
}

fn word(word: &'static str, known: bool) -> Shown<'static> {
    if word.is_empty() || !known { Shown::Unset } else { Shown::Word(word) }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The scheme as a URL begins.
pub(super) const fn url_start(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => "http://",
        Scheme::Https => "https://",
    }
}
