//! `match` of an http route: what the request has to look like, compiled where it is read, so that what does not compile is an error.

use super::Reader;
use super::binding::Scope;
use crate::config::diagnostic::{Code, Context};
use crate::config::read::Fields;
use crate::config::source::Span;
use crate::config::yaml::{Key, Node};
use crate::route::http::matching::{Condition, PathCondition, Pattern, StringMatch};

/// One match of one entry of `http`.
#[derive(Clone, Debug)]
pub struct HttpMatch {
    /// Where it stands.
    pub span: Span,
    /// `name`.
    pub name: Option<Box<str>>,
    /// For whom.
    pub scope: Scope,
    /// Conditions that do not look at the path.
    pub others: Vec<Condition>,
    /// Conditions of the path.
    pub path: Vec<PathCondition>,
}

impl HttpMatch {
    pub(super) fn read(node: &Node, reader: &Reader<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let mut fields = Fields::of(node, cx)?;
        let name = fields.text("name", cx).map(|name| name.value.into());
        let scope = Scope::read(&mut fields, reader.gateways, false, cx);
        let mut read = Conditions::default();
        let ignore_case = fields.boolean("ignoreUriCase", cx).unwrap_or_default();
        if let Some(node) = fields.get("uri") {
            let uri = read.one(node, Takes { empty_prefix: true, ..Takes::default() }, cx);
            read.path.extend(uri.map(|value| PathCondition::Uri { value, ignore_case }));
        }
        if let Some(value) = fields.get("scheme").and_then(|node| read.one(node, Takes::default(), cx)) {
            read.others.push(Condition::Scheme(value));
        }
        if let Some(value) = fields.get("method").and_then(|node| read.one(node, Takes::default(), cx)) {
            read.others.push(Condition::Method(value));
        }
        let host = Takes { any_case: true, ..Takes::default() };
        if let Some(value) = fields.get("authority").and_then(|node| read.one(node, host, cx)) {
            read.others.push(Condition::Authority(value));
        }
        read.headers(fields.map("headers", cx), false, cx);
        read.headers(fields.map("withoutHeaders", cx), true, cx);
        read.parameters(fields.map("queryParams", cx), cx);
        fields.ignored("statPrefix", "there are no statistics per route", cx);
        fields.finish(cx);
        // Without one of its conditions the match would take more requests than it says.
        let Conditions { others, path, is_broken } = read;
        (!is_broken).then_some(Self { span: node.span, name, scope, others, path })
    }

    /// True for what takes every request of every client.
    pub(super) fn is_everything(&self) -> bool {
        let takes_all = |condition: &PathCondition| match condition {
            PathCondition::Uri { value: StringMatch::Prefix(prefix), .. } => matches!(&**prefix, "" | "/"),
            PathCondition::Uri { value: StringMatch::Regex(pattern), .. } => pattern.regex().as_str() == r"\A(?:.*)\z",
            _ => false,
        };
        self.scope.is_everybody() && self.others.is_empty() && self.path.iter().all(takes_all)
    }
}

#[derive(Default)]
struct Conditions {
    others: Vec<Condition>,
    path: Vec<PathCondition>,
    is_broken: bool,
}

/// What a StringMatch may be in its place.
#[derive(Clone, Copy, Default)]
struct Takes {
    empty_prefix: bool,
    /// Hosts: written in any case, compared in lower case.
    any_case: bool,
    /// `regex: "*"`, which is no regular expression, says that a value is there.
    star: bool,
}

impl Conditions {
    /// `None`: everything fits, or what is written is wrong and was reported.
    fn one(&mut self, node: &Node, takes: Takes, cx: &mut Context<'_>) -> Option<StringMatch> {
        match string_match(node, takes, cx) {
            Ok(value) => value,
            Err(Reported) => {
                self.is_broken = true;
                None
            }
        }
    }

    fn headers(&mut self, entries: &[(Key, Node)], negated: bool, cx: &mut Context<'_>) {
        for (key, node) in entries {
            let name = key.text.to_ascii_lowercase();
            let bare = name.strip_prefix(':').unwrap_or(&name);
            if name.starts_with('@') {
                let message = "claims of a token are not known here: the route would take more requests than it says";
                cx.report(Code::NotSupported, key.span, message);
                self.is_broken = true;
                continue;
            }
            if !is_header_name(bare) {
                cx.report(Code::BadHeader, key.span, format!("{:?} is no name of a header", key.text));
                self.is_broken = true;
                continue;
            }
            let is_host = matches!(&*name, ":authority" | "host");
            let value = self.one(node, Takes { star: true, any_case: is_host, ..Takes::default() }, cx);
            match &*name {
                ":path" => self.path.push(PathCondition::Field { value, negated }),
                _ => self.others.push(Condition::Header { name: name.into(), value, negated }),
            }
        }
    }

    fn parameters(&mut self, entries: &[(Key, Node)], cx: &mut Context<'_>) {
        for (key, node) in entries {
            let value = self.one(node, Takes { star: true, ..Takes::default() }, cx);
            let value = value.filter(|value| !matches!(value, StringMatch::Exact(text) if text.is_empty()));
            self.others.push(Condition::Query { name: key.text.clone(), value });
        }
    }
}

/// A comparison where nothing may be left open; `None`: it was wrong, and that was said.
pub(super) fn read_string(node: &Node, cx: &mut Context<'_>) -> Option<StringMatch> {
    match string_match(node, Takes::default(), cx) {
        Ok(Some(value)) => Some(value),
        Ok(None) => {
            cx.report(Code::BadStringMatch, node.span, "one of `exact`, `prefix` and `regex` is needed");
            None
        }
        Err(Reported) => None,
    }
}

/// It was wrong, and that was said.
struct Reported;

/// Reads `{ exact | prefix | regex }`; `None`: nothing of it is there, so everything fits.
fn string_match(node: &Node, takes: Takes, cx: &mut Context<'_>) -> Result<Option<StringMatch>, Reported> {
    if node.is_null() {
        cx.report(Code::BadStringMatch, node.span, "nothing to compare with").help("write {} for: it is there");
        return Err(Reported);
    }
    let mut fields = Fields::of(node, cx).ok_or(Reported)?;
    let [exact, prefix, regex] = ["exact", "prefix", "regex"].map(|name| fields.get(name));
    fields.finish(cx);
    let written = [exact, prefix, regex].into_iter().flatten().count();
    if written > 1 {
        cx.report(Code::BadStringMatch, node.span, "one of `exact`, `prefix` and `regex` at a time");
        return Err(Reported);
    }
    let case = |text: &str| if takes.any_case { text.to_ascii_lowercase().into() } else { text.into() };
    if let Some(node) = exact {
        return Ok(Some(StringMatch::Exact(case(node.text(cx).ok_or(Reported)?.value))));
    }
    if let Some(node) = prefix {
        let text = node.text(cx).ok_or(Reported)?;
        if text.value.is_empty() && !takes.empty_prefix {
            cx.report(Code::BadStringMatch, node.span, "an empty prefix fits everything");
            return Err(Reported);
        }
        return Ok(Some(StringMatch::Prefix(case(text.value))));
    }
    let Some(node) = regex else { return Ok(None) };
    let text = node.text(cx).ok_or(Reported)?;
    if takes.star && text.value == "*" {
        return Ok(None);
    }
    pattern(node, text.value, true, takes.any_case, cx).map(|pattern| Some(StringMatch::Regex(pattern))).ok_or(Reported)
}

/// A regular expression of 1 to 1024 bytes, as Istio has it.
pub(super) fn pattern(node: &Node, text: &str, whole: bool, any_case: bool, cx: &mut Context<'_>) -> Option<Pattern> {
    let problem = match text.len() {
        0 => "it is empty".to_owned(),
        1..=PATTERN_TEXT_BYTES_MAX => match Pattern::new(text, whole, any_case) {
            Ok(pattern) => return Some(pattern),
            Err(problem) => problem,
        },
        bytes => format!("{bytes} bytes are more than {PATTERN_TEXT_BYTES_MAX}"),
    };
    cx.report_value(Code::BadRegex, node, format!("no regular expression of RE2: {problem}"));
    None
}

/// RFC 9110 §5.6.2: a token.
pub(super) fn is_header_name(name: &str) -> bool {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(is_token)
}

const PATTERN_TEXT_BYTES_MAX: usize = 1024; // ISTIO 5.6
