//! Programs of others: found by name, bounded in time, ended by process id.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use super::lines::Lines;
use super::{PATIENCE, eventually};

/// A server that is ready. Killed when dropped.
pub(crate) struct Peer {
    child: Child,
    /// Where it listens, in the order of the ports it was given.
    pub(crate) addresses: Vec<SocketAddr>,
    /// What it writes to standard output.
    pub(crate) stdout: Lines,
    stderr: Lines,
}

impl Peer {
    /// Starts what `prepare` makes for `N` free ports; returns when all of them accept connections.
    ///
    /// A port that somebody else took meanwhile ends the program: then it gets others.
    pub(crate) fn start<const N: usize>(prepare: impl Fn([u16; N]) -> Command) -> Self {
        let mut attempts = (0..ATTEMPTS_MAX).map(|_| Self::attempt(&prepare));
        let mut said = Vec::new();
        attempts
            .find_map(|attempt| attempt.map_err(|lines| said = lines).ok())
            .unwrap_or_else(|| panic!("{}", said.join("\n")))
    }

    /// Starts a command that listens on addresses that are the test's.
    ///
    /// # Panics
    /// When it does not.
    pub(crate) fn start_at(command: Command, addresses: &[SocketAddr]) -> Self {
        Self::listening(command, addresses.to_vec()).unwrap_or_else(|said| panic!("{}", said.join("\n")))
    }

    fn attempt<const N: usize>(prepare: impl Fn([u16; N]) -> Command) -> Result<Self, Vec<String>> {
        let ports = free_ports();
        Self::listening(prepare(ports), ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))).to_vec())
    }

    fn listening(mut command: Command, addresses: Vec<SocketAddr>) -> Result<Self, Vec<String>> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = Lines::of(child.stdout.take().unwrap());
        let stderr = Lines::of(child.stderr.take().unwrap());
        let mut peer = Self { child, addresses, stdout, stderr };
        let mut has_ended = false;
        eventually("the peer listens", || {
            has_ended = peer.child.try_wait().unwrap().is_some();
            has_ended || peer.addresses.iter().all(|address| TcpStream::connect(address).is_ok())
        });
        if has_ended { Err(peer.stderr.all()) } else { Ok(peer) }
    }

    /// The first address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Ends it now.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("-- the peer's log:\n{}", self.stderr.so_far().join("\n"));
        }
    }
}

/// How a command ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Ran {
    /// Standard output of a command that succeeded.
    ///
    /// # Panics
    /// When it did not.
    pub(crate) fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When that does not come in time.
pub(crate) fn run(command: &mut Command) -> Ran {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (stdout, stderr) = (collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap()));
    let end = std::time::Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if std::time::Instant::now() > end => break None,
            None => thread::sleep(std::time::Duration::from_millis(2)),
        }
    };
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let ran =
        Ran { code: status.and_then(|s| s.code()), stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() };
    assert!(status.is_some(), "not over within {PATIENCE:?}: {command:?}: {ran:?}");
    ran
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A command by the program's name, away from the proxies, authorities and locale of whoever runs the tests.
///
/// # Panics
/// When there is no such program: tests do not skip their peers.
pub(crate) fn command(name: &str) -> Command {
    command_at(&program(name))
}

/// The same by the program's path.
pub(crate) fn command_at(program: &Path) -> Command {
    let mut command = Command::new(program);
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    for name in AUTHORITIES {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C.UTF-8");
    command
}

#[expect(clippy::disallowed_methods, reason = "the programs are where whoever runs the tests has them")]
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]); // servers of Debian, off the path of users
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing: ./test.sh installs the programs that tests talk to"))
}

/// A file that comes with a package.
///
/// # Panics
/// When it is not there.
pub(crate) fn packaged(path: &str) -> &Path {
    let path = Path::new(path);
    assert!(path.is_file(), "{} is missing: ./test.sh installs the programs that tests talk to", path.display());
    path
}

/// Ports that nobody listened on a moment ago.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

const ATTEMPTS_MAX: usize = 3;
/// Where programs find whom they trust, if it is not said on their command line; for some it counts even then.
const AUTHORITIES: [&str; 8] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "PIP_CERT",
];
