//! Reads a TLS ClientHello as it comes, without consuming it: reassembles handshake records, however fragmented.

use std::net::IpAddr;

use thiserror::Error;

use crate::flow::Name;

/// What a ClientHello says, as far as a forwarder wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name extension (RFC 6066 §3).
    pub server_name: ServerName,
    /// ALPN protocol names (RFC 7301), in order.
    pub alpn: Vec<Box<[u8]>>,
    /// It carries an `encrypted_client_hello` extension (draft-ietf-tls-esni), GREASE or real.
    pub has_ech: bool,
}

/// The server name as sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// No extension.
    Absent,
    /// A DNS name, in canonical form.
    Host(Name),
    /// An address literal, which RFC 6066 forbids.
    IpLiteral(IpAddr),
    /// Something else.
    Invalid(Box<[u8]>),
}

/// Why bytes are no ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HelloError {
    /// Not a TLS handshake record with a ClientHello.
    #[error("not a TLS ClientHello")]
    NotTls,
    /// Longer than [`CLIENT_HELLO_BYTES_MAX`].
    #[error("the ClientHello is too long")]
    TooLong,
    /// Broken inside.
    #[error("the ClientHello is malformed")]
    Malformed,
}

/// Bytes of records looked at, at most.
pub const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;

/// Reads the hello at the front of `bytes`; `None`: more bytes are needed.
///
/// # Errors
/// See [`HelloError`]; told from the first wrong byte.
pub fn parse(_bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    unimplemented!()
}
