//! Bodies: none, length, chunked, until the end; yields slices of the connection's buffer.

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memchr_iter};
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

/// Reads one body.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
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

/// Why a body is malformed or incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BodyError {
    /// The connection ended inside the body.
    #[error("the connection ended inside the body")]
    Incomplete,
    /// A chunk does not begin with 1 to 16 hexadecimal digits.
    #[error("a chunk size is not a hexadecimal number of at most 16 digits")]
    ChunkSize,
    /// What follows a chunk size is neither CRLF nor an extension, or the extension holds control bytes or is too long.
    #[error("what follows a chunk size is malformed")]
    ChunkExtension,
    /// A chunk's data is not followed by CRLF.
    #[error("a chunk does not end where its size says")]
    ChunkEnd,
    /// A trailer is no field, or there is no CRLF at its end.
    #[error("a trailer field is malformed")]
    Trailer,
    /// The trailers exceed [`TRAILER_BYTES_MAX`] or [`TRAILER_FIELDS_MAX`].
    #[error("the trailers are too large")]
    TrailersTooLarge,
    /// A field that does not belong into trailers (RFC 9110 §6.5.1): it came too late to mean what it says.
    #[error("a trailer field frames, routes, authenticates or describes the message it ends")]
    TrailerForbidden,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes of a body with a length.
    Length(u64),
    UntilClose,
    ChunkSize,
    /// So many bytes of a chunk.
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    Done,
}

/// Trailers, at most.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Fields in trailers, at most.
pub const TRAILER_FIELDS_MAX: usize = 32;

const CHUNK_SIZE_DIGITS_MAX: usize = 16; // 64 bits; leading zeros count, so no size can overflow
const CHUNK_EXTENSION_BYTES_MAX: usize = 1024; // nobody sends any; unbounded ones keep a reader busy without data (CVE-2023-39326)

impl Decoder {
    /// For a body delimited so.
    pub fn new(length: BodyLength) -> Self {
        let state = match length {
            BodyLength::None | BodyLength::Length(0) => State::Done,
            BodyLength::Length(length) => State::Length(length),
            BodyLength::Chunked => State::ChunkSize,
            BodyLength::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    /// Takes the next piece off `buf`. After `End` or `Trailers` what is left in `buf` belongs to the next message.
    ///
    /// # Errors
    /// See [`BodyError`]; the connection is of no use afterwards.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Decoded, BodyError> {
        loop {
            match self.state {
                State::Done => return Ok(Decoded::End),
                _ if buf.is_empty() => return Ok(Decoded::More),
                State::UntilClose => return Ok(Decoded::Data(buf.split().freeze())),
                State::Length(left) => {
                    let (data, left) = take(buf, left);
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    return Ok(Decoded::Data(data));
                }
                State::ChunkData(left) => {
                    let (data, left) = take(buf, left);
                    self.state = if left == 0 { State::ChunkEnd } else { State::ChunkData(left) };
                    return Ok(Decoded::Data(data));
                }
                State::ChunkSize => match chunk_size(buf)? {
                    None => return Ok(Decoded::More),
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::ChunkData(size),
                },
                State::ChunkEnd => match &buf[..] {
                    [b'\r', b'\n', ..] => {
                        buf.advance(2);
                        self.state = State::ChunkSize;
                    }
                    [b'\r'] => return Ok(Decoded::More),
                    _ => return Err(BodyError::ChunkEnd),
                },
                State::Trailers => {
                    let Some(lines) = trailers(buf)? else { return Ok(Decoded::More) };
                    self.state = State::Done;
                    return Ok(if lines.is_empty() { Decoded::End } else { Decoded::Trailers(lines) });
                }
            }
        }
    }

    /// The connection ended: fine for `UntilClose` only, and after the end.
    ///
    /// # Errors
    /// [`BodyError::Incomplete`].
    pub fn finish_at_eof(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyError::Incomplete),
        }
    }
}

/// Takes what `buf` has of the `left` bytes; returns how many are left then.
fn take(buf: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let len = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
    (buf.split_to(len).freeze(), left - len as u64)
}

/// Reads a chunk's size line, extensions included, and takes it off.
fn chunk_size(buf: &mut BytesMut) -> Result<Option<u64>, BodyError> {
    let mut size = 0u64;
    let mut digits = 0;
    for digit in buf.iter().map_while(|&b| char::from(b).to_digit(16)) {
        digits += 1;
        if digits > CHUNK_SIZE_DIGITS_MAX {
            return Err(BodyError::ChunkSize);
        }
        size = size << 4 | u64::from(digit);
    }
    match &buf[digits..] {
        [] => Ok(None),
        _ if digits == 0 => Err(BodyError::ChunkSize),
        [b'\r', b'\n', ..] => {
            buf.advance(digits + 2);
            Ok(Some(size))
        }
        [b'\r'] => Ok(None),
        rest => {
            let Some(len) = chunk_extension(rest)? else { return Ok(None) };
            buf.advance(digits + len);
            Ok(Some(size))
        }
    }
}

/// Length of chunk extensions and the CRLF behind them (RFC 9112 §7.1.1). They are dropped: they belong to one connection, and nobody
/// agrees on any.
fn chunk_extension(rest: &[u8]) -> Result<Option<usize>, BodyError> {
    let window = &rest[..rest.len().min(CHUNK_EXTENSION_BYTES_MAX + "\r\n".len())];
    let lf = memchr(b'\n', window);
    let line = &window[..lf.unwrap_or(window.len())];
    let text = match line.split_last() {
        Some((b'\r', text)) => text,
        Some(_) if lf.is_none() => line,
        _ => return Err(BodyError::ChunkExtension), // a bare LF
    };
    let begin = text.iter().find(|&&b| b != b' ' && b != b'\t');
    let in_place = match begin {
        Some(&byte) => byte == b';',
        None => lf.is_none(), // space with no extension behind it; more may come
    };
    if !in_place || text.iter().any(|&b| b.is_ascii_control() && b != b'\t') {
        return Err(BodyError::ChunkExtension);
    }
    match lf {
        Some(lf) => Ok(Some(lf + 1)),
        None if window.len() == CHUNK_EXTENSION_BYTES_MAX + "\r\n".len() => Err(BodyError::ChunkExtension),
        None => Ok(None),
    }
}

/// Takes the trailer section off and returns its lines, without the empty one that ends it.
fn trailers(buf: &mut BytesMut) -> Result<Option<Bytes>, BodyError> {
    let Some(end) = trailers_end(buf)? else { return Ok(None) };
    check_trailers(&buf[..end + 2])?;
    let lines = buf.split_to(end).freeze();
    buf.advance(2);
    Ok(Some(lines))
}

/// Where the empty line begins.
fn trailers_end(buf: &[u8]) -> Result<Option<usize>, BodyError> {
    let window = &buf[..buf.len().min(TRAILER_BYTES_MAX + "\r\n".len())];
    let (mut line, mut lines) = (0, 0);
    for lf in memchr_iter(b'\n', window) {
        if lf == line || window[lf - 1] != b'\r' {
            return Err(BodyError::Trailer);
        }
        if lf == line + 1 {
            return Ok(Some(line));
        }
        lines += 1;
        if lines > TRAILER_FIELDS_MAX {
            return Err(BodyError::TrailersTooLarge);
        }
        line = lf + 1;
    }
    if window.len() == TRAILER_BYTES_MAX + "\r\n".len() {
        return Err(BodyError::TrailersTooLarge);
    }
    Ok(None)
}

fn check_trailers(section: &[u8]) -> Result<(), BodyError> {
    let mut fields = [httparse::EMPTY_HEADER; TRAILER_FIELDS_MAX];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(section, &mut fields) else {
        return Err(BodyError::Trailer);
    };
    let forbidden = |field: &httparse::Header<'_>| FORBIDDEN.iter().any(|name| field.name.eq_ignore_ascii_case(name));
    if fields.iter().any(forbidden) { Err(BodyError::TrailerForbidden) } else { Ok(()) }
}

/// RFC 9110 §6.5.1 names the kinds: framing, routing, authentication, request modifiers, content format. Answers' metadata such as
/// `Expires` is let through, because old documents recommend just that as a trailer, and recipients ignore it.
const FORBIDDEN: [&str; 35] = [
    "transfer-encoding",
    "content-length",
    "trailer",
    "te",
    "connection",
    "keep-alive",
    "proxy-connection",
    "upgrade",
    "http2-settings",
    "host",
    "via",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "max-forwards",
    "authorization",
    "proxy-authorization",
    "www-authenticate",
    "proxy-authenticate",
    "authentication-info",
    "proxy-authentication-info",
    "cookie",
    "set-cookie",
    "expect",
    "range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "if-range",
    "content-encoding",
    "content-type",
    "content-range",
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a body came to: its bytes, its trailers, and what was left for the next message.
    type Read = Result<(Vec<u8>, Vec<u8>, Vec<u8>), BodyError>;

    /// Feeds `bytes` in pieces of `step`, then the end of the connection.
    fn read(length: BodyLength, bytes: &[u8], step: usize) -> Read {
        let (mut decoder, mut buf) = (Decoder::new(length), BytesMut::new());
        let mut pieces = bytes.chunks(step);
        let mut body = Vec::new();
        let trailers = loop {
            match decoder.decode(&mut buf)? {
                Decoded::Data(data) => {
                    assert!(!data.is_empty());
                    body.extend_from_slice(&data);
                }
                Decoded::Trailers(trailers) => break trailers.to_vec(),
                Decoded::End => break Vec::new(),
                Decoded::More => match pieces.next() {
                    Some(piece) => buf.extend_from_slice(piece),
                    None => {
                        decoder.finish_at_eof()?;
                        break Vec::new();
                    }
                },
            }
        };
        assert_eq!(decoder.decode(&mut buf), Ok(Decoded::End), "the end stays the end");
        let left = [&buf[..], &pieces.collect::<Vec<_>>().concat()].concat();
        Ok((body, trailers, left))
    }

    fn chunked(text: impl AsRef<[u8]>) -> Read {
        let text = text.as_ref();
        let at_once = read(BodyLength::Chunked, text, usize::MAX);
        let by_bytes = read(BodyLength::Chunked, text, 1);
        assert_eq!(at_once, by_bytes, "{:?}", String::from_utf8_lossy(text));
        at_once
    }

    fn whole(body: &str, trailers: &str, left: &str) -> Read {
        Ok((body.into(), trailers.into(), left.into()))
    }

    #[test]
    fn bodies_end_by_length_or_with_the_connection() {
        assert_eq!(read(BodyLength::None, b"next", 4), whole("", "", "next"));
        assert_eq!(read(BodyLength::Length(0), b"next", 4), whole("", "", "next"));
        for step in 1..=9 {
            assert_eq!(read(BodyLength::Length(5), b"hellonext", step), whole("hello", "", "next"));
            assert_eq!(read(BodyLength::UntilClose, b"hellonext", step), whole("hellonext", "", ""));
            assert_eq!(read(BodyLength::Length(5), b"hell", step), Err(BodyError::Incomplete));
        }
        assert_eq!(read(BodyLength::Length(u64::MAX), b"hell", 4), Err(BodyError::Incomplete));
        assert_eq!(read(BodyLength::UntilClose, b"", 1), whole("", "", ""));
    }

    #[test]
    fn chunks_become_the_body() {
        assert_eq!(chunked("0\r\n\r\nnext"), whole("", "", "next"));
        assert_eq!(chunked("5\r\nhello\r\n0\r\n\r\n"), whole("hello", "", ""));
        assert_eq!(chunked("1\r\na\r\n00A\r\n0123456789\r\n000\r\n\r\n"), whole("a0123456789", "", ""));
        assert_eq!(chunked("2\r\n\r\n\r\n0\r\n\r\nGET"), whole("\r\n", "", "GET"));
        assert_eq!(chunked("1;a=b\r\nx\r\n0 ;c;d=\"e\tf\"\r\n\r\n"), whole("x", "", ""));
    }

    #[test]
    fn chunk_sizes_do_not_overflow() {
        assert_eq!(chunked("ffffffffffffffff\r\nx"), Err(BodyError::Incomplete));
        assert_eq!(chunked("0000000000000001\r\nx\r\n0\r\n\r\n"), whole("x", "", ""));
        for size in ["10000000000000000", "00000000000000001", "fffffffffffffffff"] {
            assert_eq!(chunked(format!("{size}\r\nx")), Err(BodyError::ChunkSize), "{size}");
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for (text, error) in [
            ("", BodyError::Incomplete),
            ("5", BodyError::Incomplete),
            ("5\r", BodyError::Incomplete),
            ("5\r\nhell", BodyError::Incomplete),
            ("5\r\nhello", BodyError::Incomplete),
            ("5\r\nhello\r\n", BodyError::Incomplete),
            ("5\r\nhello\r\n0\r\n", BodyError::Incomplete),
            ("5\r\nhello\r\n0\r\n\r", BodyError::Incomplete),
            ("\r\n", BodyError::ChunkSize),
            ("x\r\n", BodyError::ChunkSize),
            ("-5\r\nhello", BodyError::ChunkSize),
            ("+5\r\nhello", BodyError::ChunkSize),
            (" 5\r\nhello", BodyError::ChunkSize),
            (";a\r\n", BodyError::ChunkSize),
            ("0x5\r\nhello", BodyError::ChunkExtension),
            ("5 \r\nhello", BodyError::ChunkExtension),
            ("5 5\r\nhello", BodyError::ChunkExtension),
            ("5,\r\nhello", BodyError::ChunkExtension),
            ("5\nhello", BodyError::ChunkExtension),
            ("5\rhello", BodyError::ChunkExtension),
            ("5;a\nhello", BodyError::ChunkExtension),
            ("5;a\rb\r\nhello", BodyError::ChunkExtension),
            ("5;a\r\r\nhello", BodyError::ChunkExtension),
            ("5;\0\r\nhello", BodyError::ChunkExtension),
            ("5\r\nhello0\r\n\r\n", BodyError::ChunkEnd),
            ("5\r\nhello\n0\r\n\r\n", BodyError::ChunkEnd),
            ("5\r\nhello\r0\r\n\r\n", BodyError::ChunkEnd),
            ("4\r\nhello\r\n0\r\n\r\n", BodyError::ChunkEnd),
        ] {
            assert_eq!(chunked(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn chunk_extensions_are_bounded() {
        let with = |len: usize| chunked(format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(len - 1)));
        assert_eq!(with(CHUNK_EXTENSION_BYTES_MAX), whole("x", "", ""));
        assert_eq!(with(CHUNK_EXTENSION_BYTES_MAX + 1), Err(BodyError::ChunkExtension));
        let spaces = format!("1{}", " ".repeat(2 * CHUNK_EXTENSION_BYTES_MAX));
        assert_eq!(chunked(spaces), Err(BodyError::ChunkExtension));
    }

    #[test]
    fn trailers_are_handed_on_as_received() {
        assert_eq!(
            chunked("1\r\nx\r\n0\r\nDigest:  a \r\nx-B:\r\n\r\nnext"),
            whole("x", "Digest:  a \r\nx-B:\r\n", "next")
        );
        for (lines, error) in [
            ("Digest : a\r\n", BodyError::Trailer),
            ("Digest\r\n", BodyError::Trailer),
            ("Digest: a\r\n b\r\n", BodyError::Trailer),
            ("Digest: a\n", BodyError::Trailer),
            ("Digest: \0\r\n", BodyError::Trailer),
            ("Digest: a\rb\r\n", BodyError::Trailer),
            ("Content-Length: 5\r\n", BodyError::TrailerForbidden),
            ("Digest: a\r\ntransfer-encoding: chunked\r\n", BodyError::TrailerForbidden),
            ("Host: a.com\r\n", BodyError::TrailerForbidden),
            ("Authorization: Basic YQ==\r\n", BodyError::TrailerForbidden),
            ("Set-Cookie: a=b\r\n", BodyError::TrailerForbidden),
        ] {
            assert_eq!(chunked(format!("0\r\n{lines}\r\n")), Err(error), "{lines:?}");
        }
    }

    #[test]
    fn trailers_are_bounded() {
        let fields = |count| chunked(format!("0\r\n{}\r\n", "a: b\r\n".repeat(count))).map(|_| ());
        assert_eq!(fields(TRAILER_FIELDS_MAX), Ok(()));
        assert_eq!(fields(TRAILER_FIELDS_MAX + 1), Err(BodyError::TrailersTooLarge));
        let bytes = |len: usize| chunked(format!("0\r\na: {}\r\n\r\n", "b".repeat(len - "a: \r\n".len()))).map(|_| ());
        assert_eq!(bytes(TRAILER_BYTES_MAX), Ok(()));
        assert_eq!(bytes(TRAILER_BYTES_MAX + 1), Err(BodyError::TrailersTooLarge));
        let endless = format!("0\r\na: {}", "b".repeat(TRAILER_BYTES_MAX));
        assert_eq!(chunked(endless), Err(BodyError::TrailersTooLarge));
    }

    proptest! {
        #[test]
        fn any_split_of_any_bytes_gives_the_same(
            text in "([0-9a-f]{1,2}|\r\n|\n|;|x: y|[a-z]{0,20}| ){0,12}",
            chunks in prop::collection::vec("[ -~]{1,40}", 0..6),
            step in 1usize..70,
        ) {
            let well_formed: String = chunks.iter().map(|data| format!("{:x}\r\n{data}\r\n", data.len())).collect();
            let whole = format!("{well_formed}0\r\n\r\n{text}");
            prop_assert_eq!(
                read(BodyLength::Chunked, whole.as_bytes(), step),
                Ok((chunks.concat().into_bytes(), vec![], text.clone().into_bytes()))
            );
            let broken = format!("{well_formed}{text}");
            prop_assert_eq!(
                read(BodyLength::Chunked, broken.as_bytes(), step),
                read(BodyLength::Chunked, broken.as_bytes(), usize::MAX)
            );
        }
    }
}
