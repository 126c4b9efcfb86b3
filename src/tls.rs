//! [`Tls`]: which side of TLS a transport is, and [`TlsInfo`], what the handshake agreed on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ProtocolVersion, ServerConfig, SupportedCipherSuite};

pub use rustls;

/// Makes a transport one over TLS (1.2 and 1.3, RFC 5246 and RFC 8446; by rustls):
/// [`TransportOptions::tls`](crate::TransportOptions::tls). The transport's calls, their order and
/// their callbacks are those of a plain one.
///
/// - `connection_made` comes when the handshake is through. Where it fails, or takes too long, only
///   [`connection_lost`](crate::Protocol::connection_lost) comes, with the error.
/// - A byte counts as sent once the kernel has taken the whole record that holds it. Until then it
///   counts for the write limits. What TLS adds (some 22 bytes a record) counts nowhere.
/// - Files are read and encrypted, 64 KiB at a time, by the route [`Copy`](crate::Route::Copy)
///   whatever was asked for; a send that is [`native_only`](crate::SendOptions::native_only) fails.
///   Neither a slow disk nor a slow peer holds the loop.
/// - What is encrypted can't be taken back. So a send of which something is, cut short by its handle
///   or its time, cuts the connection, although nothing of it may count as sent; with
///   [`keep_connection`](crate::SendOptions::keep_connection) it ends only when that has left.
/// - `close` and `write_eof` send a `close_notify` behind what is queued. Of a peer that ends its
///   side without one, nobody knows whether it said all: that is no `eof_received` but the end of
///   the connection, `UnexpectedEof`.
/// - What arrives after `close` is thrown away rather than left unread.
/// - A connection over TLS can't be [relayed](crate::relay), nor [lent](crate::TransportOptions::lent).
#[derive(Clone)]
pub struct Tls {
    pub(crate) side: Side,
    pub(crate) handshake_timeout: Duration,
}

#[derive(Clone)]
pub(crate) enum Side {
    Server(Arc<ServerConfig>),
    Client(Arc<ClientConfig>, ServerName<'static>),
}

impl Tls {
    /// How long a handshake may take unless [`Tls::handshake_timeout`] says otherwise.
    const HANDSHAKE: Duration = Duration::from_secs(10);

    /// The side that accepted the connection.
    pub fn server(config: Arc<ServerConfig>) -> Tls {
        Tls {
            side: Side::Server(config),
            handshake_timeout: Tls::HANDSHAKE,
        }
    }

    /// The side that made it, to a server of this name.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Tls {
        Tls {
            side: Side::Client(config, name),
            handshake_timeout: Tls::HANDSHAKE,
        }
    }

    /// How long the handshake may take, from the transport's first turn in the loop on; after it
    /// the connection ends with an error of kind `TimedOut`. Default: 10 seconds.
    pub fn handshake_timeout(mut self, time: Duration) -> Tls {
        self.handshake_timeout = time;
        self
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match &self.side {
            Side::Server(_) => "server",
            Side::Client(..) => "client",
        };
        f.debug_struct("Tls")
            .field("side", &side)
            .field("handshake_timeout", &self.handshake_timeout)
            .finish_non_exhaustive()
    }
}

/// What a handshake agreed on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The protocol's version.
    pub version: ProtocolVersion,
    /// The cipher suite.
    pub suite: SupportedCipherSuite,
    /// The application's protocol, where one was agreed on (ALPN, RFC 7301).
    pub alpn: Option<Vec<u8>>,
    /// The name that a client asked for (SNI, RFC 6066); on the server's side only.
    pub server_name: Option<String>,
    /// An earlier session was resumed.
    pub resumed: bool,
}
