//! What a request asks for, by its form.

use super::HeadError;
use super::fields::Span;
use crate::flow::{Scheme, Target, TargetError};

/// What a request asks for, by its form (RFC 9112 §3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestTarget {
    /// CONNECT's authority-form.
    Authority(Target),
    /// A whole URL; [`super::RequestHead::path`] has its path and query.
    Absolute {
        /// `http`, `https`; `ws` and `wss` are read as these.
        scheme: Scheme,
        /// Host and port, the scheme's default port if none was written.
        target: Target,
    },
    /// A path.
    Origin,
    /// `*`, of OPTIONS only.
    Asterisk,
}

/// Path and query of a request, where they can be found.
#[derive(Clone, Debug)]
pub(super) enum Path {
    /// In the head.
    Received(Span),
    /// `/` for a URL without path, `-` where there is none.
    Fixed(&'static str),
    /// `http://host?query`: the only path that has to be put together.
    Rooted(Box<str>),
}

/// A request target taken apart.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) target: RequestTarget,
    pub(super) path: Path,
    /// Host and port as written.
    pub(super) authority: Option<&'a str>,
}

/// Reads the target of a request line; `text` lies in `whole`.
pub(super) fn parse<'a>(method: &str, text: &'a str, whole: &[u8]) -> Result<Parts<'a>, HeadError> {
    if !text.is_ascii() {
        return Err(HeadError::TargetCharacter); // names travel as A-labels, paths percent-encoded
    }
    if method == "CONNECT" {
        return parse_authority(text);
    }
    if text.starts_with('/') {
        check_path(text)?;
        let path = Path::Received(Span::of(text.as_bytes(), whole));
        return Ok(Parts { target: RequestTarget::Origin, path, authority: None });
    }
    if text == "*" {
        if method != "OPTIONS" {
            return Err(HeadError::Asterisk);
        }
        return Ok(Parts { target: RequestTarget::Asterisk, path: Path::Fixed("*"), authority: None });
    }
    parse_absolute(method, text, whole)
}

fn parse_authority(text: &str) -> Result<Parts<'_>, HeadError> {
    let target = Target::parse_authority(text.as_bytes()).map_err(|error| match error {
        // Told apart, because "the host is not an IPv6 address" helps nobody who sent a URL.
        TargetError::Userinfo => HeadError::Target(error),
        _ if text.contains('/') => HeadError::ConnectForm,
        _ => HeadError::Target(error),
    })?;
    Ok(Parts { target: RequestTarget::Authority(target), path: Path::Fixed("-"), authority: Some(text) })
}

fn parse_absolute<'a>(method: &str, text: &'a str, whole: &[u8]) -> Result<Parts<'a>, HeadError> {
    let (scheme, rest) = text.split_once(':').ok_or(HeadError::TargetForm)?;
    let rest = rest.strip_prefix("//").ok_or(HeadError::TargetForm)?;
    let scheme = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("ws") => Scheme::Http,
        _ if scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("wss") => Scheme::Https,
        _ => return Err(HeadError::Scheme),
    };
    let end = rest.bytes().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let target = Target::parse_or_port(authority.as_bytes(), scheme.default_port()).map_err(HeadError::Target)?;
    let path = match path.as_bytes().first() {
        None if method == "OPTIONS" => Path::Fixed("*"), // RFC 9112 §3.2.4
        None => Path::Fixed("/"),
        Some(b'?') => {
            check_path(path)?;
            Path::Rooted(format!("/{path}").into())
        }
        Some(_) => {
            check_path(path)?;
            Path::Received(Span::of(path.as_bytes(), whole))
        }
    };
    Ok(Parts { target: RequestTarget::Absolute { scheme, target }, path, authority: Some(authority) })
}

/// Path and query are visible ASCII without fragment, quote and angle brackets; the backtick stands in queries only. RFC 3986 has
/// no place for `[ ] \ ^ { | }` either, but URLs as browsers write them do (WHATWG URL, path and query percent-encode sets).
fn check_path(text: &str) -> Result<(), HeadError> {
    let mut in_query = false;
    for byte in text.bytes() {
        match byte {
            b'?' => in_query = true,
            b'`' if in_query => {}
            b'"' | b'#' | b'<' | b'>' | b'`' => return Err(HeadError::TargetCharacter),
            0x21..=0x7e => {}
            _ => return Err(HeadError::TargetCharacter),
        }
    }
    Ok(())
}
