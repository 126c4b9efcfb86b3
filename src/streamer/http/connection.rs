//! One HTTP connection: requests in, responses queued in their order.
//!
//! Requests are taken up one after the other; none while a file is being opened for the one
//! before, nor while [`MAX_QUEUED`] responses wait or the transport says that enough is queued.
//! What arrives meanwhile is kept, up to about [`MAX_HEAD`] bytes, then reading pauses.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, BytesMut};

use crate::{Fd, Protocol, RouteChoice, SendOptions, SendOutcome, Source, Transport};

use super::cache::Entry;
use super::choice::{Choice, choose};
use super::date;
use super::head::{Head, Plain};
use super::path::{normalize, split_target};
use super::pending::Pending;
use super::request::{MAX_BODY, MAX_HEAD, MAX_TARGET, Method, Parsed, Persistence, Request};
use super::request::{Wanted, parse};
use super::status::Status;
use crate::streamer::server::Shared;

/// How many file responses may be under way before the next request is looked at.
const MAX_QUEUED: usize = 16;

/// How many bytes may be queued in memory before files are sent rather than read.
const MAX_WRITTEN: usize = 64 << 10;

/// How long, in ticks, an ended connection is still read from, so that the client gets the
/// response rather than a reset; and how many bytes.
const LINGER_TICKS: u32 = 5;
const LINGER_BYTES: usize = 1 << 20;

/// Files from this size on report their progress, which keeps a slow client from seeming stalled.
const LARGE: u64 = 256 << 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Requests are read and answered.
    Open,
    /// A file is being opened for the response that is due.
    Opening,
    /// The last response is queued, the end of the stream behind it; what comes is thrown away.
    Lingering,
    /// Closed, but for what is queued.
    Closing,
}

struct State {
    phase: Phase,
    /// `None` before it is made, and when it is lost.
    transport: Option<Transport>,
    /// Received and not yet taken up.
    input: BytesMut,
    /// What is left of a request's body.
    skip: u64,
    /// File responses under way.
    queued: usize,
    /// The transport has enough queued.
    write_paused: bool,
    /// We asked for no more data.
    read_paused: bool,
    /// The client has sent all that it will.
    eof: bool,
    /// Bytes thrown away while lingering.
    discarded: usize,
    /// The tick since which we wait for the client.
    since: u32,
    /// How much the client had taken when that was last looked at.
    taken: u64,
}

/// A connection, as its server and its callbacks know it.
pub(crate) struct Connection {
    server: Rc<Shared>,
    key: Cell<Option<usize>>,
    state: RefCell<State>,
}

/// A connection, as its transport knows it.
pub(crate) struct Http(pub(crate) Rc<Connection>);

/// What an opening brought.
pub(crate) enum Answer<'a> {
    /// A file.
    File(&'a Entry),
    /// None: the status to say so, and fields of its own.
    Status(Status, &'a str),
}

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

    fn connection_lost(&mut self, error: Option<io::Error>) {
        if let Some(error) = error {
            log::debug!("a connection ended: {error}");
        }
        self.0.lost();
    }
}

impl Connection {
    pub(crate) fn new(server: Rc<Shared>) -> Rc<Connection> {
        let since = server.tick();
        Rc::new(Connection {
            server,
            key: Cell::new(None),
            state: RefCell::new(State {
                phase: Phase::Open,
                transport: None,
                input: BytesMut::new(),
                skip: 0,
                queued: 0,
                write_paused: false,
                read_paused: false,
                eof: false,
                discarded: 0,
                since,
                taken: 0,
            }),
        })
    }

    fn made(self: &Rc<Self>, transport: &Transport) {
        self.state.borrow_mut().transport = Some(transport.clone());
        self.key.set(Some(self.server.add(Rc::clone(self))));
        if self.server.is_stopping() {
            self.close(transport);
        }
    }

    fn lost(&self) {
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

    fn transport(&self) -> Option<Transport> {
        self.state.borrow().transport.clone()
    }

    // What comes in.

    fn received(self: &Rc<Self>, transport: &Transport, data: &[u8]) {
        let mut state = self.state.borrow_mut();
        match state.phase {
            Phase::Open => {}
            Phase::Opening => {
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
            drop(state);
            let taken = self.consume(transport, data);
            let mut state = self.state.borrow_mut();
            state.input.extend_from_slice(&data[taken..]);
            state.since = self.server.tick();
            drop(state);
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
    fn take_up(self: &Rc<Self>, transport: &Transport) {
        let mut input = std::mem::take(&mut self.state.borrow_mut().input);
        if !input.is_empty() {
            let taken = self.consume(transport, &input);
            input.advance(taken);
            let mut state = self.state.borrow_mut();
            state.input = input;
            if taken > 0 {
                state.since = self.server.tick();
            }
        }
        self.settle(transport);
    }

    /// Answers requests, as far as that may be done now. Returns how many bytes were taken up.
    fn consume(self: &Rc<Self>, transport: &Transport, data: &[u8]) -> usize {
        let mut at = 0;
        loop {
            at += self.state.borrow_mut().skip_body(data.len() - at);
            // Empty lines before a request are no part of it, nor the beginning of one.
            at += data[at..]
                .iter()
                .take_while(|b| b"\r\n".contains(b))
                .count();
            if at == data.len() || !self.state.borrow().may_answer() {
                return at;
            }
            match parse(&data[at..]) {
                Parsed::Partial => return at,
                Parsed::Refused(status) => {
                    self.refuse(transport, status);
                    return data.len();
                }
                Parsed::Complete(request) => {
                    at += request.len;
                    let more = at < data.len();
                    self.answer(transport, &request, more);
                }
            }
        }
    }

    /// After each step: closes what is over, and reads only as much as can be kept.
    fn settle(&self, transport: &Transport) {
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

    // What goes out.

    /// Answers one request. `more` came behind it.
    fn answer(self: &Rc<Self>, transport: &Transport, request: &Request<'_>, more: bool) {
        let wanted = request.wanted;
        let linger = more || request.body > 0;
        self.state.borrow_mut().skip = request.body;
        let status = match request.method {
            Method::NotAllowed => {
                let allow = "Allow: GET, HEAD\r\n";
                return self.plain(
                    transport,
                    Status::METHOD_NOT_ALLOWED,
                    allow,
                    &wanted,
                    linger,
                );
            }
            Method::Unknown => Status::NOT_IMPLEMENTED,
            _ if request.body > MAX_BODY => Status::CONTENT_TOO_LARGE,
            _ => match self.file(transport, request, linger) {
                Ok(()) => return,
                Err(status) => status,
            },
        };
        self.plain(transport, status, "", &wanted, linger);
    }

    /// Answers with a file: one that is open, or one to be opened.
    fn file(
        self: &Rc<Self>,
        transport: &Transport,
        request: &Request<'_>,
        linger: bool,
    ) -> Result<(), Status> {
        let (path, query) = split_target(request.target)?;
        let path = normalize(path)?;
        let moment = self.server.moment();
        let entry = self.server.cache.borrow_mut().get(&path, moment);
        if let Some(entry) = entry {
            self.respond(transport, &entry, &request.wanted, linger);
            return Ok(());
        }
        self.state.borrow_mut().phase = Phase::Opening;
        let pending = Pending {
            connection: Rc::clone(self),
            transport: transport.clone(),
            wanted: request.wanted,
            path: path.into_owned(),
            query: query.map(<[u8]>::to_vec),
            linger,
        };
        pending.open(&self.server);
        Ok(())
    }

    /// Queues the response with, or about, a file.
    fn respond(
        self: &Rc<Self>,
        transport: &Transport,
        entry: &Entry,
        wanted: &Wanted,
        linger: bool,
    ) {
        let dates = &self.server.dates;
        let moment = self.server.moment();
        let second = moment.second;
        let size = entry.size();
        let (head, start, end) = match choose(wanted, size, entry.modified()) {
            Choice::Whole if self.may_share(transport, wanted) => {
                match entry.response(moment, dates) {
                    Some(response) => return self.write(transport, response),
                    None => (entry.head(wanted.persistence, second, dates), 0, size),
                }
            }
            Choice::Whole => (entry.head(wanted.persistence, second, dates), 0, size),
            Choice::Part(start, end) => {
                let last = end - 1;
                let head = dates.with(second, |date| {
                    Head::new(Status::PARTIAL_CONTENT, date)
                        .fields(entry.fields())
                        .field("Content-Range", format_args!("bytes {start}-{last}/{size}"))
                        .field("Content-Length", format_args!("{}", end - start))
                        .end(wanted.persistence)
                });
                (head.freeze(), start, end)
            }
            Choice::NotModified => {
                let modified = format!("Last-Modified: {}\r\n", date::format(entry.modified()));
                return self.plain(transport, Status::NOT_MODIFIED, &modified, wanted, linger);
            }
            Choice::PreconditionFailed => {
                return self.plain(transport, Status::PRECONDITION_FAILED, "", wanted, linger);
            }
            Choice::Unsatisfiable => {
                let range = format!("Content-Range: bytes */{size}\r\n");
                let status = Status::RANGE_NOT_SATISFIABLE;
                return self.plain(transport, status, &range, wanted, linger);
            }
        };
        self.write(transport, head);
        if !wanted.head && start < end {
            self.send(transport, entry.fd(), start, end);
        }
        self.responded(transport, wanted, linger);
    }

    /// Whether a small file may go as one piece of memory, which is the same for all in this turn.
    fn may_share(&self, transport: &Transport, wanted: &Wanted) -> bool {
        let usual = !wanted.head && wanted.persistence == Persistence::Keep;
        let auto = self.server.options.route == RouteChoice::Auto;
        usual && auto && transport.write_buffer_size() < MAX_WRITTEN
    }

    fn send(self: &Rc<Self>, transport: &Transport, file: &Fd, start: u64, end: u64) {
        // How much may be queued is decided here, by the number of responses.
        let mut options = SendOptions::new().write_weight(0);
        if end - start >= LARGE {
            let connection = Rc::clone(self);
            options = options.progress(move |_, _| {
                connection.state.borrow_mut().since = connection.server.tick();
            });
        }
        {
            let mut state = self.state.borrow_mut();
            state.queued += 1;
            state.since = self.server.tick();
        }
        let connection = Rc::clone(self);
        let source = Source::file(file.clone(), start..end);
        transport.send_file(source, options, move |transport, outcome| {
            connection.sent(transport, outcome);
        });
    }

    fn sent(self: &Rc<Self>, transport: &Transport, outcome: SendOutcome) {
        let mut state = self.state.borrow_mut();
        state.queued -= 1;
        state.since = self.server.tick();
        if outcome.is_success() {
            if state.phase == Phase::Open && !state.input.is_empty() {
                drop(state);
                self.take_up(transport);
            }
            return;
        }
        // The client was promised more than it got, be it that nothing was sent of the file.
        state.phase = Phase::Closing;
        drop(state);
        transport.abort();
        if let Err(error) = outcome.into_result() {
            log::debug!("a response was cut: {error}");
        }
    }

    /// Queues a response that says its status and no more.
    fn plain(
        &self,
        transport: &Transport,
        status: Status,
        fields: &str,
        wanted: &Wanted,
        linger: bool,
    ) {
        let plain = Plain {
            status,
            fields,
            head: wanted.head,
            persistence: wanted.persistence,
        };
        let text = self.server.with_date(|date| plain.build(date));
        self.write(transport, text);
        self.responded(transport, wanted, linger);
    }

    /// Answers what can't be understood, and ends the connection.
    fn refuse(&self, transport: &Transport, status: Status) {
        let plain = Plain {
            status,
            fields: "",
            head: false,
            persistence: Persistence::Close,
        };
        let text = self.server.with_date(|date| plain.build(date));
        self.write(transport, text);
        self.linger(transport);
    }

    fn write(&self, transport: &Transport, text: bytes::Bytes) {
        if let Err(error) = transport.write(text) {
            log::debug!("a response can't be sent: {error}");
        }
    }

    /// After a response was queued.
    fn responded(&self, transport: &Transport, wanted: &Wanted, linger: bool) {
        if !wanted.closes() {
            return;
        }
        // Closing with something unread resets the connection, response and all.
        if linger {
            self.linger(transport);
        } else {
            self.close(transport);
        }
    }

    /// Whether the file that is being opened is still wanted.
    pub(crate) fn awaits_file(&self) -> bool {
        self.state.borrow().phase == Phase::Opening
    }

    /// Answers with what the opening brought, and goes on with what was received meanwhile.
    pub(crate) fn resume(
        self: &Rc<Self>,
        transport: &Transport,
        mut wanted: Wanted,
        linger: bool,
        found: Answer<'_>,
    ) {
        let linger = {
            let mut state = self.state.borrow_mut();
            state.phase = Phase::Open;
            state.since = self.server.tick();
            // A client that did not ask for the end may send more requests.
            linger || !state.input.is_empty() || self.server.is_stopping()
        };
        if self.server.is_stopping() {
            wanted.persistence = Persistence::Close;
        }
        match found {
            Answer::File(entry) => {
                self.respond(transport, entry, &wanted, linger);
            }
            Answer::Status(status, fields) => {
                self.plain(transport, status, fields, &wanted, linger);
            }
        }
        if self.state.borrow().phase == Phase::Open {
            self.take_up(transport);
        } else {
            self.settle(transport);
        }
    }

    // Ends.

    /// Ends our side behind what is queued, and reads until the client has ended its own.
    fn linger(&self, transport: &Transport) {
        let ended = {
            let mut state = self.state.borrow_mut();
            state.phase = Phase::Lingering;
            state.since = self.server.tick();
            state.eof
        };
        if ended || transport.write_eof().is_err() {
            self.close(transport);
        }
    }

    /// Closes, once what is queued has been sent.
    fn close(&self, transport: &Transport) {
        self.state.borrow_mut().phase = Phase::Closing;
        transport.close();
    }

    /// Closes, or, while responses are being sent that a request behind them would throw away,
    /// lingers.
    fn end(&self, transport: &Transport) {
        let sending = {
            let state = self.state.borrow();
            state.queued > 0 || state.write_paused || transport.write_buffer_size() > 0
        };
        if !sending {
            return self.close(transport);
        }
        self.linger(transport);
        // What comes is to be thrown away, not to be left unread.
        if std::mem::take(&mut self.state.borrow_mut().read_paused) {
            transport.resume_reading();
        }
    }

    /// Ends it as soon as the responses under way are sent.
    pub(crate) fn stop(&self) {
        let Some(transport) = self.transport() else {
            return;
        };
        let phase = self.state.borrow().phase;
        match phase {
            Phase::Open => self.end(&transport),
            // The response comes first; lingering has its own end.
            Phase::Opening | Phase::Lingering | Phase::Closing => {}
        }
    }

    /// Ends it at once.
    pub(crate) fn abort(&self) {
        if let Some(transport) = self.transport() {
            self.state.borrow_mut().phase = Phase::Closing;
            transport.abort();
        }
    }

    /// Sees whether the client takes what is being sent, be it too little for a send to get on.
    pub(crate) fn look(&self) {
        let mut state = self.state.borrow_mut();
        let ending = matches!(state.phase, Phase::Lingering | Phase::Closing);
        let sending = state.queued > 0 || state.write_paused || ending;
        if !sending || state.since == self.server.tick() {
            return;
        }
        let taken = state.transport.as_ref().and_then(Shared::taken);
        if let Some(taken) = taken
            && taken != std::mem::replace(&mut state.taken, taken)
        {
            state.since = self.server.tick();
        }
    }

    /// Whether the client has kept us waiting for too long.
    pub(crate) fn is_overdue(&self) -> bool {
        let state = self.state.borrow();
        let waited = self.server.tick().wrapping_sub(state.since);
        let options = &self.server.options;
        let over = |limit: Duration| u64::from(waited) > limit.as_secs();
        match state.phase {
            Phase::Opening => false,
            _ if state.queued > 0 || state.write_paused => over(options.send_timeout),
            Phase::Open if state.input.is_empty() && state.skip == 0 => over(options.idle_timeout),
            Phase::Open => over(options.header_timeout),
            Phase::Lingering => waited > LINGER_TICKS,
            Phase::Closing => over(options.send_timeout),
        }
    }

    /// Ends a connection that is overdue.
    pub(crate) fn time_out(&self) {
        let Some(transport) = self.transport() else {
            return;
        };
        let (phase, idle, stalled) = {
            let state = self.state.borrow();
            let stalled = state.queued > 0 || state.write_paused;
            (state.phase, state.input.is_empty(), stalled)
        };
        match phase {
            _ if stalled => self.abort(),
            Phase::Open if idle => self.close(&transport),
            Phase::Open => self.refuse(&transport, Status::REQUEST_TIMEOUT),
            _ => self.abort(),
        }
    }
}

impl State {
    /// Whether requests that have been received are held up by those before them.
    fn waits(&self) -> bool {
        match self.phase {
            Phase::Opening => true,
            Phase::Open => !self.input.is_empty() && !self.may_answer(),
            Phase::Lingering | Phase::Closing => false,
        }
    }

    /// Whether the next request may be taken up.
    fn may_answer(&self) -> bool {
        self.phase == Phase::Open && self.queued < MAX_QUEUED && !self.write_paused
    }

    /// Takes off what belongs to a body; returns how much of `available` that is.
    fn skip_body(&mut self, available: usize) -> usize {
        let n = usize::try_from(self.skip).map_or(available, |skip| skip.min(available));
        self.skip -= n as u64;
        n
    }
}
