//! What a user of a transport calls and is told, and what it keeps of both.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use spliceport::bytes::Bytes;
use spliceport::{
    End, Protocol, RouteChoice, Routes, SendHandle, SendOptions, SendOutcome, Transport,
};

use super::content::{Outside, content, source};
use super::program::{Action, SendPlan};
use super::receives::Receiving;

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
    /// A receive's.
    FileReceived(usize),
}

/// One thing that was queued, in order.
#[derive(Clone, Copy, Debug)]
pub enum Entry {
    /// A write: its content's tag, its length.
    Write(usize, usize),
    /// A send: its number.
    Send(usize),
    /// What a relay brings.
    Relayed,
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
    pub receives: RefCell<Vec<Receiving>>,
    pub notes: RefCell<Vec<Note>>,
    /// What of the stream the user has: delivered, or in a file whose receive is over.
    pub received: RefCell<Vec<u8>>,
    pub problems: RefCell<Vec<String>>,
    pub(super) transport: RefCell<Option<Transport>>,
    /// It has been there.
    pub(super) adopted: Cell<bool>,
    pub(super) tags: Cell<usize>,
    pub(super) in_callback: Cell<bool>,
    pub(super) in_call: Cell<bool>,
    pub reading: Cell<bool>,
    /// Over a pipe's reading end.
    pub read_only: bool,
    pub half_open: bool,
    /// It pauses its reading whenever something arrives.
    pub pauses: bool,
    pub closed: Cell<bool>,
    pub aborted: Cell<bool>,
    pub eof_asked: Cell<bool>,
    pub paused: Cell<bool>,
    pub lost: Cell<bool>,
    /// The connection is one of a relay's.
    pub relayed: Cell<bool>,
    /// Callbacks so far.
    pub calls: Cell<u64>,
}

impl Log {
    pub fn problem(&self, what: impl Into<String>) {
        self.problems.borrow_mut().push(what.into());
    }

    pub(super) fn tag(&self) -> usize {
        self.tags.replace(self.tags.get() + 1)
    }

    /// Marks a callback.
    pub(super) fn inside<T>(&self, f: impl FnOnce() -> T) -> T {
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

    pub(super) fn note(&self, note: Note) {
        if self.lost.get() && !matches!(note, Note::Sent(_) | Note::FileReceived(_)) {
            self.problem(format!("{note:?} after connection_lost"));
        }
        self.notes.borrow_mut().push(note);
    }

    /// Marks a call.
    pub(super) fn call<T>(&self, f: impl FnOnce(&Transport) -> T) -> Option<T> {
        let transport = self.transport.borrow().clone()?;
        let before = self.in_call.replace(true);
        let result = f(&transport);
        self.in_call.set(before);
        Some(result)
    }

    /// The connection's transport is there.
    pub fn adopt(&self, transport: &Transport) {
        if !self.adopted.replace(true) {
            *self.transport.borrow_mut() = Some(transport.clone());
        }
    }

    pub fn transport(&self) -> Option<Transport> {
        self.transport.borrow().clone()
    }

    /// Does what a user can do, from a callback too. False where it is for somebody else.
    pub(super) fn act(self: &Rc<Log>, action: &Action) -> bool {
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
            Action::CancelLast => {
                let last = self.sends.borrow().len().saturating_sub(1);
                self.act(&Action::Cancel(last));
            }
            Action::Together(actions) => {
                for action in actions {
                    self.act(action);
                }
            }
            Action::Receive(plan) => self.receive(plan),
            Action::CancelReceive(which) => self.cancel_receive(*which),
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
                let called = self.call(Transport::close).is_some();
                self.closed.set(self.closed.get() || called);
            }
            Action::Abort => {
                if self.call(Transport::abort).is_some() {
                    self.aborted.set(true);
                    self.closed.set(true);
                }
            }
            _ => return false,
        }
        true
    }

    fn write(&self, lens: &[usize], vectored: bool) {
        let Some(transport) = self.transport() else {
            return;
        };
        let open = !transport.is_closing() && !self.eof_asked.get() && !self.read_only;
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
            Some(Err(e)) if open && !self.relayed.get() => {
                self.problem(format!("a write was refused: {e}"))
            }
            _ => {}
        }
    }

    fn send(self: &Rc<Log>, plan: &SendPlan) {
        let Some(transport) = self.transport() else {
            return;
        };
        let late = transport.is_closing() || self.eof_asked.get() || self.read_only;
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

    /// Nothing goes on by itself: what was cancelled must have been told of; but a send that is
    /// complete may be `held_up` by what was written before.
    pub(super) fn check_cancelled(&self, held_up: bool) {
        for (number, send) in self.sends.borrow().iter().enumerate() {
            if !held_up && send.cancelled && send.outcome.is_none() {
                self.problem(format!("send {number} was cancelled and goes on"));
            }
        }
        for (number, receive) in self.receives.borrow().iter().enumerate() {
            if receive.cancelled && receive.ended.is_none() {
                self.problem(format!("receive {number} was cancelled and goes on"));
            }
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
        self.act_inside(&then);
    }

    /// Does what is to be done in a callback.
    pub(super) fn act_inside(self: &Rc<Log>, actions: &[Action]) {
        for action in actions {
            if matches!(action, Action::LetGo) {
                *self.transport.borrow_mut() = None;
            }
            self.act(action);
        }
    }
}

/// The protocol that tells the log.
pub struct User(pub Rc<Log>);

impl Protocol for User {
    fn connection_made(&mut self, transport: &Transport) {
        self.0.adopt(transport);
        self.0.inside(|| self.0.note(Note::Made));
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.0.inside(|| {
            let taken = self.0.receives.borrow().iter().any(Receiving::is_queued);
            let taken = taken || self.0.relayed.get();
            if data.is_empty() || !self.0.reading.get() || transport.is_closing() || taken {
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
            if !self.0.reading.get() || transport.is_closing() || self.0.relayed.get() {
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
