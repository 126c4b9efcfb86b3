//! What the crate's system calls ask a simulation before they are made, and tell it afterwards.
//! Without a simulation on the thread each does nothing.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use super::world::{Pending, Way, World};
use super::{Rng, with};
use crate::epoll::{ERR, HUP, IN, OUT};
use crate::fd::{FileKind, Filesystem, Residency};
use crate::sys;

fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl World {
    /// How many of `len` bytes may move.
    fn portion(&mut self, fd: BorrowedFd<'_>, way: Way, len: usize) -> io::Result<usize> {
        let raw = fd.as_raw_fd();
        let kind = sys::file_kind(fd)?;
        // What a pipe of the pool holds is known.
        let inner = kind == FileKind::Pipe && self.is_inner(fd);
        let waits = matches!(kind, FileKind::Pipe | FileKind::Socket) && !inner;
        if !waits && !inner && kind != FileKind::Regular {
            return Ok(len);
        }
        if kind == FileKind::Socket {
            self.use_socket(fd);
        }
        if waits {
            if self.is_blocked(raw, way) {
                return Err(error(libc::EAGAIN));
            }
            if self.rng.chance(self.conditions.again) {
                self.block(raw, way);
                self.note("blocked", way as i64, 0);
                return Err(error(libc::EAGAIN));
            }
            if kind == FileKind::Socket && self.rng.chance(self.conditions.socket_error) {
                let errno = *self
                    .rng
                    .pick(&[libc::ECONNRESET, libc::EPIPE, libc::ETIMEDOUT]);
                self.faults.sockets += 1;
                self.note("socket fails", way as i64, errno.into());
                return Err(error(errno));
            }
        } else if kind == FileKind::Regular {
            match way {
                Way::In => self.source(len)?,
                Way::Out => self.sink(len)?,
            }
        }
        if len > 1 && self.rng.chance(self.conditions.short) {
            let short = self.rng.length(len - 1);
            self.note("short", short as i64, len as i64);
            if waits {
                // So many there were, and no more for now.
                self.block(raw, way);
            }
            return Ok(short);
        }
        Ok(len)
    }

    /// Whether a file can be read.
    fn source(&mut self, len: usize) -> io::Result<()> {
        if !self.rng.chance(self.conditions.source_error) {
            return Ok(());
        }
        self.faults.sources += 1;
        self.note("source fails", len as i64, 0);
        Err(error(libc::EIO))
    }

    /// Whether a file that is written to takes it.
    fn sink(&mut self, len: usize) -> io::Result<()> {
        if !self.rng.chance(self.conditions.sink_error) {
            return Ok(());
        }
        let errno = *self.rng.pick(&[libc::EIO, libc::ENOSPC, libc::EDQUOT]);
        self.faults.sinks += 1;
        self.note("sink fails", len as i64, errno.into());
        Err(error(errno))
    }

    /// Whether an end that is no pipe of the pool can be spliced: streams are refused less often.
    fn refuses(&mut self, end: BorrowedFd<'_>) -> io::Result<()> {
        let chance = match sys::file_kind(end) {
            Ok(FileKind::Regular) => self.conditions.refusal,
            Ok(FileKind::Pipe | FileKind::Socket) => self.conditions.refusal / 8,
            _ => 0,
        };
        if self.rng.chance(chance) {
            self.faults.refusals += 1;
            self.note("refused", 0, 0);
            return Err(error(libc::EINVAL));
        }
        Ok(())
    }
}

/// Before a read of at most `len` bytes: how many may be read.
pub(crate) fn before_read(fd: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    with(|world| world.portion(fd, Way::In, len)).unwrap_or(Ok(len))
}

/// Before a write of `len` bytes: how many may be written.
pub(crate) fn before_write(fd: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    with(|world| world.portion(fd, Way::Out, len)).unwrap_or(Ok(len))
}

/// Before a splice: how many bytes may move. One of the two ends is a pipe between others, which
/// is neither full nor empty for no reason: what may wait is its other end.
pub(crate) fn before_splice(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    len: usize,
) -> io::Result<usize> {
    with(|world| {
        let kind = sys::file_kind(to)?;
        if kind == FileKind::Socket || world.is_inner(from) {
            if kind == FileKind::Regular {
                world.refuses(to)?;
            }
            return world.portion(to, Way::Out, len);
        }
        world.refuses(from)?;
        world.portion(from, Way::In, len)
    })
    .unwrap_or(Ok(len))
}

/// Before what was written is brought to the disk.
pub(crate) fn before_sync() -> io::Result<()> {
    with(|world| world.sink(0)).unwrap_or(Ok(()))
}

/// What was written to a file has been brought to the disk.
pub(crate) fn after_sync(file: BorrowedFd<'_>) {
    with(|world| world.set_synced(file, true));
}

/// Before a sendfile(2): how many bytes may move.
pub(crate) fn before_sendfile(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    len: usize,
) -> io::Result<usize> {
    with(|world| {
        world.refuses(file)?;
        let len = world.portion(socket, Way::Out, len)?;
        world.portion(file, Way::In, len)
    })
    .unwrap_or(Ok(len))
}

/// Before a connection is accepted.
pub(crate) fn before_accept(listener: BorrowedFd<'_>) -> io::Result<()> {
    with(|world| {
        let raw = listener.as_raw_fd();
        if world.is_blocked(raw, Way::In) {
            return Err(error(libc::EAGAIN));
        }
        if world.rng.chance(world.conditions.again) {
            world.block(raw, Way::In);
            return Err(error(libc::EAGAIN));
        }
        // Else who listens and is let alone would try for ever.
        let waits = sys::poll_kernel(listener, IN, Some(Duration::ZERO)).is_ok_and(|n| n != 0);
        if waits && world.rng.chance(world.conditions.accept_error) {
            let errno = *world.rng.pick(&[
                libc::EMFILE,
                libc::ENFILE,
                libc::ENOMEM,
                libc::ECONNABORTED,
                libc::EPROTO,
            ]);
            world.faults.accepts += 1;
            world.note("not accepted", 0, errno.into());
            return Err(error(errno));
        }
        Ok(())
    })
    .unwrap_or(Ok(()))
}

/// Before a connection is made.
pub(crate) fn before_connect() -> io::Result<()> {
    with(|world| {
        if !world.rng.chance(world.conditions.socket_error) {
            return Ok(());
        }
        let errno = *world
            .rng
            .pick(&[libc::ECONNREFUSED, libc::ETIMEDOUT, libc::ENETUNREACH]);
        world.faults.sockets += 1;
        world.note("not connected", 0, errno.into());
        Err(error(errno))
    })
    .unwrap_or(Ok(()))
}

/// After a connection was made: it may seem to be under way still.
pub(crate) fn after_connect(socket: BorrowedFd<'_>) -> io::Result<()> {
    with(|world| {
        if !world.rng.chance(world.conditions.again) {
            return Ok(());
        }
        world.block(socket.as_raw_fd(), Way::Out);
        world.set_connecting(socket);
        world.note("connecting", 0, 0);
        Err(error(libc::EINPROGRESS))
    })
    .unwrap_or(Ok(()))
}

/// After a write; with `more` a socket may hold the bytes back.
pub(crate) fn after_write(fd: BorrowedFd<'_>, written: &io::Result<usize>, more: bool) {
    if written.as_ref().is_ok_and(|n| *n > 0) {
        let n = *written.as_ref().unwrap_or(&0);
        with(|world| {
            world.note("written", n as i64, more.into());
            world.set_corked(fd.as_raw_fd(), more);
            world.set_synced(fd, false);
        });
    }
}

/// A socket was told to hold back what is no full segment. True where that is all there is to do.
pub(crate) fn hold_back(socket: BorrowedFd<'_>) -> bool {
    with(|world| world.hold_back(socket.as_raw_fd())).unwrap_or(false)
}

/// A socket was told to hold nothing back.
pub(crate) fn uncork(socket: BorrowedFd<'_>) {
    with(|world| world.uncork(socket.as_raw_fd()));
}

/// Whether a socket pretends to be TCP's, or not to be.
pub(crate) fn is_tcp() -> Option<bool> {
    with(|world| world.conditions.tcp)
}

/// Takes out of what a descriptor is ready for what it pretends not to be.
pub(crate) fn readiness(fd: BorrowedFd<'_>, events: i16) -> i16 {
    with(|world| {
        let mut events = events;
        for (way, event) in [(Way::In, IN), (Way::Out, OUT)] {
            if world.is_blocked(fd.as_raw_fd(), way) {
                events &= !event;
            }
        }
        if events & (OUT | ERR | HUP) != 0 {
            world.set_connected(fd);
        }
        events
    })
    .unwrap_or(events)
}

/// Before a pipe is made for the pool.
pub(crate) fn before_pipe() -> io::Result<()> {
    with(|world| {
        if !world.rng.chance(world.conditions.no_pipe) {
            return Ok(());
        }
        world.faults.pipes += 1;
        world.note("no pipe", 0, 0);
        Err(error(*world.rng.pick(&[libc::EMFILE, libc::ENFILE])))
    })
    .unwrap_or(Ok(()))
}

/// A pipe was made for the pool.
pub(crate) fn after_pipe(reader: BorrowedFd<'_>) {
    with(|world| world.add_inner(reader));
}

/// Before a pipe is made larger or smaller.
pub(crate) fn before_pipe_size() -> io::Result<()> {
    with(|world| {
        if world.rng.chance(world.conditions.small_pipe) {
            return Err(error(libc::EPERM));
        }
        Ok(())
    })
    .unwrap_or(Ok(()))
}

/// Whether a file is cached, where that is simulated.
pub(crate) fn residency() -> Option<Residency> {
    with(|world| {
        if !world.rng.chance(world.conditions.cold) {
            return Residency::Hot;
        }
        *world.rng.pick(&[Residency::Cold, Residency::Unknown])
    })
}

/// Before a read of cached bytes alone: they may not be.
pub(crate) fn before_nowait() -> io::Result<()> {
    with(|world| {
        if world.rng.chance(world.conditions.cold) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    })
    .unwrap_or(Ok(()))
}

/// Which file system a file pretends to be on.
pub(crate) fn filesystem() -> Option<Filesystem> {
    with(|world| {
        let all = [
            Filesystem::Memory,
            Filesystem::Local,
            Filesystem::Local,
            Filesystem::Other,
            Filesystem::Network,
            Filesystem::Generated,
        ];
        *world.rng.pick(&all)
    })
}

/// A timer was armed. True where it is the simulation's.
pub(crate) fn set_alarm(after: Duration) -> bool {
    with(|world| world.set_alarm(after)).is_some()
}

/// Workers have got a job, or have one less to do.
pub(crate) fn count_jobs(change: isize) {
    with(|world| world.jobs = world.jobs.saturating_add_signed(change));
}

/// Which of some jobs of workers is done now, if one is.
pub(crate) fn pick_job(jobs: usize) -> Option<usize> {
    with(|world| {
        if jobs == 0 || world.is_late() {
            return None;
        }
        let job = world.rng.index(jobs);
        world.note("job", job as i64, jobs as i64);
        Some(job)
    })?
}

impl Pending {
    /// A descriptor was registered for its edges.
    pub(crate) fn add_edges(&mut self, fd: BorrowedFd<'_>, data: u64) {
        self.edges.insert(fd.as_raw_fd(), data);
    }

    /// Decides which of the events that have happened are told now, in which order.
    /// The kernel tells of levels again by itself: those need not be kept.
    pub(crate) fn tell(
        &mut self,
        block: bool,
        mut happened: impl FnMut() -> io::Result<Vec<(u64, u32)>>,
    ) -> io::Result<Vec<(u64, u32)>> {
        let rounds = if block { 32 } else { 1 };
        for _ in 0..rounds {
            let new = happened()?;
            let told = with(|world| self.decide(world, new)).unwrap_or_default();
            if !told.is_empty() {
                return Ok(told);
            }
        }
        if block {
            with(World::sleep);
        }
        Ok(Vec::new())
    }

    fn decide(&mut self, world: &mut World, new: Vec<(u64, u32)>) -> Vec<(u64, u32)> {
        world.tick();
        for (data, events) in new {
            *self.events.entry(data).or_default() |= events;
        }
        for (fd, data) in world.unblock(&self.edges) {
            let events = ready_now(fd);
            if events != 0 {
                *self.events.entry(data).or_default() |= u32::from(events as u16);
            }
        }
        let mut told = Vec::new();
        let edges: BTreeSet<u64> = self.edges.values().copied().collect();
        self.events.retain(|data, events| {
            let late = world.is_late();
            if !late {
                told.push((*data, *events));
            }
            late && edges.contains(data)
        });
        shuffle(&mut world.rng, &mut told);
        if !told.is_empty() {
            world.note("events", told.len() as i64, 0);
        }
        told
    }
}

/// What a descriptor is ready for. Its number may name nothing by now.
#[expect(unsafe_code, reason = "a number that may name nothing")]
fn ready_now(fd: RawFd) -> i16 {
    // SAFETY: poll(2) takes any number, and says of one that names nothing that it doesn't.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let asked = IN | OUT | crate::epoll::RDHUP;
    match sys::poll_kernel(fd, asked, Some(Duration::ZERO)) {
        Ok(events) if events & libc::POLLNVAL == 0 => events,
        _ => 0,
    }
}

fn shuffle<T>(rng: &mut Rng, all: &mut [T]) {
    for at in (1..all.len()).rev() {
        all.swap(at, rng.index(at + 1));
    }
}
