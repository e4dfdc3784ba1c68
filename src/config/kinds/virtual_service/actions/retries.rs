//! `retries`.

use crate::config::diagnostic::{Code, Context};
use crate::config::kinds::scalars::read_duration;
use crate::config::read::Fields;
use crate::config::yaml::Node;
use crate::route::http::retries::{GRPC_CANCELLED, GRPC_UNAVAILABLE, Retries, RetryOn};

/// `Some(None)`: no retries, whatever the default. Numbers and names of `retryOn` are Envoy's.
pub(in crate::config) fn read(node: &Node, cx: &mut Context<'_>) -> Option<Option<Retries>> {
    let mut fields = Fields::of(node, cx)?;
    let attempts = match fields.get("attempts") {
        Some(node) => u32::try_from(node.whole(0..=i32::MAX as u64, cx)?).unwrap_or(u32::MAX),
        None => 0,
    };
    let per_try_node = fields.get("perTryTimeout");
    let per_try = per_try_node.and_then(|node| read_duration(node, cx));
    let on_text = fields.text("retryOn", cx).filter(|text| !text.value.is_empty());
    let backoff_node = fields.get("backoff");
    let backoff = backoff_node.and_then(|node| read_duration(node, cx));
    fields.ignored("retryRemoteLocalities", "there are no localities to prefer", cx);
    let avoids_previous = fields.boolean("retryIgnorePreviousHosts", cx).unwrap_or(true);
    fields.finish(cx);
    let on = match on_text {
        Some(text) => retry_on(text.value).map_err(|problem| {
            cx.report(Code::BadRetries, text.span, problem).found(text.value);
        }),
        None => Ok(RetryOn::of_istio()),
    };
    if attempts == 0 {
        if per_try_node.is_some() || on_text.is_some() || backoff_node.is_some() {
            cx.report(
                Code::BadRetries,
                node.span,
                "with 0 attempts nothing is sent again, so nothing else may be said",
            );
        }
        return Some(None);
    }
    let backoff = backoff.unwrap_or(Retries::DEFAULT_BACKOFF);
    Some(Some(Retries { attempts, per_try, on: on.ok()?, backoff, avoids_previous, is_built_in: false }))
}

fn retry_on(text: &str) -> Result<RetryOn, String> {
    let mut on = RetryOn::default();
    for word in text.split(',').map(str::trim) {
        match word {
            "5xx" => on.server_errors = true,
            "gateway-error" => on.gateway_errors = true,
            "reset" | "reset-before-request" => on.reset = true,
            "connect-failure" => on.connect_failure = true,
            "refused-stream" => on.refused_stream = true,
            "retriable-4xx" => on.conflict = true,
            "envoy-ratelimited" => on.rate_limited = true,
            // The codes are the numbers beside it; headers and HTTP/3 have nothing here that they could mean.
            "retriable-status-codes" | "retriable-headers" | "http3-post-connect-failure" => {}
            "cancelled" => on.grpc.push(GRPC_CANCELLED),
            "deadline-exceeded" => on.grpc.push(4),
            "internal" => on.grpc.push(13),
            "resource-exhausted" => on.grpc.push(8),
            "unavailable" => on.grpc.push(GRPC_UNAVAILABLE),
            word => match word.parse::<u16>() {
                Ok(status @ 100..=599) => on.statuses.push(status),
                _ => return Err(format!("{word:?} is no condition of Envoy and no status")),
            },
        }
    }
    Ok(on)
}
