//! One line per flow: on finish, or when the record is dropped unfinished.

use std::sync::Arc;
use std::time::Duration;

use crate::flow::{DialTrace, Failure, Identity, Outcome, Source};

/// Where records go.
#[derive(Debug)]
pub struct Account {}

/// Everything the access log may say of one flow.
#[derive(Debug)]
pub struct AccessRecord {}

impl Account {
    /// Starts the record of a flow: its time begins now.
    pub fn record(&self, _source: &Arc<Source>) -> Box<AccessRecord> {
        unimplemented!()
    }
}

impl AccessRecord {
    /// `HTTP/1.1`, method, path (`-` for CONNECT) and authority as the log shows them.
    pub fn request(&mut self, _protocol: &'static str, _method: &str, _path: &str, _authority: &str) {
        unimplemented!()
    }
    /// Fields of the request that the log shows.
    pub fn request_fields(
        &mut self,
        _user_agent: Option<&[u8]>,
        _request_id: Option<&[u8]>,
        _forwarded_for: Option<&[u8]>,
    ) {
        unimplemented!()
    }
    /// Who the client proved to be.
    pub fn identity(&mut self, _identity: Option<&Identity>) {
        unimplemented!()
    }
    /// The SNI of the client's hello.
    pub fn server_name(&mut self, _sni: &str) {
        unimplemented!()
    }
    /// What was decided: cluster, route name, and the sentence of what would have been refused (`report: true`).
    pub fn routed(&mut self, _cluster: &Arc<str>, _route: &Arc<str>, _would_deny: Option<&str>) {
        unimplemented!()
    }
    /// The rule that refused (`file:line:column`), for JSON logs and the application log.
    pub fn refused_by(&mut self, _rule: &str) {
        unimplemented!()
    }
    /// The id of the request: the client's `x-request-id`, or one made now.
    pub fn ensure_request_id(&mut self) -> Box<str> {
        unimplemented!()
    }
    /// What is tried on the way out.
    pub fn trace_mut(&mut self) -> &mut DialTrace {
        unimplemented!()
    }
    /// We answered with this status; `details` is Envoy's RESPONSE_CODE_DETAILS.
    pub fn answered(&mut self, _status: u16, _details: &'static str) {
        unimplemented!()
    }
    /// We refused with this status.
    pub fn refused(&mut self, _failure: &Failure, _status: u16) {
        unimplemented!()
    }
    /// An exchange is over: bytes of the request's and the answer's body, and the time to the answer's first byte.
    pub fn exchanged(&mut self, _status: u16, _received: u64, _sent: u64, _upstream_time: Duration) {
        unimplemented!()
    }
    /// The answer broke off after its head went out.
    pub fn broke_off(&mut self, _why: &str) {
        unimplemented!()
    }
    /// Bytes of a tunnel, both ways.
    pub fn moved(&mut self, _received: u64, _sent: u64) {
        unimplemented!()
    }
    /// Writes the line.
    pub fn finish(self: Box<Self>, _outcome: Outcome) {
        unimplemented!()
    }
}
