//! What ends the loop's wait: an eventfd(2), and under loom a flag in its place, since a model has
//! no descriptors.

#[cfg(not(loom))]
mod real {
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    use crate::sys;

    /// An eventfd: set by any thread, readable until the loop clears it.
    pub(crate) struct Wake(OwnedFd);

    impl Wake {
        pub(crate) fn new() -> io::Result<Wake> {
            sys::eventfd().map(Wake)
        }

        pub(crate) fn set(&self) {
            // Fails only where the counter is at its maximum: it is readable then.
            let _ = sys::write_at(self.0.as_fd(), &1_u64.to_ne_bytes(), -1);
        }

        /// Whether it was set: reading an eventfd sets it to zero, and says `EAGAIN` at zero.
        pub(crate) fn clear(&self) -> bool {
            sys::read_counter(self.0.as_fd()).is_ok()
        }
    }

    #[cfg(test)]
    impl Wake {
        /// Whether it is set, now or within `time`. Miri has no poll(2): it may be.
        pub(crate) fn is_set_within(&self, time: std::time::Duration) -> bool {
            if cfg!(miri) {
                std::thread::yield_now();
                return true;
            }
            sys::poll(self.0.as_fd(), libc::POLLIN, Some(time)).unwrap() != 0
        }
    }

    impl AsFd for Wake {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

#[cfg(loom)]
mod model {
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd};

    use loom::sync::{Condvar, Mutex};

    /// What an eventfd is to threads: a flag under a lock of the kernel's.
    pub(crate) struct Wake {
        set: Mutex<bool>,
        changed: Condvar,
    }

    impl Wake {
        pub(crate) fn new() -> io::Result<Wake> {
            Ok(Wake {
                set: Mutex::new(false),
                changed: Condvar::new(),
            })
        }

        pub(crate) fn set(&self) {
            *self.set.lock().unwrap() = true;
            self.changed.notify_one();
        }

        pub(crate) fn clear(&self) -> bool {
            std::mem::take(&mut *self.set.lock().unwrap())
        }

        pub(crate) fn is_set(&self) -> bool {
            *self.set.lock().unwrap()
        }

        /// Waits until it is set, as a loop with nothing else to do would. A wake-up that is lost
        /// is a deadlock, which loom reports.
        pub(crate) fn wait(&self) {
            let mut set = self.set.lock().unwrap();
            while !*set {
                set = self.changed.wait(set).unwrap();
            }
        }
    }

    impl AsFd for Wake {
        fn as_fd(&self) -> BorrowedFd<'_> {
            unreachable!("a model has no descriptors")
        }
    }
}

#[cfg(loom)]
pub(crate) use model::Wake;
#[cfg(not(loom))]
pub(crate) use real::Wake;
