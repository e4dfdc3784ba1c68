//! TLS as server: a listener's certificate, and whom of its clients it believes.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::{Error, ProtocolVersion, ServerConfig, ServerConnection};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

use super::x509::{self, Shown};
use super::{TlsError, certificate_problem, certs, provider};
use crate::flow::TlsSession;
use crate::stream::Stream;

/// A compiled TLS server: certificate, whom it asks for theirs, session tickets. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls {
    compiled: Arc<Compiled>,
}

struct Compiled {
    spec: ServerTlsSpec,
    acceptor: TlsAcceptor,
    chain: Box<[Shown]>,
    authorities: Box<[Shown]>,
}

/// What a TLS server is made of.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerTlsSpec {
    /// PEM chain, the listener's own certificate first.
    pub certificate: Vec<u8>,
    /// Its key.
    pub private_key: Vec<u8>,
    /// Whether clients show certificates, and by whose they are verified.
    pub clients: ClientCertificates,
    /// What ALPN may choose, the best first.
    pub alpn: Vec<Alpn>,
}

/// `clientCertificate`, with what certificates are verified against.
#[derive(Clone, PartialEq, Eq)]
pub enum ClientCertificates {
    /// None is asked for.
    None,
    /// One that is shown has to be good.
    Optional(ClientCa),
    /// A good one is needed.
    Required(ClientCa),
}

/// Whose certificates are good.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCa {
    /// `clientCa`: PEM bundle of authorities.
    pub pem: Vec<u8>,
    /// `clientCrl`: their revocation lists in PEM. Where there are any, each certificate of a chain has to be covered by one that has not
    /// expired.
    pub crl_pem: Option<Vec<u8>>,
}

/// What may follow a handshake (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// `h2`.
    Http2,
    /// `http/1.1`.
    Http1,
}

/// Why a client has no session.
#[derive(Debug, Error)]
#[error("TLS handshake")]
pub struct AcceptError {
    /// What kind of failure.
    pub kind: AcceptErrorKind,
    /// One sentence.
    pub sentence: String,
    /// The client's stream: our alert is on its way to it.
    pub stream: Stream,
}

/// What ended a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptErrorKind {
    /// The client closed or reset the connection.
    ClientGone,
    /// The client shows no certificate where one is required.
    NoCertificate,
    /// The client's certificate is not good.
    BadCertificate,
    /// No common version, cipher or protocol, an alert of the client, or bytes that are no TLS.
    Protocol,
}

impl ServerTls {
    /// Compiles.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn new(spec: ServerTlsSpec) -> Result<Self, TlsError> {
        let chain = certs::chain(&spec.certificate, "certificate")?;
        let key = certs::private_key(&spec.private_key, "privateKey")?;
        let shown = x509::all_shown(&chain);
        let (verifier, authorities) = spec.clients.verifier()?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has cipher suites for TLS 1.2 and 1.3")
            .with_client_cert_verifier(verifier);
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            Error::InconsistentKeys(_) => problem("privateKey", "does not belong to the certificate"),
            Error::InvalidCertificate(_) => problem("certificate", "malformed, or no X.509 version 3"),
            _ => problem("privateKey", "is of a kind that is not supported"),
        })?;
        config.alpn_protocols = spec.alpn.iter().map(|alpn| alpn.as_str().into()).collect();
        // Tickets rather than a table of sessions: a thousand clients that come back find theirs. A new certificate or authority is
        // a new server with new ticket keys, so that nobody resumes what was verified by the old one.
        config.ticketer = Ticketer::new().map_err(|_| problem("certificate", "no random numbers for ticket keys"))?;
        let compiled = Compiled { acceptor: TlsAcceptor::from(Arc::new(config)), spec, chain: shown, authorities };
        Ok(Self { compiled: Arc::new(compiled) })
    }

    /// Itself, or `before` where that is made of the same: sessions of it can be resumed after a reload.
    #[must_use]
    pub fn or_same(self, before: Option<&Self>) -> Self {
        before.filter(|before| before.compiled.spec == self.compiled.spec).cloned().unwrap_or(self)
    }

    /// The certificates that are shown to clients, its own first.
    pub fn chain(&self) -> &[Shown] {
        &self.compiled.chain
    }

    /// The authorities of clients; none where no certificates are asked for.
    pub fn authorities(&self) -> &[Shown] {
        &self.compiled.authorities
    }

    /// True if clients may show certificates.
    pub fn asks_certificates(&self) -> bool {
        self.compiled.spec.clients != ClientCertificates::None
    }

    /// True if nobody gets in without one.
    pub fn requires_certificates(&self) -> bool {
        matches!(self.compiled.spec.clients, ClientCertificates::Required(_))
    }

    /// Shakes hands with the client of `stream`. Not bounded in time: that is the caller's.
    ///
    /// # Errors
    /// See [`AcceptError`].
    pub async fn accept(&self, stream: Stream) -> Result<(Stream, TlsSession), Box<AcceptError>> {
        match self.compiled.acceptor.accept(stream).into_fallible().await {
            Ok(stream) => {
                let session = session(stream.get_ref().1);
                Ok((Stream::from(stream), session))
            }
            Err((error, stream)) => {
                let (kind, sentence) = failure(&error);
                Err(Box::new(AcceptError { kind, sentence, stream }))
            }
        }
    }
}

fn session(connection: &ServerConnection) -> TlsSession {
    TlsSession {
        version: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        },
        http2: connection.alpn_protocol() == Some(Alpn::Http2.as_str().as_bytes()),
        certificate: connection.peer_certificates().and_then(|chain| x509::holder(chain.first()?)),
    }
}

fn failure(error: &io::Error) -> (AcceptErrorKind, String) {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::NoCertificatesPresented) => {
            (AcceptErrorKind::NoCertificate, "the client shows no certificate".to_owned())
        }
        Some(Error::InvalidCertificate(error)) => {
            let problem = certificate_problem(error).replace("(caCrl)", "(clientCrl)");
            let sentence = format!("the client's certificate is not valid: {problem}");
            (AcceptErrorKind::BadCertificate, sentence)
        }
        Some(Error::AlertReceived(alert)) => {
            (AcceptErrorKind::Protocol, format!("the client sent the alert {alert:?}"))
        }
        Some(Error::NoApplicationProtocol) => {
            (AcceptErrorKind::Protocol, "the client speaks none of the protocols of this listener (ALPN)".to_owned())
        }
        Some(error) => (AcceptErrorKind::Protocol, error.to_string()),
        None => (AcceptErrorKind::ClientGone, "the client closed the connection during the handshake".to_owned()),
    }
}

type Authorities = Box<[Shown]>;

impl ClientCertificates {
    fn verifier(&self) -> Result<(Arc<dyn ClientCertVerifier>, Authorities), TlsError> {
        let (Self::Optional(ca) | Self::Required(ca)) = self else {
            return Ok((Arc::new(NoClientAuth), Box::default()));
        };
        let roots = Arc::new(certs::roots(&ca.pem, "clientCa")?);
        let authorities = x509::all_shown(&certs::chain(&ca.pem, "clientCa")?);
        let lists = ca.crl_pem.as_ref().map(|pem| certs::revocation_lists(pem, "clientCrl")).transpose()?;
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .with_crls(lists.unwrap_or_default())
            .enforce_revocation_expiration();
        let builder = match self {
            Self::Optional(_) => builder.allow_unauthenticated(),
            _ => builder,
        };
        // Only an empty set of roots or a list that cannot be read is refused here: a bundle without certificates gives none, and the
        // lists were read.
        Ok((builder.build().expect("there are roots, and lists that can be read"), authorities))
    }
}

impl Alpn {
    /// As it stands in the hello and in the settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http2 => "h2",
            Self::Http1 => "http/1.1",
        }
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("alpn", &self.compiled.spec.alpn).finish_non_exhaustive()
    }
}

fn problem(what: &'static str, problem: &str) -> TlsError {
    TlsError::Pem { what, problem: problem.to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::date_time_ymd;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::testing::{Authority, Leaf};
    use super::super::{ClientTls, ClientTlsSpec};
    use super::*;
    use crate::flow::Host;

    fn spec(leaf: &Leaf, clients: ClientCertificates) -> ServerTlsSpec {
        let (certificate, private_key) = (leaf.chain.clone(), leaf.key.clone());
        ServerTlsSpec { certificate, private_key, clients, alpn: vec![Alpn::Http1] }
    }

    fn ca(authority: &Authority, crl: Option<String>) -> ClientCa {
        ClientCa { pem: authority.pem.clone().into_bytes(), crl_pem: crl.map(String::into_bytes) }
    }

    fn client(authority: &Authority, own: Option<&Leaf>) -> ClientTls {
        let client_pem = own.map(|leaf| (leaf.chain.clone(), leaf.key.clone()));
        let ca_pem = Some(authority.pem.clone().into_bytes());
        ClientTls::new(&ClientTlsSpec { ca_pem, client_pem, ..ClientTlsSpec::default() }).unwrap()
    }

    /// What the server says of a handshake; a byte goes to the client and back where it succeeds.
    async fn shake(server: &ServerTls, client: &ClientTls) -> Result<TlsSession, (AcceptErrorKind, String)> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, host) = (client.clone(), Host::parse(b"proxy.example").unwrap());
        let client = tokio::spawn(async move {
            let stream = TcpStream::connect(address).await.unwrap().into();
            let Ok(mut stream) = client.connect(stream, &host).await else { return };
            // Under TLS 1.3 the client learns only now whether its certificate was good.
            let Ok(byte) = stream.read_u8().await else { return };
            stream.write_u8(byte).await.unwrap();
            stream.flush().await.unwrap();
            let _ = stream.read_u8().await;
        });
        let accepted = server.accept(listener.accept().await.unwrap().0.into()).await;
        let result = match accepted {
            Ok((mut stream, session)) => {
                stream.write_u8(7).await.unwrap();
                stream.flush().await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), 7);
                Ok(session)
            }
            Err(error) => Err((error.kind, error.sentence)),
        };
        client.await.unwrap();
        result
    }

    #[tokio::test]
    async fn a_client_without_certificate_gets_in_unless_one_is_required() {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let leaf = ours.issue(&["proxy.example"], |_| {});
        let ca = || ca(&theirs, None);
        let nobody = client(&ours, None);
        for clients in [ClientCertificates::None, ClientCertificates::Optional(ca())] {
            let server = ServerTls::new(spec(&leaf, clients)).unwrap();
            let session = shake(&server, &nobody).await.unwrap();
            assert_eq!((session.version, session.http2, session.certificate), ("TLSv1.3", false, None));
        }
        let server = ServerTls::new(spec(&leaf, ClientCertificates::Required(ca()))).unwrap();
        assert_eq!(shake(&server, &nobody).await.unwrap_err().0, AcceptErrorKind::NoCertificate);
    }

    #[tokio::test]
    async fn a_good_certificate_is_an_identity_and_a_bad_one_is_refused_with_its_fault() {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let leaf = ours.issue(&["proxy.example"], |_| {});
        let server = spec(&leaf, ClientCertificates::Optional(ca(&theirs, None)));
        let server = ServerTls::new(server).unwrap();
        let good = theirs.issue(&["spiffe://td/ns/a/sa/b"], |_| {});
        let session = shake(&server, &client(&ours, Some(&good))).await.unwrap();
        assert_eq!(&*session.certificate.unwrap().name, "spiffe://td/ns/a/sa/b");

        let strange = ours.issue(&["a.example"], |_| {});
        let expired = theirs.issue(&["a.example"], |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        });
        for (leaf, fault) in
            [(strange, "its issuer is not trusted"), (expired, "it has expired on 2002-01-01T00:00:00Z")]
        {
            let (kind, sentence) = shake(&server, &client(&ours, Some(&leaf))).await.unwrap_err();
            assert_eq!(kind, AcceptErrorKind::BadCertificate);
            assert_eq!(sentence, format!("the client's certificate is not valid: {fault}"));
        }
    }

    #[tokio::test]
    async fn what_a_revocation_list_names_or_does_not_cover_is_refused() {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let leaf = ours.issue(&["proxy.example"], |_| {});
        let own = theirs.issue(&["a.example"], |params| params.serial_number = Some(vec![7, 7].into()));
        let client = client(&ours, Some(&own));
        for (list, fault) in [
            (theirs.revokes(&[&[7, 8]], 2999), None),
            (theirs.revokes(&[&[7, 7]], 2999), Some("it has been revoked")),
            (theirs.revokes(&[], 2020), Some("the revocation list (clientCrl) has expired")),
            (Authority::new().revokes(&[], 2999), Some("no revocation list (clientCrl) says whether it")),
        ] {
            let server = ServerTls::new(spec(&leaf, ClientCertificates::Required(ca(&theirs, Some(list))))).unwrap();
            match (shake(&server, &client).await, fault) {
                (Ok(session), None) => assert_eq!(&*session.certificate.unwrap().name, "a.example"),
                (Err((AcceptErrorKind::BadCertificate, sentence)), Some(fault)) => {
                    assert!(
                        sentence.starts_with(&format!("the client's certificate is not valid: {fault}")),
                        "{sentence}"
                    );
                }
                (shaken, fault) => panic!("{shaken:?}, expected {fault:?}"),
            }
        }
        let no_list = spec(&leaf, ClientCertificates::Required(ca(&theirs, Some(String::new()))));
        assert!(ServerTls::new(no_list).unwrap_err().to_string().starts_with("clientCrl: "));
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        let authority = Authority::new();
        let (one, other) = (authority.issue(&["a.example"], |_| {}), authority.issue(&["a.example"], |_| {}));
        let fault = |spec| ServerTls::new(spec).unwrap_err().to_string();
        let crossed = ServerTlsSpec { private_key: other.key.clone(), ..spec(&one, ClientCertificates::None) };
        assert_eq!(fault(crossed), "privateKey: does not belong to the certificate");
        let swapped = ServerTlsSpec { certificate: one.key.clone(), ..spec(&one, ClientCertificates::None) };
        assert_eq!(fault(swapped), "certificate: no certificate (BEGIN CERTIFICATE) in it");
        let no_ca = spec(&one, ClientCertificates::Required(ClientCa { pem: Vec::new(), crl_pem: None }));
        assert_eq!(fault(no_ca), "clientCa: no certificate (BEGIN CERTIFICATE) in it");
    }

    #[test]
    fn a_server_of_the_same_parts_keeps_its_sessions() {
        let leaf = Authority::new().issue(&["a.example"], |_| {});
        let server = |alpn| ServerTls::new(ServerTlsSpec { alpn, ..spec(&leaf, ClientCertificates::None) }).unwrap();
        let before = server(vec![Alpn::Http1]);
        let is_before = |after: ServerTls| Arc::ptr_eq(&after.or_same(Some(&before)).compiled, &before.compiled);
        assert!(is_before(server(vec![Alpn::Http1])));
        assert!(!is_before(server(vec![Alpn::Http1, Alpn::Http2])));
    }
}
