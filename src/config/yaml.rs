//! Text to documents to [`Node`] trees, every node with its place. YAML 1.2, and JSON as part of it.
//!
//! Our own tree instead of serde: all errors of all documents are wanted at once, each with line and column, where serde ends at
//! the first and forgets places. What a scalar means (number, boolean, text) is decided by who reads it, see [`super::read`].
//!
//! Scalars follow the YAML 1.2 core schema: `yes`, `on` and `1_000` are text; only `true`/`false` (three spellings) are booleans.
//! Merge keys (`<<`), which YAML 1.2 dropped, are understood, because kubectl understands them.

mod builder;

use granit_parser::{Parser, ScanError};

use super::diagnostic::{Code, Diagnostic, Diagnostics};
use super::source::{Source, Span};

use builder::Builder;

/// A value and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it begins; scalars have a length too. What an alias stands for keeps the place of its definition.
    pub span: Span,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Everything that is one word or text.
    Scalar {
        /// The text after unquoting and unescaping.
        text: Box<str>,
        /// Written without quotes (and without `!!str`): may be a number or a boolean.
        plain: bool,
    },
    /// A sequence.
    List(Box<[Node]>),
    /// A mapping, in the order written, keys unique.
    Map(Box<[(Key, Node)]>),
}

/// The key of a map's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The text.
    pub text: Box<str>,
    /// Its place.
    pub span: Span,
}

/// Reads all documents of a source, empty ones skipped. A document with an error is reported and left out; the others are there.
pub fn parse(source: &Source, diagnostics: &mut Diagnostics) -> Vec<Node> {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
        simple_key_max_lookahead: KEY_CHARACTERS_MAX,
    };
    let mut parser = Parser::new_from_str_with_options(source.text(), options);
    let mut builder = Builder::new(source, diagnostics);
    while let Some(event) = parser.next_event() {
        let abandoned = match event {
            Ok((event, span)) => builder.take(event, span).is_err(),
            Err(error) => {
                builder.report(syntax_error(source, &error));
                true
            }
        };
        if abandoned {
            builder.abandon_document();
            match parser.proceed_next_document() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    builder.report(syntax_error(source, &error));
                    break;
                }
            }
        }
    }
    builder.finish()
}

fn syntax_error(source: &Source, error: &ScanError) -> Diagnostic {
    let span = builder::place(*error.marker(), 0);
    Diagnostic::in_source(Code::Syntax, source, span, error.info())
}

/// Lists and maps inside each other. Bounds recursion too: trees are walked, cloned and dropped recursively.
const DEPTH_MAX: usize = 64;
const KEY_CHARACTERS_MAX: usize = 1024; // YAML 1.2.2 §7.4.2

impl Node {
    /// What it is, for messages: `text "a"`, `number 443`, `a list`.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
            Value::Scalar { text, plain } => match (plain, text.as_ref()) {
                (true, text) if is_number(text) => format!("number {text}"),
                (true, text) if boolean(text).is_some() => format!("boolean {text}"),
                (_, text) => format!("text {}", quote(text)),
            },
        }
    }

    /// The value as written, as far as it fits a line: for `found`.
    pub fn excerpt(&self) -> String {
        match &self.value {
            Value::Null => "null".to_owned(),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Map(entries) => format!("a map of {}", entries.len()),
            Value::Scalar { text, .. } => shorten(text).into_owned(),
        }
    }

    /// True for `null`, which counts as absent everywhere.
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The entry of a map by its key; `None` for other nodes and for `null` values.
    pub fn entry(&self, key: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|(found, _)| &*found.text == key).map(|(_, node)| node).filter(|node| !node.is_null())
    }

    /// The text of a scalar however it is written; `None` for other nodes.
    pub fn scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The path from this node to the node or key at `span`, such as `spec.ports[0].protocol`; empty if it is this node or not found.
    pub fn path_to(&self, span: Span) -> String {
        let mut path = String::new();
        if self.span != span && !self.descend(span, &mut path) {
            path.clear();
            self.search(span, &mut path);
        }
        path
    }

    /// Entries stand in the order of the text, so one way leads to the place; not so where aliases and merge keys are.
    fn descend(&self, span: Span, path: &mut String) -> bool {
        match &self.value {
            Value::List(items) => {
                let after = items.partition_point(|item| item.span.offset <= span.offset);
                let Some(index) = after.checked_sub(1) else { return false };
                push_index(path, index);
                items[index].span == span || items[index].descend(span, path)
            }
            Value::Map(entries) => {
                let after = entries.partition_point(|(key, _)| key.span.offset <= span.offset);
                let Some((key, node)) = after.checked_sub(1).map(|index| &entries[index]) else { return false };
                push_key(path, &key.text);
                key.span == span || node.span == span || node.descend(span, path)
            }
            Value::Null | Value::Scalar { .. } => false,
        }
    }

    fn search(&self, span: Span, path: &mut String) -> bool {
        let length = path.len();
        let mut reaches = |step: &dyn Fn(&mut String), here: bool, node: &Node| {
            step(path);
            let found = here || node.span == span || node.search(span, path);
            if !found {
                path.truncate(length);
            }
            found
        };
        match &self.value {
            Value::List(items) => {
                items.iter().enumerate().any(|(index, item)| reaches(&|path| push_index(path, index), false, item))
            }
            Value::Map(entries) => {
                entries.iter().any(|(key, node)| reaches(&|path| push_key(path, &key.text), key.span == span, node))
            }
            Value::Null | Value::Scalar { .. } => false,
        }
    }
}

fn push_index(path: &mut String, index: usize) {
    path.push_str(&format!("[{index}]"));
}

/// `metadata.labels.app`, and `metadata.annotations["egret.dev/source"]` where a dot would mislead.
fn push_key(path: &mut String, key: &str) {
    let simple = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'$'));
    match (simple, path.is_empty()) {
        (true, true) => path.push_str(key),
        (true, false) => path.extend([".", key]),
        (false, _) => path.push_str(&format!("[{}]", quote(key))),
    }
}

/// In double quotes, shortened and escaped, for messages.
pub(super) fn quote(text: &str) -> String {
    format!("{:?}", shorten(text))
}

const EXCERPT_CHARACTERS_MAX: usize = 80; // one line of a terminal

fn shorten(text: &str) -> std::borrow::Cow<'_, str> {
    match text.char_indices().nth(EXCERPT_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// `true` and `false` as the core schema spells them (YAML 1.2.2 §10.3.2).
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

pub(super) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// Integers and floats of the core schema (YAML 1.2.2 §10.3.2).
pub(super) fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return !digits.is_empty() && digits.bytes().all(|b| matches!(b, b'0'..=b'7'));
    }
    // [-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn read(text: &str) -> (Vec<Node>, Vec<String>) {
        let mut diagnostics = Diagnostics::default();
        let documents = parse(&Source::new("a.yaml", text), &mut diagnostics);
        (documents, diagnostics.iter().map(ToString::to_string).collect())
    }

    fn clean(text: &str) -> Node {
        let (documents, problems) = read(text);
        assert_eq!(problems, [""; 0], "{text:?}");
        assert_eq!(documents.len(), 1, "{text:?}");
        documents.into_iter().next().unwrap()
    }

    /// The one problem of a text.
    fn problem(text: &str) -> String {
        let (_, problems) = read(text);
        assert_eq!(problems.len(), 1, "{text:?}: {problems:?}");
        problems.into_iter().next().unwrap()
    }

    /// A compact notation that shows text in quotes and plain scalars without.
    fn show(node: &Node) -> String {
        match &node.value {
            Value::Null => "null".to_owned(),
            Value::Scalar { text, plain: true } => text.to_string(),
            Value::Scalar { text, plain: false } => format!("{text:?}"),
            Value::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(",")),
            Value::Map(entries) => {
                let entries = entries.iter().map(|(key, node)| format!("{}:{}", key.text, show(node)));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
            }
        }
    }

    #[test]
    fn block_flow_and_json_give_the_same_tree() {
        let expected = r#"{a:[1,"two",{b:null}],c:{d:true}}"#;
        for text in [
            "a:\n  - 1\n  - 'two'\n  - b:\nc:\n  d: true\n",
            "a:\n- 1\n- \"two\"\n- {b: ~}\nc: {d: true}",
            "{a: [1, 'two', {b: null}], c: {d: true}}",
            "{\"a\":[1,\"two\",{\"b\":null}],\"c\":{\"d\":true}}",
            "{\n\t\"a\": [\n\t\t1,\n\t\t\"two\",\n\t\t{\"b\": null}\n\t],\n\t\"c\": {\"d\": true}\n}\n",
            "\u{feff}a: [1, !!str two, {b: }]\r\nc:\r\n  d: true\r\n",
        ] {
            assert_eq!(show(&clean(text)), expected, "{text:?}");
        }
    }

    #[test]
    fn places_count_lines_characters_and_bytes() {
        let text = "ä: ü\nspec:\n  - nämë: \"x y\"\n    list: [1]\n";
        let node = clean(text);
        let Value::Map(entries) = &node.value else { panic!() };
        let written = |span: Span| &text[span.offset as usize..(span.offset + span.length) as usize];
        assert_eq!((entries[0].1.span.line, entries[0].1.span.column, written(entries[0].1.span)), (1, 4, "ü"));
        let Value::List(items) = &entries[1].1.value else { panic!() };
        let Value::Map(fields) = &items[0].value else { panic!() };
        let (key, value) = &fields[0];
        assert_eq!((key.span.line, key.span.column, written(key.span)), (3, 5, "nämë"));
        assert_eq!((value.span.line, value.span.column, written(value.span)), (3, 11, "\"x y\""));
        assert_eq!((fields[1].1.span.line, fields[1].1.span.column), (4, 11));
    }

    #[test]
    fn a_place_leads_back_to_its_path() {
        let text =
            "spec:\n  ports:\n  - number: 1\n    a/b: {c: [x, [y]]}\n  - number: 2\nother: *x\n".replace("*x", "z");
        let node = clean(&text);
        let path = |what: &str| {
            let offset = text.find(what).unwrap();
            let candidates =
                (0..=what.len() as u32).map(|length| Span { offset: offset as u32, length, ..Span::default() });
            let place = |span: Span| {
                let line_start = text[..offset].rfind('\n').map_or(0, |at| at + 1);
                let line = text[..offset].matches('\n').count() as u32 + 1;
                Span { line, column: (offset - line_start) as u32 + 1, ..span }
            };
            candidates.map(|span| node.path_to(place(span))).find(|path| !path.is_empty()).unwrap_or_default()
        };
        assert_eq!(path("number: 2"), "spec.ports[1]");
        assert_eq!(path("1"), "spec.ports[0].number");
        assert_eq!(path("y"), "spec.ports[0][\"a/b\"].c[1][0]");
        assert_eq!(path("a/b"), "spec.ports[0][\"a/b\"]");
        assert_eq!(path("other"), "other");
        assert_eq!(node.path_to(Span::default()), "");
        // Aliases and merge keys bring nodes that stand elsewhere in the text.
        let node = clean("z: &z {k: v}\na: {b: *z}\n");
        let Value::Map(entries) = &node.value else { panic!() };
        let nested = entries[1].1.entry("b").unwrap().entry("k").unwrap();
        assert_eq!(node.path_to(nested.span), "z.k");
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        for text in
            ["0", "-1", "+12", "0755", "1.5", ".5", "5.", "1e3", "-1.5E-3", "0x1F", "0o17", ".inf", "-.Inf", ".nan"]
        {
            assert!(is_number(text), "{text}");
        }
        for text in [
            "", "-", "+", ".", "e3", "1e", "1_000", "0x", "0xg", "0o8", "-0x1", "1:30", "1.2.3", "10.0.0.1", "inf",
            "-.nan",
        ] {
            assert!(!is_number(text), "{text}");
        }
        assert_eq!(
            show(&clean("[yes, on, null, ~, 'null', !!str null, \"\", ]")),
            r#"[yes,on,null,null,"null","null",""]"#
        );
    }

    #[test]
    fn documents_are_apart_and_empty_ones_skipped() {
        let (documents, problems) = read("---\n---\na: 1\n---\n# nothing\n---\n...\nb: 2\n---\n~\n");
        assert_eq!(problems, [""; 0]);
        assert_eq!(documents.iter().map(show).collect::<Vec<_>>(), ["{a:1}", "{b:2}"]);
        assert_eq!(read("").0.len() + read("# only a comment\n").0.len(), 0);
    }

    #[test]
    fn an_error_in_one_document_does_not_hide_the_others() {
        let (documents, problems) = read("a: 1\n---\nb: [1, 2\n---\nc: 3\n---\nd: d: d\n---\ne: 5\n");
        assert_eq!(documents.iter().map(show).collect::<Vec<_>>(), ["{a:1}", "{c:3}", "{e:5}"]);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("a.yaml:3:4: error[E010]: unclosed"), "{problems:?}");
        assert!(problems[1].starts_with("a.yaml:7:"), "{problems:?}");
    }

    #[test]
    fn duplicate_keys_name_both_places() {
        assert_eq!(
            problem("a: 1\nspec:\n  b: 1\n  b: 2\n"),
            r#"a.yaml:4:3: error[E011]: "b" is used twice (first at 3:3)"#
        );
        let many: String = (0..100).map(|n| format!("k{n}: 1\n")).collect();
        assert_eq!(
            problem(&format!("{many}k7: 1\n")),
            r#"a.yaml:101:1: error[E011]: "k7" is used twice (first at 8:1)"#
        );
        clean("a: {b: 1}\nc: {b: 1}\n");
    }

    #[test]
    fn aliases_and_merge_keys_are_expanded() {
        let text = "base: &base {a: 1, b: 2}\nmore: &more {b: 3, c: 4}\nx:\n  b: 0\n  <<: [*base, *more]\ny: *base\n";
        assert_eq!(show(&clean(text)), "{base:{a:1,b:2},more:{b:3,c:4},x:{b:0,a:1,c:4},y:{a:1,b:2}}");
        assert_eq!(show(&clean("&k a: 1\n*k : 2\n".replace("*k ", "b").as_str())), "{a:1,b:2}");
        assert_eq!(problem("a: &a 1\nb: {<<: *a}\n"), "a.yaml:2:5: error[E016]: `<<` takes a map or a list of maps");
        assert_eq!(show(&clean("'<<': 1")), "{<<:1}");
        assert_eq!(problem("a: &a [*a]\n"), "a.yaml:1:8: error[E010]: the alias stands inside of what it stands for");
        assert!(problem("a: *missing\n").starts_with("a.yaml:1:4: error[E010]: "));
    }

    #[test]
    fn alias_bombs_end_quickly() {
        let begun = Instant::now();
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for n in 1..40 {
            let refs = vec![format!("*a{}", n - 1); 9].join(",");
            bomb += &format!("a{n}: &a{n} [{refs}]\n");
        }
        assert_eq!(
            problem(&bomb),
            "a.yaml:5:9: error[E013]: anchors and aliases of this file expand to more than 100000 nodes"
        );
        // Deep rather than wide: each level hangs below the one before.
        let mut deep = "a0: &a0 [x]\n".to_owned();
        (1..100).for_each(|n| deep += &format!("a{n}: &a{n} [*a{}]\n", n - 1));
        assert!(problem(&deep).contains("error[E012]"));
        assert!(begun.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn depth_is_bounded_on_both_sides() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        clean(&nested(64));
        assert!(problem(&nested(65)).contains(" error["));
        let block = |depth: usize| "- ".repeat(depth) + "x";
        clean(&block(64));
        assert!(problem(&block(65)).contains(" error["));
        assert!(problem(&nested(1_000_000)).contains(" error["));
        assert!(problem(&("- ".repeat(40) + &nested(40))).contains("error[E012]"));
    }

    #[test]
    fn tags_and_keys_without_meaning_are_refused() {
        assert_eq!(problem("a: !secret x\n"), "a.yaml:1:12: error[E014]: the tag \"!secret\" has no meaning here");
        assert!(problem("a: !!binary aGk=\n").contains("error[E014]"));
        assert!(problem("a: !!seq x\n").contains("error[E014]"));
        assert_eq!(problem("? [a, b]\n: 1\n"), "a.yaml:1:3: error[E015]: a list or map cannot be a key");
        assert_eq!(show(&clean("a: !!map {b: !!int 1}")), "{a:{b:1}}");
    }

    #[test]
    fn malformed_text_never_panics_and_is_always_named() {
        for text in [
            "a:\n  b: 1\n\tc: 2",
            "a:\n\tb: 1",
            "a: 'x",
            "a: \"\\q\"",
            "{a: 1",
            "a: b: c",
            "%YAML 3",
            "a: |x\n b",
            "\0",
            "a: [1}",
            "- a\nb: c",
        ] {
            let (_, problems) = read(text);
            assert!(!problems.is_empty(), "{text:?} passed");
            assert!(problems[0].contains(": error[E01"), "{problems:?}");
        }
        let text = "a: &x [1, 'two', \"\\u00e4\"]\nb: !!str *x\n---\n? k\n: {<<: {c: d}} # e\nf: |\n  g\n";
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            read(&text[..end]);
        }
    }

    proptest::proptest! {
        /// Whatever the text, every place lies in it and leads back to a path, and nothing panics.
        #[test]
        fn every_place_of_every_text_is_sound(
            pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..60),
        ) {
            let text = pieces.concat();
            let mut diagnostics = Diagnostics::default();
            let source = Source::new("a.yaml", text.as_str());
            for root in parse(&source, &mut diagnostics) {
                assert_sound(&root, &root, &text);
            }
            diagnostics.iter().for_each(|diagnostic| assert!(diagnostic.render(true).contains("a.yaml")));
        }
    }

    const PIECES: &[&str] = &[
        "a",
        "b: ",
        "- ",
        "\n",
        "  ",
        "[",
        "]",
        "{",
        "}",
        ",",
        ": ",
        "'",
        "\"",
        "&x ",
        "*x",
        "<<: ",
        "---\n",
        "...\n",
        "? ",
        "|\n",
        ">\n",
        "# c",
        "\t",
        "!!str ",
        "!t ",
        "ü",
        "😀",
        "~",
        "\r\n",
        "%YAML 1.2\n",
        "\\",
        "0",
        "\u{feff}",
    ];

    fn assert_sound(root: &Node, node: &Node, text: &str) {
        let place = |span: Span| {
            let end = (span.offset + span.length) as usize;
            assert!(text.get(span.offset as usize..end).is_some(), "{span:?} in {text:?}");
            assert!(span.line >= 1 && span.column >= 1, "{span:?} in {text:?}");
        };
        place(node.span);
        match &node.value {
            Value::List(items) => items.iter().for_each(|item| assert_sound(root, item, text)),
            Value::Map(entries) => entries.iter().for_each(|(key, value)| {
                place(key.span);
                assert!(!root.path_to(key.span).is_empty() || key.span == root.span, "{key:?} in {text:?}");
                assert_sound(root, value, text);
            }),
            Value::Null | Value::Scalar { .. } => {}
        }
    }

    #[test]
    fn descriptions_say_what_was_found() {
        let node = clean("[1, true, 'true', abc, ~, [1], {a: 1}]");
        let described: Vec<_> = node.items_for_test().iter().map(Node::describe).collect();
        assert_eq!(
            described,
            ["number 1", "boolean true", "text \"true\"", "text \"abc\"", "nothing", "a list", "a map"]
        );
    }

    impl Node {
        fn items_for_test(&self) -> &[Node] {
            match &self.value {
                Value::List(items) => items,
                _ => panic!("not a list"),
            }
        }
    }
}
