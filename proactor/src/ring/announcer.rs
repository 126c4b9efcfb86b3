//! How another loop that waits is told of completions: by an eventfd that the kernel writes to.
//! With deferred task work nothing wakes those who poll the ring's own descriptor.
//!
//! A write that comes of another eventfd's is put off by the kernel until an RCU grace period is
//! over. Newer ones (6.12, 6.18) put one off and lose all others: the mark that one is on its way is
//! never taken away. Most kernels do so with such writes alone, and they need not be told of: the other
//! loop waits at the watched descriptors too. Some (6.12.117) do it with whatever a wake-up asks for,
//! a socket's as well, so that all completions but the first would come unannounced. There the
//! eventfd is registered again after each time that it was written to: a new registration has no mark.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use crate::sys;

use super::queues::Queues;
use super::setup::{self, Found, OpenError};

pub(super) struct Announcer {
    events: OwnedFd,
    registered: bool,
    /// The kernel has written since.
    told: bool,
    /// The kernel may write once for each registration.
    once: bool,
}

impl Announcer {
    pub(super) fn new(queues: &Queues, found: Found) -> Result<Announcer, OpenError> {
        let mut announcer = Announcer {
            events: sys::eventfd().map_err(OpenError::Exhausted)?,
            registered: false,
            told: false,
            once: false,
        };
        // Before 5.18 this waits for all that is in flight: here that is nothing. Later kernels are
        // asked when another loop is there, since each write costs.
        if !found.multishot_accept {
            announcer.register(queues).map_err(OpenError::Unavailable)?;
        }
        Ok(announcer)
    }

    /// Before completions are looked at: what comes later is announced again.
    pub(super) fn acknowledge(&mut self) {
        if self.registered {
            self.told |= sys::read_counter(self.as_fd()).is_ok();
        }
    }

    /// Before the other loop waits. The ring is to be looked at after this, for what came meanwhile.
    pub(super) fn announce(&mut self, queues: &Queues, found: Found) -> io::Result<()> {
        if !self.registered {
            self.once = found.deferred && queues.is_kernel() && puts_wake_ups_off();
        } else if self.told && self.once {
            queues.unregister_eventfd()?;
            self.registered = false;
        }
        match self.registered {
            true => Ok(()),
            false => self.register(queues),
        }
    }

    fn register(&mut self, queues: &Queues) -> io::Result<()> {
        queues.register_eventfd(self.events.as_raw_fd())?;
        (self.registered, self.told) = (true, false);
        Ok(())
    }
}

impl AsFd for Announcer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// Whether the kernel puts off what any wake-up asks for. Where that can't be found out, it may.
fn puts_wake_ups_off() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let found = FOUND.get().copied().map_or_else(try_wake_up, Ok);
    match found {
        Ok(found) => *FOUND.get_or_init(|| found),
        Err(e) => {
            log::debug!("whether announcements are put off can't be found out: {e}");
            true
        }
    }
}

/// Wakes a wait at a pipe: who does so writes to the eventfd before its own call returns, or not.
fn try_wake_up() -> io::Result<bool> {
    let mut queues = setup::open_small()?;
    let events = sys::eventfd()?;
    queues.register_eventfd(events.as_raw_fd())?;
    let (reading, writing) = sys::pipe()?;
    queues.push_poll(reading.as_raw_fd(), libc::POLLIN);
    queues.enter(0)?;
    sys::write_at(writing.as_fd(), b"!", -1)?;
    Ok(sys::read_counter(events.as_fd()).is_err())
}

#[cfg(all(test, not(miri), not(loom)))]
#[path = "../../tests/common/not_run.rs"]
mod not_run;

#[cfg(all(test, not(miri), not(loom)))]
mod tests {
    use super::not_run::not_run;
    use super::*;
    use std::time::Duration;

    /// Wake-ups by an eventfd: all but the first are lost to a registration by newer kernels.
    #[test]
    fn each_wake_up_is_announced() {
        let Ok(mut queues) = setup::open_small() else {
            return not_run("io_uring is denied, or has no deferred task work");
        };
        let mut announcer = Announcer {
            events: sys::eventfd().unwrap(),
            registered: false,
            told: false,
            once: false,
        };
        let found = Found {
            deferred: true,
            ..Found::default()
        };
        let mut reaped = Vec::new();
        for turn in 0..5 {
            let wakes = sys::eventfd().unwrap();
            announcer.acknowledge();
            announcer.announce(&queues, found).unwrap();
            announcer.once = true;
            queues.push_poll(wakes.as_raw_fd(), libc::POLLIN);
            queues.enter(0).unwrap();
            sys::write_at(wakes.as_fd(), &1_u64.to_ne_bytes(), -1).unwrap();
            let limit = Some(Duration::from_secs(20));
            let ready = sys::poll_kernel(announcer.as_fd(), libc::POLLIN, limit).unwrap();
            assert_eq!(ready, libc::POLLIN, "turn {turn}");
            announcer.acknowledge();
            queues.enter(1).unwrap();
            queues.reap(&mut reaped);
            assert_eq!(reaped.len(), turn + 1);
        }
    }
}
