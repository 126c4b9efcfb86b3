//! [`connect`]: makes a connection and a transport over it.

use std::fmt;
use std::io;

use proactor::{Address, Callback, Handle, Op, Token, net};

use crate::protocol::Protocol;
use crate::transport::{Transport, TransportOptions};

/// A connection being made. Dropping it changes nothing.
#[derive(Clone)]
pub struct ConnectHandle {
    handle: Handle,
    /// `None` where the proactor was gone.
    token: Option<Token>,
}

impl ConnectHandle {
    /// Gives up. The callback comes all the same, with an error of kind `ConnectionAborted`, unless
    /// the connection stood (or failed) first.
    pub fn cancel(&self) {
        if let Some(token) = self.token {
            self.handle.cancel(token);
        }
    }
}

impl fmt::Debug for ConnectHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectHandle").finish_non_exhaustive()
    }
}

/// Connects. `on_connected` is called once, from the loop, with the transport or the error, and
/// before the protocol's `connection_made`. On an error the protocol is dropped without a call.
/// A panic in it ends the connection, as one in the protocol does.
///
/// Inside a callback, [`Transport::proactor`] gives the handle to connect with. Nothing is called
/// if that proactor is gone.
pub fn connect(
    proactor: impl Into<Handle>,
    address: &Address,
    options: TransportOptions,
    protocol: Box<dyn Protocol>,
    on_connected: impl FnOnce(io::Result<Transport>) + 'static,
) -> ConnectHandle {
    let handle = proactor.into();
    let socket = net::socket_for(address);
    let (op, socket) = match socket {
        Ok(socket) => {
            let address = address.clone();
            let op = Op::Connect {
                socket: socket.clone(),
                address,
            };
            (op, Ok(socket))
        }
        // The error is told from the loop, as any other.
        Err(e) => (Op::Nop, Err(e)),
    };
    let callback = Callback::once(move |proactor, completion| {
        let connected = match (completion.result, socket) {
            (_, Err(e)) => Err(e),
            (Err(e), _) if e.raw_os_error() == Some(libc::ECANCELED) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the connection was given up",
            )),
            (Err(e), _) => Err(e),
            (Ok(_), Ok(socket)) => {
                drop(completion.op);
                Transport::accepted(proactor, socket, protocol, &options)
            }
        };
        match connected {
            Ok(transport) => {
                let told = transport.clone();
                // Begun after a panic too, so that its protocol is told of the end.
                transport.guard(move || on_connected(Ok(told)));
                transport.begin();
            }
            Err(e) => on_connected(Err(e)),
        }
    });
    let token = handle.submit(op, callback).ok();
    ConnectHandle { handle, token }
}
