//! Transports over TLS, and peers that speak it on plain sockets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, OnceLock};

use spliceport::Tls;
use spliceport::proactor::{Fd, Proactor};
use spliceport::rustls::{
    ClientConfig, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
};
use spliceport::{Transport, TransportOptions};

use super::Record;
use super::certificate::Certificate;
pub use super::certificate::{NAME, Peer, TLS12, TLS13, name, peer};

fn certificate() -> &'static Certificate {
    static CERTIFICATE: OnceLock<Certificate> = OnceLock::new();
    CERTIFICATE.get_or_init(Certificate::new)
}

/// A server's settings.
pub fn server_config() -> Arc<ServerConfig> {
    certificate().server()
}

/// A client's settings, for these versions.
pub fn client_config(versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    Arc::new(certificate().client(versions))
}

/// A server over a connection.
pub fn server_peer(stream: TcpStream) -> StreamOwned<ServerConnection, TcpStream> {
    let tls = ServerConnection::new(server_config()).unwrap();
    StreamOwned::new(tls, stream)
}

/// One side of a connection over TLS.
pub fn secured(proactor: &Proactor, fd: Fd, tls: Tls) -> (Transport, Record) {
    let record = Record::new();
    let options = TransportOptions::new().tls(tls);
    let transport = Transport::new(proactor, fd, record.protocol(), &options).unwrap();
    (transport, record)
}

/// Ends a peer's side in order, and reads what comes till the other has ended its own.
pub fn finish(mut peer: Peer) -> Vec<u8> {
    peer.conn.send_close_notify();
    peer.flush().unwrap();
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).unwrap();
    rest
}
