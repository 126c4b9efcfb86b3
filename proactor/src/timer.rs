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
        let now = Instant::now();
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
