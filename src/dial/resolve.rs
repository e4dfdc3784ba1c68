//! Names to addresses.

use thiserror::Error;

use crate::flow::ErrorType;

/// Why a name has no address.
#[derive(Clone, Debug, Error)]
pub enum ResolveError {
    /// The name does not exist, or has no address of the families asked for.
    #[error("no such name")]
    NoSuchName,
}

impl ResolveError {
    /// Row of the outcome table.
    pub fn error_type(&self) -> ErrorType {
        ErrorType::DnsError
    }
}
