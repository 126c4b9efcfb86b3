//! One send of a file under way: where it stands in its source, what is left, how it is to end.
//! It asks the kernel about its source when it starts, and moves nothing itself.

use std::cell::RefCell;
use std::io::{self, Read};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use proactor::{BackendKind, Fd, FileKind, Filesystem, Token};

use super::Transport;
use crate::pacing::Pacing;
use crate::route::{
    Decision, Looked, PROGRESS_PIECE, RouteChoice, Routes, Situation, decide, is_refusal,
    is_starved,
};
use crate::send::{End, Progress, SendOptions, SendOutcome};
use crate::source::Kind;
use crate::span::Span;

pub(crate) type OnSent = Box<dyn FnOnce(&Transport, SendOutcome)>;

/// Where the bytes behind `head` come from.
pub(crate) enum Body {
    /// Not started.
    Pending(Kind),
    /// There are none.
    None,
    /// Read by offset; `start` is where the body starts.
    Seekable { fd: Fd, start: u64 },
    /// A pipe, socket or character device: read where it stands.
    Stream {
        fd: Fd,
        /// Read, and not yet sent.
        chunk: BytesMut,
        /// It is a connection's, and relayed.
        relayed: bool,
    },
    /// Read on a worker, which has it meanwhile.
    Reader {
        reader: Option<Box<dyn Read + Send>>,
        chunk: BytesMut,
    },
}

/// What is to be done for a send next.
#[derive(Debug)]
pub(crate) enum Next {
    /// It is over.
    Over(End),
    /// Bytes in memory: `head`.
    Head,
    /// Read by offset and send.
    Seekable,
    /// Send what was read.
    Chunk,
    /// Read more of a stream.
    Stream,
    /// Let a worker read more.
    Reader,
    /// Open the file once more, for ordinary reading.
    Reopen,
}

/// Whether the file is to be opened once more. One that was opened for direct access (`O_DIRECT`)
/// can be read in blocks only; a second descriptor has no such whims.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reopen {
    No,
    Wanted,
    Tried,
}

pub(crate) struct FileSend {
    pub(crate) id: u64,
    pub(crate) body: Body,
    /// Bytes in memory that go before the body; what is sent of it is taken off.
    pub(crate) head: Bytes,
    head_len: u64,
    /// The source's bytes that the kernel took for the peer.
    pub(crate) sent: u64,
    /// Bytes behind `sent` that are in the buffer of the operation under way.
    pub(crate) gathered: usize,
    /// How many are to be sent, where that is known.
    total: Option<u64>,
    /// The caller named the length.
    promised: bool,
    /// Where the descriptor's position stood at the start, where that is to be moved.
    position: Option<(Fd, u64)>,
    reopen: Reopen,
    /// Where the source was found to end, in bytes of the send.
    ended: Option<u64>,
    pub(crate) failure: Option<io::Error>,
    /// It is to end before its time.
    pub(crate) stop: Option<End>,
    pub(crate) choice: RouteChoice,
    native_only: bool,
    looked: RefCell<Looked>,
    pub(crate) refused: bool,
    pub(crate) no_pipe: bool,
    pub(crate) routes: Routes,
    pub(crate) span: Span,
    pub(crate) pacing: Option<Pacing>,
    pub(crate) deadline: Option<Token>,
    pub(crate) progress: Option<Progress>,
    /// What `progress` was told last.
    pub(crate) reported: u64,
    keep_connection: bool,
    begun: bool,
    weight: Option<usize>,
    /// What it counts for the write limits at present.
    pub(crate) counted: u64,
    pub(crate) on_sent: Option<OnSent>,
    /// Once it is over.
    pub(crate) end: Option<End>,
}

impl FileSend {
    pub(crate) fn new(
        id: u64,
        kind: Kind,
        options: SendOptions,
        default: RouteChoice,
        on_sent: OnSent,
    ) -> FileSend {
        FileSend {
            id,
            body: Body::Pending(kind),
            head: Bytes::new(),
            head_len: 0,
            sent: 0,
            gathered: 0,
            total: None,
            promised: false,
            position: None,
            reopen: Reopen::No,
            ended: None,
            failure: None,
            stop: None,
            choice: options.route.unwrap_or(default),
            native_only: options.native_only,
            looked: RefCell::default(),
            refused: false,
            no_pipe: false,
            routes: Routes::NONE,
            span: Span::send(id),
            pacing: options.rate.map(|rate| Pacing::new(rate, proactor::now())),
            deadline: None,
            progress: options.progress,
            reported: 0,
            keep_connection: options.keep_connection,
            begun: options.begun,
            weight: options.write_weight,
            counted: 0,
            on_sent: Some(on_sent),
            end: None,
        }
    }

    /// Whether it has been started.
    pub(crate) fn is_started(&self) -> bool {
        !matches!(self.body, Body::Pending(_))
    }

    /// Whether its turn comes only once all sends before it are over: they may move the position
    /// that it starts from, or take from the same stream.
    pub(crate) fn needs_turn(&self) -> bool {
        match &self.body {
            Body::Pending(Kind::Position { .. } | Kind::Connection { .. }) => true,
            Body::Pending(Kind::File { fd, .. }) => !is_seekable(fd),
            _ => false,
        }
    }

    /// Looks at the source. A failure shows as [`Next::Over`].
    pub(crate) fn start(&mut self) {
        if self.is_started() {
            return;
        }
        let Body::Pending(kind) = std::mem::replace(&mut self.body, Body::None) else {
            return;
        };
        if let Err(e) = self.open(kind) {
            self.failure = Some(e);
        }
    }

    fn open(&mut self, kind: Kind) -> io::Result<()> {
        match kind {
            Kind::Bytes(bytes) => {
                self.promise(Some(bytes.len() as u64));
                self.set_head(bytes);
            }
            Kind::File {
                head,
                fd,
                start,
                len,
            } => {
                self.promise(len.map(|len| len.saturating_add(head.len() as u64)));
                self.set_head(head);
                if check_kind(&fd)? {
                    self.open_seekable(fd, start)?;
                } else if start != 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        format!("the source has no positions, so it can't be sent from {start} on"),
                    ));
                } else {
                    self.open_stream(fd)?;
                }
            }
            Kind::Connection { fd, head } => {
                self.promise(None);
                self.set_head(head);
                self.body = Body::Stream {
                    fd,
                    chunk: BytesMut::new(),
                    relayed: true,
                };
            }
            Kind::Position { fd, buffered, len } => {
                self.promise(len);
                let buffered_len = buffered.len() as u64;
                self.set_head(buffered);
                if check_kind(&fd)? {
                    let position = fd.position()?;
                    let start = position.saturating_sub(buffered_len);
                    self.position = Some((fd.clone(), start));
                    self.open_seekable(fd, position)?;
                } else {
                    self.open_stream(fd)?;
                }
                let wanted = usize::try_from(self.total.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
                self.head.truncate(wanted);
            }
            Kind::Reader { reader, len } => {
                self.promise(len);
                let reader = Some(reader);
                let chunk = BytesMut::new();
                self.body = Body::Reader { reader, chunk };
                if self.native_only {
                    return Err(unsupported());
                }
            }
        }
        Ok(())
    }

    fn promise(&mut self, len: Option<u64>) {
        self.total = len;
        self.promised = len.is_some();
    }

    fn set_head(&mut self, head: Bytes) {
        self.head_len = head.len() as u64;
        self.head = head;
    }

    fn open_seekable(&mut self, fd: Fd, start: u64) -> io::Result<()> {
        // Positions end there: nothing is behind, and a read that reaches beyond is refused whole.
        let room = (i64::MAX as u64).saturating_sub(start);
        let wanted = self.total.unwrap_or(0).saturating_sub(self.head_len);
        if start > i64::MAX as u64 || wanted > room {
            self.ended = Some(self.head_len + room);
        }
        if self.total.is_none() && fd.kind() == FileKind::Regular {
            let size = match fd.filesystem() {
                Filesystem::Generated => 0,
                _ => fd.size()?,
            };
            // A size of 0 is what files say that don't know it: only reading tells.
            if size > 0 {
                self.total = Some(self.head_len + size.saturating_sub(start));
            }
        }
        self.body = Body::Seekable { fd, start };
        Ok(())
    }

    fn open_stream(&mut self, fd: Fd) -> io::Result<()> {
        if fd.kind() == FileKind::CharDevice {
            self.refused = true;
        } else {
            fd.set_nonblocking()?;
        }
        self.body = Body::Stream {
            fd,
            chunk: BytesMut::new(),
            relayed: false,
        };
        Ok(())
    }

    /// Bytes that are neither sent nor gathered; `None` where only the source's end tells.
    pub(crate) fn left(&self) -> Option<u64> {
        let done = self.sent + self.gathered as u64;
        let end = match (self.total, self.ended) {
            (Some(total), Some(ended)) => Some(total.min(ended)),
            (total, ended) => total.or(ended),
        };
        end.map(|end| end.saturating_sub(done))
    }

    /// The source ends behind what was read of it.
    pub(crate) fn end_here(&mut self) {
        self.ended = Some(self.sent + self.gathered as u64 + self.chunk().len() as u64);
    }

    /// Bytes of `head` that are not gathered yet.
    pub(crate) fn head_rest(&self) -> Bytes {
        self.head.slice(self.gathered.min(self.head.len())..)
    }

    /// Where the body is to be read next.
    pub(crate) fn offset(&self) -> u64 {
        let done = self.sent + self.gathered as u64;
        match &self.body {
            Body::Seekable { start, .. } => {
                start.saturating_add(done.saturating_sub(self.head_len))
            }
            _ => 0,
        }
    }

    fn chunk(&self) -> &[u8] {
        match &self.body {
            Body::Stream { chunk, .. } | Body::Reader { chunk, .. } => chunk,
            _ => &[],
        }
    }

    /// What comes next; the send must be started. What is gathered counts as done, except that a
    /// send with gathered bytes is not over.
    pub(crate) fn next(&self) -> Next {
        let done = self.sent + self.gathered as u64;
        // What was read before the failure is sent.
        if self.failure.is_some() && self.chunk().is_empty() {
            return Next::Over(End::Failed);
        }
        if self.total == Some(done) {
            return Next::Over(if self.promised {
                End::Complete
            } else {
                End::EndOfFile
            });
        }
        let at_hand = self.head.len() > self.gathered || !self.chunk().is_empty();
        // What is known to have ended has, and was not stopped before.
        if !at_hand && self.ended.is_some_and(|ended| ended <= done) {
            return Next::Over(if self.total.is_some() {
                End::Truncated
            } else {
                End::EndOfFile
            });
        }
        if let Some(end) = self.stop {
            return Next::Over(end);
        }
        if self.head.len() > self.gathered {
            return Next::Head;
        }
        if !self.chunk().is_empty() {
            return Next::Chunk;
        }
        match &self.body {
            Body::Pending(_) | Body::None => Next::Over(End::Truncated),
            Body::Seekable { .. } if self.reopen == Reopen::Wanted => Next::Reopen,
            Body::Seekable { .. } => Next::Seekable,
            Body::Stream { .. } => Next::Stream,
            Body::Reader { .. } => Next::Reader,
        }
    }

    /// How it ended, if it has.
    pub(crate) fn verdict(&self) -> Option<End> {
        if !self.is_started() || self.gathered > 0 {
            return None;
        }
        match self.next() {
            Next::Over(end) => Some(end),
            _ => None,
        }
    }

    /// Whether all of it is gathered or sent, and it has not failed.
    pub(crate) fn is_gathered(&self) -> bool {
        self.is_started() && matches!(self.next(), Next::Over(End::Complete | End::EndOfFile))
    }

    /// Decides on the next piece's way and length; `streams` as in [`Situation`].
    pub(crate) fn decide(&self, backend: BackendKind, streams: bool) -> Decision {
        let (fd, stream) = match &self.body {
            Body::Seekable { fd, .. } => (fd, false),
            Body::Stream { fd, .. } => (fd, true),
            _ => return Decision::Copy,
        };
        let situation = Situation {
            choice: self.choice,
            native_only: self.native_only,
            refused: self.refused,
            no_pipe: self.no_pipe,
            left: self.left(),
            stream,
            filesystem: if stream {
                Filesystem::Other
            } else {
                fd.filesystem()
            },
            backend,
            streams,
        };
        let left = situation.left.unwrap_or(u64::MAX);
        let mut looked = self.looked.borrow_mut();
        decide(&situation, |len| looked.at(fd, self.offset(), len, left))
    }

    /// At most how many of `want` bytes may leave now; else when to ask again.
    pub(crate) fn allowed(&mut self, want: u64) -> Result<u64, Instant> {
        let want = if self.progress.is_some() {
            want.min(PROGRESS_PIECE)
        } else {
            want
        };
        match &mut self.pacing {
            None => Ok(want),
            Some(pacing) => pacing.allow(proactor::now(), want),
        }
    }

    /// The kernel took `n` more.
    pub(crate) fn took(&mut self, n: u64) {
        self.sent += n;
        let head = n.min(self.head.len() as u64) as usize;
        self.head.advance(head);
        if let Some(pacing) = &mut self.pacing {
            pacing.spend(n);
        }
    }

    /// Reading by offset has failed.
    pub(crate) fn read_failed(&mut self, error: io::Error) {
        if self.reopen == Reopen::No && error.raw_os_error() == Some(libc::EINVAL) {
            self.reopen = Reopen::Wanted;
        } else {
            self.failed(error);
        }
    }

    /// Sending natively has failed; `first` is whether nothing has been sent yet.
    pub(crate) fn native_failed(&mut self, error: io::Error, first: bool) {
        let passing = self.native_only && is_starved(&error);
        if is_refusal(&error, first) && !passing {
            self.refused = true;
        } else {
            self.failed(error);
        }
    }

    /// Sending natively has come to an end before what was to be sent did. The page cache, from
    /// which files are spliced, may take a short read for the end of the file, or believe a size
    /// of 0 (FUSE); so a read has the last word.
    pub(crate) fn native_ended(&mut self) {
        match self.body {
            Body::Seekable { .. } if !self.native_only => self.refused = true,
            _ => self.end_here(),
        }
    }

    /// The source has failed.
    pub(crate) fn failed(&mut self, error: io::Error) {
        self.failure = Some(match error.raw_os_error() {
            Some(libc::EBADF) => io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the source is not open for reading",
            ),
            _ => error,
        });
    }

    /// The file was opened once more, or could not be.
    pub(crate) fn reopened(&mut self, opened: io::Result<Fd>) {
        self.reopen = Reopen::Tried;
        if let (Ok(opened), Body::Seekable { fd, .. }) = (opened, &mut self.body) {
            *fd = opened;
            self.refused = false;
        }
    }

    /// The source has refused to be sent natively and may not be copied.
    pub(crate) fn refuse(&mut self) {
        self.failure = Some(unsupported());
    }

    /// What it counts for the write limits.
    pub(crate) fn weigh(&self, default: usize) -> u64 {
        let weight = self.weight.unwrap_or(default) as u64;
        match self.total {
            Some(total) => weight.min(total.saturating_sub(self.sent)),
            None => weight,
        }
    }

    /// Whether bytes of it come at once when their turn comes, so that what is before them may
    /// wait for them in a segment.
    pub(crate) fn comes_at_once(&self) -> bool {
        if self.pacing.is_some() || self.stop.is_some() || self.failure.is_some() {
            return false;
        }
        match &self.body {
            Body::Pending(Kind::Bytes(bytes)) => !bytes.is_empty(),
            Body::Pending(Kind::File { fd, len, .. } | Kind::Position { fd, len, .. }) => {
                *len != Some(0) && is_seekable(fd)
            }
            Body::Pending(Kind::Reader { .. } | Kind::Connection { .. }) => false,
            Body::None | Body::Seekable { .. } => self.left() != Some(0),
            Body::Stream { .. } | Body::Reader { .. } => !self.head.is_empty(),
        }
    }

    /// Ends it: moves the position that it is to move, and keeps the end.
    pub(crate) fn close(&mut self, end: End) {
        self.end = Some(end);
        if let Some((fd, position)) = self.position.take()
            && let Err(e) = fd.set_position(position + self.sent)
        {
            log::warn!("a file's position could not be moved behind what was sent: {e}");
        }
        // A reader's end is its user's code, and waits until the send's end is told.
        if !matches!(
            self.body,
            Body::Reader { .. } | Body::Pending(Kind::Reader { .. })
        ) {
            self.body = Body::None;
        }
        self.head = Bytes::new();
    }

    /// Whether the connection is to be cut after it: the peer was promised more.
    pub(crate) fn breaks_connection(&self) -> bool {
        let broken = matches!(
            self.end,
            Some(End::Truncated | End::Cancelled | End::TimedOut | End::Failed)
        );
        broken && (self.begun || self.sent > 0 || self.gathered > 0) && !self.keep_connection
    }

    /// Whether it is to end now. What is gathered of it is encrypted then, and either has to leave or
    /// to end with the connection.
    pub(crate) fn may_stop(&self) -> bool {
        self.stop.is_some() && (self.gathered == 0 || !self.keep_connection)
    }

    /// What its caller is told; it must be closed.
    pub(crate) fn outcome(&mut self) -> SendOutcome {
        let end = self.end.unwrap_or(End::Failed);
        let failure = self.failure.take();
        SendOutcome {
            sent: self.sent,
            end,
            routes: self.routes,
            error: match end {
                End::Complete | End::EndOfFile => None,
                _ => Some(failure.unwrap_or_else(|| error_of(end))),
            },
        }
    }
}

/// The error that goes with an end where there is no other.
pub(crate) fn error_of(end: End) -> io::Error {
    let (kind, text) = match end {
        End::Complete | End::EndOfFile => (io::ErrorKind::Other, "no error"),
        End::Truncated => (
            io::ErrorKind::UnexpectedEof,
            "the source ended before the promised length",
        ),
        End::Cancelled => (io::ErrorKind::Other, "the send was cancelled"),
        End::TimedOut => (io::ErrorKind::TimedOut, "the send took too long"),
        End::PeerGone => (io::ErrorKind::BrokenPipe, "the peer is gone"),
        End::Failed => (io::ErrorKind::Other, "the source failed"),
        End::Closing => (io::ErrorKind::NotConnected, "the transport is closing"),
    };
    io::Error::new(kind, text)
}

/// The same error once more.
pub(crate) fn copy_error(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

fn unsupported() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "the source can't be sent without being copied",
    )
}

fn is_seekable(fd: &Fd) -> bool {
    matches!(fd.kind(), FileKind::Regular | FileKind::BlockDevice)
}

/// Whether it is read by offset (else it is read where it stands); an error where it can't be
/// read at all.
fn check_kind(fd: &Fd) -> io::Result<bool> {
    let error = |kind, text: &str| Err(io::Error::new(kind, text));
    match fd.kind() {
        FileKind::Regular | FileKind::BlockDevice => Ok(true),
        FileKind::Pipe | FileKind::Socket | FileKind::CharDevice => Ok(false),
        FileKind::Directory => error(
            io::ErrorKind::IsADirectory,
            "a directory can't be sent as a file",
        ),
        FileKind::Other => error(
            io::ErrorKind::InvalidInput,
            "the source is neither a file nor a pipe nor a socket",
        ),
    }
}
