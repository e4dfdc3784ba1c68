//! What is written and counted of each flow.

pub mod live;
pub mod metrics;
pub mod record;

pub use live::{Live, Tunnels};
pub use record::{AccessRecord, Account};

#[cfg(test)]
pub(crate) mod testing {
    //! What tests of records and tunnels begin with.

    use std::net::SocketAddr;
    use std::sync::Arc;

    use crate::flow::{ListenerKind, ListenerName, Source, Workload};

    /// A client at `peer` on a `forward` listener at `127.0.0.1:3128`.
    pub(crate) fn source_from(peer: SocketAddr) -> Source {
        Source {
            peer,
            local: SocketAddr::from(([127, 0, 0, 1], 3128)),
            listener: Arc::new(ListenerName { name: "proxy".to_owned(), kind: ListenerKind::Forward }),
            workload: Arc::new(Workload::default()),
            identity: None,
        }
    }
}
