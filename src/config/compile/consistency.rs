//! `consistency` of the settings, and the annotation `egret.dev/consistency` of a service.

use std::sync::Arc;

use crate::config::kinds::service_entry::{Provider, ServiceEntry};
use crate::config::settings::{ConsistencyMode, Settings};
use crate::config::source::{Span, Spanned};
use crate::route::consistency::{Mode, Policy};

/// The rule of all that have none of their own.
pub(super) fn of_settings(settings: &Settings) -> Policy {
    policy(settings.consistency.mode, settings)
}

/// The rule of a service that has its own. That of a Kubernetes Service is `off` unless it says otherwise: its name is the cluster's, and
/// what stands behind it is called otherwise (CONTRACT "Consistency"). An ExternalName says what that is, and is judged.
pub(super) fn of_entry(entry: &ServiceEntry<'_>, settings: &Settings) -> Option<Arc<Policy>> {
    let off = || Spanned {
        value: ConsistencyMode::Off,
        span: entry.ports.first().map_or_else(Span::default, |port| port.span),
    };
    let is_off = matches!(entry.provider, Provider::Kubernetes { .. });
    let mode = entry.annotations.consistency.or_else(|| is_off.then(off))?;
    let policy = policy(mode.value, settings);
    let origin = if policy.is_auto { policy.origin } else { entry.origin(mode.span) };
    Some(Arc::new(Policy { origin, ..policy }))
}

fn policy(mode: ConsistencyMode, settings: &Settings) -> Policy {
    let (mode, is_auto) = match mode {
        ConsistencyMode::Enforce => (Mode::Enforce, false),
        ConsistencyMode::Warn => (Mode::Warn, false),
        ConsistencyMode::Off => (Mode::Off, false),
        // With `report: true` nothing is refused, here as there.
        ConsistencyMode::Auto if settings.mesh.mode.lets_unknown_pass() => (Mode::Warn, true),
        ConsistencyMode::Auto => (Mode::Enforce, true),
    };
    let origin = match settings.place_of(&["consistency", "mode"]) {
        span if span.line > 0 && !is_auto => settings.origin(span),
        _ => super::policy_origin(settings),
    };
    Policy { mode, is_auto, deny_ech: settings.consistency.deny_ech, origin }
}
