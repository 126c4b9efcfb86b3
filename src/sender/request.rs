//! [`SendRequest`]: how a send is to be. [`Sending`]: a send that was started, as a future.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::io;
use std::ops::ControlFlow::{Break, Continue};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use proactor::{Fd, FileKind, net};

use super::loans::Order;
use super::places::{Before, Identity, Promise};
use super::{FileSender, direct};
use crate::oneshot::{self, Receiver};
use crate::route::{RouteChoice, Routes};
use crate::send::{End, SendError, SendOptions, SendOutcome};
use crate::source::Source;

type Progress = Box<dyn FnMut(u64) + Send>;

/// A send that was asked of a [`FileSender`] and has not begun. Awaiting it starts it.
#[must_use = "it begins once it is awaited, or started"]
pub struct SendRequest<'s> {
    sender: FileSender,
    socket: BorrowedFd<'s>,
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
    /// Whether a send may leave at once, by whatever route.
    fn are_simple(&self) -> bool {
        matches!(self.route, None | Some(RouteChoice::Auto))
            && self.rate == 0
            && self.progress.is_none()
    }

    /// For a send of which some has left already, or nothing has.
    pub(super) fn into_options(self, begun: bool) -> SendOptions {
        let mut options = SendOptions::new()
            .native_only(self.native_only)
            .rate(self.rate)
            .write_weight(0);
        options.begun = begun;
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

impl<'s> SendRequest<'s> {
    pub(crate) fn new(
        sender: FileSender,
        socket: BorrowedFd<'s>,
        source: io::Result<Source>,
    ) -> SendRequest<'s> {
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
    pub fn header(mut self, bytes: impl Into<Bytes>) -> SendRequest<'s> {
        self.source = self.source.map(|source| source.headed(bytes.into()));
        self
    }

    /// As [`SendOptions::route`].
    pub fn route(mut self, route: RouteChoice) -> SendRequest<'s> {
        self.settings.route = Some(route);
        self
    }

    /// As [`SendOptions::native_only`].
    pub fn native_only(mut self, yes: bool) -> SendRequest<'s> {
        self.settings.native_only = yes;
        self
    }

    /// As [`SendOptions::timeout`]; the time runs from the start on.
    pub fn timeout(mut self, time: Duration) -> SendRequest<'s> {
        self.settings.timeout = Some(time);
        self
    }

    /// As [`SendOptions::rate`], in bytes per second.
    pub fn rate(mut self, bytes_per_second: u64) -> SendRequest<'s> {
        self.settings.rate = bytes_per_second;
        self
    }

    /// As [`SendOptions::progress`]; it is called on the proactor's thread.
    pub fn progress(mut self, progress: impl FnMut(u64) + Send + 'static) -> SendRequest<'s> {
        self.settings.progress = Some(Box::new(progress));
        self
    }

    /// Starts the send; the order of starts is that in which sends over one socket leave. What can
    /// be sent at once has been when this returns.
    pub fn start(self) -> Sending {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let SendRequest {
            sender,
            socket,
            source,
            settings,
        } = self;
        let found = source.and_then(|source| Ok((source, net::identity(socket)?)));
        let (mut source, (identity, kind)) = match found {
            Ok(found) => found,
            Err(e) => return Sending::over(sender, failed(e)),
        };
        let mut before = Before::default();
        let mut turn = None;
        let direct = kind == FileKind::Socket && settings.are_simple() && direct::suits(&source);
        if direct && !sender.remote.is_gone() {
            turn = sender.places.enter(&sender.remote, identity);
        }
        if turn.is_some() {
            match direct::begin(socket, &mut source) {
                Continue(sent) => before = sent,
                Break(outcome) => return Sending::over(sender, outcome),
            }
        }
        let (tell, receiver) = oneshot::channel();
        let promise = Promise::new(sender.places.expect(identity), before, tell);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        match socket.try_clone_to_owned() {
            Err(e) => promise.keep(failed(e)),
            Ok(socket) => {
                let order = Order {
                    id,
                    identity,
                    socket: Fd::new(socket),
                    source,
                    settings,
                    promise,
                };
                match turn {
                    Some(turn) => turn.leave(order),
                    None => sender.places.hand_over(&sender.remote, order),
                }
            }
        }
        Sending {
            sender,
            state: Standing::Waits(identity, id, receiver),
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

impl IntoFuture for SendRequest<'_> {
    type Output = Result<u64, SendError>;
    type IntoFuture = Sending;

    fn into_future(self) -> Sending {
        self.start()
    }
}

impl fmt::Debug for SendRequest<'_> {
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
    state: Standing,
}

/// How far a send is.
enum Standing {
    /// It is at the proactor, or on its way there: by its socket and its number.
    Waits(Identity, u64, Receiver<SendOutcome>),
    /// It was over at once.
    Over(SendOutcome),
    /// Its outcome was told, or is nobody's.
    Told,
}

impl Sending {
    fn over(sender: FileSender, outcome: SendOutcome) -> Sending {
        let state = Standing::Over(outcome);
        Sending { sender, state }
    }

    /// Cancels the send; the future is ready soon after, with [`End::Cancelled`] and the count, or
    /// with success if that came first.
    pub fn cancel(&self) {
        // If the proactor is gone, so is the send.
        if let Standing::Waits(identity, id, _) = self.state {
            let FileSender { remote, places, .. } = &self.sender;
            places.cancel(remote, identity, id);
        }
    }

    /// Lets the send go on by itself; its outcome is nobody's.
    pub fn detach(mut self) {
        self.state = Standing::Told;
    }

    /// Waits for all there is to know of the send's end, rather than for a result.
    pub async fn outcome(mut self) -> SendOutcome {
        std::future::poll_fn(|cx| self.poll_outcome(cx)).await
    }

    fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<SendOutcome> {
        let outcome = match &mut self.state {
            Standing::Waits(_, _, receiver) => match receiver.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(outcome) => outcome.unwrap_or_else(SendOutcome::abandoned),
            },
            // A task whose sends are all over at once would never let others run.
            Standing::Over(_) if direct::is_turn_over() => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            state => match std::mem::replace(state, Standing::Told) {
                Standing::Over(outcome) => outcome,
                _ => SendOutcome::abandoned(),
            },
        };
        self.state = Standing::Told;
        Poll::Ready(outcome)
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
        self.cancel();
    }
}

impl fmt::Debug for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending")
            .field("is_over", &!matches!(self.state, Standing::Waits(..)))
            .finish_non_exhaustive()
    }
}
