//! The hosts file, read again when it changes; and the names that are answered without asking anybody.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;

use crate::flow::{Host, Name};

/// A hosts file as last read.
#[derive(Debug)]
pub(super) struct HostsFile {
    path: Option<PathBuf>,
    entries: ArcSwap<HashMap<Name, Vec<IpAddr>>>,
    checked: Mutex<(Instant, Option<Stamp>)>,
}

/// Tells two states of a file apart: a rename over it changes the inode time even where the length stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    bytes: u64,
}

const CHECK_INTERVAL: Duration = Duration::from_secs(1); // one stat a second at most, however many names are asked for
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024; // block lists in a hosts file have some megabytes

impl HostsFile {
    /// Reads the file; a missing one is an empty one.
    pub(super) fn open(path: Option<&Path>) -> Self {
        let stamp = path.and_then(stamp);
        let entries = path.map(read).unwrap_or_default();
        Self {
            path: path.map(Path::to_owned),
            entries: ArcSwap::from_pointee(entries),
            checked: Mutex::new((Instant::now(), stamp)),
        }
    }

    /// The addresses of a name, if the file has it.
    pub(super) fn lookup(self: &Arc<Self>, name: &Name) -> Option<Vec<IpAddr>> {
        if let Some(path) = &self.path {
            self.refresh(path, Instant::now());
        }
        self.entries.load().get(name).cloned()
    }

    fn refresh(self: &Arc<Self>, path: &Path, now: Instant) {
        let stamp = {
            let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
            if now.saturating_duration_since(checked.0) < CHECK_INTERVAL {
                return;
            }
            checked.0 = now;
            let stamp = stamp(path);
            if stamp == checked.1 {
                return;
            }
            checked.1 = stamp;
            stamp
        };
        // Small files at once, so that the next flow sees them; big ones aside, so that no worker stands still.
        if stamp.is_none_or(|stamp| stamp.bytes <= 64 * 1024) {
            self.entries.store(Arc::new(read(path)));
        } else {
            let (this, path) = (self.clone(), path.to_owned());
            tokio::task::spawn_blocking(move || this.entries.store(Arc::new(read(&path))));
        }
    }
}

/// Names that never go to a server: `localhost` is this host (RFC 6761 §6.3), `invalid` (§6.4) and `onion` (RFC 7686) do not exist.
pub(super) fn reserved(name: &Name) -> Option<Vec<IpAddr>> {
    match name.as_str().rsplit('.').next() {
        Some("localhost") => Some(vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]),
        Some("invalid" | "onion") => Some(Vec::new()),
        _ => None,
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp { modified: metadata.modified().ok()?, bytes: metadata.len() })
}

fn read(path: &Path) -> HashMap<Name, Vec<IpAddr>> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() <= FILE_BYTES_MAX => {}
        Ok(_) => {
            tracing::warn!(path = %path.display(), "the hosts file is no regular file of at most {FILE_BYTES_MAX} bytes");
            return HashMap::new();
        }
        Err(_) => return HashMap::new(),
    }
    std::fs::read(path).map(|text| parse(&String::from_utf8_lossy(&text))).unwrap_or_default()
}

/// hosts(5): an address and its names, `#` begins a comment. Lines that are none are passed over, as libc does.
fn parse(text: &str) -> HashMap<Name, Vec<IpAddr>> {
    let mut entries: HashMap<Name, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(Ok(ip)) = words.next().map(str::parse::<IpAddr>) else { continue };
        for word in words {
            let Ok(Host::Name(name)) = Host::parse(word.as_bytes()) else { continue };
            let ips = entries.entry(name).or_default();
            if !ips.contains(&ip.to_canonical()) {
                ips.push(ip.to_canonical());
            }
        }
    }
    entries
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn lines_give_names_addresses_and_anything_else_is_passed_over() {
        let entries = parse(
            "# comment\n192.0.2.1 API.example alias # rest\n\n2001:db8::1\tapi.example\n192.0.2.1 api.example\nnonsense here\n192.0.2.9\n192.0.2.3 bad_host- ok.example\n",
        );
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(entries[&name("api.example")], [ip("192.0.2.1"), ip("2001:db8::1")]);
        assert_eq!(entries[&name("alias")], [ip("192.0.2.1")]);
        assert_eq!(entries[&name("ok.example")], [ip("192.0.2.3")]);
        assert_eq!(entries.len(), 3);
    }

    #[test]
    fn a_changed_file_is_read_again_after_the_interval() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        std::fs::write(&path, "192.0.2.1 a.example\n").unwrap();
        let hosts = Arc::new(HostsFile::open(Some(&path)));
        assert_eq!(hosts.lookup(&name("a.example")).unwrap().len(), 1);
        std::fs::write(&path, "192.0.2.1 a.example\n192.0.2.2 a.example\n").unwrap();
        let now = Instant::now();
        hosts.refresh(&path, now);
        assert_eq!(hosts.lookup(&name("a.example")).unwrap().len(), 1, "looked at within the interval");
        hosts.refresh(&path, now + CHECK_INTERVAL * 2);
        assert_eq!(hosts.lookup(&name("a.example")).unwrap().len(), 2);
        std::fs::remove_file(&path).unwrap();
        hosts.refresh(&path, now + CHECK_INTERVAL * 4);
        assert_eq!(hosts.lookup(&name("a.example")), None);
    }

    #[test]
    fn reserved_names_ask_nobody() {
        assert_eq!(reserved(&name("localhost")).unwrap().len(), 2);
        assert_eq!(reserved(&name("app.localhost")).unwrap().len(), 2);
        assert_eq!(reserved(&name("x.onion")), Some(vec![]));
        assert_eq!(reserved(&name("localhost.example")), None);
    }
}
