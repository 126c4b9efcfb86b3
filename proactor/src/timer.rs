//! Many timeouts on one kernel timer: a heap, and a timerfd armed for its earliest entry.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::op::{Op, Token};
use crate::sys;

/// Timeouts by the time of their end.
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
    /// The operations; an entry of the heap whose operation is gone was cancelled.
    ops: HashMap<Token, Op>,
    /// Timeouts started so far.
    started: u64,
    fd: OwnedFd,
    /// When the timerfd will fire, if it is armed.
    armed: Option<Instant>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at: Instant,
    /// Equal times end in the order of their start.
    sequence: u64,
    token: Token,
}

impl Timers {
    pub(crate) fn new() -> io::Result<Timers> {
        Ok(Timers {
            heap: BinaryHeap::new(),
            ops: HashMap::new(),
            started: 0,
            fd: sys::timerfd()?,
            armed: None,
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn insert(&mut self, token: Token, at: Instant, op: Op) {
        let sequence = self.started;
        self.started += 1;
        let entry = Entry {
            at,
            sequence,
            token,
        };
        self.heap.push(Reverse(entry));
        self.ops.insert(token, op);
    }

    /// Takes a timeout out before its time.
    pub(crate) fn remove(&mut self, token: Token) -> Option<Op> {
        let op = self.ops.remove(&token);
        // Entries of cancelled timeouts stay until their time; not for ever when they are many.
        if self.heap.len() > 64 && self.heap.len() > 2 * self.ops.len() {
            let ops = &self.ops;
            self.heap.retain(|Reverse(e)| ops.contains_key(&e.token));
        }
        op
    }

    /// The earliest end, of those that are not cancelled.
    pub(crate) fn earliest(&mut self) -> Option<Instant> {
        while let Some(Reverse(entry)) = self.heap.peek() {
            if self.ops.contains_key(&entry.token) {
                return Some(entry.at);
            }
            self.heap.pop();
        }
        None
    }

    /// Takes out one whose time has come.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<(Token, Op)> {
        if self.earliest()? > now {
            return None;
        }
        let Reverse(entry) = self.heap.pop()?;
        let token = entry.token;
        self.ops.remove(&token).map(|op| (token, op))
    }

    /// Makes the timerfd readable at `deadline` or before. An earlier arming stands: it ends a
    /// wait too soon once, which costs less than arming anew each time.
    pub(crate) fn arm(&mut self, deadline: Instant) -> io::Result<()> {
        let now = crate::now();
        if self.armed.is_some_and(|at| at <= deadline && at > now) {
            return Ok(());
        }
        // Zero would disarm; a time in the past fires at once.
        let after = deadline
            .saturating_duration_since(now)
            .max(Duration::from_nanos(1));
        sys::set_timerfd(self.fd.as_fd(), after)?;
        self.armed = Some(deadline);
        Ok(())
    }

    /// Clears the timerfd when it has fired: to be called after each wait.
    pub(crate) fn acknowledge(&mut self, now: Instant) {
        if self.armed.is_some_and(|at| at <= now) {
            // EAGAIN: it fires in a moment, ends one wait for nothing, and is read then.
            if sys::read_counter(self.fd.as_fd()).is_ok() {
                self.armed = None;
            }
        }
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.armed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(index: u32) -> Token {
        Token {
            index,
            generation: 0,
        }
    }

    fn insert(timers: &mut Timers, index: u32, at: Instant) {
        timers.insert(token(index), at, Op::Timeout { at });
    }

    fn expired(timers: &mut Timers, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| timers.expired(now).map(|(token, _)| token.index)).collect()
    }

    #[test]
    fn they_end_in_order() {
        let mut timers = Timers::new().unwrap();
        let now = Instant::now();
        let after = |millis| now + Duration::from_millis(millis);
        for (index, millis) in [(0, 5), (1, 3), (2, 5), (3, 1), (4, 5), (5, 9)] {
            insert(&mut timers, index, after(millis));
        }
        assert_eq!(timers.earliest(), Some(after(1)));
        assert_eq!(expired(&mut timers, now), []);
        // Equal times by their start.
        assert_eq!(expired(&mut timers, after(5)), [3, 1, 0, 2, 4]);
        assert_eq!(expired(&mut timers, after(9)), [5]);
        assert_eq!(timers.earliest(), None);
    }

    #[test]
    fn the_cancelled_are_skipped() {
        let mut timers = Timers::new().unwrap();
        let now = Instant::now();
        for index in 0..10 {
            insert(&mut timers, index, now);
        }
        for index in [0, 3, 9] {
            assert!(timers.remove(token(index)).is_some());
            assert!(timers.remove(token(index)).is_none());
        }
        assert_eq!(expired(&mut timers, now), [1, 2, 4, 5, 6, 7, 8]);
        assert!(timers.remove(token(1)).is_none());
    }

    #[test]
    fn the_cancelled_do_not_pile_up() {
        let mut timers = Timers::new().unwrap();
        let late = Instant::now() + Duration::from_secs(3600);
        for index in 0..if cfg!(miri) { 200 } else { 10_000 } {
            insert(&mut timers, index, late);
            timers.remove(token(index));
        }
        assert!(timers.heap.len() <= 65);
        assert_eq!(timers.earliest(), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "timerfd(2)")]
    fn an_earlier_arming_stands() {
        let mut timers = Timers::new().unwrap();
        let now = Instant::now();
        let hour = now + Duration::from_secs(3600);
        timers.arm(hour).unwrap();
        timers.arm(hour + Duration::from_secs(1)).unwrap();
        assert_eq!(timers.armed, Some(hour));
        timers.arm(now + Duration::from_secs(60)).unwrap();
        assert_eq!(timers.armed, Some(now + Duration::from_secs(60)));
        // One in the past fires at once, and is read away.
        timers.arm(now).unwrap();
        let ready = sys::poll(timers.fd(), libc::POLLIN, Some(Duration::from_secs(20)));
        assert_eq!(ready.unwrap(), libc::POLLIN);
        timers.acknowledge(Instant::now());
        assert!(!timers.is_armed());
        let ready = sys::poll(timers.fd(), libc::POLLIN, Some(Duration::ZERO));
        assert_eq!(ready.unwrap(), 0);
    }
}
