//! `mirror` and `mirrors`: who gets copies of requests.

use super::{percent, read_percentage};
use crate::config::diagnostic::{Code, Context};
use crate::config::kinds::virtual_service::{Destination, Reader};
use crate::config::read::Fields;
use crate::route::http::actions::Share;

/// One place that gets copies.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Where to.
    pub to: Destination,
    /// How many of the requests.
    pub share: Share,
}

pub(super) fn read(fields: &mut Fields<'_>, reader: &Reader<'_>, cx: &mut Context<'_>) -> Vec<Mirror> {
    let one = fields.get("mirror");
    let several = fields.get("mirrors");
    let share = fields.get("mirrorPercentage").map(|node| read_percentage(node, cx));
    // The older spellings, of which the second is that of protobuf.
    let old = ["mirrorPercent", "mirror_percent"].map(|name| fields.get(name).map(|node| percent(node, cx)));
    let share = old.into_iter().fold(share, Option::or);
    if let (Some(_), Some(several)) = (one, several) {
        cx.report(Code::BadMirror, several.span, "`mirror` or `mirrors`, not both");
    }
    let mut mirrors = Vec::new();
    if let Some(node) = one {
        let to = Destination::read(node, reader, cx);
        let share = share.unwrap_or(Some(Share::ALL));
        mirrors.extend(to.zip(share).map(|(to, share)| Mirror { to, share }));
    }
    for node in several.and_then(|node| node.items(cx)).unwrap_or_default() {
        let Some(mut fields) = Fields::of(node, cx) else { continue };
        let to = fields.required("destination", cx).and_then(|node| Destination::read(node, reader, cx));
        let share = fields.get("percentage").map_or(Some(Share::ALL), |node| read_percentage(node, cx));
        fields.finish(cx);
        mirrors.extend(to.zip(share).map(|(to, share)| Mirror { to, share }));
    }
    mirrors
}
