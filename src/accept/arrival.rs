//! What comes before a client's first request where its listener asks for it: a PROXY header, then a TLS handshake. Both together are
//! over within `limits.headTime`. Listeners that ask for neither never come here.
//!
//! What was negotiated stands in [`Source::transport`]; the stream then speaks what ALPN chose, or what its first bytes say.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::admission::Admitted;
use super::proxy_protocol::{self, Begins};
use super::{Accepted, ListenerSettings};
use crate::account::metrics::{self, Handshake, ProxyHeader};
use crate::flow::{ErrorType, Failure, Identity, Outcome, Source, Transport};
use crate::stream::Stream;
use crate::stream::sniff::{Sniffed, sniff};
use crate::tls::server::{AcceptError, AcceptErrorKind, ServerTls};
use crate::tunnel::answer::{self, Answering};
use crate::tunnel::exchange::read_more;
use crate::tunnel::patience::Patience;
use crate::tunnel::{Proxy, closing};

/// Brings a connection to its first request and serves it from there in a task of its own.
pub(super) async fn serve(proxy: Arc<Proxy>, accepted: Accepted) {
    let Accepted { stream, source, settings, admitted } = accepted;
    let deadline = Instant::now() + proxy.limits.load().head_time;
    let (buf, patience) = (BytesMut::new(), Patience::default());
    let mut arrival = Arrival { proxy, settings, source, admitted, stream: Some(stream), buf, patience, deadline };
    match arrival.arrive().await {
        Ok(()) => arrival.go_on(),
        Err(End::Nobody) => {}
        Err(End::Refused(failure, farewell)) => arrival.refuse(failure, farewell).await,
    }
}

struct Arrival {
    proxy: Arc<Proxy>,
    settings: Arc<ListenerSettings>,
    source: Source,
    admitted: Admitted,
    /// `None` while the TLS session has it, and after a handshake that took too long.
    stream: Option<Stream>,
    /// Read and not yet understood.
    buf: BytesMut,
    patience: Patience,
    deadline: Instant,
}

/// Why there is no first request.
enum End {
    /// The client left, or the drain began, before it said anything: a probe of the port is no flow.
    Nobody,
    Refused(Failure, Farewell),
}

/// How a refused client is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Farewell {
    /// Not at all.
    Close,
    /// By the alert that the TLS session sent.
    Alert,
    /// In words: it speaks plain HTTP.
    Answer,
}

/// What came of waiting for bytes.
enum More {
    Bytes,
    /// The client is gone, or we are draining and it has said nothing.
    Gone,
    TooLate,
}

impl Arrival {
    async fn arrive(&mut self) -> Result<(), End> {
        if let Some(balancers) = &self.settings.proxy_protocol {
            match balancers.contains(self.source.peer.ip()) {
                true => self.proxy_header().await?,
                false => self.no_proxy_header().await?,
            }
        }
        match self.settings.tls.clone() {
            Some(tls) => self.handshake(&tls).await,
            None => Ok(()),
        }
    }

    fn go_on(self) {
        let Self { proxy, settings, source, admitted, stream, buf, .. } = self;
        let Some(stream) = stream else { return };
        let stream = if buf.is_empty() { stream } else { stream.with_prefix(buf.freeze()) };
        Accepted { stream, source, settings, admitted }.serve(&proxy);
    }

    /// Reads the header of a peer that has to send one.
    async fn proxy_header(&mut self) -> Result<(), End> {
        loop {
            match proxy_protocol::parse(&self.buf) {
                Ok(Some(header)) => {
                    self.buf.advance(header.length);
                    return self.speaks_for(header.addresses);
                }
                Ok(None) => {}
                Err(error) => {
                    metrics::proxy_header(ProxyHeader::Malformed);
                    return Err(End::closed(ErrorType::BadRequest, error.to_string()));
                }
            }
            match self.more().await {
                More::Bytes => {}
                More::Gone if self.buf.is_empty() => return Err(End::Nobody),
                More::Gone => {
                    metrics::proxy_header(ProxyHeader::Malformed);
                    return Err(End::closed(ErrorType::BadRequest, "the connection ended inside the PROXY header"));
                }
                More::TooLate => {
                    metrics::proxy_header(ProxyHeader::TimedOut);
                    return Err(End::closed(ErrorType::RequestTimeout, "the PROXY header was not complete in time"));
                }
            }
        }
    }

    /// From here the connection is the client's; only now is it counted as one of the client's.
    fn speaks_for(&mut self, addresses: Option<(SocketAddr, SocketAddr)>) -> Result<(), End> {
        metrics::proxy_header(if addresses.is_some() { ProxyHeader::Accepted } else { ProxyHeader::Local });
        if let Some((from, to)) = addresses {
            (self.source.peer, self.source.local) = (from, to);
        }
        let limits = self.proxy.limits.load();
        let client = limits.client(self.source.peer.ip());
        self.admitted.assign(client, limits.connections_per_client).map_err(|_| End::Nobody) // as without a balancer: a client over its bound gets no answer
    }

    /// Makes sure that a peer which is nobody's balancer does not claim to be one. Its own protocol judges all else that it says.
    async fn no_proxy_header(&mut self) -> Result<(), End> {
        loop {
            match proxy_protocol::may_begin(&self.buf) {
                Begins::More => {}
                Begins::No => return Ok(()),
                Begins::Line | Begins::Binary => {
                    metrics::proxy_header(ProxyHeader::Refused);
                    let detail = format!("{} may not send a PROXY header", self.source.peer.ip().to_canonical());
                    return Err(End::closed(ErrorType::ClientDenied, detail));
                }
            }
            match self.more().await {
                More::Bytes => {}
                More::Gone | More::TooLate if self.buf.is_empty() => return Err(End::Nobody),
                More::Gone | More::TooLate => return Ok(()),
            }
        }
    }

    async fn handshake(&mut self, tls: &ServerTls) -> Result<(), End> {
        self.hello().await?;
        let hello = self.buf.split().freeze();
        let Some(stream) = self.stream.take().map(|stream| stream.with_prefix(hello)) else { return Err(End::Nobody) };
        let left = self.deadline.saturating_duration_since(Instant::now());
        // Boxed: its state would make the task of every such connection larger for as long as the header and the hello take.
        let shaken = self.patience.within(left.max(LEAST_WAIT), Box::pin(tls.accept(stream))).await;
        match shaken {
            Ok(Ok((stream, session))) => {
                metrics::handshake(Handshake::Completed);
                self.stream = Some(stream);
                if let Some(certificate) = &session.certificate {
                    let identity = Identity::Certificate(certificate.name.clone());
                    self.source.workload = self.settings.workloads.of(&identity);
                    self.source.identity = Some(Box::new(identity));
                }
                self.source.transport = Transport::Tls(Arc::new(session));
                Ok(())
            }
            Ok(Err(error)) => {
                let AcceptError { kind, sentence, stream } = *error;
                self.stream = Some(stream);
                Err(failed(kind, &sentence))
            }
            Err(_) => Err(too_late()),
        }
    }

    /// Waits until it is known that the client speaks TLS. The session reads these bytes next, so that this costs nothing, and who
    /// speaks plain HTTP can be told so in words.
    async fn hello(&mut self) -> Result<(), End> {
        loop {
            match sniff(&self.buf) {
                Sniffed::Tls => return Ok(()),
                Sniffed::More => {}
                other => {
                    metrics::handshake(Handshake::NotTls);
                    let http = other == Sniffed::Http1 || self.buf.starts_with(b"CONNECT ");
                    let farewell = if http { Farewell::Answer } else { Farewell::Close };
                    let detail = "this port speaks TLS: write https:// before the proxy's name";
                    return Err(End::Refused(Failure::new(ErrorType::BadRequest, detail), farewell));
                }
            }
            match self.more().await {
                More::Bytes => {}
                More::Gone => {
                    metrics::handshake(Handshake::ClientGone);
                    return Err(End::Nobody);
                }
                More::TooLate => return Err(too_late()),
            }
        }
    }

    async fn more(&mut self) -> More {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let Some(stream) = self.stream.as_mut().filter(|_| !left.is_zero()) else { return More::TooLate };
        let silent = self.buf.is_empty();
        let read = tokio::select! {
            biased;
            read = read_more(stream, &mut self.buf, &mut self.patience, left) => read,
            () = self.proxy.drain.draining(), if silent => return More::Gone,
        };
        match read {
            Ok(1..) => More::Bytes,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => More::TooLate,
            Ok(0) | Err(_) => More::Gone,
        }
    }

    /// Writes the line first: the client may take its time to go.
    async fn refuse(mut self, failure: Failure, farewell: Farewell) {
        let mut record = self.proxy.account.record(&Arc::new(self.source));
        let answer = (farewell == Farewell::Answer).then(|| {
            let (via, request_id) = (self.proxy.via.load(), record.ensure_request_id());
            answer::refusal(&failure, &Answering::bare(&via.name, &request_id))
        });
        record.refused(&failure, if answer.is_some() { failure.error.row().status } else { 0 });
        record.moved(0, answer.as_ref().map_or(0, |answer| answer.body_bytes));
        record.finish(Outcome::failed(failure.error, failure.log));
        let Some(mut stream) = self.stream.filter(|_| farewell != Farewell::Close) else { return };
        let limit = self.proxy.limits.load().body_idle;
        let told = self
            .patience
            .within(limit, stream.write_all(answer.as_ref().map_or(&[][..], |answer| &answer.bytes)))
            .await;
        if matches!(told, Ok(Ok(()))) {
            closing::linger(&mut stream, &mut self.patience).await;
        }
    }
}

const LEAST_WAIT: Duration = Duration::from_millis(1); // zero would be no limit

impl End {
    fn closed(error: ErrorType, detail: impl Into<Box<str>>) -> Self {
        Self::Refused(Failure::new(error, detail), Farewell::Close)
    }
}

fn too_late() -> End {
    metrics::handshake(Handshake::TimedOut);
    End::closed(ErrorType::RequestTimeout, "the TLS handshake was not complete in time")
}

fn failed(kind: AcceptErrorKind, sentence: &str) -> End {
    let (counted, error) = match kind {
        AcceptErrorKind::ClientGone => (Handshake::ClientGone, ErrorType::BadRequest),
        AcceptErrorKind::NoCertificate => (Handshake::NoCertificate, ErrorType::ClientDenied),
        AcceptErrorKind::BadCertificate => (Handshake::BadCertificate, ErrorType::ClientDenied),
        AcceptErrorKind::Protocol => (Handshake::Failed, ErrorType::BadRequest),
    };
    metrics::handshake(counted);
    let farewell = match kind {
        AcceptErrorKind::ClientGone => Farewell::Close,
        _ => Farewell::Alert, // it is out; a reset must not overtake it
    };
    End::Refused(Failure::new(error, format!("TLS handshake: {sentence}")), farewell)
}
