//! HTTP/2 upstreams: Node's http2 as a server of gRPC's kind, nginx, and frames by hand for what no server should say.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request};
use serde_json::Value;

use crate::support::certificates::Authority;
use crate::support::client;
use crate::support::frames::{
    self, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame,
};
use crate::support::nginx::Nginx;
use crate::support::origin::field;
use crate::support::peer::{Peer, command};
use crate::support::{Egret, Folder, PATIENCE, Setup};

/// What the server does is said by the path.
const SERVER: &str = r#"
const http2 = require('node:http2');
let sessions = 0, refused = 0;
const server = http2.createServer({ settings: { enableConnectProtocol: true, maxConcurrentStreams: 50 } });
server.on('session', (session) => { session.number = ++sessions; session.served = 0; });
server.on('stream', (stream, headers) => {
  stream.on('error', () => {});
  stream.session.served += 1;
  const path = headers[':path'];
  if (headers[':method'] === 'CONNECT') { stream.respond({ ':status': path === '/no' ? 403 : 200, 'x-ws': headers['x-ws'] ?? '' }, { endStream: path === '/no' }); if (path !== '/no') stream.pipe(stream); return; }
  if (path.startsWith('/grpc-only')) { stream.respond({ ':status': 200, 'content-type': 'application/grpc', 'grpc-status': '12' }, { endStream: true }); return; }
  if (path.startsWith('/grpc')) {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc', 'x-te': headers['te'] ?? '' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0', 'grpc-message': 'done' }));
    stream.pipe(stream);
    return;
  }
  if (path.startsWith('/hints')) { stream.additionalHeaders({ ':status': 103, 'link': '</x>; rel=preload' }); stream.respond({ ':status': 200 }); stream.end('hinted'); return; }
  if (path.startsWith('/refuse-once') && refused++ === 0) { stream.close(http2.constants.NGHTTP2_REFUSED_STREAM); return; }
  if (path.startsWith('/refuse-always')) { stream.close(http2.constants.NGHTTP2_REFUSED_STREAM); return; }
  if (path.startsWith('/reset')) { stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR); return; }
  if (path.startsWith('/nothing')) { stream.respond({ ':status': 204 }, { endStream: true }); return; }
  if (path.startsWith('/empty')) { stream.respond({ ':status': 200 }, { endStream: true }); return; }
  if (path.startsWith('/early')) { stream.respond({ ':status': 413, 'content-length': '3' }); stream.end('big'); return; }
  if (path.startsWith('/big')) { stream.respond({ ':status': 200 }); stream.end(Buffer.alloc(20 << 20, 'x')); return; }
  let body = '';
  stream.on('data', (data) => { body += data; });
  stream.on('end', () => {
    const text = JSON.stringify({ ...headers, body, session: stream.session.number });
    stream.respond({ ':status': 200, 'content-length': Buffer.byteLength(text) });
    if (headers[':method'] === 'HEAD') stream.end(); else stream.end(text);
  });
});
server.listen(Number(process.argv[2]), '127.0.0.1');
"#;

fn node(folder: &Folder) -> Peer {
    let script = folder.write("server.js", SERVER);
    Peer::start(|[port]: [u16; 1]| {
        let mut node = command("node");
        node.arg(&script).arg(port.to_string());
        node
    })
}

/// A service of this protocol at `port`, and what a rule says of it.
fn service(protocol: &str, port: u16, rule: &str) -> String {
    let rule = if rule.is_empty() {
        String::new()
    } else {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: api }}\nspec: {{ host: api.example, trafficPolicy: {rule} }}\n"
        )
    };
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: api }}
spec:
  hosts: [api.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{ number: 80, name: port, protocol: {protocol}, targetPort: {port} }}]
  endpoints: [{{ address: 127.0.0.1 }}]
{rule}"
    )
}

const FORMAT: &str = r#"accessLogFormat: '{"path": "%REQ(:PATH)%", "upstream": "%UPSTREAM_PROTOCOL%", "protocol": "%PROTOCOL%", "flags": "%RESPONSE_FLAGS%", "code": "%RESPONSE_CODE%", "host": "%UPSTREAM_HOST%", "reused": "%EGRET(reused)%", "reason": "%EGRET(reason)%"}'"#;

fn proxy(folder: &Folder, rules: &str) -> Egret {
    Setup { mesh: FORMAT, rules, ..Setup::default() }.start(folder)
}

fn json(answer: &client::Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.head);
    serde_json::from_slice(&answer.body).unwrap()
}

/// Sends a request of HTTP/1 and reads all that comes until the connection ends.
fn whole(egret: &Egret, request: &str) -> String {
    let mut stream = client::dial(egret.proxy());
    client::send(&mut stream, request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// An answer over HTTP/2, whole.
struct Got {
    /// 0 where it broke off before its head was here: a reset overtakes what is still in a queue.
    status: u16,
    fields: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// What ended it too early.
    broken: Option<h2::Error>,
}

/// Sends a request to the proxy in HTTP/2.
fn ask_h2(egret: &Egret, method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Got {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let asking = async {
        let tcp = tokio::net::TcpStream::connect(egret.proxy()).await.unwrap();
        let (send, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(format!("http://api.example{path}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut send = send.ready().await.unwrap();
        let (response, mut stream) = send.send_request(request.body(()).unwrap(), body.is_empty()).unwrap();
        if !body.is_empty() {
            stream.send_data(Bytes::copy_from_slice(body), true).unwrap();
        }
        let (parts, mut recv) = match response.await {
            Ok(response) => response.into_parts(),
            Err(error) => {
                let (fields, body) = (HeaderMap::new(), Vec::new());
                return Got { status: 0, fields, body, trailers: None, broken: Some(error) };
            }
        };
        let (mut got, mut broken) = (Vec::new(), None);
        while let Some(data) = recv.data().await {
            match data {
                Ok(data) => {
                    let _ = recv.flow_control().release_capacity(data.len());
                    got.extend_from_slice(&data);
                }
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        let trailers = if broken.is_none() { recv.trailers().await.unwrap() } else { None };
        Got { status: parts.status.as_u16(), fields: parts.headers, body: got, trailers, broken }
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, asking).await.unwrap() })
}

#[test]
fn a_port_that_says_http2_is_asked_in_http2_and_nothing_of_a_connection_gets_there() {
    let folder = Folder::new();
    let server = node(&folder);
    let egret = proxy(&folder, &service("HTTP2", server.address().port(), ""));
    let mut stream = client::dial(egret.proxy());
    client::send(
        &mut stream,
        "GET http://api.example/a?b HTTP/1.1\r\nHost: api.example\r\nConnection: x-private, te\r\nX-Private: 1\r\nX-Public: 2\r\n\
         TE: trailers, gzip\r\nKeep-Alive: timeout=5\r\nProxy-Authorization: Basic eDp5\r\nCookie: a=b\r\n\r\n",
    );
    let seen = json(&client::read_answer(&mut stream));
    for (name, value) in [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "api.example"),
        (":path", "/a?b"),
        ("x-public", "2"),
        ("te", "trailers"),
        ("cookie", "a=b"),
    ] {
        assert_eq!(seen[name], value, "{seen}");
    }
    assert!(seen["via"].as_str().is_some_and(|via| via.starts_with("1.1 ")), "{seen}");
    for name in ["host", "connection", "x-private", "keep-alive", "proxy-authorization", "transfer-encoding"] {
        assert!(seen[name].is_null(), "{name} in {seen}");
    }
    // The next one, of the same client or of another, is a stream of the same connection.
    for n in 0..5 {
        let answer = client::get(egret.proxy(), &format!("http://api.example/again-{n}"));
        assert_eq!(json(&answer)["session"], seen["session"]);
        assert!(field(&answer.head, "via").is_some_and(|via| via.starts_with("2 ")), "{}", answer.head);
        let record = egret.record(&format!("/again-{n}"));
        record.shows(&[("upstream", "HTTP/2"), ("protocol", "HTTP/1.1"), ("flags", "-"), ("reused", "true")]);
        record.shows(&[("host", &server.address().to_string())]);
    }
    assert_eq!(egret.metric("egret_upstream_http2_connections_total"), 1);
    assert_eq!(egret.metric("egret_upstream_http2_streams_total"), 6);
    let clusters = String::from_utf8(client::get_from(egret.admin(), "/clusters").body).unwrap();
    let of = format!("outbound|80||api.example::{}::", server.address());
    for line in ["cx_active::1", "cx_total::1", "rq_total::6", "rq_success::6", "rq_active::0"] {
        assert!(clusters.contains(&format!("{of}{line}\n")), "{line} in\n{clusters}");
    }
}

#[test]
fn policies_decide_where_the_port_says_http() {
    let upgrade = "{ connectionPool: { http: { h2UpgradePolicy: UPGRADE } } }";
    let never = "{ connectionPool: { http: { h2UpgradePolicy: DO_NOT_UPGRADE } } }";
    let client_s = "{ connectionPool: { http: { useClientProtocol: true } } }";
    let mesh = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: istio, namespace: istio-system }\ndata:\n  mesh: |\n    h2UpgradePolicy: UPGRADE\n";
    let folder = Folder::new();
    let server = node(&folder);
    let nginx = Nginx::start(&folder, "", &Authority::new().issue(&folder, "any", &["any.example"]));
    let (h2, h1) = (server.address().port(), nginx.plain().port());
    for (rules, of_http1, of_http2) in [
        (service("HTTP", h2, upgrade), "HTTP/2", "HTTP/2"),
        (service("HTTP", h1, never) + mesh, "HTTP/1.1", "HTTP/1.1"),
        (service("HTTP", h2, "") + mesh, "HTTP/2", "HTTP/2"),
        (service("HTTP", h1, ""), "HTTP/1.1", "HTTP/1.1"),
        (service("HTTP2", h2, never), "HTTP/2", "HTTP/2"),
    ] {
        let folder = Folder::new();
        let egret = proxy(&folder, &rules);
        assert_eq!(client::get(egret.proxy(), "http://api.example/").status, 200, "{rules}");
        assert_eq!(ask_h2(&egret, "GET", "/", &[], b"").status, 200, "{rules}");
        egret.nth_record("\"path\"", 1).shows(&[("upstream", of_http1), ("protocol", "HTTP/1.1")]);
        egret.nth_record("\"path\"", 2).shows(&[("upstream", of_http2), ("protocol", "HTTP/2")]);
    }
    // The client's version: of two services, each asked in the one that its server knows.
    let folder = Folder::new();
    let egret = proxy(&folder, &service("HTTP", h2, client_s));
    assert_eq!(ask_h2(&egret, "GET", "/", &[], b"").status, 200);
    egret.record("\"path\"").shows(&[("upstream", "HTTP/2"), ("protocol", "HTTP/2")]);
    let folder = Folder::new();
    let egret = proxy(&folder, &service("HTTP2", h1, client_s));
    assert_eq!(client::get(egret.proxy(), "http://api.example/").status, 200);
    egret.record("\"path\"").shows(&[("upstream", "HTTP/1.1"), ("protocol", "HTTP/1.1")]);
}

#[test]
fn grpc_goes_through_with_its_trailers() {
    let folder = Folder::new();
    let server = node(&folder);
    let egret = proxy(&folder, &service("GRPC", server.address().port(), ""));
    let fields = [("te", "trailers"), ("content-type", "application/grpc")];
    let got = ask_h2(&egret, "POST", "/grpc.Service/Method", &fields, b"\0\0\0\0\x05hello");
    assert_eq!((got.status, got.body.as_slice()), (200, &b"\0\0\0\0\x05hello"[..]));
    assert_eq!(got.fields["x-te"], "trailers");
    let trailers = got.trailers.expect("trailers");
    assert_eq!(
        (&trailers["grpc-status"], &trailers["grpc-message"]),
        (&"0".parse().unwrap(), &"done".parse().unwrap())
    );
    // An answer that is trailers only ends with its head.
    let got = ask_h2(&egret, "POST", "/grpc-only", &fields, b"\0\0\0\0\0");
    assert_eq!((got.status, got.body.len(), got.trailers.is_none()), (200, 0, true));
    assert_eq!(got.fields["grpc-status"], "12");
    assert!(!got.fields.contains_key("content-length"));
    // A client of HTTP/1 gets them as it knows them.
    let request = "POST http://api.example/grpc HTTP/1.1\r\nHost: api.example\r\nTE: trailers\r\nConnection: close, te\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let answer = whole(&egret, request);
    assert!(answer.contains("\r\nTransfer-Encoding: chunked\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n5\r\nhello\r\n0\r\ngrpc-status: 0\r\ngrpc-message: done\r\n\r\n"), "{answer}");
}

#[test]
fn answers_keep_their_shape() {
    let folder = Folder::new();
    let server = node(&folder);
    let egret = proxy(&folder, &service("HTTP2", server.address().port(), ""));
    let mut stream = client::dial(egret.proxy());
    let bare = |method: &str, path: &str| {
        let head =
            format!("{method} http://api.example{path} HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n\r\n");
        whole(&egret, &head)
    };
    let head = bare("HEAD", "/head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(field(&head, "content-length").is_some_and(|length| length != "0"), "{head}");
    let nothing = bare("GET", "/nothing");
    assert!(nothing.starts_with("HTTP/1.1 204 No Content\r\n") && nothing.ends_with("\r\n\r\n"), "{nothing}");
    assert_eq!(field(&nothing, "content-length").or(field(&nothing, "transfer-encoding")), None);
    let answer = client::ask(&mut stream, "GET", "http://api.example/empty");
    assert_eq!((answer.status, field(&answer.head, "content-length")), (200, Some("0")));
    let answer = client::ask(&mut stream, "GET", "http://api.example/again"); // on the same connection of the client
    assert_eq!(answer.status, 200);
    let hinted = bare("GET", "/hints");
    assert!(
        hinted.starts_with("HTTP/1.1 103 Early Hints\r\nlink: </x>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\n"),
        "{hinted}"
    );
    assert!(hinted.contains("hinted"), "{hinted}");
    let big = ask_h2(&egret, "GET", "/big", &[], b"");
    assert_eq!((big.status, big.body.len(), big.broken.is_none()), (200, 20 << 20, true));
    let posted = "x".repeat(3 << 20);
    let answer = whole(
        &egret,
        &format!(
            "POST http://api.example/post HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{posted}",
            posted.len()
        ),
    );
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let seen: HashMap<String, Value> = serde_json::from_str(body).unwrap();
    assert_eq!((seen["content-length"].as_str(), seen["body"] == posted), (Some(&*posted.len().to_string()), true));
}

#[test]
fn what_broke_off_never_looks_complete() {
    let folder = Folder::new();
    let server = node(&folder);
    let cutting = by_hand(|stream, _| {
        let _ = stream.write_all(&frame(SETTINGS, 0, 0, &[]));
        while let Some(asked) = until(stream, HEADERS) {
            let half = [ok(asked, false), frame(DATA, 0, asked, b""), frame(DATA, 0, asked, b"half")].concat();
            let reset = frame(RST_STREAM, 0, asked, &frames::INTERNAL_ERROR.to_be_bytes());
            let _ = stream.write_all(&[half, reset].concat());
        }
    });
    let own = Folder::new();
    let egret = proxy(&own, &service("HTTP2", cutting.port(), ""));
    let answer = whole(&egret, "GET http://api.example/cut HTTP/1.1\r\nHost: api.example\r\n\r\n");
    assert!(answer.contains("4\r\nhalf\r\n") && !answer.contains("0\r\n\r\n"), "{answer}");
    egret.record("/cut").shows(&[("code", "200"), ("flags", "UC")]);
    let got = ask_h2(&egret, "GET", "/cut-too", &[], b"");
    assert!(matches!((got.status, &got.body[..]), (200, b"half" | b"") | (0, b"")), "{} {:?}", got.status, got.body);
    assert!(got.broken.is_some_and(|error| error.is_reset()));
    // One that is reset before its answer is 502.
    let own = Folder::new();
    let egret = proxy(&own, &service("HTTP2", server.address().port(), ""));
    let answer = client::get(egret.proxy(), "http://api.example/reset");
    assert_eq!(answer.status, 502, "{}", answer.head);
    assert!(answer.head.contains("api.example:80 reset the stream (INTERNAL_ERROR)"), "{}", answer.head);
    egret.record("/reset").shows(&[("code", "502"), ("flags", "UC"), ("reason", "connection_terminated")]);
    assert_eq!(client::get(egret.proxy(), "http://api.example/after").status, 200);
}

#[test]
fn what_the_upstream_refuses_unseen_is_sent_once_more() {
    let folder = Folder::new();
    let server = node(&folder);
    let egret = proxy(&folder, &service("HTTP2", server.address().port(), ""));
    let post = |path: &str| {
        whole(
            &egret,
            &format!(
                "POST http://api.example{path} HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
            ),
        )
    };
    let answer = post("/refuse-once");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"body\":\"hello\""), "{answer}");
    let answer = post("/refuse-always");
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains("refused the request without looking at it"),
        "{answer}"
    );
    egret.record("/refuse-always").shows(&[("flags", "UC"), ("reason", "connection_terminated")]);
}

#[test]
fn websockets_go_by_extended_connect_where_the_upstream_knows_it() {
    let folder = Folder::new();
    let server = node(&folder);
    let egret = proxy(&folder, &service("HTTP2", server.address().port(), ""));
    let upgrade = |path: &str| {
        format!(
            "GET http://api.example{path} HTTP/1.1\r\nHost: api.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-WS: 7\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    let mut stream = client::dial(egret.proxy());
    client::send(&mut stream, &upgrade("/ws"));
    let head = crate::support::origin::read_head(&mut stream).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert_eq!(field(&head, "sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!((field(&head, "upgrade"), field(&head, "x-ws")), (Some("websocket"), Some("7")), "{head}");
    assert!(client::echoes(&mut stream, b"frames of a websocket"));
    drop(stream);
    egret.record("/ws").shows(&[("code", "101"), ("upstream", "HTTP/2")]);
    let mut stream = client::dial(egret.proxy());
    client::send(&mut stream, &upgrade("/no"));
    assert_eq!(client::read_answer(&mut stream).status, 403);
    // nginx speaks HTTP/2 under TLS here, and knows no extended CONNECT: it is asked in HTTP/1.
    let authority = Authority::new();
    let files = authority.issue(&folder, "api", &["api.example"]);
    let nginx = Nginx::start(&folder, "location /ws { return 200 $server_protocol/$http_upgrade; }", &files);
    let tls = format!("{{ tls: {{ mode: SIMPLE, caCertificates: {} }} }}", authority.write(&folder, "ca").display());
    let rules = service("HTTP2", nginx.tls().port(), &tls);
    let folder = Folder::new();
    let egret = proxy(&folder, &rules);
    let mut stream = client::dial(egret.proxy());
    client::send(&mut stream, &upgrade("/ws"));
    let answer = client::read_answer(&mut stream);
    assert_eq!((answer.status, String::from_utf8_lossy(&answer.body).as_ref()), (200, "HTTP/1.1/websocket"));
}

#[test]
fn nginx_behind_tls_is_agreed_with_by_alpn() {
    let folder = Folder::new();
    let authority = Authority::new();
    let files = authority.issue(&folder, "api", &["api.example"]);
    let nginx = Nginx::start(&folder, "location /v { return 200 $server_protocol; }", &files);
    let tls = |http: &str| {
        let ca = authority.write(&folder, "ca");
        format!("{{ tls: {{ mode: SIMPLE, caCertificates: {} }}{http} }}", ca.display())
    };
    for (protocol, http, expected) in [
        ("HTTP2", "", "HTTP/2.0"),
        ("HTTP", "", "HTTP/1.1"),
        ("HTTP", ", connectionPool: { http: { h2UpgradePolicy: UPGRADE, maxRequestsPerConnection: 2 } }", "HTTP/2.0"),
    ] {
        let own = Folder::new();
        let egret = proxy(&own, &service(protocol, nginx.tls().port(), &tls(http)));
        for _ in 0..5 {
            let answer = client::get(egret.proxy(), "http://api.example/v");
            assert_eq!(
                (answer.status, String::from_utf8_lossy(&answer.body).as_ref()),
                (200, expected),
                "{protocol}{http}"
            );
        }
        let connections = match (expected, http) {
            ("HTTP/1.1", _) => 0,
            (_, "") => 1,
            _ => 3,
        };
        assert_eq!(egret.metric("egret_upstream_http2_connections_total"), connections);
    }
}

/// An upstream that does with each connection what it is told, behind the preface and its own settings.
fn by_hand(serve: impl Fn(&mut TcpStream, usize) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (serve, number) = (Arc::new(serve), AtomicUsize::new(0));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (serve, number) = (serve.clone(), number.fetch_add(1, Ordering::Relaxed));
            std::thread::spawn(move || {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut preface = vec![0; PREFACE.len()];
                if stream.read_exact(&mut preface).is_err() {
                    return;
                }
                serve(&mut stream, number);
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            });
        }
    });
    address
}

/// Reads frames until one of this kind.
fn until(stream: &mut TcpStream, kind: u8) -> Option<u32> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        stream.read_exact(&mut vec![0; length]).ok()?;
        if head[3] == kind {
            return Some(u32::from_be_bytes(head[5..9].try_into().unwrap()));
        }
    }
}

fn ok(stream: u32, end: bool) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | if end { END_STREAM } else { 0 }, stream, &[0x88])
}

#[test]
fn goaway_leaves_streams_that_it_names_and_sends_the_others_elsewhere() {
    // The first connection answers GOAWAY with last stream 0 to the first request; the next serve one.
    let upstream = by_hand(|stream, number| {
        let _ = stream.write_all(&frame(SETTINGS, 0, 0, &[]));
        let Some(asked) = until(stream, HEADERS) else { return };
        if number == 0 {
            let _ = stream.write_all(&frame(GOAWAY, 0, 0, &[0; 8]));
            return;
        }
        let _ = stream.write_all(&frame(GOAWAY, 0, 0, &[&asked.to_be_bytes()[..], &[0; 4]].concat()));
        let _ = stream.write_all(&[ok(asked, false), frame(DATA, END_STREAM, asked, b"whole")].concat());
    });
    let folder = Folder::new();
    let egret = proxy(&folder, &service("HTTP2", upstream.port(), ""));
    for _ in 0..3 {
        let post = "POST http://api.example/p HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
        let answer = whole(&egret, post);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("whole"), "{answer}");
    }
    assert_eq!(egret.metric("egret_upstream_http2_connections_total"), 4);
}

#[test]
fn upstreams_that_mean_harm_are_bounded() {
    let interim = frame(HEADERS, END_HEADERS, 1, &[0x08, 3, b'1', b'0', b'3']);
    let continuation =
        [frame(HEADERS, 0, 1, &[0x88]), frame(frames::CONTINUATION, 0, 1, &[0; 0]).repeat(500_000)].concat();
    let fields = [&[0x00, 1, b'a', 0x7f, 0x80, 0x7c][..], &[b'x'; 15_999]].concat();
    let list = [frame(HEADERS, 0, 1, &[0x88]), frame(frames::CONTINUATION, 0, 1, &fields).repeat(1_000)].concat();
    let longer = [ok(1, false)[..].to_vec(), frame(DATA, 0, 3, b"of nobody")].concat();
    for (what, bytes) in [
        ("interim answers without end", interim.repeat(100_000)),
        ("empty CONTINUATION without end", continuation),
        ("fields without end", list),
        ("DATA of a stream that was not asked for", longer),
        ("HTTP/1.1", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
    ] {
        let upstream = by_hand(move |stream, _| {
            let _ = stream.write_all(&frame(SETTINGS, 0, 0, &[]));
            let _ = until(stream, HEADERS);
            let _ = stream.write_all(&bytes);
        });
        let folder = Folder::new();
        let egret = proxy(&folder, &service("HTTP2", upstream.port(), ""));
        let before = egret.resident_bytes();
        let answer =
            whole(&egret, "GET http://api.example/h HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n\r\n");
        let is_whole = answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n0\r\n\r\n");
        assert!(!answer.is_empty() && !is_whole, "{what}: {answer:.300}");
        assert!(egret.resident_bytes() < before + (96 << 20), "{what}: {} to {}", before, egret.resident_bytes());
    }
}

#[test]
fn a_window_that_stays_closed_holds_the_client_back_until_the_pause_is_too_long() {
    // SETTINGS_INITIAL_WINDOW_SIZE 0, and no WINDOW_UPDATE ever.
    let upstream = by_hand(|stream, _| {
        let _ = stream.write_all(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
    });
    let folder = Folder::new();
    let rules = service("HTTP2", upstream.port(), "");
    let egret =
        Setup { mesh: FORMAT, rules: &rules, more: "limits: { bodyIdle: 1s }", ..Setup::default() }.start(&folder);
    let body = "x".repeat(1 << 20);
    let request = format!(
        "POST http://api.example/w HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = client::dial(egret.proxy());
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[test]
fn a_ping_that_is_not_answered_ends_what_waits() {
    let upstream = by_hand(|stream, _| {
        let _ = stream.write_all(&frame(SETTINGS, 0, 0, &[]));
    });
    let folder = Folder::new();
    let keepalive = "{ connectionPool: { http: { http2KeepAlive: { interval: 200ms, timeout: 200ms } } } }";
    let egret = proxy(&folder, &service("HTTP2", upstream.port(), keepalive));
    let answer = client::get(egret.proxy(), "http://api.example/silent");
    assert_eq!(answer.status, 502, "{}", answer.head);
    egret.record("/silent").shows(&[("flags", "UC"), ("reason", "connection_terminated")]);
}

#[test]
fn copies_for_a_mirror_go_in_its_own_version() {
    let folder = Folder::new();
    let server = node(&folder);
    let copies = by_hand(|stream, _| {
        let _ = stream.write_all(&frame(SETTINGS, 0, 0, &[]));
        if let Some(asked) = until(stream, DATA) {
            let _ = stream.write_all(&ok(asked, true));
        }
    });
    let mirror =
        service("GRPC", copies.port(), "").replace("api.example", "copy.example").replace("name: api", "name: copy");
    let route = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: api }\nspec:\n  hosts: [api.example]\n  http:\n  - route: [{ destination: { host: api.example, port: { number: 80 } } }]\n    mirror: { host: copy.example, port: { number: 80 } }\n";
    let rules = format!("{}---\n{mirror}{route}", service("HTTP2", server.address().port(), ""));
    let egret = proxy(&folder, &rules);
    let answer = whole(
        &egret,
        "POST http://api.example/m HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
    );
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    crate::support::eventually("the copy has its stream", || {
        egret.metric("egret_upstream_http2_streams_total") == 2
            && egret.metric("egret_upstream_http2_streams_open") == 0
    });
}
