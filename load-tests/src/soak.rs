//! A long run at mixed load: every kind of work at once, idle tunnels beside it, a reload a minute; memory and descriptors must stay.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::bench::Bench;
use crate::contestant::{Contestant, Running};
use crate::load::{self, Entrance, Seen};
use crate::machine;
use crate::scenario::Door;

/// What was asked for on the command line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) time: Duration,
    /// Idle tunnels beside the load; half of them are replaced after each reload.
    pub(crate) tunnels: usize,
}

/// Memory and descriptors between two turns, when only the idle tunnels are open.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Duration,
    resident: u64,
    files: usize,
}

/// What a run found.
pub(crate) struct Soaked {
    plan: Plan,
    version: String,
    took: Duration,
    samples: Vec<Sample>,
    operations: u64,
    bytes: u64,
    reloads: u32,
    errors: u64,
    first_error: Option<String>,
    cpu: Duration,
}

const DOORS: [Door; 5] = [Door::Connect, Door::Http, Door::TlsOrigination, Door::Sni, Door::Refuse];
const TURN_TIME: Duration = Duration::from_millis(500);
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);
const RELOAD_INTERVAL: Duration = Duration::from_secs(60);
/// A turn that hangs is a finding of its own.
const TURN_TIME_MAX: Duration = Duration::from_secs(60);
/// Closes of a turn are over by then.
const SETTLE: Duration = Duration::from_millis(200);
const GROWTH_MAX: u64 = 2_000_000; // of resident memory, second to last quarter: what one worker's caches may still take
const FILES_GROWTH_MAX: usize = 16; // descriptors of pooled connections come and go

/// Runs `plan` against Egret.
///
/// # Errors
/// If it cannot be started, ends by itself, or a turn hangs.
pub(crate) async fn run(bench: &Bench, plan: Plan) -> std::io::Result<Soaked> {
    let running = Contestant::Egret.start(&bench.surroundings, bench.proxy_core, &DOORS)?;
    let version = Contestant::Egret.version(&bench.surroundings).map_err(std::io::Error::other)?;
    let process = running.process(Door::Connect);
    let entrance = Entrance { address: running.address(Door::Connect), connect: true };
    let mut idle = load::hold(entrance, &bench.origin.plain, plan.tunnels).await?;
    let started = Instant::now();
    let mut soaked = Soaked {
        plan,
        version,
        took: Duration::ZERO,
        samples: Vec::new(),
        operations: 0,
        bytes: 0,
        reloads: 0,
        errors: 0,
        first_error: None,
        cpu: Duration::ZERO,
    };
    let (mut sampled, mut reloaded) = (started, started);
    while started.elapsed() < plan.time {
        let turn = Instant::now();
        let seen = tokio::time::timeout(TURN_TIME_MAX, bench.turn(&running, soaked.operations)).await;
        let seen = seen.map_err(|_| std::io::Error::new(std::io::ErrorKind::TimedOut, "a turn hangs"))?;
        seen.into_iter().for_each(|seen| soaked.add(seen));
        if reloaded.elapsed() >= RELOAD_INTERVAL {
            reloaded = Instant::now();
            process.signal(Signal::HUP)?;
            soaked.reloads += 1;
            idle.truncate(plan.tunnels / 2);
            idle.extend(load::hold(entrance, &bench.origin.plain, plan.tunnels - idle.len()).await?);
        }
        if sampled.elapsed() >= SAMPLE_INTERVAL {
            sampled = Instant::now();
            tokio::time::sleep(SETTLE).await;
            soaked.samples.push(Sample {
                at: started.elapsed(),
                resident: process.resident(),
                files: process.open_files(),
            });
        }
        tokio::time::sleep(TURN_TIME.saturating_sub(turn.elapsed())).await;
    }
    soaked.took = started.elapsed();
    soaked.cpu = process.cpu();
    Ok(soaked)
}

impl Bench {
    /// A little of everything at once; `seed` spreads the targets.
    async fn turn(&self, running: &Running, seed: u64) -> Vec<Seen> {
        let target = self.origin.plain[seed as usize % self.origin.plain.len()];
        let entrance = Entrance { address: running.address(Door::Connect), connect: true };
        let authority = self.surroundings.origin_plain.to_string();
        let (connects, http, tls, handshakes, refusals, bulk) = tokio::join!(
            load::connects(entrance, target, 24, 4, || ()),
            load::keep_alive(running.address(Door::Http), &authority, 400, 16, || ()),
            load::keep_alive(running.address(Door::TlsOrigination), "origin.test", 400, 16, || ()),
            load::handshakes(running.address(Door::Sni), &self.hello, 24, 4, || ()),
            load::refusals(running.address(Door::Refuse), 12, 4, || ()),
            load::bulk(entrance, target, 32_000_000, 4, || ()),
        );
        let failed = |error: std::io::Error| Seen::failed(&error);
        vec![
            connects,
            http.unwrap_or_else(failed),
            tls.unwrap_or_else(failed),
            handshakes,
            refusals,
            bulk.unwrap_or_else(failed),
        ]
    }
}

fn median(values: impl Iterator<Item = i64>) -> Option<i64> {
    let mut values: Vec<i64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

impl Soaked {
    fn add(&mut self, seen: Seen) {
        self.operations += seen.operations;
        self.bytes += seen.bytes;
        self.errors += seen.errors;
        self.first_error = self.first_error.take().or(seen.first_error);
    }

    /// Growth of memory and of descriptors from the second to the last quarter, medians of each; the first is for growing warm.
    fn growth(&self) -> Option<(i64, i64)> {
        let quarter = self.samples.len() / 4;
        let (second, last) = (self.samples.get(quarter..2 * quarter)?, self.samples.get(3 * quarter..)?);
        let resident = |samples: &[Sample]| median(samples.iter().map(|sample| sample.resident as i64));
        let files = |samples: &[Sample]| median(samples.iter().map(|sample| sample.files as i64));
        Some((resident(last)? - resident(second)?, files(last)? - files(second)?))
    }

    /// Nothing failed, and neither memory nor descriptors grew.
    pub(crate) fn is_flat(&self) -> bool {
        self.errors == 0
            && self
                .growth()
                .is_some_and(|(resident, files)| resident <= GROWTH_MAX as i64 && files <= FILES_GROWTH_MAX as i64)
    }

    /// The report, as Markdown.
    pub(crate) fn document(&self) -> String {
        let mut text = String::from("# Soak\n\n");
        let minutes = self.took.as_secs() / 60;
        let Plan { tunnels, .. } = self.plan;
        let _ = write!(
            text,
            "Made by `./load-tests/soak.sh --minutes {minutes} --tunnels {tunnels}` with egret {}: CONNECT, plain HTTP, TLS origination, \
             SNI, refusals and bulk at once, {tunnels} idle tunnels beside them, a reload every minute and half of the idle \
             tunnels replaced after it. Memory and descriptors are read between two turns, when only the idle tunnels are open.\n\n",
            self.version
        );
        for line in machine::summary() {
            let _ = writeln!(text, "* {line}");
        }
        let _ = writeln!(
            text,
            "* {} operations, {:.1} GB, {} reloads, {} errors{}; {:.0} % of one core",
            self.operations,
            self.bytes as f64 / 1e9,
            self.reloads,
            self.errors,
            self.first_error.as_ref().map_or_else(String::new, |error| format!(" (the first: {error})")),
            100.0 * self.cpu.as_secs_f64() / self.took.as_secs_f64().max(1.0),
        );
        match self.growth() {
            Some((resident, files)) => {
                let _ = writeln!(
                    text,
                    "* from the second to the last quarter: resident memory {:+.2} MB (allowed {:.0}), descriptors {files:+} \
                     (allowed {FILES_GROWTH_MAX}): {}",
                    resident as f64 / 1e6,
                    GROWTH_MAX as f64 / 1e6,
                    if self.is_flat() { "**flat**" } else { "**not flat**" },
                );
            }
            None => text.push_str("* too short to tell\n"),
        }
        text.push_str("\n| minute | resident | descriptors |\n| ---: | ---: | ---: |\n");
        let every = self.samples.len().div_ceil(ROWS).max(1);
        for sample in self.samples.iter().step_by(every) {
            let _ = writeln!(
                text,
                "| {:.1} | {:.1} MB | {} |",
                sample.at.as_secs_f64() / 60.0,
                sample.resident as f64 / 1e6,
                sample.files
            );
        }
        text
    }

    /// Writes the report.
    pub(crate) fn write(&self, file: &Path) -> std::io::Result<()> {
        std::fs::write(file, self.document())
    }
}

const ROWS: usize = 31;

#[cfg(test)]
mod tests {
    use super::*;

    fn soaked(resident: impl Fn(u64) -> u64, files: impl Fn(u64) -> usize) -> Soaked {
        let samples =
            (0..40).map(|n| Sample { at: Duration::from_secs(5 * n), resident: resident(n), files: files(n) });
        Soaked {
            plan: Plan { time: Duration::from_secs(200), tunnels: 10 },
            version: "0.0.0".to_owned(),
            took: Duration::from_secs(200),
            samples: samples.collect(),
            operations: 1,
            bytes: 1,
            reloads: 3,
            errors: 0,
            first_error: None,
            cpu: Duration::from_secs(20),
        }
    }

    #[test]
    fn what_grows_after_the_first_quarter_is_not_flat() {
        assert!(soaked(|n| 20_000_000 + n.min(9) * 1_000_000, |_| 50).is_flat());
        assert!(!soaked(|n| 20_000_000 + n * 150_000, |_| 50).is_flat());
        assert!(!soaked(|_| 20_000_000, |n| 50 + n as usize).is_flat());
        assert!(soaked(|n| 20_000_000 + (n % 2) * 1_000_000, |n| 50 + (n % 3) as usize).is_flat());
    }

    #[test]
    fn an_error_is_not_flat_and_stands_in_the_report() {
        let mut soaked = soaked(|_| 20_000_000, |_| 50);
        assert!(soaked.document().contains("**flat**"));
        (soaked.errors, soaked.first_error) = (1, Some("answered 503".to_owned()));
        let document = soaked.document();
        assert!(document.contains("**not flat**") && document.contains("answered 503"), "{document}");
    }
}
