//! SIGINT, SIGTERM and SIGHUP.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::proactor::{Proactor, Remote};

/// How often the process was asked to end, told to all loops.
#[derive(Clone, Default)]
pub(super) struct Stop {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    requests: AtomicU32,
    loops: Mutex<Vec<Remote>>,
}

impl Stop {
    /// Asks for the end. Every watching loop makes a turn.
    pub(super) fn request(&self) {
        self.shared.requests.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    /// Asks for the end, unless that has been done.
    pub(super) fn request_once(&self) {
        self.shared.requests.fetch_max(1, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        for remote in self.loops().iter() {
            // A loop that is gone has ended.
            let _ = remote.post(|_| {});
        }
    }

    /// How often the end was asked for.
    pub(super) fn requests(&self) -> u32 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Lets each request wake a proactor's loop.
    pub(super) fn wakes(&self, proactor: &Proactor) {
        self.loops().push(proactor.remote());
        // One that came just before has not.
        if self.requests() > 0 {
            let _ = proactor.remote().post(|_| {});
        }
    }

    fn loops(&self) -> MutexGuard<'_, Vec<Remote>> {
        self.shared.loops.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What a signal says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    /// SIGINT or SIGTERM: to end.
    Stop,
    /// SIGHUP: to read and open again what may have changed.
    HangUp,
}

/// Turns each SIGINT and SIGTERM from now on into a request to stop.
///
/// # Errors
/// Those of signal handlers and threads.
pub(super) fn watch() -> io::Result<Stop> {
    watch_these(&[SIGINT, SIGTERM], |_| {})
}

/// As [`watch`], for SIGHUP as well; `told` is called with each signal, on a thread of its own.
///
/// # Errors
/// Those of signal handlers and threads.
pub(super) fn watch_for_all(told: impl FnMut(Told) + Send + 'static) -> io::Result<Stop> {
    watch_these(&[SIGINT, SIGTERM, SIGHUP], told)
}

fn watch_these(which: &[i32], mut told: impl FnMut(Told) + Send + 'static) -> io::Result<Stop> {
    let mut signals = Signals::new(which)?;
    let stop = Stop::default();
    let requests = stop.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                if signal == SIGHUP {
                    told(Told::HangUp);
                } else {
                    // First: the process may be gone when the loops have heard it.
                    told(Told::Stop);
                    requests.request();
                }
            }
        })?;
    Ok(stop)
}
