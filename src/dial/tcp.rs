//! TCP connections: one address with as few system calls as can be, several by RFC 8305 racing.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Connects to exactly this address, from the first of `source` that is of its family. Dropping the future closes the socket.
///
/// Five system calls and the wait: socket, connect, epoll_ctl, setsockopt (NODELAY), and no SO_ERROR where the readiness
/// says that the connection stands. TCP_USER_TIMEOUT and keepalive are set by the relay on tunnels that live long enough.
///
/// # Errors
/// What the kernel said.
pub(super) async fn connect(peer: SocketAddr, source: &[IpAddr]) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(peer), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if let Some(ip) = source.iter().find(|ip| ip.is_ipv4() == peer.is_ipv4()) {
        socket.bind(&SockAddr::from(SocketAddr::new(*ip, 0)))?;
    }
    match socket.connect(&SockAddr::from(peer)) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => return Err(error),
        _ => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    if stream.ready(Interest::WRITABLE).await?.is_write_closed()
        && let Some(error) = stream.take_error()?
    {
        return Err(error);
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}
