//! From a listener's settings to what the data plane takes: credentials, certificates. What is wrong with a file is reported at the
//! place that names it; nothing but an error ever leaves a listener without the credentials or the TLS that it asks for.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::listeners::Wanted;
use crate::accept::ListenerSettings;
use crate::accept::basic::{Basic, Htpasswd};
use crate::account::metrics::Certificate;
use crate::config::settings::{self, ClientCertificate, Listener, Protocol, Settings};
use crate::config::source::Spanned;
use crate::config::{Code, Diagnostics};
use crate::flow::{ListenerKind, ListenerName};
use crate::route::IpSet;
use crate::tls::TlsError;
use crate::tls::server::{ClientCertificates, ServerTls, ServerTlsSpec};
use crate::tls::x509::Validity;

pub(super) fn listener(listener: &Listener, settings: &Settings, diagnostics: &mut Diagnostics) -> Wanted {
    let kind = match listener.protocol {
        Protocol::Forward => ListenerKind::Forward,
        Protocol::Sni => ListenerKind::Sni,
    };
    let name = ListenerName { name: listener.name.value.to_string(), kind };
    let compiled = ListenerSettings {
        name: Arc::new(name),
        workload: settings.workload_of(listener),
        clients: listener.admitted().map(IpSet::from_iter),
        basic: listener.clients.basic.as_ref().and_then(|basic| credentials(basic, settings, diagnostics)),
        tls: listener.tls.as_ref().and_then(|tls| server(tls, settings, diagnostics)),
        proxy_protocol: listener.proxy_protocol.as_ref().map(|from| from.iter().copied().collect()),
        sni_port: listener.upstream_port,
    };
    Wanted { address: listener.address.value.clone(), socket_mode: listener.socket_mode, settings: compiled }
}

/// When the certificates of these listeners end, for the metrics.
pub(super) fn certificates(listeners: &[Wanted]) -> Vec<Certificate> {
    let of = |wanted: &Wanted| -> Vec<Certificate> {
        let Some(tls) = &wanted.settings.tls else { return Vec::new() };
        let listener = &wanted.settings.name.name;
        let entry =
            |role, validity: Validity| Certificate { listener: listener.clone(), role, not_after: validity.not_after };
        // Of a bundle the one that ends first: from then on some clients are refused.
        let first_to_end = tls.authorities().iter().min_by_key(|validity| validity.not_after);
        let own = tls.validity().map(|validity| entry("certificate", validity));
        own.into_iter().chain(first_to_end.map(|validity| entry("clientCa", *validity))).collect()
    };
    listeners.iter().flat_map(of).collect()
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

/// The TLS server of a listener; a file that is missing is an error too: there is no listener without it.
fn server(tls: &settings::Tls, settings: &Settings, diagnostics: &mut Diagnostics) -> Option<ServerTls> {
    let mut read = |file: &Spanned<PathBuf>| match read_file(&file.value) {
        Ok(pem) => Some(pem),
        Err(error) => {
            let problem = format!("{}: {error}", file.value.display());
            settings.report(Code::InputUnreadable, file.span, problem, diagnostics);
            None
        }
    };
    let (certificate, private_key) = (read(&tls.certificate), read(&tls.private_key));
    let clients = match (tls.client_certificate, &tls.client_ca) {
        (ClientCertificate::None, _) => Some(ClientCertificates::None),
        (ClientCertificate::Optional, Some(ca)) => read(ca).map(ClientCertificates::Optional),
        (ClientCertificate::Required, Some(ca)) => read(ca).map(ClientCertificates::Required),
        (_, None) => None, // reported already
    };
    let spec = ServerTlsSpec {
        certificate: certificate?,
        private_key: private_key?,
        clients: clients?,
        alpn: tls.alpn.clone(),
    };
    match ServerTls::new(spec) {
        Ok(server) => {
            warn_of_validity(&server, tls, settings, diagnostics);
            Some(server)
        }
        Err(TlsError::Pem { what, problem }) => {
            let file = match what {
                "privateKey" => &tls.private_key,
                "clientCa" => tls.client_ca.as_ref().unwrap_or(&tls.certificate),
                _ => &tls.certificate,
            };
            settings.report(
                Code::BadCertificate,
                file.span,
                format!("{}: {problem}", file.value.display()),
                diagnostics,
            );
            None
        }
    }
}

fn warn_of_validity(server: &ServerTls, tls: &settings::Tls, settings: &Settings, diagnostics: &mut Diagnostics) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let own = server.validity().into_iter().map(|validity| (&tls.certificate, validity));
    let authorities =
        tls.client_ca.iter().flat_map(|file| server.authorities().iter().map(move |validity| (file, *validity)));
    for (file, validity) in own.chain(authorities) {
        let problem = match validity {
            Validity { not_after, .. } if not_after < now => format!("has expired on {}", date(not_after)),
            Validity { not_before, .. } if not_before > now => format!("is not valid before {}", date(not_before)),
            _ => continue,
        };
        let message = format!("{}: the certificate {problem}", file.value.display());
        settings.report(Code::CertificateNotValid, file.span, message, diagnostics);
    }
}

fn date(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| format!("{seconds} s"), |timestamp| timestamp.to_string())
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // A FIFO would block, a device never end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("longer than {} KiB", FILE_BYTES_MAX / 1024)));
    }
    Ok(bytes)
}

const FILE_BYTES_MAX: u64 = 1024 * 1024; // a system's whole bundle of authorities is a quarter of it
