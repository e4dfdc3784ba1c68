//! `mesh.accessLogFile`, `accessLogEncoding`, `accessLogFormat`.

use std::path::{Path, PathBuf};

use crate::account::Encoding;
use crate::config::diagnostic::Context;
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
    }
    log.encoding = fields.one_of("accessLogEncoding", &ENCODINGS, cx).unwrap_or_default();
    if let Some(format) = fields.text("accessLogFormat", cx) {
        log.format = format.map(Into::into);
    }
    log
}

/// True for standard output and error, which have no place in the file system of their own.
pub(super) fn is_own_output(path: &Path) -> bool {
    path == Path::new("/dev/stdout") || path == Path::new("/dev/stderr")
}
