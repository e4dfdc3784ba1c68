//! Where the operator's port is: TCP, or a Unix socket that only our own user may connect to.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

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

/// A bound Unix socket; its path goes with it, unless somebody has put another file there.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: Option<(u64, u64)>,
}

/// One client of the port.
#[derive(Debug)]
pub(super) enum Client {
    Tcp(TcpStream),
    /// The kernel let it connect: it runs as our user, or as root.
    Unix(UnixStream),
}

const BACKLOG: i32 = 128;

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

impl UnixSocket {
    /// Binds. A socket that an earlier process left behind is replaced; one that somebody listens on is not, and no other file.
    ///
    /// # Errors
    /// Whatever the kernel says; `AddrInUse` where somebody listens.
    pub fn bind(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        // Before the file is there: the kernel gives it the mode of the socket, and at no time can anybody else connect.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        socket.bind(&SockAddr::unix(path)?)?;
        socket.listen(BACKLOG)?;
        let listener = UnixListener::from_std(socket.into())?;
        Ok(Self { listener, path: path.to_owned(), inode: inode(path) })
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
            Self::Unix(socket) => Ok(Address::Unix(socket.path.clone())),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Client> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(tcp, _)| Client::Tcp(tcp)),
            Self::Unix(socket) => socket.listener.accept().await.map(|(unix, _)| Client::Unix(unix)),
        }
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if self.inode.is_some() && self.inode == inode(&self.path) {
            let _ = std::fs::remove_file(&self.path); // a folder that is gone takes its files along
        }
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"))
        }
        Ok(_) => match StdUnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
            Err(error) => Err(error),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[tokio::test]
    async fn only_our_user_may_connect_and_the_path_goes_with_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let socket = UnixSocket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(UnixSocket::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_another_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // leaves its file
        assert!(path.exists());
        let first = UnixSocket::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "a file of somebody's").unwrap();
        drop(first);
        assert_eq!(UnixSocket::bind(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(path.exists(), "neither dropping nor binding removes what is not ours");
    }

    #[tokio::test]
    async fn a_path_beyond_the_kernels_bound_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x".repeat(120)); // sun_path holds 108
        assert!(UnixSocket::bind(&path).is_err());
    }
}
