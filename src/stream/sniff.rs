//! Tells from the first bytes what a client speaks.

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// Too few to tell.
    More,
    /// A request of HTTP/1.
    Http1,
    /// The preface of HTTP/2 (RFC 9113 §3.4).
    Http2,
    /// A TLS handshake record.
    Tls,
    /// None of these.
    Other,
}

/// Looks at the first bytes of a connection.
pub fn sniff(_bytes: &[u8]) -> Sniffed {
    unimplemented!()
}
