//! What was refused of late, by the rule that refuses it, or by reason where none does.

use ratatui::layout::Constraint;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Row, Table};
use serde::Deserialize;

use super::view::Rule;

/// What the admin port says of refusals, the latest first.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Refused {
    refusals: Vec<One>,
}

#[derive(Clone, Debug, Deserialize)]
struct One {
    /// Absent where it was refused before anybody looked at it.
    target: Option<String>,
    listener: String,
    client: String,
    reason: String,
    detail: String,
    rule: Option<Rule>,
    times: u64,
}

/// All that one rule refused, or one listener without any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ByRule {
    times: u64,
    pub(super) reason: String,
    pub(super) rule: String,
    /// Of the latest.
    target: String,
    client: String,
    detail: String,
}

impl Refused {
    /// The rule that refuses most in front.
    pub(super) fn by_rule(&self) -> Vec<ByRule> {
        let mut rules: Vec<ByRule> = Vec::new();
        for one in &self.refusals {
            let rule = one.rule.as_ref().map_or_else(|| format!("listener {}", one.listener), Rule::to_string);
            match rules.iter_mut().find(|known| known.rule == rule && known.reason == one.reason) {
                Some(known) => known.times += one.times,
                None => rules.push(ByRule {
                    times: one.times,
                    reason: one.reason.clone(),
                    rule,
                    target: one.target.clone().unwrap_or_else(|| "-".to_owned()),
                    client: one.client.clone(),
                    detail: one.detail.clone(),
                }),
            }
        }
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.times));
        rules
    }
}

pub(super) fn table(rules: &[ByRule]) -> Table<'static> {
    let rows = rules.iter().map(|ByRule { times, reason, rule, target, .. }| {
        Row::new([format!("{times:>7}"), reason.clone(), rule.clone(), target.clone()])
    });
    let widths = [Constraint::Length(7), Constraint::Length(20), Constraint::Min(24), Constraint::Min(16)];
    Table::new(rows, widths)
        .header(Row::new(["  TIMES", "REASON", "REFUSED BY", "LAST"]).style(Style::new().add_modifier(Modifier::BOLD)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
}

/// The rule under the cursor, in full.
pub(super) fn detail(rule: &ByRule) -> Vec<Line<'static>> {
    let ByRule { times, reason, rule, target, client, detail } = rule;
    vec![
        Line::from(format!("{times} x {reason} by {rule}")),
        Line::from(format!("last {client} -> {target}: {detail}")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_rule_refuses_is_one_line_and_without_a_rule_the_listener_stands_for_it() {
        let one = |target: Option<&str>, reason: &str, rule: serde_json::Value, times: u64| {
            serde_json::json!({
                "target": target, "listener": "proxy", "client": "10.1.2.3", "reason": reason, "detail": "no rule",
                "rule": rule, "times": times, "nearest": null, "remedies": [],
            })
        };
        let policy =
            serde_json::json!({ "route": "", "resource": "mesh.outboundTrafficPolicy", "at": "egret.yaml:1:9" });
        let told = serde_json::json!({ "refusals": [
            one(Some("b.test:443"), "not_found", policy.clone(), 2),
            one(None, "authentication_required", serde_json::Value::Null, 4),
            one(Some("a.test:443"), "not_found", policy, 3),
        ] });
        let refused: Refused = serde_json::from_value(told).expect("as the admin port writes it");
        let shown: Vec<_> =
            refused.by_rule().into_iter().map(|rule| (rule.times, rule.reason, rule.rule, rule.target)).collect();
        let text = |text: &str| text.to_owned();
        assert_eq!(
            shown,
            [
                (5, text("not_found"), text("mesh.outboundTrafficPolicy at egret.yaml:1:9"), text("b.test:443")),
                (4, text("authentication_required"), text("listener proxy"), text("-")),
            ]
        );
    }
}
