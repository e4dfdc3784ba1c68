//! `outlierDetection`: endpoints that fail are left out for a while (ISTIO 6.4).

use super::COUNT_MAX;
use crate::config::diagnostic::{Code, Context};
use crate::config::kinds::scalars::read_duration;
use crate::config::read::Fields;
use crate::config::yaml::Node;
use crate::route::balancing::Outliers;

pub(super) fn read_outliers(node: &Node, cx: &mut Context<'_>) -> Option<Outliers> {
    let mut fields = Fields::of(node, cx)?;
    let mut outliers = Outliers::default();
    let [interval, base] = ["interval", "baseEjectionTime"].map(|name| {
        let node = fields.get(name)?;
        read_duration(node, cx)
    });
    outliers.interval = interval.unwrap_or(outliers.interval);
    outliers.base_ejection = base.unwrap_or(outliers.base_ejection);
    let percent = ["maxEjectionPercent", "minHealthPercent"].map(|name| fields.whole(name, 0..=100, cx));
    let [max, min] = percent.map(|percent| percent.and_then(|percent| u32::try_from(percent).ok()));
    outliers.max_ejection_percent = max.filter(|max| *max > 0).unwrap_or(outliers.max_ejection_percent); // 0 is unset, as in proto3
    outliers.min_health_percent = min.unwrap_or(0);
    let mut count = |name| {
        let count = fields.whole(name, 0..=COUNT_MAX, cx)?;
        u32::try_from(count).ok()
    };
    let server = count("consecutive5xxErrors");
    let gateway = count("consecutiveGatewayErrors");
    let local = count("consecutiveLocalOriginFailures");
    let old = count("consecutiveErrors").filter(|count| *count > 0);
    outliers.consecutive_5xx = server.unwrap_or(outliers.consecutive_5xx);
    outliers.consecutive_gateway = gateway.unwrap_or(0);
    outliers.consecutive_local = local.filter(|count| *count > 0).unwrap_or(outliers.consecutive_local);
    if let (Some(old), Some(node)) = (old, fields.get("consecutiveErrors")) {
        let report = cx.report(Code::DeprecatedField, node.span, "`consecutiveErrors` is deprecated");
        report.help("write `consecutiveGatewayErrors`, or `consecutive5xxErrors`");
        // What it meant: gateway errors alone.
        if server.is_none() && gateway.is_none() {
            (outliers.consecutive_5xx, outliers.consecutive_gateway) = (0, old);
        }
    }
    outliers.split = fields.boolean("splitExternalLocalOriginErrors", cx).unwrap_or(false);
    if !outliers.split
        && local.is_some_and(|count| count > 0)
        && let Some(node) = fields.get("consecutiveLocalOriginFailures")
    {
        let message = "failures on the way are counted apart only with `splitExternalLocalOriginErrors: true`";
        cx.report(Code::BadOutlierDetection, node.span, message);
    }
    fields.finish(cx);
    Some(outliers)
}
