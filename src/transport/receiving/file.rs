//! One receive of a file under way: where it stands in its file, what is to come, how it is to end.
//! It moves nothing itself.

use std::io;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use proactor::{Fd, FileKind, SendBuf, Token};

use crate::pacing::Pacing;
use crate::receive::{FileSync, ReceiveOptions, ReceiveOutcome};
use crate::route::{
    Decision, PROGRESS_PIECE, RouteChoice, Routes, Writing, decide_writing, is_refusal,
};
use crate::send::{End, Progress};
use crate::sink::Sink;
use crate::span::Span;
use crate::transport::Transport;
use crate::transport::reading::Received;

pub(crate) type OnReceived = Box<dyn FnOnce(&Transport, ReceiveOutcome)>;

/// What is to be done for a receive next.
#[derive(Debug)]
pub(super) enum Next {
    /// It is over.
    Over(End),
    /// Have the file reach the disk.
    Sync,
    /// Bring more into the file.
    Go,
}

pub(crate) struct FileReceive {
    pub(super) id: u64,
    sink: Sink,
    started: bool,
    /// Bytes in the file.
    pub(crate) received: u64,
    /// Bytes taken off the stream that are not in the file yet.
    pub(super) chunk: SendBuf,
    /// The stream has ended behind `chunk`.
    pub(super) ended: bool,
    /// The kernel does not splice into this file, or out of this socket.
    pub(super) refused: bool,
    /// There was no pipe for the piece before.
    pub(super) no_pipe: bool,
    /// The socket was found empty.
    pub(super) dry: bool,
    sync: FileSync,
    choice: RouteChoice,
    pub(super) routes: Routes,
    pub(crate) span: Span,
    pacing: Option<Pacing>,
    pub(super) deadline: Option<Token>,
    pub(crate) progress: Option<Progress>,
    /// What `progress` was told last.
    pub(crate) reported: u64,
    pub(super) failure: Option<io::Error>,
    /// It is to end before its time.
    pub(super) stop: Option<End>,
    pub(crate) on_received: Option<OnReceived>,
    end: Option<End>,
}

impl FileReceive {
    pub(super) fn new(
        id: u64,
        sink: Sink,
        options: ReceiveOptions,
        on_received: OnReceived,
    ) -> FileReceive {
        FileReceive {
            id,
            sink,
            started: false,
            received: 0,
            chunk: SendBuf::new(),
            ended: false,
            refused: false,
            no_pipe: false,
            dry: true,
            sync: options.sync,
            choice: options.route,
            routes: Routes::NONE,
            span: Span::receive(id),
            pacing: options.rate.map(|rate| Pacing::new(rate, proactor::now())),
            deadline: None,
            progress: options.progress,
            reported: 0,
            failure: None,
            stop: None,
            on_received: Some(on_received),
            end: None,
        }
    }

    /// Looks at the file, once. What is wrong with it is the receive's failure.
    pub(super) fn start(&mut self) {
        if !std::mem::replace(&mut self.started, true)
            && let Err(e) = self.open()
        {
            self.failure = Some(e);
        }
    }

    fn open(&mut self) -> io::Result<()> {
        let fd = &self.sink.fd;
        let error = |kind, text: &str| Err(io::Error::new(kind, text));
        match fd.kind() {
            FileKind::Regular | FileKind::BlockDevice => {}
            FileKind::Pipe | FileKind::Socket | FileKind::CharDevice => {
                if self.sink.start.take().is_some_and(|start| start != 0) {
                    return error(
                        io::ErrorKind::InvalidInput,
                        "the destination has no positions, so its range must start at 0",
                    );
                }
                if fd.kind() != FileKind::CharDevice {
                    fd.set_nonblocking()?;
                }
            }
            FileKind::Directory => {
                return error(
                    io::ErrorKind::IsADirectory,
                    "a directory can't be received into",
                );
            }
            FileKind::Other => {
                return error(
                    io::ErrorKind::InvalidInput,
                    "the destination is nothing that could be written to",
                );
            }
        }
        if !fd.access()?.1 {
            return error(
                io::ErrorKind::PermissionDenied,
                "the destination is not open for writing",
            );
        }
        Ok(())
    }

    pub(super) fn fd(&self) -> &Fd {
        &self.sink.fd
    }

    /// Where the next byte goes; `None` for the descriptor's own position.
    pub(super) fn offset(&self) -> Option<u64> {
        let start = self.sink.start?;
        Some(start.saturating_add(self.received))
    }

    /// Bytes that are still to be taken off the stream; `None` where only its end tells.
    pub(super) fn left(&self) -> Option<u64> {
        let len = self.sink.len?;
        Some(len.saturating_sub(self.received + self.chunk.len() as u64))
    }

    /// Takes bytes that arrived, as many as it wants, and gives the rest back.
    pub(super) fn take(&mut self, arrived: Received) -> Option<Bytes> {
        let wanted = usize::try_from(self.left().unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let mut arrived = arrived.into_buf();
        let rest = (arrived.len() > wanted).then(|| match &mut arrived {
            SendBuf::Shared(bytes) => bytes.split_off(wanted),
            SendBuf::Owned(bytes) => bytes.split_off(wanted).freeze(),
        });
        self.chunk = join(std::mem::take(&mut self.chunk), arrived);
        rest
    }

    /// What comes next; the receive must be started.
    pub(super) fn next(&self) -> Next {
        if self.failure.is_some() {
            return Next::Over(End::Failed);
        }
        let all = self.sink.len == Some(self.received);
        let ended = self.ended && self.chunk.is_empty();
        let end = match self.sink.len {
            Some(_) if all => End::Complete,
            None if ended => End::EndOfFile,
            _ => {
                return match self.stop {
                    Some(stop) => Next::Over(stop),
                    None if ended => Next::Over(End::Truncated),
                    None => Next::Go,
                };
            }
        };
        match self.sync {
            FileSync::None => Next::Over(end),
            FileSync::Data | FileSync::All => Next::Sync,
        }
    }

    /// The sync that is due: whether of the content alone.
    pub(super) fn syncs_data_only(&self) -> bool {
        self.sync == FileSync::Data
    }

    /// The sync is over.
    pub(super) fn synced(&mut self, result: io::Result<()>) {
        self.sync = FileSync::None;
        if let Err(e) = result {
            self.failure = Some(e);
        }
    }

    /// Whether it has ended already, by itself.
    pub(super) fn verdict(&self) -> Option<End> {
        match self.next() {
            Next::Over(end) if self.started => Some(end),
            _ => None,
        }
    }

    pub(super) fn decide(&self) -> Decision {
        decide_writing(&Writing {
            choice: self.choice,
            refused: self.refused,
            no_pipe: self.no_pipe,
            left: self.left().map(|left| left + self.chunk.len() as u64),
            kind: self.sink.fd.kind(),
            filesystem: match self.sink.fd.kind() {
                FileKind::Regular => Some(self.sink.fd.filesystem()),
                _ => None,
            },
        })
    }

    /// At most how many of `want` bytes may go into the file now; else when to ask again.
    pub(super) fn allowed(&mut self, want: u64) -> Result<u64, Instant> {
        let want = match self.progress {
            Some(_) => want.min(PROGRESS_PIECE),
            None => want,
        };
        match &mut self.pacing {
            None => Ok(want),
            Some(pacing) => pacing.allow(proactor::now(), want),
        }
    }

    /// The first `len` bytes of what is at hand.
    pub(super) fn head(&mut self, len: usize) -> SendBuf {
        if len >= self.chunk.len() {
            return std::mem::take(&mut self.chunk);
        }
        let chunk = freeze(std::mem::take(&mut self.chunk));
        let head = chunk.slice(..len);
        self.chunk = chunk.slice(len..).into();
        head.into()
    }

    /// What of a head has not reached the file, and what was taken off the stream behind it: it
    /// goes before the chunk.
    pub(super) fn unwritten(&mut self, rest: SendBuf) {
        self.chunk = join(rest, std::mem::take(&mut self.chunk));
    }

    /// `n` more bytes are in the file.
    pub(super) fn wrote(&mut self, n: u64) {
        self.received += n;
        if let Some(pacing) = &mut self.pacing {
            pacing.spend(n);
        }
    }

    /// A splice into the file was refused, or has failed.
    pub(super) fn native_failed(&mut self, error: io::Error) {
        if is_refusal(&error, false) && !self.refused {
            self.refused = true;
        } else {
            self.failure = Some(error);
        }
    }

    /// Whether its caller is to be told how far it is.
    pub(super) fn has_news(&self) -> bool {
        self.progress.is_some() && self.received > self.reported
    }

    /// The stream is somebody else's.
    pub(super) fn not_its_own(&mut self) -> End {
        self.failure = Some(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the connection's stream was given to a relay",
        ));
        End::Failed
    }

    pub(super) fn close(&mut self, end: End) {
        self.end = Some(end);
    }

    /// What it has taken off the stream and not put into the file.
    pub(super) fn leftover(&mut self) -> Bytes {
        freeze(std::mem::take(&mut self.chunk))
    }

    /// What its caller is told; it must be closed.
    pub(crate) fn outcome(&mut self) -> ReceiveOutcome {
        let end = self.end.unwrap_or(End::Failed);
        let failure = self.failure.take();
        ReceiveOutcome {
            received: self.received,
            end,
            routes: self.routes,
            error: match end {
                End::Complete | End::EndOfFile => None,
                _ => Some(failure.unwrap_or_else(|| error_of(end))),
            },
        }
    }
}

fn freeze(buf: SendBuf) -> Bytes {
    match buf {
        SendBuf::Shared(bytes) => bytes,
        SendBuf::Owned(bytes) => bytes.freeze(),
    }
}

/// Both, one behind the other.
fn join(first: SendBuf, second: SendBuf) -> SendBuf {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => second,
        (_, true) => first,
        (false, false) => {
            let mut both = BytesMut::with_capacity(first.len() + second.len());
            both.extend_from_slice(&first);
            both.extend_from_slice(&second);
            both.into()
        }
    }
}

/// The error that goes with an end where there is no other.
fn error_of(end: End) -> io::Error {
    let (kind, text) = match end {
        End::Complete | End::EndOfFile => (io::ErrorKind::Other, "no error"),
        End::Truncated => (
            io::ErrorKind::UnexpectedEof,
            "the stream ended before all of the file had come",
        ),
        End::Cancelled => (io::ErrorKind::Other, "the receive was cancelled"),
        End::TimedOut => (io::ErrorKind::TimedOut, "the receive took too long"),
        End::PeerGone => (io::ErrorKind::ConnectionReset, "the peer is gone"),
        End::Failed => (io::ErrorKind::Other, "the destination failed"),
        End::Closing => (io::ErrorKind::NotConnected, "the transport is closing"),
    };
    io::Error::new(kind, text)
}
