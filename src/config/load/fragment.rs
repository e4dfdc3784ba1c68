//! Documents that are no resources, and stand beside them all the same: what `istioctl`, `helm` and `kubectl patch` are given. They are
//! recognized by their shape, narrowly, because a resource or settings without their head are mistakes that must not pass as such.

use crate::config::yaml::{Node, Value};

/// What a document is that has neither `apiVersion` nor `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    /// An overlay of an IstioOperator, or values of Istio's Helm charts: may hold a MeshConfig.
    Installation,
    /// A strategic merge patch of a workload.
    Patch,
    /// A list of operations (RFC 6902).
    JsonPatch,
}

impl Fragment {
    pub(super) fn of(root: &Node) -> Option<Self> {
        match &root.value {
            Value::List(items) if !items.is_empty() && items.iter().all(is_operation) => Some(Self::JsonPatch),
            Value::Map(entries) if !entries.is_empty() => {
                let only = |known: &[&str]| entries.iter().all(|(key, _)| known.contains(&&*key.text));
                let is_map = |name: &str| root.entry(name).is_some_and(|node| matches!(node.value, Value::Map(_)));
                let spec = root.entry("spec");
                let spec_only = |known: &[&str]| match spec.map(|spec| &spec.value) {
                    Some(Value::Map(fields)) => {
                        !fields.is_empty() && fields.iter().all(|(key, _)| known.contains(&&*key.text))
                    }
                    _ => false,
                };
                if only(&["spec"]) && spec_only(OPERATOR) {
                    Some(Self::Installation)
                } else if only(&["spec"]) && spec_only(&["template", "replicas"]) {
                    Some(Self::Patch)
                } else if only(HELM) && (is_map("gateways") || is_map("global") || is_map("meshConfig")) {
                    Some(Self::Installation)
                } else {
                    None
                }
            }
            _ => None,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Installation => "an installation",
            Self::Patch => "a patch of a workload",
            Self::JsonPatch => "a JSON patch",
        }
    }
}

fn is_operation(node: &Node) -> bool {
    ["op", "path"].iter().all(|key| node.entry(key).and_then(Node::scalar).is_some())
}

/// Fields of `spec` in install.istio.io/v1alpha1.
const OPERATOR: &[&str] = &[
    "profile",
    "installPackagePath",
    "hub",
    "tag",
    "resourceSuffix",
    "namespace",
    "revision",
    "compatibilityVersion",
    "meshConfig",
    "components",
    "addonComponents",
    "values",
    "unvalidatedValues",
];

/// Values of Istio's charts. `gateways` of the settings is a list, and `mesh` is none of these.
const HELM: &[&str] =
    &["gateways", "global", "meshConfig", "pilot", "sidecarInjectorWebhook", "telemetry", "istio_cni", "cni"];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::source::Source;
    use crate::config::{Diagnostics, yaml};

    fn fragment(text: &str) -> Option<Fragment> {
        let mut diagnostics = Diagnostics::default();
        Fragment::of(&yaml::parse(&Source::new("a.yaml", text), &mut diagnostics)[0])
    }

    #[test]
    fn what_tools_are_given_is_recognized() {
        for (text, expected) in [
            ("spec: { meshConfig: { outboundTrafficPolicy: { mode: REGISTRY_ONLY } } }", Fragment::Installation),
            ("spec: { components: { egressGateways: [] } }", Fragment::Installation),
            ("gateways: { enabled: true }", Fragment::Installation),
            ("global: { hub: x }\npilot: {}", Fragment::Installation),
            ("spec: { template: { spec: {} } }", Fragment::Patch),
            ("[{ op: add, path: /spec, value: {} }]", Fragment::JsonPatch),
        ] {
            assert_eq!(fragment(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn settings_and_resources_without_their_head_are_none() {
        for text in [
            "mesh: { outboundTrafficPolicy: { mode: REGISTRY_ONLY } }",
            "gateways: []",
            "gateways: { a: b }\nmesh: {}",
            "spec: { hosts: [a.test] }",
            "spec: { meshConfig: {}, hosts: [a.test] }",
            "spec: {}",
            "metadata: { name: a }\nspec: { meshConfig: {} }",
            "kind: ServiceEntry\nspec: { profile: demo }",
            "[]",
            "[{ op: add }]",
            "text",
        ] {
            assert_eq!(fragment(text), None, "{text}");
        }
    }
}
