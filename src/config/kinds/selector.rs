//! Label selectors: which workloads a resource means.

use std::collections::BTreeMap;

use crate::config::diagnostic::{Code, Context};
use crate::config::read::Fields;
use crate::config::source::Span;
use crate::config::yaml::Node;

/// Labels that a workload has to have, all of them.
#[derive(Clone, Debug)]
pub struct Selector {
    /// Keys and values; empty picks everything, as in Istio.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// Where it stands.
    pub span: Span,
}

impl Selector {
    /// Reads `{ labels: { … } }`, or what the map of labels is called otherwise (`matchLabels`).
    pub(super) fn read(node: &Node, name: &'static str, cx: &mut Context<'_>) -> Option<Self> {
        let mut fields = Fields::of(node, cx)?;
        let mut labels = Vec::new();
        for (key, value) in fields.map(name, cx) {
            let Some(text) = value.text(cx) else { continue };
            if key.text.contains('*') || text.value.contains('*') {
                cx.report(Code::BadSelector, key.span, "a selector compares whole labels: wildcards are not possible");
            }
            labels.push((key.text.clone(), text.value.into()));
        }
        fields.finish(cx);
        if labels.is_empty() {
            cx.report(Code::EmptySelector, node.span, "without labels this selects every workload of the namespace");
        }
        Some(Self { labels, span: node.span })
    }

    /// True if a workload with these labels is meant.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(&**key).is_some_and(|found| **found == **value))
    }

    /// True if both mean the same workloads.
    pub fn is_same(&self, other: &Self) -> bool {
        let covers = |a: &Self, b: &Self| a.labels.iter().all(|label| b.labels.contains(label));
        covers(self, other) && covers(other, self)
    }
}
