//! A response whose file is being opened.

use std::ffi::CString;
use std::io;
use std::rc::Rc;

use crate::streamer::server::Shared;
use crate::{Fd, Transport};

use super::cache::{Entry, Found};
use super::connection::Connection;
use super::path::directory_target;
use super::request::Wanted;
use super::respond::Answer;
use super::status::Status;

/// A request that waits for its file.
pub(crate) struct Pending {
    pub(crate) connection: Rc<Connection>,
    pub(crate) transport: Transport,
    pub(crate) wanted: Wanted,
    /// As [`normalize`](super::path::normalize) gives it.
    pub(crate) path: Vec<u8>,
    pub(crate) query: Option<Vec<u8>>,
}

impl Pending {
    /// Opens the path, or the index of the directory that it names.
    pub(crate) fn open(self, server: &Rc<Shared>) {
        let mut name = self.path.clone();
        if self.names_directory() {
            name.extend_from_slice(b"index.html");
        }
        let Ok(path) = CString::new(name.clone()) else {
            return self.refuse(Status::BAD_REQUEST);
        };
        let shared = Rc::clone(server);
        server.open(path, move |opened| self.opened(&shared, &name, opened));
    }

    fn names_directory(&self) -> bool {
        self.path.is_empty() || self.path.ends_with(b"/")
    }

    fn opened(self, server: &Shared, name: &[u8], opened: io::Result<Fd>) {
        if !self.connection.awaits_file() {
            return;
        }
        let examined = opened.and_then(|fd| Entry::examine(fd, name, server.moment()));
        match examined {
            Ok(Found::File(entry)) => {
                let mut cache = server.cache.borrow_mut();
                cache.insert(&self.path, Rc::clone(&entry));
                drop(cache);
                self.answer(Answer::File(&entry));
            }
            Ok(Found::Directory) if !self.names_directory() => {
                let target = directory_target(&self.path, self.query.as_deref());
                let location = format!("Location: {target}\r\n");
                self.answer(Answer::Status(Status::MOVED_PERMANENTLY, &location));
            }
            Ok(Found::Directory | Found::Other) => self.refuse(Status::NOT_FOUND),
            Err(error) => {
                let status = Status::of(&error);
                if status.code >= 500 {
                    let name = String::from_utf8_lossy(name);
                    log::error!("{name:?} can't be opened: {error}");
                }
                self.refuse(status);
            }
        }
    }

    fn refuse(self, status: Status) {
        self.answer(Answer::Status(status, ""));
    }

    fn answer(self, answer: Answer<'_>) {
        let connection = self.connection;
        connection.resume(&self.transport, self.wanted, answer);
    }
}
