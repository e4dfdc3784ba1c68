//! Copies of requests: fire and forget. They never delay a request, their answers go nowhere, and what is beyond a bound is not sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::account::metrics;
use crate::dial::Asker;
use crate::flow::{DialTrace, Target};
use crate::http1::{BodyLength, RequestHead, Version, write};
use crate::route::Cluster;
use crate::route::http::actions::{Actions, Mirror};
use crate::tunnel::Proxy;
use crate::tunnel::exchange::{http2_request, send_and_forget};
use crate::tunnel::headers::{self, Outbound};

/// The mirrors that get a copy of this request. A websocket has no copy.
pub(super) fn drawn<'a>(actions: &'a Actions, outbound: &Outbound<'_>) -> Vec<&'a Mirror> {
    let mirrors = actions.mirrors.iter().filter(|_| !outbound.websocket);
    mirrors.filter(|mirror| mirror.share.takes(|total| fastrand::u64(..total))).collect()
}

/// Sends copies of a request whose body is at hand.
pub(super) fn send(
    proxy: &Arc<Proxy>,
    mirrors: &[&Mirror],
    outbound: &Outbound<'_>,
    head: &RequestHead,
    target: &Target,
    body: Option<&[u8]>,
) {
    if mirrors.is_empty() {
        return;
    }
    let outbound = &Outbound { absolute_form: false, proxy_authorization: None, ..*outbound };
    let copy = written(outbound, head, body).freeze();
    for mirror in mirrors {
        let Some(under_way) = UnderWay::enter() else {
            metrics::mirror_dropped();
            continue;
        };
        let copy = match mirror.cluster.http.is_http2(head.version() == Version::Http2) {
            false => Copy::Http1(copy.clone()),
            true => match http2_request(head, outbound) {
                Ok(request) => Copy::Http2(Box::new(request), body.map(Bytes::copy_from_slice).unwrap_or_default()),
                Err(_) => {
                    metrics::mirror_dropped();
                    continue;
                }
            },
        };
        let (proxy, cluster, target) = (proxy.clone(), mirror.cluster.clone(), target.clone());
        let tasks = proxy.drain.clone();
        tasks.spawn(async move {
            let _under_way = under_way;
            let sending = async {
                tokio::select! {
                    () = one(&proxy, &cluster, &target, copy) => {}
                    () = proxy.drain.draining() => {}
                }
            };
            let _ = timeout(TIME_MAX, sending).await; // whatever became of it
        });
    }
}

/// The copy asks for the end of its connection, so that the end of the answer is seen without reading it.
fn written(outbound: &Outbound<'_>, head: &RequestHead, body: Option<&[u8]>) -> BytesMut {
    let mut out = BytesMut::with_capacity(head.raw().len() + 256 + body.map_or(0, <[u8]>::len));
    headers::write_request(&mut out, head, outbound);
    out.truncate(out.len() - "\r\n".len());
    write::field(&mut out, "Connection", b"close");
    write::end(&mut out);
    if let Some(body) = body {
        let is_chunked = head.body() == BodyLength::Chunked;
        if is_chunked && !body.is_empty() {
            write::chunk_head(&mut out, body.len());
        }
        out.put_slice(body);
        if is_chunked {
            out.put_slice(if body.is_empty() { b"" } else { b"\r\n" });
            write::last_chunk(&mut out);
        }
    }
    out
}

/// A request as it goes to one mirror.
enum Copy {
    Http1(Bytes),
    Http2(Box<http::Request<()>>, Bytes),
}

async fn one(proxy: &Proxy, cluster: &Arc<Cluster>, target: &Target, copy: Copy) {
    let mut trace = DialTrace::default();
    let deadline = Instant::now() + TIME_MAX;
    let copy = match copy {
        Copy::Http1(copy) => copy,
        Copy::Http2(request, body) => {
            let upstream = proxy.dialer.http2(cluster, target, Asker::default(), deadline, &mut trace).await;
            let Ok(upstream) = upstream else { return metrics::mirror_dropped() };
            return send_and_forget(upstream, *request, body, ANSWER_BYTES_MAX).await;
        }
    };
    let Ok(mut dialed) = proxy.dialer.dial(cluster, target, deadline, &mut trace).await else {
        return metrics::mirror_dropped();
    };
    if dialed.stream.write_all(&copy).await.is_err() || dialed.stream.flush().await.is_err() {
        return metrics::mirror_dropped();
    }
    let mut scratch = vec![0; 4096];
    let mut read = 0;
    while read < ANSWER_BYTES_MAX {
        match dialed.stream.read(&mut scratch).await {
            Ok(0) | Err(_) => return,
            Ok(bytes) => read += bytes,
        }
    }
}

/// One of the copies that are on their way.
struct UnderWay;

static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

impl UnderWay {
    fn enter() -> Option<Self> {
        let guard = Self;
        (UNDER_WAY.fetch_add(1, Ordering::Relaxed) < UNDER_WAY_MAX).then_some(guard)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    }
}

const UNDER_WAY_MAX: usize = 256; // a mirror that hangs costs sockets, never requests
const TIME_MAX: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
