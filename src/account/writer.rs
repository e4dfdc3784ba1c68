//! Lines on their way out: rendered into a buffer of the worker, handed over in large pieces, written by one thread.
//!
//! A worker never waits for a disk, a pipe or a terminal. When the thread cannot keep up, whole pieces are dropped and their lines
//! counted ([`metrics`]). Nothing waits longer than [`FLUSH_INTERVAL`] in a buffer.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{AccountError, LogTarget, metrics};

/// The buffers and the thread that empties them.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// One for each worker, unless there are more workers than buffers.
    buffers: [Buffer; BUFFERS],
    queue: Mutex<Queue>,
    /// Tells the thread that something is asked of it.
    wake: Condvar,
    /// Tells those who asked for a flush or the end that it is done.
    done: Condvar,
    closed: AtomicBool,
}

/// On a cache line of its own, so that workers do not wait for each other.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Buffer(Mutex<Lines>);

/// Whole lines.
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    count: u64,
}

#[derive(Debug, Default)]
struct Queue {
    /// In the order in which they take effect.
    items: VecDeque<Item>,
    close: bool,
    /// Flushes asked for, and how many of them are done.
    flushes_asked: u64,
    flushes_done: u64,
    ended: bool,
}

#[derive(Debug)]
enum Item {
    Write(Lines),
    /// Write to this from now on.
    Use(Sink),
    /// Open the file anew.
    Reopen,
}

/// Where the thread writes.
#[derive(Debug)]
pub(super) enum Sink {
    Nowhere,
    Stdout(File),
    File { file: File, path: PathBuf },
}

const BUFFERS: usize = 64; // more than workers on all but the largest machines; two workers may share one
const PIECE_BYTES: usize = 32 * 1024; // about 100 lines for each hand-over
const ITEMS_MAX: usize = 64; // 2 MiB: what a disk's hiccup of a tenth of a second brings at 50,000 lines a second
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);
const RETRY_INTERVAL: Duration = Duration::from_millis(5); // of a target that is in non-blocking mode, and full

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub(super) fn start(sink: Sink) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            buffers: std::array::from_fn(|_| Buffer::default()),
            queue: Mutex::default(),
            wake: Condvar::new(),
            done: Condvar::new(),
            closed: AtomicBool::new(false),
        });
        let output = Output { shared: shared.clone(), sink, mid_line: false, failing: false, reopen_due: false };
        thread::Builder::new().name("access-log".to_owned()).spawn(move || output.run())?;
        Ok(Self { shared })
    }

    /// Takes one line, with its line feed, from `render`; false from there means that there is none.
    pub(super) fn line(&self, render: impl FnOnce(&mut Vec<u8>) -> bool) {
        let mut lines = lock(&self.shared.buffers[own_buffer()].0);
        // Under the lock: the last sweep has either not come yet, or is seen here.
        if self.shared.closed.load(Ordering::Acquire) {
            metrics::access_log_lines_dropped(1);
            return;
        }
        if lines.bytes.capacity() == 0 {
            lines.bytes.reserve(PIECE_BYTES + PIECE_BYTES / 8);
        }
        if render(&mut lines.bytes) {
            lines.count += 1;
        }
        if lines.bytes.len() >= PIECE_BYTES {
            let piece = std::mem::take(&mut *lines);
            self.shared.hand_over(piece); // under the buffer's lock: the thread must not take what follows before this
        }
    }

    /// Replaces the sink. What was rendered before goes to the old one, what is rendered after `meanwhile` to the new one; nothing is
    /// rendered while that runs.
    pub(super) fn set_sink(&self, sink: Sink, meanwhile: impl FnOnce()) {
        self.cut(Item::Use(sink), meanwhile);
    }

    /// Opens the file anew, for what is rendered from now on.
    pub(super) fn reopen(&self) {
        self.cut(Item::Reopen, || {});
    }

    /// Puts `item` behind everything rendered so far.
    fn cut(&self, item: Item, meanwhile: impl FnOnce()) {
        let mut buffers = self.shared.buffers.each_ref().map(|buffer| lock(&buffer.0));
        let mut queue = lock(&self.shared.queue);
        for lines in buffers.iter_mut().filter(|lines| lines.count > 0) {
            queue.items.push_back(Item::Write(std::mem::take(lines)));
        }
        queue.items.push_back(item);
        meanwhile();
        self.shared.wake.notify_one();
    }

    /// Hands everything to the kernel; false if that took longer than `limit`.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let mut queue = lock(&self.shared.queue);
        queue.flushes_asked += 1;
        let asked = queue.flushes_asked;
        self.shared.wake.notify_one();
        self.shared.wait(queue, limit, |queue| queue.flushes_done >= asked || queue.ended)
    }

    /// Flushes and ends the thread; false if that took longer than `limit`.
    pub(super) fn close(&self, limit: Duration) -> bool {
        self.shared.closed.store(true, Ordering::Release);
        let mut queue = lock(&self.shared.queue);
        queue.close = true;
        self.shared.wake.notify_one();
        self.shared.wait(queue, limit, |queue| queue.ended)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The thread ends by itself; nobody is left who would wait for it.
        lock(&self.shared.queue).close = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn hand_over(&self, piece: Lines) {
        let mut queue = lock(&self.queue);
        if queue.items.len() >= ITEMS_MAX {
            metrics::access_log_lines_dropped(piece.count);
            return;
        }
        queue.items.push_back(Item::Write(piece));
        self.wake.notify_one();
    }

    fn wait(&self, queue: MutexGuard<'_, Queue>, limit: Duration, until: impl Fn(&Queue) -> bool) -> bool {
        let (queue, _) =
            self.done.wait_timeout_while(queue, limit, |queue| !until(queue)).unwrap_or_else(PoisonError::into_inner);
        until(&queue)
    }
}

/// The thread's side.
struct Output {
    shared: Arc<Shared>,
    sink: Sink,
    /// A write failed inside a line: the next begins with a line feed.
    mid_line: bool,
    /// The last write failed; said once, not for each.
    failing: bool,
    /// The file could not be opened anew when that was asked for.
    reopen_due: bool,
}

/// What the thread is to do next.
struct Work {
    items: VecDeque<Item>,
    close: bool,
    flushes: u64,
}

impl Output {
    fn run(mut self) {
        let mut sweep_at = Instant::now() + FLUSH_INTERVAL;
        loop {
            let work = self.next_work(sweep_at);
            work.items.into_iter().for_each(|item| self.take(item));
            if work.close || work.flushes > 0 || Instant::now() >= sweep_at {
                self.sweep();
                sweep_at = Instant::now() + FLUSH_INTERVAL;
            }
            let mut queue = lock(&self.shared.queue);
            queue.flushes_done += work.flushes;
            queue.ended = work.close;
            self.shared.done.notify_all();
            if work.close {
                return;
            }
        }
    }

    fn next_work(&self, sweep_at: Instant) -> Work {
        let idle =
            |queue: &mut Queue| queue.items.is_empty() && !queue.close && queue.flushes_asked == queue.flushes_done;
        let limit = sweep_at.saturating_duration_since(Instant::now());
        let waited = self.shared.wake.wait_timeout_while(lock(&self.shared.queue), limit, idle);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Work {
            items: std::mem::take(&mut queue.items),
            close: queue.close,
            flushes: queue.flushes_asked - queue.flushes_done,
        }
    }

    /// Writes what is in the buffers, each after what was handed over of it.
    fn sweep(&mut self) {
        let shared = self.shared.clone();
        for buffer in &shared.buffers {
            let mut lines = lock(&buffer.0);
            if lines.count == 0 {
                continue;
            }
            let last = std::mem::take(&mut *lines);
            let before = std::mem::take(&mut lock(&shared.queue).items);
            drop(lines);
            before.into_iter().chain([Item::Write(last)]).for_each(|item| self.take(item));
        }
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Write(lines) => self.write(&lines),
            Item::Use(sink) => self.start_on(sink),
            Item::Reopen => self.reopen(),
        }
    }

    fn start_on(&mut self, sink: Sink) {
        self.sink = sink;
        (self.mid_line, self.failing, self.reopen_due) = (false, false, false);
    }

    fn write(&mut self, lines: &Lines) {
        if self.reopen_due {
            self.reopen();
        }
        let Some(file) = self.sink.file() else { return };
        let written = if self.mid_line { file.write_all(b"\n") } else { Ok(()) };
        let (written, result) = match written {
            Ok(()) => write_all(file, &lines.bytes),
            Err(error) => (0, Err(error)),
        };
        if written > 0 {
            self.mid_line = lines.bytes[written - 1] != b'\n';
        }
        match result {
            Ok(()) => {
                metrics::access_log_lines_written(lines.count);
                self.failing = false;
            }
            Err(error) => {
                let whole = memchr::memchr_iter(b'\n', &lines.bytes[..written]).count() as u64;
                metrics::access_log_lines_written(whole);
                metrics::access_log_lines_dropped(lines.count.saturating_sub(whole));
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "cannot write the access log; its lines are dropped until that works again");
                }
            }
        }
    }

    fn reopen(&mut self) {
        let Sink::File { path, .. } = &self.sink else { return };
        match open(path.clone()) {
            Ok(sink) => self.start_on(sink),
            // Tried again with each write: whoever moved the old file away will compress or delete it.
            Err(error) => {
                if !std::mem::replace(&mut self.reopen_due, true) {
                    tracing::warn!(%error, path = %path.display(), "cannot open the access log anew; writing on to the old file");
                }
            }
        }
    }
}

impl Sink {
    /// Opens the target.
    ///
    /// # Errors
    /// [`AccountError::Open`].
    pub(super) fn open(target: &LogTarget) -> Result<Self, AccountError> {
        let (path, opened) = match target {
            LogTarget::Off => return Ok(Self::Nowhere),
            // The descriptor itself: std's stdout would copy every line through a buffer of its own.
            LogTarget::Stdout => {
                let own = io::stdout().as_fd().try_clone_to_owned();
                (PathBuf::from("/dev/stdout"), own.map(|fd| Self::Stdout(fd.into())))
            }
            LogTarget::File(path) => (path.clone(), open(path.clone())),
        };
        opened.map_err(|source| AccountError::Open { path, source })
    }

    fn file(&mut self) -> Option<&mut File> {
        match self {
            Self::Nowhere => None,
            Self::Stdout(file) | Self::File { file, .. } => Some(file),
        }
    }
}

fn open(path: PathBuf) -> io::Result<Sink> {
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&path)?;
    Ok(Sink::File { file, path })
}

/// Like `Write::write_all`, but says how far it came, and waits where the target is non-blocking.
fn write_all(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY_INTERVAL),
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// The buffer of this thread.
fn own_buffer() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: usize = NEXT.fetch_add(1, Ordering::Relaxed) % BUFFERS;
    }
    // Lines may still come while a thread's locals are being destroyed.
    OWN.try_with(|own| *own).unwrap_or(0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{BufRead, BufReader, Read};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn pipe() -> (std::io::PipeReader, Sink) {
        let (reader, writer) = std::io::pipe().unwrap();
        (reader, Sink::Stdout(File::from(std::os::fd::OwnedFd::from(writer))))
    }

    fn file(path: &std::path::Path) -> Sink {
        Sink::open(&LogTarget::File(path.to_owned())).unwrap()
    }

    fn write(writer: &Writer, text: &str) {
        writer.line(|out| {
            out.extend_from_slice(text.as_bytes());
            out.push(b'\n');
            true
        });
    }

    #[test]
    fn a_lone_line_arrives_without_being_asked_for() {
        let (reader, sink) = pipe();
        let writer = Writer::start(sink).unwrap();
        let started = Instant::now();
        write(&writer, "alone");
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        assert_eq!(line, "alone\n");
        assert!(started.elapsed() < LIMIT);
    }

    #[test]
    fn all_lines_of_all_threads_arrive_whole_and_in_the_order_of_their_thread() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let writer = Writer::start(file(&path)).unwrap();
        thread::scope(|scope| {
            for thread in 0..4 {
                let writer = &writer;
                scope.spawn(move || {
                    for number in 0..5_000 {
                        write(writer, &format!("{thread} {number} {}", "x".repeat(number % 97)));
                        if number % 1_000 == 0 {
                            assert!(writer.flush(LIMIT));
                        }
                    }
                });
            }
        });
        assert!(writer.close(LIMIT));
        let mut next = [0; 4];
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let mut parts = line.split(' ').map(str::to_owned);
            let thread: usize = parts.next().unwrap().parse().unwrap();
            let number: usize = parts.next().unwrap().parse().unwrap();
            assert_eq!(next[thread], number);
            assert_eq!(parts.next().unwrap().len(), number % 97);
            next[thread] += 1;
        }
        assert_eq!(next, [5_000; 4]);
    }

    #[test]
    fn after_a_rotation_lines_go_to_the_new_file_and_none_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let [path, rotated] = ["access.log", "access.log.1"].map(|name| folder.path().join(name));
        let writer = Writer::start(file(&path)).unwrap();
        write(&writer, "before");
        assert!(writer.flush(LIMIT));
        std::fs::rename(&path, &rotated).unwrap();
        write(&writer, "between");
        writer.reopen();
        write(&writer, "after");
        assert!(writer.close(LIMIT));
        assert_eq!(std::fs::read_to_string(&rotated).unwrap(), "before\nbetween\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "after\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_anew_is_written_on() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("log");
        std::fs::create_dir(&inner).unwrap();
        let writer = Writer::start(file(&inner.join("access.log"))).unwrap();
        let moved = folder.path().join("moved");
        std::fs::rename(&inner, &moved).unwrap();
        writer.reopen();
        write(&writer, "still here");
        assert!(writer.close(LIMIT));
        assert_eq!(std::fs::read_to_string(moved.join("access.log")).unwrap(), "still here\n");
    }

    #[test]
    fn a_new_sink_takes_only_what_comes_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| folder.path().join(name));
        let writer = Writer::start(file(&old)).unwrap();
        write(&writer, "old");
        writer.set_sink(file(&new), || {});
        write(&writer, "new");
        assert!(writer.close(LIMIT));
        assert_eq!(std::fs::read_to_string(old).unwrap(), "old\n");
        assert_eq!(std::fs::read_to_string(new).unwrap(), "new\n");
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_and_no_waiting() {
        let (mut reader, sink) = pipe();
        let writer = Writer::start(sink).unwrap();
        let dropped = metrics::access_log_lines_dropped_so_far();
        let line = "x".repeat(1023);
        let (lines, started) = (8 * 1024, Instant::now()); // 8 MiB: the pipe holds 64 KiB, the queue 2 MiB
        for _ in 0..lines {
            write(&writer, &line);
        }
        assert!(started.elapsed() < LIMIT);
        let dropped = metrics::access_log_lines_dropped_so_far() - dropped;
        assert!(dropped >= 4 * 1024, "{dropped}");
        assert!(!writer.close(Duration::from_millis(50)), "the thread cannot have written what nobody read");
        let reading = thread::spawn(move || {
            let mut text = Vec::new();
            reader.read_to_end(&mut text).unwrap();
            text
        });
        assert!(writer.close(LIMIT));
        drop(writer);
        let text = reading.join().unwrap();
        assert!(text.chunks(1024).all(|chunk| chunk.ends_with(b"x\n")));
        assert_eq!(text.len() as u64 / 1024, lines - dropped);
    }

    #[test]
    fn a_reader_that_is_gone_costs_lines_and_no_life() {
        let (reader, sink) = pipe();
        drop(reader);
        let writer = Writer::start(sink).unwrap();
        let dropped = metrics::access_log_lines_dropped_so_far();
        write(&writer, "nobody reads this");
        assert!(writer.flush(LIMIT));
        assert_eq!(metrics::access_log_lines_dropped_so_far() - dropped, 1);
        write(&writer, "nor this");
        assert!(writer.close(LIMIT));
        assert_eq!(metrics::access_log_lines_dropped_so_far() - dropped, 2);
        write(&writer, "and this came too late");
        assert_eq!(metrics::access_log_lines_dropped_so_far() - dropped, 3);
    }

    #[test]
    fn after_a_write_that_failed_inside_a_line_the_next_line_stands_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let sink = file(&path);
        let shared = Writer::start(Sink::Nowhere).unwrap().shared.clone();
        let mut output = Output { shared, sink, mid_line: false, failing: false, reopen_due: false };
        output.write(&Lines { bytes: b"whole\nha".to_vec(), count: 2 });
        assert!(output.mid_line);
        output.write(&Lines { bytes: b"next\n".to_vec(), count: 1 });
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole\nha\nnext\n");
    }

    #[test]
    fn a_target_that_cannot_be_opened_is_named() {
        let error = Sink::open(&LogTarget::File("/nonexistent/access.log".into())).unwrap_err();
        assert_eq!(error.to_string(), "open /nonexistent/access.log for the access log");
    }
}
