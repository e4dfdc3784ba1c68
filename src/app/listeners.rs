//! The listeners of one generation after another: new ones are bound before old ones close, and those that stay never close.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::accept::admission::Connections;
use crate::accept::{Listener, ListenerSettings, socket};
use crate::tunnel::Proxy;

/// A listener as the settings want it.
#[derive(Debug)]
pub struct Wanted {
    /// Where; port 0 is any.
    pub address: SocketAddr,
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
#[derive(Debug, Default)]
pub(super) struct Listeners {
    bound: Vec<Bound>,
    connections: Arc<Connections>,
}

#[derive(Debug)]
struct Bound {
    configured: SocketAddr,
    listener: Arc<Listener>,
    stop: CancellationToken,
}

/// What [`Listeners::apply`] will do; dropping it closes what was bound for it.
#[derive(Debug)]
pub(super) struct Plan {
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Keep { index: usize, settings: ListenerSettings },
    Add { configured: SocketAddr, listener: Listener },
}

impl Listeners {
    /// Binds what is wanted and not there yet. Running listeners do not notice.
    ///
    /// # Errors
    /// The first address that cannot be bound; what was bound until then is closed again.
    pub(super) fn plan(&self, wanted: Vec<Wanted>) -> Result<Plan, BindError> {
        let mut free: Vec<Option<&Bound>> = self.bound.iter().map(Some).collect();
        let mut steps = Vec::with_capacity(wanted.len());
        for Wanted { address, settings } in wanted {
            let index = free.iter().position(|bound| {
                // Two listeners may ask for port 0; their names tell them apart.
                bound.is_some_and(|bound| {
                    bound.configured == address
                        && (address.port() != 0 || bound.listener.name().name == settings.name.name)
                })
            });
            steps.push(match index {
                Some(index) => {
                    free[index] = None;
                    Step::Keep { index, settings }
                }
                None => Step::Add { configured: address, listener: bind(address, settings)? },
            });
        }
        Ok(Plan { steps })
    }

    /// Carries out a plan: listeners that are in none of its steps stop accepting, new ones begin.
    pub(super) fn apply(&mut self, plan: Plan, proxy: &Arc<Proxy>) {
        let mut before: Vec<Option<Bound>> = std::mem::take(&mut self.bound).into_iter().map(Some).collect();
        for step in plan.steps {
            match step {
                Step::Keep { index, settings } => {
                    let bound = before[index].take().expect("a plan keeps each listener once");
                    bound.listener.set_settings(settings);
                    self.bound.push(bound);
                }
                Step::Add { configured, listener } => self.serve(configured, listener, proxy),
            }
        }
        for gone in before.into_iter().flatten() {
            tracing::info!(listener = gone.listener.name().name, address = %gone.listener.local_addr(), "closed");
            gone.stop.cancel();
        }
    }

    fn serve(&mut self, configured: SocketAddr, listener: Listener, proxy: &Arc<Proxy>) {
        let bound = Bound { configured, listener: Arc::new(listener), stop: CancellationToken::new() };
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
    pub(super) fn addresses(&self) -> impl Iterator<Item = (String, SocketAddr)> {
        self.bound.iter().map(|bound| (bound.listener.name().name.clone(), bound.listener.local_addr()))
    }
}

fn bind(address: SocketAddr, settings: ListenerSettings) -> Result<Listener, BindError> {
    let what = format!("listener {}", settings.name.name);
    socket::bind(address).and_then(|socket| Listener::new(socket, settings)).map_err(|source| BindError {
        what,
        address: address.to_string(),
        source,
    })
}
