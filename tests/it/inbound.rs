//! How clients reach a listener: by TLS, with a certificate, through a balancer, by a unix socket, by a socket that systemd passed.

mod client_certificates;
mod passed;
mod proxy_protocol;
mod service;
mod tls;
mod unix;

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::support::certificates::Files;
use crate::support::{Egret, client};

/// A client's side of a TLS session with the proxy.
type Secured = StreamOwned<ClientConnection, TcpStream>;

/// A client that trusts the authority in the file `ca`, and shows a certificate if it has one.
fn trusting(ca: &Path, own: Option<&Files>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    Arc::new(match own {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let chain = vec![CertificateDer::from_pem_file(&files.certificate).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap()).unwrap()
        }
    })
}

/// Shakes hands on an open connection, for `proxy.example`.
fn secure(config: &Arc<ClientConfig>, mut tcp: TcpStream) -> std::io::Result<Secured> {
    let mut session = ClientConnection::new(config.clone(), ServerName::try_from("proxy.example").unwrap()).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut tcp)?;
    }
    Ok(StreamOwned::new(session, tcp))
}

/// The certificate that the proxy shows.
fn shown(config: &Arc<ClientConfig>, proxy: SocketAddr) -> Vec<u8> {
    let stream = secure(config, client::dial(proxy)).unwrap();
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

/// What a metric with labels counted; 0 where it is not there yet.
fn count(egret: &Egret, row: &str) -> u64 {
    let body = String::from_utf8(client::get_from(egret.admin(), "/metrics").body).unwrap();
    let value = body.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}
