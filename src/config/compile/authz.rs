//! AuthorizationPolicies to what they protect: all flows of a workload, or those to some services however they are asked for.

use std::collections::HashMap;
use std::sync::Arc;

use super::notes::Notes;
use super::services::Registry;
use crate::config::diagnostic::Code;
use crate::config::kinds::authorization_policy::{AuthorizationPolicy, Protected, Reach};
use crate::config::resource::Resource;
use crate::flow::Workload;
use crate::route::authz::{Policies, Policy};
use crate::route::snapshot::View;

/// The policies as they are used, in the order of loading.
#[derive(Debug, Default)]
pub(super) struct Compiled<'r> {
    policies: Vec<(AuthorizationPolicy<'r>, Arc<Policy>)>,
}

impl<'r> Compiled<'r> {
    pub(super) fn new(written: Vec<AuthorizationPolicy<'r>>) -> Self {
        let compiled = written.into_iter().map(|mut policy| {
            let rules = std::mem::take(&mut policy.rules);
            let origin = policy.resource.origin(policy.span());
            let used = Arc::new(Policy { origin, action: policy.action, rules });
            (policy, used)
        });
        Self { policies: compiled.collect() }
    }

    /// True if one of them judges this workload for its labels.
    pub(super) fn select(&self, workload: &Workload, root: &str) -> bool {
        self.policies.iter().any(|(policy, _)| policy.is_selecting(workload, root))
    }

    /// Those of a workload, whatever it asks for.
    pub(super) fn of(&self, workload: &Workload, root: &str) -> Policies {
        let of = self.policies.iter().filter(|(policy, _)| policy.is_of(workload, root));
        of.map(|(_, policy)| policy.clone()).collect()
    }

    /// Gives services the policies that name them.
    pub(super) fn protect(&self, view: &mut View, registry: &Registry<'_, '_>, notes: &mut Notes<'_>) {
        let mut by_host: HashMap<Arc<str>, Policies> = HashMap::new();
        for (written, policy) in &self.policies {
            let Reach::Services(targets) = &written.reach else { continue };
            for target in targets {
                let hosts = hosts_of(&target.value, written.resource, registry);
                if hosts.is_empty() {
                    let message = format!("no loaded resource of this namespace is called {}", target.value.name);
                    notes.once(written.resource, Code::RuleWithoutService, target.span, message);
                }
                for host in hosts {
                    let policies = by_host.entry(host).or_default();
                    if !policies.iter().any(|other| Arc::ptr_eq(other, policy)) {
                        policies.push(policy.clone());
                    }
                }
            }
        }
        if by_host.is_empty() {
            return;
        }
        // An alias has the hosts of what it stands for among its own, and so has a host that a VirtualService cuts out of a wildcard.
        view.protect(|service| {
            let mut policies = Policies::new();
            for policy in
                [&service.host].into_iter().chain(&*service.hosts).filter_map(|host| by_host.get(host)).flatten()
            {
                if !policies.iter().any(|other| Arc::ptr_eq(other, policy)) {
                    policies.push(policy.clone());
                }
            }
            policies
        });
    }
}

fn hosts_of(target: &Protected, policy: &Resource, registry: &Registry<'_, '_>) -> Vec<Arc<str>> {
    let is_target = |resource: &Resource, is_kubernetes: bool| {
        is_kubernetes == target.is_kubernetes
            && *resource.metadata.name == *target.name
            && resource.metadata.namespace == policy.metadata.namespace
    };
    let declared = registry.iter().filter(|declared| {
        is_target(declared.entry.resource, declared.entry.is_kubernetes()) && !declared.entry.is_settings()
    });
    let aliases = registry.aliases().iter().filter(|alias| is_target(alias.entry.resource, true));
    declared.map(|declared| declared.host.clone()).chain(aliases.map(|alias| alias.host.value.clone())).collect()
}
