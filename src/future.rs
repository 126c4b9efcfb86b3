//! The transport's calls as futures: [`SendFuture`], [`ReceiveFuture`], [`Drain`]. They are the callbacks' other end,
//! and run on any executor whose thread also runs the proactor: [`Proactor::block_on`], or another
//! runtime that the proactor is embedded in.
//!
//! [`Proactor::block_on`]: proactor::Proactor::block_on

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::oneshot::{self, Receiver};
use crate::receive::{ReceiveError, ReceiveHandle, ReceiveOptions, ReceiveOutcome};
use crate::send::{End, SendError, SendHandle, SendOptions, SendOutcome};
use crate::sink::Sink;
use crate::source::Source;
use crate::transport::Transport;

impl Transport {
    /// As [`send_file`](Transport::send_file), with a future in the callback's place. The send is
    /// queued by this call, not by the first poll, so that what is written and sent leaves in the
    /// order of the calls.
    ///
    /// Dropping the future cancels the send; see [`SendFuture`].
    pub fn send_file_async(&self, source: impl Into<Source>, options: SendOptions) -> SendFuture {
        let (sender, receiver) = oneshot::channel();
        let handle = self.send_file(source, options, move |_, outcome| sender.send(outcome));
        SendFuture {
            handle,
            receiver,
            over: false,
        }
    }

    /// As [`write`](Transport::write), with a future that is ready once the kernel has taken the
    /// bytes, and with them all that was queued before. No bytes make it a flush.
    ///
    /// Dropping the future cancels the write, as with [`SendFuture`]: bytes that must leave
    /// whatever happens are for `write` and [`drain`](Transport::drain).
    pub fn write_async(&self, data: impl Into<Bytes>) -> SendFuture {
        let data = data.into();
        let options = SendOptions::new().write_weight(data.len());
        self.send_file_async(Source::bytes(data), options)
    }

    /// As [`receive_file`](Transport::receive_file), with a future in the callback's place. The
    /// receive is queued by this call, not by the first poll.
    ///
    /// Dropping the future cancels the receive; see [`ReceiveFuture`].
    pub fn receive_file_async(
        &self,
        sink: impl Into<Sink>,
        options: ReceiveOptions,
    ) -> ReceiveFuture {
        let (sender, receiver) = oneshot::channel();
        let handle = self.receive_file(sink, options, move |_, outcome| sender.send(outcome));
        ReceiveFuture {
            handle,
            receiver,
            over: false,
        }
    }

    /// Waits until more may be written: ready at once unless more is queued than the high write
    /// limit, and then when no more is than the low one (asyncio's `drain`). Dropping it changes
    /// nothing.
    ///
    /// # Errors
    /// `BrokenPipe` once the connection is ending or lost.
    pub fn drain(&self) -> Drain {
        Drain {
            transport: self.clone(),
            waiting: false,
        }
    }
}

/// A send under way: made by [`Transport::send_file_async`] and [`Transport::write_async`]. Ready
/// with the count when all was sent, else with the error, which has the count too.
///
/// Dropped before it is ready, it cancels the send, as [`SendHandle::cancel`] does: a send of which
/// nothing has left is taken out of the queue, and the connection stays usable; one that has begun
/// ends where it is, and the connection is cut, since the peer was promised the rest
/// ([`SendOptions::keep_connection`] keeps it). The kernel may take some more bytes between the
/// drop and the end. Who needs the count uses [`cancel`](SendFuture::cancel) and awaits the future.
#[must_use = "dropping it cancels the send"]
pub struct SendFuture {
    handle: SendHandle,
    receiver: Receiver<SendOutcome>,
    over: bool,
}

impl SendFuture {
    /// Cancels the send; the future is ready soon after, with [`End::Cancelled`] and the count, or
    /// with success if that came first.
    pub fn cancel(&self) {
        self.handle.cancel();
    }

    /// For cancelling from elsewhere.
    pub fn handle(&self) -> SendHandle {
        self.handle.clone()
    }

    /// Lets the send go on by itself; its outcome is nobody's.
    pub fn detach(mut self) {
        self.over = true;
    }

    /// Waits for all there is to know of the send's end, rather than for a result.
    pub async fn outcome(mut self) -> SendOutcome {
        std::future::poll_fn(|cx| self.poll_outcome(cx)).await
    }

    fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<SendOutcome> {
        self.receiver.poll(cx).map(|outcome| {
            self.over = true;
            outcome.unwrap_or_else(SendOutcome::abandoned)
        })
    }
}

impl Future for SendFuture {
    type Output = Result<u64, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_outcome(cx).map(SendOutcome::into_result)
    }
}

impl Drop for SendFuture {
    fn drop(&mut self) {
        if !self.over {
            self.handle.cancel();
        }
    }
}

impl fmt::Debug for SendFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendFuture")
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

/// A receive under way: made by [`Transport::receive_file_async`]. Ready with the count when all was
/// received, else with the error, which has the count too.
///
/// Dropped before it is ready, it cancels the receive, as [`ReceiveHandle::cancel`] does: what
/// arrived and is not in the file by then comes to the protocol, and the connection stays usable.
#[must_use = "dropping it cancels the receive"]
pub struct ReceiveFuture {
    handle: ReceiveHandle,
    receiver: Receiver<ReceiveOutcome>,
    over: bool,
}

impl ReceiveFuture {
    /// Cancels the receive; the future is ready soon after, with [`End::Cancelled`] and the count,
    /// or with success if that came first.
    pub fn cancel(&self) {
        self.handle.cancel();
    }

    /// For cancelling from elsewhere.
    pub fn handle(&self) -> ReceiveHandle {
        self.handle.clone()
    }

    /// Waits for all there is to know of the receive's end, rather than for a result.
    pub async fn outcome(mut self) -> ReceiveOutcome {
        std::future::poll_fn(|cx| self.poll_outcome(cx)).await
    }

    fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<ReceiveOutcome> {
        self.receiver.poll(cx).map(|outcome| {
            self.over = true;
            outcome.unwrap_or_else(|| ReceiveOutcome {
                received: 0,
                end: End::Closing,
                routes: crate::route::Routes::NONE,
                error: Some(gone()),
            })
        })
    }
}

impl Future for ReceiveFuture {
    type Output = Result<u64, ReceiveError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_outcome(cx).map(ReceiveOutcome::into_result)
    }
}

impl Drop for ReceiveFuture {
    fn drop(&mut self) {
        if !self.over {
            self.handle.cancel();
        }
    }
}

impl fmt::Debug for ReceiveFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveFuture")
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

fn gone() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        "the proactor is gone, so that nothing more can be moved",
    )
}

impl SendOutcome {
    /// That of a send whose proactor is gone before it could be told of.
    pub(crate) fn abandoned() -> SendOutcome {
        SendOutcome {
            sent: 0,
            end: End::Closing,
            routes: crate::route::Routes::NONE,
            error: Some(gone()),
        }
    }

    /// That of a send which was cancelled before anybody looked at it.
    pub(crate) fn cancelled() -> SendOutcome {
        SendOutcome {
            sent: 0,
            end: End::Cancelled,
            routes: crate::route::Routes::NONE,
            error: Some(crate::transport::error_of(End::Cancelled)),
        }
    }
}

/// A wait until more may be written: made by [`Transport::drain`].
#[derive(Debug)]
#[must_use = "futures do nothing unless they are awaited"]
pub struct Drain {
    transport: Transport,
    /// It had to wait, so that the low limit counts.
    waiting: bool,
}

impl Future for Drain {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let drained = self.transport.poll_drained(cx, self.waiting);
        self.waiting |= drained.is_pending();
        drained
    }
}
