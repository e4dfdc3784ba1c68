//! What many rules cost: the same Egret with one ServiceEntry and with 100,000: the time of `egret check`, resident memory of an entry,
//! CPU of a CONNECT.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::task::LocalSet;

use crate::contestant::Ports;
use crate::load::{self, Entrance};
use crate::origin::Origin;
use crate::process::{Core, Process};
use crate::{bench, tls};

#[derive(Args)]
pub(crate) struct ScaleArguments {
    /// ServiceEntries of the large configuration
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    entries: u32,
    /// CONNECTs of a round
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    connects: u64,
    /// Rounds, large and small in turn; the least of each counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// The egret to measure [default: the one built beside this program]
    #[arg(long)]
    egret: Option<PathBuf>,
}

/// What one configuration costs.
struct Cost {
    check: Duration,
    resident: u64,
    /// Of the proxy's process, per CONNECT.
    cpu: Duration,
}

/// Measures both and prints a table.
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
    let target = origin.plain[0];
    let mut costs: Vec<(u32, Option<Cost>)> = vec![(1, None), (arguments.entries, None)];
    for _ in 0..arguments.rounds {
        for (entries, least) in &mut costs {
            let cost = once(&egret, folder, core, target, *entries, arguments.connects).await?;
            *least = Some(match least.take() {
                None => cost,
                Some(least) => Cost {
                    check: least.check.min(cost.check),
                    resident: least.resident.min(cost.resident),
                    cpu: least.cpu.min(cost.cpu),
                },
            });
        }
    }
    println!("| ServiceEntries | egret check | resident | CPU per CONNECT |\n|---|---|---|---|");
    for (entries, cost) in &costs {
        let cost = cost.as_ref().expect("there is a round at least");
        let (check, micros) = (cost.check.as_secs_f64(), cost.cpu.as_secs_f64() * 1e6);
        println!("| {entries} | {check:.2} s | {} KiB | {micros:.1} µs |", cost.resident / 1024);
    }
    if let [(_, Some(small)), (entries, Some(large))] = costs.as_slice() {
        let of_entry = large.resident.saturating_sub(small.resident) / u64::from(*entries - 1);
        let times = large.cpu.as_secs_f64() / small.cpu.as_secs_f64();
        println!("\nan entry takes {of_entry} bytes; a CONNECT {times:.2} times the CPU of one entry");
    }
    Ok(())
}

async fn once(
    egret: &Path,
    folder: &Path,
    core: Core,
    target: SocketAddr,
    entries: u32,
    connects: u64,
) -> Result<Cost, Box<dyn Error>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, Ports::new().take()?));
    let settings = write(folder, address, target, entries)?;
    let started = Instant::now();
    let check = Command::new(egret).arg("check").arg("-c").arg(&settings).output()?;
    let took = started.elapsed();
    if !check.status.success() {
        return Err(String::from_utf8_lossy(&check.stdout).chars().take(800).collect::<String>().into());
    }
    let command = [egret.as_os_str(), "run".as_ref(), "-c".as_ref(), settings.as_os_str()];
    let process = Process::start(&command, core, &folder.join("scale.log"), &[address])?;
    let resident = process.resident();
    let mut before = Duration::ZERO;
    let entrance = Entrance { address, connect: true };
    let seen = load::connects(entrance, target, connects, CONCURRENCY, || before = process.cpu()).await;
    if let Some(error) = seen.first_error {
        return Err(format!("{} of {connects} failed: {error}", seen.errors).into());
    }
    let cpu = (process.cpu() - before) / u32::try_from(connects)?;
    Ok(Cost { check: took, resident, cpu })
}

/// Settings under which only the target and so many services are known; the target is one of them.
fn write(folder: &Path, address: SocketAddr, target: SocketAddr, entries: u32) -> std::io::Result<PathBuf> {
    let mut rules = String::new();
    for n in 1..entries {
        write!(
            rules,
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: service-{n} }}\nspec:\n  \
             hosts: [service-{n}.partner-{}.example.com]\n  ports: [{{ number: 443, name: tls, protocol: TLS }}]\n  \
             resolution: DNS\n---\n",
            n % 1000
        )
        .expect("a String takes everything");
    }
    fs::write(folder.join("scale-rules.yaml"), rules)?;
    let settings = folder.join("scale.yaml");
    fs::write(
        &settings,
        format!(
            "threads: 1\nlisteners: [{{ name: proxy, address: \"{address}\" }}]\nadmin: off\n\
             mesh: {{ outboundTrafficPolicy: {{ mode: REGISTRY_ONLY }}, accessLogFile: {log} }}\n\
             addresses: {{ allow: [127.0.0.0/8] }}\nallow: [\"{target}\"]\n{resources}",
            log = folder.join("scale-access.log").display(),
            resources = if entries > 1 { "resources: [scale-rules.yaml]\n" } else { "" },
        ),
    )?;
    Ok(settings)
}

const CONCURRENCY: usize = 16;
