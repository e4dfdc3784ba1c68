//! As many tunnels as Egret's own limits let in, at once: what they take, that all of them live, and how fast they end.

use std::error::Error;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{Resource, Signal};
use tokio::task::LocalSet;

use crate::contestant::Ports;
use crate::load::{Entrance, Held};
use crate::origin::Origin;
use crate::process::{Core, Process};
use crate::{allow_many_files, bench, tls};

#[derive(Args)]
pub(crate) struct TunnelsArguments {
    /// Tunnels; 20,000 are what the default limits let in
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(16..=200_000))]
    count: u32,
    /// The egret to measure [default: the one built beside this program]
    #[arg(long)]
    egret: Option<PathBuf>,
}

/// Opens them, uses them, ends them, and prints what was found.
pub(crate) fn run(arguments: &TunnelsArguments) -> Result<(), Box<dyn Error>> {
    allow_many_files();
    let count = arguments.count as usize;
    if let Some(limit) = rustix::process::getrlimit(Resource::Nofile).current
        && limit < (2 * count + OTHER_FILES) as u64
    {
        let most = (limit as usize).saturating_sub(OTHER_FILES) / 2;
        let message = "tunnels take two descriptors each, of Egret and of this program, and the limit here is";
        return Err(format!("{count} {message} {limit}: --count {most}, or several runs beside each other").into());
    }
    let (proxy_core, load_core) = Core::pair()?;
    load_core.pin()?;
    let folder = bench::folder()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = LocalSet::new().block_on(&runtime, measure(arguments, &folder, proxy_core));
    fs::remove_dir_all(&folder)?;
    done
}

async fn measure(arguments: &TunnelsArguments, folder: &Path, core: Core) -> Result<(), Box<dyn Error>> {
    let egret = match &arguments.egret {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("egret"),
    };
    let origin = Origin::start(tls::origin(&folder.join("ca.pem"))?)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, Ports::new().take()?));
    let rules = Files::write(folder, address, &origin.plain)?;
    let command = [egret.as_os_str(), "run".as_ref(), "-c".as_ref(), rules.settings.as_os_str()];
    let mut process = Process::start(&command, core, &folder.join("egret.log"), &[address])?;
    let entrance = Entrance { address, connect: true };
    let count = arguments.count as usize;

    // A first few make it whole; what they left is no part of the others.
    drop(Held::open(entrance, TARGET, &sources(), 100).await?);
    tokio::time::sleep(SETTLE).await;
    let (resident, files) = (process.resident(), process.open_files());
    let started = Instant::now();
    let mut held = Held::open(entrance, TARGET, &sources(), count).await?;
    let took = started.elapsed();
    tokio::time::sleep(SETTLE).await;
    let (now, now_files) = (process.resident(), process.open_files());
    println!("{count} tunnels open, each used once: {:.1} s", took.as_secs_f64());
    println!(
        "resident: {} KiB before, {} KiB with them: {} B each",
        resident >> 10,
        now >> 10,
        (now - resident) / count as u64
    );
    println!("descriptors: {files} before, {now_files} with them");

    let started = Instant::now();
    held.use_again().await?;
    println!("all {count} carried another request: {:.1} s", started.elapsed().as_secs_f64());

    fs::write(&rules.resources, "")?;
    let started = Instant::now();
    process.signal(Signal::HUP)?;
    held.all_end(END_TIME_MAX).await?;
    println!("a reload that takes their rule away ended all: {:.2} s", started.elapsed().as_secs_f64());
    tokio::time::sleep(SETTLE).await;
    println!("resident then: {} KiB, descriptors: {}", process.resident() >> 10, process.open_files());

    drop(held); // its descriptors are needed again
    fs::write(&rules.resources, &rules.text)?;
    process.signal(Signal::HUP)?;
    let started = Instant::now();
    let mut held = loop {
        match Held::open(entrance, TARGET, &sources(), count).await {
            Ok(held) => break held,
            Err(error) if started.elapsed() > END_TIME_MAX => return Err(error.into()),
            Err(_) => tokio::time::sleep(POLL).await, // the rule is not back yet
        }
    };
    let started = Instant::now();
    process.signal(Signal::TERM)?;
    held.all_end(END_TIME_MAX).await?;
    let status = process.wait(END_TIME_MAX).await?;
    let took = started.elapsed().as_secs_f64();
    println!("SIGTERM with {count} idle tunnels and `drain: {}s`: ended after {took:.2} s, {status}", DRAIN.as_secs());
    Ok(())
}

/// Each client may have 2,000 tunnels by default.
fn sources() -> Vec<IpAddr> {
    (1..=SOURCES).map(|last| IpAddr::from([127, 0, 1, last])).collect()
}

/// What Egret reads.
struct Files {
    settings: PathBuf,
    resources: PathBuf,
    text: String,
}

impl Files {
    /// Defaults, but for what a test on loopback needs.
    fn write(folder: &Path, address: SocketAddr, origins: &[SocketAddr]) -> std::io::Result<Self> {
        let endpoints = origins.iter().map(|at| format!("{{ address: {}, ports: {{ tls: {} }} }}", at.ip(), at.port()));
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: many }}\nspec:\n  hosts: [many.test]\n  \
             ports: [{{ number: 443, name: tls, protocol: TLS }}]\n  resolution: STATIC\n  endpoints: [{}]\n",
            endpoints.collect::<Vec<_>>().join(", ")
        );
        let (settings, resources) = (folder.join("egret.yaml"), folder.join("rules.yaml"));
        fs::write(&resources, &text)?;
        fs::write(
            &settings,
            // The tunnels carry plain text to a port of TLS, which is not what is measured here.
            format!(
                "listeners: [{{ name: proxy, address: \"{address}\" }}]\nadmin: off\nconsistency: {{ mode: off }}\ndrain: {}s\n\
                 mesh: {{ outboundTrafficPolicy: {{ mode: REGISTRY_ONLY }}, accessLogFile: {}/access.log }}\n\
                 resources: [rules.yaml]\n",
                DRAIN.as_secs(),
                folder.display(),
            ),
        )?;
        Ok(Self { settings, resources, text })
    }
}

const TARGET: &str = "many.test:443";
const SOURCES: u8 = 16;
const DRAIN: Duration = Duration::from_secs(2);
const OTHER_FILES: usize = 128; // listeners, logs, the runtime, the origin's sockets
const POLL: Duration = Duration::from_millis(50);
/// The allocator gives back what is free for a second.
const SETTLE: Duration = Duration::from_secs(3);
const END_TIME_MAX: Duration = Duration::from_secs(60);
