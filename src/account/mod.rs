//! What is written and counted of each flow: its line in the access log, its entry among the live tunnels, its share of the metrics.

pub mod destinations;
pub mod events;
pub mod format;
pub mod hosts;
mod istio;
pub mod live;
pub mod metrics;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod pace;
pub mod parents;
pub mod progress;
pub mod record;
pub mod refusals;
pub mod shares;
pub mod traffic;
pub mod usage;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use thiserror::Error;
use tokio::sync::watch;

pub use format::{Encoding, Format, FormatError};
pub use live::{Live, Tunnels};
pub use pace::Pace;
pub use progress::Progress;
pub use record::{AccessRecord, Requested};
pub use shares::{Bounds, Count, Exceeded, Share, Shares};
pub use traffic::Traffic;

use crate::flow::Source;
use writer::{Sink, Writer};

/// Where records go: a format, and the thread that writes what it renders.
#[derive(Debug)]
pub struct Account {
    /// `None`: no access log is kept.
    format: ArcSwapOption<Format>,
    writer: Writer,
    progress: watch::Sender<Progress>,
    /// [`Progress::start`], for who opens a tunnel.
    starts: AtomicBool,
    /// There is a format: who writes no line does without the writer's lock.
    kept: AtomicBool,
}

/// The access log as the settings want it (`mesh.accessLogFile`, `accessLogEncoding`, `accessLogFormat`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSettings {
    /// Where lines go.
    pub target: LogTarget,
    /// How a line is written.
    pub encoding: Encoding,
    /// Format string, or with [`Encoding::Json`] an object of them; empty: the encoding's own.
    pub format: String,
}

/// Where lines of the access log go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Nowhere.
    Off,
    /// Standard output, as it was opened for us: also a socket or a pipe, which `/dev/stdout` could not open.
    Stdout,
    /// A file that is appended to, created with mode 0640.
    File(PathBuf),
}

/// The setting `otlp`: where spans of flows go, in a binary with the feature `otlp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpSettings {
    /// Of the collector: a name or address, IPv6 in brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The path that takes traces.
    pub path: String,
    /// Of flows whose client says nothing of a trace.
    pub sampling_percent: u8,
}

impl std::fmt::Display for OtlpSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Why the access log cannot be kept as the settings want it.
#[derive(Debug, Error)]
pub enum AccountError {
    /// The format does not compile.
    #[error("accessLogFormat")]
    Format(#[from] FormatError),
    /// The target cannot be opened.
    #[error("open {path} for the access log")]
    Open {
        /// As written in the settings.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The writer's thread cannot be started.
    #[error("start the thread that writes the access log")]
    Thread(#[source] io::Error),
}

impl LogTarget {
    /// Reads `mesh.accessLogFile`: empty is off.
    pub fn parse(file: &str) -> Self {
        match file {
            "" => Self::Off,
            "/dev/stdout" => Self::Stdout,
            path => Self::File(path.into()),
        }
    }
}

impl Account {
    /// Opens the target and starts the thread that writes.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub fn new(settings: &AccountSettings) -> Result<Arc<Self>, AccountError> {
        let (format, sink) = prepare(settings)?;
        let writer = Writer::start(sink).map_err(AccountError::Thread)?;
        let progress = watch::Sender::new(Progress::default());
        let (starts, kept) = (AtomicBool::new(false), AtomicBool::new(format.is_some()));
        Ok(Arc::new(Self { format: ArcSwapOption::new(format), writer, progress, starts, kept }))
    }

    /// Takes new settings: lines that were rendered before go where they were meant to, flows that end from now on are written anew.
    ///
    /// # Errors
    /// See [`AccountError`]; the old settings stay in force.
    pub fn set(&self, settings: &AccountSettings) -> Result<(), AccountError> {
        let (format, sink) = prepare(settings)?;
        self.writer.set_sink(sink, || {
            self.kept.store(format.is_some(), Ordering::Relaxed);
            self.format.store(format);
        });
        Ok(())
    }

    /// Which lines tunnels have beside that of their end, from now on.
    pub fn set_progress(&self, progress: Progress) {
        self.starts.store(progress.start, Ordering::Relaxed);
        self.progress.send_if_modified(|before| std::mem::replace(before, progress) != progress);
    }

    /// What was set last, and each change of it.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// In what interval a tunnel has lines; zero: none.
    pub fn line_interval(&self) -> Duration {
        self.progress.borrow().interval
    }

    /// True if a tunnel has a line when it opens.
    pub fn logs_starts(&self) -> bool {
        self.starts.load(Ordering::Relaxed)
    }

    /// Starts the record of a flow: its time begins now.
    pub fn record(self: &Arc<Self>, source: &Arc<Source>) -> Box<AccessRecord> {
        let keeps_text = self.kept.load(Ordering::Relaxed);
        #[cfg(feature = "otlp")]
        let keeps_text = keeps_text || otlp::is_on();
        AccessRecord::new(self.clone(), source.clone(), keeps_text)
    }

    /// Opens the file anew, between two lines (SIGUSR1, after a rotation). Returns before it is done.
    pub fn reopen(&self) {
        self.writer.reopen();
    }

    /// Hands everything rendered so far to the kernel; false if that took longer than `limit`.
    pub fn flush(&self, limit: Duration) -> bool {
        self.writer.flush(limit)
    }

    /// Flushes and ends the writer; false if that took longer than `limit`. Lines of flows that end later are counted as dropped.
    pub fn close(&self, limit: Duration) -> bool {
        self.writer.close(limit)
    }

    fn write(&self, record: &AccessRecord) {
        if !self.kept.load(Ordering::Relaxed) {
            return;
        }
        // Asked again inside: there no new settings can come between the format and the place of its line.
        self.writer.line(|out| self.format.load().as_ref().map(|format| format.render(record, out)).is_some());
    }
}

fn prepare(settings: &AccountSettings) -> Result<(Option<Arc<Format>>, Sink), AccountError> {
    let format = Format::compile(settings.encoding, &settings.format)?;
    let sink = Sink::open(&settings.target)?;
    Ok((matches!(settings.target, LogTarget::Stdout | LogTarget::File(_)).then(|| Arc::new(format)), sink))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing {
    //! What tests of records and tunnels begin with.

    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::live::Entry;
    use super::{Account, AccountSettings, Encoding, LogTarget, Share, Shares};
    use crate::flow::{Limits, ListenerKind, ListenerName, Source, Target, Workload};

    /// A client at `peer` on a `forward` listener at `127.0.0.1:3128`.
    pub(crate) fn source_from(peer: SocketAddr) -> Source {
        Source {
            peer,
            local: SocketAddr::from(([127, 0, 0, 1], 3128)),
            transport: crate::flow::Transport::Tcp,
            listener: Arc::new(ListenerName { name: "proxy".to_owned(), kind: ListenerKind::Forward }),
            workload: Arc::new(Workload::default()),
            identity: None,
        }
    }

    /// A client that holds nothing, and is not limited.
    pub(crate) fn share() -> Arc<Share> {
        Shares::new(&Limits::default()).of([192, 0, 2, 1].into())
    }

    /// A tunnel of this client to `example.com:443`.
    pub(crate) fn entry(share: Arc<Share>) -> Entry {
        let source = Arc::new(source_from(SocketAddr::from(([192, 0, 2, 1], 40000))));
        let target = Target::parse_authority(b"example.com:443").unwrap();
        Entry { source, target, by_sni: false, traffic: "cluster".into(), share }
    }

    /// No access log.
    pub(crate) fn account_off() -> Arc<Account> {
        let settings = AccountSettings { target: LogTarget::Off, encoding: Encoding::Text, format: String::new() };
        Account::new(&settings).unwrap()
    }

    /// Keeps what this format asks for; its lines go nowhere.
    pub(crate) fn account(encoding: Encoding, format: &str) -> Arc<Account> {
        let target = LogTarget::File("/dev/null".into());
        Account::new(&AccountSettings { target, encoding, format: format.to_owned() }).unwrap()
    }

    /// As [`account`], with Istio's text format.
    pub(crate) fn account_logging() -> Arc<Account> {
        account(Encoding::Text, "")
    }
}
