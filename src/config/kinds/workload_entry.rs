//! WorkloadEntry as written: one endpoint, picked by the selectors of ServiceEntries and Services of its namespace (ISTIO 2.1).

use std::collections::BTreeMap;

use super::scalars::is_dns_label;
use super::service_entry::{Endpoint, read_endpoint};
use crate::config::diagnostic::{Code, Diagnostics};
use crate::config::resource::Resource;
use crate::config::yaml::Value;

/// A WorkloadEntry that passed its own rules, or of which the wrong parts were left out and reported.
#[derive(Debug)]
pub struct WorkloadEntry<'r> {
    /// Where it stands.
    pub resource: &'r Resource,
    /// What is dialled.
    pub endpoint: Endpoint<'r>,
    /// By which it is selected: those of `spec`, and of the metadata where `spec` has none of the name.
    pub labels: BTreeMap<String, String>,
}

impl<'r> WorkloadEntry<'r> {
    /// Reads and judges one resource by the rules that concern it alone. `None`: nothing of use is left.
    pub fn read(resource: &'r Resource, diagnostics: &mut Diagnostics) -> Option<Self> {
        let cx = &mut resource.context(diagnostics);
        let Some(spec) = resource.spec() else {
            cx.report(Code::MissingField, resource.root.span, "`spec` is missing");
            return None;
        };
        let endpoint = read_endpoint(spec, resource, None, cx)?;
        if let Some(Value::Map(ports)) = spec.entry("ports").map(|node| &node.value) {
            for (name, _) in ports.iter().filter(|(name, _)| !is_dns_label(&name.text)) {
                let message = format!("{:?} is not a DNS label (lower-case letters, digits, `-`)", name.text);
                cx.report(Code::BadPortName, name.span, message).found(&*name.text);
            }
        }
        let mut labels = resource.metadata.labels.clone();
        labels.extend(endpoint.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())));
        Some(Self { resource, endpoint, labels })
    }
}
