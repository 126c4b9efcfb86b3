//! Certificates, and peers that speak TLS on plain sockets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, OnceLock};

use rcgen::{CertifiedKey, KeyPair};
use spliceport::Tls;
use spliceport::proactor::{Fd, Proactor};
use spliceport::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use spliceport::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    SupportedProtocolVersion,
};
use spliceport::{Transport, TransportOptions};

use super::Record;

pub use spliceport::rustls::version::{TLS12, TLS13};

/// A client on a plain socket.
pub type Peer = StreamOwned<ClientConnection, TcpStream>;

/// The name that the certificate is for.
pub const NAME: &str = "localhost";

fn certificate() -> &'static CertifiedKey<KeyPair> {
    static CERTIFICATE: OnceLock<CertifiedKey<KeyPair>> = OnceLock::new();
    CERTIFICATE.get_or_init(|| rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap())
}

pub fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).unwrap()
}

/// A server's settings.
pub fn server_config() -> Arc<ServerConfig> {
    let key = PrivatePkcs8KeyDer::from(certificate().signing_key.serialize_der());
    let chain = vec![certificate().cert.der().clone()];
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from(key));
    Arc::new(config.unwrap())
}

/// A client's settings, for these versions.
pub fn client_config(versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate().cert.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_protocol_versions(versions);
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// A client over a connection; it shakes hands as it reads and writes.
pub fn peer(stream: TcpStream, config: Arc<ClientConfig>) -> Peer {
    let tls = ClientConnection::new(config, name()).unwrap();
    StreamOwned::new(tls, stream)
}

/// A server over a connection.
pub fn server_peer(stream: TcpStream) -> StreamOwned<ServerConnection, TcpStream> {
    let tls = ServerConnection::new(server_config()).unwrap();
    StreamOwned::new(tls, stream)
}

/// The serving side of a connection over TLS.
pub fn secured(proactor: &Proactor, fd: Fd, tls: Tls) -> (Transport, Record) {
    let record = Record::new();
    let options = TransportOptions::new().tls(tls);
    let transport = Transport::new(proactor, fd, record.protocol(), &options).unwrap();
    (transport, record)
}

/// Ends a peer's side in order, and reads what comes till the other has ended its own.
pub fn finish<S: Read + Write>(mut peer: StreamOwned<ClientConnection, S>) -> Vec<u8> {
    peer.conn.send_close_notify();
    peer.flush().unwrap();
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).unwrap();
    rest
}
