//! Heads of requests and answers: one buffer, fields as ranges in it, in order and case as received.
//!
//! A head is read only once it is whole: until then each call looks for its end (one pass of memchr over at most
//! [`HeadLimits::bytes`], about a microsecond) and refuses what can be seen to be wrong already.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use httparse::{EMPTY_HEADER, Header, ParserConfig, Status};
use memchr::memchr_iter;

use super::fields::{Facts, Field, Fields, Passing, Sender, Span, is_token};
use super::target::{self, Parts, Path};
use super::{BodyLength, HeadError, RequestTarget};
use crate::flow::{Target, TargetError};

/// Bounds of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Start line, fields and the empty line together.
    pub bytes: usize,
    /// Fields.
    pub fields: usize,
}

/// HTTP/1.0 or 1.1; anything else is refused by the parsers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2: a head that was rewritten as one of HTTP/1.1 ([`RequestHead::over_http2`], [`ResponseHead::over_http2`]).
    Http2,
}

impl Version {
    /// As the access log shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// A request's head.
#[derive(Clone, Debug)]
pub struct RequestHead {
    fields: Fields,
    facts: Facts,
    method: Span,
    target: RequestTarget,
    path: Path,
    version: Version,
}

/// An answer's head.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    fields: Fields,
    facts: Facts,
    status: u16,
    reason: Span,
    version: Version,
    body: BodyLength,
    persistent: bool,
}

/// Reads a request's head off the front of `buf`; `None`: more bytes are needed, nothing was taken.
///
/// One empty line before it is passed over: clients of old sent one behind a body (RFC 9112 §2.2).
///
/// # Errors
/// See [`HeadError`]; the connection is of no use afterwards.
pub fn parse_request(buf: &mut BytesMut, limits: &HeadLimits) -> Result<Option<RequestHead>, HeadError> {
    let skipped = leading_line(buf)?;
    let bytes = &buf[skipped..];
    check_first_bytes(bytes)?;
    let Some(extent) = extent(bytes, limits)? else { return Ok(None) };
    let parsed = ParsedRequest::read(&bytes[..extent.end], extent.fields)?;
    buf.advance(skipped);
    Ok(Some(parsed.into_head(buf.split_to(extent.end).freeze())))
}

/// Reads an answer's head off the front of `buf`; `method` is the request's. `None`: more bytes are needed, nothing was taken.
///
/// # Errors
/// See [`HeadError`].
pub fn parse_response(
    buf: &mut BytesMut,
    method: &str,
    limits: &HeadLimits,
) -> Result<Option<ResponseHead>, HeadError> {
    let begun = buf.len().min(STATUS_LINE_BEGIN.len());
    if buf[..begun] != STATUS_LINE_BEGIN[..begun] {
        return Err(HeadError::StatusLine);
    }
    let Some(extent) = extent(buf, limits)? else { return Ok(None) };
    let parsed = ParsedResponse::read(&buf[..extent.end], extent.fields, method)?;
    Ok(Some(parsed.into_head(buf.split_to(extent.end).freeze())))
}

impl RequestHead {
    /// The same request, which came over HTTP/2 and was written down as one of HTTP/1.1: it passed the same rules.
    #[must_use]
    pub fn over_http2(self) -> Self {
        Self { version: Version::Http2, ..self }
    }

    /// The method as sent.
    pub fn method(&self) -> &str {
        self.fields.text(self.method)
    }

    /// What is asked for.
    pub fn target(&self) -> &RequestTarget {
        &self.target
    }

    /// Path and query as received: begins with `/` (an empty path of an absolute-form is `/`), or is `*`; `-` for CONNECT.
    pub fn path(&self) -> &str {
        match &self.path {
            Path::Received(span) => self.fields.text(*span),
            Path::Fixed(path) => path,
            Path::Rooted(path) => path,
        }
    }

    /// Version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Value of `Host`; never two.
    pub fn host(&self) -> Option<&[u8]> {
        self.facts.host.map(|span| self.fields.bytes(span))
    }

    /// The first field of that name (any case).
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.first(name)
    }

    /// All fields of that name (any case), in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.all(name)
    }

    /// All fields in order, names in the case received.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter()
    }

    /// Appends the fields that `judge` lets travel on, in order and as received; `replace` writes those of which it says so.
    pub fn pass_fields(
        &self,
        out: &mut BytesMut,
        judge: impl FnMut(&[u8]) -> Passing,
        replace: impl FnMut(&mut BytesMut, &[u8]),
    ) {
        self.fields.pass(out, judge, replace);
    }

    /// The bytes of the head, as received.
    pub fn raw(&self) -> &[u8] {
        self.fields.raw()
    }

    /// How the body is delimited; never `UntilClose`, and `None` for `Content-Length: 0`.
    pub fn body(&self) -> BodyLength {
        match self.facts {
            Facts { chunked: true, .. } => BodyLength::Chunked,
            Facts { length: None | Some(0), .. } => BodyLength::None,
            Facts { length: Some(length), .. } => BodyLength::Length(length),
        }
    }

    /// The client's connection may stay open after this request (RFC 9112 §9.3).
    ///
    /// The RFC lets no proxy keep a connection of HTTP/1.0, because some passed `Connection: keep-alive` on unread. We do not, and
    /// clients of 1.0 that ask for it (`ab -k`) are answered.
    pub fn persistent(&self) -> bool {
        persistent(self.version, &self.facts)
    }

    /// `Connection` names this field (any case): it does not travel on.
    pub fn nominates(&self, name: &[u8]) -> bool {
        self.fields.nominates(&self.facts, name)
    }

    /// `Upgrade: websocket`, nominated by `Connection: upgrade`, on a GET of HTTP/1.1 (or later) without body.
    pub fn upgrade_websocket(&self) -> bool {
        self.fields.upgrade_websocket(&self.facts)
            && self.method() == "GET"
            && self.version != Version::Http10
            && self.body() == BodyLength::None
    }
}

impl ResponseHead {
    /// The same answer, which came over HTTP/2 and was written down as one of HTTP/1.1: it passed the same rules.
    #[must_use]
    pub fn over_http2(self) -> Self {
        Self { version: Version::Http2, ..self }
    }

    /// Status, 100 to 599 (others are refused).
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Reason phrase as received; may be empty.
    pub fn reason(&self) -> &[u8] {
        self.fields.bytes(self.reason)
    }

    /// Version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The first field of that name (any case).
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.first(name)
    }

    /// All fields of that name (any case), in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.all(name)
    }

    /// All fields in order, names in the case received.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter()
    }

    /// Appends the fields that `judge` lets travel on, in order and as received; `replace` writes those of which it says so.
    pub fn pass_fields(
        &self,
        out: &mut BytesMut,
        judge: impl FnMut(&[u8]) -> Passing,
        replace: impl FnMut(&mut BytesMut, &[u8]),
    ) {
        self.fields.pass(out, judge, replace);
    }

    /// The bytes of the head, as received.
    pub fn raw(&self) -> &[u8] {
        self.fields.raw()
    }

    /// How the body is delimited (RFC 9112 §6.3): knows the method of the request and the status.
    pub fn body(&self) -> BodyLength {
        self.body
    }

    /// The upstream's connection may be used again after this answer.
    pub fn persistent(&self) -> bool {
        self.persistent
    }

    /// `Connection` names this field (any case).
    pub fn nominates(&self, name: &[u8]) -> bool {
        self.fields.nominates(&self.facts, name)
    }

    /// `Upgrade: websocket` nominated by `Connection: upgrade`.
    pub fn upgrade_websocket(&self) -> bool {
        self.fields.upgrade_websocket(&self.facts)
    }
}

impl crate::flow::RequestFields for RequestHead {
    fn each<'f>(&'f self, name: &str, look: &mut dyn FnMut(&'f [u8])) {
        self.fields.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name)).for_each(|(_, value)| look(value));
    }
}

/// A request whose bytes have not been taken off the buffer yet.
struct ParsedRequest {
    fields: Vec<Field>,
    facts: Facts,
    method: Span,
    target: RequestTarget,
    path: Path,
    version: Version,
}

impl ParsedRequest {
    fn read(head: &[u8], count: usize) -> Result<Self, HeadError> {
        let mut few = [const { MaybeUninit::uninit() }; FIELDS_ON_STACK];
        let mut many = Vec::new();
        let mut request = httparse::Request::new(&mut []);
        let parsed = ParserConfig::default().parse_request_with_uninit_headers(
            &mut request,
            head,
            slots(&mut few, &mut many, count),
        );
        let (Ok(Status::Complete(_)), Some(method), Some(text)) = (parsed, request.method, request.path) else {
            return Err(diagnose_request(head, parsed));
        };
        let version = version(request.version).ok_or(HeadError::Version)?;
        let Parts { target, path, authority } = target::parse(method, text, head)?;
        let facts = Facts::read(request.headers, head, Sender::Client)?;
        check_host(&target, authority, facts.host.map(|span| span.slice(head)), version)?;
        check_framing(method, version, &facts)?;
        let fields = fields(request.headers, head);
        Ok(Self { fields, facts, method: Span::of(method.as_bytes(), head), target, path, version })
    }

    fn into_head(self, raw: Bytes) -> RequestHead {
        let Self { fields, facts, method, target, path, version } = self;
        RequestHead { fields: Fields::new(raw, fields), facts, method, target, path, version }
    }
}

/// An answer whose bytes have not been taken off the buffer yet.
struct ParsedResponse {
    fields: Vec<Field>,
    facts: Facts,
    status: u16,
    reason: Span,
    version: Version,
    body: BodyLength,
    persistent: bool,
}

impl ParsedResponse {
    fn read(head: &[u8], count: usize, method: &str) -> Result<Self, HeadError> {
        let mut few = [const { MaybeUninit::uninit() }; FIELDS_ON_STACK];
        let mut many = Vec::new();
        let mut response = httparse::Response::new(&mut []);
        let parsed = ParserConfig::default().parse_response_with_uninit_headers(
            &mut response,
            head,
            slots(&mut few, &mut many, count),
        );
        let (Ok(Status::Complete(_)), Some(status @ 100..=599)) = (parsed, response.code) else {
            return Err(diagnose_response(head, parsed));
        };
        let version = version(response.version).ok_or(HeadError::Version)?;
        let sender = if method == "CONNECT" && (200..300).contains(&status) { Sender::Tunnel } else { Sender::Origin };
        let facts = Facts::read(response.headers, head, sender)?;
        if facts.chunked && version == Version::Http10 {
            return Err(HeadError::CodingOf10);
        }
        let body = answer_body(method, status, sender, &facts);
        // What an origin sends behind an answer that has no body would be taken for its next answer.
        let announces_body = facts.chunked || facts.length.is_some_and(|length| length > 0);
        let stray_body = announces_body && (status < 200 || status == 204);
        let persistent = persistent(version, &facts) && body != BodyLength::UntilClose && !stray_body;
        let fields = fields(response.headers, head);
        Ok(Self { fields, facts, status, reason: reason(head), version, body, persistent })
    }

    fn into_head(self, raw: Bytes) -> ResponseHead {
        let Self { fields, facts, status, reason, version, body, persistent } = self;
        ResponseHead { fields: Fields::new(raw, fields), facts, status, reason, version, body, persistent }
    }
}

/// Where a head ends, and how many fields it has.
struct Extent {
    end: usize,
    fields: usize,
}

/// Finds the end of the head; refuses lines without CR, and heads that are too large whether they end or not.
fn extent(bytes: &[u8], limits: &HeadLimits) -> Result<Option<Extent>, HeadError> {
    let window = &bytes[..bytes.len().min(limits.bytes)];
    let (mut line, mut lines) = (0, 0);
    for lf in memchr_iter(b'\n', window) {
        if lf == line || window[lf - 1] != b'\r' {
            return Err(HeadError::BareLf);
        }
        if lf == line + 1 {
            return Ok(Some(Extent { end: lf + 1, fields: lines - 1 }));
        }
        lines += 1;
        if lines > limits.fields + 1 {
            return Err(HeadError::TooManyFields { fields_max: limits.fields });
        }
        line = lf + 1;
    }
    if window.len() == limits.bytes {
        return Err(HeadError::TooLarge { bytes_max: limits.bytes });
    }
    Ok(None)
}

/// Length of the one empty line that may stand before a request.
fn leading_line(buf: &[u8]) -> Result<usize, HeadError> {
    match buf {
        [b'\r', b'\n', ..] => Ok(2),
        [b'\r', _, ..] => Err(HeadError::BareCr),
        [b'\n', ..] => Err(HeadError::BareLf),
        _ => Ok(0),
    }
}

/// Refuses what does not begin like a request at once: a TLS hello, or a protocol where the server speaks first, would else wait for
/// the end of a head that never comes.
fn check_first_bytes(bytes: &[u8]) -> Result<(), HeadError> {
    match bytes.iter().take(METHOD_BYTES_LOOKED_AT).position(|&b| !is_token(b)) {
        None => Ok(()),
        Some(0) if bytes == b"\r" => Ok(()), // the first byte of a leading empty line
        Some(at) if at > 0 && bytes[at] == b' ' => Ok(()),
        Some(_) => Err(HeadError::Method),
    }
}

fn version(minor: Option<u8>) -> Option<Version> {
    match minor? {
        0 => Some(Version::Http10),
        1 => Some(Version::Http11),
        _ => None,
    }
}

/// RFC 9112 §3.2. Absolute-form and CONNECT win over Host, but a bad one is refused there too. It goes no further than here, so it may
/// differ: many clients of CONNECT name the proxy in it (Node's undici before 6.3, tunnel-agent, hpagent).
fn check_host(
    target: &RequestTarget,
    authority: Option<&str>,
    host: Option<&[u8]>,
    version: Version,
) -> Result<(), HeadError> {
    let Some(host) = host else {
        return if version == Version::Http10 { Ok(()) } else { Err(HeadError::HostMissing) };
    };
    if authority.is_some_and(|authority| authority.as_bytes() == host) {
        return Ok(()); // the common case, and the authority was read already
    }
    let default_port = match target {
        RequestTarget::Authority(target) => target.port,
        RequestTarget::Absolute { scheme, .. } => scheme.default_port(),
        RequestTarget::Origin | RequestTarget::Asterisk => 80,
    };
    if !host.is_ascii() {
        return Err(HeadError::Host(TargetError::BadName));
    }
    Target::parse_or_port(host, default_port).map(drop).map_err(HeadError::Host)
}

fn check_framing(method: &str, version: Version, facts: &Facts) -> Result<(), HeadError> {
    if facts.chunked && version == Version::Http10 {
        return Err(HeadError::CodingOf10);
    }
    if method == "CONNECT" && (facts.chunked || facts.length.is_some_and(|length| length > 0)) {
        return Err(HeadError::ConnectBody);
    }
    Ok(())
}

/// RFC 9112 §6.3, in its order.
fn answer_body(method: &str, status: u16, sender: Sender, facts: &Facts) -> BodyLength {
    if method == "HEAD" || status < 200 || matches!(status, 204 | 304) || sender == Sender::Tunnel {
        return BodyLength::None;
    }
    match facts {
        Facts { chunked: true, .. } => BodyLength::Chunked,
        Facts { length: Some(0), .. } => BodyLength::None,
        Facts { length: Some(length), .. } => BodyLength::Length(*length),
        Facts { length: None, .. } => BodyLength::UntilClose,
    }
}

fn persistent(version: Version, facts: &Facts) -> bool {
    !facts.connection.close && (version != Version::Http10 || facts.connection.keep_alive)
}

/// The reason phrase: what stands in the status line behind the status and a space.
fn reason(head: &[u8]) -> Span {
    let end = head.iter().position(|&b| b == b'\r').unwrap_or(head.len());
    Span::of(&head["HTTP/1.1 200 ".len().min(end)..end], head)
}

fn fields(headers: &[Header<'_>], head: &[u8]) -> Vec<Field> {
    headers.iter().map(|header| Field::of(header, head)).collect()
}

/// Room for so many fields: on the stack as a rule, on the heap where the settings allow more.
fn slots<'s, 'h>(
    few: &'s mut [MaybeUninit<Header<'h>>; FIELDS_ON_STACK],
    many: &'s mut Vec<MaybeUninit<Header<'h>>>,
    count: usize,
) -> &'s mut [MaybeUninit<Header<'h>>] {
    if count <= few.len() {
        return few;
    }
    many.resize_with(count, || MaybeUninit::new(EMPTY_HEADER));
    many
}

/// Says what httparse stumbled over. It stops at the first byte that it cannot place; here the line is looked at as a whole.
fn diagnose_request(head: &[u8], parsed: Result<Status<usize>, httparse::Error>) -> HeadError {
    if let Some(error) = stray_byte(head) {
        return error;
    }
    let line = head.split(|&b| b == b'\r').next().unwrap_or_default();
    let parts: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    match parsed {
        Err(httparse::Error::Token | httparse::Error::Version | httparse::Error::NewLine) => match parts[..] {
            [method, ..] if !method.iter().all(|&b| is_token(b)) => HeadError::Method,
            [_, target, _] if !target.iter().all(u8::is_ascii_graphic) => HeadError::TargetCharacter,
            [_, target, version] if !target.is_empty() && !version.is_empty() => HeadError::Version,
            _ => HeadError::RequestLine,
        },
        _ => malformed_field(head),
    }
}

fn diagnose_response(head: &[u8], parsed: Result<Status<usize>, httparse::Error>) -> HeadError {
    if let Some(error) = stray_byte(head) {
        return error;
    }
    match parsed {
        Err(httparse::Error::HeaderName | httparse::Error::HeaderValue) => malformed_field(head),
        Err(httparse::Error::Version) => HeadError::Version,
        _ => HeadError::StatusLine,
    }
}

/// Control bytes stand nowhere in a head but as line ends and, TAB, as space.
fn stray_byte(head: &[u8]) -> Option<HeadError> {
    let mut rest = head.iter().peekable();
    while let Some(&byte) = rest.next() {
        match byte {
            b'\r' if rest.peek() != Some(&&b'\n') => return Some(HeadError::BareCr),
            b'\r' | b'\n' | b'\t' => {}
            _ if byte.is_ascii_control() => return Some(HeadError::ControlByte),
            _ => {}
        }
    }
    None
}

fn malformed_field(head: &[u8]) -> HeadError {
    for line in head.split(|&b| b == b'\n').skip(1) {
        let name = line.split(|&b| b == b':').next().unwrap_or_default();
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            return HeadError::ObsFold;
        }
        if name.len() < line.len() && name.trim_ascii_end().len() < name.len() {
            return HeadError::SpaceBeforeColon;
        }
    }
    HeadError::FieldName
}

const FIELDS_ON_STACK: usize = 100; // the default of `limits.headFields`
const METHOD_BYTES_LOOKED_AT: usize = 32; // no registered method is longer than 17 bytes; longer ones wait for the whole head
const STATUS_LINE_BEGIN: &[u8] = b"HTTP/1.";

#[cfg(test)]
mod tests;
