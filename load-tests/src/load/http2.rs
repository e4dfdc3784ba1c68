//! The same work over HTTP/2: tunnels and requests are streams of a few connections that stay open.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{Method, Request, Response};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::tunnels::SMALL_REQUEST;
use super::{Budget, Head, Seen};
use crate::origin::head_end;

/// A tunnel for each operation: CONNECT, one small request and its answer, the end of both ways.
pub(crate) async fn h2_connects(
    address: SocketAddr,
    target: SocketAddr,
    operations: u64,
    concurrency: usize,
    begin: impl FnOnce(),
) -> io::Result<Seen> {
    each(address, operations, concurrency, begin, async move |requests| tunnel(requests, target).await).await
}

/// A small request and its answer for each operation.
pub(crate) async fn h2_requests(
    address: SocketAddr,
    authority: &str,
    operations: u64,
    concurrency: usize,
    begin: impl FnOnce(),
) -> io::Result<Seen> {
    let url = format!("http://{authority}/");
    each(address, operations, concurrency, begin, async move |requests| request(requests, &url).await).await
}

/// Does `operation` `operations` times, `concurrency` at once on [`CONNECTIONS`] connections, each of which has done one before `begin`.
async fn each(
    address: SocketAddr,
    operations: u64,
    concurrency: usize,
    begin: impl FnOnce(),
    operation: impl AsyncFn(SendRequest<Bytes>) -> io::Result<()> + Clone + 'static,
) -> io::Result<Seen> {
    let mut connections = JoinSet::new();
    let mut opened = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
        connections.spawn_local(connection);
        operation(requests.clone()).await?;
        opened.push(requests);
    }
    begin();
    let budget = Budget::new(operations);
    let mut clients = JoinSet::new();
    for n in 0..concurrency {
        let (budget, operation, requests) = (budget.clone(), operation.clone(), opened[n % CONNECTIONS].clone());
        clients.spawn_local(async move {
            let mut seen = Seen::new();
            while budget.take().is_some() {
                let started = Instant::now();
                match operation(requests.clone()).await {
                    Ok(()) => seen.success(started.elapsed()),
                    Err(error) => seen.failure(&error),
                }
            }
            seen
        });
    }
    Ok(clients.join_all().await.into_iter().fold(Seen::new(), Seen::merge))
}

async fn tunnel(requests: SendRequest<Bytes>, target: SocketAddr) -> io::Result<()> {
    let mut requests = requests.ready().await.map_err(io::Error::other)?;
    let connect =
        Request::builder().method(Method::CONNECT).uri(target.to_string()).body(()).map_err(io::Error::other)?;
    let (answer, mut send) = requests.send_request(connect, false).map_err(io::Error::other)?;
    let mut inside = accepted(answer.await.map_err(io::Error::other)?)?;
    send.send_data(Bytes::from_static(SMALL_REQUEST), false).map_err(io::Error::other)?;
    let mut read = Vec::new();
    while !is_whole(&read)? {
        match data(&mut inside).await? {
            Some(bytes) => read.extend_from_slice(&bytes),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    send.send_data(Bytes::new(), true).map_err(io::Error::other)?;
    while data(&mut inside).await?.is_some() {}
    Ok(())
}

async fn request(requests: SendRequest<Bytes>, url: &str) -> io::Result<()> {
    let mut requests = requests.ready().await.map_err(io::Error::other)?;
    let request = Request::get(url).header("user-agent", "load-tests").header("accept", "*/*");
    let request = request.body(()).map_err(io::Error::other)?;
    let (answer, _) = requests.send_request(request, true).map_err(io::Error::other)?;
    let mut body = accepted(answer.await.map_err(io::Error::other)?)?;
    while data(&mut body).await?.is_some() {}
    Ok(())
}

fn accepted(answer: Response<RecvStream>) -> io::Result<RecvStream> {
    match answer.status().as_u16() {
        200 => Ok(answer.into_body()),
        status => Err(io::Error::other(format!("answered {status}"))),
    }
}

/// The next bytes of a stream, whose capacity goes back at once; `None` at its end.
async fn data(stream: &mut RecvStream) -> io::Result<Option<Bytes>> {
    let Some(bytes) = poll_fn(|cx| stream.poll_data(cx)).await else { return Ok(None) };
    let bytes = bytes.map_err(io::Error::other)?;
    stream.flow_control().release_capacity(bytes.len()).map_err(io::Error::other)?;
    Ok(Some(bytes))
}

/// Whether an answer of HTTP/1 with a length is all there.
fn is_whole(bytes: &[u8]) -> io::Result<bool> {
    let Some(end) = head_end(bytes) else { return Ok(false) };
    match Head::parse(&bytes[..end]) {
        Some(Head { status: 200, content_length: Some(length) }) => Ok(bytes.len() >= end + length),
        head => Err(io::Error::other(format!("answered {head:?} inside the tunnel"))),
    }
}

/// Many streams share few connections, as a mesh's do.
const CONNECTIONS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_last_byte() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        for end in 0..answer.len() {
            assert!(!is_whole(&answer[..end]).expect("200"), "{end}");
        }
        assert!(is_whole(answer).expect("200"));
        assert!(is_whole(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").is_err());
    }
}
