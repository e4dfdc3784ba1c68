//! Plain requests over HTTP/2: the same exchange as in HTTP/1.

use std::io::Write;

use crate::support::frames::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PROTOCOL_ERROR, RST_STREAM, block, get};
use crate::support::origin::{Origin, field, read_head};
use crate::support::{Egret, eventually};

fn post<'a>(authority: &'a str, length: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![(":method", "POST"), (":scheme", "http"), (":authority", authority), (":path", "/post")];
    fields.extend(length.map(|length| ("content-length", length)));
    fields
}

#[test]
fn a_request_and_its_answer_travel_and_the_connection_serves_on() {
    let origin = Origin::mirror();
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    for stream in [1, 3] {
        client.get(stream, origin.address, "/a?b");
        assert_eq!(client.status(stream), 200);
    }
    let authority = origin.address.to_string();
    for (stream, length) in [(5, None), (7, Some("9"))] {
        client.request(stream, false, &post(&authority, length));
        client.send(DATA, 0, stream, b"four");
        client.send(DATA, 0, stream, b""); // no end of a body
        client.send(DATA, 0, stream, b"+five");
        client.send(DATA, END_STREAM, stream, b"");
        assert_eq!(client.status(stream), 200);
        assert_eq!(client.data(stream, usize::MAX), b"four+five");
    }
    let requests = origin.requests();
    assert!(requests[0].starts_with("GET /a?b HTTP/1.1\r\n"), "{requests:?}");
    assert_eq!(field(&requests[0], "host"), Some(&*authority));
    assert!(field(&requests[0], "via").is_some_and(|via| via.starts_with("2 ")), "{requests:?}");
    assert_eq!(field(&requests[2], "transfer-encoding"), Some("chunked"));
    assert_eq!(field(&requests[3], "content-length"), Some("9"));
    let line = egret.stdout.wait_for("/a?b");
    assert!(line.contains("\"GET /a?b HTTP/2\" 200 "), "{line}");
}

#[test]
fn a_body_that_is_not_as_long_as_it_says_is_no_request() {
    let origin = Origin::mirror();
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    let authority = origin.address.to_string();
    client.request(1, false, &post(&authority, Some("5")));
    client.send(DATA, END_STREAM, 1, b"four");
    assert_eq!(client.reset(1), PROTOCOL_ERROR);
    client.request(3, false, &post(&authority, Some("3")));
    client.send(DATA, END_STREAM, 3, b"four");
    assert_eq!(client.reset(3), PROTOCOL_ERROR);
    assert!(client.is_alive());
}

#[test]
fn an_answer_that_breaks_off_is_reset_and_never_ended() {
    let origin = Origin::new(|mut stream| {
        let _ = read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive!");
    });
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    client.get(1, origin.address, "/");
    // A reset may overtake what was queued: of the answer anything may arrive but its end.
    let mut frames = Vec::new();
    while frames.last().is_none_or(|kind| *kind != RST_STREAM) {
        let frame = client.wait(|frame| frame.stream == 1);
        assert_eq!(frame.flags & END_STREAM, 0, "{frame:?}");
        frames.push(frame.kind);
    }
    assert!(client.is_alive());
}

#[test]
fn heads_without_body_end_the_stream_and_interim_answers_come_first() {
    let origin = Origin::new(|mut stream| {
        while let Some(head) = read_head(&mut stream) {
            let answer: &[u8] = match head.split(' ').nth(1) {
                Some("/204") => b"HTTP/1.1 204 No Content\r\n\r\n",
                Some("/304") => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
                _ => b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
            };
            stream.write_all(answer).unwrap();
        }
    });
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    let authority = origin.address.to_string();
    for (stream, path, status) in [(1, "/204", 204), (3, "/304", 304)] {
        client.get(stream, &authority, path);
        let answer = client.wait(|frame| frame.stream == stream);
        assert_eq!((answer.status(), answer.flags & END_STREAM), (status, END_STREAM));
    }
    let mut head = get(&authority, "/head");
    head[0].1 = "HEAD";
    client.request(5, true, &head);
    assert_eq!(client.status(5), 103);
    let answer = client.wait(|frame| frame.stream == 5);
    assert_eq!((answer.status(), answer.flags & END_STREAM), (200, END_STREAM));
}

#[test]
fn trailers_travel_to_the_origin_and_back() {
    let origin = Origin::new(|mut stream| {
        let _ = read_head(&mut stream);
        let _chunk = read_head(&mut stream); // up to the empty line behind the trailers
        let _ =
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nDigest: x\r\n\r\n");
    });
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    client.request(1, false, &post(&origin.address.to_string(), None));
    client.send(DATA, 0, 1, b"body");
    client.send(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("checksum", "7")]));
    assert_eq!(client.status(1), 200);
    let data = client.wait(|frame| frame.stream == 1);
    assert_eq!((data.kind, &data.payload[..], data.flags & END_STREAM), (DATA, &b"hi"[..], 0));
    let trailers = client.wait(|frame| frame.stream == 1);
    assert_eq!((trailers.kind, trailers.flags & END_STREAM), (HEADERS, END_STREAM));
}

#[test]
fn a_client_that_resets_its_request_is_not_waited_for() {
    let origin = Origin::new(|mut stream| {
        let _ = read_head(&mut stream);
        let _ = read_head(&mut stream); // until we hang up
    });
    let egret = Egret::start();
    let mut client = Frames::open(egret.proxy());
    client.get(1, origin.address, "/slow");
    eventually("it is being served", || egret.metric("egret_http2_streams_open") == 1);
    client.send(RST_STREAM, 0, 1, &8u32.to_be_bytes());
    eventually("it is over", || egret.metric("egret_http2_streams_open") == 0);
    assert!(egret.stdout.wait_for("/slow").contains(" DC "));
}
