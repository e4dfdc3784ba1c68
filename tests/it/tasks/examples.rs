//! `conf/tasks`: what their pages tell to try does what they say, against stand-ins for the internet.

use std::path::{Path, PathBuf};

use super::{egress_control, nginx, public};
use crate::support::egret::{command, egret};
use crate::support::peer::{self, Peer, run};
use crate::support::world::{in_a_world_with, name_of, write};
use crate::support::{Egret, Folder};

const INTERNET: &[(&str, &str)] = &[
    ("httpbin.org", "35.173.6.94"),
    ("www.google.com", "172.217.161.36"),
    ("edition.cnn.com", "151.101.193.67"),
    ("en.wikipedia.org", "208.80.154.224"),
    ("dyna.wikimedia.org", "185.15.59.224"),
];

/// The page's commands, each with the pieces of output that it promises.
struct Page(Vec<(String, Vec<String>)>);

impl Page {
    fn read(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join("README.md")).unwrap();
        assert!(text.lines().count() <= 25, "{}: a page of ten lines and their commands", folder.display());
        let block =
            text.split("```console\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block to try");
        let mut commands: Vec<(String, Vec<String>)> = Vec::new();
        for line in block.lines() {
            match line.strip_prefix("$ ") {
                Some(command) => commands.push((command.to_owned(), Vec::new())),
                None => commands.last_mut().expect("a command first").1.push(line.to_owned()),
            }
        }
        Self(commands)
    }
}

fn folders() -> Vec<PathBuf> {
    let tasks = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/tasks");
    let mut folders: Vec<_> = std::fs::read_dir(tasks).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert_eq!(folders.len(), 5, "{folders:?}");
    folders
}

#[test]
fn their_settings_have_no_mistakes() {
    for folder in folders() {
        let settings = folder.join("egret.yaml");
        let output = egret(&["check".as_ref(), "-o".as_ref(), "json".as_ref(), "-c".as_ref(), settings.as_os_str()]);
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), &said["errors"]), (Some(0), &0.into()), "{said}");
        // What is made by the page's first command may be missing before it: the partner's Secret.
        let codes: Vec<_> = said["diagnostics"].as_array().unwrap().iter().map(|found| found["code"].clone()).collect();
        assert!(codes.iter().all(|code| code == "W041" || code == "W182"), "{said}");
    }
}

/// The internet as far as the pages ask for it.
fn internet(folder: &Folder) -> Peer {
    let files = public(folder, &["www.google.com", "edition.cnn.com", "en.wikipedia.org"]);
    let (certificate, key) = (files.certificate.display(), files.key.display());
    let listen = ["172.217.161.36:443", "151.101.193.67:443", "208.80.154.224:443", "185.15.59.224:443"];
    let [google, cnn, first, second] = listen.map(|address| format!("listen {address} ssl http2;"));
    write(
        "/etc/nginx/nginx.conf",
        format!(
            "events {{}}
http {{
  ssl_certificate {certificate};
  ssl_certificate_key {key};
  server {{ {google} {cnn} location / {{ return 200; }} }}
  server {{ {first} {second} location / {{ return 200 '<title>Wikipedia, the free encyclopedia</title>\\n'; }} }}
}}
"
        ),
    );
    nginx(&listen)
}

/// Runs a page from its first line to its last. Servers stay; everything else ends and says what it promised.
fn try_it(test: &str, name: &str) {
    in_a_world_with(test, INTERNET, |_| {
        let folder = Folder::new();
        let (_internet, _httpbin) = (internet(&folder), egress_control::httpbin());
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let page = Page::read(&root.join("conf/tasks").join(name));
        let path = Path::new(env!("CARGO_BIN_EXE_egret")).parent().unwrap();
        let (mut servers, mut proxy, mut exports) = (Vec::new(), None, String::new());
        for (line, promised) in page.0 {
            let shell = |line: &str| {
                let mut shell = peer::command("sh");
                let script = format!("PATH={}:$PATH:/usr/sbin\n{exports}\n{line}", path.display());
                shell.args(["-c", &script]).current_dir(root);
                shell
            };
            if let Some(arguments) = line.strip_prefix("egret run ") {
                let mut run = command(&["run"]);
                run.args(arguments.split(' ')).current_dir(root).env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
                proxy = Some(Egret::spawn_command(run));
                continue;
            }
            let port = if line.starts_with("squid ") { 3129 } else { 8443 };
            if line.starts_with("squid ") || line.starts_with("sh ") {
                servers.push(Peer::start_at(shell(&format!("exec {line}")), &[([127, 0, 0, 1], port).into()]));
                continue;
            }
            if line.starts_with("export ") {
                exports = line;
                continue;
            }
            let ran = run(&mut shell(&line));
            for piece in promised {
                let said = [&*ran.stdout, &*ran.stderr].concat();
                assert!(said.contains(&piece), "{name}: {line}\nsays no {piece:?} but\n{said}");
            }
        }
        let mut proxy = proxy.expect("a page starts the proxy");
        assert!(proxy.is_running(), "{name}");
    });
}

#[test]
fn the_page_of_egress_control() {
    try_it(name_of(the_page_of_egress_control), "egress-control");
}

#[test]
fn the_page_of_egress_tls_origination() {
    try_it(name_of(the_page_of_egress_tls_origination), "egress-tls-origination");
}

#[test]
fn the_page_of_egress_kubernetes_services() {
    try_it(name_of(the_page_of_egress_kubernetes_services), "egress-kubernetes-services");
}

#[test]
fn the_page_of_http_proxy() {
    try_it(name_of(the_page_of_http_proxy), "http-proxy");
}

#[test]
fn the_page_of_tunnel() {
    try_it(name_of(the_page_of_tunnel), "tunnel");
}
