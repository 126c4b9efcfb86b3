//! Readiness as a C programmer would use it: sendfile(2), and read(2) and write(2), on edges of
//! epoll, a file or what fits for each connection in turn.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
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

/// The loop: connections that are ready take turns.
fn serve<C>(
    listener: TcpListener,
    events: i32,
    accepted: impl Fn(TcpStream) -> C,
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
                epoll.add(&stream, events | libc::EPOLLET, connections.len())?;
                connections.push(Some(accepted(stream)));
            }
        }
        for _ in 0..ready.len() {
            let Some(token) = ready.pop_front() else {
                break;
            };
            let Some(connection) = &mut connections[token] else {
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
    let turn = |(stream, at): &mut (TcpStream, u64)| {
        if !send_file(stream, file, size, at)? {
            return Ok(Next::Wait);
        }
        *at = 0;
        Ok(Next::Again)
    };
    serve(listener, libc::EPOLLOUT, |stream| (stream, 0), turn)
}

/// read(2) and write(2) through a buffer of 64 KiB for each connection.
pub fn stream_read_write(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    struct Connection {
        stream: TcpStream,
        at: u64,
        buffer: Vec<u8>,
        held: std::ops::Range<usize>,
    }
    let accepted = |stream| Connection {
        stream,
        at: 0,
        buffer: vec![0; 64 << 10],
        held: 0..0,
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
    let accepted = |stream| Connection {
        stream,
        input: Vec::new(),
        output: Vec::new(),
        body: None,
    };
    let turn = |c: &mut Connection| {
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
            let mut received = [0; 4096];
            match c.stream.read(&mut received) {
                Ok(0) => return Ok(Next::Gone),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Wait),
                n => c.input.extend_from_slice(&received[..n?]),
            }
        }
    };
    serve(listener, libc::EPOLLIN | libc::EPOLLOUT, accepted, turn)
}
