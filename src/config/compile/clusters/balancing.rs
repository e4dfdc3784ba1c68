//! Which endpoints are near, and what of `loadBalancer` and `outlierDetection` can act on a cluster.

use std::sync::Arc;

use crate::config::compile::notes::Notes;
use crate::config::diagnostic::Code;
use crate::config::kinds::destination_rule::locality::covers;
use crate::config::kinds::destination_rule::{Balancer, How, LocalityLb, Settings};
use crate::config::kinds::service_entry::Endpoint;
use crate::config::resource::Resource;
use crate::flow::{Host, Workload};
use crate::route::Discovery;
use crate::route::balancing::locality::{Localities, Place};
use crate::route::balancing::{Balancing, Standing};
use crate::route::cluster::EndpointAddress;

/// Where a workload or an endpoint is, `region/zone/subzone`, as far as somebody said so.
pub(in crate::config::compile) fn of_workload(client: &Workload) -> Option<String> {
    let label = |name: &str| client.labels.get(name).filter(|value| !value.is_empty());
    if let Some(whole) = label("istio-locality") {
        return Some(whole.replace('.', "/")); // a label holds no slash
    }
    let parts: Vec<&str> = TOPOLOGY.iter().map_while(|name| label(name)).map(String::as_str).collect();
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// What makes the endpoints of a cluster unequal; reports what cannot.
pub(super) fn standing(
    settings: &Settings,
    discovery: &Discovery,
    written: &[&Endpoint<'_>],
    client: &Workload,
    resource: Option<&Resource>,
    notes: &mut Notes<'_>,
) -> Option<Standing> {
    let balancer = settings.balancer.as_ref();
    if let (Discovery::Asked { .. }, Some(balancer), Some(resource)) = (discovery, balancer, resource) {
        warn_of_nothing_to_pick(balancer, resource, notes);
    }
    let outliers = settings.outliers.as_ref();
    if let (Some(outliers), Some(resource), Some(count)) = (outliers, resource, known_count(discovery))
        && !outliers.value.allows(0, count)
    {
        let percent = outliers.value.max_ejection_percent;
        let message = format!("{percent} percent of {count} endpoints are less than one: none is ever left out");
        notes.once_with(resource, Code::EjectsNobody, outliers.span, message, |diagnostic| {
            diagnostic.help("write `maxEjectionPercent: 100` to leave out any number of them");
        });
    }
    let is_picked = matches!(discovery, Discovery::Static(_) | Discovery::Dns { .. });
    let warm_up = balancer.and_then(|balancer| balancer.warm_up.as_ref()).filter(|_| {
        let how = balancer.map(|balancer| &balancer.how);
        is_picked && matches!(how, Some(How::Endpoints(Balancing::LeastRequest | Balancing::RoundRobin)))
    });
    let locality = balancer.and_then(|balancer| balancer.locality.as_ref());
    let own = of_workload(client);
    if let (Some(locality), Some(resource), None, true) = (locality, resource, &own, is_picked)
        && locality.value.enabled
        && (!locality.value.distribute.is_empty() || !locality.value.failover.is_empty())
    {
        let message = "the workload says nowhere where it is, so endpoints are taken wherever they are";
        notes.once_with(resource, Code::BalancingWithoutEffect, locality.span, message, |diagnostic| {
            diagnostic.help("give it the labels topology.kubernetes.io/region, …/zone and topology.istio.io/subzone");
        });
    }
    let setting = locality.map(|locality| locality.value.clone()).unwrap_or_default();
    let localities = (is_picked && written.len() > 1)
        .then(|| localities(&setting, outliers.is_some(), written, client, own.as_deref()))
        .flatten();
    let standing = Standing {
        outliers: outliers.map(|outliers| outliers.value),
        warm_up: warm_up.map(|warm_up| warm_up.value),
        localities,
    };
    (!standing.is_plain()).then_some(standing)
}

fn warn_of_nothing_to_pick(balancer: &Balancer, resource: &Resource, notes: &mut Notes<'_>) {
    let what = match &balancer.how {
        How::Endpoints(Balancing::Hash(_)) => "consistentHash",
        _ if balancer.warm_up.is_some() => "warmup",
        _ if balancer.locality.is_some() => "localityLbSetting",
        How::Endpoints(_) | How::Asked => return,
    };
    let message =
        format!("{what} picks nothing where what the client asked for is dialled (resolution NONE, PASSTHROUGH)");
    notes.once(resource, Code::BalancingWithoutEffect, balancer.span, message);
}

/// How many endpoints there are, where DNS has no say in it.
fn known_count(discovery: &Discovery) -> Option<usize> {
    let (Discovery::Static(endpoints) | Discovery::Dns { endpoints, .. }) = discovery else { return None };
    let is_name = |at: &EndpointAddress| matches!(at, EndpointAddress::Host(Host::Name(_), _));
    (!endpoints.is_empty() && !endpoints.iter().any(|endpoint| is_name(&endpoint.at))).then_some(endpoints.len())
}

/// What distribute or failover makes of the endpoints; `None`: they are all alike. Failover acts only where endpoints may be left out.
fn localities(
    setting: &LocalityLb,
    has_outliers: bool,
    endpoints: &[&Endpoint<'_>],
    client: &Workload,
    own: Option<&str>,
) -> Option<Localities> {
    if !setting.enabled {
        return None;
    }
    let names = || endpoints.iter().map(|endpoint| Arc::<str>::from(endpoint.locality.as_deref().unwrap_or_default()));
    if !setting.distribute.is_empty() {
        let own = own?;
        let entry = setting.distribute.iter().find(|entry| covers(&entry.from, own))?;
        let group = |locality: &str| entry.to.iter().position(|(pattern, _)| covers(pattern, locality));
        let nowhere = entry.to.len();
        let place = |locality: Arc<str>| Place {
            group: u16::try_from(group(&locality).unwrap_or(nowhere)).unwrap_or(u16::MAX),
            locality,
            priority: 0,
        };
        let shares = entry.to.iter().map(|(_, share)| *share).chain([0]);
        return Some(Localities { places: names().map(place).collect(), shares: shares.collect() });
    }
    if !has_outliers {
        return None;
    }
    let ranks: Vec<(usize, usize)> = endpoints
        .iter()
        .map(|endpoint| {
            let labels = rank_of_labels(&setting.failover_priority, endpoint, client);
            let by_region = setting.failover_priority.is_empty() || !setting.failover.is_empty();
            (labels, own.filter(|_| by_region).map_or(0, |own| rank_of_region(&setting.failover, endpoint, own)))
        })
        .collect();
    let mut order = ranks.clone();
    order.sort_unstable();
    order.dedup();
    if order.len() < 2 {
        return None;
    }
    let place = |(locality, rank): (Arc<str>, &(usize, usize))| {
        let priority = order.iter().position(|other| other == rank).unwrap_or_default();
        Place { locality, group: 0, priority: u8::try_from(priority).unwrap_or(u8::MAX) }
    };
    Some(Localities { places: names().zip(&ranks).map(place).collect(), shares: Box::default() })
}

/// How far away an endpoint is: 0 the same subzone, 1 the zone, 2 the region, 3 another region that flows fail over to, 4 any other.
fn rank_of_region(failover: &[(Box<str>, Box<str>)], endpoint: &Endpoint<'_>, own: &str) -> usize {
    let theirs: Vec<&str> = endpoint.locality.as_deref().unwrap_or_default().split('/').collect();
    let ours: Vec<&str> = own.split('/').collect();
    let part = |parts: &[&str], index: usize| parts.get(index).map_or(String::new(), |part| (*part).to_owned());
    let same = (0..3).take_while(|index| part(&theirs, *index) == part(&ours, *index)).count();
    let to = failover.iter().find(|(from, _)| **from == *ours[0]).map(|(_, to)| &**to);
    match (3 - same, to) {
        (3, Some(to)) if theirs[0] != to => 4,
        (rank, _) => rank,
    }
}

/// How many of the labels, from the last to the first that differs, an endpoint does not share with the workload.
fn rank_of_labels(wanted: &[Box<str>], endpoint: &Endpoint<'_>, client: &Workload) -> usize {
    let ours = of_workload(client).unwrap_or_default();
    let theirs = endpoint.locality.as_deref().unwrap_or_default();
    let part = |locality: &str, key: &str| {
        let index = TOPOLOGY.iter().position(|name| *name == key)?;
        locality.split('/').nth(index).map(str::to_owned)
    };
    let same = wanted.iter().take_while(|label| {
        let (key, fixed) =
            label.split_once('=').map_or((&***label, None), |(key, value)| (key, Some(value.to_owned())));
        let own = fixed.or_else(|| client.labels.get(key).cloned()).or_else(|| part(&ours, key));
        let label = endpoint.labels.iter().find(|(name, _)| **name == *key).map(|(_, value)| value.to_string());
        own.unwrap_or_default() == label.or_else(|| part(theirs, key)).unwrap_or_default()
    });
    wanted.len() - same.count()
}

const TOPOLOGY: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];
