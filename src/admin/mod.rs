//! The operator's port: health, readiness, metrics. Read-only, one request per connection, few connections at once.

mod host;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::account::metrics;
use crate::drain::Drain;

/// What the operator's port tells about.
#[derive(Debug)]
pub struct AdminState {
    /// A configuration is in force and every listener is bound.
    ready: AtomicBool,
    drain: Drain,
    /// Names of ours, beside `localhost`, that a `Host` field may hold.
    names: Vec<String>,
}

impl AdminState {
    /// Not ready yet. `names` are those by which clients may call the port, beside addresses and `localhost`: the host that the
    /// settings bind it to.
    pub fn new(drain: Drain, names: Vec<String>) -> Self {
        Self { ready: AtomicBool::new(false), drain, names }
    }

    /// Says whether a configuration is in force and every listener is bound.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    fn readiness(&self) -> Result<(), &'static str> {
        if self.drain.is_draining() {
            return Err("draining\n");
        }
        if self.ready.load(Ordering::Acquire) { Ok(()) } else { Err("starting\n") }
    }
}

/// Serves the port until `stop`; returns when the connections that were open then are done or cut.
///
/// `/readyz` is of use while a drain goes on: stop this last.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>, stop: CancellationToken) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = accept(&listener, &free) => accepted,
        };
        match accepted {
            Ok((tcp, permit)) => {
                let (state, stop) = (state.clone(), stop.clone());
                connections.spawn(async move {
                    let _permit = permit;
                    serve_one(tcp, state, stop).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the admin port; trying again");
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

const CONNECTIONS_MAX: usize = 64; // further ones wait in the kernel; each ends after CONNECTION_TIME at the latest
const CONNECTION_TIME: Duration = Duration::from_secs(10);
const HEAD_TIME: Duration = Duration::from_secs(5);
const HEAD_BYTES_MAX: usize = 16 * 1024;
const END_TIME: Duration = Duration::from_secs(1); // for answers under way when the port is stopped
const BACKOFF: Duration = Duration::from_millis(50); // EMFILE lasts until somebody closes

async fn accept(listener: &TcpListener, free: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = free.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (tcp, _) = listener.accept().await?;
    Ok((tcp, permit))
}

async fn serve_one(tcp: TcpStream, state: Arc<AdminState>, stop: CancellationToken) {
    let service = service_fn(move |request| {
        let answer = answer(&request, &state);
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(tcp), service);
    let stopped = async {
        stop.cancelled().await;
        tokio::time::sleep(END_TIME).await;
    };
    tokio::select! {
        // What a client did wrong is its own affair.
        _ = tokio::time::timeout(CONNECTION_TIME, connection) => {}
        () = stopped => {}
    }
}

fn answer(request: &Request<Incoming>, state: &AdminState) -> Response<Full<Bytes>> {
    // A page of another site could point its own name at us and read what its visitor's machine may (DNS rebinding).
    if !host::is_ours(request.headers().get_all(HOST), &state.names) {
        return text(
            StatusCode::FORBIDDEN,
            "the admin port answers to its address, localhost, or the name it is bound to\n",
        );
    }
    let Some(page) = page(request.uri().path()) else {
        return text(StatusCode::NOT_FOUND, "no such page; / lists them\n");
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match page {
        Page::Index => text(StatusCode::OK, INDEX),
        Page::Alive => text(StatusCode::OK, "ok\n"),
        Page::Ready => match state.readiness() {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
        },
        Page::Metrics => with_type(StatusCode::OK, metrics::CONTENT_TYPE, metrics::exposition()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Index,
    Alive,
    Ready,
    Metrics,
}

/// Envoy's and Istio's paths beside our own.
fn page(path: &str) -> Option<Page> {
    Some(match path {
        "/" => Page::Index,
        "/healthz" => Page::Alive,
        "/readyz" | "/healthz/ready" => Page::Ready,
        "/metrics" | "/stats/prometheus" => Page::Metrics,
        _ => return None,
    })
}

const INDEX: &str = "\
egret, the operator's port

/healthz   200 while the process lives
/readyz    200 while it takes new work (alias /healthz/ready)
/metrics   for Prometheus (alias /stats/prometheus)
";

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests;
