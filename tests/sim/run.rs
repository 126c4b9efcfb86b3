//! Runs a program: on a simulated kernel or on the real one, on one thread, its peer included.
//! Keeps what was called, what was told, what arrived.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use spliceport::bytes::Bytes;
use spliceport::proactor::sim::{Rng, Simulation};
use spliceport::proactor::{Fd, Proactor};
use spliceport::{
    End, Protocol, RouteChoice, Routes, SendHandle, SendOptions, SendOutcome, Transport,
    TransportOptions,
};

use super::content::{Outside, content, source};
use super::program::{Action, Appetite, Program, SendPlan};

/// More bytes than any program sends.
const ENDLESS: usize = 64 << 20;

/// Something that the user was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    Made,
    Data(usize),
    Eof,
    Pause,
    Resume,
    Lost(Option<io::ErrorKind>),
    /// A send's callback: its number.
    Sent(usize),
}

/// One thing that was queued, in order.
#[derive(Clone, Copy, Debug)]
pub enum Entry {
    /// A write: its content's tag, its length.
    Write(usize, usize),
    /// A send: its number.
    Send(usize),
}

/// How a send ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub sent: u64,
    pub end: End,
    pub error: Option<io::ErrorKind>,
    pub routes: Routes,
    /// The time since its call.
    pub after: Duration,
}

/// A send under way or over.
pub struct Sending {
    pub plan: SendPlan,
    pub tag: usize,
    pub outside: Outside,
    pub handle: SendHandle,
    since: Instant,
    pub cancelled: bool,
    pub truncated: bool,
    /// The transport was closing, or had been told to end its writing.
    pub late: bool,
    pub progress: Vec<u64>,
    pub outcome: Option<Outcome>,
    /// Where its file stands at the end.
    pub position: Option<u64>,
}

/// What is shared with callbacks.
#[derive(Default)]
pub struct Log {
    pub entries: RefCell<Vec<Entry>>,
    pub sends: RefCell<Vec<Sending>>,
    pub notes: RefCell<Vec<Note>>,
    pub received: RefCell<Vec<u8>>,
    pub problems: RefCell<Vec<String>>,
    transport: RefCell<Option<Transport>>,
    tags: Cell<usize>,
    in_callback: Cell<bool>,
    in_call: Cell<bool>,
    pub reading: Cell<bool>,
    half_open: bool,
    /// It pauses its reading whenever something arrives.
    pauses: bool,
    pub closed: Cell<bool>,
    pub aborted: Cell<bool>,
    pub eof_asked: Cell<bool>,
    pub paused: Cell<bool>,
    pub lost: Cell<bool>,
    /// Callbacks so far.
    calls: Cell<u64>,
}

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

impl Log {
    pub fn problem(&self, what: impl Into<String>) {
        self.problems.borrow_mut().push(what.into());
    }

    fn tag(&self) -> usize {
        self.tags.replace(self.tags.get() + 1)
    }

    /// Marks a callback.
    fn inside<T>(&self, f: impl FnOnce() -> T) -> T {
        if self.in_callback.replace(true) {
            self.problem("a callback inside a callback");
        }
        if self.in_call.get() {
            self.problem("a callback inside the call that caused it");
        }
        self.calls.set(self.calls.get() + 1);
        let result = f();
        self.in_callback.set(false);
        result
    }

    fn note(&self, note: Note) {
        if self.lost.get() && !matches!(note, Note::Sent(_)) {
            self.problem(format!("{note:?} after connection_lost"));
        }
        self.notes.borrow_mut().push(note);
    }

    /// Marks a call.
    fn call<T>(&self, f: impl FnOnce(&Transport) -> T) -> Option<T> {
        let transport = self.transport.borrow().clone()?;
        let before = self.in_call.replace(true);
        let result = f(&transport);
        self.in_call.set(before);
        Some(result)
    }

    pub fn transport(&self) -> Option<Transport> {
        self.transport.borrow().clone()
    }

    /// Does what a user can do, from a callback too. False where it is for somebody else.
    fn act(self: &Rc<Log>, action: &Action) -> bool {
        match action {
            Action::Write(len) => self.write(&[*len], false),
            Action::WriteVectored(lens) => self.write(lens, true),
            Action::Send(plan) => self.send(plan),
            Action::Cancel(which) => {
                let handle = {
                    let mut sends = self.sends.borrow_mut();
                    let count = sends.len();
                    let Some(send) = sends.get_mut(which % count.max(1)) else {
                        return true;
                    };
                    send.cancelled |= send.outcome.is_none();
                    send.handle.clone()
                };
                self.in_call.set(true);
                handle.cancel();
                self.in_call.set(false);
            }
            Action::PauseReading => {
                if self.call(Transport::pause_reading).is_some() {
                    self.reading.set(false);
                }
            }
            Action::ResumeReading => {
                if self.transport().is_some() {
                    self.reading.set(true);
                    self.call(Transport::resume_reading);
                }
            }
            Action::Limits(high, low) => {
                let result = self.call(|t| t.set_write_buffer_limits(*high, *low));
                if let Some(Err(e)) = result {
                    self.problem(format!("limits {high:?} {low:?}: {e}"));
                }
            }
            Action::WriteEof => {
                if self.call(Transport::write_eof).is_some_and(|r| r.is_ok()) {
                    self.eof_asked.set(true);
                }
            }
            Action::Close => {
                self.call(Transport::close);
                self.closed.set(true);
            }
            Action::Abort => {
                self.call(Transport::abort);
                self.aborted.set(true);
                self.closed.set(true);
            }
            _ => return false,
        }
        true
    }

    fn write(&self, lens: &[usize], vectored: bool) {
        let Some(transport) = self.transport() else {
            return;
        };
        let open = !transport.is_closing() && !self.eof_asked.get();
        let tags: Vec<usize> = lens.iter().map(|_| self.tag()).collect();
        let data: Vec<Bytes> = tags
            .iter()
            .zip(lens)
            .map(|(tag, len)| Bytes::from(content(*tag, 0, *len)))
            .collect();
        let result = if vectored {
            self.call(|t| t.write_vectored(data))
        } else {
            self.call(|t| t.write(data[0].clone()))
        };
        match result {
            Some(Ok(())) if open => {
                let new = tags.iter().zip(lens).map(|(t, l)| Entry::Write(*t, *l));
                self.entries.borrow_mut().extend(new);
            }
            Some(Err(e)) if open => self.problem(format!("a write was refused: {e}")),
            _ => {}
        }
    }

    fn send(self: &Rc<Log>, plan: &SendPlan) {
        let Some(transport) = self.transport() else {
            return;
        };
        let late = transport.is_closing() || self.eof_asked.get();
        let tag = self.tag();
        let number = self.sends.borrow().len();
        let (source, outside) = source(plan, tag);
        let mut options = SendOptions::new()
            .native_only(plan.native_only)
            .keep_connection(plan.keep_connection)
            .rate(plan.rate.unwrap_or(0));
        if plan.route != RouteChoice::Auto {
            options = options.route(plan.route);
        }
        if let Some(timeout) = plan.timeout {
            options = options.timeout(timeout);
        }
        if let Some(weight) = plan.weight {
            options = options.write_weight(weight);
        }
        if plan.progress {
            let log = Rc::clone(self);
            options = options.progress(move |_, sent| {
                log.inside(|| log.sends.borrow_mut()[number].progress.push(sent));
            });
        }
        let log = Rc::clone(self);
        let on_sent = move |_: &Transport, outcome: SendOutcome| {
            log.inside(|| log.sent(number, outcome));
        };
        let since = spliceport::proactor::now();
        let handle = self.call(|t| t.send_file(source, options, on_sent));
        let Some(handle) = handle else { return };
        self.sends.borrow_mut().push(Sending {
            plan: plan.clone(),
            tag,
            outside,
            handle,
            since,
            cancelled: false,
            truncated: false,
            late,
            progress: Vec::new(),
            outcome: None,
            position: None,
        });
        if !late {
            self.entries.borrow_mut().push(Entry::Send(number));
        }
    }

    fn sent(self: &Rc<Log>, number: usize, outcome: SendOutcome) {
        self.note(Note::Sent(number));
        let then = {
            let mut sends = self.sends.borrow_mut();
            let Some(send) = sends.get_mut(number) else {
                return self.problem("a send ended before its call did");
            };
            if outcome.error.is_some() == outcome.is_success() {
                self.problem(format!("send {number}: {outcome:?}"));
            }
            if send.outcome.is_some() {
                self.problem(format!("send {number} ended twice"));
            }
            if let Some(file) = &mut send.outside.file {
                send.position = io::Seek::stream_position(file).ok();
            }
            send.outcome = Some(Outcome {
                sent: outcome.sent,
                end: outcome.end,
                error: outcome.error.map(|e| e.kind()),
                routes: outcome.routes,
                after: spliceport::proactor::now() - send.since,
            });
            std::mem::take(&mut send.plan.then)
        };
        for action in &then {
            if matches!(action, Action::LetGo) {
                *self.transport.borrow_mut() = None;
            }
            self.act(action);
        }
    }
}

struct User(Rc<Log>);

impl Protocol for User {
    fn connection_made(&mut self, _: &Transport) {
        self.0.inside(|| self.0.note(Note::Made));
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.0.inside(|| {
            if data.is_empty() || !self.0.reading.get() || transport.is_closing() {
                self.0.problem("data was delivered that must not be");
            }
            self.0.note(Note::Data(data.len()));
            self.0.received.borrow_mut().extend_from_slice(data);
            if self.0.pauses {
                transport.pause_reading();
                self.0.reading.set(false);
            }
        });
    }

    fn eof_received(&mut self, transport: &Transport) -> bool {
        self.0.inside(|| {
            if !self.0.reading.get() || transport.is_closing() {
                self.0.problem("an end was delivered that must not be");
            }
            self.0.note(Note::Eof);
        });
        if !self.0.half_open {
            self.0.closed.set(true);
        }
        self.0.half_open
    }

    fn pause_writing(&mut self, transport: &Transport) {
        self.0.inside(|| {
            self.0.note(Note::Pause);
            if self.0.paused.replace(true) {
                self.0.problem("paused twice");
            }
            let _ = transport;
        });
    }

    fn resume_writing(&mut self, _: &Transport) {
        self.0.inside(|| {
            self.0.note(Note::Resume);
            if !self.0.paused.replace(false) {
                self.0.problem("resumed, and was not paused");
            }
        });
    }

    fn connection_lost(&mut self, error: Option<io::Error>) {
        self.0.inside(|| {
            self.0.note(Note::Lost(error.map(|e| e.kind())));
            self.0.lost.set(true);
        });
    }
}

/// The peer's end, non-blocking.
pub enum Peer {
    Socket(UnixStream),
    Tcp(std::net::TcpStream),
    /// Of a pipe that is written to.
    Pipe(File),
    Closed,
}

impl Peer {
    fn reader(&mut self) -> Option<&mut dyn Read> {
        match self {
            Peer::Socket(stream) => Some(stream),
            Peer::Tcp(stream) => Some(stream),
            Peer::Pipe(file) => Some(file),
            Peer::Closed => None,
        }
    }
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
        let written = match &mut self.peer {
            Peer::Socket(stream) => stream.write(&bytes),
            Peer::Tcp(stream) => stream.write(&bytes),
            _ => return,
        };
        if !self.report.peer_shut {
            self.report.peer_sent += written.unwrap_or(0);
        }
    }

    fn peer_shuts(&mut self) {
        let result = match &self.peer {
            Peer::Socket(stream) => stream.shutdown(std::net::Shutdown::Write),
            Peer::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
            _ => return,
        };
        self.report.peer_shut |= result.is_ok();
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
        if self.log.reading.get() && !transport.is_closing() && received < self.report.peer_sent {
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

impl Peer {
    fn is_pipe(&self) -> bool {
        matches!(self, Peer::Pipe(_))
    }
}

/// Whether the socket would take more.
fn has_room(socket: &Fd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    let zero = rustix::event::Timespec::default();
    matches!(poll(&mut fds, Some(&zero)), Ok(1)) && fds[0].revents().contains(PollFlags::OUT)
}

/// A connection over a pair of Unix sockets, or a pipe.
pub fn local(program: &Program) -> (Fd, Peer) {
    if program.pipe {
        let (reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        return (
            Fd::new(OwnedFd::from(writer)),
            Peer::Pipe(File::from(OwnedFd::from(reader))),
        );
    }
    let (ours, peer) = UnixStream::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    let ours = Fd::new(OwnedFd::from(ours));
    if let Some(size) = program.send_buffer {
        spliceport::proactor::net::set_buffer_sizes(&ours, Some(size), None).unwrap();
    }
    (ours, Peer::Socket(peer))
}

/// A connection over TCP.
pub fn tcp() -> (Fd, Peer) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_nonblocking(true).unwrap();
    let (ours, _) = listener.accept().unwrap();
    (Fd::new(OwnedFd::from(ours)), Peer::Tcp(peer))
}
