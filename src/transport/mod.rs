//! [`Transport`]: the handle to a connection.

mod appetite;
mod calls;
mod conn;
mod events;
mod file;
mod flow;
mod lent;
mod outgoing;
mod queue;
mod reading;
mod receiving;
mod shared;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "tls/absent.rs"]
mod tls;

use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use proactor::{Address, Fd, Handle, Proactor, net};

pub(crate) use conn::Conn;
use conn::Medium;
pub(crate) use file::error_of;
pub(crate) use reading::Ceded;
pub(crate) use shared::Shared;

use crate::protocol::Protocol;
use crate::receive::{ReceiveHandle, ReceiveOptions, ReceiveOutcome};
use crate::route::RouteChoice;
use crate::send::{SendHandle, SendOptions, SendOutcome};
use crate::sink::Sink;
use crate::source::Source;

/// Settings for a transport.
#[derive(Clone, Debug, Default)]
pub struct TransportOptions {
    pub(crate) limits: Option<(usize, usize)>,
    pub(crate) route: RouteChoice,
    pub(crate) not_reading: bool,
    pub(crate) lent: bool,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<crate::tls::Tls>,
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

    /// Runs the connection over TLS: see [`Tls`](crate::Tls) for what that changes. Default: it is
    /// plain.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: crate::tls::Tls) -> TransportOptions {
        self.tls = Some(tls);
        self
    }

    /// Whether the descriptor, a duplicate perhaps, belongs to somebody else who uses it before and
    /// after. Such a transport only writes, and leaves to its owner what arrives. Its end, whether
    /// by [`close`](Transport::close), [`abort`](Transport::abort) or a broken send, is not the
    /// connection's: nothing is shut down or reset, and before `connection_lost` comes
    /// `O_NONBLOCK`, `TCP_NODELAY` and `TCP_NOTSENT_LOWAT` are put back as they were found. Default:
    /// false.
    pub fn lent(mut self, yes: bool) -> TransportOptions {
        self.lent = yes;
        self
    }
}

/// A connection: an ordered queue of what is to leave, and the flow of what arrives.
///
/// It belongs to the thread of its proactor. Clones are the same connection. Dropping all of them
/// changes nothing: the connection goes on until its protocol, its peer or an error ends it, or
/// the proactor is dropped.
#[derive(Clone)]
pub struct Transport {
    conn: Rc<Conn>,
}

impl Transport {
    /// A transport over a connected TCP or Unix socket, or over one end of a pipe. The descriptor
    /// is made non-blocking. `connection_made` comes from the loop.
    ///
    /// # Errors
    /// `InvalidInput` where the descriptor is neither, or can't be one of a connection over TLS that
    /// was asked for; the kernel's refusal to make it non-blocking.
    pub fn new(
        proactor: &Proactor,
        fd: Fd,
        protocol: Box<dyn Protocol>,
        options: &TransportOptions,
    ) -> io::Result<Transport> {
        let conn = Conn::open(proactor, fd, protocol, options)?;
        conn.announce();
        Ok(Transport { conn })
    }

    /// Queues bytes. They leave in order, from the loop; no bytes are nothing.
    ///
    /// # Errors
    /// `BrokenPipe` after [`close`](Transport::close), [`abort`](Transport::abort) or
    /// [`write_eof`](Transport::write_eof). After the connection was lost otherwise, writes are
    /// dropped without an error, from the fifth on with a warning in the log.
    pub fn write(&self, data: impl Into<Bytes>) -> io::Result<()> {
        self.conn.write([data.into()])
    }

    /// As one [`write`](Transport::write) for each.
    ///
    /// # Errors
    /// As `write`'s; nothing is queued then.
    pub fn write_vectored(&self, data: impl IntoIterator<Item = Bytes>) -> io::Result<()> {
        self.conn.write(data)
    }

    /// Queues a send of a file, behind what is queued already. `on_sent` is called once, from the
    /// loop, whatever happens (but not if the proactor is gone when this is called). Sends complete
    /// in the order of the queue; only one that is cancelled, or whose time is up, while it waits
    /// there is told of at once.
    ///
    /// On a transport that is closing or lost the send ends with
    /// [`End::Closing`](crate::End::Closing), and nothing sent.
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
        let id = self
            .conn
            .send_file(source.into(), options, Box::new(on_sent));
        SendHandle {
            conn: Rc::downgrade(&self.conn),
            id,
        }
    }

    /// Receives a file: what arrives from here on goes into it, not to
    /// [`data_received`](Protocol::data_received), until its length is reached or the stream ends.
    /// `on_received` is called once, from the loop, whatever happens (but not if the proactor is
    /// gone when this is called). What follows the file comes to `data_received` after that, and
    /// the end of the stream to `eof_received`. Several receives follow one another in the order
    /// of the calls.
    ///
    /// Bytes that arrived before and have not been delivered go first; those that the protocol was
    /// given already can be handed back ([`ReceiveOptions::prefix`]). Order and count are exact,
    /// however the receive ends: what was taken off the connection and is not in the file comes to
    /// `data_received`. So a receive that ends before its time leaves the connection usable; whether
    /// what follows can be understood is for the protocol to know.
    ///
    /// [`pause_reading`](Transport::pause_reading) does not hold a receive back: it pauses
    /// `data_received` alone. [`close`](Transport::close) and [`abort`](Transport::abort) end it
    /// as cancelled, a reset as [`End::PeerGone`](crate::End::PeerGone). On a transport that is
    /// closing or lost it ends with [`End::Closing`](crate::End::Closing), and where the stream was
    /// given to a [`relay`](crate::relay()) as failed, with an error of kind `InvalidInput`. The write
    /// side is not touched.
    pub fn receive_file(
        &self,
        sink: impl Into<Sink>,
        options: ReceiveOptions,
        on_received: impl FnOnce(&Transport, ReceiveOutcome) + 'static,
    ) -> ReceiveHandle {
        let id = self
            .conn
            .receive_file(sink.into(), options, Box::new(on_received));
        ReceiveHandle {
            conn: Rc::downgrade(&self.conn),
            id,
        }
    }

    /// Ends the write side once all that is queued has left. Reading goes on.
    ///
    /// # Errors
    /// `Unsupported` where [`can_write_eof`](Transport::can_write_eof) is false.
    pub fn write_eof(&self) -> io::Result<()> {
        self.conn.write_eof()
    }

    /// Whether the write side can be ended alone: not on pipes.
    pub fn can_write_eof(&self) -> bool {
        self.conn.can_write_eof()
    }

    /// Stops reading at once, sends what is queued, then ends the connection.
    ///
    /// Where the peer has sent something that is not read by then, the kernel resets a TCP
    /// connection, and the end of what was sent may be lost with it. While the peer may still
    /// send, rather use [`write_eof`](Transport::write_eof), read on, and close after
    /// `eof_received`.
    pub fn close(&self) {
        self.conn.close();
    }

    /// Ends the connection at once. What is queued is dropped, sends end as cancelled, a TCP peer
    /// sees a reset.
    pub fn abort(&self) {
        self.conn.abort();
    }

    /// Whether the transport is closing, or gone.
    pub fn is_closing(&self) -> bool {
        self.conn.is_closing()
    }

    /// Stops the delivery of what arrives until [`resume_reading`](Transport::resume_reading).
    /// Nothing is lost. Nothing happens where it is paused already, or closing.
    pub fn pause_reading(&self) {
        self.conn.pause_reading();
    }

    /// Goes on after [`pause_reading`](Transport::pause_reading).
    pub fn resume_reading(&self) {
        self.conn.resume_reading();
    }

    /// Whether what arrives is delivered: neither paused nor closing.
    pub fn is_reading(&self) -> bool {
        self.conn.is_reading()
    }

    /// Puts another protocol in the place of the present one: it gets all callbacks from now on,
    /// `connection_made` not again.
    pub fn set_protocol(&self, protocol: Box<dyn Protocol>) {
        self.conn.set_protocol(protocol);
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
        self.conn.set_limits(high, low)
    }

    /// The limits in bytes: low, high.
    pub fn write_buffer_limits(&self) -> (usize, usize) {
        self.conn.limits()
    }

    /// Bytes written and not yet taken by the kernel; files do not count.
    pub fn write_buffer_size(&self) -> usize {
        self.conn.write_buffer_size()
    }

    /// The number of bytes that the kernel has taken for the peer since the connection was made, of
    /// writes and files together. It is exact when nothing is under way, and when the connection is
    /// lost; else what the operation under way has brought so far is not yet counted.
    pub fn bytes_sent(&self) -> u64 {
        self.conn.bytes_sent()
    }

    /// Whether [`Protocol::bytes_sent`] is called as bytes leave, from now on. At first it is not.
    pub fn tell_bytes_sent(&self, yes: bool) {
        self.conn.tell_bytes_sent(yes);
    }

    /// The other side's address.
    ///
    /// # Errors
    /// `NotConnected` once the connection is lost; `Unsupported` on a pipe; the kernel's.
    pub fn peer_addr(&self) -> io::Result<Address> {
        net::peer_address(&self.socket()?)
    }

    /// This side's address.
    ///
    /// # Errors
    /// As [`peer_addr`](Transport::peer_addr)'s.
    pub fn local_addr(&self) -> io::Result<Address> {
        net::local_address(&self.socket()?)
    }

    /// What the TLS handshake agreed on. `None` on a plain connection, before the handshake is
    /// through, and once the connection is lost.
    #[cfg(feature = "tls")]
    pub fn tls_info(&self) -> Option<crate::tls::TlsInfo> {
        self.conn.state.borrow().tls.as_ref()?.info()
    }

    /// Whether it is a connection over TLS.
    pub(crate) fn is_over_tls(&self) -> bool {
        self.conn.state.borrow().tls.is_some()
    }

    fn socket(&self) -> io::Result<Fd> {
        if matches!(self.conn.medium, Medium::Pipe { .. }) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a pipe has no address",
            ));
        }
        self.fd().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// A transport over a fresh connection, from inside the loop: its protocol is told at once.
    pub(crate) fn accepted(
        proactor: &Proactor,
        fd: Fd,
        protocol: Box<dyn Protocol>,
        options: &TransportOptions,
    ) -> io::Result<Transport> {
        Conn::open(proactor, fd, protocol, options).map(Transport::of)
    }

    pub(crate) fn poll_drained(&self, cx: &Context<'_>, waiting: bool) -> Poll<io::Result<()>> {
        self.conn.poll_drained(cx, waiting)
    }

    pub(crate) fn of(conn: Rc<Conn>) -> Transport {
        Transport { conn }
    }

    /// Runs a user's code. A panic ends there, and with it this connection.
    pub(crate) fn guard(&self, f: impl FnOnce()) {
        self.conn.guard(f);
    }

    /// Gives what arrives to somebody else, for good: `heir` is told once nobody here reads any
    /// more, or, with `None`, that it won't be had. False where it can't be had.
    pub(crate) fn cede(&self, heir: impl FnOnce(Option<Ceded>) + 'static) -> bool {
        self.conn.cede(Box::new(heir)).is_ok()
    }

    /// Tells the protocol that the connection stands. From the loop only.
    pub(crate) fn begin(&self) {
        self.conn.settle();
    }

    /// The descriptor; `None` once the connection is lost.
    pub fn fd(&self) -> Option<Fd> {
        self.conn.fd()
    }

    /// The proactor's handle.
    pub fn proactor(&self) -> Handle {
        self.conn.handle.clone()
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("medium", &self.conn.medium)
            .field("closing", &self.is_closing())
            .finish_non_exhaustive()
    }
}
