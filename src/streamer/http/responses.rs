//! Responses with small files: head and content in one piece of memory.
//!
//! Each is made once a turn of the loop, and shared by all who ask for the file in that turn: their
//! requests had all arrived before it was read. By the next turn it is forgotten, and its memory
//! serves another, if nobody sends it still.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::cache::Entry;
use super::date::DateCache;
use super::moment::Moment;
use super::request::Persistence;

/// Files up to this size are read rather than sent from the page cache: one copy costs less than
/// the calls that would save it.
const SMALL: usize = 16 << 10;

/// How many pieces of memory are kept for the next turn.
const SPARE: usize = 64;

/// The responses of a turn, and memory for those of the next.
#[derive(Default)]
pub(crate) struct Responses {
    turn: u64,
    /// The files that have one.
    made: Vec<Rc<Entry>>,
    spare: Vec<BytesMut>,
}

impl Responses {
    /// The whole of the usual response, if the file is small and its content is in the page cache.
    pub(crate) fn of(
        &mut self,
        entry: &Rc<Entry>,
        moment: Moment,
        dates: &DateCache,
    ) -> Option<Bytes> {
        let size = usize::try_from(entry.size()).ok().filter(|n| *n <= SMALL)?;
        if self.turn != moment.turn {
            self.forget();
            self.turn = moment.turn;
        }
        if let Some(response) = entry.response() {
            return Some(response);
        }
        let head = entry.head(Persistence::Keep, moment.second, dates);
        let mut buf = self.spare.pop().unwrap_or_default();
        buf.reserve(head.len() + size);
        buf.extend_from_slice(&head);
        if entry.file().read_nowait(&mut buf, size, 0).ok()? != size {
            return None;
        }
        let response = buf.freeze();
        entry.set_response(Some(response.clone()));
        self.made.push(Rc::clone(entry));
        Some(response)
    }

    /// The turn is over.
    pub(crate) fn forget(&mut self) {
        for entry in self.made.drain(..) {
            let unused = entry.set_response(None).and_then(|r| r.try_into_mut().ok());
            if let Some(mut buf) = unused.filter(|_| self.spare.len() < SPARE) {
                buf.clear();
                self.spare.push(buf);
            }
        }
    }
}

// Miri has no fstat(2).
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::streamer::http::cache::tests::{entry, moment};
    use std::time::SystemTime;

    #[test]
    fn small_files_are_read_once_a_turn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, "hello").unwrap();
        let now = SystemTime::now();
        let first = moment(now);
        let entry = entry(&path, first);
        let dates = DateCache::default();
        let mut responses = Responses::default();
        let a = responses.of(&entry, first, &dates).unwrap();
        let b = responses.of(&entry, first, &dates).unwrap();
        assert_eq!(a.as_ptr(), b.as_ptr());
        assert!(a.ends_with(b"\r\n\r\nhello"));

        // Written to in place, as long as before: by the next turn that shows, and what is being
        // sent stays as it is.
        std::fs::write(&path, "HELLO").unwrap();
        let c = responses.of(&entry, moment(now), &dates).unwrap();
        assert!(c.ends_with(b"\r\n\r\nHELLO"));
        assert!(a.ends_with(b"\r\n\r\nhello"));

        // Nobody sends it any more: the memory is used again.
        let place = c.as_ptr();
        drop((a, b, c));
        let d = responses.of(&entry, moment(now), &dates).unwrap();
        assert_eq!(d.as_ptr(), place);

        // Cut meanwhile: it is for the sending to say so.
        std::fs::write(&path, "he").unwrap();
        assert!(responses.of(&entry, moment(now), &dates).is_none());
    }

    #[test]
    fn no_content_outlives_its_turn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "hello").unwrap();
        let now = SystemTime::now();
        let dates = DateCache::default();
        let mut responses = Responses::default();
        let entries: Vec<_> = (0..2 * SPARE).map(|_| entry(&path, moment(now))).collect();
        let turn = moment(now);
        for entry in &entries {
            assert!(responses.of(entry, turn, &dates).is_some());
        }
        assert!(entries.iter().all(|entry| entry.response().is_some()));
        let last = entry(&path, moment(now));
        assert!(responses.of(&last, moment(now), &dates).is_some());
        assert!(entries.iter().all(|entry| entry.response().is_none()));
        assert!(responses.spare.len() <= SPARE);
    }

    #[test]
    fn large_files_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let now = SystemTime::now();
        let dates = DateCache::default();
        let mut responses = Responses::default();
        for (size, small) in [(0, true), (SMALL, true), (SMALL + 1, false)] {
            std::fs::write(&path, vec![7; size]).unwrap();
            let entry = entry(&path, moment(now));
            let made = responses.of(&entry, moment(now), &dates);
            assert_eq!(made.is_some(), small, "{size}");
        }
    }
}
