//! The clients that people have: curl, wget, git, Chromium, package managers, and the HTTP libraries of Python, Node, Go and Java, each through
//! the proxy as its manual says. Each shows its user why it was refused, as far as it shows anything.

mod apt;
mod cargo;
mod chromium;
mod curl;
mod git;
mod go;
mod java;
mod login;
mod node;
mod npm;
mod openssl;
mod pip;
mod python;
mod python_libraries;
mod registry;
mod undici;
mod upgrade;
mod wget;

use std::path::PathBuf;

use crate::support::certificates::Authority;
use crate::support::origin::Origin;
use crate::support::peer::{command, run};
use crate::support::{Egret, Folder, Setup};

/// A proxy with an origin in the clear and one behind TLS, and what a client needs to trust the latter.
struct World {
    folder: Folder,
    egret: Egret,
    plain: Origin,
    tls: Origin,
    ca: PathBuf,
}

impl World {
    fn new() -> Self {
        Self::with(Setup::default())
    }

    fn with(setup: Setup<'_>) -> Self {
        Self::within(Folder::new(), setup)
    }

    /// In a folder that holds what the settings refer to.
    fn within(folder: Folder, setup: Setup<'_>) -> Self {
        let authority = Authority::new();
        let tls = Origin::mirror_tls(authority.server(&["secure.example"]));
        let ca = authority.write(&folder, "ca.pem");
        authority.issue(&folder, "own", &["127.0.0.1"]);
        let egret = Setup { hosts: HOSTS, ..setup }.start(&folder);
        Self { folder, egret, plain: Origin::mirror(), tls, ca }
    }

    /// A proxy that lets only `ada` with `s3cret` in.
    fn with_login() -> Self {
        let folder = Folder::new();
        let users = folder.path().join("users");
        run(command("htpasswd").args(["-cbB", "-C", "4"]).arg(users).args(["ada", "s3cret"])).succeeded();
        let listeners = "{ name: proxy, address: \"127.0.0.1:0\", clients: { basic: { htpasswd: users } } }";
        Self::within(folder, Setup { listeners, ..Setup::default() })
    }

    /// As clients want their proxy, with this before the address: nothing, or `user:password@`.
    fn proxy_as(&self, login: &str) -> String {
        format!("http://{login}{}", self.egret.proxy())
    }

    /// The same with TLS to the proxy, which has to be [`BEHIND_TLS`].
    fn https_proxy(&self) -> String {
        format!("https://{}", self.egret.proxy())
    }

    /// The same for everybody.
    fn proxy(&self) -> String {
        self.proxy_as("")
    }

    fn http(&self, path: &str) -> String {
        format!("http://plain.example:{}{path}", self.plain.address.port())
    }

    fn https(&self, path: &str) -> String {
        format!("https://secure.example:{}{path}", self.tls.address.port())
    }
}

/// A proxy that is reached by TLS, with a certificate by the authority that the origin's is by.
const BEHIND_TLS: Setup<'_> = Setup {
    mesh: "",
    listeners: "{ name: proxy, address: \"127.0.0.1:0\", tls: { certificate: own.pem, privateKey: own.key } }",
    more: "",
    rules: "",
    hosts: &[],
    system_roots: None,
};
const HOSTS: &[&str] = &["plain.example", "secure.example"];
/// Nothing is known, so everything is refused.
const REFUSING: Setup<'_> = Setup {
    mesh: "outboundTrafficPolicy: { mode: REGISTRY_ONLY }",
    listeners: "",
    more: "",
    rules: "",
    hosts: &[],
    system_roots: None,
};
/// A tunnel that was opened, whatever became of it: clients that end with bytes unread, such as a session ticket, reset it.
const OPENED: &[(&str, &str)] = &[("method", "CONNECT"), ("response_code", "200")];
/// A tunnel that was opened and ended without an error.
const TUNNELLED: &[(&str, &str)] = &[
    ("method", "CONNECT"),
    ("response_code", "200"),
    ("response_flags", "-"),
    ("upstream_cluster", "PassthroughCluster"),
];
const REFUSED: &[(&str, &str)] = &[
    ("method", "CONNECT"),
    ("response_code", "403"),
    ("response_flags", "NR"),
    ("upstream_cluster", "BlackHoleCluster"),
    ("reason", "not_found"),
];
