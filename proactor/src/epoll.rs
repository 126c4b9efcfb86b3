//! epoll(7), for the emulated port, and for other loops that wait for the ring.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

#[cfg(feature = "simulation")]
use crate::sim;
use crate::sys;

/// Readable, in epoll's words and poll's: the bits are the same.
pub(crate) const IN: i16 = libc::POLLIN;
pub(crate) const PRI: i16 = libc::POLLPRI;
pub(crate) const OUT: i16 = libc::POLLOUT;
pub(crate) const ERR: i16 = libc::POLLERR;
pub(crate) const HUP: i16 = libc::POLLHUP;
pub(crate) const RDHUP: i16 = libc::POLLRDHUP;

const EDGES: u32 =
    (libc::EPOLLIN | libc::EPOLLPRI | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET) as u32;

/// One event: what was registered with the descriptor, and its readiness now.
pub(crate) struct Ready {
    pub(crate) data: u64,
    pub(crate) events: i16,
}

/// An epoll instance and room for one batch of events.
pub(crate) struct Epoll {
    fd: OwnedFd,
    batch: Vec<libc::epoll_event>,
    /// Where events are a simulation's to tell.
    #[cfg(feature = "simulation")]
    pending: Option<std::cell::RefCell<sim::Pending>>,
}

impl Epoll {
    /// Events taken by one wait.
    const BATCH: usize = 256;

    pub(crate) fn new() -> io::Result<Epoll> {
        // SAFETY: takes and touches no memory.
        let fd = sys::own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Epoll {
            fd,
            batch: Vec::with_capacity(Self::BATCH),
            #[cfg(feature = "simulation")]
            pending: sim::is_active().then(Default::default),
        })
    }

    /// Registers a descriptor for every change of its readiness, edge-triggered. Says at once
    /// (through an event) what it is ready for already. False where it can't be waited for, being
    /// always ready: regular files and some devices (`EPERM`).
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, data: u64) -> io::Result<bool> {
        let result = match self.control(libc::EPOLL_CTL_ADD, fd, EDGES, data) {
            // The very descriptor, of the very file, under another `Fd` before.
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
                self.control(libc::EPOLL_CTL_MOD, fd, EDGES, data)
            }
            other => other,
        };
        #[cfg(feature = "simulation")]
        if let (Some(pending), Ok(())) = (&self.pending, &result) {
            pending.borrow_mut().add_edges(fd, data);
        }
        match result {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Registers a descriptor whose readability ends waits for as long as it lasts.
    pub(crate) fn add_level(&self, fd: BorrowedFd<'_>, data: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN as u32, data)
    }

    /// Registers a descriptor for room to write alone, as long as it lasts.
    pub(crate) fn add_room(&self, fd: BorrowedFd<'_>, data: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLOUT as u32, data)
    }

    /// Ends a registration.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(
        &self,
        what: libc::c_int,
        fd: BorrowedFd<'_>,
        events: u32,
        data: u64,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: data };
        // SAFETY: the kernel reads the struct, which lives on this stack frame. Nothing in `data`
        // is a pointer.
        sys::check(unsafe {
            libc::epoll_ctl(self.fd.as_raw_fd(), what, fd.as_raw_fd(), &raw mut event)
        })
        .map(drop)
    }

    /// Takes a batch of events; waits for the first if `block`. A signal ends the wait.
    pub(crate) fn wait(&mut self, block: bool) -> io::Result<usize> {
        #[cfg(feature = "simulation")]
        if let Some(pending) = self.pending.take() {
            let told = self.simulate(&mut pending.borrow_mut(), block);
            self.pending = Some(pending);
            return told;
        }
        self.wait_kernel(block)
    }

    /// As [`wait`](Epoll::wait), but of what happens a simulation decides what is told.
    #[cfg(feature = "simulation")]
    fn simulate(&mut self, pending: &mut sim::Pending, block: bool) -> io::Result<usize> {
        let mut told = pending.tell(block, || {
            self.wait_kernel(false)?;
            Ok(self
                .batch
                .iter()
                .map(|event| (event.u64, event.events))
                .collect())
        })?;
        told.truncate(Self::BATCH);
        self.batch.clear();
        self.batch.extend(
            told.iter()
                .map(|&(u64, events)| libc::epoll_event { events, u64 }),
        );
        Ok(told.len())
    }

    fn wait_kernel(&mut self, block: bool) -> io::Result<usize> {
        self.batch.clear();
        let timeout = if block { -1 } else { 0 };
        // SAFETY: the kernel writes at most `BATCH` events to the vector's memory, which has that
        // capacity from the start, is never shrunk, and is borrowed exclusively.
        let result = sys::check(unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                self.batch.as_mut_ptr(),
                Self::BATCH as libc::c_int,
                timeout,
            )
        });
        let n = match result {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            Err(e) => return Err(e),
        };
        // SAFETY: the kernel has just written the first `n` events, at most `BATCH`.
        unsafe { self.batch.set_len(n) };
        Ok(n)
    }

    /// An event of the last batch.
    pub(crate) fn event(&self, index: usize) -> Ready {
        // On some machines the struct is packed: its fields are copied, never borrowed.
        let libc::epoll_event { events, u64: data } = self.batch[index];
        Ready {
            data,
            events: events as i16,
        }
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
