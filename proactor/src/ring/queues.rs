//! The two queues that are shared with the kernel: the real one, or a simulated one.

use std::io;
use std::os::fd::RawFd;

use io_uring::IoUring;
use io_uring::squeue::Entry;

#[cfg(feature = "simulation")]
use crate::sim;

use super::flight::poll;

/// A completion: user data, result, flags.
pub(super) type Completed = (u64, i32, u32);

pub(super) enum Queues {
    Kernel(IoUring),
    #[cfg(feature = "simulation")]
    Simulated(sim::Ring),
}

impl Queues {
    /// Whether it is the real one.
    pub(super) fn is_kernel(&self) -> bool {
        matches!(self, Queues::Kernel(_))
    }

    /// Submissions for which there is room.
    pub(super) fn room(&mut self) -> usize {
        match self {
            Queues::Kernel(ring) => {
                let queue = ring.submission();
                queue.capacity() - queue.len()
            }
            #[cfg(feature = "simulation")]
            Queues::Simulated(ring) => ring.room(),
        }
    }

    /// Puts an entry into the submission queue, in which there must be room.
    ///
    /// # Safety
    /// What the entry points to must stay valid until its completion.
    pub(super) unsafe fn push(&mut self, entry: &Entry) {
        match self {
            Queues::Kernel(ring) => {
                // SAFETY: the caller's promise.
                if unsafe { ring.submission().push(entry) }.is_err() {
                    unreachable!("the room was checked");
                }
            }
            #[cfg(feature = "simulation")]
            // SAFETY: the caller's promise.
            Queues::Simulated(ring) => unsafe { ring.push(entry) },
        }
    }

    /// Queues a wait at a descriptor, which points to nothing. There must be room.
    pub(super) fn push_poll(&mut self, fd: RawFd, events: i16) {
        // SAFETY: no memory is named.
        unsafe { self.push(&poll(fd, events)) };
    }

    /// Whether there is nothing to enter the kernel for.
    pub(super) fn is_quiet(&mut self) -> bool {
        match self {
            Queues::Kernel(ring) => {
                let queue = ring.submission();
                queue.is_empty() && !queue.taskrun() && !queue.cq_overflow()
            }
            // It has no interrupts: what it does is done when it is entered.
            #[cfg(feature = "simulation")]
            Queues::Simulated(_) => false,
        }
    }

    /// Whether the kernel keeps completions for which there was no room.
    pub(super) fn has_overflowed(&mut self) -> bool {
        match self {
            Queues::Kernel(ring) => ring.submission().cq_overflow(),
            // Its queue has room for all.
            #[cfg(feature = "simulation")]
            Queues::Simulated(_) => false,
        }
    }

    /// Hands submissions over, and waits for so many completions.
    pub(super) fn enter(&mut self, want: usize) -> io::Result<()> {
        match self {
            Queues::Kernel(ring) => ring.submit_and_wait(want).map(drop),
            #[cfg(feature = "simulation")]
            Queues::Simulated(ring) => ring.enter(want > 0),
        }
    }

    /// Takes the completions out.
    pub(super) fn reap(&mut self, into: &mut Vec<Completed>) {
        match self {
            Queues::Kernel(ring) => {
                let completed = ring.completion();
                into.extend(completed.map(|c| (c.user_data(), c.result(), c.flags())));
            }
            #[cfg(feature = "simulation")]
            Queues::Simulated(ring) => ring.reap(into),
        }
    }

    /// Whether [`reap`](Queues::reap) would find some.
    pub(super) fn has_completed(&mut self) -> bool {
        match self {
            Queues::Kernel(ring) => !ring.completion().is_empty(),
            #[cfg(feature = "simulation")]
            Queues::Simulated(ring) => ring.has_completed(),
        }
    }

    /// Has the kernel write to an eventfd for each completion.
    pub(super) fn register_eventfd(&self, fd: RawFd) -> io::Result<()> {
        match self {
            Queues::Kernel(ring) => ring.submitter().register_eventfd(fd),
            // No other loop waits for a simulation.
            #[cfg(feature = "simulation")]
            Queues::Simulated(_) => Ok(()),
        }
    }

    /// Ends that.
    pub(super) fn unregister_eventfd(&self) -> io::Result<()> {
        match self {
            Queues::Kernel(ring) => ring.submitter().unregister_eventfd(),
            #[cfg(feature = "simulation")]
            Queues::Simulated(_) => Ok(()),
        }
    }

    /// Registers a ring of provided buffers (io_uring_register_buf_ring(3)).
    ///
    /// # Safety
    /// The memory must be such a ring of `count` entries, and outlive this.
    pub(super) unsafe fn register_buf_ring(
        &mut self,
        address: u64,
        count: u16,
        group: u16,
    ) -> io::Result<()> {
        match self {
            Queues::Kernel(ring) => {
                let submitter = ring.submitter();
                // SAFETY: the caller's promise.
                unsafe { submitter.register_buf_ring_with_flags(address, count, group, 0) }
            }
            #[cfg(feature = "simulation")]
            Queues::Simulated(ring) => {
                // SAFETY: the caller's promise.
                unsafe { ring.register_buffers(address, count) };
                Ok(())
            }
        }
    }
}
