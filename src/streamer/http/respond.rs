//! What goes out on a connection: from a request to writes and sends, in their order.

use std::borrow::Cow;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

use crate::{RouteChoice, SendOptions, SendOutcome, Source, Transport};

use super::body::Body;
use super::cache::Entry;
use super::choice::{Choice, Current};
use super::coding::Accepted;
use super::connection::{Connection, MAX_WRITTEN, Phase};
use super::head::{Head, Plain};
use super::listing::{Form, Page};
use super::multipart::Multipart;
use super::path::{is_misdirected, normalize, split_target};
use super::pending::{self, Pending};
use super::request::{MAX_BODY, Method, Persistence, Request, Wanted};
use super::status::Status;

/// Files from this size on report their progress, which keeps a slow client from seeming stalled.
const LARGE: u64 = 256 << 10;

/// Content in memory up to this size is not paced.
const TINY: usize = 1 << 10;

/// What an opening brought.
pub(crate) enum Answer<'a> {
    /// A file.
    File(&'a Rc<Entry>),
    /// What was made for this request, such as a listing.
    Made(Page),
    /// None: the status to say so, and fields of its own.
    Status(Status, &'a str),
}

impl Connection {
    /// Answers one request. `more` came behind it.
    pub(super) fn answer(self: &Rc<Self>, transport: &Transport, request: Request<'_>, more: bool) {
        let mut wanted = request.wanted;
        wanted.linger = more || !request.body.is_over();
        {
            let mut state = self.state.borrow_mut();
            state.body = request.body;
            state.since = self.server.tick();
        }
        let site = self.server.site();
        let status = match request.method {
            _ if is_misdirected(request.target, transport.is_over_tls()) => Status::MISDIRECTED,
            Method::Options => {
                return self.plain(transport, Status::NO_CONTENT, self.server.allow(), &wanted);
            }
            Method::NotAllowed => {
                let allow = self.server.allow();
                return self.plain(transport, Status::METHOD_NOT_ALLOWED, allow, &wanted);
            }
            Method::Put => {
                let put = request.put.map(|put| *put);
                let begun = put.map(|put| self.upload(transport, request.target, put, &wanted));
                if let Some(Err((status, fields))) = begun {
                    self.plain(transport, status, fields, &wanted);
                }
                return;
            }
            Method::Unknown => Status::NOT_IMPLEMENTED,
            _ if matches!(request.body, Body::Length(n) if n > MAX_BODY) => {
                Status::CONTENT_TOO_LARGE
            }
            Method::Get | Method::Head => {
                if site.precompressed {
                    let header = request.accept_encoding.unwrap_or_default();
                    wanted.accepted = Accepted::parse(header);
                }
                match self.file(transport, request.target, request.accept, wanted) {
                    None => return,
                    Some((status, refused)) => {
                        wanted = refused;
                        status
                    }
                }
            }
        };
        self.plain(transport, status, "", &wanted);
    }

    /// Answers with a file: one that is open, or one to be opened. Gives back a request that names
    /// none.
    fn file(
        self: &Rc<Self>,
        transport: &Transport,
        target: &[u8],
        accept: Option<&[u8]>,
        wanted: Wanted,
    ) -> Option<(Status, Wanted)> {
        let named = split_target(target).and_then(|(path, query)| Ok((normalize(path)?, query)));
        let (path, query) = match named {
            Ok(named) => named,
            Err(status) => return Some((status, wanted)),
        };
        // A path in which no name begins with a dot was taken as it is.
        if matches!(&path, Cow::Owned(path) if self.server.site().hides(path)) {
            return Some((Status::NOT_FOUND, wanted));
        }
        let moment = self.server.moment();
        let open = self.server.cache.borrow_mut().get(&path, moment);
        if let Some(entry) = open.or_else(|| pending::at_once(&self.server, &path)) {
            self.respond(transport, &entry, &wanted);
            return None;
        }
        self.state.borrow_mut().phase = Phase::Opening;
        let makes_pages = self.server.makes_pages();
        let pending = Pending {
            connection: Rc::clone(self),
            transport: transport.clone(),
            wanted,
            path: path.into_owned(),
            query: query.map(<[u8]>::to_vec),
            form: Form::accepted(accept),
            accept: accept.filter(|_| makes_pages).map(<[u8]>::to_vec),
        };
        pending.open(&self.server);
        None
    }

    /// Queues the response with, or about, a file.
    fn respond(self: &Rc<Self>, transport: &Transport, entry: &Rc<Entry>, wanted: &Wanted) {
        let entry = entry.best(&wanted.accepted);
        let moment = self.server.moment();
        let size = entry.size();
        let choice = match &wanted.conditions {
            None => Choice::Whole,
            Some(conditions) => conditions.choose(&entry.current(moment.second)),
        };
        match choice {
            Choice::Whole => self.whole(transport, entry, wanted),
            Choice::Part(start, end) => self.part(transport, entry, wanted, start..end),
            Choice::Parts(parts) => self.parts(transport, entry, wanted, &parts),
            Choice::NotModified => {
                let fields = entry.fields().not_modified();
                self.plain(transport, Status::NOT_MODIFIED, fields, wanted);
            }
            Choice::PreconditionFailed => {
                self.plain(transport, Status::PRECONDITION_FAILED, "", wanted);
            }
            Choice::Unsatisfiable => {
                let range = format!("Content-Range: bytes */{size}\r\n");
                self.plain(transport, Status::RANGE_NOT_SATISFIABLE, &range, wanted);
            }
        }
    }

    /// 200.
    fn whole(self: &Rc<Self>, transport: &Transport, entry: &Rc<Entry>, wanted: &Wanted) {
        let moment = self.server.moment();
        let dates = &self.server.dates;
        let size = entry.size();
        let shared = self.may_share(transport, wanted).then(|| {
            let mut responses = self.server.responses.borrow_mut();
            responses.of(entry, moment, dates)
        });
        if let Some(response) = shared.flatten() {
            self.write(transport, response);
            return self.response_queued(Status::OK, size);
        }
        self.write(
            transport,
            entry.head(wanted.persistence, moment.second, dates),
        );
        let size = if wanted.head { 0 } else { size };
        if size > 0 {
            self.send(transport, entry, 0..size);
        }
        self.response_queued(Status::OK, size);
        self.responded(transport, wanted);
    }

    /// 206 with one range.
    fn part(
        self: &Rc<Self>,
        transport: &Transport,
        entry: &Entry,
        wanted: &Wanted,
        part: Range<u64>,
    ) {
        let (start, last, size) = (part.start, part.end - 1, entry.size());
        let length = part.end - part.start;
        let head = self.server.with_date(|date| {
            Head::new(Status::PARTIAL_CONTENT, date)
                .fields(entry.fields().all())
                .field("Content-Range", format_args!("bytes {start}-{last}/{size}"))
                .field("Content-Length", format_args!("{length}"))
                .end(wanted.persistence)
        });
        self.write(transport, head.freeze());
        self.send(transport, entry, part);
        self.response_queued(Status::PARTIAL_CONTENT, length);
        self.responded(transport, wanted);
    }

    /// 206 with several ranges.
    fn parts(
        self: &Rc<Self>,
        transport: &Transport,
        entry: &Entry,
        wanted: &Wanted,
        parts: &[(u64, u64)],
    ) {
        let multipart = Multipart::new(entry.fields().content_type(), entry.size(), parts);
        let Multipart {
            boundary, length, ..
        } = &multipart;
        let head = self.server.with_date(|date| {
            let kind = format_args!("multipart/byteranges; boundary={boundary}");
            Head::new(Status::PARTIAL_CONTENT, date)
                .fields(entry.fields().without_type())
                .field("Content-Type", kind)
                .field("Content-Length", format_args!("{length}"))
                .end(wanted.persistence)
        });
        self.write(transport, head.freeze());
        for (head, &(start, end)) in multipart.heads.into_iter().zip(parts) {
            self.write(transport, head.into());
            self.send(transport, entry, start..end);
        }
        self.write(transport, multipart.end.into());
        self.response_queued(Status::PARTIAL_CONTENT, multipart.length);
        self.responded(transport, wanted);
    }

    /// Whether a small file may go as one piece of memory, which is the same for all in this turn.
    fn may_share(&self, transport: &Transport, wanted: &Wanted) -> bool {
        let usual = !wanted.head && wanted.persistence == Persistence::Keep;
        let auto = self.server.options.route == RouteChoice::Auto;
        let auto = auto && self.server.limits().rate.is_none();
        usual && auto && transport.write_buffer_size() < MAX_WRITTEN
    }

    /// Queues a part of a file.
    fn send(self: &Rc<Self>, transport: &Transport, entry: &Entry, part: Range<u64>) {
        let length = part.end - part.start;
        // How much may be queued is decided here, by the number of files.
        let options = SendOptions::new().write_weight(0);
        let source = Source::file(entry.fd().clone(), part);
        self.send_source(transport, source, length, options);
    }

    /// Queues content that is in memory: at its rate, where there is one and it is not tiny.
    fn send_memory(self: &Rc<Self>, transport: &Transport, content: Bytes) {
        if self.server.limits().rate.is_none() || content.len() <= TINY {
            return self.write(transport, content);
        }
        let length = content.len() as u64;
        // As a write would, it pauses writing while it is queued.
        self.send_source(
            transport,
            Source::bytes(content),
            length,
            SendOptions::new(),
        );
    }

    fn send_source(
        self: &Rc<Self>,
        transport: &Transport,
        source: Source,
        length: u64,
        mut options: SendOptions,
    ) {
        self.queued(length);
        let exchange = self.exchange();
        if let Some(rate) = self.server.limits().rate {
            options = options.rate(rate);
        }
        if length >= LARGE {
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
        transport.send_file(source, options, move |transport, outcome| {
            connection.carried(exchange, &outcome);
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
    pub(super) fn plain(
        self: &Rc<Self>,
        transport: &Transport,
        status: Status,
        fields: &str,
        wanted: &Wanted,
    ) {
        self.say(transport, status, fields, wanted.head, wanted.persistence);
        self.responded(transport, wanted);
    }

    /// Answers what can't be understood, or taken up, and ends the connection. `request` is what
    /// came of it: whoever says HEAD takes no content, whatever the status (RFC 9110, 9.3.2).
    pub(super) fn refuse(
        self: &Rc<Self>,
        transport: &Transport,
        status: Status,
        fields: &str,
        request: &[u8],
    ) {
        let head = request.starts_with(b"HEAD ");
        self.say(transport, status, fields, head, Persistence::Close);
        self.linger(transport);
    }

    fn say(
        self: &Rc<Self>,
        transport: &Transport,
        status: Status,
        fields: &str,
        head: bool,
        persistence: Persistence,
    ) {
        let plain = Plain {
            status,
            fields,
            head,
            persistence,
        };
        let site = self.server.site();
        let (mut text, bytes) = self.server.with_date(|date| plain.build(&site, date));
        if bytes > TINY && self.server.limits().rate.is_some() {
            let content = text.split_off(text.len() - bytes);
            self.write(transport, text);
            self.send_memory(transport, content);
        } else {
            self.write(transport, text);
        }
        self.response_queued(status, bytes as u64);
    }

    /// Answers with what was made. A part of that is never sent: it is not the same from one request
    /// to the next.
    fn made_page(self: &Rc<Self>, transport: &Transport, page: Page, wanted: &Wanted) {
        let current = Current {
            size: page.body.len() as u64,
            modified: None,
            tag: None,
            second: 0,
        };
        let conditions = wanted.conditions.as_ref();
        match conditions.map(|conditions| conditions.choose(&current)) {
            Some(Choice::NotModified) => {
                let fields = page.cached_fields;
                return self.plain(transport, Status::NOT_MODIFIED, fields, wanted);
            }
            Some(Choice::PreconditionFailed) => {
                return self.plain(transport, Status::PRECONDITION_FAILED, "", wanted);
            }
            _ => {}
        }
        let head = self.server.with_date(|date| {
            Head::new(Status::OK, date)
                .fields(&page.fields)
                .fields(page.cached_fields)
                .fields(self.server.site().always())
                .field("Content-Length", format_args!("{}", page.body.len()))
                .end(wanted.persistence)
        });
        self.write(transport, head.freeze());
        let bytes = if wanted.head { 0 } else { page.body.len() };
        if !wanted.head {
            self.send_memory(transport, page.body);
        }
        self.response_queued(Status::OK, bytes as u64);
        self.responded(transport, wanted);
    }

    fn write(&self, transport: &Transport, text: Bytes) {
        self.queued(text.len() as u64);
        if let Err(error) = transport.write(text) {
            log::debug!("a response can't be sent: {error}");
        }
    }

    /// After a response was queued.
    fn responded(&self, transport: &Transport, wanted: &Wanted) {
        if !wanted.closes() {
            return;
        }
        // Closing with something unread resets the connection, response and all.
        if wanted.linger {
            self.linger(transport);
        } else {
            self.close(transport);
        }
    }

    /// Whether the file that is being opened is still wanted.
    pub(super) fn awaits_file(&self) -> bool {
        self.state.borrow().phase == Phase::Opening
    }

    /// Answers with what the opening brought, and goes on with what was received meanwhile.
    pub(super) fn resume(
        self: &Rc<Self>,
        transport: &Transport,
        mut wanted: Wanted,
        found: Answer<'_>,
    ) {
        {
            let mut state = self.state.borrow_mut();
            state.phase = Phase::Open;
            state.since = self.server.tick();
            // A client that did not ask for the end may send more requests.
            wanted.linger |= !state.input.is_empty() || self.server.is_stopping();
        }
        if self.server.is_stopping() {
            wanted.persistence = Persistence::Close;
        }
        match found {
            Answer::File(entry) => self.respond(transport, entry, &wanted),
            Answer::Made(page) => self.made_page(transport, page, &wanted),
            Answer::Status(status, fields) => self.plain(transport, status, fields, &wanted),
        }
        if self.state.borrow().phase == Phase::Open {
            self.take_up(transport);
        } else {
            self.settle(transport);
        }
    }
}
