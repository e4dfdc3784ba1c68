//! Bodies: none, length, chunked, until the end; yields slices of the connection's buffer.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

/// How a body is delimited (RFC 9112 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Ends with the connection (answers only).
    UntilClose,
}

/// Why a body is malformed or incomplete.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BodyError {
    /// The connection ended inside the body.
    #[error("the connection ended inside the body")]
    Incomplete,
}

/// The next piece of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Bytes of the body.
    Data(Bytes),
    /// Read more first.
    More,
    /// The end, with trailer lines as received (each with its CRLF, validated, framing fields refused), at least one.
    Trailers(Bytes),
    /// The end, without trailers.
    End,
}

/// Reads one body.
#[derive(Clone, Debug)]
pub struct Decoder {}

impl Decoder {
    /// For a body delimited so.
    pub fn new(_length: BodyLength) -> Self {
        unimplemented!()
    }
    /// Takes the next piece off `buf`. After `End` or `Trailers` what is left in `buf` belongs to the next message.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub fn decode(&mut self, _buf: &mut BytesMut) -> Result<Decoded, BodyError> {
        unimplemented!()
    }
    /// The connection ended: fine for `UntilClose` only.
    ///
    /// # Errors
    /// [`BodyError::Incomplete`].
    pub fn finish_at_eof(&mut self) -> Result<(), BodyError> {
        unimplemented!()
    }
}
