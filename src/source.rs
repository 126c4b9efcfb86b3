//! [`Source`]: what is sent, and where in it a send begins and ends.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::{Bound, RangeBounds};

use bytes::Bytes;
use proactor::Fd;

/// What a send takes its bytes from.
pub struct Source {
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Bytes(Bytes),
    /// Read by offset, behind bytes in memory that count as its own.
    File {
        head: Bytes,
        fd: Fd,
        start: u64,
        len: Option<u64>,
    },
    /// Read from the descriptor's own position, behind bytes that were read before.
    Position {
        fd: Fd,
        buffered: Bytes,
        len: Option<u64>,
    },
    Reader {
        reader: Box<dyn Read + Send>,
        len: Option<u64>,
    },
    /// What a connection brings, behind bytes that it has brought already.
    Connection {
        fd: Fd,
        head: Bytes,
    },
}

impl Source {
    /// A range of a file. The file's own position is neither used nor moved. With an open end
    /// (`..`, `100..`), up to the end of the file as it is when the send's turn comes: what is
    /// appended later is not sent. Files that don't know their size (those of /proc), pipes and
    /// sockets are sent until they end.
    ///
    /// The caller may close its handle right after: the send has its own.
    ///
    /// Pipes, FIFOs and sockets are made non-blocking (for all who share them), their range must
    /// start at 0, and what was taken from them and could not be delivered is lost.
    ///
    /// A file that is overwritten during the send may reach the peer in its new state, since the
    /// kernel sends from the page cache; one that is truncated ends the send as
    /// [`End::Truncated`](crate::End::Truncated).
    pub fn file(file: impl Into<Fd>, range: impl RangeBounds<u64>) -> Source {
        let (start, len) = start_and_len(range);
        let (head, fd) = (Bytes::new(), file.into());
        Source::from(Kind::File {
            head,
            fd,
            start,
            len,
        })
    }

    /// Puts bytes before a range of a file ([`Source::file`]), as one source with it: they count
    /// in what is sent, and are cancelled with it. Other sources are left as they are.
    pub(crate) fn headed(mut self, bytes: Bytes) -> Source {
        if let Kind::File { head, .. } = &mut self.kind {
            *head = bytes;
        }
        self
    }

    /// A file from its descriptor's own position on, which is taken when the send's turn comes,
    /// and stands just after the last byte sent when it is over, however it ended. `None`: up to
    /// the end of the file. Pipes and sockets as with [`Source::file`].
    pub fn at_position(file: impl Into<Fd>, len: Option<u64>) -> Source {
        Source::from(Kind::Position {
            fd: file.into(),
            buffered: Bytes::new(),
            len,
        })
    }

    /// A buffered reader: the bytes in its buffer first, then the file from its position on, which
    /// afterwards stands just after the last byte sent. `len` counts both.
    pub fn buf_reader(reader: BufReader<File>, len: Option<u64>) -> Source {
        let buffered = Bytes::copy_from_slice(reader.buffer());
        Source::from(Kind::Position {
            fd: Fd::new(reader.into_inner()),
            buffered,
            len,
        })
    }

    /// Anything that can be read, until it ends or `len` bytes are sent. It is read on a worker
    /// thread, where it may block: it holds that thread then.
    pub fn reader(reader: impl Read + Send + 'static, len: Option<u64>) -> Source {
        let reader = Box::new(reader);
        Source::from(Kind::Reader { reader, len })
    }

    /// Bytes in memory: as a write, with a callback. They count as a file does for
    /// [`write_buffer_size`](crate::Transport::write_buffer_size): not at all.
    pub fn bytes(bytes: impl Into<Bytes>) -> Source {
        Source::from(Kind::Bytes(bytes.into()))
    }
}

/// A range's start and its length, if it has one.
pub(crate) fn start_and_len(range: impl RangeBounds<u64>) -> (u64, Option<u64>) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let len = match range.end_bound() {
        Bound::Included(last) => Some(last.saturating_add(1).saturating_sub(start)),
        Bound::Excluded(end) => Some(end.saturating_sub(start)),
        Bound::Unbounded => None,
    };
    (start, len)
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            Kind::Bytes(_) => "Source::bytes",
            Kind::File { .. } => "Source::file",
            Kind::Position { .. } => "Source::at_position",
            Kind::Reader { .. } => "Source::reader",
            Kind::Connection { .. } => "a relayed connection",
        })
    }
}

impl From<Kind> for Source {
    fn from(kind: Kind) -> Source {
        Source { kind }
    }
}

impl From<File> for Source {
    /// The whole file, as [`Source::file`] with `..`.
    fn from(file: File) -> Source {
        Source::file(file, ..)
    }
}

impl From<Fd> for Source {
    /// The whole file, as [`Source::file`] with `..`.
    fn from(fd: Fd) -> Source {
        Source::file(fd, ..)
    }
}

impl From<Bytes> for Source {
    fn from(bytes: Bytes) -> Source {
        Source::bytes(bytes)
    }
}

impl From<BufReader<File>> for Source {
    /// All that the reader has yet to give.
    fn from(reader: BufReader<File>) -> Source {
        Source::buf_reader(reader, None)
    }
}
