//! What annotations of ours say of parent proxies, on a ServiceEntry, a Service or a DestinationRule.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::scalars::check_fqdn;
use super::{SharedText, canonical_host};
use crate::config::diagnostic::{Code, Context};
use crate::config::read::parse_duration;
use crate::config::resource::Resource;
use crate::config::source::{Span, Spanned};
use crate::flow::Target;
use crate::route::probe::Probe;

/// The way to a service (`egret.dev/via`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViaRef {
    /// `direct`: through no parent, whatever the settings say.
    Direct,
    /// `HOST:PORT`: through the parent that this service port is.
    Parent(ParentRef),
}

/// A parent by the name and port of its service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentRef {
    /// A host that a resource declares.
    pub host: SharedText,
    /// One of its ports.
    pub port: u16,
}

impl ParentRef {
    /// Reads `HOST:PORT`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, span: Span) -> Result<Self, String> {
        let wrong = || "not HOST:PORT, the name and port of a declared service that is the parent proxy".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse::<u16>().ok().filter(|port| *port != 0 && text.as_bytes().last() != Some(&b':'));
        let host = host.strip_suffix('.').unwrap_or(host);
        check_fqdn(host).map_err(|_| wrong())?;
        Ok(Self { host: Spanned { value: canonical_host(host), span }, port: port.ok_or_else(wrong)? })
    }
}

/// `egret.dev/via`.
pub(super) fn read_via(resource: &Resource, cx: &mut Context<'_>) -> Option<Spanned<ViaRef>> {
    let text = resource.metadata.annotations.get(VIA)?;
    let value = match text.value.trim() {
        "direct" => ViaRef::Direct,
        parent => match ParentRef::parse(parent, text.span) {
            Ok(parent) => ViaRef::Parent(parent),
            Err(problem) => {
                let report = cx.report(Code::BadValue, text.span, format!("{parent:?}: {problem}"));
                report.found(parent).help("write `direct`, or such as proxy.corp.example:3128");
                return None;
            }
        },
    };
    Some(Spanned { value, span: text.span })
}

/// `egret.dev/proxy-probe`: `HOST:PORT [interval=10s] [timeout=3s] [unhealthyThreshold=3] [healthyThreshold=2]`.
pub(super) fn read_probe(resource: &Resource, cx: &mut Context<'_>) -> Option<Spanned<Probe>> {
    let text = resource.metadata.annotations.get(PROXY_PROBE)?;
    let mut words = text.value.split([',', ' ']).filter(|word| !word.is_empty());
    let mut wrong = |word: &str, problem: &str| {
        let report = cx.report(Code::BadValue, text.span, format!("{word:?}: {problem}"));
        report.found(word).help(PROBE_HELP);
    };
    let first = words.next().unwrap_or_default();
    let target = match Target::parse_authority(first.as_bytes()) {
        Ok(target) => target,
        Err(error) => {
            wrong(first, &error.to_string());
            return None;
        }
    };
    let mut probe = Probe::new(target, resource.origin(text.span));
    let mut is_fine = true;
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let time = |bounds: RangeInclusive<Duration>| parse_duration(value).filter(|time| bounds.contains(time));
        let count = value.parse::<u32>().ok().filter(|count| THRESHOLD.contains(count));
        let taken = match name {
            "interval" => time(INTERVAL).map(|time| probe.interval = time),
            "timeout" => time(TIMEOUT).map(|time| probe.timeout = time),
            "unhealthyThreshold" => count.map(|count| probe.unhealthy_threshold = count),
            "healthyThreshold" => count.map(|count| probe.healthy_threshold = count),
            _ => None,
        };
        if taken.is_none() {
            is_fine = false;
            wrong(
                word,
                "not one of interval (1s to 1h), timeout (100ms to 60s), unhealthyThreshold, healthyThreshold (1 to 100)",
            );
        }
    }
    is_fine.then_some(Spanned { value: probe, span: text.span })
}

pub(super) const VIA: &str = "egret.dev/via";
pub(super) const PROXY_PROBE: &str = "egret.dev/proxy-probe";
const PROBE_HELP: &str = "write what the parent is to be asked for, and what differs from the defaults: `connectivity.example:443 interval=10s timeout=3s unhealthyThreshold=3 healthyThreshold=2`";
const INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
const THRESHOLD: RangeInclusive<u32> = 1..=100;
