//! [`Session`]: TLS between a connection's plaintext and its records, and the account of which
//! plaintext is in which bytes of ciphertext. It moves nothing itself.

use std::collections::VecDeque;
use std::io::{self, BufRead, Write};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use proactor::Token;
use rustls::{ClientConnection, Connection, HandshakeKind, ServerConnection};

use crate::tls::{Side, Tls, TlsInfo};

/// The most plaintext that a record holds (RFC 8446, section 5.1).
const RECORD: usize = 16 << 10;

/// What is, or is to be, on its way to the peer; of handshakes and alerts, no plaintext.
struct Record {
    /// Bytes of it that the kernel has not taken.
    left: usize,
    plain: usize,
}

pub(crate) struct Session {
    tls: Connection,
    /// Ciphertext that waits: what the kernel left of the last send, or what TLS itself has to say.
    pub(super) sealed: BytesMut,
    /// The records in `sealed` and in the send under way.
    records: VecDeque<Record>,
    handshake_timeout: Duration,
    /// The time of the handshake, or of an alert.
    pub(super) timer: Option<Token>,
    /// The protocol is told that the connection stands, or about to be.
    pub(super) shaken: bool,
    /// A `close_notify` was made: nothing can be sealed any more.
    notified: bool,
    /// Why nothing goes on.
    failure: Option<io::Error>,
}

impl Session {
    pub(super) fn new(tls: &Tls) -> io::Result<Session> {
        let connection = match &tls.side {
            Side::Server(config) => ServerConnection::new(config.clone()).map(Connection::Server),
            Side::Client(config, name) => {
                ClientConnection::new(config.clone(), name.clone()).map(Connection::Client)
            }
        };
        Ok(Session {
            tls: connection.map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?,
            sealed: BytesMut::new(),
            records: VecDeque::new(),
            handshake_timeout: tls.handshake_timeout,
            timer: None,
            shaken: false,
            notified: false,
            failure: None,
        })
    }

    pub(super) fn handshake_timeout(&self) -> Duration {
        self.handshake_timeout
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        !self.shaken
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// The first failure stays.
    pub(super) fn fail(&mut self, error: io::Error) {
        self.failure.get_or_insert(error);
    }

    pub(super) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// Makes records of `plain`, behind whatever TLS itself has to say.
    ///
    /// # Errors
    /// The keys are used up, and can't be changed in this version of TLS.
    pub(super) fn seal(&mut self, plain: &[u8], into: &mut BytesMut) -> io::Result<()> {
        self.put_records(into, 0)?;
        for part in plain.chunks(RECORD) {
            if self.tls.writer().write(part)? < part.len() {
                return Err(io::Error::other("no more can be encrypted in this session"));
            }
            self.put_records(into, part.len())?;
        }
        Ok(())
    }

    /// Has TLS say what it has to by itself (handshake, tickets, keys, alerts), in `sealed`.
    pub(super) fn speak(&mut self, mut into: BytesMut) -> io::Result<()> {
        self.put_records(&mut into, 0)?;
        self.sealed = into;
        Ok(())
    }

    /// Whether TLS has something to say by itself.
    pub(super) fn has_to_speak(&self) -> bool {
        self.tls.wants_write()
    }

    fn put_records(&mut self, into: &mut BytesMut, plain: usize) -> io::Result<()> {
        let before = into.len();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut into.writer())?;
        }
        let left = into.len() - before;
        if left > 0 {
            self.records.push_back(Record { left, plain });
        }
        Ok(())
    }

    /// The kernel took `n` bytes of ciphertext: how much plaintext is with it in whole records.
    pub(super) fn took(&mut self, mut n: usize) -> usize {
        let mut plain = 0;
        while let Some(record) = self.records.front_mut() {
            let taken = n.min(record.left);
            record.left -= taken;
            n -= taken;
            if record.left > 0 {
                break;
            }
            plain += record.plain;
            self.records.pop_front();
        }
        plain
    }

    /// Ciphertext arrived: gives what it holds to `plain`, and says whether that was the last.
    ///
    /// # Errors
    /// The peer breaks the protocol, or can't be agreed with. An alert is ready to be sent.
    pub(super) fn open(
        &mut self,
        mut arrived: &[u8],
        mut plain: impl FnMut(&[u8]),
    ) -> io::Result<bool> {
        while !arrived.is_empty() && self.tls.read_tls(&mut arrived)? > 0 {
            let state = self.tls.process_new_packets();
            let state = state.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            let mut left = state.plaintext_bytes_to_read();
            let mut reader = self.tls.reader();
            while left > 0 {
                let some = reader.fill_buf()?;
                let len = some.len();
                plain(some);
                reader.consume(len);
                left = left.saturating_sub(len.max(1));
            }
            if state.peer_has_closed() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the handshake is through, for the first time.
    pub(super) fn shake(&mut self) -> bool {
        !self.tls.is_handshaking() && !std::mem::replace(&mut self.shaken, true)
    }

    /// Says that nothing more will be sent; false if that was said before.
    pub(super) fn notify(&mut self) -> bool {
        if std::mem::replace(&mut self.notified, true) {
            return false;
        }
        self.tls.send_close_notify();
        true
    }

    pub(crate) fn info(&self) -> Option<TlsInfo> {
        if self.tls.is_handshaking() {
            return None;
        }
        Some(TlsInfo {
            version: self.tls.protocol_version()?,
            suite: self.tls.negotiated_cipher_suite()?,
            alpn: self.tls.alpn_protocol().map(<[u8]>::to_vec),
            server_name: match &self.tls {
                Connection::Server(server) => server.server_name().map(str::to_owned),
                Connection::Client(_) => None,
            },
            resumed: self.tls.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use rustls::{ClientConfig, RootCertStore};

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel for random numbers")]
    fn a_record_counts_when_all_of_it_has_left() {
        let config = ClientConfig::builder()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let tls = Tls::client(Arc::new(config), "localhost".try_into().unwrap());
        let mut session = Session::new(&tls).unwrap();
        for (left, plain) in [(5, 0), (100, 80), (50, 30)] {
            session.records.push_back(Record { left, plain });
        }
        for (taken, counts) in [(4, 0), (1, 0), (99, 0), (1, 80), (0, 0), (49, 0), (1, 30)] {
            assert_eq!(session.took(taken), counts, "{taken}");
        }
        assert!(session.records.is_empty());
    }
}
