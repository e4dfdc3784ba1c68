//! The DestinationRule of a host, as one client namespace finds it (ISTIO 6.1, 6.2).

use std::collections::HashMap;
use std::sync::Arc;

use super::notes::Notes;
use super::services::Registry;
use crate::config::diagnostic::Code;
use crate::config::kinds::destination_rule::{CredentialRef, DestinationRule, Policy, Pool, Settings, Subset};
use crate::config::kinds::parent::ViaRef;
use crate::config::resource::Resource;
use crate::config::source::{Span, Spanned};
use crate::flow::Workload;
use crate::route::cluster::ProxyProtocol;
use crate::route::connection_pool::RetryBudget;
use crate::route::hosts::HostIndex;
use crate::route::probe::Probe;

/// All rules that a namespace may see, by the namespace they stand in.
#[derive(Debug)]
pub(super) struct Rules<'d, 'r> {
    client: &'d str,
    root: &'d str,
    /// Those for this workload alone: looked at first.
    selected: HostIndex<Rule<'d, 'r>>,
    by_namespace: HashMap<Arc<str>, HostIndex<Rule<'d, 'r>>>,
}

/// What applies to a host: one rule, or several that were merged.
#[derive(Debug)]
pub(super) struct Rule<'d, 'r> {
    /// The oldest.
    first: &'d DestinationRule<'r>,
    /// The one whose policy counts.
    policy_of: &'d DestinationRule<'r>,
    subsets: Vec<(&'d DestinationRule<'r>, &'d Subset)>,
}

impl<'d, 'r> Rules<'d, 'r> {
    /// Rules with a selector count where they select this very workload.
    pub(super) fn new(
        rules: &'d [DestinationRule<'r>],
        client: &'d Workload,
        root: &'d str,
        notes: &mut Notes<'_>,
    ) -> Self {
        let mut by_namespace: HashMap<Arc<str>, HostIndex<Rule<'d, 'r>>> = HashMap::new();
        let mut selected = HostIndex::default();
        let labels = &client.labels;
        let client = &*client.namespace;
        for rule in rules {
            let namespace = &rule.resource.metadata.namespace;
            if let Some(selector) = &rule.selector {
                if **namespace == *client && selector.selects(labels) {
                    let new = || Rule { first: rule, policy_of: rule, subsets: Vec::new() };
                    selected.entry(&rule.host.value, new).merge(rule, notes);
                }
                continue;
            }
            // The client's own namespace sees all of its rules, whatever they export.
            if **namespace != *client && !rule.export_to.reaches(client) {
                continue;
            }
            let index = by_namespace.entry(namespace.clone()).or_default();
            let merged = index.entry(&rule.host.value, || Rule { first: rule, policy_of: rule, subsets: Vec::new() });
            merged.merge(rule, notes);
        }
        Self { client, root, selected, by_namespace }
    }

    /// The client's namespace, then the service's, then the root namespace: the first with any rule over the host is the only one
    /// used, and in it the most specific rule.
    pub(super) fn find(&self, host: &str, service_namespace: &str) -> Option<&Rule<'d, 'r>> {
        if let Some(rule) = self.selected.find_covering(host) {
            return Some(rule);
        }
        let client = (self.client != self.root).then_some(self.client);
        let namespaces = client.into_iter().chain([service_namespace, self.root]);
        namespaces.filter_map(|namespace| self.by_namespace.get(namespace)).find_map(|index| index.find_covering(host))
    }

    /// Warns of rules whose host no service has.
    pub(super) fn warn_of_unused(&self, registry: &Registry<'_, '_>, notes: &mut Notes<'_>) {
        let used = |host: &str| match host.strip_prefix('*') {
            None => !registry.ports(host).is_empty(),
            Some(_) => registry.iter().any(|declared| crate::route::hosts::is_subset(&declared.host, host)),
        };
        for rule in self.by_namespace.values().chain([&self.selected]).flat_map(HostIndex::values) {
            let host = &rule.first.host;
            if let Some(alias) = registry.alias(&host.value) {
                let message = format!("{} is an alias of {}, whose rules count", host.value, alias.target);
                notes.once(rule.first.resource, Code::RuleWithoutService, host.span, message);
                continue;
            }
            if !used(&host.value) {
                let message = format!("no loaded resource declares a service that {} covers", host.value);
                notes.once(rule.first.resource, Code::RuleWithoutService, host.span, message);
            }
        }
    }
}

impl<'d, 'r> Rule<'d, 'r> {
    fn merge(&mut self, rule: &'d DestinationRule<'r>, notes: &mut Notes<'_>) {
        let selectors = self.first.selector.as_ref().zip(rule.selector.as_ref());
        if selectors.is_some_and(|(first, other)| !first.is_same(other)) {
            let message = format!(
                "{} decides for {} and selects others: they are not merged",
                self.first.resource.label, rule.host.value
            );
            notes.once(rule.resource, Code::LostRule, rule.host.span, message);
            return;
        }
        if rule.export_to != self.first.export_to {
            let message = format!(
                "{} decides for {} and exports to others: they are not merged",
                self.first.resource.label, rule.host.value
            );
            notes.once(rule.resource, Code::LostRule, rule.host.span, message);
            return;
        }
        if self.policy_of.policy.is_empty() {
            self.policy_of = rule;
        } else if !std::ptr::eq(self.policy_of, rule) && !rule.policy.is_empty() {
            let message = format!(
                "the traffic policy of {} counts for {}: it came first",
                self.policy_of.resource.label, rule.host.value
            );
            notes.once(rule.resource, Code::LostRule, rule.host.span, message);
        }
        for subset in &rule.subsets {
            if self.subset(&subset.name.value).is_none() {
                self.subsets.push((rule, subset));
            } else {
                let message = format!("another rule for {} declares this subset already", rule.host.value);
                notes.once(rule.resource, Code::LostRule, subset.name.span, message);
            }
        }
    }

    /// A subset and the rule it stands in.
    pub(super) fn subset(&self, name: &str) -> Option<(&'d DestinationRule<'r>, &'d Subset)> {
        self.subsets.iter().find(|(_, subset)| *subset.name.value == *name).copied()
    }

    /// The settings for a port of the service or of a subset of it.
    pub(super) fn settings(&self, subset: Option<&Subset>, port: u16) -> Settings {
        Policy::settings_for(subset.map(|subset| &subset.policy), &self.policy_of.policy, port)
    }

    /// The policy for the whole service.
    pub(super) fn policy(&self) -> &'d Policy {
        &self.policy_of.policy
    }

    /// `retryBudget` of a subset, else of the service; that of ports is the service's, as in Istio.
    pub(super) fn retry_budget(&self, subset: Option<&'d Subset>) -> Option<Spanned<RetryBudget>> {
        let policies = subset.map(|subset| &subset.policy).into_iter().chain([self.policy()]);
        policies.filter_map(|policy| policy.retry_budget).next()
    }

    /// `proxyProtocol`, the same.
    pub(super) fn proxy_protocol(&self, subset: Option<&Subset>) -> Option<ProxyProtocol> {
        subset.and_then(|subset| subset.policy.proxy_protocol).or(self.policy().proxy_protocol)
    }

    /// Where the `connectionPool` stands that a subset or the service has, or the budget where there is none.
    pub(super) fn place_of_pool(
        &self,
        subset: Option<&Subset>,
        pool: &Pool,
        budget: Option<Span>,
    ) -> (&'r Resource, Span) {
        let span = if pool.is_unbounded() { budget.unwrap_or_default() } else { pool.span };
        let of_subset = |subset: &&Subset| {
            let policy = &subset.policy;
            let pools = policy.ports.iter().map(|(_, settings)| settings).chain([&policy.settings]);
            let pools = pools.filter_map(|settings| settings.pool.as_ref()).map(|pool| pool.span);
            pools.chain(policy.retry_budget.map(|budget| budget.span)).any(|own| own == span)
        };
        let owner = subset.filter(of_subset).and_then(|subset| self.subset(&subset.name.value));
        (owner.map_or(self.resource(), |(rule, _)| rule.resource), span)
    }

    /// The resource whose policy counts.
    pub(super) fn resource(&self) -> &'r Resource {
        self.policy_of.resource
    }

    /// Credentials for this host as a parent proxy, with the resource that names them.
    pub(super) fn authorization(&self) -> Option<(&'r Resource, &'d Spanned<CredentialRef>)> {
        let rules = [self.first, self.policy_of];
        rules.into_iter().find_map(|rule| Some((rule.resource, rule.authorization.as_ref()?)))
    }

    /// How this host as a parent is probed.
    pub(super) fn probe(&self) -> Option<&'d Spanned<Probe>> {
        [self.first, self.policy_of].into_iter().find_map(|rule| rule.probe.as_ref())
    }

    /// The way to this host, with the resource that says it.
    pub(super) fn via(&self) -> Option<(&'r Resource, &'d Spanned<ViaRef>)> {
        [self.first, self.policy_of].into_iter().find_map(|rule| Some((rule.resource, rule.via.as_ref()?)))
    }

    /// Plain HTTP goes to this parent in absolute-form.
    pub(super) fn is_absolute_form(&self) -> bool {
        self.first.absolute_form || self.policy_of.absolute_form
    }
}
