//! The queue between the loops and a thread that writes their lines, and that thread: for the access
//! log, and for standard error.
//!
//! The queue holds whole lines, and [`CAPACITY`] bytes of them; what does not fit is dropped and
//! counted. The writer takes all that there is at a time. It is woken by the first line when it
//! sleeps, and rests [a moment](REST) after it has written: so a line on a quiet server is written
//! at once, and a busy one wakes the thread a hundred times a second rather than for each request.

use std::io::{self, ErrorKind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many bytes may wait.
const CAPACITY: usize = 1 << 20;
/// From so many on, the writer does not rest.
const MANY: usize = CAPACITY / 4;
/// How long the writer rests after it has written.
const REST: Duration = Duration::from_millis(10);
/// How long it waits before it tries once more what failed.
const RETRY: Duration = Duration::from_secs(1);

/// Where lines go in the end. All is called on the writer's thread.
pub(super) trait Output {
    /// What is called so when it does not take its lines.
    const NAME: &'static str;

    /// Writes some of the lines; this may wait.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize>;

    /// Goes on in what is at its path now.
    fn reopen(&mut self) {}
}

/// Lines that wait to be written.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// For the writer.
    wanted: Condvar,
    /// For who waits for the end.
    over: Condvar,
}

#[derive(Default)]
struct State {
    /// Whole lines.
    lines: Vec<u8>,
    /// Lines for which there was no room, or that could not be written.
    dropped: u64,
    reopen: bool,
    finishing: bool,
    finished: bool,
    waits: Waits,
}

/// What the writer is to be woken for, besides a reopening and the end.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// Nothing: it writes, or waits for its time.
    #[default]
    No,
    ForLines,
    ForMany,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues whole lines, as many as there is room for; the others are counted.
    pub(super) fn push(&self, lines: &[u8]) {
        let mut state = self.state();
        let fits = fitting(lines, CAPACITY - state.lines.len());
        state.lines.extend_from_slice(&lines[..fits]);
        state.dropped += count(&lines[fits..]);
        let wake = match state.waits {
            Waits::No => false,
            Waits::ForLines => true,
            Waits::ForMany => state.lines.len() >= MANY,
        };
        if wake {
            // Once is enough.
            state.waits = Waits::No;
            drop(state);
            self.wanted.notify_one();
        }
    }

    /// How many lines have been dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.state().dropped
    }

    /// Has the log opened again, behind the lines that are queued.
    pub(super) fn reopen(&self) {
        self.state().reopen = true;
        self.wanted.notify_one();
    }

    /// Has the writer write what is queued and end.
    ///
    /// # Errors
    /// It does not within `limit`: so many lines are lost, those for which there was no room among
    /// them.
    pub(super) fn finish(&self, limit: Duration) -> Result<(), u64> {
        let mut state = self.state();
        state.finishing = true;
        self.wanted.notify_one();
        let waited = self
            .over
            .wait_timeout_while(state, limit, |state| !state.finished);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.finished {
            Ok(())
        } else {
            Err(state.dropped + count(&state.lines))
        }
    }

    /// Waits for what is to be done next.
    fn wait(&self, rest: Rest) -> Work {
        let mut state = self.state();
        let (waits, limit) = match rest {
            Rest::UntilLines => (Waits::ForLines, None),
            Rest::Short => (Waits::ForMany, Some(REST)),
            Rest::Failing(time) => (Waits::No, Some(time)),
        };
        state.waits = waits;
        let idle = |state: &mut State| {
            let enough = match waits {
                Waits::No => false,
                Waits::ForLines => !state.lines.is_empty(),
                Waits::ForMany => state.lines.len() >= MANY,
            };
            !(enough || state.reopen || state.finishing)
        };
        let waited = match limit {
            None => self.wanted.wait_while(state, idle),
            Some(limit) => {
                let waited = self.wanted.wait_timeout_while(state, limit, idle);
                waited
                    .map(|(state, _)| state)
                    .map_err(|e| PoisonError::new(e.into_inner().0))
            }
        };
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.waits = Waits::No;
        Work {
            reopen: std::mem::take(&mut state.reopen),
            finish: state.finishing,
        }
    }

    /// Takes all lines; the memory of `emptied` is for those to come.
    fn take(&self, emptied: &mut Vec<u8>) {
        std::mem::swap(&mut self.state().lines, emptied);
    }

    /// The writer ends. It, or the queue, has so many lines that could not be written.
    fn finished(&self, lost: u64) {
        let mut state = self.state();
        state.dropped += lost + count(&state.lines);
        state.finished = true;
        self.over.notify_all();
    }
}

/// How the writer waits.
#[derive(Clone, Copy)]
enum Rest {
    UntilLines,
    /// It has just written.
    Short,
    /// It can't write: it tries again after this time.
    Failing(Duration),
}

struct Work {
    reopen: bool,
    finish: bool,
}

/// The length of the whole lines at the beginning that are no longer than `room`.
fn fitting(lines: &[u8], room: usize) -> usize {
    if lines.len() <= room {
        return lines.len();
    }
    let end = lines[..room].iter().rposition(|b| *b == b'\n');
    end.map_or(0, |end| end + 1)
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|b| **b == b'\n').count() as u64
}

/// The writer's thread.
pub(super) fn run<O: Output>(queue: &Queue, output: O) {
    let mut writer = Writer {
        queue,
        output,
        lines: Vec::new(),
        written: 0,
        told: 0,
        failing: false,
    };
    let mut rest = Rest::UntilLines;
    loop {
        let work = queue.wait(rest);
        rest = writer.write();
        if work.reopen {
            writer.reopen();
        }
        if work.finish {
            match rest {
                Rest::Short => {}
                // One of them that is full, for now.
                Rest::Failing(REST) => std::thread::sleep(REST),
                Rest::UntilLines | Rest::Failing(_) => break,
            }
        }
    }
    queue.finished(count(&writer.lines[writer.written..]));
    writer.tell_dropped();
}

struct Writer<'a, O> {
    queue: &'a Queue,
    output: O,
    /// What is being written, and how much of it has been.
    lines: Vec<u8>,
    written: usize,
    /// How many dropped lines have been told of.
    told: u64,
    failing: bool,
}

impl<O: Output> Writer<'_, O> {
    /// Writes what is left from the last time, or what is queued now.
    fn write(&mut self) -> Rest {
        if self.lines.is_empty() {
            self.queue.take(&mut self.lines);
        }
        if self.lines.is_empty() {
            return Rest::UntilLines;
        }
        while self.written < self.lines.len() {
            match self.output.write(&self.lines[self.written..]) {
                Ok(n) => self.written += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // Whoever shares standard output, or error, with us wants it so.
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Rest::Failing(REST),
                Err(e) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        let name = O::NAME;
                        log::error!("{name} can't be written, and is tried again: {e}");
                    }
                    return Rest::Failing(RETRY);
                }
            }
        }
        self.lines.clear();
        self.written = 0;
        self.failing = false;
        self.tell_dropped();
        Rest::Short
    }

    fn tell_dropped(&mut self) {
        let dropped = self.queue.dropped();
        let more = dropped - std::mem::replace(&mut self.told, dropped);
        if more > 0 {
            log::warn!("{} could not follow: {more} lines were dropped", O::NAME);
        }
    }

    /// Goes on in the file that is at the path now, with whole lines.
    fn reopen(&mut self) {
        let begun = self.lines[..self.written].iter().rposition(|b| *b == b'\n');
        self.written = begun.map_or(0, |end| end + 1);
        self.output.reopen();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_dropped_whole_and_counted() {
        assert_eq!(fitting(b"ab\ncd\n", 6), 6);
        assert_eq!(fitting(b"ab\ncd\n", 5), 3);
        assert_eq!(fitting(b"ab\ncd\n", 2), 0);
        let queue = Queue::default();
        let line = [&[b'a'; 999][..], b"\n"].concat();
        let fit = CAPACITY / line.len();
        for _ in 0..fit {
            queue.push(&line);
        }
        assert_eq!(queue.dropped(), 0);
        queue.push(&[&line[..], &line, b"b\n"].concat());
        // What follows a line that does not fit is dropped with it.
        assert_eq!(queue.dropped(), 3);
        let mut lines = Vec::new();
        queue.take(&mut lines);
        assert_eq!(lines.len(), fit * line.len());
        queue.push(&line);
        assert_eq!(queue.dropped(), 3);
    }
}
