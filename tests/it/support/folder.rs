//! A temporary folder with a configuration in it.

use std::path::{Path, PathBuf};

/// Removed when dropped.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// One that holds `egret.yaml`.
    pub(crate) fn with_settings(yaml: &str) -> Self {
        let folder = Self::new();
        folder.write("egret.yaml", yaml);
        folder
    }

    /// Writes a file whole: a reader sees the old or the new one.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &path).unwrap();
        path
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The settings file.
    pub(crate) fn settings(&self) -> PathBuf {
        self.0.path().join("egret.yaml")
    }
}
