//! Pipes for splice(2): bytes go from socket to socket without passing through our memory.
//!
//! A pipe belongs to one direction of one tunnel only while bytes are in it; else it lies in the pool of a worker.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::stream::descriptors;

/// A pipe and the number of bytes in it.
#[derive(Debug)]
pub(super) struct Pipe {
    read_end: OwnedFd,
    write_end: OwnedFd,
    bytes: u32, // every tunnel has room for two of these, in use or not
}

impl Pipe {
    /// An empty pipe, from the pool or new; `None` if there are too many or the kernel gives none: then copying goes on.
    pub(super) fn take() -> Option<Self> {
        POOL.with_borrow_mut(Vec::pop).or_else(Self::open)
    }

    fn open() -> Option<Self> {
        if PIPES.fetch_add(1, Ordering::Relaxed) >= PIPES_MAX {
            PIPES.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let Ok((read_end, write_end)) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC) else {
            PIPES.fetch_sub(1, Ordering::Relaxed);
            return None;
        };
        let pipe = Self { read_end, write_end, bytes: 0 }; // from here on its drop counts
        if descriptors::is_reserved(&pipe.write_end) || descriptors::is_reserved(&pipe.read_end) {
            return None;
        }
        // Refused above fs.pipe-user-pages-soft; the 64 KiB of a new pipe still serve, what is below them does not.
        let size = fcntl_setpipe_size(&pipe.write_end, PIPE_BYTES)
            .or_else(|_| rustix::pipe::fcntl_getpipe_size(&pipe.write_end))
            .unwrap_or(0);
        (size >= PIPE_BYTES_MIN).then_some(pipe)
    }

    /// Gives an empty pipe back to this worker's pool; one that still holds bytes is destroyed, or another tunnel would get them.
    pub(super) fn give_back(self) {
        if self.bytes == 0 {
            POOL.with_borrow_mut(|pool| {
                if pool.len() < POOL_MAX {
                    pool.push(self);
                }
            });
        }
    }

    /// Takes from the socket what fits, at most `max` bytes; 0 at its end, `WouldBlock` if it is drained.
    ///
    /// The pipe has to be empty: the kernel says `EAGAIN` for a full pipe too, and the socket would pass for drained.
    pub(super) fn fill(&mut self, from: &TcpStream, max: usize) -> io::Result<usize> {
        debug_assert_eq!(self.bytes, 0, "a pipe is filled when it is empty");
        let filled = from.try_io(Interest::READABLE, || move_bytes(from, &self.write_end, PIPE_BYTES.min(max)))?;
        self.bytes = filled as u32; // at most PIPE_BYTES
        Ok(filled)
    }

    /// Gives the socket what it takes of the bytes in the pipe.
    pub(super) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let drained = to.try_io(Interest::WRITABLE, || move_bytes(&self.read_end, to, self.bytes as usize))?;
        self.bytes -= drained as u32;
        SPLICED.fetch_add(drained as u64, Ordering::Relaxed);
        Ok(drained)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        PIPES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes that went through pipes since the process began.
pub fn spliced_bytes() -> u64 {
    SPLICED.load(Ordering::Relaxed)
}

fn move_bytes(from: impl std::os::fd::AsFd, to: impl std::os::fd::AsFd, bytes: usize) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    Ok(splice(from, None, to, None, bytes, flags)?)
}

/// ECOSYSTEM 5.1: per byte a pipe of 64 KiB takes 1.2 times the CPU, one of 1 MiB as much; unprivileged users get 1 MiB at most.
const PIPE_BYTES: usize = 256 * 1024;
const PIPE_BYTES_MIN: usize = 64 * 1024; // the size of a new pipe, pipe(7)
pub(super) const PIPES_MAX: usize = 128; // half of the pages that fs.pipe-user-pages-soft gives one user by default (64 MiB)
const POOL_MAX: usize = 16; // idle, of one worker

static PIPES: AtomicUsize = AtomicUsize::new(0);
static SPLICED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static POOL: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}
