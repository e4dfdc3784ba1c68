//! Tells from the first bytes what a client speaks.

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// Too few to tell.
    More,
    /// A request of HTTP/1: a method, a space and what may begin a target.
    Http1,
    /// The preface of HTTP/2 (RFC 9113 §3.4).
    Http2,
    /// A TLS handshake record.
    Tls,
    /// None of these.
    Other,
}

/// Looks at the first bytes of a connection; 34 of them are enough for every answer but `More`.
///
/// A method alone would not do: `SSH-2.0-OpenSSH_9.6 Debian` and `EHLO mail` begin with a token and a space too. So the target counts:
/// a path, `*`, or a URL's scheme as far as it has arrived.
pub fn sniff(bytes: &[u8]) -> Sniffed {
    match bytes {
        [] | [TLS_HANDSHAKE] => return Sniffed::More,
        [TLS_HANDSHAKE, TLS_MAJOR, ..] => return Sniffed::Tls,
        _ if bytes.starts_with(HTTP2_PREFACE) => return Sniffed::Http2,
        _ if HTTP2_PREFACE.starts_with(bytes) => return Sniffed::More,
        _ => {}
    }
    let method_end = bytes.iter().take(METHOD_BYTES_MAX + 1).position(|&b| !is_token(b));
    match method_end {
        None if bytes.len() <= METHOD_BYTES_MAX => Sniffed::More,
        Some(end @ 1..) if bytes[end] == b' ' => begins_target(&bytes[end + 1..]),
        _ => Sniffed::Other,
    }
}

fn begins_target(bytes: &[u8]) -> Sniffed {
    match bytes {
        [] => Sniffed::More,
        [b'/' | b'*', ..] => Sniffed::Http1,
        _ if SCHEMES.iter().any(|scheme| begins_with(bytes, scheme)) => Sniffed::Http1,
        _ if SCHEMES.iter().any(|scheme| begins_with(scheme, bytes)) => Sniffed::More,
        _ => Sniffed::Other,
    }
}

fn begins_with(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
}

/// RFC 9110 §5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

const TLS_HANDSHAKE: u8 = 22; // RFC 8446 §5.1
const TLS_MAJOR: u8 = 3;
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n"; // RFC 9113 §3.4, its first line
const METHOD_BYTES_MAX: usize = 32; // the longest registered method, UPDATEREDIRECTREF, has 17
const SCHEMES: [&[u8]; 2] = [b"http:", b"https:"];

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer to the whole, after checking that no prefix gave another one.
    fn sniffed(bytes: &[u8]) -> Sniffed {
        let whole = sniff(bytes);
        for len in 0..bytes.len() {
            let early = sniff(&bytes[..len]);
            assert!(early == Sniffed::More || early == whole, "{early:?} after {len} of {bytes:?}, then {whole:?}");
        }
        whole
    }

    #[test]
    fn protocols_are_told_by_their_first_bytes() {
        for (bytes, kind) in [
            (&b""[..], Sniffed::More),
            (b"GET / HTTP/1.1\r\n", Sniffed::Http1),
            (b"OPTIONS * HTTP/1.1\r\n", Sniffed::Http1),
            (b"M-SEARCH * HTTP/1.1\r\n", Sniffed::Http1),
            (b"get HTTP://a.com/", Sniffed::Http1),
            (b"GET https://a.com/", Sniffed::Http1),
            (b"PUT /", Sniffed::Http1),
            (b"PRI / HTTP/1.1", Sniffed::Http1),
            (b"GET", Sniffed::More),
            (b"GET ", Sniffed::More),
            (b"GET htt", Sniffed::More),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Sniffed::Http2),
            (b"PRI * HT", Sniffed::More),
            (b"\x16\x03\x01\x02\x00", Sniffed::Tls),
            (b"\x16", Sniffed::More),
            (b"\x16\x02", Sniffed::Other),
            (b"\x17\x03\x03", Sniffed::Other),
            (b"SSH-2.0-OpenSSH_9.6 Debian\r\n", Sniffed::Other),
            (b"EHLO mail.example.com\r\n", Sniffed::Other),
            (b"EHLO\r\n", Sniffed::Other),
            (b"GET\t/", Sniffed::Other),
            (b"GET  /", Sniffed::Other),
            (b" GET /", Sniffed::Other),
            (b"\r\nGET /", Sniffed::Other),
            (b"\0", Sniffed::Other),
        ] {
            assert_eq!(sniffed(bytes), kind, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_method_is_not_waited_for_without_end() {
        let method = [b'A'; METHOD_BYTES_MAX + 1];
        assert_eq!(sniffed(&method[1..]), Sniffed::More);
        assert_eq!(sniffed(&[&method[1..], b" /"].concat()), Sniffed::Http1);
        assert_eq!(sniffed(&method), Sniffed::Other);
    }
}
