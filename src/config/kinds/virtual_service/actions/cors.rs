//! `corsPolicy`.

use super::super::matching::{is_header_name, read_string};
use crate::config::diagnostic::{Code, Context};
use crate::config::kinds::scalars::read_duration;
use crate::config::read::Fields;
use crate::config::yaml::Node;
use crate::route::http::cors::Cors;
use crate::route::http::matching::StringMatch;

pub(super) fn read(node: &Node, cx: &mut Context<'_>) -> Option<Cors> {
    let mut fields = Fields::of(node, cx)?;
    let mut origins: Vec<StringMatch> = Vec::new();
    for item in fields.list("allowOrigins", cx) {
        match read_string(item, cx) {
            Some(StringMatch::Exact(text)) if text.is_empty() => {
                cx.report(Code::BadStringMatch, item.span, "an empty text is no origin");
            }
            Some(value) => origins.push(value),
            None => {}
        }
    }
    for item in fields.list("allowOrigin", cx) {
        origins.extend(item.text(cx).map(|text| StringMatch::Exact(text.value.into()))); // until Istio 1.5
    }
    let [methods, headers, exposed] =
        ["allowMethods", "allowHeaders", "exposeHeaders"].map(|name| tokens(&mut fields, name, cx));
    let max_age = fields.get("maxAge").and_then(|node| {
        let age = read_duration(node, cx)?;
        if age.subsec_nanos() > 0 {
            cx.report(Code::BadDuration, node.span, "`maxAge` is told in whole seconds").found(node.excerpt());
            return None;
        }
        Some(age)
    });
    let credentials = fields.boolean("allowCredentials", cx).unwrap_or_default();
    let unmatched = fields.one_of("unmatchedPreflights", &UNMATCHED, cx).unwrap_or_default();
    fields.finish(cx);
    Some(Cors { origins, methods, headers, exposed, max_age, credentials, answers_unmatched: unmatched })
}

fn tokens(fields: &mut Fields<'_>, name: &'static str, cx: &mut Context<'_>) -> Box<str> {
    let mut list = Vec::new();
    for item in fields.list(name, cx) {
        let Some(text) = item.text(cx) else { continue };
        if is_header_name(text.value) {
            list.push(text.value);
        } else {
            cx.report(Code::BadHeader, item.span, format!("{:?} is neither a method nor a header", text.value));
        }
    }
    list.join(",").into()
}

const UNMATCHED: [(&str, bool); 3] = [("UNSPECIFIED", false), ("FORWARD", false), ("IGNORE", true)];
