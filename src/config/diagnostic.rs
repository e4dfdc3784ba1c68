//! What is wrong with a configuration: collected all at once, printed with the place, what was found and what would be right.

use std::fmt::{self, Write};
use std::sync::Arc;

use serde::Serialize;

pub use super::code::{Code, Severity};
use super::read::{Asked, Form};
use super::source::{Source, Span, floor_char_boundary};
use super::yaml::{Node, quote};

/// One error or warning. Holds its line of source, so that it can be shown after the file's text is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What kind of thing is wrong; says error or warning too.
    pub code: Code,
    /// The file as the operator named it; or what stands for one, such as `--listen`.
    pub file: Arc<str>,
    /// Where in it; line 0: the file as a whole.
    pub span: Span,
    /// `Kind namespace/name`; empty outside of resources.
    pub resource: Box<str>,
    /// `spec.ports[0].protocol`; empty where no field is meant.
    pub path: Box<str>,
    /// The value as written, where one is at fault.
    pub found: Option<Box<str>>,
    /// One sentence without full stop, lower case: what is wrong. Path, resource and place stand before it already.
    pub message: Box<str>,
    /// What would be right.
    pub help: Option<Box<str>>,
    snippet: Option<Snippet>,
}

/// The part of a source line that is shown below a message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Snippet {
    text: Box<str>,
    caret_at: usize,
    caret_width: usize,
}

/// Collects diagnostics.
#[derive(Debug, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    /// What readers ask for, where somebody wants to know: see [`super::settings::schema`].
    asked: Option<Box<Asked>>,
}

/// Where reading code reports to: one document of one source, on behalf of one resource.
#[derive(Debug)]
pub struct Context<'a> {
    source: &'a Source,
    root: &'a Node,
    resource: &'a str,
    confidential: bool,
    diagnostics: &'a mut Diagnostics,
}

impl<'a> Context<'a> {
    /// Reports about `root`, a document (or an item of a `List`) of `source`. `resource` is `Kind ns/name` or empty.
    pub fn new(source: &'a Source, root: &'a Node, resource: &'a str, diagnostics: &'a mut Diagnostics) -> Self {
        Self { source, root, resource, confidential: false, diagnostics }
    }

    /// From here on no value is repeated in messages and no line is shown: for Secrets.
    pub fn confidential(self) -> Self {
        Self { confidential: true, ..self }
    }

    /// Adds a diagnostic at a place of the document; its path is found from the place. Add `found` and `help` to what is returned.
    pub fn report(&mut self, code: Code, span: Span, message: impl Into<Box<str>>) -> &mut Diagnostic {
        let diagnostic = Diagnostic::in_source(code, self.source, span, message);
        let diagnostic = self.diagnostics.push(diagnostic);
        diagnostic.resource = self.resource.into();
        diagnostic.path = self.root.path_to(span).into();
        if self.confidential {
            diagnostic.snippet = None;
        }
        diagnostic
    }

    /// Notes that a reader would take `form` for the node at `span`, if somebody wants to know.
    pub fn asks(&mut self, span: Span, form: impl FnOnce() -> Form) {
        if let Some(asked) = &mut self.diagnostics.asked {
            asked.note(span, form());
        }
    }

    /// Adds a diagnostic about a value, with the value as written in `found`.
    pub fn report_value(&mut self, code: Code, node: &Node, message: impl Into<Box<str>>) -> &mut Diagnostic {
        let found = (!self.confidential).then(|| node.excerpt().into());
        let diagnostic = self.report(code, node.span, message);
        diagnostic.found = found;
        diagnostic
    }

    /// Text in quotes for a message, shortened and escaped; of Secrets nothing is shown.
    pub fn quote(&self, text: &str) -> String {
        if self.confidential { "the value".to_owned() } else { quote(text) }
    }

    /// What a node is, for a message: `text "a"`, `number 443`, `a list`; of Secrets the type alone.
    pub fn describe(&self, node: &Node) -> String {
        let described = node.describe();
        match (self.confidential, described.split_once(' ')) {
            (true, Some((kind @ ("text" | "number" | "boolean"), _))) => kind.to_owned(),
            _ => described,
        }
    }

    /// The file that is being read.
    pub fn source(&self) -> &'a Source {
        self.source
    }
}

impl Diagnostic {
    /// A diagnostic about a file as a whole, or about what stands for a file.
    pub fn of_file(code: Code, file: impl Into<Arc<str>>, message: impl Into<Box<str>>) -> Self {
        Self {
            code,
            file: file.into(),
            span: Span::default(),
            resource: "".into(),
            path: "".into(),
            found: None,
            message: message.into(),
            help: None,
            snippet: None,
        }
    }

    /// A diagnostic about a place in a source.
    pub fn in_source(code: Code, source: &Source, span: Span, message: impl Into<Box<str>>) -> Self {
        let snippet = (span.line > 0 && !source.is_confidential()).then(|| Snippet::cut(source, span));
        Self { span, snippet, ..Self::of_file(code, source.name().clone(), message) }
    }

    /// Sets the value that was found.
    pub fn found(&mut self, found: impl Into<Box<str>>) -> &mut Self {
        self.found = Some(found.into());
        self
    }

    /// Sets what would be right.
    pub fn help(&mut self, help: impl Into<Box<str>>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Error or warning.
    pub fn severity(&self) -> Severity {
        self.code.severity()
    }

    /// The text for people: title, place, source line with the place marked, help.
    pub fn render(&self, color: bool) -> String {
        let paint = Paint { color };
        let severity = match self.severity() {
            Severity::Error => paint.red(&format!("error[{}]", self.code)),
            Severity::Warning => paint.yellow(&format!("warning[{}]", self.code)),
        };
        let mut out = format!("{severity}: {}\n", paint.bold(&printable(&self.title())));
        let margin = self.span.line.to_string().len();
        let bar = |sign: &str| format!("{:margin$} {}", "", paint.blue(sign));
        // Infallible: a String takes everything.
        let _ = writeln!(out, "{:margin$}{} {}", "", paint.blue("-->"), printable(&self.place()));
        if let Some(snippet) = &self.snippet {
            let _ = writeln!(out, "{}", bar("|"));
            let _ = writeln!(out, "{} {} {}", paint.blue(&self.span.line.to_string()), paint.blue("|"), snippet.text);
            let caret = "^".repeat(snippet.caret_width);
            let _ = writeln!(out, "{} {:indent$}{}", bar("|"), "", paint.red(&caret), indent = snippet.caret_at);
        }
        if let Some(help) = &self.help {
            let _ = writeln!(out, "{} help: {}", bar("="), printable(help));
        }
        out
    }

    /// Message with what it is about in front.
    fn title(&self) -> String {
        let about = [&self.resource, &self.path].into_iter().filter(|part| !part.is_empty());
        about.fold(String::new(), |title, part| title + part + ": ") + &self.message
    }

    /// `file:line:column`, or the file alone.
    fn place(&self) -> String {
        match self.span.line {
            0 => self.file.to_string(),
            line => format!("{}:{line}:{}", self.file, self.span.column),
        }
    }
}

/// One line, for logs: `a.yaml:3:5: error[E011]: ServiceEntry default/a: spec: … (help)`.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (severity, title) = (self.severity().as_str(), printable(&self.title()));
        write!(f, "{}: {severity}[{}]: {title}", printable(&self.place()), self.code)?;
        self.help.iter().try_for_each(|help| write!(f, " ({})", printable(help)))
    }
}

impl Diagnostics {
    /// Collects what readers ask for, too.
    pub fn asking() -> Self {
        Self { asked: Some(Box::default()), ..Self::default() }
    }

    /// What readers asked for; nothing unless made by [`Self::asking`].
    pub fn asked(&self) -> Asked {
        self.asked.as_deref().cloned().unwrap_or_default()
    }

    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) -> &mut Diagnostic {
        self.list.push(diagnostic);
        self.list.last_mut().expect("one was pushed just now")
    }

    /// Adds all of another collection.
    pub fn append(&mut self, other: Self) {
        self.list.extend(other.list);
    }

    /// Sorts by file, line and column, errors first at the same place.
    pub fn sort(&mut self) {
        self.list.sort_by(|a, b| {
            let key = |d: &Diagnostic| (d.file.clone(), d.span.line, d.span.column, d.code);
            key(a).cmp(&key(b))
        });
    }

    /// All, in the order they were reported in until [`Self::sort`].
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.list.iter()
    }

    /// How many errors there are.
    pub fn errors(&self) -> usize {
        self.list.iter().filter(|d| d.severity() == Severity::Error).count()
    }

    /// How many warnings there are.
    pub fn warnings(&self) -> usize {
        self.list.len() - self.errors()
    }

    /// True if there is neither error nor warning.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// True if an input that was named does not exist: exit code 66 rather than 65.
    pub fn input_missing(&self) -> bool {
        self.list.iter().any(|d| d.code == Code::InputMissing)
    }

    /// The text for people, and a last line that counts.
    pub fn render(&self, color: bool) -> String {
        let mut out = String::new();
        for diagnostic in &self.list {
            out += &diagnostic.render(color);
            out.push('\n');
        }
        out + &self.summary() + "\n"
    }

    /// `2 errors, 1 warning`.
    pub fn summary(&self) -> String {
        let count = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        format!("{}, {}", count(self.errors(), "error"), count(self.warnings(), "warning"))
    }

    /// The document of `check -o json`, one line without its end.
    pub fn to_json(&self) -> String {
        let diagnostics = self.list.iter().map(|d| JsonDiagnostic {
            severity: d.severity().as_str(),
            code: d.code.as_str(),
            file: &d.file,
            line: d.span.line,
            column: d.span.column,
            resource: &d.resource,
            path: &d.path,
            found: d.found.as_deref(),
            message: &d.message,
            help: d.help.as_deref(),
        });
        let (errors, warnings) = (self.errors(), self.warnings());
        let report = JsonReport { ok: errors == 0, errors, warnings, diagnostics: diagnostics.collect() };
        serde_json::to_string(&report).expect("text and numbers only")
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[derive(Serialize)]
struct JsonReport<'a> {
    ok: bool,
    errors: usize,
    warnings: usize,
    diagnostics: Vec<JsonDiagnostic<'a>>,
}

#[derive(Serialize)]
struct JsonDiagnostic<'a> {
    severity: &'static str,
    code: &'static str,
    file: &'a str,
    line: u32,
    column: u32,
    resource: &'a str,
    path: &'a str,
    found: Option<&'a str>,
    message: &'a str,
    help: Option<&'a str>,
}

const SNIPPET_BYTES_BEFORE: usize = 60; // a line of JSON can be the whole file: what stands around the place is shown
const SNIPPET_BYTES_AFTER: usize = 100;

impl Snippet {
    fn cut(source: &Source, span: Span) -> Self {
        let (line, at) = source.line_at(span);
        let start = match at {
            0..=SNIPPET_BYTES_AFTER => 0, // most lines are short: their indentation is worth seeing
            _ => floor_char_boundary(line, at - SNIPPET_BYTES_BEFORE),
        };
        let end = floor_char_boundary(line, at + SNIPPET_BYTES_AFTER);
        let marked_end = floor_char_boundary(line, at + span.length as usize).clamp(at, end);
        let (left, right) = (if start > 0 { "…" } else { "" }, if end < line.len() { "…" } else { "" });
        Self {
            text: format!("{left}{}{right}", printable(&line[start..end])).into(),
            caret_at: left.chars().count() + line[start..at].chars().count(),
            caret_width: line[at..marked_end].chars().count().max(1),
        }
    }
}

/// Control bytes of a file or a file's name must not reach a terminal as such; one character stays one character.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() || is_bidi_control(c) => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// Characters that reorder what a terminal shows (Unicode TR9; CVE-2021-42574).
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}')
}

#[derive(Clone, Copy)]
struct Paint {
    color: bool,
}

impl Paint {
    fn red(self, text: &str) -> String {
        self.with("1;31", text)
    }
    fn yellow(self, text: &str) -> String {
        self.with("1;33", text)
    }
    fn blue(self, text: &str) -> String {
        self.with("1;34", text)
    }
    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }
    fn with(self, style: &str, text: &str) -> String {
        if self.color { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::yaml::parse;

    /// Reports at the first place of `what` in `text`.
    fn report(text: &str, what: &str, code: Code, message: &str, help: Option<&str>) -> Diagnostics {
        let source = Source::new("conf/a.yaml", text);
        let mut diagnostics = Diagnostics::default();
        let root = parse(&source, &mut diagnostics).remove(0);
        let offset = text.find(what).unwrap();
        let line_start = text[..offset].rfind('\n').map_or(0, |at| at + 1);
        let span = Span {
            line: text[..offset].matches('\n').count() as u32 + 1,
            column: text[line_start..offset].chars().count() as u32 + 1,
            offset: offset as u32,
            length: what.len() as u32,
        };
        let mut cx = Context::new(&source, &root, "ServiceEntry egress/api", &mut diagnostics);
        let diagnostic = cx.report(code, span, message).found(what);
        if let Some(help) = help {
            diagnostic.help(help);
        }
        diagnostics
    }

    const ENTRY: &str = "kind: ServiceEntry\nspec:\n  ports:\n  - {number: 443, protocl: TLS}\n";

    #[test]
    fn a_diagnostic_shows_its_line_and_points_at_the_place() {
        let diagnostics = report(
            ENTRY,
            "protocl",
            Code::UnknownField,
            "no field of this name is known here",
            Some("did you mean `protocol`?"),
        );
        insta::assert_snapshot!(diagnostics.render(false), @r"
        error[E030]: ServiceEntry egress/api: spec.ports[0].protocl: no field of this name is known here
         --> conf/a.yaml:4:19
          |
        4 |   - {number: 443, protocl: TLS}
          |                   ^^^^^^^
          = help: did you mean `protocol`?

        1 error, 0 warnings
        ");
    }

    #[test]
    fn json_holds_every_field_of_the_contract() {
        let diagnostics = report(ENTRY, "protocl", Code::Ignored, "a \"message\"", None);
        assert_eq!(
            diagnostics.to_json(),
            r#"{"ok":true,"errors":0,"warnings":1,"diagnostics":[{"severity":"warning","code":"W001","file":"conf/a.yaml","line":4,"column":19,"resource":"ServiceEntry egress/api","path":"spec.ports[0].protocl","found":"protocl","message":"a \"message\"","help":null}]}"#
        );
        assert_eq!(Diagnostics::default().to_json(), r#"{"ok":true,"errors":0,"warnings":0,"diagnostics":[]}"#);
    }

    #[test]
    fn color_marks_severity_and_place_and_nothing_without_it() {
        let diagnostics = report(ENTRY, "protocl", Code::Ignored, "m", None);
        assert!(diagnostics.render(true).contains("\x1b[1;33mwarning[W001]\x1b[0m"));
        assert!(!diagnostics.render(false).contains('\x1b'));
    }

    #[test]
    fn diagnostics_of_a_file_have_no_line() {
        let mut diagnostics = Diagnostics::default();
        diagnostics.push(Diagnostic::of_file(Code::InputMissing, "conf/b.yaml", "there is no such file or folder"));
        insta::assert_snapshot!(diagnostics.render(false), @r"
        error[E001]: there is no such file or folder
         --> conf/b.yaml

        1 error, 0 warnings
        ");
        assert!(diagnostics.input_missing());
        assert_eq!(
            diagnostics.iter().next().unwrap().to_string(),
            "conf/b.yaml: error[E001]: there is no such file or folder"
        );
    }

    #[test]
    fn long_lines_are_cut_around_the_place_and_tabs_keep_the_caret_in_line() {
        let text = format!("{{a: {}, \u{fc}\tx: here, b: {}}}", "y".repeat(5000), "z".repeat(5000));
        let shown = report(&text, "here", Code::BadValue, "m", None).render(false);
        let lines: Vec<_> = shown.lines().collect();
        let (source, caret) = (lines[3], lines[4]);
        assert!(source.contains("…yyy") && source.ends_with("zz…") && source.len() < 250, "{source}");
        let at = source.chars().collect::<String>().split("here").next().unwrap().chars().count();
        assert_eq!(caret.chars().position(|c| c == '^'), Some(at), "{shown}");
    }

    #[test]
    fn control_characters_of_a_file_never_reach_the_terminal() {
        let source = Source::new("\u{1b}.yaml", "a: \u{1b}[31m \u{202e} \u{7} \u{9b}x\n");
        let span = Span { line: 1, column: 4, offset: 3, length: 1 };
        let mut diagnostic = Diagnostic::in_source(Code::BadValue, &source, span, "found \u{1b}]0;x\u{7}");
        let shown = diagnostic.help("\u{9b}1m\nx").render(false) + &diagnostic.to_string();
        assert!(shown.contains("a: \u{fffd}[31m \u{fffd} \u{fffd} \u{fffd}x"), "{shown:?}");
        assert!(shown.chars().all(|c| c == '\n' || !(c.is_control() || is_bidi_control(c))), "{shown:?}");
        assert_eq!(shown.lines().count(), 7, "a line break in a message begins no line: {shown:?}");
    }

    #[test]
    fn diagnostics_are_sorted_by_file_and_line() {
        let mut diagnostics = Diagnostics::default();
        for (file, line, column, code) in [
            ("b", 1, 1, Code::Ignored),
            ("a", 10, 2, Code::Ignored),
            ("a", 10, 2, Code::BadValue),
            ("a", 9, 5, Code::Ignored),
        ] {
            let span = Span { line, column, ..Span::default() };
            diagnostics.push(Diagnostic { span, ..Diagnostic::of_file(code, file, "m") });
        }
        diagnostics.sort();
        let order: Vec<_> = diagnostics.iter().map(|d| format!("{}:{} {}", d.file, d.span.line, d.code)).collect();
        assert_eq!(order, ["a:9 W001", "a:10 E035", "a:10 W001", "b:1 W001"]);
        assert_eq!(diagnostics.summary(), "1 error, 3 warnings");
    }

    #[test]
    fn no_line_of_a_file_with_a_secret_is_shown() {
        let text = "kind: Secret\nstringData: {password: hunter2, password: hunter3}\n";
        let mut diagnostics = Diagnostics::default();
        parse(&Source::new("s.yaml", text), &mut diagnostics);
        assert_eq!(diagnostics.errors(), 1);
        assert!(!diagnostics.render(false).contains("hunter"), "{}", diagnostics.render(false));
    }
}
