//! The fields of a head as ranges of its bytes, and what framing and routing need to know of them, found in one pass.

use bytes::{BufMut, Bytes, BytesMut};

use super::{HeadError, write};

/// The fields of one head, in order and case as received.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    raw: Bytes,
    fields: Vec<Field>,
}

/// A part of a head's bytes. Heads are far below 4 GiB.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    name: Span,
    value: Span,
}

/// What becomes of a field on its way through a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// It travels on as received.
    Kept,
    /// It ends here.
    Dropped,
    /// Another value stands in its place, under the name received.
    Replaced,
}

/// What framing, routing and persistence need to know.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    /// `Host`, which never stands twice.
    pub(super) host: Option<Span>,
    /// `Content-Length`.
    pub(super) length: Option<u64>,
    /// `Transfer-Encoding: chunked`.
    pub(super) chunked: bool,
    /// `Connection`.
    pub(super) connection: Connection,
}

/// The members of all `Connection` fields.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Connection {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    /// Something else than `close` and `keep-alive` is named.
    nominates: bool,
}

/// Whose head it is: the two differ in what `Connection` must not name, and in what frames a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    Client,
    Origin,
    /// An origin or hop that answered 2xx to CONNECT: length and coding mean nothing then (RFC 9110 §9.3.6).
    Tunnel,
}

impl Fields {
    pub(super) fn new(raw: Bytes, fields: Vec<Field>) -> Self {
        Self { raw, fields }
    }

    pub(super) fn raw(&self) -> &[u8] {
        &self.raw
    }

    pub(super) fn bytes(&self, span: Span) -> &[u8] {
        span.slice(&self.raw)
    }

    /// For spans that are ASCII as tokenized: methods, targets, field names.
    pub(super) fn text(&self, span: Span) -> &str {
        std::str::from_utf8(self.bytes(span)).expect("tokens and targets are ASCII")
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|field| (self.text(field.name), self.bytes(field.value)))
    }

    /// Appends what travels on, in order. Most fields do, and are written as we would: neighbours go in one piece.
    pub(super) fn pass(
        &self,
        out: &mut BytesMut,
        mut judge: impl FnMut(&[u8]) -> Passing,
        mut replace: impl FnMut(&mut BytesMut, &[u8]),
    ) {
        let mut run = Span::default();
        for field in &self.fields {
            let name = self.bytes(field.name);
            match (judge(name), self.line(*field)) {
                (Passing::Dropped, _) => {}
                (Passing::Kept, Some(line)) if line.start == run.end => run.end = line.end,
                (Passing::Kept, Some(line)) => out.put_slice(self.bytes(std::mem::replace(&mut run, line))),
                (Passing::Kept, None) => {
                    out.put_slice(self.bytes(std::mem::take(&mut run)));
                    write::field_with(out, name, |out| out.put_slice(self.bytes(field.value)));
                }
                (Passing::Replaced, _) => {
                    out.put_slice(self.bytes(std::mem::take(&mut run)));
                    replace(out, name);
                }
            }
        }
        out.put_slice(self.bytes(run));
    }

    /// The field's line, where it is `name: value` without any other space.
    fn line(&self, field: Field) -> Option<Span> {
        let line = Span { start: field.name.start, end: field.value.end + 2 };
        let colon = field.name.end as usize..field.value.start as usize;
        let end = field.value.end as usize..line.end as usize;
        let plain = self.raw.get(colon)? == b": " && self.raw.get(end)? == b"\r\n";
        plain.then_some(line)
    }

    pub(super) fn first(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|field| self.is_named(field, name)).map(|field| self.bytes(field.value))
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(|field| self.is_named(field, name)).map(|field| self.bytes(field.value))
    }

    fn is_named(&self, field: &Field, name: &str) -> bool {
        self.bytes(field.name).eq_ignore_ascii_case(name.as_bytes())
    }

    pub(super) fn nominates(&self, facts: &Facts, name: &[u8]) -> bool {
        facts.connection.nominates
            && self.all("connection").flat_map(members).any(|member| member.eq_ignore_ascii_case(name))
    }

    /// `Upgrade` lists `websocket`, and `Connection` says that it is meant.
    pub(super) fn upgrade_websocket(&self, facts: &Facts) -> bool {
        facts.connection.upgrade
            && self.all("upgrade").flat_map(members).any(|member| member.eq_ignore_ascii_case(b"websocket"))
    }
}

impl Span {
    /// Where `part` lies in `whole`, which it was sliced from.
    pub(super) fn of(part: &[u8], whole: &[u8]) -> Self {
        let start = part.as_ptr() as usize - whole.as_ptr() as usize;
        let offset = |at: usize| u32::try_from(at).expect("heads are bounded far below 4 GiB");
        Self { start: offset(start), end: offset(start + part.len()) }
    }

    pub(super) fn slice(self, whole: &[u8]) -> &[u8] {
        &whole[self.start as usize..self.end as usize]
    }
}

impl Field {
    pub(super) fn of(header: &httparse::Header<'_>, whole: &[u8]) -> Self {
        Self { name: Span::of(header.name.as_bytes(), whole), value: Span::of(header.value, whole) }
    }
}

impl Facts {
    /// Reads what is to be known, and refuses what makes a head ambiguous.
    pub(super) fn read(headers: &[httparse::Header<'_>], whole: &[u8], sender: Sender) -> Result<Self, HeadError> {
        let mut facts = Self::default();
        for header in headers {
            let (name, value) = (header.name, header.value);
            // By length first: most fields are none of these, and cost one comparison.
            match name.len() {
                4 if name.eq_ignore_ascii_case("host") => facts.add_host(Span::of(value, whole), sender)?,
                10 if name.eq_ignore_ascii_case("connection") => facts.connection.add(value, sender)?,
                14 if sender != Sender::Tunnel && name.eq_ignore_ascii_case("content-length") => {
                    facts.add_length(value)?;
                }
                17 if sender != Sender::Tunnel && name.eq_ignore_ascii_case("transfer-encoding") => {
                    facts.add_coding(value)?;
                }
                _ => {}
            }
        }
        if facts.chunked && facts.length.is_some() {
            return Err(HeadError::LengthAndCoding);
        }
        Ok(facts)
    }

    fn add_host(&mut self, host: Span, sender: Sender) -> Result<(), HeadError> {
        match self.host.replace(host) {
            Some(_) if sender == Sender::Client => Err(HeadError::HostTwice),
            _ => Ok(()),
        }
    }

    fn add_length(&mut self, value: &[u8]) -> Result<(), HeadError> {
        match self.length.replace(parse_length(value)?) {
            Some(_) => Err(HeadError::LengthTwice),
            None => Ok(()),
        }
    }

    fn add_coding(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(HeadError::Coding);
        }
        self.chunked = true;
        Ok(())
    }
}

impl Connection {
    fn add(&mut self, value: &[u8], sender: Sender) -> Result<(), HeadError> {
        for member in members(value) {
            if member.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if member.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else {
                self.nominates = true;
                self.upgrade |= member.eq_ignore_ascii_case(b"upgrade");
                check_nominated(member, sender)?;
            }
        }
        Ok(())
    }
}

/// Stripping these would change where a message ends or who gets it, or remove what shows where it has been. Framing fields may not
/// be named by answers either; the rest of an answer's fields are the origin's own to give away.
fn check_nominated(member: &[u8], sender: Sender) -> Result<(), HeadError> {
    const FRAMING: [&str; 3] = ["content-length", "transfer-encoding", "connection"];
    const ROUTING: [&str; 14] = [
        "host",
        "authorization",
        "proxy-authorization",
        "cookie",
        "via",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-port",
        "x-forwarded-client-cert",
        "x-real-ip",
        "max-forwards",
        "expect",
    ];
    let among = |names: &[&str]| names.iter().any(|name| member.eq_ignore_ascii_case(name.as_bytes()));
    if !member.iter().all(|&b| is_token(b)) {
        return Err(HeadError::Connection);
    }
    if among(&FRAMING) || sender == Sender::Client && among(&ROUTING) {
        return Err(HeadError::Nominated);
    }
    Ok(())
}

/// Plain digits only: `+5`, `5, 5`, an empty value and what exceeds 64 bits are no lengths (RFC 9110 §8.6).
fn parse_length(value: &[u8]) -> Result<u64, HeadError> {
    if value.is_empty() {
        return Err(HeadError::Length);
    }
    value.iter().try_fold(0u64, |length, &digit| {
        if !digit.is_ascii_digit() {
            return Err(HeadError::Length);
        }
        let longer = length.checked_mul(10).and_then(|length| length.checked_add(u64::from(digit - b'0')));
        longer.ok_or(HeadError::Length)
    })
}

/// The members of a list (RFC 9110 §5.6.1), empty ones left out.
fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// RFC 9110 §5.6.2.
pub(super) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}
