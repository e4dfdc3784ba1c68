//! An authority of the test's own, and certificates by it.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;

use super::Folder;

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, in files.
pub(crate) struct Files {
    /// PEM.
    pub(crate) certificate: PathBuf,
    /// PEM.
    pub(crate) key: PathBuf,
}

impl Authority {
    /// A new one, which nobody trusts yet.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority of a test");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate, for who shall trust it.
    pub(crate) fn write(&self, folder: &Folder, name: &str) -> PathBuf {
        folder.write(name, &self.0.pem())
    }

    /// A certificate for these names, valid for some thousand years, in `NAME.pem` and `NAME.key`.
    pub(crate) fn issue(&self, folder: &Folder, name: &str, names: &[&str]) -> Files {
        self.issue_with(folder, name, names, |_| {})
    }

    /// One for a URI, such as a SPIFFE id, and these names.
    pub(crate) fn issue_uri(&self, folder: &Folder, name: &str, uri: &str, names: &[&str]) -> Files {
        let uri = rcgen::SanType::URI(uri.try_into().unwrap());
        self.issue_with(folder, name, names, |params| params.subject_alt_names.push(uri))
    }

    /// One that was valid long ago.
    pub(crate) fn issue_expired(&self, folder: &Folder, name: &str, names: &[&str]) -> Files {
        self.issue_with(folder, name, names, |params| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        })
    }

    /// One with this serial number.
    pub(crate) fn issue_numbered(&self, folder: &Folder, name: &str, serial: u8, names: &[&str]) -> Files {
        self.issue_with(folder, name, names, |params| params.serial_number = Some(vec![serial].into()))
    }

    /// Its list of revoked certificates, by their serial numbers.
    pub(crate) fn revoke(&self, folder: &Folder, name: &str, serials: &[u8]) -> PathBuf {
        let since = rcgen::date_time_ymd(2019, 1, 1);
        let revoked = serials.iter().map(|serial| rcgen::RevokedCertParams {
            serial_number: vec![*serial].into(),
            revocation_time: since,
            reason_code: None,
            invalidity_date: None,
        });
        let params = rcgen::CertificateRevocationListParams {
            this_update: since,
            next_update: rcgen::date_time_ymd(2999, 1, 1),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        folder.write(name, &params.signed_by(&self.0).unwrap().pem().unwrap())
    }

    /// One that ends with a year, under a serial number of one byte.
    pub(crate) fn issue_until(&self, folder: &Folder, name: &str, names: &[&str], serial: u8, year: i32) -> Files {
        self.issue_with(folder, name, names, |params| {
            params.serial_number = Some(vec![serial].into());
            params.not_after = rcgen::date_time_ymd(year + 1, 1, 1);
        })
    }

    fn issue_with(
        &self,
        folder: &Folder,
        name: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Files {
        let (params, key) = (params(names, change), KeyPair::generate().unwrap());
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Files {
            certificate: folder.write(&format!("{name}.pem"), &certificate.pem()),
            key: folder.write(&format!("{name}.key"), &key.serialize_pem()),
        }
    }

    /// What a TLS server in the test's own process needs.
    pub(crate) fn server(&self, names: &[&str]) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let certificate = params(names, |_| {}).signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_no_client_auth().with_single_cert(vec![certificate.into()], key).unwrap())
    }
}

fn params(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::new(names.iter().copied().map(str::to_owned).collect::<Vec<_>>()).unwrap();
    params.use_authority_key_identifier_extension = true; // Python's verifier is strict about it
    change(&mut params);
    params
}
