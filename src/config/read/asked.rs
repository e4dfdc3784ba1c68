//! What readers ask for: the form they would take at each place, noted where somebody wants to know. The schema of the settings
//! is made of it, so that it says what the readers do and nothing else.

use std::collections::HashMap;

use crate::config::source::Span;

/// A form that a value may have.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// Text.
    Text,
    /// One word that has a meaning of its own.
    Word(&'static str),
    /// One of these words.
    Names(Vec<&'static str>),
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Whole {
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// A number.
    Decimal {
        /// The least.
        least: f64,
        /// The most.
        most: f64,
    },
    /// `10s`.
    Duration,
    /// `32KiB`.
    Size,
    /// A list.
    List,
    /// A map of any keys.
    Map,
    /// A map of these keys.
    Fields {
        /// All keys, in the order they are read.
        known: Vec<&'static str>,
        /// Those that have to be there.
        required: Vec<&'static str>,
    },
}

/// The forms asked for, by the place of the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    forms: HashMap<(u32, u32), Vec<Form>>,
}

impl Asked {
    /// Adds one.
    pub(in crate::config) fn note(&mut self, span: Span, form: Form) {
        let forms = self.forms.entry((span.line, span.column)).or_default();
        if !forms.contains(&form) {
            forms.push(form);
        }
    }

    /// All that was asked for at a place.
    pub fn at(&self, span: Span) -> &[Form] {
        self.forms.get(&(span.line, span.column)).map_or(&[], Vec::as_slice)
    }
}
