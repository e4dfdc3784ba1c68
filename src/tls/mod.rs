//! TLS as client and, in [`server`], as server; the only place that names the crypto provider.

pub mod certs;
pub mod server;
mod sparse;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing;
mod verify;
pub mod x509;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, Error, InconsistentKeys, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use thiserror::Error;
use tokio_rustls::TlsConnector;
use webpki::OwnedCertRevocationList;

use self::verify::Peers;
use self::x509::Shown;
use crate::flow::{ErrorType, Host};
use crate::stream::Stream;

/// A compiled TLS client: trust, client certificate, names to verify, session store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClientTls {
    compiled: Arc<Compiled>,
    from: Arc<ClientTlsFiles>,
}

/// What a TLS client is made of.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct ClientTlsSpec {
    /// PEM bundle of `caCertificates`; `None`: the system's roots (webpki-roots where there are none).
    pub ca_pem: Option<Vec<u8>>,
    /// PEM revocation lists (`caCrl`): each certificate of a peer's chain has to be covered by one of them.
    pub crl_pem: Option<Vec<u8>>,
    /// PEM chain and key of a client certificate.
    pub client_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// `subjectAltNames`: one of these has to be in the certificate, exactly; empty: the name asked for is verified.
    pub subject_alt_names: Vec<String>,
    /// Any workload of this trust domain is believed, whatever name was asked for; only without `subject_alt_names`.
    pub trust_domain: Option<Box<str>>,
    /// `insecureSkipVerify`.
    pub insecure_skip_verify: bool,
    /// What is offered by ALPN; nothing where it is empty.
    pub alpn: &'static [&'static str],
}

/// Where the parts of a client come from, for operators: paths, or keys of Secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTlsFiles {
    /// Of the authorities.
    pub ca: Option<Arc<str>>,
    /// Of the client certificate.
    pub chain: Option<Arc<str>>,
}

/// Why a TLS client cannot be made. Never quotes the files' content.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The PEM is none, or holds nothing of use.
    #[error("{what}: {problem}")]
    Pem {
        /// `caCertificates`, `caCrl`, `clientCertificate`, `privateKey`; of a listener `certificate`, `privateKey`, `clientCa`, `clientCrl`.
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
    chain: Box<[Shown]>,
    authorities: Box<[Shown]>,
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
            return Ok(Self::of(compiled));
        }
        let config = Arc::new(spec.compile()?);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let (chain, authorities) = spec.shown();
        let compiled = Arc::new(Compiled { id, connector: TlsConnector::from(config), chain, authorities });
        let mut clients = clients();
        clients.retain(|_, compiled| compiled.strong_count() > 0);
        if let Some(compiled) = clients.get(spec).and_then(Weak::upgrade) {
            return Ok(Self::of(compiled)); // compiled by somebody else meanwhile
        }
        clients.insert(spec.clone(), Arc::downgrade(&compiled));
        Ok(Self::of(compiled))
    }

    fn of(compiled: Arc<Compiled>) -> Self {
        static NOWHERE: LazyLock<Arc<ClientTlsFiles>> = LazyLock::new(Arc::default);
        Self { compiled, from: NOWHERE.clone() }
    }

    /// The same, and where its parts come from.
    #[must_use]
    pub fn from_files(self, from: ClientTlsFiles) -> Self {
        Self { from: Arc::new(from), ..self }
    }

    /// Where its parts come from.
    pub fn files(&self) -> &ClientTlsFiles {
        &self.from
    }

    /// The certificates that it shows where it is asked, its own first.
    pub fn chain(&self) -> &[Shown] {
        &self.compiled.chain
    }

    /// The authorities that it believes; none where they are the system's.
    pub fn authorities(&self) -> &[Shown] {
        &self.compiled.authorities
    }

    /// Equal for clients of equal specs: part of the key of pooled connections.
    pub fn id(&self) -> u64 {
        self.compiled.id
    }

    /// Shakes hands over `stream`; `name` goes out as SNI (literals send none) and is verified unless SANs are given.
    ///
    /// Unless the spec says so, no ALPN is offered: what follows is HTTP/1.1, or whatever the client speaks. Not bounded in time: that is the caller's.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn connect(&self, stream: Stream, name: &Host) -> Result<Stream, HandshakeError> {
        let shaken = self.compiled.connector.connect(server_name(name)?, stream).await;
        shaken.map(Stream::from).map_err(HandshakeError::from)
    }

    /// The same for HTTP/2, which is offered and has to be agreed to; a server without ALPN is believed to speak it, as configured.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn connect_http2(&self, stream: Stream, name: &Host) -> Result<Stream, HandshakeError> {
        let connector = &self.compiled.connector;
        // Servers of the mesh are told that they are asked by it.
        let offered: &[&str] =
            if connector.config().alpn_protocols.is_empty() { &["h2"] } else { &["istio-h2", "istio", "h2"] };
        let offered = offered.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let shaken = connector.with_alpn(offered).connect(server_name(name)?, stream).await;
        shaken.map(Stream::from).map_err(HandshakeError::from)
    }
}

fn server_name(name: &Host) -> Result<ServerName<'static>, HandshakeError> {
    match name {
        Host::Ip(ip) => Ok(ServerName::from(*ip)),
        Host::Name(name) => ServerName::try_from(name.as_str().to_owned())
            .map_err(|_| HandshakeError::new(ErrorType::TlsProtocol, "the name cannot be sent as SNI")),
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
            .with_custom_certificate_verifier(self.verifier(roots)?);
        let mut config = match &self.client_pem {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let (chain, key) = (certs::chain(chain, "clientCertificate")?, certs::private_key(key, "privateKey")?);
                // rustls looks into the certificate, and cannot into one of version 1.
                let version_1 = chain.first().filter(|first| sparse::is_version_1(first)).map(sparse::public_key);
                let config = match version_1 {
                    None => builder.with_client_auth_cert(chain, key),
                    Some(public) => certified(chain, key, public.as_ref()).map(|certified| {
                        builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
                    }),
                };
                config.map_err(|error| {
                    let problem = match error {
                        Error::InconsistentKeys(_) => "does not belong to clientCertificate",
                        _ => "is of a kind that is not supported",
                    };
                    TlsError::Pem { what: "privateKey", problem: problem.to_owned() }
                })?
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(config)
    }

    /// The certificates of its parts: what it shows, and whom it believes. They have been compiled, so they can be read.
    fn shown(&self) -> (Box<[Shown]>, Box<[Shown]>) {
        let read = |pem: &[u8]| x509::all_shown(&certs::chain(pem, "certificate").unwrap_or_default());
        let authorities = self.ca_pem.as_deref().filter(|_| !self.insecure_skip_verify).map(read);
        let chain = self.client_pem.as_ref().map(|(chain, _)| read(chain));
        (chain.unwrap_or_default(), authorities.unwrap_or_default())
    }

    fn verifier(&self, roots: Arc<RootCertStore>) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
        let provider = provider();
        if self.insecure_skip_verify {
            return Ok(Arc::new(verify::Anybody { provider }));
        }
        let lists = self.crl_pem.as_ref().map(|pem| certs::revocation_lists(pem, "caCrl")).transpose()?;
        let lists = lists.unwrap_or_default();
        let peers = match (self.subject_alt_names.as_slice(), &self.trust_domain) {
            ([], None) => None,
            ([], Some(domain)) => Some(Peers::TrustDomain(domain.clone())),
            (names, _) => Some(Peers::Names(names.to_vec())),
        };
        if let Some(peers) = peers {
            let read = |list: &_| OwnedCertRevocationList::from_der(list).expect("read once already").into();
            let revocation_lists = lists.iter().map(|list| read(list)).collect();
            return Ok(Arc::new(verify::Pinned { roots, peers, revocation_lists, provider }));
        }
        let has_lists = !lists.is_empty();
        let builder = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone()).with_crls(lists);
        // Only an empty set of roots or a list that cannot be read is refused here: neither source of roots gives one, and the lists
        // were read.
        let chain =
            builder.enforce_revocation_expiration().build().expect("there are roots, and lists that can be read");
        let named = match &self.ca_pem {
            Some(pem) => certs::chain(pem, "caCertificates")?,
            None => Vec::new(),
        };
        Ok(Arc::new(verify::Trusted { chain, roots, named, has_lists, provider }))
    }
}

/// A certificate with its key, and that it is its key.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    public: Option<&SubjectPublicKeyInfoDer<'_>>,
) -> Result<CertifiedKey, Error> {
    let key = provider().key_provider.load_private_key(key)?;
    if key.public_key().as_ref() != public {
        return Err(InconsistentKeys::KeyMismatch.into());
    }
    Ok(CertifiedKey::new(chain, key))
}

impl fmt::Debug for ClientTlsSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTlsSpec")
            .field("ca_pem", &self.ca_pem.as_ref().map(|_| "..."))
            .field("crl_pem", &self.crl_pem.as_ref().map(|_| "..."))
            .field("client_pem", &self.client_pem.as_ref().map(|_| "..."))
            .field("subject_alt_names", &self.subject_alt_names)
            .field("trust_domain", &self.trust_domain)
            .field("insecure_skip_verify", &self.insecure_skip_verify)
            .field("alpn", &self.alpn)
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
                Self::new(ErrorType::TlsProtocol, "the upstream answered in plain text, not in TLS")
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
        CertificateError::Revoked => "it has been revoked".to_owned(),
        CertificateError::UnknownRevocationStatus => {
            "no revocation list (caCrl) says whether it or an issuer of it was revoked".to_owned()
        }
        CertificateError::ExpiredRevocationList => "the revocation list (caCrl) has expired".to_owned(),
        CertificateError::ExpiredRevocationListContext { next_update, .. } => {
            format!("the revocation list (caCrl) has expired on {}", date(*next_update))
        }
        CertificateError::BadSignature => "its signature is not its issuer's".to_owned(),
        CertificateError::Other(error) if verify::is_authority(error) => {
            "it is an authority's and not among those trusted".to_owned()
        }
        CertificateError::Other(error) => error.0.to_string(),
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::SocketAddr;

    use rcgen::date_time_ymd;
    use rustls::HandshakeKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::testing::{Authority, Leaf, Server};
    use super::*;

    fn trusting(authority: &Authority) -> ClientTlsSpec {
        ClientTlsSpec { ca_pem: Some(authority.pem.clone().into_bytes()), ..ClientTlsSpec::default() }
    }

    async fn connect(spec: &ClientTlsSpec, addr: SocketAddr, name: &str) -> Result<Stream, HandshakeError> {
        let stream = TcpStream::connect(addr).await.unwrap().into();
        ClientTls::new(spec).unwrap().connect(stream, &Host::parse(name.as_bytes()).unwrap()).await
    }

    async fn echoes(mut stream: Stream) {
        stream.write_all(b"ping").await.unwrap();
        stream.flush().await.unwrap();
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"ping");
    }

    /// The failure of a handshake, and its sentence.
    fn failure(shaken: Result<Stream, HandshakeError>) -> (ErrorType, String) {
        let error = shaken.map(|_| ()).unwrap_err();
        (error.error, error.source.to_string())
    }

    /// A client of `leaf`'s server, which trusts `authority`, asks for `name`.
    async fn meets(authority: &Authority, leaf: &Leaf, name: &str) -> Result<Stream, HandshakeError> {
        let server = Server::start(leaf, None).await;
        connect(&trusting(authority), server.addr, name).await
    }

    #[tokio::test]
    async fn a_certificate_of_a_trusted_issuer_for_the_name_asked_for_is_good() {
        let authority = Authority::new();
        let leaf = authority.issue(&["a.example", "*.b.example", "127.0.0.1"], |_| {});
        for name in ["a.example", "x.b.example", "127.0.0.1"] {
            let stream = meets(&authority, &leaf, name).await.expect(name);
            assert!(stream.is_tls());
            echoes(stream).await;
        }
    }

    #[tokio::test]
    async fn sni_carries_names_and_never_addresses() {
        let authority = Authority::new();
        let server = Server::start(&authority.issue(&["a.example", "127.0.0.1"], |_| {}), None).await;
        for name in ["A.example.", "127.0.0.1"] {
            echoes(connect(&trusting(&authority), server.addr, name).await.unwrap()).await;
        }
        let names: Vec<_> = server.handshakes.lock().unwrap().iter().map(|(_, sni)| sni.clone()).collect();
        assert_eq!(names, [Some("a.example".to_owned()), None]);
    }

    #[tokio::test]
    async fn a_certificate_for_another_name_says_for_which() {
        let authority = Authority::new();
        let leaf = authority.issue(&["a.example", "b.example"], |_| {});
        let (error, sentence) = failure(meets(&authority, &leaf, "c.example").await);
        assert_eq!(error, ErrorType::TlsCertificate);
        assert_eq!(sentence, "it is for a.example, b.example, not for c.example");
        let (error, _) = failure(meets(&authority, &leaf, "127.0.0.1").await);
        assert_eq!(error, ErrorType::TlsCertificate);
    }

    #[tokio::test]
    async fn expired_early_and_foreign_certificates_are_told_apart() {
        let authority = Authority::new();
        let expired = authority.issue(&["a.example"], |params| params.not_after = date_time_ymd(2024, 1, 2));
        let (error, sentence) = failure(meets(&authority, &expired, "a.example").await);
        assert_eq!((error, sentence.as_str()), (ErrorType::TlsCertificate, "it has expired on 2024-01-02T00:00:00Z"));

        let early = authority.issue(&["a.example"], |params| params.not_before = date_time_ymd(2999, 1, 2));
        let (_, sentence) = failure(meets(&authority, &early, "a.example").await);
        assert_eq!(sentence, "it is not valid before 2999-01-02T00:00:00Z");

        let foreign = Authority::new().issue(&["a.example"], |_| {});
        let (error, sentence) = failure(meets(&authority, &foreign, "a.example").await);
        assert_eq!((error, sentence.as_str()), (ErrorType::TlsCertificate, "its issuer is not trusted"));

        // The system does not trust it either.
        let server = Server::start(&foreign, None).await;
        let (error, _) = failure(connect(&ClientTlsSpec::default(), server.addr, "a.example").await);
        assert_eq!(error, ErrorType::TlsCertificate);
    }

    #[tokio::test]
    async fn a_certificate_that_is_its_own_authority_is_good_where_it_is_trusted() {
        let own = Leaf::self_signed(&["a.example"], |_| {});
        let other = Leaf::self_signed(&["a.example"], |_| {});
        let old = Leaf::self_signed(&["a.example"], |params| params.not_after = date_time_ymd(2020, 1, 1));
        let early = Leaf::self_signed(&["a.example"], |params| params.not_before = date_time_ymd(2099, 1, 1));
        let trusting = |leaf: &Leaf, names: &[&str]| ClientTlsSpec {
            ca_pem: Some(leaf.chain.clone()),
            subject_alt_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..ClientTlsSpec::default()
        };
        for (shown, trusted, pinned, name, problem) in [
            (&own, &own, &[][..], "a.example", None),
            (&own, &own, &["a.example"], "z.example", None),
            (&own, &own, &[], "b.example", Some("it is for a.example, not for b.example")),
            (&own, &own, &["b.example"], "a.example", Some("it is for a.example, wanted is b.example")),
            (&own, &other, &[], "a.example", Some("it is an authority's and not among those trusted")),
            (&own, &other, &["a.example"], "a.example", Some("it is an authority's and not among those trusted")),
            (&old, &old, &[], "a.example", Some("it has expired")),
            (&early, &early, &[], "a.example", Some("it is not valid")),
        ] {
            let server = Server::start(shown, None).await;
            let shaken = connect(&trusting(trusted, pinned), server.addr, name).await;
            match problem {
                None => echoes(shaken.unwrap()).await,
                Some(problem) => {
                    let (error, sentence) = failure(shaken);
                    assert_eq!(error, ErrorType::TlsCertificate, "{sentence}");
                    assert!(sentence.starts_with(problem), "{sentence}");
                }
            }
        }
    }

    #[tokio::test]
    async fn pinned_names_replace_the_name_asked_for_and_are_met_exactly() {
        let authority = Authority::new();
        let spiffe = "spiffe://cluster.local/ns/default/sa/api";
        let server = Server::start(&authority.issue(&["*.a.example", spiffe, "192.0.2.7"], |_| {}), None).await;
        let pinned = |names: &[&str]| ClientTlsSpec {
            subject_alt_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..trusting(&authority)
        };
        for good in [&[spiffe][..], &["*.A.example"], &["192.0.2.7"], &["no.example", spiffe]] {
            assert!(connect(&pinned(good), server.addr, "other.example").await.is_ok(), "{good:?}");
        }
        for bad in ["x.a.example", "a.example", "spiffe://cluster.local/ns/default/sa/ap", "192.0.2.8"] {
            let (error, sentence) = failure(connect(&pinned(&[bad]), server.addr, "x.a.example").await);
            assert_eq!(error, ErrorType::TlsCertificate);
            assert_eq!(sentence, format!("it is for *.a.example, {spiffe}, wanted is {bad}"));
        }
        let stranger = ClientTlsSpec { ca_pem: trusting(&Authority::new()).ca_pem, ..pinned(&[spiffe]) };
        assert!(connect(&stranger, server.addr, "x.a.example").await.is_err(), "the chain counts all the same");
    }

    /// Whether a server is believed whose certificate may stand on the authority's list; with a pinned name and without.
    #[tokio::test]
    async fn what_a_revocation_list_names_is_refused_and_what_it_does_not_cover_too() {
        let authority = Authority::new();
        let leaf = authority.issue(&["a.example"], |params| params.serial_number = Some(vec![7, 7].into()));
        let server = Server::start(&leaf, None).await;
        for names in [vec![], vec!["a.example".to_owned()]] {
            for (list, sentence) in [
                (authority.revokes(&[&[7, 8]], 2999), None),
                (authority.revokes(&[&[7, 7]], 2999), Some("it has been revoked")),
                (authority.revokes(&[], 2020), Some("the revocation list (caCrl) has expired")),
                (Authority::new().revokes(&[], 2999), Some("no revocation list (caCrl) says whether it")),
            ] {
                let spec = ClientTlsSpec {
                    crl_pem: Some(list.into_bytes()),
                    subject_alt_names: names.clone(),
                    ..trusting(&authority)
                };
                match (connect(&spec, server.addr, "a.example").await, sentence) {
                    (Ok(stream), None) => echoes(stream).await,
                    (shaken, Some(sentence)) => {
                        let (error, found) = failure(shaken);
                        assert_eq!(error, ErrorType::TlsCertificate);
                        assert!(found.starts_with(sentence), "{found}");
                    }
                    (shaken, None) => panic!("{:?}", failure(shaken)),
                }
            }
        }
        for pem in ["", "-----BEGIN X509 CRL-----\nc2VjcmV0\n-----END X509 CRL-----\n"] {
            let spec = ClientTlsSpec { crl_pem: Some(pem.into()), ..trusting(&authority) };
            let error = ClientTls::new(&spec).unwrap_err().to_string();
            assert!(error.starts_with("caCrl: ") && !error.contains("secret"), "{error}");
        }
    }

    #[tokio::test]
    async fn of_a_trust_domain_any_workload_is_believed_and_nobody_else() {
        let authority = Authority::new();
        let spec = ClientTlsSpec { trust_domain: Some("cluster.local".into()), ..trusting(&authority) };
        let workload = authority.issue(&["spiffe://cluster.local/ns/egress/sa/gateway"], |_| {});
        let server = Server::start(&workload, None).await;
        echoes(connect(&spec, server.addr, "outbound_.443_._.gateway.example").await.unwrap()).await;
        let stranger = authority.issue(&["spiffe://other.local/ns/egress/sa/gateway", "gateway.example"], |_| {});
        let server = Server::start(&stranger, None).await;
        let (error, sentence) = failure(connect(&spec, server.addr, "gateway.example").await);
        assert_eq!(error, ErrorType::TlsCertificate);
        assert!(sentence.ends_with("wanted is a workload of the trust domain cluster.local"), "{sentence}");
    }

    #[test]
    fn a_client_tells_its_certificates_and_where_they_come_from() {
        let authority = Authority::new();
        let leaf = authority.issue(&["client.example"], |_| {});
        let spec = ClientTlsSpec { client_pem: Some((leaf.chain, leaf.key)), ..trusting(&authority) };
        let files = ClientTlsFiles { ca: Some("/etc/ca.pem".into()), chain: None };
        let client = ClientTls::new(&spec).unwrap().from_files(files.clone());
        assert_eq!((client.chain().len(), client.authorities().len(), client.files()), (1, 1, &files));
        let plain = ClientTls::new(&ClientTlsSpec::default()).unwrap();
        assert!(plain.chain().is_empty() && plain.authorities().is_empty(), "the system's are not told");
    }

    #[tokio::test]
    async fn insecure_skip_verify_believes_anybody() {
        let server = Server::start(&Authority::new().issue(&["a.example"], |_| {}), None).await;
        let spec = ClientTlsSpec { insecure_skip_verify: true, ..ClientTlsSpec::default() };
        echoes(connect(&spec, server.addr, "b.example").await.unwrap()).await;
    }

    #[tokio::test]
    async fn a_client_certificate_is_shown_where_it_is_asked_for() {
        let (authority, clients) = (Authority::new(), Authority::new());
        let server = Server::start(&authority.issue(&["a.example"], |_| {}), Some(&clients)).await;
        let client = clients.issue(&["client.example"], |_| {});
        let spec = ClientTlsSpec { client_pem: Some((client.chain.clone(), client.key)), ..trusting(&authority) };
        echoes(connect(&spec, server.addr, "a.example").await.unwrap()).await;
        // TLS 1.3: our handshake is over before the server has looked; the alert is the first thing that is read.
        let mut stream = connect(&trusting(&authority), server.addr, "a.example").await.unwrap();
        let error = stream.read(&mut [0; 8]).await.unwrap_err();
        assert!(error.to_string().contains("CertificateRequired"), "{error}");

        let other = clients.issue(&["client.example"], |_| {});
        let mixed = ClientTlsSpec { client_pem: Some((client.chain, other.key)), ..trusting(&authority) };
        let error = ClientTls::new(&mixed).unwrap_err().to_string();
        assert_eq!(error, "privateKey: does not belong to clientCertificate");
    }

    #[tokio::test]
    async fn sessions_are_resumed_between_equal_specs_only() {
        let authority = Authority::new();
        let server = Server::start(&authority.issue(&["a.example"], |_| {}), None).await;
        let (spec, again) = (trusting(&authority), trusting(&authority));
        let pinned = ClientTlsSpec { subject_alt_names: vec!["a.example".to_owned()], ..trusting(&authority) };
        let kept = [&spec, &pinned].map(|spec| ClientTls::new(spec).unwrap());
        assert_eq!(kept[0].id(), ClientTls::new(&again).unwrap().id());
        assert_ne!(kept[0].id(), kept[1].id());
        for spec in [&spec, &again, &pinned, &pinned] {
            echoes(connect(spec, server.addr, "a.example").await.unwrap()).await;
        }
        let kinds: Vec<_> = server.handshakes.lock().unwrap().iter().map(|(kind, _)| *kind).collect();
        use HandshakeKind::{Full, Resumed};
        assert_eq!(kinds, [Full, Resumed, Full, Resumed]);
    }

    #[tokio::test]
    async fn clients_that_nobody_uses_leave_the_table() {
        let spec = trusting(&Authority::new());
        let id = ClientTls::new(&spec).unwrap().id();
        assert_ne!(ClientTls::new(&spec).unwrap().id(), id, "dropped in between");
        let other = ClientTls::new(&trusting(&Authority::new())).unwrap();
        assert!(!clients().contains_key(&spec));
        drop(other);
    }

    /// A peer that says this to whatever it reads, and closes.
    async fn plain_peer(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            stream.write_all(answer).await.unwrap();
        });
        addr
    }

    #[tokio::test]
    async fn peers_that_do_not_speak_tls_close_or_refuse_are_told_apart() {
        use ErrorType::{ConnectionTerminated, TlsAlert, TlsProtocol};
        let alert = &[21, 3, 3, 0, 2, 2, 40];
        let cases: [(&[u8], ErrorType, &str); 5] = [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", TlsProtocol, "the upstream answered in plain text, not in TLS"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", TlsProtocol, "the upstream answered in plain text, not in TLS"),
            (b"220 mail.example ESMTP\r\n", TlsProtocol, "the upstream answered in plain text, not in TLS"),
            (alert, TlsAlert, "the upstream sent the alert HandshakeFailure"),
            (b"", ConnectionTerminated, "the upstream closed the connection during the handshake"),
        ];
        for (answer, error, sentence) in cases {
            let addr = plain_peer(answer).await;
            let shaken = connect(&trusting(&Authority::new()), addr, "a.example").await;
            assert_eq!(failure(shaken), (error, sentence.to_owned()));
        }
    }

    #[test]
    fn names_of_a_peer_are_printable_and_few() {
        let names: Vec<_> = (0..300).map(|n| format!("n{n}.example")).collect();
        assert_eq!(listed(&names), "n0.example, n1.example, n2.example, n3.example, n4.example and 295 more");
        assert_eq!(listed(&["a\x1b[31m\n".to_owned()]), "a?[31m?");
        assert_eq!(listed(&[]), "no name");
    }

    #[test]
    fn a_spec_does_not_print_its_key() {
        let spec = ClientTlsSpec { client_pem: Some((vec![1], b"secret".to_vec())), ..ClientTlsSpec::default() };
        assert!(!format!("{spec:?}").contains("115"), "{spec:?}");
    }
}
