//! `redirect` and `directResponse`: answers of the route's own.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::StatusCode;

use super::super::matching::HttpMatch;
use crate::config::diagnostic::{Code, Context};
use crate::config::read::Fields;
use crate::config::yaml::Node;
use crate::flow::Scheme;
use crate::route::http::actions::Answer;
use crate::route::http::matching::{PathCondition, StringMatch};
use crate::route::http::redirect::{Redirect, RedirectPath, RedirectPort};

pub(super) fn redirect(node: &Node, matches: &[HttpMatch], cx: &mut Context<'_>) -> Option<Redirect> {
    let mut fields = Fields::of(node, cx)?;
    let [uri, prefix, authority] = ["uri", "prefixRewrite", "authority"].map(|name| text(&mut fields, name, cx));
    let scheme = fields.get("scheme").and_then(|node| node.one_of(SCHEMES, cx));
    let fixed = fields.get("port").and_then(|node| node.port(cx)).map(RedirectPort::Fixed);
    let derived = fields.get("derivePort").and_then(|node| node.one_of(DERIVED, cx));
    let code = fields.get("redirectCode").and_then(|node| read_code(node, cx));
    fields.finish(cx);
    let mut wrong = |message: &str| {
        cx.report(Code::BadRedirect, node.span, message);
    };
    if uri.is_some() && prefix.is_some() {
        wrong("`uri` or `prefixRewrite`, not both");
    }
    if fixed.is_some() && derived.is_some() {
        wrong("`port` or `derivePort`, not both");
    }
    let is_whole = |condition: &PathCondition| {
        matches!(condition, PathCondition::Uri { value: StringMatch::Exact(_) | StringMatch::Regex(_), .. })
    };
    if prefix.is_some() && matches.iter().flat_map(|found| &found.path).any(is_whole) {
        wrong("`prefixRewrite` needs matches by prefix: of an exact or regex match there is no prefix to replace");
    }
    let port = fixed.or(derived);
    if uri.is_none() && prefix.is_none() && authority.is_none() && scheme.is_none() && port.is_none() {
        wrong("a redirect changes at least one of `uri`, `prefixRewrite`, `authority`, `port` and `scheme`");
    }
    for text in [&uri, &prefix, &authority].into_iter().flatten() {
        if !is_location(text) {
            wrong("a location holds visible ASCII only");
        }
    }
    Some(Redirect {
        status: code.unwrap_or(StatusCode::MOVED_PERMANENTLY),
        scheme,
        authority,
        port: port.unwrap_or(RedirectPort::Unsaid),
        path: uri.map(RedirectPath::Whole).or(prefix.map(RedirectPath::Prefix)),
    })
}

/// Empty text counts as absent, as in protobuf's JSON.
fn text(fields: &mut Fields<'_>, name: &'static str, cx: &mut Context<'_>) -> Option<Box<str>> {
    fields.text(name, cx).filter(|text| !text.value.is_empty()).map(|text| text.value.into())
}

/// What could end the line that it becomes must not be in it.
fn is_location(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

fn read_code(node: &Node, cx: &mut Context<'_>) -> Option<StatusCode> {
    let code = node.whole(0..=u64::from(u16::MAX), cx)?;
    match (code, u16::try_from(code)) {
        (0, _) => None,
        (300..=399, Ok(code)) => StatusCode::from_u16(code).ok(),
        _ => {
            cx.report_value(Code::BadRedirect, node, format!("{code} is no status of a redirect (300 to 399)"));
            None
        }
    }
}

pub(super) fn direct(node: &Node, cx: &mut Context<'_>) -> Option<Answer> {
    let mut fields = Fields::of(node, cx)?;
    let status = fields.required("status", cx).and_then(|node| {
        let code = node.whole(0..=u64::from(u16::MAX), cx)?;
        match u16::try_from(code) {
            Ok(code @ 200..=599) => StatusCode::from_u16(code).ok(),
            _ => {
                cx.report_value(
                    Code::BadDirectResponse,
                    node,
                    format!("{code} is no status of an answer (200 to 599)"),
                );
                None
            }
        }
    });
    let body = fields.get("body").map_or_else(|| Some(Vec::new()), |node| read_body(node, cx));
    fields.finish(cx);
    let body = body?;
    match body.len() {
        0..=BODY_BYTES_QUIET => {}
        bytes @ ..=BODY_BYTES_MAX => {
            let message = format!("a body of {bytes} bytes is held in memory once per route");
            cx.report(Code::LargeBody, node.span, message);
        }
        bytes => {
            let message = format!("a body of {bytes} bytes is more than {BODY_BYTES_MAX}");
            cx.report(Code::BadDirectResponse, node.span, message);
            return None;
        }
    }
    Some(Answer::Direct { status: status?, body: Arc::from(body) })
}

fn read_body(node: &Node, cx: &mut Context<'_>) -> Option<Vec<u8>> {
    let mut fields = Fields::of(node, cx)?;
    let text = fields.text("string", cx);
    let bytes = fields.get("bytes");
    fields.finish(cx);
    match (text, bytes) {
        (Some(text), None) => Some(text.value.as_bytes().to_vec()),
        (None, Some(bytes)) => {
            let text = bytes.text(cx)?;
            let decoded = BASE64.decode(text.value);
            if decoded.is_err() {
                cx.report(Code::BadDirectResponse, bytes.span, "`bytes` is base64");
            }
            decoded.ok()
        }
        (None, None) => Some(Vec::new()),
        (Some(_), Some(_)) => {
            cx.report(Code::BadDirectResponse, node.span, "`string` or `bytes`, not both");
            None
        }
    }
}

const SCHEMES: &[(&str, Scheme)] = &[("http", Scheme::Http), ("https", Scheme::Https)];
const DERIVED: &[(&str, RedirectPort)] =
    &[("FROM_PROTOCOL_DEFAULT", RedirectPort::OfScheme), ("FROM_REQUEST_PORT", RedirectPort::OfRequest)];
const BODY_BYTES_MAX: usize = 1024 * 1024; // ISTIO 5.3
const BODY_BYTES_QUIET: usize = 100 * 1024;
