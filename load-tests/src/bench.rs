//! The order of a run: scenario by scenario, round by round, one contestant after the other.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use tokio::time::timeout;

use crate::contestant::{Contestant, Running, Surroundings, start_parent};
use crate::load::{self, Entrance, Seen};
use crate::machine;
use crate::origin::Origin;
use crate::process::{Core, Process, cpu_of_this};
use crate::results::{Memory, Round, Row};
use crate::scenario::{Door, Scenario, Size};
use crate::syscalls;

/// What was asked for on the command line.
pub(crate) struct Plan {
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) contestants: Vec<Contestant>,
    pub(crate) rounds: usize,
    pub(crate) quick: bool,
}

/// Everything that runs while it is measured.
pub(crate) struct Bench {
    pub(crate) surroundings: Surroundings,
    pub(crate) origin: Origin,
    /// A ClientHello for `hello.test`.
    pub(crate) hello: Vec<u8>,
    pub(crate) proxy_core: Core,
    pub(crate) load_core: Core,
}

impl Bench {
    /// Measures all of `plan`. A contestant that fails has its failure in its row; only a broken bench is an error.
    pub(crate) async fn run(&self, plan: &Plan, progress: &ProgressBar) -> std::io::Result<Vec<Row>> {
        let mut rows = Vec::new();
        for scenario in &plan.scenarios {
            rows.extend(self.scenario(*scenario, plan, progress).await?);
        }
        Ok(rows)
    }

    async fn scenario(&self, scenario: Scenario, plan: &Plan, progress: &ProgressBar) -> std::io::Result<Vec<Row>> {
        let parent =
            (scenario == Scenario::Chain).then(|| start_parent(&self.surroundings, self.load_core)).transpose()?;
        let size = scenario.size(plan.quick);
        let mut field: Vec<(Row, Option<Running>)> = Vec::new();
        for contestant in &plan.contestants {
            let Some(door) = contestant.door(scenario) else { continue };
            let mut row = Row::new(scenario, *contestant, door == Door::Tcp);
            let running = contestant
                .start(&self.surroundings, self.proxy_core, &[door])
                .map_err(|error| row.fail(error.to_string()))
                .ok();
            field.push((row, running));
        }

        for round in 0..scenario.rounds(plan.rounds) {
            // To and fro: who comes late in one round comes early in the next, and a machine that gets slower harms nobody.
            if round > 0 {
                field.reverse();
            }
            for (row, running) in &mut field {
                progress.set_message(format!("{} {} {}", scenario.name(), round + 1, row.contestant.name()));
                if row.failure.is_none() {
                    match timeout(ROUND_TIME_MAX, self.round(scenario, size, round, row, running, plan.quick)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => row.fail(explain(&error, running.as_ref())),
                        Err(_) => row.fail(format!("a round took longer than {} s", ROUND_TIME_MAX.as_secs())),
                    }
                }
                progress.inc(1);
            }
        }

        field.sort_by_key(|(row, _)| plan.contestants.iter().position(|contestant| *contestant == row.contestant));
        if syscalls::are_counted_in(scenario) {
            for (row, running) in &mut field {
                progress.set_message(format!("{} system calls {}", scenario.name(), row.contestant.name()));
                if let (None, Some(running)) = (&row.failure, &running) {
                    let counted = timeout(ROUND_TIME_MAX, self.count_calls(scenario, size, running)).await;
                    let counted = counted.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
                    row.calls = Some(counted.map_err(|error| error.to_string()));
                }
                progress.inc(1);
            }
        }
        // Those that buffer their lines were told to write them after half a second at the latest.
        tokio::time::sleep(LOG_DELAY_MAX).await;
        for (row, running) in &mut field {
            let door = row.contestant.door(scenario).expect("only doors that are there get a row");
            row.logged = running.as_ref().is_some_and(|running| running.logged(door) > 0);
        }
        drop(parent);
        Ok(field.into_iter().map(|(row, _)| row).collect())
    }

    /// How many times `run` moves the progress bar.
    pub(crate) fn steps(plan: &Plan) -> u64 {
        let of = |scenario: &Scenario| {
            let contestants = plan.contestants.iter().filter(|contestant| contestant.door(*scenario).is_some()).count();
            contestants * (scenario.rounds(plan.rounds) + usize::from(syscalls::are_counted_in(*scenario)))
        };
        plan.scenarios.iter().map(of).sum::<usize>() as u64
    }

    async fn round(
        &self,
        scenario: Scenario,
        size: Size,
        round: usize,
        row: &mut Row,
        running: &mut Option<Running>,
        quick: bool,
    ) -> std::io::Result<()> {
        if scenario == Scenario::Idle {
            // Memory is told from a fresh start: the one before ends first.
            drop(running.take());
            let memory = self.memory(size, row.contestant, quick).await?;
            row.memory.push(memory);
            return Ok(());
        }
        let running = running.as_ref().expect("a row without failure has started");
        let door = row.contestant.door(scenario).expect("only doors that are there get a row");
        let process = running.process(door);

        let mut window = None;
        let seen = self.load(scenario, size, round, running, || window = Some(Window::open(process))).await?;
        let measured = window.expect("every load begins").close(process, &seen).await;
        if seen.errors > 0 {
            let first = seen.first_error.as_deref().unwrap_or_default();
            row.errors += seen.errors;
            row.first_error.get_or_insert_with(|| first.to_owned());
            if seen.errors * 100 > seen.operations {
                return Err(std::io::Error::other(format!("{} errors in a round, the first: {first}", seen.errors)));
            }
        }
        row.rounds.push(measured);
        row.latency.add(&seen.latency).expect("all have the same bounds");
        Ok(())
    }

    async fn load(
        &self,
        scenario: Scenario,
        size: Size,
        round: usize,
        running: &Running,
        begin: impl FnOnce(),
    ) -> std::io::Result<Seen> {
        let door = running.contestant.door(scenario).expect("only doors that are there are loaded");
        let address = running.address(door);
        let entrance = Entrance { address, connect: door != Door::Tcp };
        // Every contestant has its own target in every round: nobody finds ports that another has used up.
        let target = self.origin.plain[(round * 7 + running.contestant as usize) % self.origin.plain.len()];
        match scenario {
            Scenario::Connect | Scenario::Chain => {
                Ok(load::connects(entrance, target, size.count, size.concurrency, begin).await)
            }
            Scenario::Http => {
                let authority = self.surroundings.origin_plain.to_string();
                load::keep_alive(address, &authority, size.count, size.concurrency, begin).await
            }
            Scenario::TlsOrigination => {
                load::keep_alive(address, "origin.test", size.count, size.concurrency, begin).await
            }
            Scenario::H2Connect => load::h2_connects(address, target, size.count, size.concurrency, begin).await,
            Scenario::H2Http => {
                let authority = self.surroundings.origin_plain.to_string();
                load::h2_requests(address, &authority, size.count, size.concurrency, begin).await
            }
            Scenario::Sni => Ok(load::handshakes(address, &self.hello, size.count, size.concurrency, begin).await),
            Scenario::Refuse => Ok(load::refusals(address, size.count, size.concurrency, begin).await),
            Scenario::Bulk1 | Scenario::Bulk16 => {
                load::bulk(entrance, target, size.count, size.concurrency as u64, begin).await
            }
            Scenario::PingPong => load::ping_pong(entrance, target, size.count, begin).await,
            Scenario::Idle => unreachable!("memory is measured in its own way"),
        }
    }

    async fn count_calls(
        &self,
        scenario: Scenario,
        size: Size,
        running: &Running,
    ) -> std::io::Result<syscalls::Counts> {
        let door = running.contestant.door(scenario).expect("only doors that are there are loaded");
        let size = Size { count: (size.count / 10).max(size.concurrency as u64 * 20), ..size };
        let mut tracer = None;
        let process = running.process(door);
        let folder = &self.surroundings.folder;
        let seen = self
            .load(scenario, size, 0, running, || {
                tracer = Some(syscalls::Tracer::attach(process, folder, self.load_core))
            })
            .await?;
        settle().await;
        let tracer = tracer.expect("every load begins")?;
        tracer.detach(seen.operations)
    }

    /// A fresh process, a few tunnels to make it whole, `size.count` idle ones, and what is left of them in the end.
    async fn memory(&self, size: Size, contestant: Contestant, quick: bool) -> std::io::Result<Memory> {
        let door = contestant.door(Scenario::Idle).expect("only doors that are there are loaded");
        let running = contestant.start(&self.surroundings, self.proxy_core, &[door])?;
        let entrance = Entrance { address: running.address(door), connect: door != Door::Tcp };
        let process = running.process(door);
        load::connects(entrance, self.origin.plain[0], 100, 4, || ()).await;
        tokio::time::sleep(if quick { SETTLE } else { MEMORY_SETTLE }).await;

        let start = process.resident();
        let held = load::hold(entrance, &self.origin.plain, size.count as usize).await?;
        tokio::time::sleep(if quick { SETTLE } else { MEMORY_SETTLE }).await;
        let open = process.resident();
        drop(held);

        let closed = Instant::now();
        let patience = if quick { Duration::from_secs(1) } else { AFTER_BURST };
        let mut back_after = None;
        while closed.elapsed() < patience {
            tokio::time::sleep(Duration::from_millis(250)).await;
            if back_after.is_none() && process.resident() <= start + BACK_WITHIN {
                back_after = Some(closed.elapsed());
            }
        }
        Ok(Memory { tunnels: size.count, start, open, after: process.resident(), back_after })
    }
}

/// The error, and what the contestant last said.
fn explain(error: &std::io::Error, running: Option<&Running>) -> String {
    match running.map(Running::last_words).unwrap_or_default() {
        words if words.is_empty() => error.to_string(),
        words => format!("{error}; its last output: {words}"),
    }
}

/// The measured part of a round.
struct Window {
    started: Instant,
    proxy: Duration,
    this: Duration,
    machine: Duration,
}

impl Window {
    fn open(process: &Process) -> Self {
        Self { machine: machine::busy(), this: cpu_of_this(), proxy: process.cpu(), started: Instant::now() }
    }

    async fn close(self, process: &Process, seen: &Seen) -> Round {
        let wall = self.started.elapsed();
        settle().await;
        let cpu = process.cpu().saturating_sub(self.proxy);
        let ours = cpu + cpu_of_this().saturating_sub(self.this);
        let others = machine::busy().saturating_sub(self.machine).saturating_sub(ours);
        let elsewhere = others.as_secs_f64() / self.started.elapsed().as_secs_f64() / machine::cores() as f64;
        Round { operations: seen.operations, bytes: seen.bytes, cpu, wall, elsewhere }
    }
}

/// The last closes of a round are work of that round.
async fn settle() {
    tokio::time::sleep(SETTLE).await;
}

/// A folder of this run's own; it is removed at the end.
pub(crate) fn folder() -> std::io::Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("egret-load-tests-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

const ROUND_TIME_MAX: Duration = Duration::from_secs(120);
const LOG_DELAY_MAX: Duration = Duration::from_millis(800);
const SETTLE: Duration = Duration::from_millis(30);
/// Long enough for allocators that give back with a delay, and for what is done once a second.
const MEMORY_SETTLE: Duration = Duration::from_secs(2);
const AFTER_BURST: Duration = Duration::from_secs(30);
const BACK_WITHIN: u64 = 8_000_000;
