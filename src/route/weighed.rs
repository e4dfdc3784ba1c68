//! Why a request takes the route that it takes, and not another: for `explain`, never on the way of a flow.

use std::sync::Arc;

use super::http::{HttpRoute, Subject};
use super::snapshot::{Found, View};
use super::{Nearest, Service, Snapshot};
use crate::flow::{Ask, Flow, Request};

/// How the routes of a VirtualService were gone through for one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighed {
    /// `http[2] of VirtualService default/api`; `None`: no route takes the request.
    pub taken: Option<Box<str>>,
    /// The routes before it.
    pub passed_over: Vec<PassedOver>,
    /// Where it leads, with weights; empty where the route answers itself.
    pub destinations: Vec<(Arc<str>, u64)>,
    /// What it has done beside sending the request on, a few words each.
    pub actions: Vec<String>,
}

/// A route that does not take a request, by the first condition of each of its matches that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// `http[0]`.
    pub route: Box<str>,
    /// `uri`, and what it would have to be: `prefix "/api"`.
    pub differs_in: Vec<(&'static str, String)>,
}

impl Snapshot {
    /// How the routes for this request were gone through; `None`: no VirtualService has a say.
    pub fn weighed(&self, flow: &Flow<'_>) -> Option<Weighed> {
        let Ask::Http(request) = &flow.ask else { return None };
        let view = self.view(flow)?;
        let Found::Service(service) = view.find(&flow.target) else { return None };
        let routes = service.routes.as_deref().filter(|routes| !routes.http.is_empty())?;
        if service.protocol == super::Protocol::Tls {
            return None;
        }
        let subject = Subject::new(request, &flow.target);
        let (chosen, _) = routes.choose(&subject);
        let at = chosen.and_then(|chosen| routes.http.iter().position(|route| std::ptr::eq(route, chosen.route)));
        let before = &routes.http[..at.unwrap_or(routes.http.len())];
        let passed_over = before.iter().map(|route| PassedOver {
            route: route.label.clone(),
            differs_in: route.matches.iter().filter_map(|held| held.differs_in(&subject)).collect(),
        });
        let to = chosen.map(|chosen| &chosen.route.to);
        let destinations = to.into_iter().flat_map(|to| to.iter());
        let destinations = destinations.filter_map(|(weight, to)| Some((to.cluster.as_ref()?.name.clone(), weight)));
        let actions = to.and_then(|to| to.pick(|_| 0).actions.as_deref());
        Some(Weighed {
            taken: chosen.map(|chosen| label(chosen.route, &routes.rule)),
            passed_over: passed_over.collect(),
            destinations: destinations.collect(),
            actions: actions.map(super::http::Actions::describe).unwrap_or_default(),
        })
    }
}

/// The route of a service that a request comes nearest to: the one with the fewest conditions that do not hold.
pub(super) fn nearest_route(view: &View, service: &Service, request: &Request<'_>, flow: &Flow<'_>) -> Option<Nearest> {
    debug_assert!(matches!(view.find(&flow.target), Found::Service(_)));
    let routes = service.routes.as_deref()?;
    let subject = Subject::new(request, &flow.target);
    let matches = routes.http.iter().flat_map(|route| route.matches.iter().map(move |held| (route, held)));
    let (route, held) = matches.min_by_key(|(_, held)| held.misses(&subject))?;
    let (differs_in, declared) = held.differs_in(&subject)?;
    Some(Nearest {
        rule: label(route, &routes.rule).into(),
        origin: route.origin.clone(),
        differs_in,
        declared: declared.into(),
    })
}

/// A delegate's says whose it is.
fn label(route: &HttpRoute, rule: &str) -> Box<str> {
    if route.label.contains(' ') { route.label.clone() } else { format!("{} of {rule}", route.label).into() }
}
