//! Notices that a file of the configuration changed: by inotify, and every minute by reading, for file systems that tell nothing.
//!
//! Folders are watched, not files: editors and Kubernetes replace a file by renaming another over it (`..data` of a mounted volume
//! is a link to a folder), and a watch on the old file would see nothing from then on.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

// Trailing: counted from the last event, so that a tool which writes ten files is waited for.
const DEBOUNCE: Duration = Duration::from_millis(300);
// A folder that is written to all the time must not keep a change from being seen.
const DEBOUNCE_MAX: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_secs(60);

/// Watches the files of a configuration.
#[derive(Debug)]
pub(super) struct Watch {
    events: mpsc::Receiver<()>,
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    poll_at: Instant,
}

impl Watch {
    /// Watches nothing yet.
    pub(super) fn new() -> Self {
        // One slot is enough: an event says only that something happened.
        let (tell, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = tell.try_send(()); // full: the one in there says it already
            }
        });
        let watcher =
            watcher.inspect_err(|error| tracing::warn!(%error, "changed files are noticed within a minute only")).ok();
        Self { events, watcher, folders: BTreeSet::new(), poll_at: Instant::now() + POLL }
    }

    /// Watches the folders of `files` (and `files` that are folders themselves) in place of those before.
    pub(super) fn set_files(&mut self, files: &[PathBuf]) {
        // Where a link leads is a folder of its own: /etc/resolv.conf is one into /run on many systems.
        // Each by its real path: two names of one folder would be one watch, and be given back twice.
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let named = files.iter().filter_map(|file| folder_of(file)).map(|folder| real(&folder));
        let led_to = files.iter().filter_map(|file| folder_of(&file.canonicalize().ok()?));
        let wanted: BTreeSet<PathBuf> = named.chain(led_to).collect();
        let Some(watcher) = &mut self.watcher else { return };
        for gone in self.folders.difference(&wanted) {
            let _ = watcher.unwatch(gone); // a folder that was removed is not watched any more anyway
        }
        for new in wanted.difference(&self.folders) {
            if let Err(error) = watcher.watch(new, RecursiveMode::NonRecursive) {
                tracing::warn!(folder = %new.display(), %error, "changes here are noticed within a minute only");
            }
        }
        self.folders = wanted;
    }

    /// Waits until files may have changed; whether they did, [`fingerprint`] tells. Dropping the future loses no event that was
    /// not yet debounced but the pause begins anew.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            () = sleep_until(self.poll_at) => {}
            event = self.events.recv(), if self.watcher.is_some() => {
                if event.is_some() {
                    self.settle().await;
                }
            }
        }
        self.poll_at = Instant::now() + POLL;
    }

    async fn settle(&mut self) {
        let end = Instant::now() + DEBOUNCE_MAX;
        loop {
            let quiet = (Instant::now() + DEBOUNCE).min(end);
            tokio::select! {
                () = sleep_until(quiet) => return,
                event = self.events.recv() => {
                    if event.is_none() {
                        return;
                    }
                }
            }
        }
    }
}

fn folder_of(file: &Path) -> Option<PathBuf> {
    let folder = if file.is_dir() { file } else { file.parent()? };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    folder.is_dir().then(|| folder.to_owned())
}

/// The content of all files, and of those in folders, as one number; missing ones and the names in folders included. Blocks.
pub(super) fn fingerprint(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.hash(&mut hasher);
        hash_content(file, FOLDER_DEPTH_MAX, &mut hasher);
    }
    hasher.finish()
}

const FOLDER_DEPTH_MAX: usize = 16; // as deep as resources are looked for; ends loops of links too

fn hash_content(file: &Path, depth: usize, hasher: &mut DefaultHasher) {
    let Ok(metadata) = std::fs::metadata(file) else { return };
    if metadata.is_dir() {
        let mut names: Vec<_> =
            std::fs::read_dir(file).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        names.hash(hasher);
        // What is hidden is not read as a resource either: `..data` is where the links lead to.
        for name in names.iter().filter(|name| depth > 0 && !name.as_encoded_bytes().starts_with(b".")) {
            hash_content(&file.join(name), depth - 1, hasher);
        }
    } else if metadata.is_file() {
        // FIFOs and devices are never read: they would block.
        std::fs::read(file).ok().hash(hasher);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_file_that_is_replaced_by_renaming_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("egret.yaml");
        fs::write(&file, "a").unwrap();
        let mut watch = Watch::new();
        watch.set_files(std::slice::from_ref(&file));
        let before = fingerprint(std::slice::from_ref(&file));
        for content in ["b", "c"] {
            let new = folder.path().join("new");
            fs::write(&new, content).unwrap();
            fs::rename(&new, &file).unwrap();
            timeout(LIMIT, watch.changed()).await.unwrap();
            assert_ne!(fingerprint(std::slice::from_ref(&file)), before, "{content}");
        }
    }

    #[tokio::test]
    async fn a_change_is_noticed_where_a_link_leads() {
        let folder = tempfile::tempdir().unwrap();
        let [etc, run] = ["etc", "run"].map(|name| folder.path().join(name));
        fs::create_dir(&etc).unwrap();
        fs::create_dir(&run).unwrap();
        fs::write(run.join("stub"), "nameserver 127.0.0.1").unwrap();
        let link = etc.join("resolv.conf");
        std::os::unix::fs::symlink("../run/stub", &link).unwrap();
        let mut watch = Watch::new();
        watch.set_files(std::slice::from_ref(&link));
        let before = fingerprint(std::slice::from_ref(&link));
        fs::write(run.join("stub"), "nameserver 127.0.0.2").unwrap();
        timeout(LIMIT, watch.changed()).await.unwrap();
        assert_ne!(fingerprint(std::slice::from_ref(&link)), before);
    }

    #[tokio::test(start_paused = true)]
    async fn without_any_event_the_files_are_looked_at_every_minute() {
        let mut watch = Watch::new();
        let start = Instant::now();
        watch.changed().await;
        assert!(start.elapsed() >= POLL && start.elapsed() < POLL * 2);
    }

    #[test]
    fn the_fingerprint_knows_content_missing_files_and_names() {
        let folder = tempfile::tempdir().unwrap();
        let files = [folder.path().to_owned(), folder.path().join("a")];
        let empty = fingerprint(&files);
        fs::write(&files[1], "1").unwrap();
        let one = fingerprint(&files);
        assert_ne!(empty, one);
        fs::write(&files[1], "2").unwrap();
        assert_ne!(fingerprint(&files), one);
        fs::write(&files[1], "1").unwrap();
        assert_eq!(fingerprint(&files), one);
        fs::write(folder.path().join("b"), "").unwrap();
        assert_ne!(fingerprint(&files), one);
    }

    #[test]
    fn the_fingerprint_knows_the_content_of_what_lies_in_folders() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let files = [folder.path().to_owned()];
        fs::create_dir_all(path("sub")).unwrap();
        fs::write(path("sub/a.yaml"), "1").unwrap();
        let one = fingerprint(&files);
        fs::write(path("sub/a.yaml"), "2").unwrap();
        let two = fingerprint(&files);
        assert_ne!(one, two);
        // A mounted volume: the name stays, what it leads to is another folder.
        for generation in ["..1", "..2"] {
            fs::create_dir(path(generation)).unwrap();
            fs::write(path(generation).join("b.yaml"), generation).unwrap();
        }
        std::os::unix::fs::symlink("..1", path("..data")).unwrap();
        std::os::unix::fs::symlink("..data/b.yaml", path("b.yaml")).unwrap();
        let before = fingerprint(&files);
        fs::remove_file(path("..data")).unwrap();
        std::os::unix::fs::symlink("..2", path("..data")).unwrap();
        assert_ne!(fingerprint(&files), before);
        std::os::unix::fs::symlink("..", path("sub/loop")).unwrap();
        fingerprint(&files); // ends
    }
}
