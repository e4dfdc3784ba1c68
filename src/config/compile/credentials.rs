//! Files and Secrets that resources refer to. What is missing is a warning now and an error of every flow that needs it; it is never
//! replaced by something weaker. Content is never shown.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::diagnostic::Code;
use crate::config::kinds::destination_rule::{CredentialRef, Tls, TlsMode};
use crate::config::kinds::secret::Secret;
use crate::config::material;
use crate::route::Protocol;
use crate::tls::{ClientTls, ClientTlsFiles, ClientTlsSpec, TlsError};

/// Reads what resources refer to.
#[derive(Debug)]
pub(super) struct Credentials<'s> {
    root: &'s Path,
    /// `credentials.certificates`.
    mesh: Option<&'s Path>,
    /// What was found there, once somebody asked.
    mesh_parts: Option<Result<Parts, Missing>>,
    secrets: HashMap<(Arc<str>, Arc<str>), Secret>,
    inputs: Vec<PathBuf>,
}

/// What is missing, and under which code it is reported.
#[derive(Clone, Debug)]
pub(super) struct Missing {
    pub(super) code: Code,
    pub(super) sentence: String,
}

/// Whom a client of TLS is for.
#[derive(Clone, Copy)]
pub(super) struct Peer<'a> {
    /// The service's own names, where the rule gives none.
    pub(super) names: &'a [String],
    /// Whose Secrets are used.
    pub(super) namespace: &'a Arc<str>,
    /// Workloads of which mode ISTIO_MUTUAL believes, where nobody names any.
    pub(super) trust_domain: &'a str,
    /// What the service's port says flows inside.
    pub(super) protocol: Protocol,
}

/// Material by what it is for; each with where it comes from.
#[derive(Clone, Debug, Default)]
struct Parts {
    ca: Option<Part>,
    crl: Option<Part>,
    chain: Option<Part>,
    key: Option<Part>,
    /// Under which code it is reported that one of them is of no use.
    code: Option<Code>,
}

#[derive(Clone)]
struct Part {
    from: Arc<str>,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.from)
    }
}

/// Istio's names (ISTIO 10), the generic ones first.
const CHAIN_AND_KEY: [(&str, &str); 2] = [("cert", "key"), ("tls.crt", "tls.key")];
const CA: [&str; 2] = ["cacert", "ca.crt"];
const CRL: [&str; 2] = ["crl", "ca.crl"];
/// As Istio's agent writes them.
const MESH_FILES: [&str; 3] = ["cert-chain.pem", "key.pem", "root-cert.pem"];
/// What Istio's proxies offer each other: with it they know mutual TLS of the mesh from TLS of an application. A port that carries TLS of
/// its clients may be asked in HTTP, too: servers other than Envoy refuse who offers nothing that they speak.
const fn mesh_alpn(protocol: Protocol) -> &'static [&'static str] {
    match protocol {
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => &["istio-http/1.1", "istio", "http/1.1"],
        Protocol::Tls | Protocol::Auto => &["istio", "http/1.1"],
        Protocol::Tcp => &["istio"],
    }
}

impl<'s> Credentials<'s> {
    pub(super) fn new(root: &'s Path, mesh: Option<&'s Path>, secrets: HashMap<(Arc<str>, Arc<str>), Secret>) -> Self {
        Self { root, mesh, mesh_parts: None, secrets, inputs: Vec::new() }
    }

    /// The client that trusts what the system trusts.
    pub(super) fn system_roots(&self) -> Result<ClientTls, Arc<str>> {
        ClientTls::new(&ClientTlsSpec::default()).map_err(|error| format!("system roots: {error}").into())
    }

    /// Files that were read or should have been.
    pub(super) fn into_inputs(self) -> Vec<PathBuf> {
        self.inputs
    }

    /// The client for a `tls` of a DestinationRule.
    pub(super) fn client(&mut self, tls: &Tls, peer: &Peer<'_>) -> Result<ClientTls, Missing> {
        let is_of_mesh = tls.mode == TlsMode::IstioMutual;
        let parts = match &tls.credential {
            _ if is_of_mesh => self.of_mesh()?,
            Some(name) => self.of_secret(tls, &name.value, peer.namespace)?,
            None => self.of_files(tls)?,
        };
        let named = if tls.subject_alt_names.is_empty() { peer.names } else { &tls.subject_alt_names };
        let names_somebody = !named.is_empty();
        let spec = ClientTlsSpec {
            subject_alt_names: named.to_vec(),
            trust_domain: (is_of_mesh && !names_somebody).then(|| peer.trust_domain.into()),
            insecure_skip_verify: tls.insecure_skip_verify,
            alpn: if is_of_mesh { mesh_alpn(peer.protocol) } else { &[] },
            ..parts.spec()
        };
        match ClientTls::new(&spec) {
            Ok(client) => Ok(client.from_files(parts.files())),
            Err(error) => Err(parts.of_no_use(&error)),
        }
    }

    /// ISTIO_MUTUAL: the certificate that workloads of the mesh know us by.
    fn of_mesh(&mut self) -> Result<Parts, Missing> {
        let mesh = self.mesh.ok_or_else(|| Missing {
            code: Code::MeshTls,
            sentence: "ISTIO_MUTUAL needs the setting credentials.certificates, which is not there".to_owned(),
        })?;
        self.mesh_parts.get_or_insert_with(|| read_mesh(mesh)).clone()
    }

    fn of_files(&mut self, tls: &Tls) -> Result<Parts, Missing> {
        let mut parts = Parts { code: Some(Code::MissingFile), ..Parts::default() };
        parts.ca = tls.ca.as_ref().map(|path| self.part(&path.value)).transpose()?;
        parts.crl = tls.crl.as_ref().map(|path| self.part(&path.value)).transpose()?;
        if let Some((chain, key)) = &tls.client {
            let paths = [&chain.value, &key.value].map(|path| material::under(self.root, path));
            self.inputs.extend(paths.iter().cloned());
            let [chain_bytes, key_bytes] = material::read_together([&paths[0], &paths[1]]);
            parts.chain = Some(Part::of_file(&chain.value, chain_bytes)?);
            parts.key = Some(Part::of_file(&key.value, key_bytes)?);
        }
        Ok(parts)
    }

    /// ISTIO 10: `NAME` holds certificate and key, `NAME-cacert` or `NAME` the CA, and beside the CA its list.
    fn of_secret(&self, tls: &Tls, name: &str, namespace: &Arc<str>) -> Result<Parts, Missing> {
        let mut parts = Parts { code: Some(Code::MissingSecret), ..Parts::default() };
        let own = SecretKeys { secret: self.secret(namespace, name), namespace, name };
        if tls.mode == TlsMode::Mutual {
            let (chain, key) = own.chain_and_key().ok_or_else(|| Missing {
                code: Code::MissingSecret,
                sentence: own.lacks("cert and key, nor tls.crt and tls.key"),
            })?;
            (parts.chain, parts.key) = (Some(chain), Some(key));
        }
        let apart = format!("{name}-cacert");
        let apart = SecretKeys { secret: self.secret(namespace, &apart), namespace, name: &apart };
        let found = [&apart, &own].into_iter().find_map(|keys| Some((keys.first(&CA)?, keys)));
        match found {
            Some((ca, keys)) => {
                parts.crl = keys.first(&CRL);
                parts.ca = Some(ca);
            }
            // Nothing is verified then, so there is nothing to verify against.
            None if tls.insecure_skip_verify => {}
            None => {
                let sentence = format!("{}; {}", apart.lacks("cacert nor ca.crt"), own.lacks("cacert nor ca.crt"));
                return Err(Missing { code: Code::MissingSecret, sentence });
            }
        }
        Ok(parts)
    }

    fn secret(&self, namespace: &Arc<str>, name: &str) -> Option<&Secret> {
        self.secrets.get(&(namespace.clone(), Arc::from(name)))
    }

    fn part(&mut self, path: &str) -> Result<Part, Missing> {
        let bytes = self.file(path)?;
        Part::of_file(path, Ok(bytes))
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
                match (secret.text("token"), secret.text("username")) {
                    (Some(_), Some(_)) => {
                        return Err(Missing {
                            code: Code::MissingSecret,
                            sentence: format!(
                                "Secret {namespace}/{name}: both token (Bearer) and username (Basic) are there"
                            ),
                        });
                    }
                    (Some(token), None) => return bearer(token).ok_or_else(|| missing("a token of visible ASCII")),
                    (None, _) => {}
                }
                let user = secret.text("username").ok_or_else(|| missing("username (with password), or token,"))?;
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
        let full = material::under(self.root, path);
        let read = material::read(&full);
        self.inputs.push(full);
        read.map_err(|error| Missing { code: Code::MissingFile, sentence: format!("{path}: {error}") })
    }
}

impl Parts {
    fn spec(&self) -> ClientTlsSpec {
        let bytes = |part: &Option<Part>| part.as_ref().map(|part| part.bytes.clone());
        ClientTlsSpec {
            ca_pem: bytes(&self.ca),
            crl_pem: bytes(&self.crl),
            client_pem: bytes(&self.chain).zip(bytes(&self.key)),
            ..ClientTlsSpec::default()
        }
    }

    fn files(&self) -> ClientTlsFiles {
        let from = |part: &Option<Part>| part.as_ref().map(|part| part.from.clone());
        ClientTlsFiles { ca: from(&self.ca), chain: from(&self.chain) }
    }

    /// Says which part it is that cannot be used, by where it comes from.
    fn of_no_use(&self, error: &TlsError) -> Missing {
        let TlsError::Pem { what, problem } = error;
        let part = match *what {
            "caCertificates" => &self.ca,
            "caCrl" => &self.crl,
            "privateKey" => &self.key,
            _ => &self.chain,
        };
        let from = part.as_ref().map_or(*what, |part| &part.from);
        Missing { code: self.code.unwrap_or(Code::MissingFile), sentence: format!("{from}: {problem}") }
    }
}

impl Part {
    fn of_file(path: &str, bytes: std::io::Result<Vec<u8>>) -> Result<Self, Missing> {
        match bytes {
            Ok(bytes) => Ok(Self { from: path.into(), bytes }),
            Err(error) => Err(Missing { code: Code::MissingFile, sentence: format!("{path}: {error}") }),
        }
    }
}

/// A Secret that may not be there, and its name.
struct SecretKeys<'a> {
    secret: Option<&'a Secret>,
    namespace: &'a str,
    name: &'a str,
}

impl SecretKeys<'_> {
    fn part(&self, key: &str) -> Option<Part> {
        let bytes = self.secret?.get(&[key])?.to_vec();
        Some(Part { from: format!("secret://{}/{}/{key}", self.namespace, self.name).into(), bytes })
    }

    fn first(&self, keys: &[&str]) -> Option<Part> {
        keys.iter().find_map(|key| self.part(key))
    }

    /// Both of one spelling: halves of two pairs do not belong together.
    fn chain_and_key(&self) -> Option<(Part, Part)> {
        CHAIN_AND_KEY.iter().find_map(|(chain, key)| self.part(chain).zip(self.part(key)))
    }

    fn lacks(&self, keys: &str) -> String {
        let Self { secret, namespace, name } = self;
        match secret {
            Some(_) => format!("Secret {namespace}/{name} has neither {keys}"),
            None => format!(
                "Secret {namespace}/{name} is not there (wanted: {})",
                keys.replace(", nor", " or").replace("nor", "or")
            ),
        }
    }
}

fn read_mesh(folder: &Path) -> Result<Parts, Missing> {
    let paths = MESH_FILES.map(|name| folder.join(name));
    let read = material::read_together([&paths[0], &paths[1], &paths[2]]);
    let mut parts = paths.iter().zip(read).map(|(path, bytes)| Part::of_file(&path.display().to_string(), bytes));
    let mut next = || parts.next().expect("as many as there are names").map(Some);
    Ok(Parts { chain: next()?, key: next()?, ca: next()?, crl: None, code: Some(Code::MissingFile) })
}

fn basic(user_and_password: &str) -> Option<Arc<str>> {
    let (user, _) = user_and_password.split_once(':')?;
    if user.is_empty() || user_and_password.contains(char::is_control) {
        return None;
    }
    Some(format!("Basic {}", STANDARD.encode(user_and_password)).into())
}

/// RFC 6750 §2.1, not as strict: tokens of other makers hold other signs.
fn bearer(token: &str) -> Option<Arc<str>> {
    let is_visible = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    is_visible.then(|| format!("Bearer {token}").into())
}

/// An authentication scheme (RFC 9110 §11.1).
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
