//! Which fields of a head travel on, and how: RFC 9110 §7.6, and what the other side must not see.

use std::borrow::Cow;

use bytes::BytesMut;

use crate::flow::{Scheme, Target};
use crate::http1::{BodyLength, RequestHead, ResponseHead, Version, write};

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
}

/// Writes the head of a request as it goes to the upstream: order and case as received, hop-by-hop and nominated fields removed.
pub fn write_request(out: &mut BytesMut, head: &RequestHead, to: &Outbound<'_>) {
    let authority = Authority { target: to.target, scheme: to.scheme };
    if to.absolute_form {
        write::request_line(out, head.method(), &format!("{}://{authority}{}", to.scheme.as_str(), to.path));
    } else {
        write::request_line(out, head.method(), to.path);
    }
    let mut has_host = false;
    for (name, value) in head.fields() {
        if name.eq_ignore_ascii_case("host") {
            has_host = true;
            write::field_display(out, name, &authority);
        } else if name.eq_ignore_ascii_case("max-forwards") && to.max_forwards.is_some() {
            write::field_display(out, name, &to.max_forwards.unwrap_or_default());
        } else if name.eq_ignore_ascii_case("content-length") || !is_hop_by_hop(name) && !head.nominates(name) {
            write::field(out, name, value);
        }
    }
    if !has_host {
        write::field_display(out, "Host", &authority); // HTTP/1.0 clients may leave it out, HTTP/1.1 upstreams may not
    }
    match head.body() {
        BodyLength::Chunked => write::field(out, "Transfer-Encoding", b"chunked"),
        BodyLength::None | BodyLength::Length(_) | BodyLength::UntilClose => {}
    }
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
}

/// Writes the head of an answer as it goes to the client.
pub fn write_answer(out: &mut BytesMut, head: &ResponseHead, to: &Inbound<'_>) {
    write::status_line(out, head.status(), head.reason());
    for (name, value) in head.fields() {
        let length = name.eq_ignore_ascii_case("content-length");
        // With a transfer coding of ours the length of the origin must not stand beside it (RFC 9112 §6.2).
        if (length && !matches!(to.framing, BodyLength::Chunked))
            || !length && !is_hop_by_hop(name) && !head.nominates(name)
        {
            write::field(out, name, value);
        }
    }
    if matches!(to.framing, BodyLength::Chunked) {
        write::field(out, "Transfer-Encoding", b"chunked");
    }
    if to.websocket {
        write::field(out, "Connection", b"Upgrade");
        write::field(out, "Upgrade", b"websocket");
    } else if head.status() >= 200 {
        match (to.version, to.keep_alive) {
            (Version::Http11, true) => {}
            (Version::Http10, true) => write::field(out, "Connection", b"keep-alive"),
            (_, false) => write::field(out, "Connection", b"close"),
        }
    }
    if let Some(name) = to.via {
        write_via(out, head.version(), name);
    }
    write::end(out);
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

fn write_via(out: &mut BytesMut, received: Version, name: &str) {
    let version = match received {
        Version::Http10 => "1.0",
        Version::Http11 => "1.1",
    };
    write::field_display(out, "Via", &format_args!("{version} {name}"));
}

/// Fields that belong to one connection only (RFC 9110 §7.6.1), credentials for us (§11.7), and `HTTP2-Settings`, which goes with an
/// h2c upgrade that we never pass.
fn is_hop_by_hop(name: &str) -> bool {
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
    NAMES.iter().any(|hop_by_hop| name.eq_ignore_ascii_case(hop_by_hop))
}

/// Displays a target as an authority, without the port that the scheme means anyway.
struct Authority<'a> {
    target: &'a Target,
    scheme: Scheme,
}

impl std::fmt::Display for Authority<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.target.port != self.scheme.default_port() {
            return self.target.fmt(f);
        }
        match self.target.host.ip() {
            Some(std::net::IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            _ => self.target.host.fmt(f),
        }
    }
}
