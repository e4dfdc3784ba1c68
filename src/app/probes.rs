//! Asks parents from time to time whether they are there, as their annotation `egret.dev/proxy-probe` wants it. A reload keeps the
//! probes that stay as they are, with what they found; the end of the process is the end of all.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::account::parents::{self, Probed, Thresholds};
use crate::dial::Dialer;
use crate::route::{Hop, Snapshot};
use crate::tunnel::Proxy;

/// The probes that run. Dropping it ends them.
#[derive(Debug, Default)]
pub(super) struct Probes {
    running: Vec<Running>,
}

/// All endpoints of one parent.
#[derive(Debug)]
struct Running {
    hop: Arc<Hop>,
    /// In the order of its endpoints.
    probed: Arc<[Arc<Probed>]>,
    tasks: Vec<AbortHandle>,
}

/// More are named in the log and not probed: each is a connection now and then, and a row of a metric.
const PROBED_MAX: usize = 256;

impl Probes {
    /// Probes what these rules want probed, and nothing else.
    pub(super) fn apply(&mut self, snapshot: &Snapshot, proxy: &Arc<Proxy>) {
        let mut wanted: Vec<Arc<Hop>> = Vec::new();
        snapshot.for_each_hop(|hop| {
            if hop.probe.is_some() && !wanted.iter().any(|other| other.cluster.name == hop.cluster.name) {
                wanted.push(hop.clone());
            }
        });
        let mut before = std::mem::take(&mut self.running);
        let mut count = 0;
        for hop in wanted {
            let endpoints = hop.cluster.endpoints().len();
            if count + endpoints > PROBED_MAX {
                tracing::warn!(cluster = &*hop.cluster.name, "not probed: {PROBED_MAX} parents are already");
                continue;
            }
            count += endpoints;
            let known = before.iter().position(|running| running.hop.cluster.name == hop.cluster.name);
            let known = known.map(|at| before.swap_remove(at));
            self.running.push(match known {
                Some(running) if running.hop.probe == hop.probe && Dialer::is_same_parent(&running.hop, &hop) => {
                    running
                }
                // What was found of an endpoint holds on, though it is asked in another way now.
                known => Running::start(hop, known.as_ref(), proxy),
            });
        }
        let all = self.running.iter().flat_map(|running| running.probed.iter().cloned());
        parents::set(all.collect());
        let by_cluster = self.running.iter().map(|running| (running.hop.cluster.name.clone(), running.probed.clone()));
        proxy.dialer.set_probed(by_cluster);
    }
}

impl Running {
    fn start(hop: Arc<Hop>, before: Option<&Self>, proxy: &Arc<Proxy>) -> Self {
        let known = |endpoint: &str| before?.probed.iter().find(|probed| *probed.endpoint == *endpoint).cloned();
        let probed = hop.cluster.endpoints().iter().map(|endpoint| {
            let name = endpoint.at.to_string();
            known(&name).unwrap_or_else(|| Arc::new(Probed::new(hop.cluster.name.clone(), name)))
        });
        let probed: Arc<[_]> = probed.collect();
        let tasks = probed.iter().enumerate().map(|(index, probed)| {
            tokio::spawn(watch(proxy.clone(), hop.clone(), index, probed.clone())).abort_handle()
        });
        Self { tasks: tasks.collect(), hop, probed }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Probes one endpoint until it is aborted.
async fn watch(proxy: Arc<Proxy>, hop: Arc<Hop>, index: usize, probed: Arc<Probed>) {
    let Some(probe) = &hop.probe else { return };
    let thresholds = Thresholds { unhealthy: probe.unhealthy_threshold, healthy: probe.healthy_threshold };
    loop {
        let deadline = Instant::now() + probe.timeout;
        let result = match timeout(probe.timeout, proxy.dialer.probe(&hop, index, &probe.target, deadline)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {:?}", probe.timeout).into()),
        };
        probed.note(result, thresholds);
        // A tenth more or less, so that many proxies that began together do not go on asking together.
        sleep(probe.interval.mul_f64(0.9 + fastrand::f64() * 0.2)).await;
    }
}
