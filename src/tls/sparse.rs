//! Certificates that say less than today's have to: of X.509 version 1, which is what `openssl x509 -req` made until 3.2, or without
//! subject alternative names. Istio's tasks make both, and so do appliances.
//!
//! webpki reads no version 1 and knows no common names. Such a server is believed here only if the rule itself names the authority: the
//! system's have not been allowed to issue them for many years. Version 1 has no extensions, so it can be issued by a trusted authority
//! directly, be no authority itself, and stand in no revocation list that could be told to cover it.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::{CertificateError, DigitallySignedStruct, Error};
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519, Oid,
};
use x509_parser::prelude::{FromDer, X509Version};

/// Whether the certificate is of version 1.
pub(super) fn is_version_1(certificate: &CertificateDer<'_>) -> bool {
    read(certificate).is_some_and(|certificate| certificate.version() == X509Version::V1)
}

/// True where the certificate has no subject alternative names at all, and its common name is the name asked for.
pub(super) fn is_by_common_name(certificate: &CertificateDer<'_>, asked: &ServerName<'_>) -> bool {
    let (Some(certificate), ServerName::DnsName(asked)) = (read(certificate), asked) else { return false };
    // Of several, the last is the most specific one (RFC 6125 §2.3.1); `Err` is an extension that stands there twice.
    let common_name = certificate.subject().iter_common_name().last().and_then(|name| name.as_str().ok());
    matches!(certificate.subject_alternative_name(), Ok(None))
        && common_name.is_some_and(|name| name.eq_ignore_ascii_case(asked.as_ref()))
}

/// Judges a certificate of version 1: one of the authorities has signed it, and it is good now. Its name is judged elsewhere.
pub(super) fn verify_version_1(
    certificate: &CertificateDer<'_>,
    authorities: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), Error> {
    let certificate = read(certificate).ok_or(CertificateError::BadEncoding)?;
    if certificate.signature_algorithm != certificate.tbs_certificate.signature {
        return Err(CertificateError::BadEncoding.into()); // RFC 5280 §4.1.1.2
    }
    let issued = |authority: &X509Certificate<'_>| {
        authority.subject().as_raw() == certificate.issuer().as_raw()
            // What an authority may vouch for is written down in names that version 1 does not have.
            && matches!(authority.name_constraints(), Ok(None))
            && SIGNATURES.contains(&certificate.signature_algorithm.algorithm)
            && certificate.verify_signature(Some(authority.public_key())).is_ok()
    };
    if !authorities.iter().filter_map(read).any(|authority| issued(&authority)) {
        return Err(CertificateError::UnknownIssuer.into());
    }
    let (validity, now) = (certificate.validity(), i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    match () {
        () if now < validity.not_before.timestamp() => Err(CertificateError::NotValidYet.into()),
        () if now > validity.not_after.timestamp() => Err(CertificateError::Expired.into()),
        () => Ok(()),
    }
}

/// Verifies that the peer holds the key of its certificate of version 1, in a handshake of TLS 1.2.
pub(super) fn verify_tls12_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let certificate = read(certificate).ok_or(CertificateError::BadEncoding)?;
    let key = &certificate.public_key().subject_public_key.data;
    let of_scheme = algorithms.mapping.iter().filter(|(scheme, _)| *scheme == signature.scheme);
    let mut candidates = of_scheme.flat_map(|(_, algorithms)| *algorithms);
    let verifies = candidates.any(|algorithm| algorithm.verify_signature(key, message, signature.signature()).is_ok());
    if verifies { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) }
}

/// The same in TLS 1.3.
pub(super) fn verify_tls13_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let key = public_key(certificate).ok_or(CertificateError::BadEncoding)?;
    verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
}

/// The key that the certificate is for.
pub(super) fn public_key(certificate: &CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'static>> {
    let certificate = read(certificate)?;
    Some(certificate.public_key().raw.to_vec().into())
}

fn read<'c>(certificate: &'c CertificateDer<'_>) -> Option<X509Certificate<'c>> {
    let (rest, certificate) = X509Certificate::from_der(certificate).ok()?;
    rest.is_empty().then_some(certificate)
}

/// What webpki takes, too: nothing with SHA-1.
const SIGNATURES: [Oid<'static>; 6] = [
    OID_PKCS1_SHA256WITHRSA,
    OID_PKCS1_SHA384WITHRSA,
    OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384,
    OID_SIG_ED25519,
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use rustls_pki_types::pem::PemObject;

    use super::*;

    /// What openssl makes of these commands, by their names; made once for all of a test.
    struct Made(tempfile::TempDir);

    impl Made {
        fn new() -> Self {
            let made = Self(tempfile::tempdir().unwrap());
            let script = "set -e
for name in ca other; do
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=authority -keyout $name.key -out $name.pem
done
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout leaf.key -out leaf.csr -subj /CN=origin.example/O=org
openssl x509 -req -sha256 -days 30 -CA ca.pem -CAkey ca.key -set_serial 1 -in leaf.csr -out leaf.pem
openssl x509 -req -sha1 -days 30 -CA ca.pem -CAkey ca.key -set_serial 2 -in leaf.csr -out sha1.pem
printf 'subjectAltName=DNS:other.example\\n' >ext
openssl x509 -req -days 30 -CA ca.pem -CAkey ca.key -set_serial 3 -in leaf.csr -out named.pem -extfile ext
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=authority -key ca.key -out narrow.pem \\
  -addext 'nameConstraints=permitted;DNS:example.org'
";
            let output = Command::new("sh").args(["-c", script]).current_dir(made.0.path()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            made
        }

        fn read(&self, name: &str) -> CertificateDer<'static> {
            CertificateDer::from_pem_file(self.0.path().join(name)).unwrap()
        }
    }

    fn now() -> UnixTime {
        UnixTime::now()
    }

    fn error(verified: Result<(), Error>) -> CertificateError {
        match verified.unwrap_err() {
            Error::InvalidCertificate(error) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn version_1_is_believed_from_the_authority_that_signed_it_and_while_it_is_good() {
        let made = Made::new();
        let (ca, other, leaf) = (made.read("ca.pem"), made.read("other.pem"), made.read("leaf.pem"));
        if !is_version_1(&leaf) {
            eprintln!("NOT RUN: this openssl (3.2 or later) makes no certificates of version 1");
            return;
        }
        assert!(!is_version_1(&ca) && !is_version_1(&made.read("named.pem")));
        assert_eq!(verify_version_1(&leaf, &[other.clone(), ca.clone()], now()), Ok(()));
        // `other` has the same name, and another key.
        assert_eq!(error(verify_version_1(&leaf, &[other], now())), CertificateError::UnknownIssuer);
        assert_eq!(error(verify_version_1(&leaf, &[], now())), CertificateError::UnknownIssuer);
        let narrow = made.read("narrow.pem");
        assert_eq!(error(verify_version_1(&leaf, &[narrow], now())), CertificateError::UnknownIssuer);
        let sha1 = made.read("sha1.pem");
        assert_eq!(error(verify_version_1(&sha1, std::slice::from_ref(&ca), now())), CertificateError::UnknownIssuer);
        let at = |time: Duration| UnixTime::since_unix_epoch(time);
        let today = Duration::from_secs(now().as_secs());
        let day = Duration::from_secs(24 * 60 * 60);
        for (time, expected) in [
            (today - day, Err(CertificateError::NotValidYet)),
            (today + 29 * day, Ok(())),
            (today + 31 * day, Err(CertificateError::Expired)),
        ] {
            let verified = verify_version_1(&leaf, std::slice::from_ref(&ca), at(time));
            assert_eq!(verified.map_err(|error| self::error(Err(error))), expected);
        }
        // One bit of what is signed, wherever, and it is nobody's.
        let signed = X509Certificate::from_der(&leaf).unwrap().1.tbs_certificate.as_ref().to_vec();
        let start = leaf.windows(signed.len()).position(|part| part == signed).unwrap();
        for bit in (start * 8..(start + signed.len()) * 8).step_by(7) {
            let mut bytes = leaf.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(verify_version_1(&bytes.into(), std::slice::from_ref(&ca), now()).is_err(), "bit {bit}");
        }
        for length in 0..leaf.len() {
            assert!(
                verify_version_1(&leaf[..length].to_vec().into(), std::slice::from_ref(&ca), now()).is_err(),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn a_common_name_counts_where_there_is_no_other_name() {
        let made = Made::new();
        let name = |name: &str| ServerName::try_from(name.to_owned()).unwrap();
        let leaf = made.read("leaf.pem");
        assert!(is_by_common_name(&leaf, &name("origin.example")) && is_by_common_name(&leaf, &name("ORIGIN.example")));
        for other in ["example", "www.origin.example", "other.example", "192.0.2.1"] {
            assert!(!is_by_common_name(&leaf, &name(other)), "{other}");
        }
        assert!(!is_by_common_name(&made.read("named.pem"), &name("origin.example")), "it has names");
        assert!(!is_by_common_name(&b"".to_vec().into(), &name("origin.example")));
    }
}
