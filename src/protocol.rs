//! [`Protocol`]: what a connection's user is told, in asyncio's terms.

use std::io;

use crate::Transport;

/// What happens on a connection. Implement this; a [`Transport`] calls it.
///
/// Callbacks come from the proactor's loop, one at a time, never from inside the call that caused
/// them: what a callback does to its transport has its effects announced after it returned.
///
/// - `connection_made` comes first, `connection_lost` last, each once. The one exception is no call
///   of this trait: a [`send_file`](Transport::send_file) on a connection that is lost already
///   still has its `on_sent` called, from the loop.
/// - `data_received` comes neither after `eof_received` nor after `close` or `abort`.
/// - A panic in a callback tears its connection down (as [`Transport::abort`] does), and no other;
///   `connection_lost` follows unless it was that which panicked.
pub trait Protocol {
    /// The connection stands.
    fn connection_made(&mut self, transport: &Transport) {
        let _ = transport;
    }

    /// Bytes arrived; never none.
    fn data_received(&mut self, transport: &Transport, data: &[u8]);

    /// The peer will send no more. True keeps the write side open; false, the default, closes the
    /// transport, which flushes what is queued first.
    fn eof_received(&mut self, transport: &Transport) -> bool {
        let _ = transport;
        false
    }

    /// More is queued than the high limit
    /// ([`set_write_buffer_limits`](Transport::set_write_buffer_limits)): hold back.
    fn pause_writing(&mut self, transport: &Transport) {
        let _ = transport;
    }

    /// What is queued has fallen to the low limit: go on.
    fn resume_writing(&mut self, transport: &Transport) {
        let _ = transport;
    }

    /// The kernel has taken more of what is queued, of writes and files: `total` bytes since the
    /// connection was made, as [`Transport::bytes_sent`] says. It is called only where
    /// [`Transport::tell_bytes_sent`] asks for it; after the callbacks of the sends that these bytes ended, and for the last time before
    /// `connection_lost`.
    fn bytes_sent(&mut self, transport: &Transport, total: u64) {
        let _ = (transport, total);
    }

    /// The connection is over: `None` after `close`, `abort` or the peer's end of stream, else
    /// what broke it. Nothing follows.
    fn connection_lost(&mut self, error: Option<io::Error>) {
        let _ = error;
    }
}

/// The protocol of one who only writes: what arrives is thrown away, and the peer's end of stream
/// closes the transport.
impl Protocol for () {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}
