//! What an operator could write so that the flow of a question is allowed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::question::Question;
use crate::accept::ListenerSettings;
use crate::flow::{ErrorType, Source, Transport};
use crate::route::remedy::{Remedy, remedies};
use crate::route::{Nearest, Service};

/// Nothing is suggested for what no rule can mend, such as a target that is none.
pub(super) fn suggestions(
    error: ErrorType,
    question: Option<&Question>,
    listener: &ListenerSettings,
    client: IpAddr,
    service: Option<&Service>,
    nearest: Option<&Nearest>,
) -> Vec<Remedy> {
    let Some(question) = question else { return Vec::new() };
    let peer = SocketAddr::new(client, 0);
    let (name, workload) = (listener.name.clone(), Arc::clone(&listener.workload));
    let source = Source { peer, local: peer, transport: Transport::Tcp, listener: name, workload, identity: None };
    remedies(error, &question.flow(&source), service, nearest)
}
