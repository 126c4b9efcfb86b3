//! Shared ownership of file descriptors, with what is worth knowing of them kept once.

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::turn::{self, TurnId};
use crate::{sim, sys};

/// A file descriptor shared by all who use it; the last one closes it. Cloning is a reference
/// count, not a dup(2).
#[derive(Clone)]
pub struct Fd {
    inner: Arc<Inner>,
}

struct Inner {
    fd: OwnedFd,
    /// Never reused, as descriptor numbers are.
    id: u64,
    kind: OnceLock<FileKind>,
    filesystem: OnceLock<Filesystem>,
    tells_cached: OnceLock<bool>,
    /// What was found in the page cache last, and when. Boxed, since sockets have none.
    hot: Mutex<Option<Box<Hot>>>,
    /// It is known to be non-blocking.
    nonblocking: AtomicBool,
}

/// What was found in the page cache.
struct Hot {
    range: Range<u64>,
    /// When some of it was looked at last: in which turn, if in one.
    turn: Option<TurnId>,
    seen: Instant,
    /// When all of it was looked at.
    since: Instant,
}

/// What kind of thing a descriptor names (stat(2)'s `st_mode`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A pipe or FIFO.
    Pipe,
    /// A socket.
    Socket,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharDevice,
    /// Anything else (eventfd, epoll, ...).
    Other,
}

/// The kinds of file system whose behaviour decides how their files are sent (statfs(2)'s
/// `f_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Filesystem {
    /// Files that are memory: tmpfs, ramfs, hugetlbfs, memfd.
    Memory,
    /// Network file systems where sendfile is known to misbehave: NFS, SMB, CIFS.
    Network,
    /// Generated content whose size is not known beforehand: procfs, sysfs and their kin.
    Generated,
    /// Files on a disk of this machine's: ext4, xfs, btrfs, f2fs, erofs, squashfs.
    Local,
    /// The rest.
    Other,
}

/// Whether bytes of a file can be had without waiting for a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Residency {
    /// In the page cache.
    Hot,
    /// Not, or not wholly.
    Cold,
    /// The file system doesn't say.
    Unknown,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Fd {
    /// Takes a descriptor over.
    pub fn new(fd: impl Into<OwnedFd>) -> Fd {
        Fd {
            inner: Arc::new(Inner {
                fd: fd.into(),
                id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                kind: OnceLock::new(),
                filesystem: OnceLock::new(),
                tells_cached: OnceLock::new(),
                hot: Mutex::new(None),
                nonblocking: AtomicBool::new(false),
            }),
        }
    }

    /// Takes over a socket that was made non-blocking: nothing of it need be asked for.
    pub(crate) fn socket(fd: OwnedFd) -> Fd {
        let fd = Fd::new(fd);
        let _ = fd.inner.kind.set(FileKind::Socket);
        fd.inner.nonblocking.store(true, Ordering::Relaxed);
        fd
    }

    /// Takes a socket or pipe over and makes it non-blocking.
    ///
    /// # Errors
    /// fcntl(2)'s.
    pub fn nonblocking(fd: impl Into<OwnedFd>) -> io::Result<Fd> {
        let fd = fd.into();
        sys::set_nonblocking(fd.as_fd())?;
        let fd = Fd::new(fd);
        fd.inner.nonblocking.store(true, Ordering::Relaxed);
        Ok(fd)
    }

    pub(crate) fn id(&self) -> u64 {
        self.inner.id
    }

    /// Whether calls on it return instead of waiting (`O_NONBLOCK`). Asked of the kernel
    /// until it says yes.
    pub fn is_nonblocking(&self) -> bool {
        let known = &self.inner.nonblocking;
        if !known.load(Ordering::Relaxed) {
            let is = sys::is_nonblocking(self.as_fd()).unwrap_or(false);
            known.store(is, Ordering::Relaxed);
        }
        known.load(Ordering::Relaxed)
    }

    /// Whether this is the last reference, so that dropping it closes the descriptor.
    pub fn is_last(&self) -> bool {
        Arc::strong_count(&self.inner) == 1
    }

    /// The descriptor itself, if no one else shares it.
    pub fn into_owned(self) -> Result<OwnedFd, Fd> {
        Arc::try_unwrap(self.inner)
            .map(|inner| inner.fd)
            .map_err(|inner| Fd { inner })
    }

    /// Makes it non-blocking, for all who share it.
    ///
    /// # Errors
    /// fcntl(2)'s.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        if !self.is_nonblocking() {
            sys::set_nonblocking(self.as_fd())?;
            self.inner.nonblocking.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes it blocking again, for all who share it: for who gives back what it has borrowed.
    ///
    /// # Errors
    /// fcntl(2)'s.
    pub fn set_blocking(&self) -> io::Result<()> {
        sys::set_blocking(self.as_fd())?;
        self.inner.nonblocking.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// What tells the thing behind it (a file, socket or pipe) from all others as long as it is
    /// open, whichever descriptor it is reached by: its device and inode numbers (fstat(2)).
    ///
    /// # Errors
    /// fstat(2)'s.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        sys::stat(self.as_fd()).map(|stat| (stat.st_dev, stat.st_ino))
    }

    /// Whether it was opened for reading, and whether for writing (neither with `O_PATH`).
    ///
    /// # Errors
    /// fcntl(2)'s.
    pub fn access(&self) -> io::Result<(bool, bool)> {
        sys::access(self.as_fd())
    }

    /// The file's size in bytes, as stat(2) has it now: 0 for what doesn't know its own.
    ///
    /// # Errors
    /// fstat(2)'s.
    pub fn size(&self) -> io::Result<u64> {
        sys::stat(self.as_fd()).map(|stat| u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// The descriptor's own position in the file (lseek(2)).
    ///
    /// # Errors
    /// lseek(2)'s: `ESPIPE` where there is none.
    pub fn position(&self) -> io::Result<u64> {
        sys::position(self.as_fd())
    }

    /// Moves the descriptor's own position, for all who share it.
    ///
    /// # Errors
    /// lseek(2)'s.
    pub fn set_position(&self, to: u64) -> io::Result<()> {
        sys::set_position(self.as_fd(), to)
    }

    /// What kind of thing this is; asked of the kernel once.
    pub fn kind(&self) -> FileKind {
        *self
            .inner
            .kind
            .get_or_init(|| sys::file_kind(self.as_fd()).unwrap_or(FileKind::Other))
    }

    /// Which kind of file system it is on; asked of the kernel once.
    pub fn filesystem(&self) -> Filesystem {
        *self
            .inner
            .filesystem
            .get_or_init(|| match sim::filesystem() {
                Some(simulated) => simulated,
                None => sys::filesystem(self.as_fd()).unwrap_or(Filesystem::Other),
            })
    }

    /// Takes over what is known of another's file system. For a file on the same device (stat(2)'s
    /// `st_dev`), and while the other is open, so that the device is no other's.
    pub fn is_on_filesystem_of(&self, other: &Fd) {
        let _ = self.inner.filesystem.set(other.filesystem());
    }

    /// Refuses a socket that direct calls would block on, for want of `MSG_DONTWAIT`.
    pub(crate) fn check_nonblocking(&self) -> io::Result<()> {
        if self.is_nonblocking() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a blocking socket: take it over with Fd::nonblocking",
        ))
    }

    /// Whether its file system can read what is cached and leave the rest (`RWF_NOWAIT`); asked of
    /// the kernel once. One that can't (FUSE, overlayfs) may block whoever tries.
    pub(crate) fn tells_cached(&self) -> bool {
        *self.inner.tells_cached.get_or_init(|| {
            let probed = sys::probe_byte(self.as_fd(), 0).map_err(|e| e.raw_os_error());
            match probed {
                Err(Some(libc::EOPNOTSUPP)) => false,
                // Not open for reading, so that it can't be asked: what is known of its kind counts.
                Err(Some(libc::EBADF)) => {
                    matches!(self.filesystem(), Filesystem::Memory | Filesystem::Local)
                }
                _ => true,
            }
        })
    }

    /// Whether `len` bytes from `offset` can be had without waiting for a disk. Looks at the page
    /// cache with cachestat(2) (Linux 6.5) and preadv2(2)'s `RWF_NOWAIT`; reads nothing in.
    ///
    /// It looks at `ahead` bytes, if that is more: the answer costs some 5 µs per MiB.
    /// [`Residency::Hot`] is remembered for the turn of this thread's loop in which it was found,
    /// so that others who send the same file in that turn need not ask: what they were asked for had
    /// been asked for before; and for 0.1 ms, which turns that have little to do are a part of;
    /// outside of a loop, for a millisecond. In the next 20 ms, a look at a page in every 256 KiB
    /// will do. The answer may be outdated by the time it is used: pages can
    /// be reclaimed.
    pub fn residency(&self, offset: u64, len: u64, ahead: u64) -> Residency {
        const HOLDS: Duration = Duration::from_millis(20);
        const MOMENT: Duration = Duration::from_micros(100);
        const OUTSIDE: Duration = Duration::from_millis(1);
        if let Some(simulated) = sim::residency() {
            return simulated;
        }
        if self.filesystem() == Filesystem::Memory {
            return Residency::Hot;
        }
        let turn = turn::current();
        let mut hot = self.inner.hot.lock().unwrap_or_else(|e| e.into_inner());
        let now = crate::now();
        if let Some(hot) = &mut *hot
            && hot.range.start <= offset
            && offset.saturating_add(len) <= hot.range.end
            && now.saturating_duration_since(hot.since) < HOLDS
        {
            let age = now.saturating_duration_since(hot.seen);
            let just_seen = match turn {
                Some(_) => hot.turn == turn || age < MOMENT,
                None => age < OUTSIDE,
            };
            if just_seen {
                return Residency::Hot;
            }
            let Range { start, end } = hot.range;
            if sys::still_resident(self.as_fd(), start, end - start) == Residency::Hot {
                (hot.turn, hot.seen) = (turn, now);
                return Residency::Hot;
            }
        }
        *hot = None;
        let ahead = ahead.max(len);
        let found = sys::residency(self.as_fd(), offset, ahead);
        if found == Residency::Hot {
            *hot = Some(Box::new(Hot {
                range: offset..offset.saturating_add(ahead),
                turn,
                seen: now,
                since: now,
            }));
        }
        found
    }

    /// Reads at most `len` bytes at `offset` into the spare capacity of `buf`, only as far as they
    /// are in the page cache (preadv2(2) with `RWF_NOWAIT`; a plain read where files are memory).
    ///
    /// # Errors
    /// `WouldBlock`: the disk would have to be waited for, or the file system can't tell: use
    /// [`Op::Read`](crate::Op::Read). Else the read's own error. `Ok(0)` is the end of the file, as
    /// its size says it.
    pub fn read_nowait(&self, buf: &mut BytesMut, len: usize, offset: u64) -> io::Result<usize> {
        let nowait = self.filesystem() != Filesystem::Memory;
        if nowait {
            sim::before_nowait()?;
        }
        // The files of a simulation are memory, of which the kernel says nothing.
        let nowait = nowait && !sim::is_active();
        sys::pread_spare(self.as_fd(), buf, len, offset, nowait)
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.fd.as_fd()
    }
}

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.fd.as_raw_fd()
    }
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Fd {
        Fd::new(fd)
    }
}

impl From<std::fs::File> for Fd {
    fn from(file: std::fs::File) -> Fd {
        Fd::new(file)
    }
}

impl fmt::Debug for Fd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fd").field(&self.as_raw_fd()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel")]
    fn what_cannot_be_asked_may_block() {
        // As a file of FUSE that is open for writing alone: the probe, a read, is refused.
        let comm = std::fs::OpenOptions::new()
            .write(true)
            .open("/proc/self/comm")
            .unwrap();
        let fd = Fd::from(comm);
        assert_eq!(
            sys::probe_byte(fd.as_fd(), 0).unwrap_err().raw_os_error(),
            Some(libc::EBADF)
        );
        assert!(!fd.tells_cached());
    }
}
