//! What RFC 9113 and RFC 7541 say a server has to refuse: the cases that h2spec (`http2` 3 to 8, `hpack`) asks of one.
//!
//! As there, a connection error may show as GOAWAY or as the end of the connection, a stream error also as RST_STREAM.

use std::time::Duration;

use crate::support::Egret;
use crate::support::frames::{
    ACK, CANCEL, COMPRESSION_ERROR, CONTINUATION, DATA, END_HEADERS, END_STREAM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR,
    Frames, GOAWAY, HEADERS, NO_ERROR, PADDED, PING, PREFACE, PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE, RST_STREAM,
    SETTINGS, STREAM_CLOSED, WINDOW_UPDATE, WITH_PRIORITY, block, frame, get,
};
use crate::support::origin::{HELLO, Origin};

/// What has to follow.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// A connection error with one of these codes.
    Connection(&'static [u32]),
    /// An error of stream 1, or of the connection.
    Stream(&'static [u32]),
    /// An answer to stream 1 with this status.
    Answer(u16),
    /// The connection lives.
    Alive,
    /// The connection lives, or ends without an error.
    AliveOrClosed,
}

use Then::{Alive, AliveOrClosed, Answer, Connection, Stream};

struct World {
    egret: Egret,
    authority: String,
}

type Case = (&'static str, fn(&mut Frames, &str), Then);

fn head(authority: &str) -> Vec<u8> {
    block(&get(authority, "/"))
}

fn post(authority: &str) -> Vec<u8> {
    block(&[(":method", "POST"), (":scheme", "http"), (":authority", authority), (":path", "/")])
}

/// A GET with more fields, ended with its head.
fn with(client: &mut Frames, authority: &str, more: &[(&str, &str)]) {
    client.request(1, true, &[&get(authority, "/")[..], more].concat());
}

fn raw(client: &mut Frames, fields: &[(&str, &str)]) {
    client.request(1, true, fields);
}

fn setting(client: &mut Frames, id: u16, value: u32) {
    client.send(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
}

/// An open stream 1.
fn opened(client: &mut Frames, authority: &str) {
    client.send(HEADERS, END_HEADERS, 1, &post(authority));
}

const CASES: &[Case] = &[
    ("generic/1 a GET is answered", |c, a| c.get(1, a, "/"), Answer(200)),
    (
        "generic/3.1 DATA behind HEADERS",
        |c, a| {
            opened(c, a);
            c.send(DATA, END_STREAM, 1, b"body");
        },
        Answer(200),
    ),
    (
        "generic/3.1 padded DATA",
        |c, a| {
            opened(c, a);
            c.send(DATA, END_STREAM | PADDED, 1, b"\x03body\0\0\0");
        },
        Answer(200),
    ),
    (
        "generic/3.2 HEADERS with padding and priority",
        |c, a| {
            let payload = [&[2][..], &[0, 0, 0, 0, 15], &head(a), &[0, 0]].concat();
            c.send(HEADERS, END_HEADERS | END_STREAM | PADDED | WITH_PRIORITY, 1, &payload);
        },
        Answer(200),
    ),
    ("generic/3.3 PRIORITY on an idle stream", |c, _| c.send(PRIORITY, 0, 1, &[0, 0, 0, 0, 15]), Alive),
    ("generic/3.5 SETTINGS", |c, _| setting(c, 3, 100), Alive),
    (
        "generic/3.10 CONTINUATION",
        |c, a| {
            let head = head(a);
            c.send(HEADERS, END_STREAM, 1, &head[..5]);
            c.send(CONTINUATION, 0, 1, &head[5..20]);
            c.send(CONTINUATION, END_HEADERS, 1, &head[20..]);
        },
        Answer(200),
    ),
    ("4.1 a frame of unknown kind is ignored", |c, _| c.send(0xff, 0xff, 0, b"whatever"), Alive),
    ("4.1 undefined flags are ignored", |c, _| c.send(PING, 0xfe, 0, b"12345678"), Alive),
    ("4.1 the reserved bit is ignored", |c, _| c.send(PING, 0, 0x8000_0000, b"12345678"), Alive),
    (
        "4.2 DATA of 16384 bytes",
        |c, a| {
            opened(c, a);
            c.send(DATA, END_STREAM, 1, &[7; 16384]);
        },
        Answer(200),
    ),
    (
        "4.2 DATA of 16385 bytes",
        |c, a| {
            opened(c, a);
            c.send(DATA, END_STREAM, 1, &[7; 16385]);
        },
        Stream(&[FRAME_SIZE_ERROR]),
    ),
    (
        "4.2 HEADERS of 16385 bytes",
        |c, _| c.send(HEADERS, END_HEADERS, 1, &[0; 16385]),
        Connection(&[FRAME_SIZE_ERROR]),
    ),
    ("4.3 a block that is no HPACK", |c, _| c.send(HEADERS, END_HEADERS, 1, &[0x40]), Connection(&[COMPRESSION_ERROR])),
    (
        "4.3 another stream's HEADERS inside a block",
        |c, a| {
            c.send(HEADERS, END_STREAM, 1, &head(a)[..5]);
            c.get(3, a, "/");
        },
        Connection(&[PROTOCOL_ERROR]),
    ),
    (
        "4.3 PRIORITY inside a block",
        |c, a| {
            c.send(HEADERS, END_STREAM, 1, &head(a)[..5]);
            c.send(PRIORITY, 0, 1, &[0, 0, 0, 0, 15]);
        },
        Connection(&[PROTOCOL_ERROR]),
    ),
    ("5.1 idle: DATA", |c, _| c.send(DATA, END_STREAM, 1, b"x"), Connection(&[PROTOCOL_ERROR])),
    ("5.1 idle: RST_STREAM", |c, _| c.send(RST_STREAM, 0, 1, &CANCEL.to_be_bytes()), Connection(&[PROTOCOL_ERROR])),
    ("5.1 idle: WINDOW_UPDATE", |c, _| c.send(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), Connection(&[PROTOCOL_ERROR])),
    ("5.1 idle: CONTINUATION", |c, a| c.send(CONTINUATION, END_HEADERS, 1, &head(a)), Connection(&[PROTOCOL_ERROR])),
    (
        "5.1 half closed (remote): DATA",
        |c, a| {
            c.get(1, a, "/");
            c.send(DATA, END_STREAM, 1, b"x");
        },
        Stream(&[STREAM_CLOSED]),
    ),
    (
        "5.1 half closed (remote): HEADERS",
        |c, a| {
            c.get(1, a, "/");
            c.get(1, a, "/");
        },
        Stream(&[STREAM_CLOSED]),
    ),
    (
        "5.1 closed by RST_STREAM: HEADERS",
        |c, a| {
            opened(c, a);
            c.send(RST_STREAM, 0, 1, &CANCEL.to_be_bytes());
            c.get(1, a, "/");
        },
        Stream(&[STREAM_CLOSED, PROTOCOL_ERROR]),
    ),
    ("5.1.1 an even stream", |c, a| c.get(2, a, "/"), Connection(&[PROTOCOL_ERROR])),
    (
        "5.1.1 a stream below the last",
        |c, a| {
            c.get(5, a, "/");
            c.get(3, a, "/");
        },
        Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
    ),
    (
        "5.3.1 HEADERS that depend on themselves",
        |c, a| {
            let payload = [&[0, 0, 0, 1, 15][..], &head(a)].concat();
            c.send(HEADERS, END_HEADERS | END_STREAM | WITH_PRIORITY, 1, &payload);
        },
        Stream(&[PROTOCOL_ERROR]),
    ),
    ("6.1 DATA on stream 0", |c, _| c.send(DATA, 0, 0, b"x"), Connection(&[PROTOCOL_ERROR])),
    (
        "6.1 DATA with more padding than payload",
        |c, a| {
            opened(c, a);
            c.send(DATA, END_STREAM | PADDED, 1, b"\x09body");
        },
        Connection(&[PROTOCOL_ERROR]),
    ),
    ("6.2 HEADERS on stream 0", |c, a| c.send(HEADERS, END_HEADERS, 0, &head(a)), Connection(&[PROTOCOL_ERROR])),
    (
        "6.2 HEADERS with more padding than payload",
        |c, _| {
            c.send(HEADERS, END_HEADERS | PADDED, 1, b"\xffshort");
        },
        Connection(&[PROTOCOL_ERROR]),
    ),
    ("6.3 PRIORITY on stream 0", |c, _| c.send(PRIORITY, 0, 0, &[0, 0, 0, 0, 15]), Connection(&[PROTOCOL_ERROR])),
    (
        "6.3 PRIORITY of 4 bytes",
        |c, a| {
            opened(c, a);
            c.send(PRIORITY, 0, 1, &[0; 4]);
        },
        Stream(&[FRAME_SIZE_ERROR]),
    ),
    ("6.4 RST_STREAM on stream 0", |c, _| c.send(RST_STREAM, 0, 0, &[0; 4]), Connection(&[PROTOCOL_ERROR])),
    (
        "6.4 RST_STREAM of 3 bytes",
        |c, a| {
            opened(c, a);
            c.send(RST_STREAM, 0, 1, &[0; 3]);
        },
        Connection(&[FRAME_SIZE_ERROR]),
    ),
    ("6.5 SETTINGS ACK with payload", |c, _| c.send(SETTINGS, ACK, 0, &[0; 6]), Connection(&[FRAME_SIZE_ERROR])),
    ("6.5 SETTINGS on a stream", |c, _| c.send(SETTINGS, 0, 1, &[]), Connection(&[PROTOCOL_ERROR])),
    ("6.5 SETTINGS of 3 bytes", |c, _| c.send(SETTINGS, 0, 0, &[0; 3]), Connection(&[FRAME_SIZE_ERROR])),
    ("6.5.2 ENABLE_PUSH 2", |c, _| setting(c, 2, 2), Connection(&[PROTOCOL_ERROR])),
    ("6.5.2 INITIAL_WINDOW_SIZE 2^31", |c, _| setting(c, 4, 1 << 31), Connection(&[FLOW_CONTROL_ERROR])),
    ("6.5.2 MAX_FRAME_SIZE 16383", |c, _| setting(c, 5, 16383), Connection(&[PROTOCOL_ERROR])),
    ("6.5.2 MAX_FRAME_SIZE 2^24", |c, _| setting(c, 5, 1 << 24), Connection(&[PROTOCOL_ERROR])),
    ("6.5.2 an unknown setting is ignored", |c, _| setting(c, 0xff, 7), Alive),
    (
        "6.6 PUSH_PROMISE from a client",
        |c, a| {
            opened(c, a);
            c.send(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &head(a)].concat());
        },
        Connection(&[PROTOCOL_ERROR]),
    ),
    ("6.7 PING ACK is not answered", |c, _| c.send(PING, ACK, 0, b"12345678"), Alive),
    ("6.7 PING on a stream", |c, _| c.send(PING, 0, 1, b"12345678"), Connection(&[PROTOCOL_ERROR])),
    ("6.7 PING of 6 bytes", |c, _| c.send(PING, 0, 0, b"123456"), Connection(&[FRAME_SIZE_ERROR])),
    ("6.8 GOAWAY on a stream", |c, _| c.send(GOAWAY, 0, 1, &[0; 8]), Connection(&[PROTOCOL_ERROR])),
    ("6.9 WINDOW_UPDATE of 0", |c, _| c.send(WINDOW_UPDATE, 0, 0, &[0; 4]), Connection(&[PROTOCOL_ERROR])),
    (
        "6.9 WINDOW_UPDATE of 0 on a stream",
        |c, a| {
            opened(c, a);
            c.send(WINDOW_UPDATE, 0, 1, &[0; 4]);
        },
        Stream(&[PROTOCOL_ERROR]),
    ),
    ("6.9 WINDOW_UPDATE of 3 bytes", |c, _| c.send(WINDOW_UPDATE, 0, 0, &[0; 3]), Connection(&[FRAME_SIZE_ERROR])),
    (
        "6.9.1 a connection's window beyond 2^31-1",
        |c, _| {
            for _ in 0..2 {
                c.send(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes());
            }
        },
        Connection(&[FLOW_CONTROL_ERROR]),
    ),
    (
        "6.9.1 a stream's window beyond 2^31-1",
        |c, a| {
            opened(c, a);
            for _ in 0..2 {
                c.send(WINDOW_UPDATE, 0, 1, &0x7fff_ffff_u32.to_be_bytes());
            }
        },
        Stream(&[FLOW_CONTROL_ERROR]),
    ),
    (
        "6.10 CONTINUATION on stream 0",
        |c, a| {
            c.send(HEADERS, END_STREAM, 1, &head(a)[..5]);
            c.send(CONTINUATION, END_HEADERS, 0, &head(a)[5..]);
        },
        Connection(&[PROTOCOL_ERROR]),
    ),
    (
        "6.10 CONTINUATION behind END_HEADERS",
        |c, a| {
            opened(c, a);
            c.send(CONTINUATION, END_HEADERS, 1, &head(a));
        },
        Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
    ),
    // Who says GOAWAY has nothing more to ask: with no stream open, the end may be quicker than the answer to a PING.
    ("7 GOAWAY with an unknown code", |c, _| c.send(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff]), AliveOrClosed),
    (
        "7 RST_STREAM with an unknown code",
        |c, a| {
            opened(c, a);
            c.send(RST_STREAM, 0, 1, &[0, 0, 0, 0xff]);
        },
        Alive,
    ),
    (
        "8.1 a second HEADERS without END_STREAM",
        |c, a| {
            opened(c, a);
            c.send(HEADERS, END_HEADERS, 1, &block(&[("x-test", "ok")]));
        },
        Stream(&[PROTOCOL_ERROR]),
    ),
    ("8.1.2 an uppercase field name", |c, a| with(c, a, &[("X-Test", "ok")]), Stream(&[PROTOCOL_ERROR])),
    ("8.1.2.1 an unknown pseudo field", |c, a| with(c, a, &[(":test", "ok")]), Stream(&[PROTOCOL_ERROR])),
    ("8.1.2.1 a pseudo field of answers", |c, a| with(c, a, &[(":status", "200")]), Stream(&[PROTOCOL_ERROR])),
    // h2 drops it instead of refusing the stream; it goes nowhere.
    (
        "8.1.2.1 a pseudo field in trailers",
        |c, a| {
            opened(c, a);
            c.send(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[(":method", "POST")]));
        },
        Answer(200),
    ),
    (
        "8.1.2.1 a pseudo field behind a field",
        |c, a| {
            raw(c, &[(":method", "GET"), (":scheme", "http"), ("x", "y"), (":authority", a), (":path", "/")]);
        },
        Stream(&[PROTOCOL_ERROR]),
    ),
    (
        "8.1.2.2 a field of the connection",
        |c, a| with(c, a, &[("connection", "keep-alive")]),
        Stream(&[PROTOCOL_ERROR]),
    ),
    ("8.1.2.2 te other than trailers", |c, a| with(c, a, &[("te", "trailers, deflate")]), Stream(&[PROTOCOL_ERROR])),
    ("8.1.2.2 te: trailers", |c, a| with(c, a, &[("te", "trailers")]), Answer(200)),
    (
        "8.1.2.3 an empty :path",
        |c, a| {
            raw(c, &[(":method", "GET"), (":scheme", "http"), (":authority", a), (":path", "")]);
        },
        Stream(&[PROTOCOL_ERROR]),
    ),
    ("8.1.2.3 no :method", |c, a| raw(c, &get(a, "/")[1..]), Stream(&[PROTOCOL_ERROR])),
    (
        "8.1.2.3 no :scheme",
        |c, a| {
            raw(c, &[(":method", "GET"), (":authority", a), (":path", "/")]);
        },
        Stream(&[PROTOCOL_ERROR]),
    ),
    (
        "8.1.2.3 no :path",
        |c, a| {
            raw(c, &[(":method", "GET"), (":scheme", "http"), (":authority", a)]);
        },
        Stream(&[PROTOCOL_ERROR]),
    ),
    ("8.1.2.3 two of :method", |c, a| with(c, a, &[(":method", "GET")]), Stream(&[PROTOCOL_ERROR])),
    ("8.1.2.6 content-length and no DATA", |c, a| with(c, a, &[("content-length", "1")]), Stream(&[PROTOCOL_ERROR])),
    ("8.3.1 Host differs from :authority", |c, a| with(c, a, &[("host", "other.example")]), Answer(400)),
    (
        "8.3.1 Host equals :authority",
        |c, a| {
            let host = a.to_owned();
            c.request(1, true, &[&get(a, "/")[..], &[("host", &host)]].concat());
        },
        Answer(200),
    ),
    (
        "8.5 CONNECT with :scheme and :path",
        |c, a| {
            let mut connect = get(a, "/");
            connect[0].1 = "CONNECT";
            c.request(1, false, &connect);
        },
        Stream(&[PROTOCOL_ERROR]),
    ),
    ("RFC 8441: :protocol on a GET", |c, a| with(c, a, &[(":protocol", "websocket")]), Stream(&[PROTOCOL_ERROR])),
    (
        "RFC 8441: a :protocol that is not carried out",
        |c, a| {
            let mut connect = get(a, "/").to_vec();
            connect[0].1 = "CONNECT";
            connect.push((":protocol", "connect-udp"));
            c.request(1, false, &connect);
        },
        Answer(501),
    ),
    (
        "hpack/2.3.3 an index beyond the tables",
        |c, _| {
            c.send(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0x80, 0x01]);
        },
        Connection(&[COMPRESSION_ERROR]),
    ),
    (
        "hpack/4.2 a change of the table's size at the end of a block",
        |c, a| {
            c.send(HEADERS, END_HEADERS | END_STREAM, 1, &[&head(a)[..], &[0x20]].concat());
        },
        Connection(&[COMPRESSION_ERROR]),
    ),
    (
        "hpack/5.2 Huffman padding of more than 7 bits",
        |c, a| {
            let field = [0x00, 0x85, 0xf2, 0xb2, 0x4a, 0x84, 0xff, 0x84, 0x49, 0x50, 0x9f, 0xff];
            c.send(HEADERS, END_HEADERS | END_STREAM, 1, &[&head(a)[..], &field].concat());
        },
        Connection(&[COMPRESSION_ERROR]),
    ),
    (
        "hpack/5.2 Huffman padding of zeros",
        |c, a| {
            let field = [0x00, 0x85, 0xf2, 0xb2, 0x4a, 0x84, 0xff, 0x83, 0x49, 0x50, 0x90];
            c.send(HEADERS, END_HEADERS | END_STREAM, 1, &[&head(a)[..], &field].concat());
        },
        Connection(&[COMPRESSION_ERROR]),
    ),
    (
        "hpack/6.1 index 0",
        |c, a| {
            c.send(HEADERS, END_HEADERS | END_STREAM, 1, &[&head(a)[..], &[0x80]].concat());
        },
        Connection(&[COMPRESSION_ERROR]),
    ),
    (
        "hpack/6.3 a table larger than allowed",
        |c, a| {
            c.send(HEADERS, END_HEADERS | END_STREAM, 1, &[&[0x3f, 0xe1, 0xff, 0x3f][..], &head(a)].concat());
        },
        Connection(&[COMPRESSION_ERROR]),
    ),
];

/// What came instead; `None`: what had to.
fn run(world: &World, (_, send, then): &Case) -> Option<String> {
    let mut client = Frames::open(world.egret.proxy());
    client.set_patience(Duration::from_secs(5));
    send(&mut client, &world.authority);
    // h2 says PROTOCOL_ERROR, and ends the connection, also where the RFC has a code of its own (frame sizes, HPACK, the windows that
    // settings ask for, streams that are half closed): what is refused is the same.
    let ended = |kind: u8, code: u32, codes: &[u32]| {
        let right = codes.contains(&code) || kind == GOAWAY && code == PROTOCOL_ERROR && codes != [NO_ERROR];
        (!right).then(|| format!("kind {kind} with code {code}, not one of {codes:?}"))
    };
    match *then {
        Alive => (!client.is_alive()).then(|| "the connection ended".to_owned()),
        AliveOrClosed => {
            client.send(PING, 0, 0, b"are you?");
            let frame = client.find(|frame| frame.kind == GOAWAY || frame.kind == PING && frame.flags & ACK != 0)?;
            (frame.kind == GOAWAY).then(|| ended(GOAWAY, frame.code(), &[NO_ERROR])).flatten()
        }
        Answer(status) => {
            match client.find(|f| f.kind == GOAWAY || f.stream == 1 && matches!(f.kind, HEADERS | RST_STREAM)) {
                Some(frame) if frame.kind == HEADERS && frame.status() == status => None,
                other => Some(format!("{other:?}")),
            }
        }
        Connection(codes) => {
            let frame = client.find(|frame| frame.kind == GOAWAY)?;
            ended(GOAWAY, frame.code(), codes)
        }
        Stream(codes) => {
            let frame = client.find(|f| f.kind == GOAWAY || f.stream == 1 && f.kind == RST_STREAM)?;
            ended(frame.kind, frame.code(), codes)
        }
    }
}

#[test]
fn what_the_rfcs_refuse_is_refused_and_what_they_allow_is_not() {
    let origin = Origin::mirror(); // answers when the body is whole: until then stream 1 is open
    let world = World { egret: Egret::start(), authority: origin.address.to_string() };
    let judge = |case| {
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&world, case)));
        ran.unwrap_or_else(|_| Some("nothing in time".to_owned()))
    };
    let wrong: Vec<_> = CASES.iter().filter_map(|case| Some(format!("{}: {}", case.0, judge(case)?))).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
    assert!(Frames::open(world.egret.proxy()).is_alive());
}

#[test]
fn a_preface_that_is_none_is_not_spoken_to_in_frames() {
    let egret = Egret::start();
    let mut client = Frames::silent(egret.proxy());
    client.bytes(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
    client.bytes(&frame(SETTINGS, 0, 0, &[]));
    assert!(client.find(|frame| frame.kind == PING).is_none(), "the connection ends");
}

#[test]
fn a_preface_may_come_byte_by_byte() {
    let origin = Origin::http(HELLO);
    let egret = Egret::start();
    let mut client = Frames::silent(egret.proxy());
    for byte in PREFACE.iter().chain(&frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0])) {
        client.bytes(&[*byte]);
    }
    client.get(1, origin.address, "/");
    assert_eq!(client.status(1), 200);
}
