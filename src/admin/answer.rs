//! Answers: a status, a media type, bytes; and the fields that keep browsers from taking any of it for something else.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde::Serialize;

/// Whole, or as it comes.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;
pub(super) type Answer = Response<Body>;

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const JSON: &str = "application/json";

/// A sentence.
pub(super) fn text(status: StatusCode, sentence: impl Into<Bytes>) -> Answer {
    with_type(status, TEXT, sentence)
}

/// A document, with a line break at its end for those who read it in a terminal.
pub(super) fn json(status: StatusCode, document: &impl Serialize) -> Answer {
    let mut bytes = serde_json::to_vec_pretty(document).expect("documents of ours have text for keys");
    bytes.push(b'\n');
    with_type(status, JSON, bytes)
}

pub(super) fn with_type(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Answer {
    with_body(status, media_type, Full::new(body.into()).boxed_unsync())
}

pub(super) fn with_body(status: StatusCode, media_type: &'static str, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    answer
}

/// Nothing but our own files runs or is shown in our page, nothing may frame it, and it asks nobody but us.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
