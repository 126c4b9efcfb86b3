//! The content of a directory that has no index.
//!
//! It is read, sorted and written down on a worker. A directory with more than [`MAX_ITEMS`] names
//! is listed in part, and says so. Listed is what the server would serve: regular files and
//! directories, links to such that stay inside, and no hidden names unless the site shows them.

mod json;
mod page;
mod read;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;

use crate::Fd;

use super::quality;

/// The most names that are listed of a directory.
const MAX_ITEMS: usize = 10_000;

const CACHED_FIELDS: &str = "Vary: Accept\r\nCache-Control: no-cache\r\n";

/// What a listing is to be of, and like.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The directory, as [`normalize`](super::path::normalize) gives it.
    pub(crate) path: Vec<u8>,
    pub(crate) hidden: bool,
    pub(crate) form: Form,
    pub(crate) sorting: Sorting,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    Html,
    Json,
}

impl Form {
    /// What `Accept` asks for.
    pub(crate) fn accepted(accept: Option<&[u8]>) -> Form {
        match accept.is_some_and(quality::prefers_json) {
            true => Form::Json,
            false => Form::Html,
        }
    }
}

/// A listing, written down.
#[derive(Debug)]
pub(crate) struct Page {
    /// Fields of the response, each with its line's end.
    pub(crate) fields: Cow<'static, str>,
    /// Those that a 304 has, too.
    pub(crate) cached_fields: &'static str,
    pub(crate) body: Bytes,
}

impl Page {
    /// The same, counted as long as its body is in memory.
    pub(crate) fn counted(mut self, count: Arc<AtomicUsize>) -> Page {
        count.fetch_add(self.body.len(), Relaxed);
        let body = Counted {
            body: self.body,
            count,
        };
        self.body = Bytes::from_owner(body);
        self
    }
}

/// Bytes, and where they are counted.
struct Counted {
    body: Bytes,
    count: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.fetch_sub(self.body.len(), Relaxed);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Key {
    Name,
    Size,
    Modified,
}

/// The order of a listing. Directories come first in any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sorting {
    pub(crate) key: Key,
    pub(crate) descending: bool,
}

impl Sorting {
    /// What a query (`sort=size&order=desc`) asks for; what is not understood is ignored.
    pub(crate) fn asked(query: Option<&[u8]>) -> Sorting {
        let mut sorting = Sorting {
            key: Key::Name,
            descending: false,
        };
        for pair in query.unwrap_or_default().split(|b| *b == b'&') {
            match pair {
                b"sort=name" => sorting.key = Key::Name,
                b"sort=size" => sorting.key = Key::Size,
                b"sort=modified" => sorting.key = Key::Modified,
                b"order=asc" => sorting.descending = false,
                b"order=desc" => sorting.descending = true,
                _ => {}
            }
        }
        sorting
    }

    fn compare(self, a: &Item, b: &Item) -> Ordering {
        let by_key = match self.key {
            Key::Name => Ordering::Equal,
            Key::Size => a.size.cmp(&b.size),
            Key::Modified => a.modified.cmp(&b.modified),
        };
        let order = by_key.then_with(|| by_name(&a.name, &b.name));
        let order = if self.descending {
            order.reverse()
        } else {
            order
        };
        b.directory.cmp(&a.directory).then(order)
    }
}

/// One file or directory.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Item {
    name: Vec<u8>,
    directory: bool,
    size: u64,
    /// In seconds since 1970.
    modified: u64,
}

/// What a directory holds.
#[derive(Debug)]
struct Listing {
    items: Vec<Item>,
    /// There is more.
    cut: bool,
}

/// Reads a directory and writes the listing down. Waits for disks.
///
/// # Errors
/// Those of reading the directory.
pub(crate) fn make(root: &Fd, directory: &Fd, request: &Request) -> io::Result<Page> {
    let mut listing = read::read(root, directory, request)?;
    listing.items.sort_by(|a, b| request.sorting.compare(a, b));
    Ok(match request.form {
        Form::Html => page::write(&listing, request),
        Form::Json => json::write(&listing, request),
    })
}

/// As people order names: without regard to case, numbers by their value. Names that are the same
/// by that are ordered by their bytes.
fn by_name(a: &[u8], b: &[u8]) -> Ordering {
    let (mut left, mut right) = (a, b);
    while let ([x, ..], [y, ..]) = (left, right) {
        let order;
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let (m, n);
            (m, left) = number(left);
            (n, right) = number(right);
            order = m.len().cmp(&n.len()).then_with(|| m.cmp(n));
        } else {
            order = x.to_ascii_lowercase().cmp(&y.to_ascii_lowercase());
            (left, right) = (&left[1..], &right[1..]);
        }
        if order.is_ne() {
            return order;
        }
    }
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

/// The digits at the beginning, without leading zeros, and what follows.
fn number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|b| !b.is_ascii_digit());
    let (digits, rest) = text.split_at(end.unwrap_or(text.len()));
    let start = digits.iter().position(|b| *b != b'0');
    (&digits[start.unwrap_or(digits.len())..], rest)
}

/// `2026-11-24T14:20:56Z`.
fn timestamp(seconds: u64) -> String {
    // After the year 9999 there is no such form.
    let seconds = seconds.min(253_402_300_799);
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, directory: bool, size: u64, modified: u64) -> Item {
        let name = name.as_bytes().to_vec();
        Item {
            name,
            directory,
            size,
            modified,
        }
    }

    #[test]
    fn orders_names_as_people_do() {
        let mut names = [
            "b", "file10", "a", "File2", "file02", "file1", "B", "z1a", "z01b", "",
        ];
        names.sort_by(|a, b| by_name(a.as_bytes(), b.as_bytes()));
        let expected = [
            "", "a", "B", "b", "file1", "File2", "file02", "file10", "z1a", "z01b",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn sorts_as_asked() {
        let items = [
            item("b", false, 1, 30),
            item("a", false, 2, 10),
            item("c", false, 2, 20),
            item("d", true, 9, 5),
        ];
        for (query, expected) in [
            (None, "dabc"),
            (Some("sort=name&order=desc"), "dcba"),
            (Some("sort=size"), "dbac"),
            (Some("sort=size&order=desc"), "dcab"),
            (Some("order=desc&sort=modified"), "dbca"),
            (Some("sort=nonsense&&order=x&=&sort"), "dabc"),
        ] {
            let sorting = Sorting::asked(query.map(str::as_bytes));
            let mut items = items.to_vec();
            items.sort_by(|a, b| sorting.compare(a, b));
            let names: Vec<u8> = items.into_iter().flat_map(|item| item.name).collect();
            assert_eq!(String::from_utf8(names).unwrap(), expected, "{query:?}");
        }
    }

    #[test]
    fn tells_times() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(784_111_777), "1994-11-06T08:49:37Z");
        assert_eq!(timestamp(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
