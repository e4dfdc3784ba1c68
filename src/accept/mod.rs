//! The inbound half: listeners, who may use them, and what their clients speak.

pub mod admission;
mod arrival;
pub mod basic;
pub mod certified;
pub mod forward;
pub mod passed;
pub mod proxy_protocol;
pub mod sni;
pub mod socket;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::account::metrics;
use crate::flow::{ErrorType, Failure, Limit, ListenAddress, ListenerKind, ListenerName, Source, Transport};
use crate::route::IpSet;
use crate::stream::{Stream, descriptors};
use crate::tls::server::ServerTls;
use crate::tunnel::{Proxy, closing};

use admission::{Admitted, Connections};
use basic::Basic;
use certified::Workloads;
use socket::ListeningSocket;

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    socket: ListeningSocket,
    settings: ArcSwap<ListenerSettings>,
}

/// What the settings say of a listener; may change under a listener that stays bound.
#[derive(Debug)]
pub struct ListenerSettings {
    /// `name` and `protocol`.
    pub name: Arc<ListenerName>,
    /// Who it acts for, and who its clients do that show certificates.
    pub workloads: Workloads,
    /// `clients.from`; `None`: from everywhere.
    pub clients: Option<IpSet>,
    /// `clients.basic`.
    pub basic: Option<Arc<Basic>>,
    /// `tls`: clients speak TLS to us.
    pub tls: Option<ServerTls>,
    /// `proxyProtocol.from`: who has to say whom it speaks for; nobody else may.
    pub proxy_protocol: Option<IpSet>,
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
    admitted: Admitted,
}

const WARNING_INTERVAL: Duration = Duration::from_secs(10); // not each of the 20 tries a second
const BACKOFF: Duration = Duration::from_millis(50); // EMFILE lasts until somebody closes; spinning on it would keep them from it

/// When a listener last said that it cannot accept.
#[derive(Debug, Default)]
struct Warned(Option<Instant>);

impl Listener {
    /// Takes a bound socket (see [`socket::bind`]).
    pub fn new(socket: ListeningSocket, settings: ListenerSettings) -> Self {
        Self { socket, settings: ArcSwap::from_pointee(settings) }
    }

    /// The address it is bound to, with the port that port 0 became.
    pub fn address(&self) -> ListenAddress {
        self.socket.address()
    }

    /// Changes the permissions of a unix socket.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_mode(&self, mode: u32) -> std::io::Result<()> {
        match &self.socket {
            ListeningSocket::Tcp(..) => Ok(()),
            ListeningSocket::Unix(socket) => socket.set_mode(mode),
        }
    }

    /// Name and kind.
    pub fn name(&self) -> Arc<ListenerName> {
        self.settings.load().name.clone()
    }

    /// Replaces the settings for connections accepted from now on. TLS that is made of the same goes on as it was.
    pub fn set_settings(&self, mut settings: ListenerSettings) {
        let before = self.settings.load();
        settings.tls = settings.tls.map(|tls| tls.or_same(before.tls.as_ref()));
        self.settings.store(Arc::new(settings));
    }

    /// Accepts until `stop`; each connection is a task of its own, tracked by the proxy's drain.
    pub async fn serve(self: Arc<Self>, proxy: Arc<Proxy>, connections: Arc<Connections>, stop: CancellationToken) {
        let mut warned = Warned::default();
        let mut stopped = pin!(stop.cancelled());
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stopped => return,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) if stream.descriptor().is_some_and(descriptors::is_reserved) => {
                    self.warn(&mut warned, &"none is left but those kept for the operator");
                    metrics::limit_reached(Limit::Descriptors);
                    let moved = tokio::select! {
                        biased;
                        () = &mut stopped => return,
                        moved = out_of_reserve(stream) => moved,
                    };
                    if let Ok(stream) = moved {
                        self.admit(stream, peer, &proxy, &connections);
                    }
                }
                Ok((stream, peer)) => self.admit(stream, peer, &proxy, &connections),
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

    fn admit(&self, stream: Stream, peer: SocketAddr, proxy: &Arc<Proxy>, connections: &Arc<Connections>) {
        let limits = proxy.limits.load();
        let settings = self.settings.load_full();
        // A balancer is no client: whose connection it is, its header tells.
        let per_client_max = if settings.is_balancer(peer) { usize::MAX } else { limits.connections_per_client };
        let admitted = connections.admit(limits.client(peer.ip()), limits.connections, per_client_max);
        let Ok(admitted) = admitted else {
            return; // closed: a client over its bound gets no thread, no buffer and no answer
        };
        let (local, transport) = match &self.socket {
            // One system call less for listeners that are bound to one address.
            ListeningSocket::Tcp(_, local) if !local.ip().is_unspecified() => (*local, Transport::Tcp),
            ListeningSocket::Tcp(_, local) => (stream.local_addr().unwrap_or(*local), Transport::Tcp),
            ListeningSocket::Unix(socket) => (socket::NO_ADDRESS, Transport::Unix(socket.path().clone())),
        };
        let source = Source {
            peer,
            local,
            transport,
            listener: settings.name.clone(),
            workload: settings.workloads.own().clone(),
            identity: None,
        };
        let arrives = settings.tls.is_some() || settings.proxy_protocol.is_some();
        let accepted = Accepted { stream, source, settings, admitted };
        match arrives {
            true => proxy.drain.spawn(Box::pin(arrival::serve(proxy.clone(), accepted))),
            false => accepted.serve(proxy),
        }
    }
}

impl Accepted {
    /// Speaks the listener's protocol from here on, in a task of its own.
    fn serve(self, proxy: &Arc<Proxy>) {
        match self.settings.name.kind {
            // Boxed: a task is moved six times from here to its place on the heap, and overwritten whole where it ends.
            ListenerKind::Forward => proxy.drain.spawn(Box::pin(forward::serve(proxy.clone(), self))),
            ListenerKind::Sni => proxy.drain.spawn(Box::pin(sni::serve(proxy.clone(), self))),
        }
    }
}

impl ListenerSettings {
    /// Refuses clients outside `clients.from`. On a unix socket nobody has an address, so there a list of them lets nobody in.
    fn admit_client(&self, source: &Source) -> Result<(), Failure> {
        match &self.clients {
            Some(clients) if !clients.contains(source.peer.ip()) => {
                let detail = match &source.transport {
                    Transport::Unix(_) => "clients of a unix socket may not use this proxy".to_owned(),
                    _ => format!("clients at {} may not use this proxy", source.peer.ip().to_canonical()),
                };
                Err(Failure::new(ErrorType::ClientDenied, detail))
            }
            _ => Ok(()),
        }
    }

    fn is_balancer(&self, peer: SocketAddr) -> bool {
        self.proxy_protocol.as_ref().is_some_and(|from| from.contains(peer.ip()))
    }
}

/// Waits until there is a descriptor for this connection that is not one of the last, and moves it there. Until then no other one is
/// accepted: they wait in the kernel, and neither they nor we spin.
async fn out_of_reserve(stream: Stream) -> io::Result<Stream> {
    let _shortage = descriptors::Shortage::begin();
    loop {
        tokio::time::sleep(BACKOFF).await;
        match stream.descriptor().map(|descriptor| descriptor.try_clone_to_owned()) {
            Some(Ok(low)) if !descriptors::is_reserved(&low) => return stream.moved_to(low),
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
        // An attempt to connect holds the counters of its address, and its place within the bounds of its cluster; a request
        // whose connection fails goes on elsewhere, and what the choice of an endpoint depends on goes along.
        assert!(future_bytes(forward::serve) <= 5440, "{}", future_bytes(forward::serve));
        assert!(future_bytes(sni::serve) <= 2880, "{}", future_bytes(sni::serve));
    }
}
