//! What each rule says, as a number: two configurations are compared by it, whatever moved in their files.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::resource::Resource;
use super::settings::Settings;
use super::yaml::{Node, Value};

/// The rules of one configuration: resources and entries of `allow` by their names, and the keys of the settings file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    rules: HashMap<Arc<str>, u64>,
    settings: HashMap<Arc<str>, u64>,
}

/// What became of a rule from one configuration to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It says something else.
    Changed,
}

impl Change {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

impl Digest {
    /// `resources` are each name once, as compiled.
    pub(super) fn new(settings: &Settings, resources: &[Resource]) -> Self {
        let mut digest = Self { rules: HashMap::with_capacity(resources.len()), ..Self::default() };
        for resource in resources {
            digest.rules.insert(resource.label.clone(), number(&resource.root));
        }
        for entry in &settings.allow {
            digest.rules.insert(format!("allow {}", entry.value).into(), 0);
        }
        for (key, value) in settings.top_level() {
            if key != "allow" {
                digest.settings.insert(key.into(), number(value));
            }
        }
        digest
    }

    /// Rules in force.
    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    /// What became of each rule that `before` says differently, by name.
    pub fn rules_changed(&self, before: &Self) -> Vec<(Arc<str>, Change)> {
        changed(&self.rules, &before.rules)
    }

    /// Keys of the settings that say something else than `before`, by name.
    pub fn settings_changed(&self, before: &Self) -> Vec<Arc<str>> {
        changed(&self.settings, &before.settings).into_iter().map(|(key, _)| key).collect()
    }
}

fn changed(now: &HashMap<Arc<str>, u64>, before: &HashMap<Arc<str>, u64>) -> Vec<(Arc<str>, Change)> {
    let new = now.iter().filter_map(|(name, number)| match before.get(name) {
        None => Some((name.clone(), Change::Added)),
        Some(before) => (before != number).then(|| (name.clone(), Change::Changed)),
    });
    let gone = before.keys().filter(|name| !now.contains_key(*name)).map(|name| (name.clone(), Change::Removed));
    let mut changes: Vec<_> = new.chain(gone).collect();
    changes.sort();
    changes
}

/// The same for equal values, wherever they stand and in whatever order their keys do.
fn number(node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    match &node.value {
        Value::Null => 0_u8.hash(&mut hasher),
        Value::Scalar { text, plain } => (1_u8, text, plain).hash(&mut hasher),
        Value::List(items) => {
            2_u8.hash(&mut hasher);
            items.iter().for_each(|item| number(item).hash(&mut hasher));
        }
        Value::Map(entries) => {
            let mut numbers: Vec<_> = entries.iter().map(|(key, value)| (&*key.text, number(value))).collect();
            numbers.sort_unstable();
            (3_u8, numbers).hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::config::{Configuration, Sources};

    use super::*;

    fn digest(settings: &str, rules: &str) -> Digest {
        let folder = tempfile::tempdir().unwrap();
        let [settings_path, rules_path] = ["egret.yaml", "rules.yaml"].map(|name| folder.path().join(name));
        std::fs::write(&settings_path, settings).unwrap();
        std::fs::write(&rules_path, rules).unwrap();
        let sources =
            Sources { settings: Some(settings_path), resources: vec![(None, rules_path)], ..Sources::default() };
        let configuration = Configuration::load(&sources, 1);
        assert_eq!(configuration.diagnostics.errors(), 0, "{:?}", configuration.diagnostics);
        configuration.digest
    }

    fn entry(name: &str, port: u16) -> String {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec:\n  \
             hosts: [{name}.test]\n  resolution: DNS\n  ports: [{{ number: {port}, name: tls, protocol: TLS }}]\n"
        )
    }

    #[test]
    fn what_says_the_same_is_the_same_wherever_it_stands() {
        let before = digest("drain: 1s\nthreads: 1\n", &(entry("a", 443) + &entry("b", 443)));
        let moved = digest("# a comment\nthreads: 1\ndrain: 1s\n", &(entry("b", 443) + "# more\n" + &entry("a", 443)));
        assert_eq!(moved, before);
        assert_eq!(moved.rules(), 2);
    }

    #[test]
    fn each_rule_and_setting_that_differs_is_named() {
        let before = digest("drain: 1s\nallow: [x.test]\n", &(entry("a", 443) + &entry("b", 443) + &entry("c", 443)));
        let after = digest("drain: 2s\nallow: [y.test]\n", &(entry("a", 443) + &entry("b", 444) + &entry("d", 443)));
        let changes: Vec<String> =
            after.rules_changed(&before).iter().map(|(name, change)| format!("{} {name}", change.as_str())).collect();
        assert_eq!(
            changes,
            [
                "changed ServiceEntry default/b",
                "removed ServiceEntry default/c",
                "added ServiceEntry default/d",
                "removed allow x.test",
                "added allow y.test",
            ]
        );
        assert_eq!(after.settings_changed(&before), ["drain".into()]);
        assert!(after.rules_changed(&after).is_empty() && after.settings_changed(&after).is_empty());
    }
}
