//! The admin port of one generation after another; bound anew only where its address changes.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::listeners::BindError;
use crate::accept::socket;
use crate::admin::{self, Address, Command, Facts, Port, Socket, Token};
use crate::stream::unix_socket::UnixSocket;
use crate::tunnel::Proxy;

/// The admin port, or none.
#[derive(Debug)]
pub(super) struct AdminPort {
    port: Arc<Port>,
    bound: Option<Bound>,
}

#[derive(Debug)]
struct Bound {
    configured: Address,
    address: Address,
    stop: CancellationToken,
}

/// What [`AdminPort::apply`] will do; dropping it closes what was bound for it.
#[derive(Debug)]
pub(super) enum AdminPlan {
    Keep,
    Close,
    Open { configured: Address, address: Address, socket: Socket },
}

impl AdminPort {
    /// None yet; what it will tell is not ready. What its clients ask of the process goes to `commands`.
    pub(super) fn new(proxy: Arc<Proxy>, commands: mpsc::Sender<Command>) -> Self {
        // Clients call it by its address or as localhost: the settings know no other name of it.
        Self { port: Arc::new(Port::new(proxy, commands, Vec::new())), bound: None }
    }

    /// `/readyz` says yes from now on.
    pub(super) fn ready(&self) {
        self.port.set_ready(true);
    }

    /// Tells what the configuration in force says beside the rules.
    pub(super) fn tell(&self, facts: Facts) {
        self.port.set_facts(facts);
    }

    /// Binds `wanted` where that is another address than the one that is bound.
    ///
    /// # Errors
    /// If it cannot be bound.
    pub(super) fn plan(&self, wanted: Option<&Address>) -> Result<AdminPlan, BindError> {
        match (wanted, &self.bound) {
            (None, _) => Ok(AdminPlan::Close),
            (Some(wanted), Some(bound)) if bound.configured == *wanted => Ok(AdminPlan::Keep),
            (Some(configured), _) => bind(configured)
                .and_then(|socket| {
                    Ok(AdminPlan::Open { configured: configured.clone(), address: socket.address()?, socket })
                })
                .map_err(|source| BindError { what: "admin".to_owned(), address: configured.to_string(), source }),
        }
    }

    /// Carries out a plan, and takes the token.
    pub(super) fn apply(&mut self, plan: AdminPlan, token: Option<Token>) {
        self.port.set_token(token);
        match plan {
            AdminPlan::Keep => {}
            AdminPlan::Close => self.close(),
            AdminPlan::Open { configured, address, socket } => {
                self.close();
                let stop = CancellationToken::new();
                tokio::spawn(admin::serve(socket, self.port.clone(), stop.clone()));
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
    pub(super) fn address(&self) -> Option<Address> {
        self.bound.as_ref().map(|bound| bound.address.clone())
    }
}

fn bind(address: &Address) -> std::io::Result<Socket> {
    match address {
        Address::Tcp(address) => socket::bind(*address).map(Socket::Tcp),
        Address::Unix(path) => UnixSocket::bind(path, ADMIN_MODE).map(Socket::Unix),
    }
}

const ADMIN_MODE: u32 = 0o600; // whoever connects may change things: nobody but our own user
