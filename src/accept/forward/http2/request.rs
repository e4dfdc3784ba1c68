//! A request of HTTP/2 written down as one of HTTP/1.1, so that the same rules judge it: what it asks for, which bytes may stand in it,
//! which fields it may not have twice. What RFC 9113 §8 calls malformed beyond that h2 has refused already, by a reset.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::BytesMut;
use h2::ext::Protocol;
use http::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderMap};
use http::request::Parts;
use http::{Method, Uri};

use crate::flow::{ErrorType, Failure};
use crate::http1::{HeadLimits, RequestHead, parse_request, websocket, write};

/// A request that was read.
pub(super) struct Read {
    pub(super) head: RequestHead,
    /// A websocket (RFC 8441): what its origin has to answer to the key that was made up for it.
    pub(super) accept: Option<Box<str>>,
}

/// Reads a request; `bodiless`: END_STREAM came with its head.
pub(super) fn read(parts: &Parts, bodiless: bool, limits: &HeadLimits) -> Result<Read, Failure> {
    let mut text = BytesMut::with_capacity(512);
    let authority = authority(&parts.uri, &parts.headers)?;
    let protocol = parts.extensions.get::<Protocol>().map(Protocol::as_str);
    let websocket = match (parts.method == Method::CONNECT, protocol) {
        (true, None) => {
            write::request_line(&mut text, "CONNECT", authority.as_bytes());
            false
        }
        (_, Some("websocket")) => {
            write_request_line(&mut text, "GET", &parts.uri, authority);
            true
        }
        (_, Some(_)) => {
            let detail = "of extended CONNECT only websocket is carried out here";
            return Err(Failure::new(ErrorType::NotImplemented, detail));
        }
        (false, None) => {
            write_request_line(&mut text, parts.method.as_str(), &parts.uri, authority);
            false
        }
    };
    write::field(&mut text, "Host", authority.as_bytes());
    for (name, value) in &parts.headers {
        if name != HOST && name != COOKIE && !(websocket && name == "sec-websocket-key") {
            write::field(&mut text, name.as_str(), value.as_bytes());
        }
    }
    write_cookie(&mut text, &parts.headers);
    let accept = websocket.then(|| write_websocket(&mut text));
    if !websocket && parts.method != Method::CONNECT && !parts.headers.contains_key(CONTENT_LENGTH) {
        if !bodiless {
            write::field(&mut text, "Transfer-Encoding", b"chunked");
        } else if [Method::POST, Method::PUT, Method::PATCH].contains(&parts.method) {
            write::field(&mut text, "Content-Length", b"0"); // in HTTP/1 a body that is empty has to say so (RFC 9110 §8.6)
        }
    }
    write::end(&mut text);
    let head = match parse_request(&mut text, limits) {
        Ok(Some(head)) if text.is_empty() => head.over_http2(),
        Ok(_) => return Err(bad("the request is not one of HTTP")),
        Err(error) => return Err(Failure::new(error.error_type(), error.to_string())),
    };
    Ok(Read { head, accept })
}

/// `:authority`, or `Host` where a client sends that alone (RFC 9113 §8.3.1).
fn authority<'a>(uri: &'a Uri, fields: &'a HeaderMap) -> Result<&'a str, Failure> {
    let mut hosts = fields.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(bad("Host stands twice")),
        (host, _) => host.map(|host| host.to_str()).transpose().map_err(|_| bad("Host is not ASCII"))?,
    };
    match (uri.authority().map(http::uri::Authority::as_str), host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            Err(bad("Host differs from :authority"))
        }
        (Some(authority), _) | (None, Some(authority)) => Ok(authority),
        (None, None) => Err(bad("there is neither :authority nor Host")),
    }
}

/// As a whole URL: there is no other way to ask a proxy. Without a path for `OPTIONS *` (RFC 9112 §3.2.4).
fn write_request_line(text: &mut BytesMut, method: &str, uri: &Uri, authority: &str) {
    // h2 refuses requests without scheme, but drops the scheme where there is no authority; that client gave a Host alone.
    let scheme = uri.scheme_str().unwrap_or("http");
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let path = if path == "*" && method == "OPTIONS" { "" } else { path };
    write::request_line_display(text, method, &format_args!("{scheme}://{authority}{path}"));
}

/// The crumbs of a cookie make one field again (RFC 9113 §8.2.3).
fn write_cookie(text: &mut BytesMut, fields: &HeaderMap) {
    let crumbs: Vec<&[u8]> = fields.get_all(COOKIE).iter().map(http::HeaderValue::as_bytes).collect();
    if !crumbs.is_empty() {
        write::field(text, "Cookie", &crumbs.join(&b"; "[..]));
    }
}

/// What HTTP/1 needs beyond RFC 8441; gives the answer that the origin has to find.
fn write_websocket(text: &mut BytesMut) -> Box<str> {
    let key = BASE64.encode(fastrand::u128(..).to_be_bytes()); // it proves that the origin speaks websocket, nothing else
    write::field(text, "Connection", b"Upgrade");
    write::field(text, "Upgrade", b"websocket");
    write::field(text, "Sec-WebSocket-Key", key.as_bytes());
    websocket::accept(key.as_bytes()).into()
}

fn bad(detail: &str) -> Failure {
    Failure::new(ErrorType::BadRequest, detail)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Request;

    use super::*;
    use crate::http1::{BodyLength, RequestTarget};

    const LIMITS: HeadLimits = HeadLimits { bytes: 1024, fields: 20 };

    fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn head(parts: &Parts, bodiless: bool) -> RequestHead {
        read(parts, bodiless, &LIMITS).map(|read| read.head).unwrap()
    }

    fn refusal(parts: &Parts) -> (ErrorType, String) {
        let failure = read(parts, true, &LIMITS).map(|_| ()).unwrap_err();
        (failure.error, failure.detail.into())
    }

    #[test]
    fn a_request_becomes_one_of_absolute_form() {
        let parts = parts("GET", "http://a.example:8080/x?y", &[("cookie", "a=b"), ("x", "1"), ("cookie", "c=d")]);
        let head = head(&parts, true);
        assert_eq!((head.method(), head.path(), head.body()), ("GET", "/x?y", BodyLength::None));
        assert_eq!(head.version().as_str(), "HTTP/2");
        assert_eq!(head.field("cookie"), Some(&b"a=b; c=d"[..]));
        assert!(
            matches!(head.target(), RequestTarget::Absolute { target, .. } if target.to_string() == "a.example:8080")
        );
    }

    #[test]
    fn a_body_is_chunked_unless_its_length_is_known_or_it_is_empty() {
        let body =
            |fields: &[(&str, &str)], bodiless| head(&parts("POST", "http://a.example/", fields), bodiless).body();
        assert_eq!(body(&[], false), BodyLength::Chunked);
        assert_eq!(body(&[("content-length", "5")], false), BodyLength::Length(5));
        let empty = head(&parts("POST", "http://a.example/", &[]), true);
        assert_eq!((empty.body(), empty.field("content-length")), (BodyLength::None, Some(&b"0"[..])));
        assert_eq!(head(&parts("GET", "http://a.example/", &[]), true).field("content-length"), None);
    }

    #[test]
    fn what_asks_for_nobody_or_for_two_is_refused() {
        assert!(refusal(&parts("GET", "/", &[])).1.contains("neither :authority nor Host"));
        let two = parts("GET", "http://a.example/", &[("host", "b.example")]);
        assert_eq!(refusal(&two), (ErrorType::BadRequest, "Host differs from :authority".into()));
        assert!(refusal(&parts("GET", "/", &[("host", "a.example"), ("host", "a.example")])).1.contains("twice"));
        assert!(refusal(&parts("GET", "ftp://a.example/", &[])).1.contains("scheme"));
        assert!(refusal(&parts("GET", "http://u:p@a.example/", &[])).1.contains("user information"));
        assert!(refusal(&parts("CONNECT", "a.example", &[])).1.contains("port is missing"));
        let same = parts("GET", "http://A.example/", &[("host", "a.EXAMPLE")]);
        assert_eq!(head(&same, true).host(), Some(&b"A.example"[..]));
    }

    #[test]
    fn a_head_is_bounded_as_in_http1() {
        let value = |len: usize| "v".repeat(len);
        let fits = |len| read(&parts("GET", "http://a.example/", &[("x", &value(len))]), true, &LIMITS).map(|_| ());
        let overhead = "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nx: \r\n\r\n".len();
        assert!(fits(LIMITS.bytes - overhead).is_ok());
        assert_eq!(fits(LIMITS.bytes - overhead + 1).unwrap_err().error, ErrorType::HeadTooLarge);
    }

    #[test]
    fn a_websocket_becomes_an_upgrade_with_a_key_of_ours() {
        let mut asked = parts(
            "CONNECT",
            "http://a.example/chat",
            &[("sec-websocket-key", "theirs"), ("sec-websocket-version", "13")],
        );
        asked.extensions.insert(Protocol::from_static("websocket"));
        let Read { head, accept: expected } = read(&asked, false, &LIMITS).map_err(|failure| failure.detail).unwrap();
        assert!(head.upgrade_websocket());
        let keys: Vec<_> = head.all("sec-websocket-key").collect();
        assert_eq!(keys.len(), 1);
        assert_eq!(expected, Some(websocket::accept(keys[0]).into()));
        asked.extensions.insert(Protocol::from_static("connect-udp"));
        assert_eq!(refusal(&asked).0, ErrorType::NotImplemented);
    }
}
