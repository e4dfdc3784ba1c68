//! Listening sockets: bound before anything is served, with the options that accepted sockets inherit.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpListener;

use crate::flow::ListenAddress;
use crate::stream::Stream;
use crate::stream::unix_socket::UnixSocket;

/// A socket that clients connect to.
#[derive(Debug)]
pub enum ListeningSocket {
    /// TCP, with the address it is bound to.
    Tcp(TcpListener, SocketAddr),
    /// A file.
    Unix(UnixSocket),
}

impl ListeningSocket {
    /// Of a TCP listener from [`bind`] or one that was passed to us.
    ///
    /// # Errors
    /// If the kernel does not know the address that it is bound to.
    pub fn tcp(listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        Ok(Self::Tcp(listener, address))
    }

    /// Where clients reach it, with the port that port 0 became.
    pub fn address(&self) -> ListenAddress {
        match self {
            Self::Tcp(_, address) => ListenAddress::Inet(*address),
            Self::Unix(socket) => ListenAddress::Unix(socket.path().to_path_buf()),
        }
    }

    /// The next connection and its peer; those of unix sockets have no address, which is written [`NO_ADDRESS`].
    ///
    /// # Errors
    /// Those of accept(2). Dropping the future loses no connection.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            // Polled by one task only, which is registered for less than any number of them would be.
            Self::Tcp(listener, _) => {
                poll_fn(|cx| listener.poll_accept(cx)).await.map(|(tcp, peer)| (tcp.into(), peer))
            }
            Self::Unix(socket) => socket.accept().await.map(|unix| (unix.into(), NO_ADDRESS)),
        }
    }
}

/// Stands for the address of a peer that has none.
pub const NO_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

const BACKLOG: i32 = 4096; // a burst of connections must not meet a full queue; the kernel caps it at somaxconn
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 6;
const USER_TIMEOUT: Duration = Duration::from_secs(120);

/// Binds a TCP listener. NODELAY, keepalive and USER_TIMEOUT are set here once: accepted sockets inherit them on Linux, so a
/// connection pays no system call for them.
///
/// # Errors
/// Whatever the kernel says to socket, bind or listen.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]:3128` takes IPv6 only, so that `0.0.0.0:3128` can stand beside it and no client appears as ::ffff:a.b.c.d.
        socket.set_only_v6(true)?;
    }
    set_inherited(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Sets what accepted sockets inherit.
pub(super) fn set_inherited(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn accepted_sockets_inherit_the_options() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(accepted.nodelay().unwrap());
        let socket = SockRef::from(&accepted);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    }
}
