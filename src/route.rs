//! How a file's bytes travel: the one place where that is decided, piece by piece.

use std::fmt;
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use proactor::{BackendKind, Fd, FileKind, Filesystem, Method, Residency};

/// A way for bytes from a source to the peer. Bytes, counts and errors are the same on each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Route {
    /// Read into a buffer, and sent from there.
    Copy,
    /// File → pipe → socket, away from the loop.
    Chain,
    /// File → pipe → socket as direct calls. Forced on data that isn't in the page cache, it
    /// blocks the loop while the disk is read.
    Inline,
    /// sendfile(2) as a direct call; forced on data that isn't in the page cache, it blocks the
    /// loop as `Inline` does.
    Sendfile,
}

/// Who chooses the route of a send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum RouteChoice {
    /// The transport, piece by piece.
    #[default]
    Auto,
    /// The caller, for all of the send: for tests and measurements. Sources that can't go that way
    /// are copied all the same, unless [`SendOptions::native_only`](crate::SendOptions::native_only)
    /// says otherwise.
    Force(Route),
}

/// A set of [`Route`]s: those that carried bytes of a send.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Routes(u8);

impl Routes {
    /// None: no byte was carried.
    pub const NONE: Routes = Routes(0);

    const ALL: [Route; 4] = [Route::Copy, Route::Chain, Route::Inline, Route::Sendfile];

    pub(crate) fn insert(&mut self, route: Route) {
        self.0 |= 1 << route as u8;
    }

    pub(crate) fn insert_all(&mut self, routes: Routes) {
        self.0 |= routes.0;
    }

    /// Whether `route` carried some.
    pub fn contains(self, route: Route) -> bool {
        self.0 & (1 << route as u8) != 0
    }

    /// Whether none did.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that did.
    pub fn iter(self) -> impl Iterator<Item = Route> {
        Self::ALL.into_iter().filter(move |r| self.contains(*r))
    }
}

impl FromIterator<Route> for Routes {
    fn from_iter<I: IntoIterator<Item = Route>>(routes: I) -> Routes {
        let mut set = Routes::NONE;
        for route in routes {
            set.insert(route);
        }
        set
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Sends, and rests of sends, of at most this many bytes are copied: one read behind the header and
/// one send cost less than two splices. On the ring, that is: its sends share a system call, so
/// that a copy has one call of its own, and a splice pair two. On the emulated port both have two.
/// Where one send follows the other there is no header to go behind, and from 2 KiB on sendfile(2),
/// which copies nothing, costs less on either.
fn copy_up_to(backend: BackendKind, streams: bool) -> u64 {
    match backend {
        _ if streams => 2 << 10,
        BackendKind::Ring => 16 << 10,
        BackendKind::Emulated => 4 << 10,
    }
}

/// Up to this size sendfile(2) costs less than a splice pair, where it is not for a header to be sent
/// with it on the ring: one call instead of two. Beyond, its internal pipe of 16 pages costs more.
const SENDFILE_UP_TO: u64 = 64 << 10;

/// What a piece of cached data has at most; the backends let others go first after as much.
const DIRECT_PIECE: u64 = 2 << 20;

/// What a piece of uncached data has at most: then it is looked at again, since readahead may have
/// brought in what comes next.
const CHAIN_PIECE: u64 = 1 << 20;

/// What a piece has at most where someone wants to be told of the progress.
pub(crate) const PROGRESS_PIECE: u64 = 1 << 20;

/// Of how many bytes it is asked at once whether they are cached.
const LOOK_AHEAD: u64 = 8 << 20;

/// What a send has found out about its file's place in the page cache.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// Cached, and when that was found.
    hot: Option<(Range<u64>, Instant)>,
    /// What is before this was being read from the disk when it was last looked at.
    cold: u64,
}

impl Looked {
    /// Whether `len` bytes at `offset` are cached; `left` is how many there are to be sent.
    pub(crate) fn at(&mut self, file: &Fd, offset: u64, len: u64, left: u64) -> Residency {
        // What one looked at and sent a moment ago is not evicted before the rest of it.
        const HOLDS: Duration = Duration::from_millis(20);
        if offset < self.cold {
            return Residency::Cold;
        }
        let now = proactor::now();
        if let Some((range, since)) = &self.hot
            && range.start <= offset
            && offset.saturating_add(len) <= range.end
            && now.saturating_duration_since(*since) < HOLDS
        {
            return Residency::Hot;
        }
        let ahead = LOOK_AHEAD.min(left);
        let mut seen = ahead.max(len);
        let mut found = file.residency(offset, len, ahead);
        if found == Residency::Cold && left > len {
            seen = len;
            found = file.residency(offset, len, len);
        }
        match found {
            Residency::Hot => self.hot = Some((offset..offset.saturating_add(seen), now)),
            // Readahead brings the next pages one by one, and to wait for those that are under way
            // is a worker's business.
            Residency::Cold => self.cold = offset.saturating_add(LOOK_AHEAD),
            Residency::Unknown => {}
        }
        found
    }
}

/// What is known of a send when its next piece is to leave.
pub(crate) struct Situation {
    pub(crate) choice: RouteChoice,
    /// Copying is not allowed.
    pub(crate) native_only: bool,
    /// The kernel has refused to splice this source.
    pub(crate) refused: bool,
    /// There was no pipe for the piece before.
    pub(crate) no_pipe: bool,
    /// Bytes left; `None` where only the source's end tells.
    pub(crate) left: Option<u64>,
    /// A pipe or socket: read where it stands, not by offset.
    pub(crate) stream: bool,
    pub(crate) filesystem: Filesystem,
    pub(crate) backend: BackendKind,
    /// It is one of a stream of sends: each is asked for when the one before is over.
    pub(crate) streams: bool,
}

/// How the next piece goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Decision {
    Copy,
    /// Natively, at most so many bytes of it.
    Native(Route, u64),
    /// Not at all: it would have to be copied.
    Refuse,
}

/// Decides on the next piece. `residency` looks at so many of the bytes that come next.
pub(crate) fn decide(situation: &Situation, residency: impl FnOnce(u64) -> Residency) -> Decision {
    let left = situation.left.unwrap_or(u64::MAX);
    if situation.refused {
        return if situation.native_only {
            Decision::Refuse
        } else {
            Decision::Copy
        };
    }
    if situation.no_pipe {
        // sendfile(2) needs no pipe of ours, and streams can't be sent so.
        return match (situation.native_only, situation.stream) {
            (false, _) => Decision::Copy,
            (true, false) => Decision::Native(Route::Sendfile, left.min(DIRECT_PIECE)),
            (true, true) => Decision::Native(Route::Inline, left),
        };
    }
    match situation.choice {
        RouteChoice::Force(Route::Copy) if situation.native_only => Decision::Refuse,
        RouteChoice::Force(Route::Copy) => Decision::Copy,
        RouteChoice::Force(route) => Decision::Native(route, left),
        RouteChoice::Auto => {
            let copied = matches!(
                situation.filesystem,
                Filesystem::Network | Filesystem::Generated
            ) || left <= copy_up_to(situation.backend, situation.streams)
                || (situation.left.is_none() && !situation.stream);
            if copied && !situation.native_only {
                Decision::Copy
            } else if situation.stream {
                // Waits for readiness, and moves at once what there is.
                Decision::Native(Route::Inline, left)
            } else {
                by_residency(situation, residency(left.min(DIRECT_PIECE)), left)
            }
        }
    }
}

/// The table of what was measured.
fn by_residency(situation: &Situation, residency: Residency, left: u64) -> Decision {
    let one_call = situation.streams || situation.backend == BackendKind::Emulated;
    match (situation.backend, residency) {
        (_, Residency::Hot) if one_call && left <= SENDFILE_UP_TO => {
            Decision::Native(Route::Sendfile, left)
        }
        (BackendKind::Ring | BackendKind::Emulated, Residency::Hot) => {
            Decision::Native(Route::Inline, left.min(DIRECT_PIECE))
        }
        (BackendKind::Ring | BackendKind::Emulated, Residency::Cold | Residency::Unknown) => {
            Decision::Native(Route::Chain, left.min(CHAIN_PIECE))
        }
    }
}

/// What is known of a receive when its next piece is to come.
pub(crate) struct Writing {
    pub(crate) choice: RouteChoice,
    /// The kernel has refused to splice into this file, or out of this socket.
    pub(crate) refused: bool,
    /// There was no pipe for the piece before.
    pub(crate) no_pipe: bool,
    /// Bytes to come; `None` where only the stream's end tells.
    pub(crate) left: Option<u64>,
    pub(crate) kind: FileKind,
    /// Where the file is, if it is a regular one.
    pub(crate) filesystem: Option<Filesystem>,
}

/// Receives, and rests of receives, of at most this many bytes are copied.
const COPY_IN_UP_TO: u64 = 16 << 10;

/// Decides how the next piece of a receive comes into its file.
pub(crate) fn decide_writing(writing: &Writing) -> Decision {
    let left = writing.left.unwrap_or(u64::MAX);
    if writing.refused || writing.no_pipe {
        return Decision::Copy;
    }
    match (writing.choice, writing.kind) {
        (RouteChoice::Force(Route::Copy), _) => Decision::Copy,
        (RouteChoice::Force(Route::Inline), _) => Decision::Native(Route::Inline, left),
        (RouteChoice::Force(Route::Chain | Route::Sendfile), _) => {
            Decision::Native(Route::Chain, left)
        }
        // Readiness tells when they take more: nothing of it blocks.
        (RouteChoice::Auto, FileKind::Pipe | FileKind::Socket) => {
            Decision::Native(Route::Inline, left)
        }
        (RouteChoice::Auto, FileKind::Regular | FileKind::BlockDevice) => {
            match writing.filesystem {
                Some(Filesystem::Network | Filesystem::Generated) => Decision::Copy,
                _ if left <= COPY_IN_UP_TO => Decision::Copy,
                // There is no disk to be waited for.
                Some(Filesystem::Memory) => Decision::Native(Route::Inline, left),
                _ => Decision::Native(Route::Chain, left),
            }
        }
        (RouteChoice::Auto, _) => Decision::Copy,
    }
}

/// The proactor's name for a native route.
pub(crate) fn method(route: Route) -> Method {
    match route {
        Route::Inline => Method::Inline,
        Route::Sendfile => Method::Sendfile,
        Route::Chain | Route::Copy => Method::Chain,
    }
}

/// Whether an error of a source says that it can't be spliced, rather than that it can't be read.
/// `first` is whether nothing of the source has been sent yet.
pub(crate) fn is_refusal(error: &io::Error, first: bool) -> bool {
    match error.raw_os_error() {
        Some(
            libc::EINVAL
            | libc::ENOSYS
            | libc::EOPNOTSUPP
            | libc::EXDEV
            | libc::ESPIPE
            | libc::ENOTSOCK
            | libc::EPERM,
        ) => true,
        Some(libc::EIO) => first,
        _ => is_starved(error),
    }
}

/// Whether there was no thread to fill a pipe with. A copy may need none.
pub(crate) fn is_starved(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

#[cfg(test)]
mod tests {
    use super::*;

    fn situation(left: u64) -> Situation {
        Situation {
            choice: RouteChoice::Auto,
            native_only: false,
            refused: false,
            no_pipe: false,
            left: Some(left),
            stream: false,
            filesystem: Filesystem::Other,
            backend: BackendKind::Ring,
            streams: false,
        }
    }

    fn at(residency: Residency) -> impl FnOnce(u64) -> Residency {
        move |_| residency
    }

    #[test]
    fn small_ones_are_copied_without_a_look() {
        let never = |_| panic!("looked");
        let most = copy_up_to(BackendKind::Ring, false);
        assert_eq!(decide(&situation(most), never), Decision::Copy);
        assert_ne!(
            decide(&situation(most + 1), at(Residency::Hot)),
            Decision::Copy
        );
    }

    #[test]
    fn the_emulated_port_sends_small_files_in_one_call() {
        let mut small = situation(SENDFILE_UP_TO);
        small.backend = BackendKind::Emulated;
        assert_eq!(
            decide(&small, at(Residency::Hot)),
            Decision::Native(Route::Sendfile, SENDFILE_UP_TO)
        );
        small.left = Some(SENDFILE_UP_TO + 1);
        assert_eq!(
            decide(&small, at(Residency::Hot)),
            Decision::Native(Route::Inline, SENDFILE_UP_TO + 1)
        );
    }

    #[test]
    fn what_follows_another_send_is_not_copied() {
        let mut next = situation(copy_up_to(BackendKind::Ring, false));
        next.streams = true;
        assert_eq!(
            decide(&next, at(Residency::Hot)),
            Decision::Native(Route::Sendfile, 16 << 10)
        );
        next.left = Some(copy_up_to(BackendKind::Ring, true));
        assert_eq!(decide(&next, |_| panic!("looked")), Decision::Copy);
    }

    #[test]
    fn hot_ones_go_inline_and_others_by_chain() {
        let large = situation(100 << 20);
        assert_eq!(
            decide(&large, at(Residency::Hot)),
            Decision::Native(Route::Inline, DIRECT_PIECE)
        );
        for residency in [Residency::Cold, Residency::Unknown] {
            assert_eq!(
                decide(&large, at(residency)),
                Decision::Native(Route::Chain, CHAIN_PIECE)
            );
        }
    }

    #[test]
    fn a_refusal_is_copied_or_the_end() {
        let mut refused = situation(1 << 20);
        refused.refused = true;
        assert_eq!(decide(&refused, at(Residency::Hot)), Decision::Copy);
        refused.choice = RouteChoice::Force(Route::Chain);
        assert_eq!(decide(&refused, at(Residency::Hot)), Decision::Copy);
        refused.native_only = true;
        assert_eq!(decide(&refused, at(Residency::Hot)), Decision::Refuse);
    }

    #[test]
    fn native_only_copies_nothing() {
        let mut only = situation(1);
        only.native_only = true;
        assert_eq!(
            decide(&only, at(Residency::Hot)),
            Decision::Native(Route::Inline, 1)
        );
        only.no_pipe = true;
        assert_eq!(
            decide(&only, at(Residency::Hot)),
            Decision::Native(Route::Sendfile, 1)
        );
        only.filesystem = Filesystem::Network;
        only.no_pipe = false;
        assert_ne!(decide(&only, at(Residency::Hot)), Decision::Copy);
    }

    #[test]
    fn what_misbehaves_or_is_of_unknown_length_is_copied() {
        let mut network = situation(1 << 30);
        network.filesystem = Filesystem::Network;
        assert_eq!(decide(&network, at(Residency::Hot)), Decision::Copy);
        let mut unknown = situation(0);
        unknown.left = None;
        assert_eq!(decide(&unknown, at(Residency::Hot)), Decision::Copy);
        unknown.stream = true;
        assert_eq!(
            decide(&unknown, at(Residency::Hot)),
            Decision::Native(Route::Inline, u64::MAX)
        );
    }

    #[test]
    fn a_forced_route_is_taken() {
        for route in [Route::Chain, Route::Inline, Route::Sendfile] {
            let mut forced = situation(10);
            forced.choice = RouteChoice::Force(route);
            assert_eq!(
                decide(&forced, at(Residency::Cold)),
                Decision::Native(route, 10)
            );
        }
    }

    #[test]
    fn refusals_are_told_from_failures() {
        let error = io::Error::from_raw_os_error;
        assert!(is_refusal(&error(libc::EINVAL), false));
        assert!(is_refusal(&error(libc::EIO), true));
        assert!(!is_refusal(&error(libc::EIO), false));
        assert!(!is_refusal(&error(libc::EBADF), true));
        assert!(!is_refusal(&io::Error::other("x"), true));
    }
}
