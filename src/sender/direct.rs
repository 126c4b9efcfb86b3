//! A send's beginning on its caller's own thread: what is in the page cache and finds room in the
//! socket leaves at once, and no loop is woken for it. The rest is the proactor's.

use std::cell::Cell;
use std::io;
use std::ops::ControlFlow::{self, Break, Continue};
use std::os::fd::BorrowedFd;

use bytes::{Buf, Bytes};
use proactor::{Fd, FileKind, Filesystem, Residency, SendFileEnd, net};

use super::places::Before;
use crate::route::Route;
use crate::send::{End, SendOutcome};
use crate::source::{Kind, Source};

/// At most so many bytes are sent so: what takes about as long as handing it over.
const MOST: u64 = 128 << 10;

/// After so many bytes the tasks of a thread let others go first.
const TURN: u64 = 1 << 20;

thread_local! {
    /// What this thread has sent in its turn.
    static SENT: Cell<u64> = const { Cell::new(0) };
}

/// Whether a source is one to begin with here: small, as far as that is known, and not to be
/// waited for.
pub(super) fn suits(source: &Source) -> bool {
    match &source.kind {
        Kind::Bytes(bytes) => bytes.len() as u64 <= MOST,
        Kind::File { head, len, .. } => {
            head.len() as u64 <= MOST && len.is_none_or(|len| len > 0 && len <= MOST)
        }
        Kind::Position { .. } | Kind::Reader { .. } | Kind::Connection { .. } => false,
    }
}

/// Sends what can be sent now, and leaves the rest in the source: `Break` when it is over.
pub(super) fn begin(
    socket: BorrowedFd<'_>,
    source: &mut Source,
) -> ControlFlow<SendOutcome, Before> {
    let mut before = Before::default();
    if !net::is_nonblocking(socket) {
        return Continue(before);
    }
    // As a transport does: the end of the file does not wait for an acknowledgement.
    let nagle = net::nodelay(socket).is_ok_and(|on| !on) && net::set_nodelay(socket).is_ok();
    let begun = match &mut source.kind {
        Kind::Bytes(bytes) => send_bytes(socket, bytes, false, &mut before)
            .map(|()| bytes.is_empty().then_some(End::Complete)),
        Kind::File {
            head,
            fd,
            start,
            len,
        } => send_file(socket, head, fd, start, len, &mut before),
        _ => Ok(None),
    };
    if before.sent > 0 {
        // What follows may never come; nor is a socket left corked that was found so.
        net::push_out(socket);
    }
    if nagle && let Err(e) = net::unset_nodelay(socket) {
        log::debug!("a socket's TCP_NODELAY could not be put back: {e}");
    }
    SENT.set(SENT.get() + before.sent);
    let (end, error) = match begun {
        Ok(None) => return Continue(before),
        Ok(Some(end)) => (end, None),
        Err(error) => (End::PeerGone, Some(error)),
    };
    Break(SendOutcome {
        sent: before.sent,
        end,
        routes: before.routes,
        error,
    })
}

/// Whether this thread's turn is over; asking begins the next.
pub(super) fn is_turn_over() -> bool {
    let over = SENT.get() >= TURN;
    if over {
        SENT.set(0);
    }
    over
}

/// How a file ended, if it did.
///
/// # Errors
/// The socket's: the peer is gone.
fn send_file(
    socket: BorrowedFd<'_>,
    head: &mut Bytes,
    file: &Fd,
    start: &mut u64,
    len: &mut Option<u64>,
    before: &mut Before,
) -> io::Result<Option<End>> {
    let Some(left) = at_hand(file, *start, *len) else {
        return Ok(None);
    };
    send_bytes(socket, head, true, before)?;
    if !head.is_empty() {
        return Ok(None);
    }
    let sent = match net::send_file_now(socket, file, *start, left as usize) {
        Ok(sent) => sent as u64,
        Err(SendFileEnd::SocketFailed(e)) if e.kind() != io::ErrorKind::WouldBlock => {
            return Err(e);
        }
        // The proactor knows what to do.
        Err(_) => 0,
    };
    if sent > 0 {
        before.sent += sent;
        before.routes.insert(Route::Sendfile);
    }
    *start += sent;
    let end = match len {
        Some(len) => {
            *len -= sent;
            End::Complete
        }
        None => End::EndOfFile,
    };
    Ok((sent == left).then_some(end))
}

/// The number of bytes that are left of a file, if it is a small one in the page cache.
fn at_hand(file: &Fd, start: u64, len: Option<u64>) -> Option<u64> {
    if file.kind() != FileKind::Regular
        || matches!(
            file.filesystem(),
            Filesystem::Network | Filesystem::Generated
        )
    {
        return None;
    }
    let left = match len {
        Some(len) => len,
        None => file.size().ok()?.saturating_sub(start),
    };
    let fits = left > 0 && left <= MOST;
    (fits && file.residency(start, left, left) == Residency::Hot).then_some(left)
}

/// Sends bytes, as far as there is room, and takes them off.
fn send_bytes(
    socket: BorrowedFd<'_>,
    bytes: &mut Bytes,
    more: bool,
    before: &mut Before,
) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    match net::send_now(socket, bytes, more) {
        Ok(sent) => {
            bytes.advance(sent);
            before.sent += sent as u64;
            before.routes.insert(Route::Copy);
            Ok(())
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(e) => Err(e),
    }
}
