//! `mesh.accessLogFile`, `accessLogEncoding`, `accessLogFormat`; and `accessLog`, which is ours.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::account::{Encoding, Progress};
use crate::config::diagnostic::{Code, Context};
use crate::config::read::Fields;
use crate::config::source::{Span, Spanned};

/// Where access lines go, and how they look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// `None`: no access log (`accessLogFile: ""`, as in Istio).
    pub file: Option<PathBuf>,
    /// Istio's TEXT and JSON, and SQUID, which is ours: Squid's native format, for what reads its logs already.
    pub encoding: Encoding,
    /// A format string of Envoy's operators; empty: the encoding's own default. For JSON the text of a JSON object.
    pub format: Spanned<Box<str>>,
}

impl Default for AccessLog {
    fn default() -> Self {
        let format = Spanned { value: "".into(), span: Span::default() };
        Self { file: Some("/dev/stdout".into()), encoding: Encoding::Text, format }
    }
}

const ENCODINGS: [(&str, Encoding); 3] =
    [("TEXT", Encoding::Text), ("JSON", Encoding::Json), ("SQUID", Encoding::Squid)];

pub(super) fn read(fields: &mut Fields<'_>, folder: &Path, cx: &mut Context<'_>) -> AccessLog {
    let mut log = AccessLog::default();
    if let Some(path) = fields.text("accessLogFile", cx) {
        log.file = (!path.is_empty()).then(|| folder.join(path.value));
        let missing = log.file.as_deref().filter(|path| !is_own_output(path)).and_then(missing_folder);
        if let Some(missing) = missing {
            let message = format!("the folder {} does not exist: the log cannot be opened", missing.display());
            cx.report(Code::FileMissing, path.span, message).found(path.value);
        }
    }
    log.encoding = fields.one_of("accessLogEncoding", &ENCODINGS, cx).unwrap_or_default();
    if let Some(format) = fields.text("accessLogFormat", cx) {
        log.format = format.map(Into::into);
    }
    log
}

/// The folder of a file, where there is none.
fn missing_folder(path: &Path) -> Option<&Path> {
    path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir())
}

/// True for standard output and error, which have no place in the file system of their own.
pub(super) fn is_own_output(path: &Path) -> bool {
    path == Path::new("/dev/stdout") || path == Path::new("/dev/stderr")
}

const INTERVAL: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(86_400); // 0: none
const INTERVAL_MIN: Duration = Duration::from_secs(1); // more often, and the lines of 20,000 tunnels are all that is done

pub(super) fn read_progress(mut fields: Fields<'_>, encoding: Encoding, cx: &mut Context<'_>) -> Progress {
    let (start, interval) = (fields.get("start"), fields.get("interval"));
    let progress = Progress {
        start: start.and_then(|node| node.boolean(cx)).unwrap_or_default(),
        interval: interval.and_then(|node| node.duration(INTERVAL, cx)).unwrap_or_default(),
    };
    if let (true, Some(node)) = (!progress.interval.is_zero() && progress.interval < INTERVAL_MIN, interval) {
        cx.report_value(Code::BadValue, node, "an interval is 0 (none), or 1s and more");
    }
    if progress != Progress::default() && encoding == Encoding::Squid {
        let message = "squid's format has one line for each flow, which those who read it count";
        cx.report(Code::Conflict, fields.span(), message)
            .help("choose the encoding TEXT or JSON, or leave `accessLog` out");
    }
    fields.finish(cx);
    progress
}
