//! One [`SendFile`] under way: what has been sent, what is in the pipe, and what comes next.
//!
//! The machine knows neither ring nor port. A backend asks for the next step
//! ([`Transfer::advance`]), which makes the direct calls itself, and carries out what may not be
//! done directly: waiting for readiness, and, for [`Method::Chain`], filling the pipe. The count
//! of bytes is kept here alone: what the socket took is sent, what is in the pipe is not, and can
//! be thrown away and taken from the file again.

use std::io;
use std::os::fd::AsFd;

use crate::fd::FileKind;
use crate::net;
use crate::op::{Method, SendFile, SendFileEnd};
use crate::pipe::{Lessee, Pipe, PipePool};
use crate::sys;

/// What a backend must do next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Fill the pipe away from the loop (`fill_offset`, `fill_len`), then drain it.
    Fill,
    /// Wait until the socket is writable, then advance (or drain).
    Writable,
    /// Wait until the source is readable, then advance.
    Readable,
    /// The pool has no pipe: give one with `set_pipe`, or end with `NoPipe`.
    NeedPipe,
    /// The turn's budget is used up: let others go first, then advance.
    Yield,
    /// It is over.
    Done(SendFileEnd),
}

/// The errors with which a kernel says "interrupted, call again" (linux/errno.h's
/// `ERESTARTSYS` and its kin never leave the kernel but in completions).
pub(crate) fn is_restart(errno: i32) -> bool {
    matches!(errno, libc::EINTR | 512..=516)
}

/// Errors of sendfile(2) that speak of the socket; the rest speak of the file.
fn is_socket_error(errno: i32) -> bool {
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

/// Why a transfer can't be run: direct calls on its two ends must not block.
pub(crate) fn unfit(op: &SendFile) -> Option<SendFileEnd> {
    if matches!(op.socket.kind(), FileKind::Socket | FileKind::Pipe)
        && let Err(e) = op.socket.check_nonblocking()
    {
        return Some(SendFileEnd::SocketFailed(e));
    }
    if op.file.kind() == FileKind::Socket
        && let Err(e) = op.file.check_nonblocking()
    {
        return Some(SendFileEnd::SourceFailed(e));
    }
    None
}

pub(crate) struct Transfer {
    op: SendFile,
    /// File bytes that the socket took.
    sent: u64,
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    piped: usize,
    /// Nothing comes behind what is in the pipe.
    end_of_file: bool,
    /// A source read by offset, whose end is known to come when it comes: regular or block device.
    seekable: bool,
    /// The target is a pipe, not a socket.
    to_pipe: bool,
    /// The drain found no room; wait before the next.
    no_room: bool,
    /// The fill found no data; wait before the next.
    no_data: bool,
    /// What is in the pipe is no longer in the file: to be read again.
    stale: bool,
    /// What the socket took last may be held back for what was to follow it.
    corked: bool,
    failed: Option<SendFileEnd>,
}

impl Transfer {
    pub(crate) fn new(op: SendFile) -> Transfer {
        Transfer {
            sent: 0,
            pipe: None,
            piped: 0,
            end_of_file: false,
            seekable: matches!(op.file.kind(), FileKind::Regular | FileKind::BlockDevice),
            to_pipe: op.socket.kind() == FileKind::Pipe,
            no_room: false,
            no_data: false,
            stale: false,
            corked: false,
            failed: None,
            op,
        }
    }

    pub(crate) fn op(&self) -> &SendFile {
        &self.op
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    pub(crate) fn pipe(&self) -> Option<&Pipe> {
        self.pipe.as_ref()
    }

    /// Bytes in the pipe.
    pub(crate) fn piped(&self) -> usize {
        self.piped
    }

    /// File bytes that are neither sent nor in the pipe.
    fn unread(&self) -> u64 {
        self.op.len - self.sent - self.piped as u64
    }

    /// Does what can be done directly, at most about `budget` bytes of it.
    pub(crate) fn advance(&mut self, pipes: &mut PipePool, budget: usize) -> Next {
        let next = self.run(pipes, budget);
        // A transfer that waits gives an empty pipe back; one that ends, any.
        let waits = matches!(next, Next::Writable | Next::Readable | Next::Yield);
        let waits = waits && self.piped == 0;
        if waits || matches!(next, Next::Done(_)) {
            self.release(pipes);
        }
        next
    }

    fn run(&mut self, pipes: &mut PipePool, budget: usize) -> Next {
        let stop = self.sent.saturating_add(budget as u64);
        loop {
            if let Some(end) = self.failed.take() {
                return Next::Done(end);
            }
            if std::mem::take(&mut self.stale) {
                self.release(pipes);
            }
            // Said once: after the wait, the call is made again.
            if std::mem::take(&mut self.no_room) {
                return Next::Writable;
            }
            if std::mem::take(&mut self.no_data) {
                return Next::Readable;
            }
            if !self.op.header.is_empty() {
                self.send_header();
            } else if self.piped == 0 && self.unread() == 0 {
                return Next::Done(SendFileEnd::Complete);
            } else if self.piped == 0 && self.end_of_file {
                return Next::Done(SendFileEnd::EndOfFile);
            } else if self.sent >= stop {
                return Next::Yield;
            } else if self.op.method == Method::Sendfile && self.seekable {
                self.sendfile();
            } else if self.piped > 0 {
                self.drain();
            } else {
                if self.pipe.is_none() {
                    let lessee = match self.op.method {
                        Method::Chain => Lessee::Chain,
                        Method::Inline | Method::Sendfile => Lessee::Direct,
                    };
                    self.pipe = pipes.lease(lessee);
                }
                if self.pipe.is_none() {
                    return Next::NeedPipe;
                }
                if self.op.method == Method::Chain {
                    return Next::Fill;
                }
                self.fill();
            }
        }
    }

    fn send_header(&mut self) {
        let more = self.op.len > 0 || self.op.more;
        let socket = self.op.socket.as_fd();
        let result = if self.to_pipe {
            sys::write_at(socket, &self.op.header, -1)
        } else {
            sys::send(socket, &self.op.header, more)
        };
        match result {
            Ok(n) => {
                self.op.header.advance(n);
                self.corked = more;
            }
            Err(e) => self.socket_error(e),
        }
    }

    fn sendfile(&mut self) {
        const PER_CALL: u64 = 1 << 20;
        let len = self.unread().min(PER_CALL) as usize;
        let offset = self.fill_offset();
        match sys::sendfile(self.op.socket.as_fd(), self.op.file.as_fd(), offset, len) {
            Ok(0) => self.end_of_file = true,
            Ok(n) => {
                self.sent += n as u64;
                // A short read makes the kernel expect more (before Linux 6.5 for good).
                self.corked = n < len;
            }
            Err(e) => match e.raw_os_error() {
                Some(libc::EAGAIN) => self.no_room = true,
                Some(errno) if is_socket_error(errno) => self.socket_error(e),
                _ => self.failed = Some(SendFileEnd::SourceFailed(e)),
            },
        }
    }

    /// Where the next fill starts.
    pub(crate) fn fill_offset(&self) -> Option<u64> {
        let done = self.sent + self.piped as u64;
        self.op.offset.map(|offset| offset + done)
    }

    /// How much the next fill asks for.
    pub(crate) fn fill_len(&self) -> usize {
        let room = self
            .pipe
            .as_ref()
            .map_or(0, |pipe| pipe.room_at(self.fill_offset().unwrap_or(0)));
        self.unread().min(room as u64) as usize
    }

    /// The fill as a direct call: may wait for the disk.
    pub(crate) fn fill(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        let (offset, len) = (self.fill_offset(), self.fill_len());
        let result = sys::splice(
            self.op.file.as_fd(),
            offset,
            pipe.writer(),
            None,
            len,
            false,
        );
        self.filled(result);
    }

    /// Takes a fill's result in.
    pub(crate) fn filled(&mut self, result: io::Result<usize>) {
        match result {
            Ok(0) => self.end_of_file = true,
            Ok(n) => self.piped += n,
            Err(e) => match e.raw_os_error() {
                Some(libc::EAGAIN) if !self.seekable => self.no_data = true,
                Some(errno) if is_restart(errno) || errno == libc::ECANCELED => {}
                _ => self.failed = Some(SendFileEnd::SourceFailed(e)),
            },
        }
    }

    /// Whether more follows behind a drain of all that the pipe will hold: cork (`SPLICE_F_MORE`).
    /// `fill` is what a fill under way will bring at most.
    pub(crate) fn more_behind(&self, fill: usize) -> bool {
        let known = self.seekable && self.op.len != u64::MAX && !self.end_of_file;
        self.op.more || (known && self.unread() > fill as u64)
    }

    fn drain(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        let more = self.more_behind(0);
        let socket = self.op.socket.as_fd();
        let result = sys::splice(pipe.reader(), None, socket, None, self.piped, more);
        self.drained(result);
    }

    /// Takes a drain's result in.
    pub(crate) fn drained(&mut self, result: io::Result<usize>) {
        match result {
            Ok(n) => {
                let n = n.min(self.piped);
                self.piped -= n;
                self.sent += n as u64;
                self.corked = self.more_behind(0);
                self.no_room = n == 0 && self.piped > 0;
            }
            Err(e) => match e.raw_os_error() {
                // The pipe holds pages, not bytes. One whose part of the file was cut off
                // meanwhile is refused; one that could not be read from the disk as well.
                Some(libc::ENODATA) if self.op.offset.is_some() => self.stale = true,
                Some(libc::ENODATA | libc::EIO) => {
                    self.failed = Some(SendFileEnd::SourceFailed(e));
                }
                _ => self.socket_error(e),
            },
        }
    }

    fn socket_error(&mut self, error: io::Error) {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => self.no_room = true,
            Some(errno) if is_restart(errno) || errno == libc::ECANCELED => {}
            _ => self.failed = Some(SendFileEnd::SocketFailed(error)),
        }
    }

    /// Whether the last drain left a rest behind for want of room.
    pub(crate) fn has_rest(&self) -> bool {
        self.failed.is_none() && self.piped > 0 && !self.stale
    }

    pub(crate) fn set_pipe(&mut self, pipe: Pipe) {
        debug_assert!(self.pipe.is_none());
        self.pipe = Some(pipe);
    }

    /// Takes the pipe from a transfer that waits for its peer, rest and all; the rest will be
    /// read again. Refused where the source can't be read again.
    pub(crate) fn give_up_pipe(&mut self, pipes: &mut PipePool) -> bool {
        if self.op.offset.is_none() || self.pipe.is_none() {
            return false;
        }
        self.release(pipes);
        true
    }

    /// Gives the pipe back, if there is one. What was in it counts as unread again.
    pub(crate) fn release(&mut self, pipes: &mut PipePool) {
        if let Some(pipe) = self.pipe.take() {
            pipes.give_back(pipe, self.piped);
            self.piped = 0;
        }
    }

    /// The operation, for its completion, and the bytes sent. Pushes out what is corked for bytes
    /// that do not come now.
    pub(crate) fn finish(mut self, pipes: &mut PipePool) -> (SendFile, u64) {
        self.release(pipes);
        if self.corked && !self.op.more {
            net::push_out(self.op.socket.as_fd());
        }
        (self.op, self.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::SendBuf;
    use crate::fd::Fd;
    use crate::pipe::PipeLimits;
    use std::io::{Read, Write};

    const LEN: u64 = 300_000;

    fn pool(count: usize) -> PipePool {
        PipePool::new(PipeLimits {
            count,
            size: 64 << 10,
        })
    }

    fn file() -> Fd {
        // SAFETY: the name is a C string.
        let file = sys::own(unsafe { libc::memfd_create(c"t".as_ptr(), 0) }).unwrap();
        let mut file = std::fs::File::from(file);
        file.write_all(&vec![7; LEN as usize]).unwrap();
        Fd::new(file)
    }

    fn transfer(method: Method, len: u64) -> (Transfer, std::os::unix::net::UnixStream) {
        let (ours, peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let op = SendFile {
            header: SendBuf::new(),
            file: file(),
            socket: Fd::nonblocking(ours).unwrap(),
            offset: Some(0),
            len,
            more: false,
            method,
        };
        (Transfer::new(op), peer)
    }

    fn error(errno: i32) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn a_turn_is_bounded() {
        let mut pool = pool(1);
        for method in [Method::Inline, Method::Sendfile] {
            let (mut transfer, _peer) = transfer(method, LEN);
            assert!(matches!(transfer.advance(&mut pool, 1), Next::Yield));
            let sent = transfer.sent();
            assert!((1..LEN).contains(&sent) || method == Method::Sendfile);
            // Between turns it holds no empty pipe.
            assert_eq!(pool.leased(), 0);
        }
    }

    #[test]
    fn what_is_in_the_pipe_is_not_sent() {
        let mut pool = pool(1);
        let (mut transfer, _peer) = transfer(Method::Chain, LEN);
        assert!(matches!(transfer.advance(&mut pool, 1), Next::Fill));
        assert_eq!(transfer.fill_offset(), Some(0));
        assert_eq!(transfer.fill_len(), 64 << 10);
        transfer.filled(Ok(10_000));
        assert_eq!((transfer.piped(), transfer.sent()), (10_000, 0));
        transfer.drained(Ok(4_000));
        assert_eq!((transfer.piped(), transfer.sent()), (6_000, 4_000));
        assert!(transfer.has_rest());
        assert_eq!(transfer.fill_offset(), Some(10_000));
        // Thrown away, it is read again.
        assert!(transfer.give_up_pipe(&mut pool));
        assert_eq!((transfer.piped(), transfer.sent()), (0, 4_000));
        assert_eq!(transfer.fill_offset(), Some(4_000));
        // The pipe was not empty: it is closed, not kept for another.
        assert_eq!((pool.leased(), pool.idle()), (0, 0));
        assert!(!transfer.give_up_pipe(&mut pool));
    }

    #[test]
    fn a_wait_is_reported_once() {
        let mut pool = pool(1);
        let (mut transfer, _peer) = transfer(Method::Chain, LEN);
        assert!(matches!(transfer.advance(&mut pool, 1), Next::Fill));
        transfer.filled(Ok(10));
        transfer.drained(error(libc::EAGAIN));
        assert!(matches!(transfer.advance(&mut pool, 1), Next::Writable));
        // The pipe, with what is in it, is kept meanwhile.
        assert_eq!(transfer.piped(), 10);
        transfer.drained(Ok(10));
        assert!(matches!(transfer.advance(&mut pool, 1), Next::Fill));
    }

    #[test]
    fn interruptions_are_no_errors() {
        let mut pool = pool(1);
        let (mut transfer, _peer) = transfer(Method::Chain, LEN);
        for errno in [libc::EINTR, 512, 513, 514, 516, libc::ECANCELED] {
            assert!(matches!(transfer.advance(&mut pool, 1), Next::Fill));
            transfer.filled(error(errno));
            assert!(matches!(transfer.advance(&mut pool, 1), Next::Fill));
            transfer.filled(Ok(1));
            transfer.drained(error(errno));
            assert!(transfer.has_rest());
            transfer.drained(Ok(1));
        }
        assert_eq!(transfer.sent(), 6);
    }

    #[test]
    fn errors_are_told_apart() {
        let mut pool = pool(4);
        let (mut transfer, _peer) = transfer(Method::Chain, LEN);
        transfer.advance(&mut pool, 1);
        transfer.filled(error(libc::EIO));
        let next = transfer.advance(&mut pool, 1);
        assert!(matches!(next, Next::Done(SendFileEnd::SourceFailed(_))));
        for (errno, source) in [(libc::EPIPE, false), (libc::EIO, true)] {
            let (mut transfer, _peer) = self::transfer(Method::Chain, LEN);
            transfer.advance(&mut pool, 1);
            transfer.filled(Ok(10));
            transfer.drained(Ok(3));
            transfer.drained(error(errno));
            assert!(!transfer.has_rest());
            match transfer.advance(&mut pool, 1) {
                Next::Done(SendFileEnd::SourceFailed(_)) => assert!(source),
                Next::Done(SendFileEnd::SocketFailed(_)) => assert!(!source),
                other => panic!("{other:?}"),
            }
            assert_eq!(transfer.finish(&mut pool).1, 3);
        }
        assert_eq!(pool.leased(), 0);
    }

    #[test]
    fn pages_cut_off_are_read_again() {
        let mut pool = pool(1);
        let (mut transfer, _peer) = transfer(Method::Chain, LEN);
        transfer.advance(&mut pool, 1);
        transfer.filled(Ok(10));
        transfer.drained(error(libc::ENODATA));
        assert!(!transfer.has_rest());
        assert!(matches!(transfer.advance(&mut pool, 1), Next::Fill));
        assert_eq!(transfer.fill_offset(), Some(0));
        transfer.filled(Ok(0));
        let next = transfer.advance(&mut pool, 1);
        assert!(matches!(next, Next::Done(SendFileEnd::EndOfFile)));
    }

    #[test]
    fn the_last_drain_is_not_corked() {
        let mut pool = pool(1);
        let (mut transfer, _peer) = transfer(Method::Chain, 100);
        transfer.advance(&mut pool, 1);
        // All that is wanted is in the fill: nothing follows.
        assert!(!transfer.more_behind(100));
        assert!(transfer.more_behind(99));
        transfer.filled(Ok(60));
        assert!(transfer.more_behind(0));
        transfer.drained(Ok(60));
        transfer.filled(Ok(40));
        assert!(!transfer.more_behind(0));
        // Until the end of the file: no one knows, so nothing is held back.
        let (transfer, _peer) = self::transfer(Method::Chain, u64::MAX);
        assert!(!transfer.more_behind(0));
    }

    #[test]
    fn no_pipe_for_nothing() {
        let mut pool = pool(0);
        let (mut transfer, _peer) = transfer(Method::Inline, 0);
        let next = transfer.advance(&mut pool, 1);
        assert!(matches!(next, Next::Done(SendFileEnd::Complete)));
        let (mut transfer, _peer) = self::transfer(Method::Inline, 1);
        assert!(matches!(transfer.advance(&mut pool, 1), Next::NeedPipe));
    }

    #[test]
    fn one_goes_through() {
        let mut pool = pool(1);
        for method in [Method::Inline, Method::Sendfile, Method::Chain] {
            let (mut transfer, mut peer) = transfer(method, u64::MAX);
            peer.set_nonblocking(true).unwrap();
            let mut got = 0;
            let mut buf = vec![0; 1 << 20];
            let end = loop {
                match transfer.advance(&mut pool, 100_000) {
                    Next::Fill => transfer.fill(),
                    Next::Writable | Next::Yield => got += peer.read(&mut buf).unwrap_or(0),
                    Next::Done(end) => break end,
                    other => panic!("{other:?}"),
                }
            };
            assert!(matches!(end, SendFileEnd::EndOfFile));
            let (op, sent) = transfer.finish(&mut pool);
            drop(op);
            peer.set_nonblocking(false).unwrap();
            got += peer.read_to_end(&mut Vec::new()).unwrap();
            assert_eq!((sent, got as u64), (LEN, LEN));
        }
        assert_eq!(pool.leased(), 0);
    }
}
