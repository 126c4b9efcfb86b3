//! The system calls that several peers make directly.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The result of a system call, or what errno says.
pub fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// sendfile(2) from `at`, which moves on by what was sent.
pub fn sendfile(socket: &impl AsRawFd, file: &File, at: &mut u64, len: u64) -> io::Result<usize> {
    let mut offset = *at as libc::off_t;
    let (socket, file) = (socket.as_raw_fd(), file.as_raw_fd());
    // SAFETY: the offset is on this stack frame.
    let sent = check(unsafe { libc::sendfile(socket, file, &raw mut offset, len as usize) })?;
    *at = offset as u64;
    Ok(sent)
}

/// send(2).
pub fn send(socket: &impl AsRawFd, bytes: &[u8], flags: i32) -> io::Result<usize> {
    let flags = flags | libc::MSG_NOSIGNAL;
    // SAFETY: the kernel reads the slice alone.
    check(unsafe {
        libc::send(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags,
        )
    })
}

/// Sets a TCP option to an integer.
fn set_tcp(socket: &impl AsRawFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let (fd, pointer) = (socket.as_raw_fd(), (&raw const value).cast());
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel reads the integer alone.
    check(unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, option, pointer, len) } as isize)?;
    Ok(())
}

/// Has a socket to which files go without end send full segments only (`TCP_CORK`), and be writable
/// while less than 1 MiB waits unsent (`TCP_NOTSENT_LOWAT`), as ours does by itself while more is
/// queued. On loopback, loops over the bare calls are faster with it at each size: a fifth at 1
/// MiB, three times at 4 KiB.
pub fn cork(socket: &impl AsRawFd) -> io::Result<()> {
    set_tcp(socket, libc::TCP_CORK, 1)?;
    set_tcp(socket, libc::TCP_NOTSENT_LOWAT, 1 << 20)
}

/// splice(2) between a pipe and something else: its other end, a socket, or a file at a position,
/// which moves on by what was moved.
pub fn splice(
    from: &impl AsRawFd,
    to: &impl AsRawFd,
    to_at: Option<&mut libc::off_t>,
    len: usize,
    flags: u32,
) -> io::Result<usize> {
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    let to_at = to_at.map_or(std::ptr::null_mut(), std::ptr::from_mut);
    let flags = flags | libc::SPLICE_F_MOVE;
    // SAFETY: the offset is null or borrowed for the call.
    check(unsafe { libc::splice(from, std::ptr::null_mut(), to, to_at, len, flags) })
}

/// A pipe that holds 1 MiB: its reading and its writing end.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two descriptors, which are ours from then on.
    let (read, write) = unsafe {
        check(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) as isize)?;
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    };
    grow(&write)?;
    Ok((read, write))
}

/// Makes a pipe hold 1 MiB.
pub fn grow(pipe: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: takes and touches no memory.
    check(unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 20) } as isize)?;
    Ok(())
}

/// A set of descriptors waited for.
pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: takes and touches no memory; a fresh descriptor is ours.
        unsafe {
            let fd = check(libc::epoll_create1(libc::EPOLL_CLOEXEC) as isize)?;
            Ok(Epoll(OwnedFd::from_raw_fd(fd as i32)))
        }
    }

    pub fn add(&self, fd: &impl AsRawFd, events: i32, token: usize) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: token as u64,
        };
        // SAFETY: the event is on this stack frame.
        check(unsafe {
            libc::epoll_ctl(
                self.0.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                fd.as_raw_fd(),
                &raw mut event,
            )
        } as isize)?;
        Ok(())
    }

    /// Waits; -1 waits for ever.
    pub fn wait<'e>(
        &self,
        events: &'e mut [libc::epoll_event],
        timeout: i32,
    ) -> io::Result<&'e [libc::epoll_event]> {
        let room = events.len() as i32;
        // SAFETY: the kernel writes at most as many events as the slice has.
        let n = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), room, timeout) };
        match check(n as isize) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(&[]),
            n => Ok(&events[..n?]),
        }
    }
}

/// Room for the events of one wait.
pub fn events() -> Vec<libc::epoll_event> {
    vec![libc::epoll_event { events: 0, u64: 0 }; 512]
}
