//! A running `egret`, and one-shot commands.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::lines::Lines;
use super::{PATIENCE, client, eventually};

/// `egret ARGS…`, away from the settings and variables of whoever runs the tests.
pub(crate) fn command<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    command.args(args);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("EGRET_") {
            command.env_remove(name);
        }
    }
    for name in ["RUST_LOG", "CLICOLOR_FORCE", "LC_ALL", "LC_CTYPE"] {
        command.env_remove(name);
    }
    command.env("LANG", "C.UTF-8").stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub(crate) fn egret<S: AsRef<OsStr>>(args: &[S]) -> Output {
    command(args).output().unwrap()
}

/// A proxy that is ready. Killed when dropped.
pub(crate) struct Egret {
    child: Child,
    listening: String,
    /// The access log, where it goes to standard output.
    pub(crate) stdout: Lines,
    /// The application log.
    pub(crate) stderr: Lines,
}

impl Egret {
    /// With the built-in defaults, on free ports, allowed to reach origins on loopback.
    pub(crate) fn start() -> Self {
        Self::with(&["--allow-address", "127.0.0.0/8"])
    }

    /// With the settings file at `path`, on a free admin port; its listeners should ask for port 0.
    pub(crate) fn with_settings(path: &Path) -> Self {
        Self::spawn(&["run".as_ref(), "--admin".as_ref(), "127.0.0.1:0".as_ref(), "-c".as_ref(), path.as_os_str()])
    }

    /// With more arguments of `run`, on free ports.
    pub(crate) fn with(args: &[&str]) -> Self {
        Self::spawn(&[&["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], args].concat())
    }

    /// With exactly these arguments; returns when it listens.
    pub(crate) fn spawn<S: AsRef<OsStr>>(args: &[S]) -> Self {
        Self::spawn_command(command(args))
    }

    /// The same for a command that was prepared.
    pub(crate) fn spawn_command(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = Lines::of(child.stdout.take().unwrap());
        let stderr = Lines::of(child.stderr.take().unwrap());
        let mut egret = Self { child, listening: String::new(), stdout, stderr };
        egret.listening = egret.stderr.wait_for("listening ");
        egret
    }

    /// The address of the first listener.
    pub(crate) fn proxy(&self) -> SocketAddr {
        self.address("proxy")
    }

    /// The address of the admin port.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.address("admin")
    }

    /// The bound address that the listening line gives for `name`.
    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        address_in(&self.listening, name).unwrap_or_else(|| panic!("no {name} in {:?}", self.listening))
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Sends SIGHUP and waits for the log to say what became of it. Gives that line.
    pub(crate) fn reload(&self) -> String {
        let before = reloads(&self.stderr.so_far()).len();
        self.signal(Signal::HUP);
        let mut line = None;
        eventually("the reload is over", || {
            line = reloads(&self.stderr.so_far()).get(before).cloned();
            line.is_some()
        });
        line.unwrap()
    }

    /// The numbers of the descriptors that the process holds.
    pub(crate) fn open_files(&self) -> Vec<usize> {
        let folder = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        folder.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
    }

    /// Its resident memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    /// The value of a metric without labels.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let body = String::from_utf8(client::get_from(self.admin(), "/metrics").body).unwrap();
        let value = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in\n{body}")).parse().unwrap()
    }

    /// True while the process runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When it does not come in time.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        let mut status = None;
        eventually("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some() || Instant::now() > end
        });
        status.unwrap()
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.wait().code()
    }
}

impl Drop for Egret {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("-- egret's log:\n{}", self.stderr.so_far().join("\n"));
        }
    }
}

/// The address after `name=` in a listening line.
pub(crate) fn address_in(line: &str, name: &str) -> Option<SocketAddr> {
    let key = format!("{name}=");
    line.split(' ').find_map(|word| word.strip_prefix(&key))?.parse().ok()
}

fn reloads(lines: &[String]) -> Vec<String> {
    lines.iter().filter(|line| line.contains("reloaded") || line.contains("not reloaded")).cloned().collect()
}
