//! A machine of a test's own: its network, /etc and log folders are in namespaces that nobody else sees, so that servers listen on the
//! ports and addresses, and read the paths, that documents say.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rustix::mount::{MountFlags, mount};

use super::dns::{Dns, Reply};
use super::peer::{command, run};

/// The inside of the namespaces.
pub(crate) struct World {
    /// The only server of /etc/resolv.conf.
    pub(crate) dns: Dns,
}

/// The name under which a test is run: `module::test` of the function itself.
pub(crate) fn name_of<F: Fn()>(_test: F) -> &'static str {
    std::any::type_name::<F>().split_once("::").expect("within a crate").1
}

/// Runs `body`, which is all that `test` does, in a world where these names have these addresses, all of them the machine's own.
///
/// The test starts itself again within the namespaces. Where the system has none for its users it says by name that it did not run.
pub(crate) fn in_a_world_with(test: &str, names: &[(&str, &str)], body: impl FnOnce(&World)) {
    if is_inside() {
        body(&World::new(names));
        return;
    }
    let tried = run(unshare().arg("true"));
    if tried.code != Some(0) {
        eprintln!("NOT RUN: {test}: no namespaces for this user here: {}", tried.stderr.trim());
        return;
    }
    let mut inside = unshare();
    inside.arg(std::env::current_exe().unwrap()).args([test, "--exact", "--nocapture", "--test-threads=1"]);
    let output = inside.env(INSIDE, "1").output().unwrap();
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains(" 1 passed;"), "inside the world of {test}:\n{said}\n{log}");
    eprintln!("{log}");
}

#[expect(clippy::disallowed_methods, reason = "how the test that started this one says so")]
fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Whoever is not root needs a namespace of users, in which it may do what root may.
fn unshare() -> Command {
    let mut unshare = command("unshare");
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    unshare.args(["--net", "--mount"]);
    unshare
}

impl World {
    fn new(names: &[(&str, &str)]) -> Self {
        ip(&["link", "set", "lo", "up"]);
        let mut addresses: Vec<&str> = names.iter().map(|(_, address)| *address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        for address in addresses {
            ip(&["address", "add", &format!("{address}/32"), "dev", "lo"]);
        }
        let kept: Vec<_> = KEPT.iter().filter_map(|name| Some((*name, std::fs::read(name).ok()?))).collect();
        let links = std::fs::read_dir(ALTERNATIVES).into_iter().flatten().flatten();
        let alternatives: Vec<_> =
            links.filter_map(|link| Some((link.file_name(), std::fs::read_link(link.path()).ok()?))).collect();
        for folder in ["/etc", "/run", "/dev/shm", "/var/log", "/var/tmp", "/var/lib/nginx", "/var/spool/squid"] {
            if Path::new(folder).is_dir() {
                let nothing = MountFlags::empty();
                mount("tmpfs", folder, "tmpfs", nothing, Some(c"mode=777")).unwrap();
            }
        }
        for (name, bytes) in kept {
            write(name, bytes);
        }
        std::fs::create_dir_all(ALTERNATIVES).unwrap();
        for (name, program) in alternatives {
            std::os::unix::fs::symlink(program, Path::new(ALTERNATIVES).join(name)).unwrap();
        }
        write("/etc/hosts", "127.0.0.1 localhost\n");
        write("/etc/resolv.conf", "nameserver 127.0.0.1\n");
        for folder in ["/var/log/nginx", "/var/log/squid"] {
            std::fs::create_dir_all(folder).unwrap();
            // squid of root becomes the user `proxy`.
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        let mut zone: HashMap<String, Vec<Ipv4Addr>> = HashMap::new();
        for (name, address) in names {
            zone.entry((*name).to_owned()).or_default().push(address.parse().unwrap());
        }
        let answer = move |name: &str| zone.get(name).map_or(Reply::NoSuchName, |of| Reply::Addresses(of.clone()));
        Self { dns: Dns::at(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53), answer) }
    }
}

/// Writes a file anywhere in the world, with the folders above it.
pub(crate) fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn ip(arguments: &[&str]) {
    run(command("ip").args(arguments)).succeeded();
}

const INSIDE: &str = "INSIDE_A_WORLD_OF_ITS_OWN";
/// Where Debian's links to programs lead.
const ALTERNATIVES: &str = "/etc/alternatives";
/// Of /etc: what programs need to know users, libraries and services.
const KEPT: [&str; 7] = [
    "/etc/passwd",
    "/etc/group",
    "/etc/nsswitch.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/ld.so.cache",
    "/etc/ssl/openssl.cnf",
];
