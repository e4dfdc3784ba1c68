//! The plan for an allowed flow: what of it cannot work, and which addresses have to be good.

use super::question::Question;
use super::report::endpoints;
use crate::flow::{ErrorType, Failure, Host, Target};
use crate::route::cluster::{Endpoint, EndpointAddress};
use crate::route::http::actions::Answer;
use crate::route::weighed::Weighed;
use crate::route::{Cluster, Discovery, Route, TunnelKind, Via};

/// A route, and what it means for this question.
pub(super) struct Plan<'a> {
    pub(super) question: &'a Question,
    pub(super) route: &'a Route,
    /// How the routes of a VirtualService were gone through.
    pub(super) weighed: Option<&'a Weighed>,
}

impl Plan<'_> {
    /// What is judged before it is dialled: what a parent is asked for where that is an address, then where we connect to.
    pub(super) fn steps(&self) -> Vec<Step<'_>> {
        let cluster = &*self.route.cluster;
        let target = self.question.target();
        match &cluster.via {
            Via::Direct => vec![Step::of(cluster, target)],
            Via::Connect(hop) => {
                let mut asked = Step::of(cluster, hop.target.as_ref().unwrap_or(target));
                asked.addresses.retain(|(host, _)| host.ip().is_some() && hop.target.is_none());
                vec![asked, Step::of(&hop.cluster, target)]
            }
        }
    }

    /// What is allowed but cannot work: references to what does not exist.
    pub(super) fn problem(&self) -> Option<Failure> {
        if self.tunnel() == Some("terminated") || self.route.answers() {
            return None; // 200 goes out first, and requests inside fail; or nothing goes out
        }
        let cluster = &self.route.cluster;
        let failure = |error, log: &str| {
            let detail = format!("the configuration for {} is incomplete", self.question.target());
            Failure::new(error, detail).logged(log)
        };
        let configuration = |log: &str| failure(ErrorType::Configuration, log);
        let hop = match &cluster.via {
            Via::Direct => None,
            Via::Connect(hop) => Some(hop),
        };
        // A rule that says what the parent is asked for leaves nothing to the cluster's own endpoints.
        let own = hop.is_none_or(|hop| hop.target.is_none()).then_some(&**cluster);
        for cluster in own.into_iter().chain(hop.map(|hop| &*hop.cluster)) {
            match &cluster.discovery {
                Discovery::Missing(why) => return Some(configuration(why)),
                Discovery::Static(endpoints) if endpoints.is_empty() => {
                    let text = format!("{} has no endpoint", cluster.name);
                    return Some(Failure::new(ErrorType::Unavailable, "this destination has no endpoint").logged(text));
                }
                _ => {}
            }
            if let Some(Err(why)) = cluster.tls.as_ref().map(|tls| &tls.client) {
                return Some(failure(ErrorType::Credential, why));
            }
        }
        match hop.and_then(|hop| hop.authorization.as_ref()).map(|authorization| &authorization.value) {
            Some(Err(why)) => Some(configuration(why)),
            _ => None,
        }
    }

    pub(super) fn tunnel(&self) -> Option<&'static str> {
        match (self.question, &self.route.tunnel) {
            (Question::Http { .. }, _) | (_, TunnelKind::Detect(_)) => None,
            (_, TunnelKind::Opaque) => Some("opaque"),
            (_, TunnelKind::Terminated(_)) => Some("terminated"),
        }
    }

    pub(super) fn status(&self) -> Option<u16> {
        match self.question {
            Question::Connect(_) => Some(200),
            Question::Http { .. } => match self.route.taken.as_ref()?.actions.answer.as_ref()? {
                Answer::Redirect(redirect) => Some(redirect.status.as_u16()),
                Answer::Direct { status, .. } => Some(status.as_u16()),
            },
            Question::Sni(_) => None,
        }
    }

    pub(super) fn describe(&self) -> String {
        let cluster = &self.route.cluster;
        let mut text = format!("route {}", self.route.name);
        if let Some(taken) = self.weighed.and_then(|weighed| weighed.taken.as_ref()) {
            text += &format!(" ({taken})");
        }
        match self.weighed.map(|weighed| &*weighed.destinations) {
            _ if self.route.answers() => text += " answers itself",
            Some(several @ [_, _, ..]) => {
                let total: u64 = several.iter().map(|(_, weight)| weight).sum();
                let parts = several.iter().map(|(name, weight)| format!("{name} ({weight} of {total})"));
                text += &format!(" to clusters {}", parts.collect::<Vec<_>>().join(", "));
            }
            _ => text += &format!(" to cluster {}", cluster.name),
        }
        if self.route.answers() {
            return text + &self.asides();
        }
        if let Some(tls) = &cluster.tls {
            text += &format!(", TLS {} originated", tls.mode);
        }
        if let Via::Connect(hop) = &cluster.via {
            let parents = endpoints(&hop.cluster, self.question.target());
            let which = if parents.len() > 1 { "one of the parent proxies" } else { "the parent proxy" };
            text += &format!(", through {which} {}, as {} says", parents.join(", "), hop.origin.resource);
        }
        if let Some(rule) = &cluster.straight {
            text += &format!(", through no parent proxy, as {} says", rule.resource);
        }
        match &self.route.tunnel {
            TunnelKind::Terminated(why) => text += &format!("; tunnel: terminated, because {why} needs HTTP"),
            TunnelKind::Detect(why) => {
                text +=
                    &format!("; the client's first bytes decide whether the tunnel is terminated, because of {why}");
            }
            TunnelKind::Opaque => {}
        }
        text + &self.asides()
    }

    /// What else the route does, and why it is none of those before it.
    fn asides(&self) -> String {
        let Some(weighed) = self.weighed else { return String::new() };
        let mut text = String::new();
        for words in &weighed.actions {
            text += &format!("; {words}");
        }
        for passed in &weighed.passed_over {
            let differs = passed.differs_in.iter().map(|(what, declared)| format!("{what} is not {declared}"));
            text += &format!("; not {}: {}", passed.route, differs.collect::<Vec<_>>().join(", "));
        }
        text
    }
}

/// Addresses of one cluster of which at least one has to be good.
pub(super) struct Step<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) addresses: Vec<(Host, u16)>,
    /// A resource spells them out.
    pub(super) spelled: bool,
}

impl<'a> Step<'a> {
    fn of(cluster: &'a Cluster, target: &Target) -> Self {
        let addresses = match &cluster.discovery {
            Discovery::Asked { port } => vec![(target.host.clone(), port.unwrap_or(target.port))],
            Discovery::Dns { endpoints, .. } | Discovery::Static(endpoints) => {
                endpoints.iter().filter_map(host_of).collect()
            }
            Discovery::Missing(_) => Vec::new(), // Plan::problem has spoken
        };
        Self { cluster, addresses, spelled: !matches!(cluster.discovery, Discovery::Asked { .. }) }
    }
}

fn host_of(endpoint: &Endpoint) -> Option<(Host, u16)> {
    match &endpoint.at {
        EndpointAddress::Host(host, port) => Some((host.clone(), *port)),
        EndpointAddress::Unix(_) => None,
    }
}
