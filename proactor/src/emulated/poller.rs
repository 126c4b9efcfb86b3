//! The poller: which descriptors are associated with the port, what is known of their readiness,
//! and who waits at each, in order.
//!
//! A descriptor is registered once, when an operation first has to wait at it, for all edges in
//! both directions; from then on a wait costs no system call. The registration table is indexed
//! by descriptor number and checked against [`Fd::id`]: numbers are dense and used again, so dead
//! registrations need no sweep, and a new descriptor finds its predecessor's memory in place.
//! Events carry the number and the registration's generation: those of a closed descriptor (which
//! still come when a dup(2) of it lives on elsewhere) name no registration, and are ignored.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::fd::{Fd, FileKind};
use crate::net;
use crate::op::Token;

use crate::epoll::{ERR, Epoll, HUP, IN, OUT, PRI, RDHUP, Ready};

/// What an operation waits for at a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    Read,
    Write,
}

/// Names a registration, past its end too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    number: u32,
    generation: u32,
}

impl Slot {
    /// The generation of watched descriptors, which have no registration.
    const WATCHED: Slot = Slot {
        number: 0,
        generation: 0,
    };

    fn data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.number)
    }

    fn parse(data: u64) -> Slot {
        Slot {
            number: data as u32,
            generation: (data >> 32) as u32,
        }
    }
}

/// One direction of a registration: where an operation waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Side {
    pub(super) slot: Slot,
    pub(super) direction: Direction,
}

/// Operations that wait, in order. The first, mostly the only one, needs no allocation.
#[derive(Default)]
pub(super) struct Waiters {
    first: Option<Token>,
    rest: VecDeque<Token>,
}

impl Waiters {
    pub(super) fn first(&self) -> Option<Token> {
        self.first
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn push(&mut self, token: Token) {
        match self.first {
            None => self.first = Some(token),
            Some(_) => self.rest.push_back(token),
        }
    }

    pub(super) fn remove(&mut self, token: Token) {
        if self.first == Some(token) {
            self.first = self.rest.pop_front();
        } else if let Some(at) = self.rest.iter().position(|t| *t == token) {
            self.rest.remove(at);
        }
    }
}

/// The state of one direction.
pub(super) struct SideState {
    /// A call may succeed: no call has said `EAGAIN` since the last edge.
    pub(super) ready: bool,
    /// It stands in the list of what goes on in the next turn.
    pub(super) scheduled: bool,
    /// The first one is being worked on, or is the one that waits for an edge.
    pub(super) waiters: Waiters,
}

impl SideState {
    fn new() -> SideState {
        SideState {
            ready: true,
            scheduled: false,
            waiters: Waiters::default(),
        }
    }

    /// An operation that comes now may be tried at once.
    pub(super) fn is_free(&self) -> bool {
        self.ready && self.waiters.is_empty()
    }
}

/// A descriptor's association with the port.
pub(super) struct Registration {
    /// The [`Fd::id`].
    id: u64,
    generation: u32,
    /// epoll takes it.
    pub(super) pollable: bool,
    /// A short count means that the socket is empty, or full: see [`Registration::is_plain`].
    plain: bool,
    read: SideState,
    write: SideState,
    /// Waits for readiness ([`Op::Poll`](crate::Op::Poll)): all are told, none takes anything.
    pub(super) polls: Vec<Token>,
}

impl Registration {
    pub(super) fn side(&mut self, direction: Direction) -> &mut SideState {
        match direction {
            Direction::Read => &mut self.read,
            Direction::Write => &mut self.write,
        }
    }

    /// After a short count, the next call would only say `EAGAIN`, and an edge will tell when not.
    /// So it is with TCP, but for urgent data (a receive stops at its mark) and for the end of the
    /// stream or an error, whose edge may have come before the data was read. Others, Unix sockets
    /// among them, give short counts at message borders too.
    pub(super) fn is_plain(&self) -> bool {
        self.plain
    }

    fn is_idle(&self) -> bool {
        self.read.waiters.is_empty() && self.write.waiters.is_empty() && self.polls.is_empty()
    }
}

/// The epoll instance and the registrations.
pub(super) struct Poller {
    epoll: Epoll,
    /// By descriptor number.
    registrations: Vec<Option<Box<Registration>>>,
    generation: u32,
}

impl Poller {
    pub(super) fn new() -> io::Result<Poller> {
        Ok(Poller {
            epoll: Epoll::new()?,
            registrations: Vec::new(),
            generation: Slot::WATCHED.generation,
        })
    }

    /// The registration of a descriptor, if it has one.
    pub(super) fn find(&mut self, fd: &Fd) -> Option<&mut Registration> {
        let registration = self.registrations.get_mut(fd.as_raw_fd() as usize)?;
        registration.as_deref_mut().filter(|r| r.id == fd.id())
    }

    /// The registration that a slot names, if it still does.
    pub(super) fn get(&mut self, slot: Slot) -> Option<&mut Registration> {
        let registration = self.registrations.get_mut(slot.number as usize)?;
        registration
            .as_deref_mut()
            .filter(|r| r.generation == slot.generation)
    }

    pub(super) fn side(&mut self, side: Side) -> Option<&mut SideState> {
        Some(self.get(side.slot)?.side(side.direction))
    }

    /// Registers a descriptor where it isn't yet. Its readiness of this moment comes as an event.
    pub(super) fn register(&mut self, fd: &Fd) -> io::Result<Slot> {
        let number = fd.as_raw_fd() as usize;
        if let Some(registration) = self.find(fd) {
            let generation = registration.generation;
            return Ok(Slot {
                number: number as u32,
                generation,
            });
        }
        self.generation = match self.generation.wrapping_add(1) {
            0 => 1,
            generation => generation,
        };
        let slot = Slot {
            number: number as u32,
            generation: self.generation,
        };
        let pollable = self.epoll.add(fd.as_fd(), slot.data())?;
        let plain = fd.kind() == FileKind::Socket && net::is_tcp(fd.as_fd());
        if self.registrations.len() <= number {
            self.registrations.resize_with(number + 1, || None);
        }
        let registration = self.registrations[number].get_or_insert_with(|| {
            Box::new(Registration {
                id: 0,
                generation: 0,
                pollable,
                plain,
                read: SideState::new(),
                write: SideState::new(),
                polls: Vec::new(),
            })
        });
        // Whoever waits holds the descriptor open, and an open number has one owner.
        debug_assert!(registration.is_idle());
        registration.id = fd.id();
        registration.generation = slot.generation;
        registration.pollable = pollable;
        registration.plain = plain;
        registration.read = SideState::new();
        registration.write = SideState::new();
        registration.polls.clear();
        Ok(slot)
    }

    /// Ends a descriptor's registration, where no one waits. Else the kernel's part of it lives, and
    /// tells of every change, until the last duplicate of the descriptor is closed.
    pub(super) fn forget(&mut self, fd: &Fd) {
        let idle = self.find(fd).is_some_and(|r| r.pollable && r.is_idle());
        if !idle {
            return;
        }
        if let Err(e) = self.epoll.remove(fd.as_fd()) {
            log::debug!("a descriptor can't be taken from the epoll: {e}");
        }
        self.registrations[fd.as_raw_fd() as usize] = None;
    }

    /// Has a descriptor's readability end waits.
    pub(super) fn watch(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.epoll.add_level(fd, Slot::WATCHED.data())
    }

    /// Takes a batch of events in, and says how many; waits for the first if `block`.
    pub(super) fn wait(&mut self, block: bool) -> io::Result<usize> {
        self.epoll.wait(block)
    }

    /// Takes an event of the batch in: notes what its descriptor is ready for. `None` where no one
    /// is concerned.
    pub(super) fn event(&mut self, index: usize) -> Option<(Slot, i16)> {
        let Ready { data, events } = self.epoll.event(index);
        let slot = Slot::parse(data);
        let registration = self.get(slot)?;
        if events & (PRI | RDHUP | HUP | ERR) != 0 {
            registration.plain = false;
        }
        if events & (IN | PRI | RDHUP | HUP | ERR) != 0 {
            registration.read.ready = true;
        }
        if events & (OUT | HUP | ERR) != 0 {
            registration.write.ready = true;
        }
        Some((slot, events))
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

// Miri's epoll(7) takes fewer flags.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn token(index: u32) -> Token {
        Token {
            index,
            generation: 0,
        }
    }

    fn events(poller: &mut Poller) -> Vec<(Slot, i16)> {
        let n = poller.wait(false).unwrap();
        (0..n).filter_map(|index| poller.event(index)).collect()
    }

    #[test]
    fn waiters_keep_their_order() {
        let mut waiters = Waiters::default();
        for index in 0..5 {
            waiters.push(token(index));
        }
        for index in [2, 0, 9] {
            waiters.remove(token(index));
        }
        for index in [1, 3, 4] {
            assert_eq!(waiters.first(), Some(token(index)));
            waiters.remove(token(index));
        }
        assert!(waiters.is_empty());
    }

    #[test]
    fn a_descriptor_is_registered_once() {
        let mut poller = Poller::new().unwrap();
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let ours = Fd::nonblocking(ours).unwrap();
        assert!(poller.find(&ours).is_none());
        let slot = poller.register(&ours).unwrap();
        assert_eq!(poller.register(&ours.clone()).unwrap(), slot);
        // What it is ready for at the start, then each change.
        assert_eq!(events(&mut poller), [(slot, OUT)]);
        assert_eq!(events(&mut poller), []);
        for _ in 0..3 {
            poller.get(slot).unwrap().side(Direction::Read).ready = false;
            peer.write_all(b"x").unwrap();
            assert_eq!(events(&mut poller), [(slot, IN | OUT)]);
            assert!(poller.get(slot).unwrap().side(Direction::Read).ready);
        }
        drop(peer);
        let [(_, last)] = events(&mut poller)[..] else {
            panic!()
        };
        assert_ne!(last & HUP, 0);
    }

    #[test]
    fn numbers_are_used_again_names_are_not() {
        let mut poller = Poller::new().unwrap();
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let duplicate = ours.try_clone().unwrap();
        let first = Fd::nonblocking(ours).unwrap();
        let number = first.as_raw_fd();
        let old = poller.register(&first).unwrap();
        poller.side(Side {
            slot: old,
            direction: Direction::Read,
        });
        // The very descriptor under another name: epoll knows it already.
        let second = Fd::new(first.into_owned().unwrap());
        assert!(poller.find(&second).is_none());
        let new = poller.register(&second).unwrap();
        assert_ne!(old, new);
        assert_eq!(new.number, number as u32);
        assert!(poller.get(old).is_none());
        assert!(poller.get(new).is_some());
        events(&mut poller);
        // Closed, while the duplicate keeps the socket, and with it the kernel's registration.
        drop(second);
        let (other, _other_peer) = UnixStream::pair().unwrap();
        let other = Fd::nonblocking(other).unwrap();
        if other.as_raw_fd() == number {
            let other = poller.register(&other).unwrap();
            events(&mut poller);
            peer.write_all(b"x").unwrap();
            assert_eq!(events(&mut poller), [], "meant for {other:?}");
        }
        drop(duplicate);
    }

    #[test]
    fn what_is_forgotten_tells_nothing_more() {
        let mut poller = Poller::new().unwrap();
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let lent = Fd::new(ours.try_clone().unwrap());
        poller.register(&lent).unwrap();
        assert_eq!(poller.wait(false).unwrap(), 1);
        poller.forget(&lent);
        drop(lent);
        peer.write_all(b"x").unwrap();
        assert_eq!(poller.wait(false).unwrap(), 0);
    }

    #[test]
    fn files_are_always_ready() {
        let mut poller = Poller::new().unwrap();
        let file = Fd::from(std::fs::File::open("/proc/self/exe").unwrap());
        let slot = poller.register(&file).unwrap();
        assert!(!poller.get(slot).unwrap().pollable);
        assert_eq!(events(&mut poller), []);
    }

    #[test]
    fn short_counts_speak_with_tcp_alone() {
        let mut poller = Poller::new().unwrap();
        let (unix, _peer) = UnixStream::pair().unwrap();
        let slot = poller.register(&Fd::new(unix)).unwrap();
        assert!(!poller.get(slot).unwrap().is_plain());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let tcp = Fd::new(listener.accept().unwrap().0);
        let slot = poller.register(&tcp).unwrap();
        events(&mut poller);
        assert!(poller.get(slot).unwrap().is_plain());
        // Not when the end may be behind the bytes.
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        while poller.get(slot).unwrap().is_plain() {
            poller.wait(true).unwrap();
            poller.event(0);
        }
    }
}
