//! Who wants to know what a server does: each connection, and each exchange of a request and its
//! response, once it is over.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

pub(super) use crate::proactor::Address;

use crate::Routes;

/// Is told what a [`Server`](super::Server) does ([`Server::observe`](super::Server::observe)).
///
/// Calls come from the loop of the server's thread, and hold it up: they are to be short, and wait
/// for nothing. A server that nobody observes keeps no account of this.
///
/// What begins ends: each `connection_made` is followed by one `connection_lost`, each
/// `request_taken` by one `exchange_over`, however the connection or the server ends.
pub trait Observer {
    /// A connection was accepted; `admitted` where there was a place for it, else it is told that
    /// there are too many, and ended.
    fn connection_made(&self, admitted: bool) {
        let _ = admitted;
    }

    /// A connection was closed unheard, for want of room even to tell it.
    fn connection_refused(&self) {}

    /// A connection that was made is over; so are its exchanges.
    fn connection_lost(&self) {}

    /// A request was taken up, or what came in the place of one is to be refused.
    fn request_taken(&self) {}

    /// A response's last byte was given to the kernel, or none will be any more. Those of a
    /// connection come in the order of its requests.
    fn exchange_over(&self, exchange: &Exchange<'_>) {
        let _ = exchange;
    }

    /// Whether [`Exchange::head`] is wanted: it is copied for that. Asked once, at the beginning.
    fn wants_head(&self) -> bool {
        true
    }
}

/// A request and what became of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Exchange<'a> {
    /// The client's address; `None` where the kernel would not tell.
    pub remote: Option<&'a Address>,
    /// The request's head as it came; of a malformed one, as much of it as may be kept. Empty where
    /// nothing came, and where no observer wants it.
    pub head: Head<'a>,
    /// The method, if it is one that RFC 9110 or RFC 5789 defines.
    pub method: Option<&'static str>,
    /// The response's status; `None` where there was no response.
    pub status: Option<u16>,
    /// Bytes of the response's header section, and of interim responses, that the kernel took.
    pub header_bytes: u64,
    /// Bytes of the response's content that the kernel took.
    pub content_bytes: u64,
    /// Bytes of an upload that came into its file; 0 for all other requests.
    pub received_bytes: u64,
    /// When the request's first bytes were there, and those before it answered; to the precision of
    /// a turn of the loop.
    pub begun: SystemTime,
    /// From then until the kernel had taken the response's last byte, or would take none any more;
    /// as precise.
    pub duration: Duration,
    /// How it ended.
    pub ending: Ending,
    /// Which routes carried the content of files; none where it went from memory, behind the head.
    pub routes: Routes,
}

/// How an [`Exchange`] ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Ending {
    /// The kernel took all of the response.
    Whole,
    /// The client ended the connection, or the way to it is gone.
    PeerGone,
    /// The client kept the server waiting for too long.
    TimedOut,
    /// The file could not be read to its end, or something else failed here.
    Failed,
    /// The server was ended.
    Stopped,
}

/// The head of a request: its first line, and the fields. It may be malformed.
#[derive(Clone, Copy, Default)]
pub struct Head<'a>(pub(super) &'a [u8]);

impl<'a> Head<'a> {
    /// All of it, as it came.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The request line, without its end.
    pub fn line(self) -> &'a [u8] {
        self.lines().next().unwrap_or_default()
    }

    /// The method, target and version, if the line has these three words.
    pub fn words(self) -> Option<[&'a [u8]; 3]> {
        let mut words = self.line().split(|b| *b == b' ');
        let three = [words.next()?, words.next()?, words.next()?];
        words.next().is_none().then_some(three)
    }

    /// The value of the first field with this name.
    pub fn field(self, name: &str) -> Option<&'a [u8]> {
        self.lines().skip(1).find_map(|line| {
            let (start, rest) = line.split_at_checked(name.len())?;
            let value = rest.strip_prefix(b":")?;
            let is = start.eq_ignore_ascii_case(name.as_bytes());
            is.then(|| value.trim_ascii())
        })
    }

    fn lines(self) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.0.split(|b| *b == b'\n');
        lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line))
    }
}

impl fmt::Debug for Head<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Fields may hold what is not for logs.
        fmt::Display::fmt(&self.line().escape_ascii(), f)
    }
}

/// The observers of a server, and the memory that heads are copied into.
#[derive(Default)]
pub(super) struct Observers {
    all: Vec<Rc<dyn Observer>>,
    wants_head: bool,
    spare: RefCell<Vec<Vec<u8>>>,
}

impl Observers {
    /// How many buffers are kept for heads, and how long they may be.
    const SPARE: (usize, usize) = (64, 2 << 10);

    /// These, and one more.
    pub(super) fn and(&self, one: Rc<dyn Observer>) -> Observers {
        Observers {
            wants_head: self.wants_head || one.wants_head(),
            all: self.all.iter().cloned().chain([one]).collect(),
            spare: RefCell::default(),
        }
    }

    pub(super) fn tell(&self, tell: impl Fn(&dyn Observer)) {
        self.all.iter().for_each(|observer| tell(&**observer));
    }

    /// A copy of what is wanted of a head.
    pub(super) fn keep(&self, head: &[u8]) -> Vec<u8> {
        if !self.wants_head {
            return Vec::new();
        }
        let mut kept = self.spare.borrow_mut().pop().unwrap_or_default();
        kept.extend_from_slice(head);
        kept
    }

    /// Takes a copy back.
    pub(super) fn recycle(&self, mut kept: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        let (most, longest) = Observers::SPARE;
        if spare.len() < most && (1..=longest).contains(&kept.capacity()) {
            kept.clear();
            spare.push(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_they_came() {
        let head = Head(b"GET /a HTTP/1.1\r\nHost: x\r\nREFERER:  y \r\nReferer: z\r\nA\r\n\r\n");
        assert_eq!(head.line(), b"GET /a HTTP/1.1");
        let words = [&b"GET"[..], b"/a", b"HTTP/1.1"];
        assert_eq!(head.words(), Some(words));
        assert_eq!(head.field("Referer"), Some(&b"y"[..]));
        assert_eq!(head.field("Refere"), None);
        assert_eq!(head.field("A"), None);
        assert_eq!(Head(b"GET /a b HTTP/1.1\n").words(), None);
        assert_eq!(Head(b"").line(), b"");
        assert_eq!(format!("{:?}", Head(b"\xff\r\nA: secret")), "\\xff");
    }
}
