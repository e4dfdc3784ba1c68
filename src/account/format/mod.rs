//! How a record becomes a line: Envoy's format strings (Istio's default among them), JSON with Istio's keys, squid's native format.
//!
//! A format is compiled once and then only walked. What a peer chose (names, paths, fields, SNI) is escaped where it is written; what
//! is not known is `-` in text and `null` in JSON.

pub(crate) mod escape;
mod operator;
mod parse;
mod squid;
mod time;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use thiserror::Error;

use super::record::{AccessRecord, Message};
use crate::flow::put_ip;
use escape::Place;
pub(super) use operator::flags;
use operator::{Operator, Shown};

/// `mesh.accessLogEncoding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Encoding {
    /// A line of Envoy's format strings.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// Squid's native format, which its log analysers read.
    Squid,
}

/// A compiled format.
#[derive(Debug)]
pub struct Format {
    line: Line,
    wanted_request: Vec<Arc<str>>,
    wanted_response: Vec<Arc<str>>,
}

#[derive(Debug)]
enum Line {
    Text(Template),
    Json(Vec<Member>),
    Squid,
}

/// A format string, compiled: texts and operators in turn.
type Template = Vec<Piece>;

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<[u8]>),
    Value {
        operator: Operator,
        /// Stands in where the first has no value (`%REQ(X?Y)%`).
        otherwise: Option<Operator>,
        /// At most so many bytes of the value (`%REQ(X):Z%`).
        bytes_max: Option<usize>,
        place: Place,
    },
}

/// One key of a JSON line.
#[derive(Debug)]
struct Member {
    /// `"key":`, escaped.
    key: Box<[u8]>,
    value: Value,
    /// Left out rather than `null`.
    optional: bool,
}

/// What stands behind a key.
#[derive(Debug)]
enum Value {
    Template(Template),
    /// An object with keys of its own, as Envoy has it.
    Object(Vec<Member>),
}

/// Why a format does not compile.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FormatError {
    /// At a byte of the format string, counted from 1.
    #[error("column {column}: `{found}` {why}")]
    At {
        /// Where.
        column: usize,
        /// The operator, or what stands in its place.
        found: Box<str>,
        /// What is wrong with it.
        why: Box<str>,
    },
    /// In the format of one key of a JSON object.
    #[error("key {key:?}: {source}")]
    Key {
        /// Which.
        key: Box<str>,
        /// What is wrong there.
        #[source]
        source: Box<FormatError>,
    },
    /// With JSON, the format is an object of strings.
    #[error("not a JSON object of format strings, as in {{\"status\": \"%RESPONSE_CODE%\"}}: {0}")]
    NotAnObject(Box<str>),
    /// The squid format takes none.
    #[error("the SQUID encoding has its own format; leave this empty or choose TEXT")]
    NotForSquid,
}

/// The end of a flow, as its line shows it.
#[derive(Clone, Copy, Debug)]
struct End {
    /// Since 1970.
    at: Duration,
    lasted: Duration,
}

/// Istio's default since 1.9 (`pilot/pkg/model/telemetry_logging.go`).
const TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
     %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
     \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
     %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
     \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% \
     %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Istio's keys and values, each in every line.
const JSON: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("route_name", "%ROUTE_NAME%"),
];

impl Format {
    /// Compiles `format`; an empty one is the encoding's own.
    ///
    /// # Errors
    /// See [`FormatError`]; an operator that is not known is one, as in Envoy.
    pub fn compile(encoding: Encoding, format: &str) -> Result<Self, FormatError> {
        let line = match encoding {
            Encoding::Text if format.is_empty() => Line::Text(parse::template(TEXT.trim_end())?),
            // Envoy wants the line's end in the format, Istio adds it where it is missing: both are one line here.
            Encoding::Text => Line::Text(parse::template(format.trim_end_matches(['\r', '\n']))?),
            Encoding::Json if format.is_empty() => Line::Json(default_members()?),
            Encoding::Json => Line::Json(custom_members(format)?),
            Encoding::Squid if format.is_empty() => Line::Squid,
            Encoding::Squid => return Err(FormatError::NotForSquid),
        };
        let mut compiled = Self { line, wanted_request: Vec::new(), wanted_response: Vec::new() };
        let mut want = |template: &Template| {
            for piece in template {
                let Piece::Value { operator, otherwise, .. } = piece else { continue };
                for operator in std::iter::once(operator).chain(otherwise) {
                    let (wanted, name) = match operator {
                        Operator::RequestField(name) => (&mut compiled.wanted_request, name),
                        Operator::ResponseField(name) => (&mut compiled.wanted_response, name),
                        _ => continue,
                    };
                    if !wanted.contains(name) {
                        wanted.push(name.clone());
                    }
                }
            }
        };
        match &compiled.line {
            Line::Text(template) => want(template),
            Line::Json(members) => each_template(members, &mut want),
            Line::Squid => compiled.wanted_response.push(squid::MEDIA_TYPE.into()),
        }
        Ok(compiled)
    }

    /// The default of the text encoding, and what a line is about behind it: for logs that have lines of open tunnels too.
    pub fn text_with_line_type() -> String {
        format!("{} %ACCESS_LOG_TYPE%", TEXT.trim_end())
    }

    /// Appends the line of `record`, with its line feed.
    pub(super) fn render(&self, record: &AccessRecord, out: &mut Vec<u8>) {
        let end = End {
            at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            lasted: record.started.elapsed(),
        };
        self.render_at(record, end, out);
    }

    fn render_at(&self, record: &AccessRecord, end: End, out: &mut Vec<u8>) {
        match &self.line {
            Line::Text(template) => text(out, template, record, end),
            Line::Json(members) => json(out, members, record, end),
            Line::Squid => squid::line(out, record, end),
        }
        out.push(b'\n');
    }

    /// Lower-case names of the fields that this format shows beyond those that a record always keeps.
    pub(super) fn wanted(&self, of: Message) -> &[Arc<str>] {
        match of {
            Message::Request => &self.wanted_request,
            Message::Response => &self.wanted_response,
        }
    }
}

fn default_members() -> Result<Vec<Member>, FormatError> {
    let istio = JSON.iter().map(|(key, format)| member(key, format, false));
    let ours = operator::Ours::ALL.iter().map(|ours| {
        let value =
            Piece::Value { operator: Operator::Ours(*ours), otherwise: None, bytes_max: None, place: Place::Quoted };
        Ok(Member { key: json_key(ours.name()), value: Value::Template(vec![value]), optional: true })
    });
    istio.chain(ours).collect()
}

fn custom_members(format: &str) -> Result<Vec<Member>, FormatError> {
    let object: Object =
        serde_json::from_str(format).map_err(|error| FormatError::NotAnObject(error.to_string().into()))?;
    members(&object)
}

type Object = std::collections::BTreeMap<String, Written>;

/// As written; serde_json bounds how deep.
#[derive(serde::Deserialize)]
#[serde(untagged, expecting = "a format string, or an object of them")]
enum Written {
    Format(String),
    Object(Object),
}

fn members(object: &Object) -> Result<Vec<Member>, FormatError> {
    let read = |(key, written): (&String, &Written)| match written {
        Written::Format(format) => member(key, format, false),
        Written::Object(inner) => {
            let inside = |source| FormatError::Key { key: key.as_str().into(), source: Box::new(source) };
            Ok(Member { key: json_key(key), value: Value::Object(members(inner).map_err(inside)?), optional: false })
        }
    };
    object.iter().map(read).collect()
}

fn each_template(members: &[Member], look: &mut impl FnMut(&Template)) {
    for member in members {
        match &member.value {
            Value::Template(template) => look(template),
            Value::Object(inner) => each_template(inner, look),
        }
    }
}

fn member(key: &str, format: &str, optional: bool) -> Result<Member, FormatError> {
    let value =
        parse::template(format).map_err(|source| FormatError::Key { key: key.into(), source: Box::new(source) })?;
    Ok(Member { key: json_key(key), value: Value::Template(value), optional })
}

fn json_key(key: &str) -> Box<[u8]> {
    let mut out = vec![b'"'];
    escape::json(&mut out, key.as_bytes());
    out.extend_from_slice(b"\":");
    out.into()
}

fn text(out: &mut Vec<u8>, template: &Template, record: &AccessRecord, end: End) {
    for piece in template {
        match piece {
            Piece::Text(text) => out.extend_from_slice(text),
            Piece::Value { bytes_max, place, .. } => {
                let start = out.len();
                match piece.shown(record, end) {
                    Shown::Unset => out.push(b'-'),
                    Shown::Peer(value) => escape::text(out, capped(value, *bytes_max), *place),
                    shown => {
                        plain(out, shown, end);
                        cap_from(out, start, *bytes_max);
                    }
                }
            }
        }
    }
}

fn json(out: &mut Vec<u8>, members: &[Member], record: &AccessRecord, end: End) {
    out.push(b'{');
    let mut first = true;
    for member in members {
        let start = out.len();
        if !first {
            out.push(b',');
        }
        out.extend_from_slice(&member.key);
        let known = match &member.value {
            Value::Template(template) => json_value(out, template, record, end),
            Value::Object(inner) => {
                json(out, inner, record, end);
                true
            }
        };
        if member.optional && !known {
            out.truncate(start);
        } else {
            first = false;
        }
    }
    out.push(b'}');
}

/// A lone operator keeps its type; anything else is a string. False if it is `null`.
fn json_value(out: &mut Vec<u8>, template: &Template, record: &AccessRecord, end: End) -> bool {
    if let [piece @ Piece::Value { bytes_max, .. }] = template.as_slice() {
        match piece.shown(record, end) {
            Shown::Unset => {
                out.extend_from_slice(b"null");
                return false;
            }
            shown @ (Shown::Number(_) | Shown::Flag(_)) => plain(out, shown, end),
            shown => {
                out.push(b'"');
                json_piece(out, shown, *bytes_max, end);
                out.push(b'"');
            }
        }
        return true;
    }
    out.push(b'"');
    for piece in template {
        match piece {
            Piece::Text(text) => escape::json(out, text),
            Piece::Value { bytes_max, .. } => match piece.shown(record, end) {
                Shown::Unset => out.push(b'-'),
                shown => json_piece(out, shown, *bytes_max, end),
            },
        }
    }
    out.push(b'"');
    true
}

fn json_piece(out: &mut Vec<u8>, shown: Shown<'_>, bytes_max: Option<usize>, end: End) {
    let start = out.len();
    match shown {
        Shown::Peer(value) => escape::json(out, capped(value, bytes_max)),
        shown => {
            plain(out, shown, end);
            cap_from(out, start, bytes_max);
        }
    }
}

/// What cannot do harm in any format: nothing of it was chosen by a peer.
fn plain(out: &mut Vec<u8>, shown: Shown<'_>, end: End) {
    match shown {
        Shown::Unset => {}
        Shown::Peer(value) => escape::text(out, value, Place::Bare),
        Shown::Word(word) => out.extend_from_slice(word.as_bytes()),
        Shown::Number(number) | Shown::NumberText(number) => push_number(out, number),
        Shown::Flag(flag) => out.extend_from_slice(if flag { b"true" } else { b"false" }),
        Shown::Address(address) => push_address(out, address),
        Shown::Ip(ip) => put_ip(out, ip.to_canonical()),
        Shown::Started(None) => time::instant(out, end.at.saturating_sub(end.lasted)),
        Shown::Started(Some(format)) => time::formatted(out, end.at.saturating_sub(end.lasted), format),
    }
}

fn capped(value: &[u8], bytes_max: Option<usize>) -> &[u8] {
    &value[..value.len().min(bytes_max.unwrap_or(usize::MAX))]
}

fn cap_from(out: &mut Vec<u8>, start: usize, bytes_max: Option<usize>) {
    if let Some(bytes_max) = bytes_max {
        out.truncate(start.saturating_add(bytes_max));
    }
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn push_address(out: &mut Vec<u8>, address: SocketAddr) {
    let ip = address.ip().to_canonical();
    if ip.is_ipv6() {
        out.push(b'[');
    }
    put_ip(out, ip);
    if ip.is_ipv6() {
        out.push(b']');
    }
    out.push(b':');
    push_number(out, u64::from(address.port()));
}

#[cfg(test)]
mod tests;
