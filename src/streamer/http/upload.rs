//! PUT (RFC 9110, section 9.3.4): a request's body becomes a file, by the transport's
//! `receive_file`. The file takes its place when all of it is there.
//!
//! Everything that can be refused is refused before the body is asked for (`Expect: 100-continue`);
//! a client that sends it all the same is told, and the connection ends.

use std::ffi::CString;
use std::io;
use std::rc::Rc;

use rustix::io::Errno;

use crate::streamer::observe::Ending;
use crate::streamer::server::Shared;
use crate::streamer::uploads::{place, prepare};
use crate::{
    End, Fd, FileSync, Placed, ReceiveOptions, ReceiveOutcome, Replacement, Sink, Transport,
};

use super::body::Body;
use super::cache::{Entry, Found};
use super::choice::{Choice, Conditions};
use super::connection::{Connection, Phase};
use super::path::{normalize, split_target};
use super::request::{Persistence, Wanted};
use super::respond::Answer;
use super::status::Status;

/// What a PUT says besides what every request does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Put {
    /// `None` without a `Content-Length`, in chunks or not.
    pub(crate) length: Option<u64>,
    /// It waits for word before it sends the body.
    pub(crate) expects: bool,
    /// The content of `Authorization`.
    pub(crate) authorization: Option<Vec<u8>>,
    /// It brings a part of the file only (`Content-Range`).
    pub(crate) part: bool,
    /// What becomes of the connection once the body has been received.
    pub(crate) persistence: Persistence,
}

const CHALLENGE: &str = "WWW-Authenticate: Bearer\r\n";
const WRONG_TOKEN: &str = "WWW-Authenticate: Bearer error=\"invalid_token\"\r\n";

/// One upload, from its head to its response.
struct Upload {
    connection: Rc<Connection>,
    transport: Transport,
    wanted: Wanted,
    put: Put,
    /// As [`normalize`] gives it.
    path: Vec<u8>,
    length: u64,
    /// The file's name is taken, but by a link that leads to nothing that is served.
    hidden: bool,
}

impl Connection {
    /// Begins an upload, or gives back the status to refuse it with, and a field.
    pub(super) fn upload(
        self: &Rc<Self>,
        transport: &Transport,
        target: &[u8],
        put: Put,
        wanted: &Wanted,
    ) -> Result<(), (Status, &'static str)> {
        let Some(uploads) = &self.server.options.uploads else {
            return Err((Status::METHOD_NOT_ALLOWED, self.server.allow()));
        };
        match put.authorization.as_deref().map(bearer) {
            Some(Some(token)) if uploads.permits(token) => {}
            Some(Some(_)) => return Err((Status::UNAUTHORIZED, WRONG_TOKEN)),
            _ => return Err((Status::UNAUTHORIZED, CHALLENGE)),
        }
        let refused = |status| Err((status, ""));
        if put.part {
            return refused(Status::BAD_REQUEST);
        }
        let Some(length) = put.length else {
            return refused(Status::LENGTH_REQUIRED);
        };
        if length > uploads.limit() {
            return refused(Status::CONTENT_TOO_LARGE);
        }
        let path = match split_target(target).and_then(|(path, _)| normalize(path)) {
            Ok(path) => path.into_owned(),
            Err(status) => return refused(status),
        };
        if path.is_empty() || path.ends_with(b"/") {
            return refused(Status::CONFLICT);
        }
        // What begins with a dot is the business of those who have the directory.
        if path
            .split(|b| *b == b'/')
            .any(|name| name.starts_with(b"."))
        {
            return refused(Status::FORBIDDEN);
        }
        {
            let mut state = self.state.borrow_mut();
            state.phase = Phase::Opening;
            state.body = Body::None;
        }
        let upload = Upload {
            connection: Rc::clone(self),
            transport: transport.clone(),
            wanted: wanted.clone(),
            put,
            path,
            length,
            hidden: false,
        };
        upload.check();
        Ok(())
    }
}

/// The token of a `Bearer` credential.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    let is = scheme.eq_ignore_ascii_case(b"Bearer ");
    is.then(|| token.trim_ascii())
}

impl Upload {
    /// Holds the conditions against what is there now, if there are any.
    fn check(self) {
        let conditions = self.wanted.conditions.as_deref();
        let none = |c: &Conditions| {
            let tags = c.if_match.is_some() || c.if_none_match.is_some();
            !tags && c.if_unmodified_since.is_none()
        };
        if conditions.is_none_or(none) {
            return self.prepare();
        }
        let Ok(path) = CString::new(self.path.clone()) else {
            return self.refuse(Status::BAD_REQUEST);
        };
        let server = Rc::clone(&self.connection.server);
        let shared = Rc::clone(&server);
        server.open(path, move |opened| self.checked(&shared, opened));
    }

    fn checked(self, server: &Shared, opened: io::Result<Fd>) {
        let Some(conditions) = self.wanted.conditions.as_deref() else {
            return self.prepare();
        };
        let site = server.site();
        let examine = |fd| Entry::examine(fd, &self.path, None, &site, server.moment());
        let found = opened.and_then(examine);
        let holds = match found {
            Ok(Found::File(entry)) => {
                let second = server.moment().second;
                holds(conditions, |conditions| {
                    conditions.choose(&entry.current(second))
                })
            }
            // Whatever else is there is told of later.
            Ok(_) => true,
            Err(e) => match Status::of(&e) {
                // What nobody can have has no tag.
                Status::NOT_FOUND | Status::FORBIDDEN => conditions.if_match.is_none(),
                // It can't be known now.
                _ => {
                    let status = self.status_of(&e);
                    return self.refuse(status);
                }
            },
        };
        if holds {
            self.prepare();
        } else {
            self.refuse(Status::PRECONDITION_FAILED);
        }
    }

    fn prepare(mut self) {
        let server = Rc::clone(&self.connection.server);
        let path = self.path.clone();
        server.work(
            move |root| prepare(root, &path),
            move |prepared| match prepared {
                Ok((replacement, hidden)) => {
                    self.hidden = hidden;
                    self.receive(replacement);
                }
                Err(error) => {
                    let status = self.status_of(&error);
                    self.refuse(status);
                }
            },
        );
    }

    /// Has the body come into the new file.
    fn receive(self, replacement: Replacement) {
        let (connection, transport) = (Rc::clone(&self.connection), self.transport.clone());
        let prefix = {
            let mut state = connection.state.borrow_mut();
            if state.phase != Phase::Opening {
                drop(state);
                return discard(&connection.server, replacement);
            }
            connection.server.count_upload(|uploads| uploads.begun += 1);
            state.phase = Phase::Receiving;
            state.since = connection.server.tick();
            std::mem::take(&mut state.input)
        };
        // Whoever has begun to send does not wait.
        if self.put.expects && self.length > 0 && prefix.is_empty() {
            let word = &b"HTTP/1.1 100 Continue\r\n\r\n"[..];
            connection.queued(word.len() as u64);
            if let Err(error) = transport.write(word) {
                log::debug!("a client can't be told to go on: {error}");
            }
        }
        let of = Rc::clone(&connection);
        let options = ReceiveOptions::new()
            .prefix(prefix)
            .sync(FileSync::Data)
            .progress(move |_, _| of.state.borrow_mut().since = of.server.tick());
        let sink = Sink::file(replacement.file().clone(), ..self.length);
        transport.receive_file(sink, options, move |_, outcome| {
            self.received(replacement, outcome);
        });
        connection.settle(&transport);
    }

    fn received(mut self, replacement: Replacement, outcome: ReceiveOutcome) {
        let server = Rc::clone(&self.connection.server);
        self.connection.content_received(outcome.received);
        if outcome.is_success() {
            self.wanted.persistence = self.put.persistence;
            self.connection.state.borrow_mut().phase = Phase::Opening;
            let new = self.must_be_new();
            return server.work(
                move |_| place(replacement, new),
                move |placed| self.placed(placed),
            );
        }
        server.count_upload(|uploads| uploads.failed += 1);
        discard(&server, replacement);
        let end = outcome.end;
        match outcome.into_result() {
            Err(failed) if end == End::Failed => {
                let status = self.status_of(&failed.error);
                self.connection.state.borrow_mut().phase = Phase::Opening;
                self.refuse(status);
            }
            // The client is gone, or has said less than it promised: there is nobody to tell.
            _ => {
                self.connection.cut(Ending::PeerGone);
                self.connection.close(&self.transport);
            }
        }
    }

    /// `If-None-Match: *`.
    fn must_be_new(&self) -> bool {
        let conditions = self.wanted.conditions.as_deref();
        let list = conditions.and_then(|c| c.if_none_match.as_deref());
        list.is_some_and(|list| list.trim_ascii() == b"*")
    }

    fn placed(self, placed: io::Result<Placed>) {
        let server = &self.connection.server;
        server.forget(&self.path);
        server.count_upload(|uploads| match &placed {
            Ok(_) => uploads.placed += 1,
            Err(_) => uploads.failed += 1,
        });
        let status = match placed {
            Ok(Placed::Created) => Status::CREATED,
            // To clients, there was nothing.
            Ok(Placed::Replaced) if self.hidden => Status::CREATED,
            Ok(Placed::Replaced) => Status::NO_CONTENT,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Status::PRECONDITION_FAILED,
            Err(e) => self.status_of(&e),
        };
        self.answer(status);
    }

    /// What to answer where a file can't be made, or not be written.
    fn status_of(&self, error: &io::Error) -> Status {
        let status = match Errno::from_io_error(error) {
            // Without the directory above there is no place for it (RFC 4918, section 9.7.1).
            Some(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR | Errno::XDEV | Errno::LOOP) => {
                Status::CONFLICT
            }
            Some(Errno::NOSPC | Errno::DQUOT) => Status::INSUFFICIENT_STORAGE,
            Some(Errno::FBIG) => Status::CONTENT_TOO_LARGE,
            Some(Errno::ROFS) => Status::FORBIDDEN,
            _ => Status::of(error),
        };
        if status.code >= 500 {
            let name = String::from_utf8_lossy(&self.path);
            log::error!("{name:?} can't be uploaded: {error}");
        }
        status
    }

    /// Answers before the body was received. It may come all the same, so that the connection
    /// can't go on.
    fn refuse(mut self, status: Status) {
        self.wanted.persistence = Persistence::Close;
        self.wanted.linger = true;
        self.answer(status);
    }

    fn answer(self, status: Status) {
        if self.connection.awaits_file() {
            let answer = Answer::Status(status, "");
            self.connection.resume(&self.transport, self.wanted, answer);
        }
    }
}

/// Gives up a file, on a worker: removing a large one takes its time.
fn discard(server: &Shared, replacement: Replacement) {
    let drop_it = move |_: &Fd| {
        drop(replacement);
        Ok(())
    };
    server.work(drop_it, drop);
}

/// Whether a PUT's conditions hold (RFC 9110, section 13.2.2). Ranges and `If-Modified-Since` are
/// no matter of it.
fn holds(conditions: &Conditions, choose: impl FnOnce(&Conditions) -> Choice) -> bool {
    let of_put = Conditions {
        if_modified_since: None,
        if_range: None,
        range: None,
        ..conditions.clone()
    };
    choose(&of_put) == Choice::Whole
}
