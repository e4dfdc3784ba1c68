//! A configuration file as read, and places in it.

use std::sync::Arc;

/// The text of one file and the name under which diagnostics speak of it.
#[derive(Debug)]
pub struct Source {
    name: Arc<str>,
    text: Box<str>,
    confidential: bool,
}

/// A place in a source. Lines and columns begin at 1, columns count characters; offset and length count bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// 1-based; 0: nowhere in particular, the file as a whole is meant.
    pub line: u32,
    /// 1-based, in characters.
    pub column: u32,
    /// In bytes, from the beginning of the file.
    pub offset: u32,
    /// In bytes; 0 for collections, whose start alone is pointed at.
    pub length: u32,
}

/// A value and the place it was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spanned<T> {
    /// What was read.
    pub value: T,
    /// Where it stands.
    pub span: Span,
}

impl Source {
    /// A source by the name the operator knows it by (the path as given).
    pub fn new(name: impl Into<Arc<str>>, text: impl Into<Box<str>>) -> Self {
        let text = text.into();
        Self { name: name.into(), confidential: holds_secret(&text), text }
    }

    /// True if the file holds a Secret: then no line of it is shown, whatever is wrong with it.
    pub fn is_confidential(&self) -> bool {
        self.confidential
    }

    /// The name that diagnostics show.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The line in which a place lies, without its end, and the byte in it at which the place begins.
    pub fn line_at(&self, span: Span) -> (&str, usize) {
        let offset = floor_char_boundary(&self.text, span.offset as usize);
        let (before, after) = self.text.split_at(offset);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let end = after.find('\n').map_or(self.text.len(), |newline| offset + newline);
        (self.text[start..end].trim_end_matches('\r'), offset - start)
    }
}

impl<T> Spanned<T> {
    /// The same place, another value.
    pub fn map<U>(self, to: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned { value: to(self.value), span: self.span }
    }
}

impl<T> std::ops::Deref for Spanned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// True where a document says `kind: Secret`, in any notation; judged on the text, because it may not be possible to parse it.
fn holds_secret(text: &str) -> bool {
    memchr::memmem::find_iter(text.as_bytes(), b"Secret").any(|at| {
        let before = text[..at].trim_end_matches(|c: char| c.is_whitespace() || matches!(c, ':' | '"' | '\''));
        before.ends_with("kind")
    })
}

/// The last place in `text` at or before `offset` where a character begins.
pub(super) fn floor_char_boundary(text: &str, offset: usize) -> usize {
    (0..=offset.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_place_is_found_at_both_ends_of_a_file() {
        let source = Source::new("a.yaml", "first\r\nsecond ü\nlast");
        let line = |offset| source.line_at(Span { offset, ..Span::default() });
        assert_eq!(line(0), ("first", 0));
        assert_eq!(line(7), ("second ü", 0));
        assert_eq!(line(15), ("second ü", 7)); // inside the two bytes of ü
        assert_eq!(line(17), ("last", 0));
        assert_eq!(line(21), ("last", 4));
        assert_eq!(line(9999), ("last", 4));
    }

    #[test]
    fn a_file_with_a_secret_is_recognized_in_every_notation() {
        for text in ["kind: Secret", "{\"kind\":\"Secret\"}", "kind:\n  'Secret'", "a: [\n---\nkind: Secret\n"] {
            assert!(Source::new("a", text).is_confidential(), "{text}");
        }
        for text in ["kind: ServiceEntry", "# Secret", "credentialName: Secret", ""] {
            assert!(!Source::new("a", text).is_confidential(), "{text}");
        }
    }
}
