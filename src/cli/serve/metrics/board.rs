//! What each thread said last of itself.
//!
//! A scrape asks the threads, which answer between two turns of their loops. It waits for them, but
//! not for long: of one that does not answer, what it said before is taken, so that no sum ever
//! falls. Such a thread is not asked again before it has answered.

use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::TransportStats;
use crate::proactor::{Proactor, Stats};
use crate::streamer::{Server, ServerStats};

use super::super::thread::ThreadHandle;
use super::counts::{Counting, Counts};

/// A thread's figures, all of one moment.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) backend: String,
    /// Why that one.
    pub(super) reason: String,
    pub(super) counts: Counts,
    pub(super) server: ServerStats,
    pub(super) connections: usize,
    pub(super) transports: TransportStats,
    pub(super) proactor: Stats,
}

/// What is known of a thread.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// `None` of one that has said nothing yet.
    pub(super) figures: Option<Figures>,
    /// It was asked, and has not answered.
    pub(super) asked: bool,
    /// It has ended in order: what it said is the last.
    ended: bool,
}

/// The threads' figures.
pub(in super::super) struct Board {
    threads: Mutex<Vec<Known>>,
    said: Condvar,
}

impl Board {
    /// For so many threads.
    pub(in super::super) fn new(threads: usize) -> Board {
        Board {
            threads: Mutex::new(vec![Known::default(); threads]),
            said: Condvar::new(),
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<Known>> {
        self.threads.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn say(&self, index: usize, figures: Figures, ended: bool) {
        if let Some(known) = self.threads().get_mut(index) {
            *known = Known {
                figures: Some(figures),
                asked: false,
                ended,
            };
        }
        self.said.notify_all();
    }

    /// Asks the threads, and waits for their answers, though not longer than `limit`.
    pub(super) fn gather(&self, threads: &[Arc<ThreadHandle>], limit: Duration) -> Vec<Known> {
        self.gather_from(threads.iter().map(|thread| thread.index), limit, |at| {
            threads[at].tell(|proactor, serving| serving.say(proactor, false));
        })
    }

    /// `ask` is called with the place that a thread's index has among the `threads`.
    fn gather_from(
        &self,
        threads: impl Iterator<Item = usize>,
        limit: Duration,
        ask: impl Fn(usize),
    ) -> Vec<Known> {
        let end = Instant::now() + limit;
        for (at, index) in threads.enumerate() {
            let is_due =
                |known: &mut Known| !known.ended && !std::mem::replace(&mut known.asked, true);
            // The lock is given back first: who is asked may answer at once.
            let due = self.threads().get_mut(index).is_some_and(is_due);
            if due {
                ask(at);
            }
        }
        let mut known = self.threads();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !known.iter().any(|known| known.asked) {
                return known.clone();
            }
            let waited = self.said.wait_timeout(known, left);
            known = waited.unwrap_or_else(|e| e.into_inner()).0;
        }
    }
}

/// A thread's place at the board, and what counts for it.
pub(in super::super) struct Seat {
    board: Arc<Board>,
    index: usize,
    counting: Rc<Counting>,
}

impl Seat {
    /// Begins to count what `server` does.
    pub(in super::super) fn take(board: Arc<Board>, index: usize, server: &Server) -> Seat {
        let counting = Rc::<Counting>::default();
        server.observe(Rc::clone(&counting) as Rc<_>);
        Seat {
            board,
            index,
            counting,
        }
    }

    /// Says how things stand; `ended` where they stay so.
    pub(in super::super) fn say(&self, proactor: &Proactor, server: &Server, ended: bool) {
        let probe = proactor.probe();
        let refused = probe.ring_refused.as_ref();
        let figures = Figures {
            backend: probe.backend.to_string(),
            reason: refused
                .map_or(&probe.reason, |refusal| &refusal.what)
                .clone(),
            counts: self.counting.counts(),
            server: server.stats(),
            connections: server.connections(),
            transports: TransportStats::of(proactor),
            proactor: proactor.stats(),
        };
        self.board.say(self.index, figures, ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn figures(accepted: u64) -> Figures {
        Figures {
            backend: String::new(),
            reason: String::new(),
            counts: Counts {
                accepted,
                ..Counts::default()
            },
            server: ServerStats::default(),
            connections: 0,
            transports: TransportStats::default(),
            proactor: Stats::default(),
        }
    }

    fn accepted(known: &[Known]) -> Vec<Option<(u64, bool)>> {
        let said = |known: &Known| {
            let figures = known.figures.as_ref()?;
            Some((figures.counts.accepted, known.asked))
        };
        known.iter().map(said).collect()
    }

    #[test]
    fn who_does_not_answer_is_taken_by_its_last_word() {
        let board = Board::new(2);
        let limit = Duration::from_secs(3600);
        let all =
            |count: u64| board.gather_from(0..2, limit, |at| board.say(at, figures(count), false));
        assert_eq!(accepted(&all(1)), [Some((1, false)); 2]);
        let asked = Cell::new(0);
        let first_only = |limit| {
            board.gather_from(0..2, limit, |at| {
                asked.set(asked.get() + 1);
                if at == 0 {
                    board.say(at, figures(2), false);
                }
            })
        };
        let expected = [Some((2, false)), Some((1, true))];
        assert_eq!(accepted(&first_only(Duration::ZERO)), expected);
        assert_eq!(accepted(&first_only(Duration::from_millis(1))), expected);
        // The second was asked once.
        assert_eq!(asked.get(), 3);
        // It answers at last; and who has ended is asked no more.
        board.say(1, figures(3), true);
        board.say(0, figures(4), true);
        let known = first_only(limit);
        assert_eq!(accepted(&known), [Some((4, false)), Some((3, false))]);
        assert_eq!(asked.get(), 3);
    }
}
