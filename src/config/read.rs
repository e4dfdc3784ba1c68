//! Typed reading of nodes: every mistake is reported with its place, and reading goes on.
//!
//! A kind reads its fields one by one and ends with [`Fields::finish`], which reports what nobody asked for:
//!
//! ```ignore
//! let mut fields = Fields::of(node, cx)?;
//! let name = fields.text("name", cx);
//! let number = fields.required("number", cx).and_then(|node| node.whole(1..=65535, cx));
//! let resolution = fields.get("resolution").and_then(|node| node.one_of(RESOLUTIONS, cx));
//! fields.ignored("workloadSelector", "there is no cluster to select from", cx);
//! fields.finish(cx);
//! ```
//!
//! `None` means absent or wrong; what was wrong has been reported. `null` counts as absent, as in protobuf's JSON.

mod asked;
mod duration;
mod suggest;

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::diagnostic::{Code, Context};
use super::source::{Span, Spanned};
use super::yaml::{Key, Node, Value, boolean, is_number};

pub use asked::{Asked, Form};
pub use duration::parse_duration;
pub use suggest::nearest;

/// The fields of a map while they are read.
#[derive(Debug)]
pub struct Fields<'n> {
    span: Span,
    entries: &'n [(Key, Node)],
    read: Vec<bool>,
    known: Vec<&'static str>,
    required: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// The fields of `node`; reports what is not a map.
    pub fn of(node: &'n Node, cx: &mut Context<'_>) -> Option<Self> {
        let entries = node.map_entries(cx)?;
        let known = Vec::with_capacity(16);
        Some(Self { span: node.span, entries, read: vec![false; entries.len()], known, required: Vec::new() })
    }

    /// The node of a field; `None` if absent or `null`.
    pub fn get(&mut self, name: &'static str) -> Option<&'n Node> {
        self.find(name).map(|(_, node)| node)
    }

    /// The node of a field that has to be there; reports its absence at the map.
    pub fn required(&mut self, name: &'static str, cx: &mut Context<'_>) -> Option<&'n Node> {
        let node = self.get(name);
        self.required.push(name);
        if node.is_none() {
            cx.report(Code::MissingField, self.span, format!("`{name}` is missing"));
        }
        node
    }

    /// Text.
    pub fn text(&mut self, name: &'static str, cx: &mut Context<'_>) -> Option<Spanned<&'n str>> {
        self.get(name)?.text(cx)
    }

    /// A list's items; empty if absent.
    pub fn list(&mut self, name: &'static str, cx: &mut Context<'_>) -> &'n [Node] {
        self.get(name).and_then(|node| node.items(cx)).unwrap_or_default()
    }

    /// A map's entries; empty if absent.
    pub fn map(&mut self, name: &'static str, cx: &mut Context<'_>) -> &'n [(Key, Node)] {
        self.get(name).and_then(|node| node.entries(cx)).unwrap_or_default()
    }

    /// The fields of a map inside.
    pub fn fields(&mut self, name: &'static str, cx: &mut Context<'_>) -> Option<Fields<'n>> {
        Fields::of(self.get(name)?, cx)
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, name: &'static str, cx: &mut Context<'_>) -> Option<bool> {
        self.get(name)?.boolean(cx)
    }

    /// A whole number within bounds.
    pub fn whole(&mut self, name: &'static str, bounds: RangeInclusive<u64>, cx: &mut Context<'_>) -> Option<u64> {
        self.get(name)?.whole(bounds, cx)
    }

    /// A duration of any length.
    pub fn duration(&mut self, name: &'static str, cx: &mut Context<'_>) -> Option<Duration> {
        self.get(name)?.duration(Duration::ZERO..=Duration::MAX, cx)
    }

    /// One of a few names.
    pub fn one_of<T: Copy>(
        &mut self,
        name: &'static str,
        names: &[(&'static str, T)],
        cx: &mut Context<'_>,
    ) -> Option<T> {
        self.get(name)?.one_of(names, cx)
    }

    /// A field that we know and do not carry out, where that is harmless: a warning if it is there.
    pub fn ignored(&mut self, name: &'static str, why: &str, cx: &mut Context<'_>) {
        if let Some((key, _)) = self.find(name) {
            cx.report(Code::Ignored, key.span, format!("not supported, and ignored: {why}"));
        }
    }

    /// A field that we know and do not carry out, where ignoring it would let more through: an error if it is there.
    pub fn refused(&mut self, name: &'static str, why: &str, cx: &mut Context<'_>) {
        if let Some((key, _)) = self.find(name) {
            cx.report(Code::NotSupported, key.span, format!("not supported: {why}"));
        }
    }

    /// The place of the map itself.
    pub fn span(&self) -> Span {
        self.span
    }

    /// Reports every field that nobody asked for.
    pub fn finish(self, cx: &mut Context<'_>) {
        cx.asks(self.span, || Form::Fields { known: self.known.clone(), required: self.required.clone() });
        for ((key, _), _) in self.entries.iter().zip(&self.read).filter(|(_, read)| !**read) {
            let report = cx.report(Code::UnknownField, key.span, "no field of this name is known here");
            report.found(&*key.text);
            match nearest(&key.text, self.known.iter().copied()) {
                Some(name) => report.help(format!("did you mean `{name}`?")),
                None => report.help(format!("known here: {}", self.known.join(", "))),
            };
        }
    }

    fn find(&mut self, name: &'static str) -> Option<&'n (Key, Node)> {
        self.known.push(name);
        let index = self.entries.iter().position(|(key, _)| &*key.text == name)?;
        self.read[index] = true;
        Some(&self.entries[index]).filter(|(_, node)| !node.is_null())
    }
}

impl Node {
    /// Text. Numbers and booleans without quotes are not text: `"443"` is.
    pub fn text(&self, cx: &mut Context<'_>) -> Option<Spanned<&str>> {
        cx.asks(self.span, || Form::Text);
        self.unquoted(cx)
    }

    /// True for this very word, which means something else than text would.
    pub fn is_word(&self, word: &'static str, cx: &mut Context<'_>) -> bool {
        cx.asks(self.span, || Form::Word(word));
        self.scalar() == Some(word)
    }

    fn unquoted(&self, cx: &mut Context<'_>) -> Option<Spanned<&str>> {
        match &self.value {
            Value::Scalar { text, plain } if !plain || !(is_number(text) || boolean(text).is_some()) => {
                Some(Spanned { value: text, span: self.span })
            }
            Value::Scalar { text, .. } => {
                let help = format!("put {} in quotes", cx.quote(text));
                self.wrong_type("text", cx).help(help);
                None
            }
            _ => {
                self.wrong_type("text", cx);
                None
            }
        }
    }

    /// Text that `read` understands; its error becomes the message.
    pub fn parsed<T, E: Display>(
        &self,
        read: impl FnOnce(&str) -> Result<T, E>,
        cx: &mut Context<'_>,
    ) -> Option<Spanned<T>> {
        let text = self.text(cx)?;
        match read(&text) {
            Ok(value) => Some(Spanned { value, span: self.span }),
            Err(error) => {
                let message = format!("{}: {error}", cx.quote(&text));
                cx.report_value(Code::BadValue, self, message);
                None
            }
        }
    }

    /// The items of a list.
    pub fn items(&self, cx: &mut Context<'_>) -> Option<&[Node]> {
        cx.asks(self.span, || Form::List);
        match &self.value {
            Value::List(items) => Some(items),
            _ => {
                self.wrong_type("a list", cx);
                None
            }
        }
    }

    /// The entries of a map whose keys are not fields, such as labels.
    pub fn entries(&self, cx: &mut Context<'_>) -> Option<&[(Key, Node)]> {
        cx.asks(self.span, || Form::Map);
        self.map_entries(cx)
    }

    fn map_entries(&self, cx: &mut Context<'_>) -> Option<&[(Key, Node)]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => {
                self.wrong_type("a map", cx);
                None
            }
        }
    }

    /// `true` or `false`, without quotes.
    pub fn boolean(&self, cx: &mut Context<'_>) -> Option<bool> {
        cx.asks(self.span, || Form::Boolean);
        let value = match &self.value {
            Value::Scalar { text, plain: true } => boolean(text),
            _ => None,
        };
        if value.is_none() {
            let report = self.wrong_type("true or false", cx);
            if let Some(word @ ("yes" | "no" | "on" | "off" | "true" | "false")) = self.scalar() {
                let meant = matches!(word, "yes" | "on" | "true");
                report.help(format!("write {meant}, without quotes"));
            }
        }
        value
    }

    /// A whole number, decimal or with `0x` or `0o`. A leading zero is refused: YAML 1.1 reads it as octal, YAML 1.2 does not.
    pub fn whole(&self, bounds: RangeInclusive<u64>, cx: &mut Context<'_>) -> Option<u64> {
        cx.asks(self.span, || Form::Whole { least: *bounds.start(), most: *bounds.end() });
        let Value::Scalar { text, plain: true } = &self.value else {
            let quoted = self.scalar().is_some_and(is_number);
            let report = self.wrong_type("a whole number", cx);
            if quoted {
                report.help("write it without quotes");
            }
            return None;
        };
        let unsigned = text.strip_prefix('+').unwrap_or(text);
        let parsed = match (unsigned.strip_prefix("0x"), unsigned.strip_prefix("0o")) {
            (Some(digits), _) => u64::from_str_radix(digits, 16),
            (_, Some(digits)) => u64::from_str_radix(digits, 8),
            _ => unsigned.parse(),
        };
        let is_ambiguous =
            unsigned.len() > 1 && unsigned.starts_with('0') && unsigned.bytes().all(|b| b.is_ascii_digit());
        match parsed {
            Ok(_) if is_ambiguous => {
                let decimal = unsigned.trim_start_matches('0');
                let message = format!("{text} is octal to some parsers and decimal to others");
                let report = cx.report_value(Code::BadValue, self, message);
                report.help(format!(
                    "write {}, or 0o{decimal} for octal",
                    if decimal.is_empty() { "0" } else { decimal }
                ));
                None
            }
            Ok(number) if bounds.contains(&number) => Some(number),
            // Numbers that are whole but negative or huge are out of bounds rather than of a wrong type.
            Ok(_) => self.out_of_range(bounds.start(), bounds.end(), cx),
            Err(_) if is_number(text) && !text.contains(['.', 'e', 'E']) => {
                self.out_of_range(bounds.start(), bounds.end(), cx)
            }
            Err(_) => {
                self.wrong_type("a whole number", cx);
                None
            }
        }
    }

    /// A whole number that counts things.
    pub fn count(&self, bounds: RangeInclusive<usize>, cx: &mut Context<'_>) -> Option<usize> {
        let bounds = *bounds.start() as u64..=*bounds.end() as u64;
        self.whole(bounds, cx).and_then(|count| usize::try_from(count).ok())
    }

    /// A port, 1 to 65535.
    pub fn port(&self, cx: &mut Context<'_>) -> Option<u16> {
        self.whole(1..=u64::from(u16::MAX), cx).and_then(|port| u16::try_from(port).ok())
    }

    /// A number that need not be whole, such as a percentage.
    pub fn decimal(&self, bounds: RangeInclusive<f64>, cx: &mut Context<'_>) -> Option<f64> {
        cx.asks(self.span, || Form::Decimal { least: *bounds.start(), most: *bounds.end() });
        let number = match &self.value {
            Value::Scalar { text, plain: true } if is_number(text) => text.parse::<f64>().ok(),
            _ => None,
        };
        match number {
            Some(number) if bounds.contains(&number) => Some(number),
            Some(_) => self.out_of_range(bounds.start(), bounds.end(), cx),
            None => {
                self.wrong_type("a number", cx);
                None
            }
        }
    }

    /// A duration in Istio's (Go's) spelling: `10s`, `1h30m`, `250ms`, `0.5s`; a bare 0 is none at all.
    pub fn duration(&self, bounds: RangeInclusive<Duration>, cx: &mut Context<'_>) -> Option<Duration> {
        cx.asks(self.span, || Form::Duration);
        let Some(text) = self.scalar() else {
            self.wrong_type("a duration such as 10s", cx);
            return None;
        };
        match parse_duration(text) {
            Some(duration) if bounds.contains(&duration) => Some(duration),
            Some(_) => self.out_of_range(&format!("{:?}", bounds.start()), &format!("{:?}", bounds.end()), cx),
            None => {
                let message = format!("{} is not a duration", cx.quote(text));
                cx.report_value(Code::BadValue, self, message).help("write it like 10s, 1h30m or 250ms");
                None
            }
        }
    }

    /// One of a few names, spelled exactly so.
    pub fn one_of<T: Copy>(&self, names: &[(&'static str, T)], cx: &mut Context<'_>) -> Option<T> {
        cx.asks(self.span, || Form::Names(names.iter().map(|(name, _)| *name).collect()));
        let text = self.unquoted(cx)?;
        let found = names.iter().find(|(name, _)| *name == text.value).map(|(_, value)| *value);
        if found.is_none() {
            let message = format!("{} is none of the values known here", cx.quote(&text));
            let report = cx.report_value(Code::UnknownValue, self, message);
            let all = || names.iter().map(|(name, _)| *name);
            match nearest(&text, all()) {
                Some(name) => report.help(format!("did you mean {name}?")),
                None => report.help(format!("one of {}", all().collect::<Vec<_>>().join(", "))),
            };
        }
        found
    }

    /// Reports that something else was expected here; add help to what is returned.
    pub fn wrong_type<'c>(&self, expected: &str, cx: &'c mut Context<'_>) -> &'c mut super::diagnostic::Diagnostic {
        let message = format!("expected {expected}, found {}", cx.describe(self));
        cx.report_value(Code::WrongType, self, message)
    }

    fn out_of_range<T>(&self, least: &impl Display, most: &impl Display, cx: &mut Context<'_>) -> Option<T> {
        let message = format!("{} is not between {least} and {most}", self.excerpt());
        cx.report_value(Code::OutOfRange, self, message);
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::diagnostic::Diagnostics;
    use crate::config::source::Source;
    use crate::config::yaml::parse;

    /// Reads the one document of `text` and returns what `read` gave and every diagnostic as a line.
    fn with<T>(text: &str, read: impl FnOnce(&Node, &mut Context<'_>) -> T) -> (T, Vec<String>) {
        let source = Source::new("a.yaml", text);
        let mut diagnostics = Diagnostics::default();
        let documents = parse(&source, &mut diagnostics);
        let value = read(&documents[0], &mut Context::new(&source, &documents[0], "Kind ns/a", &mut diagnostics));
        (value, diagnostics.iter().map(ToString::to_string).collect())
    }

    /// What a reader makes of the value of field `v`, with the message stripped of the place.
    fn value<T>(text: &str, read: impl FnOnce(&Node, &mut Context<'_>) -> Option<T>) -> Result<T, String> {
        let (value, problems) = with(&format!("v: {text}"), |node, cx| read(node.entry("v").unwrap(), cx));
        match (value, problems.as_slice()) {
            (Some(value), []) => Ok(value),
            (None, [problem]) => Err(problem.split_once("Kind ns/a: v: ").unwrap().1.to_owned()),
            (_, problems) => panic!("{text}: {problems:?}"),
        }
    }

    #[test]
    fn unknown_fields_are_named_with_the_nearest_known_one() {
        let ((), problems) = with("hsots: [a]\nhosts: null\nport: 1\nother: x\n", |node, cx| {
            let mut fields = Fields::of(node, cx).unwrap();
            assert!(fields.get("hosts").is_none());
            assert_eq!(fields.whole("port", 1..=2, cx), Some(1));
            fields.finish(cx);
        });
        assert_eq!(
            problems,
            [
                "a.yaml:1:1: error[E030]: Kind ns/a: hsots: no field of this name is known here (did you mean `hosts`?)",
                "a.yaml:4:1: error[E030]: Kind ns/a: other: no field of this name is known here (known here: hosts, port)",
            ]
        );
    }

    #[test]
    fn missing_ignored_and_refused_fields_are_named() {
        let ((), problems) = with("a: 1\nb: 1\nc: null\n", |node, cx| {
            let mut fields = Fields::of(node, cx).unwrap();
            fields.ignored("a", "it changes nothing", cx);
            fields.refused("b", "it restricts", cx);
            fields.refused("c", "absent", cx);
            fields.required("d", cx);
            fields.finish(cx);
        });
        assert_eq!(
            problems,
            [
                "a.yaml:1:1: warning[W001]: Kind ns/a: a: not supported, and ignored: it changes nothing",
                "a.yaml:2:1: error[E036]: Kind ns/a: b: not supported: it restricts",
                "a.yaml:1:1: error[E031]: Kind ns/a: `d` is missing",
            ]
        );
    }

    #[test]
    fn text_is_not_a_number_nor_a_boolean() {
        let text = |text: &str| value(text, |node, cx| node.text(cx).map(|text| text.value.to_owned()));
        assert_eq!(text("'443'"), Ok("443".to_owned()));
        assert_eq!(text("yes"), Ok("yes".to_owned()));
        assert_eq!(text("443"), Err(r#"expected text, found number 443 (put "443" in quotes)"#.to_owned()));
        assert_eq!(text("true"), Err(r#"expected text, found boolean true (put "true" in quotes)"#.to_owned()));
        assert_eq!(text("[a]"), Err("expected text, found a list".to_owned()));
    }

    #[test]
    fn nothing_of_a_secret_is_repeated() {
        let source = Source::new("a.yaml", "kind: Secret\nv: 123456\nw: hunter2\n");
        let mut diagnostics = Diagnostics::default();
        let documents = parse(&source, &mut diagnostics);
        let mut cx = Context::new(&source, &documents[0], "Secret ns/a", &mut diagnostics).confidential();
        let (v, w) = (documents[0].entry("v").unwrap(), documents[0].entry("w").unwrap());
        v.text(&mut cx);
        w.items(&mut cx);
        w.duration(Duration::ZERO..=Duration::MAX, &mut cx);
        w.one_of(&[("a", ())], &mut cx);
        w.parsed(|text| text.parse::<u8>(), &mut cx);
        assert_eq!(diagnostics.errors(), 5);
        let shown = format!("{}{}", diagnostics.render(false), diagnostics.to_json());
        assert!(!shown.contains("123456") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn whole_numbers_have_bounds_and_one_meaning() {
        let port = |text: &str| value(text, |node, cx| node.port(cx));
        assert_eq!(port("1"), Ok(1));
        assert_eq!(port("65535"), Ok(65535));
        assert_eq!(port("0x1BB"), Ok(443));
        assert_eq!(port("0o673"), Ok(443));
        for text in ["0", "65536", "-1", "99999999999999999999999"] {
            assert_eq!(port(text), Err(format!("{text} is not between 1 and 65535")));
        }
        let octal = "0755 is octal to some parsers and decimal to others (write 755, or 0o755 for octal)";
        assert_eq!(port("0755"), Err(octal.to_owned()));
        assert_eq!(
            port("'443'"),
            Err("expected a whole number, found text \"443\" (write it without quotes)".to_owned())
        );
        assert_eq!(port("443.5"), Err("expected a whole number, found number 443.5".to_owned()));
        assert_eq!(port("https"), Err("expected a whole number, found text \"https\"".to_owned()));
    }

    #[test]
    fn booleans_numbers_names_and_durations_say_what_would_be_right() {
        let boolean = |text: &str| value(text, |node, cx| node.boolean(cx));
        assert_eq!(boolean("true"), Ok(true));
        assert_eq!(boolean("False"), Ok(false));
        let expected = "expected true or false, found text \"yes\" (write true, without quotes)";
        assert_eq!(boolean("yes"), Err(expected.to_owned()));
        let percent = |text: &str| value(text, |node, cx| node.decimal(0.0..=100.0, cx));
        assert_eq!(percent("0.5"), Ok(0.5));
        assert_eq!(percent("100.1"), Err("100.1 is not between 0 and 100".to_owned()));
        assert_eq!(percent("[]"), Err("expected a number, found a list".to_owned()));
        let names = [("NONE", 0), ("STATIC", 1), ("DNS", 2)];
        let one_of = |text: &str| value(text, |node, cx| node.one_of(&names, cx));
        assert_eq!(one_of("DNS"), Ok(2));
        assert_eq!(
            one_of("static"),
            Err("\"static\" is none of the values known here (did you mean STATIC?)".to_owned())
        );
        assert_eq!(
            one_of("MAGLEV"),
            Err("\"MAGLEV\" is none of the values known here (one of NONE, STATIC, DNS)".to_owned())
        );
        let minute = Duration::ZERO..=Duration::from_secs(60);
        let duration = |text: &str| value(text, |node, cx| node.duration(minute.clone(), cx));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("61s"), Err("61s is not between 0ns and 60s".to_owned()));
        assert_eq!(duration("10"), Err("\"10\" is not a duration (write it like 10s, 1h30m or 250ms)".to_owned()));
        let parsed = |text: &str| value(text, |node, cx| node.parsed(|text| text.parse::<std::net::IpAddr>(), cx));
        assert_eq!(parsed("10.0.0.1").unwrap().value.to_string(), "10.0.0.1");
        assert_eq!(parsed("10.0.0").unwrap_err(), "\"10.0.0\": invalid IP address syntax");
    }
}
