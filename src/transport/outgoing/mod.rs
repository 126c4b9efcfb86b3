//! The writing half: makes the next outgoing operation from the queue's head, and takes its
//! completion in. At most one is under way at a time.
//!
//! Small things are gathered: bytes written, and files small enough to be copied, go into one
//! buffer and leave in one send. Larger files leave natively, piece by piece, the bytes before
//! them as a header. Large bytes are sent from where they are.
//!
//! What was gathered is only counted as such (`gathered` in the queue's entries); it stays in the
//! queue until the kernel took it. So a send that was cut short, cancelled or refused costs no
//! more than gathering again, and a stalled peer holds no buffer: after a short send the socket is
//! polled before the next.

mod fetch;
mod send;
mod taken;

use std::rc::Rc;
use std::time::Instant;

use proactor::{Interest, Op, Token, net};

use super::appetite::Appetite;
use super::conn::{Conn, Key, Medium, Phase, State, WriteEnd};
use super::file::Next;
use crate::route::{Decision, Route};
use crate::send::End;
use send::LARGE;

/// At most so many bytes go before a file as its header.
const HEADER: usize = 16 << 10;

/// What the outgoing operation is.
enum Doing {
    /// A send of gathered bytes: so many.
    Send(usize),
    /// A send of what was read of a stream.
    Chunk(u64, usize),
    /// A native piece of a file, behind a header of so many bytes.
    Piece {
        id: u64,
        header: usize,
        route: Route,
    },
    /// A read of a file into the buffer of gathered bytes.
    Fill(u64),
    /// A read of a stream.
    Stream(u64),
    /// A wait until a stream can be read.
    StreamReady,
    /// A reader's read on a worker.
    Reader(u64),
    /// Opening a file once more.
    Reopen(u64),
    /// A wait for room in the socket.
    Room,
    /// A wait for the time when more may leave.
    Pace,
}

impl Doing {
    /// Whether no byte leaves before a source has some, or its time comes.
    fn waits_for_source(&self) -> bool {
        match self {
            Doing::Send(_) | Doing::Chunk(..) | Doing::Piece { .. } | Doing::Room => false,
            Doing::Fill(_)
            | Doing::Stream(_)
            | Doing::StreamReady
            | Doing::Reader(_)
            | Doing::Reopen(_)
            | Doing::Pace => true,
        }
    }
}

/// The outgoing operation, and what the last one left behind.
#[derive(Default)]
pub(crate) struct Out {
    /// The number of the last operation.
    number: u32,
    busy: Option<(Token, Doing)>,
    /// A cancel of the operation has been asked for.
    interrupted: bool,
    /// The kernel did not take all of the last send: wait for room.
    full: bool,
    /// Something may be held back for what follows (`MSG_MORE`).
    corked: bool,
    /// The socket was told to hold back what is no full segment.
    held: bool,
    /// The last send's end left nothing in the queue.
    drained: bool,
    /// Who was told of that queued the next at once: more will follow what is sent now.
    streams: bool,
    /// Sends in the queue are to be stopped.
    stops: bool,
    appetite: Appetite,
    /// The operation under way counts among the large ones.
    large: bool,
    /// Bytes that the kernel has taken since the beginning.
    pub(crate) sent: u64,
    /// The protocol is told of them.
    pub(crate) tells: bool,
}

impl Out {
    pub(crate) fn is_idle(&self) -> bool {
        self.busy.is_none()
    }

    /// Whether the kernel took less than it got last.
    #[cfg(feature = "tls")]
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// The number of the operation under way.
    pub(crate) fn number(&self) -> Option<u32> {
        self.busy.as_ref().map(|_| self.number)
    }

    /// The operation's completion will not come.
    pub(crate) fn abandon(&mut self) {
        self.busy = None;
        self.large = false;
    }
}

impl Conn {
    /// Starts what is next, if nothing is under way. Returns early where something is to be told
    /// first.
    pub(crate) fn flush(self: &Rc<Self>, state: &mut State) {
        while state.out.is_idle()
            && state.events.is_empty()
            && matches!(state.phase, Phase::Open | Phase::Closing)
        {
            if state.out.stops {
                self.finish_stopped(state);
                // They may cut the connection once they are told of: nothing leaves before.
                continue;
            }
            if let Some(file) = state.queue.file_mut(0) {
                file.start();
                if let Some(end) = file.verdict()
                    && let Some(file) = state.queue.take(0)
                {
                    self.finish(&mut state.events, file, end);
                    state.out.drained = state.queue.is_empty();
                    continue;
                }
                state.queue.recount(0);
            }
            // What is encrypted goes first.
            if state.tls.is_some() && self.send_sealed(state) {
                return;
            }
            let drained = std::mem::take(&mut state.out.drained);
            if state.queue.is_empty() {
                state.out.streams = false;
                self.idle(state);
                return;
            }
            state.out.streams |= drained;
            if state.out.full {
                self.wait_for_room(state);
                return;
            }
            self.start_next(state);
        }
    }

    /// Nothing is queued.
    fn idle(self: &Rc<Self>, state: &mut State) {
        let Some(fd) = state.fd.clone() else { return };
        state.out.full = false;
        state.queue.shrink();
        self.push_out(state);
        let ends = state.write_end == WriteEnd::Wanted || matches!(state.phase, Phase::Closing);
        if ends && state.tls.is_some() && self.notify_close(state) {
            return;
        }
        if state.write_end == WriteEnd::Wanted {
            state.write_end = WriteEnd::Done;
            if let Err(e) = net::shutdown(&fd, std::net::Shutdown::Write) {
                self.peer_gone(state, e);
                return;
            }
        }
        if matches!(state.phase, Phase::Closing) {
            self.begin_ending(state, None, End::Cancelled);
        }
    }

    /// Pushes out what was held back for bytes to follow: they don't come now.
    pub(crate) fn push_out(&self, state: &mut State) {
        let (corked, held) = (
            std::mem::take(&mut state.out.corked),
            std::mem::take(&mut state.out.held),
        );
        if (corked || held)
            && self.medium == Medium::Tcp
            && let Some(fd) = &state.fd
        {
            net::push_out(fd);
        }
    }

    /// Has the socket send full segments only, until `push_out`: where one small send follows the
    /// other, each would else be a segment of its own.
    fn hold_back(&self, state: &mut State) {
        if !state.out.held
            && self.medium == Medium::Tcp
            && let Some(fd) = &state.fd
        {
            state.out.appetite.begin(fd, self.shared.large.get());
            state.out.held = net::hold_back(fd);
        }
    }

    fn start(self: &Rc<Self>, state: &mut State, op: Op, doing: Doing) {
        if !matches!(state.phase, Phase::Open | Phase::Closing) {
            return self.reclaim(Some(op));
        }
        if doing.waits_for_source() {
            self.push_out(state);
        }
        state.out.number = state.out.number.wrapping_add(1);
        state.out.interrupted = false;
        let key = Key::Out(state.out.number);
        self.begin_large(state, &op);
        match self.submit(op, key) {
            Some(token) => state.out.busy = Some((token, doing)),
            None => self.proactor_gone(state),
        }
    }

    /// Bounds what may wait unsent for the peer, before an operation of many bytes.
    fn begin_large(&self, state: &mut State, op: &Op) {
        let len = match op {
            Op::SendFile(op) => op.len,
            Op::Send { buf, .. } if state.tls.is_some() => {
                // A file goes in many sends, as many bytes as it is.
                let file = state.queue.file_mut(0);
                let left = file.map_or(0, |file| file.left().unwrap_or(u64::MAX));
                left.saturating_add(buf.len() as u64)
            }
            Op::Send { buf, .. } => buf.len() as u64,
            Op::SendVectored { bufs, .. } => bufs.iter().map(|b| b.len() as u64).sum(),
            _ => 0,
        };
        state.out.large = self.medium == Medium::Tcp && Appetite::matters(len);
        if state.out.large
            && let Some(fd) = &state.fd
        {
            state.out.appetite.begin(fd, self.shared.large.get());
            self.shared.large.set(self.shared.large.get() + 1);
        }
    }

    /// An operation is over, perhaps one of many bytes.
    fn end_large(&self, state: &mut State, taken: u64) {
        if std::mem::take(&mut state.out.large) {
            self.shared.large.set(self.shared.large.get() - 1);
        }
        if let Some(fd) = &state.fd {
            state.out.appetite.took(fd, taken);
        }
    }

    pub(super) fn wait_for_room(self: &Rc<Self>, state: &mut State) {
        let Some(fd) = state.fd.clone() else { return };
        state.out.full = false;
        let interest = Interest::WRITABLE;
        self.start(state, Op::Poll { fd, interest }, Doing::Room);
    }

    fn wait_until(self: &Rc<Self>, state: &mut State, at: Instant) {
        self.start(state, Op::Timeout { at }, Doing::Pace);
    }

    /// Makes an operation of the queue's head. Where that shows a send to be over, none.
    fn start_next(self: &Rc<Self>, state: &mut State) {
        let Some(socket) = state.fd.clone() else {
            return;
        };
        let streams = state.out.streams;
        let (data, data_len) = state.queue.leading_data();
        let Some(file) = state.queue.file_mut(data) else {
            return self.send_data(state, socket, data, data_len, false);
        };
        file.start();
        state.queue.recount(data);
        let Some(file) = state.queue.file_mut(data) else {
            return;
        };
        match file.next() {
            Next::Head if file.head.len() >= LARGE => {
                if data == 0 {
                    return self.send_head(state, socket);
                }
                self.send_data(state, socket, data, data_len, false);
            }
            Next::Over(End::Complete | End::EndOfFile) | Next::Head => {
                self.send_data(state, socket, data, data_len, true);
            }
            Next::Seekable => match file.decide(self.shared.backend, streams) {
                Decision::Copy => self.send_data(state, socket, data, data_len, true),
                Decision::Native(route, len) if data_len <= HEADER => {
                    self.send_piece(state, socket, data, data_len, route, len);
                }
                Decision::Native(..) => self.send_data(state, socket, data, data_len, false),
                Decision::Refuse if data > 0 => {
                    self.send_data(state, socket, data, data_len, false);
                }
                Decision::Refuse => file.refuse(),
            },
            _ if data > 0 => self.send_data(state, socket, data, data_len, false),
            Next::Chunk => self.send_chunk(state, socket),
            Next::Stream => match file.decide(self.shared.backend, streams) {
                Decision::Native(route, len) => {
                    self.send_piece(state, socket, 0, 0, route, len);
                }
                Decision::Copy => self.read_stream(state),
                Decision::Refuse => file.refuse(),
            },
            Next::Reader => self.read_reader(state),
            Next::Reopen => self.reopen(state),
            Next::Over(_) => {}
        }
    }

    /// Asks the operation under way to end. One that only fetches bytes is left to itself: its
    /// completion changes nothing any more, and may take its time.
    pub(crate) fn interrupt(self: &Rc<Self>, state: &mut State) {
        let Some((token, doing)) = &state.out.busy else {
            return;
        };
        self.handle.cancel(*token);
        state.out.interrupted = true;
        if matches!(
            doing,
            Doing::Fill(_)
                | Doing::Stream(_)
                | Doing::StreamReady
                | Doing::Reader(_)
                | Doing::Reopen(_)
        ) {
            state.out.busy = None;
            state.queue.ungather();
        }
    }

    /// Stops a send.
    pub(crate) fn stop(self: &Rc<Self>, state: &mut State, id: u64, end: End) {
        let Some(at) = state.queue.find(id) else {
            return;
        };
        let Some(file) = state.queue.file_mut(at) else {
            return;
        };
        if file.verdict().is_some() {
            return;
        }
        // Over TLS what was gathered stays so until it has left.
        let gathered = file.gathered > 0;
        let busy = match &state.out.busy {
            _ if gathered => true,
            None => false,
            Some((_, Doing::Room | Doing::Pace | Doing::StreamReady)) => at == 0,
            Some((_, Doing::Send(_))) => false,
            Some((
                _,
                Doing::Chunk(of, _)
                | Doing::Piece { id: of, .. }
                | Doing::Fill(of)
                | Doing::Stream(of)
                | Doing::Reader(of)
                | Doing::Reopen(of),
            )) => *of == id,
        };
        if !busy && file.sent == 0 {
            if let Some(file) = state.queue.take(at) {
                self.finish(&mut state.events, file, end);
            }
            return;
        }
        file.stop.get_or_insert(end);
        state.out.stops = true;
        if busy && !state.out.interrupted {
            self.interrupt(state);
        }
    }

    /// Ends the sends that were to be stopped when an operation had something of them.
    fn finish_stopped(self: &Rc<Self>, state: &mut State) {
        state.out.stops = false;
        while let Some(file) = state.queue.take_where(|file| file.may_stop()) {
            let end = file.verdict().or(file.stop).unwrap_or(End::Cancelled);
            self.finish(&mut state.events, file, end);
        }
    }
}
