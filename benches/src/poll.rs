//! What the clients share: connections watched by one epoll, read without copying (`MSG_TRUNC`),
//! and never slept for.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

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
}
