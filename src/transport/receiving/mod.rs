//! Receives of files: while one is queued, the stream's bytes are its own. What had arrived before
//! goes first; then the kernel moves them (`Op::Forward`), or they are copied. One operation is
//! under way at a time. What a receive has taken off the stream and not put into its file when it
//! ends is the next one's, or the protocol's.

mod file;

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use proactor::{Completion, Forward, ForwardEnd, Interest, Op, Output, SendBuf, Token};

use super::conn::{Conn, Key, Medium, Phase, State};
use super::events::Event;
use super::file::copy_error;
use super::reading::Received;
use super::shared::Shared;
use crate::receive::ReceiveOptions;
use crate::route::{Decision, Route, is_refusal, method};
use crate::send::End;
use crate::sink::Sink;
use file::Next;
pub(crate) use file::{FileReceive, OnReceived};

/// What the operation is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// The kernel moves a piece.
    Forward(Route),
    /// A wait until there is something to be copied.
    Readable,
    /// A read of what is to be copied.
    Recv,
    /// A write of what is at hand.
    Write,
    Sync,
    /// A wait for the time when more may come.
    Pace,
}

/// The receives, in the order of the calls, and the operation of the first.
#[derive(Default)]
pub(crate) struct Receiving {
    queue: VecDeque<Box<FileReceive>>,
    /// The number of the last operation.
    number: u32,
    busy: Option<(Token, Doing)>,
    /// A cancel of the operation has been asked for.
    interrupted: bool,
}

impl Receiving {
    pub(crate) fn is_idle(&self) -> bool {
        self.busy.is_none()
    }

    /// Whether the stream's bytes are a receive's.
    pub(crate) fn is_any(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The operation's completion will not come.
    pub(crate) fn abandon(&mut self) {
        self.busy = None;
    }

    pub(crate) fn find(&mut self, id: u64) -> Option<&mut FileReceive> {
        let found = self.queue.iter_mut().find(|receive| receive.id == id);
        found.map(|receive| &mut **receive)
    }
}

impl Conn {
    pub(crate) fn receive_file(
        self: &Rc<Self>,
        sink: Sink,
        mut options: ReceiveOptions,
        on_received: OnReceived,
    ) -> u64 {
        let timeout = options.timeout;
        let prefix = std::mem::take(&mut options.prefix);
        let mut state = self.state.borrow_mut();
        let id = state.next_id;
        state.next_id += 1;
        self.shared.stats.borrow_mut().receives += 1;
        let mut receive = Box::new(FileReceive::new(id, sink, options, on_received));
        let refused = match state.phase {
            Phase::Open if state.reading.is_ceded() => Some(receive.not_its_own()),
            Phase::Open => None,
            _ => Some(End::Closing),
        };
        if let Some(end) = refused {
            receive.close(end);
            state.events.push_back(Event::FileReceived(receive));
            self.tell(state);
            return id;
        }
        if let Some(at) = timeout.and_then(|timeout| proactor::now().checked_add(timeout)) {
            receive.deadline = self.submit(Op::Timeout { at }, Key::Deadline(id));
        }
        if !prefix.is_empty() {
            let behind = state.receiving.is_any();
            state.reading.put_back(Received::Held(prefix), behind);
        }
        state.receiving.queue.push_back(receive);
        if state.made {
            self.update_reading(&mut state);
        }
        self.poke(&mut state);
        id
    }

    /// Ends a receive before its time.
    pub(crate) fn stop_receive(self: &Rc<Self>, id: u64, end: End) {
        let mut state = self.state.borrow_mut();
        self.stop_receive_in(&mut state, id, end);
        self.poke(&mut state);
    }

    pub(crate) fn is_received(&self, id: u64) -> bool {
        self.state.borrow_mut().receiving.find(id).is_none()
    }

    pub(super) fn stop_receive_in(self: &Rc<Self>, state: &mut State, id: u64, end: End) {
        let queue = &mut state.receiving.queue;
        let Some(at) = queue.iter().position(|receive| receive.id == id) else {
            return;
        };
        // One that waits for its turn need not wait for that.
        if at > 0 {
            self.end_receive(state, at, end);
        } else if queue[at].verdict().is_none() {
            queue[at].stop.get_or_insert(end);
            self.interrupt_receiving(state);
        }
    }

    /// Ends all receives, since nothing more will be read.
    pub(super) fn stop_receives(self: &Rc<Self>, state: &mut State) {
        for receive in &mut state.receiving.queue {
            receive.stop.get_or_insert(End::Cancelled);
        }
        self.interrupt_receiving(state);
    }

    /// Asks the operation under way to end.
    pub(super) fn interrupt_receiving(&self, state: &mut State) {
        if let Some((token, _)) = &state.receiving.busy
            && !state.receiving.interrupted
        {
            state.receiving.interrupted = true;
            self.handle.cancel(*token);
        }
    }

    /// Goes on with the first receive, if nothing is under way. Returns early where something is
    /// to be told first.
    pub(super) fn go_on_receiving(self: &Rc<Self>, state: &mut State) {
        while state.receiving.is_idle()
            && state.events.is_empty()
            && matches!(state.phase, Phase::Open | Phase::Closing)
        {
            // What was held has been dropped by a close: its absence says nothing then.
            let open = matches!(state.phase, Phase::Open);
            let State {
                receiving, reading, ..
            } = state;
            let Some(receive) = receiving.queue.front_mut() else {
                return;
            };
            receive.start();
            while receive.left() != Some(0)
                && let Some(arrived) = reading.take_held()
            {
                if let Some(rest) = receive.take(arrived) {
                    reading.put_back(Received::Held(rest), false);
                }
            }
            receive.ended |= open && reading.is_at_end();
            match receive.next() {
                Next::Over(end) => self.end_receive(state, 0, end),
                Next::Sync => {
                    let op = Op::Sync {
                        file: receive.fd().clone(),
                        data_only: receive.syncs_data_only(),
                    };
                    self.start_receiving(state, op, Doing::Sync);
                }
                Next::Go => {
                    self.bring(state);
                    if state.receiving.is_idle() {
                        // What is still being received goes first.
                        return;
                    }
                }
            }
        }
    }

    /// A receive is over.
    fn end_receive(self: &Rc<Self>, state: &mut State, at: usize, end: End) {
        if let Some(mut receive) = state.receiving.queue.remove(at) {
            self.close_receive(&mut receive, end);
            let leftover = receive.leftover();
            if !leftover.is_empty() {
                state.reading.put_back(Received::Held(leftover), false);
            }
            state.events.push_back(Event::FileReceived(receive));
        }
        if !state.receiving.is_any() {
            state.reading.release(&mut state.events);
        }
    }

    fn close_receive(&self, receive: &mut FileReceive, end: End) {
        if let Some(deadline) = receive.deadline.take() {
            self.handle.cancel(deadline);
        }
        receive.close(end);
    }

    /// The connection ends, and with it what is queued.
    pub(super) fn clear_receives(&self, state: &mut State, error: Option<&io::Error>, end: End) {
        while let Some(mut receive) = state.receiving.queue.pop_front() {
            let end = receive.verdict().unwrap_or_else(|| {
                if let (End::PeerGone, Some(e)) = (end, error) {
                    receive.failure = Some(copy_error(e));
                }
                end
            });
            self.close_receive(&mut receive, end);
            state.events.push_back(Event::FileReceived(receive));
        }
    }

    /// Starts the operation that brings the first receive's next bytes into its file.
    fn bring(self: &Rc<Self>, state: &mut State) {
        // Over TLS all that comes has been read by the connection.
        let reading = !state.reading.is_idle() || state.tls.is_some();
        let Some(receive) = state.receiving.queue.front_mut() else {
            return;
        };
        let Some(socket) = state.fd.clone() else {
            return;
        };
        let at_hand = receive.chunk.len() as u64;
        let more = match receive.ended {
            true => 0,
            false => receive.left().unwrap_or(u64::MAX),
        };
        let decision = receive.decide();
        let want = match decision {
            // Of what can't be spliced, or while others read, what is at hand is written.
            _ if at_hand > 0 && (reading || decision == Decision::Copy) => at_hand,
            Decision::Native(..) if !reading => at_hand.saturating_add(more),
            _ if reading => return,
            _ => more,
        };
        let want = match receive.allowed(want) {
            Ok(want) => want,
            Err(at) => return self.start_receiving(state, Op::Timeout { at }, Doing::Pace),
        };
        let file = receive.fd().clone();
        let offset = receive.offset();
        match decision {
            Decision::Native(route, _) if !reading => {
                let head = receive.head(usize::try_from(want).unwrap_or(usize::MAX));
                let op = Op::Forward(Box::new(Forward {
                    len: want - head.len() as u64,
                    head,
                    from: socket,
                    to: file,
                    offset,
                    some: receive.progress.is_some(),
                    method: method(route),
                }));
                self.start_receiving(state, op, Doing::Forward(route));
            }
            _ if at_hand > 0 => {
                let buf = receive.head(usize::try_from(want).unwrap_or(usize::MAX));
                self.start_receiving(state, Op::Write { file, buf, offset }, Doing::Write);
            }
            _ if receive.dry => {
                let interest = Interest::READABLE;
                self.start_receiving(
                    state,
                    Op::Poll {
                        fd: socket,
                        interest,
                    },
                    Doing::Readable,
                );
            }
            _ => {
                let mut buf = self.shared.buffer();
                let len = usize::try_from(want)
                    .unwrap_or(usize::MAX)
                    .min(Shared::BUFFER);
                let op = match self.medium {
                    Medium::Pipe { .. } => Op::Read {
                        file: socket,
                        buf,
                        len,
                        offset: None,
                    },
                    Medium::Tcp | Medium::Socket => {
                        if len < Shared::BUFFER {
                            buf = bytes::BytesMut::with_capacity(len);
                        }
                        Op::Recv { socket, buf }
                    }
                };
                self.start_receiving(state, op, Doing::Recv);
            }
        }
    }

    fn start_receiving(self: &Rc<Self>, state: &mut State, op: Op, doing: Doing) {
        let receiving = &mut state.receiving;
        receiving.number = receiving.number.wrapping_add(1);
        receiving.interrupted = false;
        let key = Key::In(receiving.number);
        match self.submit(op, key) {
            Some(token) => state.receiving.busy = Some((token, doing)),
            None => self.proactor_gone(state),
        }
    }

    /// Takes the completion of a receive's operation in.
    pub(super) fn came_in(self: &Rc<Self>, state: &mut State, number: u32, completion: Completion) {
        let current = state.receiving.number == number;
        let Some((_, doing)) = state.receiving.busy.take_if(|_| current) else {
            return;
        };
        if completion.is_cancelled() && !state.receiving.interrupted {
            self.proactor_gone(state);
        }
        let Some(receive) = state.receiving.queue.front_mut() else {
            return;
        };
        match doing {
            Doing::Forward(route) => self.forwarded(state, route, completion),
            Doing::Write => self.written(state, completion),
            Doing::Recv => self.copied_in(state, completion),
            // A cancelled one is begun again: all is in the file.
            Doing::Sync if completion.is_cancelled() => {}
            Doing::Sync => receive.synced(completion.result.map(drop)),
            Doing::Readable => match completion.result {
                Ok(_) => receive.dry = false,
                Err(e) if e.raw_os_error() == Some(libc::ECANCELED) => {}
                Err(e) => self.peer_gone(state, e),
            },
            Doing::Pace => {}
        }
        if let Some(receive) = state.receiving.queue.front()
            && receive.has_news()
            && receive.verdict().is_none()
        {
            state.events.push_back(Event::ReceiveProgress(receive.id));
        }
    }

    fn forwarded(self: &Rc<Self>, state: &mut State, route: Route, completion: Completion) {
        let Some(receive) = state.receiving.queue.front_mut() else {
            return;
        };
        if let Some(Op::Forward(op)) = completion.op {
            receive.unwritten(op.head);
        }
        receive.wrote(completion.transferred);
        if completion.transferred > 0 {
            receive.routes.insert(route);
            let mut stats = self.shared.stats.borrow_mut();
            stats.received.add(route, completion.transferred);
            receive.no_pipe = false;
        }
        match completion.result {
            Ok(Output::Forwarded(end)) => match end {
                ForwardEnd::Complete | ForwardEnd::Some => {}
                ForwardEnd::EndOfStream => state.reading.end_here(),
                ForwardEnd::NoPipe => {
                    receive.no_pipe = true;
                    self.shared.stats.borrow_mut().no_pipe += 1;
                }
                ForwardEnd::TargetFailed(e) => {
                    receive.native_failed(e);
                    self.shared.stats.borrow_mut().refused += u64::from(receive.refused);
                }
                ForwardEnd::SourceFailed(e) if is_refusal(&e, false) && !receive.refused => {
                    receive.refused = true;
                    self.shared.stats.borrow_mut().refused += 1;
                }
                ForwardEnd::SourceFailed(e) => self.peer_gone(state, e),
            },
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(e) => receive.failure = Some(e),
        }
    }

    fn written(&self, state: &mut State, completion: Completion) {
        let Some(receive) = state.receiving.queue.front_mut() else {
            return;
        };
        let n = completion.transferred;
        if let Some(Op::Write { mut buf, .. }) = completion.op {
            buf.advance(buf.len().min(n as usize));
            match buf {
                SendBuf::Owned(empty) if empty.is_empty() => self.shared.recycle(empty),
                rest => receive.unwritten(rest),
            }
        }
        receive.wrote(n);
        if n > 0 {
            receive.routes.insert(Route::Copy);
            self.shared.stats.borrow_mut().received.add(Route::Copy, n);
        }
        match completion.result {
            Ok(_) if n == 0 => receive.failure = Some(io::ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(e) => receive.failure = Some(e),
        }
    }

    /// What is to be copied has been read.
    fn copied_in(self: &Rc<Self>, state: &mut State, completion: Completion) {
        let Some(receive) = state.receiving.queue.front_mut() else {
            return;
        };
        let n = completion.transferred as usize;
        if let Some(Op::Recv { buf, .. } | Op::Read { buf, .. }) = completion.op {
            receive.dry = buf.len() < buf.capacity();
            receive.no_pipe = false;
            if let Some(rest) = receive.take(Received::Buffer(buf)) {
                state.reading.put_back(Received::Held(rest), false);
            }
        }
        match completion.result {
            Ok(_) if n == 0 => state.reading.end_here(),
            Ok(_) => {}
            Err(e) => match e.raw_os_error() {
                Some(libc::ECANCELED) => {}
                Some(libc::EAGAIN) => receive.dry = true,
                _ => self.peer_gone(state, e),
            },
        }
    }
}
