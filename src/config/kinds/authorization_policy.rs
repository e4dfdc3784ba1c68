//! AuthorizationPolicy as far as it is understood: whether it protects services that Egret knows. Those are refused as a whole until
//! its rules are carried out, because less than it says must never pass.

use crate::config::diagnostic::{Code, Context, Diagnostics};
use crate::config::read::Fields;
use crate::config::resource::Resource;
use crate::config::source::Spanned;
use crate::config::yaml::Node;

/// A policy that protects services by name.
#[derive(Debug)]
pub struct AuthorizationPolicy<'r> {
    /// Where it stands.
    pub resource: &'r Resource,
    /// ServiceEntries and Services of its own namespace.
    pub targets: Vec<Spanned<Protected>>,
}

/// What a policy protects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protected {
    /// Kubernetes' kind `Service`, else a ServiceEntry.
    pub is_kubernetes: bool,
    /// The resource's name.
    pub name: Box<str>,
}

impl<'r> AuthorizationPolicy<'r> {
    /// Reads whom it protects; rules are left to whoever carries them out. `None`: nothing that is reached from here.
    pub fn read(resource: &'r Resource, diagnostics: &mut Diagnostics) -> Option<Self> {
        let cx = &mut resource.context(diagnostics);
        let spec = resource.spec();
        let refs = spec.into_iter().flat_map(|spec| {
            let list = spec.entry("targetRefs").and_then(|node| node.items(cx)).unwrap_or_default();
            list.iter().chain(spec.entry("targetRef"))
        });
        let refs: Vec<&Node> = refs.collect();
        let action = spec.and_then(|spec| spec.entry("action"));
        let targets: Vec<_> = refs.into_iter().filter_map(|node| read_target(node, cx)).collect();
        if targets.is_empty() {
            let at = resource.root.entry("kind").map_or(resource.root.span, |node| node.span);
            let message =
                "AuthorizationPolicy of workloads is not carried out: what it would restrict is not restricted";
            cx.report(Code::KindPassedOver, at, message).found("AuthorizationPolicy");
            return None;
        }
        if action.is_some_and(|node| node.scalar() == Some("AUDIT")) {
            cx.report(Code::Ignored, action?.span, "not supported, and ignored: AUDIT restricts nothing");
            return None;
        }
        Some(Self { resource, targets })
    }
}

fn read_target(node: &Node, cx: &mut Context<'_>) -> Option<Spanned<Protected>> {
    let mut fields = Fields::of(node, cx)?;
    let kind = fields.required("kind", cx).and_then(|node| node.text(cx));
    let name = fields.required("name", cx).and_then(|node| node.text(cx));
    for known in ["group", "namespace"] {
        fields.text(known, cx);
    }
    fields.finish(cx);
    let is_kubernetes = match kind?.value {
        "ServiceEntry" => false,
        "Service" => true,
        // A Gateway or GatewayClass: none of our listeners.
        _ => return None,
    };
    Some(Spanned { value: Protected { is_kubernetes, name: name?.value.into() }, span: node.span })
}
