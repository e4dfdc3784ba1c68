//! CONNECT: a tunnel of copied bytes, or one that we serve from the inside.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::{Connection, Hold, Inside};
use crate::account::{AccessRecord, Requested};
use crate::flow::{Ask, Ending, Failure, Flow, Outcome, Target};
use crate::http1::RequestHead;
use crate::route::{Route, TunnelKind};
use crate::stream::sniff::{Sniffed, sniff};
use crate::tunnel::exchange::read_more;
use crate::tunnel::{Opened, Opening, headers};

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection Established\r\n\r\n"; // no length: RFC 9110 §9.3.6
const SNIFF_TIME: Duration = Duration::from_secs(5);

/// What a CONNECT became.
enum Connected {
    /// Bytes will be copied between the client and this.
    Tunnel(Opened),
    /// `200` goes out at once.
    Inside(Route),
    /// The client went away during the dial.
    ClientGone,
}

/// The record of a tunnel inside of which a request switched protocols: its line is written when the inner flow is over.
struct Around(Option<Box<AccessRecord>>);

impl Drop for Around {
    fn drop(&mut self) {
        if let Some(record) = self.0.take() {
            record.finish(Outcome::Complete);
        }
    }
}

impl Connection {
    /// Serves a CONNECT; gives the connection back where HTTP follows on it.
    pub(super) async fn connect(mut self: Box<Self>, head: RequestHead, target: Target) -> Option<Box<Self>> {
        let mut record = self.client().record(&head, Requested::Tunnel(&target));
        let connected = match self.client().admit(&head, self.inside.is_some(), &mut record).await {
            Ok(source) => {
                self.source = source;
                self.open(&head, &target, &mut record).await
            }
            Err(failure) => Err(failure),
        };
        match connected {
            Ok(Connected::Tunnel(opened)) => {
                drop(head);
                record.answered(200, "via_upstream");
                if self.tell(ESTABLISHED).await {
                    self.tunnel(opened, record);
                } else {
                    record.finish(Outcome::Ended(Ending::DownstreamReset));
                }
                None
            }
            Ok(Connected::Inside(route)) => Box::pin(self.go_inside(target, route, record)).await,
            Ok(Connected::ClientGone) => {
                record.finish(Outcome::Ended(Ending::DownstreamReset));
                None
            }
            Err(failure) => match self.refuse(&head, record, failure).await {
                super::After::Next => Some(self),
                _ => None,
            },
        }
    }

    async fn open(
        &mut self,
        head: &RequestHead,
        target: &Target,
        record: &mut AccessRecord,
    ) -> Result<Connected, Failure> {
        let Self { proxy, source, share, stream, .. } = self;
        let flow = Flow { source, ask: Ask::Connect, target: target.clone() };
        let route = proxy.route(&flow, record)?;
        if route.tunnel != TunnelKind::Opaque {
            return Ok(Connected::Inside(route));
        }
        let via = headers::received_via(head);
        let opening = Opening { route: &route, source, share, target, by_sni: false, received_via: via.as_deref() };
        tokio::select! {
            biased;
            opened = proxy.open(opening, record) => Ok(Connected::Tunnel(opened?)),
            () = stream.reset() => Ok(Connected::ClientGone),
        }
    }

    fn opening<'a>(&'a self, route: &'a Route, target: &'a Target) -> Opening<'a> {
        Opening { route, source: &self.source, share: &self.share, target, by_sni: false, received_via: None }
    }

    /// Hands both streams to the relay, as a small future of its own, so that this one can end.
    pub(super) fn tunnel(mut self: Box<Self>, opened: Opened, record: Box<AccessRecord>) {
        let early = std::mem::take(&mut self.buf).freeze();
        let downstream = self.stream.with_prefix(early);
        match (self.hold, self.inside) {
            (Hold::Connection(admitted), None) => {
                let tunnel = self.proxy.tunnel(downstream, opened, record, admitted);
                self.proxy.drain.spawn(tunnel.relay());
            }
            (hold, inside) => {
                let hold = (hold, Around(inside.map(|inside| inside.record)));
                let tunnel = self.proxy.tunnel(downstream, opened, record, hold);
                self.proxy.drain.spawn(tunnel.relay());
            }
        }
    }

    /// `200` first; what the client then speaks decides where the routes leave it open.
    async fn go_inside(
        mut self: Box<Self>,
        target: Target,
        route: Route,
        mut record: Box<AccessRecord>,
    ) -> Option<Box<Self>> {
        record.answered(200, "terminated");
        if !self.tell(ESTABLISHED).await {
            record.finish(Outcome::Ended(Ending::DownstreamReset));
            return None;
        }
        self.inside(target, route, record).await
    }

    /// Serves the inside of a tunnel whose `200` is out, to its end.
    pub(super) async fn serve_inside(self: Box<Self>, target: Target, route: Route, record: Box<AccessRecord>) {
        if let Some(inside) = self.inside(target, route, record).await {
            inside.serve().await;
        }
    }

    async fn inside(
        mut self: Box<Self>,
        target: Target,
        route: Route,
        mut record: Box<AccessRecord>,
    ) -> Option<Box<Self>> {
        self.requests = 0;
        match (&route.tunnel, self.first_bytes().await) {
            (_, Some(Sniffed::Http1)) => {}
            (TunnelKind::Detect(_), _) => {
                match self.proxy.open(self.opening(&route, &target), &mut record).await {
                    Ok(opened) => {
                        record.answered(200, "via_upstream"); // it is not served from the inside after all
                        self.tunnel(opened, record);
                    }
                    Err(failure) => record.finish(Outcome::failed(failure.error, failure.log)),
                }
                return None;
            }
            (_, None) => {
                self.stream.finish();
                record.finish(Outcome::Complete);
                return None;
            }
            (_, Some(_)) => {
                // Terminated, and no HTTP inside: there is nobody to send a status to any more.
                let failure = Failure::new(crate::flow::ErrorType::BadRequest, "the tunnel does not carry HTTP");
                record.finish(Outcome::failed(failure.error, failure.log));
                return None;
            }
        }
        if self.proxy.account.logs_starts() {
            record.opened();
        }
        let lined = Instant::now();
        self.inside = Some(Inside { target, record, lined });
        Some(self)
    }

    /// What the client speaks; `None` if it left without a word.
    async fn first_bytes(&mut self) -> Option<Sniffed> {
        loop {
            match sniff(&self.buf) {
                Sniffed::More => {}
                sniffed => return Some(sniffed),
            }
            match read_more(&mut self.stream, &mut self.buf, &mut self.patience, SNIFF_TIME).await {
                Ok(0) if self.buf.is_empty() => return None,
                Err(error) if self.buf.is_empty() && error.kind() != ErrorKind::TimedOut => return None,
                Ok(0) | Err(_) => return Some(Sniffed::Other),
                Ok(_) => {}
            }
        }
    }
}
