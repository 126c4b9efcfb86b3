//! A server over TLS.

#![allow(dead_code, reason = "each test program uses its part")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rcgen::PKCS_ECDSA_P256_SHA256;
use spliceport::rustls::ClientConfig;
use tempfile::TempDir;

use super::certificate::*;
use super::support::*;

/// A server over TLS, and what its clients need.
pub struct Secure {
    pub server: Server,
    pub certificate: Certificate,
    /// Where the certificate and the key are.
    pub files: TempDir,
}

impl Secure {
    pub fn start(backend: &str, directory: &Path) -> Secure {
        Secure::with(backend, directory, &[])
    }

    pub fn with(backend: &str, directory: &Path, more: &[&str]) -> Secure {
        let certificate = Certificate::with(|_| {}, &PKCS_ECDSA_P256_SHA256);
        let files = tempfile::tempdir().unwrap();
        let (cert, key) = certificate.write(files.path());
        let mut args = vec!["--tls-cert", cert.to_str().unwrap()];
        args.extend(["--tls-key", key.to_str().unwrap()]);
        args.extend(more);
        let server = Server::with(backend, directory, &args);
        Secure {
            server,
            certificate,
            files,
        }
    }

    pub fn config(&self) -> ClientConfig {
        self.certificate.client(&[&TLS12, &TLS13])
    }

    pub fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.server.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream
    }

    pub fn connect(&self) -> Client<Peer> {
        self.connect_as(self.config())
    }

    pub fn connect_as(&self, config: ClientConfig) -> Client<Peer> {
        Client::new(peer(self.tcp(), Arc::new(config)))
    }

    /// Whether a client that trusts this certificate alone gets an answer.
    pub fn serves(&self, certificate: &Certificate) -> bool {
        let config = certificate.client(&[&TLS13]);
        let mut peer = peer(self.tcp(), Arc::new(config));
        peer.write_all(b"HEAD /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .and_then(|()| peer.read(&mut [0]))
            .is_ok()
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}/{path}", self.server.address)
    }
}
