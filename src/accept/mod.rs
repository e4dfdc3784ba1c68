//! The inbound half: listeners, who may use them, and what their clients speak.

pub mod admission;
pub mod answer;
pub mod basic;
pub mod forward;
pub mod sni;
pub mod socket;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::account::metrics;
use crate::flow::{ErrorType, Failure, Limit, ListenerKind, ListenerName, Source, Workload};
use crate::route::IpSet;
use crate::stream::{Stream, descriptors};
use crate::tunnel::{Proxy, closing};

use admission::{Admitted, Connections};
use basic::Basic;

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    local: SocketAddr,
    settings: ArcSwap<ListenerSettings>,
}

/// What the settings say of a listener; may change under a listener that stays bound.
#[derive(Debug)]
pub struct ListenerSettings {
    /// `name` and `protocol`.
    pub name: Arc<ListenerName>,
    /// Who it acts for.
    pub workload: Arc<Workload>,
    /// `clients.from`; `None`: from everywhere.
    pub clients: Option<IpSet>,
    /// `clients.basic`.
    pub basic: Option<Arc<Basic>>,
    /// `sni` listeners: the port dialled, 443 unless the settings say otherwise.
    pub sni_port: u16,
}

/// One accepted connection and what it needs to know of where it came in.
pub struct Accepted {
    /// The client's stream.
    pub stream: Stream,
    /// Where it comes from; identity not known yet.
    pub source: Source,
    /// The listener's settings of this moment.
    pub settings: Arc<ListenerSettings>,
    _admitted: Admitted,
}

const WARNING_INTERVAL: Duration = Duration::from_secs(10); // not each of the 20 tries a second
const BACKOFF: Duration = Duration::from_millis(50); // EMFILE lasts until somebody closes; spinning on it would keep them from it

/// When a listener last said that it cannot accept.
#[derive(Debug, Default)]
struct Warned(Option<Instant>);

impl Listener {
    /// Takes a bound socket (see [`socket::bind`]).
    ///
    /// # Errors
    /// If the kernel does not know the address that the socket is bound to.
    pub fn new(socket: TcpListener, settings: ListenerSettings) -> io::Result<Self> {
        let local = socket.local_addr()?;
        Ok(Self { socket, local, settings: ArcSwap::from_pointee(settings) })
    }

    /// The address it is bound to, with the port that port 0 became.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Name and kind.
    pub fn name(&self) -> Arc<ListenerName> {
        self.settings.load().name.clone()
    }

    /// Replaces the settings for connections accepted from now on.
    pub fn set_settings(&self, settings: ListenerSettings) {
        self.settings.store(Arc::new(settings));
    }

    /// Accepts until `stop`; each connection is a task of its own, tracked by the proxy's drain.
    pub async fn serve(self: Arc<Self>, proxy: Arc<Proxy>, connections: Arc<Connections>, stop: CancellationToken) {
        let mut warned = Warned::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) if descriptors::is_reserved(&tcp) => {
                    self.warn(&mut warned, &"none is left but those kept for the operator");
                    metrics::limit_reached(Limit::Descriptors);
                    let moved = tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        moved = out_of_reserve(tcp) => moved,
                    };
                    if let Ok(tcp) = moved {
                        self.admit(tcp, peer, &proxy, &connections);
                    }
                }
                Ok((tcp, peer)) => self.admit(tcp, peer, &proxy, &connections),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.warn(&mut warned, &error);
                    metrics::limit_reached(Limit::Descriptors);
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
    }

    fn warn(&self, warned: &mut Warned, why: &dyn std::fmt::Display) {
        if warned.0.is_none_or(|warned| warned.elapsed() >= WARNING_INTERVAL) {
            warned.0 = Some(Instant::now());
            tracing::warn!(listener = self.name().name, error = %why, "cannot accept; trying again");
        }
    }

    fn admit(&self, tcp: TcpStream, peer: SocketAddr, proxy: &Arc<Proxy>, connections: &Arc<Connections>) {
        let limits = proxy.limits.load();
        let admitted = connections.admit(limits.client(peer.ip()), limits.connections, limits.connections_per_client);
        let Ok(admitted) = admitted else {
            return; // closed: a client over its bound gets no thread, no buffer and no answer
        };
        let settings = self.settings.load_full();
        // One system call less for listeners that are bound to one address.
        let local = if self.local.ip().is_unspecified() { tcp.local_addr().unwrap_or(self.local) } else { self.local };
        let source = Source {
            peer,
            local,
            listener: settings.name.clone(),
            workload: settings.workload.clone(),
            identity: None,
        };
        let kind = settings.name.kind;
        let accepted = Accepted { stream: tcp.into(), source, settings, _admitted: admitted };
        let task_proxy = proxy.clone();
        match kind {
            // Boxed: a task is moved six times from here to its place on the heap, and overwritten whole where it ends.
            ListenerKind::Forward => proxy.drain.spawn(Box::pin(forward::serve(task_proxy, accepted))),
            ListenerKind::Sni => proxy.drain.spawn(Box::pin(sni::serve(task_proxy, accepted))),
        };
    }
}

impl ListenerSettings {
    /// Refuses clients outside `clients.from`.
    fn admit_client(&self, peer: SocketAddr) -> Result<(), Failure> {
        match &self.clients {
            Some(clients) if !clients.contains(peer.ip()) => {
                let detail = format!("clients at {} may not use this proxy", peer.ip().to_canonical());
                Err(Failure::new(ErrorType::ClientDenied, detail))
            }
            _ => Ok(()),
        }
    }
}

/// Waits until there is a descriptor for this connection that is not one of the last, and moves it there. Until then no other one is
/// accepted: they wait in the kernel, and neither they nor we spin.
async fn out_of_reserve(tcp: TcpStream) -> io::Result<TcpStream> {
    let _shortage = descriptors::Shortage::begin();
    loop {
        tokio::time::sleep(BACKOFF).await;
        match tcp.as_fd().try_clone_to_owned() {
            Ok(low) if !descriptors::is_reserved(&low) => {
                drop(tcp);
                return TcpStream::from_std(low.into());
            }
            _ => {}
        }
    }
}

/// Errors of accept(2) that say something about the one connection only.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::Interrupted
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_tasks_of_connections_are_small() {
        // They are moved when they are spawned, and a keep-alive client holds one: no array may live across a wait in them.
        assert!(future_bytes(forward::serve) <= 4864, "{}", future_bytes(forward::serve));
        assert!(future_bytes(sni::serve) <= 2112, "{}", future_bytes(sni::serve));
    }
}
