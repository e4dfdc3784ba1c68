//! `headers`: fields that are set, added and removed, of the request and of the answer.

use crate::config::diagnostic::{Code, Context};
use crate::config::read::Fields;
use crate::config::source::{Span, Spanned};
use crate::config::yaml::{Key, Node};
use crate::route::http::actions::Authority;
use crate::route::http::changes::Changes;

use super::super::matching::is_header_name;
use super::rewrite::read_authority;

/// `headers` of a route or of a destination.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    /// Of the request.
    pub request: Changes,
    /// Of the answer.
    pub response: Changes,
    /// `Host` among what is set in the request: a rewrite.
    pub authority: Option<Spanned<Authority>>,
}

impl Headers {
    pub(in super::super) fn read(node: &Node, cx: &mut Context<'_>) -> Self {
        let mut headers = Self::default();
        let Some(mut fields) = Fields::of(node, cx) else { return headers };
        let [request, response] = ["request", "response"].map(|name| fields.get(name));
        fields.finish(cx);
        if let Some(node) = request {
            headers.request = headers.read_one(node, true, cx);
        }
        if let Some(node) = response {
            headers.response = headers.read_one(node, false, cx);
        }
        headers
    }

    fn read_one(&mut self, node: &Node, is_request: bool, cx: &mut Context<'_>) -> Changes {
        let mut changes = Changes::default();
        let Some(mut fields) = Fields::of(node, cx) else { return changes };
        for item in fields.list("remove", cx) {
            let Some(text) = item.text(cx) else { continue };
            if is_host(text.value) && is_request {
                cx.report(Code::BadHeader, item.span, "every request has a host: it cannot be removed");
            } else if check_name(text.value, item.span, cx) {
                changes.remove(text.value);
            }
        }
        for (key, node) in fields.map("set", cx) {
            self.write(key, node, Write { is_request, replaces: true }, &mut changes, cx);
        }
        for (key, node) in fields.map("add", cx) {
            self.write(key, node, Write { is_request, replaces: false }, &mut changes, cx);
        }
        fields.finish(cx);
        changes
    }

    fn write(&mut self, key: &Key, node: &Node, write: Write, changes: &mut Changes, cx: &mut Context<'_>) {
        let Some(text) = node.text(cx) else { return };
        let value = match read_value(text.value) {
            Ok(value) => value,
            Err(problem) => {
                cx.report(Code::BadHeader, node.span, problem).found(text.value);
                return;
            }
        };
        if write.is_request && is_host(&key.text) {
            return self.rewrite(key, value, node.span, cx);
        }
        if !check_name(&key.text, key.span, cx) {
            return;
        }
        match (value, write.replaces) {
            (Some(value), true) => changes.set(&key.text, &value),
            (Some(value), false) => changes.add(&key.text, &value),
            (None, replaces) => {
                let message = "variables of Envoy are not supported: the header is left out";
                cx.report(Code::Ignored, node.span, message).found(text.value);
                // What a client sends under this name would be taken for the rule's value.
                if replaces {
                    changes.remove(&key.text);
                }
            }
        }
    }

    fn rewrite(&mut self, key: &Key, value: Option<String>, span: Span, cx: &mut Context<'_>) {
        let read =
            value.ok_or_else(|| "a variable cannot be the host".to_owned()).and_then(|text| read_authority(&text));
        match read {
            Ok(_) if self.authority.is_some() => {
                cx.report(Code::BadRewrite, key.span, "the host is set already");
            }
            Ok(value) => self.authority = Some(Spanned { value, span: key.span }),
            Err(problem) => {
                cx.report(Code::BadHeader, span, problem);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Write {
    is_request: bool,
    replaces: bool,
}

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

/// Names of fields that may be changed: those that frame a message or belong to a connection are the proxy's.
fn check_name(name: &str, span: Span, cx: &mut Context<'_>) -> bool {
    const OURS: [&str; 11] = [
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    ];
    if !is_header_name(name) {
        cx.report(Code::BadHeader, span, format!("{name:?} is no name of a header")).found(name);
        return false;
    }
    if OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
        let message = format!("{name} belongs to the connection, or says where the message ends: it cannot be changed");
        cx.report(Code::BadHeader, span, message).found(name);
        return false;
    }
    true
}

/// The value with `%%` as `%`; `None`: it holds variables of Envoy (`%HOSTNAME%`).
fn read_value(text: &str) -> Result<Option<String>, String> {
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err("a header's value holds no control characters".to_owned());
    }
    let mut value = String::with_capacity(text.len());
    let mut has_variables = false;
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        value.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            value.push('%');
            rest = after;
            continue;
        }
        let Some(end) = variable_end(rest) else {
            return Err("a `%` that begins no variable is written `%%`".to_owned());
        };
        has_variables = true;
        rest = &rest[end + 1..];
    }
    value.push_str(rest);
    Ok((!has_variables).then_some(value))
}

/// Where the `%` is that ends a variable: behind `HOSTNAME`, `REQ(x-a)`, `START_TIME(%s):20`. What stands in parentheses may hold others.
fn variable_end(text: &str) -> Option<usize> {
    let past = |at: usize, goes_on: fn(char) -> bool| text[at..].find(|c| !goes_on(c)).map(|length| at + length);
    let mut at = past(0, |c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_').filter(|at| *at > 0)?;
    if text[at..].starts_with('(') {
        at += text[at..].find(')')? + 1;
    }
    if text[at..].starts_with(':') {
        at = past(at + 1, |c| c.is_ascii_digit())?;
    }
    text[at..].starts_with('%').then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percent_sign_is_written_twice() {
        assert_eq!(read_value("100%%"), Ok(Some("100%".to_owned())));
        assert_eq!(read_value("plain\tvalue"), Ok(Some("plain\tvalue".to_owned())));
        assert_eq!(read_value("hello %HOSTNAME%"), Ok(None));
        assert_eq!(read_value("%REQ(X-A)%:%PROTOCOL%"), Ok(None));
        assert_eq!(read_value("until %DOWNSTREAM_PEER_CERT_V_END(%b %d %Y)% or %START_TIME(%s):20%"), Ok(None));
        for bad in
            ["abcd%oijasodifj", "%", "%%%", "a\r\nb", "a\0", "%lower%", "%START_TIME(%s%", "%A(b)c%", "%A:b%", "%A"]
        {
            assert!(read_value(bad).is_err(), "{bad}");
        }
    }
}
