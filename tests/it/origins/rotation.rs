//! Certificates of rules are replaced three times while requests go on: the next connection shows the new one, tunnels that are open stay,
//! and the operator sees the new end. As two files, as a Secret in a document, and as a mounted one.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{HOSTS, task};
use crate::operator::ask;
use crate::support::certificates::{Authority, Files};
use crate::support::client;
use crate::support::origin::{Origin, read_head};
use crate::support::{Egret, Folder, Setup, eventually};

const VERSIONS: [u8; 4] = [1, 2, 3, 4];

/// Version `n` of the client's certificate has the serial number `n`, and ends with the year 2039 + `n`.
fn issue(authority: &Authority, folder: &Folder, n: u8) -> Files {
    authority.issue_until(folder, &format!("version-{n}"), &["client.example"], n, 2039 + i32::from(n))
}

/// Wants a certificate by `authority`, and says the last byte of its serial number; `/socket` becomes a tunnel of echoes.
fn origin(authority: &Authority, folder: &Folder, ca: &Path) -> Origin {
    let files = authority.issue(folder, "origin", &["edition.example"]);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let chain = vec![CertificateDer::from_pem_file(&files.certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let config = Arc::new(builder.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap());
    Origin::new(move |stream| {
        let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
        while let Some(head) = read_head(&mut stream) {
            if head.starts_with("GET /socket ") {
                let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                if stream.write_all(switched).is_err() {
                    return;
                }
                echo(&mut stream);
                return;
            }
            let certificate = &stream.conn.peer_certificates().expect("a certificate")[0];
            let said = serial(certificate).to_string();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// The serial number, of one byte: behind the version, [0] { INTEGER 2 }, an INTEGER.
fn serial(certificate: &[u8]) -> u8 {
    let at = certificate.windows(7).position(|at| at == [0xa0, 3, 2, 1, 2, 2, 1]).expect("a serial number of one byte");
    certificate[at + 7]
}

fn echo(stream: &mut (impl std::io::Read + Write)) {
    let mut bytes = [0; 64];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..count]).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}

/// A tunnel through TLS that the proxy originates.
fn socket(egret: &Egret) -> std::net::TcpStream {
    let mut stream = client::dial(egret.proxy());
    let request = "GET http://edition.example/socket HTTP/1.1\r\nHost: edition.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGVzdA==\r\n\r\n";
    client::send(&mut stream, request);
    let head = read_head(&mut stream).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream
}

/// What `/certs` and the metric tell of the client's certificate: serial number, and the year and second of its end.
fn told(egret: &Egret) -> (String, String, String) {
    let certs = ask(egret, &[], "/certs").json();
    let chain = &certs["certificates"][0]["cert_chain"][0];
    let text = |key: &str| chain[key].as_str().unwrap_or_default().to_owned();
    let metrics = ask(egret, &[], "/metrics").body;
    let row = "egret_certificate_expiry_timestamp_seconds{rule=\"DestinationRule default/edition\",role=\"clientCertificate\"} ";
    let second = metrics.lines().find_map(|line| line.strip_prefix(row)).unwrap_or_default();
    (text("serial_number"), text("expiration_time").chars().take(4).collect(), second.to_owned())
}

/// Puts each version in place by `replace`, which gets its files, and holds what is to hold each time.
fn rotated(folder: &Folder, tls: &str, more: &str, rules: impl Fn(&Files) -> String, replace: impl Fn(&Files, u8)) {
    let authority = Authority::new();
    let ca = authority.write(folder, "ca.pem");
    let origin = origin(&authority, folder, &ca);
    let versions = VERSIONS.map(|n| issue(&authority, folder, n));
    replace(&versions[0], 1);
    let rules = |n: usize| task(origin.address.port(), tls) + &rules(&versions[n]);
    let egret = Setup { rules: &rules(0), hosts: HOSTS, more, ..Setup::default() }.start(folder);
    let now = AtomicUsize::new(0);
    let is_over = AtomicBool::new(false);
    let asked = AtomicUsize::new(0);
    thread::scope(|scope| {
        // One client keeps its connection, one has a new one each time. All that is asked is answered, and none goes back.
        for kept in [true, false] {
            let (egret, now, is_over, asked) = (&egret, &now, &is_over, &asked);
            scope.spawn(move || {
                let mut stream = client::dial(egret.proxy());
                while !is_over.load(Ordering::Relaxed) {
                    if !kept {
                        stream = client::dial(egret.proxy());
                    }
                    let before = now.load(Ordering::Acquire);
                    let answer = client::ask(&mut stream, "GET", "http://edition.example/serial");
                    let said = String::from_utf8_lossy(&answer.body).into_owned();
                    assert_eq!(answer.status, 200, "{said}");
                    let version: usize = said.parse().unwrap();
                    assert!(version >= before, "version {version} is shown after version {before}");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut tunnels = vec![socket(&egret)];
        let holds = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for (index, n) in VERSIONS.into_iter().enumerate() {
                if index > 0 {
                    replace(&versions[index], n);
                    folder.write("rules.yaml", &rules(index));
                }
                let shown =
                    || client::get(egret.proxy(), "http://edition.example/serial").body == n.to_string().as_bytes();
                eventually("the next certificate is shown", shown);
                now.store(usize::from(n), Ordering::Release);
                let before = asked.load(Ordering::Relaxed);
                eventually("requests go on", || asked.load(Ordering::Relaxed) > before + 10);
                let (serial, year, second) = told(&egret);
                assert_eq!((serial, year), (n.to_string(), (2040 + u16::from(n)).to_string()));
                assert_eq!(second, (LAST_SECONDS[index]).to_string());
                tunnels.push(socket(&egret));
                for (at, tunnel) in tunnels.iter_mut().enumerate() {
                    assert!(client::echoes(tunnel, format!("version {n}, tunnel {at}").as_bytes()));
                }
            }
        }));
        is_over.store(true, Ordering::Relaxed);
        if let Err(why) = holds {
            std::panic::resume_unwind(why);
        }
    });
    assert!(!egret.stdout.so_far().iter().any(|line| line.contains("credential_missing")));
}

/// Midnight of the first of January of 2041 to 2044, UTC.
const LAST_SECONDS: [u64; 4] = [2_240_611_200, 2_272_147_200, 2_303_683_200, 2_335_219_200];

fn copy(from: &Files, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for (file, name) in [(&from.certificate, "tls.crt"), (&from.key, "tls.key")] {
        let new = folder.join("new");
        fs::copy(file, &new).unwrap();
        fs::rename(new, folder.join(name)).unwrap();
    }
}

#[test]
fn as_files() {
    let folder = Folder::new();
    let pair = folder.path().join("pair");
    let path = |name: &str| pair.join(name).display().to_string();
    let tls = format!(
        "{{ mode: MUTUAL, caCertificates: {}, clientCertificate: {}, privateKey: {} }}",
        folder.path().join("ca.pem").display(),
        path("tls.crt"),
        path("tls.key")
    );
    rotated(&folder, &tls, "", |_| String::new(), |files, _| copy(files, &pair));
}

const BY_SECRET: &str = "{ mode: MUTUAL, credentialName: client }";

#[test]
fn as_a_secret_in_a_document() {
    let folder = Folder::new();
    let ca = folder.path().join("ca.pem");
    let secret = |files: &Files| {
        let value = |key: &str, file: &Path| {
            let text = fs::read_to_string(file).unwrap();
            format!("  {key}: |\n{}", text.lines().map(|line| format!("    {line}\n")).collect::<String>())
        };
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: client }}\nstringData:\n{}{}{}",
            value("tls.crt", &files.certificate),
            value("tls.key", &files.key),
            value("ca.crt", &ca)
        )
    };
    rotated(&folder, BY_SECRET, "", secret, |_, _| {});
}

/// As the kubelet does it: a new folder, then one rename of the link to it.
#[test]
fn as_a_mounted_secret() {
    let folder = Folder::new();
    let secret = folder.path().join("mounted");
    let more = "secrets: [{ name: client, namespace: default, dir: mounted }]";
    let ca = folder.path().join("ca.pem");
    let swap = |files: &Files, n: u8| {
        let version = format!("..{n}");
        copy(files, &secret.join(&version));
        fs::copy(&ca, secret.join(&version).join("ca.crt")).unwrap();
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            let _ = symlink(Path::new("..data").join(name), secret.join(name)); // there from the second time on
        }
        symlink(&version, secret.join("..data_tmp")).unwrap();
        fs::rename(secret.join("..data_tmp"), secret.join("..data")).unwrap();
    };
    rotated(&folder, BY_SECRET, more, |_| String::new(), swap);
}
