//! Events of the parser to trees: keys, duplicates, anchors within a budget, merge keys, depth.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Marker, ScalarStyle, Tag};

use super::{DEPTH_MAX, Key, Node, Value, is_null, quote};
use crate::config::diagnostic::{Code, Diagnostic, Diagnostics};
use crate::config::source::{Source, Span};

/// Builds the documents of one source.
pub(super) struct Builder<'a> {
    source: &'a Source,
    diagnostics: &'a mut Diagnostics,
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    nodes_left: usize,
}

/// A collection whose end has not come yet.
struct Open {
    span: Span,
    anchor: usize,
    content: Content,
    measure: Measure,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, key: Option<PendingKey>, merges: Vec<(Span, Node)> },
}

/// A key whose value has not come yet.
struct PendingKey {
    key: Key,
    merges: bool,
}

/// What an anchor stands for.
struct Anchored {
    node: Node,
    measure: Measure,
}

/// Size of a tree, counted while it is built.
#[derive(Clone, Copy)]
struct Measure {
    nodes: usize,
    depth: usize,
}

/// The document cannot be read on; what is wrong was reported.
pub(super) struct Abandoned;

const ALIAS_NODES_MAX: usize = 100_000;
const SCALAR: Measure = Measure { nodes: 1, depth: 0 };

impl<'a> Builder<'a> {
    pub(super) fn new(source: &'a Source, diagnostics: &'a mut Diagnostics) -> Self {
        Self {
            source,
            diagnostics,
            documents: Vec::new(),
            open: Vec::new(),
            anchors: HashMap::new(),
            nodes_left: ALIAS_NODES_MAX,
        }
    }

    pub(super) fn finish(self) -> Vec<Node> {
        self.documents
    }

    pub(super) fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    pub(super) fn abandon_document(&mut self) {
        self.open.clear();
        self.anchors.clear();
    }

    pub(super) fn take(&mut self, event: Event<'_>, at: granit_parser::Span) -> Result<(), Abandoned> {
        let span = |length| place(at.start, length);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let span = span(byte_length(at));
                let plain = self.is_plain(style, tag.as_deref(), span)?;
                if anchor == 0
                    && let Some(key) = self.expected_key()
                {
                    *key = Some(PendingKey { merges: plain && text == "<<", key: Key { text: text.into(), span } });
                    return Ok(());
                }
                let value = match plain && is_null(&text) {
                    true => Value::Null,
                    false => Value::Scalar { text: text.into(), plain },
                };
                self.add(Node { span, value }, anchor, SCALAR)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(span(0), anchor, tag.as_deref(), "seq", Content::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                let content = Content::Map { entries: Vec::new(), key: None, merges: Vec::new() };
                self.open(span(0), anchor, tag.as_deref(), "map", content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.expand(anchor, span(byte_length(at))),
            Event::DocumentEnd => {
                self.anchors.clear();
                Ok(())
            }
            // Starts of stream and document; comments, anchors and unresolved aliases come only if options ask for them.
            _ => Ok(()),
        }
    }

    /// Text in quotes, in block style or with `!!str` is text whatever it looks like.
    fn is_plain(&mut self, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<bool, Abandoned> {
        match tag.map(|tag| (tag, tag.core_suffix())) {
            None => Ok(style == ScalarStyle::Plain),
            Some((_, Some("str"))) => Ok(false),
            Some((_, Some("int" | "float" | "bool" | "null"))) => Ok(true),
            Some((tag, _)) => Err(self.bad_tag(tag, span)),
        }
    }

    fn open(
        &mut self,
        span: Span,
        anchor: usize,
        tag: Option<&Tag>,
        core: &str,
        content: Content,
    ) -> Result<(), Abandoned> {
        if let Some(tag) = tag.filter(|tag| tag.core_suffix() != Some(core)) {
            return Err(self.bad_tag(tag, span));
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(self.fail(
                Code::TooDeep,
                span,
                format!("lists and maps are nested more than {DEPTH_MAX} deep"),
            ));
        }
        self.open.push(Open { span, anchor, content, measure: SCALAR });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Abandoned> {
        let Some(Open { span, anchor, content, mut measure }) = self.open.pop() else { return Ok(()) };
        measure.depth += 1;
        let value = match content {
            Content::List(items) => Value::List(items.into()),
            Content::Map { mut entries, merges, .. } => {
                self.refuse_duplicates(&mut entries);
                for (at, merged) in merges {
                    self.merge(&mut entries, at, merged);
                }
                Value::Map(entries.into())
            }
        };
        self.add(Node { span, value }, anchor, measure)
    }

    /// Puts a complete node where it belongs: key, value, item, or document.
    fn add(&mut self, node: Node, anchor: usize, measure: Measure) -> Result<(), Abandoned> {
        if anchor != 0 {
            self.spend(measure.nodes, node.span)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), measure });
        }
        let Some(open) = self.open.last_mut() else {
            if !node.is_null() {
                self.documents.push(node);
            }
            return Ok(());
        };
        open.measure.nodes += measure.nodes;
        open.measure.depth = open.measure.depth.max(measure.depth);
        match &mut open.content {
            Content::List(items) => items.push(node),
            Content::Map { entries, key, merges } => match key.take() {
                Some(PendingKey { key, merges: true }) => merges.push((key.span, node)),
                Some(PendingKey { key, merges: false }) => entries.push((key, node)),
                None => match as_key(&node) {
                    Some(text) => *key = Some(PendingKey { key: Key { text, span: node.span }, merges: false }),
                    None => {
                        return Err(self.fail(Code::KeyNotText, node.span, "a list or map cannot be a key".to_owned()));
                    }
                },
            },
        }
        Ok(())
    }

    /// The place of the next key, where a key is what comes next.
    fn expected_key(&mut self) -> Option<&mut Option<PendingKey>> {
        match &mut self.open.last_mut()?.content {
            Content::Map { key, .. } if key.is_none() => Some(key),
            _ => None,
        }
    }

    fn expand(&mut self, anchor: usize, span: Span) -> Result<(), Abandoned> {
        let Some(Anchored { node, measure }) = self.anchors.get(&anchor) else {
            return Err(self.fail(Code::Syntax, span, "the alias stands inside of what it stands for".to_owned()));
        };
        let measure = *measure;
        if self.open.len() + measure.depth > DEPTH_MAX {
            return Err(self.fail(
                Code::TooDeep,
                span,
                format!("lists and maps are nested more than {DEPTH_MAX} deep"),
            ));
        }
        if measure.nodes > self.nodes_left {
            return Err(self.over_budget(span));
        }
        let node = node.clone();
        self.nodes_left -= measure.nodes;
        self.add(node, 0, measure)
    }

    fn spend(&mut self, nodes: usize, span: Span) -> Result<(), Abandoned> {
        match self.nodes_left.checked_sub(nodes) {
            Some(left) => {
                self.nodes_left = left;
                Ok(())
            }
            None => Err(self.over_budget(span)),
        }
    }

    fn over_budget(&mut self, span: Span) -> Abandoned {
        let message = format!("anchors and aliases of this file expand to more than {ALIAS_NODES_MAX} nodes");
        self.fail(Code::AliasBudget, span, message)
    }

    /// Adds what `<<` brings: keys that are not there yet, of earlier maps before later ones.
    fn merge(&mut self, entries: &mut Vec<(Key, Node)>, at: Span, merged: Node) {
        let maps = match merged.value {
            Value::List(items) => items,
            value => Box::new([Node { span: merged.span, value }]),
        };
        for map in maps {
            let Value::Map(more) = map.value else {
                self.fail(Code::BadMerge, at, "`<<` takes a map or a list of maps".to_owned());
                return;
            };
            let known: HashSet<Box<str>> = entries.iter().map(|(key, _)| key.text.clone()).collect();
            entries.extend(more.into_iter().filter(|(key, _)| !known.contains(&key.text)));
        }
    }

    fn refuse_duplicates(&mut self, entries: &mut Vec<(Key, Node)>) {
        let mut duplicates = Vec::new();
        if entries.len() <= FEW {
            for (index, (key, _)) in entries.iter().enumerate() {
                if let Some((first, _)) = entries[..index].iter().find(|(earlier, _)| earlier.text == key.text) {
                    duplicates.push((index, first.span));
                }
            }
        } else {
            let mut seen: HashMap<&str, Span> = HashMap::with_capacity(entries.len());
            for (index, (key, _)) in entries.iter().enumerate() {
                match seen.entry(&key.text) {
                    Entry::Occupied(first) => duplicates.push((index, *first.get())),
                    Entry::Vacant(place) => _ = place.insert(key.span),
                }
            }
        }
        for (index, first) in duplicates.into_iter().rev() {
            let (key, _) = entries.remove(index);
            let message = format!("{} is used twice (first at {}:{})", quote(&key.text), first.line, first.column);
            self.fail(Code::DuplicateKey, key.span, message);
        }
    }

    fn bad_tag(&mut self, tag: &Tag, span: Span) -> Abandoned {
        self.fail(Code::BadTag, span, format!("the tag {} has no meaning here", quote(&tag.original())))
    }

    fn fail(&mut self, code: Code, span: Span, message: String) -> Abandoned {
        self.diagnostics.push(Diagnostic::in_source(code, self.source, span, message));
        Abandoned
    }
}

const FEW: usize = 16; // up to here comparing all pairs is faster than hashing

fn as_key(node: &Node) -> Option<Box<str>> {
    match &node.value {
        Value::Scalar { text, .. } => Some(text.clone()),
        Value::Null => Some("null".into()),
        Value::List(_) | Value::Map(_) => None,
    }
}

/// A place of the parser as ours: its columns begin at 0.
pub(super) fn place(marker: Marker, length: u32) -> Span {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX); // files end at 64 MiB
    Span {
        line: number(marker.line()),
        column: number(marker.col() + 1),
        offset: number(marker.byte_offset().unwrap_or_default()),
        length,
    }
}

fn byte_length(span: granit_parser::Span) -> u32 {
    let (start, end) = (span.start.byte_offset(), span.end.byte_offset());
    let length = end.zip(start).map_or(0, |(end, start)| end.saturating_sub(start));
    u32::try_from(length).unwrap_or(u32::MAX)
}
