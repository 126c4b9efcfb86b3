//! The calls through libc that both backends share. All `unsafe` of the crate is here, in
//! `buf.rs`, and in the ring.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::fd::{FileKind, Filesystem, Residency};
use crate::sim;

/// The size of a page, and so of a pipe's slot.
pub(crate) fn page_size() -> usize {
    static SIZE: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *SIZE.get_or_init(|| {
        // SAFETY: takes and touches no memory.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(size).unwrap_or(4096)
    })
}

/// Turns the -1 of a system call into its error.
pub(crate) fn check(result: impl TryInto<i64>) -> io::Result<usize> {
    match result.try_into() {
        Ok(n) if n >= 0 => Ok(n as usize),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Calls again what a signal interrupted (signal(7)).
pub(crate) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Takes over a descriptor that a system call has just made.
pub(crate) fn own(result: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// A descriptor's access mode and status flags.
fn status_flags(fd: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    // SAFETY: fcntl with integers touches no memory.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) }).map(|flags| flags as libc::c_int)
}

pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = status_flags(fd)?;
    if flags & libc::O_NONBLOCK == 0 {
        let flags = flags | libc::O_NONBLOCK;
        // SAFETY: fcntl with integers touches no memory.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) })?;
    }
    Ok(())
}

pub(crate) fn set_blocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = status_flags(fd)? & !libc::O_NONBLOCK;
    // SAFETY: fcntl with integers touches no memory.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) }).map(drop)
}

/// Whether the open file description has `O_NONBLOCK` (fcntl(2), `F_GETFL`).
pub(crate) fn is_nonblocking(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(status_flags(fd)? & libc::O_NONBLOCK != 0)
}

/// Whether a descriptor can be read from, and whether written to.
pub(crate) fn access(fd: BorrowedFd<'_>) -> io::Result<(bool, bool)> {
    let flags = status_flags(fd)?;
    if flags & libc::O_PATH != 0 {
        return Ok((false, false));
    }
    let mode = flags & libc::O_ACCMODE;
    Ok((mode != libc::O_WRONLY, mode != libc::O_RDONLY))
}

pub(crate) fn stat(fd: BorrowedFd<'_>) -> io::Result<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills the struct, which lives on this stack frame.
    check(unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so the struct is filled.
    Ok(unsafe { stat.assume_init() })
}

pub(crate) fn file_kind(fd: BorrowedFd<'_>) -> io::Result<FileKind> {
    stat(fd).map(|stat| kind_of(&stat))
}

pub(crate) fn kind_of(stat: &libc::stat) -> FileKind {
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => FileKind::Regular,
        libc::S_IFDIR => FileKind::Directory,
        libc::S_IFIFO => FileKind::Pipe,
        libc::S_IFSOCK => FileKind::Socket,
        libc::S_IFBLK => FileKind::BlockDevice,
        libc::S_IFCHR => FileKind::CharDevice,
        _ => FileKind::Other,
    }
}

pub(crate) fn filesystem(fd: BorrowedFd<'_>) -> io::Result<Filesystem> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the kernel fills the struct, which lives on this stack frame.
    retry(|| check(unsafe { libc::fstatfs(fd.as_raw_fd(), stat.as_mut_ptr()) }))?;
    // SAFETY: the call succeeded, so the struct is filled.
    let kind = unsafe { stat.assume_init() }.f_type as u32;
    Ok(match kind {
        // linux/magic.h: tmpfs, ramfs, hugetlbfs.
        0x0102_1994 | 0x8584_58f6 | 0x9584_58f6 => Filesystem::Memory,
        // NFS, SMB, CIFS, SMB2, Coda, AFS, Ceph, 9p.
        0x6969 | 0x517b | 0xff53_4d42 | 0xfe53_4d42 | 0x7375_7245 | 0x5346_414f | 0x00c3_6400
        | 0x0102_1997 => Filesystem::Network,
        // procfs, sysfs, debugfs, tracefs, securityfs, cgroup, cgroup2, bpf.
        0x9fa0 | 0x6265_6572 | 0x6462_6720 | 0x7472_6163 | 0x7363_6673 | 0x0027_e0eb
        | 0x6367_7270 | 0xcafe_4a11 => Filesystem::Generated,
        // ext2 to ext4, xfs, btrfs, f2fs, erofs, squashfs.
        0xef53 | 0x5846_5342 | 0x9123_683e | 0xf2f5_2010 | 0xe0f5_e1e2 | 0x7371_7368 => {
            Filesystem::Local
        }
        _ => Filesystem::Other,
    })
}

/// See [`Fd::residency`](crate::Fd::residency).
pub(crate) fn residency(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Residency {
    if len == 0 {
        return Residency::Hot;
    }
    let page = page_size() as u64;
    let first = offset / page * page;
    let Some(last) = offset.checked_add(len - 1) else {
        return Residency::Unknown;
    };
    // They are counted first. To read a byte that is missing, even with RWF_NOWAIT, begins to read
    // it in, which takes some 100 µs of the caller's time.
    let step = match cached_pages(fd, first, last - first + 1) {
        Some(n) if n > last / page - first / page => IN_FLIGHT_STEP,
        // Behind the file's end there are none.
        Some(_) => return Residency::Cold,
        None => UNCOUNTED_STEP,
    };
    // From the front, so that what is begun, where nobody counts, is what is wanted first.
    match probe(fd, first..last, step) {
        Residency::Hot => probe(fd, last..last + 1, 1),
        found => found,
    }
}

/// The same for a range that was cached a moment ago: what happens in a moment happens to much of
/// it, so one page in so many is looked at.
pub(crate) fn still_resident(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Residency {
    probe(fd, offset..offset.saturating_add(len), IN_FLIGHT_STEP)
}

/// Looks at bytes that are `step` apart. A page that is present may still be under way from the
/// disk, and what was asked of the disk last may come first.
fn probe(fd: BorrowedFd<'_>, range: Range<u64>, step: u64) -> Residency {
    let mut at = range.start;
    while at < range.end {
        match probe_byte(fd, at) {
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => return Residency::Cold,
            Err(_) => return Residency::Unknown,
            Ok(0) => return Residency::Cold,
            Ok(_) => at += step,
        }
    }
    Residency::Hot
}

/// How far apart pages are looked at that are all present: reads of the disk are longer.
const IN_FLIGHT_STEP: u64 = 256 << 10;

/// The same where nobody counts the pages: before Linux 6.5, and since 6.14 of files that the user
/// neither owns nor may write. What was read in by readahead, and is evicted by age, goes in about
/// such lengths; a hole between two looks keeps the caller waiting for the disk.
const UNCOUNTED_STEP: u64 = 64 << 10;

/// Reads one byte if it is cached.
pub(crate) fn probe_byte(fd: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
    let mut byte = 0_u8;
    let iov = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let offset = file_offset(offset)?;
    // SAFETY: one iovec of one byte, both on this stack frame.
    check(unsafe { libc::preadv2(fd.as_raw_fd(), &raw const iov, 1, offset, libc::RWF_NOWAIT) })
}

/// cachestat(2), Linux 6.5: how many pages of a range are in the page cache.
fn cached_pages(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Option<u64> {
    const SYS_CACHESTAT: libc::c_long = 451;
    #[repr(C)]
    struct Range {
        offset: u64,
        len: u64,
    }
    let range = Range { offset, len };
    // nr_cache, nr_dirty, nr_writeback, nr_evicted, nr_recently_evicted
    let mut stat = [0_u64; 5];
    // SAFETY: both structs have the layout that the call expects and live on this stack frame.
    let result = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            fd.as_raw_fd(),
            &raw const range,
            stat.as_mut_ptr(),
            0,
        )
    };
    (result == 0).then_some(stat[0])
}

/// An offset as the kernel takes it.
pub(crate) fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

/// Where an operation takes place: at an offset, or at the descriptor's own position.
pub(crate) fn maybe_offset(offset: Option<u64>) -> io::Result<libc::off_t> {
    offset.map_or(Ok(-1), file_offset)
}

/// Appends at most `len` bytes read at `offset` to `buf`, within its spare capacity.
pub(crate) fn pread_spare(
    fd: BorrowedFd<'_>,
    buf: &mut BytesMut,
    len: usize,
    offset: u64,
    nowait: bool,
) -> io::Result<usize> {
    let flags = if nowait { libc::RWF_NOWAIT } else { 0 };
    let offset = file_offset(offset)?;
    let result = read_spare(fd, buf, len, offset, flags);
    match result {
        // The file system (EOPNOTSUPP) or a kernel of before 4.14 (EINVAL, ENOSYS) can't tell.
        Err(e) if nowait && matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => {
            Err(io::ErrorKind::WouldBlock.into())
        }
        // 5.10 says so in the middle of a file, at the page from which more is read ahead.
        Ok(0) if nowait && len > 0 && !is_end(fd, offset) => Err(io::ErrorKind::WouldBlock.into()),
        other => other,
    }
}

/// Whether a file's size says that it ends at an offset, or before.
fn is_end(fd: BorrowedFd<'_>, offset: libc::off_t) -> bool {
    stat(fd).is_ok_and(|stat| stat.st_size <= offset)
}

/// Appends at most `len` bytes to `buf`, within its spare capacity; at `offset`, or at the
/// position where it is -1.
pub(crate) fn read_spare(
    fd: BorrowedFd<'_>,
    buf: &mut BytesMut,
    len: usize,
    offset: libc::off_t,
    flags: libc::c_int,
) -> io::Result<usize> {
    let spare = buf.spare_capacity_mut();
    let len = spare.len().min(len);
    // SAFETY: the kernel writes at most `len` bytes into the buffer's spare capacity, which we
    // borrow exclusively.
    let n = unsafe { read_raw(fd, spare.as_mut_ptr().cast(), len, offset, flags) }?;
    // SAFETY: the kernel has just written these `n` bytes.
    unsafe { buf.advance_mut(n) };
    Ok(n)
}

/// read(2); preadv2(2) where `offset` isn't -1, or there are flags.
///
/// # Safety
/// `len` bytes at `at` must be the caller's alone to write.
pub(crate) unsafe fn read_raw(
    fd: BorrowedFd<'_>,
    at: *mut u8,
    len: usize,
    offset: libc::off_t,
    flags: libc::c_int,
) -> io::Result<usize> {
    let iov = libc::iovec {
        iov_base: at.cast(),
        iov_len: sim::before_read(fd, len)?,
    };
    retry(|| {
        check(if offset == -1 && flags == 0 {
            // SAFETY: the caller's promise.
            unsafe { libc::read(fd.as_raw_fd(), iov.iov_base, iov.iov_len) }
        } else {
            // SAFETY: as above; the iovec is on this stack frame.
            unsafe { libc::preadv2(fd.as_raw_fd(), &raw const iov, 1, offset, flags) }
        })
    })
}

/// Counts bytes that the kernel has written to a buffer's spare capacity on our behalf.
///
/// # Safety
/// The first `n` bytes of the spare capacity have been written.
pub(crate) unsafe fn appended(buf: &mut BytesMut, n: usize) {
    assert!(n <= buf.capacity() - buf.len());
    // SAFETY: within the capacity (checked), and written (the caller's promise).
    unsafe { buf.advance_mut(n) };
}

/// write(2), or pwrite(2) where `offset` isn't -1.
pub(crate) fn write_at(fd: BorrowedFd<'_>, buf: &[u8], offset: libc::off_t) -> io::Result<usize> {
    let buf = &buf[..sim::before_write(fd, buf.len())?];
    retry(|| {
        check(if offset == -1 {
            // SAFETY: the kernel reads within the slice.
            unsafe { libc::write(fd.as_raw_fd(), buf.as_ptr().cast(), buf.len()) }
        } else {
            // SAFETY: as above.
            unsafe { libc::pwrite(fd.as_raw_fd(), buf.as_ptr().cast(), buf.len(), offset) }
        })
    })
}

/// recv(2) of at most `len` bytes without waiting, appended to `buf` within its spare capacity.
pub(crate) fn recv_spare(fd: BorrowedFd<'_>, buf: &mut BytesMut, len: usize) -> io::Result<usize> {
    let spare = buf.spare_capacity_mut();
    let len = spare.len().min(len);
    // SAFETY: the kernel writes at most `len` bytes into memory that we borrow exclusively.
    let n = unsafe { recv_raw(fd, spare.as_mut_ptr().cast(), len) }?;
    // SAFETY: the kernel has just written these `n` bytes.
    unsafe { buf.advance_mut(n) };
    Ok(n)
}

/// recv(2) without waiting.
///
/// # Safety
/// `len` bytes at `at` must be the caller's alone to write.
pub(crate) unsafe fn recv_raw(fd: BorrowedFd<'_>, at: *mut u8, len: usize) -> io::Result<usize> {
    let len = sim::before_read(fd, len)?;
    // SAFETY: the caller's promise.
    retry(|| check(unsafe { libc::recv(fd.as_raw_fd(), at.cast(), len, libc::MSG_DONTWAIT) }))
}

/// send(2) without waiting and without SIGPIPE.
pub(crate) fn send(fd: BorrowedFd<'_>, buf: &[u8], more: bool) -> io::Result<usize> {
    let flags = send_flags(more);
    let buf = &buf[..sim::before_write(fd, buf.len())?];
    let result =
        // SAFETY: the kernel reads within the slice.
        retry(|| check(unsafe { libc::send(fd.as_raw_fd(), buf.as_ptr().cast(), buf.len(), flags) }));
    sim::after_write(fd, &result, more);
    result
}

fn send_flags(more: bool) -> libc::c_int {
    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 }
}

/// The most buffers that one vectored call takes (`UIO_MAXIOV`).
pub(crate) const MAX_IOV: usize = 1024;

fn iovec(buf: &Bytes) -> libc::iovec {
    libc::iovec {
        iov_base: buf.as_ptr().cast_mut().cast(),
        iov_len: buf.len(),
    }
}

/// The iovecs of a vectored call; they point into `bufs`.
pub(crate) fn iovecs(bufs: &[Bytes]) -> Vec<libc::iovec> {
    bufs.iter().take(MAX_IOV).map(iovec).collect()
}

/// An empty message header for sendmsg(2).
pub(crate) fn message() -> libc::msghdr {
    // SAFETY: a msghdr of zeros is a valid one.
    unsafe { std::mem::zeroed() }
}

/// sendmsg(2) without waiting and without SIGPIPE, or writev(2) on a pipe.
pub(crate) fn send_vectored(
    fd: BorrowedFd<'_>,
    bufs: &[Bytes],
    more: bool,
    pipe: bool,
) -> io::Result<usize> {
    // Few buffers, the usual case, need no allocation.
    const FEW: usize = 16;
    let mut few = [iovec(&Bytes::new()); FEW];
    let mut many = Vec::new();
    let iov = if bufs.len() <= FEW {
        for (iov, buf) in few.iter_mut().zip(bufs) {
            *iov = iovec(buf);
        }
        &mut few[..bufs.len()]
    } else {
        many.extend(bufs.iter().take(MAX_IOV).map(iovec));
        &mut many[..]
    };
    if sim::is_active() {
        let mut left = sim::before_write(fd, iov.iter().map(|iov| iov.iov_len).sum())?;
        for iov in iov.iter_mut() {
            iov.iov_len = iov.iov_len.min(left);
            left -= iov.iov_len;
        }
    }
    if pipe {
        return retry(|| {
            // SAFETY: the iovecs point into `bufs`, which outlive the call.
            check(unsafe { libc::writev(fd.as_raw_fd(), iov.as_ptr(), iov.len() as libc::c_int) })
        });
    }
    let mut message = message();
    message.msg_iov = iov.as_mut_ptr();
    message.msg_iovlen = iov.len() as _;
    let result = retry(|| {
        // SAFETY: the message points to the iovecs and they into `bufs`; all outlive the call.
        check(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, send_flags(more)) })
    });
    sim::after_write(fd, &result, more);
    result
}

/// splice(2) without waiting for the pipe.
pub(crate) fn splice(
    from: BorrowedFd<'_>,
    from_offset: Option<u64>,
    to: BorrowedFd<'_>,
    to_offset: Option<u64>,
    len: usize,
    more: bool,
) -> io::Result<usize> {
    let mut from_at = maybe_offset(from_offset)?;
    let mut to_at = maybe_offset(to_offset)?;
    let len = sim::before_splice(from, to, len)?;
    let pointer = |at: &mut libc::off_t| {
        if *at == -1 {
            std::ptr::null_mut()
        } else {
            &raw mut *at
        }
    };
    let flags =
        libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE | if more { libc::SPLICE_F_MORE } else { 0 };
    let result = retry(|| {
        // SAFETY: the offsets are on this stack frame; SIGPIPE is blocked on the threads that
        // come here.
        check(unsafe {
            libc::splice(
                from.as_raw_fd(),
                pointer(&mut from_at),
                to.as_raw_fd(),
                pointer(&mut to_at),
                len,
                flags,
            )
        })
    });
    sim::after_write(to, &result, more);
    result
}

/// fsync(2), or fdatasync(2).
pub(crate) fn sync(fd: BorrowedFd<'_>, data_only: bool) -> io::Result<()> {
    sim::before_sync()?;
    let raw = fd.as_raw_fd();
    retry(|| {
        check(if data_only {
            // SAFETY: takes an integer and touches no memory.
            unsafe { libc::fdatasync(raw) }
        } else {
            // SAFETY: as above.
            unsafe { libc::fsync(raw) }
        })
    })?;
    sim::after_sync(fd);
    Ok(())
}

/// sendfile(2).
pub(crate) fn sendfile(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    offset: Option<u64>,
    len: usize,
) -> io::Result<usize> {
    let mut at = maybe_offset(offset)?;
    let asked = len;
    let len = sim::before_sendfile(socket, file, len)?;
    let result = retry(|| {
        let at = if offset.is_some() {
            &raw mut at
        } else {
            std::ptr::null_mut()
        };
        // SAFETY: the offset is on this stack frame; SIGPIPE is blocked on the threads that come
        // here.
        check(unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), at, len) })
    });
    // A short one makes the kernel expect more (before Linux 6.5 for good).
    sim::after_write(socket, &result, result.as_ref().is_ok_and(|n| *n < asked));
    result
}

/// poll(2) for one descriptor; zero where the time ran out.
pub(crate) fn poll(fd: BorrowedFd<'_>, events: i16, timeout: Option<Duration>) -> io::Result<i16> {
    poll_kernel(fd, events, timeout).map(|events| sim::readiness(fd, events))
}

/// As [`poll`], whatever a simulation may say.
pub(crate) fn poll_kernel(
    fd: BorrowedFd<'_>,
    events: i16,
    timeout: Option<Duration>,
) -> io::Result<i16> {
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    let millis = timeout.map_or(-1, millis_up);
    // SAFETY: one entry, on this stack frame.
    retry(|| check(unsafe { libc::poll(&raw mut entry, 1, millis) }))?;
    Ok(entry.revents)
}

/// Whole milliseconds, rounded up so that a wait does not end before its time.
pub(crate) fn millis_up(duration: Duration) -> libc::c_int {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    libc::c_int::try_from(millis).unwrap_or(libc::c_int::MAX)
}

/// A pipe, non-blocking and close-on-exec: reading end, writing end.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    sim::before_pipe()?;
    let mut fds = [-1; 2];
    // SAFETY: the kernel writes two descriptors to the array.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
    let (reader, writer) = (own(fds[0])?, own(fds[1])?);
    sim::after_pipe(reader.as_fd());
    Ok((reader, writer))
}

/// Sets a pipe's capacity; returns the new one (fcntl(2), `F_SETPIPE_SZ`).
pub(crate) fn set_pipe_size(pipe: BorrowedFd<'_>, size: usize) -> io::Result<usize> {
    sim::before_pipe_size()?;
    // SAFETY: fcntl with integers touches no memory.
    check(unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, size as libc::c_int) })
}

pub(crate) fn pipe_size(pipe: BorrowedFd<'_>) -> io::Result<usize> {
    // SAFETY: fcntl with integers touches no memory.
    check(unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_GETPIPE_SZ) })
}

/// Blocks a set of signals on this thread; gives the mask of before.
fn block(signals: &libc::sigset_t) -> libc::sigset_t {
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are valid for the call; with SIG_BLOCK it can't fail.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, signals, before.as_mut_ptr());
        before.assume_init()
    }
}

fn sigpipe() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset fills the set, sigaddset gets a filled one.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
        set.assume_init()
    }
}

thread_local! {
    /// How many [`SigpipeBlocked`] there are on this thread, and whether it was blocked without.
    static SIGPIPE: Cell<(usize, bool)> = const { Cell::new((0, false)) };
}

/// Keeps SIGPIPE from this thread while it lives: splice(2) and sendfile(2) raise it and know no
/// `MSG_NOSIGNAL`. Whatever the process does with SIGPIPE elsewhere stays as it is.
pub(crate) struct SigpipeBlocked {
    /// The mask belongs to a thread.
    _here: std::marker::PhantomData<*const ()>,
}

impl SigpipeBlocked {
    pub(crate) fn new() -> SigpipeBlocked {
        let (others, mut before) = SIGPIPE.get();
        if others == 0 {
            let mask = block(&sigpipe());
            // SAFETY: reads a filled set on this stack frame.
            before = unsafe { libc::sigismember(&raw const mask, libc::SIGPIPE) } == 1;
        }
        SIGPIPE.set((others + 1, before));
        SigpipeBlocked {
            _here: std::marker::PhantomData,
        }
    }
}

impl Drop for SigpipeBlocked {
    fn drop(&mut self) {
        let (count, before) = SIGPIPE.get();
        SIGPIPE.set((count - 1, before));
        if count > 1 || before {
            return;
        }
        let set = sigpipe();
        let zero = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: reads two structs on this stack frame. It takes away the SIGPIPEs that came
        // meanwhile, so that the unblocking below does not deliver them; then it restores the
        // mask that the first `new` found.
        unsafe {
            while libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const zero) > 0 {}
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        }
    }
}

/// Blocks every signal on this thread: a worker is nobody's signal handler.
pub(crate) fn block_all_signals() {
    // Miri has no signals.
    if cfg!(miri) {
        return;
    }
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset fills the set.
    block(&unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    });
}

/// An eventfd(2), non-blocking and close-on-exec.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes and touches no memory.
    own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

/// A timerfd(2) on the monotonic clock, disarmed.
pub(crate) fn timerfd() -> io::Result<OwnedFd> {
    // Miri has no timers: one that never fires.
    if cfg!(miri) {
        return eventfd();
    }
    let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
    // SAFETY: takes and touches no memory.
    own(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) })
}

/// Reads the counter of an eventfd or timerfd, which sets it to zero.
pub(crate) fn read_counter(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut count = 0_u64;
    // SAFETY: the kernel writes eight bytes to the integer on this stack frame.
    retry(|| check(unsafe { libc::read(fd.as_raw_fd(), (&raw mut count).cast(), 8) }))?;
    Ok(count)
}

/// Arms a timerfd to fire once.
pub(crate) fn set_timerfd(timer: BorrowedFd<'_>, after: Duration) -> io::Result<()> {
    if sim::set_alarm(after) {
        return Ok(());
    }
    let zero = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let spec = libc::itimerspec {
        it_interval: zero,
        it_value: libc::timespec {
            tv_sec: libc::time_t::try_from(after.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: after.subsec_nanos().into(),
        },
    };
    // SAFETY: the kernel reads the struct on this stack frame.
    check(unsafe {
        libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const spec, std::ptr::null_mut())
    })
    .map(drop)
}

/// Opens as [`Open`](crate::op::Open) asks.
pub(crate) fn open(open: &crate::op::Open) -> io::Result<OwnedFd> {
    let dir = open.dir.as_ref().map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
    retry(|| {
        if open.beneath {
            return openat2(open, open_how(open));
        }
        let flags = open.flags | libc::O_CLOEXEC;
        // SAFETY: the path is a C string.
        own(unsafe { libc::openat(dir, open.path.as_ptr(), flags, open.mode) })
    })
}

/// Opens what is in the kernel's caches, without waiting for a disk (`RESOLVE_CACHED`, Linux
/// 5.12). `None` where that can't be done, for whatever reason: then [`open`] tells.
pub(crate) fn open_cached(open: &crate::op::Open) -> Option<OwnedFd> {
    const RESOLVE_NO_XDEV: u64 = 0x01;
    const RESOLVE_CACHED: u64 = 0x20;
    // A file system's own open may wait: FUSE's and networks' do. So it must be one that is known
    // not to, and no other.
    let dir = open.dir.as_ref()?;
    let local = matches!(dir.filesystem(), Filesystem::Memory | Filesystem::Local);
    let creates = libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);
    // Nor may a FIFO make it wait for its other end: `O_PATH` opens none.
    let waits = open.flags & (libc::O_NONBLOCK | libc::O_PATH) == 0;
    if !local || !open.beneath || waits || open.flags & creates != 0 {
        return None;
    }
    let mut how = open_how(open);
    how.resolve |= RESOLVE_NO_XDEV | RESOLVE_CACHED;
    openat2(open, how).ok()
}

fn openat2(open: &crate::op::Open, how: OpenHow) -> io::Result<OwnedFd> {
    let dir = open.dir.as_ref().map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
    // SAFETY: the path is a C string, `how` is on this stack frame and its size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            dir,
            open.path.as_ptr(),
            &raw const how,
            size_of::<OpenHow>(),
        )
    };
    own(check(result)? as libc::c_int)
}

/// openat2(2)'s `struct open_how`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct OpenHow {
    pub(crate) flags: u64,
    pub(crate) mode: u64,
    pub(crate) resolve: u64,
}

pub(crate) fn open_how(open: &crate::op::Open) -> OpenHow {
    const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
    const RESOLVE_BENEATH: u64 = 0x08;
    let flags = (open.flags | libc::O_CLOEXEC) as u32;
    // openat2 refuses a mode where nothing is created.
    let creates =
        open.flags & libc::O_CREAT != 0 || open.flags & libc::O_TMPFILE == libc::O_TMPFILE;
    OpenHow {
        flags: u64::from(flags),
        mode: if creates { u64::from(open.mode) } else { 0 },
        resolve: if open.beneath {
            RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
        } else {
            0
        },
    }
}

/// A file of memory alone (memfd_create(2)).
#[cfg(all(test, not(miri)))]
pub(crate) fn memfd() -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string.
    own(unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC) })
}

/// A resource's soft limit; `None` for unlimited.
pub(crate) fn soft_limit(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes the struct on this stack frame.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) }).ok()?;
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// A file's position (lseek(2)).
pub(crate) fn position(fd: BorrowedFd<'_>) -> io::Result<u64> {
    seek(fd, 0, libc::SEEK_CUR)
}

/// Moves a file's position.
pub(crate) fn set_position(fd: BorrowedFd<'_>, to: u64) -> io::Result<()> {
    seek(fd, file_offset(to)?, libc::SEEK_SET).map(drop)
}

fn seek(fd: BorrowedFd<'_>, offset: libc::off_t, whence: libc::c_int) -> io::Result<u64> {
    // SAFETY: lseek with integers touches no memory.
    check(unsafe { libc::lseek(fd.as_raw_fd(), offset, whence) }).map(|n| n as u64)
}
