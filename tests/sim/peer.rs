//! The other end of a connection, in the test's own hands.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use spliceport::proactor::Fd;

use super::program::{Medium, Program};

/// The peer's end, non-blocking.
pub enum Peer {
    Socket(UnixStream),
    Tcp(std::net::TcpStream),
    /// Reads the pipe that is written to.
    Pipe(File),
    /// Writes the pipe that is read.
    PipeWriter(File),
    Closed,
}

impl Peer {
    pub fn reader(&mut self) -> Option<&mut dyn Read> {
        match self {
            Peer::Socket(stream) => Some(stream),
            Peer::Tcp(stream) => Some(stream),
            Peer::Pipe(file) => Some(file),
            Peer::PipeWriter(_) | Peer::Closed => None,
        }
    }

    pub fn writer(&mut self) -> Option<&mut dyn Write> {
        match self {
            Peer::Socket(stream) => Some(stream),
            Peer::Tcp(stream) => Some(stream),
            Peer::PipeWriter(file) => Some(file),
            Peer::Pipe(_) | Peer::Closed => None,
        }
    }

    /// Ends its sending; false where it has none.
    pub fn shut(&mut self) -> bool {
        let write = std::net::Shutdown::Write;
        match self {
            Peer::Socket(stream) => stream.shutdown(write).is_ok(),
            Peer::Tcp(stream) => stream.shutdown(write).is_ok(),
            Peer::PipeWriter(_) => {
                *self = Peer::Closed;
                true
            }
            Peer::Pipe(_) | Peer::Closed => false,
        }
    }

    /// Its closing will be a reset.
    pub fn reset_on_close(&self) {
        if let Peer::Tcp(stream) = self {
            let socket = Fd::new(OwnedFd::from(stream.try_clone().unwrap()));
            spliceport::proactor::net::set_reset_on_close(&socket).unwrap();
        }
    }

    /// Whether it reads a pipe.
    pub fn is_pipe(&self) -> bool {
        matches!(self, Peer::Pipe(_))
    }
}

/// A connection over a pair of Unix sockets, or a pipe.
pub fn local(program: &Program) -> (Fd, Peer) {
    if program.medium != Medium::Socket {
        let (reader, writer) = io::pipe().unwrap();
        let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
        let reads = program.medium == Medium::PipeIn;
        let (ours, peer) = if reads {
            (reader, writer)
        } else {
            (writer, reader)
        };
        rustix::io::ioctl_fionbio(&peer, true).unwrap();
        let peer = File::from(peer);
        let peer = if reads {
            Peer::PipeWriter(peer)
        } else {
            Peer::Pipe(peer)
        };
        return (Fd::new(ours), peer);
    }
    let (ours, peer) = UnixStream::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    let ours = Fd::new(OwnedFd::from(ours));
    if let Some(size) = program.send_buffer {
        spliceport::proactor::net::set_buffer_sizes(&ours, Some(size), None).unwrap();
    }
    (ours, Peer::Socket(peer))
}

/// A connection over TCP.
pub fn tcp() -> (Fd, Peer) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_nonblocking(true).unwrap();
    let (ours, _) = listener.accept().unwrap();
    (Fd::new(OwnedFd::from(ours)), Peer::Tcp(peer))
}
