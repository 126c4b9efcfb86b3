//! Receives one file over one connection, as [`frame`] says.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tempfile::NamedTempFile;

use crate::proactor::{
    Address, Callback, Completion, Fd, Handle, Op, Output, Proactor, SendBuf, Token,
};
use crate::{Listener, Protocol, Transport, TransportOptions};

use super::frame;

/// How to [`receive`].
#[derive(Default)]
#[non_exhaustive]
pub struct ReceiverOptions {
    /// Leaves it to the system when the file reaches the disk (no fsync(2)).
    pub no_sync: bool,
    /// How long all of it may take, from the call on.
    pub timeout: Option<Duration>,
    /// Is told how many bytes have been received, and of how many.
    pub progress: Option<Box<dyn FnMut(u64, u64)>>,
}

/// A file that is in its place.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Received {
    /// Its length.
    pub bytes: u64,
    /// From the connection to the file's being in its place.
    pub time: Duration,
}

/// A transfer that is awaited or under way. Dropped while no sender has come, it ends the waiting,
/// without a call; later that changes nothing.
pub struct Receiving {
    job: Rc<Job>,
}

impl Receiving {
    /// Where it listens.
    ///
    /// # Errors
    /// getsockname(2)'s; `NotConnected` once a sender has come.
    pub fn local_addr(&self) -> io::Result<Address> {
        match &self.job.state.borrow().listener {
            Some(listener) => listener.local_addr(),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Gives up: the callback gets an error of kind `Interrupted`, unless it was called before.
    pub fn cancel(&self) {
        self.job.fail(io::ErrorKind::Interrupted.into());
    }
}

type Done = Box<dyn FnOnce(io::Result<Received>)>;

/// Bytes are written to the file in pieces of this size.
const PIECE: usize = 1 << 20;

/// How long, after a failure, the sender may take to notice.
const LINGER: Duration = Duration::from_secs(2);

struct Job {
    target: PathBuf,
    state: RefCell<State>,
}

struct State {
    options: ReceiverOptions,
    listener: Option<Listener>,
    transport: Option<Transport>,
    done: Option<Done>,
    /// The time limit's timer.
    deadline: Option<(Handle, Token)>,
    started: Instant,
    temporary: Option<NamedTempFile>,
    file: Fd,
    /// What was promised.
    length: Option<u64>,
    /// Received of the file's bytes.
    received: u64,
    /// Written of them.
    written: u64,
    /// The header's beginning; then bytes to be written.
    buffer: BytesMut,
    /// The buffer of the write before, for the next one.
    spare: BytesMut,
    writing: bool,
    /// The file is being put in its place.
    placing: bool,
    /// What became of it; the sender is being told.
    result: Option<io::Result<Received>>,
}

/// Waits on a listening socket for one sender (see [`send`](super::send)) and puts its file at
/// `target`, in place of what is there. `done` is called once, from the loop.
///
/// The bytes go to a temporary file beside the target, which is renamed when all of them are
/// there and on the disk, and removed if they never are.
///
/// # Errors
/// `IsADirectory`, or `AlreadyExists` where the target is a device or the like; those of making
/// the temporary file, and of accepting.
pub fn receive(
    proactor: &Proactor,
    socket: Fd,
    target: &Path,
    options: ReceiverOptions,
    done: impl FnOnce(io::Result<Received>) + 'static,
) -> io::Result<Receiving> {
    match fs::metadata(target) {
        Ok(there) if there.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(there) if !there.is_file() => {
            let what = "there is something that is no regular file, and is not replaced";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        _ => {}
    }
    let temporary = temporary_beside(target)?;
    let file = Fd::from(temporary.as_file().try_clone()?);
    let timeout = options.timeout;
    let job = Rc::new(Job {
        target: target.to_owned(),
        state: RefCell::new(State {
            options,
            listener: None,
            transport: None,
            done: Some(Box::new(done)),
            deadline: None,
            started: Instant::now(),
            temporary: Some(temporary),
            file,
            length: None,
            received: 0,
            written: 0,
            buffer: BytesMut::new(),
            spare: BytesMut::new(),
            writing: false,
            placing: false,
            result: None,
        }),
    });
    let weak = Rc::downgrade(&job);
    let mut taken = false;
    let factory = move |_: &Fd| {
        let job = weak.upgrade().filter(|_| !taken)?;
        taken = true;
        Some(Box::new(Link(job)) as Box<dyn Protocol>)
    };
    let listener = Listener::from_fd(proactor, socket, TransportOptions::default(), factory)?;
    // A time that can't be told never comes.
    if let Some(at) = timeout.and_then(|timeout| Instant::now().checked_add(timeout)) {
        let weak = Rc::downgrade(&job);
        let callback = Callback::once(move |_, completion| {
            if let (Some(job), Ok(_)) = (weak.upgrade(), completion.result) {
                job.fail(io::ErrorKind::TimedOut.into());
            }
        });
        let token = proactor.submit(Op::Timeout { at }, callback);
        job.state.borrow_mut().deadline = Some((proactor.handle(), token));
    }
    job.state.borrow_mut().listener = Some(listener);
    Ok(Receiving { job })
}

fn directory_of(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn temporary_beside(target: &Path) -> io::Result<NamedTempFile> {
    let Some(name) = target.file_name() else {
        return Err(io::ErrorKind::IsADirectory.into());
    };
    let mut prefix = OsString::from(".");
    // The random part and the suffix are to fit into a name as well.
    if name.len() <= 200 {
        prefix.push(name);
        prefix.push(".");
    }
    tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".part")
        // As any new file's: the umask takes its share.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory_of(target))
}

struct Link(Rc<Job>);

impl Protocol for Link {
    fn connection_made(&mut self, transport: &Transport) {
        self.0.connected(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.0.received(transport, data);
    }

    fn eof_received(&mut self, _: &Transport) -> bool {
        self.0.broken(None);
        // If all is here, the sender is still to be told.
        !self.0.state.borrow().is_over()
    }

    fn connection_lost(&mut self, error: Option<io::Error>) {
        self.0.broken(error);
        self.0.lost();
    }
}

impl Job {
    fn connected(&self, transport: &Transport) {
        let listener = {
            let mut state = self.state.borrow_mut();
            state.transport = Some(transport.clone());
            state.started = Instant::now();
            state.listener.take()
        };
        drop(listener);
        if self.state.borrow().is_over() {
            transport.abort();
        }
    }

    fn received(self: &Rc<Self>, transport: &Transport, data: &[u8]) {
        let mut state = self.state.borrow_mut();
        if state.is_over() {
            return;
        }
        let length = match state.length {
            Some(length) => {
                state.buffer.extend_from_slice(data);
                state.received += data.len() as u64;
                length
            }
            None => {
                state.buffer.extend_from_slice(data);
                match frame::parse_header(&state.buffer) {
                    Ok(None) => return,
                    Ok(Some((length, end))) => {
                        state.buffer.advance(end);
                        state.length = Some(length);
                        state.received = state.buffer.len() as u64;
                        length
                    }
                    Err(what) => {
                        drop(state);
                        return self.fail(io::Error::new(io::ErrorKind::InvalidData, what));
                    }
                }
            }
        };
        if state.received > length {
            drop(state);
            let what = format!("the sender sent more than the {length} bytes it promised");
            return self.fail(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let received = state.received;
        let progress = state.options.progress.take();
        let pause = state.writing && state.buffer.len() >= PIECE;
        drop(state);
        if let Some(mut progress) = progress {
            progress(received, length);
            self.state.borrow_mut().options.progress = Some(progress);
        }
        if pause {
            transport.pause_reading();
        }
        self.advance(transport);
    }

    /// Starts the next write, or, when all is written, puts the file in its place.
    fn advance(self: &Rc<Self>, transport: &Transport) {
        let mut state = self.state.borrow_mut();
        if state.is_over() || state.writing || state.placing {
            return;
        }
        let Some(length) = state.length else { return };
        let all = state.received == length;
        if state.buffer.len() >= PIECE || (all && !state.buffer.is_empty()) {
            let spare = std::mem::take(&mut state.spare);
            let buf = std::mem::replace(&mut state.buffer, spare);
            state.writing = true;
            let file = state.file.clone();
            let offset = state.written;
            drop(state);
            self.write(transport, file, buf, offset);
            transport.resume_reading();
        } else if all && state.written == length {
            state.placing = true;
            let temporary = state.temporary.take();
            let sync = !state.options.no_sync;
            drop(state);
            if let Some(temporary) = temporary {
                self.place(transport, temporary, sync);
            }
        }
    }

    fn write(self: &Rc<Self>, transport: &Transport, file: Fd, buf: BytesMut, offset: u64) {
        let job = Rc::clone(self);
        let of = transport.clone();
        let write = Op::Write {
            file,
            buf: SendBuf::Owned(buf),
            offset: Some(offset),
        };
        let callback = Callback::once(move |_, completion| job.written(&of, completion));
        // Only a proactor that is going away refuses.
        drop(transport.proactor().submit(write, callback));
    }

    fn written(self: &Rc<Self>, transport: &Transport, completion: Completion) {
        let n = completion.transferred;
        let written = {
            let mut state = self.state.borrow_mut();
            state.written += n;
            state.written
        };
        match (completion.result, completion.op) {
            (Err(error), _) => self.fail(io::Error::new(
                error.kind(),
                format!("cannot write to {}: {error}", self.target.display()),
            )),
            (Ok(_), Some(Op::Write { mut buf, file, .. })) => {
                buf.advance(usize::try_from(n).unwrap_or(usize::MAX).min(buf.len()));
                match buf {
                    SendBuf::Owned(buf) if !buf.is_empty() => {
                        if n == 0 {
                            return self.fail(io::ErrorKind::WriteZero.into());
                        }
                        self.write(transport, file, buf, written);
                    }
                    SendBuf::Owned(mut buf) => {
                        buf.clear();
                        let mut state = self.state.borrow_mut();
                        state.writing = false;
                        state.spare = buf;
                        drop(state);
                        self.advance(transport);
                    }
                    SendBuf::Shared(_) => {}
                }
            }
            (Ok(_), _) => self.fail(io::Error::other("a write came back without its buffer")),
        }
    }

    /// Makes the file durable and renames it, on a worker; then tells the sender.
    fn place(self: &Rc<Self>, transport: &Transport, temporary: NamedTempFile, sync: bool) {
        let target = self.target.clone();
        let work = move || {
            if sync {
                temporary.as_file().sync_all()?;
            }
            // Dropped with the error, the temporary file is removed.
            temporary.persist(&target).map_err(|e| e.error)?;
            if sync {
                File::open(directory_of(&target))?.sync_all()?;
            }
            Ok(Box::new(()) as Box<dyn std::any::Any + Send>)
        };
        let job = Rc::clone(self);
        let of = transport.clone();
        let callback = Callback::once(move |_, completion| match completion.result {
            Ok(Output::Worked(_)) => job.placed(&of),
            Ok(_) => job.misplaced(&io::Error::other("it was not done")),
            Err(error) => job.misplaced(&error),
        });
        drop(
            transport
                .proactor()
                .submit(Op::Work(Box::new(work)), callback),
        );
    }

    fn placed(&self, transport: &Transport) {
        let (bytes, time) = {
            let state = self.state.borrow();
            (state.written, state.started.elapsed())
        };
        let told = {
            let mut state = self.state.borrow_mut();
            state.result = Some(Ok(Received { bytes, time }));
            state.transport.is_some()
        };
        // The file is in its place, whether the sender still hears of it or not.
        if let Err(error) = transport.write(frame::confirmation(bytes)) {
            log::warn!("the sender can't be told that the file has arrived: {error}");
        }
        transport.close();
        if !told {
            self.lost();
        }
    }

    /// The connection ended, or the sender's side of it.
    fn broken(&self, error: Option<io::Error>) {
        let what = {
            let state = self.state.borrow();
            let received = state.received;
            match state.length {
                Some(length) if received == length => return,
                Some(length) => format!("the sender ended after {received} of {length} bytes"),
                None => "the sender ended before it said what it sends".to_owned(),
            }
        };
        self.fail(match error {
            None => io::Error::new(io::ErrorKind::UnexpectedEof, what),
            Some(error) => io::Error::new(error.kind(), format!("{what} ({error})")),
        });
    }

    fn misplaced(&self, error: &io::Error) {
        self.state.borrow_mut().placing = false;
        let what = format!("cannot put {} in its place: {error}", self.target.display());
        self.fail(io::Error::new(error.kind(), what));
    }

    /// Gives up: removes what was received, tells the sender and waits for it to have noticed.
    fn fail(&self, error: io::Error) {
        let (transport, temporary, answer) = {
            let mut state = self.state.borrow_mut();
            // A file that is being put in its place arrives, whoever gives up now.
            if state.is_over() || state.placing {
                return;
            }
            let answer = frame::refusal(&error.to_string());
            state.result = Some(Err(error));
            state.listener = None;
            state.buffer = BytesMut::new();
            (state.transport.clone(), state.temporary.take(), answer)
        };
        drop(temporary);
        let told = match &transport {
            Some(transport) => transport.write(answer).and_then(|()| transport.write_eof()),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        match transport {
            // What it still sends is thrown away, or else the reset would overtake the answer.
            Some(transport) if told.is_ok() => {
                transport.resume_reading();
                let at = Instant::now() + LINGER;
                let of = transport.clone();
                let callback = Callback::once(move |_, _| of.abort());
                drop(transport.proactor().submit(Op::Timeout { at }, callback));
            }
            Some(transport) => transport.abort(),
            None => self.lost(),
        }
    }

    /// The connection is no more.
    fn lost(&self) {
        let (result, done, deadline) = {
            let mut state = self.state.borrow_mut();
            state.transport = None;
            match state.result.take() {
                // All was received; it is being put in its place.
                None => return,
                Some(result) => (result, state.done.take(), state.deadline.take()),
            }
        };
        if let Some((proactor, token)) = deadline {
            proactor.cancel(token);
        }
        if let Some(done) = done {
            done(result);
        }
    }
}

impl State {
    /// Whether it has failed or succeeded.
    fn is_over(&self) -> bool {
        self.result.is_some() || self.done.is_none()
    }
}
