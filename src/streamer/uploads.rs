//! What may be uploaded, and the files' way to their places: the part of it that waits for disks,
//! and so runs on workers.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self, AtFlags, FileType};
use rustix::io::Errno;
use subtle::ConstantTimeEq;

use crate::{Fd, Placed, Replacement};

use super::open::{is_found, open_directory};

/// Lets those who know a token put files below the served directory (PUT). They are in their
/// places, whole and on the disk, when the response says so, or not at all.
#[derive(Clone)]
pub struct Uploads {
    limit: u64,
    token: Vec<u8>,
}

impl Uploads {
    /// Files of at most `limit` bytes, from those who send `Authorization: Bearer` and the token
    /// (RFC 6750).
    ///
    /// # Errors
    /// `InvalidInput` where no request could bear the token: it is empty, or has other characters
    /// than the ASCII ones that are visible.
    pub fn new(limit: u64, token: &str) -> io::Result<Uploads> {
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a token is made of visible ASCII characters, and has no spaces",
            ));
        }
        Ok(Uploads {
            limit,
            token: token.as_bytes().to_vec(),
        })
    }

    /// The most bytes that a file may have.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether a request bears the token. How long that takes says nothing of how alike they are.
    pub(super) fn permits(&self, token: &[u8]) -> bool {
        self.token.ct_eq(token).into()
    }
}

impl fmt::Debug for Uploads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uploads")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// A new file for a path below `root`, that no link on the way leads out of. Only a regular file
/// (or a link, which is replaced itself) may be in its place. With it, whether the name is that of a
/// link which leads to nothing that is served. Waits for the disk.
pub(super) fn prepare(root: &Fd, path: &[u8]) -> io::Result<(Replacement, bool)> {
    let (parent, name) = match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&path[..0], path),
    };
    let dir = open_directory(root, parent)?;
    let hidden = match fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => false,
            FileType::Symlink => !is_found(root, path),
            FileType::Directory => return Err(Errno::ISDIR.into()),
            _ => return Err(Errno::PERM.into()),
        },
        Err(Errno::NOENT) => false,
        Err(e) => return Err(e.into()),
    };
    Ok((Replacement::within(dir, OsStr::from_bytes(name))?, hidden))
}

/// Puts a file in its place, or, where it must be new, fails with `AlreadyExists` if there is one.
/// Waits for the disk.
pub(super) fn place(replacement: Replacement, new: bool) -> io::Result<Placed> {
    if new {
        replacement.create(true).map(|()| Placed::Created)
    } else {
        replacement.replace(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_token() {
        let uploads = Uploads::new(10, "s3cret+/=").unwrap();
        assert!(uploads.permits(b"s3cret+/="));
        for other in [&b""[..], b"s3cret+/", b"s3cret+/==", b"S3cret+/="] {
            assert!(!uploads.permits(other));
        }
        for bad in ["", "a b", "ä", "a\n"] {
            assert!(Uploads::new(10, bad).is_err(), "{bad:?}");
        }
        assert!(!format!("{uploads:?}").contains("s3cret"));
    }
}
