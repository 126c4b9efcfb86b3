//! How many connections there may be, in all threads together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many connections above the limit may be told so at a time. Each holds a descriptor until its
/// client has read that; more are closed unheard.
const MAX_TURNED_AWAY: usize = 256;

/// Counts connections against a limit.
///
/// Those above it are accepted and told: a client that were left in the kernel's queue could not
/// tell a full server from a dead one, and with a queue for each thread, some would wait while
/// others are served.
#[derive(Debug)]
pub struct Gate {
    limit: AtomicUsize,
    admitted: AtomicUsize,
    turned_away: AtomicUsize,
}

/// What becomes of a connection.
pub(super) enum Entry {
    /// It is served.
    Admitted(Pass),
    /// It is told that there are too many.
    TurnedAway(Pass),
    /// There are too many even to tell.
    Full,
}

/// A place, given back when it is dropped.
pub(super) struct Pass {
    gate: Arc<Gate>,
    admitted: bool,
}

impl Gate {
    /// For at most `limit` connections.
    pub fn new(limit: usize) -> Gate {
        Gate {
            limit: AtomicUsize::new(limit),
            admitted: AtomicUsize::new(0),
            turned_away: AtomicUsize::new(0),
        }
    }

    /// Changes the limit. Connections that there are stay.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// For a connection that was accepted.
    pub(super) fn enter(self: &Arc<Self>) -> Entry {
        let limit = self.limit.load(Ordering::Relaxed);
        let pass = |admitted| Pass {
            gate: Arc::clone(self),
            admitted,
        };
        if take(&self.admitted, limit) {
            Entry::Admitted(pass(true))
        } else if take(&self.turned_away, MAX_TURNED_AWAY) {
            Entry::TurnedAway(pass(false))
        } else {
            Entry::Full
        }
    }
}

/// Counts one more, unless that would be more than `limit`.
fn take(count: &AtomicUsize, limit: usize) -> bool {
    let more = |n: usize| (n < limit).then_some(n + 1);
    let taken = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    taken.is_ok()
}

impl Drop for Pass {
    fn drop(&mut self) {
        let count = match self.admitted {
            true => &self.gate.admitted,
            false => &self.gate.turned_away,
        };
        count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_and_given_back() {
        let gate = Arc::new(Gate::new(1));
        let Entry::Admitted(first) = gate.enter() else {
            panic!("there is a place");
        };
        let told: Vec<_> = (0..MAX_TURNED_AWAY)
            .map(|_| match gate.enter() {
                Entry::TurnedAway(pass) => pass,
                _ => panic!("it can be told"),
            })
            .collect();
        assert!(matches!(gate.enter(), Entry::Full));
        drop(told);
        assert!(matches!(gate.enter(), Entry::TurnedAway(_)));
        drop(first);
        let Entry::Admitted(_first) = gate.enter() else {
            panic!("there is a place again");
        };
        gate.set_limit(2);
        assert!(matches!(gate.enter(), Entry::Admitted(_)));
    }
}
