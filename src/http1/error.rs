//! Why bytes are no head: one variant for each thing that is refused, each a sentence fit for the client.

use thiserror::Error;

use crate::flow::{ErrorType, Limit, TargetError};

/// Why bytes are no head. No variant quotes what the peer sent: targets may hold passwords, fields may hold anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeadError {
    /// More bytes than [`super::HeadLimits::bytes`].
    #[error("the head is longer than {bytes_max} bytes")]
    TooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// More fields than [`super::HeadLimits::fields`].
    #[error("the head has more than {fields_max} fields")]
    TooManyFields {
        /// The limit.
        fields_max: usize,
    },

    /// A line that ends without CR (RFC 9112 §2.2 lets us refuse it).
    #[error("a line of the head ends with a bare LF")]
    BareLf,
    /// A CR that no LF follows (RFC 9112 §2.2).
    #[error("the head holds a bare CR")]
    BareCr,
    /// NUL or another control byte.
    #[error("the head holds a control byte")]
    ControlByte,

    /// The method is no token (RFC 9110 §9.1), or what begins here is no request at all.
    #[error("the request does not begin with a method")]
    Method,
    /// The request line is not three parts with one space between them (RFC 9112 §3).
    #[error("the request line is not a method, a target and a version with single spaces between them")]
    RequestLine,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("the version is neither HTTP/1.0 nor HTTP/1.1")]
    Version,
    /// The status line is not RFC 9112 §4, or its status not 100 to 599.
    #[error("the status line is malformed")]
    StatusLine,

    /// A byte that RFC 3986 has no place for, a fragment included.
    #[error("the request target holds a character that does not belong there")]
    TargetCharacter,
    /// Host and port of the target.
    #[error("request target: {0}")]
    Target(TargetError),
    /// CONNECT with something else than an authority (RFC 9110 §9.3.6).
    #[error("CONNECT takes host:port, not a URL or a path")]
    ConnectForm,
    /// Neither a path nor a URL, without CONNECT.
    #[error("the request target is neither a path nor a URL")]
    TargetForm,
    /// A URL of another scheme than http, https, ws, wss.
    #[error("the scheme of the request target is none of http, https, ws and wss")]
    Scheme,
    /// `*` without OPTIONS (RFC 9112 §3.2.4).
    #[error("only OPTIONS may ask for *")]
    Asterisk,

    /// HTTP/1.1 without Host (RFC 9112 §3.2).
    #[error("a request of HTTP/1.1 needs a Host field")]
    HostMissing,
    /// More than one, even if equal (RFC 9112 §3.2).
    #[error("Host stands twice")]
    HostTwice,
    /// Not a host and an optional port (RFC 9112 §3.2).
    #[error("Host: {0}")]
    Host(TargetError),

    /// A line that begins with space or tab (RFC 9112 §5.2).
    #[error("a field continues on a folded line")]
    ObsFold,
    /// Space between name and colon (RFC 9112 §5.1).
    #[error("there is space between a field name and its colon")]
    SpaceBeforeColon,
    /// A field name that is no token, or a line without colon.
    #[error("a field name is malformed")]
    FieldName,

    /// More than one, even if equal.
    #[error("Content-Length stands twice")]
    LengthTwice,
    /// Not plain digits, or beyond 2^64.
    #[error("Content-Length is not a number")]
    Length,
    /// Both (RFC 9112 §6.1: an attempt at smuggling).
    #[error("Transfer-Encoding and Content-Length stand together")]
    LengthAndCoding,
    /// Anything but one `chunked`.
    #[error("Transfer-Encoding is something else than one chunked")]
    Coding,
    /// HTTP/1.0 knows no Transfer-Encoding (RFC 9112 §6.1).
    #[error("HTTP/1.0 has no Transfer-Encoding")]
    CodingOf10,
    /// CONNECT has no body (RFC 9110 §9.3.6).
    #[error("CONNECT has no body")]
    ConnectBody,

    /// `Connection` is not a list of tokens.
    #[error("Connection is not a list of field names")]
    Connection,
    /// `Connection` would strip a field that framing, routing or evidence depends on (RFC 9110 §7.6.1).
    #[error("Connection names a field that is not of the connection")]
    Nominated,
}

impl HeadError {
    /// Row of the outcome table.
    pub fn error_type(&self) -> ErrorType {
        match self {
            Self::TooLarge { .. } | Self::TooManyFields { .. } => ErrorType::HeadTooLarge,
            _ => ErrorType::BadRequest,
        }
    }

    /// The limit of ours that the head is over, if that is what is wrong with it.
    pub fn limit(&self) -> Option<Limit> {
        match self {
            Self::TooLarge { .. } => Some(Limit::HeadBytes),
            Self::TooManyFields { .. } => Some(Limit::HeadFields),
            _ => None,
        }
    }
}
