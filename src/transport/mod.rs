//! [`Transport`]: the handle to a connection.

use std::fmt;
use std::io;

use bytes::Bytes;
use proactor::{Address, Fd, Handle, Proactor};

use crate::protocol::Protocol;
use crate::route::RouteChoice;
use crate::send::{SendHandle, SendOptions, SendOutcome};
use crate::source::Source;

/// Settings for a transport.
#[derive(Clone, Debug, Default)]
pub struct TransportOptions {
    pub(crate) limits: Option<(usize, usize)>,
    pub(crate) route: RouteChoice,
    pub(crate) not_reading: bool,
}

impl TransportOptions {
    /// The defaults.
    pub fn new() -> TransportOptions {
        TransportOptions::default()
    }

    /// The write limits in bytes: see [`Transport::set_write_buffer_limits`]. Default: 64 KiB and
    /// a quarter of it. A low limit above the high one counts as equal to it.
    pub fn write_limits(mut self, high: usize, low: usize) -> TransportOptions {
        self.limits = Some((high, low.min(high)));
        self
    }

    /// The route of sends that don't name one. Default: [`RouteChoice::Auto`].
    pub fn route(mut self, route: RouteChoice) -> TransportOptions {
        self.route = route;
        self
    }

    /// Whether to read from the start, or only after [`Transport::resume_reading`]. Default: true.
    pub fn reading(mut self, yes: bool) -> TransportOptions {
        self.not_reading = !yes;
        self
    }
}

/// A connection: an ordered queue of what is to leave, and the flow of what arrives.
///
/// It belongs to the thread of its proactor. Clones are the same connection. Dropping all of them
/// changes nothing: the connection goes on until its protocol, its peer or an error ends it, or
/// the proactor is dropped.
#[derive(Clone)]
pub struct Transport {}

impl Transport {
    /// A transport over a connected TCP or Unix socket, or over one end of a pipe. The descriptor
    /// is made non-blocking. `connection_made` comes from the loop.
    ///
    /// # Errors
    /// `InvalidInput` where the descriptor is neither; the kernel's refusal to make it
    /// non-blocking.
    pub fn new(
        proactor: &Proactor,
        fd: Fd,
        protocol: Box<dyn Protocol>,
        options: &TransportOptions,
    ) -> io::Result<Transport> {
        let _ = (proactor, fd, protocol, options);
        todo!()
    }

    /// Queues bytes. They leave in order, from the loop; no bytes are nothing.
    ///
    /// # Errors
    /// `BrokenPipe` after [`close`](Transport::close), [`abort`](Transport::abort) or
    /// [`write_eof`](Transport::write_eof). After the connection was lost otherwise, writes are
    /// dropped without an error, from the fifth on with a warning in the log.
    pub fn write(&self, data: impl Into<Bytes>) -> io::Result<()> {
        let _ = data.into();
        todo!()
    }

    /// As one [`write`](Transport::write) for each.
    ///
    /// # Errors
    /// As `write`'s; nothing is queued then.
    pub fn write_vectored(&self, data: impl IntoIterator<Item = Bytes>) -> io::Result<()> {
        let _ = data.into_iter();
        todo!()
    }

    /// Queues a send of a file, behind what is queued already. `on_sent` is called once, from the
    /// loop, whatever happens: sends complete in the order of the queue.
    ///
    /// A send that ends with some but not all of its bytes sent cuts the connection after its
    /// callback, since the peer was promised the rest
    /// ([`SendOptions::keep_connection`] keeps it). One of which nothing was sent leaves the
    /// connection usable.
    pub fn send_file(
        &self,
        source: impl Into<Source>,
        options: SendOptions,
        on_sent: impl FnOnce(&Transport, SendOutcome) + 'static,
    ) -> SendHandle {
        let _ = (source.into(), options, on_sent);
        todo!()
    }

    /// Ends the write side once all that is queued has left. Reading goes on.
    ///
    /// # Errors
    /// `Unsupported` where [`can_write_eof`](Transport::can_write_eof) is false.
    pub fn write_eof(&self) -> io::Result<()> {
        todo!()
    }

    /// Whether the write side can be ended alone: not on pipes.
    pub fn can_write_eof(&self) -> bool {
        todo!()
    }

    /// Stops reading at once, sends what is queued, then ends the connection.
    pub fn close(&self) {
        todo!()
    }

    /// Ends the connection at once. What is queued is dropped, sends end as cancelled, a TCP peer
    /// sees a reset.
    pub fn abort(&self) {
        todo!()
    }

    /// Whether the transport is closing, or gone.
    pub fn is_closing(&self) -> bool {
        todo!()
    }

    /// Stops the delivery of what arrives until [`resume_reading`](Transport::resume_reading).
    /// Nothing is lost. Nothing happens where it is paused already, or closing.
    pub fn pause_reading(&self) {
        todo!()
    }

    /// Goes on after [`pause_reading`](Transport::pause_reading).
    pub fn resume_reading(&self) {
        todo!()
    }

    /// Whether what arrives is delivered: neither paused nor closing.
    pub fn is_reading(&self) -> bool {
        todo!()
    }

    /// Puts another protocol in the place of the present one: it gets all callbacks from now on,
    /// `connection_made` not again.
    pub fn set_protocol(&self, protocol: Box<dyn Protocol>) {
        let _ = protocol;
        todo!()
    }

    /// Sets the limits, in bytes, at which writing is paused (above `high`) and resumed (at or
    /// below `low`). `None`: high is 64 KiB, or four times low where that is given; low is a
    /// quarter of high. With `high` 0 any byte pauses. What counts: bytes queued
    /// ([`write_buffer_size`](Transport::write_buffer_size)) and files as
    /// [`SendOptions::write_weight`] says. New limits apply at once.
    ///
    /// # Errors
    /// `InvalidInput` where low is above high; nothing is changed then.
    pub fn set_write_buffer_limits(
        &self,
        high: Option<usize>,
        low: Option<usize>,
    ) -> io::Result<()> {
        let _ = (high, low);
        todo!()
    }

    /// The limits in bytes: low, high.
    pub fn write_buffer_limits(&self) -> (usize, usize) {
        todo!()
    }

    /// Bytes written and not yet taken by the kernel; files do not count.
    pub fn write_buffer_size(&self) -> usize {
        todo!()
    }

    /// The other side's address.
    ///
    /// # Errors
    /// `NotConnected` once the connection is lost; `Unsupported` on a pipe; the kernel's.
    pub fn peer_addr(&self) -> io::Result<Address> {
        todo!()
    }

    /// This side's address.
    ///
    /// # Errors
    /// As [`peer_addr`](Transport::peer_addr)'s.
    pub fn local_addr(&self) -> io::Result<Address> {
        todo!()
    }

    /// The descriptor; `None` once the connection is lost.
    pub fn fd(&self) -> Option<Fd> {
        todo!()
    }

    /// The proactor's handle.
    pub fn proactor(&self) -> Handle {
        todo!()
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}
