//! HTTP/1, ours and strict: what is not RFC 9112 is refused, nothing is repaired. httparse tokenizes; everything else is here.

pub mod body;
mod error;
mod fields;
pub mod head;
#[cfg(test)]
mod oracle;
mod target;
pub mod websocket;
pub mod write;

pub use body::BodyLength;
pub use error::HeadError;
pub use fields::Passing;
pub use head::{HeadLimits, RequestHead, ResponseHead, Version, parse_request, parse_response};
pub use target::RequestTarget;
