//! Where the access log goes: a file that is opened again when it was moved, or standard output.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;

use crate::cli::error::Failure;
use crate::cli::line_queue::Output;
use crate::cli::serve::user::Account;

/// An open log.
pub(in crate::cli::serve) struct Target {
    file: File,
    /// `None` for standard output.
    path: Option<PathBuf>,
}

impl Target {
    /// Opens the log, while the process may: before it becomes another user, to whom a file that is
    /// new belongs.
    ///
    /// # Errors
    /// It can't be opened.
    pub(in crate::cli::serve) fn open(
        path: &Path,
        account: Option<&Account>,
    ) -> Result<Target, Failure> {
        if path.as_os_str() == "-" {
            let stdout = io::stdout().as_fd().try_clone_to_owned();
            let failed = |e| Failure::io("standard output can't be written to", &e);
            return Ok(Target {
                file: stdout.map_err(failed)?.into(),
                path: None,
            });
        }
        let failed = |e: io::Error| {
            let path = path.display();
            let advice = advice(&e);
            Failure::new(format!("cannot open the access log {path}: {e}; {advice}"))
        };
        let (file, new) = open(path).map_err(failed)?;
        if let Some(account) = account
            && new
            && rustix::process::geteuid().is_root()
        {
            let (uid, gid) = (account.uid().as_raw(), account.gid().as_raw());
            fchown(&file, Some(uid), Some(gid)).map_err(failed)?;
        }
        // As errors and the sandbox are to name it.
        let path = std::path::absolute(path).map_err(failed)?;
        Ok(Target {
            file,
            path: Some(path),
        })
    }

    /// What a sandbox has to allow for the path to be opened again: for a file, its directory, since
    /// the file will be a new one; `None` where nothing is opened again.
    pub(in crate::cli::serve) fn place(&self) -> Option<(&Path, bool)> {
        let path = self.path.as_deref()?;
        let regular = self.file.metadata().is_ok_and(|m| m.is_file());
        match path.parent() {
            Some(directory) if regular => Some((directory, true)),
            _ => Some((path, false)),
        }
    }
}

impl Output for Target {
    const NAME: &'static str = "the access log";

    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.file.write(lines)
    }

    /// Opens the path again. Where that is refused, all stays as it is, and the log says so.
    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match open(path) {
            Ok((file, _)) => {
                self.file = file;
                log::info!("the access log {} has been opened again", path.display());
            }
            Err(e) => log::error!(
                "the access log {} can't be opened again, and goes on in the file that was open: \
                 {e}; {}",
                path.display(),
                advice(&e)
            ),
        }
    }
}

/// Opens a log to append to it, and says whether it is new. A FIFO must have its reader.
fn open(path: &Path) -> io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    // (Opening a FIFO would wait for a reader, for ever perhaps.)
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    options
        .append(true)
        .mode(0o640)
        .custom_flags(flags.bits() as i32);
    let (file, new) = match options.clone().create_new(true).open(path) {
        Ok(file) => (file, true),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => (options.create(true).open(path)?, false),
        Err(e) => return Err(e),
    };
    fcntl_setfl(&file, OFlags::APPEND)?;
    Ok((file, new))
}

/// What to do about a log that can't be opened.
fn advice(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR) => "make its directory first",
        Some(Errno::ACCESS | Errno::PERM) => {
            "its directory must be writable for the user that serves (--user)"
        }
        Some(Errno::ISDIR) => "name a file in it",
        Some(Errno::NXIO) => "it is a FIFO that nobody reads: start its reader first",
        Some(Errno::ROFS) => "the file system is read-only: choose another place",
        Some(Errno::MFILE | Errno::NFILE) => "too many files are open: raise the limit",
        _ => "choose another place",
    }
}
