//! One turn of the loop. All requests that are answered in it had arrived before it began to call
//! back, so what is found out for one of them (the time, that a file is unchanged, what is in it)
//! is no older for the others: it is found out once.

use std::time::{Instant, SystemTime};

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

/// A turn's time, as a time of day and as one that durations can be counted from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) day: SystemTime,
    pub(crate) steady: Instant,
}
