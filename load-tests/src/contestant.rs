//! Who is measured, and how each is started. Configurations are templates in `peers/`, compiled in.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::process::{Core, Process};
use crate::scenario::{Door, Scenario};

/// A proxy under measurement. The order is that of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contestant {
    /// The bare epoll relay: the least that a CONNECT proxy can do
    Floor,
    Egret,
    Squid,
    Envoy,
    Nginx,
    Haproxy,
    Tinyproxy,
}

/// One process of a contestant, with the doors it opens. Most need only one process.
struct Instance {
    doors: &'static [Door],
    /// Name in the instance's folder, template.
    files: &'static [(&'static str, &'static str)],
    command: &'static [&'static str],
}

/// What the templates may speak of beside the contestant's own ports.
pub(crate) struct Surroundings {
    pub(crate) folder: PathBuf,
    pub(crate) egret: PathBuf,
    pub(crate) envoy: PathBuf,
    pub(crate) origin_plain: SocketAddr,
    pub(crate) origin_tls: SocketAddr,
    pub(crate) origin_hello: SocketAddr,
    /// File with the authority that signed the TLS origin.
    pub(crate) ca: PathBuf,
    pub(crate) parent: SocketAddr,
    pub(crate) ports: Ports,
}

/// A contestant that runs. Dropping it ends its processes.
pub(crate) struct Running {
    pub(crate) contestant: Contestant,
    instances: Vec<(Process, &'static [Door], PathBuf)>,
    ports: BTreeMap<&'static str, u16>,
}

impl Contestant {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Egret => "egret",
            Self::Squid => "squid",
            Self::Envoy => "envoy",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Tinyproxy => "tinyproxy",
        }
    }

    /// The door by which it does this work; `None` where it does not do it.
    pub(crate) fn door(self, scenario: Scenario) -> Option<Door> {
        let has = |door: &Door| self.instances().iter().any(|instance| instance.doors.contains(door));
        // tinyproxy closes after each answer and takes a thread per tunnel: neither is what these two measure.
        if self == Self::Tinyproxy && scenario == Scenario::Idle {
            return None;
        }
        scenario.doors().iter().copied().find(has)
    }

    /// Whether it writes an access log.
    pub(crate) fn logs(self) -> bool {
        self != Self::Floor
    }

    /// The version as the program tells it, or why there is none.
    pub(crate) fn version(self, surroundings: &Surroundings) -> Result<String, String> {
        let (command, argument): (&Path, _) = match self {
            Self::Floor => return Ok(format!("load-tests {}", env!("CARGO_PKG_VERSION"))),
            Self::Egret => (&surroundings.egret, "--version"),
            Self::Envoy => (&surroundings.envoy, "--version"),
            Self::Squid => (Path::new("squid"), "-v"),
            Self::Nginx => (Path::new("nginx"), "-v"),
            Self::Haproxy => (Path::new("haproxy"), "-v"),
            Self::Tinyproxy => (Path::new("tinyproxy"), "-v"),
        };
        let output =
            Command::new(command).arg(argument).output().map_err(|error| format!("{}: {error}", self.name()))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let mut words = text.split_whitespace();
        // "nginx version: nginx/1.22.1", "HAProxy version 2.6.12-1 2023/…", "Squid Cache: Version 5.7": the word with digits.
        words
            .find(|word| word.contains(|letter: char| letter.is_ascii_digit()) && word.contains('.'))
            .map(|word| word.rsplit('/').nth(if self == Self::Envoy { 2 } else { 0 }).unwrap_or(word).to_owned())
            .ok_or_else(|| format!("{} does not tell its version: {}", self.name(), text.trim()))
    }

    /// The templates of its configuration, by file name.
    pub(crate) fn templates(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.instances().iter().flat_map(|instance| instance.files.iter().copied())
    }

    /// Starts what is needed for `doors` and waits until it listens.
    pub(crate) fn start(self, surroundings: &Surroundings, core: Core, doors: &[Door]) -> std::io::Result<Running> {
        let mut ports = BTreeMap::new();
        for (_, name) in DOOR_PORTS {
            ports.insert(*name, surroundings.ports.take()?);
        }
        let mut running = Running { contestant: self, instances: Vec::new(), ports };
        for (number, instance) in self.instances().iter().enumerate() {
            if !instance.doors.iter().any(|door| doors.contains(door)) {
                continue;
            }
            let folder = surroundings.folder.join(format!("{}-{number}-{}", self.name(), running.ports["connect"]));
            make_folder(&folder)?;
            // The log has its own folder: who watches the files of his configuration is not to be woken by his own lines.
            make_folder(&folder.join("log"))?;
            let fill = |template: &str| fill(template, &running.ports, &folder, surroundings);
            for (name, template) in instance.files {
                fs::write(folder.join(name), fill(template))?;
            }
            let command: Vec<String> = instance.command.iter().map(|word| fill(word)).collect();
            let listening: Vec<SocketAddr> = instance.doors.iter().map(|door| running.address(*door)).collect();
            let process = Process::start(&command, core, &folder.join("output.log"), &listening)
                .map_err(|error| std::io::Error::other(format!("{}: {error}", self.name())))?;
            running.instances.push((process, instance.doors, folder));
        }
        Ok(running)
    }

    fn instances(self) -> &'static [Instance] {
        match self {
            Self::Floor => &[
                Instance {
                    doors: &[Door::Connect],
                    files: &[],
                    command: &["{{self}}", "relay", "127.0.0.1:{{connect}}"],
                },
                Instance {
                    doors: &[Door::Sni],
                    files: &[],
                    command: &["{{self}}", "relay", "127.0.0.1:{{sni}}", "--target", "127.0.0.1:{{origin_hello}}"],
                },
            ],
            Self::Egret => &[
                Instance {
                    doors: &[Door::Connect, Door::Http, Door::TlsOrigination, Door::Sni, Door::H2],
                    files: &[
                        ("egret.yaml", include_str!("../peers/egret.yaml")),
                        ("resources.yaml", include_str!("../peers/egret-resources.yaml")),
                    ],
                    command: &["{{egret}}", "run", "-c", "{{dir}}/egret.yaml"],
                },
                Instance {
                    doors: &[Door::Refuse],
                    files: &[("egret.yaml", include_str!("../peers/egret-refuse.yaml"))],
                    command: &["{{egret}}", "run", "-c", "{{dir}}/egret.yaml"],
                },
                Instance {
                    doors: &[Door::Chain],
                    files: &[
                        ("egret.yaml", include_str!("../peers/egret-chain.yaml")),
                        ("resources.yaml", include_str!("../peers/egret-chain-resources.yaml")),
                    ],
                    command: &["{{egret}}", "run", "-c", "{{dir}}/egret.yaml"],
                },
            ],
            Self::Squid => &[Instance {
                doors: &[Door::Connect, Door::Http, Door::Refuse, Door::Chain],
                files: &[("squid.conf", include_str!("../peers/squid.conf"))],
                command: &["squid", "-N", "-f", "{{dir}}/squid.conf"],
            }],
            Self::Envoy => &[Instance {
                doors: &[
                    Door::Connect,
                    Door::Http,
                    Door::TlsOrigination,
                    Door::Sni,
                    Door::Refuse,
                    Door::Chain,
                    Door::H2,
                ],
                files: &[("envoy.yaml", include_str!("../peers/envoy.yaml"))],
                command: &[
                    "{{envoy}}",
                    "-c",
                    "{{dir}}/envoy.yaml",
                    "--concurrency",
                    "1",
                    "--disable-hot-restart",
                    "-l",
                    "error",
                ],
            }],
            Self::Nginx => &[Instance {
                doors: &[Door::Tcp, Door::Http, Door::TlsOrigination, Door::Sni],
                files: &[("nginx.conf", include_str!("../peers/nginx.conf"))],
                command: &["nginx", "-c", "{{dir}}/nginx.conf"],
            }],
            Self::Haproxy => &[Instance {
                doors: &[Door::Tcp, Door::Http, Door::TlsOrigination, Door::Sni, Door::Refuse, Door::Chain],
                files: &[("haproxy.cfg", include_str!("../peers/haproxy.cfg"))],
                command: &["haproxy", "-db", "-f", "{{dir}}/haproxy.cfg"],
            }],
            Self::Tinyproxy => &[
                Instance {
                    doors: &[Door::Connect],
                    files: &[("tinyproxy.conf", include_str!("../peers/tinyproxy.conf"))],
                    command: &["tinyproxy", "-d", "-c", "{{dir}}/tinyproxy.conf"],
                },
                Instance {
                    doors: &[Door::Refuse],
                    files: &[
                        ("tinyproxy.conf", include_str!("../peers/tinyproxy-refuse.conf")),
                        ("filter", "^refused\\.test$\n"),
                    ],
                    command: &["tinyproxy", "-d", "-c", "{{dir}}/tinyproxy.conf"],
                },
                Instance {
                    doors: &[Door::Chain],
                    files: &[("tinyproxy.conf", include_str!("../peers/tinyproxy-chain.conf"))],
                    command: &["tinyproxy", "-d", "-c", "{{dir}}/tinyproxy.conf"],
                },
            ],
        }
    }
}

impl Running {
    pub(crate) fn address(&self, door: Door) -> SocketAddr {
        let name =
            DOOR_PORTS.iter().find(|(of, _)| *of == door).map(|(_, name)| *name).expect("every door is in the table");
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[name]))
    }

    /// The process behind a door.
    pub(crate) fn process(&self, door: Door) -> &Process {
        let found = self.instances.iter().find(|(_, doors, _)| doors.contains(&door));
        &found.expect("a contestant is started with the doors that are asked of it").0
    }

    /// Bytes of access log written so far behind a door.
    pub(crate) fn logged(&self, door: Door) -> u64 {
        let folder = self.instances.iter().find(|(_, doors, _)| doors.contains(&door)).map(|(_, _, folder)| folder);
        let size = |name| Some(fs::metadata(folder?.join(name)).ok()?.len());
        size(LOG).or_else(|| size("output.log")).unwrap_or(0) // HAProxy logs to its standard output
    }

    /// The last line each process wrote to its output, for a failure's report.
    pub(crate) fn last_words(&self) -> String {
        let last =
            |folder: &PathBuf| fs::read_to_string(folder.join("output.log")).ok()?.lines().last().map(str::to_owned);
        let words: Vec<String> = self.instances.iter().filter_map(|(_, _, folder)| last(folder)).collect();
        words.join("; ")
    }
}

/// Starts squid as the parent of the chain, on the core of the load: it is part of the surroundings.
pub(crate) fn start_parent(surroundings: &Surroundings, core: Core) -> std::io::Result<Process> {
    let folder = surroundings.folder.join("parent");
    make_folder(&folder)?;
    let file = folder.join("squid.conf");
    fs::write(&file, fill(include_str!("../peers/squid-parent.conf"), &BTreeMap::new(), &folder, surroundings))?;
    let command = ["squid".as_ref(), "-N".as_ref(), "-f".as_ref(), file.as_os_str()];
    Process::start(&command, core, &folder.join("output.log"), &[surroundings.parent])
        .map_err(|error| std::io::Error::other(format!("squid as parent: {error}")))
}

/// Anyone may write in it: some give up their user before they open their log.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777))
}

/// Replaces every `{{name}}`. What stays is a mistake in a template, and the contestant will say so.
fn fill(template: &str, ports: &BTreeMap<&'static str, u16>, folder: &Path, surroundings: &Surroundings) -> String {
    let this = std::env::current_exe().unwrap_or_default();
    let mut text = template.to_owned();
    for (name, port) in ports {
        text = text.replace(&format!("{{{{{name}}}}}"), &port.to_string());
    }
    for (name, value) in [
        ("dir", folder.display().to_string()),
        ("log", folder.join(LOG).display().to_string()),
        ("ca", surroundings.ca.display().to_string()),
        ("self", this.display().to_string()),
        ("egret", surroundings.egret.display().to_string()),
        ("envoy", surroundings.envoy.display().to_string()),
        ("origin_plain", surroundings.origin_plain.port().to_string()),
        ("origin_tls", surroundings.origin_tls.port().to_string()),
        ("origin_hello", surroundings.origin_hello.port().to_string()),
        ("parent", surroundings.parent.port().to_string()),
    ] {
        text = text.replace(&format!("{{{{{name}}}}}"), &value);
    }
    text
}

/// Hands out free ports below the ephemeral range, where no client connection can take one in between.
pub(crate) struct Ports(std::cell::Cell<u16>);

impl Ports {
    /// Runs that start together begin at different places.
    pub(crate) fn new() -> Self {
        Self(std::cell::Cell::new(PORTS_FIRST + (std::process::id() % 400) as u16 * 20))
    }

    pub(crate) fn take(&self) -> std::io::Result<u16> {
        for _ in 0..u16::MAX {
            let port = self.0.get();
            self.0.set(if port >= PORTS_LAST { PORTS_FIRST } else { port + 1 });
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(port);
            }
        }
        Err(std::io::Error::other("no free port on loopback"))
    }
}

const DOOR_PORTS: &[(Door, &str)] = &[
    (Door::Connect, "connect"),
    (Door::Tcp, "tcp"),
    (Door::Http, "http"),
    (Door::TlsOrigination, "tls"),
    (Door::Sni, "sni"),
    (Door::Refuse, "refuse"),
    (Door::Chain, "chain"),
    (Door::H2, "h2"),
];
/// In an instance's folder.
const LOG: &str = "log/access.log";
const PORTS_FIRST: u16 = 20_000;
const PORTS_LAST: u16 = 32_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings() -> Surroundings {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        Surroundings {
            folder: PathBuf::from("/somewhere"),
            egret: PathBuf::from("egret"),
            envoy: PathBuf::from("envoy"),
            origin_plain: address,
            origin_tls: address,
            origin_hello: address,
            ca: PathBuf::from("ca.pem"),
            parent: address,
            ports: Ports::new(),
        }
    }

    #[test]
    fn no_template_speaks_of_what_is_not_there() {
        let ports = DOOR_PORTS.iter().map(|(_, name)| (*name, 1)).collect();
        for contestant in Contestant::value_variants() {
            let words = contestant
                .instances()
                .iter()
                .flat_map(|instance| instance.command.iter().map(|word| ("command", *word)));
            for (name, template) in contestant.templates().chain(words) {
                let text = fill(template, &ports, Path::new("/somewhere"), &surroundings());
                assert!(!text.contains("{{"), "{} {name}: {text}", contestant.name());
            }
        }
    }

    #[test]
    fn egret_does_everything() {
        for scenario in Scenario::value_variants() {
            assert!(Contestant::Egret.door(*scenario).is_some(), "{scenario:?}");
        }
    }

    #[test]
    fn nginx_has_no_connect_and_relays_tcp_instead() {
        assert_eq!(Contestant::Nginx.door(Scenario::Connect), None);
        assert_eq!(Contestant::Nginx.door(Scenario::Bulk16), Some(Door::Tcp));
        assert_eq!(Contestant::Squid.door(Scenario::Bulk16), Some(Door::Connect));
        assert_eq!(Contestant::Squid.door(Scenario::H2Connect), None);
        assert_eq!(Contestant::Envoy.door(Scenario::H2Http), Some(Door::H2));
    }

    #[test]
    fn ports_are_handed_out_once() {
        let ports = Ports::new();
        let first = ports.take().expect("a port");
        assert_ne!(first, ports.take().expect("another port"));
    }
}
