//! Asks a parent proxy for a tunnel over HTTP/1.1: by CONNECT (RFC 9110 §9.3.6), or by a POST whose bodies are the tunnel.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::DialError;
use crate::flow::Target;
use crate::http1::{HeadLimits, ResponseHead, parse_response};
use crate::route::{Hop, TunnelMethod};
use crate::stream::Stream;
use crate::stream::posted::Posted;

/// What goes into the request besides the target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking<'a> {
    /// The parent, for errors.
    pub(super) hop: &'a Arc<str>,
    /// How it is asked.
    pub(super) method: TunnelMethod,
    /// Our own name; `None`: no `Via` of ours.
    pub(super) via: Option<&'a str>,
    /// `Via` as the client sent it: a parent that leads back to us finds us in it.
    pub(super) received_via: Option<&'a str>,
    /// Of the answer's head.
    pub(super) head: HeadLimits,
}

pub(super) const INTERIM_ANSWERS_MAX: usize = 16; // 1xx before the answer; more are no parent's but somebody's who holds us open
const REASON_BYTES_MAX: usize = 80; // of the parent's reason phrase, in logs and answers
const READ_BYTES: usize = 1024; // most answers to CONNECT are one short line and a few fields

/// Sends `request` for `target` to the parent at the other end of `stream`. On return the stream is the tunnel; bytes that came with
/// the answer are its prefix.
///
/// # Errors
/// [`DialError::HopRefused`] for any answer but 2xx, [`DialError::HopProtocol`] for what is no answer.
pub(super) async fn connect(
    mut stream: Stream,
    request: &[u8],
    target: &Target,
    asking: Asking<'_>,
) -> Result<Stream, DialError> {
    let lost = |source| DialError::Connect { peer: format!("{} for {target}", asking.hop).into(), source };
    stream.write_all(request).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    let mut buf = BytesMut::with_capacity(READ_BYTES);
    for _ in 0..=INTERIM_ANSWERS_MAX {
        let head = next_head(&mut stream, &mut buf, target, asking).await?;
        match head.status() {
            100..200 => {}
            200..300 => {
                let body = head.body();
                let stream = stream.with_prefix(buf.freeze());
                return Ok(match asking.method {
                    // Content-Length and Transfer-Encoding mean nothing here: what follows is the tunnel (RFC 9110 §9.3.6).
                    TunnelMethod::Connect => stream,
                    TunnelMethod::Post => Posted::new(stream, body).into(),
                });
            }
            status => {
                let reason = printable(head.reason());
                return Err(DialError::HopRefused { hop: asking.hop.clone(), status, reason, about: "".into() });
            }
        }
    }
    Err(protocol(asking, format!("more than {INTERIM_ANSWERS_MAX} interim answers")))
}

async fn next_head(
    stream: &mut Stream,
    buf: &mut BytesMut,
    target: &Target,
    asking: Asking<'_>,
) -> Result<ResponseHead, DialError> {
    loop {
        match parse_response(buf, asking.method.as_str(), &asking.head) {
            Ok(Some(head)) => return Ok(head),
            Ok(None) => {}
            Err(error) => return Err(protocol(asking, error.to_string())),
        }
        buf.reserve(READ_BYTES);
        let read = stream.read_buf(buf).await.and_then(|n| match n {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => Ok(n),
        });
        read.map_err(|source| DialError::Connect { peer: format!("{} for {target}", asking.hop).into(), source })?;
    }
}

/// The request, so that a parent that cannot be asked is not dialled.
///
/// # Errors
/// [`DialError::Configuration`] where credentials are missing.
pub(super) fn request(hop: &Hop, target: &Target, asking: Asking<'_>) -> Result<Vec<u8>, DialError> {
    let mut text = match hop.method {
        TunnelMethod::Connect => format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"),
        TunnelMethod::Post => format!("POST / HTTP/1.1\r\nHost: {target}\r\nTransfer-Encoding: chunked\r\n"),
    };
    let mut field = |name: &str, value: &str| {
        for part in [name, ": ", value, "\r\n"] {
            text.push_str(part);
        }
    };
    if let Some(via) = asking.via_value() {
        field("Via", &via);
    }
    if let Some(value) = authorization(hop)? {
        field("Proxy-Authorization", value);
    }
    text.push_str("\r\n");
    Ok(text.into_bytes())
}

/// The value of `Proxy-Authorization`, if the parent wants one.
///
/// # Errors
/// [`DialError::Configuration`] where credentials are missing, or could not stand in a head.
pub(super) fn authorization(hop: &Hop) -> Result<Option<&str>, DialError> {
    match hop.authorization.as_ref().map(|authorization| &authorization.value) {
        Some(Ok(value)) if value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) => Ok(Some(value)),
        Some(Ok(_)) => Err(DialError::Configuration("the parent's credentials hold control characters".into())),
        Some(Err(problem)) => Err(DialError::Configuration(problem.clone())),
        None => Ok(None),
    }
}

impl Asking<'_> {
    /// `Via` as it goes on, with us in it.
    pub(super) fn via_value(&self) -> Option<String> {
        match (self.received_via, self.via) {
            (Some(received), Some(via)) => Some(format!("{received}, 1.1 {via}")),
            (Some(received), None) => Some(received.to_owned()),
            (None, Some(via)) => Some(format!("1.1 {via}")),
            (None, None) => None,
        }
    }
}

/// A reason phrase as it may stand in a log, a header field and a terminal.
fn printable(reason: &[u8]) -> Box<str> {
    let safe = |byte: &u8| if *byte == b' ' || byte.is_ascii_graphic() { char::from(*byte) } else { '?' };
    reason.iter().take(REASON_BYTES_MAX).map(safe).collect::<String>().into()
}

fn protocol(asking: Asking<'_>, problem: String) -> DialError {
    DialError::HopProtocol { hop: asking.hop.clone(), problem: problem.into(), version: "HTTP/1.1" }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    use super::super::testing::*;
    use super::super::{Asker, DialSettings, Dialed, Dialer};
    use super::*;
    use crate::flow::{DialTrace, ErrorType, Failure};
    use crate::route::cluster::Authorization;
    use crate::route::{Cluster, Discovery, Via};

    /// A parent that answers each CONNECT with these pieces, one packet each, and then echoes.
    struct Parent {
        addr: std::net::SocketAddr,
        requests: Arc<Mutex<Vec<String>>>,
    }

    impl Parent {
        async fn start(pieces: Vec<Vec<u8>>) -> Self {
            Self::start_slow(pieces, Duration::ZERO).await
        }

        async fn start_slow(pieces: Vec<Vec<u8>>, pause: Duration) -> Self {
            let listener = listen("127.0.0.1", 0).await;
            let addr = listener.local_addr().unwrap();
            let requests = Arc::new(Mutex::new(Vec::new()));
            let log = requests.clone();
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    stream.set_nodelay(true).unwrap();
                    let (pieces, log) = (pieces.clone(), log.clone());
                    tokio::spawn(async move {
                        let mut head = Vec::new();
                        while !head.ends_with(b"\r\n\r\n") {
                            head.push(stream.read_u8().await.unwrap());
                        }
                        log.lock().unwrap().push(String::from_utf8(head).unwrap());
                        for piece in pieces {
                            if stream.write_all(&piece).await.is_err() {
                                return;
                            }
                            tokio::time::sleep(pause).await;
                            tokio::task::yield_now().await;
                        }
                        let (mut reader, mut writer) = stream.split();
                        let _ = tokio::io::copy(&mut reader, &mut writer).await;
                    });
                }
            });
            Self { addr, requests }
        }

        async fn saying(answer: &str) -> Self {
            Self::start(vec![answer.as_bytes().to_vec()]).await
        }

        fn hop(&self) -> Hop {
            Hop {
                cluster: Arc::new(Cluster {
                    name: "outbound|3128||parent.example".into(),
                    discovery: Discovery::Static(vec![endpoint(&self.addr.to_string())]),
                    ..cluster()
                }),
                method: TunnelMethod::Connect,
                target: None,
                authorization: None,
                absolute_form: false,
                probe: None,
                origin: Default::default(),
            }
        }

        fn request(&self) -> String {
            self.requests.lock().unwrap().last().unwrap().clone()
        }
    }

    async fn through(hop: Hop) -> (Result<Dialed, Failure>, DialTrace) {
        let cluster = Cluster { via: Via::Connect(Arc::new(hop)), ..cluster() };
        let (target, mut trace) = (target("api.example:443"), DialTrace::default());
        let dialed = dialer().dial(&Arc::new(cluster), &target, soon(), &mut trace).await;
        (dialed.map_err(|error| error.failure(&target)), trace)
    }

    async fn reads(dialed: Dialed, expected: &[u8]) {
        let mut stream = dialed.stream;
        let mut buf = vec![0; expected.len()];
        tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut buf)).await.unwrap().unwrap();
        assert_eq!(buf, expected);
        stream.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"ping");
    }

    #[tokio::test]
    async fn the_parent_is_told_the_name_and_nothing_is_resolved() {
        let parent = Parent::saying("HTTP/1.1 200 Connection established\r\n\r\n").await;
        let (dialed, trace) = through(parent.hop()).await;
        reads(dialed.unwrap(), b"").await;
        let expected = "CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\nVia: 1.1 egret-test\r\n\r\n";
        assert_eq!(parent.request(), expected);
        assert_eq!(trace.hop.as_deref(), Some(parent.addr.to_string().as_str()));
        assert_eq!((trace.upstream, trace.hop_status), (Some(parent.addr), None));
    }

    #[tokio::test]
    async fn bytes_sent_in_one_packet_with_the_200_reach_the_client() {
        let parent = Parent::saying("HTTP/1.1 200 OK\r\nServer: x\r\n\r\nSSH-2.0-greeting\r\n").await;
        reads(through(parent.hop()).await.0.unwrap(), b"SSH-2.0-greeting\r\n").await;
    }

    #[tokio::test]
    async fn an_answer_split_byte_by_byte_is_one_answer() {
        let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n\r\nearly";
        let parent = Parent::start(answer.iter().map(|byte| vec![*byte]).collect()).await;
        reads(through(parent.hop()).await.0.unwrap(), b"early").await;
    }

    #[tokio::test]
    async fn any_2xx_opens_and_its_length_means_nothing() {
        for answer in [
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 299 \r\n\r\n",
            "HTTP/1.0 200 Connection established\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            let parent = Parent::saying(answer).await;
            reads(through(parent.hop()).await.0.expect(answer), b"").await;
        }
    }

    #[tokio::test]
    async fn a_refusal_is_told_as_the_parents_with_its_status() {
        for (status, reason) in [(407, "Proxy Authentication Required"), (403, "Forbidden"), (502, "Bad Gateway")] {
            let head = format!("HTTP/1.1 {status} {reason}\r\nContent-Length: 4\r\n\r\nbody");
            let parent = Parent::saying(&head).await;
            let (dialed, trace) = through(parent.hop()).await;
            let failure = dialed.unwrap_err();
            assert_eq!((failure.error, failure.hop_status), (ErrorType::HopRefused, Some(status)));
            assert_eq!(failure.error.row().status, 502);
            assert_eq!(trace.hop_status, Some(status));
            let sentence = format!("the parent proxy on the way to api.example:443 answered {status} {reason}");
            assert_eq!(&*failure.detail, sentence);
            assert!(failure.log.contains(&parent.addr.to_string()) && !failure.detail.contains("127.0.0.1"));
        }
    }

    #[tokio::test]
    async fn a_reason_phrase_cannot_reach_a_log_as_it_is() {
        let reason = format!("\x1b[31m{}", "x".repeat(500));
        assert_eq!(&*printable(reason.as_bytes()), format!("?[31m{}", "x".repeat(REASON_BYTES_MAX - 5)));
        assert_eq!(&*printable(b"a\r\nb\xff"), "a??b?");
    }

    #[tokio::test]
    async fn what_is_no_answer_ends_the_dial() {
        let dribble = "HTTP/1.1 100 Continue\r\n\r\n".repeat(INTERIM_ANSWERS_MAX + 1);
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(20_000));
        for answer in ["SSH-2.0-OpenSSH\r\n", "HTTP/2 200\r\n\r\n", "\0\0\0\0", &dribble, &endless] {
            let parent = Parent::saying(answer).await;
            let failure = through(parent.hop()).await.0.unwrap_err();
            assert_eq!(failure.error, ErrorType::UpstreamProtocol, "{answer:.20}");
        }
        let ok = "HTTP/1.1 100 Continue\r\n\r\n".repeat(INTERIM_ANSWERS_MAX) + "HTTP/1.1 200 OK\r\n\r\n";
        assert!(through(Parent::saying(&ok).await.hop()).await.0.is_ok());
    }

    #[tokio::test]
    async fn a_parent_that_closes_or_is_not_there_is_named_as_the_parent() {
        let listener = listen("127.0.0.1", 0).await;
        let addr = listener.local_addr().unwrap();
        let parent = Parent { addr, requests: Arc::default() };
        let closing = tokio::spawn(async move { drop(listener.accept().await.unwrap()) });
        let failure = through(parent.hop()).await.0.unwrap_err();
        assert_eq!(failure.error, ErrorType::ConnectionTerminated);
        assert!(failure.detail.starts_with("the parent proxy on the way to api.example:443 failed"));
        closing.await.unwrap();
        let failure = through(parent.hop()).await.0.unwrap_err();
        assert_eq!(failure.error, ErrorType::ConnectionRefused);
        assert!(failure.log.contains(&format!("parent proxy {addr}: connect to {addr}")), "{}", failure.log);
    }

    #[tokio::test]
    async fn a_parent_that_dribbles_its_answer_ends_at_the_connect_timeout() {
        let pieces = std::iter::repeat_n(b"HTTP/1.1 102 Processing\r\n\r\n".to_vec(), 10).collect();
        let parent = Parent::start_slow(pieces, Duration::from_millis(100)).await;
        let via = Via::Connect(Arc::new(parent.hop()));
        let cluster = Cluster { via, connect_timeout: Duration::from_millis(250), ..cluster() };
        let started = Instant::now();
        let (target, mut trace) = (target("api.example:443"), DialTrace::default());
        let error = dialer().dial(&Arc::new(cluster), &target, soon(), &mut trace).await.unwrap_err();
        assert_eq!(error.error_type(), ErrorType::ConnectionTimeout);
        assert!((240..900).contains(&started.elapsed().as_millis()));
    }

    #[tokio::test]
    async fn credentials_and_the_rules_target_go_to_the_parent() {
        let parent = Parent::saying("HTTP/1.1 200 OK\r\n\r\n").await;
        let with = |value| Hop {
            authorization: Some(Authorization { from: "secret://default/parent".into(), value }),
            target: Some(target("other.example:8443")),
            ..parent.hop()
        };
        assert!(through(with(Ok("Basic dXNlcjpwYXNz".into()))).await.0.is_ok());
        let request = parent.request();
        assert!(request.starts_with("CONNECT other.example:8443 HTTP/1.1\r\nHost: other.example:8443\r\n"));
        assert!(request.contains("\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n"));
        for bad in [Err("secret default/parent does not exist".into()), Ok("Basic a\r\nX: y".into())] {
            let failure = through(with(bad)).await.0.unwrap_err();
            assert_eq!(failure.error, ErrorType::Configuration);
            assert!(!failure.detail.contains("secret"));
        }
        assert_eq!(parent.requests.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_parent_that_asks_for_credentials_is_told_with_the_place_of_those_it_got_and_nothing_of_them() {
        let parent = Parent::saying("HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n").await;
        let failure = through(parent.hop()).await.0.unwrap_err();
        assert!(
            failure
                .log
                .ends_with("answered 407 Who: it asks for credentials, and no egret.dev/proxy-authorization names any"),
            "{}",
            failure.log
        );
        let value = Ok("Basic dXNlcjpwYXNz".into());
        let authorization = Some(Authorization { from: "file:///etc/egret/login".into(), value });
        let failure = through(Hop { authorization, ..parent.hop() }).await.0.unwrap_err();
        assert!(
            failure.log.ends_with("answered 407 Who: it does not accept the credentials of file:///etc/egret/login"),
            "{}",
            failure.log
        );
        assert!(!failure.log.contains("dXNl") && !failure.detail.contains("login"));
    }

    #[tokio::test]
    async fn a_post_has_the_target_as_host_and_its_bodies_are_the_tunnel() {
        let posting = |parent: &Parent| Hop { method: TunnelMethod::Post, ..parent.hop() };
        let parent = Parent::saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n").await;
        let mut stream = through(posting(&parent)).await.0.unwrap().stream;
        let head =
            "POST / HTTP/1.1\r\nHost: api.example:443\r\nTransfer-Encoding: chunked\r\nVia: 1.1 egret-test\r\n\r\n";
        assert_eq!(parent.request(), head);
        // The parent of this test sends chunks back as they are, so they are chunks of its answer.
        stream.write_all(b"ping").await.unwrap();
        stream.flush().await.unwrap();
        let mut back = [0; 9];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"earlyping");
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut back).await.unwrap(), 0, "the last chunk of either side is its end");
        let parent = Parent::saying("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
        let failure = through(posting(&parent)).await.0.unwrap_err();
        assert_eq!((failure.error, failure.hop_status), (ErrorType::HopRefused, Some(404)));
    }

    #[tokio::test]
    async fn via_of_the_client_goes_on_to_the_parent() {
        let parent = Parent::saying("HTTP/1.1 200 OK\r\n\r\n").await;
        let cluster = Arc::new(Cluster { via: Via::Connect(Arc::new(parent.hop())), ..cluster() });
        let (target, mut trace) = (target("api.example:443"), DialTrace::default());
        let passed = Asker { received_via: Some("1.1 one, 1.0 two"), ..Asker::default() };
        assert!(dialer().dial_for(&cluster, &target, passed, soon(), &mut trace).await.is_ok());
        assert!(parent.request().contains("\r\nVia: 1.1 one, 1.0 two, 1.1 egret-test\r\n"));
        let silent = Dialer::new(DialSettings { via: None, ..settings() }).unwrap();
        assert!(silent.dial(&cluster, &target, soon(), &mut trace).await.is_ok());
        assert!(!parent.request().contains("Via"));
    }

    #[tokio::test]
    async fn a_literal_that_may_not_be_dialled_is_not_asked_of_a_parent() {
        let parent = Parent::saying("HTTP/1.1 200 OK\r\n\r\n").await;
        let cluster = Arc::new(Cluster { via: Via::Connect(Arc::new(parent.hop())), ..cluster() });
        let mut trace = DialTrace::default();
        let dialed = dialer().dial(&cluster, &target("169.254.169.254:80"), soon(), &mut trace).await;
        assert_eq!(dialed.unwrap_err().error_type(), ErrorType::IpProhibited);
        assert!(parent.requests.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn endpoints_of_the_service_are_what_the_parent_is_asked_for() {
        let parent = Parent::saying("HTTP/1.1 200 OK\r\n\r\n").await;
        let discovery = Discovery::Dns { endpoints: vec![endpoint("real.example:8443")], first_address_only: false };
        let cluster = Cluster { discovery, via: Via::Connect(Arc::new(parent.hop())), ..cluster() };
        let mut trace = DialTrace::default();
        assert!(dialer().dial(&Arc::new(cluster), &target("api.example:443"), soon(), &mut trace).await.is_ok());
        assert!(parent.request().starts_with("CONNECT real.example:8443 "));
    }
}
