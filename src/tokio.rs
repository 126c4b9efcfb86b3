//! Files over tokio's sockets: a [`FileSender`] beside the runtime, or a proactor
//! inside it.
//!
//! A [`FileSender`] takes whatever is [`AsFd`]: `TcpStream`, `UnixStream`,
//! `pipe::Sender`, a split stream's half by its `as_ref()`; `std::fs::File` and `tokio::fs::File`.
//!
//! - **Multi-thread runtime**: [`FileSender::spawn`] starts a thread that runs the proactor. A
//!   runtime's tasks move between threads and a proactor can't, so that a task can't own it. A
//!   blocked worker of the runtime holds no transfer up.
//! - **Current-thread runtime**: a [`Driver`] is a task that owns the proactor, in the thread of the
//!   others; no thread is added. [`FileSender::new`] before the proactor is given to it. The task
//!   may own a share of it only: transports, listeners and their futures
//!   ([`Transport::send_file_async`](crate::Transport::send_file_async)) can then be used by other
//!   local tasks too.
//!
//! ```no_run
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! use spliceport::FileSender;
//! use spliceport::proactor::Proactor;
//!
//! let sender = FileSender::spawn(Proactor::builder())?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:9000").await?;
//! let (stream, _) = listener.accept().await?;
//! let file = std::fs::File::open("README.md")?;
//! let sent = sender.send_file(&stream, &file, ..).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # The stream's own bytes
//! tokio's streams buffer nothing: what a `write` has returned for is in the kernel, and leaves
//! before the file. A `BufWriter` does buffer: [`send_file_after`] flushes it first, and its
//! exclusive borrow keeps others from writing meanwhile. `tokio::fs::File` buffers what is written
//! to the *file*: flush that before it is sent.
//!
//! # Cancelling
//! A [`Sending`](crate::Sending) that is dropped, in a `select!` or by a time-out, cancels the send.
//! Some of the file may have left by then, and more may until the cancel arrives, so that nothing
//! sensible can follow on that connection: close it.
//!
//! # The end of the runtime
//! With the runtime a [`Driver`] is dropped, and with it its proactor, which cancels what is under
//! way and waits for that, at most for [`Builder::drain`](proactor::Builder::drain).

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::RangeBounds;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::tokio::io::unix::AsyncFd;
use ::tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter, Interest};
use proactor::Proactor;

use crate::{End, FileSender, SendError};

/// Runs a proactor in the thread of a current-thread runtime (or a `LocalSet`): a future for
/// `spawn_local`, `select!` or `join!`. It is never ready but with an error, after which nothing
/// runs any more; dropping it stops the loop, and drops the proactor if no one else has it.
///
/// ```
/// use std::rc::Rc;
///
/// use spliceport::FileSender;
/// use spliceport::proactor::Proactor;
/// use spliceport::tokio::Driver;
///
/// # let (stream, _peer) = std::os::unix::net::UnixStream::pair()?;
/// # let file = std::fs::File::open("Cargo.toml")?;
/// let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
/// let local = tokio::task::LocalSet::new();
/// let sent = local.block_on(&runtime, async {
///     let proactor = Rc::new(Proactor::new()?);
///     let sender = FileSender::new(&proactor);
///     tokio::task::spawn_local(Driver::new(proactor)?);
///     std::io::Result::Ok(sender.send_file(&stream, &file, 0..9).await?)
/// })?;
/// assert_eq!(sent, 9);
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "nothing runs unless it is spawned or awaited"]
pub struct Driver {
    proactor: Rc<Proactor>,
    /// A duplicate of its descriptor.
    fd: AsyncFd<OwnedFd>,
}

impl Driver {
    /// A driver for a proactor that no one else runs.
    ///
    /// # Errors
    /// `NotConnected` outside a runtime; `EMFILE`; the refusal of the runtime's poller.
    ///
    /// # Panics
    /// In a runtime whose I/O is not enabled (`enable_io`, `enable_all`).
    pub fn new(proactor: Rc<Proactor>) -> io::Result<Driver> {
        if ::tokio::runtime::Handle::try_current().is_err() {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "a driver has to be made inside a tokio runtime",
            ));
        }
        let fd = proactor.as_fd().try_clone_to_owned()?;
        // Deprecated for the sake of types that name another descriptor each time. An `OwnedFd`
        // doesn't, and what replaces it is unsafe to call.
        #[allow(deprecated)]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Driver { proactor, fd })
    }

    fn turn(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The edge is cleared first: what comes after that makes another one. What one turn leaves
        // undone is announced by the proactor itself.
        ready!(self.fd.poll_read_ready(cx))?.clear_ready();
        self.proactor.run_once(Some(Duration::ZERO))?;
        Poll::Ready(Ok(()))
    }
}

impl Future for Driver {
    type Output = io::Error;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Error> {
        // The runtime's budget for a task ends this loop, too.
        loop {
            if let Err(e) = ready!(self.turn(cx)) {
                log::error!("an embedded proactor's loop has ended: {e}");
                return Poll::Ready(e);
            }
        }
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("backend", &self.proactor.backend())
            .finish_non_exhaustive()
    }
}

/// Flushes a buffered stream, and sends a range of a file behind what was in the buffer. No one else
/// can write through the stream meanwhile.
///
/// # Errors
/// A failed flush ends it with nothing sent of the file; else as [`Sending`](crate::Sending)'s.
pub async fn send_file_after<S>(
    sender: &FileSender,
    stream: &mut BufWriter<S>,
    file: &impl AsFd,
    range: impl RangeBounds<u64>,
) -> Result<u64, SendError>
where
    S: AsyncWrite + AsFd + Unpin,
{
    stream.flush().await.map_err(|error| SendError {
        sent: 0,
        end: End::PeerGone,
        error,
    })?;
    sender.send_file(stream.get_ref(), file, range).await
}
