//! [`TransportStats`]: what the transports of a proactor did, as plain numbers.

use proactor::Proactor;

use crate::route::Route;
use crate::send::End;
use crate::transport::Shared;

/// What the transports of one proactor have done since it was made, and how many there are. The
/// proactor's own figures (operations, chains, pipes, workers, cancels) are in
/// [`Proactor::stats`](proactor::Proactor::stats); why it runs on its backend is in
/// [`Proactor::probe`](proactor::Proactor::probe).
///
/// Counted on the proactor's thread, without atomics; bytes as the kernel takes them, not at the
/// end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportStats {
    /// Connections that stand.
    pub connections: usize,
    /// Sends asked for; each direction of a relay is one.
    pub sends: u64,
    /// Receives of files asked for.
    pub receives: u64,
    /// Bytes of writes that the kernel has taken.
    pub written: u64,
    /// Bytes of sends that the kernel has taken, by the route that carried them.
    pub sent: ByRoute,
    /// Bytes that are in received files, by the route that carried them.
    pub received: ByRoute,
    /// How sends and receives ended.
    pub ends: Ends,
    /// Sends and receives that went on by copying since the kernel refused to splice: what it said
    /// of this file, or of this kind of file.
    pub refused: u64,
    /// Pieces that were copied, or put off, since there was no pipe to be had.
    pub no_pipe: u64,
}

/// Numbers of bytes, by [`Route`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByRoute {
    /// [`Route::Copy`]
    pub copy: u64,
    /// [`Route::Chain`]
    pub chain: u64,
    /// [`Route::Inline`]
    pub inline: u64,
    /// [`Route::Sendfile`]
    pub sendfile: u64,
}

/// Numbers of sends and receives, by their [`End`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// [`End::Complete`] and [`End::EndOfFile`]
    pub succeeded: u64,
    /// [`End::Truncated`]
    pub truncated: u64,
    /// [`End::Cancelled`]
    pub cancelled: u64,
    /// [`End::TimedOut`]
    pub timed_out: u64,
    /// [`End::PeerGone`]
    pub peer_gone: u64,
    /// [`End::Failed`]
    pub failed: u64,
    /// [`End::Closing`]
    pub closing: u64,
}

impl TransportStats {
    /// Those of a proactor's transports.
    pub fn of(proactor: &Proactor) -> TransportStats {
        Shared::of(proactor).stats()
    }
}

impl ByRoute {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.copy + self.chain + self.inline + self.sendfile
    }

    pub(crate) fn add(&mut self, route: Route, n: u64) {
        *match route {
            Route::Copy => &mut self.copy,
            Route::Chain => &mut self.chain,
            Route::Inline => &mut self.inline,
            Route::Sendfile => &mut self.sendfile,
        } += n;
    }
}

impl Ends {
    pub(crate) fn add(&mut self, end: End) {
        *match end {
            End::Complete | End::EndOfFile => &mut self.succeeded,
            End::Truncated => &mut self.truncated,
            End::Cancelled => &mut self.cancelled,
            End::TimedOut => &mut self.timed_out,
            End::PeerGone => &mut self.peer_gone,
            End::Failed => &mut self.failed,
            End::Closing => &mut self.closing,
        } += 1;
    }
}
