//! Waits for room in sockets whose peer has ended its own sending.
//!
//! The ring's poll always ends for `POLLRDHUP` too, whatever it is asked for: once the peer has
//! sent its last byte, a wait for room would end at once, over and over. Such waits stand at an
//! epoll instead, which does not tell what it wasn't asked for, and which the ring watches.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use crate::epoll::{Epoll, OUT, RDHUP};
use crate::fd::{Fd, FileKind};
use crate::op::Token;
use crate::sys;

#[derive(Default)]
pub(super) struct RoomWaits {
    /// Made when it is needed first.
    epoll: Option<Epoll>,
    /// The sockets, or duplicates of them.
    waiting: HashMap<Token, Fd>,
    /// The epoll has something to tell.
    pub(super) ready: bool,
}

/// Whether a wait for room at a socket is one for the epoll.
pub(super) fn is_half_closed(socket: &Fd) -> bool {
    socket.kind() == FileKind::Socket
        && sys::poll(socket.as_fd(), OUT | RDHUP, Some(Duration::ZERO))
            .is_ok_and(|events| events & RDHUP != 0 && events & OUT == 0)
}

impl RoomWaits {
    /// The epoll, where this call has made it: it is to be watched.
    pub(super) fn open(&mut self) -> io::Result<Option<BorrowedFd<'_>>> {
        if self.epoll.is_some() {
            return Ok(None);
        }
        let epoll = self.epoll.insert(Epoll::new()?);
        Ok(Some((*epoll).as_fd()))
    }

    pub(super) fn is(&self, watched: RawFd) -> bool {
        let epoll = self.epoll.as_ref();
        epoll.is_some_and(|epoll| epoll.as_fd().as_raw_fd() == watched)
    }

    /// Has an operation wait.
    pub(super) fn add(&mut self, token: Token, socket: &Fd) -> io::Result<()> {
        let Some(epoll) = &self.epoll else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let data = u64::from(token.index) << 32 | u64::from(token.generation);
        let socket = match epoll.add_room(socket.as_fd(), data) {
            // Another waits there: a descriptor of its own has a place of its own.
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
                let own = Fd::new(socket.as_fd().try_clone_to_owned()?);
                epoll.add_room(own.as_fd(), data)?;
                own
            }
            other => other.map(|()| socket.clone())?,
        };
        self.waiting.insert(token, socket);
        Ok(())
    }

    /// Ends an operation's wait; true if it had one.
    pub(super) fn remove(&mut self, token: Token) -> bool {
        let socket = self.waiting.remove(&token);
        if let (Some(socket), Some(epoll)) = (&socket, &self.epoll)
            && let Err(e) = epoll.remove(socket.as_fd())
        {
            log::debug!("a socket can't be taken from the epoll: {e}");
        }
        socket.is_some()
    }

    /// Takes out those whose sockets have room.
    pub(super) fn take(&mut self) -> Vec<Token> {
        self.ready = false;
        let Some(epoll) = &mut self.epoll else {
            return Vec::new();
        };
        let n = epoll.wait(false).unwrap_or(0);
        let token = |data: u64| Token {
            index: (data >> 32) as u32,
            generation: data as u32,
        };
        let tokens: Vec<Token> = (0..n).map(|at| token(epoll.event(at).data)).collect();
        tokens.into_iter().filter(|t| self.remove(*t)).collect()
    }
}
