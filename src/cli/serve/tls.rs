//! The certificate and its key: read at the start, before rights are given up, and again on SIGHUP.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, ServerConfig};
use webpki::{EndEntityCert, KeyUsage};

use crate::Tls;
use crate::cli::args::Serve;
use crate::cli::error::Failure;

/// What connections are told of who we are; those that come after a change, of who we are then.
#[derive(Debug)]
pub(super) struct Identity {
    current: RwLock<Arc<CertifiedKey>>,
    /// The certificate's file and the key's.
    files: Mutex<(PathBuf, PathBuf)>,
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current))
    }
}

impl Identity {
    /// Reads the files that the settings name; `None` where they name none.
    ///
    /// # Errors
    /// Says which file can't be used, and why.
    pub(super) fn of(args: &Serve) -> Result<Option<Arc<Identity>>, Failure> {
        let Some((certificate, key)) = files(args)? else {
            return Ok(None);
        };
        Ok(Some(Arc::new(Identity {
            current: RwLock::new(Arc::new(read(certificate, key)?)),
            files: Mutex::new((certificate.to_owned(), key.to_owned())),
        })))
    }

    /// Takes the files that the settings name now, if they name any, for the next
    /// [`reload`](Identity::reload).
    pub(super) fn rename(&self, args: &Serve) -> Result<(), Failure> {
        if let Some((certificate, key)) = files(args)? {
            *super::lock(&self.files) = (certificate.to_owned(), key.to_owned());
        }
        Ok(())
    }

    /// Reads the files again. Where they can't be used, who we are stays as it was.
    pub(super) fn reload(&self) -> Result<(), Failure> {
        let (certificate, key) = &*super::lock(&self.files);
        let new = Arc::new(read(certificate, key)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// What the server's transports are to do.
    pub(super) fn tls(self: Arc<Self>) -> Result<Tls, Failure> {
        let failed = |e: rustls::Error| Failure::new(format!("TLS can't be had: {e}"));
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(failed)?;
        let mut config = config.with_no_client_auth().with_cert_resolver(self);
        config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
        // Sessions are resumed by what their clients keep; nothing is kept here.
        config.ticketer = ring::Ticketer::new().map_err(failed)?;
        Ok(Tls::server(Arc::new(config)))
    }
}

/// The directories that a reload reads from: those of the files, and of what these are links to. A
/// new certificate mostly comes as a new file.
pub(super) fn directories(args: &Serve) -> Vec<PathBuf> {
    let operation = &args.operation;
    let named = [&operation.tls_cert, &operation.tls_key];
    let named = named.into_iter().flatten();
    let paths = named.flat_map(|path| [Some(path.clone()), path.canonicalize().ok()]);
    paths
        .flatten()
        .map(|path| super::directory_of(&path))
        .collect()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn files(args: &Serve) -> Result<Option<(&Path, &Path)>, Failure> {
    match (&args.operation.tls_cert, &args.operation.tls_key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (Some(_), None) => Err(Failure::usage(
            "a certificate is of no use without its private key: name that with --tls-key",
        )),
        (None, Some(_)) => Err(Failure::usage(
            "a private key is of no use without its certificate: name that with --tls-cert",
        )),
    }
}

fn read(certificate: &Path, key: &Path) -> Result<CertifiedKey, Failure> {
    let chain = read_chain(certificate)?;
    let private = read_key(key)?;
    let signing = provider().key_provider.load_private_key(private);
    let signing = signing.map_err(|e| {
        Failure::new(format!(
            "the private key {} can't be used: {e}; use one of RSA (2048 bits or more), of ECDSA \
             (P-256 or P-384) or of Ed25519",
            key.display()
        ))
    })?;
    let pair = CertifiedKey::new(chain, signing);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err(Failure::new(format!(
                "the private key {} does not belong to the certificate {}: name the key that it was \
                 made for; where the file holds several certificates, the server's own comes first",
                key.display(),
                certificate.display()
            )));
        }
        Err(e) => {
            return Err(Failure::new(format!(
                "the certificate {} can't be understood: {e}",
                certificate.display()
            )));
        }
    }
    warn_of_dates(certificate, &pair.cert);
    Ok(pair)
}

fn read_file(what: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|e| {
        let text = format!("cannot read the {what} {}", path.display());
        match e.kind() {
            io::ErrorKind::PermissionDenied => Failure::new(format!(
                "{text}: {e}; it has to be readable for the user who starts the server and, for a \
                 reload, for the one of --user"
            )),
            io::ErrorKind::NotFound => Failure::new(format!("{text}: {e}; check the path")),
            _ => Failure::io(text, &e),
        }
    })
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let text = read_file("certificate", path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|e| damaged(path, &e))?;
    if chain.is_empty() {
        let shown = path.display();
        return Err(Failure::new(if text.first() == Some(&0x30) {
            format!(
                "{shown} holds no certificate in PEM, but perhaps one in DER: convert it (openssl \
                 x509 -inform der -in {shown} -out NEW)"
            )
        } else {
            format!(
                "{shown} holds no certificate: use a PEM file, which has a line -----BEGIN \
                 CERTIFICATE-----"
            )
        }));
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Failure> {
    let text = read_file("private key", path)?;
    let shown = path.display();
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => {
            let encrypted = text.windows(9).any(|word| word == b"ENCRYPTED");
            Err(Failure::new(if encrypted {
                format!(
                    "the private key {shown} is protected by a passphrase, and nobody is there to \
                     enter it: remove that (openssl pkey -in {shown} -out NEW)"
                )
            } else {
                format!(
                    "{shown} holds no private key: use a PEM file, which has a line -----BEGIN \
                     PRIVATE KEY-----"
                )
            }))
        }
        Err(e) => Err(damaged(path, &e)),
    }
}

fn damaged(path: &Path, error: &dyn fmt::Display) -> Failure {
    Failure::new(format!(
        "{} is damaged: {error}; get a whole copy of it",
        path.display()
    ))
}

/// Warns where clients will refuse a certificate for its dates. It is served all the same: clocks may
/// be wrong.
fn warn_of_dates(path: &Path, chain: &[CertificateDer<'static>]) {
    let shown = path.display();
    let date = |at: UnixTime| {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(at.as_secs());
        humantime::format_rfc3339_seconds(at)
    };
    match check_dates(chain) {
        Err(webpki::Error::CertExpired { not_after, .. }) => log::warn!(
            "the certificate {shown} expired at {}: clients will refuse it, so renew it",
            date(not_after)
        ),
        Err(webpki::Error::CertNotValidYet { not_before, .. }) => log::warn!(
            "the certificate {shown} is valid from {} on only: clients will refuse it; check the \
             clock",
            date(not_before)
        ),
        _ => {}
    }
}

/// A verification that trusts nobody ends with an error in any case; but with that of the dates before
/// all others.
fn check_dates(chain: &[CertificateDer<'static>]) -> Result<(), webpki::Error> {
    let Some((first, rest)) = chain.split_first() else {
        return Ok(());
    };
    let certificate = EndEntityCert::try_from(first)?;
    certificate.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &[],
        rest,
        UnixTime::now(),
        KeyUsage::server_auth(),
        None,
        None,
    )?;
    Ok(())
}
