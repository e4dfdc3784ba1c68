//! Whom a TLS client believes, where that is not plainly the name it asked for.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationOptionsBuilder};

use super::sparse;
use super::x509::{Validity, shown};

/// Verifies the chain and the name asked for. A server that shows one of the trusted certificates itself is good too: a chain of one,
/// as `openssl req -x509` makes it, which webpki alone refuses, because it is an authority's.
#[derive(Debug)]
pub(super) struct Trusted {
    pub(super) chain: Arc<WebPkiServerVerifier>,
    pub(super) roots: Arc<RootCertStore>,
    /// The authorities, where the rule names them: certificates of theirs may be old-fashioned ([`sparse`]).
    pub(super) named: Vec<CertificateDer<'static>>,
    /// There are revocation lists.
    pub(super) has_lists: bool,
    pub(super) provider: Arc<CryptoProvider>,
}

/// Verifies the chain, and that the certificate is of one of these peers; the name asked for does not matter.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) peers: Peers,
    /// Where there are any, each certificate of the chain has to be covered by one that has not expired.
    pub(super) revocation_lists: Vec<CertRevocationList<'static>>,
    pub(super) provider: Arc<CryptoProvider>,
}

/// Whose certificate is good.
#[derive(Clone, Debug)]
pub(super) enum Peers {
    /// One with one of these names, exactly.
    Names(Vec<String>),
    /// Any workload of this trust domain: `spiffe://TRUST-DOMAIN/…`.
    TrustDomain(Box<str>),
}

/// Verifies nothing but that the peer holds the key of the certificate it shows (`insecureSkipVerify`).
#[derive(Debug)]
pub(super) struct Anybody {
    pub(super) provider: Arc<CryptoProvider>,
}

/// The certificate is good, and for somebody else.
#[derive(Debug)]
struct OtherName {
    wanted: Peers,
    found: Vec<String>,
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verified.or_else(|error| {
            if let Some(verified) = self.verify_sparse(&error, end_entity, server_name, now) {
                return verified;
            }
            trusted_itself(error, &self.roots, end_entity, now)?;
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            Ok(ServerCertVerified::assertion())
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature_of_tls12(message, certificate, signature, &self.provider)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature_of_tls13(message, certificate, signature, &self.provider)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl Trusted {
    /// Judges what is old-fashioned by an authority that the rule names; `None`: it is not, and the error stands.
    fn verify_sparse(
        &self,
        error: &Error,
        certificate: &CertificateDer<'_>,
        asked: &ServerName<'_>,
        now: UnixTime,
    ) -> Option<Result<ServerCertVerified, Error>> {
        if self.named.is_empty() {
            return None;
        }
        if !sparse::is_version_1(certificate) {
            // Chain and revocation are judged before the name, so that nothing but the name can be wrong.
            let only_name = matches!(
                error,
                Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
                )
            );
            let is_good = only_name && sparse::is_by_common_name(certificate, asked);
            return is_good.then(|| Ok(ServerCertVerified::assertion()));
        }
        if self.has_lists {
            return Some(Err(CertificateError::UnknownRevocationStatus.into()));
        }
        if let Err(error) = sparse::verify_version_1(certificate, &self.named, now) {
            return Some(Err(error));
        }
        if !sparse::is_by_common_name(certificate, asked) {
            return Some(Err(CertificateError::NotValidForName.into()));
        }
        Some(Ok(ServerCertVerified::assertion()))
    }
}

/// Turns the error of a chain into success where all that is wrong is that the certificate is an authority's, and it is a trusted one.
/// That it holds now is still to be judged here; its key, by the handshake.
fn trusted_itself(
    error: Error,
    roots: &RootCertStore,
    certificate: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(), Error> {
    let Error::InvalidCertificate(CertificateError::Other(other)) = &error else { return Err(error) };
    if !is_authority(other) {
        return Err(error);
    }
    let anchor = webpki::anchor_from_trusted_cert(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let is_root = |root: &TrustAnchor<'_>| {
        root.subject == anchor.subject && root.subject_public_key_info == anchor.subject_public_key_info
    };
    if !roots.roots.iter().any(is_root) {
        return Err(error);
    }
    let Validity { not_before, not_after } = shown(certificate).ok_or(CertificateError::BadEncoding)?.validity;
    match i64::try_from(now.as_secs()).unwrap_or(i64::MAX) {
        now if now < not_before => Err(CertificateError::NotValidYet.into()),
        now if now > not_after => Err(CertificateError::Expired.into()),
        _ => Ok(()),
    }
}

/// All that is wrong with a certificate is that it is an authority's.
pub(super) fn is_authority(error: &OtherError) -> bool {
    matches!(error.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)
            .or_else(|error| trusted_itself(error, &self.roots, end_entity, now))?;
        let certificate = EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        self.refuse_revoked(&certificate, intermediates, now)?;
        if self.peers.has(&certificate) {
            return Ok(ServerCertVerified::assertion());
        }
        let found = certificate.valid_dns_names().chain(certificate.valid_uri_names()).map(str::to_owned).collect();
        let other = OtherError(Arc::new(OtherName { wanted: self.peers.clone(), found }));
        Err(CertificateError::Other(other).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl Pinned {
    fn refuse_revoked(
        &self,
        certificate: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let lists: Vec<&CertRevocationList<'_>> = self.revocation_lists.iter().collect();
        let Ok(options) = RevocationOptionsBuilder::new(&lists) else { return Ok(()) }; // there are none
        let options = options.with_expiration_policy(ExpirationPolicy::Enforce).build();
        let (algorithms, usage) = (self.provider.signature_verification_algorithms.all, KeyUsage::server_auth());
        let verified =
            certificate.verify_for_usage(algorithms, &self.roots.roots, intermediates, now, usage, Some(options), None);
        // The chain itself was judged before: what is left are the lists.
        let problem = match verified {
            // One that is trusted itself stands on nobody's list.
            Ok(_) | Err(webpki::Error::CaUsedAsEndEntity) => return Ok(()),
            Err(webpki::Error::CertRevoked) => CertificateError::Revoked,
            Err(webpki::Error::UnknownRevocationStatus) => CertificateError::UnknownRevocationStatus,
            Err(webpki::Error::CrlExpired { .. }) => CertificateError::ExpiredRevocationList,
            Err(error) => CertificateError::Other(OtherError(Arc::new(error))),
        };
        Err(problem.into())
    }
}

impl Peers {
    fn has(&self, certificate: &EndEntityCert<'_>) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|name| has_name(certificate, name)),
            Self::TrustDomain(domain) => certificate.valid_uri_names().any(|uri| is_of_domain(uri, domain)),
        }
    }
}

fn verify_signature_of_tls12(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    provider: &CryptoProvider,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider.signature_verification_algorithms;
    match sparse::is_version_1(certificate) {
        true => sparse::verify_tls12_signature(message, certificate, signature, algorithms),
        false => verify_tls12_signature(message, certificate, signature, algorithms),
    }
}

fn verify_signature_of_tls13(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    provider: &CryptoProvider,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider.signature_verification_algorithms;
    match sparse::is_version_1(certificate) {
        true => sparse::verify_tls13_signature(message, certificate, signature, algorithms),
        false => verify_tls13_signature(message, certificate, signature, algorithms),
    }
}

/// A workload's SPIFFE id: the trust domain whole, and something in it.
fn is_of_domain(uri: &str, domain: &str) -> bool {
    let path = uri.strip_prefix("spiffe://").and_then(|rest| rest.strip_prefix(domain));
    path.is_some_and(|path| path.starts_with('/') && path.len() > 1)
}

/// Exactly this name: a pinned `*.example.com` is met by a certificate for `*.example.com` alone, as in Envoy.
fn has_name(certificate: &EndEntityCert<'_>, name: &str) -> bool {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return certificate.verify_is_valid_for_subject_name(&ServerName::from(ip)).is_ok();
    }
    certificate.valid_uri_names().any(|found| found == name)
        || certificate.valid_dns_names().any(|found| found.eq_ignore_ascii_case(name))
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature_of_tls12(message, certificate, signature, &self.provider)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature_of_tls13(message, certificate, signature, &self.provider)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Display for OtherName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is for {}, wanted is ", super::listed(&self.found))?;
        match &self.wanted {
            Peers::Names(names) => f.write_str(&super::listed(names)),
            Peers::TrustDomain(domain) => write!(f, "a workload of the trust domain {domain}"),
        }
    }
}

impl std::error::Error for OtherName {}

#[cfg(test)]
mod tests {
    use super::is_of_domain;

    #[test]
    fn a_workload_is_of_its_trust_domain_and_of_no_other() {
        assert!(is_of_domain("spiffe://cluster.local/ns/a/sa/b", "cluster.local"));
        for other in [
            "spiffe://cluster.local",
            "spiffe://cluster.local/",
            "spiffe://cluster.local.evil.example/ns/a/sa/b",
            "spiffe://evil.example/cluster.local/ns/a/sa/b",
            "https://cluster.local/ns/a/sa/b",
            "",
        ] {
            assert!(!is_of_domain(other, "cluster.local"), "{other}");
        }
    }
}
