//! Which turn of a loop a thread is in: what is found out about the world in one callback is no
//! older, for the others of its turn, than what they are told.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// A turn; no two are the same, on whatever threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TurnId(u64);

/// Numbers for a thread's turns.
const EACH_THREAD: u64 = 1 << 40;
static THREADS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static NEXT: Cell<u64> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) * EACH_THREAD);
    static CURRENT: Cell<Option<TurnId>> = const { Cell::new(None) };
}

/// The turn that this thread is in, if it is in one.
pub(crate) fn current() -> Option<TurnId> {
    CURRENT.get()
}

/// Begins a turn, which ends when the value is dropped.
pub(crate) fn begin() -> Turn {
    NEXT.set(NEXT.get() + 1);
    Turn(CURRENT.replace(Some(TurnId(NEXT.get()))))
}

/// A turn under way. A loop may be run from another's callback, whose turn then goes on.
pub(crate) struct Turn(Option<TurnId>);

impl Drop for Turn {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_told_apart_and_end() {
        assert_eq!(current(), None);
        let outer = begin();
        let first = current();
        let inner = begin();
        assert_ne!(current(), first);
        drop(inner);
        assert_eq!(current(), first);
        drop(outer);
        assert_eq!(current(), None);
        let next = begin();
        assert_ne!(current(), first);
        drop(next);
        let other = std::thread::spawn(|| {
            let _turn = begin();
            current()
        });
        assert_ne!(other.join().unwrap(), first);
    }
}
