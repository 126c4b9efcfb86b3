//! [`FileSender`]: sends files over sockets that belong to others: to another runtime, on any
//! thread. What it is asked for travels to the proactor's thread as a posted closure, and the
//! outcome comes back to a future; what happens there is in `loans.rs`.

mod direct;
mod loans;
mod places;
mod request;

use std::fmt;
use std::io;
use std::ops::RangeBounds;
use std::os::fd::AsFd;
use std::sync::{Arc, mpsc};
use std::thread;

use proactor::{Builder, Proactor, Remote};

pub use request::{SendRequest, Sending};

use crate::source::Source;
use loans::Loans;
use places::Places;

/// Sends files over connected sockets (or pipes) that somebody else owns, at the proactor of
/// another thread or task. Clones are the same sender; it is `Send` and `Sync`.
///
/// ```
/// use std::io::Read;
/// use std::os::unix::net::UnixStream;
///
/// use spliceport::FileSender;
///
/// # fn main() -> std::io::Result<()> {
/// let sender = FileSender::spawn(spliceport::proactor::Proactor::builder())?;
/// let (stream, mut peer) = UnixStream::pair()?;
/// let file = std::fs::File::open("Cargo.toml")?;
/// let send = sender.send_file(&stream, &file, 0..9).start();
/// // `send` is a future for any runtime.
/// # let proactor = spliceport::proactor::Proactor::new()?;
/// # assert_eq!(proactor.block_on(send)??, 9);
/// # let mut got = [0; 9];
/// # peer.read_exact(&mut got)?;
/// # Ok(())
/// # }
/// ```
///
/// # What holds
/// - A send that was started has duplicates of both descriptors until it is over: the owners may
///   close theirs.
/// - What is small, in the page cache, and finds room in a non-blocking socket is sent by the
///   starting thread itself, and neither thread nor loop is woken for it.
/// - Sends over one socket that are asked of one sender leave in the order in which they were
///   started, one after the other. What the owner writes itself is ordered with them only where it
///   waits: it writes nothing while a send is under way, and starts none while bytes wait in a
///   buffer of its own.
/// - The socket is given back as it was found (`O_NONBLOCK`, `TCP_NODELAY`,
///   `TCP_NOTSENT_LOWAT`), neither shut down nor reset, before the future is ready. A socket that
///   blocks is made non-blocking for the time of the send. `TCP_CORK` is off afterwards.
/// - A send that ends with some but not all of its bytes sent leaves the peer without the rest. The
///   connection is its owner's to end; sends that were queued behind it on this sender end as
///   cancelled, with nothing sent.
#[derive(Clone)]
pub struct FileSender {
    remote: Remote,
    places: Arc<Places>,
    /// Present where the thread is the sender's own.
    _thread: Option<Arc<Thread>>,
}

/// Ends a sender's thread when the last reference is dropped.
struct Thread(Remote);

impl Drop for Thread {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl FileSender {
    /// A sender that uses a proactor which somebody runs: on a thread of its own, or embedded in a
    /// runtime. It doesn't keep the proactor alive; sends end with an error once that is gone.
    pub fn new(proactor: &Proactor) -> FileSender {
        FileSender {
            remote: proactor.remote(),
            places: Loans::of(proactor).places(),
            _thread: None,
        }
    }

    /// A sender with a proactor, and a thread that runs it until the last clone of the sender and
    /// the last send are gone. One thread saturates a fast network with large files; for more, make
    /// more.
    ///
    /// # Errors
    /// Those of [`Builder::build`], and the refusal to start a thread.
    pub fn spawn(builder: Builder) -> io::Result<FileSender> {
        let (tell, told) = mpsc::sync_channel(1);
        thread::Builder::new()
            .name("spliceport".into())
            .spawn(move || match builder.build() {
                Ok(proactor) => {
                    let places = Loans::of(&proactor).places();
                    let _ = tell.send(Ok((proactor.remote(), places)));
                    if let Err(e) = proactor.run() {
                        log::error!("a file sender's loop has ended: {e}");
                    }
                }
                Err(e) => {
                    let _ = tell.send(Err(e));
                }
            })?;
        let (remote, places) = told
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("a file sender's thread panicked")))?;
        Ok(FileSender {
            _thread: Some(Arc::new(Thread(remote.clone()))),
            remote,
            places,
        })
    }

    /// A send of a range of a file over a socket, which begins once it is awaited or
    /// [started](SendRequest::start). The file's own position is neither used nor moved; with an
    /// open end it is sent up to its end, as [`Source::file`] is.
    pub fn send_file<'s>(
        &self,
        socket: &'s impl AsFd,
        file: &impl AsFd,
        range: impl RangeBounds<u64>,
    ) -> SendRequest<'s> {
        let file = file.as_fd().try_clone_to_owned();
        let source = file.map(|file| Source::file(file, range));
        SendRequest::new(self.clone(), socket.as_fd(), source)
    }

    /// As [`send_file`](FileSender::send_file), for anything that can be sent. A source made of a
    /// [`proactor::Fd`] that is kept costs less than a file that is duplicated each time.
    pub fn send<'s>(&self, socket: &'s impl AsFd, source: impl Into<Source>) -> SendRequest<'s> {
        SendRequest::new(self.clone(), socket.as_fd(), Ok(source.into()))
    }
}

impl fmt::Debug for FileSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileSender")
    }
}
