//! From a listener's settings to what the data plane takes: credentials, certificates. What is wrong with a file is reported at the
//! place that names it; nothing but an error ever leaves a listener without the credentials or the TLS that it asks for.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use super::listeners::Wanted;
use crate::accept::ListenerSettings;
use crate::accept::basic::{Basic, Htpasswd};
use crate::accept::certified::Workloads;
use crate::config::material;
use crate::config::settings::{self, ClientCertificate, Listener, Protocol, Settings};
use crate::config::source::Spanned;
use crate::config::{Code, Diagnostics};
use crate::flow::{ListenerKind, ListenerName};
use crate::route::IpSet;
use crate::tls::TlsError;
use crate::tls::server::{ClientCa, ClientCertificates, ServerTls, ServerTlsSpec};

/// `before` is the TLS of this listener as it is in force, where that is made of the same files.
pub(super) fn listener(
    listener: &Listener,
    before: Option<&ServerTls>,
    settings: &Settings,
    diagnostics: &mut Diagnostics,
) -> Wanted {
    let kind = match listener.protocol {
        Protocol::Forward => ListenerKind::Forward,
        Protocol::Sni => ListenerKind::Sni,
    };
    let name = ListenerName { name: listener.name.value.to_string(), kind };
    let compiled = ListenerSettings {
        name: Arc::new(name),
        workloads: Workloads::new(settings.workload_of(listener)),
        clients: listener.admitted().map(IpSet::from_iter),
        basic: listener.clients.basic.as_ref().and_then(|basic| credentials(basic, settings, diagnostics)),
        tls: listener.tls.as_ref().and_then(|tls| server(tls, before, settings, diagnostics)),
        proxy_protocol: listener.proxy_protocol.as_ref().map(|from| from.iter().copied().collect()),
        sni_port: listener.upstream_port,
    };
    Wanted { address: listener.address.value.clone(), socket_mode: listener.socket_mode, settings: compiled }
}

/// The users of a listener.
fn credentials(basic: &settings::Basic, settings: &Settings, diagnostics: &mut Diagnostics) -> Option<Arc<Basic>> {
    let path = &basic.htpasswd.value;
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let message = format!("the file {} does not exist", path.display());
            let diagnostic = settings.report(Code::FileMissing, basic.htpasswd.span, message, diagnostics);
            diagnostic.help("nobody can log in until it is there");
            Ok(String::new())
        }
        text => text,
    };
    let (code, problem) = match text.map(|text| Htpasswd::parse(&text)) {
        Ok(Ok(users)) => return Some(Arc::new(Basic::new(&basic.realm, users))),
        Ok(Err(error)) => (Code::BadValue, error.to_string()),
        Err(error) => (Code::InputUnreadable, error.to_string()),
    };
    settings.report(code, basic.htpasswd.span, format!("{}: {problem}", path.display()), diagnostics);
    None
}

/// The TLS server of a listener. A file that is missing or of no use is an error: there is no listener without it. Where the same
/// files were good `before`, the listener goes on with what they held then, and that is a warning: one bad file must not keep all else
/// that is new from coming into force.
fn server(
    tls: &settings::Tls,
    before: Option<&ServerTls>,
    settings: &Settings,
    diagnostics: &mut Diagnostics,
) -> Option<ServerTls> {
    let problems = match compile(tls) {
        Ok(server) => {
            warn_of_validity(&server, tls, settings, diagnostics);
            return Some(server);
        }
        Err(problems) => problems,
    };
    for Problem { code, file, sentence } in problems {
        let sentence = format!("{}: {sentence}", file.value.display());
        match before {
            None => _ = settings.report(code, file.span, sentence, diagnostics),
            Some(_) => {
                let message = format!("{sentence}; the listener goes on with what it had");
                settings.report(Code::CertificateKept, file.span, message, diagnostics);
            }
        }
    }
    before.cloned()
}

/// What is wrong with a file of `tls`.
struct Problem<'a> {
    code: Code,
    file: &'a Spanned<PathBuf>,
    sentence: String,
}

fn compile<'t>(tls: &'t settings::Tls) -> Result<ServerTls, Vec<Problem<'t>>> {
    let [certificate, private_key] = material::read_together([&tls.certificate.value, &tls.private_key.value]);
    let optional = |file: &'t Option<Spanned<PathBuf>>| file.as_ref().map(|file| (file, material::read(&file.value)));
    let (client_ca, client_crl) = (optional(&tls.client_ca), optional(&tls.client_crl));
    let mut problems = Vec::new();
    let mut take = |file, read: io::Result<Vec<u8>>| match read {
        Ok(pem) => Some(pem),
        Err(error) => {
            problems.push(Problem { code: Code::InputUnreadable, file, sentence: error.to_string() });
            None
        }
    };
    let (certificate, private_key) = (take(&tls.certificate, certificate), take(&tls.private_key, private_key));
    let client_ca = client_ca.and_then(|(file, read)| take(file, read));
    // A list that cannot be read is none that says nothing.
    let client_crl = client_crl.map(|(file, read)| take(file, read)).map_or(Some(None), |pem| pem.map(Some));
    let client_ca = client_ca.zip(client_crl).map(|(pem, crl_pem)| ClientCa { pem, crl_pem });
    let clients = match (tls.client_certificate, client_ca) {
        (ClientCertificate::None, _) => Some(ClientCertificates::None),
        (ClientCertificate::Optional, Some(ca)) => Some(ClientCertificates::Optional(ca)),
        (ClientCertificate::Required, Some(ca)) => Some(ClientCertificates::Required(ca)),
        (_, None) => None, // reported already
    };
    let (Some(certificate), Some(private_key), Some(clients)) = (certificate, private_key, clients) else {
        return Err(problems);
    };
    let spec = ServerTlsSpec { certificate, private_key, clients, alpn: tls.alpn.clone() };
    ServerTls::new(spec).map_err(|TlsError::Pem { what, problem }| {
        let file = match what {
            "privateKey" => &tls.private_key,
            "clientCa" => tls.client_ca.as_ref().unwrap_or(&tls.certificate),
            "clientCrl" => tls.client_crl.as_ref().unwrap_or(&tls.certificate),
            _ => &tls.certificate,
        };
        vec![Problem { code: Code::BadCertificate, file, sentence: problem }]
    })
}

fn warn_of_validity(server: &ServerTls, tls: &settings::Tls, settings: &Settings, diagnostics: &mut Diagnostics) {
    let now = Timestamp::now().as_second();
    let own = server.chain().first().into_iter().map(|shown| (&tls.certificate, shown));
    let authorities = tls.client_ca.iter().flat_map(|file| server.authorities().iter().map(move |shown| (file, shown)));
    for (file, shown) in own.chain(authorities) {
        if let Some(problem) = shown.validity.problem(now) {
            let message = format!("{}: the certificate {problem}", file.value.display());
            settings.report(Code::CertificateNotValid, file.span, message, diagnostics);
        }
    }
}
