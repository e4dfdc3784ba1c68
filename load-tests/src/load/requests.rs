//! Work made of requests: keep-alive HTTP, refused CONNECTs, TLS hellos through an SNI forwarder.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::{Budget, Seen, Wire};
use crate::origin::ALERT;

/// Small requests on `connections` connections that stay open. Each has had one answer before `begin`.
pub(crate) async fn keep_alive(
    address: SocketAddr,
    authority: &str,
    operations: u64,
    connections: usize,
    begin: impl FnOnce(),
) -> std::io::Result<Seen> {
    let request = format!(
        "GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: load-tests\r\nAccept: */*\r\n\r\n"
    );
    let mut wires = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut wire = Wire::open(address).await?;
        expect(200, wire.exchange(request.as_bytes()).await?)?;
        wires.push(wire);
    }
    begin();
    let budget = Budget::new(operations);
    let mut clients = JoinSet::new();
    for mut wire in wires {
        let (budget, request) = (budget.clone(), request.clone());
        clients.spawn_local(async move {
            let mut seen = Seen::new();
            while budget.take().is_some() {
                let started = Instant::now();
                match wire.exchange(request.as_bytes()).await.and_then(|status| expect(200, status)) {
                    Ok(()) => seen.success(started.elapsed()),
                    Err(error) => {
                        seen.failure(&error);
                        break; // the connection is of no more use
                    }
                }
            }
            seen
        });
    }
    Ok(clients.join_all().await.into_iter().fold(Seen::new(), Seen::merge))
}

/// CONNECTs to a target that policy refuses: connect, 403 with its body, close.
pub(crate) async fn refusals(address: SocketAddr, operations: u64, concurrency: usize, begin: impl FnOnce()) -> Seen {
    const REQUEST: &[u8] = b"CONNECT refused.test:443 HTTP/1.1\r\nHost: refused.test:443\r\n\r\n";
    begin();
    each(operations, concurrency, async move || {
        let mut wire = Wire::open(address).await?;
        expect(403, wire.exchange(REQUEST).await?)
    })
    .await
}

/// Connect, send a ClientHello, read what the origin says to it until the end.
pub(crate) async fn handshakes(
    address: SocketAddr,
    hello: &[u8],
    operations: u64,
    concurrency: usize,
    begin: impl FnOnce(),
) -> Seen {
    begin();
    let hello: std::rc::Rc<[u8]> = hello.into();
    each(operations, concurrency, async move || {
        let mut wire = Wire::open(address).await?;
        wire.stream.write_all(&hello).await?;
        wire.stream.read_to_end(&mut wire.buffer).await?;
        match wire.buffer == ALERT {
            true => Ok(()),
            false => Err(std::io::Error::other(format!("not the origin's alert: {:x?}", wire.buffer))),
        }
    })
    .await
}

/// Does `operation` `operations` times, `concurrency` at once.
pub(super) async fn each(
    operations: u64,
    concurrency: usize,
    operation: impl AsyncFn() -> std::io::Result<()> + Clone + 'static,
) -> Seen {
    let budget = Budget::new(operations);
    let mut clients = JoinSet::new();
    for _ in 0..concurrency {
        let (budget, operation) = (budget.clone(), operation.clone());
        clients.spawn_local(async move {
            let mut seen = Seen::new();
            while budget.take().is_some() {
                let started = Instant::now();
                match operation().await {
                    Ok(()) => seen.success(started.elapsed()),
                    Err(error) => seen.failure(&error),
                }
            }
            seen
        });
    }
    clients.join_all().await.into_iter().fold(Seen::new(), Seen::merge)
}

fn expect(wanted: u16, status: u16) -> std::io::Result<()> {
    match status == wanted {
        true => Ok(()),
        false => Err(std::io::Error::other(format!("answered {status}, not {wanted}"))),
    }
}
