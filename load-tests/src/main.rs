//! Measures Egret beside other proxies, and beside the least that a proxy can do.
//!
//! `README.md` has the method. The map: `main` reads the command line; `bench` orders rounds; `contestant` starts who is
//! measured (configurations in `peers/`) as a `process` on one core; `load` and `origin` share the other; `syscalls` counts by
//! strace; `results` holds what was found; `report` and `chart` write it down. `relay` is the floor. `soak` is a long run of its own,
//! `scale` measures many rules, `tunnels` many tunnels.

mod bench;
mod chart;
mod contestant;
mod load;
mod machine;
mod origin;
mod process;
mod relay;
mod report;
mod results;
mod scale;
mod scenario;
mod soak;
mod syscalls;
mod tls;
mod tunnels;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::process::{Resource, Rlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::bench::{Bench, Plan};
use crate::contestant::{Contestant, Ports, Surroundings};
use crate::origin::Origin;
use crate::process::Core;
use crate::scenario::Scenario;

/// Measures Egret beside other proxies on this machine. Traffic stays on loopback.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, and write a report
    Run(RunArguments),
    /// Load Egret with everything at once for long, and see whether memory and descriptors stay
    Soak(SoakArguments),
    /// Measure what many rules cost, and print a table
    Scale(scale::ScaleArguments),
    /// Hold as many tunnels as the default limits let in, and end them
    Tunnels(tunnels::TunnelsArguments),
    /// Be the floor: a bare relay, for comparison only
    Relay {
        /// Where to listen
        address: SocketAddr,
        /// Take every connection there instead of reading a CONNECT
        #[arg(long)]
        target: Option<SocketAddr>,
    },
}

#[derive(Args)]
struct RunArguments {
    /// What to measure [default: everything]
    #[arg(long, value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Whom to measure [default: everyone]
    #[arg(long, value_delimiter = ',')]
    contestants: Vec<Contestant>,
    /// Interleaved rounds per scenario
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// A smoke test: one short round of everything; its figures mean nothing
    #[arg(long)]
    quick: bool,
    /// The egret to measure [default: the one built beside this program]
    #[arg(long)]
    egret: Option<PathBuf>,
    /// The envoy to measure
    #[arg(long, env = "ENVOY", default_value = "envoy")]
    envoy: PathBuf,
    /// Write RESULTS.md, results.svg and results-raw.json into this folder [default: only a table to stdout]
    #[arg(long)]
    write: Option<PathBuf>,
}

#[derive(Args)]
struct SoakArguments {
    /// How long
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=1440))]
    minutes: u16,
    /// Idle tunnels beside the load
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(2..=9000))]
    tunnels: u16,
    /// The egret to load [default: the one built beside this program]
    #[arg(long)]
    egret: Option<PathBuf>,
    /// Write the report into this file [default: to stdout]
    #[arg(long)]
    write: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(arguments) => run(&arguments),
        Command::Soak(arguments) => soak(&arguments),
        Command::Scale(arguments) => scale::run(&arguments).map(|()| true),
        Command::Tunnels(arguments) => tunnels::run(&arguments).map(|()| true),
        Command::Relay { address, target } => relay::serve(address, target).map(|()| true).map_err(Into::into),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load-tests: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `true` when every contestant that was asked for did all its rounds.
fn run(arguments: &RunArguments) -> Result<bool, Box<dyn Error>> {
    with_bench(arguments.egret.clone(), arguments.envoy.clone(), async |bench| measure(arguments, &bench).await)
}

/// `true` when nothing grew and nothing failed.
fn soak(arguments: &SoakArguments) -> Result<bool, Box<dyn Error>> {
    let time = Duration::from_secs(60 * u64::from(arguments.minutes));
    let plan = soak::Plan { time, tunnels: usize::from(arguments.tunnels) };
    with_bench(arguments.egret.clone(), PathBuf::new(), async |bench| {
        let soaked = soak::run(&bench, plan).await?;
        match &arguments.write {
            Some(file) => soaked.write(file)?,
            None => print!("{}", soaked.document()),
        }
        Ok(soaked.is_flat())
    })
}

/// Sets up cores, origin and ports, does the work, and removes what it left; a signal ends it and all that it started.
fn with_bench(
    egret: Option<PathBuf>,
    envoy: PathBuf,
    work: impl AsyncFnOnce(Bench) -> Result<bool, Box<dyn Error>>,
) -> Result<bool, Box<dyn Error>> {
    allow_many_files();
    let (proxy_core, load_core) = Core::pair()?;
    load_core.pin()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let folder = bench::folder()?;
    let done = tokio::task::LocalSet::new().block_on(&runtime, async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let bench = set_up(egret, envoy, folder.clone(), proxy_core, load_core)?;
        // Whichever comes first: dropping the other ends the children.
        tokio::select! {
            done = work(bench) => done,
            _ = interrupt.recv() => Err("interrupted".into()),
            _ = terminate.recv() => Err("terminated".into()),
        }
    });
    std::fs::remove_dir_all(folder)?;
    done
}

fn set_up(
    egret: Option<PathBuf>,
    envoy: PathBuf,
    folder: PathBuf,
    proxy_core: Core,
    load_core: Core,
) -> Result<Bench, Box<dyn Error>> {
    let ca = folder.join("ca.pem");
    let origin = Origin::start(tls::origin(&ca)?)?;
    let ports = Ports::new();
    let surroundings = Surroundings {
        parent: SocketAddr::from((Ipv4Addr::LOCALHOST, ports.take()?)),
        ports,
        folder,
        egret: egret.map_or_else(|| Ok(std::env::current_exe()?.with_file_name("egret")), std::io::Result::Ok)?,
        envoy,
        origin_plain: origin.plain[0],
        origin_tls: origin.tls,
        origin_hello: origin.hello,
        ca,
    };
    Ok(Bench { surroundings, origin, hello: tls::client_hello("hello.test")?, proxy_core, load_core })
}

async fn measure(arguments: &RunArguments, bench: &Bench) -> Result<bool, Box<dyn Error>> {
    let mut plan = Plan {
        scenarios: every_unless(&arguments.only),
        contestants: every_unless(&arguments.contestants),
        rounds: if arguments.quick { 1 } else { usize::from(arguments.rounds) },
        quick: arguments.quick,
    };
    let mut versions = Vec::new();
    let mut missing = Vec::new();
    plan.contestants.retain(|contestant| match contestant.version(&bench.surroundings) {
        Ok(version) => {
            versions.push((*contestant, version));
            true
        }
        Err(why) => {
            eprintln!("not measured: {why}");
            missing.push(why);
            false
        }
    });

    let progress = ProgressBar::with_draw_target(Some(Bench::steps(&plan)), ProgressDrawTarget::stderr());
    progress.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed_precise} (left {eta}) {msg}")?);
    let started = Instant::now();
    let rows = bench.run(&plan, &progress).await?;
    progress.finish_and_clear();

    let report =
        report::Report { rows: &rows, versions: &versions, missing: &missing, plan: &plan, took: started.elapsed() };
    match &arguments.write {
        Some(folder) => report.write(folder)?,
        None => print!("{}", report.tables()),
    }
    Ok(missing.is_empty() && rows.iter().all(|row| row.failure.is_none()))
}

fn every_unless<T: ValueEnum + Clone>(named: &[T]) -> Vec<T> {
    if named.is_empty() { T::value_variants().to_vec() } else { named.to_vec() }
}

/// Thousands of tunnels are two descriptors each, here and in the children, which inherit the limit.
fn allow_many_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: Some(FILES), maximum: limit.maximum.map(|maximum| maximum.max(FILES)) };
    if rustix::process::setrlimit(Resource::Nofile, wanted).is_err() {
        let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
        let _ = rustix::process::setrlimit(Resource::Nofile, most); // then the idle scenario may say what it lacks
    }
}

const FILES: u64 = 50_000; // 20,000 tunnels
