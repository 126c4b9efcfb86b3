//! A certificate of the tests' own, for both sides.

#![allow(dead_code, reason = "each test program uses its part")]

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, SignatureAlgorithm};
use spliceport::rustls::crypto::ring::default_provider;
use spliceport::rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName,
};
use spliceport::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned,
    SupportedProtocolVersion,
};

pub use spliceport::rustls::version::{TLS12, TLS13};

/// A client on a plain socket.
pub type Peer = StreamOwned<ClientConnection, TcpStream>;

/// The name that each certificate is for.
pub const NAME: &str = "localhost";

pub fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).unwrap()
}

/// A certificate signed by itself, and its key.
pub struct Certificate {
    pub der: CertificateDer<'static>,
    pub pem: String,
    pub key: KeyPair,
}

impl Certificate {
    pub fn new() -> Certificate {
        Certificate::with(|_| {}, &PKCS_ED25519)
    }

    pub fn with(
        change: impl FnOnce(&mut CertificateParams),
        algorithm: &'static SignatureAlgorithm,
    ) -> Certificate {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let names = [NAME.to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        Certificate {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            key,
        }
    }

    /// Writes both to files of a directory.
    pub fn write(&self, directory: &Path) -> (PathBuf, PathBuf) {
        let paths = (directory.join("cert.pem"), directory.join("key.pem"));
        std::fs::write(&paths.0, &self.pem).unwrap();
        std::fs::write(&paths.1, self.key.serialize_pem()).unwrap();
        paths
    }

    /// A server's settings.
    pub fn server(&self) -> Arc<ServerConfig> {
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone()], PrivateKeyDer::from(key));
        Arc::new(config.unwrap())
    }

    /// The settings of a client that trusts this one alone, for these versions.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }
}

/// A client over a connection; it shakes hands as it reads and writes.
pub fn peer(stream: TcpStream, config: Arc<ClientConfig>) -> Peer {
    let tls = ClientConnection::new(config, name()).unwrap();
    StreamOwned::new(tls, stream)
}
