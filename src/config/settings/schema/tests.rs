#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use super::*;

/// Every path that the readers know, as [`sentences`] write it.
fn paths(shape: &Shape, at: &str, all: &mut BTreeSet<String>) {
    if let Some(item) = &shape.item {
        paths(item, &format!("{at}[]"), all);
    }
    if let Some(entry) = &shape.entry {
        paths(entry, &format!("{at}.*"), all);
    }
    for (name, shape) in shape.fields.iter().flat_map(|fields| &fields.shapes) {
        let path = if at.is_empty() { (*name).to_owned() } else { format!("{at}.{name}") };
        paths(shape, &path, all);
        assert!(all.insert(path.clone()), "{path}");
    }
}

#[test]
fn every_key_that_is_read_has_its_sentence_and_no_other_has() {
    let mut read = BTreeSet::new();
    paths(&discover::settings(), "", &mut read);
    let described: BTreeSet<String> = sentences::SENTENCES.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(described.len(), sentences::SENTENCES.len(), "one is there twice");
    let missing: Vec<_> = read.difference(&described).collect();
    let gone: Vec<_> = described.difference(&read).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "src/config/settings/schema/sentences.rs: no sentence on {missing:?}; sentences on keys that nobody reads: {gone:?}"
    );
}

fn property(pointer: &str) -> Json {
    let schema: Json = serde_json::from_str(&schema()).unwrap();
    schema.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {schema:#}")).clone()
}

#[test]
fn types_bounds_names_and_defaults_are_those_of_the_readers() {
    let description = "Workers; 0: as many as the process may use cores";
    assert_eq!(
        property("/properties/threads"),
        json!({ "type": ["integer", "null"], "minimum": 0, "maximum": 1024, "default": 0, "description": description })
    );
    assert_eq!(property("/properties/onRevoke/enum"), json!(["close", "report", "keep", null]));
    assert_eq!(property("/properties/onRevoke/default"), json!("close"));
    assert_eq!(property("/properties/limits/properties/headBytes/default"), json!("32KiB"));
    assert_eq!(property("/properties/secrets/items/required"), json!(["name", "dir"]));
    assert_eq!(property("/additionalProperties"), json!(false));
}

#[test]
fn what_may_be_written_in_two_ways_may_in_the_schema() {
    let words: Vec<Json> = serde_json::from_value(property("/properties/dns/properties/servers/anyOf")).unwrap();
    assert!(words.contains(&json!({ "const": "system" })), "{words:?}");
    assert!(words.iter().any(|form| form["type"] == "array"), "{words:?}");
    let inputs: Vec<Json> = serde_json::from_value(property("/properties/resources/items/anyOf")).unwrap();
    assert!(inputs.contains(&json!({ "type": "string" })), "{inputs:?}");
    assert!(inputs.iter().any(|form| form["required"] == json!(["path"])), "{inputs:?}");
    let labels = property("/properties/workload/properties/labels/additionalProperties/type");
    assert_eq!(labels, json!("string"), "a label without value is a mistake");
}

#[test]
fn nothing_is_collected_where_nobody_asks() {
    let mut diagnostics = Diagnostics::default();
    let source = std::sync::Arc::new(Source::new("egret.yaml", "threads: 2\n"));
    super::super::Settings::read(source, std::path::Path::new("/"), &mut diagnostics);
    assert_eq!(diagnostics.asked(), crate::config::read::Asked::default());
}
