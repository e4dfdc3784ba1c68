//! `outlierDetection`: endpoints that fail are left out for a while (ISTIO 6.4).

use super::COUNT_MAX;
use crate::config::diagnostic::{Code, Context};
use crate::config::kinds::scalars::read_duration;
use crate::config::read::Fields;
use crate::config::yaml::Node;

pub(super) fn check_outlier_detection(node: &Node, cx: &mut Context<'_>) {
    let Some(mut fields) = Fields::of(node, cx) else { return };
    for name in ["interval", "baseEjectionTime"] {
        fields.get(name).and_then(|node| read_duration(node, cx));
    }
    for name in ["maxEjectionPercent", "minHealthPercent"] {
        fields.whole(name, 0..=100, cx);
    }
    for name in
        ["consecutiveErrors", "consecutive5xxErrors", "consecutiveGatewayErrors", "consecutiveLocalOriginFailures"]
    {
        fields.whole(name, 0..=COUNT_MAX, cx);
    }
    fields.boolean("splitExternalLocalOriginErrors", cx);
    fields.finish(cx);
    cx.report(Code::Ignored, node.span, "outlierDetection is not carried out yet: failing endpoints stay in use");
}
