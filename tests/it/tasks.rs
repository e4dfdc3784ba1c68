//! Istio's egress tasks from end to end: the bytes of their files, the ports, addresses and paths that these say, and what the task
//! promises of it. Origins are stand-ins under the real names; clients are curl with `http_proxy` and `https_proxy`.
//!
//! What a sidecar promises and an explicit proxy gives otherwise stands at the test: a client asks by CONNECT, so its line in the log is
//! `"CONNECT - HTTP/1.1" 200` with the name asked for where a sidecar has `"- - -" 0`; what is not in the registry is refused with 403
//! where a sidecar closes; and to external hosts nothing is added but `Via`, where Envoy adds `X-Envoy-…`.
//!
//! Not run: `04-httpbin-timeout-httproute.v1.27-gateway-api.yaml`, since HTTPRoute is a kind of the Gateway API, which Egret does not read
//! (`check` says so); files 03 to 05 of `tunnel`, which are for gateways.

mod egress_control;
mod egress_kubernetes_services;
mod egress_tls_origination;
mod examples;
mod http_proxy;
mod tunnel;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::support::certificates::Authority;
use crate::support::egret::command;
use crate::support::peer::{self, Peer, Ran, run};
use crate::support::world::write;
use crate::support::{Egret, Folder};

/// A folder of `../shared/istio-tasks`.
struct Task(PathBuf);

impl Task {
    /// `None` where it is not there, which is said by the test's name.
    fn named(name: &str, test: &str) -> Option<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/istio-tasks").join(name);
        if !folder.is_dir() {
            eprintln!("NOT RUN: {test}: {} is not there", folder.display());
            return None;
        }
        Some(Self(folder))
    }

    fn file(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        assert!(path.is_file(), "{} is missing", path.display());
        path
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap()
    }
}

/// Egret as a workload of namespace `default` would have it, with these files and settings.
fn start(files: &[PathBuf], settings: &str) -> Egret {
    let listeners = "listeners: [{ name: proxy, address: \"127.0.0.1:0\" }]\n";
    write("/etc/egret/egret.yaml", format!("{listeners}{settings}"));
    let mut arguments: Vec<OsString> =
        ["run", "-c", "/etc/egret/egret.yaml", "--admin", "127.0.0.1:0"].map(OsString::from).to_vec();
    for file in files {
        arguments.extend(["-f".into(), file.into()]);
    }
    let mut run = command(&arguments);
    run.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
    Egret::spawn_command(run)
}

/// curl as an application that was told of the proxy.
fn curl(egret: &Egret, arguments: &[&str]) -> Ran {
    let proxy = format!("http://{}", egret.proxy());
    run(peer::command("curl").env("http_proxy", &proxy).env("https_proxy", &proxy).arg("-q").args(arguments))
}

/// Compares a line of the log with a promised one, word by word; `…` stands for whatever is there.
#[track_caller]
fn assert_line(line: &str, promised: &str) {
    let (words, wanted): (Vec<&str>, Vec<&str>) = (line.split(' ').collect(), promised.split(' ').collect());
    let matches = words.len() == wanted.len() && words.iter().zip(&wanted).all(|(word, wanted)| is_like(word, wanted));
    assert!(matches, "promised: {promised}\n  logged: {line}");
}

fn is_like(word: &str, wanted: &str) -> bool {
    let Some((before, after)) = wanted.split_once('…') else { return word == wanted };
    word.len() >= before.len() + after.len() && word.starts_with(before) && word.ends_with(after)
}

#[test]
fn lines_are_compared_word_by_word() {
    assert!(is_like("\"curl/7\"", "\"curl/…\"") && is_like("a", "…") && is_like("a", "a"));
    assert!(!is_like("\"wget/7\"", "\"curl/…\"") && !is_like("a", "aa") && !is_like("aba", "ab…ba"));
}

/// The authority that the system trusts, and a certificate of it for these names.
fn public(folder: &Folder, names: &[&str]) -> crate::support::certificates::Files {
    let authority = Authority::new();
    write("/etc/ssl/certs/ca-certificates.crt", std::fs::read(authority.write(folder, "ca.pem")).unwrap());
    authority.issue(folder, "public", names)
}

/// nginx with /etc/nginx/nginx.conf as it stands there.
fn nginx(addresses: &[&str]) -> Peer {
    let mut nginx = peer::command("nginx");
    // One process, which ends with the test. Whoever does not say otherwise gets the paths that Debian compiled in.
    nginx.args(["-g", "daemon off; master_process off;"]);
    let addresses: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Peer::start_at(nginx, &addresses)
}

/// Commands of openssl, one a line, in a folder.
fn openssl(folder: &Path, commands: &str) {
    run(peer::command("sh").args(["-ec", commands]).current_dir(folder)).succeeded();
}

const REGISTRY_ONLY: &str = "mesh: { outboundTrafficPolicy: { mode: REGISTRY_ONLY } }\n";
