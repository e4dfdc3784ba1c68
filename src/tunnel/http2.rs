//! The client's side of one exchange over HTTP/2: a stream's answer, and the body of its request.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::body::{CopyError, Sink, Source, paused};
use super::downstream::{Downstream, Reply};
use super::exchange::ExchangeError;
use super::headers::{self, Inbound};
use super::patience::Patience;
use crate::flow::{ErrorType, Failure};
use crate::http1::body::{Decoded, Decoder};
use crate::http1::{BodyLength, ResponseHead, write};
use crate::route::http::changes::Changes;
use crate::stream::http2::{Http2Stream, SEND_BYTES_MAX, Window, WindowShare, broken, poll_capacity};
use crate::stream::{Sign, Stream};

/// A client of HTTP/2, for one exchange.
pub struct Http2<'r, 'b> {
    reply: &'r mut Http2Reply,
    body: Option<&'b mut Http2Body>,
}

impl<'r, 'b> Http2<'r, 'b> {
    /// Answers by `reply`; `body` is the request's.
    pub fn new(reply: &'r mut Http2Reply, body: &'b mut Http2Body) -> Self {
        Self { reply, body: Some(body) }
    }
}

/// The answer of one stream. Dropped before its end it resets the stream.
pub struct Http2Reply {
    respond: SendResponse<Bytes>,
    /// Once the head of the answer is out.
    send: Option<SendStream<Bytes>>,
    /// The last piece: END_STREAM goes with it, if it is known in time to be the last.
    held: Bytes,
    ended: bool,
    /// The `Sec-WebSocket-Accept` that an origin has to answer.
    accept: Option<Box<str>>,
}

impl Http2Reply {
    /// For a request that was read; `accept`: what the origin of a websocket has to answer to the key that was made up for it.
    pub fn new(respond: SendResponse<Bytes>, accept: Option<Box<str>>) -> Self {
        Self { respond, send: None, held: Bytes::new(), ended: false, accept }
    }

    /// Sends the head of an answer of ours; nothing follows it if `end`.
    ///
    /// # Errors
    /// [`CopyError::Write`] if the client is gone.
    pub fn head(&mut self, response: Response<()>, end: bool) -> Result<(), CopyError> {
        self.ended = end;
        self.send = Some(self.respond.send_response(response, end).map_err(gone)?);
        Ok(())
    }

    /// Resets the stream.
    pub fn reset(&mut self, reason: Reason) {
        self.ended = true;
        self.respond.send_reset(reason);
    }

    /// The stream as one of bytes, after an answer that opened it.
    pub fn into_stream(mut self, body: Http2Body) -> Option<Stream> {
        let (send, share) = (self.send.take()?, body.share?);
        self.ended = true; // what follows is the stream's to end
        Some(Http2Stream::new(send, body.recv, share).into())
    }

    async fn send(&mut self, data: Bytes, end: bool, patience: &mut Patience, idle: Duration) -> Result<(), CopyError> {
        let Some(send) = &mut self.send else { return Err(CopyError::Write(io::ErrorKind::NotConnected.into())) };
        send_pieces(send, data, end, &mut self.ended, patience, idle).await
    }
}

impl Drop for Http2Reply {
    fn drop(&mut self) {
        if !self.ended {
            self.respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

impl<'r, 'b> Downstream for Http2<'r, 'b> {
    type Body = &'b mut Http2Body;
    type Rest = Self;

    fn split(mut self, _: BodyLength) -> (Self::Body, Self::Rest) {
        let body = self.body.take().expect("a client that was not split before has its body");
        (body, self)
    }
}

impl Reply for Http2<'_, '_> {
    fn poll_sign(&mut self, cx: &mut Context<'_>) -> Poll<Sign> {
        match &mut self.reply.send {
            Some(send) => send.poll_reset(cx).map(|_| Sign::Reset),
            None => self.reply.respond.poll_reset(cx).map(|_| Sign::Reset),
        }
    }

    async fn reset(&mut self) {
        poll_fn(|cx| self.poll_sign(cx)).await;
    }

    async fn interim(&mut self, head: &ResponseHead, _: &mut Patience, _: Duration) -> Result<(), CopyError> {
        self.reply.respond.send_informational(response(head, None, None)?).map_err(gone)
    }

    async fn switch(
        &mut self,
        head: &ResponseHead,
        via: Option<&str>,
        _: &mut Patience,
        _: Duration,
    ) -> Result<(), ExchangeError> {
        // RFC 8441 §5: the key and its answer belong to HTTP/1; whoever made the key up has to look at the answer.
        let accepted = head.field("sec-websocket-accept").map(<[u8]>::trim_ascii);
        if accepted != self.reply.accept.as_deref().map(str::as_bytes) {
            let detail = "the origin accepted another websocket than was asked for (Sec-WebSocket-Accept)";
            return Err(ExchangeError::Failed(Failure::new(ErrorType::UpstreamProtocol, detail)));
        }
        let begun = response(head, via, None).and_then(|mut response| {
            *response.status_mut() = StatusCode::OK;
            response.headers_mut().remove("sec-websocket-accept");
            self.reply.head(response, false)
        });
        begun.map_err(|_| ExchangeError::ClientGone)
    }

    fn begin(&mut self, head: &ResponseHead, inbound: &Inbound<'_>) -> Result<(), CopyError> {
        let response = response(head, inbound.via, inbound.changes)?;
        self.reply.head(response, inbound.framing == BodyLength::None)
    }
}

impl Sink for Http2Reply {
    async fn data(&mut self, data: Bytes, patience: &mut Patience, idle: Duration) -> Result<(), CopyError> {
        let before = std::mem::replace(&mut self.held, data);
        self.send(before, false, patience, idle).await
    }

    async fn flush(&mut self, patience: &mut Patience, idle: Duration) -> Result<(), CopyError> {
        let held = std::mem::take(&mut self.held);
        self.send(held, false, patience, idle).await
    }

    async fn end(&mut self, trailers: Option<Bytes>, patience: &mut Patience, idle: Duration) -> Result<(), CopyError> {
        let held = std::mem::take(&mut self.held);
        let trailers = trailers.map(|lines| fields_of(&lines)).filter(|fields| !fields.is_empty() && !self.ended);
        self.send(held, trailers.is_none(), patience, idle).await?;
        if let (Some(trailers), Some(send)) = (trailers, &mut self.send) {
            self.ended = true;
            send.send_trailers(trailers).map_err(gone)?;
        }
        Ok(())
    }
}

impl Sink for Http2<'_, '_> {
    async fn data(&mut self, data: Bytes, patience: &mut Patience, idle: Duration) -> Result<(), CopyError> {
        self.reply.data(data, patience, idle).await
    }

    async fn flush(&mut self, patience: &mut Patience, idle: Duration) -> Result<(), CopyError> {
        self.reply.flush(patience, idle).await
    }

    async fn end(&mut self, trailers: Option<Bytes>, patience: &mut Patience, idle: Duration) -> Result<(), CopyError> {
        self.reply.end(trailers, patience, idle).await
    }
}

/// Hands `data` over as there is room; the last piece goes out with END_STREAM if `end`, which `ended` then says.
async fn send_pieces(
    send: &mut SendStream<Bytes>,
    mut data: Bytes,
    end: bool,
    ended: &mut bool,
    patience: &mut Patience,
    idle: Duration,
) -> Result<(), CopyError> {
    while !data.is_empty() {
        let room = patience.within(idle, poll_fn(|cx| poll_capacity(send, cx, data.len()))).await;
        let room = room.map_err(|_| paused())?.map_err(CopyError::Write)?;
        let piece = data.split_to(room.min(data.len()).min(SEND_BYTES_MAX));
        let last = end && data.is_empty();
        send.send_data(piece, last).map_err(gone)?;
        if last {
            *ended = true;
            return Ok(());
        }
    }
    if end && !*ended {
        *ended = true;
        send.send_data(Bytes::new(), true).map_err(gone)?;
    }
    Ok(())
}

/// Where the body of a request of ours goes. Dropped before its end it resets the stream.
pub(super) struct Sending {
    send: SendStream<Bytes>,
    /// The last piece: END_STREAM goes with it, if it is known in time to be the last.
    held: Bytes,
    ended: bool,
}

impl Sending {
    pub(super) fn new(send: SendStream<Bytes>) -> Self {
        Self { send, held: Bytes::new(), ended: false }
    }

    async fn send(&mut self, data: Bytes, end: bool, patience: &mut Patience, idle: Duration) -> Result<(), CopyError> {
        send_pieces(&mut self.send, data, end, &mut self.ended, patience, idle).await
    }
}

impl Sink for Sending {
    async fn data(&mut self, data: Bytes, patience: &mut Patience, idle: Duration) -> Result<(), CopyError> {
        let before = std::mem::replace(&mut self.held, data);
        self.send(before, false, patience, idle).await
    }

    async fn flush(&mut self, patience: &mut Patience, idle: Duration) -> Result<(), CopyError> {
        let held = std::mem::take(&mut self.held);
        self.send(held, false, patience, idle).await
    }

    async fn end(&mut self, trailers: Option<Bytes>, patience: &mut Patience, idle: Duration) -> Result<(), CopyError> {
        let held = std::mem::take(&mut self.held);
        let trailers = trailers.map(|lines| fields_of(&lines)).filter(|fields| !fields.is_empty());
        self.send(held, trailers.is_none(), patience, idle).await?;
        if let Some(trailers) = trailers {
            self.ended = true;
            self.send.send_trailers(trailers).map_err(gone)?;
        }
        Ok(())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.ended {
            self.send.send_reset(Reason::CANCEL);
        }
    }
}

/// The body of one stream's request, or of the answer to one of ours. Capacity goes back to the client as the other side takes bytes, so that at most a stream's window
/// of them waits here.
pub struct Http2Body {
    recv: RecvStream,
    /// Bytes that were given out and whose capacity the client does not have back yet.
    taken: usize,
    arrived: Option<Decoded>,
    /// Of a client's connection.
    share: Option<WindowShare>,
}

impl Http2Body {
    /// Of a request whose head was read, on a connection with this window.
    pub fn new(mut recv: RecvStream, window: &Arc<Window>) -> Self {
        let share = Some(window.share(&mut recv));
        Self { recv, taken: 0, arrived: None, share }
    }

    /// Of an answer to a request of ours.
    pub(super) fn of_answer(recv: RecvStream) -> Self {
        Self { recv, taken: 0, arrived: None, share: None }
    }
}

impl Source for &mut Http2Body {
    fn next(&mut self) -> Result<Decoded, CopyError> {
        Ok(self.arrived.take().unwrap_or(Decoded::More))
    }

    async fn fill(&mut self, _: usize) -> Result<(), CopyError> {
        let taken = std::mem::take(&mut self.taken);
        if taken > 0 {
            let _ = self.recv.flow_control().release_capacity(taken); // never more than was received
        }
        self.arrived = Some(match self.recv.data().await {
            Some(data) => {
                let data = data.map_err(|error| CopyError::Read(broken(error)))?;
                self.taken = data.len();
                Decoded::Data(data)
            }
            None => match self.recv.trailers().await.map_err(|error| CopyError::Read(broken(error)))? {
                Some(fields) => trailers(&fields)?,
                None => Decoded::End,
            },
        });
        Ok(())
    }

    fn window(&self) -> Option<&Window> {
        self.share.as_ref().map(|share| &**share.window())
    }
}

/// Trailers of HTTP/2 under the rules and bounds of those of HTTP/1.
fn trailers(fields: &HeaderMap) -> Result<Decoded, CopyError> {
    let mut section = BytesMut::from(&b"0\r\n"[..]);
    for (name, value) in fields {
        write::field(&mut section, name.as_str(), value.as_bytes());
    }
    section.put_slice(b"\r\n");
    match Decoder::new(BodyLength::Chunked).decode(&mut section).map_err(CopyError::Malformed)? {
        Decoded::Data(_) | Decoded::More => Ok(Decoded::End), // not of a section that ends
        end => Ok(end),
    }
}

/// The lines of a trailer section, which was validated.
fn fields_of(lines: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in lines.split(|&b| b == b'\n') {
        let Some(colon) = line.iter().position(|&b| b == b':') else { continue };
        let (name, value) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(line[colon + 1..].trim_ascii()));
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    fields
}

/// The head of an answer as it goes to the client; the reason phrase does not exist here.
fn response(head: &ResponseHead, via: Option<&str>, changes: Option<&Changes>) -> Result<Response<()>, CopyError> {
    let malformed = || CopyError::Write(io::ErrorKind::InvalidData.into());
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status()).map_err(|_| malformed())?;
    let fields = response.headers_mut();
    for (name, value) in headers::answer_fields(head, changes) {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| malformed())?;
        fields.append(name, HeaderValue::from_bytes(value).map_err(|_| malformed())?);
    }
    if let Some(name) = via {
        let via = headers::via_value(head.version(), name);
        fields.append(http::header::VIA, HeaderValue::from_str(&via).map_err(|_| malformed())?);
    }
    Ok(response)
}

fn gone(error: h2::Error) -> CopyError {
    CopyError::Write(broken(error))
}
