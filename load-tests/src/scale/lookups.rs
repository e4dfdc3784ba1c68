//! How long the decision for a flow takes, by itself: the same function that the proxy calls, without sockets around it.

use std::error::Error;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use egret::config::{Configuration, Sources};
use egret::flow::{Ask, Flow, ListenerKind, ListenerName, Source, Target, Transport, Workload};
use egret::route::Snapshot;
use rustix::time::{ClockId, clock_gettime};

use super::rules::Rules;

/// Of one decision, the least of several rounds over names far from each other.
pub(super) struct Lookups {
    /// A name that an entry spells out.
    pub(super) name: Duration,
    /// A name that a wildcard covers; `None` where there is no wildcard.
    pub(super) wildcard: Option<Duration>,
    /// A name that nothing covers.
    pub(super) none: Duration,
}

impl Lookups {
    pub(super) fn measure(settings: &Path, rules: &Rules) -> Result<Self, Box<dyn Error>> {
        let sources = Sources { settings: Some(settings.to_owned()), ..Sources::default() };
        let configuration = Configuration::load(&sources, 1);
        if !configuration.is_usable() {
            return Err(configuration.diagnostics.summary().into());
        }
        let snapshot = configuration.snapshot;
        let of = |wildcard| rules.spread_of(wildcard).take(NAMES).map(|n| rules.asked(n)).collect::<Vec<_>>();
        let unknown = of(false).iter().map(|name| format!("not-{name}")).collect::<Vec<_>>();
        Ok(Self {
            name: least(&snapshot, &of(false), true)?.ok_or("no entry spells out a name")?,
            wildcard: least(&snapshot, &of(true), true)?,
            none: least(&snapshot, &unknown, false)?.ok_or("no name is unknown")?,
        })
    }
}

fn least(snapshot: &Snapshot, names: &[String], allowed: bool) -> Result<Option<Duration>, Box<dyn Error>> {
    let source = source();
    let mut flows = Vec::with_capacity(names.len());
    for name in names {
        let target = Target::parse_or_port(name.as_bytes(), 443)?;
        let flow = Flow { source: &source, ask: Ask::Connect, target };
        if snapshot.route(&flow).is_allowed() != allowed {
            return Err(format!("{name}: decided otherwise than expected").into());
        }
        flows.push(flow);
    }
    let Ok(count) = u32::try_from(flows.len()) else { return Err("too many names".into()) };
    let round = || {
        let started = cpu();
        for flow in &flows {
            black_box(snapshot.route(black_box(flow)));
        }
        cpu().saturating_sub(started) / count
    };
    Ok((count > 0).then(|| (0..ROUNDS).map(|_| round()).min()).flatten())
}

/// Of this thread: others on the machine make it wait, and are not measured.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("less than a second"))
}

fn source() -> Source {
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    Source {
        peer: nobody,
        local: nobody,
        transport: Transport::Tcp,
        listener: Arc::new(ListenerName { name: "proxy".to_owned(), kind: ListenerKind::Forward }),
        workload: Arc::new(Workload::default()),
        identity: None,
    }
}

const NAMES: usize = 20_000; // their rules are more than a cache of this day holds
const ROUNDS: usize = 15;
