//! Heads of requests and answers: one buffer, fields as ranges in it, in order and case as received.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use super::BodyLength;
use crate::flow::{ErrorType, Scheme, Target};

/// Bounds of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Start line, fields and the empty line together.
    pub bytes: usize,
    /// Fields.
    pub fields: usize,
}

/// HTTP/1.0 or 1.1; anything else is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// Why bytes are no head.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HeadError {
    /// More bytes or fields than the limits allow.
    #[error("the head is too large")]
    TooLarge,
}

impl HeadError {
    /// Row of the outcome table.
    pub fn error_type(&self) -> ErrorType {
        unimplemented!()
    }
}

/// What a request asks for, by its form (RFC 9112 §3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestTarget {
    /// CONNECT's authority-form.
    Authority(Target),
    /// A whole URL; [`RequestHead::path`] has its path and query.
    Absolute {
        /// `http`, `https`; `ws` and `wss` are read as these.
        scheme: Scheme,
        /// Host and port, the scheme's default port if none was written.
        target: Target,
    },
    /// A path.
    Origin,
    /// `*`, of OPTIONS only.
    Asterisk,
}

/// A request's head.
#[derive(Clone, Debug)]
pub struct RequestHead {
    raw: Bytes,
}

impl RequestHead {
    /// The method as sent.
    pub fn method(&self) -> &str {
        unimplemented!()
    }
    /// What is asked for.
    pub fn target(&self) -> &RequestTarget {
        unimplemented!()
    }
    /// Path and query as received: begins with `/` (an empty path of an absolute-form is `/`), or is `*`; `-` for CONNECT.
    pub fn path(&self) -> &str {
        unimplemented!()
    }
    /// Version.
    pub fn version(&self) -> Version {
        unimplemented!()
    }
    /// Value of `Host`; never two.
    pub fn host(&self) -> Option<&[u8]> {
        unimplemented!()
    }
    /// The first field of that name (any case).
    pub fn field(&self, _name: &str) -> Option<&[u8]> {
        unimplemented!()
    }
    /// All fields of that name (any case), in order.
    pub fn all<'a>(&'a self, _name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        std::iter::empty()
    }
    /// All fields in order, names in the case received.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        std::iter::empty()
    }
    /// The bytes of the head, as received.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }
    /// How the body is delimited; never `UntilClose`.
    pub fn body(&self) -> BodyLength {
        unimplemented!()
    }
    /// The client's connection may stay open after this request (RFC 9112 §9.3).
    pub fn persistent(&self) -> bool {
        unimplemented!()
    }
    /// `Connection` names this field (any case): it does not travel on.
    pub fn nominates(&self, _name: &str) -> bool {
        unimplemented!()
    }
    /// `Upgrade: websocket`, nominated by `Connection: upgrade`, on a GET of HTTP/1.1 without body.
    pub fn upgrade_websocket(&self) -> bool {
        unimplemented!()
    }
}

/// An answer's head.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    raw: Bytes,
}

impl ResponseHead {
    /// Status, 100 to 599 (others are refused).
    pub fn status(&self) -> u16 {
        unimplemented!()
    }
    /// Reason phrase as received; may be empty.
    pub fn reason(&self) -> &[u8] {
        unimplemented!()
    }
    /// Version.
    pub fn version(&self) -> Version {
        unimplemented!()
    }
    /// The first field of that name (any case).
    pub fn field(&self, _name: &str) -> Option<&[u8]> {
        unimplemented!()
    }
    /// All fields of that name (any case), in order.
    pub fn all<'a>(&'a self, _name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        std::iter::empty()
    }
    /// All fields in order, names in the case received.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        std::iter::empty()
    }
    /// The bytes of the head, as received.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }
    /// How the body is delimited (RFC 9112 §6.3): knows the method of the request and the status.
    pub fn body(&self) -> BodyLength {
        unimplemented!()
    }
    /// The upstream's connection may be used again after this answer.
    pub fn persistent(&self) -> bool {
        unimplemented!()
    }
    /// `Connection` names this field (any case).
    pub fn nominates(&self, _name: &str) -> bool {
        unimplemented!()
    }
    /// `Upgrade: websocket` nominated by `Connection: upgrade`.
    pub fn upgrade_websocket(&self) -> bool {
        unimplemented!()
    }
}

/// Reads a request's head off the front of `buf`; `None`: more bytes are needed, nothing was taken.
///
/// # Errors
/// See [`HeadError`]; the connection is of no use afterwards.
pub fn parse_request(_buf: &mut BytesMut, _limits: &HeadLimits) -> Result<Option<RequestHead>, HeadError> {
    unimplemented!()
}

/// Reads an answer's head off the front of `buf`; `method` is the request's. `None`: more bytes are needed, nothing was taken.
///
/// # Errors
/// See [`HeadError`].
pub fn parse_response(
    _buf: &mut BytesMut,
    _method: &str,
    _limits: &HeadLimits,
) -> Result<Option<ResponseHead>, HeadError> {
    unimplemented!()
}
