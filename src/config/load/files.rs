//! Files and folders of the configuration: which files there are, and their text, within bounds.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::config::diagnostic::{Code, Diagnostic, Diagnostics};
use crate::config::source::Source;

const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024; // 250,000 ServiceEntries; offsets are held in 32 bits
const FOLDER_DEPTH_MAX: usize = 16;
const FILES_MAX: usize = 100_000;

/// The text of a regular file. A file that turns into a FIFO between listing and reading does not block.
pub(super) fn read(path: &Path) -> Result<Source, Box<Diagnostic>> {
    let name = path.display().to_string();
    let refuse = |code, message: String| Box::new(Diagnostic::of_file(code, name.as_str(), message));
    let failed = |error: io::Error| Box::new(of_error(path, &error));
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(refuse(Code::InputNotAFile, format!("this is {}, not a regular file", kind(&metadata))));
    }
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let bytes = read_bounded(&file).map_err(failed)?;
    let Some(bytes) = bytes else {
        return Err(refuse(Code::InputTooLarge, format!("the file is larger than {} MiB", FILE_BYTES_MAX >> 20)));
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source::new(name, text)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
            Err(refuse(Code::InputNotUtf8, format!("the text is not UTF-8 from byte {at} on (line {line})")))
        }
    }
}

/// `None`: too large.
fn read_bounded(file: &File) -> io::Result<Option<Vec<u8>>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it was replaced by something else just now"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= FILE_BYTES_MAX).then_some(bytes))
}

/// The files that an input stands for: itself, or the `*.yaml`, `*.yml` and `*.json` files of a folder and its folders, sorted.
///
/// Names that begin with a dot are passed over: Kubernetes keeps the real files of a mounted ConfigMap in `..data` and links to them.
pub(super) fn list(input: &Path, diagnostics: &mut Diagnostics) -> Vec<PathBuf> {
    match std::fs::metadata(input) {
        Ok(metadata) if metadata.is_dir() => {
            let mut walk = Walk { files: Vec::new(), ancestors: Vec::new(), diagnostics };
            walk.enter(input, &metadata);
            let files = walk.files;
            if files.is_empty() {
                let message = "the folder holds no *.yaml, *.yml or *.json file";
                diagnostics.push(Diagnostic::of_file(Code::NoResources, input.display().to_string(), message));
            }
            files
        }
        Ok(_) => vec![input.to_owned()],
        Err(error) => {
            diagnostics.push(of_error(input, &error));
            Vec::new()
        }
    }
}

struct Walk<'a> {
    files: Vec<PathBuf>,
    /// Device and inode of the folders that lead here: meeting one again is a loop of links.
    ancestors: Vec<(u64, u64)>,
    diagnostics: &'a mut Diagnostics,
}

impl Walk<'_> {
    fn enter(&mut self, folder: &Path, metadata: &Metadata) {
        let identity = (metadata.dev(), metadata.ino());
        if self.ancestors.contains(&identity) {
            return self.refuse(
                Code::InputNotAFile,
                folder,
                "a link leads back to a folder that it lies in".to_owned(),
            );
        }
        if self.ancestors.len() == FOLDER_DEPTH_MAX {
            return self.refuse(Code::InputTooLarge, folder, format!("folders are more than {FOLDER_DEPTH_MAX} deep"));
        }
        let entries = match sorted_entries(folder) {
            Ok(entries) => entries,
            Err(error) => {
                self.diagnostics.push(of_error(folder, &error));
                return;
            }
        };
        self.ancestors.push(identity);
        for path in entries {
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => self.enter(&path, &metadata),
                _ if !is_resource_file(&path) => {}
                _ if self.files.len() == FILES_MAX => {
                    self.refuse(Code::InputTooLarge, folder, format!("there are more than {FILES_MAX} files"));
                    break;
                }
                // Links that lead nowhere, too: reading them says what is wrong.
                _ => self.files.push(path),
            }
        }
        self.ancestors.pop();
    }

    fn refuse(&mut self, code: Code, path: &Path, message: String) {
        self.diagnostics.push(Diagnostic::of_file(code, path.display().to_string(), message));
    }
}

fn sorted_entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            entries.push(entry.path());
        }
    }
    entries.sort();
    Ok(entries)
}

fn is_resource_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

fn of_error(path: &Path, error: &io::Error) -> Diagnostic {
    let (code, message) = match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR) => (Code::InputMissing, "there is no such file or folder".to_owned()),
        Some(Errno::LOOP) => (Code::InputNotAFile, "a loop of symbolic links".to_owned()),
        _ => (Code::InputUnreadable, format!("cannot be read: {error}")),
    };
    Diagnostic::of_file(code, path.display().to_string(), message)
}

fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }
}
