//! A real squid as parent proxy.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::certificates::{Authority, Files};
use super::peer::{self, Peer, command, packaged, run};
use super::{Folder, eventually};

/// Speaks HTTP/1.1 on a plain port and on one with TLS. Killed when dropped.
pub(crate) struct Squid {
    peer: Peer,
    folder: Folder,
}

/// What squid is to do.
#[derive(Clone, Copy, Default)]
pub(crate) struct Squidly<'a> {
    /// `http_access` and what it needs, before `http_access allow all`; in squid's own words.
    pub(crate) access: &'a str,
    /// `user` and `password` that it asks for.
    pub(crate) login: Option<(&'a str, &'a str)>,
    /// Names that resolve to 127.0.0.1.
    pub(crate) hosts: &'a [&'a str],
}

impl Squid {
    /// Starts it; `authority` vouches for `parent.example` on the TLS port.
    pub(crate) fn start(asked: Squidly<'_>, authority: &Authority) -> Self {
        let folder = Folder::new();
        // Started by root it becomes the user `proxy`, who has to read and write here.
        open_to_all(folder.path());
        let certificate = authority.issue(&folder, "parent", &["parent.example"]);
        folder.write("hosts", &format!("127.0.0.1 localhost {}\n", asked.hosts.join(" ")));
        let login = asked.login.map(|login| basic(&folder, login)).unwrap_or_default();
        let peer = Peer::start(|ports: [u16; 2]| {
            let config = configuration(&folder, &format!("{login}{}", asked.access), &certificate, ports);
            let mut squid = command("squid");
            squid.args(["-N", "-d", "1", "-f"]).arg(folder.write("squid.conf", &config)).current_dir(folder.path());
            squid
        });
        Self { peer, folder }
    }

    /// Where it takes requests in the clear.
    pub(crate) fn plain(&self) -> SocketAddr {
        self.peer.addresses[0]
    }

    /// Where it takes them over TLS, as `parent.example`.
    pub(crate) fn tls(&self) -> SocketAddr {
        self.peer.addresses[1]
    }

    /// The line of its access log that contains `text`, as soon as it comes.
    pub(crate) fn line(&self, text: &str) -> String {
        let log = self.folder.path().join("access.log");
        let mut found = None;
        eventually("squid logs it", || {
            let lines = std::fs::read_to_string(&log).unwrap_or_default();
            found = lines.lines().find(|line| line.contains(text)).map(str::to_owned);
            found.is_some()
        });
        found.unwrap()
    }

    /// Ends it now.
    pub(crate) fn kill(&mut self) {
        self.peer.kill();
    }
}

fn basic(folder: &Folder, (user, password): (&str, &str)) -> String {
    let file = folder.path().join("passwords");
    run(peer::command("htpasswd").args(["-cbm".as_ref(), file.as_os_str(), user.as_ref(), password.as_ref()]))
        .succeeded();
    let helper = packaged("/usr/lib/squid/basic_ncsa_auth");
    format!(
        "auth_param basic program {} {}\nauth_param basic children 1 startup=1\nacl known proxy_auth REQUIRED\n\
         http_access deny !known\n",
        helper.display(),
        file.display()
    )
}

fn configuration(folder: &Folder, access: &str, certificate: &Files, [plain, tls]: [u16; 2]) -> String {
    let folder = folder.path().display();
    let (certificate, key) = (certificate.certificate.display(), certificate.key.display());
    format!(
        "http_port 127.0.0.1:{plain}\nhttps_port 127.0.0.1:{tls} tls-cert={certificate} tls-key={key}\n{access}\
         http_access allow all\ncache deny all\ncache_mem 1 MB\npid_filename none\npinger_enable off\nnetdb_filename none\n\
         access_log stdio:{folder}/access.log\ncache_log {folder}/cache.log\nlogfile_rotate 0\nbuffered_logs off\n\
         cache_store_log none\ncoredump_dir {folder}\nhosts_file {folder}/hosts\ndns_nameservers 127.0.0.1\nvisible_hostname parent\n\
         max_filedescriptors 256\nshutdown_lifetime 0 seconds\n"
    )
}

fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
}
