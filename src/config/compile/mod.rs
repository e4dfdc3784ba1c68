//! Settings and resources to one [`Snapshot`]: everything that concerns several of them together.

use std::path::PathBuf;

use super::diagnostic::Diagnostics;
use super::resource::Resource;
use super::settings::Settings;
use crate::route::Snapshot;

/// What came out.
#[derive(Debug)]
pub struct Compiled {
    /// The rules; to be used only if there were no errors.
    pub snapshot: Snapshot,
    /// Files that resources refer to (certificates, credentials), whose change calls for a reload.
    pub inputs: Vec<PathBuf>,
}

/// Compiles everything and reports all that is wrong. `resources` are in the order of loading, each name once.
pub fn compile(
    _settings: &Settings,
    _resources: &[Resource],
    _generation: u64,
    _diagnostics: &mut Diagnostics,
) -> Compiled {
    Compiled { snapshot: Snapshot {}, inputs: Vec::new() }
}
