//! Operations as plain calls that may block: what a worker does with them.

use std::io;
use std::os::fd::AsFd;

use crate::op::{Op, Output, Token};
use crate::port::Done;
use crate::sys;
use crate::{Fd, net};

/// Runs an operation that needs no readiness: files, opening, closures.
pub(crate) fn blocking(token: Token, op: Op) -> Done {
    let mut op = op;
    let mut transferred = 0;
    let result = match &mut op {
        Op::Read {
            file,
            buf,
            len,
            offset,
        } => sys::maybe_offset(*offset)
            .and_then(|at| sys::read_spare(file.as_fd(), buf, *len, at, 0))
            .map(|n| count(&mut transferred, n)),
        Op::Write { file, buf, offset } => sys::maybe_offset(*offset)
            .and_then(|at| sys::write_at(file.as_fd(), buf, at))
            .map(|n| count(&mut transferred, n)),
        // Of a blocking pipe: sockets need no worker.
        Op::Send { socket, buf, .. } => {
            sys::write_at(socket.as_fd(), buf, -1).map(|n| count(&mut transferred, n))
        }
        Op::SendVectored { socket, bufs, more } => {
            sys::send_vectored(socket.as_fd(), bufs, *more, true)
                .map(|n| count(&mut transferred, n))
        }
        Op::Splice {
            from,
            from_offset,
            to,
            to_offset,
            len,
            more,
        } => sys::splice(
            from.as_fd(),
            *from_offset,
            to.as_fd(),
            *to_offset,
            *len,
            *more,
        )
        .map(|n| count(&mut transferred, n)),
        Op::Open(open) => sys::open(open).map(|fd| Output::Opened(Fd::new(fd))),
        Op::Work(work) => {
            let work = std::mem::replace(work, Box::new(|| Err(spent())));
            // A panic must not cost the pool a thread, nor the operation its completion.
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                .unwrap_or_else(|_| Err(io::Error::other("the closure panicked on its worker")))
                .map(Output::Worked)
        }
        Op::Sync { file, data_only } => sys::sync(file.as_fd(), *data_only).map(|()| Output::Done),
        Op::Shutdown { socket, how } => net::shutdown(socket, *how).map(|()| Output::Done),
        other => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{} does not run on a worker", other.name()),
        )),
    };
    Done {
        token,
        op,
        transferred,
        result,
    }
}

fn count(transferred: &mut u64, n: usize) -> Output {
    *transferred = n as u64;
    Output::Done
}

fn spent() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "this closure has run already")
}
