//! Resources as written: one file per kind, each with the validation rules that concern one resource alone (ISTIO 2.4, 5.6, 6.4, 7).
//! What concerns several resources together is judged by [`super::compile`].

pub mod authorization_policy;
pub mod destination_rule;
pub mod endpoint_slice;
pub mod endpoints;
pub mod mesh_config;
pub mod parent;
pub mod scalars;
pub mod secret;
pub mod selector;
pub mod service;
pub mod service_entry;
pub mod sidecar;
#[cfg(test)]
mod tests;
pub mod virtual_service;
pub mod workload_entry;

use std::fmt::Display;
use std::sync::Arc;

use super::diagnostic::{Code, Context};
use super::read::nearest;
use super::resource::Resource;
use super::source::{Span, Spanned};
use super::yaml::Node;

/// Who sees a resource (`exportTo`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportTo {
    /// Every namespace.
    All,
    /// These; the resource's own stands by its name. Empty: nobody.
    Only(Vec<Arc<str>>),
}

impl ExportTo {
    /// True if a workload of `namespace` sees the resource.
    pub fn reaches(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(namespaces) => namespaces.iter().any(|allowed| **allowed == *namespace),
        }
    }

    /// Reads `exportTo`: `.` the own namespace, `*` all, names, and where `nobody` is true `~`.
    pub fn read(items: &[Node], own: &Arc<str>, nobody: bool, cx: &mut Context<'_>) -> Self {
        let texts: Vec<Spanned<&str>> = items.iter().filter_map(|item| item.text(cx)).collect();
        Self::read_texts(&texts, own, nobody, cx)
    }

    /// Reads the annotation `networking.istio.io/exportTo`: the same, separated by commas.
    pub(super) fn read_annotation(resource: &Resource, cx: &mut Context<'_>) -> Self {
        let Some(text) = resource.metadata.annotations.get(EXPORT_TO) else { return Self::All };
        let parts = text.value.split(',').map(str::trim).filter(|part| !part.is_empty());
        let parts: Vec<Spanned<&str>> = parts.map(|value| Spanned { value, span: text.span }).collect();
        Self::read_texts(&parts, &resource.metadata.namespace, true, cx)
    }

    fn read_texts(items: &[Spanned<&str>], own: &Arc<str>, nobody: bool, cx: &mut Context<'_>) -> Self {
        let mut only: Vec<Arc<str>> = Vec::new();
        let (mut all, mut none) = (false, false);
        for text in items {
            let namespace: Arc<str> = match text.value {
                "*" => {
                    all = true;
                    "*".into()
                }
                "~" if nobody => {
                    none = true;
                    "~".into()
                }
                "." => own.clone(),
                name if scalars::is_dns_label(name) => name.into(),
                name => {
                    let help = "write `.` (the own namespace), `*` (all) or the name of a namespace";
                    cx.report(Code::BadExportTo, text.span, format!("{name:?} is no namespace")).found(name).help(help);
                    continue;
                }
            };
            if only.contains(&namespace) {
                let message = format!("namespace {:?} is named twice", text.value);
                cx.report(Code::BadExportTo, text.span, message).found(text.value);
                continue;
            }
            only.push(namespace);
        }
        if (all || none) && only.len() > 1 {
            let message = format!("`{}` stands alone or not at all", if all { "*" } else { "~" });
            let span = items.first().map_or_else(Span::default, |item| item.span);
            cx.report(Code::BadExportTo, span, message);
        }
        match (all || only.is_empty(), none) {
            (_, true) => Self::Only(Vec::new()),
            (true, false) => Self::All,
            (false, false) => Self::Only(only),
        }
    }
}

/// Reads a comma-separated annotation; what is wrong in it is reported and left out.
pub(super) fn list_annotation<T, E: Display>(
    resource: &Resource,
    name: &str,
    parse: impl Fn(&str) -> Result<T, E>,
    cx: &mut Context<'_>,
) -> Vec<T> {
    let Some(text) = resource.metadata.annotations.get(name) else { return Vec::new() };
    let mut list = Vec::new();
    for part in text.value.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match parse(part) {
            Ok(value) => list.push(value),
            Err(error) => {
                cx.report(Code::BadValue, text.span, format!("{part:?}: {error}")).found(part);
            }
        }
    }
    list
}

/// Reads an annotation that is one of a few names.
pub(super) fn choice_annotation<T: Copy>(
    resource: &Resource,
    name: &str,
    names: &[(&'static str, T)],
    cx: &mut Context<'_>,
) -> Option<T> {
    let text = resource.metadata.annotations.get(name)?;
    let found = names.iter().find(|(name, _)| **name == *text.value).map(|(_, value)| *value);
    if found.is_none() {
        let all: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        let report =
            cx.report(Code::UnknownValue, text.span, format!("{:?} is none of the values known here", text.value));
        report.found(text.value.clone()).help(format!("one of {}", all.join(", ")));
    }
    found
}

/// Reports annotations of ours that nobody knows: a misspelt `egret.dev/allow-adresses` would silently do nothing.
pub(super) fn check_annotations(resource: &Resource, known: &[&'static str], cx: &mut Context<'_>) {
    let own = resource.metadata.annotations.iter().filter(|(name, _)| name.starts_with(OWN_PREFIX));
    for (name, text) in own.filter(|(name, _)| !known.contains(&&***name)) {
        let message = format!("no annotation {name} is known for a {}", resource.kind.as_str());
        let report = cx.report(Code::UnknownAnnotation, text.span, message);
        report.found(name.clone());
        match nearest(name, known.iter().copied()) {
            Some(name) => report.help(format!("did you mean `{name}`?")),
            None => report.help(format!("known here: {}", known.join(", "))),
        };
    }
}

const OWN_PREFIX: &str = "egret.dev/";
const EXPORT_TO: &str = "networking.istio.io/exportTo"; // on Services, ISTIO 13

/// A host of a resource as it is compared: lower case, without a trailing dot.
pub(in crate::config) fn canonical_host(text: &str) -> Arc<str> {
    text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase().into()
}

/// Text with its place, shared with what is compiled of it.
pub type SharedText = Spanned<Arc<str>>;
