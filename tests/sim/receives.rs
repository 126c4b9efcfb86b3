//! Receives of files in random programs: their plans, where they put what arrives, and what must be
//! true of each.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use spliceport::proactor::Fd;
use spliceport::proactor::sim::{Faults, Rng, is_synced};
use spliceport::{
    End, FileSync, ReceiveHandle, ReceiveOptions, ReceiveOutcome, Route, RouteChoice, Routes, Sink,
    Transport,
};

use super::content::{self, content};
use super::log::{Log, Note};
use super::program::{Action, size};
use super::side::{self, Side};

/// What is received into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    /// An open file, by offset.
    File,
    /// From where it stands.
    Position,
    /// One that was opened for appending.
    Append,
    Pipe,
    Socket,
    /// A file that is not open for writing.
    ReadOnly,
}

/// One receive of a file.
#[derive(Clone, Debug)]
pub struct ReceivePlan {
    pub to: To,
    /// The file's length before.
    pub size: usize,
    /// Where the receive starts in it.
    pub start: usize,
    pub len: Option<u64>,
    /// So many of the bytes that were delivered last are handed back.
    pub prefix: usize,
    pub route: RouteChoice,
    pub timeout: Option<Duration>,
    pub rate: Option<u64>,
    pub progress: bool,
    pub sync: FileSync,
    /// Done in its callback.
    pub then: Vec<Action>,
}

impl ReceivePlan {
    /// A random one, that does `then`.
    pub fn random(rng: &mut Rng, violent: bool, then: Vec<Action>) -> ReceivePlan {
        let to = *rng.pick(&[
            To::File,
            To::File,
            To::File,
            To::Position,
            To::Position,
            To::Append,
            To::Pipe,
            To::Socket,
            To::ReadOnly,
        ]);
        let before = if rng.chance(500) { size(rng) } else { 0 };
        let start = match to {
            To::File | To::Position => rng.index(before + 1),
            _ => 0,
        };
        ReceivePlan {
            to,
            size: before,
            start,
            len: rng.chance(800).then(|| size(rng) as u64),
            prefix: if rng.chance(300) { size(rng) } else { 0 },
            route: *rng.pick(&[
                RouteChoice::Auto,
                RouteChoice::Auto,
                RouteChoice::Force(Route::Copy),
                RouteChoice::Force(Route::Chain),
                RouteChoice::Force(Route::Chain),
                RouteChoice::Force(Route::Inline),
            ]),
            timeout: (violent && rng.chance(150))
                .then(|| Duration::from_micros(1 << rng.below(25))),
            rate: rng.chance(80).then(|| rng.between(1, 200) * 1000),
            progress: rng.chance(300),
            sync: *rng.pick(&[
                FileSync::None,
                FileSync::None,
                FileSync::Data,
                FileSync::All,
            ]),
            then,
        }
    }

    /// Whether its file can be looked at while it is received.
    fn is_seekable(&self) -> bool {
        matches!(self.to, To::File | To::Position)
    }
}

/// How a receive ended.
#[derive(Clone, Debug)]
pub struct Ended {
    pub received: u64,
    pub end: End,
    pub error: Option<io::ErrorKind>,
    pub routes: Routes,
    /// The time since its call.
    pub after: Duration,
    /// How many bytes of the stream the user had then, by whatever way.
    pub had: usize,
}

/// Where a receive's bytes are to be seen.
enum Outside {
    File(File),
    Pipe(File),
    Socket(UnixStream),
}

/// A receive under way or over.
pub struct Receiving {
    pub plan: ReceivePlan,
    tag: usize,
    outside: Outside,
    /// What has come through a pipe or socket.
    through: Vec<u8>,
    pub handle: ReceiveHandle,
    since: Instant,
    pub cancelled: bool,
    /// The transport was closing.
    pub late: bool,
    /// The stream was a relay's.
    relayed: bool,
    progress: Vec<u64>,
    pub ended: Option<Ended>,
}

fn sink(plan: &ReceivePlan, tag: usize) -> (Sink, Outside) {
    let end = plan.len.map_or(u64::MAX, |len| plan.start as u64 + len);
    let range = |fd: Fd| match plan.len {
        Some(_) => Sink::file(fd, plan.start as u64..end),
        None => Sink::file(fd, plan.start as u64..),
    };
    match plan.to {
        To::Pipe => {
            let (reader, writer) = io::pipe().unwrap();
            rustix::io::ioctl_fionbio(&reader, true).unwrap();
            let reader = File::from(OwnedFd::from(reader));
            (range(OwnedFd::from(writer).into()), Outside::Pipe(reader))
        }
        To::Socket => {
            let (ours, peer) = UnixStream::pair().unwrap();
            peer.set_nonblocking(true).unwrap();
            (range(OwnedFd::from(ours).into()), Outside::Socket(peer))
        }
        To::File | To::Position | To::Append | To::ReadOnly => {
            let mut file = content::file(tag, plan.size);
            let outside = Outside::File(file.try_clone().unwrap());
            if plan.to == To::Append {
                rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::APPEND).unwrap();
            }
            if plan.to == To::ReadOnly {
                let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
                file = File::open(path).unwrap();
            }
            if plan.to == To::Position {
                file.seek(SeekFrom::Start(plan.start as u64)).unwrap();
                return (Sink::at_position(file, plan.len), outside);
            }
            (range(file.into()), outside)
        }
    }
}

impl Receiving {
    /// Whether it has the stream, or waits for it.
    pub fn is_queued(&self) -> bool {
        self.ended.is_none() && !self.late && !self.relayed
    }

    /// Takes out what a pipe or socket holds; how much was it?
    fn drain(&mut self) -> usize {
        let before = self.through.len();
        let reader: &mut dyn Read = match &mut self.outside {
            Outside::File(_) => return 0,
            Outside::Pipe(pipe) => pipe,
            Outside::Socket(socket) => socket,
        };
        // What there is, and then `WouldBlock` or the end.
        drop(reader.read_to_end(&mut self.through));
        self.through.len() - before
    }

    /// The bytes that must be its own, or what is wrong with its file.
    fn contents(&mut self, received: usize) -> Result<Vec<u8>, String> {
        self.drain();
        let Outside::File(file) = &self.outside else {
            if self.through.len() != received {
                let through = self.through.len();
                return Err(format!(
                    "{through} bytes came through, and {received} count"
                ));
            }
            return Ok(std::mem::take(&mut self.through));
        };
        let before = content(self.tag, 0, self.plan.size);
        let start = match self.plan.to {
            To::Append => before.len(),
            _ => self.plan.start,
        };
        let all = contents(file);
        let end = start + received;
        if all.len() != before.len().max(end) {
            return Err(format!("its file has {} bytes", all.len()));
        }
        if all[..start] != before[..start] || all[end..] != before[end.min(before.len())..] {
            return Err("bytes around it have changed".to_owned());
        }
        let position = { file }.stream_position().unwrap();
        let expected = start
            + if self.plan.to == To::Position {
                received
            } else {
                0
            };
        if self.plan.to == To::Position && position != expected as u64 {
            return Err(format!("its file stands at {position}, not {expected}"));
        }
        Ok(all[start..end].to_vec())
    }
}

fn contents(file: &File) -> Vec<u8> {
    let mut all = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut all, 0).unwrap();
    all
}

impl Log {
    pub(super) fn receive(self: &Rc<Log>, plan: &ReceivePlan) {
        let Some(transport) = self.transport() else {
            return;
        };
        let late = transport.is_closing();
        let relayed = self.relayed.get();
        let tag = self.tag();
        let number = self.receives.borrow().len();
        let (sink, outside) = sink(plan, tag);
        let mut options = ReceiveOptions::new()
            .route(plan.route)
            .sync(plan.sync)
            .rate(plan.rate.unwrap_or(0));
        if let Some(timeout) = plan.timeout {
            options = options.timeout(timeout);
        }
        if plan.progress {
            let log = Rc::clone(self);
            options = options.progress(move |_, received| {
                log.inside(|| log.receives.borrow_mut()[number].progress.push(received));
            });
        }
        let queued = self.receives.borrow().iter().any(Receiving::is_queued);
        if !late && !relayed && !queued && !self.notes.borrow().contains(&Note::Eof) {
            let mut had = self.received.borrow_mut();
            let at = had.len().saturating_sub(plan.prefix);
            options = options.prefix(had.split_off(at));
        }
        let log = Rc::clone(self);
        let on_received = move |_: &Transport, outcome: ReceiveOutcome| {
            log.inside(|| log.file_received(number, outcome));
        };
        let since = spliceport::proactor::now();
        let handle = self.call(|t| t.receive_file(sink, options, on_received));
        let Some(handle) = handle else { return };
        self.receives.borrow_mut().push(Receiving {
            plan: plan.clone(),
            tag,
            outside,
            through: Vec::new(),
            handle,
            since,
            cancelled: false,
            late,
            relayed,
            progress: Vec::new(),
            ended: None,
        });
    }

    pub(super) fn cancel_receive(&self, which: usize) {
        let handle = {
            let mut receives = self.receives.borrow_mut();
            let count = receives.len().max(1);
            let Some(receive) = receives.get_mut(which % count) else {
                return;
            };
            receive.cancelled |= receive.ended.is_none();
            receive.handle.clone()
        };
        self.call(|_| handle.cancel());
    }

    fn file_received(self: &Rc<Log>, number: usize, outcome: ReceiveOutcome) {
        self.note(Note::FileReceived(number));
        let then = {
            let mut receives = self.receives.borrow_mut();
            let Some(receive) = receives.get_mut(number) else {
                return self.problem("a receive ended before its call did");
            };
            if outcome.error.is_some() == outcome.is_success() {
                self.problem(format!("receive {number}: {outcome:?}"));
            }
            if receive.ended.is_some() {
                self.problem(format!("receive {number} ended twice"));
            }
            let mut had = self.received.borrow_mut();
            match receive.contents(outcome.received as usize) {
                Ok(bytes) => had.extend(bytes),
                Err(what) => self.problem(format!(
                    "receive {number}: {what}: {outcome:?} of {:?}",
                    receive.plan
                )),
            }
            if let (FileSync::Data | FileSync::All, true, Outside::File(file)) =
                (receive.plan.sync, outcome.is_success(), &receive.outside)
                && is_synced(file) == Some(false)
            {
                self.problem(format!("receive {number}: its file is not on the disk"));
            }
            receive.ended = Some(Ended {
                received: outcome.received,
                end: outcome.end,
                error: outcome.error.map(|e| e.kind()),
                routes: outcome.routes,
                after: spliceport::proactor::now() - receive.since,
                had: had.len(),
            });
            std::mem::take(&mut receive.plan.then)
        };
        self.act_inside(&then);
    }

    /// Takes out what pipes and sockets hold that are received into.
    pub(super) fn drain_sinks(&self) {
        for receive in self.receives.borrow_mut().iter_mut() {
            receive.drain();
        }
    }

    /// Nothing goes on by itself: a receive that is not over must have in its file whatever the peer
    /// has sent.
    pub(super) fn check_receiving(&self, peer_sent: usize) {
        let receives = self.receives.borrow();
        let Some(receive) = receives.iter().find(|r| r.is_queued()) else {
            return;
        };
        let due = peer_sent - self.received.borrow().len();
        let Outside::File(file) = &receive.outside else {
            return;
        };
        if !receive.plan.is_seekable() || receive.plan.rate.is_some() {
            return;
        }
        let start = receive.plan.start;
        let expected = content(side::PEER, peer_sent - due, due);
        let all = contents(file);
        let got = all.get(start..).unwrap_or_default();
        if !got.starts_with(&expected) {
            self.problem(format!(
                "{due} bytes have come that are not all in the file"
            ));
        }
    }
}

/// What is wrong with the receives of a run; `broken` where the connection may have ended by itself.
pub fn check(report: &Side, faults: Faults, broken: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let receives = report.log.receives.borrow();
    for (number, receive) in receives.iter().enumerate() {
        let Some(ended) = &receive.ended else {
            problems.push(format!("receive {number} never ended"));
            continue;
        };
        if let Err(what) = fits(report, faults, broken, receive, ended) {
            problems.push(format!(
                "receive {number}: {what}: {ended:?} of {:?}, {} were sent",
                receive.plan, report.peer_sent
            ));
        }
    }
    // In the order of the calls, but for those that never began.
    let notes = report.log.notes.borrow();
    let began = notes.iter().filter_map(|note| match note {
        Note::FileReceived(number) => {
            let receive = &receives[*number];
            let ended = receive.ended.as_ref()?;
            let early = matches!(ended.end, End::Cancelled | End::TimedOut);
            let began = !(receive.late || receive.relayed || early && ended.received == 0);
            began.then_some(*number)
        }
        _ => None,
    });
    let began: Vec<usize> = began.collect();
    if !began.is_sorted() {
        problems.push(format!("receives ended out of order: {began:?}"));
    }
    problems
}

fn fits(
    report: &Side,
    faults: Faults,
    broken: bool,
    receive: &Receiving,
    ended: &Ended,
) -> Result<(), &'static str> {
    let plan = &receive.plan;
    let received = ended.received;
    if plan.len.is_some_and(|len| received > len) {
        return Err("more was received than was to be");
    }
    if ended.routes.is_empty() != (received == 0) {
        return Err("the routes don't say what happened");
    }
    if let Some(last) = receive.progress.last() {
        if !receive.progress.is_sorted() {
            return Err("progress went back");
        }
        if *last != received {
            return Err("progress ended elsewhere");
        }
    } else if plan.progress && received > 0 {
        return Err("no progress was told");
    }
    let at_end = report.peer_shut && ended.had == report.peer_sent;
    let fits = match ended.end {
        End::Complete => plan.len == Some(received),
        End::EndOfFile => plan.len.is_none() && at_end,
        End::Truncated => plan.len.is_some_and(|len| len > received) && at_end,
        End::Cancelled => receive.cancelled || report.log.closed.get() || broken,
        End::TimedOut => plan.timeout.is_some_and(|time| ended.after >= time),
        End::PeerGone => report.peer_closed || faults.sockets > 0,
        End::Failed if receive.relayed => ended.error == Some(io::ErrorKind::InvalidInput),
        End::Failed => match plan.to {
            To::ReadOnly => ended.error == Some(io::ErrorKind::PermissionDenied),
            // They can't be brought to a disk.
            To::Pipe | To::Socket if plan.sync != FileSync::None => {
                let sockets = plan.to == To::Socket && faults.sockets > 0;
                ended.error == Some(io::ErrorKind::InvalidInput) || faults.sinks > 0 || sockets
            }
            To::Socket => faults.sockets > 0,
            To::Pipe => false,
            _ => faults.sinks > 0,
        },
        End::Closing => receive.late,
    };
    if !fits {
        return Err("it can't have ended so");
    }
    if plan.timeout.is_none()
        && let Some(rate) = plan.rate
    {
        let least = Duration::from_secs_f64(received as f64 / rate as f64 * 0.9);
        if ended.after + Duration::from_millis(45) < least {
            return Err("it was faster than its rate");
        }
    }
    Ok(())
}
