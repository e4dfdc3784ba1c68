//! The floor: the least a CONNECT proxy can do, and nothing more.
//!
//! One thread, one epoll, edge-triggered. Of the client's bytes it reads the target and where the head ends; there are no
//! timeouts, no log, no policy and no limits, so nobody should run it for anything but comparison. It closes in order: the
//! end of one direction is passed on and the other direction runs on. What another proxy costs above it is what its
//! features cost.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, sockopt};

/// Says where it listens and serves until it is killed. Without `target` the clients name theirs by CONNECT; with it every connection goes there.
pub(crate) fn serve(address: SocketAddr, target: Option<SocketAddr>) -> std::io::Result<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    rustix::net::listen(&listener, 4096)?; // the standard library asks for 128 only
    sockopt::set_tcp_nodelay(&listener, true)?; // accepted sockets inherit it

    println!("listening {}", listener.local_addr()?);

    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut relay =
        Relay { epoll, target, flows: Vec::new(), free: Vec::new(), closed: Vec::new(), scratch: vec![0; COPY_BYTES] };
    let mut events = Vec::with_capacity(256);
    loop {
        match epoll::wait(&relay.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            if event.data.u64() == LISTENER {
                relay.accept(&listener)?;
            } else {
                relay.ready(event.data.u64(), event.flags);
            }
        }
        relay.free.append(&mut relay.closed);
    }
}

struct Relay {
    epoll: OwnedFd,
    target: Option<SocketAddr>,
    flows: Vec<Option<Box<Flow>>>,
    free: Vec<usize>,
    /// Slots freed in this batch of events: a late event for what was closed must not meet a new flow.
    closed: Vec<usize>,
    scratch: Vec<u8>,
}

struct Flow {
    client: Side,
    upstream: Option<Side>,
    /// What came of the head so far; emptied when the tunnel is open.
    head: Vec<u8>,
    open: bool,
}

/// One socket, and what still has to be written to it.
struct Side {
    socket: OwnedFd,
    readable: bool,
    writable: bool,
    /// The peer's end has arrived, maybe behind bytes not read yet.
    hung_up: bool,
    /// The peer sent its end, and we have read it.
    ended: bool,
    /// The other side's end was passed on to this one.
    shut: bool,
    pending: Vec<u8>,
}

impl Relay {
    fn accept(&mut self, listener: &TcpListener) -> std::io::Result<()> {
        let socket = match rustix::net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::CONNABORTED) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.flows.push(None);
            self.flows.len() - 1
        });
        epoll::add(&self.epoll, &socket, EventData::new_u64(index as u64 * 2), both_ways())?;
        let mut flow = Box::new(Flow { client: Side::new(socket), upstream: None, head: Vec::new(), open: false });
        if let Some(target) = self.target {
            flow.dial(&self.epoll, index, target)?;
        }
        self.flows[index] = Some(flow);
        Ok(())
    }

    fn ready(&mut self, data: u64, flags: EventFlags) {
        let index = (data / 2) as usize;
        let Some(flow) = self.flows[index].as_mut() else { return }; // closed earlier in this batch
        let side = if data.is_multiple_of(2) { Some(&mut flow.client) } else { flow.upstream.as_mut() };
        let Some(side) = side else { return };
        side.hung_up |= flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        side.readable |= flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        side.writable |= flags.intersects(EventFlags::OUT | EventFlags::ERR);

        let target = self.target;
        if flow.advance(&self.epoll, index, target, &mut self.scratch).is_ok_and(|more| more) {
            return;
        }
        self.flows[index] = None; // closes both sockets, which also takes them out of the epoll set
        self.closed.push(index);
    }
}

impl Flow {
    /// Does what can be done without waiting; `false` when both directions have ended.
    fn advance(
        &mut self,
        epoll: &OwnedFd,
        index: usize,
        target: Option<SocketAddr>,
        scratch: &mut [u8],
    ) -> Result<bool, Errno> {
        if self.upstream.is_none() && !self.read_head(epoll, index, scratch)? {
            return Ok(!self.client.ended);
        }
        let Some(upstream) = self.upstream.as_mut() else { return Ok(true) };
        if !self.open {
            if !upstream.writable && !upstream.readable {
                return Ok(true); // still connecting
            }
            sockopt::socket_error(&upstream.socket)??;
            if target.is_none() {
                self.client.send(ESTABLISHED)?;
            }
            upstream.send(&std::mem::take(&mut self.head))?;
            self.open = true;
        }
        copy(&mut self.client, upstream, scratch)?;
        copy(upstream, &mut self.client, scratch)?;
        Ok(!(self.client.shut && upstream.shut))
    }

    /// `true` once the target is known and being dialled.
    fn read_head(&mut self, epoll: &OwnedFd, index: usize, scratch: &mut [u8]) -> Result<bool, Errno> {
        while self.client.readable {
            let Some(read) = self.client.receive(scratch)? else { return Ok(false) };
            self.head.extend_from_slice(&scratch[..read]);
            let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else {
                if self.head.len() > HEAD_BYTES_MAX {
                    return Err(Errno::MSGSIZE);
                }
                continue;
            };
            let target = target_of(&self.head).ok_or(Errno::INVAL)?;
            self.head.drain(..end + 4);
            self.dial(epoll, index, target)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn dial(&mut self, epoll: &OwnedFd, index: usize, target: SocketAddr) -> Result<(), Errno> {
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match rustix::net::connect(&socket, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        epoll::add(epoll, &socket, EventData::new_u64(index as u64 * 2 + 1), both_ways())?;
        self.upstream = Some(Side::new(socket));
        Ok(())
    }
}

impl Side {
    fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            readable: false,
            writable: false,
            hung_up: false,
            ended: false,
            shut: false,
            pending: Vec::new(),
        }
    }

    /// `None` when there is nothing to read now (`readable` is cleared) or ever again (`ended` is set).
    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
            Ok((0, _)) => {
                self.ended = true;
                self.readable = false;
                Ok(None)
            }
            Ok((read, _)) => {
                // A short read emptied the socket; what comes later is a new edge, unless that edge has been seen already.
                self.readable = read == buffer.len() || self.hung_up;
                Ok(Some(read))
            }
            Err(Errno::AGAIN) => {
                self.readable = false;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes what the socket takes and keeps the rest.
    fn send(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let mut sent = 0;
        while self.pending.is_empty() && sent < bytes.len() {
            match rustix::net::send(&self.socket, &bytes[sent..], SendFlags::NOSIGNAL) {
                Ok(count) => sent += count,
                Err(Errno::AGAIN) => {
                    self.writable = false;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        self.pending.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    /// `true` when nothing is left to write.
    fn flush(&mut self) -> Result<bool, Errno> {
        if !self.pending.is_empty() && self.writable {
            let pending = std::mem::take(&mut self.pending);
            self.send(&pending)?;
        }
        Ok(self.pending.is_empty())
    }
}

fn copy(from: &mut Side, to: &mut Side, scratch: &mut [u8]) -> Result<(), Errno> {
    if !to.flush()? {
        return Ok(()); // backpressure: no more is read until the peer takes what it has
    }
    while from.readable && to.pending.is_empty() {
        let Some(read) = from.receive(scratch)? else { break };
        to.send(&scratch[..read])?;
    }
    if from.ended && !to.shut && to.pending.is_empty() {
        // The last close follows at once when both have ended, and says the same: no call for it.
        if !(to.ended && from.shut) {
            match rustix::net::shutdown(&to.socket, Shutdown::Write) {
                Ok(()) | Err(Errno::NOTCONN) => {}
                Err(error) => return Err(error),
            }
        }
        to.shut = true;
    }
    Ok(())
}

/// `CONNECT 127.0.0.1:443 HTTP/1.1`: literals only, the floor resolves no names.
fn target_of(head: &[u8]) -> Option<SocketAddr> {
    let line = head.strip_prefix(b"CONNECT ")?;
    let end = line.iter().position(|byte| *byte == b' ')?;
    std::str::from_utf8(&line[..end]).ok()?.parse().ok()
}

fn both_ways() -> EventFlags {
    EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET
}

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
const COPY_BYTES: usize = 64 * 1024;
const HEAD_BYTES_MAX: usize = 32 * 1024;
const LISTENER: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_literal_with_a_port() {
        let head = b"CONNECT 127.0.0.1:443 HTTP/1.1\r\n\r\n";
        assert_eq!(target_of(head), Some(SocketAddr::from(([127, 0, 0, 1], 443))));
        for refused in [
            "CONNECT origin.test:443 HTTP/1.1\r\n\r\n",
            "CONNECT 127.0.0.1 HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "CONNECT 127.0.0.1:443",
        ] {
            assert_eq!(target_of(refused.as_bytes()), None, "{refused:?}");
        }
    }
}
