//! Tables of Istio's own tests, read where they stand beside the repository; tests say by name when they are not there.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

/// One file of tables.
pub(crate) struct Table(Value);

/// The folder `../shared`, if it is there.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if !path.exists() {
        eprintln!("NOT RUN: {} is not there", path.display());
        return None;
    }
    Some(path)
}

/// A file of `../shared/istio-cases`.
pub(crate) fn shared_cases(name: &str) -> Option<Table> {
    let text = std::fs::read(shared(&format!("istio-cases/{name}"))?).expect("a readable file");
    Some(Table(serde_json::from_slice(&text).expect("JSON")))
}

impl Table {
    /// A table by its name, for what it says beside its rows.
    pub(crate) fn of(&self, name: &str) -> &Value {
        let tables = self.0["tables"].as_array().expect("tables");
        tables.iter().find(|table| table["table"] == name).expect("a table of this name")
    }

    /// All rows with the name of their table.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&str, &Value)> {
        let tables = self.0["tables"].as_array().expect("tables").iter();
        tables.flat_map(|table| {
            let rows = table["rows"].as_array().expect("rows").iter();
            rows.map(|row| (table["table"].as_str().expect("a name"), row))
        })
    }
}

/// How many rows were looked at.
#[derive(Default)]
pub(crate) struct Cases {
    held: usize,
    skipped: BTreeMap<String, usize>,
}

impl Cases {
    /// A row holds.
    pub(crate) fn held(&mut self) {
        self.held += 1;
    }

    /// A row does not concern us, and why.
    pub(crate) fn skipped(&mut self, what: &str, why: &str) {
        *self.skipped.entry(format!("{what}: {why}")).or_default() += 1;
    }

    /// Prints the counts; fails if fewer than `min` rows hold, so that a table that went away is noticed.
    pub(crate) fn report(&self, file: &str, min: usize) {
        eprintln!("{file}: {} rows hold", self.held);
        for (why, count) in &self.skipped {
            eprintln!("{file}: {count} skipped, {why}");
        }
        assert!(self.held >= min, "{file}: {} rows hold, expected {min}", self.held);
    }
}
