//! Sockets that whoever started us had bound already: systemd's socket activation (sd_listen_fds(3)).
//!
//! They belong to the service manager: they are kept for the life of the process, so that a listener which a reload takes away and
//! another one brings back loses no connection that waits.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use socket2::SockRef;

use super::socket::{ListeningSocket, set_inherited};
use crate::stream::unix_socket::UnixSocket;

/// The sockets that were passed, in order.
#[derive(Debug, Default)]
pub struct PassedSockets(Vec<(Box<str>, PassedSocket)>);

/// One of them, listening already.
#[derive(Debug)]
pub enum PassedSocket {
    /// TCP over either IP.
    Tcp(TcpListener),
    /// A file.
    Unix(UnixListener),
}

impl PassedSockets {
    /// With the names of LISTEN_FDNAMES; names may repeat.
    pub fn new(sockets: Vec<(Box<str>, PassedSocket)>) -> Self {
        Self(sockets)
    }

    /// The `nth` (from 0) socket of this name, ready to accept.
    ///
    /// # Errors
    /// `NotFound` if fewer were passed under this name.
    pub fn open(&self, name: &str, nth: usize) -> io::Result<ListeningSocket> {
        let named = self.0.iter().filter(|(its, _)| **its == *name).map(|(_, socket)| socket);
        match named.clone().nth(nth) {
            Some(PassedSocket::Tcp(listener)) => {
                let listener = listener.try_clone()?;
                listener.set_nonblocking(true)?;
                set_inherited(&SockRef::from(&listener))?;
                ListeningSocket::tcp(tokio::net::TcpListener::from_std(listener)?)
            }
            Some(PassedSocket::Unix(listener)) => Ok(ListeningSocket::Unix(UnixSocket::passed(listener.try_clone()?)?)),
            None => Err(io::Error::new(io::ErrorKind::NotFound, self.missing(name, named.count()))),
        }
    }

    fn missing(&self, name: &str, named: usize) -> String {
        match (named, &*self.0) {
            (_, []) => "no sockets were passed to this process (LISTEN_FDS)".to_owned(),
            (0, passed) => {
                let names: Vec<&str> = passed.iter().map(|(name, _)| &**name).collect();
                format!("no socket named {name} was passed (LISTEN_FDNAMES: {})", names.join(":"))
            }
            (named, _) => format!("{named} sockets named {name} were passed, and more listeners ask for one"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_are_found_by_name_and_order_and_stay() {
        let sockets = [1, 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
        let passed =
            PassedSockets::new(sockets.map(|socket| ("web".into(), PassedSocket::Tcp(socket))).into_iter().collect());
        for _ in 0..2 {
            for (nth, address) in addresses.iter().enumerate() {
                assert_eq!(passed.open("web", nth).unwrap().address().inet(), Some(*address));
            }
        }
        let fault = |name, nth| passed.open(name, nth).unwrap_err().to_string();
        assert_eq!(fault("web", 2), "2 sockets named web were passed, and more listeners ask for one");
        assert_eq!(fault("db", 0), "no socket named db was passed (LISTEN_FDNAMES: web:web)");
    }
}
