//! The reading half: what keeps receiving, and what arrived while delivery was paused.
//!
//! A socket has one multishot receive under way as long as it is read from. A pipe is polled, and
//! read once there is something, so that an idle one holds no buffer. Of a pipe's writing end,
//! which can't be read, the poll tells when the other end is gone.

use std::collections::VecDeque;
use std::io;
use std::ops::Deref;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use proactor::{Completion, Fd, Interest, Op, Output, RecvBuf, SendBuf, Token};

use super::conn::{Conn, Key, Medium, Phase, State};
use super::events::Event;
use super::shared::Shared;

/// Bytes that arrived, or the end of them.
pub(crate) enum Received {
    Lease(RecvBuf),
    Buffer(BytesMut),
    Held(Bytes),
    End,
}

impl Received {
    pub(crate) fn is_end(&self) -> bool {
        matches!(self, Received::End)
    }

    pub(crate) fn into_buf(self) -> SendBuf {
        match self {
            Received::Lease(bytes) => Bytes::copy_from_slice(&bytes).into(),
            Received::Buffer(bytes) => bytes.into(),
            Received::Held(bytes) => bytes.into(),
            Received::End => SendBuf::new(),
        }
    }

    pub(crate) fn recycle(self, shared: &Shared) {
        if let Received::Buffer(buffer) = self {
            shared.recycle(buffer);
        }
    }
}

impl Deref for Received {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Received::Lease(bytes) => bytes,
            Received::Buffer(bytes) => bytes,
            Received::Held(bytes) => bytes,
            Received::End => &[],
        }
    }
}

/// What a stream had brought when it was given to somebody else, and whether that was all.
pub(crate) struct Ceded {
    pub(crate) fd: Fd,
    pub(crate) head: Bytes,
    pub(crate) ended: bool,
}

/// Is told once nobody else reads; without a [`Ceded`] where the connection is gone.
pub(crate) type OnCeded = Box<dyn FnOnce(Option<Ceded>)>;

pub(crate) struct Reading {
    /// The user wants to be told.
    wanted: bool,
    op: Option<Token>,
    /// A cancel of `op` has been asked for.
    cancelling: bool,
    /// The stream has ended.
    over: bool,
    /// Who wants the stream for good.
    heir: Option<OnCeded>,
    /// It was given away: nothing is read here any more.
    ceded: bool,
    /// What arrived while the user did not want it, or while the stream is another's.
    held: VecDeque<Received>,
}

impl Reading {
    pub(crate) fn new(wanted: bool) -> Reading {
        Reading {
            wanted,
            op: None,
            cancelling: false,
            over: false,
            heir: None,
            ceded: false,
            held: VecDeque::new(),
        }
    }

    pub(crate) fn wanted(&self) -> bool {
        self.wanted
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.op.is_none()
    }

    /// Keeps what must not be delivered now. The proactor's buffers are few: it is copied.
    pub(crate) fn hold(&mut self, received: Received, shared: &Shared) {
        let held = match &received {
            Received::Lease(_) | Received::Buffer(_) => {
                Received::Held(Bytes::copy_from_slice(&received))
            }
            Received::Held(bytes) => Received::Held(bytes.clone()),
            Received::End => Received::End,
        };
        received.recycle(shared);
        self.held.push_back(held);
    }

    pub(crate) fn pause(&mut self) {
        self.wanted = false;
    }

    /// Gives out what was held, before what else is to be told; where the stream is `taken`, later.
    /// False if it was not paused.
    pub(crate) fn resume(&mut self, taken: bool, events: &mut VecDeque<Event>) -> bool {
        if self.wanted {
            return false;
        }
        self.wanted = true;
        if taken {
            return true;
        }
        for received in std::mem::take(&mut self.held).into_iter().rev() {
            events.push_front(Event::Received(received));
        }
        true
    }

    /// Whether the stream is not the protocol's.
    pub(crate) fn is_ceded(&self) -> bool {
        self.ceded || self.heir.is_some()
    }

    /// Gives the stream away, for good, as soon as it can be.
    pub(crate) fn cede(&mut self, heir: OnCeded) {
        self.heir = Some(heir);
    }

    /// Gives up on giving it away.
    pub(crate) fn take_heir(&mut self) -> Option<OnCeded> {
        self.heir.take()
    }

    /// The stream is no longer taken: what is held is to be told, if it is wanted.
    pub(crate) fn release(&mut self, events: &mut VecDeque<Event>) {
        if self.wanted {
            events.extend(self.held.drain(..).map(Event::Received));
        }
    }

    /// Whether the stream has ended.
    #[cfg(feature = "tls")]
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// How many bytes are held.
    #[cfg(feature = "tls")]
    pub(super) fn held_len(&self) -> usize {
        self.held.iter().map(|received| received.len()).sum()
    }

    /// Bytes that arrived and were not delivered, the first of them.
    pub(crate) fn take_held(&mut self) -> Option<Received> {
        match self.held.front() {
            None | Some(Received::End) => None,
            Some(_) => self.held.pop_front(),
        }
    }

    /// Takes bytes back that are to come before all that is held, or `behind` it.
    pub(crate) fn put_back(&mut self, received: Received, behind: bool) {
        if behind {
            self.held.push_back(received);
        } else {
            self.held.push_front(received);
        }
    }

    /// Whether the stream has ended, with nothing held before its end.
    pub(crate) fn is_at_end(&self) -> bool {
        self.over && self.held.front().is_none_or(Received::is_end)
    }

    /// The stream was found to end, by who has taken it.
    pub(crate) fn end_here(&mut self) {
        if !std::mem::replace(&mut self.over, true) {
            self.held.push_back(Received::End);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.held = VecDeque::new();
    }

    /// The operation's completion will not come.
    pub(crate) fn abandon(&mut self) {
        self.op = None;
    }
}

impl Conn {
    /// Starts or stops the receiving, as it is wanted now.
    pub(crate) fn update_reading(self: &Rc<Self>, state: &mut State) {
        let watching = matches!(
            self.medium,
            Medium::Pipe {
                readable: false,
                ..
            }
        );
        let taken = state.is_taken();
        let tls = state.tls.is_some() && Conn::tls_reads(state);
        let open = match state.phase {
            Phase::Open => true,
            // TLS has to be heard to the end.
            Phase::Closing => state.tls.is_some(),
            Phase::Ending { .. } | Phase::Lost { .. } => false,
        };
        let reading = &mut state.reading;
        let asked = (reading.wanted && !taken) || watching || tls;
        let wanted = open && !reading.over && asked;
        match reading.op {
            Some(token) if !wanted && !reading.cancelling => {
                reading.cancelling = true;
                self.handle.cancel(token);
            }
            None if wanted => {
                let Some(fd) = state.fd.clone() else { return };
                let op = match self.medium {
                    Medium::Tcp | Medium::Socket => Op::RecvMulti { socket: fd },
                    Medium::Pipe { .. } => Op::Poll {
                        fd,
                        interest: Interest::READABLE,
                    },
                };
                reading.op = self.submit(op, Key::Receive);
            }
            _ => {}
        }
    }

    /// Gives the stream away, if somebody wants it and nobody reads.
    pub(crate) fn cede_reading(&self, state: &mut State) {
        let idle = state.reading.is_idle() && state.events.is_empty() && !state.receiving.is_any();
        if !idle || !matches!(state.phase, Phase::Open) {
            return;
        }
        let Some(fd) = state.fd.clone() else { return };
        let reading = &mut state.reading;
        if let Some(heir) = reading.heir.take() {
            reading.ceded = true;
            let mut head = BytesMut::new();
            for received in reading.held.drain(..) {
                head.extend_from_slice(&received);
            }
            let ceded = Ceded {
                fd,
                head: head.freeze(),
                ended: reading.over,
            };
            state.events.push_back(Event::Ceded(heir, Box::new(ceded)));
        }
    }

    pub(crate) fn received(self: &Rc<Self>, state: &mut State, completion: Completion) {
        let reading = &mut state.reading;
        let mut asked = reading.cancelling;
        if completion.op.is_some() {
            reading.op = None;
            asked = std::mem::take(&mut reading.cancelling);
        }
        let cancelled = completion.is_cancelled();
        match completion.result {
            Ok(Output::Data(data)) if data.is_empty() && state.tls.is_some() => {
                self.sealed_ended(state);
            }
            Ok(Output::Data(data)) if data.is_empty() => self.received_end(state),
            Ok(Output::Data(data)) if state.tls.is_some() => self.sealed_arrived(state, &data),
            Ok(Output::Data(data)) => {
                let received = Received::Lease(data);
                state.events.push_back(Event::Received(received));
            }
            Ok(Output::Ready(_)) => self.pipe_ready(state),
            Ok(_) => match completion.op {
                Some(Op::Read { buf, .. }) if completion.transferred > 0 => {
                    let received = Received::Buffer(buf);
                    state.events.push_back(Event::Received(received));
                }
                Some(Op::Read { buf, .. }) => {
                    self.shared.recycle(buf);
                    self.received_end(state);
                }
                _ => {}
            },
            Err(_) if cancelled => {
                if let Some(Op::Read { buf, .. }) = completion.op {
                    self.shared.recycle(buf);
                }
                if !asked {
                    self.proactor_gone(state);
                }
            }
            // All buffers were ceded out, or the readiness was not: it is started again.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN)) => {}
            Err(e) => self.peer_gone(state, e),
        }
    }

    pub(super) fn received_end(&self, state: &mut State) {
        state.reading.over = true;
        state.events.push_back(Event::Received(Received::End));
    }

    fn pipe_ready(self: &Rc<Self>, state: &mut State) {
        if self.medium
            == (Medium::Pipe {
                readable: false,
                writable: true,
            })
        {
            self.peer_gone(state, io::Error::from_raw_os_error(libc::EPIPE));
            return;
        }
        let asked = state.reading.wanted && !state.is_taken();
        if !asked || !matches!(state.phase, Phase::Open) {
            return;
        }
        if let Some(file) = state.fd.clone() {
            let op = Op::Read {
                file,
                buf: self.shared.buffer(),
                len: Shared::BUFFER,
                offset: None,
            };
            state.reading.op = self.submit(op, Key::Receive);
        }
    }
}
