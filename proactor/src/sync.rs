//! What threads share: the standard library's, or loom's where its models explore every order in
//! which threads may meet (`models.rs`).

#[cfg(not(loom))]
mod real {
    pub(crate) use std::sync::atomic;
    pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard};
    pub(crate) use std::thread;
}

#[cfg(loom)]
mod model {
    use std::sync::LockResult;
    use std::time::Duration;

    pub(crate) use loom::sync::atomic;
    pub(crate) use loom::sync::{Arc, Mutex, MutexGuard};
    pub(crate) use loom::thread;

    use atomic::{AtomicBool, Ordering};

    /// loom's, whose waits time out when a model says so: loom knows no time.
    pub(crate) struct Condvar {
        inner: loom::sync::Condvar,
        expired: AtomicBool,
    }

    pub(crate) struct TimedOut(bool);

    impl TimedOut {
        pub(crate) fn timed_out(&self) -> bool {
            self.0
        }
    }

    impl Condvar {
        pub(crate) fn new() -> Condvar {
            Condvar {
                inner: loom::sync::Condvar::new(),
                expired: AtomicBool::new(false),
            }
        }

        pub(crate) fn notify_one(&self) {
            self.inner.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.inner.notify_all();
        }

        /// Makes every wait from here on time out.
        pub(crate) fn expire(&self) {
            self.expired.store(true, Ordering::Release);
            self.inner.notify_all();
        }

        pub(crate) fn wait_timeout<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            _timeout: Duration,
        ) -> LockResult<(MutexGuard<'a, T>, TimedOut)> {
            if self.expired.load(Ordering::Acquire) {
                return Ok((guard, TimedOut(true)));
            }
            let guard = self.inner.wait(guard).unwrap_or_else(|e| e.into_inner());
            Ok((guard, TimedOut(self.expired.load(Ordering::Acquire))))
        }
    }
}

#[cfg(loom)]
pub(crate) use model::*;
#[cfg(not(loom))]
pub(crate) use real::*;
