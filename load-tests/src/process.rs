//! Child processes: started on the proxy's core, watched through /proc, ended by pid.

use std::ffi::OsStr;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// A contestant's process with all its descendants. Dropping it ends them.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts `command` on `core`, output to `log`, and waits until every address of `listening` accepts.
    ///
    /// The child gets SIGTERM when this process dies, however it dies (`setpriv --pdeathsig`).
    pub(crate) fn start<S: AsRef<OsStr>>(
        command: &[S],
        core: Core,
        log: &Path,
        listening: &[SocketAddr],
    ) -> std::io::Result<Self> {
        let output = fs::File::create(log)?;
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--pdeathsig", "TERM", "--"]).args(command);
        setpriv.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // A child inherits the affinity of the thread that starts it, and so do the child's own children.
        let before = sched_getaffinity(None)?;
        core.pin()?;
        let child = setpriv.spawn();
        sched_setaffinity(None, &before)?;

        let mut process = Self { child: child? };
        let deadline = Instant::now() + START_TIME_MAX;
        for address in listening {
            while TcpStream::connect_timeout(address, Duration::from_secs(1)).is_err() {
                let ended = process.child.try_wait()?;
                if ended.is_some() || Instant::now() > deadline {
                    let output = fs::read_to_string(log).unwrap_or_default();
                    let state = ended.map_or_else(|| "still runs".to_owned(), |status| status.to_string());
                    return Err(std::io::Error::other(format!(
                        "does not listen on {address} ({state}): {}",
                        tail(&output)
                    )));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(process)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// This process and all that descend from it.
    pub(crate) fn tree(&self) -> Vec<u32> {
        let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(|pid| Some((pid, stat_fields(pid)?.get(1)?.parse().ok()?)))
            .collect();
        let mut tree = vec![self.pid()];
        let mut next = 0;
        while let Some(parent) = tree.get(next).copied() {
            tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        tree
    }

    /// CPU time used so far by the tree, with what its ended threads and reaped children used.
    pub(crate) fn cpu(&self) -> Duration {
        self.tree().into_iter().map(|pid| threads_alive(pid).max(thread_group(pid))).sum()
    }

    /// Resident bytes of the tree.
    pub(crate) fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most resident bytes of each process of the tree so far, together.
    pub(crate) fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = |pid| fs::read_to_string(format!("/proc/{pid}/status")).ok();
        self.tree()
            .into_iter()
            .filter_map(status)
            .filter_map(|text| {
                text.lines().find_map(|line| line.strip_prefix(field)?.trim().split(' ').next()?.parse::<u64>().ok())
            })
            .map(|kib| kib * 1024)
            .sum()
    }

    /// Open descriptors of the tree.
    pub(crate) fn open_files(&self) -> usize {
        let count = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        self.tree().into_iter().map(count).sum()
    }

    /// Sends a signal to the process itself.
    pub(crate) fn signal(&self, signal: Signal) -> std::io::Result<()> {
        let gone = || std::io::Error::other("the process is gone");
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn wait(&mut self, limit: Duration) -> std::io::Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait()? {
                Some(status) => return Ok(status),
                None if Instant::now() > deadline => return Err(std::io::ErrorKind::TimedOut.into()),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Listed before the first is gone: afterwards they would have another parent. The first goes first, or it would
        // start its workers anew.
        for pid in self.tree() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, Signal::KILL); // may have ended by itself
            }
        }
        let _ = self.child.wait();
    }
}

/// A CPU that work is pinned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Core(usize);

impl Core {
    /// The first core this process may use for the proxies, the last for the load; the same if there is but one.
    pub(crate) fn pair() -> std::io::Result<(Self, Self)> {
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let first = cores.next().expect("a running process may use a core");
        Ok((Self(first), Self(cores.next_back().unwrap_or(first))))
    }

    /// Keeps the calling thread, and what it starts from now on, on this core.
    pub(crate) fn pin(self) -> std::io::Result<()> {
        let mut set = CpuSet::new();
        set.set(self.0);
        Ok(sched_setaffinity(None, &set)?)
    }
}

/// CPU time that this program itself has used so far.
pub(crate) fn cpu_of_this() -> Duration {
    threads_alive(std::process::id())
}

/// CPU time of the threads that live now, to the nanosecond.
fn threads_alive(pid: u32) -> Duration {
    let nanoseconds: u64 = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("schedstat")).ok())
        .filter_map(|line| line.split(' ').next()?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(nanoseconds)
}

/// CPU time of all threads that ever were and of reaped children, in whole ticks: more than [`threads_alive`] only where
/// some have ended (a thread per connection).
fn thread_group(pid: u32) -> Duration {
    let fields = stat_fields(pid).unwrap_or_default();
    let ticks: u64 = fields.get(11..15).unwrap_or_default().iter().filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// The fields of `/proc/PID/stat` from the third on (state, parent, …): the second, the name, may hold anything.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

fn tail(text: &str) -> &str {
    let start = text.len().saturating_sub(800);
    text.get(start..).unwrap_or(text).trim()
}

const START_TIME_MAX: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_a_process_ends_its_children_too() {
        let folder = std::env::temp_dir().join(format!("load-tests-process-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        let (core, _) = Core::pair().expect("a core");
        let process = Process::start(&["sh", "-c", "sleep 60 & sleep 60 & wait"], core, &folder.join("log"), &[])
            .expect("sh starts");
        let deadline = Instant::now() + Duration::from_secs(5);
        let tree = loop {
            let tree = process.tree();
            if tree.len() == 3 || Instant::now() > deadline {
                break tree;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(tree.len(), 3);
        drop(process);
        let alive = |pid: &u32| stat_fields(*pid).is_some_and(|fields| fields[0] != "Z");
        while tree.iter().any(alive) {
            assert!(Instant::now() < deadline, "of {tree:?} some still run");
            std::thread::sleep(Duration::from_millis(10));
        }
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn a_command_that_ends_at_once_is_an_error_with_its_output() {
        let log = std::env::temp_dir().join(format!("load-tests-ended-{}", std::process::id()));
        let (core, _) = Core::pair().expect("a core");
        let nobody = [SocketAddr::from(([127, 0, 0, 1], 1))];
        let error = Process::start(&["sh", "-c", "echo no such option >&2; exit 7"], core, &log, &nobody)
            .err()
            .expect("it ended");
        assert!(error.to_string().contains("no such option"), "{error}");
        assert!(error.to_string().contains('7'), "{error}");
        fs::remove_file(log).expect("removed");
    }
}
