//! When the certificates in use end, for the metrics: those of listeners and of rules, and the authorities of both.

use std::collections::HashMap;
use std::sync::Arc;

use super::listeners::Wanted;
use crate::account::metrics::{Certificate, Holder};
use crate::route::Snapshot;
use crate::tls::x509::Shown;

const CERTIFICATES_MAX: usize = 500; // series of one metric; those that end first

/// All of them, those that end first in front.
pub(super) fn of(listeners: &[Wanted], snapshot: &Snapshot) -> Vec<Certificate> {
    let mut certificates: Vec<Certificate> = listeners.iter().flat_map(of_listener).collect();
    certificates.extend(of_rules(snapshot));
    certificates.sort_by(|a, b| (a.not_after, &a.holder, a.role).cmp(&(b.not_after, &b.holder, b.role)));
    certificates.truncate(CERTIFICATES_MAX);
    certificates
}

fn of_listener(wanted: &Wanted) -> Vec<Certificate> {
    let Some(tls) = &wanted.settings.tls else { return Vec::new() };
    let holder = Holder::Listener(wanted.settings.name.name.as_str().into());
    let entry = |role, shown: &Shown| Certificate { holder: holder.clone(), role, not_after: shown.validity.not_after };
    // Of a bundle the one that ends first: from then on some clients are refused.
    let own = tls.chain().first().map(|own| entry("certificate", own));
    own.into_iter().chain(first_to_end(tls.authorities()).map(|first| entry("clientCa", first))).collect()
}

fn of_rules(snapshot: &Snapshot) -> Vec<Certificate> {
    let mut ends: HashMap<(Arc<str>, &'static str), i64> = HashMap::new();
    snapshot.for_each_cluster(|cluster| {
        let Some(tls) = &cluster.tls else { return };
        let Ok(client) = &tls.client else { return };
        let parts =
            [("clientCertificate", client.chain().first()), ("caCertificates", first_to_end(client.authorities()))];
        for (role, shown) in parts {
            let Some(Shown { validity, .. }) = shown else { continue };
            let end = ends.entry((tls.origin.resource.clone(), role)).or_insert(validity.not_after);
            *end = validity.not_after.min(*end);
        }
    });
    let certificate = |((rule, role), not_after)| Certificate { holder: Holder::Rule(rule), role, not_after };
    ends.into_iter().map(certificate).collect()
}

fn first_to_end(shown: &[Shown]) -> Option<&Shown> {
    shown.iter().min_by_key(|shown| shown.validity.not_after)
}
