//! [`Conn`]: one connection's state, the completions that change it, and the callbacks that follow.
//!
//! Everything that a user sees goes through a queue of [`Event`]s, which is emptied after a
//! completion was taken in (`settle`), and nowhere else: so no callback runs inside the call that
//! caused it, nor inside another. What a callback does to the connection takes effect after it.
//!
//! The state is never borrowed while a user's code runs.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use proactor::{Callback, Completion, Fd, FileKind, Handle, Handler, Op, Proactor, Token, net};

use super::events::Event;
use super::file::{FileSend, copy_error};
use super::flow::Flow;
use super::lent::Lent;
use super::outgoing::Out;
use super::queue::Queue;
use super::reading::Reading;
use super::receiving::Receiving;
use super::shared::Shared;
use super::tls::Session;
use super::{Transport, TransportOptions};
use crate::protocol::Protocol;
use crate::route::RouteChoice;
use crate::send::End;

/// What a connection runs over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Medium {
    Tcp,
    /// Another socket.
    Socket,
    /// A pipe's end, or both.
    Pipe {
        readable: bool,
        writable: bool,
    },
}

/// A completion's key: what it is of, and which one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Key {
    Receive,
    /// The outgoing operation with this number.
    Out(u32),
    /// The operation with this number of a file's receive.
    In(u32),
    Tick,
    /// The deadline of the send or receive with this id.
    Deadline(u64),
    /// The time that TLS may take for a handshake, or for an alert.
    Handshake,
}

impl Key {
    fn pack(self) -> u64 {
        match self {
            Key::Receive => 0,
            Key::Out(number) => u64::from(number) << 3 | 1,
            Key::Tick => 2,
            Key::Deadline(id) => id << 3 | 3,
            Key::In(number) => u64::from(number) << 3 | 4,
            Key::Handshake => 5,
        }
    }

    fn unpack(key: u64) -> Key {
        match key & 7 {
            0 => Key::Receive,
            1 => Key::Out((key >> 3) as u32),
            2 => Key::Tick,
            3 => Key::Deadline(key >> 3),
            5 => Key::Handshake,
            _ => Key::In((key >> 3) as u32),
        }
    }
}

/// A connection's life.
pub(crate) enum Phase {
    Open,
    /// No longer reading; ends once the queue is empty.
    Closing,
    /// Ends once the operations under way have.
    Ending {
        /// For `connection_lost`.
        error: Option<io::Error>,
        /// How the sends end that are queued.
        sends: End,
    },
    Lost {
        /// By an error.
        broken: bool,
    },
}

/// The end of the write side alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteEnd {
    None,
    /// Once the queue is empty.
    Wanted,
    Done,
}

pub(crate) struct State {
    pub(crate) fd: Option<Fd>,
    pub(crate) phase: Phase,
    pub(crate) write_end: WriteEnd,
    pub(crate) queue: Queue,
    pub(crate) flow: Flow,
    pub(crate) out: Out,
    pub(crate) reading: Reading,
    pub(crate) receiving: Receiving,
    /// What is sent and received is encrypted.
    pub(crate) tls: Option<Box<Session>>,
    /// The descriptor is somebody else's.
    lent: Option<Lent>,
    pub(crate) events: VecDeque<Event>,
    /// `connection_made` has been called.
    pub(super) made: bool,
    /// A tick is under way.
    pub(super) tick: bool,
    /// The outgoing operation that was under way when a tick was asked for to see whether the
    /// pressure lasts, and the pressure then. `None` once it was not too much.
    pub(super) pressed: Option<(u32, u64)>,
    pub(super) next_id: u64,
    /// Who waits for the queue to drain.
    pub(super) drains: Vec<Waker>,
    /// It is to end by a reset.
    reset: bool,
    /// Writes since the connection was lost.
    pub(super) lost_writes: u32,
}

impl State {
    /// Whether what arrives is a receive's or a relay's, not the protocol's.
    pub(crate) fn is_taken(&self) -> bool {
        self.receiving.is_any() || self.reading.is_ceded()
    }

    /// Whether the wait for room in the queue is over, and how: a wait that has begun goes on to
    /// the low limit.
    fn drained(&self, waiting: bool) -> Option<io::Result<()>> {
        if !matches!(self.phase, Phase::Open | Phase::Closing) {
            return Some(Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the connection ended before what was written had left",
            )));
        }
        let (low, high) = self.flow.limits();
        let most = if waiting { low } else { high };
        (self.queue.pressure() <= most as u64).then_some(Ok(()))
    }
}

pub(crate) struct Conn {
    pub(crate) handle: Handle,
    pub(crate) shared: Rc<Shared>,
    pub(crate) medium: Medium,
    pub(super) route: RouteChoice,
    /// Where the register keeps it.
    pub(super) slot: Cell<usize>,
    /// A completion is being taken in: what is to be done will be, without a tick.
    pub(super) settling: Cell<bool>,
    /// Away while it is being called, and for good once it was told of the loss.
    pub(super) protocol: RefCell<Option<Box<dyn Protocol>>>,
    /// `connection_lost` has been called.
    pub(super) over: Cell<bool>,
    pub(super) state: RefCell<State>,
}

/// A completion is being taken in, until this is dropped: by a panic too.
struct Settling<'a>(&'a Cell<bool>);

impl Settling<'_> {
    fn begin(settling: &Cell<bool>) -> Settling<'_> {
        settling.set(true);
        Settling(settling)
    }
}

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Conn {
    pub(crate) fn open(
        proactor: &Proactor,
        fd: Fd,
        protocol: Box<dyn Protocol>,
        options: &TransportOptions,
    ) -> io::Result<Rc<Conn>> {
        // Before anything is set.
        let lent = options.lent.then(|| Lent::of(&fd));
        let medium = match fd.kind() {
            // Set at the start, so that what is written is not held back.
            FileKind::Socket if net::set_nodelay(&fd).is_ok() => Medium::Tcp,
            FileKind::Socket => Medium::Socket,
            FileKind::Pipe => {
                let (readable, writable) = fd.access()?;
                Medium::Pipe { readable, writable }
            }
            other => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("a transport needs a socket or a pipe, not a {other:?}"),
                ));
            }
        };
        let tls = Session::of(options, medium)?;
        fd.set_nonblocking()?;
        let mut flow = Flow::default();
        if let Some((high, low)) = options.limits {
            flow.set_limits(Some(high), Some(low))?;
        }
        let shared = Shared::of(proactor);
        let conn = Rc::new(Conn {
            handle: proactor.handle(),
            shared: Rc::clone(&shared),
            medium,
            route: options.route,
            slot: Cell::new(0),
            settling: Cell::new(false),
            protocol: RefCell::new(Some(protocol)),
            over: Cell::new(false),
            state: RefCell::new(State {
                fd: Some(fd),
                phase: Phase::Open,
                write_end: WriteEnd::None,
                queue: Queue::new(flow.limits().1.saturating_add(1)),
                flow,
                out: Out::default(),
                reading: Reading::new(!options.not_reading && !options.lent),
                receiving: Receiving::default(),
                lent,
                // Over TLS, the connection stands after the handshake.
                events: VecDeque::from_iter(tls.is_none().then_some(Event::Made)),
                tls,
                made: false,
                tick: false,
                pressed: None,
                next_id: 0,
                drains: Vec::new(),
                reset: false,
                lost_writes: 0,
            }),
        });
        conn.slot.set(shared.keep(Rc::clone(&conn)));
        Ok(conn)
    }

    /// Has the protocol told, from the loop, that the connection stands.
    pub(crate) fn announce(self: &Rc<Self>) {
        self.poke(&mut self.state.borrow_mut());
    }

    /// Submits an operation of this connection's; `None` when the proactor is gone.
    pub(crate) fn submit(self: &Rc<Self>, op: Op, key: Key) -> Option<Token> {
        let handler = Rc::clone(self) as Rc<dyn Handler>;
        self.handle
            .submit(op, Callback::Handler(handler, key.pack()))
            .ok()
    }

    /// Sees to it that `settle` runs.
    pub(crate) fn poke(self: &Rc<Self>, state: &mut State) {
        if !self.settling.get() && !state.tick {
            state.tick = self.submit(Op::Nop, Key::Tick).is_some();
        }
    }

    /// Calls back for all that happened, and starts what is to be done next. Called from the loop
    /// only.
    pub(crate) fn settle(self: &Rc<Self>) {
        let _settling = Settling::begin(&self.settling);
        let transport = Transport::of(Rc::clone(self));
        loop {
            while let Some(event) = self.next_event() {
                self.deliver(&transport, event);
            }
            let mut state = self.state.borrow_mut();
            self.advance(&mut state);
            if state.events.is_empty() {
                self.watch_pressure(&mut state);
                break;
            }
        }
    }

    fn next_event(&self) -> Option<Event> {
        self.state.borrow_mut().events.pop_front()
    }

    fn advance(self: &Rc<Self>, state: &mut State) {
        if !state.made {
            return self.shake_hands(state);
        }
        self.flush(state);
        self.go_on_receiving(state);
        self.update_reading(state);
        self.cede_reading(state);
        let pressure = state.queue.pressure();
        if matches!(state.phase, Phase::Open | Phase::Closing)
            && let Some(signal) = state.flow.fell(pressure)
        {
            state.events.push_back(Event::Signal(signal));
        }
        self.finish_ending(state);
        if !state.drains.is_empty() && state.drained(true).is_some() {
            let wakers = std::mem::take(&mut state.drains);
            state.events.push_back(Event::Wake(wakers));
        }
    }

    /// Whether more may be written; else the task is woken when it may.
    pub(crate) fn poll_drained(&self, cx: &Context<'_>, waiting: bool) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        if let Some(drained) = state.drained(waiting) {
            return Poll::Ready(drained);
        }
        if !state.drains.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.drains.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Whether too much is queued shows only once the kernel had its chance to take it: a turn of
    /// the loop later.
    pub(super) fn watch_pressure(self: &Rc<Self>, state: &mut State) {
        let alive = state.made && matches!(state.phase, Phase::Open | Phase::Closing);
        let pressure = state.queue.pressure();
        if alive && !state.tick && state.flow.is_over(pressure) {
            state.pressed = state.out.number().map(|number| (number, pressure));
            state.tick = self.submit(Op::Nop, Key::Tick).is_some();
        }
    }

    fn ticked(&self, state: &mut State) {
        state.tick = false;
        let Some((number, before)) = state.pressed.take() else {
            return;
        };
        let pressure = state.queue.pressure();
        // Another operation has come since, and less is queued: the kernel takes what it gets, so
        // look again. A file that is under way will not be done in a turn.
        let stalled = state.out.number() == Some(number);
        let long = state.queue.file_mut(0).is_some_and(|file| file.sent > 0);
        if (stalled || long || pressure >= before)
            && let Some(signal) = state.flow.lasted(pressure)
        {
            state.events.push_back(Event::Signal(signal));
        }
    }

    /// Ends the connection at once and hard.
    pub(super) fn break_off(self: &Rc<Self>, error: Option<io::Error>) {
        let mut state = self.state.borrow_mut();
        if matches!(state.phase, Phase::Open | Phase::Closing)
            && let Some(fd) = state.fd.clone()
            && self.medium == Medium::Tcp
            && state.lent.is_none()
        {
            state.reset = true;
            if let Err(e) = net::set_reset_on_close(&fd) {
                log::debug!("a connection can't be reset, only closed: {e}");
            }
        }
        self.begin_ending(&mut state, error, End::Cancelled);
    }

    /// The connection is to end as soon as its operations have.
    pub(crate) fn begin_ending(
        self: &Rc<Self>,
        state: &mut State,
        error: Option<io::Error>,
        sends: End,
    ) {
        if !matches!(state.phase, Phase::Open | Phase::Closing) {
            return;
        }
        state.phase = Phase::Ending { error, sends };
        self.interrupt(state);
        self.interrupt_receiving(state);
        self.update_reading(state);
        self.poke(state);
    }

    pub(super) fn finish_ending(self: &Rc<Self>, state: &mut State) {
        let idle = state.out.is_idle() && state.reading.is_idle() && state.receiving.is_idle();
        if !idle || !matches!(state.phase, Phase::Ending { .. }) {
            return;
        }
        let lost = Phase::Lost { broken: false };
        let Phase::Ending { error, sends } = std::mem::replace(&mut state.phase, lost) else {
            return;
        };
        let State { queue, events, .. } = state;
        queue.clear(|mut file| {
            let end = file.verdict().unwrap_or_else(|| {
                if let (End::PeerGone, Some(e)) = (sends, &error) {
                    file.failure = Some(copy_error(e));
                }
                sends
            });
            self.finish(events, file, end);
        });
        self.clear_receives(state, error.as_ref(), sends);
        state.phase = Phase::Lost {
            broken: error.is_some(),
        };
        state.reading.clear();
        self.end_tls(state);
        // Others may go on with the socket.
        self.push_out(state);
        match (state.fd.take(), state.lent.take()) {
            (Some(fd), Some(lent)) => lent.give_back(&fd, &self.handle),
            // Others share it, so that dropping it does not close it.
            (Some(fd), None) if !fd.is_last() => {
                let ended = match state.reset {
                    true => net::reset(&fd),
                    false => net::shutdown(&fd, std::net::Shutdown::Both),
                };
                if let Err(e) = ended {
                    log::debug!("a shared descriptor could not be shut down: {e}");
                }
            }
            _ => {}
        }
        state.events.push_back(Event::Lost(error));
    }

    /// A send is over.
    pub(crate) fn finish(&self, events: &mut VecDeque<Event>, mut file: Box<FileSend>, end: End) {
        if let Some(deadline) = file.deadline.take() {
            self.handle.cancel(deadline);
        }
        file.close(end);
        events.push_back(Event::Sent(file));
    }

    /// The peer (or the way there) is gone.
    pub(crate) fn peer_gone(self: &Rc<Self>, state: &mut State, error: io::Error) {
        self.begin_ending(state, Some(error), End::PeerGone);
    }

    /// An operation was cancelled, and not by us.
    pub(crate) fn proactor_gone(self: &Rc<Self>, state: &mut State) {
        let error = io::Error::other("the proactor was dropped");
        self.begin_ending(state, Some(error), End::Cancelled);
    }

    /// The proactor is being dropped.
    pub(crate) fn proactor_closing(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        self.proactor_gone(&mut state);
        self.poke(&mut state);
    }

    /// The proactor is gone, and took operations of ours with it that had not ended.
    pub(crate) fn proactor_closed(self: &Rc<Self>) {
        {
            let mut state = self.state.borrow_mut();
            self.proactor_gone(&mut state);
            state.out.abandon();
            state.reading.abandon();
            state.receiving.abandon();
        }
        self.settle();
    }
}

impl Handler for Conn {
    fn complete(self: Rc<Self>, _proactor: &Proactor, key: u64, completion: Completion) {
        let _settling = Settling::begin(&self.settling);
        {
            let mut state = self.state.borrow_mut();
            match Key::unpack(key) {
                Key::Receive => self.received(&mut state, completion),
                Key::Out(number) => {
                    self.went_out(&mut state, number, completion);
                    let pressure = state.queue.pressure();
                    if !state.flow.is_over(pressure) {
                        state.pressed = None;
                    }
                }
                Key::In(number) => self.came_in(&mut state, number, completion),
                Key::Tick => self.ticked(&mut state),
                Key::Handshake => self.tls_timed_out(&mut state, &completion),
                Key::Deadline(id) if completion.result.is_ok() => {
                    self.stop(&mut state, id, End::TimedOut);
                    self.stop_receive_in(&mut state, id, End::TimedOut);
                }
                Key::Deadline(_) => {}
            }
        }
        self.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_small() {
        // What ten thousand stalled ones cost is ten thousand times this.
        let (conn, send, event) = (size_of::<Conn>(), size_of::<FileSend>(), size_of::<Event>());
        assert!(conn + send <= 1024, "{conn} + {send}");
        assert!(event <= 48, "{event}");
    }

    #[test]
    fn keys_come_back() {
        for key in [
            Key::Receive,
            Key::Tick,
            Key::Handshake,
            Key::Out(0),
            Key::Out(u32::MAX),
            Key::Deadline(0),
            Key::Deadline(u64::MAX >> 3),
            Key::In(u32::MAX),
        ] {
            assert_eq!(Key::unpack(key.pack()), key);
        }
    }
}
