//! TLS of ours around a transport.

use std::time::Instant;

use tokio::time::timeout_at;

use super::{DialError, Way};
use crate::flow::{DialTrace, Host};
use crate::route::Origination;
use crate::route::cluster::Sni;
use crate::stream::Stream;
use crate::tls::ClientTls;

/// Wraps TLS of ours around a stream; `http2`: for HTTP/2, which is agreed on by ALPN.
pub(super) async fn originate(
    way: Way<'_>,
    tls: &Origination,
    name: &Host,
    stream: Stream,
    began: Instant,
    http2: bool,
    trace: &mut DialTrace,
) -> Result<Stream, DialError> {
    let client = client_of(tls, trace)?;
    let started = Instant::now();
    let until = way.deadline.min(began + way.cluster.connect_timeout);
    let shaken = timeout_at(until.into(), async {
        if http2 { client.connect_http2(stream, name).await } else { client.connect(stream, name).await }
    });
    let shaken = shaken.await;
    trace.connect += started.elapsed();
    let error = match shaken {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(source)) => DialError::Tls { name: name.to_string().into(), source },
        Err(_) => {
            let after = until.saturating_duration_since(began);
            DialError::Timeout { step: format!("TLS handshake with {name}").into(), after }
        }
    };
    trace.transport_failure = Some(error.reason().into());
    Err(error)
}

/// The client of a rule, which is there unless what it is made of is missing.
pub(super) fn client_of<'a>(tls: &'a Origination, trace: &mut DialTrace) -> Result<&'a ClientTls, DialError> {
    tls.client.as_ref().map_err(|problem| {
        trace.transport_failure = Some((&**problem).into());
        DialError::Credential(problem.clone())
    })
}

/// The name that TLS asks for and verifies.
pub(super) fn sni(tls: &Origination, asked: &Host) -> Host {
    match &tls.sni {
        Sni::Fixed(name) => Host::Name(name.clone()),
        Sni::Asked => asked.clone(),
    }
}
