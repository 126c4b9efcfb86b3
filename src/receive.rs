//! One receive of a file as its caller sees it: options going in, the outcome coming out, the
//! handle between. The counterpart of `send.rs`.

use std::fmt;
use std::io;
use std::rc::Weak;
use std::time::Duration;

use bytes::Bytes;

use crate::route::{RouteChoice, Routes};
use crate::send::{End, Progress};
use crate::transport::{Conn, Transport};

/// What of a received file is on the disk when its callback is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum FileSync {
    /// Nothing that is known: the system writes when it likes.
    #[default]
    None,
    /// The content, and what is needed to read it: its length (fdatasync(2)).
    Data,
    /// Times and the rest as well (fsync(2)). The file's name is its directory's affair.
    All,
}

/// How a file is to be received; everything has a default.
#[derive(Default)]
pub struct ReceiveOptions {
    pub(crate) prefix: Bytes,
    pub(crate) route: RouteChoice,
    pub(crate) timeout: Option<Duration>,
    pub(crate) rate: Option<u64>,
    pub(crate) progress: Option<Progress>,
    pub(crate) sync: FileSync,
}

impl ReceiveOptions {
    /// The defaults.
    pub fn new() -> ReceiveOptions {
        ReceiveOptions::default()
    }

    /// Bytes that the protocol was given already, and that are the file's first ones: those behind
    /// a header in the same [`data_received`](crate::Protocol::data_received), say. They count as
    /// received ones do. What of them is beyond the file's end comes to `data_received` again.
    pub fn prefix(mut self, bytes: impl Into<Bytes>) -> ReceiveOptions {
        self.prefix = bytes.into();
        self
    }

    /// Which way the bytes go: for tests and measurements. [`Route::Inline`](crate::Route::Inline)
    /// writes the file on the loop, and blocks it while the disk is waited for;
    /// [`Route::Sendfile`](crate::Route::Sendfile) is no way in, and counts as `Chain`.
    /// Default: [`RouteChoice::Auto`].
    pub fn route(mut self, route: RouteChoice) -> ReceiveOptions {
        self.route = route;
        self
    }

    /// The time that the whole receive may take, from the call on. After it the receive ends as if
    /// cancelled, with [`End::TimedOut`].
    pub fn timeout(mut self, time: Duration) -> ReceiveOptions {
        self.timeout = Some(time);
        self
    }

    /// The most bytes that are received in a second; within a tenth of it over a second. What the
    /// peer sends beyond waits in the socket, and then at the peer. 0 is no limit.
    pub fn rate(mut self, bytes_per_second: u64) -> ReceiveOptions {
        self.rate = (bytes_per_second > 0).then_some(bytes_per_second);
        self
    }

    /// Is called as the receive goes on with the number of bytes in the file so far: never less
    /// than before, at least once a MiB and whenever the peer pauses, and at the end, before the
    /// receive's own callback, with its count (if any byte was received).
    pub fn progress(mut self, progress: impl FnMut(&Transport, u64) + 'static) -> ReceiveOptions {
        self.progress = Some(Box::new(progress));
        self
    }

    /// What is to be on the disk before the callback is called. A failure of it is one of the
    /// receive. Default: [`FileSync::None`].
    pub fn sync(mut self, sync: FileSync) -> ReceiveOptions {
        self.sync = sync;
        self
    }
}

impl fmt::Debug for ReceiveOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveOptions")
            .field("prefix", &self.prefix.len())
            .field("route", &self.route)
            .field("timeout", &self.timeout)
            .field("rate", &self.rate)
            .field("progress", &self.progress.is_some())
            .field("sync", &self.sync)
            .finish()
    }
}

/// What became of a receive.
#[derive(Debug)]
#[must_use]
pub struct ReceiveOutcome {
    /// The number of bytes that are in the file; exact, whatever the end.
    pub received: u64,
    /// How it ended: [`End::Complete`] with all that was to come; [`End::EndOfFile`] at the end of
    /// the stream, where no length was named; [`End::Truncated`] where the stream ended before.
    pub end: End,
    /// Which routes carried bytes.
    pub routes: Routes,
    /// The error, where it was no success: always there then.
    pub error: Option<io::Error>,
}

impl ReceiveOutcome {
    /// Whether all was received that was to be received.
    pub fn is_success(&self) -> bool {
        matches!(self.end, End::Complete | End::EndOfFile)
    }

    /// The count, or the error with the count.
    ///
    /// # Errors
    /// When it is no success.
    pub fn into_result(self) -> Result<u64, ReceiveError> {
        if self.is_success() {
            return Ok(self.received);
        }
        Err(ReceiveError {
            received: self.received,
            end: self.end,
            error: self
                .error
                .unwrap_or_else(|| io::Error::other("the receive failed")),
        })
    }
}

/// A receive that failed, with what is in the file.
#[derive(Debug)]
pub struct ReceiveError {
    /// The number of bytes in the file.
    pub received: u64,
    /// How it ended.
    pub end: End,
    /// Why.
    pub error: io::Error,
}

impl fmt::Display for ReceiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (after {} bytes)", self.error, self.received)
    }
}

impl std::error::Error for ReceiveError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<ReceiveError> for io::Error {
    fn from(error: ReceiveError) -> io::Error {
        io::Error::new(error.error.kind(), error)
    }
}

/// A receive that was asked for. Dropping it changes nothing.
#[derive(Clone)]
pub struct ReceiveHandle {
    pub(crate) conn: Weak<Conn>,
    pub(crate) id: u64,
}

impl ReceiveHandle {
    /// Ends the receive where it is. Its callback comes from the loop, with [`End::Cancelled`] and
    /// the count; what arrived and is not in the file comes to
    /// [`data_received`](crate::Protocol::data_received) after it. Nothing happens if the receive
    /// is over, or so far along that it completes first.
    ///
    /// A write or fsync(2) that waits for a disk can't be interrupted: the callback comes when the
    /// disk has answered.
    pub fn cancel(&self) {
        if let Some(conn) = self.conn.upgrade() {
            conn.stop_receive(self.id, End::Cancelled);
        }
    }

    /// Whether the receive is over: its callback has been called, or is about to be.
    pub fn is_done(&self) -> bool {
        self.conn
            .upgrade()
            .is_none_or(|conn| conn.is_received(self.id))
    }
}

impl fmt::Debug for ReceiveHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveHandle")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
