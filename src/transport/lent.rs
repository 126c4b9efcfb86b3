//! [`Lent`]: what is to be put back at a descriptor that belongs to somebody else.

use std::io;

use proactor::{Fd, Handle, net};

/// A lent descriptor's settings as they were found, where a transport changes them.
pub(super) struct Lent {
    blocking: bool,
    /// Nagle's algorithm was in force (`TCP_NODELAY` was not set).
    nagle: bool,
    /// `TCP_NOTSENT_LOWAT`; only TCP has it.
    notsent: Option<u32>,
}

impl Lent {
    /// Looks, before anything is changed.
    pub(super) fn of(fd: &Fd) -> Lent {
        Lent {
            blocking: !fd.is_nonblocking(),
            nagle: net::nodelay(fd).is_ok_and(|on| !on),
            notsent: net::notsent_lowat(fd).ok(),
        }
    }

    /// Puts back what was found. Nothing waits at the descriptor any more.
    pub(super) fn give_back(self, fd: &Fd, handle: &Handle) {
        handle.forget(fd);
        if let Err(e) = self.restore(fd) {
            log::debug!("a lent socket's settings could not be put back: {e}");
        }
    }

    fn restore(self, fd: &Fd) -> io::Result<()> {
        if self.nagle {
            net::unset_nodelay(fd)?;
        }
        if let Some(bytes) = self.notsent
            && net::notsent_lowat(fd)? != bytes
        {
            net::set_notsent_lowat(fd, bytes)?;
        }
        if self.blocking {
            fd.set_blocking()?;
        }
        Ok(())
    }
}
