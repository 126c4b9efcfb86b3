//! The heads of responses, and the short bodies of those that bring no file.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};

use super::request::Persistence;
use super::site::Site;
use super::status::Status;

const SERVER: &str = concat!("spliceport/", env!("CARGO_PKG_VERSION"));

/// A response's head being built.
pub(crate) struct Head {
    text: BytesMut,
}

impl Head {
    /// The status line and the fields that every response has.
    pub(crate) fn new(status: Status, date: &str) -> Head {
        let mut text = BytesMut::with_capacity(320);
        let Status { code, reason } = status;
        put(
            &mut text,
            format_args!("HTTP/1.1 {code} {reason}\r\nServer: {SERVER}\r\nDate: {date}\r\n"),
        );
        Head { text }
    }

    /// Whole fields, each with its line's end.
    pub(crate) fn fields(mut self, fields: &str) -> Head {
        self.text.extend_from_slice(fields.as_bytes());
        self
    }

    /// One field.
    pub(crate) fn field(mut self, name: &str, value: std::fmt::Arguments<'_>) -> Head {
        put(&mut self.text, format_args!("{name}: {value}\r\n"));
        self
    }

    /// The end of the head.
    pub(crate) fn end(mut self, persistence: Persistence) -> BytesMut {
        self.text.extend_from_slice(match persistence {
            Persistence::Keep => b"\r\n".as_slice(),
            Persistence::KeepTold => b"Connection: keep-alive\r\n\r\n",
            Persistence::Close => b"Connection: close\r\n\r\n",
        });
        self.text
    }
}

fn put(text: &mut BytesMut, what: std::fmt::Arguments<'_>) {
    // A BytesMut grows: this can't fail.
    let _ = text.write_fmt(what);
}

/// A response without a file: its head, and a body that says its status in words, or as the site
/// says it.
pub(crate) struct Plain<'a> {
    pub(crate) status: Status,
    /// Fields of its own, each with its line's end.
    pub(crate) fields: &'a str,
    /// For a HEAD request: the length is told, the body isn't sent.
    pub(crate) head: bool,
    pub(crate) persistence: Persistence,
}

impl Plain<'_> {
    /// Its bytes, and how many of them are content.
    pub(crate) fn build(&self, site: &Site, date: &str) -> (Bytes, usize) {
        let Status { code, reason } = self.status;
        let head = Head::new(self.status, date)
            .fields(self.fields)
            .fields(site.always());
        if matches!(self.status, Status::NOT_MODIFIED | Status::NO_CONTENT) {
            return (head.end(self.persistence).freeze(), 0);
        }
        let words;
        let (kind, body) = match site.page_for(code) {
            Some(page) => (page.content_type.as_str(), &page.body[..]),
            None => {
                words = format!("{code} {reason}\n");
                ("text/plain; charset=utf-8", words.as_bytes())
            }
        };
        let mut text = head
            .field("Content-Type", format_args!("{kind}"))
            .field("Content-Length", format_args!("{}", body.len()))
            .end(self.persistence);
        if self.head {
            return (text.freeze(), 0);
        }
        text.extend_from_slice(body);
        (text.freeze(), body.len())
    }
}

/// The `Content-Type` for a file's name.
pub(crate) fn content_type(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let mime = mime_guess::from_path(&*name).first_or_octet_stream();
    if mime.essence_str() == "application/javascript" {
        // Obsolete since RFC 9239.
        return "text/javascript; charset=utf-8".to_owned();
    }
    if mime.type_() == mime_guess::mime::TEXT && mime.get_param("charset").is_none() {
        return format!("{mime}; charset=utf-8");
    }
    mime.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_types() {
        let table: [(&[u8], &str); 8] = [
            (b"a.html", "text/html; charset=utf-8"),
            (b"dir/a.TXT", "text/plain; charset=utf-8"),
            (b"a.png", "image/png"),
            (b"a.json", "application/json"),
            (b"a.js", "text/javascript; charset=utf-8"),
            (b"a.mjs", "text/javascript; charset=utf-8"),
            (b"a", "application/octet-stream"),
            (b"a.\xff", "application/octet-stream"),
        ];
        for (name, expected) in table {
            assert_eq!(content_type(name), expected);
        }
    }

    #[test]
    fn builds_plain_responses() {
        let mut plain = Plain {
            status: Status::NOT_FOUND,
            fields: "",
            head: false,
            persistence: Persistence::Keep,
        };
        let text = String::from_utf8(plain.build(&Site::new(), "D").0.to_vec()).unwrap();
        assert_eq!(
            text,
            format!(
                "HTTP/1.1 404 Not Found\r\nServer: {SERVER}\r\nDate: D\r\n\
                 Content-Type: text/plain; charset=utf-8\r\nContent-Length: 14\r\n\r\n\
                 404 Not Found\n"
            )
        );
        plain.head = true;
        plain.persistence = Persistence::Close;
        let text = String::from_utf8(plain.build(&Site::new(), "D").0.to_vec()).unwrap();
        assert!(text.ends_with("Content-Length: 14\r\nConnection: close\r\n\r\n"));
        plain.status = Status::NOT_MODIFIED;
        plain.head = false;
        let text = String::from_utf8(plain.build(&Site::new(), "D").0.to_vec()).unwrap();
        assert!(
            text.ends_with("Date: D\r\nConnection: close\r\n\r\n"),
            "{text}"
        );
    }
}
