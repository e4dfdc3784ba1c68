//! hyper as oracle: what our parser accepts, hyper as server reads the same, body included. The other way round does not hold; what
//! hyper lets through and we refuse is the table in `head::tests`.

use std::convert::Infallible;
use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::body::{Decoded, Decoder};
use super::{HeadLimits, RequestHead, RequestTarget, Version, parse_request};
use crate::flow::{Scheme, Target};

/// One request, as either parser read it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Read {
    method: String,
    /// Scheme and authority, where the request line has them.
    asked: Option<(Option<Scheme>, Target)>,
    path: String,
    version: Version,
    /// Names in lower case, sorted; fields of one name stay in order.
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
}

const LIMITS: HeadLimits = HeadLimits { bytes: 32 * 1024, fields: 100 };

/// The requests in `bytes` as we read them, in pieces of `step`, up to the first that is refused, not whole, or the last by its own
/// word.
fn ours(bytes: &[u8], step: usize) -> Vec<Read> {
    let mut pieces = bytes.chunks(step);
    let mut buf = BytesMut::new();
    let mut requests = Vec::new();
    while let Some((read, persistent)) = next_of_ours(&mut buf, &mut pieces) {
        requests.push(read);
        if !persistent {
            break;
        }
    }
    requests
}

fn next_of_ours<'a>(buf: &mut BytesMut, pieces: &mut impl Iterator<Item = &'a [u8]>) -> Option<(Read, bool)> {
    let head = loop {
        match parse_request(buf, &LIMITS).ok()? {
            Some(head) => break head,
            None => buf.extend_from_slice(pieces.next()?),
        }
    };
    let mut decoder = Decoder::new(head.body());
    let mut body = Vec::new();
    let trailers = loop {
        match decoder.decode(buf).ok()? {
            Decoded::Data(data) => body.extend_from_slice(&data),
            Decoded::More => buf.extend_from_slice(pieces.next()?),
            Decoded::Trailers(lines) => break lines,
            Decoded::End => break Bytes::new(),
        }
    };
    let asked = match head.target() {
        RequestTarget::Authority(target) => Some((None, target.clone())),
        RequestTarget::Absolute { scheme, target } => Some((Some(*scheme), target.clone())),
        RequestTarget::Origin | RequestTarget::Asterisk => None,
    };
    let read = Read {
        method: head.method().to_owned(),
        asked,
        path: head.path().to_owned(),
        version: head.version(),
        fields: fields(&head),
        body,
        trailers: lines(&trailers),
    };
    Some((read, head.persistent() && head.method() != "CONNECT"))
}

fn fields(head: &RequestHead) -> Vec<(String, Vec<u8>)> {
    sorted(head.fields().map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect())
}

fn lines(section: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let section = [section, b"\r\n"].concat();
    httparse::parse_headers(&section, &mut headers).expect("validated");
    let named = headers.iter().filter(|header| !header.name.is_empty());
    sorted(named.map(|header| (header.name.to_ascii_lowercase(), header.value.to_vec())).collect())
}

fn sorted(mut fields: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

/// The requests in `bytes` as hyper reads them; `None` for one that is broken behind its head.
fn hypers(bytes: &[u8]) -> Vec<Option<Read>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let seen = Mutex::new(Vec::new());
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(256 * 1024);
        client.write_all(bytes).await.expect("fits into the pipe");
        client.shutdown().await.expect("in memory");
        let service = service_fn(async |request: hyper::Request<Incoming>| {
            let read = hyper_read(request).await;
            seen.lock().expect("not poisoned").push(read);
            Ok::<_, Infallible>(hyper::Response::new(Empty::<Bytes>::new()))
        });
        let mut answers = Vec::new();
        let mut hyper = hyper::server::conn::http1::Builder::new();
        hyper.half_close(true); // the end of `bytes` is not the client going away
        let serving = hyper.serve_connection(TokioIo::new(server), service);
        // Whether the connection ends in order is not asked.
        let _ = tokio::join!(serving, client.read_to_end(&mut answers));
    });
    seen.into_inner().expect("not poisoned")
}

async fn hyper_read(request: hyper::Request<Incoming>) -> Option<Read> {
    let (head, body) = request.into_parts();
    let collected = body.collect().await.ok()?;
    let map = |map: &http::HeaderMap| {
        sorted(map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect())
    };
    let trailers = collected.trailers().map(map).unwrap_or_default();
    let asked = match (head.uri.scheme_str(), head.uri.authority()) {
        (_, None) => None,
        (None, Some(authority)) => Some((None, Target::parse_authority(authority.as_str().as_bytes()).ok()?)),
        (Some(scheme), Some(authority)) => {
            let scheme = match scheme.to_ascii_lowercase().as_str() {
                "http" | "ws" => Scheme::Http,
                "https" | "wss" => Scheme::Https,
                _ => return None,
            };
            let target = Target::parse_or_port(authority.as_str().as_bytes(), scheme.default_port()).ok()?;
            Some((Some(scheme), target))
        }
    };
    let path = match head.uri.path_and_query().map(|path| path.as_str()) {
        None | Some("") => "-".to_owned(),
        Some(path) if path.starts_with('?') => format!("/{path}"),
        Some(path) => path.to_owned(),
    };
    let version = if head.version == http::Version::HTTP_10 { Version::Http10 } else { Version::Http11 };
    let method = head.method.to_string();
    let fields = map(&head.headers);
    Some(Read { method, asked, path, version, fields, body: collected.to_bytes().to_vec(), trailers })
}

/// Requests that both should read; each is followed by the beginning of another one, as on a connection that is kept.
const SEEDS: [&str; 16] = [
    "GET / HTTP/1.1\r\nHost: a.com\r\n\r\n",
    "\r\nGET / HTTP/1.1\r\nHost: a.com\r\n\r\n",
    "GET http://a.com/x?y=%20#z HTTP/1.1\r\nHost: a.com\r\n\r\n",
    "GET http://A.com:8080/a/../b//c;d?e=[{|}]^`\\ HTTP/1.1\r\nHOST: a.com:8080\r\nX-A: 1\r\nx-a:\t2 \r\n\r\n",
    "GET http://a.com?q=1 HTTP/1.1\r\nHost: a.com\r\nEmpty:\r\n\r\n",
    "HEAD https://[2001:db8::1]:8443 HTTP/1.1\r\nHost: b.com\r\nVia: 1.1 x\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a.com\r\nMax-Forwards: 1\r\n\r\n",
    "CONNECT a.com:443 HTTP/1.1\r\nHost: a.com:443\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
    "CONNECT [::1]:443 HTTP/1.0\r\nContent-Length: 0\r\n\r\n",
    "POST http://a.com/ HTTP/1.1\r\nHost: a.com\r\nContent-Length: 5\r\nExpect: x\r\n\r\nhello",
    "PUT /x HTTP/1.0\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc",
    "POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0A;x=y\r\n0123456789\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: Chunked\r\nTrailer: Digest\r\n\r\n1\r\nx\r\n0\r\nDigest: a\r\nX-B: c\r\n\r\n",
    "GET ws://a.com/chat HTTP/1.1\r\nHost: a.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "M-SEARCH!~ / HTTP/1.1\r\nHost: a.com\r\nConnection: X-A,close\r\nX-A: \"b\\\"c\", d\r\nCookie: \u{e9}\r\n\r\n",
    "DELETE http://192.0.2.1/ HTTP/1.1\r\nHost: 192.0.2.1\r\nContent-Length: 0\r\n\r\n",
];

/// Pieces that tell parsers apart.
const PIECES: [&str; 34] = [
    "\r\n",
    "\n",
    "\r",
    " ",
    "\t",
    "\0",
    ":",
    ",",
    ";",
    "/",
    "@",
    "#",
    "?",
    "\u{e9}",
    "\x7f",
    "0",
    "1",
    "f",
    "+",
    "-",
    "Host: b.com\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 1\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Connection: content-length\r\n",
    "Connection: close\r\n",
    " x\r\n",
    "HTTP/1.0",
    "HTTP/1.1",
    "chunked",
    "http://",
    "0\r\n\r\n",
    "GET / HTTP/1.1\r\n",
];

#[derive(Clone, Debug)]
enum Mutation {
    Insert(prop::sample::Index, &'static str),
    Overwrite(prop::sample::Index, u8),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Cut(prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        5 => (at(), prop::sample::select(&PIECES[..])).prop_map(|(at, piece)| Mutation::Insert(at, piece)),
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Overwrite(at, byte)),
        2 => (at(), 1usize..6).prop_map(|(at, len)| Mutation::Remove(at, len)),
        1 => (at(), 1usize..30).prop_map(|(at, len)| Mutation::Repeat(at, len)),
        1 => at().prop_map(Mutation::Cut),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    let (Mutation::Insert(at, _)
    | Mutation::Overwrite(at, _)
    | Mutation::Remove(at, _)
    | Mutation::Repeat(at, _)
    | Mutation::Cut(at)) = mutation;
    if bytes.is_empty() {
        return;
    }
    let at = at.index(bytes.len());
    match *mutation {
        Mutation::Insert(_, piece) => drop(bytes.splice(at..at, piece.bytes())),
        Mutation::Overwrite(_, byte) => bytes[at] = byte,
        Mutation::Remove(_, len) => drop(bytes.drain(at..(at + len).min(bytes.len()))),
        Mutation::Repeat(_, len) => {
            let piece = bytes[at..(at + len).min(bytes.len())].to_vec();
            drop(bytes.splice(at..at, piece));
        }
        Mutation::Cut(_) => bytes.truncate(at),
    }
}

#[test]
fn hyper_reads_the_seeds_as_we_do() {
    for seed in SEEDS {
        let read = ours(seed.as_bytes(), usize::MAX);
        if seed.contains('#') {
            assert_eq!(read, [], "a fragment");
            continue;
        }
        assert_eq!(read.len(), 1, "{seed:?}");
        assert_eq!(read.into_iter().map(Some).collect::<Vec<_>>(), hypers(seed.as_bytes()), "{seed:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_we_accept_hyper_reads_the_same(
        seeds in prop::collection::vec(prop::sample::select(&SEEDS[..]), 1..4),
        mutations in prop::collection::vec(mutation(), 0..4),
        step in 1usize..90,
    ) {
        let mut bytes = seeds.concat().into_bytes();
        for mutation in &mutations {
            mutate(&mut bytes, mutation);
        }
        let read = ours(&bytes, usize::MAX);
        prop_assert_eq!(&ours(&bytes, step), &read, "in pieces of {}", step);
        if read.is_empty() {
            return Ok(());
        }
        // hyper may close earlier than we would, but never see another request where we see one: that is what smuggling is.
        let hypers = hypers(&bytes);
        prop_assert!(!hypers.is_empty());
        for (ours, hypers) in read.into_iter().map(Some).zip(hypers) {
            prop_assert_eq!(hypers, ours, "{:?}", String::from_utf8_lossy(&bytes));
        }
    }
}
