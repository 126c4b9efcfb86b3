//! [`Source`]: what is sent, and where in it a send begins and ends.

use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::RangeBounds;

use bytes::Bytes;
use proactor::Fd;

/// What a send takes its bytes from.
pub struct Source {}

impl Source {
    /// A range of a file. The file's own position is neither used nor moved. With an open end
    /// (`..`, `100..`), up to the end of the file as it is when the send's turn comes; files that
    /// don't know their size (those of /proc), pipes and sockets until they end.
    ///
    /// On pipes and sockets the start of the range must be 0.
    pub fn file(file: impl Into<Fd>, range: impl RangeBounds<u64>) -> Source {
        let _ = (file.into(), range.start_bound());
        todo!()
    }

    /// A file from its descriptor's own position on, which is taken when the send's turn comes,
    /// and stands just after the last byte sent when it is over, however it ended. `None`: up to
    /// the end of the file.
    pub fn at_position(file: impl Into<Fd>, len: Option<u64>) -> Source {
        let _ = (file.into(), len);
        todo!()
    }

    /// A buffered reader: the bytes in its buffer first, then the file from its position on.
    pub fn buf_reader(reader: BufReader<File>, len: Option<u64>) -> Source {
        let _ = (reader, len);
        todo!()
    }

    /// Anything that can be read; it is read on a worker thread.
    pub fn reader(reader: impl Read + Send + 'static, len: Option<u64>) -> Source {
        let _ = (reader, len);
        todo!()
    }

    /// Bytes in memory: as a write, with a callback.
    pub fn bytes(bytes: impl Into<Bytes>) -> Source {
        let _ = bytes.into();
        todo!()
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
