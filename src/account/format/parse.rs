//! Reads Envoy's format strings: text, and operators between percent signs, `%NAME(ARGUMENT):LENGTH%`.

use super::escape::Place;
use super::operator::{Of, Operator, Ours, Part, Peer};
use super::{FormatError, Piece, Template, time};
use crate::account::record::Field;

/// Compiles one format string.
pub(super) fn template(format: &str) -> Result<Template, FormatError> {
    let mut reader = Reader { format, at: 0, template: Vec::new(), text: Vec::new(), quoted: false };
    while reader.piece()? {}
    reader.end_text();
    Ok(reader.template)
}

struct Reader<'f> {
    format: &'f str,
    at: usize,
    template: Template,
    text: Vec<u8>,
    /// An odd number of quotes stands before this point.
    quoted: bool,
}

/// An operator as written.
struct Written<'f> {
    name: &'f str,
    argument: Option<&'f str>,
    bytes_max: Option<&'f str>,
}

impl<'f> Reader<'f> {
    fn piece(&mut self) -> Result<bool, FormatError> {
        let rest = &self.format[self.at..];
        let Some(percent) = rest.find('%') else {
            self.text(rest);
            return Ok(false);
        };
        self.text(&rest[..percent]);
        if rest[percent..].starts_with("%%") {
            self.text.push(b'%');
            self.at += percent + 2;
            return Ok(true);
        }
        self.at += percent;
        let (written, length) = self.written(&rest[percent..])?;
        let piece = self.compile(&written, &rest[percent..percent + length])?;
        self.end_text();
        self.template.push(piece);
        self.at += length;
        Ok(true)
    }

    /// An operator from its first to its last percent sign; an argument ends at `)`, and may hold percent signs (time formats).
    fn written(&self, rest: &'f str) -> Result<(Written<'f>, usize), FormatError> {
        let inner = &rest[1..];
        let name = inner.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
        let mut at = 1 + name.len();
        let argument = match rest[at..].strip_prefix('(') {
            Some(argument) => {
                let Some(length) = argument.find(')') else {
                    return Err(self.error(rest, "has no closing parenthesis"));
                };
                at += length + 2;
                Some(&argument[..length])
            }
            None => None,
        };
        let bytes_max = match rest[at..].strip_prefix(':') {
            Some(after) => {
                let digits = after.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
                at += 1 + digits.len();
                Some(digits)
            }
            None => None,
        };
        if !rest[at..].starts_with('%') {
            return Err(self.error(rest, "has no closing percent sign; write %% for a percent sign"));
        }
        Ok((Written { name, argument, bytes_max }, at + 1))
    }

    fn compile(&self, written: &Written<'_>, found: &str) -> Result<Piece, FormatError> {
        let place = if self.quoted { Place::Quoted } else { Place::Bare };
        let bytes_max = match written.bytes_max.map(str::parse) {
            None => None,
            Some(Ok(length)) => Some(length),
            Some(Err(_)) => return Err(self.error(found, "has a length that is no number")),
        };
        let (operator, otherwise) = match (written.name, written.argument) {
            ("REQ", Some(names)) => self.fields(names, found, request_field)?,
            ("RESP", Some(names)) => self.fields(names, found, response_field)?,
            ("REQ" | "RESP", None) => return Err(self.error(found, "needs the name of a field in parentheses")),
            ("START_TIME", Some(format)) if !format.is_empty() => {
                let format =
                    time::check(format).map_err(|why| self.error(found, &format!("has a bad time format: {why}")))?;
                (Operator::StartTime(Some(format)), None)
            }
            ("START_TIME", _) => (Operator::StartTime(None), None),
            ("EGRET", argument) => (Operator::Ours(self.ours(argument.unwrap_or_default(), found)?), None),
            (name, None) => match by_name(name) {
                Some(operator) => (operator, None),
                None => return Err(self.error(found, "is no operator that Egret knows")),
            },
            (name, Some(_)) if by_name(name).is_some() => return Err(self.error(found, "takes nothing in parentheses")),
            (_, Some(_)) => return Err(self.error(found, "is no operator that Egret knows")),
        };
        Ok(Piece::Value { operator, otherwise, bytes_max, place })
    }

    fn fields(
        &self,
        names: &str,
        found: &str,
        field: impl Fn(&str) -> Option<Operator>,
    ) -> Result<(Operator, Option<Operator>), FormatError> {
        let (first, otherwise) = match names.split_once('?') {
            Some((first, otherwise)) => (first, Some(otherwise)),
            None => (names, None),
        };
        let read = |name: &str| field(name).ok_or_else(|| self.error(found, "does not name a field"));
        Ok((read(first)?, otherwise.map(read).transpose()?))
    }

    fn ours(&self, name: &str, found: &str) -> Result<Ours, FormatError> {
        Ours::ALL.into_iter().find(|ours| ours.name() == name).ok_or_else(|| {
            let names: Vec<_> = Ours::ALL.iter().map(|ours| ours.name()).collect();
            self.error(found, &format!("needs one of these in parentheses: {}", names.join(", ")))
        })
    }

    fn text(&mut self, text: &str) {
        self.text.extend_from_slice(text.as_bytes());
        self.quoted ^= text.bytes().filter(|byte| *byte == b'"').count() % 2 == 1;
    }

    fn end_text(&mut self) {
        if !self.text.is_empty() {
            self.template.push(Piece::Text(std::mem::take(&mut self.text).into()));
        }
    }

    fn error(&self, found: &str, why: &str) -> FormatError {
        let shown = found.chars().take(FOUND_CHARS_MAX).collect::<String>();
        FormatError::At { column: self.at + 1, found: shown.into(), why: why.into() }
    }
}

const FOUND_CHARS_MAX: usize = 60;

/// `:METHOD` and its like, or the name of a field (RFC 9110 §5.1).
fn request_field(name: &str) -> Option<Operator> {
    let name = name.to_ascii_lowercase();
    Some(match name.as_str() {
        ":scheme" => Operator::Scheme,
        "x-envoy-original-path" => Operator::Never, // the path of the log is the one received, before any rewrite
        ":method" => Operator::Text(Field::Method),
        ":path" => Operator::Text(Field::Path),
        ":authority" | "host" => Operator::Text(Field::Authority),
        "user-agent" => Operator::Text(Field::UserAgent),
        "x-request-id" => Operator::Text(Field::RequestId),
        "x-forwarded-for" => Operator::Text(Field::ForwardedFor),
        name => Operator::RequestField(field_name(name)?.into()),
    })
}

fn response_field(name: &str) -> Option<Operator> {
    let name = name.to_ascii_lowercase();
    Some(match name.as_str() {
        "x-envoy-upstream-service-time" => Operator::UpstreamServiceTime,
        ":status" => Operator::ResponseCode,
        name => Operator::ResponseField(field_name(name)?.into()),
    })
}

fn field_name(name: &str) -> Option<&str> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    (!name.is_empty() && name.bytes().all(token)).then_some(name)
}

#[rustfmt::skip]
fn by_name(name: &str) -> Option<Operator> {
    let address = |peer, part| Operator::Address(peer, part);
    Some(match name {
        "PROTOCOL" => Operator::Protocol,
        "UPSTREAM_PROTOCOL" => Operator::UpstreamProtocol,
        "RESPONSE_CODE" => Operator::ResponseCode,
        "ACCESS_LOG_TYPE" => Operator::AccessLogType,
        "RESPONSE_FLAGS" => Operator::ResponseFlags,
        "RESPONSE_CODE_DETAILS" => Operator::ResponseCodeDetails,
        "CONNECTION_TERMINATION_DETAILS" => Operator::ConnectionTerminationDetails,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Operator::UpstreamTransportFailureReason,
        "BYTES_RECEIVED" => Operator::BytesReceived,
        "BYTES_SENT" => Operator::BytesSent,
        "DURATION" => Operator::Duration,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Operator::Attempts,
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Operator::Text(Field::Cluster),
        "ROUTE_NAME" => Operator::Text(Field::Route),
        "REQUESTED_SERVER_NAME" => Operator::Text(Field::ServerName),
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => address(Peer::Upstream, Part::Whole),
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => address(Peer::Upstream, Part::Ip),
        "UPSTREAM_REMOTE_PORT" => address(Peer::Upstream, Part::Port),
        "UPSTREAM_LOCAL_ADDRESS" => address(Peer::UpstreamLocal, Part::Whole),
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => address(Peer::UpstreamLocal, Part::Ip),
        "UPSTREAM_LOCAL_PORT" => address(Peer::UpstreamLocal, Part::Port),
        "DOWNSTREAM_LOCAL_ADDRESS" => address(Peer::DownstreamLocal, Part::Whole),
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => address(Peer::DownstreamLocal, Part::Ip),
        "DOWNSTREAM_LOCAL_PORT" => address(Peer::DownstreamLocal, Part::Port),
        "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => address(Peer::DownstreamRemote, Part::Whole),
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => address(Peer::DownstreamRemote, Part::Ip),
        "DOWNSTREAM_REMOTE_PORT" | "DOWNSTREAM_DIRECT_REMOTE_PORT" => address(Peer::DownstreamRemote, Part::Port),
        "DOWNSTREAM_TLS_VERSION" => Operator::TlsVersion,
        "DOWNSTREAM_PEER_SUBJECT" => Operator::Certificate(Of::Subject),
        "DOWNSTREAM_PEER_ISSUER" => Operator::Certificate(Of::Issuer),
        "DOWNSTREAM_PEER_SERIAL" => Operator::Certificate(Of::Serial),
        "DOWNSTREAM_PEER_URI_SAN" => Operator::Certificate(Of::UriSans),
        "DOWNSTREAM_PEER_DNS_SAN" => Operator::Certificate(Of::DnsSans),
        _ => return None,
    })
}
