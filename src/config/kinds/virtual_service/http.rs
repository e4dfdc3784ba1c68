//! `http`: a route of requests (ISTIO 5.2, 5.3).

use super::Reader;
use super::actions::{self, Actions, Delegate};
use super::bytes::warn_of_gateways;
use super::destination::{Weighted, read_all};
use super::matching::HttpMatch;
use crate::config::diagnostic::{Code, Context};
use crate::config::read::Fields;
use crate::config::source::Span;
use crate::config::yaml::Node;
use crate::route::http::actions::Answer;

/// One entry of `http`.
#[derive(Debug)]
pub struct HttpRoute {
    /// Its place in the list, from 0.
    pub index: usize,
    /// `name`.
    pub name: Option<Box<str>>,
    /// Where it stands.
    pub span: Span,
    /// One of them has to hold.
    pub matches: Vec<HttpMatch>,
    /// No match is written: the route takes every request of whoever the VirtualService is for.
    pub takes_all: bool,
    /// What is done with requests.
    pub action: Action,
    /// What else is done with them.
    pub actions: Actions,
    in_mesh: bool,
}

/// The one thing that a route does.
#[derive(Debug)]
pub enum Action {
    /// Where to; at least one.
    Forward(Vec<Weighted>),
    /// It answers itself.
    Answer(Answer),
    /// Another VirtualService says.
    Delegate(Delegate),
}

impl HttpRoute {
    pub(super) fn read(index: usize, node: &Node, reader: &Reader<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let mut fields = Fields::of(node, cx)?;
        let name = fields.text("name", cx).map(|name| name.value.into());
        let nodes = fields.list("match", cx);
        let matches: Vec<_> = nodes.iter().filter_map(|node| HttpMatch::read(node, reader, cx)).collect();
        let action = Action::read(node, &mut fields, &matches, reader, cx);
        let actions = Actions::read(&mut fields, reader, cx);
        if let Some(action) = &action {
            check_together(node.span, action, &actions, cx);
        }
        fields.ignored("websocketUpgrade", "websockets always pass", cx);
        fields.finish(cx);
        warn_of_gateways(node.span, matches.iter().map(|found| &found.scope), reader, cx);
        let takes_all = nodes.is_empty();
        let in_mesh = if takes_all { reader.gateways.in_mesh() } else { matches.iter().any(|held| held.scope.in_mesh) };
        Some(Self { index, name, span: node.span, matches, takes_all, action: action?, actions, in_mesh })
    }

    /// True if our listeners are meant.
    pub fn is_in_mesh(&self) -> bool {
        self.in_mesh
    }

    fn is_catch_all(&self) -> bool {
        self.in_mesh && (self.takes_all || self.matches.iter().any(HttpMatch::is_everything))
    }
}

impl Action {
    fn read(
        node: &Node,
        fields: &mut Fields<'_>,
        matches: &[HttpMatch],
        reader: &Reader<'_>,
        cx: &mut Context<'_>,
    ) -> Option<Self> {
        let [route, redirect, direct, delegate] =
            ["route", "redirect", "directResponse", "delegate"].map(|name| fields.get(name));
        let written = [route, redirect, direct, delegate].into_iter().flatten().count();
        if written == 0 {
            let message = "a route needs a destination, or `redirect`, `directResponse` or `delegate`";
            cx.report(Code::NoDestination, node.span, message);
        } else if written > 1 {
            let message = "one of `route`, `redirect`, `directResponse` and `delegate` at a time";
            cx.report(Code::RouteActions, node.span, message);
        }
        if let Some(node) = redirect {
            return actions::read_redirect(node, matches, cx).map(Self::Answer);
        }
        if let Some(node) = direct {
            return actions::read_direct(node, cx).map(Self::Answer);
        }
        if let Some(node) = delegate {
            if reader.is_delegate {
                cx.report(Code::BadDelegate, node.span, "a delegate does not delegate any further");
            }
            return Delegate::read(node, reader, cx).map(Self::Delegate);
        }
        read_all(route?, reader, cx).map(Self::Forward)
    }
}

/// What answers itself sends nothing on, and the host is said once.
fn check_together(span: Span, action: &Action, actions: &Actions, cx: &mut Context<'_>) {
    match action {
        Action::Answer(_) if actions.fault.is_some() => {
            cx.report(Code::RouteActions, span, "a route that answers itself has no `fault`");
        }
        Action::Answer(_) if actions.rewrite.is_some() || actions.authority.is_some() => {
            cx.report(Code::RouteActions, span, "a route that answers itself has nothing to rewrite");
        }
        Action::Forward(to) if actions.authority.is_some() => {
            if let Some(set) = to.iter().find_map(|to| to.headers.authority.as_ref()) {
                cx.report(Code::BadRewrite, set.span, "the host is rewritten already, by the route");
            }
        }
        _ => {}
    }
}

/// A route that takes every request ends the list.
pub(super) fn warn_unreachable(routes: &[HttpRoute], cx: &mut Context<'_>) {
    let Some(last) = routes.iter().position(HttpRoute::is_catch_all) else { return };
    for route in &routes[last + 1..] {
        let message = format!("never reached: http[{}] takes every request", routes[last].index);
        cx.report(Code::NeverMatches, route.span, message);
    }
}
