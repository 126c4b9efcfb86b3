//! What a transfer moves: a file to a stream, or a stream to a file or another stream. The answers
//! that the machine in `transfer.rs` needs, whichever it is.

use std::io;

use crate::buf::SendBuf;
use crate::fd::{Fd, FileKind};
use crate::forward::{Forward, ForwardEnd};
use crate::op::{Method, Op, Output, SendFile, SendFileEnd};

/// The operation.
pub(crate) enum Job {
    Send(SendFile),
    Forward(Box<Forward>),
}

/// How a transfer ended, in terms that both operations have a word for.
#[derive(Debug)]
pub(crate) enum End {
    Complete,
    /// [`ForwardEnd::Some`]; never of a [`SendFile`].
    Some,
    SourceEnded,
    SourceFailed(io::Error),
    TargetFailed(io::Error),
    NoPipe,
}

impl Job {
    pub(crate) fn source(&self) -> &Fd {
        match self {
            Job::Send(op) => &op.file,
            Job::Forward(op) => &op.from,
        }
    }

    pub(crate) fn target(&self) -> &Fd {
        match self {
            Job::Send(op) => &op.socket,
            Job::Forward(op) => &op.to,
        }
    }

    /// Where in the source; `None` where it is a stream.
    pub(crate) fn source_offset(&self) -> Option<u64> {
        match self {
            Job::Send(op) => op.offset,
            Job::Forward(_) => None,
        }
    }

    /// Where in the target; `None` where it is a stream, or at its own position.
    pub(crate) fn target_offset(&self) -> Option<u64> {
        match self {
            Job::Send(_) => None,
            Job::Forward(op) => op.offset,
        }
    }

    /// Bytes in memory that go first.
    pub(crate) fn head(&self) -> &SendBuf {
        match self {
            Job::Send(op) => &op.header,
            Job::Forward(op) => &op.head,
        }
    }

    pub(crate) fn head_mut(&mut self) -> &mut SendBuf {
        match self {
            Job::Send(op) => &mut op.header,
            Job::Forward(op) => &mut op.head,
        }
    }

    /// How many bytes of the source.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Job::Send(op) => op.len,
            Job::Forward(op) => op.len,
        }
    }

    /// More follows behind the last byte at once.
    pub(crate) fn more(&self) -> bool {
        match self {
            Job::Send(op) => op.more,
            Job::Forward(_) => false,
        }
    }

    pub(crate) fn method(&self) -> Method {
        match self {
            Job::Send(op) => op.method,
            Job::Forward(op) => op.method,
        }
    }

    /// A source is read away from the loop, and a pipe filled with it.
    pub(crate) fn fills_away(&self) -> bool {
        matches!(self, Job::Send(op) if op.method == Method::Chain)
    }

    /// The target is written away from the loop: a file, whose disk may have to be waited for.
    pub(crate) fn drains_away(&self) -> bool {
        match self {
            Job::Send(_) => false,
            Job::Forward(op) => !is_stream(&op.to) && op.method != Method::Inline,
        }
    }

    /// Why it can't be run: direct calls on its two ends must not block.
    pub(crate) fn unfit(&self) -> Option<End> {
        // The splice calls themselves speak for a source that is a pipe.
        if self.source().kind() == FileKind::Socket
            && let Err(e) = self.source().check_nonblocking()
        {
            return Some(End::SourceFailed(e));
        }
        if is_stream(self.target())
            && let Err(e) = self.target().check_nonblocking()
        {
            return Some(End::TargetFailed(e));
        }
        None
    }

    pub(crate) fn output(&self, end: End) -> Output {
        match self {
            Job::Send(_) => Output::Sent(match end {
                End::Complete | End::Some => SendFileEnd::Complete,
                End::SourceEnded => SendFileEnd::EndOfFile,
                End::SourceFailed(e) => SendFileEnd::SourceFailed(e),
                End::TargetFailed(e) => SendFileEnd::SocketFailed(e),
                End::NoPipe => SendFileEnd::NoPipe,
            }),
            Job::Forward(_) => Output::Forwarded(match end {
                End::Complete => ForwardEnd::Complete,
                End::Some => ForwardEnd::Some,
                End::SourceEnded => ForwardEnd::EndOfStream,
                End::SourceFailed(e) => ForwardEnd::SourceFailed(e),
                End::TargetFailed(e) => ForwardEnd::TargetFailed(e),
                End::NoPipe => ForwardEnd::NoPipe,
            }),
        }
    }

    pub(crate) fn into_op(self) -> Op {
        match self {
            Job::Send(op) => Op::SendFile(op),
            Job::Forward(op) => Op::Forward(op),
        }
    }
}

impl From<SendFile> for Job {
    fn from(op: SendFile) -> Job {
        Job::Send(op)
    }
}

impl From<Box<Forward>> for Job {
    fn from(op: Box<Forward>) -> Job {
        Job::Forward(op)
    }
}

/// A socket or pipe: what has no positions, and readiness.
pub(crate) fn is_stream(fd: &Fd) -> bool {
    matches!(fd.kind(), FileKind::Socket | FileKind::Pipe)
}
