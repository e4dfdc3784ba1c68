//! Which Sidecar a workload has, and what it leaves of the registry (ISTIO 20).

use crate::config::kinds::sidecar::Sidecar;
use crate::flow::Workload;

/// The Sidecar of a workload: one that selects it, else that of its namespace, else that of the root namespace; the oldest of several.
pub(super) fn of<'s, 'r>(sidecars: &'s [Sidecar<'r>], workload: &Workload, root: &str) -> Option<&'s Sidecar<'r>> {
    let selecting = sidecars.iter().find(|sidecar| sidecar.is_selecting(workload));
    let default = |namespace: &str| sidecars.iter().find(|sidecar| sidecar.is_default_of(namespace));
    selecting.or_else(|| default(&workload.namespace)).or_else(|| default(root))
}
