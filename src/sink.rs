//! [`Sink`]: where a receive puts what arrives.

use std::fmt;
use std::fs::File;
use std::ops::RangeBounds;

use proactor::Fd;

use crate::source::start_and_len;

/// Where a [`receive_file`](crate::Transport::receive_file) puts what arrives, and how much that
/// is to be: the counterpart of [`Source`](crate::Source).
pub struct Sink {
    pub(crate) fd: Fd,
    /// `None`: at the descriptor's own position.
    pub(crate) start: Option<u64>,
    pub(crate) len: Option<u64>,
}

impl Sink {
    /// A range of a file. The file's own position is neither used nor moved. The range's length is
    /// the number of bytes to receive; with an open end (`..`, `100..`), what arrives up to the end
    /// of the stream.
    ///
    /// The caller may close its handle right after: the receive has its own. The file is neither
    /// truncated nor made longer beforehand. One that was opened with `O_APPEND` is appended to,
    /// wherever the range starts (pwrite(2), "BUGS"). What has no positions (pipes, sockets,
    /// terminals) is written to where it stands, and its range must start at 0; pipes and sockets
    /// are made non-blocking, for all who share them.
    pub fn file(file: impl Into<Fd>, range: impl RangeBounds<u64>) -> Sink {
        let (start, len) = start_and_len(range);
        let fd = file.into();
        let start = Some(start);
        Sink { fd, start, len }
    }

    /// A file from its descriptor's own position on, which stands just after the last byte received
    /// when it is over, however it ended. `None`: up to the end of the stream.
    pub fn at_position(file: impl Into<Fd>, len: Option<u64>) -> Sink {
        let fd = file.into();
        let start = None;
        Sink { fd, start, len }
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink")
            .field("start", &self.start)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl From<File> for Sink {
    /// From the file's beginning up to the end of the stream, as [`Sink::file`] with `..`.
    fn from(file: File) -> Sink {
        Sink::file(file, ..)
    }
}

impl From<Fd> for Sink {
    /// From the file's beginning up to the end of the stream, as [`Sink::file`] with `..`.
    fn from(fd: Fd) -> Sink {
        Sink::file(fd, ..)
    }
}
