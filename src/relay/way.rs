//! One direction of a tunnel: copies by reads and writes, and by splice(2) once the flow has shown to be bulk.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard::Look;
use super::scratch::{self, SCRATCH_BYTES};
use super::splice::Pipe;
use crate::stream::Stream;

/// The state of one direction; what it moves between is handed in.
#[derive(Debug)]
pub(super) struct Way {
    held: Held,
    phase: Phase,
    large_reads: u8,
    /// Both ends are TCP sockets that the kernel can splice, as far as is known.
    splices: bool,
    /// The sink may hold bytes of ours that it has not given to the kernel (TLS).
    unflushed: bool,
    moved: bool,
}

/// Bytes that were taken from the source and not yet by the sink; nothing is read while there are any.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    Bytes(Box<Remainder>),
    Pipe(Pipe),
}

#[derive(Debug)]
struct Remainder {
    bytes: Box<[u8]>,
    written: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Copying,
    Splicing,
    /// The source is at its end; the sink is told so.
    Closing,
    Closed,
}

/// Which end of a direction broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Sink,
    /// Neither: what the source said is not to reach the sink.
    Refused,
}

impl Way {
    pub(super) fn new(from: &Stream, to: &Stream) -> Self {
        let splices = from.tcp().is_some() && to.tcp().is_some();
        Self { held: Held::Nothing, phase: Phase::Copying, large_reads: 0, splices, unflushed: false, moved: false }
    }

    /// Moves what can be moved now; ready once the source has ended in order and the sink knows.
    ///
    /// `last`: the other direction is closed. `budget` says how much may be read, and is told how much of it is left; nobody wakes the
    /// task when that is nothing. `look` sees bytes before they go on. `count` is told of them when the sink has taken them. After [`ROUNDS_MAX`] rounds the task steps
    /// back for others.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut Stream, &mut Stream),
        last: bool,
        budget: &mut usize,
        mut look: impl FnMut(&[u8]) -> Look,
        count: impl Fn(u64),
    ) -> Poll<Result<(), End>> {
        for _ in 0..ROUNDS_MAX {
            ready!(self.poll_release(cx, to, &count))?;
            let round = match self.phase {
                Phase::Copying | Phase::Splicing if *budget == 0 => Poll::Pending,
                Phase::Copying => self.poll_copy(cx, from, to, budget, &mut look, &count),
                Phase::Splicing => self.poll_fill(cx, from, budget),
                // Both sockets are closed next, and that says the same without a system call of its own.
                Phase::Closing if last && to.tcp().is_some() => {
                    self.phase = Phase::Closed;
                    Poll::Ready(Ok(()))
                }
                Phase::Closing => self.poll_shutdown(cx, to),
                Phase::Closed => return Poll::Ready(Ok(())),
            };
            if round.is_pending() && self.unflushed {
                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|_| End::Sink)?;
                self.unflushed = false;
            }
            ready!(round)?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// True while bytes were taken from the source that the sink does not have.
    pub(super) fn is_holding(&self) -> bool {
        !matches!(self.held, Held::Nothing) || self.unflushed
    }

    /// True once the source has ended in order and the sink knows.
    pub(super) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether any byte was moved since this was asked last.
    pub(super) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Gives the sink what it would not take before.
    fn poll_release(&mut self, cx: &mut Context<'_>, to: &mut Stream, count: &impl Fn(u64)) -> Poll<Result<(), End>> {
        match &mut self.held {
            Held::Nothing => return Poll::Ready(Ok(())),
            Held::Bytes(rest) => {
                while rest.written < rest.bytes.len() {
                    let n = ready!(poll_write(cx, to, &rest.bytes[rest.written..]))?;
                    rest.written += n;
                    self.moved = true;
                    count(n as u64);
                }
            }
            Held::Pipe(pipe) => {
                let Some(tcp) = to.tcp() else { return Poll::Ready(Err(End::Sink)) }; // only TCP sockets are spliced
                while !pipe.is_empty() {
                    ready!(tcp.poll_write_ready(cx)).map_err(|_| End::Sink)?;
                    match pipe.drain(tcp) {
                        Ok(n) => {
                            self.moved = true;
                            count(n as u64);
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(_) => return Poll::Ready(Err(End::Sink)),
                    }
                }
            }
        }
        if let Held::Pipe(pipe) = std::mem::take(&mut self.held) {
            pipe.give_back();
        }
        Poll::Ready(Ok(()))
    }

    /// One read and what writes it takes. What the sink refuses is held.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        budget: &mut usize,
        look: &mut impl FnMut(&[u8]) -> Look,
        count: &impl Fn(u64),
    ) -> Poll<Result<(), End>> {
        scratch::with(self.read_bytes().min(*budget), |scratch| {
            let mut read = ReadBuf::new(scratch);
            // On a TCP socket a short read clears readiness, so that the next one does not ask the kernel to hear EAGAIN.
            ready!(Pin::new(&mut *from).poll_read(cx, &mut read)).map_err(|_| End::Source)?;
            let bytes = read.filled();
            *budget -= bytes.len();
            if bytes.is_empty() {
                self.phase = Phase::Closing;
            }
            match look(bytes) {
                Look::Pass if bytes.is_empty() => return Poll::Ready(Ok(())),
                Look::Pass => {}
                Look::Hold => {
                    self.moved = true;
                    return Poll::Ready(Ok(()));
                }
                Look::Release(bytes) => {
                    self.held = Held::Bytes(Box::new(Remainder { bytes, written: 0 }));
                    return Poll::Ready(Ok(()));
                }
                Look::Refuse => return Poll::Ready(Err(End::Refused)),
            }
            let mut written = 0;
            while written < bytes.len() {
                match poll_write(cx, to, &bytes[written..])? {
                    Poll::Ready(n) => written += n,
                    Poll::Pending => {
                        self.held = Held::Bytes(Box::new(Remainder { bytes: bytes[written..].into(), written: 0 }));
                        break;
                    }
                }
            }
            if written > 0 {
                self.moved = true;
                count(written as u64);
            }
            self.unflushed = to.tcp().is_none();
            // Not full ones: a source that shares its core with others seldom fills a buffer, and is no less bulk for that.
            let is_large = bytes.len() >= LARGE_READ_BYTES;
            self.large_reads = if is_large { self.large_reads.saturating_add(1) } else { 0 };
            if self.splices && self.large_reads >= LARGE_READS && from.prefix().is_empty() {
                self.phase = Phase::Splicing;
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Fills a pipe from the source; [`Self::poll_release`] empties it into the sink. Falls back to copying when the flow
    /// has turned chatty, or where no pipe is to be had.
    fn poll_fill(&mut self, cx: &mut Context<'_>, from: &Stream, budget: &mut usize) -> Poll<Result<(), End>> {
        let Some(tcp) = from.tcp() else { return Poll::Ready(Err(End::Source)) }; // only TCP sockets are spliced
        ready!(tcp.poll_read_ready(cx)).map_err(|_| End::Source)?;
        let Some(mut pipe) = Pipe::take() else {
            self.copy_on();
            return Poll::Ready(Ok(()));
        };
        match pipe.fill(tcp, *budget) {
            Ok(0) => {
                self.phase = Phase::Closing;
                pipe.give_back();
            }
            Ok(n) => {
                *budget -= n;
                if n < SPLICE_BYTES_MIN {
                    self.copy_on();
                }
                self.held = Held::Pipe(pipe);
            }
            // Drained: the next round waits for readiness, and without a pipe.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => pipe.give_back(),
            // A kernel that cannot splice this socket (gVisor, an old one): nothing was taken, reading goes on.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                self.splices = false;
                self.copy_on();
            }
            Err(_) => return Poll::Ready(Err(End::Source)),
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the sink that no more comes.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<Result<(), End>> {
        ready!(Pin::new(to).poll_shutdown(cx)).map_err(|_| End::Sink)?; // TLS: after everything that was buffered
        self.unflushed = false;
        self.phase = Phase::Closed;
        Poll::Ready(Ok(()))
    }

    fn copy_on(&mut self) {
        self.phase = Phase::Copying;
        self.large_reads = 0;
    }

    /// A remainder is as large as a read at most: flows that have not shown to be bulk read less.
    fn read_bytes(&self) -> usize {
        if self.large_reads == 0 { FIRST_READ_BYTES } else { SCRATCH_BYTES }
    }
}

fn poll_write(cx: &mut Context<'_>, to: &mut Stream, bytes: &[u8]) -> Poll<Result<usize, End>> {
    match ready!(Pin::new(to).poll_write(cx, bytes)) {
        Ok(0) | Err(_) => Poll::Ready(Err(End::Sink)),
        Ok(n) => Poll::Ready(Ok(n)),
    }
}

const ROUNDS_MAX: usize = 16; // of at most 256 KiB: about a millisecond
const FIRST_READ_BYTES: usize = 64 * 1024;
const LARGE_READS: u8 = 4; // in a row; then the flow is bulk
const LARGE_READ_BYTES: usize = 48 * 1024; // well above what a splice must bring, and below a segment of the loopback (65,483)
const SPLICE_BYTES_MIN: usize = 32 * 1024; // below that two splices cost what a read and a write cost, ECOSYSTEM 5.1
