//! The [`Proactor`]: the table of callbacks, the loop that delivers completions to them, and what
//! is the same on every backend: timers, posts, work for threads, the drain at the end.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::{Rc, Weak};
use std::time::Duration;

use crate::backend::{Backend, Context, Event};
use crate::builder::{Builder, Started};
use crate::fd::Fd;
use crate::op::{Completion, Op, Output, Token};
use crate::port::{Call, Packet, Port};
use crate::probe::Probe;
use crate::remote::Remote;
use crate::stats::Stats;
use crate::sync::Arc;
use crate::sys::SigpipeBlocked;
use crate::timer::Timers;
use crate::turn;

/// Something that takes completions without an allocation for each: IOCP's completion key and
/// the object behind it.
pub trait Handler {
    /// An operation submitted with `key` has completed. Runs on the proactor's thread, from its
    /// loop.
    fn complete(self: Rc<Self>, proactor: &Proactor, key: u64, completion: Completion);
}

/// What is kept once per proactor by those who build upon it: buffers, connections.
pub trait Attachment: Any {
    /// The proactor is being dropped, and is about to cancel what is under way. What is submitted
    /// now completes as cancelled.
    fn closing(self: Rc<Self>, proactor: &Proactor);

    /// All completions that could be had have been delivered; no other will be.
    fn closed(self: Rc<Self>);
}

/// A closure that is told of one completion.
pub type OnceCallback = dyn FnOnce(&Proactor, Completion);
/// A closure that is told of many.
pub type ManyCallback = dyn FnMut(&Proactor, Completion);

/// Who is told of a completion.
pub enum Callback {
    /// A closure, called once. Of a multishot operation it sees the first completion alone.
    Once(Box<OnceCallback>),
    /// A closure for multishot operations, called for each completion.
    Many(Box<ManyCallback>),
    /// A handler and the key that it is to be called with.
    Handler(Rc<dyn Handler>, u64),
}

impl Callback {
    /// A closure, called once.
    pub fn once(f: impl FnOnce(&Proactor, Completion) + 'static) -> Callback {
        Callback::Once(Box::new(f))
    }

    /// A closure for multishot operations.
    pub fn many(f: impl FnMut(&Proactor, Completion) + 'static) -> Callback {
        Callback::Many(Box::new(f))
    }
}

/// Which backend runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum BackendKind {
    /// io_uring.
    Ring,
    /// The emulated completion port: readiness poller and worker pool.
    Emulated,
}

impl std::fmt::Display for BackendKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BackendKind::Ring => "ring",
            BackendKind::Emulated => "emulated",
        })
    }
}

/// A completion port for one thread: takes operations, runs them in the kernel or emulates that,
/// and calls back once each is complete.
///
/// - `submit` never waits, and never calls back from inside.
/// - Callbacks run on the thread that calls [`run`](Proactor::run) or
///   [`run_once`](Proactor::run_once), one after the other, never one inside another. They may
///   submit, cancel and drop anything. A callback that panics is dropped, the panic logged, and
///   the loop goes on.
/// - Every operation's callback is called with a last completion exactly once, in which the
///   operation gives back what it owned.
/// - Dropping the proactor cancels what is under way and delivers those completions, for at most
///   [`Builder::drain`]; what the kernel has not given back then is leaked, and logged.
///
/// While a proactor lives, SIGPIPE is blocked on its thread, since splice(2) and sendfile(2)
/// raise it. It is not `Send`: use a [`Remote`] from other threads.
pub struct Proactor {
    core: Rc<Core>,
}

/// A reference to a [`Proactor`] that doesn't keep it alive: for those who are called by it.
#[derive(Clone)]
pub struct Handle {
    core: Weak<Core>,
}

struct Core {
    state: RefCell<State>,
    port: Arc<Port>,
    kind: BackendKind,
    probe: Probe,
    /// In `run_once`, perhaps in a callback.
    running: Cell<bool>,
    /// How many turns the loop has begun.
    turns: Cell<u64>,
    /// Being dropped: what is submitted now is cancelled at once.
    closing: Cell<bool>,
    drain: Duration,
    /// The backend's descriptor, duplicated: another loop's view of it.
    fd: OwnedFd,
    attachments: RefCell<Vec<Rc<dyn Attachment>>>,
    _sigpipe: SigpipeBlocked,
}

struct State {
    backend: Box<dyn Backend>,
    cx: Context,
    table: Table,
    timers: Timers,
    /// [`Op::Nop`]s, delivered behind what the next wait brings.
    nops: VecDeque<Token>,
    /// Closures posted by remotes.
    calls: VecDeque<Call>,
    packets: VecDeque<Packet>,
}

impl Proactor {
    /// A proactor with the best backend that can be had here.
    ///
    /// # Errors
    /// Exhaustion (`EMFILE`, `ENFILE`, `ENOMEM`); never the want of io_uring.
    pub fn new() -> io::Result<Proactor> {
        Builder::new().build()
    }

    /// Settings for a proactor.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn start(started: Started, drain: Duration) -> io::Result<Proactor> {
        let Started {
            mut backend,
            cx,
            kind,
            probe,
        } = started;
        let timers = Timers::new()?;
        let port = Arc::clone(&cx.port);
        backend.watch(port.wake_fd())?;
        backend.watch(timers.fd())?;
        let fd = backend.fd().try_clone_to_owned()?;
        let state = State {
            backend,
            cx,
            table: Table::default(),
            timers,
            nops: VecDeque::new(),
            calls: VecDeque::new(),
            packets: VecDeque::new(),
        };
        Ok(Proactor {
            core: Rc::new(Core {
                state: RefCell::new(state),
                port,
                kind,
                probe,
                running: Cell::new(false),
                turns: Cell::new(0),
                closing: Cell::new(false),
                drain,
                fd,
                attachments: RefCell::default(),
                _sigpipe: SigpipeBlocked::new(),
            }),
        })
    }

    /// Which backend runs.
    pub fn backend(&self) -> BackendKind {
        self.core.kind
    }

    /// Why that backend runs, and what the kernel offers.
    pub fn probe(&self) -> &Probe {
        &self.core.probe
    }

    /// A reference that doesn't keep the proactor alive.
    pub fn handle(&self) -> Handle {
        Handle {
            core: Rc::downgrade(&self.core),
        }
    }

    /// The attachment of type `A`, made if there is none yet.
    pub fn attachment<A: Attachment>(&self, make: impl FnOnce(&Proactor) -> A) -> Rc<A> {
        let find = |all: &[Rc<dyn Attachment>]| {
            all.iter().find_map(|attachment| {
                let any: Rc<dyn Any> = Rc::clone(attachment) as _;
                any.downcast::<A>().ok()
            })
        };
        if let Some(found) = find(&self.core.attachments.borrow()) {
            return found;
        }
        let made = Rc::new(make(self));
        let attachment: Rc<dyn Attachment> = Rc::clone(&made) as _;
        self.core.attachments.borrow_mut().push(attachment);
        made
    }

    /// For other threads: posting closures, and stopping the loop.
    pub fn remote(&self) -> Remote {
        Remote::new(Arc::clone(&self.core.port))
    }

    /// Starts an operation. Its callback is called from the loop, never from in here; a failure
    /// to start is a completion like any other.
    pub fn submit(&self, op: Op, callback: Callback) -> Token {
        self.core.submit(op, callback)
    }

    /// Asks an operation to end. Its completion comes all the same, exactly once: as cancelled
    /// (`ECANCELED`, with the count of what was done), or with what it had done if that came
    /// first. Nothing happens if it has completed already.
    ///
    /// A worker that waits for a disk can't be interrupted: the completion comes when it is done.
    pub fn cancel(&self, token: Token) {
        self.core.cancel(token);
    }

    /// Waits for completions, at most for `timeout` (`None`: until there is one), and delivers
    /// those that there are. Returns how many callbacks ran; it may be none, before the timeout
    /// too. `Some(Duration::ZERO)` only looks.
    ///
    /// # Errors
    /// `InvalidInput` from inside a callback. Else the kernel's refusal to wait, which does not
    /// lose operations.
    pub fn run_once(&self, timeout: Option<Duration>) -> io::Result<usize> {
        if self.core.running.replace(true) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "run_once called from inside a callback: return to the loop instead",
            ));
        }
        /// The loop can be run again, whatever happened in this turn.
        struct Turn<'a>(&'a Cell<bool>);
        impl Drop for Turn<'_> {
            fn drop(&mut self) {
                self.0.set(false);
            }
        }
        let _turn = Turn(&self.core.running);
        self.turn(timeout)
    }

    /// Runs until [`Remote::stop`] (or [`stop`](Proactor::stop)).
    ///
    /// # Errors
    /// As [`run_once`](Proactor::run_once).
    pub fn run(&self) -> io::Result<()> {
        while !self.core.port.take_stop() {
            self.run_once(None)?;
        }
        Ok(())
    }

    /// Makes [`run`](Proactor::run) return after the completions at hand.
    pub fn stop(&self) {
        self.core.port.stop();
    }

    /// What it has done, and what it holds now.
    pub fn stats(&self) -> Stats {
        let state = self.core.state.borrow();
        let counters = &state.cx.counters;
        Stats {
            submitted: counters.submitted,
            completed: counters.completed,
            in_flight: state.table.len,
            cancels: counters.cancels,
            panics: counters.panics,
            waits: counters.waits,
            chains: counters.chains,
            overflows: counters.overflows,
            pipes_taken: counters.pipes_taken,
            pipes_limit: state.cx.pipes.limit(),
            pipes_leased: state.cx.pipes.leased(),
            pipes_idle: state.cx.pipes.idle(),
            workers: state.cx.workers.threads(),
        }
    }

    fn turn(&self, timeout: Option<Duration>) -> io::Result<usize> {
        let _turn = turn::begin();
        self.core.turns.set(self.core.turns.get() + 1);
        let mut called = self.collect(timeout)?;
        let calls = std::mem::take(&mut self.core.state.borrow_mut().calls);
        for call in calls {
            self.guard(|| call(self));
            called += 1;
        }
        // What callbacks submit is for the next turn, so that nobody is starved.
        let events = self.core.state.borrow().cx.ready.len();
        for _ in 0..events {
            let event = self.core.state.borrow_mut().cx.ready.pop_front();
            let Some(event) = event else { break };
            called += usize::from(self.deliver(event));
        }
        self.core.rearm()?;
        Ok(called)
    }

    /// Waits, and brings everything that is complete into `ready`.
    fn collect(&self, timeout: Option<Duration>) -> io::Result<usize> {
        let mut state = self.core.state.borrow_mut();
        let state = &mut *state;
        let nops = state.nops.len();
        let idle = state.cx.ready.is_empty() && nops == 0 && timeout != Some(Duration::ZERO);
        if idle {
            let user = timeout.and_then(|t| crate::now().checked_add(t));
            let deadline = [user, state.timers.earliest()].into_iter().flatten().min();
            if let Some(deadline) = deadline {
                state.timers.arm(deadline)?;
            }
        }
        state.backend.wait(&mut state.cx, idle)?;
        #[cfg(feature = "simulation")]
        state.cx.workers.simulate();
        state.cx.port.take(&mut state.packets);
        while let Some(packet) = state.packets.pop_front() {
            match packet {
                Packet::Done(done) => state.backend.done(&mut state.cx, done),
                Packet::Stepped(token, transfer) => {
                    state.backend.stepped(&mut state.cx, token, transfer);
                }
                Packet::Call(call) => state.calls.push_back(call),
            }
        }
        if state.timers.is_armed() || state.timers.earliest().is_some() {
            let now = crate::now();
            state.timers.acknowledge(now);
            while let Some((token, op)) = state.timers.expired(now) {
                let completion = Completion::ok(op, Output::Done, 0);
                state.cx.complete(token, completion);
            }
        }
        for token in state.nops.drain(..nops) {
            let completion = Completion::ok(Op::Nop, Output::Done, 0);
            state.cx.complete(token, completion);
        }
        Ok(0)
    }

    /// Calls the callback of a completion. True if there was one.
    fn deliver(&self, event: Event) -> bool {
        let Event { token, completion } = event;
        let callback = {
            let mut state = self.core.state.borrow_mut();
            state.cx.counters.completed += 1;
            if completion.more() {
                state.table.lend(token)
            } else {
                state.table.remove(token).and_then(|entry| entry.callback)
            }
        };
        let more = completion.more();
        match callback {
            // What nobody hears of may have its owner's code in its end, as a callback has.
            None => {
                self.guard(move || drop(completion));
                false
            }
            Some(Callback::Once(f)) => {
                self.guard(|| f(self, completion));
                true
            }
            Some(Callback::Many(mut f)) => {
                let sound = self.guard(|| f(self, completion));
                if more && sound {
                    self.give_back(token, Callback::Many(f));
                } else {
                    if more {
                        // It is in no state to be called again: end the operation.
                        self.cancel(token);
                    }
                    self.guard(move || drop(f));
                }
                true
            }
            Some(Callback::Handler(handler, key)) => {
                if more {
                    let again = Callback::Handler(Rc::clone(&handler), key);
                    self.give_back(token, again);
                }
                self.guard(|| handler.complete(self, key, completion));
                true
            }
        }
    }

    fn give_back(&self, token: Token, callback: Callback) {
        let refused = self.core.state.borrow_mut().table.restore(token, callback);
        // Dropping it may run its owner's code: not while the state is borrowed.
        if refused.is_some() {
            self.guard(move || drop(refused));
        }
    }

    /// Runs a callback; a panic ends there. False if it panicked.
    fn guard(&self, call: impl FnOnce()) -> bool {
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(()) => true,
            Err(panic) => {
                let what = panic
                    .downcast_ref::<&str>()
                    .copied()
                    .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
                    .unwrap_or("(no message)");
                log::error!("a callback panicked: {what}");
                self.core.state.borrow_mut().cx.counters.panics += 1;
                false
            }
        }
    }
}

impl Core {
    fn submit(&self, op: Op, callback: Callback) -> Token {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.cx.counters.submitted += 1;
        self.announce();
        let owner = match &op {
            Op::Timeout { .. } => Owner::Timers,
            Op::Work(_) => Owner::Workers,
            op if state.backend.leaves_to_workers(op) => Owner::Workers,
            Op::Nop => Owner::Nops,
            _ => Owner::Backend,
        };
        let token = state.table.insert(callback, owner);
        if self.closing.get() {
            state.cx.complete(token, Completion::cancelled(op));
            return token;
        }
        match (owner, op) {
            (_, Op::Timeout { at }) => state.timers.insert(token, at, Op::Timeout { at }),
            (Owner::Workers, op) => state.cx.workers.run(token, op),
            (Owner::Nops, _) => state.nops.push_back(token),
            (_, op) => state.backend.submit(&mut state.cx, token, op),
        }
        token
    }

    fn cancel(&self, token: Token) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let Some(owner) = state.table.owner(token) else {
            return;
        };
        state.cx.counters.cancels += 1;
        self.announce();
        let removed = match owner {
            Owner::Backend => {
                state.backend.cancel(&mut state.cx, token);
                None
            }
            Owner::Timers => state.timers.remove(token),
            Owner::Workers => state.cx.workers.remove(token),
            Owner::Nops => None,
        };
        if let Some(op) = removed {
            state.cx.complete(token, Completion::cancelled(op));
        }
    }

    /// Something is to be done that was not asked for from the loop: one that embeds this is told.
    fn announce(&self) {
        if !self.running.get() && self.port.is_embedded() {
            self.port.notify();
        }
    }

    /// Before another loop may wait at our descriptor: hands submissions over, and makes the
    /// descriptor readable for what is at hand, and for the next timeout.
    fn rearm(&self) -> io::Result<()> {
        if !self.port.is_embedded() {
            return Ok(());
        }
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let at_hand = !state.cx.ready.is_empty() || !state.nops.is_empty();
        if state.backend.flush(&mut state.cx)? || at_hand {
            self.port.notify();
        }
        match state.timers.earliest() {
            Some(at) => state.timers.arm(at),
            None => Ok(()),
        }
    }
}

impl From<&Proactor> for Handle {
    fn from(proactor: &Proactor) -> Handle {
        proactor.handle()
    }
}

impl Handle {
    /// As [`Proactor::submit`]; gives both back when the proactor is gone.
    pub fn submit(&self, op: Op, callback: Callback) -> Result<Token, (Op, Callback)> {
        match self.core.upgrade() {
            Some(core) => Ok(core.submit(op, callback)),
            None => Err((op, callback)),
        }
    }

    /// As [`Proactor::cancel`]; nothing when the proactor is gone.
    pub fn cancel(&self, token: Token) {
        if let Some(core) = self.core.upgrade() {
            core.cancel(token);
        }
    }

    /// The number of the loop's turn; `None` when the proactor is gone.
    ///
    /// A turn first collects the completions that there are, then calls back for each. So whatever
    /// is found out about the world in one callback is no older, for the others of its turn, than
    /// what they are told: it can be kept until the number changes.
    pub fn turn(&self) -> Option<u64> {
        self.core.upgrade().map(|core| core.turns.get())
    }

    /// Drops what the backend keeps of a descriptor (the emulated port's registration at its
    /// poller): for who used a duplicate of a descriptor that lives on elsewhere, and is done with
    /// it. Nothing changes for others, nor where an operation still waits at it.
    pub fn forget(&self, fd: &Fd) {
        if let Some(core) = self.core.upgrade() {
            core.state.borrow_mut().backend.forget(fd);
        }
    }

    /// Which backend runs; `None` when the proactor is gone.
    pub fn backend(&self) -> Option<BackendKind> {
        self.core.upgrade().map(|core| core.kind)
    }

    /// For other threads; `None` when the proactor is gone.
    pub fn remote(&self) -> Option<Remote> {
        let core = self.core.upgrade()?;
        Some(Remote::new(Arc::clone(&core.port)))
    }
}

/// Readable when [`run_once`](Proactor::run_once) would find something, so that another loop can
/// wait for it, and call `run_once(Some(Duration::ZERO))` when it is. Asking for it the first time
/// is what says that there is such a loop; from then on submissions and cancels from outside
/// callbacks make it readable as well. It may stay registered edge-triggered: who clears the edge
/// first, and then calls `run_once`, misses nothing.
impl AsFd for Proactor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.core.port.set_embedded();
        if let Err(e) = self.core.rearm() {
            log::error!("submissions could not be handed over: {e}");
            self.core.port.notify();
        }
        self.core.fd.as_fd()
    }
}

impl Drop for Proactor {
    fn drop(&mut self) {
        self.core.closing.set(true);
        self.core.running.set(false);
        let attachments = self.core.attachments.borrow().clone();
        for attachment in attachments {
            self.guard(|| attachment.closing(self));
        }
        let tokens = self.core.state.borrow().table.tokens();
        for token in tokens {
            self.core.cancel(token);
        }
        let end = crate::now().checked_add(self.core.drain);
        loop {
            let left = end.map(|end| end.saturating_duration_since(crate::now()));
            if self.core.state.borrow().table.len == 0 || left == Some(Duration::ZERO) {
                break;
            }
            if let Err(e) = self.run_once(left) {
                log::error!("the drain of a proactor ended early: {e}");
                break;
            }
        }
        let packets = self.core.port.close();
        let (kept, entries, events) = {
            let mut state = self.core.state.borrow_mut();
            let state = &mut *state;
            state.cx.workers.close();
            let kept = state.backend.abandon();
            let events = std::mem::take(&mut state.cx.ready);
            (kept, std::mem::take(&mut state.table), events)
        };
        if kept > 0 {
            log::error!(
                "{kept} operations had not ended {:?} after their cancel: their memory is leaked",
                self.core.drain
            );
        }
        drop((packets, entries, events));
        for attachment in self.core.attachments.take() {
            self.guard(|| attachment.closed());
        }
    }
}

/// Who holds an operation.
#[derive(Clone, Copy)]
enum Owner {
    Backend,
    Timers,
    Workers,
    Nops,
}

struct Entry {
    /// Away while it is being called.
    callback: Option<Callback>,
    owner: Owner,
}

/// Operations under way, by token.
#[derive(Default)]
struct Table {
    slots: Vec<(u32, Option<Entry>)>,
    free: Vec<u32>,
    len: usize,
}

impl Table {
    fn insert(&mut self, callback: Callback, owner: Owner) -> Token {
        let entry = Some(Entry {
            callback: Some(callback),
            owner,
        });
        self.len += 1;
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize].1 = entry;
                index
            }
            None => {
                self.slots.push((0, entry));
                u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 operations under way")
            }
        };
        Token {
            index,
            generation: self.slots[index as usize].0,
        }
    }

    fn entry(&mut self, token: Token) -> Option<&mut Entry> {
        match self.slots.get_mut(token.index as usize) {
            Some((generation, entry)) if *generation == token.generation => entry.as_mut(),
            _ => None,
        }
    }

    fn owner(&mut self, token: Token) -> Option<Owner> {
        self.entry(token).map(|entry| entry.owner)
    }

    fn remove(&mut self, token: Token) -> Option<Entry> {
        self.entry(token)?;
        let (generation, entry) = &mut self.slots[token.index as usize];
        *generation = generation.wrapping_add(1);
        self.free.push(token.index);
        self.len -= 1;
        entry.take()
    }

    /// Takes the callback of an operation that goes on.
    fn lend(&mut self, token: Token) -> Option<Callback> {
        self.entry(token)?.callback.take()
    }

    /// Brings it back; it is returned if the operation is gone.
    fn restore(&mut self, token: Token, callback: Callback) -> Option<Callback> {
        match self.entry(token) {
            Some(entry) => entry.callback.replace(callback),
            None => Some(callback),
        }
    }

    fn tokens(&self) -> Vec<Token> {
        let token = |(index, (generation, entry)): (usize, &(u32, Option<Entry>))| {
            entry.as_ref().map(|_| Token {
                index: index as u32,
                generation: *generation,
            })
        };
        self.slots.iter().enumerate().filter_map(token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(table: &mut Table) -> Token {
        table.insert(Callback::once(|_, _| {}), Owner::Nops)
    }

    #[test]
    fn a_token_names_one_operation_ever() {
        let mut table = Table::default();
        let first = insert(&mut table);
        let second = insert(&mut table);
        assert!(table.remove(first).is_some());
        assert!(table.remove(first).is_none());
        // Its place is taken, its name is not.
        let third = insert(&mut table);
        assert_eq!(third.index, first.index);
        assert_ne!(third, first);
        assert!(table.owner(first).is_none());
        assert!(table.lend(first).is_none());
        assert_eq!(table.len, 2);
        assert_eq!(table.tokens(), [third, second]);
    }

    #[test]
    fn a_callback_that_is_lent_comes_back_while_its_operation_goes_on() {
        let mut table = Table::default();
        let token = insert(&mut table);
        let callback = table.lend(token).unwrap();
        assert!(table.lend(token).is_none(), "it is being called");
        assert!(table.restore(token, callback).is_none());
        let callback = table.lend(token).unwrap();
        assert!(table.remove(token).unwrap().callback.is_none());
        // Another has the place meanwhile, and keeps its own.
        let other = insert(&mut table);
        assert!(table.restore(token, callback).is_some());
        assert!(table.lend(other).is_some());
    }
}
