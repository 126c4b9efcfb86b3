//! [`Span`]: a `tracing` span for a send or a receive, from the call to its callback. Without the
//! feature `tracing` it is nothing, and costs nothing.

use std::io;

use crate::route::Routes;
use crate::send::End;

#[cfg(feature = "tracing")]
pub(crate) struct Span(tracing::Span);

#[cfg(not(feature = "tracing"))]
pub(crate) struct Span;

#[cfg(feature = "tracing")]
impl Span {
    /// Within the span that the caller is in.
    pub(crate) fn send(id: u64) -> Span {
        use tracing::field::Empty;
        Span(tracing::debug_span!(
            "send_file",
            id,
            bytes = Empty,
            end = Empty,
            routes = Empty,
            error = Empty
        ))
    }

    pub(crate) fn receive(id: u64) -> Span {
        use tracing::field::Empty;
        Span(tracing::debug_span!(
            "receive_file",
            id,
            bytes = Empty,
            end = Empty,
            routes = Empty,
            error = Empty
        ))
    }

    pub(crate) fn end(&self, bytes: u64, end: End, routes: Routes, error: Option<&io::Error>) {
        self.0.record("bytes", bytes);
        self.0.record("end", tracing::field::debug(end));
        self.0.record("routes", tracing::field::debug(routes));
        if let Some(error) = error {
            self.0.record("error", tracing::field::display(error));
        }
    }
}

#[cfg(not(feature = "tracing"))]
impl Span {
    pub(crate) fn send(_: u64) -> Span {
        Span
    }

    pub(crate) fn receive(_: u64) -> Span {
        Span
    }

    pub(crate) fn end(&self, _: u64, _: End, _: Routes, _: Option<&io::Error>) {}
}
