//! One send of a file as its caller sees it: options going in, the outcome coming out, the handle
//! between.

use std::fmt;
use std::io;
use std::rc::Weak;
use std::time::Duration;

use crate::route::{RouteChoice, Routes};
use crate::transport::{Conn, Transport};

pub(crate) type Progress = Box<dyn FnMut(&Transport, u64)>;

/// How a file is to be sent; everything has a default.
#[derive(Default)]
pub struct SendOptions {
    pub(crate) route: Option<RouteChoice>,
    pub(crate) native_only: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) rate: Option<u64>,
    pub(crate) progress: Option<Progress>,
    pub(crate) keep_connection: bool,
    pub(crate) write_weight: Option<usize>,
    /// Some of it was sent before it is queued: the peer waits for the rest.
    pub(crate) begun: bool,
}

impl SendOptions {
    /// The defaults.
    pub fn new() -> SendOptions {
        SendOptions::default()
    }

    /// Which way the bytes go. Default: what
    /// [`TransportOptions::route`](crate::TransportOptions::route) says.
    pub fn route(mut self, route: RouteChoice) -> SendOptions {
        self.route = Some(route);
        self
    }

    /// Never copies: a source that the kernel refuses to send by itself ends the send with
    /// [`End::Failed`], an error of kind `Unsupported`, and nothing of it sent.
    pub fn native_only(mut self, yes: bool) -> SendOptions {
        self.native_only = yes;
        self
    }

    /// The time that the whole send may take, from the call on, its wait in the queue included.
    /// After it the send ends as if cancelled, with [`End::TimedOut`].
    pub fn timeout(mut self, time: Duration) -> SendOptions {
        self.timeout = Some(time);
        self
    }

    /// The most bytes that are sent in a second; within a tenth of it over a second. 0 is no limit.
    pub fn rate(mut self, bytes_per_second: u64) -> SendOptions {
        self.rate = (bytes_per_second > 0).then_some(bytes_per_second);
        self
    }

    /// Is called as the send goes on with the number of bytes sent so far: never less than before,
    /// at least once a MiB, and at the end, before the send's own callback, with its count (if any
    /// byte was sent).
    pub fn progress(mut self, progress: impl FnMut(&Transport, u64) + 'static) -> SendOptions {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Keeps the connection after a send that ended midway. By default it is cut then, since the
    /// peer was promised bytes that won't come.
    pub fn keep_connection(mut self, yes: bool) -> SendOptions {
        self.keep_connection = yes;
        self
    }

    /// What this send, while it is queued, counts at most for the write limits, in bytes; never
    /// more than what is left of it. Default: one more than the high limit, so that it pauses
    /// writing until it is sent. 0: it never pauses writing.
    pub fn write_weight(mut self, bytes: usize) -> SendOptions {
        self.write_weight = Some(bytes);
        self
    }
}

impl fmt::Debug for SendOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendOptions")
            .field("route", &self.route)
            .field("native_only", &self.native_only)
            .field("timeout", &self.timeout)
            .field("rate", &self.rate)
            .field("progress", &self.progress.is_some())
            .field("keep_connection", &self.keep_connection)
            .field("write_weight", &self.write_weight)
            .finish()
    }
}

/// How a send ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum End {
    /// All that was promised was sent.
    Complete,
    /// The source, of which no length was promised, was sent up to its end.
    EndOfFile,
    /// The source ended before the promised length: `UnexpectedEof`.
    Truncated,
    /// Cancelled: by its handle, or by [`Transport::abort`].
    Cancelled,
    /// The time was up: `TimedOut`.
    TimedOut,
    /// The peer is gone: `BrokenPipe`, `ConnectionReset` or what else the socket says.
    PeerGone,
    /// The source can't be read, or can't be sent.
    Failed,
    /// The transport was closing already.
    Closing,
}

/// What became of a send.
#[derive(Debug)]
#[must_use]
pub struct SendOutcome {
    /// The number of the source's bytes that the kernel took for the peer; exact, whatever the end.
    pub sent: u64,
    /// How it ended.
    pub end: End,
    /// Which routes carried bytes.
    pub routes: Routes,
    /// The error, where it was no success: always there then.
    pub error: Option<io::Error>,
}

impl SendOutcome {
    /// Whether all was sent that was to be sent.
    pub fn is_success(&self) -> bool {
        matches!(self.end, End::Complete | End::EndOfFile)
    }

    /// The count, or the error with the count.
    ///
    /// # Errors
    /// When it is no success.
    pub fn into_result(self) -> Result<u64, SendError> {
        if self.is_success() {
            return Ok(self.sent);
        }
        Err(SendError {
            sent: self.sent,
            end: self.end,
            error: self
                .error
                .unwrap_or_else(|| io::Error::other("the send failed")),
        })
    }
}

/// A send that failed, with what it had sent.
#[derive(Debug)]
pub struct SendError {
    /// The number of bytes sent before.
    pub sent: u64,
    /// How it ended.
    pub end: End,
    /// Why.
    pub error: io::Error,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (after {} bytes)", self.error, self.sent)
    }
}

impl std::error::Error for SendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<SendError> for io::Error {
    fn from(error: SendError) -> io::Error {
        io::Error::new(error.error.kind(), error)
    }
}

/// A send that was asked for. Dropping it changes nothing.
#[derive(Clone)]
pub struct SendHandle {
    pub(crate) conn: Weak<Conn>,
    pub(crate) id: u64,
}

impl SendHandle {
    /// Ends the send: one that waits in the queue is taken out and the rest goes on; one under way
    /// is ended where it is. Its callback comes from the loop, with [`End::Cancelled`] and the
    /// count; that of a send which waited comes at once, not after those before it. Nothing
    /// happens if the send is over, or so far along that it completes first.
    pub fn cancel(&self) {
        if let Some(conn) = self.conn.upgrade() {
            conn.stop_send(self.id, End::Cancelled);
        }
    }

    /// Whether the send is over: its callback has been called, or is about to be.
    pub fn is_done(&self) -> bool {
        self.conn.upgrade().is_none_or(|conn| conn.is_sent(self.id))
    }
}

impl fmt::Debug for SendHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendHandle")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
