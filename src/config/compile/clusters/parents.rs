//! Which way leads to a cluster: that of the annotation `egret.dev/via`, or that of the settings' lists.

use std::sync::Arc;

use super::{Clusters, Found, Place, Reference, Stands};
use crate::config::compile::notes::Notes;
use crate::config::compile::policy_origin;
use crate::config::compile::rules::Rule;
use crate::config::compile::services::Declared;
use crate::config::diagnostic::Code;
use crate::config::kinds::parent::{ParentRef, ViaRef};
use crate::config::source::Span;
use crate::flow::{Host, Origin, Target};
use crate::route::cluster::Hop;
use crate::route::parents::{Entry, Parents};
use crate::route::{Cluster, Discovery, Via};

impl Clusters<'_, '_, '_> {
    /// The cluster of a service on the way that `egret.dev/via` says: of the DestinationRule, else of the service.
    pub(super) fn led(
        &mut self,
        cluster: Cluster,
        declared: &Declared<'_, '_>,
        rule: Option<&Rule<'_, '_>>,
        notes: &mut Notes<'_>,
    ) -> Cluster {
        let entry = declared.entry;
        let of_entry = || entry.annotations.via.as_ref().map(|via| (entry.resource, via));
        let Some((resource, via)) = rule.and_then(Rule::via).or_else(of_entry) else { return cluster };
        let origin = resource.origin(via.span);
        let parent = match &via.value {
            ViaRef::Direct => return Cluster { straight: Some(Arc::new(origin)), ..cluster },
            ViaRef::Parent(parent) => parent,
        };
        if *parent.host.value == *declared.host && parent.port == declared.port.number {
            let message = format!("{} is to be reached through itself", declared.host);
            notes.once_with(resource, Code::OwnParent, via.span, message, |diagnostic| {
                diagnostic.help(
                    "name another service, or write the annotation on a resource that declares the targets alone",
                );
            });
            return cluster; // which is an error, so nobody uses it
        }
        let hop = self.parent(&place(parent), Stands::In(resource), via.span, origin, notes);
        Cluster { via: Via::Connect(Arc::new(hop)), ..cluster }
    }

    /// The settings' lists, as this namespace sees the parent that they name.
    pub(in crate::config::compile) fn listed(&mut self, notes: &mut Notes<'_>) -> Option<Arc<Parents>> {
        let settings = self.settings;
        let lists = &settings.parents;
        if lists.always.is_empty() && lists.never.is_empty() {
            return None;
        }
        let plain = self.pass_through(policy_origin(settings));
        let origin = |span: Span| settings.origin(span);
        let mut entries = Vec::new();
        for entry in &lists.never {
            let straight = Arc::new(origin(entry.span));
            let unknown = Arc::new(Cluster { straight: Some(straight.clone()), ..plain.clone() });
            let said = Entry { port: entry.value.port, unknown, hop: None, origin: straight };
            entries.extend(entry.value.whom.iter().map(|whom| (whom.clone(), said.clone())));
        }
        if let Some(first) = lists.always.first() {
            let (place, stands, span) = match (&lists.through, &settings.mesh.egress_proxy) {
                (Some(through), _) => (place(through), Stands::InSettings, through.host.span),
                (None, Some(proxy)) => {
                    let subset = proxy.subset.as_ref().map(|subset| subset.value.as_ref().into());
                    let host = proxy.host.value.as_ref().into();
                    let place = Place { host, port: proxy.port, subset, is_one_of_several: false };
                    (place, Stands::InPolicy, proxy.host.span)
                }
                (None, None) => {
                    if notes.is_new(usize::MAX, Code::Conflict, first.span) {
                        let message = "no parent is named that these targets could go through";
                        settings
                            .report(Code::Conflict, first.span, message, notes.diagnostics)
                            .help("write `through: HOST:PORT` beside it, or mesh.outboundTrafficPolicy.egressProxy");
                    }
                    return None;
                }
            };
            let parent = self.parent(&place, stands, span, Origin::default(), notes);
            for entry in &lists.always {
                let hop = Arc::new(Hop { origin: origin(entry.span), ..parent.clone() });
                let unknown = Arc::new(Cluster { via: Via::Connect(hop.clone()), ..plain.clone() });
                let origin = Arc::new(origin(entry.span));
                let said = Entry { port: entry.value.port, unknown, hop: Some(hop), origin };
                entries.extend(entry.value.whom.iter().map(|whom| (whom.clone(), said.clone())));
            }
        }
        self.parents = Some(Arc::new(Parents::new(entries)));
        self.parents.clone()
    }

    /// The cluster of a copy's destination, on the way that the lists have for that.
    pub(in crate::config::compile) fn led_by_lists(
        &self,
        cluster: Arc<Cluster>,
        host: &str,
        port: u16,
    ) -> Arc<Cluster> {
        match (&self.parents, Host::parse(host.as_bytes())) {
            (Some(parents), Ok(host)) => parents.lead_cluster(cluster, &Target { host, port }),
            _ => cluster,
        }
    }

    /// The parent that a service port is; one that fails every flow where there is none.
    fn parent(&mut self, place: &Place, stands: Stands<'_>, span: Span, origin: Origin, notes: &mut Notes<'_>) -> Hop {
        let reference = Reference { stands, host: span, subset: span };
        match self.find(place, reference, notes) {
            Ok(Found { declared, rule, subset }) => {
                let behind = rule.and_then(Rule::via).map(|(resource, via)| (resource, via.span));
                let of_entry = || Some((declared.entry.resource, declared.entry.annotations.via.as_ref()?.span));
                if let Some((resource, span)) = behind.or_else(of_entry) {
                    let message = format!("{} is a parent proxy itself, and is asked directly as one", declared.host);
                    notes.once(resource, Code::ParentBehindParent, span, message);
                }
                self.hop(&declared, rule, subset, None, origin, notes)
            }
            Err(sentence) => {
                let cluster = Arc::new(Cluster {
                    discovery: Discovery::Missing(sentence.clone()),
                    ..self.missing(place, sentence)
                });
                Hop {
                    cluster,
                    method: Default::default(),
                    target: None,
                    authorization: None,
                    absolute_form: false,
                    probe: None,
                    origin,
                }
            }
        }
    }
}

fn place(parent: &ParentRef) -> Place {
    Place { host: parent.host.value.clone(), port: parent.port, subset: None, is_one_of_several: false }
}
