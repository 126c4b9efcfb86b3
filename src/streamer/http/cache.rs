//! Open files, kept for a moment with their headers ready.
//!
//! - Before it is used, once a turn of the loop, the descriptor is asked (fstat(2)) whether the file
//!   is still the same: one that was written to, cut, deleted, or replaced by a rename is opened
//!   anew at once. So a length always belongs to the file that is sent.
//! - Whatever the descriptor can't tell, such as a link that now leads elsewhere, is seen after
//!   at most [`Cache::LIFE`], since no entry gets older.
//! - A file and its compressed forms are one entry: if one of them changed, all are opened anew.
//! - Files of network file systems are not kept, as asking about them may take long.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::io;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::fs::{self, FileType};

use crate::Fd;
use crate::streamer::open;

use super::choice::Current;
use super::coding::{Accepted, Coding};
use super::date::{self, DateCache};
use super::fields::Fields;
use super::head::{Head, content_type};
use super::moment::Moment;
use super::request::Persistence;
use super::site::Site;
use super::stamp::Stamp;
use super::status::Status;
use super::tag;

/// What an opened path turned out to be.
pub(crate) enum Found {
    File(Rc<Entry>),
    Directory(Fd),
    /// A FIFO, a device, a socket.
    Other,
}

/// A form of a file in some coding.
pub(crate) type Coded = (Coding, Rc<Entry>);

/// An open regular file.
pub(crate) struct Entry {
    fd: Fd,
    /// It is open as for waiting reads: see [`open::opened`].
    ready: Cell<bool>,
    stamp: Stamp,
    opened: SystemTime,
    /// The turn in which it was last known to be unchanged.
    checked: Cell<u64>,
    /// When it was last changed, in seconds since 1970; never in the future.
    modified: u64,
    /// Its entity tag.
    tag: String,
    fields: Fields,
    /// The head of the usual response, and the second that it is for.
    head: RefCell<(u64, Bytes)>,
    /// The same file in content codings, where the site has such.
    codings: OnceCell<Vec<Coded>>,
    /// Head and content together, during a turn: see [`Responses`](super::responses::Responses).
    response: RefCell<Option<Bytes>>,
}

impl Entry {
    /// Looks at what was opened. The file's path decides the type of its content, even where what
    /// is open holds it in some coding.
    ///
    /// # Errors
    /// fstat(2)'s.
    pub(crate) fn examine(
        fd: Fd,
        path: &[u8],
        coding: Option<Coding>,
        site: &Site,
        moment: Moment,
    ) -> io::Result<Found> {
        let stat = fs::fstat(&fd)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Ok(Found::Directory(fd)),
            _ => return Ok(Found::Other),
        }
        let stamp = Stamp::of(&stat);
        let modified = u64::try_from(stamp.modified.0)
            .unwrap_or(0)
            .min(moment.second);
        let suffix = coding.map_or("", Coding::suffix);
        let tag = tag::of(&stamp, suffix, moment.now);
        let mut representation = format!(
            "Last-Modified: {}\r\nAccept-Ranges: bytes\r\n",
            date::format(modified),
        );
        if let Some(coding) = coding {
            let _ = write!(representation, "Content-Encoding: {}\r\n", coding.name());
        }
        site.add_disposition(path, &mut representation);
        let mut shared = format!("ETag: {tag}\r\n");
        site.add_shared(path, &mut shared);
        let content_type = content_type(path);
        let fields = Fields::new(&content_type, &representation, &shared, site.always());
        Ok(Found::File(Rc::new(Entry {
            fd,
            ready: Cell::new(false),
            stamp,
            opened: moment.now,
            checked: Cell::new(moment.turn),
            modified,
            tag,
            fields,
            head: RefCell::default(),
            codings: OnceCell::new(),
            response: RefCell::default(),
        })))
    }

    /// The file, for a send. What is read behind its head is never waited for, and costs no call
    /// for this.
    pub(crate) fn fd(&self) -> &Fd {
        if !self.ready.replace(true)
            && let Err(error) = open::opened(&self.fd)
        {
            log::debug!("a file stays non-blocking: {error}");
        }
        &self.fd
    }

    /// The same, for reads that don't wait, and what costs no call.
    pub(crate) fn file(&self) -> &Fd {
        &self.fd
    }

    /// Spares a question about its file system, where it is that of the directory that is served.
    pub(crate) fn is_below(&self, root: &Fd, device: u64) {
        if self.stamp.device == device {
            self.fd.is_on_filesystem_of(root);
        }
    }

    /// The file's length, of the moment when it was last looked at.
    pub(crate) fn size(&self) -> u64 {
        u64::try_from(self.stamp.size).unwrap_or(0)
    }

    /// What conditions are held against.
    pub(crate) fn current(&self, second: u64) -> Current<'_> {
        Current {
            size: self.size(),
            modified: Some(self.modified),
            tag: Some(&self.tag),
            second,
        }
    }

    /// Tells the codings in which the file stands ready. Once.
    pub(crate) fn set_codings(&self, codings: Vec<Coded>) {
        let _ = self.codings.set(codings);
    }

    /// The form of the file that a client likes best: itself, or that in a coding.
    pub(crate) fn best(self: &Rc<Self>, accepted: &Accepted) -> &Rc<Entry> {
        let codings = self.codings.get().map(|codings| &codings[..]);
        let codings = codings.unwrap_or_default();
        accepted.best(codings).map_or(self, |at| &codings[at].1)
    }

    /// Fields of the responses about this file.
    pub(crate) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The head of a response with the whole file.
    pub(crate) fn head(&self, persistence: Persistence, second: u64, dates: &DateCache) -> Bytes {
        let build = || {
            dates.with(second, |date| {
                Head::new(Status::OK, date)
                    .fields(self.fields.all())
                    .field("Content-Length", format_args!("{}", self.size()))
                    .end(persistence)
                    .freeze()
            })
        };
        if persistence != Persistence::Keep {
            return build();
        }
        let mut head = self.head.borrow_mut();
        if head.0 != second || head.1.is_empty() {
            *head = (second, build());
        }
        head.1.clone()
    }

    /// The whole of the usual response, where it has been made in this turn.
    pub(crate) fn response(&self) -> Option<Bytes> {
        self.response.borrow().clone()
    }

    /// Keeps the response, or nothing; gives what was kept.
    pub(crate) fn set_response(&self, response: Option<Bytes>) -> Option<Bytes> {
        self.response.replace(response)
    }

    /// Whether it is young enough. A clock that was set back says nothing about its age.
    fn is_young(&self, moment: Moment) -> bool {
        let age = moment.now.duration_since(self.opened);
        age.is_ok_and(|age| age < Cache::LIFE)
    }

    /// Whether it may still be used.
    fn is_fresh(&self, moment: Moment) -> bool {
        if self.checked.get() == moment.turn {
            return true;
        }
        let unchanged = || {
            let now = fs::fstat(&self.fd);
            now.is_ok_and(|now| now.st_nlink > 0 && Stamp::of(&now) == self.stamp)
        };
        let codings = || {
            let mut codings = self.codings.get().into_iter().flatten();
            codings.all(|(_, entry)| entry.is_fresh(moment))
        };
        let fresh = self.is_young(moment) && unchanged() && codings();
        if fresh {
            self.checked.set(moment.turn);
        }
        fresh
    }
}

/// How many files are closed at once: some 0.1 ms of work.
const EXPIRE: usize = 256;

/// Open files by path; a bounded number of them.
pub(crate) struct Cache {
    entries: HashMap<Rc<[u8]>, Slot>,
    /// Their paths, in the order in which they are to make room: the hand of a clock, which passes
    /// over those that were used since it last came by. Some may be of entries that are gone.
    clock: VecDeque<Rc<[u8]>>,
    capacity: usize,
    counts: CacheCounts,
}

/// What became of those who asked for an open file.
#[derive(Clone, Copy, Default)]
pub(crate) struct CacheCounts {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    /// Files that were asked whether they had changed.
    pub(crate) checks: u64,
}

struct Slot {
    entry: Rc<Entry>,
    /// The one in the clock.
    path: Rc<[u8]>,
    used: bool,
}

impl Cache {
    /// The longest that an entry is used.
    pub(crate) const LIFE: Duration = Duration::from_secs(1);

    /// For at most `capacity` files; none are kept where that is 0.
    pub(crate) fn new(capacity: usize) -> Cache {
        Cache {
            entries: HashMap::new(),
            clock: VecDeque::new(),
            capacity,
            counts: CacheCounts::default(),
        }
    }

    /// The file at a path, if it is open and unchanged.
    pub(crate) fn get(&mut self, path: &[u8], moment: Moment) -> Option<Rc<Entry>> {
        let Some(slot) = self.entries.get_mut(path) else {
            self.counts.misses += 1;
            return None;
        };
        if slot.entry.checked.get() != moment.turn {
            self.counts.checks += 1;
        }
        if slot.entry.is_fresh(moment) {
            self.counts.hits += 1;
            slot.used = true;
            return Some(Rc::clone(&slot.entry));
        }
        self.counts.misses += 1;
        self.entries.remove(path);
        None
    }

    /// What is at a path has been replaced.
    pub(crate) fn forget(&mut self, path: &[u8]) {
        self.entries.remove(path);
        // It may be kept under its directory's name too.
        if let Some(directory) = path.strip_suffix(b"index.html") {
            self.entries.remove(directory);
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.clock.clear();
    }

    /// Closes the files that nobody uses now. Whether there were any.
    pub(crate) fn shed(&mut self) -> bool {
        let before = self.entries.len();
        self.entries
            .retain(|_, slot| Rc::strong_count(&slot.entry) > 1);
        self.forget_the_gone();
        self.entries.len() < before
    }

    fn forget_the_gone(&mut self) {
        self.clock.retain(|path| {
            let slot = self.entries.get(path);
            slot.is_some_and(|slot| Rc::ptr_eq(&slot.path, path))
        });
    }

    pub(crate) fn counts(&self) -> CacheCounts {
        self.counts
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keeps a file, unless to ask about it may take long. One that wasn't used for long makes room.
    pub(crate) fn insert(&mut self, path: &[u8], entry: Rc<Entry>) {
        if self.capacity == 0 || !open::answers_at_once(&entry.fd) {
            return;
        }
        if let Some(slot) = self.entries.get_mut(path) {
            slot.entry = entry;
            return;
        }
        while self.entries.len() >= self.capacity {
            self.make_room();
        }
        if self.clock.len() >= 2 * self.capacity {
            self.forget_the_gone();
        }
        let path: Rc<[u8]> = path.into();
        self.clock.push_back(Rc::clone(&path));
        let slot = Slot {
            entry,
            path: Rc::clone(&path),
            used: false,
        };
        self.entries.insert(path, slot);
    }

    /// Moves the clock's hand on: what it stands at goes, unless it was used.
    fn make_room(&mut self) {
        let Some(path) = self.clock.pop_front() else {
            return self.entries.clear();
        };
        match self.entries.get_mut(&path) {
            Some(slot) if !Rc::ptr_eq(&slot.path, &path) => {}
            Some(slot) if slot.used => {
                slot.used = false;
                self.clock.push_back(path);
            }
            _ => drop(self.entries.remove(&path)),
        }
    }

    /// Closes files that are too old to be used again, so that deleted ones don't keep their
    /// disk space. Whether it is to be called again soon: it doesn't close very many at once.
    pub(crate) fn expire(&mut self, moment: Moment) -> bool {
        for _ in 0..EXPIRE {
            let Some(path) = self.clock.front() else {
                return false;
            };
            // Those behind are younger, but for those that the hand has passed over; their turn comes.
            match self.entries.get(path) {
                Some(slot) if !Rc::ptr_eq(&slot.path, path) => {}
                Some(slot) if slot.entry.is_young(moment) => return false,
                _ => drop(self.entries.remove(path)),
            }
            self.clock.pop_front();
        }
        true
    }
}

// Miri has no fstat(2).
#[cfg(all(test, not(miri)))]
pub(super) mod tests {
    use super::*;
    use std::fs::File;
    use std::path::Path;

    /// A turn of its own each.
    pub(in super::super) fn moment(now: SystemTime) -> Moment {
        thread_local!(static TURN: Cell<u64> = const { Cell::new(1) });
        TURN.set(TURN.get() + 1);
        Moment::at(TURN.get(), now)
    }

    pub(in super::super) fn entry(path: &Path, moment: Moment) -> Rc<Entry> {
        let fd = Fd::new(File::open(path).unwrap());
        let path = path.as_os_str().as_encoded_bytes();
        match Entry::examine(fd, path, None, &Site::new(), moment).unwrap() {
            Found::File(entry) => entry,
            _ => panic!("no file"),
        }
    }

    #[test]
    fn forgets_what_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        let now = SystemTime::now();
        let mut cache = Cache::new(8);
        let fill = |text: &str, cache: &mut Cache| {
            std::fs::write(&path, text).unwrap();
            cache.insert(b"a.txt", entry(&path, moment(now)));
            assert_eq!(
                cache.get(b"a.txt", moment(now)).map(|e| e.size()),
                Some(text.len() as u64)
            );
        };
        assert!(cache.get(b"a.txt", moment(now)).is_none());

        fill("one", &mut cache);
        std::fs::write(&path, "three").unwrap();
        assert!(cache.get(b"a.txt", moment(now)).is_none(), "written to");

        fill("one", &mut cache);
        let other = dir.path().join("b.txt");
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(cache.get(b"a.txt", moment(now)).is_none(), "replaced");

        fill("one", &mut cache);
        std::fs::remove_file(&path).unwrap();
        assert!(cache.get(b"a.txt", moment(now)).is_none(), "deleted");

        fill("one", &mut cache);
        let later = now + Cache::LIFE;
        assert!(cache.get(b"a.txt", moment(later)).is_none(), "too old");

        fill("one", &mut cache);
        let earlier = now - Duration::from_secs(5);
        assert!(
            cache.get(b"a.txt", moment(earlier)).is_none(),
            "clock set back"
        );

        fill("one", &mut cache);
        cache.expire(moment(now));
        assert_eq!(cache.entries.len(), 1);
        cache.expire(moment(later));
        assert_eq!(cache.entries.len(), 0);
    }

    #[test]
    fn is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "x").unwrap();
        let now = SystemTime::now();
        let mut cache = Cache::new(2);
        for name in [b"a", b"b"] {
            cache.insert(name, entry(&path, moment(now)));
        }
        assert!(cache.get(b"a", moment(now)).is_some());
        cache.insert(b"c", entry(&path, moment(now)));
        assert!(cache.get(b"a", moment(now)).is_some());
        assert!(cache.get(b"b", moment(now)).is_none());
        assert!(cache.get(b"c", moment(now)).is_some());
    }

    #[test]
    fn what_is_gone_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "x").unwrap();
        let now = SystemTime::now();
        let mut cache = Cache::new(2);
        for _ in 0..5 {
            for name in [b"a", b"b", b"c"] {
                cache.insert(name, entry(&path, moment(now)));
                cache.insert(name, entry(&path, moment(now)));
            }
            cache.forget(b"c");
            assert!(cache.clock.len() <= 4);
        }
        assert!(cache.len() <= 2);
        cache.insert(b"d", entry(&path, moment(now)));
        assert!(cache.get(b"d", moment(now)).is_some());
        cache.expire(moment(now + Cache::LIFE));
        assert_eq!((cache.clock.len(), cache.len()), (0, 0));
    }

    #[test]
    fn many_are_not_closed_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "x").unwrap();
        let now = SystemTime::now();
        let mut cache = Cache::new(2 * EXPIRE);
        for i in 0..EXPIRE + 1 {
            cache.insert(i.to_string().as_bytes(), entry(&path, moment(now)));
        }
        assert!(!cache.expire(moment(now)));
        assert_eq!(cache.len(), EXPIRE + 1);
        assert!(cache.expire(moment(now + Cache::LIFE)));
        assert_eq!(cache.len(), 1);
        assert!(!cache.expire(moment(now + Cache::LIFE)));
        assert!(cache.is_empty());
    }

    #[test]
    fn builds_the_head_once_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, "hello").unwrap();
        let entry = entry(&path, moment(SystemTime::now()));
        let dates = DateCache::default();
        let a = entry.head(Persistence::Keep, 7, &dates);
        let b = entry.head(Persistence::Keep, 7, &dates);
        assert_eq!(a.as_ptr(), b.as_ptr());
        let c = entry.head(Persistence::Keep, 8, &dates);
        assert_ne!(a, c);
        let text = String::from_utf8(c.to_vec()).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("\r\nDate: Thu, 01 Jan 1970 00:00:08 GMT\r\n"));
        assert!(text.contains("\r\nContent-Type: text/plain; charset=utf-8\r\n"));
        assert!(text.contains("\r\nLast-Modified: "));
        assert!(text.contains("\r\nAccept-Ranges: bytes\r\n"));
        assert!(text.contains("\r\nETag: "));
        assert!(text.ends_with("\r\nContent-Length: 5\r\n\r\n"));
    }
}
