//! The JSON Schema (2020-12) of the settings file, made by asking the readers: [`discover`] gives them a file in which every key has
//! some value of every shape, and notes what each would have taken. So the schema has every key, type, bound and name that is
//! read, and no other. Defaults come from `conf/egret.yaml`, one sentence on each key from [`sentences`].

mod discover;
mod sentences;

use serde_json::{Map, Value as Json, json};

use super::super::diagnostic::Diagnostics;
use super::super::source::Source;
use super::super::yaml::{self, Node, Value, boolean, is_number};
use crate::config::read::Form;
use discover::Shape;

/// The schema as JSON text of several lines.
pub fn schema() -> String {
    let mut schema = Json::Object(schema_of(&discover::settings(), ""));
    let root = schema.as_object_mut().expect("made as an object");
    add_defaults(root);
    let head = [
        ("$schema", "https://json-schema.org/draft/2020-12/schema"),
        ("title", "Egret settings"),
        ("description", "egret.yaml: every key optional, unknown keys are errors"),
    ];
    let mut whole: Map<String, Json> = head.map(|(key, text)| (key.to_owned(), json!(text))).into_iter().collect();
    whole.append(root);
    whole.insert("type".to_owned(), json!("object"));
    serde_json::to_string_pretty(&whole).expect("JSON values are JSON")
}

/// All that may stand at `path`.
fn schema_of(shape: &Shape, path: &str) -> Map<String, Json> {
    let mut forms: Vec<Json> = shape.forms.iter().flat_map(form).collect();
    if let Some(item) = &shape.item {
        forms.push(json!({ "type": "array", "items": schema_of(item, &format!("{path}[]")) }));
    }
    if let Some(entry) = &shape.entry {
        forms.push(json!({ "type": "object", "additionalProperties": schema_of(entry, &format!("{path}.*")) }));
    }
    if let Some(fields) = &shape.fields {
        forms.push(object(fields, path));
    }
    let mut schema = match <[Json; 1]>::try_from(forms) {
        Ok([Json::Object(only)]) => only,
        Ok([only]) => Map::from_iter([("anyOf".to_owned(), json!([only]))]),
        Err(forms) if forms.is_empty() => Map::new(), // read nowhere: known, and ignored or refused whatever it says
        Err(forms) => Map::from_iter([("anyOf".to_owned(), Json::Array(forms))]),
    };
    if let Some(sentence) = sentences::of(path) {
        schema.insert("description".to_owned(), json!(sentence));
    }
    schema
}

fn object(fields: &discover::FieldShapes, path: &str) -> Json {
    let mut properties = Map::new();
    for (name, shape) in &fields.shapes {
        let inside = if path.is_empty() { (*name).to_owned() } else { format!("{path}.{name}") };
        properties.insert((*name).to_owned(), Json::Object(or_null(schema_of(shape, &inside))));
    }
    let mut object = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !fields.required.is_empty() {
        object["required"] = json!(fields.required);
    }
    object
}

/// A key that says `null` says nothing: as if it were left out.
fn or_null(mut schema: Map<String, Json>) -> Map<String, Json> {
    if let Some(Json::Array(alternatives)) = schema.get_mut("anyOf") {
        alternatives.push(json!({ "type": "null" }));
    } else if let Some(Json::Array(names)) = schema.get_mut("enum") {
        names.push(Json::Null);
    } else if let Some(only) = schema.get_mut("type") {
        *only = json!([&*only, "null"]);
    }
    schema
}

/// What YAML makes of the value has to fit: `0` is a number there, also where it is a duration.
fn form(form: &Form) -> Vec<Json> {
    match form {
        Form::Text => vec![json!({ "type": "string" })],
        Form::Word(word) => vec![json!({ "const": word })],
        Form::Names(names) => vec![json!({ "enum": names })],
        Form::Boolean => vec![json!({ "type": "boolean" })],
        Form::Whole { least, most } => vec![json!({ "type": "integer", "minimum": least, "maximum": most })],
        Form::Decimal { least, most } => vec![json!({ "type": "number", "minimum": least, "maximum": most })],
        Form::Duration => vec![json!({ "type": "string", "pattern": DURATION }), json!({ "const": 0 })],
        Form::Size => vec![json!({ "type": "string", "pattern": SIZE }), json!({ "type": "integer", "minimum": 0 })],
        Form::List | Form::Map | Form::Fields { .. } => Vec::new(), // the shape inside says it
    }
}

const DURATION: &str = r"^(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))+)$";
const SIZE: &str = r"^[0-9]+ *(B|KiB|MiB|GiB)?$";

/// The example has every default; a test holds it to that.
fn add_defaults(root: &mut Map<String, Json>) {
    let source = Source::new("conf/egret.yaml", include_str!("../../../conf/egret.yaml"));
    let documents = yaml::parse(&source, &mut Diagnostics::default());
    if let Some(document) = documents.first() {
        defaults_of(document, root);
    }
}

fn defaults_of(node: &Node, schema: &mut Map<String, Json>) {
    let Value::Map(entries) = &node.value else { return };
    // The object stands in `anyOf` where something else may stand there as well.
    let (direct, alternatives) = match schema.get_mut("anyOf") {
        Some(Json::Array(alternatives)) => (None, Some(alternatives)),
        _ => (Some(schema), None),
    };
    let objects = alternatives.into_iter().flatten().filter_map(Json::as_object_mut);
    for object in direct.into_iter().chain(objects) {
        let Some(Json::Object(properties)) = object.get_mut("properties") else { continue };
        for (key, value) in entries {
            let Some(Json::Object(property)) = properties.get_mut(&*key.text) else { continue };
            defaults_of(value, property);
            if !matches!(value.value, Value::Map(ref inside) if !inside.is_empty()) {
                property.insert("default".to_owned(), to_json(value));
            }
        }
    }
}

fn to_json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Map(entries) => {
            Json::Object(entries.iter().map(|(key, value)| (key.text.to_string(), to_json(value))).collect())
        }
        Value::Scalar { text, plain: true } if is_number(text) => serde_json::from_str(text).unwrap_or(json!(text)),
        Value::Scalar { text, plain: true } => boolean(text).map_or(json!(text), |value| json!(value)),
        Value::Scalar { text, .. } => json!(text),
    }
}

#[cfg(test)]
mod tests;
