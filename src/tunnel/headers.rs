//! Which fields of a head travel on, and how: RFC 9110 §7.6, and what the other side must not see.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use crate::flow::{Scheme, Target};
use crate::http1::{BodyLength, Passing, RequestHead, ResponseHead, Version, write};
use crate::route::http::changes::Changes;

/// How a request goes out.
#[derive(Clone, Copy, Debug)]
pub struct Outbound<'a> {
    /// Path and query as received.
    pub path: &'a str,
    /// What the request is for: becomes `Host`, whatever the client's `Host` said (RFC 9112 §3.2.2).
    pub target: &'a Target,
    /// The scheme asked for: its default port is left out of `Host`.
    pub scheme: Scheme,
    /// Absolute-form, for a parent that wants plain HTTP so.
    pub absolute_form: bool,
    /// `Proxy-Authorization` for that parent.
    pub proxy_authorization: Option<&'a str>,
    /// `Upgrade: websocket` travels.
    pub websocket: bool,
    /// `Max-Forwards`, already counted down.
    pub max_forwards: Option<u64>,
    /// Our name, or nothing (`via.send: false`).
    pub via: Option<&'a str>,
    /// What a route changes in the request's fields.
    pub changes: Option<&'a Changes>,
    /// The same for its answer.
    pub answer_changes: Option<&'a Changes>,
}

/// Writes the head of a request as it goes to the upstream: order and case as received, hop-by-hop and nominated fields removed.
pub fn write_request(out: &mut BytesMut, head: &RequestHead, to: &Outbound<'_>) {
    let authority = Authority { target: to.target, scheme: to.scheme };
    if to.absolute_form {
        let mut url = BytesMut::from(to.scheme.as_str());
        url.put_slice(b"://");
        authority.put(&mut url);
        if to.path != "*" {
            url.put_slice(to.path.as_bytes()); // OPTIONS * has none in a URL (RFC 9112 §3.2.4)
        }
        write::request_line(out, head.method(), &url);
    } else {
        write::request_line(out, head.method(), to.path.as_bytes());
    }
    let mut has_host = false;
    head.pass_fields(
        out,
        |name| match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                has_host = true;
                Passing::Replaced
            }
            12 if to.max_forwards.is_some() && name.eq_ignore_ascii_case(b"max-forwards") => Passing::Replaced,
            14 if name.eq_ignore_ascii_case(b"content-length") => Passing::Kept,
            _ if is_hop_by_hop(name) || head.nominates(name) || drops(to.changes, name) => Passing::Dropped,
            _ => Passing::Kept,
        },
        |out, name| match to.max_forwards {
            Some(left) if name.len() == "max-forwards".len() => {
                write::field_with(out, name, |out| put_number(out, left))
            }
            _ => write::field_with(out, name, |out| authority.put(out)),
        },
    );
    if !has_host {
        // HTTP/1.0 clients may leave it out, HTTP/1.1 upstreams may not.
        write::field_with(out, b"Host", |out| authority.put(out));
    }
    match head.body() {
        BodyLength::Chunked => write::field(out, "Transfer-Encoding", b"chunked"),
        BodyLength::None | BodyLength::Length(_) | BodyLength::UntilClose => {}
    }
    write_changes(out, to.changes);
    if to.websocket {
        write::field(out, "Connection", b"Upgrade");
        write::field(out, "Upgrade", b"websocket");
    }
    if let Some(authorization) = to.proxy_authorization {
        write::field(out, "Proxy-Authorization", authorization.as_bytes());
    }
    if let Some(name) = to.via {
        write_via(out, head.version(), name);
    }
    write::end(out);
}

/// How an answer goes to the client.
#[derive(Clone, Copy, Debug)]
pub struct Inbound<'a> {
    /// How its body is delimited towards the client.
    pub framing: BodyLength,
    /// The client's version: 1.0 needs to be told that the connection stays.
    pub version: Version,
    /// The connection stays open after this answer.
    pub keep_alive: bool,
    /// A 101 that switches to websocket.
    pub websocket: bool,
    /// Our name, or nothing.
    pub via: Option<&'a str>,
    /// What a route changes in the answer's fields.
    pub changes: Option<&'a Changes>,
}

/// Writes the head of an answer as it goes to the client.
pub fn write_answer(out: &mut BytesMut, head: &ResponseHead, to: &Inbound<'_>) {
    write::status_line(out, head.status(), head.reason());
    let chunked = matches!(to.framing, BodyLength::Chunked);
    head.pass_fields(
        out,
        |name| match name.len() {
            // With a transfer coding of ours the length of the origin must not stand beside it (RFC 9112 §6.2).
            14 if name.eq_ignore_ascii_case(b"content-length") && chunked => Passing::Dropped,
            14 if name.eq_ignore_ascii_case(b"content-length") => Passing::Kept,
            _ if is_hop_by_hop(name) || head.nominates(name) || drops(to.changes, name) => Passing::Dropped,
            _ => Passing::Kept,
        },
        |_, _| {},
    );
    write_changes(out, to.changes);
    if chunked {
        write::field(out, "Transfer-Encoding", b"chunked");
    }
    if to.websocket {
        write::field(out, "Connection", b"Upgrade");
        write::field(out, "Upgrade", b"websocket");
    } else if head.status() >= 200 {
        match (to.version, to.keep_alive) {
            (Version::Http11 | Version::Http2, true) => {}
            (Version::Http10, true) => write::field(out, "Connection", b"keep-alive"),
            (_, false) => write::field(out, "Connection", b"close"),
        }
    }
    if let Some(name) = to.via {
        write_via(out, head.version(), name);
    }
    write::end(out);
}

/// The fields of an answer that travel on, where they are not written into a buffer; framing fields but `Content-Length` do not.
pub fn answer_fields<'a>(
    head: &'a ResponseHead,
    changes: Option<&'a Changes>,
) -> impl Iterator<Item = (&'a str, &'a [u8])> {
    let kept = head.fields().filter(move |(name, _)| {
        let name = name.as_bytes();
        name.eq_ignore_ascii_case(b"content-length")
            || !is_hop_by_hop(name) && !head.nominates(name) && !drops(changes, name)
    });
    kept.chain(changes.into_iter().flat_map(Changes::fields).map(|(name, value)| (name, value.as_bytes())))
}

/// Whether a field of a request goes on, whatever it is written into.
pub fn travels(head: &RequestHead, to: &Outbound<'_>, name: &[u8]) -> bool {
    !is_hop_by_hop(name) && !head.nominates(name) && !drops(to.changes, name)
}

/// The target as an authority, without the port that the scheme means anyway.
pub fn authority(target: &Target, scheme: Scheme) -> String {
    let mut text = BytesMut::new();
    Authority { target, scheme }.put(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn drops(changes: Option<&Changes>, name: &[u8]) -> bool {
    changes.is_some_and(|changes| changes.drops(name))
}

fn write_changes(out: &mut BytesMut, changes: Option<&Changes>) {
    for (name, value) in changes.into_iter().flat_map(Changes::fields) {
        write::field(out, name, value.as_bytes());
    }
}

/// The value of the `Via` that we add to a message.
pub fn via_value(received: Version, name: &str) -> String {
    format!("{} {name}", via_version(received))
}

/// True where one of the `Via` fields holds our own name, compared whole: the message has been here before.
pub fn is_loop(head: &RequestHead, name: &str) -> bool {
    head.all("via").any(|value| {
        let Ok(value) = std::str::from_utf8(value) else { return false };
        value.split(',').any(|member| member.split_whitespace().nth(1) == Some(name))
    })
}

/// The `Via` fields of a request as one value, if there are any.
pub fn received_via(head: &RequestHead) -> Option<Cow<'_, str>> {
    let mut values = head.all("via").map(String::from_utf8_lossy);
    let first = values.next()?;
    Some(values.fold(first, |joined, value| Cow::Owned(format!("{joined}, {value}"))))
}

/// RFC 9110 §7.6.3.
fn via_version(received: Version) -> &'static str {
    match received {
        Version::Http10 => "1.0",
        Version::Http11 => "1.1",
        Version::Http2 => "2",
    }
}

fn write_via(out: &mut BytesMut, received: Version, name: &str) {
    write::field_with(out, b"Via", |out| {
        out.put_slice(via_version(received).as_bytes());
        out.put_u8(b' ');
        out.put_slice(name.as_bytes());
    });
}

/// Fields that belong to one connection only (RFC 9110 §7.6.1), credentials for us (§11.7), and `HTTP2-Settings`, which goes with an
/// h2c upgrade that we never pass.
fn is_hop_by_hop(name: &[u8]) -> bool {
    const NAMES: [&str; 10] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "proxy-authenticate",
        "proxy-authentication-info",
        "te",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    ];
    NAMES.iter().any(|hop_by_hop| name.eq_ignore_ascii_case(hop_by_hop.as_bytes()))
}

/// Displays a target as an authority, without the port that the scheme means anyway.
struct Authority<'a> {
    target: &'a Target,
    scheme: Scheme,
}

impl Authority<'_> {
    fn put(&self, out: &mut BytesMut) {
        let port = self.target.port;
        self.target.put_with_port(out, (port != self.scheme.default_port()).then_some(port));
    }
}

fn put_number(out: &mut BytesMut, number: u64) {
    out.put_slice(itoa::Buffer::new().format(number).as_bytes());
}
