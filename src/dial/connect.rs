//! CONNECT as a client, HTTP/1.1, to a parent proxy (RFC 9110 §9.3.6).

use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::DialError;
use crate::flow::Target;
use crate::http1::{HeadLimits, ResponseHead, parse_response};
use crate::route::Hop;
use crate::stream::Stream;

/// What goes into the request besides the target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking<'a> {
    /// The parent, for errors.
    pub(super) hop: &'a Arc<str>,
    /// Our own name; `None`: no `Via` of ours.
    pub(super) via: Option<&'a str>,
    /// `Via` as the client sent it: a parent that leads back to us finds us in it.
    pub(super) received_via: Option<&'a str>,
    /// Of the answer's head.
    pub(super) head: HeadLimits,
}

const INTERIM_ANSWERS_MAX: usize = 16; // 1xx before the answer; more are no parent's but somebody's who holds us open
const REASON_BYTES_MAX: usize = 80; // of the parent's reason phrase, in logs and answers
const READ_BYTES: usize = 1024; // most answers to CONNECT are one short line and a few fields

/// Asks the parent at the other end of `stream` for `target`. On return the stream is the tunnel; bytes that came with the answer
/// are its prefix.
///
/// # Errors
/// [`DialError::HopRefused`] for any answer but 2xx, [`DialError::HopProtocol`] for what is no answer, [`DialError::Configuration`]
/// where credentials are missing.
pub(super) async fn connect(
    mut stream: Stream,
    hop: &Hop,
    target: &Target,
    asking: Asking<'_>,
) -> Result<Stream, DialError> {
    let request = request(hop, target, asking)?;
    let lost = |source| DialError::Connect { peer: format!("{} for {target}", asking.hop).into(), source };
    stream.write_all(&request).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    let mut buf = BytesMut::with_capacity(READ_BYTES);
    for _ in 0..=INTERIM_ANSWERS_MAX {
        let head = next_head(&mut stream, &mut buf, target, asking).await?;
        match head.status() {
            100..200 => {}
            // Content-Length and Transfer-Encoding mean nothing here: what follows is the tunnel (RFC 9110 §9.3.6).
            200..300 => return Ok(stream.with_prefix(buf.freeze())),
            status => {
                let reason = printable(head.reason());
                return Err(DialError::HopRefused { hop: asking.hop.clone(), status, reason });
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
        match parse_response(buf, "CONNECT", &asking.head) {
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

fn request(hop: &Hop, target: &Target, asking: Asking<'_>) -> Result<Vec<u8>, DialError> {
    let mut text = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    let mut field = |name: &str, value: &[&str]| {
        text.push_str(name);
        text.push_str(": ");
        value.iter().for_each(|part| text.push_str(part));
        text.push_str("\r\n");
    };
    match (asking.received_via, asking.via) {
        (Some(received), Some(via)) => field("Via", &[received, ", 1.1 ", via]),
        (Some(received), None) => field("Via", &[received]),
        (None, Some(via)) => field("Via", &["1.1 ", via]),
        (None, None) => {}
    }
    match hop.authorization.as_ref().map(|authorization| &authorization.value) {
        Some(Ok(value)) if value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) => {
            field("Proxy-Authorization", &[value]);
        }
        Some(Ok(_)) => {
            return Err(DialError::Configuration("the parent's credentials hold control characters".into()));
        }
        Some(Err(problem)) => return Err(DialError::Configuration(problem.clone())),
        None => {}
    }
    text.push_str("\r\n");
    Ok(text.into_bytes())
}

/// A reason phrase as it may stand in a log, a header field and a terminal.
fn printable(reason: &[u8]) -> Box<str> {
    let safe = |byte: &u8| if *byte == b' ' || byte.is_ascii_graphic() { char::from(*byte) } else { '?' };
    reason.iter().take(REASON_BYTES_MAX).map(safe).collect::<String>().into()
}

fn protocol(asking: Asking<'_>, problem: String) -> DialError {
    DialError::HopProtocol { hop: asking.hop.clone(), problem: problem.into() }
}
