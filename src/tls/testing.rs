//! Certificates and TLS servers for tests, here and on the floors above.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{certs, provider};

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate of an authority, with its key.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) chain: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // Two authorities of one name would be told apart by their signatures only.
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", fastrand::u64(..)));
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Its list of revoked certificates, by their serial numbers, in PEM; good until that year.
    pub(crate) fn revokes(&self, serials: &[&[u8]], until_year: i32) -> String {
        let since = date_time_ymd(2019, 1, 1);
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial.to_vec()),
            revocation_time: since,
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: since,
            next_update: date_time_ymd(until_year, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// A certificate for these names (DNS, IP, or URI), changed by `edit`.
    pub(crate) fn issue(&self, names: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let params = params(names, edit);
        let key = KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem().into_bytes();
        Leaf { chain, key: key.serialize_pem().into_bytes() }
    }
}

impl Leaf {
    /// A certificate that is its own authority, as `openssl req -x509` makes it.
    pub(crate) fn self_signed(names: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = params(names, edit);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("self {}", fastrand::u64(..)));
        let key = KeyPair::generate().unwrap();
        let chain = params.self_signed(&key).unwrap().pem().into_bytes();
        Self { chain, key: key.serialize_pem().into_bytes() }
    }
}

fn params(names: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    for name in names {
        params.subject_alt_names.push(match (name.parse(), name.contains("://")) {
            (Ok(ip), _) => SanType::IpAddress(ip),
            (_, true) => SanType::URI((*name).try_into().unwrap()),
            _ => SanType::DnsName((*name).try_into().unwrap()),
        });
    }
    edit(&mut params);
    params
}

/// How each handshake of a server went, and the SNI it came with.
pub(crate) type Handshakes = Arc<Mutex<Vec<(HandshakeKind, Option<String>)>>>;

/// A TLS server that echoes what it reads.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    /// How each handshake went, and the SNI it came with.
    pub(crate) handshakes: Handshakes,
}

impl Server {
    /// With this certificate; asks for one of `clients`, if given.
    pub(crate) async fn start(leaf: &Leaf, clients: Option<&Authority>) -> Self {
        let acceptor = acceptor(leaf, clients);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let handshakes = Arc::new(Mutex::new(Vec::new()));
        let log = handshakes.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, log) = (acceptor.clone(), log.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(tcp).await else { return };
                    let session = stream.get_ref().1;
                    let kind = session.handshake_kind().unwrap();
                    log.lock().unwrap().push((kind, session.server_name().map(str::to_owned)));
                    let mut buf = [0; 1024];
                    while let Ok(n @ 1..) = stream.read(&mut buf).await {
                        stream.write_all(&buf[..n]).await.unwrap();
                        stream.flush().await.unwrap();
                    }
                });
            }
        });
        Self { addr, handshakes }
    }
}

impl Leaf {
    /// A TLS server of this certificate.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        acceptor(self, None)
    }
}

fn acceptor(leaf: &Leaf, clients: Option<&Authority>) -> TlsAcceptor {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let roots = Arc::new(certs::roots(authority.pem.as_bytes(), "clients").unwrap());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = certs::chain(&leaf.chain, "chain").unwrap();
    let config = builder.with_single_cert(chain, certs::private_key(&leaf.key, "key").unwrap()).unwrap();
    TlsAcceptor::from(Arc::new(config))
}
