//! `listeners[].tls`.

use std::path::{Path, PathBuf};

use super::values;
use crate::config::diagnostic::{Code, Context};
use crate::config::read::Fields;
use crate::config::source::Spanned;
use crate::tls::server::Alpn;

/// TLS that a listener speaks to its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// PEM chain, the own certificate first.
    pub certificate: Spanned<PathBuf>,
    /// PEM.
    pub private_key: Spanned<PathBuf>,
    /// PEM bundle that clients' certificates are verified against; there unless none are asked for.
    pub client_ca: Option<Spanned<PathBuf>>,
    /// PEM bundle of revocation lists of these authorities.
    pub client_crl: Option<Spanned<PathBuf>>,
    /// `clientCertificate`.
    pub client_certificate: ClientCertificate,
    /// The best first.
    pub alpn: Vec<Alpn>,
}

/// `clientCertificate`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Not asked for.
    #[default]
    None,
    /// Verified if shown.
    Optional,
    /// Needed.
    Required,
}

const CLIENT_CERTIFICATE: [(&str, ClientCertificate); 3] = [
    ("none", ClientCertificate::None),
    ("optional", ClientCertificate::Optional),
    ("required", ClientCertificate::Required),
];
const ALPN: [(&str, Alpn); 2] = [("http/1.1", Alpn::Http1), ("h2", Alpn::Http2)];

impl Tls {
    /// True if it asks for the same from the same files, wherever that is written.
    pub fn is_as(&self, other: &Self) -> bool {
        let files = |tls: &Self| {
            let optional = |file: &Option<Spanned<PathBuf>>| file.as_ref().map(|file| file.value.clone());
            let of_clients = [optional(&tls.client_ca), optional(&tls.client_crl)];
            (tls.certificate.value.clone(), tls.private_key.value.clone(), of_clients)
        };
        files(self) == files(other) && self.client_certificate == other.client_certificate && self.alpn == other.alpn
    }
}

pub(super) fn read(mut fields: Fields<'_>, folder: &Path, cx: &mut Context<'_>) -> Option<Tls> {
    let certificate = fields.required("certificate", cx).and_then(|node| values::path(node, folder, cx));
    let private_key = fields.required("privateKey", cx).and_then(|node| values::path(node, folder, cx));
    let client_ca = fields.get("clientCa").and_then(|node| values::path(node, folder, cx));
    let client_crl = fields.get("clientCrl");
    if let Some(node) = client_crl.filter(|_| client_ca.is_none() && fields.get("clientCa").is_none()) {
        cx.report(Code::Conflict, node.span, "clientCrl has a meaning beside clientCa only");
    }
    let client_crl = client_crl.and_then(|node| values::path(node, folder, cx));
    let asked = fields.get("clientCertificate");
    let client_certificate = match asked.map(|node| (node, node.one_of(&CLIENT_CERTIFICATE, cx))) {
        // Who names an authority wants its clients and no others.
        None if client_ca.is_some() => ClientCertificate::Required,
        None => ClientCertificate::None,
        Some((node, Some(ClientCertificate::None))) => {
            if client_ca.is_some() {
                let message = "clientCa is there, and no certificate is asked for";
                cx.report_value(Code::Conflict, node, message)
                    .help("write optional or required, or leave clientCa out");
            }
            ClientCertificate::None
        }
        Some((node, Some(asked))) => {
            if client_ca.is_none() && fields.get("clientCa").is_none() {
                let message = "`clientCa` is missing: clients' certificates are verified against it";
                cx.report(Code::MissingField, node.span, message);
            }
            asked
        }
        Some((_, None)) => ClientCertificate::None,
    };
    let mut alpn = Vec::new();
    for item in fields.list("alpn", cx) {
        if let Some(protocol) = item.one_of(&ALPN, cx) {
            match alpn.contains(&protocol) {
                true => _ = cx.report_value(Code::NameUsedTwice, item, format!("{} is there twice", protocol.as_str())),
                false => alpn.push(protocol),
            }
        }
    }
    if alpn.is_empty() {
        alpn.push(Alpn::Http1);
    }
    fields.finish(cx);
    Some(Tls { certificate: certificate?, private_key: private_key?, client_ca, client_crl, client_certificate, alpn })
}
