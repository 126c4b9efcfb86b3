//! How a file's bytes travel: the one place where that is decided.

use std::fmt;

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
