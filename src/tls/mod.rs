//! TLS as client; the only place that names the crypto provider.

pub mod certs;
mod verify;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};
use rustls_pki_types::{ServerName, UnixTime};
use thiserror::Error;
use tokio_rustls::TlsConnector;

use crate::flow::{ErrorType, Host};
use crate::stream::Stream;

/// A compiled TLS client: trust, client certificate, names to verify, session store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClientTls {
    compiled: Arc<Compiled>,
}

/// What a TLS client is made of.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct ClientTlsSpec {
    /// PEM bundle of `caCertificates`; `None`: the system's roots (webpki-roots where there are none).
    pub ca_pem: Option<Vec<u8>>,
    /// PEM chain and key of a client certificate.
    pub client_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// `subjectAltNames`: one of these has to be in the certificate, exactly; empty: the name asked for is verified.
    pub subject_alt_names: Vec<String>,
    /// `insecureSkipVerify`.
    pub insecure_skip_verify: bool,
}

/// Why a TLS client cannot be made. Never quotes the files' content.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The PEM is none, or holds nothing of use.
    #[error("{what}: {problem}")]
    Pem {
        /// `caCertificates`, `clientCertificate`, `privateKey`.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// Why a handshake failed.
#[derive(Debug, Error)]
#[error("TLS handshake")]
pub struct HandshakeError {
    /// Row of the outcome table: certificate, protocol, alert, or connection terminated.
    pub error: ErrorType,
    /// The cause, one sentence.
    #[source]
    pub source: io::Error,
}

struct Compiled {
    id: u64,
    connector: TlsConnector,
}

/// Clients by what they are made of. One session store belongs to one spec: a session that was verified for other names or opened
/// with another certificate must not be resumed.
static CLIENTS: LazyLock<Mutex<HashMap<ClientTlsSpec, Weak<Compiled>>>> = LazyLock::new(Mutex::default);
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The fatal alert `unrecognized_name` (RFC 6066 §3), as a TLS server that has not answered yet would write it.
pub const UNRECOGNIZED_NAME_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

const NAMES_SHOWN_MAX: usize = 5; // of a certificate, in errors; certificates of shared edges hold hundreds

impl ClientTls {
    /// Compiles. Equal specs give clients that share one session store and one id, across reloads too.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn new(spec: &ClientTlsSpec) -> Result<Self, TlsError> {
        let known = clients().get(spec).and_then(Weak::upgrade);
        if let Some(compiled) = known {
            return Ok(Self { compiled });
        }
        let config = Arc::new(spec.compile()?);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let compiled = Arc::new(Compiled { id, connector: TlsConnector::from(config) });
        let mut clients = clients();
        clients.retain(|_, compiled| compiled.strong_count() > 0);
        if let Some(compiled) = clients.get(spec).and_then(Weak::upgrade) {
            return Ok(Self { compiled }); // compiled by somebody else meanwhile
        }
        clients.insert(spec.clone(), Arc::downgrade(&compiled));
        Ok(Self { compiled })
    }

    /// Equal for clients of equal specs: part of the key of pooled connections.
    pub fn id(&self) -> u64 {
        self.compiled.id
    }

    /// Shakes hands over `stream`; `name` goes out as SNI (literals send none) and is verified unless SANs are given.
    ///
    /// No ALPN is offered: what follows is HTTP/1.1, or whatever the client speaks. Not bounded in time: that is the caller's.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn connect(&self, stream: Stream, name: &Host) -> Result<Stream, HandshakeError> {
        let name = match name {
            Host::Ip(ip) => ServerName::from(*ip),
            Host::Name(name) => ServerName::try_from(name.as_str().to_owned())
                .map_err(|_| HandshakeError::new(ErrorType::TlsProtocol, "the name cannot be sent as SNI"))?,
        };
        let shaken = self.compiled.connector.connect(name, stream).await;
        shaken.map(Stream::from).map_err(HandshakeError::from)
    }
}

impl ClientTlsSpec {
    fn compile(&self) -> Result<ClientConfig, TlsError> {
        let roots = match &self.ca_pem {
            // Nothing is believed by them: no reason to read the system's.
            _ if self.insecure_skip_verify => Arc::new(RootCertStore::empty()),
            Some(pem) => Arc::new(certs::roots(pem, "caCertificates")?),
            None => system_roots(),
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has cipher suites for TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(roots));
        let Some((chain, key)) = &self.client_pem else { return Ok(builder.with_no_client_auth()) };
        let (chain, key) = (certs::chain(chain, "clientCertificate")?, certs::private_key(key, "privateKey")?);
        builder.with_client_auth_cert(chain, key).map_err(|error| {
            let problem = match error {
                Error::InconsistentKeys(_) => "does not belong to clientCertificate",
                _ => "is of a kind that is not supported",
            };
            TlsError::Pem { what: "privateKey", problem: problem.to_owned() }
        })
    }

    fn verifier(&self, roots: Arc<RootCertStore>) -> Arc<dyn ServerCertVerifier> {
        let provider = provider();
        if self.insecure_skip_verify {
            return Arc::new(verify::Anybody { provider });
        }
        if !self.subject_alt_names.is_empty() {
            return Arc::new(verify::PinnedNames { roots, names: self.subject_alt_names.clone(), provider });
        }
        // Only an empty set of roots is refused here, and neither source gives one.
        WebPkiServerVerifier::builder_with_provider(roots, provider).build().expect("there are roots and no CRLs")
    }
}

impl fmt::Debug for ClientTlsSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTlsSpec")
            .field("ca_pem", &self.ca_pem.as_ref().map(|_| "..."))
            .field("client_pem", &self.client_pem.as_ref().map(|_| "..."))
            .field("subject_alt_names", &self.subject_alt_names)
            .field("insecure_skip_verify", &self.insecure_skip_verify)
            .finish()
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled").field("id", &self.id).finish_non_exhaustive()
    }
}

impl HandshakeError {
    fn new(error: ErrorType, sentence: impl Into<String>) -> Self {
        Self { error, source: io::Error::other(sentence.into()) }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(source: io::Error) -> Self {
        let tls = source.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match tls {
            Some(Error::InvalidCertificate(error)) => Self::new(ErrorType::TlsCertificate, certificate_problem(error)),
            Some(Error::NoCertificatesPresented) => Self::new(ErrorType::TlsCertificate, "it shows no certificate"),
            Some(Error::AlertReceived(alert)) => {
                Self::new(ErrorType::TlsAlert, format!("the upstream sent the alert {alert:?}"))
            }
            // The first byte of its answer is no content type of TLS: HTTP, SSH, SMTP …
            Some(Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
                Self::new(ErrorType::TlsProtocol, "the upstream does not speak TLS")
            }
            Some(error) => Self::new(ErrorType::TlsProtocol, error.to_string()),
            None if source.kind() == io::ErrorKind::UnexpectedEof => {
                Self::new(ErrorType::ConnectionTerminated, "the upstream closed the connection during the handshake")
            }
            None => Self { error: ErrorType::ConnectionTerminated, source },
        }
    }
}

/// What is wrong with a certificate, as the end of "the certificate of … is not valid: ".
fn certificate_problem(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired => "it has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => format!("it has expired on {}", date(*not_after)),
        CertificateError::NotValidYet => "it is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("it is not valid before {}", date(*not_before))
        }
        CertificateError::UnknownIssuer => "its issuer is not trusted".to_owned(),
        CertificateError::NotValidForName => "it is for another name".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            // rustls presents them as `DnsName("a.example")`.
            let bare = |name: &String| name.split('"').nth(1).unwrap_or(name).to_owned();
            let names: Vec<_> = presented.iter().map(bare).collect();
            format!("it is for {}, not for {}", listed(&names), expected.to_str())
        }
        error => error.to_string(),
    }
}

/// Names of a peer's certificate as they may stand in a log: printable, and not all of hundreds.
fn listed(names: &[String]) -> String {
    let safe = |name: &String| -> String {
        name.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).take(255).collect()
    };
    match names.len() {
        0 => "no name".to_owned(),
        n => {
            let shown = names.iter().take(NAMES_SHOWN_MAX).map(safe).collect::<Vec<_>>().join(", ");
            let more = n.saturating_sub(NAMES_SHOWN_MAX);
            if more > 0 { format!("{shown} and {more} more") } else { shown }
        }
    }
}

fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| format!("{seconds} s"), |timestamp| timestamp.to_string())
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}

/// The system's trust anchors, read once; those of Mozilla as compiled in where the system has none (an image from scratch).
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    ROOTS
        .get_or_init(|| {
            let loaded = rustls_native_certs::load_native_certs();
            let mut roots = RootCertStore::empty();
            let (added, ignored) = roots.add_parsable_certificates(loaded.certs);
            tracing::debug!(added, ignored, errors = loaded.errors.len(), "the system's trust anchors");
            if added == 0 {
                tracing::warn!("the system has no trust anchors: using those compiled in (webpki-roots)");
                roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            }
            Arc::new(roots)
        })
        .clone()
}

fn clients() -> std::sync::MutexGuard<'static, HashMap<ClientTlsSpec, Weak<Compiled>>> {
    CLIENTS.lock().unwrap_or_else(PoisonError::into_inner)
}
