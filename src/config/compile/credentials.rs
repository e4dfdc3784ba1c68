//! Files and Secrets that resources refer to. What is missing is a warning now and an error of every flow that needs it; it is never
//! replaced by something weaker. Content is never shown.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::diagnostic::Code;
use crate::config::kinds::destination_rule::{CredentialRef, Tls, TlsMode};
use crate::config::kinds::secret::Secret;
use crate::tls::{ClientTls, ClientTlsSpec};

/// Reads what resources refer to.
#[derive(Debug)]
pub(super) struct Credentials<'s> {
    root: &'s Path,
    secrets: HashMap<(Arc<str>, Arc<str>), Secret>,
    inputs: Vec<PathBuf>,
}

/// What is missing, and under which code it is reported.
pub(super) struct Missing {
    pub(super) code: Code,
    pub(super) sentence: String,
}

impl<'s> Credentials<'s> {
    pub(super) fn new(root: &'s Path, secrets: HashMap<(Arc<str>, Arc<str>), Secret>) -> Self {
        Self { root, secrets, inputs: Vec::new() }
    }

    /// The client that trusts what the system trusts.
    pub(super) fn system_roots(&self) -> Result<ClientTls, Arc<str>> {
        ClientTls::new(&ClientTlsSpec::default()).map_err(|error| format!("system roots: {error}").into())
    }

    /// Files that were read or should have been.
    pub(super) fn into_inputs(self) -> Vec<PathBuf> {
        self.inputs
    }

    /// The client for a `tls` of a DestinationRule; `names` are the service's own where the rule gives none.
    pub(super) fn client(&mut self, tls: &Tls, names: &[String], namespace: &Arc<str>) -> Result<ClientTls, Missing> {
        if tls.mode == TlsMode::IstioMutual {
            let sentence = "ISTIO_MUTUAL, the mutual TLS of the mesh, is not supported yet".to_owned();
            return Err(Missing { code: Code::MeshTls, sentence });
        }
        let own_names = &tls.subject_alt_names;
        let subject_alt_names = if own_names.is_empty() { names.to_vec() } else { own_names.clone() };
        let spec = match &tls.credential {
            Some(name) => self.spec_from_secret(tls.mode, &name.value, namespace)?,
            None => self.spec_from_files(tls)?,
        };
        let spec = ClientTlsSpec { subject_alt_names, insecure_skip_verify: tls.insecure_skip_verify, ..spec };
        ClientTls::new(&spec).map_err(|error| Missing { code: Code::MissingFile, sentence: error.to_string() })
    }

    fn spec_from_files(&mut self, tls: &Tls) -> Result<ClientTlsSpec, Missing> {
        let ca_pem = tls.ca.as_ref().map(|path| self.file(&path.value)).transpose()?;
        let client_pem = match &tls.client {
            Some((certificate, key)) => Some((self.file(&certificate.value)?, self.file(&key.value)?)),
            None => None,
        };
        Ok(ClientTlsSpec { ca_pem, client_pem, ..ClientTlsSpec::default() })
    }

    /// ISTIO 10: `NAME` holds certificate and key, `NAME-cacert` or `NAME` the CA.
    fn spec_from_secret(&self, mode: TlsMode, name: &str, namespace: &Arc<str>) -> Result<ClientTlsSpec, Missing> {
        let secret = |name: &str| self.secrets.get(&(namespace.clone(), Arc::from(name)));
        let missing = |what: &str| Missing {
            code: Code::MissingSecret,
            sentence: format!("Secret {namespace}/{name}: {what} is missing"),
        };
        let ca = [format!("{name}-cacert"), name.to_owned()];
        let ca_pem = ca.iter().filter_map(|name| secret(name)).find_map(|secret| secret.get(&["cacert", "ca.crt"]));
        let client_pem = match mode {
            TlsMode::Mutual => {
                let secret = secret(name).ok_or_else(|| missing("it"))?;
                let certificate = secret.get(&["cert", "tls.crt"]).ok_or_else(|| missing("tls.crt"))?;
                let key = secret.get(&["key", "tls.key"]).ok_or_else(|| missing("tls.key"))?;
                Some((certificate.to_vec(), key.to_vec()))
            }
            TlsMode::Simple | TlsMode::Disable | TlsMode::IstioMutual if ca_pem.is_none() => {
                return Err(missing("ca.crt"));
            }
            TlsMode::Simple | TlsMode::Disable | TlsMode::IstioMutual => None,
        };
        Ok(ClientTlsSpec { ca_pem: ca_pem.map(<[u8]>::to_vec), client_pem, ..ClientTlsSpec::default() })
    }

    /// The value of `Proxy-Authorization`.
    pub(super) fn authorization(&mut self, reference: &CredentialRef) -> Result<Arc<str>, Missing> {
        match reference {
            CredentialRef::Secret { namespace, name } => {
                let missing = |what: &str| Missing {
                    code: Code::MissingSecret,
                    sentence: format!("Secret {namespace}/{name}: {what} is missing"),
                };
                let secret = self.secrets.get(&(namespace.clone(), name.clone())).ok_or_else(|| missing("it"))?;
                let user = secret.text("username").ok_or_else(|| missing("username"))?;
                let password = secret.text("password").ok_or_else(|| missing("password"))?;
                basic(&format!("{user}:{password}")).ok_or_else(|| missing("a username without `:`"))
            }
            CredentialRef::File(path) => {
                let bad = |what: &str| Missing { code: Code::MissingFile, sentence: format!("{path}: {what}") };
                let bytes = self.file(path)?;
                let text = String::from_utf8(bytes).map_err(|_| bad("not text"))?;
                let text = text.trim_end_matches(['\r', '\n']);
                if text.contains(char::is_control) {
                    return Err(bad("more than one line"));
                }
                // `Basic dXNlcjpwYXNz`: a scheme and its parameters. A user name holds no space.
                match text.split_once(' ') {
                    Some((scheme, rest)) if is_token(scheme) && !rest.is_empty() => Ok(text.into()),
                    _ => basic(text).ok_or_else(|| bad("neither user:password nor a whole field value")),
                }
            }
        }
    }

    /// Reads a file under `files.root`.
    fn file(&mut self, path: &str) -> Result<Vec<u8>, Missing> {
        let missing = |what: String| Missing { code: Code::MissingFile, sentence: format!("{path}: {what}") };
        let full = self.root.join(path.trim_start_matches('/'));
        self.inputs.push(full.clone());
        let metadata = std::fs::metadata(&full).map_err(|error| missing(error.to_string()))?;
        // A FIFO would block, a device never end.
        if !metadata.is_file() {
            return Err(missing("not a regular file".to_owned()));
        }
        let file = std::fs::File::open(&full).map_err(|error| missing(error.to_string()))?;
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| missing(error.to_string()))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(missing(format!("longer than {} KiB", FILE_BYTES_MAX / 1024)));
        }
        Ok(bytes)
    }
}

fn basic(user_and_password: &str) -> Option<Arc<str>> {
    let (user, _) = user_and_password.split_once(':')?;
    if user.is_empty() || user_and_password.contains(char::is_control) {
        return None;
    }
    Some(format!("Basic {}", STANDARD.encode(user_and_password)).into())
}

/// An authentication scheme (RFC 9110 §11.1).
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

const FILE_BYTES_MAX: u64 = 1024 * 1024; // the system's whole bundle is a quarter of it
