//! What is asked, and who answers it.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, ALLOW, HOST, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::access::{self, Denied};
use super::answer::{Answer, json, text, with_type};
use super::chunks::{self, Chunks};
use super::clusters;
use super::command::Command;
use super::query::Query;
use super::tunnels::{self, Wanted};
use super::{Asking, Port, host};
use super::{certs, dump, overview, stream};
use crate::account::metrics;
use crate::flow::Ending;

const INDEX: &str = "\
egret, the operator's port

/healthz           200 while the process lives
/readyz            200 while it takes new work (alias /healthz/ready)
/metrics           for Prometheus (alias /stats/prometheus)
/clusters          clusters and their addresses as Envoy shows them: ?format=text|json &filter= &limit=
/config_dump       settings, listeners, resources, services, clusters, with file and line: ?resource= &filter= &limit=
/certs             certificates in use, of listeners and of rules, with their days left
/tunnels           open tunnels: ?sort=rate|bytes|age|id|target|client &order=desc|asc &limit= &offset= &filter=
/refusals          what was refused of late, and the YAML that would allow it: ?limit=
/destinations      where most bytes go: ?limit=
/history           throughput of the last 300 seconds
/events            server-sent events: opened, closed, refused, reload, drain, parent
/overview          most of the above in one document
a browser gets a page that shows it

over a unix socket, or with the token of admin.tokenFile:
POST /reload             reads the configuration again; the answer is its report
POST /drain              begins the orderly end, as SIGTERM does
POST /tunnels/ID/kill    ends an open tunnel
";

const HTML: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// Everything that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Index,
    Alive,
    Ready,
    Metrics,
    Tunnels,
    Overview,
    Destinations,
    Refusals,
    History,
    Events,
    Style,
    Script,
    Clusters,
    ConfigDump,
    Certs,
    Reload,
    Drain,
    Kill(u64),
}

impl Page {
    /// Envoy's and Istio's paths beside our own.
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/" => Self::Index,
            "/healthz" => Self::Alive,
            "/readyz" | "/healthz/ready" => Self::Ready,
            "/metrics" | "/stats/prometheus" => Self::Metrics,
            "/tunnels" => Self::Tunnels,
            "/overview" => Self::Overview,
            "/destinations" => Self::Destinations,
            "/refusals" => Self::Refusals,
            "/history" => Self::History,
            "/events" => Self::Events,
            "/page.css" => Self::Style,
            "/page.js" => Self::Script,
            "/clusters" => Self::Clusters,
            "/config_dump" => Self::ConfigDump,
            "/certs" => Self::Certs,
            "/reload" => Self::Reload,
            "/drain" => Self::Drain,
            _ => Self::Kill(path.strip_prefix("/tunnels/")?.strip_suffix("/kill")?.parse().ok()?),
        })
    }

    const fn changes_something(self) -> bool {
        matches!(self, Self::Reload | Self::Drain | Self::Kill(_))
    }
}

/// Answers one request.
pub(super) async fn answer(request: Request<Incoming>, asking: Asking) -> Answer {
    let port = &asking.port;
    // A page of another site could point its own name at us and read what its visitor's machine may (DNS rebinding).
    if !host::is_ours(request.headers().get_all(HOST), &port.names) {
        return text(
            StatusCode::FORBIDDEN,
            "the admin port answers to its address, localhost, or the name it is bound to\n",
        );
    }
    let Some(page) = Page::of(request.uri().path()) else {
        return text(StatusCode::NOT_FOUND, "no such page; / lists them\n");
    };
    if page.changes_something() {
        if *request.method() != Method::POST {
            return not_allowed("POST", "POST only: this changes something\n");
        }
        let allowed = access::may_change(request.headers(), asking.trusted, port.token.load().as_deref());
        return match allowed {
            Ok(()) => change(page, &asking).await,
            Err(denied) => deny(denied),
        };
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return not_allowed("GET, HEAD", "GET and HEAD only\n");
    }
    let query = Query::new(request.uri().query());
    if page == Page::Index && wants_html(&request) {
        return with_type(StatusCode::OK, "text/html; charset=utf-8", HTML);
    }
    look(page, &query, &asking).await.unwrap_or_else(|sentence| text(StatusCode::BAD_REQUEST, sentence))
}

/// Answers what changes nothing.
///
/// # Errors
/// What is wrong with the query.
async fn look(page: Page, query: &Query<'_>, asking: &Asking) -> Result<Answer, String> {
    let port = &asking.port;
    Ok(match page {
        Page::Index => text(StatusCode::OK, INDEX),
        Page::Alive => text(StatusCode::OK, "ok\n"),
        Page::Ready => match port.readiness() {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
        },
        Page::Metrics => {
            aside(port, |port| {
                port.proxy.tunnels.settle();
                with_type(StatusCode::OK, metrics::CONTENT_TYPE, metrics::exposition())
            })
            .await
        }
        Page::Tunnels => {
            let wanted = Wanted::parse(query)?;
            aside(port, move |port| json(StatusCode::OK, &tunnels::list(&port.proxy, &port.rates, &wanted))).await
        }
        Page::Clusters => {
            let wanted = clusters::Wanted::parse(query)?;
            aside(port, move |port| match wanted.json {
                true => json(StatusCode::OK, &clusters::json(&port.proxy, &wanted)),
                false => text(StatusCode::OK, clusters::text(&port.proxy, &wanted)),
            })
            .await
        }
        Page::ConfigDump => {
            let wanted = dump::Wanted::parse(query)?;
            document(asking, move |out, port| {
                dump::write(out, &port.facts.load_full(), &port.proxy.snapshot.load_full(), &wanted)
            })
        }
        Page::Certs => {
            document(asking, |out, port| certs::write(out, &port.facts.load_full(), &port.proxy.snapshot.load_full()))
        }
        Page::Overview => {
            let trusted = asking.trusted;
            aside(port, move |port| json(StatusCode::OK, &overview::overview(port, trusted))).await
        }
        Page::Destinations => {
            let limit = query.number("limit", 20, 1..=500)?;
            aside(port, move |port| json(StatusCode::OK, &overview::part("destinations", overview::top(port, limit))))
                .await
        }
        Page::Refusals => {
            let limit = query.number("limit", 50, 1..=200)?;
            let refused = move |port: &Port| overview::refused(&port.proxy.snapshot.load(), limit);
            aside(port, move |port| json(StatusCode::OK, &overview::part("refusals", refused(port)))).await
        }
        Page::History => json(StatusCode::OK, &overview::part("history", port.history.list())),
        Page::Events => match port.streams.clone().try_acquire_owned() {
            Ok(permit) => {
                asking.needs(stream::STREAM_TIME);
                stream::events(permit)
            }
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "too many follow already\n"),
        },
        Page::Style => with_type(StatusCode::OK, "text/css; charset=utf-8", STYLE),
        Page::Script => with_type(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT),
        Page::Reload | Page::Drain | Page::Kill(_) => unreachable!("these change something"),
    })
}

/// A document that may be long; few at once.
fn document(asking: &Asking, write: impl FnOnce(&mut Chunks, &Port) -> std::io::Result<()> + Send + 'static) -> Answer {
    let port = asking.port.clone();
    match port.dumps.clone().try_acquire_owned() {
        Ok(permit) => {
            asking.needs(DOCUMENT_TIME);
            chunks::json(permit, move |out| write(out, &port))
        }
        Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "too much of this is read already; try again\n"),
    }
}

const DOCUMENT_TIME: Duration = Duration::from_secs(60); // 100 MB over a bad line

/// Carries out what changes something; whoever asks may.
async fn change(page: Page, asking: &Asking) -> Answer {
    match page {
        Page::Reload => {
            asking.needs(RELOAD_TIME);
            match ask(&asking.port, Command::Reload, RELOAD_TIME).await {
                Ok(reloaded) if reloaded.ok => json(StatusCode::OK, &reloaded.report),
                Ok(reloaded) => json(StatusCode::UNPROCESSABLE_ENTITY, &reloaded.report),
                Err(answer) => answer,
            }
        }
        Page::Drain => match ask(&asking.port, Command::Drain, DRAIN_ANSWER_TIME).await {
            Ok(deadline) => {
                let proxy = &asking.port.proxy;
                let document =
                    serde_json::json!({ "draining": true, "tunnels": proxy.tunnels.len(), "deadline_s": deadline });
                json(StatusCode::ACCEPTED, &document)
            }
            Err(answer) => answer,
        },
        Page::Kill(id) if asking.port.proxy.tunnels.end(id, Ending::Killed) => {
            tracing::info!(id, "an operator ends a tunnel");
            json(StatusCode::OK, &serde_json::json!({ "id": id, "killed": true }))
        }
        Page::Kill(_) => text(StatusCode::NOT_FOUND, "no open tunnel has this id\n"),
        _ => unreachable!("only what changes something comes here"),
    }
}

const RELOAD_TIME: Duration = Duration::from_secs(120); // 100,000 entries take seconds, on a busy machine more of them
const DRAIN_ANSWER_TIME: Duration = Duration::from_secs(5);

/// Asks `app`, and waits for its answer.
async fn ask<T>(
    port: &Port,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
    limit: Duration,
) -> Result<T, Answer> {
    let (tell, told) = oneshot::channel();
    if port.commands.try_send(command(tell)).is_err() {
        return Err(text(StatusCode::SERVICE_UNAVAILABLE, "too much is asked at once, or the process is ending\n"));
    }
    match timeout(limit, told).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(text(StatusCode::SERVICE_UNAVAILABLE, "the process is ending\n")),
        Err(_) => Err(text(StatusCode::GATEWAY_TIMEOUT, "it was begun and is not done yet; the log will say\n")),
    }
}

/// Makes an answer that takes its time, away from the workers.
async fn aside(port: &Arc<Port>, make: impl FnOnce(&Port) -> Answer + Send + 'static) -> Answer {
    let port = port.clone();
    let made = tokio::task::spawn_blocking(move || make(&port)).await;
    made.unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "a bug of ours; the log says more\n"))
}

/// Browsers say so; curl takes anything, and gets text.
fn wants_html<B>(request: &Request<B>) -> bool {
    let accepted = request.headers().get_all(ACCEPT);
    accepted.iter().any(|value| value.to_str().is_ok_and(|value| value.contains("text/html")))
}

fn deny(denied: Denied) -> Answer {
    let (status, sentence) = match denied {
        Denied::ForeignPage => (StatusCode::FORBIDDEN, "a page of another site asks this\n"),
        Denied::NoToken => (
            StatusCode::FORBIDDEN,
            "read-only: changes are taken on a unix socket (admin.address: unix:/PATH) or with a token (admin.tokenFile)\n",
        ),
        Denied::Missing => (StatusCode::UNAUTHORIZED, "the token is missing: Authorization: Bearer TOKEN\n"),
        Denied::Wrong => (StatusCode::UNAUTHORIZED, "the token is wrong\n"),
    };
    let mut answer = text(status, sentence);
    if status == StatusCode::UNAUTHORIZED {
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"egret\""));
    }
    answer
}

fn not_allowed(methods: &'static str, sentence: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, sentence);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}
