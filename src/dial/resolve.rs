//! Names to addresses: hosts file, own cache of answers and of failures, one question at a time per name, a bound on all of them.
//!
//! hickory-resolver asks the servers; what it does not remember (failures, "no such name" without SOA) is remembered here. Each
//! family is a question of its own, so that dialling begins with the first answer (RFC 8305 §3).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver as Hickory, TokioResolver};
use thiserror::Error;

use super::hosts::{self, HostsFile};
use super::{DnsSettings, Family};
use crate::flow::{ErrorType, Name};

/// Answers questions for addresses. Cheap to share; dropped with its cache when the settings change.
#[derive(Debug)]
pub(super) struct Resolver {
    settings: DnsSettings,
    system: Vec<SocketAddr>,
    queries_max: usize,
    hosts: Arc<HostsFile>,
    servers: TokioResolver,
    /// Servers per suffix, longest suffix first.
    forward: Vec<(Name, TokioResolver)>,
    state: Arc<State>,
}

/// What questions under way share.
#[derive(Debug, Default)]
struct State {
    table: Mutex<Table>,
    asked: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    answers: HashMap<Question, Remembered>,
    asking: HashMap<Question, Asking>,
}

/// A question under way, held by those who wait for it.
#[derive(Debug)]
struct Asking {
    number: u64,
    answer: WeakShared<BoxFuture<'static, Answer>>,
}

/// A name and one of the two families.
type Question = (Name, IpFamily);

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum IpFamily {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

/// Addresses, at least one; or why there is none.
pub(super) type Answer = Result<Arc<[IpAddr]>, ResolveError>;

#[derive(Debug)]
struct Remembered {
    answer: Answer,
    until: Instant,
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ResolveError {
    /// The name does not exist (NXDOMAIN), or is reserved.
    #[error("no such name (NXDOMAIN)")]
    NoSuchName,
    /// The name exists and has no address of the families asked for.
    #[error("the name has no address")]
    NoAddress,
    /// The server answered with an error.
    #[error("the DNS server answered {0}")]
    Refused(&'static str),
    /// No server answered in time.
    #[error("no DNS server answered in time")]
    Timeout,
    /// No server can be reached, or its answer is no DNS.
    #[error("DNS failed: {0}")]
    Failed(Arc<str>),
    /// `limits.dnsQueries`.
    #[error("the limit of {0} DNS queries is reached")]
    Overloaded(usize),
}

impl ResolveError {
    /// Row of the outcome table.
    pub fn error_type(&self) -> ErrorType {
        match self {
            Self::Timeout => ErrorType::DnsTimeout,
            Self::Overloaded(_) => ErrorType::Overloaded,
            Self::NoSuchName | Self::NoAddress | Self::Refused(_) | Self::Failed(_) => ErrorType::DnsError,
        }
    }

    /// The more telling one of the two families' errors.
    pub(super) fn or(self, other: Self) -> Self {
        let rank = |error: &Self| match error {
            Self::NoSuchName => 0,
            Self::Overloaded(_) => 1,
            Self::Refused(_) => 2,
            Self::Failed(_) => 3,
            Self::Timeout => 4,
            Self::NoAddress => 5,
        };
        if rank(&other) < rank(&self) { other } else { self }
    }
}

/// The two questions for one name, answered one after the other.
#[derive(Debug)]
pub(super) struct Lookup {
    v6: Asked,
    v4: Asked,
}

/// One question of a [`Lookup`].
#[derive(Debug)]
enum Asked {
    Known(Answer),
    Asking(Shared<BoxFuture<'static, Answer>>),
    Over,
}

const ANSWERS_MAX: usize = 16 * 1024; // questions remembered; about 200 bytes each
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(3600); // RFC 2308 §5: one to three hours
const ACTIVE_REQUESTS_MAX: usize = 4096; // per DNS connection; hickory's 32 would answer "busy" under load, `dnsQueries` is our bound

impl Resolver {
    /// Builds the clients of the servers; reads resolv.conf where the settings name none.
    pub(super) fn new(settings: &DnsSettings, queries_max: usize) -> Result<Self, String> {
        let system = if settings.servers.is_empty() { system_servers() } else { Vec::new() };
        let servers = if settings.servers.is_empty() { &system } else { &settings.servers };
        let build = |servers: &[SocketAddr]| client(servers, settings).map_err(|error| format!("dns: {error}"));
        let mut forward = settings
            .forward
            .iter()
            .map(|(suffix, servers)| Ok((suffix.clone(), build(servers)?)))
            .collect::<Result<Vec<_>, String>>()?;
        forward.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.as_str().len()));
        Ok(Self {
            servers: build(servers)?,
            forward,
            hosts: Arc::new(HostsFile::open(settings.hosts.as_deref())),
            settings: settings.clone(),
            system,
            queries_max,
            state: Arc::default(),
        })
    }

    /// True if a resolver of these settings would be the same; then this one is kept, with its cache.
    pub(super) fn fits(&self, settings: &DnsSettings, queries_max: usize) -> bool {
        self.settings == *settings
            && self.queries_max == queries_max
            && (!settings.servers.is_empty() || self.system == system_servers())
    }

    /// Questions sent to servers so far.
    pub(super) fn asked(&self) -> u64 {
        self.state.asked.load(Ordering::Relaxed)
    }

    /// Asks for both families at once. Questions that are under way already are shared; dropped by all who wait, they end.
    pub(super) fn lookup(&self, name: &Name) -> Lookup {
        if let Some(ips) = hosts::reserved(name).or_else(|| self.hosts.lookup(name)) {
            return Lookup { v6: self.local(&ips, IpFamily::V6), v4: self.local(&ips, IpFamily::V4) };
        }
        Lookup { v6: self.question(name, IpFamily::V6), v4: self.question(name, IpFamily::V4) }
    }

    fn local(&self, ips: &[IpAddr], family: IpFamily) -> Asked {
        if !self.asks_for(family) {
            return Asked::Over;
        }
        let of_family: Arc<[IpAddr]> = ips.iter().copied().filter(|ip| family.has(*ip)).collect();
        Asked::Known(match (ips.is_empty(), of_family.is_empty()) {
            (true, _) => Err(ResolveError::NoSuchName),
            (false, true) => Err(ResolveError::NoAddress),
            (false, false) => Ok(of_family),
        })
    }

    fn question(&self, name: &Name, family: IpFamily) -> Asked {
        if !self.asks_for(family) {
            return Asked::Over;
        }
        let question = (name.clone(), family);
        let mut table = self.state.table();
        match table.answers.get(&question) {
            Some(known) if known.until > Instant::now() => return Asked::Known(known.answer.clone()),
            _ => {}
        }
        if let Some(answer) = table.asking.get(&question).and_then(|asking| asking.answer.upgrade()) {
            return Asked::Asking(answer);
        }
        if table.asking.len() >= self.queries_max {
            return Asked::Known(Err(ResolveError::Overloaded(self.queries_max)));
        }
        let number = self.state.asked.fetch_add(1, Ordering::Relaxed);
        let place = Place { state: self.state.clone(), question: question.clone(), number };
        let asking = self.ask(place).boxed().shared();
        if let Some(answer) = asking.downgrade() {
            table.asking.insert(question, Asking { number, answer });
        }
        Asked::Asking(asking)
    }

    fn asks_for(&self, family: IpFamily) -> bool {
        match self.settings.family {
            Family::Any => true,
            Family::V4 => family == IpFamily::V4,
            Family::V6 => family == IpFamily::V6,
        }
    }

    /// The question as a future that owns what it needs: it is polled by whoever waits for it.
    fn ask(&self, place: Place) -> impl Future<Output = Answer> + Send + 'static {
        let servers = self
            .forward
            .iter()
            .find(|(suffix, _)| is_under(&place.question.0, suffix))
            .map_or(&self.servers, |(_, servers)| servers)
            .clone();
        let (negative_ttl, failure_ttl) = (self.settings.negative_ttl, self.settings.failure_ttl);
        let addresses_max = self.settings.addresses_max;
        async move {
            let (name, family) = &place.question;
            // The final dot: no search domains. A proxy's names are whole.
            let asked = servers.lookup(format!("{name}."), family.record_type()).await;
            let now = Instant::now();
            let (answer, until) = match asked {
                Ok(lookup) => {
                    let ips = lookup.answers().iter().filter_map(|record| match &record.data {
                        RData::A(ip) => Some(IpAddr::V4(ip.0)),
                        RData::AAAA(ip) => Some(IpAddr::V6(ip.0).to_canonical()),
                        _ => None,
                    });
                    let ips: Arc<[IpAddr]> = ips.take(addresses_max).collect();
                    let answer = if ips.is_empty() { Err(ResolveError::NoAddress) } else { Ok(ips) };
                    (answer, lookup.valid_until())
                }
                Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                    let ttl = none.negative_ttl.map_or(negative_ttl, |seconds| Duration::from_secs(seconds.into()));
                    let error = match none.response_code {
                        ResponseCode::NXDomain => ResolveError::NoSuchName,
                        _ => ResolveError::NoAddress,
                    };
                    (Err(error), now + ttl.min(NEGATIVE_TTL_MAX))
                }
                Err(error) => (Err(failure(&error)), now + failure_ttl),
            };
            place.answered(answer.clone(), until);
            answer
        }
    }
}

impl State {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a question in the table; left when it is answered or nobody waits for it any more.
struct Place {
    state: Arc<State>,
    question: Question,
    number: u64,
}

impl Place {
    fn answered(&self, answer: Answer, until: Instant) {
        let mut table = self.state.table();
        if table.answers.len() >= ANSWERS_MAX {
            make_room(&mut table.answers);
        }
        table.answers.insert(self.question.clone(), Remembered { answer, until });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Somebody may have asked anew between the last waiter's leave and this: that question keeps its place.
        let mut table = self.state.table();
        if table.asking.get(&self.question).is_some_and(|asking| asking.number == self.number) {
            table.asking.remove(&self.question);
        }
    }
}

/// Forgets what is over; where that is not enough, every second answer.
fn make_room(answers: &mut HashMap<Question, Remembered>) {
    let now = Instant::now();
    answers.retain(|_, known| known.until > now);
    if answers.len() >= ANSWERS_MAX {
        let mut keep = false;
        answers.retain(|_, _| {
            keep = !keep;
            keep
        });
    }
}

impl Lookup {
    /// The next answer, IPv6 first if both are there; `None` once both were given.
    pub(super) async fn next(&mut self) -> Option<(IpFamily, Answer)> {
        std::future::poll_fn(|cx| {
            let v6 = self.v6.poll(cx);
            if let Poll::Ready(Some(answer)) = v6 {
                return Poll::Ready(Some((IpFamily::V6, answer)));
            }
            match self.v4.poll(cx) {
                Poll::Ready(Some(answer)) => Poll::Ready(Some((IpFamily::V4, answer))),
                Poll::Ready(None) if v6.is_ready() => Poll::Ready(None),
                _ => Poll::Pending,
            }
        })
        .await
    }

    /// The address, if both answers are known already and hold but one.
    pub(super) fn sole_address(&self) -> Option<IpAddr> {
        let known = |asked: &Asked| match asked {
            Asked::Known(Ok(ips)) => Some((ips.len(), ips.first().copied())),
            Asked::Known(Err(_)) | Asked::Over => Some((0, None)),
            Asked::Asking(_) => None,
        };
        match (known(&self.v6)?, known(&self.v4)?) {
            ((1, ip), (0, _)) | ((0, _), (1, ip)) => ip,
            _ => None,
        }
    }

    /// True once both answers were given.
    pub(super) fn is_over(&self) -> bool {
        matches!((&self.v6, &self.v4), (Asked::Over, Asked::Over))
    }

    /// True while an answer of that family is still to come.
    pub(super) fn awaits(&self, family: IpFamily) -> bool {
        !matches!((family, &self.v6, &self.v4), (IpFamily::V6, Asked::Over, _) | (IpFamily::V4, _, Asked::Over))
    }
}

impl Asked {
    /// The answer, once.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        let answer = match self {
            Self::Known(answer) => answer.clone(),
            Self::Asking(asking) => match asking.poll_unpin(cx) {
                Poll::Ready(answer) => answer,
                Poll::Pending => return Poll::Pending,
            },
            Self::Over => return Poll::Ready(None),
        };
        *self = Self::Over;
        Poll::Ready(Some(answer))
    }
}

impl IpFamily {
    /// True if the address is of this family.
    pub(super) fn has(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == (self == Self::V4)
    }

    fn record_type(self) -> RecordType {
        match self {
            Self::V4 => RecordType::A,
            Self::V6 => RecordType::AAAA,
        }
    }
}

/// A client of these servers, over UDP, and over TCP for truncated answers.
fn client(servers: &[SocketAddr], settings: &DnsSettings) -> Result<TokioResolver, NetError> {
    let servers = servers.iter().map(|server| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = server.port();
            connection
        });
        NameServerConfig::new(server.ip(), true, connections.into())
    });
    let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
    let mut builder = Hickory::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = settings.timeout;
    options.attempts = settings.attempts.saturating_sub(1); // hickory counts repetitions
    options.max_active_requests = ACTIVE_REQUESTS_MAX;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = 0; // answers are remembered here
    builder.build()
}

/// The servers of resolv.conf; without one, libc's default.
fn system_servers() -> Vec<SocketAddr> {
    match hickory_resolver::system_conf::read_system_conf() {
        Ok((config, _)) => config.name_servers().iter().map(|server| SocketAddr::new(server.ip, 53)).collect(),
        Err(error) => {
            tracing::warn!(%error, "no DNS server in /etc/resolv.conf: asking 127.0.0.1:53");
            vec![SocketAddr::from(([127, 0, 0, 1], 53))]
        }
    }
}

fn is_under(name: &Name, suffix: &Name) -> bool {
    let (name, suffix) = (name.as_str(), suffix.as_str());
    name.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn failure(error: &NetError) -> ResolveError {
    match error {
        NetError::Dns(DnsError::ResponseCode(code)) => ResolveError::Refused(code.to_str()),
        NetError::Timeout => ResolveError::Timeout,
        error => ResolveError::Failed(error.to_string().into()),
    }
}
