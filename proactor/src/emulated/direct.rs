//! Operations tried as plain calls that don't wait, and what comes of each try.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::backend::Context;
use crate::buf::BufGroup;
use crate::fd::{Fd, FileKind};
use crate::net;
use crate::op::{Completion, Op, Output, Token};
use crate::sys;

use super::poller::Direction;
use crate::epoll::{IN, OUT};

/// What a try came to.
pub(super) enum Try {
    /// The operation is over.
    Done {
        result: io::Result<Output>,
        transferred: u64,
        /// The kernel moved less than was asked for.
        short: bool,
    },
    /// Not now: an edge at home will tell.
    Home,
    /// Not now: an edge in the direction at this descriptor will tell.
    Guest(Fd, Direction),
    /// Not now: others wait at this descriptor.
    Behind(Fd, Direction),
    /// This would block: it is for a worker.
    Worker,
    /// A worker is to make the transfer's next call.
    Step,
    /// It could go on, but others come first.
    Again,
    /// No buffer is free.
    NoBuffer,
}

impl Try {
    pub(super) fn fail(error: io::Error) -> Try {
        Try::Done {
            result: Err(error),
            transferred: 0,
            short: false,
        }
    }

    fn done(output: Output) -> Try {
        Try::Done {
            result: Ok(output),
            transferred: 0,
            short: false,
        }
    }
}

/// Connections that one turn of an [`Op::AcceptMulti`] accepts.
const ACCEPTS: usize = 32;
/// Buffers that one turn of an [`Op::RecvMulti`] fills.
const BUFFERS: usize = 8;

/// A file: calls wait for a disk, and readiness means nothing.
pub(super) fn is_file(fd: &Fd) -> bool {
    matches!(
        fd.kind(),
        FileKind::Regular | FileKind::Directory | FileKind::BlockDevice
    )
}

/// Where an operation stands in line; `None` if it needs no readiness.
pub(super) fn home(op: &Op) -> Option<(&Fd, Direction)> {
    match op {
        Op::Accept { listener } | Op::AcceptMulti { listener } => Some((listener, Direction::Read)),
        Op::Recv { socket, .. } | Op::RecvMulti { socket } => Some((socket, Direction::Read)),
        Op::Connect { socket, .. } | Op::Send { socket, .. } | Op::SendVectored { socket, .. } => {
            Some((socket, Direction::Write))
        }
        Op::Read { file, .. } if !is_file(file) => Some((file, Direction::Read)),
        Op::Write { file, .. } if !is_file(file) => Some((file, Direction::Write)),
        Op::Splice { from, .. } if !is_file(from) => Some((from, Direction::Read)),
        Op::Splice { to, .. } if !is_file(to) => Some((to, Direction::Write)),
        _ => None,
    }
}

/// Tries an operation. `begun` says that it has been tried before; `plain`, that a short count
/// says "empty" ([`Registration::is_plain`](super::poller::Registration::is_plain)).
/// Multishot operations complete through `cx` as far as they get.
pub(super) fn attempt(
    cx: &mut Context,
    token: Token,
    op: &mut Op,
    begun: bool,
    plain: bool,
) -> Try {
    match op {
        Op::Accept { listener } => accept(listener),
        Op::AcceptMulti { listener } => accept_multi(cx, token, listener),
        Op::Connect { socket, address } => connect(socket, address, begun),
        Op::Recv { socket, buf } => {
            let room = buf.capacity() - buf.len();
            let result = sys::recv_spare(socket.as_fd(), buf, room);
            // Zero is the end of the stream, and stays to be read.
            counted(result, |n| n > 0 && n < room)
        }
        Op::RecvMulti { socket } => recv_multi(cx, token, socket, plain),
        Op::Send { socket, buf, more } => {
            let len = buf.len();
            if socket.kind() != FileKind::Pipe {
                let result = sys::send(socket.as_fd(), buf, *more);
                counted(result, |n| n < len)
            } else {
                unless_blocking(socket, Direction::Write, || {
                    sys::write_at(socket.as_fd(), buf, -1)
                })
            }
        }
        Op::SendVectored { socket, bufs, more } => {
            if socket.kind() != FileKind::Pipe {
                let len: usize = bufs.iter().take(sys::MAX_IOV).map(|buf| buf.len()).sum();
                let result = sys::send_vectored(socket.as_fd(), bufs, *more, false);
                counted(result, |n| n < len)
            } else {
                unless_blocking(socket, Direction::Write, || {
                    sys::send_vectored(socket.as_fd(), bufs, *more, true)
                })
            }
        }
        Op::Read {
            file,
            buf,
            len,
            offset,
        } => match (file.kind(), *offset) {
            (FileKind::Regular | FileKind::BlockDevice, Some(offset)) => {
                match file.read_nowait(buf, *len, offset) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => Try::Worker,
                    result => counted(result, |_| false),
                }
            }
            (FileKind::Regular | FileKind::BlockDevice | FileKind::Directory, _) => Try::Worker,
            (FileKind::Socket, None) => {
                let room = (buf.capacity() - buf.len()).min(*len);
                let result = sys::recv_spare(file.as_fd(), buf, room);
                counted(result, |n| n > 0 && n < room)
            }
            (_, offset) => unless_blocking(file, Direction::Read, || {
                sys::read_spare(file.as_fd(), buf, *len, sys::maybe_offset(offset)?, 0)
            }),
        },
        Op::Write { file, buf, offset } => match (file.kind(), *offset) {
            (FileKind::Regular | FileKind::BlockDevice | FileKind::Directory, _) => Try::Worker,
            (FileKind::Socket, None) => {
                let len = buf.len();
                counted(sys::send(file.as_fd(), buf, false), |n| n < len)
            }
            (_, offset) => unless_blocking(file, Direction::Write, || {
                sys::write_at(file.as_fd(), buf, sys::maybe_offset(offset)?)
            }),
        },
        Op::Splice { .. } => splice(op),
        Op::Sync { .. } => Try::Worker,
        Op::Open(open) => match sys::open_cached(open) {
            Some(fd) => Try::done(Output::Opened(Fd::new(fd))),
            None => Try::Worker,
        },
        other => Try::fail(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{} is not tried directly", other.name()),
        )),
    }
}

fn counted(result: io::Result<usize>, short: impl FnOnce(usize) -> bool) -> Try {
    match result {
        Ok(n) => Try::Done {
            result: Ok(Output::Done),
            transferred: n as u64,
            short: short(n),
        },
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Try::Home,
        Err(e) => Try::fail(e),
    }
}

/// The readiness that is there now, out of `events` (and errors).
pub(super) fn poll_now(fd: &Fd, events: i16) -> io::Result<i16> {
    sys::poll(fd.as_fd(), events, Some(Duration::ZERO))
}

/// True where even an error counts as ready: the call will tell.
pub(super) fn is_ready(fd: &Fd, direction: Direction) -> bool {
    let events = match direction {
        Direction::Read => IN,
        Direction::Write => OUT,
    };
    !matches!(poll_now(fd, events), Ok(0))
}

/// Makes a call on a pipe, terminal or the like. Where its descriptor is a blocking one (it has
/// been inherited, say), a worker makes the call, once the descriptor is ready.
fn unless_blocking(fd: &Fd, direction: Direction, call: impl FnOnce() -> io::Result<usize>) -> Try {
    if fd.is_nonblocking() {
        counted(call(), |_| false)
    } else if is_ready(fd, direction) {
        Try::Worker
    } else {
        Try::Home
    }
}

fn accept(listener: &Fd) -> Try {
    if let Err(e) = listener.check_nonblocking() {
        return Try::fail(e);
    }
    for _ in 0..ACCEPTS {
        match net::accept(listener.as_fd()) {
            Ok(fd) => return Try::done(Output::Accepted(fd)),
            // The peer was gone before its turn came: that was not the listener's error.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ECONNABORTED | libc::EPROTO)) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Try::Home,
            Err(e) => return Try::fail(e),
        }
    }
    Try::Again
}

fn accept_multi(cx: &mut Context, token: Token, listener: &Fd) -> Try {
    for _ in 0..ACCEPTS {
        match accept(listener) {
            Try::Done {
                result: Ok(output), ..
            } => {
                let completion = Completion {
                    result: Ok(output),
                    transferred: 0,
                    op: None,
                };
                cx.complete(token, completion);
            }
            other => return other,
        }
    }
    Try::Again
}

fn connect(socket: &Fd, address: &net::Address, begun: bool) -> Try {
    if begun {
        // What ended the wait may have been an edge from before the call.
        return match poll_now(socket, OUT) {
            Ok(0) => Try::Home,
            Ok(_) => match net::take_error(socket) {
                Ok(None) => Try::done(Output::Done),
                Ok(Some(e)) | Err(e) => Try::fail(e),
            },
            Err(e) => Try::fail(e),
        };
    }
    if let Err(e) = socket.check_nonblocking() {
        return Try::fail(e);
    }
    match net::connect(socket.as_fd(), address) {
        Ok(()) => Try::done(Output::Done),
        // A signal does not end the attempt (connect(2)).
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINPROGRESS | libc::EINTR)) => Try::Home,
        Err(e) => Try::fail(e),
    }
}

fn recv_multi(cx: &mut Context, token: Token, socket: &Fd, plain: bool) -> Try {
    for _ in 0..BUFFERS {
        let data = match BufGroup::recv(&cx.bufs, socket.as_fd()) {
            None => return Try::NoBuffer,
            Some(Ok(data)) => data,
            Some(Err(e)) if e.kind() == io::ErrorKind::WouldBlock => return Try::Home,
            Some(Err(e)) => return Try::fail(e),
        };
        let n = data.len();
        if n == 0 {
            return Try::done(Output::Data(data));
        }
        let completion = Completion {
            result: Ok(Output::Data(data)),
            transferred: n as u64,
            op: None,
        };
        cx.complete(token, completion);
        if plain && n < cx.bufs.size() {
            return Try::Home;
        }
    }
    Try::Again
}

/// The direction that a splice needs besides its home's, if that is at another descriptor that
/// can be waited for.
pub(super) fn other_side(op: &Op) -> Option<(&Fd, Direction)> {
    match op {
        Op::Splice { from, to, .. } if !is_file(from) && !is_file(to) => {
            Some((to, Direction::Write))
        }
        _ => None,
    }
}

fn splice(op: &mut Op) -> Try {
    let (home_fd, direction) = match home(op) {
        // Between two files the kernel refuses it, in its own words.
        None => return Try::Worker,
        Some((fd, direction)) => (fd.clone(), direction),
    };
    let with_file = other_side(op).is_none();
    let Op::Splice {
        from,
        from_offset,
        to,
        to_offset,
        len,
        more,
    } = op
    else {
        return Try::Worker;
    };
    if with_file {
        return if is_ready(&home_fd, direction) {
            Try::Worker
        } else {
            Try::Home
        };
    }
    for fd in [&*from, &*to] {
        // A pipe's own flag does not matter: the call says SPLICE_F_NONBLOCK.
        if fd.kind() == FileKind::Socket
            && let Err(e) = fd.check_nonblocking()
        {
            return Try::fail(e);
        }
    }
    let (from_fd, to_fd) = (from.as_fd(), to.as_fd());
    match sys::splice(from_fd, *from_offset, to_fd, *to_offset, *len, *more) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
            if !is_ready(from, Direction::Read) {
                Try::Home
            } else if !is_ready(to, Direction::Write) {
                Try::Guest(to.clone(), Direction::Write)
            } else {
                // Both have become ready meanwhile.
                Try::Again
            }
        }
        result => counted(result, |_| false),
    }
}
