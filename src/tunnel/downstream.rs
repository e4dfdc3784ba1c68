//! The client's side of one exchange, as [`super::exchange`] needs it: here the traits, and HTTP/1. HTTP/2 is [`super::http2`].

use std::future::Future;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncWrite, ReadHalf, WriteHalf, split};

use super::body::{CopyError, Sender, Sink, Source, Taker};
use super::exchange::ExchangeError;
use super::headers::{self, Inbound};
use super::patience::Patience;
use crate::http1::{BodyLength, ResponseHead, Version};
use crate::stream::{Sign, Stream};

/// The client's side, before the exchange.
pub trait Downstream: Reply + Sized {
    /// Where the request's body comes from.
    type Body: Source;
    /// Where the answer goes while the body may still be coming.
    type Rest: Reply;

    /// The two ways apart, for a request with a body of that length.
    fn split(self, length: BodyLength) -> (Self::Body, Self::Rest);
}

/// The way of an answer to the client: [`Reply::begin`] takes its head, [`Sink`] its body.
pub trait Reply: Sink {
    /// Ready with the first that is seen of the client. Costs no system call while it is quiet.
    fn poll_sign(&mut self, cx: &mut Context<'_>) -> Poll<Sign>;

    /// Ends once the client resets the connection or the stream, a half-closed one too; never where that cannot be seen.
    fn reset(&mut self) -> impl Future<Output = ()>;

    /// Sends an interim answer.
    ///
    /// # Errors
    /// [`CopyError::Write`] or [`CopyError::Idle`].
    fn interim(
        &mut self,
        head: &ResponseHead,
        patience: &mut Patience,
        idle: Duration,
    ) -> impl Future<Output = Result<(), CopyError>>;

    /// Sends on the 101 of an origin that switches to websocket.
    ///
    /// # Errors
    /// [`ExchangeError::ClientGone`], or [`ExchangeError::Failed`] for a switch that is none.
    fn switch(
        &mut self,
        head: &ResponseHead,
        via: Option<&str>,
        patience: &mut Patience,
        idle: Duration,
    ) -> impl Future<Output = Result<(), ExchangeError>>;

    /// Takes the head of the final answer; it goes out with the first bytes of the body.
    ///
    /// # Errors
    /// [`CopyError::Write`] if the client is gone.
    fn begin(&mut self, head: &ResponseHead, inbound: &Inbound<'_>) -> Result<(), CopyError>;
}

/// A client of HTTP/1.
pub struct Http1<'a, W> {
    taker: Taker<W>,
    /// Read ahead: the beginning of the request's body, or pipelined requests.
    buf: Option<&'a mut BytesMut>,
    /// Shows the whole stream, as long as nothing else reads from it.
    whole: Option<fn(&mut W) -> &mut Stream>,
    /// The client has shown something: the rest is behind it.
    seen: bool,
}

impl<'a, 's> Http1<'a, &'s mut Stream> {
    /// Over `stream`, of which `buf` was read ahead.
    pub fn new(stream: &'s mut Stream, buf: &'a mut BytesMut) -> Self {
        Self { taker: taker(stream), buf: Some(buf), whole: Some(|stream| stream), seen: false }
    }
}

// Two lifetimes, though one would do: the futures that hold it are `Send` for any two.
impl<'a, 's> Downstream for Http1<'a, &'s mut Stream> {
    type Body = Sender<'a, ReadHalf<&'s mut Stream>>;
    type Rest = Http1<'a, WriteHalf<&'s mut Stream>>;

    fn split(self, length: BodyLength) -> (Self::Body, Self::Rest) {
        let window = self.taker.writer.window().cloned();
        let (reader, writer) = split(self.taker.writer);
        let buf = self.buf.expect("a client that was not split before has its buffer");
        (
            Sender::new(reader, buf, length).within(window),
            Http1 { taker: taker(writer), buf: None, whole: None, seen: true },
        )
    }
}

impl<W: AsyncWrite + Unpin> Reply for Http1<'_, W> {
    fn poll_sign(&mut self, cx: &mut Context<'_>) -> Poll<Sign> {
        let Some(whole) = self.whole.filter(|_| !self.seen) else { return Poll::Pending };
        let sign = ready!(whole(&mut self.taker.writer).poll_sign(cx));
        self.seen = true;
        Poll::Ready(sign)
    }

    async fn reset(&mut self) {
        match self.whole {
            Some(whole) => whole(&mut self.taker.writer).reset().await,
            None => std::future::pending().await,
        }
    }

    async fn interim(&mut self, head: &ResponseHead, patience: &mut Patience, idle: Duration) -> Result<(), CopyError> {
        self.taker.out.reserve(head.raw().len());
        let inbound = Inbound {
            framing: BodyLength::None,
            version: Version::Http11,
            keep_alive: true,
            websocket: false,
            via: None,
            changes: None,
        };
        headers::write_answer(&mut self.taker.out, head, &inbound);
        self.taker.flush(patience, idle).await
    }

    async fn switch(
        &mut self,
        head: &ResponseHead,
        via: Option<&str>,
        patience: &mut Patience,
        idle: Duration,
    ) -> Result<(), ExchangeError> {
        self.taker.out.reserve(head.raw().len() + 64);
        let inbound = Inbound {
            framing: BodyLength::None,
            version: Version::Http11,
            keep_alive: true,
            websocket: true,
            via,
            changes: None,
        };
        headers::write_answer(&mut self.taker.out, head, &inbound);
        self.taker.flush(patience, idle).await.map_err(|_| ExchangeError::ClientGone)
    }

    fn begin(&mut self, head: &ResponseHead, inbound: &Inbound<'_>) -> Result<(), CopyError> {
        self.taker.out.reserve(head.raw().len() + 256);
        self.taker.framing = inbound.framing;
        headers::write_answer(&mut self.taker.out, head, inbound);
        Ok(())
    }
}

impl<W: AsyncWrite + Unpin> Sink for Http1<'_, W> {
    async fn data(&mut self, data: Bytes, patience: &mut Patience, idle: Duration) -> Result<(), CopyError> {
        self.taker.data(data, patience, idle).await
    }

    async fn flush(&mut self, patience: &mut Patience, idle: Duration) -> Result<(), CopyError> {
        self.taker.flush(patience, idle).await
    }

    async fn end(&mut self, trailers: Option<Bytes>, patience: &mut Patience, idle: Duration) -> Result<(), CopyError> {
        self.taker.end(trailers, patience, idle).await
    }
}

/// Of an answer whose framing is not known yet.
fn taker<W>(writer: W) -> Taker<W> {
    Taker { writer, out: BytesMut::new(), framing: BodyLength::None }
}
