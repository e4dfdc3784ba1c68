//! What many rules cost: the same Egret with three ServiceEntries, with 100, 10,000 and 100,000. Time of `egret check` and of a reload,
//! memory of an entry, time of a look-up, CPU of a CONNECT by a name of the registry.

mod lookups;
mod rules;

use std::error::Error;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::Signal;
use tokio::task::LocalSet;

use crate::contestant::Ports;
use crate::load::{self, Entrance, Seen};
use crate::origin::Origin;
use crate::process::{Core, Process};
use crate::{bench, tls};

use lookups::Lookups;
use rules::Rules;

#[derive(Args)]
pub(crate) struct ScaleArguments {
    /// ServiceEntries of the largest configuration
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(4..=1_000_000))]
    entries: u32,
    /// Each ServiceEntry with a VirtualService, whose route for its server name takes the flow
    #[arg(long)]
    routes: bool,
    /// CONNECTs of a round
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    connects: u64,
    /// Rounds after the first, all sizes in turn; the least of each counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// The egret to measure [default: the one built beside this program]
    #[arg(long)]
    egret: Option<PathBuf>,
}

/// One size: what it cost so far, and the process that goes on.
struct Running {
    rules: Rules,
    check: Duration,
    lookups: Lookups,
    process: Process,
    address: SocketAddr,
    log: PathBuf,
    memory: Memory,
    /// Of the proxy's process, per CONNECT, in the first round: no flow went to these names before.
    first: Option<Duration>,
    /// The same, the least of the later rounds, which ask for the same names.
    cpu: Duration,
}

/// Bytes of a process.
#[derive(Clone, Copy)]
struct Memory {
    resident: u64,
    /// The most there ever was.
    peak: u64,
}

/// What a reload of the same rules took.
struct Reload {
    took: Duration,
    memory: Memory,
    /// Of those who connected meanwhile.
    seen: Seen,
}

/// Measures all sizes and prints a table.
pub(crate) fn run(arguments: &ScaleArguments) -> Result<(), Box<dyn Error>> {
    let (proxy_core, load_core) = Core::pair()?;
    load_core.pin()?;
    let folder = bench::folder()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = LocalSet::new().block_on(&runtime, measure(arguments, &folder, proxy_core));
    fs::remove_dir_all(&folder)?;
    done
}

async fn measure(arguments: &ScaleArguments, folder: &Path, core: Core) -> Result<(), Box<dyn Error>> {
    let egret = match &arguments.egret {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("egret"),
    };
    let origin = Origin::start(tls::origin(&folder.join("ca.pem"))?)?;
    let ports = Ports::new();
    let sizes = [KINDS, 100, 10_000].into_iter().filter(|size| *size < arguments.entries).chain([arguments.entries]);
    let mut field = Vec::new();
    for entries in sizes {
        let rules = Rules::new(entries, &origin.plain, arguments.routes);
        field.push(start(&egret, &folder.join(entries.to_string()), &ports, rules, core).await?);
    }
    for _ in 0..=arguments.rounds {
        for running in &mut field {
            running.round(arguments.connects).await?;
        }
    }
    print(&field, arguments.routes);
    let largest = field.last().expect("there is a size at least");
    let Reload { took, memory, seen } = largest.reload(arguments.connects).await?;
    let latency = |quantile| seen.latency.value_at_quantile(quantile) as f64 / 1e6;
    println!(
        "\nA reload of {} entries: {:.2} s, peak {} MiB, then {} MiB. {} CONNECTs from its beginning on: median {:.1} ms, p99 {:.1} ms, the longest {:.1} ms.",
        largest.rules.entries,
        took.as_secs_f64(),
        memory.peak >> 20,
        memory.resident >> 20,
        seen.operations,
        latency(0.5),
        latency(0.99),
        latency(1.0),
    );
    Ok(())
}

async fn start(
    egret: &Path,
    folder: &Path,
    ports: &Ports,
    rules: Rules,
    core: Core,
) -> Result<Running, Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.take()?));
    let settings = rules.write(folder, address)?;
    let mut check = Duration::MAX;
    for _ in 0..CHECKS {
        let started = Instant::now();
        let output = Command::new(egret).arg("check").arg("-c").arg(&settings).output()?;
        check = check.min(started.elapsed());
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stdout).chars().take(800).collect::<String>().into());
        }
    }
    let lookups = Lookups::measure(&settings, &rules)?;
    let log = folder.join("egret.log");
    let command = [egret.as_os_str(), "run".as_ref(), "-c".as_ref(), settings.as_os_str()];
    let process = Process::start(&command, core, &log, &[address])?;
    tokio::time::sleep(SETTLE).await;
    let memory = Memory::of(&process);
    Ok(Running { rules, check, lookups, process, address, log, memory, first: None, cpu: Duration::MAX })
}

impl Running {
    /// CONNECTs to names all over the rules.
    async fn connects(&self, connects: u64, seed: u64, begin: impl FnOnce()) -> Result<Seen, Box<dyn Error>> {
        let entrance = Entrance { address: self.address, connect: true };
        let rules = self.rules.clone();
        let authority = move |n: u64| format!("{}:443", rules.asked(rules.spread(n + seed * connects)));
        let seen = load::connects_by_name(entrance, authority, connects, CONCURRENCY, begin).await;
        match &seen.first_error {
            Some(error) => Err(format!("{} entries: {} failed: {error}", self.rules.entries, seen.errors).into()),
            None => Ok(seen),
        }
    }

    async fn round(&mut self, connects: u64) -> Result<(), Box<dyn Error>> {
        let mut before = Duration::ZERO;
        self.connects(connects, 0, || before = self.process.cpu()).await?;
        let cpu = (self.process.cpu() - before) / u32::try_from(connects)?;
        match self.first {
            None => self.first = Some(cpu),
            Some(_) => self.cpu = self.cpu.min(cpu),
        }
        Ok(())
    }

    /// Everything is read, compiled and compared again, while clients connect.
    async fn reload(&self, connects: u64) -> Result<Reload, Box<dyn Error>> {
        let started = Instant::now();
        self.process.signal(Signal::HUP)?;
        let done = async {
            while !fs::read_to_string(&self.log)?.contains(" reloaded ") {
                if started.elapsed() > RELOAD_TIME_MAX {
                    return Err::<Duration, Box<dyn Error>>("the reload does not end".into());
                }
                tokio::time::sleep(POLL).await;
            }
            Ok(started.elapsed())
        };
        let (took, seen) = tokio::join!(done, self.connects(connects, 7, || ()));
        let (took, seen) = (took?, seen?);
        tokio::time::sleep(SETTLE).await;
        Ok(Reload { took, memory: Memory::of(&self.process), seen })
    }
}

impl Memory {
    fn of(process: &Process) -> Self {
        Self { resident: process.resident(), peak: process.peak() }
    }
}

fn print(field: &[Running], routes: bool) {
    let entries = if routes { "ServiceEntries, each with a route" } else { "ServiceEntries" };
    println!(
        "| {entries} | check | resident | peak | an entry | look-up: name | wildcard | none | CPU of a CONNECT, first to its name | later | of the fewest |\n\
         |---|---|---|---|---|---|---|---|---|---|---|"
    );
    let first = field.first().expect("there is a size at least");
    for running in field {
        let Running { rules, check, lookups, memory, first: cpu_first, cpu, .. } = running;
        let of_entry = match rules.entries {
            KINDS => "".to_owned(),
            more => format!("{} B", memory.resident.saturating_sub(first.memory.resident) / u64::from(more - KINDS)),
        };
        println!(
            "| {} | {:.2} s | {} MiB | {} MiB | {of_entry} | {} ns | {} ns | {} ns | {:.1} µs | {:.1} µs | {:.2} |",
            rules.entries,
            check.as_secs_f64(),
            memory.resident >> 20,
            memory.peak >> 20,
            lookups.name.as_nanos(),
            lookups.wildcard.map_or("–".to_owned(), |took| took.as_nanos().to_string()),
            lookups.none.as_nanos(),
            cpu_first.unwrap_or_default().as_secs_f64() * 1e6,
            cpu.as_secs_f64() * 1e6,
            cpu.as_secs_f64() / first.cpu.as_secs_f64(),
        );
    }
}

/// The smallest configuration has one entry of each kind that the others have.
const KINDS: u32 = 3;
const CONCURRENCY: usize = 16;
const CHECKS: usize = 3;
const POLL: Duration = Duration::from_millis(50);
/// The allocator gives back what is free for a second.
const SETTLE: Duration = Duration::from_secs(3);
const RELOAD_TIME_MAX: Duration = Duration::from_secs(120);
