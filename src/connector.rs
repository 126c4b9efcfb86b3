//! [`connect`]: makes a connection and a transport over it.

use std::io;

use proactor::{Address, Proactor};

use crate::protocol::Protocol;
use crate::transport::{Transport, TransportOptions};

/// A connection being made. Dropping it changes nothing.
#[derive(Clone)]
pub struct ConnectHandle {}

impl ConnectHandle {
    /// Gives up. The callback comes all the same, with an error of `ECANCELED`, unless the
    /// connection stood first.
    pub fn cancel(&self) {
        todo!()
    }
}

/// Connects. `on_connected` is called once, from the loop, with the transport or the error, and
/// before the protocol's `connection_made`.
pub fn connect(
    proactor: &Proactor,
    address: &Address,
    options: TransportOptions,
    protocol: Box<dyn Protocol>,
    on_connected: impl FnOnce(io::Result<Transport>) + 'static,
) -> ConnectHandle {
    let _ = (proactor, address, options, protocol, on_connected);
    todo!()
}
