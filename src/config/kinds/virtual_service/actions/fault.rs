//! `fault`: what goes wrong on purpose.

use http::StatusCode;

use super::{percent, read_percentage};
use crate::config::diagnostic::{Code, Context};
use crate::config::kinds::scalars::read_duration;
use crate::config::read::Fields;
use crate::config::yaml::Node;
use crate::route::http::actions::{Abort, Fault, Share};

pub(super) fn read(node: &Node, cx: &mut Context<'_>) -> Option<Fault> {
    let mut fields = Fields::of(node, cx)?;
    let [delay, abort] = ["delay", "abort"].map(|name| fields.get(name));
    fields.finish(cx);
    if delay.is_none() && abort.is_none() {
        cx.report(Code::BadFault, node.span, "a fault delays or aborts");
        return None;
    }
    let delay = delay.and_then(|node| {
        let mut fields = Fields::of(node, cx)?;
        let share = read_share(&mut fields, cx);
        let fixed = fields.get("fixedDelay");
        if fixed.is_none() {
            cx.report(Code::BadFault, node.span, "`fixedDelay` is missing: a delay has a length");
        }
        fields.refused("exponentialDelay", "Istio never carried it out", cx);
        fields.finish(cx);
        Some((share?, read_duration(fixed?, cx)?))
    });
    let abort = abort.and_then(|node| {
        let mut fields = Fields::of(node, cx)?;
        let share = read_share(&mut fields, cx);
        let with = read_abort(node, &mut fields, cx);
        fields.refused("http2Error", "Istio never carried it out", cx);
        fields.finish(cx);
        Some((share?, with?))
    });
    (delay.is_some() || abort.is_some()).then_some(Fault { delay, abort })
}

/// Without a percentage nothing goes wrong, as in Istio.
fn read_share(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Option<Share> {
    let old = fields.get("percent").map(|node| percent(node, cx)); // until Istio 1.1
    match fields.get("percentage") {
        Some(node) => read_percentage(node, cx),
        None => old.unwrap_or(Some(Share::of_percent(0.0))),
    }
}

fn read_abort(node: &Node, fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Option<Abort> {
    let [status, grpc] = ["httpStatus", "grpcStatus"].map(|name| fields.get(name));
    match (status, grpc) {
        (Some(status), None) => {
            let code = status.whole(0..=u64::from(u16::MAX), cx)?;
            match u16::try_from(code) {
                Ok(code @ 200..=599) => StatusCode::from_u16(code).ok().map(Abort::Status),
                _ => {
                    cx.report_value(Code::BadFault, status, format!("{code} is no status of an answer (200 to 599)"));
                    None
                }
            }
        }
        (None, Some(grpc)) => {
            let text = grpc.text(cx)?;
            let code = GRPC_CODES.iter().position(|name| *name == text.value);
            if code.is_none() {
                cx.report_value(Code::BadFault, grpc, format!("{:?} is no status of gRPC", text.value));
            }
            code.and_then(|code| u8::try_from(code).ok()).map(Abort::Grpc)
        }
        _ => {
            cx.report(Code::BadFault, node.span, "an abort has `httpStatus` or `grpcStatus`");
            None
        }
    }
}

const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
