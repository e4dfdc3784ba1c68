//! System calls per operation, counted by `strace -c` in a short round of its own: tracing slows the traced.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde::Serialize;

use crate::process::{Core, Process};
use crate::scenario::Scenario;

/// Calls per operation, by name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Counts(pub(crate) BTreeMap<String, f64>);

/// strace, attached to a process.
pub(crate) struct Tracer {
    strace: Child,
    summary: PathBuf,
}

/// Where a count per operation says something.
pub(crate) fn are_counted_in(scenario: Scenario) -> bool {
    !matches!(scenario, Scenario::Idle | Scenario::Bulk1 | Scenario::Bulk16)
}

impl Tracer {
    /// On return every thread of `process` and its descendants is traced.
    pub(crate) fn attach(process: &Process, folder: &Path, core: Core) -> std::io::Result<Self> {
        let summary = folder.join("strace.txt");
        let tree = process.tree();
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-q", "-o"]).arg(&summary);
        for pid in &tree {
            command.args(["-p", &pid.to_string()]);
        }
        core.pin()?; // where we are already; strace inherits it
        let strace = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut tracer = Self { strace, summary };
        let deadline = Instant::now() + ATTACH_TIME_MAX;
        while !tree.iter().all(|pid| is_traced(*pid)) {
            if tracer.strace.try_wait()?.is_some() || Instant::now() > deadline {
                return Err(std::io::Error::other("strace cannot attach (ptrace not permitted?)"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(tracer)
    }

    /// Lets go of the process and counts, for `operations` done meanwhile.
    pub(crate) fn detach(mut self, operations: u64) -> std::io::Result<Counts> {
        self.end(Signal::INT)?;
        Ok(parse(&fs::read_to_string(&self.summary)?, operations))
    }

    fn end(&mut self, signal: Signal) -> std::io::Result<()> {
        if self.strace.try_wait()?.is_none()
            && let Some(pid) = i32::try_from(self.strace.id()).ok().and_then(Pid::from_raw)
        {
            rustix::process::kill_process(pid, signal)?;
            self.strace.wait()?;
        }
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.end(Signal::KILL); // the kernel lets the traced process go
    }
}

impl Counts {
    pub(crate) fn total(&self) -> f64 {
        self.0.values().sum()
    }
}

fn is_traced(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .is_ok_and(|text| text.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0")))
}

/// Reads strace's table: `% time, seconds, usecs/call, calls, errors (may be empty), syscall`.
fn parse(table: &str, operations: u64) -> Counts {
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, calls) = (*words.last()?, words.get(3)?.parse::<u64>().ok()?);
        (name != "total").then(|| (name.to_owned(), calls as f64 / operations as f64))
    };
    Counts(table.lines().filter_map(row).collect())
}

const ATTACH_TIME_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_from_the_table_of_strace() {
        let table = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000300           3       100        50 recvfrom
 40.00    0.000200           1       200           sendto
------ ----------- ----------- --------- --------- ----------------
100.00    0.000500           1       300        50 total
";
        let counts = parse(table, 100);
        assert_eq!(counts.0["recvfrom"], 1.0);
        assert_eq!(counts.0["sendto"], 2.0);
        assert_eq!(counts.total(), 3.0);
    }
}
