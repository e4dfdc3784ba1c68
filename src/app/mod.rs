//! Wires everything: bind all, then serve; signals; reload; the order of the end.
//!
//! [`parts`] turns a configuration into what the data plane takes · [`listeners`] binds before it closes · `watch` notices changed
//! files · `reload` says what is different · `revoke` judges live tunnels again · `sandbox` gives up what is not needed · `stop` ends
//! in order.

pub mod listeners;
pub mod parts;

mod admin_port;
mod certificates;
mod inbound;
mod probes;
mod process;
mod reload;
mod revoke;
mod sandbox;
mod service;
mod signals;
mod stop;
mod watch;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde_json::json;
use thiserror::Error;
use tokio::runtime::Runtime;

use self::admin_port::AdminPort;
use self::listeners::{BindError, Listeners};
use self::parts::{ConfigurationSource, Parts};
use self::probes::Probes;
use self::reload::{News, ReloadReport, Said};
use self::revoke::Revocation;
use self::signals::{Signals, Wish};
use self::stop::Drained;
use self::watch::{Watch, fingerprint};
use crate::accept::admission::Connections;
use crate::accept::passed::PassedSockets;
#[cfg(feature = "otlp")]
use crate::account::otlp;
use crate::account::{Account, AccountError, Shares, Tunnels, events, metrics, progress};
use crate::admin::{self, Command, Commands, Reloaded};
use crate::config::settings::Sandbox;
use crate::config::{Code, Diagnostics, Severity};
use crate::dial::{Dialer, OwnListeners};
use crate::drain::Drain;
use crate::flow::ListenAddress;
use crate::route::Snapshot;
use crate::stream::descriptors;
use crate::tunnel::Proxy;

/// How a proxy that was running ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order.
    Drained,
    /// At once, by a second signal.
    Forced,
}

/// Why a proxy does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration has errors; they are in the list.
    #[error("the configuration has errors")]
    Configuration(Diagnostics),
    /// An address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The way out cannot be set up.
    #[error("dns: {0}")]
    Dial(String),
    /// The access log cannot be written.
    #[error("mesh.accessLogFile")]
    Account(#[from] AccountError),
    /// The settings require a sandbox, and the kernel has none.
    #[error("sandbox: required, and {0}")]
    Sandbox(String),
    /// The kernel refuses threads or signal handlers.
    #[error("start the runtime")]
    Runtime(#[source] io::Error),
}

const FLUSH_TIME: Duration = Duration::from_secs(2); // a log that nobody reads must not keep the process from ending
const TICK: Duration = Duration::from_millis(500); // below every limit that a flow usually waits with
const LAST_TASKS_TIME: Duration = Duration::from_millis(500);
const LOGGED_MAX: usize = 200; // warnings and errors of one load
const RETIRE_TIME_MAX: Duration = Duration::from_secs(30); // longer than a dial takes

/// Runs the proxy until a signal ends it. `trust` are files and folders of roots that the environment names; listeners may use the
/// sockets in `passed`; `announce` is told where it listens: once everything is bound
/// and served, and again whenever a reload changed that.
///
/// # Errors
/// See [`StartError`]; nothing is served then.
pub fn run(
    source: ConfigurationSource,
    trust: &[PathBuf],
    passed: PassedSockets,
    announce: impl Fn(&Addresses) + 'static,
) -> Result<End, StartError> {
    let parts = source.load().map_err(StartError::Configuration)?;
    descriptors::set_limit(process::raise_open_files());
    let workers = process::workers(parts.threads);
    // Before there is a second thread: a sandbox is of the thread that asks for it, and of those that it starts.
    let mut places = parts.places();
    trust.iter().for_each(|path| places.read(path));
    let confined = sandbox::enter(parts.sandbox, &places).map_err(StartError::Sandbox)?;
    let runtime = runtime(workers).map_err(StartError::Runtime)?;
    let account = Account::new(&parts.account)?;
    let end = runtime.block_on(async {
        tokio::spawn(tick());
        tokio::spawn(service::watchdog());
        let mut signals = Signals::new().map_err(StartError::Runtime)?;
        let mut app = App::start(source, parts, passed, account.clone(), Box::new(announce)).await?;
        app.running.confined = confined;
        Ok(app.run(&mut signals).await)
    });
    // Flows that are cut here write their lines when they are dropped, so the log is closed last.
    runtime.shutdown_timeout(LAST_TASKS_TIME);
    #[cfg(feature = "otlp")]
    if !otlp::close(FLUSH_TIME) {
        tracing::warn!("spans are lost that waited for the collector");
    }
    if !account.close(FLUSH_TIME) {
        tracing::warn!("the access log was not written to its end");
    }
    end
}

/// A timer that is the first to fire of all costs tokio a write to its own eventfd when it is set, which was one system call per flow.
/// With a tick pending, no limit of a flow is ever the first.
async fn tick() {
    loop {
        tokio::time::sleep(TICK).await;
    }
}

fn runtime(workers: usize) -> io::Result<Runtime> {
    if workers == 1 {
        // One worker steals from nobody: what its queue, parking and waking cost across threads is saved.
        return tokio::runtime::Builder::new_current_thread().enable_all().build();
    }
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).thread_name("egret-worker").enable_all().build()
}

/// Where the proxy listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Name and address of each listener.
    pub listeners: Vec<(String, ListenAddress)>,
    /// The admin port, if there is one.
    pub admin: Option<admin::Address>,
}

impl std::fmt::Display for Addresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("listening")?;
        self.listeners.iter().try_for_each(|(name, address)| write!(f, " {name}={address}"))?;
        self.admin.iter().try_for_each(|address| write!(f, " admin={address}"))
    }
}

/// A running proxy.
struct App {
    source: Arc<ConfigurationSource>,
    proxy: Arc<Proxy>,
    listeners: Listeners,
    admin: AdminPort,
    commands: Commands,
    watch: Watch,
    probes: Probes,
    /// What of the running configuration is asked for later.
    running: Running,
    announce: Box<dyn Fn(&Addresses)>,
    announced: Addresses,
}

/// The parts of the running configuration that no other module keeps.
struct Running {
    threads: usize,
    sandbox: Sandbox,
    /// Paths outside of the sandbox cannot be read by a reload.
    confined: bool,
    drain: Duration,
    files: Arc<[PathBuf]>,
    fingerprint: u64,
    said: Said,
}

impl App {
    /// Binds everything, then serves.
    async fn start(
        source: ConfigurationSource,
        parts: Parts,
        passed: PassedSockets,
        account: Arc<Account>,
        announce: Box<dyn Fn(&Addresses)>,
    ) -> Result<Self, StartError> {
        report(&parts.warnings);
        let shares = Shares::new(&parts.limits);
        let mut listeners = Listeners::new(passed, Connections::new(shares.clone()));
        let certificates = certificates::of(&parts.listeners, &parts.snapshot);
        let plan = listeners.plan(parts.listeners)?;
        let proxy = Arc::new(Proxy {
            snapshot: ArcSwap::new(parts.snapshot),
            limits: ArcSwap::from_pointee(parts.limits.clone()),
            via: ArcSwap::from_pointee(parts.via),
            account,
            tunnels: Arc::new(Tunnels::default()),
            shares,
            dialer: Dialer::new(parts.dial).map_err(StartError::Dial)?,
            drain: Drain::default(),
        });
        let (tell, commands) = admin::command::channel();
        let mut admin = AdminPort::new(proxy.clone(), tell);
        let admin_plan = admin.plan(parts.admin.as_ref())?;
        let running = Running {
            threads: parts.threads,
            sandbox: parts.sandbox,
            confined: false,
            drain: parts.drain,
            fingerprint: parts.fingerprint,
            files: parts.files.into(),
            said: Said::of(parts.digest, &parts.warnings),
        };
        proxy.account.set_progress(parts.progress);
        #[cfg(feature = "otlp")]
        otlp::set(parts.otlp.as_ref()).map_err(StartError::Runtime)?;
        let swept = proxy.clone();
        // As the tick, it ends with the runtime.
        tokio::spawn(async move { progress::sweep(&swept.tunnels, swept.account.progress()).await });
        let mut watch = Watch::new();
        watch.set_files(&running.files);
        admin.apply(admin_plan, parts.admin_token);
        admin.tell(parts.facts);
        listeners.apply(plan, &proxy);
        admin.ready();
        metrics::set_certificates(certificates);
        metrics::config_loaded(proxy.snapshot.load().generation());
        let mut probes = Probes::default();
        probes.apply(&proxy.snapshot.load_full(), &proxy);
        let mut app = Self {
            source: Arc::new(source),
            proxy,
            listeners,
            admin,
            commands,
            watch,
            probes,
            running,
            announce,
            announced: Addresses::default(),
        };
        app.tell_addresses();
        service::ready(&app.announced.to_string());
        Ok(app)
    }

    /// Obeys signals and changed files until the end.
    async fn run(&mut self, signals: &mut Signals) -> End {
        let deadline = loop {
            tokio::select! {
                wish = signals.next() => match wish {
                    Wish::Reload => drop(self.reload("SIGHUP").await),
                    Wish::ReopenLogs => self.proxy.account.reopen(),
                    Wish::Stop => break Some(self.running.drain),
                    Wish::StopWhenIdle => break None,
                },
                () = self.watch.changed() => {
                    if self.files_differ().await {
                        self.reload("a file changed").await;
                    }
                }
                Some(command) = self.commands.recv() => match command {
                    Command::Reload(answer) => {
                        let report = self.reload("POST /reload").await;
                        let ok = report.is_applied();
                        let report = serde_json::to_value(report).expect("text and numbers only");
                        let _ = answer.send(Reloaded { ok, report });
                    }
                    Command::Drain(answer) => {
                        let _ = answer.send(self.running.drain.as_secs_f64());
                        break Some(self.running.drain);
                    }
                },
            }
        };
        self.stop(deadline, signals).await
    }

    /// Reads the configuration again, and tells those who follow what became of it.
    async fn reload(&mut self, why: &str) -> ReloadReport {
        let reloaded = self.compile_and_apply(why).await;
        events::tell("reload", || serde_json::to_value(&reloaded).expect("text and numbers only"));
        reloaded
    }

    /// Compiles the configuration anew, off the workers, and puts it in force; if anything is wrong with it, the old one stays.
    async fn compile_and_apply(&mut self, why: &str) -> ReloadReport {
        let started = Instant::now();
        service::reloading();
        let reloaded = self.load_and_apply(why, started).await;
        service::ready(&self.announced.to_string());
        reloaded
    }

    async fn load_and_apply(&mut self, why: &str, started: Instant) -> ReloadReport {
        let source = self.source.clone();
        let before = self.fingerprint().await;
        let loaded = match tokio::task::spawn_blocking(move || source.load()).await {
            Ok(loaded) => loaded,
            Err(panic) => {
                tracing::error!(why, %panic, "a bug of ours");
                let report = ReloadReport::rejected(why, ["a bug of ours, the log says more".to_owned()]);
                report.log();
                return report;
            }
        };
        // Taken before the files were read, so that a change in between counts as one; and whatever comes of the reload: the same
        // bytes are not worth another try each minute.
        self.running.fingerprint = before;
        let report = match loaded {
            Ok(parts) => match self.apply(parts).await {
                Ok((generation, news, revocation)) => {
                    metrics::config_loaded(generation);
                    ReloadReport::applied(why, generation, started.elapsed(), news, revocation)
                }
                Err(error) => {
                    self.explain_sandbox(matches!(error, StartError::Account(_)));
                    ReloadReport::rejected(why, [chain(&error)])
                }
            },
            Err(diagnostics) => {
                report(&diagnostics);
                self.explain_sandbox(diagnostics.iter().any(|diagnostic| diagnostic.code == Code::InputUnreadable));
                let errors = diagnostics.iter().filter(|diagnostic| diagnostic.severity() == Severity::Error);
                ReloadReport::rejected(why, errors.map(ToString::to_string))
            }
        };
        if !report.is_applied() {
            metrics::config_rejected();
        }
        report.log();
        report
    }

    /// Everything that can fail comes first; then all of it is in force at once.
    async fn apply(&mut self, parts: Parts) -> Result<(u64, News, Revocation), StartError> {
        let certificates = certificates::of(&parts.listeners, &parts.snapshot);
        let plan = self.listeners.plan(parts.listeners)?;
        let admin_plan = self.admin.plan(parts.admin.as_ref())?;
        self.proxy.account.set(&parts.account)?;
        self.proxy.dialer.set_settings(parts.dial).map_err(StartError::Dial)?;
        if parts.threads != self.running.threads {
            tracing::warn!("threads: takes effect at the next start");
        }
        if parts.sandbox != self.running.sandbox {
            tracing::warn!("sandbox: takes effect at the next start");
        }
        let generation = parts.snapshot.generation();
        let before = self.proxy.snapshot.swap(parts.snapshot.clone());
        self.proxy.shares.set_rates(&parts.limits);
        self.proxy.limits.store(Arc::new(parts.limits));
        self.proxy.account.set_progress(parts.progress);
        #[cfg(feature = "otlp")]
        if let Err(error) = otlp::set(parts.otlp.as_ref()) {
            tracing::warn!(%error, "otlp: the collector stays the one it was");
        }
        self.proxy.via.store(Arc::new(parts.via));
        self.admin.apply(admin_plan, parts.admin_token);
        self.admin.tell(parts.facts);
        self.listeners.apply(plan, &self.proxy);
        metrics::set_certificates(certificates);
        self.tell_addresses();
        self.watch.set_files(&parts.files);
        self.probes.apply(&parts.snapshot, &self.proxy);
        let same_files = *self.running.files == *parts.files;
        let (proxy, snapshot, on_revoke) = (self.proxy.clone(), parts.snapshot, parts.on_revoke);
        let (digest, warnings) = (parts.digest, parts.warnings);
        let said_before = std::mem::take(&mut self.running.said);
        // Off the workers: there may be 100,000 rules to compare and 20,000 tunnels to judge.
        let compared = tokio::task::spawn_blocking(move || {
            let said = Said::of(digest, &warnings);
            let news = said.since(&said_before);
            (said, news, revoke::judge_again(&proxy, &snapshot, on_revoke))
        });
        let (said, news, revocation) = compared.await.unwrap_or_default();
        retire(before);
        // What was said of the generation before is not said again.
        for warning in news.new_warnings.iter().take(LOGGED_MAX) {
            tracing::warn!("{warning}");
        }
        tell_of_more(news.new_warnings.len());
        self.running = Running {
            threads: self.running.threads,
            sandbox: self.running.sandbox,
            confined: self.running.confined,
            drain: parts.drain,
            files: parts.files.into(),
            fingerprint: if same_files { self.running.fingerprint } else { parts.fingerprint },
            said,
        };
        Ok((generation, news, revocation))
    }

    /// Permissions that look right, and are not: says why.
    fn explain_sandbox(&self, has_failed_at_a_file: bool) {
        if has_failed_at_a_file && self.running.confined {
            tracing::error!(
                "a reload stays within the folders that the sandbox left at the start; a restart takes others (or `sandbox: off`)"
            );
        }
    }

    async fn files_differ(&mut self) -> bool {
        self.fingerprint().await != self.running.fingerprint
    }

    async fn fingerprint(&self) -> u64 {
        let files = self.running.files.clone();
        tokio::task::spawn_blocking(move || fingerprint(&files)).await.unwrap_or(self.running.fingerprint)
    }

    /// The dialler must not reach them, and whoever started us waits for them.
    fn tell_addresses(&mut self) {
        let addresses = Addresses { listeners: self.listeners.addresses().collect(), admin: self.admin.address() };
        if addresses == self.announced {
            return;
        }
        let proxies = addresses.listeners.iter().filter_map(|(_, address)| address.inet()).collect();
        let admin = addresses.admin.as_ref().and_then(admin::Address::tcp);
        self.proxy.dialer.set_own(OwnListeners { proxies, admin });
        (self.announce)(&addresses);
        self.announced = addresses;
    }

    async fn stop(&mut self, deadline: Option<Duration>, signals: &mut Signals) -> End {
        service::stopping();
        events::tell(
            "drain",
            || json!({ "tunnels": self.proxy.tunnels.len(), "deadline_s": deadline.map(|deadline| deadline.as_secs_f64()) }),
        );
        self.listeners.close();
        self.probes = Probes::default();
        tracing::info!(
            tunnels = self.proxy.tunnels.len(),
            deadline_s = deadline.map(|deadline| deadline.as_secs_f64()),
            "draining"
        );
        let proxy = self.proxy.clone();
        let end = tokio::select! {
            drained = stop::drain(&proxy, deadline) => {
                let Drained { running, cut, dropped } = drained;
                tracing::info!(running, cut_idle = cut.quiet, cut_busy = cut.busy, dropped, "drained");
                End::Drained
            }
            () = second(signals) => {
                tracing::warn!(running = self.proxy.drain.running(), "ended at once by a second signal");
                End::Forced
            }
        };
        self.admin.close();
        end
    }
}

/// Lets go of the rules of the generation before, off the workers: freeing 100,000 of them holds a worker up for as long as hundreds of
/// flows take. Flows that began under them and are not open yet are waited for, or the last of them would have to do it.
fn retire(before: Arc<Snapshot>) {
    tokio::spawn(async move {
        let deadline = Instant::now() + RETIRE_TIME_MAX;
        while Arc::strong_count(&before) > 1 && Instant::now() < deadline {
            tokio::time::sleep(TICK).await;
        }
        let _ = tokio::task::spawn_blocking(move || drop(before)).await;
    });
}

/// Waits for a signal that ends the drain; the others have no meaning any more.
async fn second(signals: &mut Signals) {
    while !matches!(signals.next().await, Wish::Stop | Wish::StopWhenIdle) {}
}

/// Logs what is wrong with a configuration, one line each: errors first, since not all may be shown.
fn report(diagnostics: &Diagnostics) {
    let of = |severity| diagnostics.iter().filter(move |diagnostic| diagnostic.severity() == severity);
    for diagnostic in of(Severity::Error).chain(of(Severity::Warning)).take(LOGGED_MAX) {
        match diagnostic.severity() {
            Severity::Error => tracing::error!("{diagnostic}"),
            Severity::Warning => tracing::warn!("{diagnostic}"),
        }
    }
    tell_of_more(diagnostics.iter().len());
}

/// One mistake in a template of 100,000 rules is 100,000 warnings: nobody reads them in a log, and the start would wait for its reader.
fn tell_of_more(all: usize) {
    if all > LOGGED_MAX {
        tracing::warn!(more = all - LOGGED_MAX, "there is more to say of the configuration: `egret check` shows all");
    }
}

/// An error with all its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
