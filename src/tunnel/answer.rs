//! Our own answers: a refusal says why in its reason phrase, in `Proxy-Status` (RFC 9209) and in its body.

use std::fmt::Write;

use super::routed::answer::OwnAnswer;
use crate::flow::{ErrorType, Failure};

/// What shapes a refusal beside the failure itself.
#[derive(Clone, Copy, Debug)]
pub struct Answering<'a> {
    /// Our name, as in `Via`.
    pub proxy: &'a str,
    /// The id under which the flow stands in the log.
    pub request_id: &'a str,
    /// The client accepts `application/problem+json` (RFC 9457).
    pub problem_json: bool,
    /// The connection stays open after the answer.
    pub keep_alive: bool,
    /// The request was HEAD: fields as for GET, no body.
    pub head_only: bool,
    /// `Proxy-Authenticate`, with a 407.
    pub challenge: Option<&'a str>,
}

impl<'a> Answering<'a> {
    /// For who is told in text, without anything to keep the connection for.
    pub const fn bare(proxy: &'a str, request_id: &'a str) -> Self {
        Self { proxy, request_id, problem_json: false, keep_alive: false, head_only: false, challenge: None }
    }
}

/// A whole answer in HTTP/1.
#[derive(Debug)]
pub struct Answer {
    /// Head and body.
    pub bytes: Vec<u8>,
    /// How many of them are the body's.
    pub body_bytes: u64,
}

/// The whole answer to a request that failed with `failure`, in HTTP/1.
pub fn refusal(failure: &Failure, answering: &Answering<'_>) -> Answer {
    let refusal = Refusal::new(failure, answering);
    let mut head = String::with_capacity(512);
    write!(head, "HTTP/1.1 {} {}\r\n", refusal.status, phrase(failure)).expect("a String takes everything");
    for (name, value) in &refusal.fields {
        write!(head, "{name}: {value}\r\n").expect("a String takes everything");
    }
    head.push_str(if answering.keep_alive { "\r\n" } else { "Connection: close\r\n\r\n" });
    let body = if answering.head_only { "" } else { &refusal.body };
    head.push_str(body);
    Answer { body_bytes: body.len() as u64, bytes: head.into_bytes() }
}

/// The bytes of an answer that is no refusal, in HTTP/1.
pub fn own(answer: &OwnAnswer, head_only: bool, keep_alive: bool) -> Vec<u8> {
    let phrase = http::StatusCode::from_u16(answer.status).ok().and_then(|status| status.canonical_reason());
    let mut head = String::with_capacity(256);
    write!(head, "HTTP/1.1 {} {}\r\n", answer.status, phrase.unwrap_or_default()).expect("a String takes everything");
    for (name, value) in &answer.fields {
        write!(head, "{name}: {value}\r\n").expect("a String takes everything");
    }
    if has_body(answer.status) {
        write!(head, "Content-Length: {}\r\n", answer.body.len()).expect("a String takes everything");
    }
    head.push_str(if keep_alive { "\r\n" } else { "Connection: close\r\n\r\n" });
    let mut bytes = head.into_bytes();
    if !head_only && has_body(answer.status) {
        bytes.extend_from_slice(&answer.body);
    }
    bytes
}

/// RFC 9110 §6.4.1: these have none, and no length of one.
pub fn has_body(status: u16) -> bool {
    !matches!(status, 204 | 304)
}

/// An answer of ours in parts, for those who frame it themselves.
#[derive(Debug)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// Fields of the answer, without those of a connection.
    pub fields: Vec<(&'static str, String)>,
    /// The body; not for HEAD.
    pub body: String,
}

impl Refusal {
    /// The answer to a request that failed with `failure`.
    pub fn new(failure: &Failure, answering: &Answering<'_>) -> Self {
        let row = failure.error.row();
        let (body, media_type) = if answering.problem_json {
            (problem_json(failure, answering), "application/problem+json")
        } else {
            (format!("egret: {} ({})\n", printable(&failure.detail), row.reason), "text/plain; charset=utf-8")
        };
        let mut fields = vec![
            ("Content-Type", media_type.to_owned()),
            ("Content-Length", body.len().to_string()),
            ("Proxy-Status", proxy_status(failure, answering)),
        ];
        if let Some(challenge) = answering.challenge {
            fields.push(("Proxy-Authenticate", challenge.to_owned()));
        }
        // A second brings room for one request at least: rates are whole numbers.
        if matches!(failure.error, ErrorType::Overloaded | ErrorType::RateLimited | ErrorType::Draining) {
            fields.push(("Retry-After", "1".to_owned()));
        }
        fields.push(("Cache-Control", "no-store".to_owned()));
        Self { status: row.status, fields, body }
    }
}

/// The cause in a few words: all that wget, Go and corkscrew show their users. What is wrong with a request is its own phrase.
fn phrase(failure: &Failure) -> String {
    let phrase = failure.error.row().phrase;
    match (failure.hop_status, failure.error) {
        (Some(status), _) => format!("{phrase} ({status})"),
        (None, ErrorType::BadRequest) => {
            let ascii = failure.detail.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' });
            format!("{phrase}: {}", ascii.take(PHRASE_CHARS_MAX).collect::<String>())
        }
        (None, _) => phrase.to_owned(),
    }
}

const PHRASE_CHARS_MAX: usize = 120; // a line of a terminal, and far below any client's bound on a status line

/// One member of `Proxy-Status`: our name, the error type, its parameters (RFC 9209 §2.1).
fn proxy_status(failure: &Failure, answering: &Answering<'_>) -> String {
    let mut status = format!("{}; error={}", answering.proxy, failure.error.row().rfc9209);
    if let Some(received) = failure.hop_status {
        write!(status, "; received-status={received}").expect("a String takes everything");
    }
    write!(status, "; details={}; request-id={}", sf_string(&failure.detail), sf_string(answering.request_id))
        .expect("a String takes everything");
    status
}

fn problem_json(failure: &Failure, answering: &Answering<'_>) -> String {
    let row = failure.error.row();
    let mut body = serde_json::json!({
        "title": row.phrase,
        "status": row.status,
        "detail": printable(&failure.detail),
        "reason": row.reason,
        "error": row.rfc9209,
        "request_id": answering.request_id,
    })
    .to_string();
    body.push('\n');
    ascii(body)
}

/// JSON in ASCII: serde_json leaves the control characters beyond it (C1) as they are, and terminals obey those too.
fn ascii(json: String) -> String {
    if json.is_ascii() {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() + 32);
    for c in json.chars() {
        if c.is_ascii() {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            write!(escaped, "\\u{unit:04x}").expect("a String takes everything");
        }
    }
    escaped
}

/// A structured-field string: visible ASCII in quotes (RFC 8941 §3.3.3); everything else becomes `?`.
fn sf_string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            _ => quoted.push('?'),
        }
    }
    quoted.push('"');
    quoted
}

/// Control characters could drive the terminal that shows the answer.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(failure: &Failure, problem_json: bool) -> String {
        let answering = Answering { problem_json, ..Answering::bare("egret-1", "7f") };
        String::from_utf8(refusal(failure, &answering).bytes).expect("ASCII")
    }

    #[test]
    fn a_refusal_names_its_cause_in_phrase_field_and_body() {
        let text = answer(&Failure::new(ErrorType::NotFound, "no rule allows api.example.com:8443"), false);
        assert!(text.starts_with("HTTP/1.1 403 Destination Not Allowed\r\n"), "{text}");
        assert!(text.contains(
            "\r\nProxy-Status: egret-1; error=destination_not_found; details=\"no rule allows api.example.com:8443\"; request-id=\"7f\"\r\n"
        ));
        assert!(text.contains("\r\nConnection: close\r\n"));
        assert!(text.ends_with("\r\n\r\negret: no rule allows api.example.com:8443 (not_found)\n"));
    }

    #[test]
    fn what_is_wrong_with_a_request_stands_in_its_phrase() {
        let text = answer(&Failure::new(ErrorType::BadRequest, "the port is missing"), false);
        assert!(text.starts_with("HTTP/1.1 400 Bad Request: the port is missing\r\n"), "{text}");
        let text = answer(&Failure::new(ErrorType::BadRequest, format!("é\r\n{}", "x".repeat(300))), false);
        assert!(text.starts_with("HTTP/1.1 400 Bad Request: ???x") && text.find("\r\n").is_some_and(|end| end < 160));
    }

    #[test]
    fn nothing_from_a_peer_leaves_its_quotes() {
        let failure = Failure::new(ErrorType::HopRefused, "parent said \"no\\\r\n\x1b[2Jé\"");
        let text = answer(&failure, false);
        assert!(text.contains("details=\"parent said \\\"no\\\\???[2J?\\\"\""), "{text}");
        assert!(!text.contains('\x1b'));
        let body: serde_json::Value =
            serde_json::from_str(answer(&failure, true).split_once("\r\n\r\n").map_or("", |(_, body)| body))
                .expect("problem+json");
        assert_eq!(body["status"], 502);
    }
}
