//! Finds out what the readers of the settings take: keys that were not known before get a value of each shape, until no reader
//! asks for anything new.

use std::path::Path;
use std::sync::Arc;

use super::super::Settings;
use crate::config::diagnostic::Diagnostics;
use crate::config::read::{Asked, Form};
use crate::config::source::Source;
use crate::config::yaml::{self, Node, Value};

/// Everything that may stand at one place.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Shape {
    /// The scalars, in the order of asking; `List`, `Map` and `Fields` are below.
    pub(super) forms: Vec<Form>,
    /// An item, where a list may stand there.
    pub(super) item: Option<Box<Shape>>,
    /// A value, where a map of any keys may stand there.
    pub(super) entry: Option<Box<Shape>>,
    /// Where a map of known keys may stand there.
    pub(super) fields: Option<Box<FieldShapes>>,
}

/// A map of known keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct FieldShapes {
    /// The keys, in the order of reading.
    pub(super) shapes: Vec<(&'static str, Shape)>,
    /// Those that have to be there, whatever else is.
    pub(super) required: Vec<&'static str>,
}

/// What [`Settings::read`] takes.
pub(super) fn settings() -> Shape {
    let mut shape = Shape::default();
    for _ in 0..ROUNDS_MAX {
        let before = shape.clone();
        // All against the same knowledge: what a reader takes instead shows only where nothing is known to fit yet.
        let texts = [Probe::Scalar, Probe::List, Probe::Map].map(|probe| text(&before, probe));
        for text in texts {
            let source = Arc::new(Source::new("probe", text));
            let mut diagnostics = Diagnostics::asking();
            Settings::read(source.clone(), Path::new("/"), &mut diagnostics);
            let asked = diagnostics.asked();
            if let Some(root) = yaml::parse(&source, &mut Diagnostics::default()).first() {
                shape.learn(root, &asked);
            }
        }
        if shape == before {
            break;
        }
    }
    shape
}

const ROUNDS_MAX: usize = 64; // each goes one key deeper; YAML itself ends there

/// What stands where nothing is known yet.
#[derive(Clone, Copy)]
enum Probe {
    Scalar,
    List,
    Map,
}

/// The settings as one line, so that the column alone tells places apart.
fn text(shape: &Shape, probe: Probe) -> String {
    match shape {
        Shape { fields: Some(fields), .. } => {
            let entries = fields.shapes.iter().map(|(name, shape)| format!("{name}: {}", text(shape, probe)));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
        Shape { entry: Some(entry), .. } => format!("{{ probe: {} }}", text(entry, probe)),
        Shape { item: Some(item), .. } => format!("[ {} ]", text(item, probe)),
        _ => match probe {
            Probe::Scalar => "probe",
            Probe::List => "[ probe ]",
            Probe::Map => "{ probe: probe }",
        }
        .to_owned(),
    }
}

impl Shape {
    fn learn(&mut self, node: &Node, asked: &Asked) {
        for form in asked.at(node.span) {
            match form {
                Form::List => _ = self.item.get_or_insert_default(),
                Form::Map => _ = self.entry.get_or_insert_default(),
                Form::Fields { known, required } => self.learn_fields(known, required),
                form if self.forms.contains(form) => {}
                form => self.forms.push(form.clone()),
            }
        }
        match &node.value {
            Value::Map(entries) => {
                for (key, value) in entries {
                    let fields = self.fields.iter_mut().flat_map(|fields| &mut fields.shapes);
                    match fields.into_iter().find(|(name, _)| **name == *key.text) {
                        Some((_, shape)) => shape.learn(value, asked),
                        None => self.entry.iter_mut().for_each(|entry| entry.learn(value, asked)),
                    }
                }
            }
            Value::List(items) => {
                for item in items {
                    self.item.iter_mut().for_each(|shape| shape.learn(item, asked));
                }
            }
            Value::Null | Value::Scalar { .. } => {}
        }
    }

    fn learn_fields(&mut self, known: &[&'static str], required: &[&'static str]) {
        let first = self.fields.is_none();
        let fields = self.fields.get_or_insert_default();
        for name in known {
            if fields.shapes.iter().all(|(there, _)| there != name) {
                fields.shapes.push((name, Shape::default()));
            }
        }
        match first {
            true => fields.required = required.to_vec(),
            false => fields.required.retain(|name| required.contains(name)), // required with some values of other keys only
        }
    }
}
