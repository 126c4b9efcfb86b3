//! Readiness as a C programmer would use it: sendfile(2), and read(2) and write(2), on edges of
//! epoll, a file or what fits for each connection in turn; and a proxy by splice(2).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use super::site::{self, Site};
use super::syscall::{self, Epoll};

/// What becomes of a connection after its turn.
enum Next {
    /// It has more to send, and room.
    Again,
    /// It waits for an edge.
    Wait,
    Gone,
}

/// Has another socket of a connection watched too.
type Watch<'a> = &'a dyn Fn(&TcpStream) -> io::Result<()>;

/// The loop: connections that are ready take turns.
fn serve<C>(
    listener: TcpListener,
    events: i32,
    accepted: impl Fn(TcpStream, Watch<'_>) -> io::Result<C>,
    turn: impl Fn(&mut C) -> io::Result<Next>,
) -> io::Result<()> {
    const LISTENER: usize = usize::MAX;
    let epoll = Epoll::new()?;
    listener.set_nonblocking(true)?;
    epoll.add(&listener, libc::EPOLLIN, LISTENER)?;
    let mut connections: Vec<Option<C>> = Vec::new();
    let mut ready: VecDeque<usize> = VecDeque::new();
    let mut room = syscall::events();
    loop {
        let timeout = if ready.is_empty() { -1 } else { 0 };
        for event in epoll.wait(&mut room, timeout)? {
            let token = event.u64 as usize;
            if token != LISTENER {
                ready.push_back(token);
                continue;
            }
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                let token = connections.len();
                let watch = |more: &TcpStream| epoll.add(more, events | libc::EPOLLET, token);
                watch(&stream)?;
                connections.extend(accepted(stream, &watch).ok().map(Some));
            }
        }
        for _ in 0..ready.len() {
            let Some(token) = ready.pop_front() else {
                break;
            };
            let Some(Some(connection)) = connections.get_mut(token) else {
                continue;
            };
            match turn(connection) {
                Ok(Next::Again) => ready.push_back(token),
                Ok(Next::Wait) => {}
                Ok(Next::Gone) | Err(_) => connections[token] = None,
            }
        }
    }
}

/// sendfile(2) until the file is sent (true) or there is no room (false).
fn send_file(stream: &TcpStream, file: &File, size: u64, at: &mut u64) -> io::Result<bool> {
    while *at < size {
        match syscall::sendfile(stream, file, at, (size - *at).min(2 << 20)) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            sent => sent?,
        };
    }
    Ok(true)
}

/// sendfile(2), as nginx and lighttpd use it.
pub fn stream_sendfile(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    stream_files(listener, file, size, true)
}

pub fn stream_plain(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    stream_files(listener, file, size, false)
}

fn stream_files(
    listener: TcpListener,
    file: &'static File,
    size: u64,
    cork: bool,
) -> io::Result<()> {
    /// What a connection sends in its turn, in whole files.
    const TURN: u64 = 1 << 20;
    let turn = |(stream, at): &mut (TcpStream, u64)| {
        let mut sent = 0;
        while sent < TURN {
            if !send_file(stream, file, size, at)? {
                return Ok(Next::Wait);
            }
            *at = 0;
            sent += size;
        }
        Ok(Next::Again)
    };
    let accepted = |stream, _: Watch<'_>| {
        if cork {
            syscall::cork(&stream)?;
        }
        Ok((stream, 0))
    };
    serve(listener, libc::EPOLLOUT, accepted, turn)
}

/// read(2) and write(2) through a buffer of 64 KiB for each connection.
pub fn stream_read_write(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    struct Connection {
        stream: TcpStream,
        at: u64,
        buffer: Vec<u8>,
        held: std::ops::Range<usize>,
    }
    let accepted = |stream, _: Watch<'_>| {
        syscall::cork(&stream)?;
        Ok(Connection {
            stream,
            at: 0,
            buffer: vec![0; 64 << 10],
            held: 0..0,
        })
    };
    let turn = |c: &mut Connection| {
        loop {
            if c.held.is_empty() {
                if c.at == size {
                    c.at = 0;
                    return Ok(Next::Again);
                }
                let len = (size - c.at).min(c.buffer.len() as u64) as usize;
                let n = file.read_at(&mut c.buffer[..len], c.at)?;
                c.at += n as u64;
                c.held = 0..n;
            }
            match c.stream.write(&c.buffer[c.held.clone()]) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Wait),
                n => c.held.start += n?,
            }
        }
    };
    serve(listener, libc::EPOLLOUT, accepted, turn)
}

/// A small HTTP server: head and body of a small file in one send, else sendfile(2) behind the head.
pub fn http(listener: TcpListener, site: &'static Site) -> io::Result<()> {
    struct Connection {
        stream: TcpStream,
        input: Vec<u8>,
        /// What is left of a response: bytes, then the file from a position.
        output: Vec<u8>,
        body: Option<(&'static File, u64, u64)>,
    }
    let accepted = |stream, _: Watch<'_>| {
        Ok(Connection {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            body: None,
        })
    };
    let turn = |c: &mut Connection| {
        // Whether nothing more had come when it was last read.
        let mut empty = false;
        loop {
            if !c.output.is_empty() {
                let more = if c.body.is_some() { libc::MSG_MORE } else { 0 };
                match syscall::send(&c.stream, &c.output, more) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Wait),
                    n => c.output.drain(..n?),
                };
                continue;
            }
            if let Some((file, size, at)) = &mut c.body {
                if !send_file(&c.stream, file, *size, at)? {
                    return Ok(Next::Wait);
                }
                c.body = None;
            }
            if let Some((path, length)) = site::request(&c.input)? {
                let entry = site.get(path)?;
                c.output.extend_from_slice(entry.head.as_bytes());
                if entry.length <= 32 << 10 {
                    let head = c.output.len();
                    c.output.resize(head + entry.length as usize, 0);
                    entry.file.read_exact_at(&mut c.output[head..], 0)?;
                } else {
                    c.body = Some((&entry.file, entry.length, 0));
                }
                c.input.drain(..length);
                continue;
            }
            if empty {
                return Ok(Next::Wait);
            }
            let mut received = [0; 4096];
            match c.stream.read(&mut received) {
                Ok(0) => return Ok(Next::Gone),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Wait),
                n => {
                    let n = n?;
                    // A short read has taken all that there was.
                    empty = n < received.len();
                    c.input.extend_from_slice(&received[..n]);
                }
            }
        }
    };
    serve(listener, libc::EPOLLIN | libc::EPOLLOUT, accepted, turn)
}

/// One direction of a proxy.
struct Flow {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

/// What a pipe of a direction holds, and the most that it moves in its turn.
const PIPE: usize = 1 << 20;

impl Flow {
    fn new() -> io::Result<Flow> {
        let (read, write) = syscall::pipe()?;
        Ok(Flow {
            read,
            write,
            held: 0,
        })
    }

    /// Moves what there is, as far as there is room.
    fn turn(&mut self, from: &TcpStream, to: &TcpStream) -> io::Result<Next> {
        let would_block = |moved: io::Result<usize>| match moved {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            n => n.map(Some),
        };
        let (flags, mut moved) = (libc::SPLICE_F_NONBLOCK, 0);
        while moved < PIPE {
            let mut taken = None;
            if self.held < PIPE {
                let len = PIPE - self.held;
                taken = would_block(syscall::splice(from, &self.write, None, len, flags))?;
                if taken == Some(0) {
                    return Ok(Next::Gone);
                }
                self.held += taken.unwrap_or(0);
            }
            let mut given = None;
            if self.held > 0 {
                given = would_block(syscall::splice(&self.read, to, None, self.held, flags))?;
                self.held -= given.unwrap_or(0);
            }
            // A full pipe has something to give, so that one of both sockets has an edge to come.
            if taken.is_none() && given.is_none() {
                return Ok(Next::Wait);
            }
            moved += given.unwrap_or(0);
        }
        Ok(Next::Again)
    }
}

/// splice(2) from socket to pipe to socket. Either's end is the end of both: a real one would pass
/// it on.
pub fn relay(listener: TcpListener, upstream: SocketAddr) -> io::Result<()> {
    struct Pair {
        near: TcpStream,
        far: TcpStream,
        forth: Flow,
        back: Flow,
    }
    let accepted = |near, watch: Watch<'_>| {
        let far = TcpStream::connect(upstream)?;
        far.set_nonblocking(true)?;
        far.set_nodelay(true)?;
        watch(&far)?;
        let (forth, back) = (Flow::new()?, Flow::new()?);
        Ok(Pair {
            near,
            far,
            forth,
            back,
        })
    };
    let turn = |pair: &mut Pair| {
        let forth = pair.forth.turn(&pair.near, &pair.far)?;
        let back = pair.back.turn(&pair.far, &pair.near)?;
        Ok(match (forth, back) {
            (Next::Gone, _) | (_, Next::Gone) => Next::Gone,
            (Next::Wait, Next::Wait) => Next::Wait,
            _ => Next::Again,
        })
    };
    serve(listener, libc::EPOLLIN | libc::EPOLLOUT, accepted, turn)
}
