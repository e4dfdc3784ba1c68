//! Listening sockets that are files: who may open the file may connect.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};

/// A bound unix socket. Its file goes with it, unless somebody else's has taken its place.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: Arc<Path>,
    /// `None`: it is somebody else's to remove.
    file: Option<OwnFile>,
}

/// The file that we made, by device and inode.
#[derive(Debug)]
struct OwnFile {
    path: Arc<Path>,
    inode: (u64, u64),
}

impl UnixSocket {
    /// Binds to `path` with permissions `mode`. A socket there that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// `AddrInUse` if somebody listens there, `AlreadyExists` if what is there is no socket, else what the kernel says.
    pub fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        remove_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        // The file has the permissions of the socket from its first moment on: there is none in which others may open it.
        fchmod(&socket, Mode::from_raw_mode(mode))?;
        socket.bind(&SockAddr::unix(path)?)?;
        let file = OwnFile::of(path)?; // from here on it goes with us, whatever comes next
        file.set_mode(mode)?; // the umask took bits away
        socket.listen(BACKLOG)?;
        // Not before: to the runtime a socket that does not listen has hung up.
        let listener = UnixListener::from_std(socket.into())?;
        Ok(Self { listener, path: path.into(), file: Some(file) })
    }

    /// Of a socket that was passed to us and is somebody else's to remove.
    ///
    /// # Errors
    /// If it has no path.
    pub fn passed(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let path = address.as_pathname().ok_or_else(|| io::Error::other("the socket that was passed has no path"))?;
        Ok(Self { path: path.into(), listener: UnixListener::from_std(listener)?, file: None })
    }

    /// Changes the permissions of the file, where it is ours.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.set_mode(mode))
    }

    /// Where it is.
    pub fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// The next connection.
    ///
    /// # Errors
    /// Those of accept(2). Dropping the future loses no connection.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl OwnFile {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.into(), inode: (metadata.dev(), metadata.ino()) })
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        fs::set_permissions(&self.path, fs::Permissions::from_mode(mode))
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        let ours = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == self.inode;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            // Nothing to be done where the folder has become read-only: the next start replaces the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

const BACKLOG: i32 = 4096; // as for TCP; the kernel caps it at somaxconn

fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    // Not blocking: who has let the queue run full is there all the same.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn the_file_has_its_permissions_and_goes_with_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.sock");
        let socket = UnixSocket::bind(&path, 0o660).unwrap();
        assert_eq!(mode(&path), 0o660);
        socket.set_mode(0o600).unwrap();
        assert_eq!(mode(&path), 0o600);
        let (client, accepted) = tokio::join!(UnixStream::connect(&path), socket.accept());
        assert!(client.is_ok() && accepted.is_ok());
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_nobody_listens_on_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // leaves its file
        let socket = UnixSocket::bind(&path, 0o600).unwrap();
        assert_eq!(UnixSocket::bind(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert_eq!(UnixSocket::bind(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        drop(socket);
        assert_eq!(fs::read(&path).unwrap(), b"precious", "another file took the place of ours");
    }
    #[tokio::test]
    async fn a_path_beyond_the_kernels_bound_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x".repeat(120)); // sun_path holds 108
        assert!(UnixSocket::bind(&path, 0o600).is_err());
    }
    #[tokio::test]
    async fn what_comes_in_one_write_is_read_while_the_client_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.sock");
        let socket = UnixSocket::bind(&path, 0o600).unwrap();
        let waits = std::thread::spawn(move || {
            let mut client = std::os::unix::net::UnixStream::connect(path).unwrap();
            client.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
            client.write_all(b"ping").unwrap();
            client.read_exact(&mut [0; 4]).is_ok()
        });
        let mut stream = socket.accept().await.unwrap();
        let mut bytes = [0; 4];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut bytes).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await.unwrap();
        assert!(waits.join().unwrap());
    }
}
