//! What the clients share: connections watched by one epoll, read without copying (`MSG_TRUNC`),
//! and never slept for.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::peers::syscall::{self, Epoll, check};

/// Connections, and which of them have something to read.
pub struct Clients {
    pub streams: Vec<TcpStream>,
    epoll: Epoll,
    room: Vec<libc::epoll_event>,
}

impl Clients {
    pub fn connect(address: SocketAddr, count: usize) -> io::Result<Clients> {
        let streams = (0..count).map(|_| TcpStream::connect(address));
        Clients::watch(streams.collect::<io::Result<_>>()?, |_| libc::EPOLLIN)
    }

    /// Connections that there are, each watched for what is said of its index.
    pub fn watch(streams: Vec<TcpStream>, events: impl Fn(usize) -> i32) -> io::Result<Clients> {
        let epoll = Epoll::new()?;
        for (index, stream) in streams.iter().enumerate() {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll.add(stream, events(index), index)?;
        }
        let room = syscall::events();
        Ok(Clients {
            streams,
            epoll,
            room,
        })
    }

    /// Those that have something to read now, or what else they are watched for.
    pub fn ready(&mut self, into: &mut Vec<usize>) -> io::Result<()> {
        self.look(into, 0)
    }

    /// The same, but sleeps until there is one.
    pub fn wait(&mut self, into: &mut Vec<usize>) -> io::Result<()> {
        self.look(into, -1)
    }

    fn look(&mut self, into: &mut Vec<usize>, timeout: i32) -> io::Result<()> {
        into.clear();
        let events = self.epoll.wait(&mut self.room, timeout)?;
        into.extend(events.iter().map(|event| event.u64 as usize));
        Ok(())
    }

    /// Throws away what there is to read: how much it was, none if there was nothing.
    pub fn discard(&self, index: usize) -> io::Result<Option<u64>> {
        let fd = self.streams[index].as_raw_fd();
        // SAFETY: with MSG_TRUNC, TCP throws the bytes away and writes nothing (tcp(7)).
        let got = unsafe { libc::recv(fd, std::ptr::null_mut(), 8 << 20, libc::MSG_TRUNC) };
        match check(got) {
            Ok(0) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed a connection",
            )),
            Ok(n) => Ok(Some(n as u64)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Has the kernel note when what comes arrives; it begins to a moment later.
    pub fn stamp(&self) -> io::Result<()> {
        let on: libc::c_int = 1;
        let len = size_of_val(&on) as libc::socklen_t;
        for stream in &self.streams {
            let (fd, pointer) = (stream.as_raw_fd(), (&raw const on).cast());
            // SAFETY: the kernel reads the integer alone.
            let result = unsafe {
                libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, pointer, len)
            };
            check(result as isize)?;
        }
        Ok(())
    }

    /// As [`discard`](Clients::discard), and when the last of it arrived, by the system's clock, if
    /// the kernel has noted that.
    pub fn discard_stamped(&self, index: usize) -> io::Result<Option<(u64, Option<Duration>)>> {
        let mut control = [0_u64; 8];
        let mut nowhere = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 8 << 20,
        };
        // SAFETY: a message of zeros is an empty one; it points to one iovec and to the room for
        // control messages, on this stack frame. With MSG_TRUNC, TCP throws the bytes away and
        // writes nothing through the iovec (tcp(7)). Control messages are read where the kernel put
        // them, by its macros.
        unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = &raw mut nowhere;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control) as _;
            let fd = self.streams[index].as_raw_fd();
            let got = check(libc::recvmsg(fd, &raw mut message, libc::MSG_TRUNC));
            let got = match got {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => n as u64,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e),
            };
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            if header.is_null() || (*header).cmsg_type != libc::SCM_TIMESTAMPNS {
                return Ok(Some((got, None)));
            }
            let at: libc::timespec = std::ptr::read_unaligned(libc::CMSG_DATA(header).cast());
            let at = Duration::new(at.tv_sec as u64, at.tv_nsec as u32);
            Ok(Some((got, Some(at))))
        }
    }
}
