//! TLS as a part of a connection: between the gathered bytes of the queue's head and the send of
//! them, and between what arrives and who gets it. A plain connection has none of it.
//!
//! Of what was sealed, the plaintext stays in the queue as gathered until the kernel took the whole
//! record. So counts, limits and callbacks are the queue's own, and a session adds only what can't
//! be thrown away: the records that the kernel left of the last send. They go before all else.

mod session;

use std::io;
use std::rc::Rc;

use bytes::Buf;
use proactor::{Completion, Op, SendBuf};

pub(crate) use session::Session;

use super::TransportOptions;
use super::conn::{Conn, Key, Medium, Phase, State};
use super::events::Event;
use super::reading::Received;
use super::shared::Shared;
use crate::send::End;

impl Session {
    /// The session of a new connection, where it is to have one.
    pub(super) fn of(
        options: &TransportOptions,
        medium: Medium,
    ) -> io::Result<Option<Box<Session>>> {
        let refused = |text| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        match &options.tls {
            None => Ok(None),
            Some(_) if matches!(medium, Medium::Pipe { .. }) => {
                refused("TLS needs a socket, not a pipe")
            }
            Some(_) if options.lent => refused("a lent connection can't be one over TLS"),
            Some(tls) => Ok(Some(Box::new(Session::new(tls)?))),
        }
    }
}

impl Conn {
    /// Goes on with the handshake of a connection of which its protocol has not been told.
    pub(super) fn shake_hands(self: &Rc<Self>, state: &mut State) {
        let Some(tls) = &mut state.tls else { return };
        match state.phase {
            Phase::Closing if state.queue.is_empty() && tls.is_handshaking() => {
                self.begin_ending(state, None, End::Cancelled);
            }
            Phase::Open | Phase::Closing => {
                if tls.timer.is_none() && tls.is_handshaking() && !tls.has_failed() {
                    self.limit_tls(state);
                }
                self.update_reading(state);
                if state.out.is_idle() {
                    self.send_sealed(state);
                }
            }
            Phase::Ending { .. } | Phase::Lost { .. } => {}
        }
        self.finish_ending(state);
    }

    /// Bounds the time of what is going on.
    fn limit_tls(self: &Rc<Self>, state: &mut State) {
        let Some(tls) = &mut state.tls else { return };
        if let Some(at) = proactor::now().checked_add(tls.handshake_timeout()) {
            tls.timer = self.submit(Op::Timeout { at }, Key::Handshake);
        }
    }

    /// The time for the handshake, or for an alert, is over.
    pub(super) fn tls_timed_out(self: &Rc<Self>, state: &mut State, completion: &Completion) {
        let Some(tls) = &mut state.tls else { return };
        if completion.result.is_err() {
            return;
        }
        tls.timer = None;
        if tls.is_handshaking() {
            tls.fail(io::Error::new(
                io::ErrorKind::TimedOut,
                "the TLS handshake took too long",
            ));
        }
        self.end_failed(state);
    }

    /// Whether TLS needs to be read for, wanted by the protocol or not.
    pub(super) fn tls_reads(state: &State) -> bool {
        /// What may be held for a receive's file while that is written to.
        const HELD: usize = 256 << 10;
        state.tls.as_ref().is_some_and(|tls| {
            let receives = state.receiving.is_any() && state.reading.held_len() < HELD;
            // Whoever closes with something unread resets the connection, and a server's tickets come
            // unasked.
            let closing = matches!(state.phase, Phase::Closing);
            tls.is_handshaking() || receives || closing
        })
    }

    /// Ciphertext arrived.
    pub(super) fn sealed_arrived(self: &Rc<Self>, state: &mut State, arrived: &[u8]) {
        let State { tls, events, .. } = state;
        let Some(tls) = tls.as_mut().filter(|tls| !tls.has_failed()) else {
            return;
        };
        let before = events.len();
        let mut buf = self.shared.buffer();
        let opened = tls.open(arrived, |plain| {
            if buf.len() + plain.len() > Shared::BUFFER {
                let full = std::mem::replace(&mut buf, self.shared.buffer());
                events.push_back(Event::Received(Received::Buffer(full)));
            }
            buf.extend_from_slice(plain);
        });
        match buf.is_empty() {
            true => self.shared.recycle(buf),
            false => events.push_back(Event::Received(Received::Buffer(buf))),
        }
        if tls.shake() {
            if let Some(timer) = tls.timer.take() {
                self.handle.cancel(timer);
            }
            events.insert(before, Event::Made);
        }
        match opened {
            Ok(true) => self.received_end(state),
            Ok(false) => {}
            Err(e) => self.tls_failed(state, e),
        }
    }

    /// The peer's bytes ended without its having said that they would.
    pub(super) fn sealed_ended(self: &Rc<Self>, state: &mut State) {
        let Some(tls) = &state.tls else { return };
        if state.reading.is_over() {
            return;
        }
        if matches!(state.phase, Phase::Closing) && !tls.is_handshaking() {
            return state.reading.end_here();
        }
        let text = match tls.is_handshaking() {
            true => "the peer ended the connection in the TLS handshake",
            false => "the peer ended the connection without a close_notify",
        };
        self.peer_gone(state, io::Error::new(io::ErrorKind::UnexpectedEof, text));
    }

    /// The peer is not to be understood. It is told so, if that can be sent at once.
    fn tls_failed(self: &Rc<Self>, state: &mut State, error: io::Error) {
        let Some(tls) = &state.tls else { return };
        let free = state.out.is_idle() && !state.out.is_full() && tls.sealed.is_empty();
        let speaks = free && tls.has_to_speak() && self.send_sealed(state);
        let Some(tls) = &mut state.tls else { return };
        tls.fail(error);
        if !speaks {
            self.end_failed(state);
        } else if tls.timer.is_none() {
            self.limit_tls(state);
        }
    }

    /// Ends a connection whose TLS has failed.
    pub(super) fn end_failed(self: &Rc<Self>, state: &mut State) {
        let failure = state.tls.as_mut().and_then(|tls| tls.take_failure());
        if let Some(error) = failure {
            self.peer_gone(state, error);
        }
    }

    /// Encrypts what is to be sent; `None` where that fails, and with it the connection.
    pub(super) fn seal(self: &Rc<Self>, state: &mut State, plain: SendBuf) -> Option<SendBuf> {
        let tls = state.tls.as_mut()?;
        let mut sealed = self.shared.buffer();
        let done = tls.seal(&plain, &mut sealed);
        if let SendBuf::Owned(plain) = plain {
            self.shared.recycle(plain);
        }
        match done {
            Ok(()) => Some(sealed.into()),
            Err(e) => {
                self.peer_gone(state, e);
                None
            }
        }
    }

    /// Sends, or waits to send, what goes before all that is queued: the rest of what was sealed, or
    /// what TLS has to say. False where there is nothing.
    pub(super) fn send_sealed(self: &Rc<Self>, state: &mut State) -> bool {
        let (Some(tls), Some(socket)) = (&mut state.tls, state.fd.clone()) else {
            return false;
        };
        if tls.has_failed() {
            return true;
        }
        if tls.sealed.is_empty() {
            if !tls.has_to_speak() {
                return false;
            }
            if let Err(e) = tls.speak(self.shared.buffer()) {
                self.peer_gone(state, e);
                return true;
            }
        }
        if state.out.is_full() {
            self.wait_for_room(state);
            return true;
        }
        let buf = std::mem::take(&mut tls.sealed);
        self.send_as_is(state, socket, buf.into(), false);
        true
    }

    /// Says, once, that nothing more will come. False where that was done, or nobody is to be told.
    pub(super) fn notify_close(self: &Rc<Self>, state: &mut State) -> bool {
        let notified = state.tls.as_mut().is_some_and(|tls| tls.notify());
        notified && self.send_sealed(state)
    }

    /// The kernel took so many bytes of a send: how many of them are plaintext in whole records.
    pub(super) fn records_taken(&self, state: &mut State, taken: usize, op: Option<Op>) -> usize {
        let Some(tls) = &mut state.tls else { return 0 };
        if let Some(Op::Send {
            buf: SendBuf::Owned(mut rest),
            ..
        }) = op
        {
            rest.advance(taken.min(rest.len()));
            match rest.is_empty() {
                true => self.shared.recycle(rest),
                false => tls.sealed = rest,
            }
        }
        tls.took(taken)
    }

    /// The connection is over, and with it the session.
    pub(super) fn end_tls(&self, state: &mut State) {
        let timer = state.tls.take().and_then(|tls| tls.timer);
        if let Some(timer) = timer {
            self.handle.cancel(timer);
        }
    }
}
