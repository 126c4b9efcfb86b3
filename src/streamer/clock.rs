//! The time of day, read once a turn of the loop.

use std::cell::Cell;
use std::time::SystemTime;

use crate::proactor::Handle;

use super::http::Moment;

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
