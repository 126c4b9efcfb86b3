//! What the tests share: a proactor for each backend, connections with a peer on plain sockets,
//! files with known contents, a protocol that keeps a record.

#![allow(dead_code, unused_imports, unused_macros)]

#[cfg(feature = "tls")]
pub mod certificate;
pub mod kernel;
#[path = "../../proactor/tests/common/not_run.rs"]
mod not_run;
pub mod process;
#[cfg(feature = "tls")]
pub mod tls;

pub use not_run::not_run;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use spliceport::proactor::{BackendChoice, BackendKind, Builder, Fd, Proactor, net};
use spliceport::{
    End, Protocol, Route, RouteChoice, SendHandle, SendOptions, SendOutcome, Source, Transport,
    TransportOptions,
};

/// Longer than anything here takes, on an emulated processor that others use too.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Makes of each case a test for each backend.
macro_rules! on_both_backends {
    ($($(#[$attribute:meta])* fn $name:ident($proactor:ident: Proactor) $body:block)*) => {
        mod cases {
            #[allow(unused_imports)]
            use super::*;
            $(pub(super) fn $name($proactor: Proactor) $body)*
        }
        mod ring {
            $(#[test] $(#[$attribute])* fn $name() {
                $crate::common::with(spliceport::proactor::BackendChoice::Ring, super::cases::$name);
            })*
        }
        mod emulated {
            $(#[test] $(#[$attribute])* fn $name() {
                $crate::common::with(
                    spliceport::proactor::BackendChoice::Emulated,
                    super::cases::$name,
                );
            })*
        }
    };
}
pub(crate) use on_both_backends;

/// Runs a case on a proactor with a backend.
pub fn with(backend: BackendChoice, case: fn(Proactor)) {
    case(build(builder(backend)));
}

/// Whether io_uring is denied to the tests on purpose (`SPLICEPORT_TEST_DENIED=1`).
pub fn is_denied() -> bool {
    std::env::var_os("SPLICEPORT_TEST_DENIED").is_some_and(|value| value == "1")
}

/// Settings for a backend. Where io_uring is denied to the tests on purpose, the ring's cases are
/// those of asking for the best there is.
pub fn builder(backend: BackendChoice) -> Builder {
    Proactor::builder().backend(match backend {
        BackendChoice::Ring if is_denied() => BackendChoice::Auto,
        other => other,
    })
}

/// The proactor that these settings give.
pub fn build(builder: Builder) -> Proactor {
    let proactor = builder.build().expect("a proactor");
    if is_denied() {
        assert_eq!(proactor.backend(), BackendKind::Emulated);
    }
    proactor
}

/// Every route, and the transport's own choice.
pub const ROUTES: [RouteChoice; 5] = [
    RouteChoice::Auto,
    RouteChoice::Force(Route::Copy),
    RouteChoice::Force(Route::Chain),
    RouteChoice::Force(Route::Inline),
    RouteChoice::Force(Route::Sendfile),
];

/// Runs the loop until something is so.
#[track_caller]
pub fn run_until(proactor: &Proactor, what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !so() {
        assert!(Instant::now() < end, "waited in vain for: {what}");
        proactor
            .run_once(Some(Duration::from_millis(20)))
            .expect("the loop runs");
    }
}

/// Runs the loop for some turns and a little time: what was going to happen has happened then. The
/// turns count where each takes long.
pub fn run_a_while(proactor: &Proactor) {
    let end = Instant::now() + Duration::from_millis(60);
    let mut turns = 0;
    while turns < 12 || Instant::now() < end {
        proactor
            .run_once(Some(Duration::from_millis(5)))
            .expect("the loop runs");
        turns += 1;
    }
}

/// Runs the loop until something that is being sent has come to the peer, which does not read, and
/// then a while: until its buffers are full, mostly.
#[track_caller]
pub fn run_until_begun(proactor: &Proactor, peer: &TcpStream) {
    peer.set_nonblocking(true).unwrap();
    run_until(proactor, "the first bytes", || {
        peer.peek(&mut [0]).is_ok_and(|n| n > 0)
    });
    peer.set_nonblocking(false).unwrap();
    run_a_while(proactor);
}

/// Runs the loop until a thread ends.
#[track_caller]
pub fn join<T>(proactor: &Proactor, thread: JoinHandle<T>) -> T {
    run_until(proactor, "a peer's end", || thread.is_finished());
    thread.join().expect("the peer did not panic")
}

// Contents that tell each position from others: a block of noise, of a length that fits nothing.

const PERIOD: usize = 1_048_573;

fn noise() -> &'static [u8] {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    NOISE.get_or_init(|| {
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        };
        (0..PERIOD).map(|_| next()).collect()
    })
}

/// The bytes of a file of ours from `offset` on.
pub fn contents(offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    let mut at = (offset % PERIOD as u64) as usize;
    while bytes.len() < len {
        let n = (len - bytes.len()).min(PERIOD - at);
        bytes.extend_from_slice(&noise()[at..at + n]);
        at = 0;
    }
    bytes
}

/// A file of so many bytes, without a name.
pub fn file(len: u64) -> File {
    let mut file = empty_file();
    let block = contents(0, PERIOD);
    let mut left = len;
    while left > 0 {
        let n = left.min(PERIOD as u64) as usize;
        file.write_all(&block[..n]).unwrap();
        left -= n as u64;
    }
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

pub fn empty_file() -> File {
    let path = path();
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    std::fs::remove_file(path).unwrap();
    file
}

/// A path that nothing has.
pub fn path() -> std::path::PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!(
        "{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// What a peer received, compared with what it ought to have.
#[track_caller]
pub fn assert_same(got: &[u8], expected: &[u8]) {
    if got == expected {
        return;
    }
    let at = got.iter().zip(expected).position(|(a, b)| a != b);
    panic!(
        "{} bytes arrived, {} expected; the first difference is at {:?}",
        got.len(),
        expected.len(),
        at
    );
}

// Connections.

/// A TCP connection: our side, the peer's.
pub fn tcp() -> (Fd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_read_timeout(Some(LIMIT)).unwrap();
    peer.set_write_timeout(Some(LIMIT)).unwrap();
    let (ours, _) = listener.accept().unwrap();
    (Fd::new(OwnedFd::from(ours)), peer)
}

/// A TCP connection whose buffers are so small that every transfer is cut many times. It is slow:
/// some 40 ms a few KiB, on plain sockets too.
pub fn small_tcp() -> (Fd, TcpStream) {
    tcp_with_buffers(4096)
}

/// A TCP connection whose buffers are small enough to be full soon.
pub fn tight_tcp() -> (Fd, TcpStream) {
    tcp_with_buffers(32 << 10)
}

fn tcp_with_buffers(size: u32) -> (Fd, TcpStream) {
    let (ours, peer) = tcp();
    net::set_buffer_sizes(&ours, Some(size), Some(size)).unwrap();
    let other = Fd::new(OwnedFd::from(peer.try_clone().unwrap()));
    net::set_buffer_sizes(&other, Some(size), Some(size)).unwrap();
    (ours, peer)
}

/// Reads to the end on a thread of its own.
pub fn read_all<R: Read + Send + 'static>(mut from: R) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("the peer can read");
        bytes
    })
}

/// As [`read_all`], giving what came before an error, and the error.
pub fn read_until_error<R: Read + Send + 'static>(
    mut from: R,
) -> JoinHandle<(Vec<u8>, Option<io::Error>)> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let error = from.read_to_end(&mut bytes).err();
        (bytes, error)
    })
}

// A protocol that keeps a record.

/// Something that a protocol was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    Made,
    /// So many bytes.
    Data(usize),
    End,
    Pause,
    Resume,
    Lost(Option<io::ErrorKind>),
    /// A send's callback: what the test calls it, its count, its end.
    Sent(u32, u64, End),
}

/// What was told, in order, and the bytes that came.
#[derive(Clone, Default)]
pub struct Record {
    notes: Rc<RefCell<Vec<Note>>>,
    received: Rc<RefCell<Vec<u8>>>,
    /// How deep in callbacks we are.
    depth: Rc<Cell<u32>>,
    /// Keep the write side after the peer's end.
    pub half_open: Rc<Cell<bool>>,
}

impl Record {
    pub fn new() -> Record {
        Record::default()
    }

    pub fn note(&self, note: Note) {
        self.notes.borrow_mut().push(note);
    }

    pub fn notes(&self) -> Vec<Note> {
        self.notes.borrow().clone()
    }

    /// Without the data, whose portions are nobody's promise.
    pub fn signals(&self) -> Vec<Note> {
        let notes = self.notes.borrow();
        let kept = notes.iter().filter(|n| !matches!(n, Note::Data(_)));
        kept.cloned().collect()
    }

    pub fn count(&self, wanted: &Note) -> usize {
        self.notes.borrow().iter().filter(|n| *n == wanted).count()
    }

    pub fn has(&self, wanted: &Note) -> bool {
        self.count(wanted) > 0
    }

    pub fn is_lost(&self) -> bool {
        matches!(self.notes.borrow().last(), Some(Note::Lost(_)))
    }

    pub fn received(&self) -> Vec<u8> {
        self.received.borrow().clone()
    }

    pub fn protocol(&self) -> Box<dyn Protocol> {
        Box::new(Recorder(self.clone()))
    }

    /// Marks a callback; they never nest.
    pub fn inside<T>(&self, f: impl FnOnce() -> T) -> T {
        assert_eq!(self.depth.replace(1), 0, "a callback inside a callback");
        let result = f();
        self.depth.set(0);
        result
    }
}

struct Recorder(Record);

impl Protocol for Recorder {
    fn connection_made(&mut self, _: &Transport) {
        self.0.inside(|| self.0.note(Note::Made));
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        assert!(!data.is_empty());
        self.0.inside(|| {
            self.0.note(Note::Data(data.len()));
            self.0.received.borrow_mut().extend_from_slice(data);
        });
    }

    fn eof_received(&mut self, _: &Transport) -> bool {
        self.0.inside(|| self.0.note(Note::End));
        self.0.half_open.get()
    }

    fn pause_writing(&mut self, _: &Transport) {
        self.0.inside(|| self.0.note(Note::Pause));
    }

    fn resume_writing(&mut self, _: &Transport) {
        self.0.inside(|| self.0.note(Note::Resume));
    }

    fn connection_lost(&mut self, error: Option<io::Error>) {
        let kind = error.map(|e| e.kind());
        self.0.inside(|| self.0.note(Note::Lost(kind)));
    }
}

/// A transport with a record, over a TCP connection, and the peer.
pub fn open(proactor: &Proactor) -> (Transport, Record, TcpStream) {
    let (ours, peer) = tcp();
    let (transport, record) = over(proactor, ours);
    (transport, record, peer)
}

pub fn over(proactor: &Proactor, fd: Fd) -> (Transport, Record) {
    let record = Record::new();
    let options = TransportOptions::new();
    let transport = Transport::new(proactor, fd, record.protocol(), &options).unwrap();
    (transport, record)
}

/// A send's outcome, once it is there.
#[derive(Clone)]
pub struct Outcome {
    cell: Rc<RefCell<Option<SendOutcome>>>,
    pub handle: SendHandle,
}

impl Outcome {
    pub fn is_there(&self) -> bool {
        self.cell.borrow().is_some()
    }

    #[track_caller]
    pub fn sent(&self) -> u64 {
        self.cell.borrow().as_ref().expect("it has ended").sent
    }

    #[track_caller]
    pub fn end(&self) -> End {
        self.cell.borrow().as_ref().expect("it has ended").end
    }

    #[track_caller]
    pub fn kind(&self) -> Option<io::ErrorKind> {
        let cell = self.cell.borrow();
        let outcome = cell.as_ref().expect("it has ended");
        outcome.error.as_ref().map(io::Error::kind)
    }

    /// The system's number of its error.
    #[track_caller]
    pub fn errno(&self) -> Option<i32> {
        let cell = self.cell.borrow();
        let outcome = cell.as_ref().expect("it has ended");
        outcome.error.as_ref().and_then(io::Error::raw_os_error)
    }

    #[track_caller]
    pub fn text(&self) -> String {
        let cell = self.cell.borrow();
        let outcome = cell.as_ref().expect("it has ended");
        outcome
            .error
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default()
    }

    #[track_caller]
    pub fn routes(&self) -> Vec<Route> {
        let cell = self.cell.borrow();
        cell.as_ref().expect("it has ended").routes.iter().collect()
    }

    #[track_caller]
    pub fn wait(&self, proactor: &Proactor) {
        run_until(proactor, "a send's end", || self.is_there());
    }

    /// Waits, and checks for success.
    #[track_caller]
    pub fn succeed(&self, proactor: &Proactor, sent: u64) {
        self.wait(proactor);
        let cell = self.cell.borrow();
        let outcome = cell.as_ref().unwrap();
        assert!(outcome.is_success(), "{outcome:?}");
        assert!(outcome.error.is_none(), "{outcome:?}");
        assert_eq!(outcome.sent, sent);
    }
}

/// Sends, noting the outcome; it comes once, from the loop, and not inside this call.
#[track_caller]
pub fn send(transport: &Transport, source: impl Into<Source>, options: SendOptions) -> Outcome {
    let cell = Rc::new(RefCell::new(None));
    let handle = {
        let cell = Rc::clone(&cell);
        transport.send_file(source, options, move |_, outcome| {
            let before = cell.borrow_mut().replace(outcome);
            assert!(before.is_none(), "called twice");
        })
    };
    assert!(cell.borrow().is_none(), "called from inside the call");
    Outcome { cell, handle }
}

/// Sends, noting the outcome in the record as number `number`.
pub fn send_noted(
    transport: &Transport,
    record: &Record,
    number: u32,
    source: impl Into<Source>,
    options: SendOptions,
) -> SendHandle {
    let record = record.clone();
    transport.send_file(source, options, move |_, outcome| {
        record.inside(|| record.note(Note::Sent(number, outcome.sent, outcome.end)));
    })
}

pub fn by(route: RouteChoice) -> SendOptions {
    SendOptions::new().route(route)
}

/// Sends one source by a route between two writes, and gives what it was sent as.
#[track_caller]
pub fn sandwich(
    proactor: &Proactor,
    (ours, peer): (Fd, impl Read + Send + 'static),
    source: impl Into<Source>,
    route: RouteChoice,
) -> (Outcome, Vec<u8>) {
    let (transport, record) = over(proactor, ours);
    let reader = read_all(peer);
    transport.write(&b"<header>"[..]).unwrap();
    let outcome = send(&transport, source, by(route).keep_connection(true));
    transport.write(&b"<trailer>"[..]).unwrap();
    transport.close();
    outcome.wait(proactor);
    let bytes = join(proactor, reader);
    run_until(proactor, "the connection's end", || record.is_lost());
    assert_eq!(record.signals().last(), Some(&Note::Lost(None)));
    let body = bytes
        .strip_prefix(b"<header>")
        .and_then(|rest| rest.strip_suffix(b"<trailer>"))
        .unwrap_or_else(|| panic!("torn header or trailer: {:?}", bytes.len()));
    (outcome, body.to_vec())
}
