//! [`Listener`]: accepts connections and makes each a transport.

use std::io;

use proactor::net::ListenOptions;
use proactor::{Address, Fd, Proactor};

use crate::protocol::Protocol;
use crate::transport::TransportOptions;

/// A listening socket. Dropping it closes it; connections go on.
pub struct Listener {}

impl Listener {
    /// Listens at an address. For each connection the factory makes a protocol; with `None` it is
    /// refused: closed at once.
    ///
    /// # Errors
    /// Those of [`proactor::net::listen`].
    pub fn bind(
        proactor: &Proactor,
        address: &Address,
        listen: &ListenOptions,
        options: TransportOptions,
        factory: impl FnMut(&Fd) -> Option<Box<dyn Protocol>> + 'static,
    ) -> io::Result<Listener> {
        let fd = proactor::net::listen(address, listen)?;
        Listener::from_fd(proactor, fd, options, factory)
    }

    /// Takes over a socket that listens already (socket activation). It is made non-blocking.
    ///
    /// # Errors
    /// The kernel's refusal to make it non-blocking.
    pub fn from_fd(
        proactor: &Proactor,
        fd: Fd,
        options: TransportOptions,
        factory: impl FnMut(&Fd) -> Option<Box<dyn Protocol>> + 'static,
    ) -> io::Result<Listener> {
        let _ = (proactor, fd, options, factory);
        todo!()
    }

    /// The address it is bound to: with port 0 asked for, the one that the kernel chose.
    ///
    /// # Errors
    /// `NotConnected` once closed; the kernel's.
    pub fn local_addr(&self) -> io::Result<Address> {
        todo!()
    }

    /// Stops accepting. Connections go on.
    pub fn close(&self) {
        todo!()
    }
}
