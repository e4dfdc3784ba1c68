//! ClientHellos as bytes.

use std::sync::Arc;

use rustls::client::EchGreaseConfig;
use rustls::pki_types::ServerName;

/// The first flight of a TLS client that asks for this name, as written.
pub(crate) fn of(name: &str) -> Vec<u8> {
    let lower = flight(
        builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth(),
        &name.to_ascii_lowercase(),
    );
    if !name.bytes().any(|b| b.is_ascii_uppercase()) {
        return lower;
    }
    // rustls writes names in lower case; servers and forwarders have to read them in any.
    let at = lower.windows(name.len()).position(|bytes| bytes.eq_ignore_ascii_case(name.as_bytes())).unwrap();
    [&lower[..at], name.as_bytes(), &lower[at + name.len()..]].concat()
}

/// The same without a name.
pub(crate) fn without_name() -> Vec<u8> {
    flight(builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth(), "192.0.2.1")
}

/// One with an `encrypted_client_hello` extension, as browsers send in each.
pub(crate) fn with_ech(name: &str) -> Vec<u8> {
    let suite = rustls::crypto::aws_lc_rs::hpke::ALL_SUPPORTED_SUITES[0];
    let (key, _) = suite.generate_key_pair().unwrap();
    let ech = rustls::client::EchMode::Grease(EchGreaseConfig::new(suite, key));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_ech(ech).unwrap();
    flight(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth(), name)
}

/// The same handshake in records of so many bytes.
pub(crate) fn in_records(mut hello: &[u8], fragment_bytes: usize) -> Vec<u8> {
    let mut message = Vec::new();
    while let [_, _, _, high, low, rest @ ..] = hello {
        let (fragment, behind) = rest.split_at(usize::from(*high) << 8 | usize::from(*low));
        message.extend_from_slice(fragment);
        hello = behind;
    }
    let record =
        |fragment: &[u8]| [&[22, 3, 1][..], &u16::try_from(fragment.len()).unwrap().to_be_bytes(), fragment].concat();
    message.chunks(fragment_bytes).flat_map(record).collect()
}

fn builder() -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap()
}

fn flight(config: rustls::ClientConfig, name: &str) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes).unwrap();
    }
    bytes
}
