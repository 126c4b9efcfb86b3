//! The servers that are written here to be measured: other runtimes, each used as somebody who
//! knows it would, and loops over the bare system calls, which say what the kernel allows. Each
//! runs in a process of its own, so that its processor time, threads and memory can be told apart.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

mod blocking;
mod compio;
mod epoll;
mod floor;
mod monoio;
mod ours;
mod site;
pub mod syscall;
mod tokio;
mod tokio_uring;

use site::Site;

/// The first argument that makes the benchmarks' program one of the peers.
pub const ROLE: &str = "--peer";

/// How much a runtime that copies moves at once. Of 32, 64, 128 and 256 KiB, none was better for
/// tokio-uring, compio or monoio by more than the spread, with one connection or with 64.
const BLOCK: usize = 256 << 10;

/// Sends the first bytes of a file to every connection, over and over, until the peer is gone.
type Stream = fn(TcpListener, &'static File, u64) -> io::Result<()>;
/// Answers GET with the files of a directory.
type Http = fn(TcpListener, &'static Site) -> io::Result<()>;
/// Passes what arrives on each connection on to one that it makes to an address, and back.
type Relay = fn(TcpListener, SocketAddr) -> io::Result<()>;
/// Receives files of so many bytes on each connection, one behind the other, into one of the
/// targets: over what was there.
type Upload = fn(TcpListener, &'static Targets, u64) -> io::Result<()>;
/// Answers whatever arrives with the same bytes.
type Answer = fn(TcpListener, &'static [u8]) -> io::Result<()>;

/// Peers that send one way.
pub const STREAMS: &[(&str, Stream)] = &[
    ("splice loop, 1 MiB pipe", blocking::splice),
    ("splice loop, not corked", blocking::splice_plain),
    ("blocking sendfile(2)", blocking::sendfile),
    ("blocking sendfile(2), not corked", blocking::sendfile_plain),
    ("epoll + sendfile(2)", epoll::stream_sendfile),
    ("epoll + sendfile(2), not corked", epoll::stream_plain),
    ("epoll + read + write", epoll::stream_read_write),
    ("tokio, sendfile", tokio::stream_sendfile),
    ("tokio, io::copy", tokio::stream_copy),
    ("spliceport in tokio", tokio::stream_spliceport),
    ("tokio-uring", tokio_uring::stream),
    ("compio", compio::stream),
    ("compio, splice", compio::stream_splice),
    ("monoio", monoio::stream),
    ("ring, auto", ours::ring_auto),
    ("ring, inline", ours::ring_inline),
    ("ring, chain", ours::ring_chain),
    ("ring, copy", ours::ring_copy),
    ("emulated, auto", ours::emulated_auto),
    ("emulated, sendfile", ours::emulated_sendfile),
];

/// Peers that serve over HTTP.
pub const HTTPS: &[(&str, Http)] = &[
    ("tokio", tokio::http),
    ("tokio-uring", tokio_uring::http),
    ("compio", compio::http),
    ("monoio", monoio::http),
    ("epoll + sendfile(2)", epoll::http),
];

/// Peers that pass on.
pub const RELAYS: &[(&str, Relay)] = &[
    ("epoll + splice(2)", epoll::relay),
    ("tokio, copy_bidirectional", tokio::relay),
    ("tokio, with 256 KiB buffers", tokio::relay_large),
    ("ring, auto", ours::relay_ring),
    ("emulated, auto", ours::relay_emulated),
];

/// Peers that receive files.
pub const UPLOADS: &[(&str, Upload)] = &[
    ("splice loop, 1 MiB pipe", blocking::upload_splice),
    ("blocking read + write", blocking::upload),
    ("tokio, io::copy", tokio::upload),
    ("ring, auto", ours::upload_ring),
    ("emulated, auto", ours::upload_emulated),
];

/// What the kernel allows: neither HTTP nor files.
pub const FLOORS: &[(&str, Answer)] = &[
    ("floor, io_uring", floor::ring),
    ("floor, epoll", floor::epoll),
];

/// The files of a directory, of which each connection is given the next, over and over.
pub struct Targets {
    files: Vec<File>,
    given: AtomicUsize,
}

impl Targets {
    fn open(directory: &Path) -> io::Result<Targets> {
        let open =
            |entry: io::Result<std::fs::DirEntry>| File::options().write(true).open(entry?.path());
        Ok(Targets {
            files: std::fs::read_dir(directory)?
                .map(open)
                .collect::<io::Result<_>>()?,
            given: AtomicUsize::new(0),
        })
    }

    fn next(&self) -> io::Result<File> {
        let at = self.given.fetch_add(1, Ordering::Relaxed);
        self.files[at % self.files.len()].try_clone()
    }
}

/// Does what the command line says: `--peer KIND NAME ADDRESS PATH SIZE`.
pub fn run(args: &[String]) -> io::Result<()> {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "KIND NAME ADDRESS PATH SIZE");
    let [kind, name, address, path, size] = args else {
        return Err(usage());
    };
    let address: SocketAddr = address.parse().map_err(|_| usage())?;
    let size: u64 = size.parse().map_err(|_| usage())?;
    let listener = TcpListener::bind(address)?;
    // SAFETY: takes no memory; a second listen(2) sets the length of the queue.
    unsafe { libc::listen(listener.as_raw_fd(), 16_384) };
    let path = Path::new(path);
    fn find<T: Copy>(all: &[(&str, T)], name: &str) -> io::Result<T> {
        let found = all.iter().find(|(n, _)| *n == name).map(|(_, run)| *run);
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no peer {name}")))
    }
    match kind.as_str() {
        "stream" => {
            let file = Box::leak(Box::new(File::open(path)?));
            find(STREAMS, name)?(listener, file, size)
        }
        "http" => find(HTTPS, name)?(listener, Box::leak(Box::new(Site::open(path)?))),
        "relay" => {
            let upstream = path.to_str().and_then(|address| address.parse().ok());
            find(RELAYS, name)?(listener, upstream.ok_or_else(usage)?)
        }
        "upload" => {
            let targets = Box::leak(Box::new(Targets::open(path)?));
            find(UPLOADS, name)?(listener, targets, size)
        }
        "answer" => {
            let body = std::fs::read(path)?;
            let mut answer = site::head(body.len() as u64).into_bytes();
            answer.extend_from_slice(&body);
            find(FLOORS, name)?(listener, answer.leak())
        }
        _ => Err(usage()),
    }
}
