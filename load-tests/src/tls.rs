//! The TLS origin's certificate, and the ClientHello that the SNI forwarders see.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use rustls_pki_types::{PrivateKeyDer, ServerName};

/// Makes an authority, writes it to `ca`, and returns a server for `origin.test` signed by it.
pub(crate) fn origin(ca: &Path) -> Result<ServerConfig, Box<dyn std::error::Error>> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "load-tests");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    std::fs::write(ca, authority.pem())?;

    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["origin.test".to_owned()])?.signed_by(&key, &authority)?;
    Ok(ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))?)
}

/// The first flight of a TLS client for `name`.
pub(crate) fn client_hello(name: &'static str) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from(name)?)?;
    let mut hello = Vec::new();
    connection.write_tls(&mut hello)?;
    Ok(hello)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hello_is_one_record_that_names_the_host() {
        let hello = client_hello("hello.test").expect("rustls makes a hello");
        assert_eq!(hello[0], 22);
        assert_eq!(usize::from(u16::from_be_bytes([hello[3], hello[4]])), hello.len() - 5);
        assert!(hello.windows(10).any(|window| window == b"hello.test"));
    }
}
