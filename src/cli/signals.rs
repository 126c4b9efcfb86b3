//! SIGINT and SIGTERM.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};

use signal_hook::consts::{SIGINT, SIGTERM};
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

/// Turns each SIGINT and SIGTERM from now on into a request to stop.
///
/// # Errors
/// Those of signal handlers and threads.
pub(super) fn watch() -> io::Result<Stop> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let stop = Stop::default();
    let requests = stop.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for _ in signals.forever() {
                requests.request();
            }
        })?;
    Ok(stop)
}
