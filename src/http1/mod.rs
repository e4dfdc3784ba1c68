//! HTTP/1, ours and strict: what is not RFC 9112 is refused, nothing is repaired. httparse tokenizes; everything else is here.

pub mod body;
pub mod head;
pub mod write;

pub use body::BodyLength;
pub use head::{
    HeadError, HeadLimits, RequestHead, RequestTarget, ResponseHead, Version, parse_request, parse_response,
};
