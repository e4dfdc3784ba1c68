//! The load generator: closed-loop clients in one thread, one file per shape of work.
//!
//! Every loop is bounded by a count; the caller bounds the time. A function here first opens what may be opened in advance,
//! calls `begin`, and only then does what is measured.

mod http2;
mod requests;
mod tunnels;

use std::cell::Cell;
use std::fmt::Display;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) use http2::{h2_connects, h2_requests};
pub(crate) use requests::{handshakes, keep_alive, refusals};
pub(crate) use tunnels::{Held, bulk, connects, connects_by_name, hold, ping_pong};

use crate::origin::head_end;

/// Where a client enters, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entrance {
    pub(crate) address: SocketAddr,
    /// Ask for the target by CONNECT; otherwise whoever connects is taken to the one target there is.
    pub(crate) connect: bool,
}

/// What the clients saw.
pub(crate) struct Seen {
    pub(crate) operations: u64,
    pub(crate) bytes: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Nanoseconds per operation.
    pub(crate) latency: Histogram<u64>,
}

impl Seen {
    fn new() -> Self {
        let latency =
            Histogram::new_with_bounds(1, LATENCY_MAX.as_nanos() as u64, 3).expect("constant bounds are valid");
        Self { operations: 0, bytes: 0, errors: 0, first_error: None, latency }
    }

    /// Work that could not even begin.
    pub(crate) fn failed(error: &std::io::Error) -> Self {
        let mut seen = Self::new();
        seen.failure(error);
        seen
    }

    fn success(&mut self, took: Duration) {
        self.operations += 1;
        self.latency.saturating_record(took.as_nanos() as u64);
    }

    fn failure(&mut self, error: &std::io::Error) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    fn merge(mut self, other: Self) -> Self {
        self.operations += other.operations;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.first_error = self.first_error.or(other.first_error);
        self.latency.add(other.latency).expect("both have the same bounds");
        self
    }
}

/// Operations left to do, shared by the clients of a round.
#[derive(Clone)]
struct Budget(Rc<Cell<u64>>);

impl Budget {
    fn new(operations: u64) -> Self {
        Self(Rc::new(Cell::new(operations)))
    }

    fn take(&self) -> Option<u64> {
        let left = self.0.get().checked_sub(1)?;
        self.0.set(left);
        Some(left)
    }
}

/// One client connection with what was read of it and not yet used.
struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    async fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Opens a tunnel to `target`; on return the proxy's 200 has been read.
    async fn tunnel(entrance: Entrance, target: impl Display) -> std::io::Result<Self> {
        let mut wire = Self::open(entrance.address).await?;
        if entrance.connect {
            wire.connect(target).await?;
        }
        Ok(wire)
    }

    async fn connect(&mut self, target: impl Display) -> std::io::Result<()> {
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        match self.head().await?.status {
            200 => Ok(()),
            status => Err(std::io::Error::other(format!("CONNECT was answered {status}"))),
        }
    }

    /// Sends `request` and reads the whole answer.
    async fn exchange(&mut self, request: &[u8]) -> std::io::Result<u16> {
        self.stream.write_all(request).await?;
        let head = self.head().await?;
        self.body(head.content_length).await?;
        Ok(head.status)
    }

    async fn head(&mut self) -> std::io::Result<Head> {
        loop {
            if let Some(end) = head_end(&self.buffer) {
                let head = Head::parse(&self.buffer[..end]);
                self.buffer.drain(..end);
                return head.ok_or_else(|| std::io::Error::other("an answer that is not HTTP/1, or is chunked"));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads `content_length` bytes of body, or to the end of the connection.
    async fn body(&mut self, content_length: Option<usize>) -> std::io::Result<()> {
        while content_length.is_none_or(|length| self.buffer.len() < length) {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return match content_length {
                    Some(_) => Err(std::io::ErrorKind::UnexpectedEof.into()),
                    None => Ok(()),
                };
            }
        }
        self.buffer.drain(..content_length.unwrap_or(0));
        Ok(())
    }
}

/// What the clients want to know of an answer's head.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    content_length: Option<usize>,
}

impl Head {
    /// `None` for what is not HTTP/1 and for chunked bodies: no contestant chunks the origin's small answer.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
        let mut content_length = None;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                content_length = Some(value.trim().parse().ok()?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                return None;
            }
        }
        Some(Self { status, content_length })
    }
}

const LATENCY_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_status_and_length() {
        let parsed = Head::parse(b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 14\r\n\r\n");
        assert_eq!(parsed, Some(Head { status: 200, content_length: Some(14) }));
        let parsed = Head::parse(b"HTTP/1.0 403 Forbidden\r\n\r\n");
        assert_eq!(parsed, Some(Head { status: 403, content_length: None }));
    }

    #[test]
    fn what_the_clients_cannot_read_is_no_head() {
        for bytes in
            ["SSH-2.0-x\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 20\r\n\r\n"]
        {
            assert_eq!(Head::parse(bytes.as_bytes()), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_budget_ends() {
        let budget = Budget::new(2);
        assert_eq!([budget.take(), budget.clone().take(), budget.take()], [Some(1), Some(0), None]);
    }
}
