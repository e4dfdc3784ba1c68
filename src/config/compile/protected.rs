//! Services that AuthorizationPolicies protect: refused as a whole, because their rules are not carried out yet and ignoring them would
//! let through what they close.

use std::collections::HashMap;
use std::sync::Arc;

use super::notes::Notes;
use super::services::Registry;
use crate::config::diagnostic::Code;
use crate::config::kinds::authorization_policy::AuthorizationPolicy;
use crate::flow::ErrorType;
use crate::route::snapshot::View;
use crate::route::{Refusal, Stage};

pub(super) fn apply(
    view: &mut View,
    policies: &[AuthorizationPolicy<'_>],
    registry: &Registry<'_, '_>,
    notes: &mut Notes<'_>,
) {
    let mut refused: HashMap<Arc<str>, Arc<Refusal>> = HashMap::new();
    for policy in policies {
        for target in &policy.targets {
            let origin = policy.resource.origin(target.span);
            let is_target = |resource: &crate::config::Resource, is_kubernetes: bool| {
                is_kubernetes == target.value.is_kubernetes
                    && *resource.metadata.name == *target.value.name
                    && resource.metadata.namespace == policy.resource.metadata.namespace
            };
            let declared = registry.iter().filter(|declared| {
                is_target(declared.entry.resource, declared.entry.is_kubernetes()) && !declared.entry.is_settings()
            });
            let aliases = registry.aliases().iter().filter(|alias| is_target(alias.entry.resource, true));
            let hosts: Vec<Arc<str>> = declared
                .map(|declared| declared.host.clone())
                .chain(aliases.map(|alias| alias.host.value.clone()))
                .collect();
            if hosts.is_empty() {
                let message = format!("no loaded resource of this namespace is called {}", target.value.name);
                notes.once(policy.resource, Code::RuleWithoutService, target.span, message);
            }
            let message = "the rules of this policy are not carried out yet: every flow to what it protects is refused";
            notes.once(policy.resource, Code::ProtectedService, policy.resource.root.span, message);
            for host in hosts {
                let refusal = || {
                    Arc::new(Refusal {
                        error: ErrorType::RequestDenied,
                        stage: Stage::Authorization,
                        detail: format!(
                            "{} protects {host}, and its rules are not carried out yet",
                            policy.resource.label
                        )
                        .into(),
                        origin: Some(origin.clone()),
                    })
                };
                refused.entry(host.clone()).or_insert_with(refusal);
            }
        }
    }
    if !refused.is_empty() {
        // An alias has the hosts of what it stands for among its own.
        view.refuse(|service| {
            [&service.host].into_iter().chain(&*service.hosts).find_map(|host| refused.get(host)).cloned()
        });
    }
}
