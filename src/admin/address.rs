//! Where the operator's port is: TCP, or a Unix socket that only our own user may connect to.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::stream::unix_socket::UnixSocket;

/// Where the port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A socket in the file system, mode 0600.
    Unix(PathBuf),
}

/// A bound port.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpListener),
    /// Unlinks its path when it is dropped.
    Unix(UnixSocket),
}

/// One client of the port.
#[derive(Debug)]
pub(super) enum Client {
    Tcp(TcpStream),
    /// The kernel let it connect: it runs as our user, or as root.
    Unix(UnixStream),
}

impl Address {
    /// The TCP address, if that is what it is.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Socket {
    /// Where it is bound, with the port that port 0 became.
    ///
    /// # Errors
    /// If the kernel does not know.
    pub fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Self::Unix(socket) => Ok(Address::Unix(socket.path().to_path_buf())),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Client> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(tcp, _)| Client::Tcp(tcp)),
            Self::Unix(socket) => socket.accept().await.map(Client::Unix),
        }
    }
}
