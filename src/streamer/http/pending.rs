//! A response whose file is being opened.
//!
//! A directory's index is tried first, its listing then; at last, where nothing is found, the
//! site's fallback.

use std::ffi::CString;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::streamer::open::open_at_once;
use crate::streamer::server::Shared;
use crate::{Fd, Transport};

use super::cache::{Coded, Entry, Found};
use super::coding::Coding;
use super::connection::Connection;
use super::listing::{self, Form, Sorting};
use super::path::{self, directory_target};
use super::request::Wanted;
use super::respond::Answer;
use super::status::Status;

/// How many directories a thread lists at a time: listing takes worker threads, which others
/// need.
const MAX_LISTINGS: usize = 4;

/// How many bytes of listings a thread holds for those who are being sent them; more are made only
/// when some of that has been taken.
const MAX_LISTED: usize = 32 << 20;

/// A request that waits for its file.
pub(crate) struct Pending {
    pub(crate) connection: Rc<Connection>,
    pub(crate) transport: Transport,
    pub(crate) wanted: Wanted,
    /// As [`normalize`](super::path::normalize) gives it.
    pub(crate) path: Vec<u8>,
    pub(crate) query: Option<Vec<u8>>,
    /// Of a listing.
    pub(crate) form: Form,
    /// `Accept`, for [pages](crate::streamer::Pages).
    pub(crate) accept: Option<Vec<u8>>,
}

impl Pending {
    /// Opens the path, or the index of the directory that it names.
    pub(crate) fn open(self, server: &Rc<Shared>) {
        if server.makes_pages() {
            return self.make(server);
        }
        let mut name = self.path.clone();
        if self.names_directory() {
            name.extend_from_slice(b"index.html");
        }
        self.open_name(server, name, Pending::opened);
    }

    /// Has a page made, where there are no files.
    fn make(mut self, server: &Rc<Shared>) {
        let (path, accept) = (self.path.clone(), self.accept.take());
        server.make_page(path, accept, move |made| {
            if !self.connection.awaits_file() {
                return;
            }
            match made {
                Ok(Some(page)) => self.answer(Answer::Made(listing::Page {
                    fields: format!("Content-Type: {}\r\n", page.content_type).into(),
                    cached_fields: "Cache-Control: no-store\r\n",
                    body: page.body.into(),
                })),
                Ok(None) => self.refuse(Status::NOT_FOUND),
                Err(error) => {
                    let status = self.failed(&self.path, &error);
                    self.refuse(status);
                }
            }
        });
    }

    /// Opens a name below the directory; what comes goes to `next`, if it is still wanted.
    fn open_name(
        self,
        server: &Rc<Shared>,
        name: Vec<u8>,
        next: impl FnOnce(Pending, &Rc<Shared>, Vec<u8>, io::Result<Fd>) + 'static,
    ) {
        let Ok(path) = CString::new(name.clone()) else {
            return self.refuse(Status::BAD_REQUEST);
        };
        let shared = Rc::clone(server);
        server.open(path, move |opened| {
            if self.connection.awaits_file() {
                next(self, &shared, name, opened);
            }
        });
    }

    fn names_directory(&self) -> bool {
        names_directory(&self.path)
    }

    fn opened(self, server: &Rc<Shared>, name: Vec<u8>, opened: io::Result<Fd>) {
        match examine(server, &name, None, opened) {
            Ok(Found::File(entry)) => self.found(server, name, entry),
            Ok(Found::Directory(_)) if !self.names_directory() => {
                let target = directory_target(&self.path, self.query.as_deref());
                let location = format!("Location: {target}\r\n");
                self.answer(Answer::Status(Status::MOVED_PERMANENTLY, &location));
            }
            Ok(Found::Directory(_) | Found::Other) => self.not_found(server),
            Err(error) => match self.failed(&name, &error) {
                Status::NOT_FOUND => self.not_found(server),
                status => self.refuse(status),
            },
        }
    }

    /// A file for the path as it was asked for.
    fn found(self, server: &Rc<Shared>, name: Vec<u8>, entry: Rc<Entry>) {
        if server.site().precompressed {
            self.open_codings(server, name, entry, &Coding::ALL, vec![]);
        } else {
            self.complete(server, &entry);
        }
    }

    /// Opens the file's compressed forms, one after the other. One that can't be opened is as one
    /// that isn't there.
    fn open_codings(
        self,
        server: &Rc<Shared>,
        name: Vec<u8>,
        entry: Rc<Entry>,
        left: &'static [Coding],
        mut found: Vec<Coded>,
    ) {
        let Some((&coding, left)) = left.split_first() else {
            entry.set_codings(found);
            return self.complete(server, &entry);
        };
        let compressed = [&name, coding.suffix().as_bytes()].concat();
        self.open_name(server, compressed, move |pending, server, _, opened| {
            if let Ok(Found::File(form)) = examine(server, &name, Some(coding), opened) {
                found.push((coding, form));
            }
            pending.open_codings(server, name, entry, left, found);
        });
    }

    fn complete(self, server: &Rc<Shared>, entry: &Rc<Entry>) {
        let mut cache = server.cache.borrow_mut();
        cache.insert(&self.path, Rc::clone(entry));
        drop(cache);
        self.answer(Answer::File(entry));
    }

    /// There is no file for the path.
    fn not_found(self, server: &Rc<Shared>) {
        if !self.names_directory() || !server.site().list {
            return self.fall_back(server);
        }
        let name = match &self.path[..] {
            b"" => b".".to_vec(),
            path => path.to_vec(),
        };
        self.open_name(server, name, |pending, server, name, opened| match examine(
            server, &name, None, opened,
        ) {
            Ok(Found::Directory(directory)) => pending.list(server, directory),
            Ok(_) => pending.fall_back(server),
            Err(error) => match pending.failed(&name, &error) {
                Status::NOT_FOUND => pending.fall_back(server),
                status => pending.refuse(status),
            },
        });
    }

    fn list(self, server: &Rc<Shared>, directory: Fd) {
        let under_way = server.listings.get();
        let held = Arc::clone(&server.listed);
        if under_way >= MAX_LISTINGS || held.load(Ordering::Relaxed) >= MAX_LISTED {
            return self.answer(Answer::Status(Status::UNAVAILABLE, "Retry-After: 1\r\n"));
        }
        server.listings.set(under_way + 1);
        let request = listing::Request {
            path: self.path.clone(),
            hidden: server.site().hidden,
            form: self.form,
            sorting: Sorting::asked(self.query.as_deref()),
        };
        let work = move |root: &Fd| {
            let page = listing::make(root, &directory, &request)?;
            Ok(page.counted(held))
        };
        let shared = Rc::clone(server);
        server.work(work, move |made| {
            shared.listings.set(shared.listings.get() - 1);
            if !self.connection.awaits_file() {
                return;
            }
            match made {
                Ok(page) => self.answer(Answer::Made(page)),
                Err(error) => {
                    let status = self.failed(&self.path, &error);
                    self.refuse(status);
                }
            }
        });
    }

    /// Answers with the site's fallback, where it has one for such a path.
    fn fall_back(mut self, server: &Rc<Shared>) {
        let site = server.site();
        let fallback = site.fallback.as_ref();
        let fits = |file: &&Vec<u8>| !path::last(&self.path).contains(&b'.') && **file != self.path;
        let Some(file) = fallback.filter(fits) else {
            return self.refuse(Status::NOT_FOUND);
        };
        self.path.clone_from(file);
        let cached = server.cache.borrow_mut().get(file, server.moment());
        if let Some(entry) = cached {
            return self.answer(Answer::File(&entry));
        }
        self.open_name(
            server,
            file.clone(),
            |pending, server, name, opened| match examine(server, &name, None, opened) {
                Ok(Found::File(entry)) => pending.found(server, name, entry),
                Ok(_) => pending.refuse(Status::NOT_FOUND),
                Err(error) => {
                    let status = pending.failed(&name, &error);
                    pending.refuse(status);
                }
            },
        );
    }

    /// What to answer where something can't be opened.
    fn failed(&self, name: &[u8], error: &io::Error) -> Status {
        let status = Status::of(error);
        if status.code >= 500 {
            self.connection.server.tell_failure(name, error);
        }
        status
    }

    fn refuse(self, status: Status) {
        self.answer(Answer::Status(status, ""));
    }

    fn answer(self, answer: Answer<'_>) {
        let connection = self.connection;
        connection.resume(&self.transport, self.wanted, answer);
    }
}

/// The file at a path, which is kept from then on, where it can be opened without waiting: most can.
pub(super) fn at_once(server: &Shared, path: &[u8]) -> Option<Rc<Entry>> {
    if server.site().precompressed || names_directory(path) {
        return None;
    }
    let (root, _) = server.root()?;
    let fd = open_at_once(root, path)?;
    let Ok(Found::File(entry)) = examine(server, path, None, Ok(fd)) else {
        return None;
    };
    server.cache.borrow_mut().insert(path, Rc::clone(&entry));
    Some(entry)
}

fn names_directory(path: &[u8]) -> bool {
    path.is_empty() || path.ends_with(b"/")
}

fn examine(
    server: &Shared,
    path: &[u8],
    coding: Option<Coding>,
    opened: io::Result<Fd>,
) -> io::Result<Found> {
    let found = Entry::examine(opened?, path, coding, &server.site(), server.moment());
    if let (Ok(Found::File(entry)), Some((root, device))) = (&found, server.root()) {
        entry.is_below(root, device);
    }
    found
}
