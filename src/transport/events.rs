//! The events that a user is told of, and the telling: the one place where users' code is called.
//! A panic in it ends there, and with it the connection.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::Waker;

use super::Transport;
use super::conn::{Conn, Phase};
use super::file::{FileSend, copy_error};
use super::flow::Signal;
use super::reading::{Ceded, OnCeded, Received};
use super::receiving::FileReceive;
use crate::protocol::Protocol;

/// What a user is to be told.
pub(crate) enum Event {
    Made,
    Received(Received),
    Signal(Signal),
    /// The send with this id has got on.
    Progress(u64),
    Sent(Box<FileSend>),
    /// So many bytes have left since the beginning.
    BytesSent(u64),
    /// Tasks that waited for the queue to drain.
    Wake(Vec<Waker>),
    /// The receive with this id has got on.
    ReceiveProgress(u64),
    FileReceived(Box<FileReceive>),
    /// Nobody else reads the stream any more.
    Ceded(OnCeded, Box<Ceded>),
    /// Nobody is told of it, but a user's code may be in its end.
    Discard(Box<dyn Any>),
    Lost(Option<io::Error>),
}

impl Conn {
    pub(super) fn deliver(self: &Rc<Self>, transport: &Transport, event: Event) {
        match event {
            Event::Made => {
                self.call(|protocol| protocol.connection_made(transport));
                self.state.borrow_mut().made = true;
            }
            Event::Received(received) => self.deliver_received(transport, received),
            Event::Signal(signal) => {
                if matches!(
                    self.state.borrow().phase,
                    Phase::Ending { .. } | Phase::Lost { .. }
                ) {
                    return;
                }
                self.call(|protocol| match signal {
                    Signal::Pause => protocol.pause_writing(transport),
                    Signal::Resume => protocol.resume_writing(transport),
                });
            }
            Event::Progress(id) => self.deliver_progress(transport, id),
            Event::Sent(file) => self.deliver_sent(transport, file),
            Event::BytesSent(total) => {
                self.call(|protocol| protocol.bytes_sent(transport, total));
            }
            Event::Wake(wakers) => {
                self.guard(|| wakers.into_iter().for_each(Waker::wake));
            }
            Event::ReceiveProgress(id) => self.deliver_receive_progress(transport, id),
            Event::FileReceived(receive) => self.deliver_file_received(transport, *receive),
            Event::Ceded(heir, ceded) => {
                self.guard(move || heir(Some(*ceded)));
            }
            Event::Discard(what) => {
                self.guard(move || drop(what));
            }
            Event::Lost(error) => {
                let protocol = self.protocol.borrow_mut().take();
                self.over.set(true);
                self.shared.let_go(self.slot.get());
                let heir = self.state.borrow_mut().reading.take_heir();
                self.guard(move || {
                    if let Some(heir) = heir {
                        heir(None);
                    }
                });
                self.guard(move || {
                    if let Some(mut protocol) = protocol {
                        protocol.connection_lost(error);
                    }
                });
            }
        }
    }

    fn deliver_received(self: &Rc<Self>, transport: &Transport, received: Received) {
        {
            let mut state = self.state.borrow_mut();
            if !matches!(state.phase, Phase::Open) {
                received.recycle(&self.shared);
                return;
            }
            if !state.reading.wanted() || state.is_taken() {
                state.reading.hold(received, &self.shared);
                return;
            }
        }
        if received.is_end() {
            let keep = self.call(|protocol| protocol.eof_received(transport));
            if keep != Some(true) {
                self.close();
            }
        } else {
            self.call(|protocol| protocol.data_received(transport, &received));
            received.recycle(&self.shared);
        }
    }

    fn deliver_progress(self: &Rc<Self>, transport: &Transport, id: u64) {
        let (mut progress, sent) = {
            let mut state = self.state.borrow_mut();
            let Some(at) = state.queue.find(id) else {
                return;
            };
            let Some(file) = state.queue.file_mut(at) else {
                return;
            };
            let Some(progress) = file.progress.take() else {
                return;
            };
            file.reported = file.sent;
            (progress, file.sent)
        };
        self.guard(|| progress(transport, sent));
        let mut state = self.state.borrow_mut();
        if let Some(at) = state.queue.find(id)
            && let Some(file) = state.queue.file_mut(at)
        {
            file.progress = Some(progress);
            return;
        }
        drop(state);
        self.guard(move || drop(progress));
    }

    fn deliver_sent(self: &Rc<Self>, transport: &Transport, mut file: Box<FileSend>) {
        if let Some(mut progress) = file.progress.take() {
            self.guard(|| {
                if file.sent > file.reported {
                    progress(transport, file.sent);
                }
                drop(progress);
            });
        }
        let outcome = file.outcome();
        self.shared.stats.borrow_mut().ends.add(outcome.end);
        let (bytes, error) = (outcome.sent, outcome.error.as_ref());
        file.span.end(bytes, outcome.end, outcome.routes, error);
        let broken = match &outcome.error {
            Some(e) if file.breaks_connection() => Some(copy_error(e)),
            _ => None,
        };
        if let Some(on_sent) = file.on_sent.take() {
            self.guard(|| on_sent(transport, outcome));
        }
        if let Some(error) = broken {
            self.break_off(Some(error));
        }
        // Its source may have a user's code in its end.
        self.guard(move || drop(file));
    }

    fn deliver_receive_progress(self: &Rc<Self>, transport: &Transport, id: u64) {
        let (mut progress, received) = {
            let mut state = self.state.borrow_mut();
            let Some(receive) = state.receiving.find(id) else {
                return;
            };
            let Some(progress) = receive.progress.take() else {
                return;
            };
            receive.reported = receive.received;
            (progress, receive.received)
        };
        self.guard(|| progress(transport, received));
        let mut state = self.state.borrow_mut();
        if let Some(receive) = state.receiving.find(id) {
            receive.progress = Some(progress);
            return;
        }
        drop(state);
        self.guard(move || drop(progress));
    }

    fn deliver_file_received(self: &Rc<Self>, transport: &Transport, mut receive: FileReceive) {
        if let Some(mut progress) = receive.progress.take() {
            self.guard(|| {
                if receive.received > receive.reported {
                    progress(transport, receive.received);
                }
                drop(progress);
            });
        }
        let outcome = receive.outcome();
        self.shared.stats.borrow_mut().ends.add(outcome.end);
        let (bytes, error) = (outcome.received, outcome.error.as_ref());
        receive.span.end(bytes, outcome.end, outcome.routes, error);
        if let Some(on_received) = receive.on_received.take() {
            self.guard(|| on_received(transport, outcome));
        }
    }

    /// Calls the protocol, if there is one. `None` where it panicked, or there is none.
    fn call<T>(self: &Rc<Self>, f: impl FnOnce(&mut dyn Protocol) -> T) -> Option<T> {
        let mut protocol = self.protocol.borrow_mut().take()?;
        let result = self.guard(|| f(&mut *protocol));
        let replaced = {
            let mut place = self.protocol.borrow_mut();
            if place.is_none() {
                *place = Some(protocol);
                None
            } else {
                Some(protocol)
            }
        };
        if replaced.is_some() {
            self.guard(move || drop(replaced));
        }
        result
    }

    /// Runs a user's code. A panic ends there, and with it this connection.
    pub(super) fn guard<T>(self: &Rc<Self>, f: impl FnOnce() -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(value) => Some(value),
            Err(panic) => {
                let what = panic
                    .downcast_ref::<&str>()
                    .copied()
                    .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
                    .unwrap_or("(no message)");
                log::error!("a callback panicked, so its connection is torn down: {what}");
                self.break_off(Some(io::Error::other("a callback panicked")));
                None
            }
        }
    }
}
