//! An operation under way on the ring: what it owns, which of its submissions are outstanding, and
//! how it is put into a submission queue entry.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};

use crate::fd::{Fd, FileKind, Filesystem};
use crate::net::RawAddress;
use crate::op::{Op, Token};
use crate::sys;
use crate::transfer::Transfer;

use super::buffers::Buffers;
use super::setup::Found;

/// Which of an operation's submissions a completion belongs to. A bit, so that the outstanding
/// ones are a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Step {
    /// The operation itself.
    Main = 1,
    /// A wait for readiness, before another attempt.
    Poll = 2,
    /// A transfer's splice from the file to the pipe.
    Fill = 4,
    /// A transfer's splice from the pipe to its target, or the writing of its head to a file.
    Drain = 8,
}

const STEPS: [Step; 4] = [Step::Main, Step::Poll, Step::Fill, Step::Drain];

/// The user data of submissions whose completions mean nothing but "look": watched descriptors.
pub(super) const WATCH: u64 = u64::MAX;
/// The user data of the ring's own timeout (`starvation.rs`): a watch of no descriptor.
pub(super) const TICK: u64 = WATCH;
/// The bit that makes the user data of a step that of its cancel.
const CANCEL: u64 = 0x80;

/// Names a step of an operation for the kernel: index, generation (its low 24 bits: a stale
/// completion would have to be 16 million operations late), step.
pub(super) fn user_data(token: Token, step: Step) -> u64 {
    u64::from(token.index) << 32 | u64::from(token.generation << 8) | step as u64
}

/// A request to cancel a step.
pub(super) fn cancel(token: Token, step: Step) -> Entry {
    let data = user_data(token, step);
    opcode::AsyncCancel::new(data)
        .build()
        .user_data(data | CANCEL)
}

/// The step that an answer to a cancel is about.
pub(super) fn parse_cancel(data: u64) -> Option<(u32, u32, Step)> {
    (data & CANCEL != 0).then(|| parse_user_data(data & !CANCEL))?
}

/// Takes it apart again.
pub(super) fn parse_user_data(data: u64) -> Option<(u32, u32, Step)> {
    let step = STEPS.into_iter().find(|s| *s as u64 == data & 0xff)?;
    let generation = (data >> 8) as u32 & 0x00ff_ffff;
    Some(((data >> 32) as u32, generation, step))
}

pub(super) enum Task {
    Op(Op),
    Transfer(Box<Transfer>),
}

/// What the kernel reads besides buffers; its address must stay the same while it may.
#[expect(dead_code, reason = "kept for the kernel alone")]
pub(super) enum Aux {
    None,
    Address(Box<RawAddress>),
    Message(Box<(libc::msghdr, Vec<libc::iovec>)>),
    How(Box<types::OpenHow>),
}

pub(super) struct Flight {
    pub(super) token: Token,
    pub(super) task: Task,
    pub(super) aux: Aux,
    /// A set of [`Step`]s.
    pub(super) outstanding: u8,
    pub(super) cancelled: bool,
    /// A drain's result that came before its fill's.
    pub(super) early_drain: Option<i32>,
    /// It was out when the ring's timeout ended last, and has submitted nothing since.
    pub(super) waited: bool,
    /// Another transfer wants the pipe: give it up when the cancelled wait is over.
    pub(super) reclaim: bool,
}

impl Flight {
    pub(super) fn new(token: Token, task: Task) -> Flight {
        Flight {
            token,
            task,
            aux: Aux::None,
            outstanding: 0,
            cancelled: false,
            early_drain: None,
            waited: false,
            reclaim: false,
        }
    }

    pub(super) fn is_outstanding(&self, step: Step) -> bool {
        self.outstanding & step as u8 != 0
    }

    /// The steps that the kernel has, to be cancelled.
    pub(super) fn outstanding_steps(&self) -> impl Iterator<Item = Step> + use<> {
        let set = self.outstanding;
        STEPS.into_iter().filter(move |s| set & *s as u8 != 0)
    }

    /// Marks a step as submitted and labels its entry.
    pub(super) fn label(&mut self, entry: Entry, step: Step) -> Entry {
        self.outstanding |= step as u8;
        self.waited = false;
        entry.user_data(user_data(self.token, step))
    }

    /// The entry of a plain operation.
    ///
    /// Whoever submits it keeps the flight, op and aux, until its completion has come: all
    /// pointers here lead into heap memory that the two own (buffers' contents, boxes, a C
    /// string), so that the flight itself may be moved.
    pub(super) fn entry(&mut self, found: Found) -> io::Result<Entry> {
        let Task::Op(op) = &mut self.task else {
            unreachable!("transfers make their own entries")
        };
        Ok(match op {
            Op::AcceptMulti { listener } if found.multishot_accept => {
                opcode::AcceptMulti::new(fd(listener))
                    .flags(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
                    .build()
            }
            Op::Accept { listener } | Op::AcceptMulti { listener } => {
                opcode::Accept::new(fd(listener), std::ptr::null_mut(), std::ptr::null_mut())
                    .flags(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
                    .build()
            }
            Op::Connect { socket, address } => {
                let raw = Box::new(RawAddress::from(&*address));
                let entry = opcode::Connect::new(fd(socket), raw.pointer(), raw.len).build();
                self.aux = Aux::Address(raw);
                entry
            }
            Op::Recv { socket, buf } => {
                let spare = buf.spare_capacity_mut();
                let len = clamp(spare.len());
                opcode::Recv::new(fd(socket), spare.as_mut_ptr().cast(), len).build()
            }
            Op::RecvMulti { socket } => opcode::RecvMulti::new(fd(socket), Buffers::GROUP).build(),
            Op::Send { socket, buf, .. } if is_pipe(socket) => {
                opcode::Write::new(fd(socket), buf.as_ptr(), clamp(buf.len()))
                    .offset(u64::MAX)
                    .build()
            }
            Op::Send { socket, buf, more } => {
                opcode::Send::new(fd(socket), buf.as_ptr(), clamp(buf.len()))
                    .flags(send_flags(*more))
                    .build()
            }
            Op::SendVectored { socket, bufs, more } => {
                let mut iovecs = sys::iovecs(bufs);
                let pointer = iovecs.as_mut_ptr();
                let len = iovecs.len();
                let mut aux = Box::new((sys::message(), iovecs));
                aux.0.msg_iov = pointer;
                aux.0.msg_iovlen = len as _;
                let entry = if is_pipe(socket) {
                    opcode::Writev::new(fd(socket), pointer, len as u32)
                        .offset(u64::MAX)
                        .build()
                } else {
                    opcode::SendMsg::new(fd(socket), &raw const aux.0)
                        .flags(send_flags(*more) as u32)
                        .build()
                };
                self.aux = Aux::Message(aux);
                entry
            }
            Op::Read {
                file,
                buf,
                len,
                offset,
            } => {
                let spare = buf.spare_capacity_mut();
                let len = clamp(spare.len().min(*len));
                opcode::Read::new(fd(file), spare.as_mut_ptr().cast(), len)
                    .offset(place(file, *offset)?)
                    .build()
            }
            Op::Write { file, buf, offset } => {
                opcode::Write::new(fd(file), buf.as_ptr(), clamp(buf.len()))
                    .offset(place(file, *offset)?)
                    .build()
            }
            Op::Splice {
                from,
                from_offset,
                to,
                to_offset,
                len,
                more,
            } => opcode::Splice::new(
                fd(from),
                sys::maybe_offset(*from_offset)?,
                fd(to),
                sys::maybe_offset(*to_offset)?,
                clamp(*len),
            )
            .flags(splice_flags(*more))
            .build(),
            Op::Sync { file, data_only } => {
                let flags = match data_only {
                    true => types::FsyncFlags::DATASYNC,
                    false => types::FsyncFlags::empty(),
                };
                opcode::Fsync::new(fd(file)).flags(flags).build()
            }
            Op::Poll {
                fd: target,
                interest,
            } => poll(target.as_raw_fd(), interest.0),
            Op::Open(open) => {
                let how = sys::open_how(open);
                let how = Box::new(
                    types::OpenHow::new()
                        .flags(how.flags)
                        .mode(how.mode)
                        .resolve(how.resolve),
                );
                let dir = open.dir.as_ref().map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
                let entry =
                    opcode::OpenAt2::new(types::Fd(dir), open.path.as_ptr(), &raw const *how)
                        .build();
                self.aux = Aux::How(how);
                entry
            }
            other => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("{} is no operation of the ring", other.name()),
                ));
            }
        })
    }

    /// Counts what a completed receive or read has brought into the operation's buffer.
    #[expect(unsafe_code, reason = "the kernel wrote behind the compiler's back")]
    pub(super) fn filled(&mut self, n: usize) {
        if let Task::Op(Op::Recv { buf, .. } | Op::Read { buf, .. }) = &mut self.task {
            // SAFETY: `entry` gave the kernel this very spare capacity, nothing has touched the
            // buffer since, and `n` is the count that the kernel completed the operation with.
            unsafe { sys::appended(buf, n) };
        }
    }

    /// The linked pair that moves one pipe full: the drain follows the fill whatever that brought
    /// (`IO_HARDLINK`), and takes what there is without waiting for more.
    pub(super) fn chain(&mut self) -> Option<[Entry; 2]> {
        let Task::Transfer(transfer) = &self.task else {
            return None;
        };
        let pipe = transfer.pipe()?;
        let len = clamp(transfer.fill_len());
        let offset = sys::maybe_offset(transfer.fill_offset()).ok()?;
        let fill = opcode::Splice::new(fd(transfer.source()), offset, raw(pipe.writer()), -1, len)
            .flags(splice_flags(false))
            .build()
            .flags(Flags::IO_HARDLINK);
        let drain = self.drain(len as usize)?;
        Some([self.label(fill, Step::Fill), drain])
    }

    /// A wait for room, and the drain behind it.
    pub(super) fn wait_and_drain(&mut self, skip_success: bool) -> Option<[Entry; 2]> {
        let Task::Transfer(transfer) = &self.task else {
            return None;
        };
        let mut flags = Flags::IO_LINK;
        if skip_success {
            flags |= Flags::SKIP_SUCCESS;
        }
        let wait = poll(transfer.target().as_raw_fd(), libc::POLLOUT).flags(flags);
        let drain = self.drain(0)?;
        Some([self.label(wait, Step::Poll), drain])
    }

    /// Writes to a file: the head, or else what is in the pipe.
    pub(super) fn drain_alone(&mut self) -> Option<Entry> {
        let Task::Transfer(transfer) = &self.task else {
            return None;
        };
        let head = transfer.job().head();
        if head.is_empty() {
            return self.drain(0);
        }
        // The head lives on the heap, and nothing touches it before the completion.
        let offset = sys::maybe_offset(transfer.drain_offset()).ok()?;
        let write = opcode::Write::new(fd(transfer.target()), head.as_ptr(), clamp(head.len()))
            .offset(offset as u64)
            .build()
            .flags(punt(transfer.target()));
        Some(self.label(write, Step::Drain))
    }

    /// Drains what is in the pipe and what a fill of `fill` bytes will bring.
    fn drain(&mut self, fill: usize) -> Option<Entry> {
        let Task::Transfer(transfer) = &self.task else {
            return None;
        };
        let pipe = transfer.pipe()?;
        let offset = sys::maybe_offset(transfer.drain_offset()).ok()?;
        let drain = opcode::Splice::new(
            raw(pipe.reader()),
            -1,
            fd(transfer.target()),
            offset,
            clamp(transfer.piped() + fill),
        )
        .flags(splice_flags(transfer.more_behind(fill)))
        .build();
        Some(self.label(drain, Step::Drain))
    }

    /// A wait for readiness.
    pub(super) fn wait_for(&mut self, target: &Fd, events: i16) -> Entry {
        self.label(poll(target.as_raw_fd(), events), Step::Poll)
    }
}

fn fd(fd: &Fd) -> types::Fd {
    types::Fd(fd.as_raw_fd())
}

fn raw(fd: BorrowedFd<'_>) -> types::Fd {
    types::Fd(fd.as_raw_fd())
}

/// A one-shot wait at a descriptor.
pub(super) fn poll(fd: RawFd, events: i16) -> Entry {
    opcode::PollAdd::new(types::Fd(fd), events as u16 as u32).build()
}

/// Where to read or write. The ring would take no notice of an offset into a pipe or socket,
/// where pread(2) says `ESPIPE`.
fn place(file: &Fd, offset: Option<u64>) -> io::Result<u64> {
    if offset.is_some() && matches!(file.kind(), FileKind::Pipe | FileKind::Socket) {
        return Err(io::Error::from_raw_os_error(libc::ESPIPE));
    }
    Ok(sys::maybe_offset(offset)? as u64)
}

/// Whether the ring must not be given an operation. Where a file of FUSE passes the page cache by
/// (`FOPEN_DIRECT_IO`), it reads what follows a short read from the same place again (seen on 6.18).
pub(super) fn is_unsafe(op: &Op) -> bool {
    matches!(op, Op::Read { file, .. } | Op::Write { file, .. } if blocks(file))
}

/// Whether a file's reads and writes block whoever submits them. A FUSE file has a poll of its own,
/// which the ring takes for a promise not to block (seen on 6.18).
fn blocks(file: &Fd) -> bool {
    file.kind() == FileKind::Regular
        && file.filesystem() != Filesystem::Memory
        && !file.tells_cached()
}

/// Sends an operation to a kernel worker from the start, where it would block whoever submits it.
fn punt(file: &Fd) -> Flags {
    match blocks(file) {
        true => Flags::ASYNC,
        false => Flags::empty(),
    }
}

fn is_pipe(fd: &Fd) -> bool {
    fd.kind() == FileKind::Pipe
}

/// The kernel cuts a call at 2 GiB less a page.
fn clamp(len: usize) -> u32 {
    len.min(0x7fff_f000) as u32
}

fn send_flags(more: bool) -> i32 {
    // Without waiting: where the peer has ended its sending, the kernel would wait in a worker
    // (see `room.rs`).
    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 }
}

/// `SPLICE_F_NONBLOCK` speaks of the pipe alone.
fn splice_flags(more: bool) -> u32 {
    let more = if more { libc::SPLICE_F_MORE } else { 0 };
    libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE | more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_steps_are_told_apart() {
        let mut seen = std::collections::HashSet::from([WATCH]);
        for index in [0, 1, u32::MAX] {
            for generation in [0, 1, 0x00ff_ffff] {
                for step in STEPS {
                    let data = user_data(Token { index, generation }, step);
                    assert_eq!(parse_user_data(data), Some((index, generation, step)));
                    assert_eq!(parse_cancel(data), None);
                    assert_eq!(parse_cancel(data | CANCEL), Some((index, generation, step)));
                    assert_eq!(parse_user_data(data | CANCEL), None);
                    assert!(seen.insert(data) && seen.insert(data | CANCEL));
                }
            }
        }
        // All that is known of a watched descriptor's data is its lower half.
        for data in &seen {
            let watch = *data as u32 == u32::MAX;
            assert_eq!(watch, *data == WATCH);
        }
    }
}
