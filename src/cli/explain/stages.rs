//! The seven stages of a decision, collected in the order in which they decide.

use serde::Serialize;

use crate::flow::Name;
use crate::route::Stage;

/// One stage as printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct StageReport {
    pub(super) stage: &'static str,
    pub(super) result: Passed,
    /// `file:line:column` of what decided.
    pub(super) at: Option<String>,
    pub(super) text: String,
}

/// What a stage said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Passed {
    /// Let pass.
    Pass,
    /// Refused; no later stage is asked.
    Refuse,
    /// Cannot be judged here.
    Unknown,
    /// An earlier stage refused.
    NotReached,
}

/// The way of a question through the stages.
#[derive(Debug, Default)]
pub(super) struct Trail {
    reports: Vec<StageReport>,
    pub(super) unknown: Vec<String>,
    pub(super) names: Vec<Name>,
    pub(super) would_deny: Option<String>,
}

impl Trail {
    pub(super) fn pass(&mut self, stage: Stage, at: Option<String>, text: String) {
        self.add(stage, Passed::Pass, at, text);
    }

    pub(super) fn refuse(&mut self, stage: Stage, at: Option<String>, text: String) {
        self.add(stage, Passed::Refuse, at, text);
    }

    pub(super) fn skip(&mut self, stage: Stage, text: String) {
        self.add(stage, Passed::Unknown, None, text);
    }

    /// The same with the place of the rule that will decide.
    pub(super) fn skip_at(&mut self, stage: Stage, at: Option<String>, text: String) {
        self.add(stage, Passed::Unknown, at, text);
    }

    fn add(&mut self, stage: Stage, result: Passed, at: Option<String>, text: String) {
        self.reports.push(StageReport { stage: stage.as_str(), result, at, text });
    }

    /// All seven, in order; those that nobody asked say so.
    pub(super) fn finish(mut self) -> Vec<StageReport> {
        let of = |stage: Stage, reports: &mut Vec<StageReport>| {
            let at = reports.iter().position(|report| report.stage == stage.as_str())?;
            Some(reports.swap_remove(at))
        };
        Stage::ALL
            .into_iter()
            .map(|stage| {
                of(stage, &mut self.reports).unwrap_or_else(|| StageReport {
                    stage: stage.as_str(),
                    result: Passed::NotReached,
                    at: None,
                    text: "not reached".to_owned(),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_is_reported_once_and_in_order() {
        let mut trail = Trail::default();
        trail.refuse(Stage::Target, None, "no".to_owned());
        trail.pass(Stage::Listener, None, "yes".to_owned());
        let reports = trail.finish();
        let names: Vec<_> = reports.iter().map(|report| report.stage).collect();
        assert_eq!(names, Stage::ALL.map(Stage::as_str));
        let results: Vec<_> = reports[..3].iter().map(|report| report.result).collect();
        assert_eq!(results, [Passed::Pass, Passed::Refuse, Passed::NotReached]);
    }
}
