//! The admin port of one generation after another; bound anew only where its address changes.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::listeners::BindError;
use crate::accept::socket;
use crate::admin::{self, AdminState};
use crate::drain::Drain;

/// The admin port, or none.
#[derive(Debug)]
pub(super) struct AdminPort {
    state: Arc<AdminState>,
    bound: Option<Bound>,
}

#[derive(Debug)]
struct Bound {
    configured: SocketAddr,
    address: SocketAddr,
    stop: CancellationToken,
}

/// What [`AdminPort::apply`] will do; dropping it closes what was bound for it.
#[derive(Debug)]
pub(super) enum AdminPlan {
    Keep,
    Close,
    Open { configured: SocketAddr, address: SocketAddr, socket: TcpListener },
}

impl AdminPort {
    /// None yet; what it will tell is not ready.
    pub(super) fn new(drain: Drain) -> Self {
        // Clients call it by its address or as localhost: the settings know no other name of it.
        Self { state: Arc::new(AdminState::new(drain, Vec::new())), bound: None }
    }

    /// `/readyz` says yes from now on.
    pub(super) fn ready(&self) {
        self.state.set_ready(true);
    }

    /// Binds `wanted` where that is another address than the one that is bound.
    ///
    /// # Errors
    /// If it cannot be bound.
    pub(super) fn plan(&self, wanted: Option<SocketAddr>) -> Result<AdminPlan, BindError> {
        match (wanted, &self.bound) {
            (None, _) => Ok(AdminPlan::Close),
            (Some(wanted), Some(bound)) if bound.configured == wanted => Ok(AdminPlan::Keep),
            (Some(configured), _) => socket::bind(configured)
                .and_then(|socket| Ok(AdminPlan::Open { configured, address: socket.local_addr()?, socket }))
                .map_err(|source| BindError { what: "admin".to_owned(), address: configured.to_string(), source }),
        }
    }

    /// Carries out a plan.
    pub(super) fn apply(&mut self, plan: AdminPlan) {
        match plan {
            AdminPlan::Keep => {}
            AdminPlan::Close => self.close(),
            AdminPlan::Open { configured, address, socket } => {
                self.close();
                let stop = CancellationToken::new();
                tokio::spawn(admin::serve(socket, self.state.clone(), stop.clone()));
                self.bound = Some(Bound { configured, address, stop });
            }
        }
    }

    /// Closes it; comes last, so that `/readyz` tells of the drain.
    pub(super) fn close(&mut self) {
        if let Some(bound) = self.bound.take() {
            bound.stop.cancel();
        }
    }

    /// Where it is bound.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.bound.as_ref().map(|bound| bound.address)
    }
}
