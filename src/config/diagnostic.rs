//! What is wrong with a configuration: collected all at once, printed with the place, what was found and what would be right.

use std::fmt::{self, Write};
use std::sync::Arc;

use serde::Serialize;

pub use super::code::{Code, Severity};
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
