//! Sockets: making them, naming them, setting what a file server sets. Everything here is a quick
//! call; what can wait is an operation.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr as UnixAddr;
use std::time::Duration;

use crate::fd::{Fd, FileKind};
use crate::op::SendFileEnd;
use crate::{sim, sys};

/// The address of a TCP or Unix socket.
#[derive(Clone)]
pub enum Address {
    /// IPv4 or IPv6 and a port.
    Inet(SocketAddr),
    /// A path, an abstract name, or nothing (an unnamed socket).
    Unix(Box<UnixAddr>),
}

impl Address {
    fn family(&self) -> libc::c_int {
        match self {
            Address::Inet(SocketAddr::V4(_)) => libc::AF_INET,
            Address::Inet(SocketAddr::V6(_)) => libc::AF_INET6,
            Address::Unix(_) => libc::AF_UNIX,
        }
    }

    /// The IP address and port, if it has them.
    pub fn as_inet(&self) -> Option<SocketAddr> {
        match self {
            Address::Inet(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Inet(address)
    }
}

impl From<UnixAddr> for Address {
    fn from(address: UnixAddr) -> Address {
        Address::Unix(Box::new(address))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(address) => address.fmt(f),
            Address::Unix(address) => match (address.as_pathname(), address.as_abstract_name()) {
                (Some(path), _) => write!(f, "unix:{}", path.display()),
                (_, Some(name)) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
                _ => f.write_str("unix:(unnamed)"),
            },
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address in the kernel's form.
pub(crate) struct RawAddress {
    pub(crate) storage: libc::sockaddr_storage,
    pub(crate) len: libc::socklen_t,
}

impl RawAddress {
    fn empty() -> RawAddress {
        RawAddress {
            // SAFETY: a sockaddr_storage of zeros is a valid (unspecified) one.
            storage: unsafe { std::mem::zeroed() },
            len: size_of::<libc::sockaddr_storage>() as libc::socklen_t,
        }
    }

    /// Writes a sockaddr of a family to the storage.
    fn put<T>(&mut self, address: T, len: usize) {
        const { assert!(size_of::<T>() <= size_of::<libc::sockaddr_storage>()) };
        // SAFETY: the storage is large enough (checked above) and aligned for every sockaddr.
        unsafe { (&raw mut self.storage).cast::<T>().write(address) };
        self.len = len as libc::socklen_t;
    }

    /// Reads the sockaddr of a family from the storage.
    ///
    /// # Safety
    /// `T` must be the kernel's struct for the storage's family.
    unsafe fn get<T: Copy>(&self) -> T {
        const { assert!(size_of::<T>() <= size_of::<libc::sockaddr_storage>()) };
        // SAFETY: within the storage, aligned, and any bytes are a valid sockaddr.
        unsafe { (&raw const self.storage).cast::<T>().read() }
    }

    fn parse(&self) -> io::Result<Address> {
        match libc::c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says so.
                let raw: libc::sockaddr_in = unsafe { self.get() };
                let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
                let address = SocketAddrV4::new(ip, u16::from_be(raw.sin_port));
                Ok(Address::Inet(address.into()))
            }
            libc::AF_INET6 => {
                // SAFETY: the family says so.
                let raw: libc::sockaddr_in6 = unsafe { self.get() };
                let address = SocketAddrV6::new(
                    Ipv6Addr::from(raw.sin6_addr.s6_addr),
                    u16::from_be(raw.sin6_port),
                    raw.sin6_flowinfo,
                    raw.sin6_scope_id,
                );
                Ok(Address::Inet(address.into()))
            }
            libc::AF_UNIX => {
                // SAFETY: the family says so.
                let raw: libc::sockaddr_un = unsafe { self.get() };
                let head = std::mem::offset_of!(libc::sockaddr_un, sun_path);
                let len = (self.len as usize).saturating_sub(head);
                let path: Vec<u8> = raw.sun_path[..len.min(raw.sun_path.len())]
                    .iter()
                    .map(|c| *c as u8)
                    .collect();
                Ok(Address::from(match path.split_first() {
                    None => UnixAddr::from_pathname("")?,
                    Some((0, name)) => UnixAddr::from_abstract_name(name)?,
                    Some(_) => {
                        let end = path.iter().position(|b| *b == 0).unwrap_or(path.len());
                        UnixAddr::from_pathname(std::ffi::OsStr::from_bytes(&path[..end]))?
                    }
                }))
            }
            family => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("a socket of address family {family}, not TCP or Unix"),
            )),
        }
    }

    pub(crate) fn pointer(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }
}

impl From<&Address> for RawAddress {
    fn from(address: &Address) -> RawAddress {
        let mut raw = RawAddress::empty();
        match address {
            Address::Inet(SocketAddr::V4(v4)) => raw.put(
                libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from(*v4.ip()).to_be(),
                    },
                    sin_zero: [0; 8],
                },
                size_of::<libc::sockaddr_in>(),
            ),
            Address::Inet(SocketAddr::V6(v6)) => raw.put(
                libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                },
                size_of::<libc::sockaddr_in6>(),
            ),
            Address::Unix(unix) => {
                let mut sun = libc::sockaddr_un {
                    sun_family: libc::AF_UNIX as libc::sa_family_t,
                    sun_path: [0; 108],
                };
                let head = std::mem::offset_of!(libc::sockaddr_un, sun_path);
                // The standard library has checked that both fit.
                let len = if let Some(path) = unix.as_pathname() {
                    let path = path.as_os_str().as_bytes();
                    copy_chars(&mut sun.sun_path, path);
                    head + path.len() + usize::from(!path.is_empty())
                } else if let Some(name) = unix.as_abstract_name() {
                    copy_chars(&mut sun.sun_path[1..], name);
                    head + 1 + name.len()
                } else {
                    head
                };
                raw.put(sun, len);
            }
        }
        raw
    }
}

fn copy_chars(to: &mut [libc::c_char], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from as libc::c_char;
    }
}

fn stream_socket(family: libc::c_int) -> io::Result<Fd> {
    let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes and touches no memory.
    sys::own(unsafe { libc::socket(family, flags, 0) }).map(Fd::socket)
}

/// A fresh stream socket for [`Op::Connect`](crate::Op::Connect) to `address`: non-blocking,
/// close-on-exec.
///
/// # Errors
/// socket(2)'s.
pub fn socket_for(address: &Address) -> io::Result<Fd> {
    stream_socket(address.family())
}

/// How to listen.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Connections that wait to be accepted (listen(2)); the kernel cuts it to
    /// `net.core.somaxconn`.
    pub backlog: u32,
    /// Several sockets listen on the same port, and the kernel spreads connections over them:
    /// one listener a thread (`SO_REUSEPORT`). TCP only.
    pub reuse_port: bool,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions {
            backlog: 4096,
            reuse_port: false,
        }
    }
}

/// A listening stream socket: non-blocking, close-on-exec, `SO_REUSEADDR` for TCP.
///
/// # Errors
/// socket(2)'s, bind(2)'s and listen(2)'s, as they are.
pub fn listen(address: &Address, options: &ListenOptions) -> io::Result<Fd> {
    let socket = stream_socket(address.family())?;
    if matches!(address, Address::Inet(_)) {
        set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        if options.reuse_port {
            set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
    }
    let raw = RawAddress::from(address);
    // SAFETY: the address lives on this stack frame and its length is given.
    sys::check(unsafe { libc::bind(socket.as_raw_fd(), raw.pointer(), raw.len) })?;
    let backlog = libc::c_int::try_from(options.backlog).unwrap_or(libc::c_int::MAX);
    // SAFETY: takes and touches no memory.
    sys::check(unsafe { libc::listen(socket.as_raw_fd(), backlog) })?;
    Ok(socket)
}

/// accept4(2) without waiting.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<Fd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    sim::before_accept(listener)?;
    sys::retry(|| {
        // SAFETY: no address is asked for.
        let result = unsafe {
            libc::accept4(
                listener.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                flags,
            )
        };
        sys::own(result).map(Fd::socket)
    })
}

/// connect(2) without waiting: `EINPROGRESS` where it goes on.
pub(crate) fn connect(socket: BorrowedFd<'_>, address: &Address) -> io::Result<()> {
    let raw = RawAddress::from(address);
    sim::before_connect()?;
    // SAFETY: the address lives on this stack frame and its length is given.
    sys::check(unsafe { libc::connect(socket.as_raw_fd(), raw.pointer(), raw.len) })?;
    sim::after_connect(socket)
}

type NameCall =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn name(socket: &Fd, call: NameCall) -> io::Result<Address> {
    let mut raw = RawAddress::empty();
    // SAFETY: the kernel writes at most `len` bytes of address to the storage, and its length.
    sys::check(unsafe {
        call(
            socket.as_raw_fd(),
            (&raw mut raw.storage).cast(),
            &raw mut raw.len,
        )
    })?;
    raw.parse()
}

/// The address a socket is bound to (getsockname(2)).
///
/// # Errors
/// The call's (`ENOTSOCK`, ...); `Unsupported` for other families than TCP's and Unix's.
pub fn local_address(socket: &Fd) -> io::Result<Address> {
    name(socket, libc::getsockname)
}

/// The address of the other side (getpeername(2)).
///
/// # Errors
/// As [`local_address`], and `ENOTCONN`.
pub fn peer_address(socket: &Fd) -> io::Result<Address> {
    name(socket, libc::getpeername)
}

fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    set_option_to(socket, level, option, &value)
}

fn set_option_to<T>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the kernel reads the value, whose size is given.
    sys::check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Sends partial segments at once (`TCP_NODELAY`, tcp(7)).
///
/// # Errors
/// setsockopt(2)'s: `EOPNOTSUPP` where the socket isn't TCP.
pub fn set_nodelay(socket: impl AsFd) -> io::Result<()> {
    if sim::is_tcp() == Some(true) {
        return Ok(());
    }
    set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

/// Lets partial segments wait again until what was sent before is acknowledged (tcp(7): Nagle).
///
/// # Errors
/// As [`set_nodelay`]'s.
pub fn unset_nodelay(socket: impl AsFd) -> io::Result<()> {
    set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 0)
}

/// Whether partial segments are sent at once.
///
/// # Errors
/// getsockopt(2)'s: `EOPNOTSUPP` where the socket isn't TCP.
pub fn nodelay(socket: impl AsFd) -> io::Result<bool> {
    get_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY).map(|value| value != 0)
}

/// Bounds the bytes that wait unsent in the kernel (`TCP_NOTSENT_LOWAT`, tcp(7)): the socket is
/// writable only while fewer wait.
///
/// # Errors
/// setsockopt(2)'s.
pub fn set_notsent_lowat(socket: &Fd, bytes: u32) -> io::Result<()> {
    let option = libc::TCP_NOTSENT_LOWAT;
    set_option_to(socket.as_fd(), libc::IPPROTO_TCP, option, &bytes)
}

/// What [`set_notsent_lowat`] has set; 0 where nothing has been.
///
/// # Errors
/// getsockopt(2)'s.
pub fn notsent_lowat(socket: &Fd) -> io::Result<u32> {
    let option = libc::TCP_NOTSENT_LOWAT;
    get_option(socket.as_fd(), libc::IPPROTO_TCP, option).map(|value| value as u32)
}

/// Sets the kernel's buffers for a socket, in bytes (`SO_SNDBUF`, `SO_RCVBUF`, socket(7): the
/// kernel doubles the value). `None` leaves one alone.
///
/// # Errors
/// setsockopt(2)'s.
pub fn set_buffer_sizes(socket: &Fd, send: Option<u32>, receive: Option<u32>) -> io::Result<()> {
    for (option, size) in [(libc::SO_SNDBUF, send), (libc::SO_RCVBUF, receive)] {
        if let Some(size) = size {
            set_option_to(socket.as_fd(), libc::SOL_SOCKET, option, &size)?;
        }
    }
    Ok(())
}

/// Makes close(2) reset the connection and throw away what was not sent (`SO_LINGER` of zero).
///
/// # Errors
/// setsockopt(2)'s.
pub fn set_reset_on_close(socket: &Fd) -> io::Result<()> {
    set_linger(socket, Some(Duration::ZERO))
}

/// Resets a TCP connection at once, whoever else has the descriptor (connect(2) with `AF_UNSPEC`).
/// What was not sent is thrown away.
///
/// # Errors
/// connect(2)'s.
pub fn reset(socket: &Fd) -> io::Result<()> {
    let nowhere = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    // SAFETY: the kernel reads the address, which is on this stack frame and whose size is given.
    sys::check(unsafe {
        libc::connect(
            socket.as_raw_fd(),
            &raw const nowhere,
            size_of::<libc::sockaddr>() as libc::socklen_t,
        )
    })
    .map(drop)
}

fn set_linger(socket: &Fd, time: Option<Duration>) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: libc::c_int::from(time.is_some()),
        l_linger: time.map_or(0, |t| t.as_secs() as libc::c_int),
    };
    set_option_to(socket.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &linger)
}

/// shutdown(2), at once.
///
/// # Errors
/// The call's: `ENOTCONN`, `ENOTSOCK`.
pub fn shutdown(socket: &Fd, how: Shutdown) -> io::Result<()> {
    // SAFETY: takes and touches no memory.
    sys::check(unsafe { libc::shutdown(socket.as_raw_fd(), shutdown_how(how)) }).map(drop)
}

pub(crate) fn shutdown_how(how: Shutdown) -> libc::c_int {
    match how {
        Shutdown::Read => libc::SHUT_RD,
        Shutdown::Write => libc::SHUT_WR,
        Shutdown::Both => libc::SHUT_RDWR,
    }
}

/// Takes the error that waits at a socket (`SO_ERROR`), if there is one.
///
/// # Errors
/// getsockopt(2)'s.
pub fn take_error(socket: &Fd) -> io::Result<Option<io::Error>> {
    let error = pending_error(socket.as_fd())?;
    Ok((error != 0).then(|| io::Error::from_raw_os_error(error)))
}

/// The error that a socket has for its next user, taken from it (`SO_ERROR`); 0 is none.
pub(crate) fn pending_error(socket: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    get_option(socket, libc::SOL_SOCKET, libc::SO_ERROR)
}

fn get_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to the integer.
    sys::check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw mut value).cast(),
            &raw mut len,
        )
    })?;
    Ok(value)
}

/// A number that changes when the peer takes more of what was sent: of a TCP socket, the bytes that
/// its kernel has acknowledged (`TCP_INFO`); of another, those in the send queue (`SIOCOUTQ`),
/// which change as well when more is sent.
///
/// # Errors
/// Those of getsockopt(2) and ioctl(2).
pub fn send_progress(socket: &Fd) -> io::Result<u64> {
    // linux/tcp.h: `tcpi_bytes_acked` stands at this offset of `struct tcp_info` (Linux 4.1).
    const ACKED: usize = 120;
    if is_tcp(socket.as_fd()) {
        let mut info = [0_u8; ACKED + 8];
        let mut len = info.len() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes to the array.
        sys::check(unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut len,
            )
        })?;
        if let (Some(acked), true) = (info.last_chunk(), len as usize == info.len()) {
            return Ok(u64::from_ne_bytes(*acked));
        }
    }
    let mut queued: libc::c_int = 0;
    // SAFETY: the kernel writes an integer.
    sys::check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut queued) })?;
    Ok(u64::try_from(queued).unwrap_or(0))
}

/// Whether it is a socket that listens (`SO_ACCEPTCONN`).
pub fn is_listening(socket: &Fd) -> bool {
    let listens = get_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_ACCEPTCONN);
    listens.is_ok_and(|yes| yes != 0)
}

/// Whether a socket speaks TCP.
pub(crate) fn is_tcp(socket: BorrowedFd<'_>) -> bool {
    if let Some(simulated) = sim::is_tcp() {
        return simulated;
    }
    let protocol = get_option(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL);
    matches!(protocol, Ok(libc::IPPROTO_TCP))
}

/// From so many bytes of a file on, it pays to [`hold_back`].
pub const LONG: u64 = 256 << 10;

/// Has a TCP socket send full segments only, until [`push_out`] (`TCP_CORK`, tcp(7)). False where
/// that can't be had, or would do harm: where what may wait in the socket is little beside a segment
/// (64 KiB on loopback), it is full before there is one that may leave, and nothing does for 200 ms.
pub fn hold_back(socket: &Fd) -> bool {
    /// So many segments have to fit.
    const SEGMENTS: libc::c_int = 4;
    let fd = socket.as_fd();
    if sim::hold_back(fd) {
        return true;
    }
    let (Ok(segment), Ok(buffer), Ok(unsent)) = (
        get_option(fd, libc::IPPROTO_TCP, libc::TCP_MAXSEG),
        get_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF),
        get_option(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    ) else {
        return false;
    };
    // 0 is the system's own bound, none by default; a large one may come out negative.
    let fits = |room: libc::c_int| room <= 0 || room / SEGMENTS >= segment;
    fits(buffer) && fits(unsent) && set_option(fd, libc::IPPROTO_TCP, libc::TCP_CORK, 1).is_ok()
}

/// Pushes out what [`hold_back`], `MSG_MORE` and its kin have held back at a TCP socket, and changes
/// no other setting: taking `TCP_CORK` off does that even where it isn't on (tcp(7)).
pub fn push_out(socket: impl AsFd) {
    sim::uncork(socket.as_fd());
    let _ = set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_CORK, 0);
}

/// What tells the socket (or file, or pipe) behind a descriptor from all others as long as it is
/// open, as [`Fd::identity`], and which of these it is.
///
/// # Errors
/// fstat(2)'s.
pub fn identity(fd: impl AsFd) -> io::Result<((u64, u64), FileKind)> {
    let stat = sys::stat(fd.as_fd())?;
    Ok(((stat.st_dev, stat.st_ino), sys::kind_of(&stat)))
}

/// Whether calls on a descriptor return instead of waiting (`O_NONBLOCK`), as far as can be told.
pub fn is_nonblocking(fd: impl AsFd) -> bool {
    sys::is_nonblocking(fd.as_fd()).unwrap_or(false)
}

/// Sends what there is room for now, on any thread; with `more`, the kernel may hold it back for what
/// follows (send(2), `MSG_DONTWAIT`, `MSG_MORE`). No SIGPIPE comes of it.
///
/// # Errors
/// send(2)'s; `WouldBlock` where there is no room.
pub fn send_now(socket: impl AsFd, bytes: &[u8], more: bool) -> io::Result<usize> {
    sys::send(socket.as_fd(), bytes, more)
}

/// Sends as much of a file as there is room for now, on any thread: one sendfile(2), which waits for
/// the disk where the file is not cached, and for room on a socket that blocks. No SIGPIPE comes of
/// it.
///
/// # Errors
/// [`SendFileEnd::SocketFailed`], with `WouldBlock` where there is no room;
/// [`SendFileEnd::SourceFailed`].
pub fn send_file_now(
    socket: impl AsFd,
    file: &Fd,
    offset: u64,
    len: usize,
) -> Result<usize, SendFileEnd> {
    let _sigpipe = sys::SigpipeBlocked::new();
    let sent = sys::sendfile(socket.as_fd(), file.as_fd(), Some(offset), len);
    sent.map_err(|e| match e.raw_os_error() {
        Some(errno) if errno == libc::EAGAIN || is_socket_error(errno) => {
            SendFileEnd::SocketFailed(e)
        }
        _ => SendFileEnd::SourceFailed(e),
    })
}

/// Errors of sendfile(2) that speak of the socket; the rest speak of the file.
pub(crate) fn is_socket_error(errno: i32) -> bool {
    matches!(
        errno,
        libc::EPIPE
            | libc::ECONNRESET
            | libc::ECONNABORTED
            | libc::ECONNREFUSED
            | libc::ENOTCONN
            | libc::ESHUTDOWN
            | libc::ETIMEDOUT
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENETDOWN
            | libc::ENETRESET
            | libc::ENOBUFS
    )
}

/// A pair of connected Unix stream sockets, non-blocking and close-on-exec (socketpair(2)).
///
/// # Errors
/// The call's.
pub fn pair() -> io::Result<(Fd, Fd)> {
    let (a, b) = std::os::unix::net::UnixStream::pair()?;
    Ok((Fd::nonblocking(a)?, Fd::nonblocking(b)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_form() {
        let inet = [
            "127.0.0.1:80",
            "255.255.255.255:65535",
            "[::1]:443",
            "[fe80::1%7]:1",
        ];
        let mut all: Vec<Address> = inet
            .iter()
            .map(|text| text.parse::<SocketAddr>().unwrap().into())
            .collect();
        // As long as the struct has room for: a path's last byte is a zero, a name has none.
        let (path, name) = ("p".repeat(107), "n".repeat(107));
        for path in ["", "/run/a", &path] {
            all.push(UnixAddr::from_pathname(path).unwrap().into());
        }
        for name in ["a", "with\0zero", &name] {
            all.push(UnixAddr::from_abstract_name(name).unwrap().into());
        }
        for address in all {
            let back = RawAddress::from(&address).parse().unwrap();
            assert_eq!(back.to_string(), address.to_string());
            assert_eq!(back.as_inet(), address.as_inet());
        }
    }

    #[test]
    fn other_families_are_refused_by_number() {
        let mut raw = RawAddress::empty();
        raw.storage.ss_family = libc::AF_NETLINK as libc::sa_family_t;
        let error = raw.parse().unwrap_err();
        assert!(error.to_string().contains("16"), "{error}");
    }
}
