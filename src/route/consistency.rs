//! Consistency: what flows in a tunnel fits the name that the tunnel was asked for, or `CONNECT ok.com:80` and `Host: evil.com`
//! would reach through any shared edge whom no rule allows.
//!
//! Pure: bytes in, judgement out. Only the first thing a client says is judged: one ClientHello, or one HTTP/1 head. What comes
//! behind it on the same connection is between client and server (a second request may name another host).

use std::sync::Arc;

use bytes::BytesMut;

use super::{Origination, Protocol, Service, hosts};
use crate::flow::{Finding, Host, Name, Origin, Speaks, Target, Unfit};
use crate::http1::{HeadLimits, RequestHead, RequestTarget, parse_request};
use crate::stream::client_hello::{self, CLIENT_HELLO_BYTES_MAX, ClientHello, HelloError, ServerName};
use crate::stream::sniff::{Sniffed, sniff};

/// What becomes of a tunnel that carries something else than it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is refused before a byte of the client reaches the upstream.
    Enforce,
    /// It is logged.
    Warn,
    /// Nothing is judged.
    Off,
}

/// The rule of `consistency`, or of a service's annotation `egret.dev/consistency`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What is done.
    pub mode: Mode,
    /// It was derived of `outboundTrafficPolicy.mode` (`auto`).
    pub is_auto: bool,
    /// `ech: deny`: an encrypted ClientHello does not fit, whatever its outer name.
    pub deny_ech: bool,
    /// Where the mode was said.
    pub origin: Origin,
}

/// What the first bytes of one tunnel are held against.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The rule, of a mode other than `off`.
    pub policy: Arc<Policy>,
    /// The name that the client asked for.
    pub asked: Name,
    service: Option<Arc<Service>>,
    /// TLS of ours that is around what flows.
    wrapped: Option<Arc<Origination>>,
}

/// What the first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Too few to tell, and nobody can do anything with them: `GE`. They may go on, or who talks in single words would wait here.
    Open,
    /// They name somebody, or are about to; the rest of it is missing.
    More,
    /// They fit, or there is nothing to hold against the name.
    Fits(Shown),
    /// They do not.
    Unfit(Finding),
}

/// The server name of TLS that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// None, or no TLS.
    Nothing,
    /// The name that was asked for.
    Asked,
    /// Another one that the service has.
    Other(Name),
}

/// Bytes that are looked at; a head or hello that is longer is undecided.
pub const FIRST_BYTES_MAX: usize = CLIENT_HELLO_BYTES_MAX;

impl Mode {
    /// The name in the settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Warn => "warn",
            Self::Off => "off",
        }
    }
}

impl Expected {
    /// What a tunnel to `asked` is held against; `None` if nothing is judged. The service's own rule stands above the settings'.
    pub(super) fn new(settings: &Arc<Policy>, service: Option<&Arc<Service>>, asked: &Name) -> Option<Self> {
        let policy = service.and_then(|service| service.consistency.as_ref()).unwrap_or(settings);
        (policy.mode != Mode::Off).then(|| Self {
            policy: policy.clone(),
            asked: asked.clone(),
            service: service.cloned(),
            wrapped: None,
        })
    }

    /// The same for a tunnel that this TLS of ours is around: a client that speaks TLS itself does not know.
    pub(super) fn wrapped(self, tls: Option<Arc<Origination>>) -> Self {
        Self { wrapped: tls, ..self }
    }

    /// True where TLS of ours is around what flows.
    pub fn is_wrapped(&self) -> bool {
        self.wrapped.is_some()
    }

    /// True where what does not fit is refused.
    pub fn is_enforced(&self) -> bool {
        self.policy.mode == Mode::Enforce
    }

    /// Judges the first bytes of the client, all that have come so far; `is_end`: it sends no more.
    pub fn judge(&self, bytes: &[u8], is_end: bool) -> Judgement {
        match self.judge_any(bytes, is_end) {
            Judgement::More if bytes.len() >= FIRST_BYTES_MAX => {
                Judgement::Unfit(Finding::undecided("what the client speaks is not clear after 16 KiB"))
            }
            judgement => judgement,
        }
    }

    fn judge_any(&self, bytes: &[u8], is_end: bool) -> Judgement {
        // Servers pass over empty lines before a request (RFC 9112 §2.2), some over blanks too.
        let text = bytes.trim_ascii_start();
        match sniff(bytes) {
            Sniffed::Tls => self.judge_tls(bytes, is_end),
            Sniffed::More if !is_end => self.open(bytes),
            Sniffed::More | Sniffed::Http2 => self.not_tls("no TLS"),
            Sniffed::Http1 => self.judge_http(text, is_end),
            Sniffed::Other => match looks_like_http(text) {
                Sniffed::Http1 => self.judge_http(text, is_end),
                Sniffed::More if !is_end => self.open(bytes),
                _ => self.not_tls("no TLS"),
            },
        }
    }

    /// Judges a whole ClientHello.
    pub fn judge_hello(&self, hello: &ClientHello) -> Judgement {
        let name = match &hello.server_name {
            ServerName::Host(name) => Some(name.clone()),
            _ => None,
        };
        let unfit = |kind, detail: String| {
            Judgement::Unfit(Finding { kind, detail: detail.into(), server_name: name.clone(), speaks: Speaks::Tls })
        };
        if let Some(tls) = &self.wrapped {
            let rule = &tls.origin.resource;
            return unfit(
                Unfit::DoubleTls,
                format!("the client speaks TLS itself, which would go inside of the TLS that {rule} originates"),
            );
        }
        if hello.has_ech && self.policy.deny_ech {
            return unfit(Unfit::Ech, "the ClientHello is encrypted (ECH), which hides the name".to_owned());
        }
        match &hello.server_name {
            ServerName::Host(name) if *name == self.asked => Judgement::Fits(Shown::Asked),
            ServerName::Host(name) if self.fits(name) => Judgement::Fits(Shown::Other(name.clone())),
            ServerName::Host(name) => unfit(Unfit::Differs, self.differs(&format!("the server name is {name}"))),
            ServerName::IpLiteral(ip) => unfit(Unfit::Differs, self.differs(&format!("the server name is {ip}"))),
            ServerName::Invalid(_) => unfit(Unfit::Malformed, "the server name is no DNS name".to_owned()),
            ServerName::Absent if self.needs_tls() => unfit(
                Unfit::NoName,
                format!("the ClientHello names no server, on a port that carries TLS to {}", self.asked),
            ),
            ServerName::Absent => Judgement::Fits(Shown::Nothing),
        }
    }

    /// Equal, or a host of the service that was matched, or one that the route which carries the tunnel names.
    fn fits(&self, name: &Name) -> bool {
        let covers = |pattern: &Arc<str>| hosts::covers(pattern, name.as_str());
        *name == self.asked
            || self.service.as_ref().is_some_and(|service| {
                let routes = service.routes.as_deref();
                let route = routes.and_then(|routes| routes.tls_route(&Host::Name(self.asked.clone())));
                service.hosts.iter().any(covers) || route.is_some_and(|route| route.sni_hosts.iter().any(covers))
            })
    }

    fn needs_tls(&self) -> bool {
        self.service.as_ref().is_some_and(|service| service.protocol == Protocol::Tls)
    }

    fn judge_tls(&self, bytes: &[u8], is_end: bool) -> Judgement {
        let unfit = |kind, detail: &str| {
            Judgement::Unfit(Finding { kind, detail: detail.into(), server_name: None, speaks: Speaks::Tls })
        };
        match client_hello::parse(bytes) {
            Ok(Some(hello)) => self.judge_hello(&hello),
            Ok(None) if is_end => unfit(Unfit::Undecided, "the client ended inside its ClientHello"),
            Ok(None) => Judgement::More,
            Err(HelloError::NotTls) => self.not_tls("no ClientHello"),
            Err(HelloError::Malformed) => unfit(Unfit::Malformed, "the ClientHello is malformed"),
            Err(HelloError::TooLong) => unfit(Unfit::Undecided, "the ClientHello is too long"),
        }
    }

    fn judge_http(&self, bytes: &[u8], is_end: bool) -> Judgement {
        if self.needs_tls() {
            return self.not_tls("no TLS");
        }
        let unfit = |kind, detail: String| {
            Judgement::Unfit(Finding { kind, detail: detail.into(), server_name: None, speaks: Speaks::Http })
        };
        let window = &bytes[..bytes.len().min(FIRST_BYTES_MAX)];
        let head = match parse_request(&mut BytesMut::from(window), &HEAD_LIMITS) {
            Ok(Some(head)) => head,
            Ok(None) if is_end => {
                return unfit(Unfit::Undecided, "the client ended inside the head of its request".into());
            }
            Ok(None) => return Judgement::More,
            Err(error) if window.len() == FIRST_BYTES_MAX => return unfit(Unfit::Undecided, error.to_string()),
            Err(error) => return unfit(Unfit::Malformed, error.to_string()),
        };
        match named(&head) {
            Err(detail) => unfit(Unfit::Malformed, detail),
            Ok(names) => {
                let differs = |host: &Host| host.name().is_none_or(|name| !self.fits(name));
                let other = names.into_iter().flatten().find(differs);
                other.map_or(Judgement::Fits(Shown::Nothing), |host| {
                    unfit(Unfit::Differs, self.differs(&format!("the request inside names {host}")))
                })
            }
        }
    }

    /// Of a method, blanks before it, or the first byte of a record.
    fn open(&self, bytes: &[u8]) -> Judgement {
        match bytes.first() {
            Some(&first) if self.needs_tls() && first != TLS_HANDSHAKE => self.not_tls("no TLS"),
            _ if bytes.len() > OPEN_BYTES_MAX => Judgement::More,
            _ => Judgement::Open,
        }
    }

    /// What names nobody passes where nobody has to be named.
    fn not_tls(&self, what: &str) -> Judgement {
        if !self.needs_tls() {
            return Judgement::Fits(Shown::Nothing);
        }
        let detail = format!("{what}, on a port that carries TLS to {}", self.asked).into();
        Judgement::Unfit(Finding { kind: Unfit::NotTls, detail, server_name: None, speaks: Speaks::Other })
    }

    fn differs(&self, found: &str) -> String {
        format!("{found}, the tunnel was asked for {}", self.asked)
    }
}

/// Hosts that a request names: of a target that has one, and of Host, since a server may go by either.
fn named(head: &RequestHead) -> Result<[Option<Host>; 2], String> {
    let target = match head.target() {
        RequestTarget::Authority(target) | RequestTarget::Absolute { target, .. } => Some(target.host.clone()),
        RequestTarget::Origin | RequestTarget::Asterisk => None,
    };
    let host = head.host().map(|host| Target::parse_or_port(host, 80)).transpose();
    let host = host.map_err(|error| format!("Host: {error}"))?;
    Ok([target, host.map(|target| target.host)])
}

/// What strict readers take for no request, and others may: more blanks than one behind the method, or a CONNECT to somebody else.
fn looks_like_http(text: &[u8]) -> Sniffed {
    let Some(blank) = text.iter().take(METHOD_BYTES_MAX).position(|b| matches!(b, b' ' | b'\t')) else {
        return match sniff(text) {
            Sniffed::Other => Sniffed::Other,
            sniffed => sniffed, // behind an empty line
        };
    };
    let (method, rest) = (&text[..blank], text[blank..].trim_ascii_start());
    if method == b"CONNECT" {
        return Sniffed::Http1;
    }
    sniff(&[method, b" ", &rest[..rest.len().min(SCHEME_BYTES)]].concat())
}

const HEAD_LIMITS: HeadLimits = HeadLimits { bytes: FIRST_BYTES_MAX, fields: 512 }; // one of 512 fields is no browser's
const OPEN_BYTES_MAX: usize = 64; // a method and a scheme are shorter; a tunnel that stays open so keeps no more
const TLS_HANDSHAKE: u8 = 22; // ContentType, RFC 8446 §5.1
const METHOD_BYTES_MAX: usize = 33; // one more than the sniffer looks for
const SCHEME_BYTES: usize = 8; // more than `https:`

#[cfg(test)]
mod tests;
