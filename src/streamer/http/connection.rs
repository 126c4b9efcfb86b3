//! One HTTP connection: requests in, responses queued in their order.
//!
//! Requests are taken up one after the other; none while a file is being opened for the one
//! before, nor while [`MAX_QUEUED`] responses wait or the transport says that enough is queued.
//! What arrives meanwhile is kept, up to about [`MAX_HEAD`] bytes, then reading pauses.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use bytes::{Buf, BytesMut};

use crate::streamer::gate::Pass;
use crate::streamer::server::Shared;
use crate::{Protocol, Transport};

use super::body::{Body, Lost};
use super::ends::LINGER_BYTES;
use super::exchanges::{Exchanges, head_of};
use super::request::{MAX_HEAD, MAX_TARGET, Parsed, as_ours, parse};
use super::status::Status;

/// How many files may be under way before the next request is looked at.
const MAX_QUEUED: usize = 16;

/// How many bytes may be queued in memory before files are sent rather than read.
pub(super) const MAX_WRITTEN: usize = 64 << 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Requests are read and answered.
    Open,
    /// A file is being opened for the response that is due, or made or placed for an upload.
    Opening,
    /// A request's body becomes a file.
    Receiving,
    /// The last response is queued, the end of the stream behind it; what comes is thrown away.
    Lingering,
    /// Closed, but for what is queued.
    Closing,
}

pub(super) struct State {
    pub(super) phase: Phase,
    /// `None` before it is made, and when it is lost.
    pub(super) transport: Option<Transport>,
    /// Received and not yet taken up.
    pub(super) input: BytesMut,
    /// What is left of a request's body.
    pub(super) body: Body,
    /// An empty line was taken off before the next request.
    empty_line: bool,
    /// File responses under way.
    pub(super) queued: usize,
    /// The transport has enough queued.
    pub(super) write_paused: bool,
    /// We asked for no more data.
    pub(super) read_paused: bool,
    /// The client has sent all that it will.
    pub(super) eof: bool,
    /// Bytes thrown away while lingering.
    pub(super) discarded: usize,
    /// The tick since which we wait for the client.
    pub(super) since: u32,
    /// How much the client had taken when that was last looked at.
    pub(super) taken: u64,
}

/// A connection, as its server and its callbacks know it.
pub(crate) struct Connection {
    pub(super) server: Rc<Shared>,
    pub(super) key: Cell<Option<usize>>,
    place: Place,
    pub(super) state: RefCell<State>,
    /// `None` where nobody wants to know.
    pub(super) exchanges: Option<Box<Exchanges>>,
}

/// Whether a connection is one of those that there may be.
pub(crate) enum Place {
    /// They are not counted.
    Free,
    /// It has a place, for as long as it is there.
    Admitted(#[expect(dead_code, reason = "it is kept, not asked")] Pass),
    /// There are too many: it is told that, and ended.
    TurnedAway(#[expect(dead_code, reason = "it is kept, not asked")] Pass),
}

/// A connection, as its transport knows it.
pub(crate) struct Http(pub(crate) Rc<Connection>);

impl Protocol for Http {
    fn connection_made(&mut self, transport: &Transport) {
        self.0.made(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.0.received(transport, data);
    }

    fn eof_received(&mut self, _: &Transport) -> bool {
        self.0.ended()
    }

    fn pause_writing(&mut self, _: &Transport) {
        self.0.state.borrow_mut().write_paused = true;
    }

    fn resume_writing(&mut self, transport: &Transport) {
        self.0.state.borrow_mut().write_paused = false;
        self.0.take_up(transport);
    }

    fn bytes_sent(&mut self, _: &Transport, total: u64) {
        self.0.bytes_sent(total);
    }

    fn connection_lost(&mut self, error: Option<io::Error>) {
        if let Some(error) = &error {
            log::debug!("a connection ended: {error}");
        }
        self.0.lost(error.as_ref());
    }
}

impl Connection {
    pub(crate) fn new(server: Rc<Shared>, place: Place) -> Rc<Connection> {
        let since = server.tick();
        let exchanges = server.observers().map(Exchanges::new);
        Rc::new(Connection {
            server,
            key: Cell::new(None),
            place,
            state: RefCell::new(State {
                phase: Phase::Open,
                transport: None,
                input: BytesMut::new(),
                body: Body::None,
                empty_line: false,
                queued: 0,
                write_paused: false,
                read_paused: false,
                eof: false,
                discarded: 0,
                since,
                taken: 0,
            }),
            exchanges: exchanges.map(Box::new),
        })
    }

    fn made(self: &Rc<Self>, transport: &Transport) {
        self.state.borrow_mut().transport = Some(transport.clone());
        self.key.set(Some(self.server.add(Rc::clone(self))));
        let turned_away = matches!(self.place, Place::TurnedAway(_));
        self.begin_account(transport, !turned_away);
        if self.server.is_stopping() {
            self.close(transport);
        } else if turned_away {
            // Whatever it will ask for: it need not be waited for.
            self.begin_exchange(b"");
            let fields = "Retry-After: 1\r\n";
            self.refuse(transport, Status::UNAVAILABLE, fields, b"");
        }
    }

    fn lost(&self, error: Option<&io::Error>) {
        self.end_account(error);
        let transport = {
            let mut state = self.state.borrow_mut();
            state.phase = Phase::Closing;
            state.input = BytesMut::new();
            state.transport.take()
        };
        drop(transport);
        if let Some(key) = self.key.take() {
            self.server.remove(key);
        }
    }

    pub(super) fn transport(&self) -> Option<Transport> {
        self.state.borrow().transport.clone()
    }

    // What comes in.

    fn received(self: &Rc<Self>, transport: &Transport, data: &[u8]) {
        let mut state = self.state.borrow_mut();
        match state.phase {
            Phase::Open => {}
            Phase::Opening | Phase::Receiving => {
                state.input.extend_from_slice(data);
                drop(state);
                return self.settle(transport);
            }
            Phase::Lingering => {
                state.discarded += data.len();
                if state.discarded > LINGER_BYTES {
                    drop(state);
                    self.close(transport);
                }
                return;
            }
            Phase::Closing => return,
        }
        if state.input.is_empty() {
            let idle = state.body.is_over();
            drop(state);
            let taken = self.consume(transport, data);
            if taken < data.len() {
                let mut state = self.state.borrow_mut();
                state.input.extend_from_slice(&data[taken..]);
                if idle {
                    // A request begins. (The time for a body runs from its head on.)
                    state.since = self.server.tick();
                }
            }
            return self.settle(transport);
        }
        state.input.extend_from_slice(data);
        // A head can't be complete without a line's end; don't read it again for each byte.
        if data.contains(&b'\n') || state.input.len() > MAX_TARGET {
            drop(state);
            self.take_up(transport);
        }
    }

    /// Goes on with what has been received.
    pub(super) fn take_up(self: &Rc<Self>, transport: &Transport) {
        let mut input = std::mem::take(&mut self.state.borrow_mut().input);
        if !input.is_empty() {
            let taken = self.consume(transport, &input);
            input.advance(taken);
            self.state.borrow_mut().input = input;
        }
        self.settle(transport);
    }

    /// Answers requests, as far as that may be done now. Returns how many bytes were taken up.
    fn consume(self: &Rc<Self>, transport: &Transport, data: &[u8]) -> usize {
        let mut at = 0;
        loop {
            // What follows the head of an upload is its body; what follows another waits for the
            // response that comes first.
            if self.state.borrow().phase != Phase::Open {
                return at;
            }
            let skipped = self.state.borrow_mut().body.skip(&data[at..]);
            match skipped {
                Ok(n) => at += n,
                Err(Lost) => {
                    // It has its response; what comes can't be told from the body.
                    self.linger(transport);
                    return data.len();
                }
            }
            // One empty line before a request is no part of it, nor the beginning of one.
            if data[at..].starts_with(b"\r\n")
                && !std::mem::replace(&mut self.state.borrow_mut().empty_line, true)
            {
                at += 2;
            }
            let rest = &data[at..];
            if matches!(rest, b"" | b"\r") || !self.state.borrow().may_answer() {
                return at;
            }
            let ours;
            let mut parsed = parse(rest);
            if matches!(parsed, Parsed::Refused(Status::VERSION_NOT_SUPPORTED))
                && let Some(copy) = as_ours(rest)
            {
                ours = copy;
                parsed = parse(&ours);
            }
            match parsed {
                Parsed::Partial => {
                    self.exchange_begins();
                    return at;
                }
                Parsed::Refused(status) => {
                    self.begin_exchange(head_of(rest));
                    self.refuse(transport, status, "", rest);
                    return data.len();
                }
                Parsed::Complete(request) => {
                    self.begin_exchange(&rest[..request.len]);
                    self.state.borrow_mut().empty_line = false;
                    at += request.len;
                    let more = at < data.len();
                    self.answer(transport, request, more);
                }
            }
        }
    }

    /// After each step: closes what is over, and reads only as much as can be kept.
    pub(super) fn settle(&self, transport: &Transport) {
        let mut state = self.state.borrow_mut();
        let waits = state.waits();
        let pause = waits && state.input.len() >= MAX_HEAD;
        let change = pause != std::mem::replace(&mut state.read_paused, pause);
        let over = state.phase == Phase::Open && !waits && (state.eof || self.server.is_stopping());
        drop(state);
        if over {
            self.end(transport);
        } else if change && pause {
            transport.pause_reading();
        } else if change {
            transport.resume_reading();
        }
    }

    /// The client sends no more. Whether the connection goes on.
    fn ended(&self) -> bool {
        let mut state = self.state.borrow_mut();
        state.eof = true;
        let waits = state.waits();
        if !waits {
            state.phase = Phase::Closing;
        }
        waits
    }
}

impl State {
    /// Whether requests that have been received are held up by those before them.
    fn waits(&self) -> bool {
        match self.phase {
            Phase::Opening | Phase::Receiving => true,
            Phase::Open => !self.input.is_empty() && !self.may_answer(),
            Phase::Lingering | Phase::Closing => false,
        }
    }

    /// Whether the next request may be taken up.
    fn may_answer(&self) -> bool {
        self.phase == Phase::Open && self.queued < MAX_QUEUED && !self.write_paused
    }

    /// Whether no request has begun.
    pub(super) fn is_idle(&self) -> bool {
        self.input.is_empty() && self.body.is_over()
    }
}
