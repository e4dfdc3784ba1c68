//! The listeners of one generation after another: new ones are bound before old ones close, and those that stay never close.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::accept::admission::Connections;
use crate::accept::passed::PassedSockets;
use crate::accept::socket::{self, ListeningSocket};
use crate::accept::{Listener, ListenerSettings};
use crate::flow::ListenAddress;
use crate::stream::unix_socket::UnixSocket;
use crate::tunnel::Proxy;

/// A listener as the settings want it.
#[derive(Debug)]
pub struct Wanted {
    /// Where; port 0 is any.
    pub address: ListenAddress,
    /// Permissions of a unix socket.
    pub socket_mode: u32,
    /// The rest.
    pub settings: ListenerSettings,
}

/// An address that cannot be bound.
#[derive(Debug, Error)]
#[error("{what}: cannot listen on {address}")]
pub struct BindError {
    /// `listener proxy`, `admin`.
    pub what: String,
    /// The address as configured.
    pub address: String,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// The listeners that are bound.
#[derive(Debug)]
pub(super) struct Listeners {
    bound: Vec<Bound>,
    connections: Arc<Connections>,
    passed: PassedSockets,
}

#[derive(Debug)]
struct Bound {
    place: Place,
    listener: Arc<Listener>,
    stop: CancellationToken,
}

/// Where a listener is, as configured; of several that ask for a passed socket of one name, the first takes the first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    address: ListenAddress,
    nth: usize,
}

/// What [`Listeners::apply`] will do; dropping it closes what was bound for it.
#[derive(Debug)]
pub(super) struct Plan {
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Keep { index: usize, socket_mode: u32, settings: ListenerSettings },
    Add { place: Place, listener: Listener },
}

impl Listeners {
    /// None yet; some may take sockets that were passed to the process.
    pub(super) fn new(passed: PassedSockets, connections: Arc<Connections>) -> Self {
        Self { bound: Vec::new(), connections, passed }
    }

    /// Binds what is wanted and not there yet. Running listeners do not notice.
    ///
    /// # Errors
    /// The first address that cannot be bound; what was bound until then is closed again.
    pub(super) fn plan(&self, wanted: Vec<Wanted>) -> Result<Plan, BindError> {
        let mut free: Vec<Option<&Bound>> = self.bound.iter().map(Some).collect();
        let mut steps = Vec::with_capacity(wanted.len());
        let mut taken: HashMap<ListenAddress, usize> = HashMap::new();
        for Wanted { address, socket_mode, settings } in wanted {
            let nth = match address {
                ListenAddress::Passed(_) => {
                    let next = taken.entry(address.clone()).or_default();
                    *next += 1;
                    *next - 1
                }
                _ => 0,
            };
            let place = Place { address, nth };
            let any_port = place.address.inet().is_some_and(|address| address.port() == 0);
            let index = free.iter().position(|bound| {
                // Two listeners may ask for port 0; their names tell them apart.
                bound.is_some_and(|bound| {
                    bound.place == place && (!any_port || bound.listener.name().name == settings.name.name)
                })
            });
            steps.push(match index {
                Some(index) => {
                    free[index] = None;
                    Step::Keep { index, socket_mode, settings }
                }
                None => {
                    let listener = self.bind(&place, socket_mode, settings)?;
                    Step::Add { place, listener }
                }
            });
        }
        Ok(Plan { steps })
    }

    fn bind(&self, place: &Place, socket_mode: u32, settings: ListenerSettings) -> Result<Listener, BindError> {
        let socket = match &place.address {
            ListenAddress::Inet(address) => socket::bind(*address).and_then(ListeningSocket::tcp),
            ListenAddress::Unix(path) => UnixSocket::bind(path, socket_mode).map(ListeningSocket::Unix),
            ListenAddress::Passed(name) => self.passed.open(name, place.nth),
        };
        let what = format!("listener {}", settings.name.name);
        socket.map(|socket| Listener::new(socket, settings)).map_err(|source| BindError {
            what,
            address: place.address.to_string(),
            source,
        })
    }

    /// Carries out a plan: listeners that are in none of its steps stop accepting, new ones begin.
    pub(super) fn apply(&mut self, plan: Plan, proxy: &Arc<Proxy>) {
        let mut before: Vec<Option<Bound>> = std::mem::take(&mut self.bound).into_iter().map(Some).collect();
        for step in plan.steps {
            match step {
                Step::Keep { index, socket_mode, settings } => {
                    let bound = before[index].take().expect("a plan keeps each listener once");
                    bound.listener.set_settings(settings);
                    if let Err(error) = bound.listener.set_mode(socket_mode) {
                        tracing::warn!(listener = bound.listener.name().name, %error, "the socket keeps its permissions");
                    }
                    self.bound.push(bound);
                }
                Step::Add { place, listener } => self.serve(place, listener, proxy),
            }
        }
        for gone in before.into_iter().flatten() {
            tracing::info!(listener = gone.listener.name().name, address = %gone.listener.address(), "closed");
            gone.stop.cancel();
        }
    }

    fn serve(&mut self, place: Place, listener: Listener, proxy: &Arc<Proxy>) {
        let bound = Bound { place, listener: Arc::new(listener), stop: CancellationToken::new() };
        // Not tracked by drain: it ends when told to, and has no flow of its own.
        tokio::spawn(bound.listener.clone().serve(proxy.clone(), self.connections.clone(), bound.stop.clone()));
        self.bound.push(bound);
    }

    /// Stops accepting everywhere.
    pub(super) fn close(&mut self) {
        for bound in self.bound.drain(..) {
            bound.stop.cancel();
        }
    }

    /// Name and bound address of each, in the order of the settings.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (String, ListenAddress)> {
        self.bound.iter().map(|bound| (bound.listener.name().name.clone(), bound.listener.address()))
    }
}
