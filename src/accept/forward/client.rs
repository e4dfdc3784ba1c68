//! Who asks on a `forward` listener, and what has to be true of a request before its target is looked at: the same for every protocol
//! that carries it.

use std::sync::Arc;

use super::super::ListenerSettings;
use super::super::basic::Verdict;
use crate::account::{AccessRecord, Requested, Share};
use crate::flow::{ErrorType, Failure, Identity, Source};
use crate::http1::RequestHead;
use crate::tunnel::{Proxy, headers};

/// The client of a connection.
#[derive(Clone, Copy)]
pub(super) struct Client<'a> {
    pub(super) proxy: &'a Arc<Proxy>,
    pub(super) settings: &'a ListenerSettings,
    pub(super) source: &'a Arc<Source>,
    pub(super) share: &'a Share,
}

impl Client<'_> {
    /// A record that knows the client and the request.
    pub(super) fn record(&self, head: &RequestHead, requested: Requested<'_>) -> Box<AccessRecord> {
        let mut record = self.proxy.account.record(self.source);
        record.request(head.version().as_str(), head.method(), requested);
        record.request_fields(|name| head.field(name));
        record
    }

    /// Everything about the client that can refuse a request before its target is looked at. `known`: it gave its credentials before
    /// (with the CONNECT whose tunnel this is inside of). Returns the source with the identity that was proved.
    pub(super) async fn admit(
        &self,
        head: &RequestHead,
        known: bool,
        record: &mut AccessRecord,
    ) -> Result<Arc<Source>, Failure> {
        let source = self.authenticate(head, known).await?;
        record.identity(source.identity.as_deref());
        self.refuse_loop(head)?;
        Ok(source)
    }

    /// Asks for credentials where the listener wants them.
    async fn authenticate(&self, head: &RequestHead, known: bool) -> Result<Arc<Source>, Failure> {
        self.settings.admit_client(self.source)?;
        self.proxy.admit_request(self.share)?; // before the password: looking at one takes long, by design
        let Some(basic) = self.settings.basic.as_ref().filter(|_| !known) else {
            return Ok(self.source.clone());
        };
        match basic.verify(head.field("proxy-authorization")).await {
            Verdict::User(user) => {
                Ok(Arc::new(Source { identity: Some(Box::new(Identity::User(user))), ..Source::clone(self.source) }))
            }
            Verdict::Missing => {
                Err(Failure::new(ErrorType::AuthenticationRequired, "this proxy asks for user and password"))
            }
            Verdict::Wrong => Err(Failure::new(ErrorType::AuthenticationRequired, "user or password is wrong")),
        }
    }

    /// Refuses a message that has been here before.
    fn refuse_loop(&self, head: &RequestHead) -> Result<(), Failure> {
        if headers::is_loop(head, &self.proxy.via.load().name) {
            return Err(Failure::new(ErrorType::LoopDetected, "this request has passed this proxy before (Via)"));
        }
        Ok(())
    }
}
