//! Key material in files: bounded, from regular files only, and several files of one version where they belong together.
//!
//! Who rotates certificates replaces what a link leads to (`..data` of a mounted volume, `current` of a client of ACME) and not one
//! file after the other. Following the links anew for each file could take the certificate of one version and the key of the next.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Reads files that belong together, each of the version that was there when the first was looked for.
pub fn read_together<const N: usize>(paths: [&Path; N]) -> [io::Result<Vec<u8>>; N] {
    in_one_version(
        || paths.map(|path| path.canonicalize().ok()),
        |found| {
            // What leads nowhere is asked for all the same: the system says why.
            std::array::from_fn(|index| read(found[index].as_deref().unwrap_or(paths[index])))
        },
    )
}

/// Reads one file, 1 MiB at most.
///
/// # Errors
/// What the system says; a file that is none, or too long.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // A FIFO would block, a device never end.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("longer than {} KiB", FILE_BYTES_MAX / 1024)));
    }
    Ok(bytes)
}

/// Reads the files of a folder, and those that links in it lead to, by their names; hidden ones are left out, and so is what is no
/// regular file or too long.
///
/// # Errors
/// The folder or a file of it cannot be read.
pub fn read_folder(folder: &Path) -> io::Result<Vec<(Box<str>, Vec<u8>)>> {
    let version = || {
        let data = folder.join(KUBELET_DATA);
        if data.exists() { data.canonicalize() } else { folder.canonicalize() }.ok()
    };
    in_one_version(version, |found| read_files(found.as_deref().unwrap_or(folder)))
}

fn read_files(folder: &Path) -> io::Result<Vec<(Box<str>, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in folder.read_dir()? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with("..")) else {
            continue;
        };
        if path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= FILE_BYTES_MAX) {
            files.push((name.into(), read(&path)?));
        }
    }
    Ok(files)
}

/// Reads again while the links lead elsewhere after reading than before: an old version may be gone in the middle of it.
fn in_one_version<V: PartialEq, T>(version: impl Fn() -> V, read: impl Fn(&V) -> T) -> T {
    let mut before = version();
    for _ in 1..TRIES {
        let found = read(&before);
        let after = version();
        if after == before {
            return found;
        }
        before = after;
    }
    read(&before)
}

const FILE_BYTES_MAX: u64 = 1024 * 1024; // Kubernetes' limit for a whole Secret; a system's bundle of authorities is a quarter of it
const KUBELET_DATA: &str = "..data"; // the link that the kubelet swaps; the names beside it lead through it
const TRIES: usize = 5; // a rotation takes a moment, and the next one is minutes away

/// The path under a root: absolute paths of resources are looked up there (`files.root`).
pub fn under(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A volume as the kubelet mounts it: two files, in versions.
    fn volume(folder: &Path, version: &str) {
        let files = folder.join(format!("..{version}"));
        fs::create_dir(&files).unwrap();
        for name in ["tls.crt", "tls.key"] {
            fs::write(files.join(name), format!("{name} of {version}")).unwrap();
            let _ = symlink(format!("..data/{name}"), folder.join(name));
        }
        symlink(format!("..{version}"), folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    }

    #[test]
    fn files_are_of_one_version_though_the_link_moves_between_them() {
        let folder = tempfile::tempdir().unwrap();
        volume(folder.path(), "1");
        let paths = ["tls.crt", "tls.key"].map(|name| folder.path().join(name));
        let version = || paths.each_ref().map(|path| path.canonicalize().ok());
        let moved = Cell::new(false);
        let read = in_one_version(version, |found| {
            let first = read(found[0].as_deref().unwrap()).unwrap();
            if !moved.replace(true) {
                volume(folder.path(), "2");
                fs::remove_dir_all(folder.path().join("..1")).unwrap();
            }
            (first, read(found[1].as_deref().unwrap()))
        });
        assert_eq!((read.0.as_slice(), read.1.unwrap().as_slice()), (&b"tls.crt of 2"[..], &b"tls.key of 2"[..]));
        let [certificate, key] = read_together([&paths[0], &paths[1]]);
        assert_eq!((certificate.unwrap(), key.unwrap()), (b"tls.crt of 2".to_vec(), b"tls.key of 2".to_vec()));
    }

    #[test]
    fn a_version_that_never_stands_still_is_read_a_few_times_only() {
        let (versions, reads) = (Cell::new(0), Cell::new(0));
        in_one_version(|| versions.replace(versions.get() + 1), |_| reads.set(reads.get() + 1));
        assert_eq!(reads.get(), TRIES);
    }

    #[test]
    fn a_mounted_folder_is_its_files_and_not_its_links() {
        let folder = tempfile::tempdir().unwrap();
        volume(folder.path(), "1");
        fs::write(folder.path().join("beside"), "not of this version").unwrap();
        let mut files = read_folder(folder.path()).unwrap();
        files.sort();
        let names: Vec<&str> = files.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["tls.crt", "tls.key"]);
        // One that nobody mounted is taken as it is.
        let plain = tempfile::tempdir().unwrap();
        fs::write(plain.path().join("username"), "u").unwrap();
        fs::create_dir(plain.path().join("folder")).unwrap();
        fs::write(plain.path().join("long"), vec![0; FILE_BYTES_MAX as usize + 1]).unwrap();
        assert_eq!(read_folder(plain.path()).unwrap(), [("username".into(), b"u".to_vec())]);
        assert!(read_folder(&plain.path().join("none")).is_err());
    }

    #[test]
    fn only_regular_files_up_to_the_bound_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, vec![b'x'; FILE_BYTES_MAX as usize]).unwrap();
        assert_eq!(read(&file).unwrap().len() as u64, FILE_BYTES_MAX);
        fs::write(&file, vec![b'x'; FILE_BYTES_MAX as usize + 1]).unwrap();
        assert_eq!(read(&file).unwrap_err().to_string(), "longer than 1024 KiB");
        assert_eq!(read(folder.path()).unwrap_err().to_string(), "not a regular file");
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err().to_string(), "not a regular file");
        assert_eq!(read(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
