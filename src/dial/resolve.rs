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
use hickory_resolver::proto::rr::{Name as DnsName, RData, RecordType};
use hickory_resolver::{Resolver as Hickory, TokioResolver};
use thiserror::Error;

use super::hosts::{self, HostsFile};
use super::{DnsSettings, Family};
use crate::account::metrics::{self, DnsResult};
use crate::flow::{ErrorType, Limit, Name};

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

    /// The addresses of a name as far as they are known without asking anybody, IPv6 first. `None`: nothing is known.
    pub(super) fn remembered(&self, name: &Name) -> Option<[Arc<[IpAddr]>; 2]> {
        let known = |asked: Asked| match asked {
            Asked::Known(Ok(ips)) => ips,
            Asked::Known(Err(_)) | Asked::Asking(_) | Asked::Over => Arc::default(),
        };
        let both = match hosts::reserved(name).or_else(|| self.hosts.lookup(name)) {
            Some(ips) => [IpFamily::V6, IpFamily::V4].map(|family| known(self.local(&ips, family))),
            None => {
                let (table, now) = (self.state.table(), Instant::now());
                [IpFamily::V6, IpFamily::V4].map(|family| match table.answers.get(&(name.clone(), family)) {
                    Some(kept) if kept.until > now && self.asks_for(family) => known(Asked::Known(kept.answer.clone())),
                    _ => Arc::default(),
                })
            }
        };
        both.iter().any(|ips| !ips.is_empty()).then_some(both)
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
            Some(known) if known.until > Instant::now() => {
                metrics::dns_cache_hit();
                return Asked::Known(known.answer.clone());
            }
            _ => {}
        }
        if let Some(answer) = table.asking.get(&question).and_then(|asking| asking.answer.upgrade()) {
            return Asked::Asking(answer);
        }
        if table.asking.len() >= self.queries_max {
            metrics::limit_reached(Limit::DnsQueries);
            return Asked::Known(Err(ResolveError::Overloaded(self.queries_max)));
        }
        let number = self.state.asked.fetch_add(1, Ordering::Relaxed);
        metrics::dns_queries_pending(1);
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
            // The final dot: no search domains. A proxy's names are whole. Read as ASCII, which they are: as text of IDNA a name with an
            // underscore, which DNS serves as any other, would be none.
            let asked = match DnsName::from_ascii(format!("{name}.")) {
                Ok(whole) => servers.lookup(whole, family.record_type()).await,
                Err(error) => Err(error.into()),
            };
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
            metrics::dns_query(counted_as(&answer));
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
        metrics::dns_queries_pending(-1);
        // Somebody may have asked anew between the last waiter's leave and this: that question keeps its place.
        let mut table = self.state.table();
        if table.asking.get(&self.question).is_some_and(|asking| asking.number == self.number) {
            table.asking.remove(&self.question);
        }
    }
}

/// How the metrics count an answer of a server.
fn counted_as(answer: &Answer) -> DnsResult {
    match answer {
        Ok(_) => DnsResult::Found,
        Err(ResolveError::NoSuchName | ResolveError::NoAddress) => DnsResult::NotFound,
        Err(ResolveError::Timeout) => DnsResult::TimedOut,
        Err(ResolveError::Refused(_) | ResolveError::Failed(_) | ResolveError::Overloaded(_)) => DnsResult::Failed,
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text.as_bytes()).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn resolver(dns: &FakeDns) -> Resolver {
        Resolver::new(&DnsSettings { servers: vec![dns.addr], ..settings().dns }, 100).unwrap()
    }

    /// Both answers, IPv6 and IPv4.
    async fn both(resolver: &Resolver, host: &str) -> (Option<Answer>, Option<Answer>) {
        let (mut lookup, mut answers) = (resolver.lookup(&name(host)), (None, None));
        while let Some((family, answer)) = lookup.next().await {
            match family {
                IpFamily::V6 => answers.0 = Some(answer),
                IpFamily::V4 => answers.1 = Some(answer),
            }
        }
        assert!(lookup.is_over());
        answers
    }

    async fn v4(resolver: &Resolver, host: &str) -> Answer {
        both(resolver, host).await.1.unwrap()
    }

    #[tokio::test]
    async fn both_families_are_asked_once_until_the_ttl_is_over() {
        let dns = FakeDns::start(|_, _| Reply::Addresses(vec![ip("192.0.2.1"), ip("2001:db8::1")], 1)).await;
        let resolver = resolver(&dns);
        for _ in 0..3 {
            let (v6, v4) = both(&resolver, "a.example").await;
            assert_eq!(
                (&*v6.unwrap().unwrap(), &*v4.unwrap().unwrap()),
                (&[ip("2001:db8::1")][..], &[ip("192.0.2.1")][..])
            );
            assert_eq!(dns.queries(), 2);
        }
        until("the TTL is over", || {
            resolver.lookup(&name("a.example")).sole_address().is_none() && {
                let table = resolver.state.table();
                table.answers.values().all(|known| known.until <= Instant::now())
            }
        })
        .await;
        v4(&resolver, "a.example").await.unwrap();
        assert_eq!(dns.queries(), 4);
    }

    #[tokio::test]
    async fn a_hundred_flows_share_one_question() {
        let slow = |_: &str, _| {
            let answer = Reply::Addresses(vec![ip("192.0.2.1")], 60);
            Reply::Later(Duration::from_millis(50), Box::new(answer))
        };
        let dns = FakeDns::start(slow).await;
        let resolver = resolver(&dns);
        let answers = futures_util::future::join_all((0..100).map(|_| v4(&resolver, "slow.example"))).await;
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!((dns.queries(), resolver.asked()), (2, 2));
        assert!(resolver.state.table().asking.is_empty());
    }

    #[tokio::test]
    async fn no_such_name_is_remembered_with_and_without_soa() {
        let soa = |name: &str, _| Reply::NoSuchName((name == "soa.example").then_some(600));
        let dns = FakeDns::start(soa).await;
        let resolver = resolver(&dns);
        for host in ["soa.example", "plain.example"] {
            let before = dns.queries();
            for _ in 0..3 {
                assert_eq!(v4(&resolver, host).await, Err(ResolveError::NoSuchName));
            }
            assert_eq!(dns.queries() - before, 2, "{host}");
        }
        let table = resolver.state.table();
        let left = |host: &str| table.answers[&(name(host), IpFamily::V4)].until - Instant::now();
        assert!(left("soa.example") > Duration::from_secs(500));
        assert!(left("plain.example") <= Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_storm_of_failures_asks_little() {
        let dns = FakeDns::start(|_, _| Reply::Failure).await;
        let resolver = resolver(&dns);
        for _ in 0..50 {
            assert_eq!(v4(&resolver, "broken.example").await, Err(ResolveError::Refused("Server Failure")));
        }
        assert!(dns.queries() <= 4, "{} queries: two families, two attempts", dns.queries());
    }

    #[tokio::test]
    async fn a_silent_server_costs_a_bounded_time_and_number_of_queries_and_is_remembered() {
        let dns = FakeDns::start(|_, _| Reply::Silence).await;
        let settings = DnsSettings { servers: vec![dns.addr], timeout: Duration::from_millis(100), ..settings().dns };
        let resolver = Resolver::new(&settings, 100).unwrap();
        let started = Instant::now();
        assert_eq!(v4(&resolver, "silent.example").await, Err(ResolveError::Timeout));
        assert!(started.elapsed() < Duration::from_millis(1000), "{:?}", started.elapsed());
        let queries = dns.queries();
        assert!(queries <= 4, "{queries}");
        assert_eq!(v4(&resolver, "silent.example").await, Err(ResolveError::Timeout));
        assert_eq!(dns.queries(), queries);
    }

    #[tokio::test]
    async fn of_five_hundred_addresses_sixteen_are_taken() {
        let many: Vec<_> = (0..500_u16).map(|n| IpAddr::from([192, 0, (n >> 8) as u8, n as u8])).collect();
        let dns = FakeDns::start(move |_, _| Reply::Addresses(many.clone(), 60)).await;
        assert_eq!(v4(&resolver(&dns), "many.example").await.unwrap().len(), 16);
    }

    #[tokio::test]
    async fn questions_are_bounded_and_end_when_nobody_waits() {
        let dns = FakeDns::start(|_, _| Reply::Silence).await;
        let resolver = Resolver::new(&DnsSettings { servers: vec![dns.addr], ..settings().dns }, 2).unwrap();
        let mut stuck = resolver.lookup(&name("one.example"));
        let polled = tokio::time::timeout(Duration::from_millis(20), stuck.next()).await;
        assert!(polled.is_err());
        assert_eq!(v4(&resolver, "two.example").await, Err(ResolveError::Overloaded(2)));
        drop(stuck);
        assert!(resolver.state.table().asking.is_empty());
        // One that was never polled leaves as well.
        drop(resolver.lookup(&name("three.example")));
        assert!(resolver.state.table().asking.is_empty());
    }

    #[tokio::test]
    async fn only_the_family_of_the_settings_is_asked_for() {
        let dns = FakeDns::start(|_, _| Reply::Addresses(vec![ip("192.0.2.1"), ip("2001:db8::1")], 60)).await;
        let settings = DnsSettings { servers: vec![dns.addr], family: Family::V6, ..settings().dns };
        let resolver = Resolver::new(&settings, 100).unwrap();
        let (v6, v4) = both(&resolver, "a.example").await;
        assert!(v6.unwrap().is_ok() && v4.is_none());
        assert_eq!(dns.queries(), 1);
    }

    #[tokio::test]
    async fn names_under_a_suffix_go_to_its_own_servers() {
        let corp = FakeDns::start(|_, _| Reply::Addresses(vec![ip("10.0.0.1")], 60)).await;
        let rest = FakeDns::start(|_, _| Reply::Addresses(vec![ip("192.0.2.1")], 60)).await;
        let forward = vec![(name("corp.example"), vec![corp.addr])];
        let settings = DnsSettings { servers: vec![rest.addr], forward, ..settings().dns };
        let resolver = Resolver::new(&settings, 100).unwrap();
        for (host, found) in
            [("a.corp.example", "10.0.0.1"), ("corp.example", "10.0.0.1"), ("acorp.example", "192.0.2.1")]
        {
            assert_eq!(&*v4(&resolver, host).await.unwrap(), [ip(found)], "{host}");
        }
        assert_eq!((corp.queries(), rest.queries()), (4, 2));
    }

    #[tokio::test]
    async fn the_hosts_file_and_localhost_ask_no_server() {
        let dns = FakeDns::start(|_, _| Reply::Failure).await;
        let dir = tempfile::tempdir().unwrap();
        let hosts = dir.path().join("hosts");
        std::fs::write(&hosts, "192.0.2.7 pinned.example\n").unwrap();
        let settings = DnsSettings { servers: vec![dns.addr], hosts: Some(hosts), ..settings().dns };
        let resolver = Resolver::new(&settings, 100).unwrap();
        assert_eq!(resolver.lookup(&name("pinned.example")).sole_address(), Some(ip("192.0.2.7")));
        let (v6, v4_answer) = both(&resolver, "localhost").await;
        assert_eq!((&*v6.unwrap().unwrap(), &*v4_answer.unwrap().unwrap()), (&[ip("::1")][..], &[ip("127.0.0.1")][..]));
        assert_eq!(v4(&resolver, "x.invalid").await, Err(ResolveError::NoSuchName));
        assert_eq!(dns.queries(), 0);
    }

    #[tokio::test]
    async fn the_cache_is_bounded() {
        let mut answers = HashMap::new();
        let until = Instant::now() + Duration::from_secs(60);
        for n in 0..ANSWERS_MAX {
            let question = (name(&format!("n{n}.example")), IpFamily::V4);
            answers.insert(question, Remembered { answer: Err(ResolveError::NoAddress), until });
        }
        make_room(&mut answers);
        assert_eq!(answers.len(), ANSWERS_MAX / 2);
        answers.values_mut().for_each(|known| known.until = Instant::now());
        make_room(&mut answers);
        assert!(answers.is_empty());
    }

    #[test]
    fn the_more_telling_error_stays() {
        let no_address = ResolveError::NoAddress;
        assert_eq!(no_address.clone().or(ResolveError::Timeout), ResolveError::Timeout);
        assert_eq!(ResolveError::NoSuchName.or(no_address), ResolveError::NoSuchName);
    }
}
