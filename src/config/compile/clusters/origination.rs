//! TLS that a rule asks for around the stream to a cluster.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Clusters, report_missing};
use crate::config::compile::credentials::Peer;
use crate::config::compile::notes::Notes;
use crate::config::compile::rules::Rule;
use crate::config::compile::services::Declared;
use crate::config::diagnostic::Code;
use crate::config::kinds::destination_rule::{Settings as PortSettings, Subset, Tls, TlsMode};
use crate::config::source::{Span, Spanned};
use crate::flow::{Host, Name};
use crate::route::cluster::{Origination, Sni};
use crate::tls::ClientTls;
use crate::tls::x509::Shown;

impl Clusters<'_, '_, '_> {
    pub(super) fn origination(
        &mut self,
        declared: &Declared<'_, '_>,
        rule: Option<&Rule<'_, '_>>,
        subset: Option<&Subset>,
        settings: &PortSettings,
        notes: &mut Notes<'_>,
    ) -> Option<Origination> {
        let tls = settings.tls.as_ref()?;
        let mode = match tls.value.mode {
            TlsMode::Disable => return None,
            TlsMode::Simple => "SIMPLE",
            TlsMode::Mutual => "MUTUAL",
            TlsMode::IstioMutual => "ISTIO_MUTUAL",
        };
        let rule = rule?;
        // Where the subset has settings, they stand in its own resource.
        let resource = match subset.and_then(|subset| rule.subset(&subset.name.value)) {
            Some((of, subset)) if is_from_subset(tls, subset) => of.resource,
            _ => rule.resource(),
        };
        let subset_name = subset.map(|subset| &*subset.name.value);
        let peer = Peer {
            names: &declared.entry.subject_alt_names,
            namespace: self.namespace,
            trust_domain: &self.settings.mesh.trust_domain,
            protocol: declared.protocol,
        };
        let client = self.credentials.client(&tls.value, &peer);
        let client = client.map_err(|missing| {
            let span = missing_span(&tls.value, tls.span);
            report_missing(resource, span, missing, "TLS", notes)
        });
        if let Ok(client) = &client
            && let Some(problem) = expiry(client)
        {
            notes.once(resource, Code::CertificateNotValid, missing_span(&tls.value, tls.span), problem);
        }
        let of_mesh = || (tls.value.mode == TlsMode::IstioMutual).then(|| mesh_sni(declared, subset_name)).flatten();
        let sni = tls.value.sni.clone().or_else(of_mesh).map_or(Sni::Asked, Sni::Fixed);
        Some(Origination { mode, sni, client, origin: resource.origin(tls.span) })
    }
}

pub(super) fn warn_of_double_tls(declared: &Declared<'_, '_>, rule: &Rule<'_, '_>, notes: &mut Notes<'_>) {
    let Some(tls) = rule.settings(None, declared.port.number).tls.filter(|tls| tls.value.mode != TlsMode::Disable)
    else {
        return;
    };
    let message = format!(
        "tunnels to port {} of {} carry TLS of the client, which this rule would wrap into TLS again",
        declared.port.number, declared.host
    );
    notes.once_with(rule.resource(), Code::DoubleTls, tls.span, message, |diagnostic| {
        diagnostic.help("limit it to the plain port with portLevelSettings");
    });
}

/// The name to send to a parent and to find in its certificate is the parent's own, not that of what the client asked for.
pub(super) fn parent_origination(declared: &Declared<'_, '_>, tls: Origination) -> Origination {
    match (&tls.sni, Host::parse(declared.host.as_bytes())) {
        (Sni::Asked, Ok(Host::Name(name))) => Origination { sni: Sni::Fixed(name), ..tls },
        _ => tls,
    }
}

fn is_from_subset(tls: &Spanned<Tls>, subset: &Subset) -> bool {
    let settings = subset.policy.ports.iter().map(|(_, settings)| settings).chain([&subset.policy.settings]);
    settings.filter_map(|settings| settings.tls.as_ref()).any(|own| own.span == tls.span)
}

/// The name that Istio's own proxies ask for inside the mesh (ISTIO 7); a wildcard has none.
fn mesh_sni(declared: &Declared<'_, '_>, subset: Option<&str>) -> Option<Name> {
    let name = format!("outbound_.{}_.{}_.{}", declared.port.number, subset.unwrap_or_default(), declared.host);
    Name::parse(name.as_bytes()).ok()
}

/// What is wrong with the dates of a client's certificates. They are used all the same, as in Istio: clocks may differ.
fn expiry(client: &ClientTls) -> Option<String> {
    let files = client.files();
    let of = |path: &Option<Arc<str>>, shown: &[Shown]| {
        let now = Timestamp::now().as_second();
        let problem = shown.iter().find_map(|shown| shown.validity.problem(now))?;
        Some(format!("{}: the certificate {problem}", path.as_deref().unwrap_or("the client certificate")))
    };
    of(&files.chain, client.chain()).or_else(|| of(&files.ca, client.authorities()))
}

fn missing_span(tls: &Tls, whole: Span) -> Span {
    let client = tls.client.as_ref().map(|(certificate, _)| certificate);
    [tls.credential.as_ref(), tls.ca.as_ref(), tls.crl.as_ref(), client]
        .into_iter()
        .flatten()
        .next()
        .map_or(whole, |text| text.span)
}
