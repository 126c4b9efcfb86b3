//! The io_uring backend: submissions, completions, and what follows from each.
//!
//! An operation lives in `flights`, at its token's index, from its submission until its last
//! completion, whatever anybody drops meanwhile: so the kernel never writes to freed memory. All
//! `unsafe` of submitting is in [`Ring::try_push`].

mod announcer;
#[allow(unsafe_code, reason = "memory that is shared with the kernel")]
mod buffers;
mod flight;
#[allow(unsafe_code, reason = "queues that are shared with the kernel")]
mod queues;
mod room;
mod sendfile;
mod setup;
mod starvation;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use io_uring::cqueue;
use io_uring::squeue::Entry;

use crate::backend::{Backend, Context};
use crate::buf::BufGroup;
use crate::builder::Builder;
use crate::epoll::Epoll;
use crate::fd::Fd;
use crate::job::Job;
use crate::op::{Completion, Interest, Op, Output, Token};
use crate::probe::Feature;
use crate::sys;
use crate::transfer::{Transfer, is_restart};

use announcer::Announcer;
use buffers::Buffers;
use flight::{Flight, Step, TICK, Task, WATCH, cancel, parse_cancel, parse_user_data, poll};
use queues::{Completed, Queues};
use room::{RoomWaits, is_half_closed};
use setup::Found;
pub(crate) use setup::OpenError;
use starvation::{Starvation, may_need_worker};

/// The backend. Fields are dropped in this order: the ring is closed before the buffer ring that
/// is registered with it is freed.
pub(crate) struct Ring {
    queues: Queues,
    buffers: Option<Buffers>,
    found: Found,
    flights: Vec<Option<Flight>>,
    /// Entries for which the submission queue had no room; a pair is linked.
    backlog: VecDeque<(Entry, Option<Entry>)>,
    /// Completions of one reaping, to be looked at when the ring is free again.
    reaped: Vec<Completed>,
    /// Transfers for which this turn had nothing left: first in the next.
    runnable: VecDeque<Token>,
    /// Transfers that have moved something in this turn, and could go on: behind those.
    served: VecDeque<Token>,
    /// Transfers that wait for their peer with a rest in their pipe, longest first.
    stalled: VecDeque<Token>,
    /// Receives for which there was no buffer.
    starved: Vec<Token>,
    room: RoomWaits,
    starvation: Starvation,
    watched: Vec<RawFd>,
    /// Watched descriptors whose wait is over and must be begun again.
    unwatched: Vec<RawFd>,
    announcer: Announcer,
    /// What another loop waits at: the announcer, and what is watched, since a write to an eventfd
    /// that is watched through the ring alone may not be told.
    outer: Epoll,
}

impl Ring {
    pub(crate) fn open(
        settings: &Builder,
        cx: &mut Context,
    ) -> Result<(Ring, Vec<Feature>), OpenError> {
        let (mut queues, mut found, features) = setup::open(settings)?;
        let mut buffers = None;
        if found.multishot_recv {
            match Buffers::register(&mut queues, cx.bufs.clone()) {
                Ok(registered) => buffers = Some(registered),
                Err(e) => {
                    log::warn!("no provided buffers, so no multishot receives: {e}");
                    found.multishot_recv = false;
                }
            }
        }
        let announcer = Announcer::new(&queues, found)?;
        let outer = Epoll::new().map_err(OpenError::Exhausted)?;
        outer
            .add_level(announcer.as_fd(), 0)
            .map_err(OpenError::Exhausted)?;
        let ring = Ring {
            queues,
            buffers,
            found,
            flights: Vec::new(),
            backlog: VecDeque::new(),
            reaped: Vec::new(),
            runnable: VecDeque::new(),
            served: VecDeque::new(),
            stalled: VecDeque::new(),
            starved: Vec::new(),
            room: RoomWaits::default(),
            starvation: Starvation::default(),
            watched: Vec::new(),
            unwatched: Vec::new(),
            announcer,
            outer,
        };
        Ok((ring, features))
    }

    /// Whether there are transfers that only wait for their turn.
    fn can_go_on(&self) -> bool {
        !self.runnable.is_empty() || !self.served.is_empty()
    }

    fn flight(&mut self, token: Token) -> Option<&mut Flight> {
        self.flights
            .get_mut(token.index as usize)?
            .as_mut()
            .filter(|flight| flight.token == token)
    }

    /// Puts an entry, or a linked pair, into the submission queue; behind others in the backlog
    /// where that is full. The kernel sees it with the next `enter`.
    fn push(&mut self, first: Entry, second: Option<Entry>) {
        if !self.backlog.is_empty() || !self.try_push(&first, second.as_ref()) {
            self.backlog.push_back((first, second));
        }
    }

    #[expect(
        unsafe_code,
        reason = "what an entry points to must outlive its completion"
    )]
    fn try_push(&mut self, first: &Entry, second: Option<&Entry>) -> bool {
        // A link must not be cut by the end of a submission.
        if self.queues.room() < 1 + usize::from(second.is_some()) {
            return false;
        }
        for entry in std::iter::once(first).chain(second) {
            // SAFETY: what the entry points to (buffers, iovecs, an address, a path) is owned by
            // the flight it was made from (`Flight::entry` and its kin), on the heap, and stays
            // in `flights` until the completions of all its outstanding steps have come, or for
            // ever (`abandon`). So do the descriptors, by number: the kernel may look a linked
            // entry's up only when its turn comes. Cancels and watches point to nothing,
            // the timeout to a static.
            unsafe { self.queues.push(entry) };
        }
        true
    }

    /// Hands submissions to the kernel; waits for `want` completions.
    fn enter(&mut self, cx: &mut Context, want: usize) -> io::Result<()> {
        loop {
            while let Some((first, second)) = self.backlog.pop_front() {
                if !self.try_push(&first, second.as_ref()) {
                    self.backlog.push_front((first, second));
                    break;
                }
            }
            let full = !self.backlog.is_empty();
            if want == 0 && self.queues.is_quiet() {
                return Ok(());
            }
            cx.counters.waits += 1;
            let entered = self.queues.enter(if full { 0 } else { want });
            cx.counters.overflows += u64::from(self.queues.has_overflowed());
            match entered {
                Ok(()) if full => {}
                Ok(()) => return Ok(()),
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR) => return Ok(()),
                    // Completions are in the way (EBUSY), or memory is short for the moment:
                    // what is not submitted yet stays queued while those at hand are taken.
                    Some(libc::EBUSY | libc::EAGAIN) => return Ok(()),
                    _ => return Err(e),
                },
            }
        }
    }

    fn reap(&mut self, cx: &mut Context) {
        let mut reaped = std::mem::take(&mut self.reaped);
        self.queues.reap(&mut reaped);
        for (data, result, flags) in reaped.drain(..) {
            self.completed(cx, data, result, flags);
        }
        self.reaped = reaped;
    }

    fn completed(&mut self, cx: &mut Context, data: u64, result: i32, flags: u32) {
        if data == TICK {
            self.look_for_starved();
            return;
        }
        if data & u64::from(u32::MAX) == WATCH & u64::from(u32::MAX) {
            let fd = (data >> 32) as RawFd;
            self.room.ready |= self.room.is(fd);
            self.unwatched.push(fd);
            return;
        }
        if let Some((index, generation, step)) = parse_cancel(data) {
            if result == -libc::ENOENT {
                self.cancel_again(index, generation, step);
            }
            return;
        }
        let flight = parse_user_data(data).and_then(|(index, generation, step)| {
            let flight = self.flights.get_mut(index as usize)?.as_mut()?;
            let same = flight.token.generation & 0x00ff_ffff == generation;
            (same && flight.is_outstanding(step)).then_some((flight, step))
        });
        let Some((flight, step)) = flight else {
            // The wait of a pair whose drain has told all. Nothing else comes late, and if it did,
            // a buffer must not be lost with it.
            debug_assert!(cqueue::buffer_select(flags).is_none());
            return;
        };
        let token = flight.token;
        if !cqueue::more(flags) {
            flight.outstanding &= !(step as u8);
        }
        match &mut flight.task {
            Task::Transfer(_) => self.transfer_step(cx, token, step, result),
            Task::Op(_) if step == Step::Poll => self.ready(cx, token, result),
            Task::Op(_) => self.op_completed(cx, token, result, flags),
        }
    }

    /// The kernel did not find what was to be cancelled. It looks in its lists alone, and a request
    /// that is just being woken stands in none: so as long as that is not over, ask again.
    fn cancel_again(&mut self, index: u32, generation: u32, step: Step) {
        let Some(Some(flight)) = self.flights.get(index as usize) else {
            return;
        };
        // A drain in a chain is not found before its turn; it ends with what is before it.
        let linked = step == Step::Drain
            && (flight.is_outstanding(Step::Fill) || flight.is_outstanding(Step::Poll));
        let same = flight.token.generation & 0x00ff_ffff == generation;
        if same && flight.cancelled && flight.is_outstanding(step) && !linked {
            let entry = cancel(flight.token, step);
            self.push(entry, None);
        }
    }

    /// Ends an operation. A transfer counts for itself.
    fn finish(
        &mut self,
        cx: &mut Context,
        token: Token,
        result: io::Result<Output>,
        transferred: u64,
    ) {
        let slot = self.flights.get_mut(token.index as usize);
        let Some(flight) = slot.and_then(Option::take) else {
            return;
        };
        debug_assert_eq!(flight.outstanding, 0);
        let (op, transferred) = match flight.task {
            Task::Op(op) => (op, transferred),
            Task::Transfer(transfer) => transfer.finish(&mut cx.pipes),
        };
        cx.complete(
            token,
            Completion {
                result,
                transferred,
                op: Some(op),
            },
        );
    }

    /// Submits an operation's own entry, for the first time or again.
    fn start(&mut self, cx: &mut Context, token: Token) {
        let found = self.found;
        let Some(flight) = self.flight(token) else {
            return;
        };
        if let Task::Op(op @ Op::RecvMulti { .. }) = &flight.task
            && !found.multishot_recv
        {
            if let Some((target, events)) = wait_target(op) {
                let entry = flight.wait_for(&target, events);
                self.push(entry, None);
            }
            return;
        }
        match flight.entry(found) {
            Ok(entry) => {
                let entry = flight.label(entry, Step::Main);
                if matches!(&flight.task, Task::Op(op) if may_need_worker(op)) {
                    self.starvation.expect();
                }
                self.push(entry, None);
            }
            Err(e) => self.finish(cx, token, Err(e), 0),
        }
    }

    /// The kernel has answered a plain operation.
    fn op_completed(&mut self, cx: &mut Context, token: Token, result: i32, flags: u32) {
        let more = cqueue::more(flags);
        let buffer = cqueue::buffer_select(flags);
        let Some(flight) = self.flight(token) else {
            return;
        };
        let cancelled = flight.cancelled;
        let Task::Op(op) = &mut flight.task else {
            return;
        };
        if result < 0 {
            if let (Some(id), Some(buffers)) = (buffer, &mut self.buffers) {
                // A receive that failed in a kernel's worker may have kept its buffer.
                drop(buffers.filled(id, 0));
            }
            self.op_failed(cx, token, -result);
            return;
        }
        let n = result as u64;
        let output = match op {
            Op::Accept { .. } | Op::AcceptMulti { .. } => {
                sys::own(result).map(|fd| Output::Accepted(Fd::new(fd)))
            }
            Op::Open(_) => sys::own(result).map(|fd| Output::Opened(Fd::new(fd))),
            Op::Poll { fd, interest } => {
                // Ended for the peer's end alone, which was not asked for.
                let asked = interest.0 | libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
                if result as i16 & asked == 0 && !cancelled {
                    let fd = fd.clone();
                    if self.wait_for_room(token, &fd) {
                        return;
                    }
                }
                Ok(Output::Ready(Interest(result as i16)))
            }
            Op::Recv { .. } | Op::Read { .. } => {
                flight.filled(n as usize);
                Ok(Output::Done)
            }
            Op::RecvMulti { .. } => {
                let data = match (buffer, &mut self.buffers) {
                    (Some(id), Some(buffers)) => buffers.filled(id, n as usize),
                    _ => crate::RecvBuf::end(),
                };
                if n == 0 {
                    self.finish(cx, token, Ok(Output::Data(data)), 0);
                    return;
                }
                Ok(Output::Data(data))
            }
            _ => Ok(Output::Done),
        };
        let transferred = match op_kind(&output) {
            Counted::Bytes => n,
            Counted::Nothing => 0,
        };
        if !self.is_multi(token) {
            self.finish(cx, token, output, transferred);
            return;
        }
        cx.complete(
            token,
            Completion {
                result: output,
                transferred,
                op: None,
            },
        );
        if !more && cancelled {
            self.finish(cx, token, Err(cancelled_error()), 0);
        } else if !more {
            self.start(cx, token);
        }
    }

    fn is_multi(&mut self, token: Token) -> bool {
        let task = self.flight(token).map(|flight| &flight.task);
        matches!(
            task,
            Some(Task::Op(Op::AcceptMulti { .. } | Op::RecvMulti { .. }))
        )
    }

    fn op_failed(&mut self, cx: &mut Context, token: Token, errno: i32) {
        let Some(flight) = self.flight(token) else {
            return;
        };
        let Task::Op(op) = &flight.task else { return };
        let interrupted = is_restart(errno) || errno == libc::EAGAIN;
        let accepts = matches!(op, Op::AcceptMulti { .. } | Op::Accept { .. });
        let gone = accepts && matches!(errno, libc::ECONNABORTED | libc::EPROTO);
        if flight.cancelled && (interrupted || gone || errno == libc::ENOBUFS) {
            self.finish(cx, token, Err(cancelled_error()), 0);
            return;
        }
        match (op, errno) {
            _ if gone => self.start(cx, token),
            (Op::RecvMulti { .. }, libc::ENOBUFS) => {
                self.starved.push(token);
                cx.bufs.set_starved();
            }
            (op, libc::EAGAIN) => {
                let Some((target, events)) = wait_target(op) else {
                    let error = io::Error::from_raw_os_error(errno);
                    self.finish(cx, token, Err(error), 0);
                    return;
                };
                if events == libc::POLLOUT && self.wait_for_room(token, &target) {
                    return;
                }
                let Some(flight) = self.flight(token) else {
                    return;
                };
                let entry = flight.wait_for(&target, events);
                self.push(entry, None);
            }
            _ if interrupted => self.start(cx, token),
            _ if is_refused(flight, -errno) => self.finish(cx, token, Err(no_worker()), 0),
            _ => {
                let error = io::Error::from_raw_os_error(errno);
                self.finish(cx, token, Err(error), 0);
            }
        }
    }

    /// A plain operation's wait for readiness is over: try again.
    fn ready(&mut self, cx: &mut Context, token: Token, result: i32) {
        let Some(flight) = self.flight(token) else {
            return;
        };
        if flight.cancelled {
            self.finish(cx, token, Err(cancelled_error()), 0);
        } else if result < 0 && !is_restart(-result) {
            let error = io::Error::from_raw_os_error(-result);
            self.finish(cx, token, Err(error), 0);
        } else if matches!(flight.task, Task::Op(Op::RecvMulti { .. })) {
            self.recv_now(cx, token);
        } else {
            self.start(cx, token);
        }
    }

    /// A receive without multishot: the wait has ended, so take what there is.
    fn recv_now(&mut self, cx: &mut Context, token: Token) {
        let Some(flight) = self.flight(token) else {
            return;
        };
        let Task::Op(Op::RecvMulti { socket }) = &flight.task else {
            return;
        };
        let socket = socket.clone();
        match BufGroup::recv(&cx.bufs, socket.as_fd()) {
            None => {
                self.starved.push(token);
                cx.bufs.set_starved();
            }
            Some(Ok(data)) if data.is_empty() => {
                self.finish(cx, token, Ok(Output::Data(data)), 0);
            }
            Some(Ok(data)) => {
                let completion = Completion {
                    transferred: data.len() as u64,
                    result: Ok(Output::Data(data)),
                    op: None,
                };
                cx.complete(token, completion);
                self.start(cx, token);
            }
            Some(Err(e)) if e.kind() == io::ErrorKind::WouldBlock => self.start(cx, token),
            Some(Err(e)) => self.finish(cx, token, Err(e), 0),
        }
    }

    /// Receives wait for buffers; begin them again when there are some.
    fn restart_starved(&mut self, cx: &mut Context) {
        let any = match &mut self.buffers {
            Some(buffers) => {
                buffers.provide();
                buffers.has_any()
            }
            None => cx.bufs.has_free(),
        };
        if self.starved.is_empty() || !any {
            return;
        }
        for token in std::mem::take(&mut self.starved) {
            self.start(cx, token);
        }
    }

    /// Has an operation wait for room where the ring's own poll won't do. False where it will.
    fn wait_for_room(&mut self, token: Token, socket: &Fd) -> bool {
        if !is_half_closed(socket) {
            return false;
        }
        self.add_wait_for_room(token, socket)
            .inspect_err(|e| log::debug!("a wait for room will be a busy one: {e}"))
            .is_ok()
    }

    fn add_wait_for_room(&mut self, token: Token, socket: &Fd) -> io::Result<()> {
        if let Some(epoll) = self.room.open()? {
            self.outer.add_level(epoll, 0)?;
            self.watched.push(epoll.as_raw_fd());
            self.unwatched.push(epoll.as_raw_fd());
        }
        self.room.add(token, socket)
    }

    /// Goes on with those that waited for room and have it.
    fn go_on_with_room(&mut self, cx: &mut Context) {
        for token in self.room.take() {
            match self.flight(token).map(|flight| &flight.task) {
                None => {}
                Some(Task::Transfer(_)) => self.settled(cx, token),
                Some(Task::Op(Op::Poll { .. })) => {
                    let ready = Output::Ready(Interest::WRITABLE);
                    self.finish(cx, token, Ok(ready), 0);
                }
                Some(Task::Op(_)) => self.ready(cx, token, libc::POLLOUT.into()),
            }
        }
    }

    /// Begins again the waits of the ring's own.
    fn watch_again(&mut self) {
        if let Some(timeout) = self.starvation.arm()
            && self.queues.is_kernel()
        {
            self.push(timeout, None);
        }
        for fd in std::mem::take(&mut self.unwatched) {
            if self.watched.contains(&fd) {
                let data = (fd as u64) << 32 | WATCH & u64::from(u32::MAX);
                self.push(poll(fd, libc::POLLIN).user_data(data), None);
            }
        }
    }
}

impl Backend for Ring {
    fn submit(&mut self, cx: &mut Context, token: Token, op: Op) {
        let op = match op {
            Op::Close { fd } => {
                drop(fd);
                cx.complete(token, Completion::ok(Op::Nop, Output::Done, 0));
                return;
            }
            Op::Shutdown { ref socket, how } => {
                let result = crate::net::shutdown(socket, how).map(|()| Output::Done);
                cx.complete(
                    token,
                    Completion {
                        result,
                        transferred: 0,
                        op: Some(op),
                    },
                );
                return;
            }
            op => op,
        };
        let index = token.index as usize;
        if self.flights.len() <= index {
            self.flights.resize_with(index + 1, || None);
        }
        debug_assert!(self.flights[index].is_none());
        let job = match op {
            Op::SendFile(op) => Ok(Job::from(op)),
            Op::Forward(op) => Ok(Job::from(op)),
            op => Err(op),
        };
        let task = match job.map(Transfer::new) {
            Ok(Ok(transfer)) => Task::Transfer(Box::new(transfer)),
            Ok(Err(completion)) => return cx.complete(token, *completion),
            Err(op) => Task::Op(op),
        };
        let transfer = matches!(task, Task::Transfer(_));
        self.flights[index] = Some(Flight::new(token, task));
        if transfer {
            self.drive(cx, token);
        } else {
            self.start(cx, token);
        }
    }

    fn leaves_to_workers(&self, op: &Op) -> bool {
        flight::is_unsafe(op)
    }

    fn cancel(&mut self, cx: &mut Context, token: Token) {
        let Some(flight) = self.flight(token) else {
            return;
        };
        if std::mem::replace(&mut flight.cancelled, true) {
            return;
        }
        if flight.outstanding == 0 {
            self.runnable.retain(|t| *t != token);
            self.served.retain(|t| *t != token);
            self.starved.retain(|t| *t != token);
            self.room.remove(token);
            self.end_cancelled(cx, token);
            return;
        }
        for step in flight.outstanding_steps() {
            self.push(cancel(token, step), None);
        }
    }

    fn wait(&mut self, cx: &mut Context, block: bool) -> io::Result<()> {
        cx.begin_turn();
        self.restart_starved(cx);
        self.watch_again();
        self.runnable.append(&mut self.served);
        for _ in 0..self.runnable.len() {
            if cx.direct_left == 0 {
                break;
            }
            if let Some(token) = self.runnable.pop_front() {
                self.drive(cx, token);
            }
        }
        let idle = block && cx.ready.is_empty() && !self.can_go_on();
        self.announcer.acknowledge();
        self.enter(cx, usize::from(idle))?;
        self.reap(cx);
        if self.room.ready {
            self.go_on_with_room(cx);
        }
        Ok(())
    }

    fn flush(&mut self, cx: &mut Context) -> io::Result<bool> {
        self.announcer.announce(&self.queues, self.found)?;
        self.restart_starved(cx);
        self.watch_again();
        self.enter(cx, 0)?;
        let at_hand = self.queues.has_completed();
        Ok(at_hand || self.can_go_on() || !self.backlog.is_empty())
    }

    fn stepped(&mut self, _cx: &mut Context, _token: Token, _transfer: Box<Transfer>) {
        unreachable!("the ring's transfers are the kernel's workers' business");
    }

    fn watch(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.outer.add_level(fd, 0)?;
        self.watched.push(fd.as_raw_fd());
        self.unwatched.push(fd.as_raw_fd());
        Ok(())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.outer.as_fd()
    }

    fn abandon(&mut self) -> usize {
        let flights: Vec<Flight> = self.flights.drain(..).flatten().collect();
        let count = flights.len();
        if count > 0 {
            // The kernel may still read and write what these own, and received data may still
            // arrive in the buffers.
            std::mem::forget(flights);
            std::mem::forget(self.buffers.take());
        }
        count
    }
}

/// However the ring goes, what the kernel may still touch outlives it.
impl Drop for Ring {
    fn drop(&mut self) {
        self.abandon();
    }
}

enum Counted {
    Bytes,
    Nothing,
}

/// Whether an answer of the kernel's counts bytes; else it is a descriptor, a mask or nothing.
fn op_kind(output: &io::Result<Output>) -> Counted {
    match output {
        Ok(Output::Done | Output::Data(_)) => Counted::Bytes,
        _ => Counted::Nothing,
    }
}

fn cancelled_error() -> io::Error {
    io::Error::from_raw_os_error(libc::ECANCELED)
}

/// Whether the kernel gave an operation up that nobody had cancelled. It does so with those that
/// need one of its workers while none can be started (RLIMIT_NPROC; seen on 6.18).
fn is_refused(flight: &Flight, result: i32) -> bool {
    result == -libc::ECANCELED && !flight.cancelled
}

/// What such an operation ends with.
fn no_worker() -> io::Error {
    io::Error::new(
        io::ErrorKind::WouldBlock,
        "the kernel could not start a worker thread: raise RLIMIT_NPROC (ulimit -u, LimitNPROC=, \
         or a container's limit of processes)",
    )
}

/// What an operation waits for that the kernel told to come again. `None`: nothing that could be
/// waited for. openat2(2) says so when renames get in its way, connect(2) when a Unix socket's
/// backlog is full.
fn wait_target(op: &Op) -> Option<(Fd, i16)> {
    Some(match op {
        Op::Accept { listener } | Op::AcceptMulti { listener } => (listener.clone(), libc::POLLIN),
        Op::Recv { socket, .. } | Op::RecvMulti { socket } => (socket.clone(), libc::POLLIN),
        Op::Read { file, .. } => (file.clone(), libc::POLLIN),
        Op::Send { socket, .. } | Op::SendVectored { socket, .. } => {
            (socket.clone(), libc::POLLOUT)
        }
        Op::Write { file, .. } => (file.clone(), libc::POLLOUT),
        Op::Splice { from, to, .. } => {
            let readable = sys::poll(from.as_fd(), libc::POLLIN, Some(std::time::Duration::ZERO));
            if readable.is_ok_and(|events| events == 0) {
                (from.clone(), libc::POLLIN)
            } else {
                (to.clone(), libc::POLLOUT)
            }
        }
        _ => return None,
    })
}
