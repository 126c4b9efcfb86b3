//! The time of day, read once a turn of the loop.

use std::cell::Cell;
use std::time::{Instant, SystemTime};

use crate::proactor::Handle;

use super::http::{Moment, Times};

/// Reads the clock once a turn.
pub(crate) struct Clock {
    proactor: Handle,
    last: Cell<Moment>,
    /// The turn in which the steady clock was read, and what it said.
    steady: Cell<(u64, Instant)>,
}

impl Clock {
    pub(crate) fn new(proactor: Handle) -> Clock {
        let last = Cell::new(Moment::at(u64::MAX, SystemTime::UNIX_EPOCH));
        let steady = Cell::new((u64::MAX, Instant::now()));
        Clock {
            proactor,
            last,
            steady,
        }
    }

    /// The present turn.
    pub(crate) fn moment(&self) -> Moment {
        let turn = self.proactor.turn().unwrap_or(0);
        if self.last.get().turn != turn {
            self.last.set(Moment::at(turn, SystemTime::now()));
        }
        self.last.get()
    }

    /// The present turn's times.
    pub(crate) fn times(&self) -> Times {
        let Moment { turn, now, .. } = self.moment();
        if self.steady.get().0 != turn {
            self.steady.set((turn, Instant::now()));
        }
        Times {
            day: now,
            steady: self.steady.get().1,
        }
    }
}
