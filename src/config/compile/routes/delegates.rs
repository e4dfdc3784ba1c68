//! Routes that another VirtualService says (ISTIO 5.3): root and delegate become one list.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::notes::Notes;
use super::port::Port;
use crate::config::diagnostic::Code;
use crate::config::kinds::virtual_service::actions::Delegate;
use crate::config::kinds::virtual_service::matching::HttpMatch;
use crate::config::kinds::virtual_service::{Action, HttpRoute, VirtualService};
use crate::route::http::Match;

/// VirtualServices without hosts, by namespace and name.
#[derive(Debug)]
pub(super) struct Delegates<'v, 'r> {
    by_name: HashMap<(&'v str, &'v str), &'v VirtualService<'r>>,
}

/// A route as it applies to a port: its own, or a delegate's under the conditions of the root.
pub(super) struct Flat<'v, 'r> {
    /// Where the route stands.
    pub(super) service: &'v VirtualService<'r>,
    pub(super) route: &'v HttpRoute,
    /// What delegates to it.
    pub(super) root: Option<&'v HttpRoute>,
    /// `http[2]`, of a delegate with its name.
    pub(super) label: Box<str>,
    pub(super) name: Arc<str>,
    /// None: every request fits.
    pub(super) matches: Vec<Match>,
}

impl<'v, 'r> Delegates<'v, 'r> {
    pub(super) fn new(services: &'v [VirtualService<'r>]) -> Self {
        let delegates = services.iter().filter(|service| service.hosts.is_empty());
        let by_name = delegates.map(|service| {
            let metadata = &service.resource.metadata;
            ((&*metadata.namespace, &*metadata.name), service)
        });
        Self { by_name: by_name.collect() }
    }

    /// The http routes that apply to a port.
    pub(super) fn flatten<'s>(
        &'s self,
        service: &'s VirtualService<'r>,
        port: Port<'_>,
        notes: &mut Notes<'_>,
    ) -> Vec<Flat<'s, 'r>>
    where
        'v: 's,
    {
        let mut flat = Vec::with_capacity(service.http.len());
        for route in service.http.iter().filter(|route| route.is_in_mesh()) {
            let Some(held) = applying(route, port) else { continue };
            let Action::Delegate(delegate) = &route.action else {
                flat.push(Flat::own(service, route, &held));
                continue;
            };
            match self.find(delegate, service) {
                Some(of) => flat.extend(of.http.iter().filter_map(|own| Flat::delegated(of, own, route, &held, port))),
                None => {
                    let message = format!(
                        "VirtualService {}/{} is not loaded, has hosts of its own, or is not exported to here",
                        delegate.namespace, delegate.name
                    );
                    notes.once(service.resource, Code::MissingDelegate, route.span, message);
                    flat.push(Flat::own(service, route, &held));
                }
            }
        }
        flat
    }

    fn find(&self, delegate: &Delegate, root: &VirtualService<'_>) -> Option<&'v VirtualService<'r>> {
        let found = *self.by_name.get(&(&*delegate.namespace, &*delegate.name))?;
        found.export_to.reaches(&root.resource.metadata.namespace).then_some(found)
    }
}

impl<'v, 'r> Flat<'v, 'r> {
    fn own(service: &'v VirtualService<'r>, route: &'v HttpRoute, held: &[&HttpMatch]) -> Self {
        let name = name_of(route).unwrap_or(DEFAULT);
        let matches = held.iter().map(|held| compiled(name_of(route), &[held])).collect();
        let label = format!("http[{}]", route.index).into();
        Self { service, route, root: None, label, name: name.into(), matches }
    }

    /// Conditions of both have to hold. Where they cannot, the pair never does, and Istio drops it.
    fn delegated(
        service: &'v VirtualService<'r>,
        route: &'v HttpRoute,
        root: &'v HttpRoute,
        of_root: &[&HttpMatch],
        port: Port<'_>,
    ) -> Option<Self> {
        let own = applying(route, port)?;
        let name: Option<String> = match (name_of(root), name_of(route)) {
            (Some(root), Some(own)) => Some(format!("{root}-{own}")),
            (root, own) => root.or(own).map(str::to_owned),
        };
        let name = name.as_deref();
        let matches = match (of_root, own.as_slice()) {
            ([], own) => own.iter().map(|own| compiled(name, &[own])).collect(),
            (of_root, []) => of_root.iter().map(|held| compiled(name, &[held])).collect(),
            (of_root, own) => {
                of_root.iter().flat_map(|held| own.iter().map(|own| compiled(name, &[held, own]))).collect()
            }
        };
        let label = format!("http[{}] of {}", route.index, service.resource.label).into();
        Some(Self { service, route, root: Some(root), label, name: name.unwrap_or(DEFAULT).into(), matches })
    }
}

/// The matches that are for this port and client; `None`: the route is for others.
fn applying<'m>(route: &'m HttpRoute, port: Port<'_>) -> Option<Vec<&'m HttpMatch>> {
    let matches = route.matches.iter().filter(|found| found.scope.includes(port.number, port.client));
    let matches: Vec<_> = matches.collect();
    (route.takes_all || !matches.is_empty()).then_some(matches)
}

/// The name for the log is that of the route, and of the match behind a dot, as Istio writes it.
fn compiled(route: Option<&str>, of: &[&HttpMatch]) -> Match {
    let own = of.last().and_then(|found| found.name.as_deref()).filter(|name| !name.is_empty());
    let name = match (route, own) {
        (Some(route), Some(own)) => format!("{route}.{own}").into(),
        (route, _) => route.unwrap_or(DEFAULT).into(),
    };
    Match {
        name,
        others: of.iter().flat_map(|found| found.others.iter().cloned()).collect(),
        path: of.iter().flat_map(|found| found.path.iter().cloned()).collect(),
    }
}

fn name_of(route: &HttpRoute) -> Option<&str> {
    route.name.as_deref().filter(|name| !name.is_empty())
}

const DEFAULT: &str = "default"; // Istio's name of a route without one
