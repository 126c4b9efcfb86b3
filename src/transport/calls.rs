//! What users do with a connection. Everything here only notes what is wanted, and sees to it that
//! the loop comes by.

use std::cell::RefMut;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use proactor::{Fd, Op};

use super::conn::{Conn, Key, Medium, Phase, State, WriteEnd};
use super::events::Event;
use super::file::{FileSend, OnSent};
use super::reading::OnCeded;
use crate::protocol::Protocol;
use crate::route::{Route, RouteChoice};
use crate::send::{End, SendOptions};
use crate::source::Source;

impl Conn {
    /// Queues what was written. The iterator is a user's: the state is not borrowed while it runs.
    pub(crate) fn write(self: &Rc<Self>, data: impl IntoIterator<Item = Bytes>) -> io::Result<()> {
        if self.may_write(&mut self.state.borrow_mut())? {
            for bytes in data {
                let mut state = self.state.borrow_mut();
                if matches!(state.phase, Phase::Open) {
                    state.queue.push_data(bytes);
                }
            }
            self.queued(&mut self.state.borrow_mut());
        }
        Ok(())
    }

    /// Whether what is written is to be queued; else it is dropped.
    fn may_write(&self, state: &mut State) -> io::Result<bool> {
        let refused = |text| Err(io::Error::new(io::ErrorKind::BrokenPipe, text));
        match &state.phase {
            Phase::Open if state.write_end != WriteEnd::None => refused("write after write_eof"),
            Phase::Open if !self.is_writable() => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "write to the reading end of a pipe",
            )),
            Phase::Open => Ok(true),
            Phase::Ending { error: Some(_), .. } | Phase::Lost { broken: true } => {
                state.lost_writes = state.lost_writes.saturating_add(1);
                if state.lost_writes >= 5 {
                    log::warn!("a write to a lost connection is dropped");
                }
                Ok(false)
            }
            Phase::Closing | Phase::Ending { .. } | Phase::Lost { .. } => {
                refused("write to a transport that is closing")
            }
        }
    }

    fn is_writable(&self) -> bool {
        !matches!(
            self.medium,
            Medium::Pipe {
                writable: false,
                ..
            }
        )
    }

    /// Something was queued: it leaves from the loop. With an operation under way there is nothing
    /// to do before its end but to watch the pressure.
    fn queued(self: &Rc<Self>, state: &mut State) {
        if state.out.is_idle() {
            self.poke(state);
        } else if !self.settling.get() {
            self.watch_pressure(state);
        }
    }

    pub(crate) fn send_file(
        self: &Rc<Self>,
        source: Source,
        options: SendOptions,
        on_sent: OnSent,
    ) -> u64 {
        let timeout = options.timeout;
        let mut state = self.state.borrow_mut();
        let id = state.next_id;
        state.next_id += 1;
        self.shared.stats.borrow_mut().sends += 1;
        let mut file = Box::new(FileSend::new(id, source.kind, options, self.route, on_sent));
        let open = matches!(state.phase, Phase::Open)
            && state.write_end == WriteEnd::None
            && self.is_writable();
        if !open {
            self.finish(&mut state.events, file, End::Closing);
            self.tell(state);
            return id;
        }
        if state.tls.is_some() {
            file.choice = RouteChoice::Force(Route::Copy);
        }
        if let Some(at) = timeout.and_then(|timeout| proactor::now().checked_add(timeout)) {
            file.deadline = self.submit(Op::Timeout { at }, Key::Deadline(id));
        }
        state.queue.push_file(file);
        self.queued(&mut state);
        id
    }

    /// Has an event told, also where nothing goes on any more.
    pub(super) fn tell(self: &Rc<Self>, mut state: RefMut<'_, State>) {
        self.poke(&mut state);
        if !state.tick && !self.settling.get() {
            // The proactor is gone: nobody will be told, and nothing may be kept for that.
            let events = std::mem::take(&mut state.events);
            drop(state);
            drop(events);
        }
    }

    /// Ends a send before its time.
    pub(crate) fn stop_send(self: &Rc<Self>, id: u64, end: End) {
        let mut state = self.state.borrow_mut();
        self.stop(&mut state, id, end);
        self.poke(&mut state);
    }

    pub(crate) fn is_sent(&self, id: u64) -> bool {
        self.state.borrow().queue.find(id).is_none()
    }

    pub(crate) fn write_eof(self: &Rc<Self>) -> io::Result<()> {
        if !self.can_write_eof() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a pipe has no write side that could be ended alone",
            ));
        }
        let mut state = self.state.borrow_mut();
        if matches!(state.phase, Phase::Open) && state.write_end == WriteEnd::None {
            state.write_end = WriteEnd::Wanted;
            self.poke(&mut state);
        }
        Ok(())
    }

    pub(crate) fn can_write_eof(&self) -> bool {
        !matches!(self.medium, Medium::Pipe { .. })
    }

    pub(crate) fn close(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        if matches!(state.phase, Phase::Open) {
            state.phase = Phase::Closing;
            self.stop_receives(&mut state);
            state.reading.clear();
            self.update_reading(&mut state);
            self.poke(&mut state);
        }
    }

    pub(crate) fn abort(self: &Rc<Self>) {
        self.break_off(None);
    }

    pub(crate) fn is_closing(&self) -> bool {
        !matches!(self.state.borrow().phase, Phase::Open)
    }

    pub(crate) fn pause_reading(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        state.reading.pause();
        if state.made {
            self.update_reading(&mut state);
        }
    }

    pub(crate) fn resume_reading(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state
            .reading
            .resume(state.receiving.is_any(), &mut state.events)
        {
            self.poke(state);
        }
    }

    pub(crate) fn is_reading(&self) -> bool {
        let state = self.state.borrow();
        matches!(state.phase, Phase::Open) && state.reading.wanted()
    }

    /// Gives the reading side away, for good; an error where that is closing, given already, or
    /// encrypted.
    pub(crate) fn cede(self: &Rc<Self>, heir: OnCeded) -> Result<(), OnCeded> {
        let mut state = self.state.borrow_mut();
        let closing = !matches!(state.phase, Phase::Open);
        if closing || state.reading.is_ceded() || state.tls.is_some() {
            return Err(heir);
        }
        state.reading.cede(heir);
        if state.made {
            self.update_reading(&mut state);
        }
        self.poke(&mut state);
        Ok(())
    }

    pub(crate) fn set_protocol(self: &Rc<Self>, protocol: Box<dyn Protocol>) {
        // One that nobody will call would only keep what it holds.
        if self.over.get() {
            return;
        }
        let before = self.protocol.borrow_mut().replace(protocol);
        drop(before);
    }

    pub(crate) fn set_limits(
        self: &Rc<Self>,
        high: Option<usize>,
        low: Option<usize>,
    ) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        state.flow.set_limits(high, low)?;
        let (_, high) = state.flow.limits();
        state.queue.set_default_weight(high.saturating_add(1));
        let pressure = state.queue.pressure();
        if let Some(signal) = state.flow.fell(pressure) {
            state.events.push_back(Event::Signal(signal));
            self.poke(&mut state);
        } else if !self.settling.get() {
            self.watch_pressure(&mut state);
        }
        Ok(())
    }

    pub(crate) fn limits(&self) -> (usize, usize) {
        self.state.borrow().flow.limits()
    }

    pub(crate) fn write_buffer_size(&self) -> usize {
        self.state.borrow().queue.data_len()
    }

    pub(crate) fn bytes_sent(&self) -> u64 {
        self.state.borrow().out.sent
    }

    pub(crate) fn tell_bytes_sent(&self, yes: bool) {
        self.state.borrow_mut().out.tells = yes;
    }

    pub(crate) fn fd(&self) -> Option<Fd> {
        self.state.borrow().fd.clone()
    }
}
