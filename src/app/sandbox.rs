//! The process gives up what it does not need of the file system, by landlock, before its second thread starts: from then on it
//! reads only in the folders of its configuration and of the system's trust, writes only where its access log is, and executes
//! nothing. Whoever takes it over gets no more.
//!
//! Rules hold for folders and all in them, so that files which are renamed into place are still read, and log files opened anew.
//! TCP is left alone: landlock knows ports and no addresses, a reload may bind any, and an egress proxy dials all.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, make_bitflags, path_beneath_rules,
};

use crate::config::settings::Sandbox;

/// Files and folders that are left to the process; a folder with all that is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    read: BTreeSet<PathBuf>,
    written: BTreeSet<PathBuf>,
}

impl Places {
    /// What is read whatever the configuration: `/etc` (resolv.conf, hosts), roots of trust, what the kernel tells of us.
    pub(super) fn of_system() -> Self {
        let mut places = Self::default();
        SYSTEM.iter().for_each(|path| _ = places.leave(Path::new(path)));
        // The program itself, for the lines of a backtrace.
        places.read.extend(std::env::current_exe());
        places
    }

    /// Leaves the folder of a file, or a folder: where it is, and where links lead from there.
    pub(super) fn read(&mut self, path: &Path) {
        if let Some(real) = self.leave(path).filter(|real| real.is_dir()) {
            self.read_links(&real, LINK_DEPTH_MAX);
        }
    }

    fn leave(&mut self, path: &Path) -> Option<PathBuf> {
        self.read.extend(folder_of(path));
        let real = path.canonicalize().ok()?;
        self.read.extend(folder_of(&real));
        Some(real)
    }

    /// Leaves the folder of a file for writing, so that the file can be moved away and made anew; of a device, itself alone.
    pub(super) fn write(&mut self, path: &Path) {
        match std::fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() && !metadata.is_dir() => _ = self.written.insert(path.to_owned()),
            _ => {
                self.written.extend(folder_of(path));
                self.written.extend(path.canonicalize().ok().and_then(|real| folder_of(&real)));
            }
        }
    }

    /// Leaves the folder of a socket, so that it can be made, and removed in the end.
    pub(super) fn socket(&mut self, path: &Path) {
        self.written.extend(folder_of(path));
    }

    fn read_links(&mut self, folder: &Path, depth: usize) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_symlink() => {
                    let real = path.canonicalize().ok();
                    self.read.extend(real.and_then(|real| folder_of(&real)).filter(|real| !real.starts_with(folder)));
                }
                Ok(kind) if kind.is_dir() && depth > 0 => self.read_links(&path, depth - 1),
                _ => {}
            }
        }
    }
}

/// Where roots of trust lie on the usual systems: each may be a link, and is followed to the end.
const SYSTEM: [&str; 13] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/usr/lib/ssl",
    "/usr/local/ssl",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/proc",
    "/dev/urandom",
    "/dev/random", // a static binary's `getrandom` crate finds no symbol of that name, and asks this one whether there is enough
];

const LINK_DEPTH_MAX: usize = 16; // as deep as resources are looked for

/// The folder that a rule is made for; the file itself where that would be everything, or all devices.
fn folder_of(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return (path != Path::new("/")).then(|| path.to_owned());
    }
    match path.parent()? {
        parent if parent.as_os_str().is_empty() => Some(".".into()),
        parent if parent == Path::new("/") || parent == Path::new("/dev") => Some(path.to_owned()),
        parent => Some(parent.to_owned()),
    }
}

/// Confines this thread and all that it will start; says in one log line what came of it. True: paths outside of `places` are gone.
///
/// # Errors
/// If the settings require what the kernel does not have.
pub(super) fn enter(wanted: Sandbox, places: &Places) -> Result<bool, String> {
    if wanted == Sandbox::Off {
        tracing::info!("no sandbox: the settings turn it off");
        return Ok(false);
    }
    let (confined, problem) = match restrict(places) {
        Ok(status) => judge(&status),
        Err(error) => (false, Some(error.to_string())),
    };
    match problem {
        None => {
            let (read, written) = (places.read.len(), places.written.len());
            tracing::info!(
                read,
                written,
                "sandbox: files are read and written only in these folders, none is executed"
            );
        }
        Some(problem) if wanted == Sandbox::Required => return Err(problem),
        Some(problem) => tracing::info!(problem, confined, "sandbox: less than all of it"),
    }
    Ok(confined)
}

fn judge(status: &RestrictionStatus) -> (bool, Option<String>) {
    match (&status.ruleset, status.landlock) {
        (RulesetStatus::FullyEnforced, _) => (true, None),
        (RulesetStatus::PartiallyEnforced, LandlockStatus::Available { effective_abi, .. }) => {
            (true, Some(format!("the landlock of this kernel knows version {effective_abi:?} only, of {ABI_USED:?}")))
        }
        (_, LandlockStatus::NotEnabled) => (false, Some("landlock is not enabled in this kernel".to_owned())),
        _ => (false, Some("this kernel has no landlock".to_owned())),
    }
}

const ABI_USED: ABI = ABI::V6; // Linux 6.12; of older kernels what they have
const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
// A file may be made, written and, where it is a socket, replaced. Not truncated: logs are appended to.
const WRITE: BitFlags<AccessFs> =
    make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | MakeReg | MakeSock | RemoveFile});

fn restrict(places: &Places) -> Result<RestrictionStatus, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(ABI_USED))?
        .scope(Scope::Signal)? // nobody else's process is signalled
        .create()?
        .add_rules(path_beneath_rules(&places.read, READ))?
        .add_rules(path_beneath_rules(&places.written, WRITE))?
        .restrict_self()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::io::ErrorKind::PermissionDenied;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A thread of its own: what it gives up, the other tests keep.
    fn confined<T: Send + 'static>(places: Places, then: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = std::thread::spawn(move || {
            assert_eq!(enter(Sandbox::Auto, &places), Ok(true), "this kernel has landlock");
            then()
        });
        thread.join().unwrap()
    }

    fn has_landlock() -> bool {
        // On a thread that ends with it.
        let probe = std::thread::spawn(|| restrict(&Places::default()).is_ok_and(|status| judge(&status).0));
        probe.join().unwrap()
    }

    #[test]
    fn what_is_left_can_be_read_and_written_and_nothing_else() {
        if !has_landlock() {
            // The other outcome of the same call: nothing is given up, and the process goes on.
            assert_eq!(enter(Sandbox::Auto, &Places::default()), Ok(false));
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        let path = move |name: &str| root.join(name);
        for name in ["conf/a.yaml", "linked/b.yaml", "other/c.yaml", "log/access.log"] {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), name).unwrap();
        }
        symlink(path("linked/b.yaml"), path("conf/b.yaml")).unwrap();
        let mut places = Places::of_system();
        places.read(&path("conf"));
        places.write(&path("log/access.log"));
        confined(places, move || {
            let kind = |result: std::io::Result<()>| result.map_err(|error| error.kind());
            let read = |name: &str| kind(fs::read(path(name)).map(drop));
            assert_eq!(
                (read("conf/a.yaml"), read("conf/b.yaml"), read("other/c.yaml")),
                (Ok(()), Ok(()), Err(PermissionDenied))
            );
            assert_eq!(kind(fs::write(path("conf/new.yaml"), "")), Err(PermissionDenied));
            let append = |name: &str| kind(fs::OpenOptions::new().create(true).append(true).open(path(name)).map(drop));
            assert_eq!(
                (append("log/access.log"), append("log/new.log"), append("other/new")),
                (Ok(()), Ok(()), Err(PermissionDenied))
            );
            assert_eq!(kind(fs::read("/etc/resolv.conf").or_else(|_| fs::read("/etc/hosts")).map(drop)), Ok(()));
            assert_eq!(kind(fs::read_to_string("/proc/self/stat").map(drop)), Ok(()));
            for device in ["/dev/random", "/dev/urandom"] {
                assert_eq!(kind(fs::File::open(device).map(drop)), Ok(()), "{device}");
            }
            assert_eq!(kind(std::process::Command::new("/bin/true").status().map(drop)), Err(PermissionDenied));
        });
    }

    #[test]
    fn files_are_left_with_their_folder_and_never_with_everything() {
        let folder = |path: &str| folder_of(Path::new(path));
        assert_eq!(folder("/nowhere/egret.yaml"), Some("/nowhere".into()));
        assert_eq!(folder("egret.yaml"), Some(".".into()));
        assert_eq!(
            (folder("/egret.yaml"), folder("/dev/null")),
            (Some("/egret.yaml".into()), Some("/dev/null".into()))
        );
        assert_eq!(folder("/"), None);
        let mut places = Places::default();
        places.write(Path::new("/dev/null"));
        assert_eq!(places.written, BTreeSet::from(["/dev/null".into()]));
    }

    #[test]
    fn off_gives_up_nothing() {
        assert_eq!(enter(Sandbox::Off, &Places::default()), Ok(false));
        assert!(fs::read("/etc/hosts").is_ok());
    }
}
