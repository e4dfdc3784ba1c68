//! `https://` in absolute-form: TLS that the proxy originates, and what its end says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::PrivateKeyDer;

use super::{converse, read_to_reset, settings};
use crate::support::egret::command;
use crate::support::{Egret, Folder, client};

/// A TLS origin for `localhost` that answers each connection once, and ends it with or without `close_notify`.
struct TlsOrigin {
    address: SocketAddr,
    certificate: String,
}

impl TlsOrigin {
    fn answering(answer: &'static [u8], close_notify: bool) -> Self {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(builder.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), tcp);
                let (mut head, mut piece) = (Vec::new(), [0; 1024]);
                while !head.ends_with(b"\r\n\r\n") {
                    match tls.read(&mut piece) {
                        Ok(n @ 1..) => head.extend_from_slice(&piece[..n]),
                        _ => break,
                    }
                }
                if head.is_empty() || tls.write_all(answer).is_err() {
                    continue;
                }
                if close_notify {
                    tls.conn.send_close_notify();
                }
                let _ = tls.flush();
            }
        });
        Self { address, certificate: cert.pem() }
    }

    /// A proxy that trusts it.
    fn trusted(&self) -> (Egret, Folder) {
        let folder = settings("");
        let roots = folder.write("roots.pem", &self.certificate);
        let settings = folder.settings();
        let mut run =
            command(&["run".as_ref(), "--admin".as_ref(), "off".as_ref(), "-c".as_ref(), settings.as_os_str()]);
        run.env("SSL_CERT_FILE", roots).env_remove("SSL_CERT_DIR");
        (Egret::spawn_command(run), folder)
    }

    fn request(&self, scheme: &str) -> String {
        let port = self.address.port();
        format!("GET {scheme}://localhost:{port}/ HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n")
    }
}

#[test]
fn an_https_url_is_asked_over_tls() {
    let origin = TlsOrigin::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true);
    let (egret, _folder) = origin.trusted();
    for scheme in ["https", "wss"] {
        let text = converse(egret.proxy(), origin.request(scheme));
        assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("hello"), "{text:?}");
    }
}

#[test]
fn a_certificate_that_nobody_signed_is_502() {
    let origin = TlsOrigin::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true);
    let (egret, _folder) = super::proxy("");
    let answer = client::get(egret.proxy(), &format!("https://localhost:{}/", origin.address.port()));
    assert_eq!(answer.status, 502);
    assert!(answer.head.contains("error=tls_certificate_error"), "{}", answer.head);
}

#[test]
fn without_close_notify_an_answer_that_ends_with_its_connection_is_broken_off() {
    let origin = TlsOrigin::answering(b"HTTP/1.1 200 OK\r\n\r\nhello", false);
    let (egret, _folder) = origin.trusted();
    let mut stream = client::dial(egret.proxy());
    stream.write_all(origin.request("https").as_bytes()).unwrap();
    let text = read_to_reset(&mut stream);
    assert!(!text.contains("0\r\n\r\n"), "{text:?}");
}

#[test]
fn with_close_notify_it_is_whole_and_one_with_a_length_is_so_in_any_case() {
    let origin = TlsOrigin::answering(b"HTTP/1.1 200 OK\r\n\r\nhello", true);
    let (egret, _folder) = origin.trusted();
    let text = converse(egret.proxy(), origin.request("https"));
    assert!(text.ends_with("5\r\nhello\r\n0\r\n\r\n"), "{text:?}");
    let origin = TlsOrigin::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false);
    let (egret, _folder) = origin.trusted();
    assert!(converse(egret.proxy(), origin.request("https")).ends_with("\r\n\r\nhello"));
}
