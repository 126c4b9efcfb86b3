//! Pipes for splicing, and the bounded pool they are leased from.
//!
//! A pipe goes back to the pool only when it is empty: bytes that a failed transfer left behind
//! must never reach another. One that isn't empty is closed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys;

/// A pipe's two ends, non-blocking.
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
    /// What was wanted.
    size: usize,
}

impl Pipe {
    fn open(size: usize) -> io::Result<Pipe> {
        let (read, write) = sys::pipe()?;
        // EPERM: the user's quota (pipe-user-pages-soft) or pipe-max-size; take what there is.
        let mut want = size;
        let capacity = loop {
            match sys::set_pipe_size(write.as_fd(), want) {
                Ok(capacity) => break capacity,
                Err(_) if want > 4 * sys::page_size() => want /= 4,
                Err(_) => break sys::pipe_size(write.as_fd())?,
            }
        };
        Ok(Pipe {
            read,
            write,
            capacity,
            size,
        })
    }

    /// What the quota refused it may allow by now; the pipe must be empty.
    fn grow(&mut self) {
        if self.capacity < self.size
            && let Ok(capacity) = sys::set_pipe_size(self.write.as_fd(), self.size)
        {
            self.capacity = capacity;
        }
    }

    pub(crate) fn reader(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    pub(crate) fn writer(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }

    /// The most bytes of a file that fit into the empty pipe, starting at `offset`: a slot holds
    /// a page or the part of it that is wanted, so the first may be used in part only.
    pub(crate) fn room_at(&self, offset: u64) -> usize {
        self.capacity - (offset % sys::page_size() as u64) as usize
    }
}

/// Pipes by count and size, from a builder's setting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PipeLimits {
    pub(crate) count: usize,
    pub(crate) size: usize,
}

/// Who asks for a pipe.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lessee {
    /// A direct transfer: has the pipe for microseconds, or gives it up on demand.
    Direct,
    /// A transfer of what a stream brings, which may have to wait for a disk with it.
    Stream,
    /// A transfer whose fill may wait for a disk with the pipe in its hands.
    Chain,
}

impl Lessee {
    /// The size of its pipe. What is read away from the loop goes in smaller steps: each keeps a
    /// processor busy from its first page to its last, and those who need the same one wait; and
    /// there may be many that wait for a disk.
    fn size(self, limits: PipeLimits) -> usize {
        const STEP: usize = 64 << 10;
        match self {
            Lessee::Direct | Lessee::Stream => limits.size,
            Lessee::Chain => (limits.size / 4).max(STEP).min(limits.size),
        }
    }
}

/// The pool.
pub(crate) struct PipePool {
    free: Vec<Pipe>,
    leased: usize,
    limits: PipeLimits,
}

impl PipePool {
    /// Pipes of a size kept open though no one uses them.
    const IDLE: usize = 8;

    pub(crate) fn new(limits: PipeLimits) -> PipePool {
        PipePool {
            free: Vec::new(),
            leased: 0,
            limits,
        }
    }

    /// Leases an empty pipe, if the bound, the process's descriptors and the user's quota allow.
    pub(crate) fn lease(&mut self, lessee: Lessee) -> Option<Pipe> {
        // Some are out of the reach of fills that a slow disk may hold up.
        let reserved = match lessee {
            Lessee::Direct => 0,
            Lessee::Stream | Lessee::Chain => self.limits.count / 4,
        };
        if self.leased + reserved >= self.limits.count {
            return None;
        }
        let size = lessee.size(self.limits);
        let pipe = match self.free.iter().rposition(|pipe| pipe.size == size) {
            Some(at) => {
                let mut pipe = self.free.swap_remove(at);
                pipe.grow();
                pipe
            }
            None => Pipe::open(size)
                .inspect_err(|e| log::debug!("no pipe to be had: {e}"))
                .ok()?,
        };
        self.leased += 1;
        Some(pipe)
    }

    /// Takes a pipe back that holds `left` bytes.
    pub(crate) fn give_back(&mut self, pipe: Pipe, left: usize) {
        self.leased -= 1;
        let alike = self.free.iter().filter(|free| free.size == pipe.size);
        if left == 0 && alike.count() < Self::IDLE {
            self.free.push(pipe);
        }
    }

    /// Whether pipes are getting scarce: those who wait should not hold one.
    pub(crate) fn is_scarce(&self) -> bool {
        2 * self.leased > self.limits.count
    }

    pub(crate) fn limit(&self) -> usize {
        self.limits.count
    }

    pub(crate) fn leased(&self) -> usize {
        self.leased
    }

    pub(crate) fn idle(&self) -> usize {
        self.free.len()
    }
}

#[cfg(all(test, not(miri), not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_small_pipe_grows_when_it_may() {
        let size = 256 << 10;
        let mut pool = PipePool::new(PipeLimits { count: 4, size });
        let mut pipe = pool.lease(Lessee::Direct).unwrap();
        assert!(pipe.capacity >= size);
        // As the quota would have it.
        pipe.capacity = sys::set_pipe_size(pipe.writer(), sys::page_size()).unwrap();
        assert!(pipe.capacity < size);
        pool.give_back(pipe, 0);
        let pipe = pool.lease(Lessee::Direct).unwrap();
        assert_eq!(pipe.capacity, sys::pipe_size(pipe.writer()).unwrap());
        assert!(pipe.capacity >= size);
        assert_eq!(pool.idle(), 0);
        pool.give_back(pipe, 0);
    }
}
