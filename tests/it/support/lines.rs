//! The output of a process, line by line, to be waited for.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::PATIENCE;

/// Lines that a process wrote so far; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Lines {
    shared: Arc<(Mutex<Written>, Condvar)>,
}

#[derive(Default)]
struct Written {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    /// Collects what comes out of `pipe` until its end.
    pub(crate) fn of(pipe: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let collected = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                collected.change(|written| written.lines.push(String::from_utf8_lossy(&line).into_owned()));
            }
            collected.change(|written| written.ended = true);
        });
        lines
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        // A test that failed in waiting held the lock; the process is still to be ended, and its log shown.
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Written)) {
        change(&mut self.written());
        self.shared.1.notify_all();
    }

    /// The first line that contains `text`, now or as soon as it comes.
    ///
    /// # Panics
    /// When it does not come in time, or the process ended without it.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        self.wait_for_nth(text, 1)
    }

    /// The `n`th line (from 1) that contains `text`.
    ///
    /// # Panics
    /// As [`Lines::wait_for`].
    pub(crate) fn wait_for_nth(&self, text: &str, n: usize) -> String {
        let end = Instant::now() + PATIENCE;
        let mut written = self.written();
        loop {
            if let Some(line) = written.lines.iter().filter(|line| line.contains(text)).nth(n - 1) {
                return line.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero() && !written.ended, "no {n}. line with {text:?} in:\n{}", written.lines.join("\n"));
            written = self.shared.1.wait_timeout(written, left).unwrap().0;
        }
    }

    /// Everything, once the process has closed its end.
    pub(crate) fn all(&self) -> Vec<String> {
        let end = Instant::now() + PATIENCE;
        let mut written = self.written();
        while !written.ended {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "still open; so far:\n{}", written.lines.join("\n"));
            written = self.shared.1.wait_timeout(written, left).unwrap().0;
        }
        written.lines.clone()
    }

    /// What was written so far.
    pub(crate) fn so_far(&self) -> Vec<String> {
        self.written().lines.clone()
    }
}
