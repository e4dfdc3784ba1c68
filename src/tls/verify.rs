//! Whom a TLS client believes, where that is not plainly the name it asked for.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::EndEntityCert;

/// Verifies the chain, and that the certificate has one of these names; the name asked for does not matter.
#[derive(Debug)]
pub(super) struct PinnedNames {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) names: Vec<String>,
    pub(super) provider: Arc<CryptoProvider>,
}

/// Verifies nothing but that the peer holds the key of the certificate it shows (`insecureSkipVerify`).
#[derive(Debug)]
pub(super) struct Anybody {
    pub(super) provider: Arc<CryptoProvider>,
}

/// The certificate is good, and for somebody else.
#[derive(Debug)]
struct OtherName {
    wanted: Vec<String>,
    found: Vec<String>,
}

impl ServerCertVerifier for PinnedNames {
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
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        let certificate = EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        if self.names.iter().any(|name| has_name(&certificate, name)) {
            return Ok(ServerCertVerified::assertion());
        }
        let found = certificate.valid_dns_names().chain(certificate.valid_uri_names()).map(str::to_owned).collect();
        let other = OtherError(Arc::new(OtherName { wanted: self.names.clone(), found }));
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

impl fmt::Display for OtherName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is for {}, wanted is {}", super::listed(&self.found), super::listed(&self.wanted))
    }
}

impl std::error::Error for OtherName {}
