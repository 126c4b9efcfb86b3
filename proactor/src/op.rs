//! The operations a proactor runs, and what comes back from them.
//!
//! An [`Op`] is a plain value that owns everything the kernel may touch while it is under way:
//! buffers, and descriptors by shared ownership ([`Fd`]). It comes back in its [`Completion`],
//! whatever the outcome, so a failed operation never costs its caller a buffer.

use std::any::Any;
use std::ffi::CString;
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::buf::{RecvBuf, SendBuf};
use crate::fd::Fd;
use crate::forward::{Forward, ForwardEnd};
use crate::net::Address;

/// Which readiness a [`Op::Poll`] waits for, and what it found (poll(2)'s `POLLIN` and its kin).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interest(pub(crate) i16);

impl Interest {
    /// Data (or end of file) can be read.
    pub const READABLE: Interest = Interest(libc::POLLIN | libc::POLLRDHUP);
    /// Data can be written.
    pub const WRITABLE: Interest = Interest(libc::POLLOUT);

    /// Reading would not block; true at end of file and on error as well.
    pub fn is_readable(self) -> bool {
        self.0 & (libc::POLLIN | libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
    }

    /// Writing would not block; true on error as well.
    pub fn is_writable(self) -> bool {
        self.0 & (libc::POLLOUT | libc::POLLHUP | libc::POLLERR) != 0
    }
}

/// A computation for the worker pool: see [`Op::Work`].
pub type Work = Box<dyn FnOnce() -> io::Result<Box<dyn Any + Send>> + Send>;

/// One operation. Submit it with [`Proactor::submit`](crate::Proactor::submit).
///
/// Socket and pipe descriptors must be non-blocking (those that this crate makes are):
/// an operation then pends in the proactor, never in a kernel worker.
#[non_exhaustive]
pub enum Op {
    /// Accepts one connection (accept4(2)), non-blocking and close-on-exec:
    /// [`Output::Accepted`].
    Accept {
        /// A listening socket.
        listener: Fd,
    },
    /// Accepts connections until cancelled: one completion each, [`Output::Accepted`].
    /// Only the last completion gives the operation back.
    AcceptMulti {
        /// A listening socket.
        listener: Fd,
    },
    /// Connects a socket (connect(2)).
    Connect {
        /// A fresh socket of the address's family.
        socket: Fd,
        /// Where to.
        address: Address,
    },
    /// Receives into the spare capacity of a buffer (recv(2)); `transferred` bytes were appended,
    /// 0 means end of stream (or a buffer without spare capacity).
    Recv {
        /// A connected socket.
        socket: Fd,
        /// Where to; only its spare capacity is written.
        buf: BytesMut,
    },
    /// Receives until end of stream, error or cancel, into buffers of the proactor's own: one
    /// completion each, [`Output::Data`]. An empty `Data` is the end of the stream, and the last
    /// completion. An idle connection pins no buffer.
    RecvMulti {
        /// A connected socket.
        socket: Fd,
    },
    /// Sends bytes (send(2), or write(2) on a pipe). Completes when the kernel has taken at least
    /// one; `transferred` says how many.
    Send {
        /// A connected socket or the writing end of a pipe.
        socket: Fd,
        /// What to send.
        buf: SendBuf,
        /// More follows at once: do not push a partial segment (`MSG_MORE`).
        more: bool,
    },
    /// Sends several buffers in one call (sendmsg(2), or writev(2) on a pipe); as [`Op::Send`].
    /// At most 1024 buffers are looked at.
    SendVectored {
        /// A connected socket or the writing end of a pipe.
        socket: Fd,
        /// What to send, in order.
        bufs: Vec<Bytes>,
        /// More follows at once (`MSG_MORE`).
        more: bool,
    },
    /// Reads into the spare capacity of a buffer, at most `len` bytes (pread(2); read(2) with no
    /// offset). `transferred` bytes were appended; 0 is the end of the file.
    Read {
        /// The source.
        file: Fd,
        /// Where to; only its spare capacity is written.
        buf: BytesMut,
        /// At most this many bytes.
        len: usize,
        /// Where in the file; `None` reads at, and moves, the descriptor's own position.
        offset: Option<u64>,
    },
    /// Writes bytes (pwrite(2); write(2) with no offset). `transferred` may be short.
    Write {
        /// The target.
        file: Fd,
        /// What to write.
        buf: SendBuf,
        /// Where in the file; `None` writes at, and moves, the descriptor's own position.
        offset: Option<u64>,
    },
    /// Moves bytes between a pipe and another descriptor (splice(2)). `transferred` may be short;
    /// 0 is the end of the source. Pends while the source has no data or the target no room.
    Splice {
        /// The source.
        from: Fd,
        /// Where in the source; `None` for its own position.
        from_offset: Option<u64>,
        /// The target.
        to: Fd,
        /// Where in the target; `None` for its own position.
        to_offset: Option<u64>,
        /// At most this many bytes.
        len: usize,
        /// More follows at once (`SPLICE_F_MORE`).
        more: bool,
    },
    /// Sends a range of a file to a socket: see [`SendFile`].
    SendFile(SendFile),
    /// Moves what a stream brings to a file or another stream: see [`Forward`].
    Forward(Box<Forward>),
    /// Has a file's content reach the disk (fsync(2)). It can't be interrupted: a cancel completes
    /// once it is through.
    Sync {
        /// The file, or a directory.
        file: Fd,
        /// The content alone, and of the metadata only what reading it needs (fdatasync(2)).
        data_only: bool,
    },
    /// Waits for readiness once: [`Output::Ready`].
    Poll {
        /// What to wait on.
        fd: Fd,
        /// For what.
        interest: Interest,
    },
    /// Completes at a point in time.
    Timeout {
        /// When.
        at: Instant,
    },
    /// Opens a file (openat2(2)), close-on-exec: [`Output::Opened`].
    Open(Open),
    /// Gives up a descriptor. It is closed when the last clone of the [`Fd`] is gone, and the
    /// completion comes after that where this operation held the last one. A [`Op::Nop`] comes
    /// back in its place.
    Close {
        /// What to close.
        fd: Fd,
    },
    /// Shuts one or both directions of a socket down (shutdown(2)).
    Shutdown {
        /// A connected socket.
        socket: Fd,
        /// Which direction.
        how: Shutdown,
    },
    /// Runs a closure on a worker thread: [`Output::Worked`]. The pool is bounded: the closure may
    /// wait its turn, and a cancel before that turn keeps it from running.
    Work(Work),
    /// Does nothing: its completion comes in the next turn of the loop.
    Nop,
}

impl Op {
    /// The operation's name, as used in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Accept { .. } => "accept",
            Op::AcceptMulti { .. } => "accept (multishot)",
            Op::Connect { .. } => "connect",
            Op::Recv { .. } => "recv",
            Op::RecvMulti { .. } => "recv (multishot)",
            Op::Send { .. } => "send",
            Op::SendVectored { .. } => "send (vectored)",
            Op::Read { .. } => "read",
            Op::Write { .. } => "write",
            Op::Splice { .. } => "splice",
            Op::SendFile(_) => "sendfile",
            Op::Forward(_) => "forward",
            Op::Sync { .. } => "sync",
            Op::Poll { .. } => "poll",
            Op::Timeout { .. } => "timeout",
            Op::Open(_) => "open",
            Op::Close { .. } => "close",
            Op::Shutdown { .. } => "shutdown",
            Op::Work(_) => "work",
            Op::Nop => "nop",
        }
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Op").field(&self.name()).finish()
    }
}

/// What [`Op::Open`] opens.
pub struct Open {
    /// The directory that `path` starts from; `None` is the working directory.
    pub dir: Option<Fd>,
    /// The path.
    pub path: CString,
    /// open(2)'s flags; `O_CLOEXEC` is added.
    pub flags: i32,
    /// The mode of a file that is created.
    pub mode: u32,
    /// Resolve strictly below `dir` (openat2(2)'s `RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS`):
    /// a path or link that leads out fails with `EXDEV`. Never silently ignored: without openat2
    /// (Linux before 5.6, or a seccomp filter) the operation fails with `ENOSYS` or `EPERM`.
    pub beneath: bool,
}

/// How a [`SendFile`] moves its bytes. Bytes, counts and errors are the same for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Method {
    /// file → pipe → socket away from the loop: linked splices on the ring; on the emulated port
    /// a fill in a worker and a drain driven by readiness. Never blocks the loop.
    Chain,
    /// The same two splices as direct calls. For data known to be in the page cache: a read that
    /// has to go to the disk blocks the loop.
    Inline,
    /// sendfile(2) as a direct call, bounded per call. For cached data, as `Inline`.
    Sendfile,
}

/// Sends a range of a file (or of anything that can be spliced) to a socket or pipe.
///
/// Completes once, with [`Output::Sent`] and `transferred`, the number of file bytes that the
/// kernel took for the peer; bytes that only reached the pipe between are not counted, and are
/// thrown away. On cancel the result is `ECANCELED`, with `transferred` as exact.
///
/// A stalled peer holds neither a worker nor, when others want it, a pipe.
pub struct SendFile {
    /// Bytes that go before the file, coalesced with it (`MSG_MORE`); not part of `transferred`.
    /// Comes back with what was sent of it taken off.
    pub header: SendBuf,
    /// The source.
    pub file: Fd,
    /// A connected socket or the writing end of a pipe.
    pub socket: Fd,
    /// Where in the source. `None` is for sources whose position is their meaning (pipes,
    /// sockets): bytes taken from them and not delivered are lost with the operation.
    pub offset: Option<u64>,
    /// How many bytes; fewer are sent only at the end of the file, [`SendFileEnd::EndOfFile`].
    /// `u64::MAX` is "until the end".
    pub len: u64,
    /// More follows behind the last byte at once (`SPLICE_F_MORE`): leave it corked.
    pub more: bool,
    /// How.
    pub method: Method,
}

/// How a [`SendFile`] ended.
#[derive(Debug)]
pub enum SendFileEnd {
    /// All of `len` was sent.
    Complete,
    /// The source ended before `len`.
    EndOfFile,
    /// The source failed, or can't be spliced (`EINVAL` and its kin).
    SourceFailed(io::Error),
    /// The socket failed: the peer is gone.
    SocketFailed(io::Error),
    /// No pipe could be had (the pool's bound, `EMFILE`, a quota): nothing is wrong with either
    /// end, send the rest by other means.
    NoPipe,
}

/// What a successful operation brought.
#[non_exhaustive]
pub enum Output {
    /// Nothing but the count in [`Completion::transferred`].
    Done,
    /// A connection, non-blocking.
    Accepted(Fd),
    /// Received bytes; empty at the end of the stream.
    Data(RecvBuf),
    /// An opened file.
    Opened(Fd),
    /// The readiness found.
    Ready(Interest),
    /// How a [`SendFile`] ended.
    Sent(SendFileEnd),
    /// How a [`Forward`] ended.
    Forwarded(ForwardEnd),
    /// What the closure of [`Op::Work`] returned.
    Worked(Box<dyn Any + Send>),
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Output::Done => f.write_str("Done"),
            Output::Accepted(fd) => f.debug_tuple("Accepted").field(fd).finish(),
            Output::Data(data) => f.debug_tuple("Data").field(&data.len()).finish(),
            Output::Opened(fd) => f.debug_tuple("Opened").field(fd).finish(),
            Output::Ready(interest) => f.debug_tuple("Ready").field(interest).finish(),
            Output::Sent(end) => f.debug_tuple("Sent").field(end).finish(),
            Output::Forwarded(end) => f.debug_tuple("Forwarded").field(end).finish(),
            Output::Worked(_) => f.write_str("Worked"),
        }
    }
}

/// The end of an operation (or one of a multishot operation's events).
#[derive(Debug)]
pub struct Completion {
    /// What it brought, or why it failed. A cancelled operation has `ECANCELED`
    /// ([`is_cancelled`](Completion::is_cancelled)).
    pub result: io::Result<Output>,
    /// The number of bytes moved (IOCP's `dwNumberOfBytesTransferred`), exact on failure and
    /// cancel as well.
    pub transferred: u64,
    /// The operation with all that it owned; `None` while a multishot operation goes on.
    pub op: Option<Op>,
}

impl Completion {
    /// Whether the operation ended because of a cancel.
    pub fn is_cancelled(&self) -> bool {
        matches!(&self.result, Err(e) if e.raw_os_error() == Some(libc::ECANCELED))
    }

    /// Whether further completions of this (multishot) operation follow.
    pub fn more(&self) -> bool {
        self.op.is_none()
    }

    pub(crate) fn ok(op: Op, output: Output, transferred: u64) -> Completion {
        Completion {
            result: Ok(output),
            transferred,
            op: Some(op),
        }
    }

    pub(crate) fn failed(op: Op, error: io::Error) -> Completion {
        Completion {
            result: Err(error),
            transferred: 0,
            op: Some(op),
        }
    }

    pub(crate) fn cancelled(op: Op) -> Completion {
        Completion::failed(op, io::Error::from_raw_os_error(libc::ECANCELED))
    }
}

/// Names an operation under way, for [`cancel`](crate::Proactor::cancel). A token whose operation
/// has completed names nothing; it is never reused for another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Token {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}
