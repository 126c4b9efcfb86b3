//! The access log: a line for each exchange.
//!
//! Lines are [formatted](format) in the loops, and handed over once a turn, all of them, to the
//! [writer's](super::super::line_queue) bounded queue. One thread of its own writes them, since only that may wait
//! for a disk. Where it can't follow, lines are dropped and counted: serving never waits for it.

mod format;
mod target;

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cli::line_queue::{self, Queue};
use crate::streamer::{Exchange, Observer};

use format::Formatter;
pub(in crate::cli) use format::LogFormat;
pub(super) use target::Target;

/// How long the end waits for the last lines to be written.
const LAST: Duration = Duration::from_secs(5);

/// The log of a running server, for all of its threads.
pub(super) struct AccessLog {
    queue: Arc<Queue>,
    writer: Option<JoinHandle<()>>,
}

impl AccessLog {
    /// Starts the writer. Landlock holds for threads that are started after it.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn start(target: Target) -> io::Result<AccessLog> {
        let queue = Arc::<Queue>::default();
        let lines = Arc::clone(&queue);
        let writer = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || line_queue::run(&lines, target))?;
        Ok(AccessLog {
            queue,
            writer: Some(writer),
        })
    }

    /// The other side of the queue.
    pub(super) fn queue(&self) -> Arc<Queue> {
        Arc::clone(&self.queue)
    }

    /// Writes what is queued, and ends. Gives a disk that is stuck [a time](LAST), and then
    /// says how many lines are lost.
    pub(super) fn finish(mut self) {
        if let Err(lost) = self.queue.finish(LAST) {
            log::warn!(
                "the access log does not take its last lines: they are lost, {lost} of them \
                 for want of room in the queue or in it still"
            );
            return;
        }
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            log::error!("the access log's thread panicked");
        }
    }
}

/// The lines of one thread.
pub(super) struct Lines {
    queue: Arc<Queue>,
    pending: RefCell<(Formatter, Vec<u8>)>,
}

impl Lines {
    pub(super) fn new(queue: Arc<Queue>, format: LogFormat) -> Lines {
        let pending = RefCell::new((Formatter::new(format), Vec::new()));
        Lines { queue, pending }
    }

    /// Hands over what there is. To be called after each turn of the loop: little where there is
    /// nothing.
    pub(super) fn flush(&self) {
        let (_, lines) = &mut *self.pending.borrow_mut();
        if !lines.is_empty() {
            self.queue.push(lines);
            lines.clear();
        }
    }
}

impl Observer for Lines {
    fn exchange_over(&self, exchange: &Exchange<'_>) {
        let (formatter, lines) = &mut *self.pending.borrow_mut();
        formatter.line(lines, exchange);
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}
