//! The `sni` listener: TLS is forwarded by its server name, never terminated.
//!
//! The ClientHello is read as it comes and replayed to the upstream byte for byte. There is nobody to send a status to: a refused
//! client gets the alert `unrecognized_name`, one that does not speak TLS nothing.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use super::admission::Admitted;
use super::{Accepted, ListenerSettings, closing};
use crate::account::{AccessRecord, Share, metrics};
use crate::flow::{Ask, Ending, ErrorType, Failure, Flow, Host, Limit, Outcome, Source, Target};
use crate::route::Route;
use crate::route::consistency::Judgement;
use crate::stream::Stream;
use crate::stream::client_hello::{self, ClientHello, HelloError, ServerName};
use crate::tls::UNRECOGNIZED_NAME_ALERT;
use crate::tunnel::exchange::read_more;
use crate::tunnel::patience::Patience;
use crate::tunnel::{Opened, Opening, Proxy};

/// Serves one client connection: on return it is refused, or a task of its own relays it.
pub fn serve(proxy: Arc<Proxy>, accepted: Accepted) -> impl Future<Output = ()> + Send {
    let Accepted { stream, source, settings, admitted } = accepted;
    let patience = Patience::default();
    let (source, share) = (Arc::new(source), admitted.share().clone());
    let connection = Connection { proxy, settings, source, share, stream, buf: BytesMut::new(), patience };
    connection.serve(admitted)
}

const HELLO_TIME: Duration = Duration::from_secs(5); // clients speak first and at once; slower ones hold a socket open

/// A client's connection until it is a tunnel.
struct Connection {
    proxy: Arc<Proxy>,
    settings: Arc<ListenerSettings>,
    source: Arc<Source>,
    share: Arc<Share>,
    stream: Stream,
    buf: BytesMut,
    patience: Patience,
}

/// What came of waiting for a hello.
enum Arrived {
    Hello(ClientHello),
    /// Bytes that are none, or not in time.
    Refused(Refused),
    /// Nothing, before the client left or the drain began: a probe of the port is no flow.
    Nobody,
}

/// Why a connection is not forwarded, and how it ends.
#[derive(Debug, PartialEq)]
struct Refused {
    failure: Failure,
    /// The client speaks TLS: it is told by an alert.
    alert: bool,
}

impl Connection {
    async fn serve(mut self, admitted: Admitted) {
        let arrived = match self.settings.admit_client(&self.source) {
            Ok(()) => self.arrival().await,
            Err(failure) => Arrived::Refused(Refused::by_alert(failure)),
        };
        let hello = match arrived {
            Arrived::Hello(hello) => hello,
            Arrived::Refused(refused) => {
                let record = self.proxy.account.record(&self.source);
                return self.refuse(record, refused).await;
            }
            Arrived::Nobody => return,
        };
        let mut record = self.proxy.account.record(&self.source);
        match self.open(&hello, &mut record).await {
            Ok(Some(opened)) => self.tunnel(opened, record, admitted),
            Ok(None) => record.finish(Outcome::Ended(Ending::DownstreamReset)),
            Err(failure) => self.refuse(record, Refused::by_alert(failure)).await,
        }
    }

    /// Reads until there is a hello, or it is known that there will be none.
    async fn arrival(&mut self) -> Arrived {
        let deadline = Instant::now() + HELLO_TIME.min(self.proxy.limits.load().head_time);
        loop {
            match client_hello::parse(&self.buf) {
                Ok(Some(hello)) => return Arrived::Hello(hello),
                Ok(None) => {}
                Err(error) => return Arrived::Refused(Refused::no_hello(error)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Arrived::Refused(Refused::too_late());
            }
            let silent = self.buf.is_empty();
            let read = tokio::select! {
                biased;
                read = read_more(&mut self.stream, &mut self.buf, &mut self.patience, left) => read,
                () = self.proxy.drain.draining(), if silent => return Arrived::Nobody,
            };
            match read {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Arrived::Refused(Refused::too_late());
                }
                Ok(0) | Err(_) if silent => return Arrived::Nobody,
                Ok(0) | Err(_) => return Arrived::Refused(Refused::cut_off()),
            }
        }
    }

    /// Routes by the server name and dials; `None` if the client resets its connection meanwhile.
    async fn open(&mut self, hello: &ClientHello, record: &mut AccessRecord) -> Result<Option<Opened>, Failure> {
        let name = &hello.server_name;
        match name {
            ServerName::Absent => {}
            ServerName::Host(name) => record.server_name(name.as_str()),
            ServerName::IpLiteral(ip) => record.server_name(&ip.to_string()),
            ServerName::Invalid(name) => record.server_name(&String::from_utf8_lossy(name)),
        }
        self.proxy.admit_request(&self.share)?;
        let target = target(name, self.settings.sni_port)?;
        let flow = Flow { source: &self.source, ask: Ask::Sni, target: target.clone() };
        let route = self.proxy.route(&flow, record)?;
        consistent(&route, hello, record)?;
        let (source, share) = (&self.source, &self.share);
        let opening = Opening { route: &route, source, share, target: &target, by_sni: true, received_via: None };
        tokio::select! {
            biased;
            opened = self.proxy.open(opening, record) => opened.map(Some),
            () = self.stream.reset() => Ok(None),
        }
    }

    /// Hands both streams to the relay, the hello first, as a small future of its own, so that this one can end.
    fn tunnel(self, opened: Opened, record: Box<AccessRecord>, admitted: Admitted) {
        let downstream = self.stream.with_prefix(self.buf.freeze());
        let tunnel = self.proxy.tunnel(downstream, opened, record, admitted);
        self.proxy.drain.spawn(tunnel.relay());
    }

    /// Writes the line first: the client may take its time to go.
    async fn refuse(mut self, mut record: Box<AccessRecord>, refused: Refused) {
        let Refused { failure, alert } = refused;
        record.refused(&failure, 0);
        record.finish(Outcome::failed(failure.error, failure.log));
        if alert && self.stream.write_all(&UNRECOGNIZED_NAME_ALERT).await.is_ok() {
            closing::linger(&mut self.stream, &mut self.patience).await;
        }
    }
}

impl Refused {
    fn by_alert(failure: Failure) -> Self {
        Self { failure, alert: true }
    }

    fn no_hello(error: HelloError) -> Self {
        let kind = match error {
            HelloError::NotTls | HelloError::Malformed => ErrorType::BadRequest,
            HelloError::TooLong => ErrorType::HeadTooLarge,
        };
        Self { failure: Failure::new(kind, error.to_string()), alert: error != HelloError::NotTls }
    }

    fn too_late() -> Self {
        metrics::limit_reached(Limit::HeadTime);
        let failure = Failure::new(ErrorType::RequestTimeout, "the ClientHello was not complete in time");
        Self { failure, alert: false }
    }

    fn cut_off() -> Self {
        let failure = Failure::new(ErrorType::BadRequest, "the connection ended inside the ClientHello");
        Self { failure, alert: false }
    }
}

/// The name is the target, so all that can be wrong with a hello is its encryption, under `ech: deny`.
fn consistent(route: &Route, hello: &ClientHello, record: &mut AccessRecord) -> Result<(), Failure> {
    let Some(expected) = &route.expected else { return Ok(()) };
    let Judgement::Unfit(finding) = expected.judge_hello(hello) else { return Ok(()) };
    record.inconsistent(&finding, expected.is_enforced());
    record.refused_by(&expected.policy.origin.to_string());
    if expected.is_enforced() { Err(Failure::new(ErrorType::Inconsistent, finding.detail)) } else { Ok(()) }
}

/// What the client asks for. Without a name there is nothing to route by, and an address as SNI is nothing that TLS knows
/// (RFC 6066 §3): taking it for a target would let clients choose addresses where operators allow names.
fn target(name: &ServerName, port: u16) -> Result<Target, Failure> {
    match name {
        ServerName::Host(name) => Ok(Target { host: Host::Name(name.clone()), port }),
        ServerName::Absent => Err(Failure::new(ErrorType::NotFound, "the ClientHello names no server")),
        ServerName::IpLiteral(_) => Err(Failure::new(ErrorType::BadRequest, "the server name is an address")),
        ServerName::Invalid(_) => Err(Failure::new(ErrorType::BadRequest, "the server name is not a DNS name")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::flow::Name;

    #[test]
    fn a_server_name_becomes_a_target_with_the_listeners_port() {
        let name = ServerName::Host(Name::parse(b"api.example.com").unwrap());
        assert_eq!(target(&name, 443).unwrap().to_string(), "api.example.com:443");
        assert_eq!(target(&name, 8443).unwrap().port, 8443);
    }

    #[test]
    fn what_is_no_name_is_refused_with_a_reason() {
        let refused = |name: ServerName| target(&name, 443).unwrap_err().error;
        assert_eq!(refused(ServerName::Absent), ErrorType::NotFound);
        assert_eq!(refused(ServerName::IpLiteral("192.0.2.1".parse().unwrap())), ErrorType::BadRequest);
        let failure = target(&ServerName::Invalid(b"secret\0".as_slice().into()), 443).unwrap_err();
        assert_eq!((failure.error, &*failure.detail), (ErrorType::BadRequest, "the server name is not a DNS name"));
    }

    #[test]
    fn only_who_speaks_tls_gets_an_alert() {
        for (error, alert, kind) in [
            (HelloError::NotTls, false, ErrorType::BadRequest),
            (HelloError::Malformed, true, ErrorType::BadRequest),
            (HelloError::TooLong, true, ErrorType::HeadTooLarge),
        ] {
            let refused = Refused::no_hello(error);
            assert_eq!((refused.alert, refused.failure.error), (alert, kind), "{error}");
        }
        assert!(!Refused::too_late().alert && !Refused::cut_off().alert);
    }
}
