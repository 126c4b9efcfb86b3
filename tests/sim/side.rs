//! A connection in a run: what its user was told, its peer, and what the peer did and got.

use std::cell::Cell;
use std::io::{self, Write};
use std::rc::Rc;

use spliceport::proactor::sim::Rng;
use spliceport::proactor::{Fd, Proactor};
use spliceport::{Transport, TransportOptions};

use super::content::content;
use super::log::{Log, User};
use super::peer::Peer;
use super::program::{Action, Appetite, Medium, Program};
use super::receives::Receiving;

/// The tag of what a peer sends.
pub const PEER: usize = usize::MAX / 2;

/// One connection, and all that came of it.
pub struct Side {
    pub log: Rc<Log>,
    /// Our end.
    pub socket: Option<Fd>,
    pub peer: Peer,
    /// Over TCP: a reset overtakes what was sent before it.
    pub tcp: bool,
    pub appetite: Appetite,
    /// Of the content that the peer sends.
    pub tag: usize,
    /// What the peer received, and whether that was all there was.
    pub arrived: Vec<u8>,
    pub arrived_all: bool,
    /// What the peer sent.
    pub peer_sent: usize,
    pub peer_shut: bool,
    pub peer_closed: bool,
    pub proactor_dropped: bool,
    /// What a relay brought of the other connection.
    pub relayed: Option<Relayed>,
    buf: Vec<u8>,
}

/// What a relay sent to a connection.
#[derive(Clone, Copy, Debug)]
pub struct Relayed {
    /// Of whose peer, and from where on in what it sent.
    pub tag: usize,
    pub from: usize,
    pub bytes: usize,
    /// Its count was told.
    pub told: bool,
    /// It came to its end, and what follows may leave.
    pub whole: bool,
    /// The relay has failed, in whichever direction, and aborted both connections.
    pub failed: bool,
}

impl Side {
    /// A transport over one end, as the program has it.
    pub fn open(program: &Program, proactor: &Proactor, (socket, peer): (Fd, Peer)) -> Side {
        let mut side = Side::expected(program, peer);
        let user = Box::new(User(Rc::clone(&side.log)));
        let options = Side::options(program);
        let transport = Transport::new(proactor, socket.clone(), user, &options).unwrap();
        side.log.adopt(&transport);
        side.socket = Some(socket);
        side
    }

    pub fn options(program: &Program) -> TransportOptions {
        let options = TransportOptions::new().reading(program.reading);
        match program.limits {
            Some((high, low)) => options.write_limits(high, low),
            None => options,
        }
    }

    /// One whose transport is to come.
    pub fn expected(program: &Program, peer: Peer) -> Side {
        let log = Rc::new(Log {
            read_only: program.medium == Medium::PipeIn,
            half_open: program.half_open,
            pauses: program.pauses,
            reading: Cell::new(program.reading),
            ..Log::default()
        });
        Side {
            log,
            socket: None,
            tcp: matches!(peer, Peer::Tcp(_)),
            peer,
            appetite: program.appetite,
            tag: PEER,
            arrived: Vec::new(),
            arrived_all: false,
            peer_sent: 0,
            peer_shut: false,
            peer_closed: false,
            proactor_dropped: false,
            relayed: None,
            buf: vec![0; 1 << 16],
        }
    }

    /// Nothing goes on without the peer or time: then what is due must have been done. Gives what is
    /// queued, where that can be said.
    pub fn check_at_rest(&self) -> Option<usize> {
        let log = &self.log;
        let transport = log.transport()?;
        if log.lost.get() {
            return None;
        }
        let queued = transport.write_buffer_size();
        log.check_cancelled(queued > 0);
        let (_, high) = transport.write_buffer_limits();
        let sends_over = log.sends.borrow().iter().all(|s| s.outcome.is_some());
        if queued == 0 && sends_over && log.paused.get() {
            log.problem("nothing is queued, and writing is paused");
        }
        if queued > high && !log.paused.get() {
            log.problem(format!(
                "{queued} bytes are queued, and writing is not paused"
            ));
        }
        let received = log.received.borrow().len();
        let taken = log.receives.borrow().iter().any(Receiving::is_queued);
        if taken && !transport.is_closing() {
            log.check_receiving(self.peer_sent);
        }
        let due = log.reading.get() && !taken;
        if due && !transport.is_closing() && received < self.peer_sent {
            log.problem(format!(
                "{received} of {} bytes were received",
                self.peer_sent
            ));
        }
        Some(queued)
    }

    /// Does what is this connection's, its peer's or its sources'. False where it is for somebody
    /// else.
    pub fn perform(&mut self, action: &Action) -> bool {
        if self.log.act(action) {
            return true;
        }
        match action {
            Action::LetGo => *self.log.transport.borrow_mut() = None,
            Action::PeerWrites(len) => self.writes(*len),
            Action::PeerReads(len) => {
                self.reads(*len);
            }
            Action::PeerShuts => self.shuts(),
            Action::PeerCloses => self.closes(),
            Action::PeerResets => {
                // One over TCP is seen, though all had been read.
                self.peer_closed |= self.tcp && !matches!(self.peer, Peer::Closed);
                self.peer.reset_on_close();
                self.closes();
            }
            Action::Truncate(which, permille) => self.truncate(*which, *permille),
            Action::Feed(len) => self.feed(*len),
            _ => return false,
        }
        true
    }

    fn truncate(&mut self, which: usize, permille: u64) {
        let mut sends = self.log.sends.borrow_mut();
        let count = sends.len().max(1);
        if let Some(send) = sends.get_mut(which % count)
            && let Some(file) = &send.outside.file
            && send.outcome.is_none()
        {
            let to = send.plan.size as u64 * permille / 1000;
            if to < send.plan.size as u64 {
                file.set_len(to).unwrap();
                send.truncated = true;
            }
        }
    }

    /// Feeds the first of the pipes that are sent.
    fn feed(&mut self, len: usize) {
        let mut sends = self.log.sends.borrow_mut();
        for send in sends.iter_mut() {
            if let Some(pipe) = &mut send.outside.feed {
                let bytes = content(send.tag, send.outside.there, len.min(20_000));
                match pipe.write(&bytes) {
                    Ok(n) => send.outside.there += n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => send.outside.feed = None,
                }
                return;
            }
        }
    }

    /// No more comes through the pipes that are sent.
    pub fn ends_feeds(&self) {
        for send in self.log.sends.borrow_mut().iter_mut() {
            send.outside.feed = None;
        }
    }

    /// The peer writes `len` bytes, as far as there is room.
    pub fn writes(&mut self, len: usize) {
        let bytes = content(self.tag, self.peer_sent, len);
        let Some(writer) = self.peer.writer() else {
            return;
        };
        let written = writer.write(&bytes);
        if !self.peer_shut {
            self.peer_sent += written.unwrap_or(0);
        }
    }

    /// The peer ends its sending.
    pub fn shuts(&mut self) {
        self.peer_shut |= self.peer.shut();
    }

    pub fn closes(&mut self) {
        if !matches!(self.peer, Peer::Closed) {
            self.peer = Peer::Closed;
            self.peer_shut = true;
            // What it had not read by then is nobody's.
            self.peer_closed |= !self.arrived_all;
        }
    }

    /// The peer reads at most `len` bytes; how many did it?
    pub fn reads(&mut self, len: usize) -> usize {
        let mut left = len;
        while left > 0
            && let Some(reader) = self.peer.reader()
        {
            let most = left.min(self.buf.len());
            match reader.read(&mut self.buf[..most]) {
                Ok(0) => {
                    self.arrived_all = true;
                    break;
                }
                Ok(n) => {
                    self.arrived.extend_from_slice(&self.buf[..n]);
                    left -= n;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // A reset: what came before it was read.
                Err(_) => {
                    self.arrived_all = true;
                    break;
                }
            }
        }
        len - left
    }

    /// The peer reads, or does not, as its appetite is.
    pub fn feels_like_reading(&mut self, rng: &mut Rng) {
        match self.appetite {
            Appetite::Eager => {
                self.reads(usize::MAX);
            }
            Appetite::Slow if rng.chance(300) => {
                let len = rng.length(20_000);
                self.reads(len);
            }
            _ => {}
        }
    }
}
