//! `http`: a route of requests (ISTIO 5.2, 5.3).

use super::Reader;
use super::bytes::warn_of_gateways;
use super::destination::{Weighted, read_all};
use super::matching::HttpMatch;
use crate::config::diagnostic::{Code, Context};
use crate::config::read::Fields;
use crate::config::source::Span;
use crate::config::yaml::Node;

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
    /// Where to; at least one.
    pub to: Vec<Weighted>,
    in_mesh: bool,
}

impl HttpRoute {
    pub(super) fn read(index: usize, node: &Node, reader: &Reader<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let mut fields = Fields::of(node, cx)?;
        let name = fields.text("name", cx).map(|name| name.value.into());
        let nodes = fields.list("match", cx);
        let matches: Vec<_> = nodes.iter().filter_map(|node| HttpMatch::read(node, reader, cx)).collect();
        let to = match fields.get("route") {
            Some(node) => read_all(node, reader, cx),
            None => {
                cx.report(Code::NoDestination, node.span, "a route needs a destination");
                None
            }
        };
        for field in ["redirect", "directResponse", "delegate", "rewrite", "headers", "fault", "mirror", "mirrors"] {
            fields.refused(field, "what the resource wants done with requests would not be done", cx);
        }
        for (field, why) in [
            ("timeout", "limits of the whole process apply"),
            ("retries", "only requests on reused connections are sent again"),
            ("corsPolicy", "upstreams answer for themselves"),
            ("mirrorPercent", "nothing is mirrored"),
            ("mirror_percent", "nothing is mirrored"),
            ("mirrorPercentage", "nothing is mirrored"),
            ("websocketUpgrade", "websockets always pass"),
        ] {
            fields.ignored(field, why, cx);
        }
        fields.finish(cx);
        warn_of_gateways(node.span, matches.iter().map(|found| &found.scope), reader, cx);
        let takes_all = nodes.is_empty();
        let in_mesh = if takes_all { reader.gateways.in_mesh() } else { matches.iter().any(|held| held.scope.in_mesh) };
        Some(Self { index, name, span: node.span, matches, takes_all, to: to?, in_mesh })
    }

    /// True if our listeners are meant.
    pub fn is_in_mesh(&self) -> bool {
        self.in_mesh
    }

    fn is_catch_all(&self) -> bool {
        self.in_mesh && (self.takes_all || self.matches.iter().any(HttpMatch::is_everything))
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
