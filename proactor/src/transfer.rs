//! One [`SendFile`](crate::SendFile) or [`Forward`](crate::Forward) under way: what has been moved,
//! what is in the pipe, and what comes next.
//!
//! The machine knows neither ring nor port. A backend asks for the next step
//! ([`Transfer::advance`]), which makes the direct calls itself, and carries out what may not be
//! done directly: waiting for readiness; for [`Method::Chain`], filling the pipe from a file, or
//! draining it into one. The count of bytes is kept here alone: what the target took is moved,
//! what is in the pipe is not. Of a file, that can be thrown away and taken again; of a stream, it
//! comes back with the operation.

use std::io;
use std::os::fd::AsFd;

use bytes::BytesMut;

use crate::buf::SendBuf;
use crate::fd::{Fd, FileKind};
use crate::job::{End, Job, is_stream};
use crate::net;
use crate::op::{Completion, Method, Op, Output};
use crate::pipe::{Lessee, Pipe, PipePool};
use crate::sys;

/// What a backend must do next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Fill the pipe away from the loop (`fill_offset`, `fill_len`), then drain it.
    Fill,
    /// Write to the target away from the loop (`head`, or else the pipe), then advance.
    Drain,
    /// Wait until the target is writable, then advance (or drain).
    Writable,
    /// Wait until the source is readable, then advance.
    Readable,
    /// The pool has no pipe: give one with `set_pipe`, or end with `NoPipe`.
    NeedPipe,
    /// The turn's budget is used up: let others go first, then advance.
    Yield,
    /// It is over.
    Done(End),
}

/// The errors with which a kernel says "interrupted, call again" (linux/errno.h's
/// `ERESTARTSYS` and its kin never leave the kernel but in completions).
pub(crate) fn is_restart(errno: i32) -> bool {
    matches!(errno, libc::EINTR | 512..=516)
}

pub(crate) struct Transfer {
    job: Job,
    /// Bytes that the target took and that count: the source's, and a [`Job::Forward`]'s head.
    moved: u64,
    /// Bytes taken from the source.
    taken: u64,
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    piped: usize,
    /// Nothing comes behind what is in the pipe.
    end_of_source: bool,
    /// A source read by offset, whose end is known to come when it comes: regular or block device.
    seekable: bool,
    /// The drain found no room; wait before the next.
    no_room: bool,
    /// The fill found no data; wait before the next.
    no_data: bool,
    /// What is in the pipe is no longer in the file: to be read again.
    stale: bool,
    /// What the target took last may be held back for what was to follow it.
    corked: bool,
    /// The target was told to send full segments only ([`net::hold_back`]); `None` before.
    held_back: Option<bool>,
    failed: Option<End>,
}

impl Transfer {
    /// # Errors
    /// The completion of one that can't be run.
    pub(crate) fn new(job: impl Into<Job>) -> Result<Transfer, Box<Completion>> {
        let job = job.into();
        if let Some(end) = job.unfit() {
            let output = job.output(end);
            return Err(Box::new(Completion::ok(job.into_op(), output, 0)));
        }
        let kind = job.source().kind();
        Ok(Transfer {
            moved: 0,
            taken: 0,
            pipe: None,
            piped: 0,
            end_of_source: false,
            seekable: matches!(kind, FileKind::Regular | FileKind::BlockDevice),
            no_room: false,
            no_data: false,
            stale: false,
            corked: false,
            held_back: None,
            failed: None,
            job,
        })
    }

    pub(crate) fn job(&self) -> &Job {
        &self.job
    }

    pub(crate) fn source(&self) -> &Fd {
        self.job.source()
    }

    pub(crate) fn target(&self) -> &Fd {
        self.job.target()
    }

    /// What its completion counts.
    pub(crate) fn moved(&self) -> u64 {
        self.moved
    }

    pub(crate) fn pipe(&self) -> Option<&Pipe> {
        self.pipe.as_ref()
    }

    /// Bytes in the pipe.
    pub(crate) fn piped(&self) -> usize {
        self.piped
    }

    /// Bytes of the source that are neither moved nor in the pipe.
    fn unread(&self) -> u64 {
        self.job.len() - self.taken
    }

    /// Whether it may move much by direct calls, so that others have to wait meanwhile.
    pub(crate) fn is_bulky(&self) -> bool {
        const MUCH: u64 = 64 << 10;
        let away = self.job.fills_away() && self.piped == 0;
        !away && self.unread().saturating_add(self.piped as u64) > MUCH
    }

    /// Whether all was moved that was to be moved.
    pub(crate) fn is_complete(&self) -> bool {
        self.job.head().is_empty() && self.piped == 0 && self.unread() == 0
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
        // What follows may be long in coming.
        if matches!(next, Next::Readable) && std::mem::take(&mut self.corked) {
            net::push_out(self.target());
        }
        next
    }

    fn run(&mut self, pipes: &mut PipePool, budget: usize) -> Next {
        let stop = self.moved.saturating_add(budget as u64);
        if self.held_back.is_none() {
            let target = self.job.target();
            let long = target.kind() == FileKind::Socket && self.is_long();
            self.held_back = Some(long && net::hold_back(target));
        }
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
                return match self.has_some() {
                    true => Next::Done(End::Some),
                    false => Next::Readable,
                };
            }
            if !self.job.head().is_empty() {
                if self.job.drains_away() {
                    return Next::Drain;
                }
                self.send_head();
            } else if self.is_complete() {
                return Next::Done(End::Complete);
            } else if self.piped == 0 && self.end_of_source {
                return Next::Done(End::SourceEnded);
            } else if self.moved >= stop && self.piped == 0 {
                return match self.has_some() {
                    true => Next::Done(End::Some),
                    false => Next::Yield,
                };
            } else if self.moved >= stop {
                return Next::Yield;
            } else if self.job.method() == Method::Sendfile && self.seekable {
                self.sendfile();
            } else if self.piped > 0 {
                if self.job.drains_away() {
                    return Next::Drain;
                }
                self.drain();
            } else {
                if self.pipe.is_none() {
                    self.pipe = pipes.lease(self.lessee());
                }
                if self.pipe.is_none() {
                    return Next::NeedPipe;
                }
                if self.job.fills_away() {
                    return Next::Fill;
                }
                self.fill();
            }
        }
    }

    /// Whether it sends a file that takes many segments. While such a one goes on, the kernel is to
    /// send full ones only: it moves 16 pages at a time, a little more than fits into a segment,
    /// and would, when an acknowledgement comes at the wrong moment, send the little by itself. Who
    /// has more behind it may hold it back for longer, and does so himself.
    fn is_long(&self) -> bool {
        matches!(&self.job, Job::Send(op) if self.seekable && !op.more && op.len >= net::LONG)
    }

    /// Whether it is one that ends when something was moved, and something was.
    fn has_some(&self) -> bool {
        matches!(&self.job, Job::Forward(op) if op.some) && self.moved > 0
    }

    /// What it is to the pool. What a stream brought can't be thrown away, so its pipe may be in
    /// use for long.
    fn lessee(&self) -> Lessee {
        match &self.job {
            Job::Send(op) if op.method != Method::Chain => Lessee::Direct,
            Job::Send(_) => Lessee::Chain,
            Job::Forward(_) => Lessee::Stream,
        }
    }

    fn send_head(&mut self) {
        let more = match &self.job {
            Job::Send(op) => op.len > 0 || op.more,
            Job::Forward(_) => false,
        };
        let target = self.job.target();
        let head = self.job.head();
        let result = match target.kind() {
            FileKind::Socket => sys::send(target.as_fd(), head, more),
            _ => sys::maybe_offset(self.drain_offset())
                .and_then(|at| sys::write_at(target.as_fd(), head, at)),
        };
        if result.is_ok() {
            self.corked = more;
        }
        self.head_sent(result);
    }

    /// Takes in what became of writing the head.
    fn head_sent(&mut self, result: io::Result<usize>) {
        match result {
            Ok(0) => self.failed = Some(End::TargetFailed(io::ErrorKind::WriteZero.into())),
            Ok(n) => {
                self.job.head_mut().advance(n);
                if matches!(self.job, Job::Forward(_)) {
                    self.moved += n as u64;
                }
            }
            Err(e) => self.target_error(e),
        }
    }

    fn sendfile(&mut self) {
        const PER_CALL: u64 = 1 << 20;
        let len = self.unread().min(PER_CALL) as usize;
        let (target, source) = (self.target().as_fd(), self.source().as_fd());
        match sys::sendfile(target, source, self.fill_offset(), len) {
            Ok(0) => self.end_of_source = true,
            Ok(n) => {
                self.taken += n as u64;
                self.moved += n as u64;
                // A short read makes the kernel expect more (before Linux 6.5 for good).
                self.corked = n < len;
            }
            Err(e) => match e.raw_os_error() {
                Some(libc::EAGAIN) => self.no_room = true,
                Some(errno) if net::is_socket_error(errno) => self.target_error(e),
                _ => self.failed = Some(End::SourceFailed(e)),
            },
        }
    }

    /// Where the next fill starts.
    pub(crate) fn fill_offset(&self) -> Option<u64> {
        let offset = self.job.source_offset()?;
        Some(offset.saturating_add(self.taken))
    }

    /// How much the next fill asks for.
    pub(crate) fn fill_len(&self) -> usize {
        let room = self
            .pipe
            .as_ref()
            .map_or(0, |pipe| pipe.room_at(self.fill_offset().unwrap_or(0)));
        self.unread().min(room as u64) as usize
    }

    /// The fill as a direct call: may wait for the disk, where the source is a file.
    pub(crate) fn fill(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        let (offset, len) = (self.fill_offset(), self.fill_len());
        let source = self.source().as_fd();
        let result = sys::splice(source, offset, pipe.writer(), None, len, false);
        self.filled(result);
    }

    /// Takes a fill's result in.
    pub(crate) fn filled(&mut self, result: io::Result<usize>) {
        match result {
            Ok(0) => self.end_of_source = true,
            Ok(n) => {
                self.piped += n;
                self.taken += n as u64;
            }
            Err(e) => match e.raw_os_error() {
                Some(libc::EAGAIN) if !self.seekable => self.no_data = true,
                Some(errno) if is_restart(errno) || errno == libc::ECANCELED => {}
                _ => self.failed = Some(End::SourceFailed(e)),
            },
        }
    }

    /// Whether more follows behind a drain of all that the pipe will hold: cork (`SPLICE_F_MORE`).
    /// `fill` is what a fill under way will bring at most.
    pub(crate) fn more_behind(&self, fill: usize) -> bool {
        let known = self.seekable && self.job.len() != u64::MAX && !self.end_of_source;
        self.job.more() || (known && self.unread() > fill as u64)
    }

    /// Where the next drain writes.
    pub(crate) fn drain_offset(&self) -> Option<u64> {
        let offset = self.job.target_offset()?;
        Some(offset.saturating_add(self.moved))
    }

    fn drain(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        let more = self.more_behind(0);
        let (target, offset) = (self.target().as_fd(), self.drain_offset());
        let result = sys::splice(pipe.reader(), None, target, offset, self.piped, more);
        self.drained(result);
    }

    /// Takes in what became of writing to the target: of the head, as long as there is any.
    pub(crate) fn drained(&mut self, result: io::Result<usize>) {
        if !self.job.head().is_empty() {
            return self.head_sent(result);
        }
        match result {
            Ok(0) if !is_stream(self.target()) => {
                self.failed = Some(End::TargetFailed(io::ErrorKind::WriteZero.into()));
            }
            Ok(n) => {
                let n = n.min(self.piped);
                self.piped -= n;
                self.moved += n as u64;
                self.corked = self.more_behind(0);
                self.no_room = n == 0 && self.piped > 0;
            }
            Err(e) => match (&self.job, e.raw_os_error()) {
                // The pipe holds pages, not bytes. One whose part of the file was cut off
                // meanwhile is refused; one that could not be read from the disk as well.
                (Job::Send(op), Some(libc::ENODATA)) if op.offset.is_some() => self.stale = true,
                (Job::Send(_), Some(libc::ENODATA | libc::EIO)) => {
                    self.failed = Some(End::SourceFailed(e));
                }
                _ => self.target_error(e),
            },
        }
    }

    fn target_error(&mut self, error: io::Error) {
        match error.raw_os_error() {
            Some(libc::EAGAIN) if is_stream(self.target()) => self.no_room = true,
            Some(errno) if is_restart(errno) || errno == libc::ECANCELED => {}
            _ => self.failed = Some(End::TargetFailed(error)),
        }
    }

    /// Makes the call that is due away from the loop. It may block.
    pub(crate) fn step_away(&mut self) {
        if self.job.fills_away() {
            self.fill();
        } else if self.job.head().is_empty() {
            self.drain();
        } else {
            self.send_head();
        }
    }

    /// Nobody could make that call.
    pub(crate) fn step_failed(&mut self, error: io::Error) {
        self.failed = Some(match self.job.fills_away() {
            true => End::SourceFailed(error),
            false => End::TargetFailed(error),
        });
    }

    /// Whether the last drain left a rest behind for want of room.
    pub(crate) fn has_rest(&self) -> bool {
        self.failed.is_none() && self.piped > 0 && !self.stale
    }

    pub(crate) fn set_pipe(&mut self, pipe: Pipe) {
        debug_assert!(self.pipe.is_none());
        self.pipe = Some(pipe);
    }

    /// Whether [`give_up_pipe`](Transfer::give_up_pipe) would.
    pub(crate) fn may_give_up_pipe(&self) -> bool {
        let again = matches!(self.job, Job::Forward(_)) || self.job.source_offset().is_some();
        again && self.pipe.is_some()
    }

    /// Takes the pipe from a transfer that waits for its peer. The rest in it will be read again,
    /// or is kept in memory. Refused where neither can be.
    pub(crate) fn give_up_pipe(&mut self, pipes: &mut PipePool) -> bool {
        if !self.may_give_up_pipe() {
            return false;
        }
        self.release(pipes);
        true
    }

    /// Gives the pipe back, if there is one. What was in it counts as unread again; what a
    /// [`Job::Forward`] has in it is to be delivered from memory.
    pub(crate) fn release(&mut self, pipes: &mut PipePool) {
        let Some(pipe) = self.pipe.take() else { return };
        let left = std::mem::take(&mut self.piped);
        match &mut self.job {
            Job::Forward(op) if left > 0 => match read_out(&pipe, left) {
                Ok(rest) => {
                    debug_assert!(op.head.is_empty());
                    op.head = SendBuf::Owned(rest);
                    return pipes.give_back(pipe, 0);
                }
                Err(e) => {
                    log::error!("{left} bytes of a stream are lost in a pipe: {e}");
                    // Nothing may go on behind a gap.
                    self.failed = Some(End::SourceFailed(e));
                }
            },
            Job::Forward(_) => {}
            Job::Send(_) => self.taken -= left as u64,
        }
        pipes.give_back(pipe, left);
    }

    /// The operation, for its completion, and what that counts. Pushes out what is corked for
    /// bytes that do not come now.
    pub(crate) fn finish(mut self, pipes: &mut PipePool) -> (Op, u64) {
        self.release(pipes);
        if self.held_back == Some(true) || (self.corked && !self.job.more()) {
            net::push_out(self.target());
        }
        (self.job.into_op(), self.moved)
    }

    /// What its completion says.
    pub(crate) fn output(&self, end: End) -> Output {
        self.job.output(end)
    }
}

/// The bytes in a pipe, `len` of them.
fn read_out(pipe: &Pipe, len: usize) -> io::Result<BytesMut> {
    let mut bytes = BytesMut::with_capacity(len);
    while bytes.len() < len {
        let left = len - bytes.len();
        if sys::read_spare(pipe.reader(), &mut bytes, left, -1, 0)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(bytes)
}

// Miri has no pipes to splice.
#[cfg(all(test, not(miri)))]
mod tests;
