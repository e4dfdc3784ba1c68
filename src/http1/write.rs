//! Writes heads and chunk framing, straight into the buffer that goes out.
//!
//! Nothing is checked here: what is written was parsed by us before, or is our own.

use std::fmt::{Display, Write};

use bytes::{BufMut, BytesMut};

/// `METHOD target HTTP/1.1`.
pub fn request_line(out: &mut BytesMut, method: &str, target: &[u8]) {
    out.reserve(method.len() + target.len() + " ".len() + REQUEST_LINE_END.len());
    out.put_slice(method.as_bytes());
    out.put_u8(b' ');
    out.put_slice(target);
    out.put_slice(REQUEST_LINE_END);
}

/// The same with a target that is displayed.
pub fn request_line_display(out: &mut BytesMut, method: &str, target: &impl Display) {
    display(out, &format_args!("{method} {target}"));
    out.put_slice(REQUEST_LINE_END);
}

/// `HTTP/1.1 status reason`.
pub fn status_line(out: &mut BytesMut, status: u16, reason: &[u8]) {
    out.reserve("HTTP/1.1 200 \r\n".len() + reason.len());
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(itoa::Buffer::new().format(status).as_bytes());
    out.put_u8(b' '); // also before an empty reason (RFC 9112 §4)
    out.put_slice(reason);
    out.put_slice(b"\r\n");
}

/// `name: value`.
pub fn field(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + ": \r\n".len());
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// `name: value` of what the closure appends.
pub fn field_with(out: &mut BytesMut, name: &[u8], value: impl FnOnce(&mut BytesMut)) {
    out.put_slice(name);
    out.put_slice(b": ");
    value(out);
    out.put_slice(b"\r\n");
}

/// The empty line.
pub fn end(out: &mut BytesMut) {
    out.put_slice(b"\r\n");
}

/// Size line of a chunk.
pub fn chunk_head(out: &mut BytesMut, len: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4).max(1);
    out.reserve(digits as usize + "\r\n".len());
    for place in (0..digits).rev() {
        out.put_u8(DIGITS[(len >> (4 * place)) & 0xf]);
    }
    out.put_slice(b"\r\n");
}

/// `0` and the empty line.
pub fn last_chunk(out: &mut BytesMut) {
    out.put_slice(b"0\r\n\r\n");
}

/// `0`, trailer lines as received, and the empty line.
pub fn last_chunk_with_trailers(out: &mut BytesMut, trailers: &[u8]) {
    out.reserve("0\r\n\r\n".len() + trailers.len());
    out.put_slice(b"0\r\n");
    out.put_slice(trailers);
    out.put_slice(b"\r\n");
}

fn display(out: &mut BytesMut, value: &impl Display) {
    write!(out, "{value}").expect("a BytesMut takes everything");
}

const REQUEST_LINE_END: &[u8] = b" HTTP/1.1\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn a_head_is_written_line_by_line() {
        let head = written(|out| {
            request_line(out, "GET", b"/a?b");
            field(out, "hOsT", b"a.com");
            field_with(out, b"Max-Forwards", |out| out.put_u8(b'7'));
            end(out);
        });
        assert_eq!(head, "GET /a?b HTTP/1.1\r\nhOsT: a.com\r\nMax-Forwards: 7\r\n\r\n");
        assert_eq!(
            written(|out| request_line_display(out, "CONNECT", &format_args!("{}:{}", "a.com", 443))),
            "CONNECT a.com:443 HTTP/1.1\r\n"
        );
        assert_eq!(written(|out| status_line(out, 204, b"")), "HTTP/1.1 204 \r\n");
        assert_eq!(written(|out| status_line(out, 404, b"Not Found")), "HTTP/1.1 404 Not Found\r\n");
    }

    #[test]
    fn chunk_sizes_are_hexadecimal_without_leading_zeros() {
        for (len, line) in [(0, "0"), (1, "1"), (15, "f"), (16, "10"), (255, "ff"), (65536, "10000"), (0xabc, "abc")] {
            assert_eq!(written(|out| chunk_head(out, len)), format!("{line}\r\n"));
        }
        assert_eq!(written(|out| chunk_head(out, usize::MAX)), format!("{:x}\r\n", usize::MAX));
    }

    #[test]
    fn the_last_chunk_carries_trailers() {
        assert_eq!(written(last_chunk), "0\r\n\r\n");
        assert_eq!(written(|out| last_chunk_with_trailers(out, b"Digest: x\r\n")), "0\r\nDigest: x\r\n\r\n");
    }
}
