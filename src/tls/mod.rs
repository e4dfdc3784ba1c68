//! TLS as client and server; the only place that names the crypto provider.

pub mod certs;

use thiserror::Error;

use crate::flow::{ErrorType, Host};
use crate::stream::Stream;

/// A compiled TLS client: trust, client certificate, names to verify, session store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClientTls {
    id: u64,
}

/// What a TLS client is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientTlsSpec {
    /// PEM bundle of `caCertificates`; `None`: the system's roots (webpki-roots where there are none).
    pub ca_pem: Option<Vec<u8>>,
    /// PEM chain and key of a client certificate.
    pub client_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// `subjectAltNames`: one of these has to be in the certificate, exactly; empty: the name asked for is verified.
    pub subject_alt_names: Vec<String>,
    /// `insecureSkipVerify`.
    pub insecure_skip_verify: bool,
}

/// Why a TLS client cannot be made. Never quotes the files' content.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The PEM is none, or holds nothing of use.
    #[error("{what}: {problem}")]
    Pem {
        /// `caCertificates`, `clientCertificate`, `privateKey`.
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
    /// The cause.
    #[source]
    pub source: std::io::Error,
}

impl ClientTls {
    /// Compiles. Equal specs give clients that share one session store and one id, across reloads too.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn new(_spec: &ClientTlsSpec) -> Result<Self, TlsError> {
        unimplemented!()
    }

    /// Equal for clients of equal specs: part of the key of pooled connections.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Shakes hands over `stream`; `name` goes out as SNI (literals send none) and is verified unless SANs are given.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn connect(&self, _stream: Stream, _name: &Host) -> Result<Stream, HandshakeError> {
        unimplemented!()
    }
}

/// Writes the fatal alert `unrecognized_name` (RFC 6066 §3), as a TLS server that has not answered yet would.
pub const UNRECOGNIZED_NAME_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
