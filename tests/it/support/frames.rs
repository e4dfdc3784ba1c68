//! A client of HTTP/2 that writes frames as it is told to, right or wrong. Its requests are HPACK without indexing and without
//! Huffman; of answers it reads the status, which needs both (RFC 7541, with a dynamic table of size 0).

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// RFC 9113 §3.4.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;

pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const STREAM_CLOSED: u32 = 5;
pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const COMPRESSION_ERROR: u32 = 9;
pub(crate) const CONNECT_ERROR: u32 = 10;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The code of a RST_STREAM or GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// The status of an answer's HEADERS.
    pub(crate) fn status(&self) -> u16 {
        assert_eq!(self.kind, HEADERS, "{self:?}");
        status(&self.payload)
    }
}

/// A connection.
pub(crate) struct Frames {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
    seen: VecDeque<Frame>,
}

impl Frames {
    /// Connects and sends nothing.
    pub(crate) fn silent(proxy: SocketAddr) -> Self {
        let stream = TcpStream::connect(proxy).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, unread: Vec::new(), seen: VecDeque::new() }
    }

    /// Connects, with the preface and these settings (and a dynamic table of size 0, which reading answers needs).
    pub(crate) fn with_settings(proxy: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut frames = Self::silent(proxy);
        frames.bytes(PREFACE);
        let payload: Vec<u8> = [&[(1, 0)], settings]
            .concat()
            .iter()
            .flat_map(|(id, value)| [&u16::to_be_bytes(*id)[..], &u32::to_be_bytes(*value)].concat())
            .collect();
        frames.send(SETTINGS, 0, 0, &payload);
        frames
    }

    /// The same, and both sides' settings acknowledged.
    pub(crate) fn open(proxy: SocketAddr) -> Self {
        Self::open_with(proxy, &[])
    }

    /// The same with settings.
    pub(crate) fn open_with(proxy: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut frames = Self::with_settings(proxy, settings);
        frames.wait(|frame| frame.kind == SETTINGS && frame.flags & ACK == 0);
        frames.send(SETTINGS, ACK, 0, &[]);
        frames.wait(|frame| frame.kind == SETTINGS && frame.flags & ACK != 0);
        frames
    }

    /// Sends bytes; a peer that has closed is no error, what it said before is what counts.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends a frame.
    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.bytes(&frame(kind, flags, stream, payload));
    }

    /// Sends a request's fields as they are, in one HEADERS.
    pub(crate) fn request(&mut self, stream: u32, end: bool, fields: &[(&str, &str)]) {
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.send(HEADERS, flags, stream, &block(fields));
    }

    /// Asks for a tunnel.
    pub(crate) fn connect(&mut self, stream: u32, target: impl std::fmt::Display) {
        self.request(stream, false, &[(":method", "CONNECT"), (":authority", &target.to_string())]);
    }

    /// Sends a GET.
    pub(crate) fn get(&mut self, stream: u32, authority: impl std::fmt::Display, path: &str) {
        self.request(stream, true, &get(&authority.to_string(), path));
    }

    /// Gives a stream and the connection this much more room.
    pub(crate) fn grant(&mut self, stream: u32, bytes: u32) {
        self.send(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes());
        self.send(WINDOW_UPDATE, 0, 0, &bytes.to_be_bytes());
    }

    /// Reads on until a frame is wanted; the others are kept for later, but for WINDOW_UPDATE.
    ///
    /// # Panics
    /// At the end, and when it does not come in time.
    #[track_caller]
    pub(crate) fn wait(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        self.find(wanted).unwrap_or_else(|| panic!("the connection ended; seen: {:?}", self.seen))
    }

    /// The same; `None` at the end.
    pub(crate) fn find(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        if let Some(at) = self.seen.iter().position(&wanted) {
            return self.seen.remove(at);
        }
        let end = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < end, "not in time; seen: {:?}", self.seen);
            let frame = self.read()?;
            if wanted(&frame) {
                return Some(frame);
            }
            if frame.kind != WINDOW_UPDATE {
                self.seen.push_back(frame);
            }
        }
    }

    /// A wanted frame among those that were read while others were waited for.
    pub(crate) fn seen(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let at = self.seen.iter().position(wanted)?;
        self.seen.remove(at)
    }

    /// The status of a stream's answer.
    #[track_caller]
    pub(crate) fn status(&mut self, stream: u32) -> u16 {
        self.wait(|frame| frame.stream == stream && matches!(frame.kind, HEADERS | RST_STREAM)).status()
    }

    /// The code with which a stream was reset.
    #[track_caller]
    pub(crate) fn reset(&mut self, stream: u32) -> u32 {
        self.wait(|frame| frame.stream == stream && frame.kind == RST_STREAM).code()
    }

    /// The bytes of a stream until there are `count`, or its END_STREAM.
    #[track_caller]
    pub(crate) fn data(&mut self, stream: u32, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let frame = self.wait(|frame| frame.stream == stream && matches!(frame.kind, DATA | RST_STREAM));
            assert_eq!(frame.kind, DATA, "{frame:?}");
            bytes.extend(frame.payload);
            if frame.flags & END_STREAM != 0 {
                break;
            }
        }
        bytes
    }

    /// True once a PING has come back: everything sent before was read, and the connection lives.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.send(PING, 0, 0, b"are you?");
        self.find(|frame| frame.kind == PING && frame.flags & ACK != 0 && frame.payload == b"are you?").is_some()
    }

    fn read(&mut self) -> Option<Frame> {
        while self.unread.len() < 9 || self.unread.len() < 9 + length(&self.unread) {
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(n) => self.unread.extend_from_slice(&chunk[..n]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("no frame in time; seen: {:?}", self.seen)
                }
                Err(_) => return None,
            }
        }
        let rest = self.unread.split_off(9 + length(&self.unread));
        let bytes = std::mem::replace(&mut self.unread, rest);
        let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
        Some(Frame { kind: bytes[3], flags: bytes[4], stream, payload: bytes[9..].to_vec() })
    }

    /// How long reads wait from now on.
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).unwrap();
    }
}

/// The fields of a GET.
pub(crate) fn get<'a>(authority: &'a str, path: &'a str) -> [(&'a str, &'a str); 4] {
    [(":method", "GET"), (":scheme", "http"), (":authority", authority), (":path", path)]
}

/// A frame's bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field block: every field literal, not indexed, without Huffman (RFC 7541 §6.2.2).
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name);
        string(&mut block, value);
    }
    block
}

fn string(block: &mut Vec<u8>, text: &str) {
    integer(block, text.len());
    block.extend_from_slice(text.as_bytes());
}

/// With a prefix of 7 bits (RFC 7541 §5.1).
fn integer(block: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        return block.push(value as u8);
    }
    block.push(127);
    value -= 127;
    while value >= 128 {
        block.push((value % 128) as u8 | 128);
        value /= 128;
    }
    block.push(value as u8);
}

fn length(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2])
}

/// The status that a block begins with, behind changes of the table's size.
fn status(block: &[u8]) -> u16 {
    let block = &block[block.iter().take_while(|&&b| b & 0xe0 == 0x20).count()..];
    match block {
        // Indexed fields 8 to 14 of the static table (RFC 7541 appendix A).
        [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        // Literal, with the name of an indexed one: incremental (01), without (0000) or never (0001).
        [0x48..=0x4e | 0x08..=0x0e | 0x18..=0x1e, len, value @ ..] => {
            let value = &value[..usize::from(len & 0x7f)];
            if len & 0x80 == 0 { std::str::from_utf8(value).unwrap().parse().unwrap() } else { digits(value) }
        }
        _ => panic!("no status in {block:02x?}"),
    }
}

/// Three digits in Huffman's code (RFC 7541 appendix B): 0 to 2 have five bits, the others six.
fn digits(bytes: &[u8]) -> u16 {
    let bits = bytes.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte)) << (64 - 8 * bytes.len());
    let (mut number, mut at) = (0, 0);
    for _ in 0..3 {
        let five = bits << at >> 59;
        let digit = if five < 3 {
            at += 5;
            five
        } else {
            let six = bits << at >> 58;
            at += 6;
            six - 0b01_1001 + 3
        };
        number = number * 10 + digit as u16;
    }
    number
}
