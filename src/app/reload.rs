//! What a reload changed: kept, logged in one line, and the answer to whoever asked for it.

use std::collections::HashSet;
use std::time::Duration;

use serde::Serialize;

use super::revoke::{Revocation, Revoked};
use crate::config::Diagnostics;
use crate::config::digest::{Change, Digest};

/// What became of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum ReloadReport {
    /// The new configuration is in force.
    Applied(Applied),
    /// Something was wrong with it, and the old one stays.
    Rejected(Rejected),
}

/// What is different since the reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Applied {
    ok: bool,
    /// Who or what asked for it.
    why: Box<str>,
    /// The generation in force.
    generation: u64,
    took_ms: u64,
    rules: RuleChanges,
    /// Keys of the settings file that say something else.
    settings: Vec<Box<str>>,
    /// Warnings that the generation before did not have; the rest was said before.
    new_warnings: Vec<Box<str>>,
    warnings: usize,
    /// Tunnels that are no longer allowed.
    revoked: usize,
    /// They were closed (`onRevoke: close`).
    closed: bool,
    /// The first of them.
    tunnels: Vec<Revoked>,
}

/// Why nothing is different.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Rejected {
    ok: bool,
    why: Box<str>,
    errors: Vec<Box<str>>,
}

/// How many resources and entries of `allow` are different.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct RuleChanges {
    total: usize,
    added: usize,
    removed: usize,
    changed: usize,
    /// The first of them, as `added ServiceEntry default/api`.
    names: Vec<Box<str>>,
}

/// What of a configuration the next one is compared with.
#[derive(Debug, Default)]
pub(super) struct Said {
    digest: Digest,
    warnings: HashSet<Box<str>>,
}

/// What is new of a configuration that came into force.
#[derive(Debug, Default)]
pub(super) struct News {
    rules: RuleChanges,
    settings: Vec<Box<str>>,
    pub(super) new_warnings: Vec<Box<str>>,
    warnings: usize,
}

const SHOWN_MAX: usize = 100; // of 100,000 changed names nobody reads more, and an answer has a bound

impl Said {
    pub(super) fn of(digest: Digest, warnings: &Diagnostics) -> Self {
        Self { digest, warnings: warnings.iter().map(|warning| warning.to_string().into()).collect() }
    }

    /// What this says that `before` did not.
    pub(super) fn since(&self, before: &Self) -> News {
        let changes = self.digest.rules_changed(&before.digest);
        let count = |change| changes.iter().filter(|(_, other)| *other == change).count();
        let names = changes.iter().take(SHOWN_MAX).map(|(name, change)| format!("{} {name}", change.as_str()).into());
        let mut new_warnings: Vec<_> = self.warnings.difference(&before.warnings).cloned().collect();
        new_warnings.sort();
        News {
            rules: RuleChanges {
                total: self.digest.rules(),
                added: count(Change::Added),
                removed: count(Change::Removed),
                changed: count(Change::Changed),
                names: names.collect(),
            },
            settings: self.digest.settings_changed(&before.digest).iter().map(|key| (&**key).into()).collect(),
            new_warnings,
            warnings: self.warnings.len(),
        }
    }
}

impl ReloadReport {
    pub(super) fn applied(why: &str, generation: u64, took: Duration, news: News, revocation: Revocation) -> Self {
        let News { rules, settings, mut new_warnings, warnings } = news;
        new_warnings.truncate(SHOWN_MAX);
        let Revocation { count, closed, first } = revocation;
        Self::Applied(Applied {
            ok: true,
            why: why.into(),
            generation,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            rules,
            settings,
            new_warnings,
            warnings,
            revoked: count,
            closed,
            tunnels: first,
        })
    }

    pub(super) fn rejected(why: &str, errors: impl IntoIterator<Item = String>) -> Self {
        let errors = errors.into_iter().take(SHOWN_MAX).map(Into::into).collect();
        Self::Rejected(Rejected { ok: false, why: why.into(), errors })
    }

    /// The new configuration is in force.
    pub(super) fn is_applied(&self) -> bool {
        matches!(self, Self::Applied(_))
    }

    /// One line for the log.
    pub(super) fn log(&self) {
        match self {
            Self::Applied(applied) => {
                let RuleChanges { added, removed, changed, total, .. } = applied.rules;
                let settings = applied.settings.join(",");
                let Applied { why, generation, revoked, closed, took_ms, .. } = applied;
                let (rules, what) = (total, format!("+{added} -{removed} ~{changed}"));
                tracing::info!(why, generation, rules, changes = what, settings, revoked, closed, took_ms, "reloaded");
            }
            Self::Rejected(rejected) => {
                let Rejected { why, errors, .. } = rejected;
                tracing::error!(
                    why,
                    errors = errors.len(),
                    error = errors.first(),
                    "not reloaded, the old configuration stays"
                );
            }
        }
    }
}
