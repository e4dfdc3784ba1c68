//! The operator's port: what is open, counted and configured, for people and programs; and the few things an operator may change.
//! One request per connection, few connections at once, each bounded in time.
//!
//! [`address`] binds · `access` says who may change something · `pages` answers · [`command`] carries wishes to `app`.

mod access;
pub mod address;
mod answer;
mod certs;
mod chunks;
mod clusters;
pub mod command;
mod dump;
pub mod facts;
mod history;
mod host;
mod overview;
mod pages;
mod query;
mod stream;
mod tunnels;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::tunnel::Proxy;

pub use access::Token;
pub use address::{Address, Socket};
pub use command::{Command, Commands, Reloaded};
pub use facts::Facts;

use address::Client;
use history::History;
use tunnels::Rates;

/// What the operator's port tells about, and what it needs to know to do so.
#[derive(Debug)]
pub struct Port {
    /// A configuration is in force and every listener is bound.
    ready: AtomicBool,
    proxy: Arc<Proxy>,
    commands: mpsc::Sender<Command>,
    /// Names of ours, beside `localhost`, that a `Host` field may hold.
    names: Vec<String>,
    /// `admin.tokenFile`.
    token: ArcSwapOption<Token>,
    rates: Rates,
    history: History,
    /// Room for clients of `/events`.
    streams: Arc<Semaphore>,
    /// What the configuration says beside the rules.
    facts: ArcSwap<Facts>,
    /// Room for long documents.
    dumps: Arc<Semaphore>,
}

impl Port {
    /// Not ready yet, and without a token. `names` are those by which clients may call the port, beside addresses and `localhost`.
    pub fn new(proxy: Arc<Proxy>, commands: mpsc::Sender<Command>, names: Vec<String>) -> Self {
        Self {
            ready: AtomicBool::new(false),
            proxy,
            commands,
            names,
            token: ArcSwapOption::empty(),
            rates: Rates::default(),
            history: History::default(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            facts: ArcSwap::default(),
            dumps: Arc::new(Semaphore::new(DUMPS_MAX)),
        }
    }

    /// Says whether a configuration is in force and every listener is bound.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Replaces the secret that lets clients of a TCP port change something.
    pub fn set_token(&self, token: Option<Token>) {
        self.token.store(token.map(Arc::new));
    }

    /// Replaces what the configuration in force says beside the rules.
    pub fn set_facts(&self, facts: Facts) {
        self.facts.store(Arc::new(facts));
    }

    fn readiness(&self) -> Result<(), &'static str> {
        if self.proxy.drain.is_draining() {
            return Err("draining\n");
        }
        if self.ready.load(Ordering::Acquire) { Ok(()) } else { Err("starting\n") }
    }
}

/// One request's way in.
#[derive(Clone, Debug)]
struct Asking {
    port: Arc<Port>,
    /// It came over a Unix socket.
    trusted: bool,
    /// When its connection is closed.
    until: watch::Sender<Instant>,
}

impl Asking {
    /// Gives the connection this long from now, and time to write the answer.
    fn needs(&self, time: Duration) {
        self.until.send_replace(Instant::now() + time + CONNECTION_TIME);
    }
}

/// Serves the port until `stop`; returns when the connections that were open then are done or cut.
///
/// `/readyz` is of use while a drain goes on: stop this last.
pub async fn serve(socket: Socket, port: Arc<Port>, stop: CancellationToken) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let following = tokio::spawn({
        let port = port.clone();
        async move { port.history.follow().await }
    });
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = accept(&socket, &free) => accepted,
        };
        match accepted {
            Ok((client, permit)) => {
                let (port, stop) = (port.clone(), stop.clone());
                connections.spawn(async move {
                    let _permit = permit;
                    match client {
                        Client::Tcp(tcp) => serve_one(tcp, false, port, stop).await,
                        Client::Unix(unix) => serve_one(unix, true, port, stop).await,
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the admin port; trying again");
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }
    following.abort();
    drop(socket);
    connections.close();
    connections.wait().await;
}

const CONNECTIONS_MAX: usize = 64; // further ones wait in the kernel; each ends after CONNECTION_TIME, unless its page needs longer
const STREAMS_MAX: usize = 16; // each holds a connection for minutes; the others stay for everybody else
const DUMPS_MAX: usize = 4; // each holds a thread while it is read
const CONNECTION_TIME: Duration = Duration::from_secs(10);
const HEAD_TIME: Duration = Duration::from_secs(5);
const HEAD_BYTES_MAX: usize = 16 * 1024;
const END_TIME: Duration = Duration::from_secs(1); // for answers under way when the port is stopped
const BACKOFF: Duration = Duration::from_millis(50); // EMFILE lasts until somebody closes

async fn accept(socket: &Socket, free: &Arc<Semaphore>) -> io::Result<(Client, OwnedSemaphorePermit)> {
    let permit = free.clone().acquire_owned().await.map_err(io::Error::other)?;
    Ok((socket.accept().await?, permit))
}

async fn serve_one<S>(stream: S, trusted: bool, port: Arc<Port>, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (until, deadline) = watch::channel(Instant::now() + CONNECTION_TIME);
    let asking = Asking { port, trusted, until };
    let service = service_fn(move |request| {
        let asking = asking.clone();
        async move { Ok::<_, Infallible>(pages::answer(request, asking).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let stopped = async {
        stop.cancelled().await;
        tokio::time::sleep(END_TIME).await;
    };
    tokio::select! {
        // What a client did wrong is its own affair.
        _ = connection => {}
        () = late(deadline) => {}
        () = stopped => {}
    }
}

/// Waits for a deadline that may move.
async fn late(mut deadline: watch::Receiver<Instant>) {
    loop {
        let at = *deadline.borrow_and_update();
        tokio::select! {
            () = sleep_until(at) => return,
            moved = deadline.changed() => if moved.is_err() {
                return sleep_until(at).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
