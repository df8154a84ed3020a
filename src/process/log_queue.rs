//! Lines on their way to the log.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::Level;

use super::log_targets::LogTarget;

/// Lines that wait to be written, at most.
const MAX_WAITING_LINES: usize = 10_000;

/// How long somebody may be kept from going on until its lines are written.
const WRITE_LIMIT: Duration = Duration::from_millis(100);

/// How long the end of the process waits for the last lines.
const LAST_LINES_LIMIT: Duration = Duration::from_secs(1);

/// Time between two tries to get into a full queue.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

enum Entry {
    Line(Level, Box<[u8]>),
    /// From here on lines go there.
    Target(Box<dyn LogTarget>),
    /// Somebody waits until the lines before it are written.
    Mark(oneshot::Sender<()>),
    End,
}

/// A bounded queue to a thread that writes. A full disk or a stuck pipe never
/// stops who logs: what does not fit is dropped and counted.
#[derive(Debug)]
pub struct LogQueue {
    entries: SyncSender<Entry>,
    dropped: AtomicU64,
}

impl LogQueue {
    /// Adds a line, its end included.
    pub fn push(&self, level: Level, line: &[u8]) {
        let entry = Entry::Line(level, line.into());
        if self.entries.try_send(entry).is_err() {
            self.count_dropped();
        }
    }

    /// Lines that are added from now on go to `target`. False if there is no
    /// room to say so.
    pub fn redirect(&self, target: Box<dyn LogTarget>) -> bool {
        self.entries.try_send(Entry::Target(target)).is_ok()
    }

    /// Waits until every line that was added before is written, 100 ms at
    /// most. Whoever answers a client after this has told the log first, as
    /// PgBouncer does: its users look there for what the answer means.
    pub async fn written(&self) {
        let (mark, written) = oneshot::channel();
        if self.entries.try_send(Entry::Mark(mark)).is_ok() {
            // Late or not: the log is not worth more than that.
            drop(tokio::time::timeout(WRITE_LIMIT, written).await);
        }
    }

    /// Lines that were dropped so far, for want of room or because they could
    /// not be written.
    pub fn dropped_lines(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Keeps the thread going that writes; what waits is written when it is
/// dropped.
#[derive(Debug)]
pub struct LogWriter {
    queue: Arc<LogQueue>,
    ended: Receiver<()>,
}

impl LogWriter {
    /// Starts to write to `target`.
    ///
    /// # Errors
    /// The thread could not be had.
    pub fn start(target: Box<dyn LogTarget>) -> io::Result<LogWriter> {
        let (entries, waiting) = mpsc::sync_channel(MAX_WAITING_LINES);
        let (end, ended) = mpsc::channel();
        let queue = Arc::new(LogQueue {
            entries,
            dropped: AtomicU64::new(0),
        });
        let counts = queue.clone();
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || {
                write_all(&waiting, target, &counts);
                drop(end);
            })?;
        Ok(LogWriter { queue, ended })
    }

    /// Where lines go in.
    pub fn queue(&self) -> &Arc<LogQueue> {
        &self.queue
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        let deadline = Instant::now() + LAST_LINES_LIMIT;
        while self.queue.entries.try_send(Entry::End).is_err() && Instant::now() < deadline {
            std::thread::sleep(RETRY_PAUSE);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if self.ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
            self.queue.count_dropped();
        }
    }
}

fn write_all(waiting: &Receiver<Entry>, mut target: Box<dyn LogTarget>, counts: &LogQueue) {
    for entry in waiting {
        match entry {
            Entry::Line(level, line) => {
                if target.write(level, &line).is_err() {
                    counts.count_dropped();
                }
            }
            Entry::Target(other) => target = other,
            // Who waited may have gone on.
            Entry::Mark(mark) => drop(mark.send(())),
            Entry::End => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
            self.0.lock().expect("no writer panics")
        }
    }

    impl LogTarget for Page {
        fn write(&mut self, _: Level, line: &[u8]) -> io::Result<()> {
            self.bytes().extend_from_slice(line);
            Ok(())
        }
    }

    fn started() -> (LogWriter, Page) {
        let page = Page::default();
        let writer = LogWriter::start(Box::new(page.clone()));
        (writer.expect("a thread"), page)
    }

    #[tokio::test]
    async fn a_line_is_written_before_who_waits_for_it_goes_on() {
        let (writer, page) = started();
        for round in 1..=100 {
            writer.queue().push(Level::INFO, b"line\n");
            writer.queue().written().await;
            assert_eq!(page.bytes().len(), round * 5);
        }
    }

    #[test]
    fn a_target_that_hangs_holds_nobody_and_the_rest_is_counted() {
        let (writer, page) = started();
        let hanging = page.bytes();
        // The thread has one of them in its hands.
        for _ in 0..MAX_WAITING_LINES + 3 {
            writer.queue().push(Level::INFO, b"line\n");
        }
        let dropped = writer.queue().dropped_lines();
        assert!((2..=3).contains(&dropped), "{dropped}");
        let asked = Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().build().expect("a runtime");
        runtime.block_on(writer.queue().written());
        assert!(asked.elapsed() < LAST_LINES_LIMIT);
        drop(hanging);
    }

    #[test]
    fn lines_go_where_the_last_redirection_says() {
        let (writer, first) = started();
        let second = Page::default();
        writer.queue().push(Level::INFO, b"one\n");
        assert!(writer.queue().redirect(Box::new(second.clone())));
        writer.queue().push(Level::INFO, b"two\n");
        drop(writer);
        assert_eq!(
            (&first.bytes()[..], &second.bytes()[..]),
            (&b"one\n"[..], &b"two\n"[..])
        );
    }

    #[test]
    fn what_waits_is_written_at_the_end() {
        let (writer, page) = started();
        (0..1000).for_each(|_| writer.queue().push(Level::INFO, b"line\n"));
        drop(writer);
        assert_eq!(page.bytes().len(), 5000);
    }
}
