//! [`SendRequest`]: how a send is to be. [`Sending`]: a send that was started, as a future.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use proactor::Fd;

use super::FileSender;
use super::loans::{Loans, Order};
use crate::oneshot::{self, Receiver};
use crate::route::{RouteChoice, Routes};
use crate::send::{End, SendError, SendOptions, SendOutcome};
use crate::source::Source;

type Progress = Box<dyn FnMut(u64) + Send>;

/// A send that was asked of a [`FileSender`] and has not begun. Awaiting it starts it.
#[must_use = "it begins once it is awaited, or started"]
pub struct SendRequest {
    sender: FileSender,
    socket: io::Result<OwnedFd>,
    source: io::Result<Source>,
    pub(super) settings: Settings,
}

/// What [`SendOptions`] has, as far as it concerns a socket that is lent, and may change threads.
#[derive(Default)]
pub(super) struct Settings {
    route: Option<RouteChoice>,
    native_only: bool,
    timeout: Option<Duration>,
    rate: u64,
    progress: Option<Progress>,
}

impl Settings {
    pub(super) fn into_options(self) -> SendOptions {
        let mut options = SendOptions::new()
            .native_only(self.native_only)
            .rate(self.rate)
            .write_weight(0);
        if let Some(route) = self.route {
            options = options.route(route);
        }
        if let Some(timeout) = self.timeout {
            options = options.timeout(timeout);
        }
        if let Some(mut progress) = self.progress {
            options = options.progress(move |_, sent| progress(sent));
        }
        options
    }
}

impl SendRequest {
    pub(super) fn new(
        sender: FileSender,
        socket: io::Result<OwnedFd>,
        source: io::Result<Source>,
    ) -> SendRequest {
        SendRequest {
            sender,
            socket,
            source,
            settings: Settings::default(),
        }
    }

    /// Bytes that go before a file, in one segment with its beginning: an HTTP head, say. They
    /// count in what is sent. Only a file by range has them
    /// ([`FileSender::send_file`], [`Source::file`]).
    pub fn header(mut self, bytes: impl Into<Bytes>) -> SendRequest {
        self.source = self.source.map(|source| source.headed(bytes.into()));
        self
    }

    /// As [`SendOptions::route`].
    pub fn route(mut self, route: RouteChoice) -> SendRequest {
        self.settings.route = Some(route);
        self
    }

    /// As [`SendOptions::native_only`].
    pub fn native_only(mut self, yes: bool) -> SendRequest {
        self.settings.native_only = yes;
        self
    }

    /// As [`SendOptions::timeout`]; the time runs from the start on.
    pub fn timeout(mut self, time: Duration) -> SendRequest {
        self.settings.timeout = Some(time);
        self
    }

    /// As [`SendOptions::rate`], in bytes per second.
    pub fn rate(mut self, bytes_per_second: u64) -> SendRequest {
        self.settings.rate = bytes_per_second;
        self
    }

    /// As [`SendOptions::progress`]; it is called on the proactor's thread.
    pub fn progress(mut self, progress: impl FnMut(u64) + Send + 'static) -> SendRequest {
        self.settings.progress = Some(Box::new(progress));
        self
    }

    /// Starts the send; the order of starts is that in which sends over one socket leave.
    pub fn start(self) -> Sending {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let SendRequest {
            sender,
            socket,
            source,
            settings,
        } = self;
        let (promise, receiver) = oneshot::channel();
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        match socket.and_then(|socket| Ok((Fd::new(socket), source?))) {
            Err(e) => promise.send(failed(e)),
            Ok((socket, source)) => {
                let order = Order {
                    id,
                    socket,
                    source,
                    settings,
                    promise,
                };
                // If the proactor is gone, the promise is dropped with the order, and that tells.
                let _ = sender
                    .remote
                    .post(move |proactor| Loans::of(proactor).take(proactor, order));
            }
        }
        Sending {
            sender,
            id,
            receiver,
            over: false,
        }
    }
}

/// The outcome of what could not begin.
pub(super) fn failed(error: io::Error) -> SendOutcome {
    SendOutcome {
        sent: 0,
        end: End::Failed,
        routes: Routes::NONE,
        error: Some(error),
    }
}

impl IntoFuture for SendRequest {
    type Output = Result<u64, SendError>;
    type IntoFuture = Sending;

    fn into_future(self) -> Sending {
        self.start()
    }
}

impl fmt::Debug for SendRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendRequest")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// A send of a [`FileSender`]'s under way. Ready with the count when all was sent, else with the
/// error, which has the count too; by then the descriptors are given back.
///
/// Dropped before it is ready, it cancels the send: the kernel may take some more bytes until the
/// cancel has arrived, and how many it took nobody is told. Who has to know, or wants to write to
/// the socket again, uses [`cancel`](Sending::cancel) and awaits the future: when it is ready,
/// nothing more leaves. If any but not all bytes were sent, all that the connection is good for is
/// to be closed.
#[must_use = "dropping it cancels the send"]
pub struct Sending {
    sender: FileSender,
    id: u64,
    receiver: Receiver<SendOutcome>,
    over: bool,
}

impl Sending {
    /// Cancels the send; the future is ready soon after, with [`End::Cancelled`] and the count, or
    /// with success if that came first.
    pub fn cancel(&self) {
        let id = self.id;
        // If the proactor is gone, so is the send.
        let _ = self
            .sender
            .remote
            .post(move |proactor| Loans::of(proactor).cancel(id));
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

impl Future for Sending {
    type Output = Result<u64, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_outcome(cx).map(SendOutcome::into_result)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.over {
            self.cancel();
        }
    }
}

impl fmt::Debug for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
