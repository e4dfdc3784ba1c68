//! PEM files: certificates, keys, revocation lists. Errors say what is wrong and never quote a file's content: any file can be named in a rule.

use rustls::RootCertStore;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use webpki::OwnedCertRevocationList;

use super::TlsError;

/// The certificates of a PEM file, at least one, in order.
///
/// # Errors
/// [`TlsError::Pem`]; `what` names the setting the file comes from.
pub fn chain(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(problem(what, "no certificate (BEGIN CERTIFICATE) in it")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(problem(what, pem_problem(&error))),
    }
}

/// The private key of a PEM file: the first one, PKCS #8, PKCS #1 or SEC 1.
///
/// # Errors
/// [`TlsError::Pem`].
pub fn private_key(pem: &[u8], what: &'static str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        pem::Error::NoItemsFound => problem(what, "no unencrypted private key (BEGIN PRIVATE KEY) in it"),
        error => problem(what, pem_problem(&error)),
    })
}

/// The certificates of a PEM file as trust anchors.
///
/// # Errors
/// [`TlsError::Pem`], also where one of several cannot be an anchor: half a bundle would refuse peers for no visible reason.
pub fn roots(pem: &[u8], what: &'static str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in chain(pem, what)?.into_iter().enumerate() {
        let unusable = |_| problem(what, format!("certificate {} in it is malformed or no X.509 version 3", index + 1));
        roots.add(certificate).map_err(unusable)?;
    }
    Ok(roots)
}

/// The revocation lists of a PEM file, at least one, each of which can be read.
///
/// # Errors
/// [`TlsError::Pem`].
pub fn revocation_lists(
    pem: &[u8],
    what: &'static str,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let lists = CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let lists = lists.map_err(|error| problem(what, pem_problem(&error)))?;
    if lists.is_empty() {
        return Err(problem(what, "no revocation list (BEGIN X509 CRL) in it"));
    }
    for (index, list) in lists.iter().enumerate() {
        if let Err(error) = OwnedCertRevocationList::from_der(list) {
            return Err(problem(what, format!("revocation list {} in it is of no use: {error}", index + 1)));
        }
    }
    Ok(lists)
}

fn problem(what: &'static str, problem: impl Into<String>) -> TlsError {
    TlsError::Pem { what, problem: problem.into() }
}

fn pem_problem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a PEM section has no END line",
        pem::Error::IllegalSectionStart { .. } => "a PEM section has a malformed BEGIN line",
        pem::Error::Base64Decode(_) => "a PEM section is not base64",
        _ => "not a readable PEM file",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn certificate() -> rcgen::CertifiedKey<rcgen::KeyPair> {
        rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap()
    }

    #[test]
    fn chains_and_keys_are_read_in_any_company() {
        let (one, other) = (certificate(), certificate());
        let bundle = format!("# ours\n{}{}{}", one.cert.pem(), one.signing_key.serialize_pem(), other.cert.pem());
        assert_eq!(chain(bundle.as_bytes(), "x").unwrap().len(), 2);
        assert_eq!(roots(bundle.as_bytes(), "x").unwrap().len(), 2);
        assert!(private_key(bundle.as_bytes(), "x").is_ok());
    }

    #[test]
    fn errors_name_the_setting_and_never_quote_the_file() {
        let pem = certificate().cert.pem();
        let cut = &pem[..pem.len() - 30];
        let secret = "root:x:0:0:secret";
        let noise = format!("-----BEGIN CERTIFICATE-----\n{secret}\n-----END CERTIFICATE-----\n");
        let der = "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n";
        let bad_start = format!("-----BEGIN {secret}\n");
        for text in ["", secret, cut, &noise, &bad_start, der] {
            let error = roots(text.as_bytes(), "caCertificates").unwrap_err().to_string();
            assert!(error.starts_with("caCertificates: "), "{error}");
            assert!(!error.contains("secret") && !error.contains("c2Vj"), "{error}");
        }
        let error = private_key(pem.as_bytes(), "privateKey").unwrap_err().to_string();
        assert_eq!(error, "privateKey: no unencrypted private key (BEGIN PRIVATE KEY) in it");
    }
}
