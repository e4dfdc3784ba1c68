//! From a configuration as read to the parts that the data plane takes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::inbound;
use super::listeners::Wanted;
use super::sandbox::Places;
use super::watch::fingerprint;
use crate::accept::basic::Basic;
use crate::account::{AccountSettings, Encoding, Format, LogTarget, OtlpSettings, Progress};
use crate::admin::{Address, Facts, Token, facts};
use crate::config::compile::allow::Expansion;
use crate::config::digest::Digest;
use crate::config::settings::{self, Admin, Listener, OnRevoke, Sandbox, Settings};
use crate::config::{Code, Configuration, Diagnostics, Sources};
use crate::dial::{DialSettings, DnsSettings, Family};
use crate::flow::{Limits, ListenAddress, Origin};
use crate::route::Snapshot;
use crate::tls::server::ServerTls;
use crate::tunnel::ViaName;

/// Where a configuration comes from: read once at the start, and again for each reload.
#[derive(Debug)]
pub struct ConfigurationSource {
    sources: Sources,
    /// Our name where the settings give none: drawn once, so that a reload does not change it.
    name: String,
    generations: AtomicU64,
    /// The users of each listener, so that a reload with the same users asks nobody's password again.
    logins: Mutex<HashMap<String, Arc<Basic>>>,
    /// The TLS of each listener, with what the settings say of it: it stays where a new file of the same name is bad.
    servers: Mutex<HashMap<String, (settings::Tls, ServerTls)>>,
}

/// A configuration without errors, as the data plane takes it.
#[derive(Debug)]
pub struct Parts {
    /// Workers; 0: as many as the process may use cores.
    pub threads: usize,
    /// What to listen on.
    pub listeners: Vec<Wanted>,
    /// What the admin port tells of it beside the rules.
    pub facts: Facts,
    /// The admin port, if there is to be one.
    pub admin: Option<Address>,
    /// The secret of its clients that may change something.
    pub admin_token: Option<Token>,
    /// The rules.
    pub snapshot: Arc<Snapshot>,
    /// The bounds.
    pub limits: Limits,
    /// Our name towards others.
    pub via: ViaName,
    /// The way out.
    pub dial: DialSettings,
    /// The access log.
    pub account: AccountSettings,
    /// Where traces go.
    pub otlp: Option<OtlpSettings>,
    /// Lines of tunnels that are open.
    pub progress: Progress,
    /// How long the end may take.
    pub drain: Duration,
    /// What becomes of tunnels that these rules no longer allow.
    pub on_revoke: OnRevoke,
    /// Whether the process is to confine itself.
    pub sandbox: Sandbox,
    /// Files and folders whose change calls for a reload.
    pub files: Vec<PathBuf>,
    /// Their content when they were read.
    pub fingerprint: u64,
    /// What the rules say, to be compared with the next configuration.
    pub digest: Digest,
    /// What the operator should look at.
    pub warnings: Diagnostics,
    settings: Settings,
}

impl ConfigurationSource {
    /// What the command line says of it.
    pub fn new(sources: Sources) -> Self {
        let name = format!("egret-{:08x}", fastrand::u32(..));
        Self { sources, name, generations: AtomicU64::new(0), logins: Mutex::default(), servers: Mutex::default() }
    }

    /// Reads and compiles all of it. Blocks.
    ///
    /// # Errors
    /// Everything that is wrong with it, warnings included.
    pub fn load(&self) -> Result<Parts, Diagnostics> {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        let Configuration { settings, snapshot, digest, places, mut diagnostics, inputs } =
            Configuration::load(&self.sources, generation);
        let via = self.via(&settings.via);
        let listeners = settings.listeners.iter().map(|listener| {
            let before = self.tls_before(listener);
            let wanted = inbound::listener(listener, before.as_ref(), &settings, &mut diagnostics);
            self.keep_login(wanted)
        });
        let listeners: Vec<Wanted> = listeners.collect();
        let admin_token = admin_token(&settings, &mut diagnostics);
        let account = account(&settings.mesh.access_log, &settings, &mut diagnostics);
        diagnostics.sort();
        if diagnostics.errors() > 0 {
            return Err(diagnostics);
        }
        self.keep_tls(&settings, &listeners);
        let facts = facts(&settings, &listeners, places);
        Ok(Parts {
            threads: settings.threads,
            listeners,
            facts,
            admin: match settings.admin {
                Admin::Off => None,
                Admin::Address(address) => Some(Address::Tcp(address)),
                Admin::Unix(ref path) => Some(Address::Unix(path.clone())),
            },
            admin_token,
            snapshot: Arc::new(snapshot),
            limits: settings.limits.clone(),
            dial: dial(&settings, &via),
            via,
            account,
            otlp: settings.otlp.clone(),
            progress: settings.progress,
            drain: settings.drain,
            on_revoke: settings.on_revoke,
            sandbox: settings.sandbox,
            fingerprint: fingerprint(&inputs),
            files: inputs,
            digest,
            warnings: diagnostics,
            settings,
        })
    }

    /// Everything that is wrong with it, warnings included. Blocks.
    pub fn check(&self) -> Diagnostics {
        self.load().map_or_else(|errors| errors, |parts| parts.warnings)
    }

    /// The users of the generation before, where they are the same: what they proved need not be proved again.
    fn keep_login(&self, mut wanted: Wanted) -> Wanted {
        if let Some(basic) = &mut wanted.settings.basic {
            let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = logins.entry(wanted.settings.name.name.clone()).or_insert_with(|| basic.clone());
            if kept.asks_the_same(basic) {
                *basic = kept.clone();
            } else {
                *kept = basic.clone();
            }
        }
        wanted
    }

    /// The TLS of a listener that was good the last time, if the settings say the same of it as then.
    fn tls_before(&self, listener: &Listener) -> Option<ServerTls> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, server) = servers.get(&*listener.name.value)?;
        listener.tls.as_ref().is_some_and(|tls| tls.is_as(before)).then(|| server.clone())
    }

    fn keep_tls(&self, settings: &Settings, listeners: &[Wanted]) {
        let with_tls = settings.listeners.iter().zip(listeners).filter_map(|(listener, wanted)| {
            Some((listener.name.value.to_string(), (listener.tls.clone()?, wanted.settings.tls.clone()?)))
        });
        *self.servers.lock().unwrap_or_else(PoisonError::into_inner) = with_tls.collect();
    }

    fn via(&self, via: &settings::Via) -> ViaName {
        let name = via.name.as_deref().unwrap_or(&self.name).into();
        ViaName { name, send: via.send }
    }
}

/// The token of the admin port; what is wrong with its file is reported at the place that names it. Without a token nothing can be
/// changed.
fn admin_token(settings: &Settings, diagnostics: &mut Diagnostics) -> Option<Token> {
    let file = settings.admin_token.as_ref()?;
    let (code, problem) = match std::fs::read(&file.value).map(|content| Token::parse(&content)) {
        Ok(Ok(token)) => return Some(token),
        Ok(Err(problem)) => (Code::BadValue, problem.to_owned()),
        Err(error) => (Code::InputUnreadable, error.to_string()),
    };
    settings.report(code, file.span, format!("{}: {problem}", file.value.display()), diagnostics);
    None
}

fn facts(settings: &Settings, listeners: &[Wanted], resources: Vec<Origin>) -> Facts {
    let listeners = settings.listeners.iter().zip(listeners).map(|(listener, wanted)| {
        let text = |path: &std::path::Path| Arc::from(path.display().to_string());
        let files = listener.tls.as_ref().zip(wanted.settings.tls.clone());
        facts::Listener {
            name: listener.name.value.clone(),
            settings: settings.listener_in_force(listener),
            tls: files.map(|(files, server)| facts::ListenerTls {
                server,
                certificate: text(&files.certificate.value),
                client_ca: files.client_ca.as_ref().map(|file| text(&file.value)),
            }),
        }
    });
    Facts { settings: settings.in_force(), listeners: listeners.collect(), resources }
}

fn account(log: &settings::AccessLog, settings: &Settings, diagnostics: &mut Diagnostics) -> AccountSettings {
    if let Err(error) = Format::compile(log.encoding, &log.format.value) {
        settings.report(Code::BadValue, log.format.span, super::chain(&error), diagnostics);
    }
    let target = log.file.as_ref().map_or(LogTarget::Off, |file| LogTarget::parse(&file.to_string_lossy()));
    let marks =
        settings.progress != Progress::default() && log.encoding == Encoding::Text && log.format.value.is_empty();
    let format = if marks { Format::text_with_line_type() } else { log.format.value.to_string() };
    AccountSettings { target, encoding: log.encoding, format }
}

fn dial(settings: &Settings, via: &ViaName) -> DialSettings {
    let dns = &settings.dns;
    let family = match dns.family {
        settings::Family::Any => Family::Any,
        settings::Family::V4 => Family::V4,
        settings::Family::V6 => Family::V6,
    };
    DialSettings {
        dns: DnsSettings {
            servers: dns.servers.clone(),
            family,
            timeout: dns.timeout,
            attempts: dns.attempts,
            hosts: dns.hosts.clone(),
            negative_ttl: dns.negative_ttl,
            failure_ttl: dns.failure_ttl,
            addresses_max: dns.addresses_max,
            forward: dns.forward.clone(),
        },
        happy_eyeballs_delay: settings.dial.happy_eyeballs_delay,
        tcp_user_timeout: settings.dial.tcp_user_timeout,
        pending_dials: settings.limits.pending_dials,
        dns_queries: settings.limits.dns_queries,
        idle_pool: settings.limits.idle_pool,
        head_bytes: settings.limits.head_bytes,
        via: via.sent().map(Into::into),
    }
}

impl Parts {
    /// What a sandbox has to leave to the process: what this configuration reads and writes, now and after a reload.
    pub fn places(&self) -> Places {
        let settings = &self.settings;
        let mut places = Places::of_system();
        self.files.iter().for_each(|file| places.read(file));
        if settings.files.root != std::path::Path::new("/") {
            places.read(&settings.files.root);
        }
        settings.dns.hosts.iter().for_each(|hosts| places.read(hosts));
        settings.secrets.iter().for_each(|secret| places.read(&secret.dir));
        if let LogTarget::File(path) = &self.account.target {
            places.write(path);
        }
        if let Some(Address::Unix(path)) = &self.admin {
            places.socket(path);
        }
        for wanted in &self.listeners {
            if let ListenAddress::Unix(path) = &wanted.address {
                places.socket(path);
            }
        }
        places
    }

    /// The ServiceEntry that the `allow` entry at a place stands for.
    pub fn expansion(&self, origin: &Origin) -> Option<String> {
        let settings = &self.settings;
        let is_there = |span| {
            let Origin { file, line, column, .. } = settings.origin(span);
            (file, line, column) == (origin.file.clone(), origin.line, origin.column)
        };
        let index = settings.allow.iter().position(|entry| is_there(entry.span))?;
        Expansion::parse(&settings.allow[index].value, index, &settings.workload.namespace).ok()
    }
}
