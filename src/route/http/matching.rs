//! What a request has to look like for a route: conditions, all of which hold, compiled once and compared without allocation.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

use super::path::normalised;
use crate::flow::{Request, Target};

/// The conditions of one match; all of them hold, or the match does not.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// The name for the log, with that of the route.
    pub name: Arc<str>,
    /// Everything but the path. Judged first, so that it is known whether the path decided.
    pub others: Vec<Condition>,
    /// What the path has to be, several where a delegate narrows its root.
    pub path: Vec<PathCondition>,
}

/// A condition that does not look at the path.
#[derive(Clone, Debug)]
pub enum Condition {
    /// The method as sent.
    Method(StringMatch),
    /// `http` or `https`, as the client asked.
    Scheme(StringMatch),
    /// Host, and port where it is not the scheme's; in lower case.
    Authority(StringMatch),
    /// Fields of the request; several of one name count as one list.
    Header {
        /// Lower case.
        name: Box<str>,
        /// `None`: it is there.
        value: Option<StringMatch>,
        /// The condition holds where it would not (`withoutHeaders`).
        negated: bool,
    },
    /// The first parameter of that name in the query, as sent.
    Query {
        /// As sent.
        name: Box<str>,
        /// `None`: it is there.
        value: Option<StringMatch>,
    },
}

/// A condition about the path.
#[derive(Clone, Debug)]
pub enum PathCondition {
    /// `uri`: the path without its query.
    Uri {
        /// What it has to be.
        value: StringMatch,
        /// `ignoreUriCase`; a regex says so itself.
        ignore_case: bool,
    },
    /// The field `:path`: path and query.
    Field {
        /// `None`: there always is one.
        value: Option<StringMatch>,
        /// `withoutHeaders`.
        negated: bool,
    },
}

/// Istio's StringMatch.
#[derive(Clone, Debug)]
pub enum StringMatch {
    /// Equal.
    Exact(Box<str>),
    /// Begins so, whatever follows.
    Prefix(Box<str>),
    /// The whole text fits.
    Regex(Pattern),
}

/// A regular expression over a whole text. The time it takes grows with the text's length and with nothing else.
#[derive(Clone)]
pub struct Pattern(Arc<Regex>);

impl Pattern {
    /// Compiles `text`, which has RE2's syntax. `whole`: all of a text has to fit, not a part of it.
    ///
    /// # Errors
    /// A sentence: what is wrong with it, or that it needs more than [`PATTERN_BYTES_MAX`].
    pub fn new(text: &str, whole: bool, ignore_case: bool) -> Result<Self, String> {
        // Alone first: `a)(b` must not become valid by what is put around it.
        let build = |text: &str| {
            RegexBuilder::new(text)
                .case_insensitive(ignore_case)
                .size_limit(PATTERN_BYTES_MAX)
                .dfa_size_limit(PATTERN_BYTES_MAX)
                .nest_limit(PATTERN_NESTING_MAX)
                .build()
        };
        let regex = build(text).and_then(|regex| if whole { build(&format!(r"\A(?:{text})\z")) } else { Ok(regex) });
        let regex = regex.map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "it needs too much memory when compiled".to_owned(),
            error => error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        })?;
        Ok(Self(Arc::new(regex)))
    }

    /// The expression itself, for replacements.
    pub fn regex(&self) -> &Regex {
        &self.0
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.0)
    }
}

const PATTERN_BYTES_MAX: usize = 1024 * 1024; // a pattern of Istio's 1024 bytes needs a tenth, unless it repeats what repeats
const PATTERN_NESTING_MAX: u32 = 100;

impl StringMatch {
    /// True if the text fits.
    pub fn fits(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == text,
            Self::Prefix(prefix) => text.starts_with(prefix.as_bytes()),
            Self::Regex(pattern) => pattern.0.is_match(text),
        }
    }

    fn fits_in_any_case(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes().eq_ignore_ascii_case(text),
            Self::Prefix(prefix) => {
                text.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix.as_bytes()))
            }
            Self::Regex(pattern) => pattern.0.is_match(text),
        }
    }
}

/// As `explain` shows it: `prefix "/api"`.
impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(f, "exact {text:?}"),
            Self::Prefix(text) => write!(f, "prefix {text:?}"),
            Self::Regex(pattern) => {
                let text = pattern.0.as_str();
                let inner = text.strip_prefix(r"\A(?:").and_then(|text| text.strip_suffix(r")\z"));
                write!(f, "regex {:?}", inner.unwrap_or(text))
            }
        }
    }
}

/// A request as rules compare it. What takes an allocation is made when a rule asks for it.
pub struct Subject<'a> {
    request: &'a Request<'a>,
    target: &'a Target,
    /// Without query.
    received: &'a str,
    path: Cow<'a, str>,
    query: Option<&'a str>,
    authority: OnceCell<String>,
}

impl<'a> Subject<'a> {
    /// A request for `target`.
    pub fn new(request: &'a Request<'a>, target: &'a Target) -> Self {
        let (received, query) = match request.path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (request.path, None),
        };
        Self { request, target, received, path: normalised(received), query, authority: OnceCell::new() }
    }

    /// The path reads differently to rules than to an origin that takes it as it is.
    pub fn is_ambiguous(&self) -> bool {
        *self.path != *self.received
    }

    /// The path as rules compare it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Host, and port where it is not the scheme's.
    fn authority(&self) -> &str {
        self.authority.get_or_init(|| {
            let port = self.target.port;
            let mut text = Vec::with_capacity(64);
            self.target.put_with_port(&mut text, (port != self.request.scheme.default_port()).then_some(port));
            String::from_utf8(text).unwrap_or_default()
        })
    }

    /// The value of a field, or several joined as a list; pseudo-fields too.
    pub fn field(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        match name {
            ":method" => return Some(self.request.method.as_bytes().into()),
            ":scheme" => return Some(self.request.scheme.as_str().as_bytes().into()),
            ":authority" | "host" => return Some(self.authority().as_bytes().into()),
            _ => {}
        }
        let mut found: Option<Cow<'_, [u8]>> = None;
        self.request.fields.each(name, &mut |value| match &mut found {
            None => found = Some(Cow::Borrowed(value)),
            Some(list) => {
                let list = list.to_mut();
                list.push(b',');
                list.extend_from_slice(value);
            }
        });
        found
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        let parameters = self.query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        parameters.filter(|(found, _)| *found == name).map(|(_, value)| value).next()
    }
}

/// Whether a match holds, and whether the path had a say in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// How many bytes of the path a prefix took; all where the path was compared as a whole. `None`: the match does not hold.
    pub matched_bytes: Option<usize>,
    /// Everything else fits, so that the path decided, one way or the other.
    pub by_path: bool,
}

impl Match {
    /// Compares a request.
    pub fn judge(&self, subject: &Subject<'_>) -> Judged {
        if !self.others.iter().all(|condition| condition.holds(subject)) {
            return Judged { matched_bytes: None, by_path: false };
        }
        let by_path = !self.path.is_empty();
        if !self.path.iter().all(|condition| condition.holds(subject)) {
            return Judged { matched_bytes: None, by_path };
        }
        Judged { matched_bytes: Some(self.matched_bytes(subject)), by_path }
    }

    /// Nothing is asked of a request.
    pub fn is_everything(&self) -> bool {
        self.others.is_empty() && self.path.is_empty()
    }

    /// The first condition that does not hold: what it is about, and what it asks for.
    pub fn differs_in(&self, subject: &Subject<'_>) -> Option<(&'static str, String)> {
        let other = self.others.iter().find(|condition| !condition.holds(subject)).map(Condition::describe);
        other.or_else(|| self.path.iter().find(|condition| !condition.holds(subject)).map(PathCondition::describe))
    }

    /// How many conditions do not hold.
    pub fn misses(&self, subject: &Subject<'_>) -> usize {
        let others = self.others.iter().filter(|condition| !condition.holds(subject)).count();
        others + self.path.iter().filter(|condition| !condition.holds(subject)).count()
    }

    /// The last condition is the narrowest: a delegate's behind its root's. Without any, `/` is a prefix of every path.
    fn matched_bytes(&self, subject: &Subject<'_>) -> usize {
        let uri = self.path.iter().rev().find_map(|condition| match condition {
            PathCondition::Uri { value, .. } => Some(value),
            PathCondition::Field { .. } => None,
        });
        match uri {
            None => "/".len(),
            Some(StringMatch::Prefix(prefix)) => prefix.len(),
            Some(StringMatch::Exact(_) | StringMatch::Regex(_)) => subject.path.len(),
        }
    }
}

impl Condition {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Method(value) => value.fits(subject.request.method.as_bytes()),
            Self::Scheme(value) => value.fits(subject.request.scheme.as_str().as_bytes()),
            Self::Authority(value) => value.fits(subject.authority().as_bytes()),
            Self::Header { name, value, negated } => {
                let field = subject.field(name);
                let holds = match value {
                    None => field.is_some(),
                    Some(value) => field.is_some_and(|field| value.fits(&field)),
                };
                holds != *negated
            }
            Self::Query { name, value } => match value {
                None => subject.parameter(name).is_some(),
                Some(value) => subject.parameter(name).is_some_and(|found| value.fits(found.as_bytes())),
            },
        }
    }

    fn describe(&self) -> (&'static str, String) {
        let shown =
            |value: &Option<StringMatch>| value.as_ref().map_or_else(|| "present".to_owned(), ToString::to_string);
        match self {
            Self::Method(value) => ("method", value.to_string()),
            Self::Scheme(value) => ("scheme", value.to_string()),
            Self::Authority(value) => ("authority", value.to_string()),
            Self::Header { name, value, negated: false } => ("headers", format!("{name}: {}", shown(value))),
            Self::Header { name, value, negated: true } => ("withoutHeaders", format!("{name}: {}", shown(value))),
            Self::Query { name, value } => ("queryParams", format!("{name}: {}", shown(value))),
        }
    }
}

impl PathCondition {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Uri { value, ignore_case: false } => value.fits(subject.path.as_bytes()),
            Self::Uri { value, ignore_case: true } => value.fits_in_any_case(subject.path.as_bytes()),
            Self::Field { value: None, negated } => !negated,
            Self::Field { value: Some(value), negated } => {
                let holds = match subject.query {
                    None => value.fits(subject.path.as_bytes()),
                    Some(query) => value.fits(format!("{}?{query}", subject.path).as_bytes()),
                };
                holds != *negated
            }
        }
    }

    fn describe(&self) -> (&'static str, String) {
        match self {
            Self::Uri { value, .. } => ("uri", value.to_string()),
            Self::Field { value, negated } => {
                let value = value.as_ref().map_or_else(|| "present".to_owned(), ToString::to_string);
                (if *negated { "withoutHeaders" } else { "headers" }, format!(":path: {value}"))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
