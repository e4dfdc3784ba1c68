//! One flow from start to end.

use crate::flow::ErrorType;

/// Why a flow could not be opened: what the client is told, and what only the operator is.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Row of the outcome table.
    pub error: ErrorType,
    /// One sentence about the client's request; nothing about our inside.
    pub detail: Box<str>,
    /// The same for the operator, with addresses, files and causes.
    pub log: Box<str>,
    /// The status a parent proxy answered.
    pub hop_status: Option<u16>,
}

impl Failure {
    /// A failure whose sentence is fit for both.
    pub fn new(error: ErrorType, detail: impl Into<Box<str>>) -> Self {
        let detail = detail.into();
        Self { error, log: detail.clone(), detail, hop_status: None }
    }
}
