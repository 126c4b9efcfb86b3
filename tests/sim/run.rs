//! Runs a program: on a simulated kernel or on the real one, on one thread, its peer included.

use std::cell::Cell;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use spliceport::proactor::sim::{Rng, Simulation};
use spliceport::proactor::{Fd, Proactor};
use spliceport::{Transport, TransportOptions};

use super::content::content;
use super::log::{Log, User};
use super::peer::Peer;
use super::program::{Action, Appetite, Medium, Program};
use super::receives::Receiving;

/// More bytes than any program sends.
const ENDLESS: usize = 64 << 20;

/// All that a run brought.
pub struct Report {
    pub log: Rc<Log>,
    /// What the peer received, and whether that was all there was.
    pub arrived: Vec<u8>,
    pub arrived_all: bool,
    /// What the peer sent.
    pub peer_sent: usize,
    pub peer_shut: bool,
    pub peer_closed: bool,
    pub proactor_dropped: bool,
}

/// A run under way.
pub struct Run<'a> {
    simulation: Option<&'a Simulation>,
    pub proactor: Option<Proactor>,
    socket: Fd,
    log: Rc<Log>,
    peer: Peer,
    appetite: Appetite,
    report: Report,
    rng: Rng,
    buf: Vec<u8>,
}

impl<'a> Run<'a> {
    pub fn new(
        program: &Program,
        proactor: Proactor,
        (socket, peer): (Fd, Peer),
        simulation: Option<&'a Simulation>,
        seed: u64,
    ) -> Run<'a> {
        let log = Rc::new(Log {
            read_only: program.medium == Medium::PipeIn,
            half_open: program.half_open,
            pauses: program.pauses,
            reading: Cell::new(program.reading),
            ..Log::default()
        });
        let mut options = TransportOptions::new().reading(program.reading);
        if let Some((high, low)) = program.limits {
            options = options.write_limits(high, low);
        }
        let user = Box::new(User(Rc::clone(&log)));
        let transport = Transport::new(&proactor, socket.clone(), user, &options).unwrap();
        *log.transport.borrow_mut() = Some(transport);
        let report = Report {
            log: Rc::clone(&log),
            arrived: Vec::new(),
            arrived_all: false,
            peer_sent: 0,
            peer_shut: false,
            peer_closed: false,
            proactor_dropped: false,
        };
        Run {
            simulation,
            proactor: Some(proactor),
            socket,
            log,
            peer,
            appetite: program.appetite,
            report,
            rng: Rng::new(seed ^ 0xd1ce),
            buf: vec![0; 1 << 16],
        }
    }

    /// Does all that the program says, then ends the connection in an orderly way, and lets go.
    pub fn finish(mut self, program: &Program) -> Report {
        for action in &program.actions {
            self.perform(action);
            if self.proactor.is_none() {
                break;
            }
            // What follows at once meets a connection that has not had a turn.
            if self.rng.chance(700) {
                self.turns(1);
            }
        }
        self.wind_up();
        self.report
    }

    fn perform(&mut self, action: &Action) {
        if let Some(simulation) = self.simulation {
            simulation.note("action", 0, 0);
        }
        if self.log.act(action) {
            return;
        }
        match action {
            Action::LetGo => *self.log.transport.borrow_mut() = None,
            Action::PeerWrites(len) => self.peer_writes(*len),
            Action::PeerReads(len) => {
                self.peer_reads(*len);
            }
            Action::PeerShuts => self.peer_shuts(),
            Action::PeerCloses => self.peer_closes(),
            Action::Truncate(which, permille) => {
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
            Action::Feed(len) => self.feed(*len),
            Action::Turns(n) => self.turns(*n),
            Action::Sleep(time) if self.simulation.is_some() => self.turn(Some(*time)),
            Action::Settle => self.settle(),
            Action::DropProactor => self.drop_proactor(),
            _ => {}
        }
    }

    fn peer_writes(&mut self, len: usize) {
        let bytes = content(usize::MAX / 2, self.report.peer_sent, len);
        let Some(writer) = self.peer.writer() else {
            return;
        };
        let written = writer.write(&bytes);
        if !self.report.peer_shut {
            self.report.peer_sent += written.unwrap_or(0);
        }
    }

    fn peer_shuts(&mut self) {
        self.report.peer_shut |= self.peer.shut();
    }

    fn peer_closes(&mut self) {
        if !matches!(self.peer, Peer::Closed) {
            self.peer = Peer::Closed;
            self.report.peer_shut = true;
            // What it had not read by then is nobody's.
            self.report.peer_closed |= !self.report.arrived_all;
        }
    }

    /// The peer reads at most `len` bytes; how many did it?
    fn peer_reads(&mut self, len: usize) -> usize {
        let mut left = len;
        while left > 0
            && let Some(reader) = self.peer.reader()
        {
            let most = left.min(self.buf.len());
            match reader.read(&mut self.buf[..most]) {
                Ok(0) => {
                    self.report.arrived_all = true;
                    break;
                }
                Ok(n) => {
                    self.report.arrived.extend_from_slice(&self.buf[..n]);
                    left -= n;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // A reset: what came before it was read.
                Err(_) => {
                    self.report.arrived_all = true;
                    break;
                }
            }
        }
        len - left
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

    fn turns(&mut self, n: u32) {
        for _ in 0..n {
            match self.appetite {
                Appetite::Eager => {
                    self.peer_reads(usize::MAX);
                }
                Appetite::Slow if self.rng.chance(300) => {
                    let len = self.rng.length(20_000);
                    self.peer_reads(len);
                }
                _ => {}
            }
            self.turn(Some(Duration::ZERO));
        }
    }

    fn turn(&mut self, timeout: Option<Duration>) {
        if self.rng.chance(500) {
            self.log.drain_sinks();
        }
        if let Some(proactor) = &self.proactor
            && let Err(e) = proactor.run_once(timeout)
        {
            self.log.problem(format!("the loop: {e}"));
        }
    }

    /// A number that changes when something happens.
    fn progress(&self) -> (u64, usize, u64, u64) {
        let done = self.proactor.as_ref().map_or(0, |p| p.stats().completed);
        let events = self.simulation.map_or(0, Simulation::events);
        (
            self.log.calls.get(),
            self.report.arrived.len(),
            done,
            events,
        )
    }

    /// Runs turns until none brings anything. In real time that takes a little time.
    fn quieten(&mut self, mut each: impl FnMut(&mut Self)) {
        let mut idle = 0;
        let mut turns = 0;
        let pause = match self.simulation {
            Some(_) => Duration::ZERO,
            None => Duration::from_millis(2),
        };
        while idle < if self.simulation.is_some() { 40 } else { 15 } {
            turns += 1;
            if turns > 200_000 || self.report.arrived.len() > ENDLESS {
                return self.log.problem("it never comes to rest");
            }
            let before = self.progress();
            each(self);
            self.turn(Some(pause));
            idle = if self.progress() == before {
                idle + 1
            } else {
                0
            };
        }
    }

    /// Nothing goes on without the peer or time: then what is due must have been done.
    fn settle(&mut self) {
        let appetite = self.appetite;
        self.quieten(|run| {
            if appetite == Appetite::Eager {
                run.peer_reads(usize::MAX);
            }
        });
        let Some(transport) = self.log.transport() else {
            return;
        };
        if self.log.lost.get() || self.proactor.is_none() {
            return;
        }
        self.log.check_cancelled(transport.write_buffer_size() > 0);
        let queued = transport.write_buffer_size();
        let (_, high) = transport.write_buffer_limits();
        let sends_over = self.log.sends.borrow().iter().all(|s| s.outcome.is_some());
        if queued == 0 && sends_over && self.log.paused.get() {
            self.log.problem("nothing is queued, and writing is paused");
        }
        if queued > high && !self.log.paused.get() {
            self.log.problem(format!(
                "{queued} bytes are queued, and writing is not paused"
            ));
        }
        let received = self.log.received.borrow().len();
        let taken = self.log.receives.borrow().iter().any(Receiving::is_queued);
        if taken && !transport.is_closing() {
            self.log.check_receiving(self.report.peer_sent);
        }
        let due = self.log.reading.get() && !taken;
        if due && !transport.is_closing() && received < self.report.peer_sent {
            self.log.problem(format!(
                "{received} of {} bytes were received",
                self.report.peer_sent
            ));
        }
        // Just below what is queued a limit pauses, and at it it does not.
        if queued > 1 && !self.log.paused.get() {
            for high in [queued - 1, queued] {
                self.log.act(&Action::Limits(Some(high), None));
                self.quieten(|_| {});
                let over = transport.write_buffer_size() > high;
                if over && !self.log.paused.get() && !transport.is_closing() {
                    self.log.problem(format!(
                        "{queued} bytes are queued above {high}, and writing is not paused"
                    ));
                }
            }
        }
        if let Some(simulation) = self.simulation
            && simulation.is_corked(&self.socket)
            && has_room(&self.socket)
        {
            self.log.problem("bytes are held back for nothing");
        }
    }

    /// Ends everything in an orderly way, checks that it does end, and lets go of all.
    fn wind_up(&mut self) {
        if let Some(simulation) = self.simulation
            && self.rng.chance(500)
        {
            simulation.calm();
        }
        if self.proactor.is_some() {
            for send in self.log.sends.borrow_mut().iter_mut() {
                send.outside.feed = None;
            }
            if self.rng.chance(300) {
                // All that is queued leaves without being asked to.
                self.log.act(&Action::ResumeReading);
            }
            if self.log.transport().is_some() {
                if !self.log.closed.get() {
                    self.log.act(&Action::Close);
                }
                self.until_lost();
            } else if self.peer.is_pipe() {
                // Only the peer can end it: the writing end tells of that.
                self.peer_closes();
                self.until_lost();
            } else if !self.log.half_open && !self.log.pauses && self.log.reading.get() {
                self.peer_shuts();
                self.until_lost();
            } else {
                // Nobody can: it lives as long as the proactor.
                self.quieten(|run| {
                    run.peer_reads(usize::MAX);
                });
            }
        }
        self.peer_reads(usize::MAX);
        if self.proactor.is_some() {
            // Nothing more comes.
            self.quieten(|_| {});
        }
        if self.log.lost.get() {
            self.until_nothing_is_under_way();
        }
        *self.log.transport.borrow_mut() = None;
        let unread = std::mem::replace(&mut self.socket, Fd::new(io::pipe().unwrap().0));
        drop(unread);
        self.drop_proactor();
        // The peer sees the end now; on a real kernel, soon.
        let start = Instant::now();
        self.peer_reads(usize::MAX);
        while self.simulation.is_none()
            && !self.report.arrived_all
            && start.elapsed() < Duration::from_secs(20)
        {
            std::thread::yield_now();
            self.peer_reads(usize::MAX);
        }
        self.report.proactor_dropped |= !self.log.lost.get();
        self.peer = Peer::Closed;
    }

    fn until_lost(&mut self) {
        let start = Instant::now();
        let (mut idle, mut turns) = (0, 0);
        while !self.log.lost.get() {
            turns += 1;
            let before = self.progress();
            self.peer_reads(usize::MAX);
            // Time passes only when nothing else happens.
            self.turn(match (self.simulation, idle) {
                (None, _) => Some(Duration::from_millis(1)),
                (Some(_), 0..8) => Some(Duration::ZERO),
                (Some(_), _) => Some(Duration::from_secs(60)),
            });
            idle = if self.progress() == before {
                idle + 1
            } else {
                0
            };
            let stuck = match self.simulation {
                Some(_) => idle > 400 || turns > 200_000 || self.report.arrived.len() > ENDLESS,
                None => start.elapsed() > Duration::from_secs(20),
            };
            if stuck {
                return self.log.problem("the connection does not end");
            }
        }
    }

    fn until_nothing_is_under_way(&mut self) {
        let start = Instant::now();
        let mut turns = 0;
        while let Some(proactor) = &self.proactor {
            let stats = proactor.stats();
            if stats.in_flight == 0 && stats.pipes_leased == 0 {
                return;
            }
            turns += 1;
            if turns > 400 && (self.simulation.is_some() || start.elapsed().as_secs() > 20) {
                return self.log.problem(format!("left over: {stats:?}"));
            }
            self.turn(Some(Duration::from_millis(1)));
        }
    }

    fn drop_proactor(&mut self) {
        if let Some(proactor) = self.proactor.take() {
            self.report.proactor_dropped |= !self.log.lost.get();
            drop(proactor);
        }
    }
}

/// Whether the socket would take more.
fn has_room(socket: &Fd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    let zero = rustix::event::Timespec::default();
    matches!(poll(&mut fds, Some(&zero)), Ok(1)) && fds[0].revents().contains(PollFlags::OUT)
}
