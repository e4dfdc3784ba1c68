//! Asking the admin port of a running proxy: one request per connection, within a time limit, over TCP or a unix socket.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::args::AdminArgs;
use crate::app;
use crate::config::settings::Admin;
use crate::config::{Diagnostics, Settings, Source};

/// Where an admin port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AdminPort {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The admin port of one proxy, and what lets us change something there.
#[derive(Debug)]
pub(super) struct AdminClient {
    port: AdminPort,
    token: Option<PathBuf>,
}

/// What came back, whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum AskError {
    #[error("--admin: {0:?} is neither an address with port such as 127.0.0.1:15000 nor unix:/path")]
    NoAddress(String),
    #[error("the proxy has no admin port (`off`)")]
    Off,
    #[error("{}: the settings cannot be read: {reason}", .path.display())]
    Settings { path: PathBuf, reason: String },
    #[error("{}: the token of the admin port: {reason}", .path.display())]
    Token { path: PathBuf, reason: String },
    #[error("admin port {port}: {}", app::chain(.source))]
    Io { port: AdminPort, source: io::Error },
    #[error("admin port {port}: what answers there does not speak HTTP")]
    NotHttp { port: AdminPort },
}

const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024; // a list of 100,000 tunnels has half of it

impl AdminClient {
    /// What `--admin` and `--token-file` say; else the settings; else the default.
    ///
    /// # Errors
    /// If that is no address, or the settings are needed and cannot be read.
    pub(super) fn find(args: &AdminArgs) -> Result<Self, AskError> {
        let settings = match &args.config {
            Some(path) if args.admin.is_none() || args.token_file.is_none() => read_settings(path),
            _ => Ok(Settings::default()),
        };
        let (port, token) = match (&args.admin, settings) {
            (Some(text), settings) => {
                (AdminPort::parse(text)?, settings.ok().and_then(|settings| settings.admin_token))
            }
            (None, settings) => {
                let settings = settings?;
                (AdminPort::of(&settings.admin)?, settings.admin_token)
            }
        };
        Ok(Self { port, token: args.token_file.clone().or(token.map(|token| token.value)) })
    }

    /// The answer to a GET. `limit` bounds all of it.
    ///
    /// # Errors
    /// If nobody answers in time, or no HTTP.
    pub(super) fn get(&self, path: &str, limit: Duration) -> Result<Answer, AskError> {
        self.ask(&format!("GET {path}"), "", limit)
    }

    /// The answer to a POST that changes something, sent with the token if there is one.
    ///
    /// # Errors
    /// As [`Self::get`]; or if the token cannot be read.
    pub(super) fn post(&self, path: &str, limit: Duration) -> Result<Answer, AskError> {
        let mut fields = "Content-Length: 0\r\n".to_owned();
        if let (AdminPort::Tcp(_), Some(file)) = (&self.port, &self.token) {
            let failed = |reason: String| AskError::Token { path: file.clone(), reason };
            let token = std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
            let token = token.trim_end();
            if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(failed("a token is one line of visible ASCII characters without spaces".to_owned()));
            }
            fields += &format!("Authorization: Bearer {token}\r\n");
        }
        self.ask(&format!("POST {path}"), &fields, limit)
    }

    fn ask(&self, what: &str, fields: &str, limit: Duration) -> Result<Answer, AskError> {
        let failed = |source| AskError::Io { port: self.port.clone(), source };
        let answer = self.port.exchange(what, fields, limit).map_err(failed)?;
        Answer::parse(&answer).ok_or_else(|| AskError::NotHttp { port: self.port.clone() })
    }
}

/// Mistakes in the settings are not ours to report: the proxy runs, or does not, with what it could read.
fn read_settings(path: &Path) -> Result<Settings, AskError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| AskError::Settings { path: path.to_owned(), reason: error.to_string() })?;
    let source = Arc::new(Source::new(path.display().to_string(), text));
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(Settings::read(source, folder, &mut Diagnostics::default()))
}

impl AdminPort {
    fn parse(text: &str) -> Result<Self, AskError> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(_) => Err(AskError::NoAddress(text.to_owned())),
            None if text == "off" => Err(AskError::Off),
            None => text.parse().map(Self::local).map_err(|_| AskError::NoAddress(text.to_owned())),
        }
    }

    fn of(admin: &Admin) -> Result<Self, AskError> {
        match admin {
            Admin::Off => Err(AskError::Off),
            Admin::Address(address) => Ok(Self::local(*address)),
            Admin::Unix(path) => Ok(Self::Unix(path.clone())),
        }
    }

    /// A port that is bound to every address is reached through loopback.
    fn local(mut address: SocketAddr) -> Self {
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        Self::Tcp(address)
    }

    fn exchange(&self, what: &str, fields: &str, limit: Duration) -> io::Result<Vec<u8>> {
        let end = Instant::now() + limit;
        let mut socket = Socket::connect(self, limit)?;
        // HTTP/1.0: the answer ends with the connection, and is never chunked.
        let host = if let Self::Tcp(address) = self { address.to_string() } else { "localhost".to_owned() };
        let request = format!("{what} HTTP/1.0\r\nHost: {host}\r\n{fields}\r\n");
        socket.set_limit(end)?;
        socket.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            socket.set_limit(end)?;
            match socket.read(&mut buffer).map_err(timed_out)? {
                0 => return Ok(answer),
                read if answer.len() as u64 + read as u64 > ANSWER_BYTES_MAX => {
                    return Err(io::Error::other("the answer is too large"));
                }
                read => answer.extend_from_slice(&buffer[..read]),
            }
        }
    }
}

impl fmt::Display for AdminClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.port.fmt(f)
    }
}

impl fmt::Display for AdminPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(length) = head.parse(bytes).ok()? else { return None };
        Some(Self { status: head.code?, body: bytes[length..].to_vec() })
    }

    /// The body as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn connect(port: &AdminPort, limit: Duration) -> io::Result<Self> {
        match port {
            AdminPort::Tcp(address) => TcpStream::connect_timeout(address, limit).map(Self::Tcp).map_err(timed_out),
            AdminPort::Unix(path) => UnixStream::connect(path).map(Self::Unix),
        }
    }

    /// Reads and writes from now on fail at `end`.
    fn set_limit(&self, end: Instant) -> io::Result<()> {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(timed_out(io::ErrorKind::TimedOut.into()));
        }
        match self {
            Self::Tcp(tcp) => tcp.set_read_timeout(Some(left)).and_then(|()| tcp.set_write_timeout(Some(left))),
            Self::Unix(unix) => unix.set_read_timeout(Some(left)).and_then(|()| unix.set_write_timeout(Some(left))),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.read(buffer),
            Self::Unix(unix) => unix.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.write(bytes),
            Self::Unix(unix) => unix.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The kernel says EAGAIN where a limit of ours ran out.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
        }
        _ => error,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn find(admin: Option<&str>, config: Option<&Path>) -> Result<String, String> {
        let args = AdminArgs { admin: admin.map(Into::into), config: config.map(Into::into), token_file: None };
        AdminClient::find(&args).map(|client| client.port.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_flag_beats_the_settings_and_these_beat_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("egret.yaml");
        std::fs::write(&settings, "admin: { address: '0.0.0.0:9' }\nno: such key\n").unwrap();
        assert_eq!(find(None, None).unwrap(), "127.0.0.1:15000");
        assert_eq!(find(None, Some(&settings)).unwrap(), "127.0.0.1:9");
        assert_eq!(find(Some("[::]:8"), Some(&settings)).unwrap(), "[::1]:8");
        assert_eq!(find(Some("unix:/run/a.sock"), None).unwrap(), "unix:/run/a.sock");
        std::fs::write(&settings, "admin: { address: 'unix:a.sock' }\n").unwrap();
        assert_eq!(find(None, Some(&settings)).unwrap(), format!("unix:{}", folder.path().join("a.sock").display()));
        std::fs::write(&settings, "admin: off\n").unwrap();
        assert!(find(None, Some(&settings)).unwrap_err().contains("no admin port"));
        for wrong in ["unix:", "localhost", "15000"] {
            assert!(find(Some(wrong), None).unwrap_err().starts_with("--admin: "), "{wrong}");
        }
        assert!(find(None, Some(&folder.path().join("missing"))).unwrap_err().contains("cannot be read"));
    }

    /// What `get` makes of a peer that answers with these bytes.
    fn answered(bytes: &'static [u8], closes: bool) -> Result<Answer, AskError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = AdminPort::Tcp(listener.local_addr().unwrap());
        let client = AdminClient { port, token: None };
        let peer = std::thread::spawn(move || {
            let (mut tcp, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let read = tcp.read(&mut request).unwrap();
            assert!(request[..read].starts_with(b"GET /readyz HTTP/1.0\r\nHost: 127.0.0.1:"));
            tcp.write_all(bytes).unwrap();
            // The other side gives up, and closes, where we do not.
            if !closes {
                let _ = tcp.read(&mut request);
            }
        });
        let answer = client.get("/readyz", Duration::from_millis(if closes { 10_000 } else { 100 }));
        peer.join().unwrap();
        answer
    }

    #[test]
    fn an_answer_is_read_to_its_end_and_one_that_does_not_end_is_none() {
        let answer = answered(b"HTTP/1.0 503 Service Unavailable\r\n\r\ndraining\n", true).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (503, "draining\n"));
        let error = answered(b"HTTP/1.0 200 OK\r\n\r\nre", false).unwrap_err().to_string();
        assert!(error.ends_with("no answer in time"), "{error}");
        for bytes in [&b"SSH-2.0-OpenSSH\r\n"[..], b"", b"HTTP/1.1 200 OK\r\nContent-"] {
            assert!(matches!(answered(bytes, true), Err(AskError::NotHttp { .. })), "{bytes:?}");
        }
    }

    #[test]
    fn a_port_that_nobody_listens_on_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let ask = |port| AdminClient { port, token: None }.get("/", Duration::from_secs(5)).unwrap_err();
        let error = ask(AdminPort::Tcp(address)).to_string();
        assert!(error.contains(&address.to_string()) && error.contains("refused"), "{error}");
        let error = ask(AdminPort::Unix("/nowhere/a.sock".into()));
        assert!(error.to_string().starts_with("admin port unix:/nowhere/a.sock: "), "{error}");
    }
}
