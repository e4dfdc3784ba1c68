//! `tls`: what is wrapped around the stream (ISTIO 7).

use std::sync::Arc;

use crate::config::diagnostic::{Code, Context};
use crate::config::kinds::SharedText;
use crate::config::read::Fields;
use crate::config::source::Span;
use crate::config::yaml::Node;
use crate::flow::Name;

/// `tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The mode.
    pub mode: TlsMode,
    /// `caCertificates`; `None`: the system's.
    pub ca: Option<SharedText>,
    /// `caCrl`: revocation lists.
    pub crl: Option<SharedText>,
    /// `clientCertificate` and `privateKey`.
    pub client: Option<(SharedText, SharedText)>,
    /// `credentialName`.
    pub credential: Option<SharedText>,
    /// `sni`.
    pub sni: Option<Name>,
    /// `subjectAltNames`.
    pub subject_alt_names: Vec<String>,
    /// `insecureSkipVerify`.
    pub insecure_skip_verify: bool,
}

/// `tls.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Istio's own names
pub enum TlsMode {
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}

pub(super) fn read_tls(node: &Node, cx: &mut Context<'_>) -> Option<Tls> {
    let mut fields = Fields::of(node, cx)?;
    let mode = match fields.get("mode") {
        Some(mode) => mode.one_of(TLS_MODES, cx),
        None => Some(TlsMode::Disable),
    };
    let text = |fields: &mut Fields<'_>, name, cx: &mut Context<'_>| {
        fields.text(name, cx).filter(|text| !text.value.is_empty()).map(|text| text.map(Arc::<str>::from))
    };
    let certificate = text(&mut fields, "clientCertificate", cx);
    let key = text(&mut fields, "privateKey", cx);
    let ca = text(&mut fields, "caCertificates", cx);
    let crl = text(&mut fields, "caCrl", cx);
    let credential = text(&mut fields, "credentialName", cx);
    let sni = fields.get("sni").filter(|node| node.scalar() != Some("")).and_then(|node| read_sni(node, cx));
    let sans = fields.list("subjectAltNames", cx).iter().filter_map(|item| item.text(cx));
    let subject_alt_names: Vec<String> = sans.map(|text| text.value.to_owned()).collect();
    let skip = fields.get("insecureSkipVerify").and_then(|node| Some((node.boolean(cx)?, node.span)));
    fields.finish(cx);
    let mode = mode?;
    let files = TlsFiles { certificate, key, ca, crl, credential };
    files.check(mode, node.span, cx);
    if let Some((true, span)) = skip {
        let has_names = !subject_alt_names.is_empty();
        if files.ca.is_some()
            || files.crl.is_some()
            || has_names
            || (mode == TlsMode::Simple && files.credential.is_some())
        {
            let message = "`insecureSkipVerify` verifies nothing, so there must be nothing to verify against";
            cx.report(Code::SkipVerifyContradicts, span, message);
        }
    }
    let TlsFiles { certificate, key, ca, crl, credential } = files;
    Some(Tls {
        mode,
        ca: ca.filter(|ca| &*ca.value != "system"),
        crl,
        client: certificate.zip(key).filter(|_| mode == TlsMode::Mutual),
        credential,
        sni,
        subject_alt_names,
        insecure_skip_verify: matches!(skip, Some((true, _))),
    })
}

/// References to key material in one `tls`.
struct TlsFiles {
    certificate: Option<SharedText>,
    key: Option<SharedText>,
    ca: Option<SharedText>,
    crl: Option<SharedText>,
    credential: Option<SharedText>,
}

impl TlsFiles {
    fn check(&self, mode: TlsMode, span: Span, cx: &mut Context<'_>) {
        let files = [&self.certificate, &self.key, &self.ca, &self.crl];
        if let Some(file) = files.into_iter().flatten().next().filter(|_| self.credential.is_some()) {
            cx.report(Code::CredentialAndFiles, file.span, "`credentialName` and files exclude each other");
            return;
        }
        match mode {
            TlsMode::Mutual if self.credential.is_none() && (self.certificate.is_none() || self.key.is_none()) => {
                let missing = if self.certificate.is_none() { "clientCertificate" } else { "privateKey" };
                cx.report(Code::MutualNeedsCertificate, span, format!("mode MUTUAL needs `{missing}`"));
            }
            TlsMode::Simple => {
                if let Some(file) = self.certificate.as_ref().or(self.key.as_ref()) {
                    let report =
                        cx.report(Code::TlsFieldWithoutUse, file.span, "mode SIMPLE presents no client certificate");
                    report.help("mode MUTUAL does");
                }
            }
            TlsMode::IstioMutual => {
                if let Some(file) = files.into_iter().flatten().chain(&self.credential).next() {
                    let message = "mode ISTIO_MUTUAL presents the certificate of the mesh: others have no use";
                    cx.report(Code::TlsFieldWithoutUse, file.span, message).help("mode MUTUAL takes them");
                }
            }
            TlsMode::Mutual | TlsMode::Disable => {}
        }
    }
}

fn read_sni(node: &Node, cx: &mut Context<'_>) -> Option<Name> {
    node.parsed(|text| Name::parse(text.as_bytes()), cx).map(|name| name.value)
}

const TLS_MODES: &[(&str, TlsMode)] = &[
    ("DISABLE", TlsMode::Disable),
    ("SIMPLE", TlsMode::Simple),
    ("MUTUAL", TlsMode::Mutual),
    ("ISTIO_MUTUAL", TlsMode::IstioMutual),
];
