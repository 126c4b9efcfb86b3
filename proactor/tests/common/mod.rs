//! What the tests share: each case runs on both backends from one source, bounded in time.

#![allow(dead_code, unused_imports, unused_macros)]

mod not_run;

pub use not_run::not_run;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use proactor::{BackendChoice, Builder, Callback, Completion, Fd, Op, Proactor, Token, net};

/// No wait of a test is longer, on an emulated processor that others use too. It ends only tests
/// that would hang.
pub const BOUND: Duration = Duration::from_secs(60);

/// Makes a module of tests for each backend out of functions that take a [`Builder`].
macro_rules! on_both_backends {
    ($($name:ident),* $(,)?) => {
        mod ring {
            $(#[test]
            fn $name() {
                super::$name($crate::common::ring());
            })*
        }
        mod emulated {
            $(#[test]
            fn $name() {
                super::$name($crate::common::emulated());
            })*
        }
    };
}
pub(crate) use on_both_backends;

pub fn emulated() -> Builder {
    Builder::new().backend(BackendChoice::Emulated)
}

/// The ring. Where io_uring is denied to the tests on purpose (`SPLICEPORT_TEST_DENIED=1`), what
/// comes of asking for the best there is.
pub fn ring() -> Builder {
    let denied = std::env::var_os("SPLICEPORT_TEST_DENIED").is_some_and(|value| value == "1");
    Builder::new().backend(match denied {
        true => BackendChoice::Auto,
        false => BackendChoice::Ring,
    })
}

/// Runs the loop until something is so.
#[track_caller]
pub fn run_until(proactor: &Proactor, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + BOUND;
    while !so() {
        assert!(Instant::now() < end, "this took too long");
        proactor.run_once(Some(Duration::from_millis(20))).unwrap();
    }
}

/// Runs the loop for as long as there is something to do at once.
pub fn run_idle(proactor: &Proactor) {
    for _ in 0..20 {
        proactor.run_once(Some(Duration::from_millis(1))).unwrap();
    }
}

/// Waits for a thread, and runs the loop meanwhile: what the thread waits for may need a turn of
/// it, if only for the kernel to let a descriptor go.
#[track_caller]
pub fn join<T>(proactor: &Proactor, thread: std::thread::JoinHandle<T>) -> T {
    run_until(proactor, || thread.is_finished());
    thread.join().unwrap()
}

/// An operation and the completions it has had.
#[derive(Clone)]
pub struct Started {
    pub token: Token,
    got: Rc<RefCell<Vec<Completion>>>,
}

impl Started {
    /// Completions so far.
    pub fn count(&self) -> usize {
        self.got.borrow().len()
    }

    /// Last completions so far: 0 or 1.
    pub fn ends(&self) -> usize {
        self.got.borrow().iter().filter(|c| !c.more()).count()
    }

    pub fn is_over(&self) -> bool {
        self.ends() > 0
    }

    /// Takes the completions out.
    pub fn take(&self) -> Vec<Completion> {
        self.got.take()
    }
}

/// Submits an operation.
pub fn start(proactor: &Proactor, op: Op) -> Started {
    let got = Rc::new(RefCell::new(Vec::new()));
    let push = Rc::clone(&got);
    let token = proactor.submit(
        op,
        Callback::many(move |_, completion| push.borrow_mut().push(completion)),
    );
    assert_eq!(got.borrow().len(), 0, "called back from inside submit");
    Started { token, got }
}

/// Waits for the end of an operation that has one completion.
#[track_caller]
pub fn end(proactor: &Proactor, started: &Started) -> Completion {
    run_until(proactor, || started.is_over());
    let mut got = started.take();
    assert_eq!(got.len(), 1, "more than one completion");
    got.remove(0)
}

/// Submits an operation and waits for its end.
#[track_caller]
pub fn call(proactor: &Proactor, op: Op) -> Completion {
    end(proactor, &start(proactor, op))
}

/// The system's error number of a failed operation.
#[track_caller]
pub fn errno(completion: &Completion) -> i32 {
    match &completion.result {
        Err(e) => e
            .raw_os_error()
            .unwrap_or_else(|| panic!("not the system's: {e}")),
        Ok(output) => panic!("it succeeded: {output:?}"),
    }
}

/// Bytes that show where they come from.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_u32;
    let mut bytes = Vec::with_capacity(len + 4);
    while bytes.len() < len {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// An unnamed file with these bytes.
pub fn file(bytes: &[u8]) -> Fd {
    let mut file = unnamed();
    file.write_all(bytes).unwrap();
    Fd::new(file)
}

/// An unnamed, empty file on the disk.
pub fn unnamed() -> std::fs::File {
    let dir = scratch();
    let path = dir.path().join("file");
    std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap()
}

/// A directory that is removed in the end.
pub struct Scratch(std::path::PathBuf);

impl Scratch {
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn scratch() -> Scratch {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("proactor-test-{}-{n}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    Scratch(dir)
}

/// A pipe with non-blocking ends: reading, writing.
pub fn pipe() -> (Fd, Fd) {
    let (read, write) = std::io::pipe().unwrap();
    let own = |fd: OwnedFd| Fd::nonblocking(fd).unwrap();
    (own(read.into()), own(write.into()))
}

/// What two connected sockets are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wire {
    Tcp,
    Unix,
}

/// A connected pair: ours, non-blocking, and the peer's, blocking, for a thread or plain calls.
pub fn connected(wire: Wire) -> (Fd, Peer) {
    connect(wire, None)
}

/// As [`connected`], with kernel buffers so small that every transfer is cut many times.
pub fn narrow(wire: Wire) -> (Fd, Peer) {
    connect(wire, Some(4096))
}

fn connect(wire: Wire, buffers: Option<i32>) -> (Fd, Peer) {
    match wire {
        Wire::Unix => {
            let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
            narrow_down(a.as_raw_fd(), buffers);
            narrow_down(b.as_raw_fd(), buffers);
            b.set_read_timeout(Some(BOUND)).unwrap();
            (Fd::nonblocking(a).unwrap(), Peer::Unix(b))
        }
        Wire::Tcp => {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            narrow_down(listener.as_raw_fd(), buffers);
            if buffers.is_some() {
                // Segments must be small beside the buffers: else the ends wait for timers.
                set_option(
                    listener.as_raw_fd(),
                    libc::IPPROTO_TCP,
                    libc::TCP_MAXSEG,
                    536,
                );
            }
            let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (ours, _) = listener.accept().unwrap();
            narrow_down(peer.as_raw_fd(), buffers);
            peer.set_read_timeout(Some(BOUND)).unwrap();
            (Fd::nonblocking(ours).unwrap(), Peer::Tcp(peer))
        }
    }
}

fn narrow_down(fd: i32, size: Option<i32>) {
    if let Some(size) = size {
        set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, size);
        set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, size);
    }
}

fn set_option(fd: i32, level: i32, option: i32, value: i32) {
    // SAFETY: the kernel reads the integer, whose size is given.
    let result = unsafe {
        libc::setsockopt(
            fd,
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
}

/// Whether one of these events of poll(2) is there.
pub fn is_ready(fd: &impl AsRawFd, events: i16) -> bool {
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one entry, on this stack frame.
    unsafe { libc::poll(&raw mut entry, 1, 0) == 1 }
}

/// The other side of a connection.
pub enum Peer {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Peer {
    /// Ends the connection so that our side gets `ECONNRESET` (TCP).
    pub fn reset(self) {
        let Peer::Tcp(stream) = self else {
            panic!("not TCP")
        };
        net::set_reset_on_close(&Fd::new(stream)).unwrap();
    }

    pub fn shutdown_write(&self) {
        match self {
            Peer::Tcp(s) => s.shutdown(std::net::Shutdown::Write).unwrap(),
            Peer::Unix(s) => s.shutdown(std::net::Shutdown::Write).unwrap(),
        }
    }

    /// Reads to the end of the stream on a thread.
    pub fn collect(mut self) -> std::thread::JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            self.read_to_end(&mut bytes).unwrap();
            bytes
        })
    }

    /// Whether a read would return at once.
    pub fn is_readable(&self) -> bool {
        is_ready(self, libc::POLLIN)
    }

    /// Reads on a thread, and runs the loop meanwhile.
    #[track_caller]
    pub fn read_beside(&mut self, proactor: &Proactor, len: usize) -> Vec<u8> {
        let mut peer = match self {
            Peer::Tcp(s) => Peer::Tcp(s.try_clone().unwrap()),
            Peer::Unix(s) => Peer::Unix(s.try_clone().unwrap()),
        };
        join(proactor, std::thread::spawn(move || peer.read_bytes(len)))
    }

    #[track_caller]
    pub fn read_bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read_exact(&mut bytes).unwrap();
        bytes
    }
}

impl Read for Peer {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Peer::Tcp(s) => s.read(buf),
            Peer::Unix(s) => s.read(buf),
        }
    }
}

impl Write for Peer {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        match self {
            Peer::Tcp(s) => s.write(buf),
            Peer::Unix(s) => s.write(buf),
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl AsRawFd for Peer {
    fn as_raw_fd(&self) -> i32 {
        match self {
            Peer::Tcp(s) => s.as_raw_fd(),
            Peer::Unix(s) => s.as_raw_fd(),
        }
    }
}

/// Fills a socket or pipe until it takes no more; returns how many bytes that were.
pub fn fill(fd: &Fd) -> usize {
    let bytes = [b'#'; 4096];
    let mut total = 0;
    loop {
        // SAFETY: the kernel reads within the array.
        let n = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(n) {
            Ok(n) => total += n,
            Err(_) => return total,
        }
    }
}
