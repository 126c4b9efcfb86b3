//! One turn of the loop. All requests that are answered in it had arrived before it began to call
//! back, so what is found out for one of them (the time, that a file is unchanged, what is in it)
//! is no older for the others: it is found out once.

use std::cell::Cell;
use std::time::SystemTime;

use crate::proactor::Handle;

use super::date;

/// A turn, and its time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Differs from turn to turn.
    pub(crate) turn: u64,
    pub(crate) now: SystemTime,
    /// `now` in seconds since 1970.
    pub(crate) second: u64,
}

impl Moment {
    pub(crate) fn at(turn: u64, now: SystemTime) -> Moment {
        let second = date::seconds(now);
        Moment { turn, now, second }
    }
}

/// Reads the clock once a turn.
pub(crate) struct Clock {
    proactor: Handle,
    last: Cell<Moment>,
}

impl Clock {
    pub(crate) fn new(proactor: Handle) -> Clock {
        let last = Cell::new(Moment::at(u64::MAX, SystemTime::UNIX_EPOCH));
        Clock { proactor, last }
    }

    /// The present turn.
    pub(crate) fn moment(&self) -> Moment {
        let turn = self.proactor.turn().unwrap_or(0);
        if self.last.get().turn != turn {
            self.last.set(Moment::at(turn, SystemTime::now()));
        }
        self.last.get()
    }
}
