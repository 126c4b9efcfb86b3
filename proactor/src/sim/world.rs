//! The state of a simulation: its chances, its clock, and what it makes descriptors pretend.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use super::rng::Rng;
use crate::fd::{Fd, FileKind};
use crate::sys;

/// How rough a simulated kernel is; chances are out of a thousand.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conditions {
    /// A call moves fewer bytes than it could.
    pub short: u32,
    /// A call finds no room, or no data, where there is some.
    pub again: u32,
    /// Something that could happen now happens later.
    pub late: u32,
    /// A request of the ring ends as interrupted, with nothing done.
    pub interrupted: u32,
    /// A read of a file fails (`EIO`).
    pub source_error: u32,
    /// A write to a file, or its way to the disk, fails (`EIO`, `ENOSPC`, `EDQUOT`).
    pub sink_error: u32,
    /// A socket fails (`ECONNRESET` and its kin).
    pub socket_error: u32,
    /// A connection can't be accepted (`EMFILE` and its kin), or is gone before it is.
    pub accept_error: u32,
    /// A file, or more seldom a stream, can't be spliced (`EINVAL`).
    pub refusal: u32,
    /// No pipe can be had (`EMFILE`, `ENFILE`).
    pub no_pipe: u32,
    /// A pipe can't be made as large as wished (`EPERM`).
    pub small_pipe: u32,
    /// A file is not in the page cache, or does not say.
    pub cold: u32,
    /// A cancel comes too late, or does not find what it is to cancel.
    pub cancel_lost: u32,
    /// Sockets pretend to be TCP's.
    pub tcp: bool,
    /// The ring knows multishot accepts and receives, provided buffers, skipped completions.
    pub new_ring: bool,
}

impl Conditions {
    /// Conditions that a seed chooses, from mild to rough.
    pub fn from_seed(seed: u64) -> Conditions {
        let mut rng = Rng::new(seed ^ 0x5eed_c0de);
        // Faults that change how sends end spoil most of a run: most runs have none.
        let mut at_times = |often: u32, most: u64| {
            if rng.chance(often) {
                rng.between(1, most) as u32
            } else {
                0
            }
        };
        Conditions {
            short: at_times(800, 700),
            again: at_times(700, 300),
            late: at_times(700, 600),
            interrupted: at_times(500, 200),
            source_error: at_times(120, 60),
            socket_error: at_times(80, 15),
            refusal: at_times(250, 200),
            no_pipe: at_times(300, 500),
            small_pipe: at_times(300, 700),
            cold: at_times(700, 800),
            cancel_lost: at_times(600, 600),
            tcp: at_times(600, 1) == 1,
            new_ring: at_times(700, 1) == 1,
            sink_error: at_times(120, 60),
            accept_error: at_times(400, 400),
        }
    }

    /// The newest kernel on a good day: nothing fails, is late or comes short. Sockets pretend to
    /// be TCP's.
    pub fn fair() -> Conditions {
        Conditions {
            short: 0,
            again: 0,
            late: 0,
            interrupted: 0,
            source_error: 0,
            sink_error: 0,
            socket_error: 0,
            accept_error: 0,
            refusal: 0,
            no_pipe: 0,
            small_pipe: 0,
            cold: 0,
            cancel_lost: 0,
            tcp: true,
            new_ring: true,
        }
    }
}

/// What was made to fail, where that may show in how sends end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    /// Reads of files.
    pub sources: u64,
    /// Writes to files.
    pub sinks: u64,
    /// Sockets.
    pub sockets: u64,
    /// Connections that were not accepted, or not at once.
    pub accepts: u64,
    /// Files that could not be spliced.
    pub refusals: u64,
    /// Pipes that could not be had.
    pub pipes: u64,
}

/// Which way bytes move at a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Way {
    In,
    Out,
}

/// Events of an epoll instance that have happened, and have not been told.
#[derive(Default)]
pub(crate) struct Pending {
    /// By what was registered with their descriptors.
    pub(super) events: BTreeMap<u64, u32>,
    /// The descriptors registered for edges.
    pub(super) edges: BTreeMap<RawFd, u64>,
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) conditions: Conditions,
    pub(super) faults: Faults,
    start: Instant,
    pub(super) elapsed: Duration,
    /// When the timer fires that waits are ended by.
    alarm: Option<Instant>,
    /// Turns of the kernel's so far.
    turn: u64,
    /// Ways that pretend to be blocked, until a turn.
    blocked: BTreeMap<(RawFd, Way), u64>,
    /// Sockets that hold bytes back.
    corked: BTreeSet<RawFd>,
    /// Sockets that are to hold back whatever is written.
    held: BTreeSet<RawFd>,
    /// Pipes of the pool, by inode: they stand between other descriptors.
    inner: BTreeSet<u64>,
    /// Files, by inode, of which all that was written has been brought to the disk.
    synced: BTreeSet<u64>,
    /// Sockets, by inode, whose connections seem to be under way.
    connecting: BTreeSet<u64>,
    /// Bytes that were to move over these.
    pub(super) misuses: u64,
    /// Jobs that workers have yet to do.
    pub(super) jobs: usize,
    pub(super) digest: u64,
    /// Things that happened.
    pub(super) events: u64,
    pub(super) trace: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(seed: u64, conditions: Conditions) -> World {
        World {
            rng: Rng::new(seed),
            conditions,
            faults: Faults::default(),
            start: Instant::now(),
            elapsed: Duration::ZERO,
            alarm: None,
            turn: 0,
            blocked: BTreeMap::new(),
            corked: BTreeSet::new(),
            held: BTreeSet::new(),
            inner: BTreeSet::new(),
            synced: BTreeSet::new(),
            connecting: BTreeSet::new(),
            misuses: 0,
            jobs: 0,
            events: 0,
            digest: 0xcbf2_9ce4_8422_2325,
            trace: None,
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.start + self.elapsed
    }

    /// Takes a decision, or what came of it, into the digest.
    pub(super) fn note(&mut self, what: &'static str, a: i64, b: i64) {
        let words = [
            what.len() as u64 ^ u64::from(what.as_bytes()[0]) << 8,
            a as u64,
            b as u64,
        ];
        for word in words {
            self.digest = (self.digest ^ word).wrapping_mul(0x0000_0100_0000_01b3);
            self.digest ^= self.digest >> 29;
        }
        self.events += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{what} {a} {b}"));
        }
    }

    /// Another turn of the kernel's.
    pub(super) fn tick(&mut self) {
        self.turn += 1;
    }

    /// Has a timer end waits.
    pub(super) fn set_alarm(&mut self, after: Duration) {
        self.alarm = Some(self.now() + after);
    }

    /// Nothing else will happen: lets the time pass until the timer fires.
    pub(super) fn sleep(&mut self) {
        let now = self.now();
        if self.jobs == 0
            && let Some(at) = self.alarm.take()
            && at > now
        {
            self.elapsed += at - now;
            self.note("slept", self.elapsed.as_millis() as i64, 0);
            self.events -= 1;
        }
    }

    pub(super) fn is_late(&mut self) -> bool {
        self.rng.chance(self.conditions.late)
    }

    pub(super) fn is_blocked(&self, fd: RawFd, way: Way) -> bool {
        let until = self.blocked.get(&(fd, way));
        until.is_some_and(|until| *until > self.turn)
    }

    pub(super) fn block(&mut self, fd: RawFd, way: Way) {
        let until = self.turn + self.rng.between(1, 6);
        self.blocked.insert((fd, way), until);
    }

    /// Ends what pretended long enough; says whose readiness is to be told, among those of `edges`.
    pub(super) fn unblock(&mut self, edges: &BTreeMap<RawFd, u64>) -> Vec<(RawFd, u64)> {
        let turn = self.turn;
        let mut told = Vec::new();
        self.blocked.retain(|(fd, _), until| match edges.get(fd) {
            Some(data) if *until <= turn => {
                told.push((*fd, *data));
                false
            }
            _ => true,
        });
        told
    }

    pub(super) fn add_inner(&mut self, pipe: BorrowedFd<'_>) {
        self.inner.extend(sys::stat(pipe).map(|stat| stat.st_ino));
    }

    pub(super) fn is_inner(&self, pipe: BorrowedFd<'_>) -> bool {
        sys::stat(pipe).is_ok_and(|stat| self.inner.contains(&stat.st_ino))
    }

    /// A file was written to, or all of it brought to the disk.
    pub(super) fn set_synced(&mut self, file: BorrowedFd<'_>, synced: bool) {
        if let Ok(stat) = sys::stat(file) {
            match synced {
                true => self.synced.insert(stat.st_ino),
                false => self.synced.remove(&stat.st_ino),
            };
        }
    }

    pub(super) fn is_synced(&self, file: BorrowedFd<'_>) -> bool {
        sys::stat(file).is_ok_and(|stat| self.synced.contains(&stat.st_ino))
    }

    /// A socket's connection seems to be under way.
    pub(super) fn set_connecting(&mut self, socket: BorrowedFd<'_>) {
        self.connecting
            .extend(sys::stat(socket).map(|stat| stat.st_ino));
    }

    /// A socket said what it is ready for, so that whoever asked knows of its connection.
    pub(super) fn set_connected(&mut self, socket: BorrowedFd<'_>) {
        if !self.connecting.is_empty()
            && let Ok(stat) = sys::stat(socket)
        {
            self.connecting.remove(&stat.st_ino);
        }
    }

    /// Bytes are to move at a socket: nobody may ask for that who was not told that it is connected.
    pub(super) fn use_socket(&mut self, socket: BorrowedFd<'_>) {
        if !self.connecting.is_empty()
            && sys::stat(socket).is_ok_and(|stat| self.connecting.contains(&stat.st_ino))
        {
            self.misuses += 1;
            self.note("not connected", 0, 0);
        }
    }

    /// False where the socket isn't TCP's.
    pub(super) fn hold_back(&mut self, socket: RawFd) -> bool {
        if self.conditions.tcp {
            self.held.insert(socket);
        }
        self.conditions.tcp
    }

    pub(super) fn uncork(&mut self, socket: RawFd) {
        self.held.remove(&socket);
        self.set_corked(socket, false);
    }

    pub(super) fn set_corked(&mut self, socket: RawFd, corked: bool) {
        let changed = if corked || self.held.contains(&socket) {
            self.corked.insert(socket)
        } else {
            self.corked.remove(&socket)
        };
        if changed {
            self.note("corked", corked.into(), 0);
        }
    }

    pub(super) fn is_corked(&self, socket: &Fd) -> bool {
        // Only TCP does, whoever is told to.
        let is_socket = socket.kind() == FileKind::Socket;
        self.conditions.tcp && is_socket && self.corked.contains(&socket.as_raw_fd())
    }
}
