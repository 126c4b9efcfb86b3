//! [`Forward`]: what a stream brings, to a file or to another stream. The counterpart of
//! [`SendFile`](crate::SendFile).

use std::io;

use crate::buf::SendBuf;
use crate::fd::Fd;
use crate::op::Method;

/// Moves what a stream (a socket, the reading end of a pipe) brings to a file, a socket or a pipe:
/// stream → pipe → target, without a copy through user space (splice(2)).
///
/// Completes once, with [`Output::Forwarded`](crate::Output::Forwarded) and `transferred`, the
/// number of bytes, `head` included, that the target has taken. On cancel the result is
/// `ECANCELED`, with `transferred` as exact. **No byte is lost, however it ends**: what was taken
/// from the stream and did not reach the target comes back in `head`.
///
/// A stream that brings nothing holds neither a worker nor a pipe, and a target that takes nothing
/// no worker. A write to a file that waits for a disk can't be interrupted: a cancel completes
/// once it is through.
pub struct Forward {
    /// Bytes that go before what the stream brings. Comes back with what is still to be delivered.
    pub head: SendBuf,
    /// The source: a connected socket or the reading end of a pipe.
    pub from: Fd,
    /// The target. Files opened with `O_APPEND` are refused by the kernel (`EINVAL`).
    pub to: Fd,
    /// Where in the target. `None` for those without positions, and for the descriptor's own
    /// position, which is moved.
    pub offset: Option<u64>,
    /// How many bytes of the stream to move, `head` not included; fewer only at the end of the
    /// stream, [`ForwardEnd::EndOfStream`]. `u64::MAX` is "until the end".
    pub len: u64,
    /// Complete as soon as something was moved and the stream has no more at hand:
    /// [`ForwardEnd::Some`]. So who waits for an end is told of what goes on.
    pub some: bool,
    /// How a file is written: [`Method::Inline`] by direct calls, which block the loop where a
    /// disk has to be waited for; any other away from the loop. Sockets and pipes are always
    /// written to by direct calls, which don't block.
    pub method: Method,
}

/// How a [`Forward`] ended.
#[derive(Debug)]
pub enum ForwardEnd {
    /// All of `head` and `len` was moved.
    Complete,
    /// Something was moved, and there was no more at hand: see [`Forward::some`].
    Some,
    /// The stream ended before `len`; all that it brought was moved.
    EndOfStream,
    /// The stream failed, or can't be spliced (`EINVAL` and its kin).
    SourceFailed(io::Error),
    /// The target failed, is gone, or can't be spliced into (`EINVAL` and its kin).
    TargetFailed(io::Error),
    /// No pipe could be had (the pool's bound, `EMFILE`, a quota): nothing is wrong with either
    /// end, move the rest by other means.
    NoPipe,
}
