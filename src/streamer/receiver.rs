//! Receives one file over one connection, as [`frame`] says.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::proactor::{Address, Callback, Fd, Handle, Op, Proactor, Token};
use crate::{
    End, FileSync, Listener, Protocol, ReceiveHandle, ReceiveOptions, ReceiveOutcome, Replacement,
    Sink, Transport, TransportOptions,
};

use super::{frame, worker};

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
    /// Where the bytes go until the file is whole.
    replacement: Option<Replacement>,
    /// What was promised.
    length: Option<u64>,
    /// The header's beginning.
    header: Vec<u8>,
    receive: Option<ReceiveHandle>,
    /// Bytes in the file.
    received: u64,
    /// All of them are there.
    whole: bool,
    /// The file is being put in its place.
    placing: bool,
    /// What became of it; the sender is being told.
    result: Option<io::Result<Received>>,
}

/// Waits on a listening socket for one sender (see [`send`](super::send)) and puts its file at
/// `target`, in place of what is there. `done` is called once, from the loop.
///
/// The bytes go to a file without a name ([`Replacement`]), which takes the target's place when all
/// of them are there and on the disk.
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
    let replacement = Replacement::of(target).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidInput => io::ErrorKind::IsADirectory.into(),
        _ => e,
    })?;
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
            replacement: Some(replacement),
            length: None,
            header: Vec::new(),
            receive: None,
            received: 0,
            whole: false,
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

    /// The header arrives, or what there should not be.
    fn received(self: &Rc<Self>, transport: &Transport, data: &[u8]) {
        let mut state = self.state.borrow_mut();
        if state.is_over() || state.placing {
            return;
        }
        if let Some(length) = state.length {
            drop(state);
            return self.too_much(length);
        }
        state.header.extend_from_slice(data);
        let (length, end) = match frame::parse_header(&state.header) {
            Ok(None) => return,
            Ok(Some(header)) => header,
            Err(what) => {
                drop(state);
                return self.fail(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        };
        state.length = Some(length);
        let prefix = std::mem::take(&mut state.header).split_off(end);
        let Some(file) = state.replacement.as_ref().map(|new| new.file().clone()) else {
            return;
        };
        let sync = match state.options.no_sync {
            true => FileSync::None,
            false => FileSync::All,
        };
        drop(state);
        if prefix.len() as u64 > length {
            return self.too_much(length);
        }
        let job = Rc::clone(self);
        let options = ReceiveOptions::new()
            .prefix(prefix)
            .sync(sync)
            .progress(move |_, received| job.progress(received, length));
        let job = Rc::clone(self);
        let receive = transport.receive_file(
            Sink::file(file, ..length),
            options,
            move |transport, outcome| job.arrived(transport, length, outcome),
        );
        self.state.borrow_mut().receive = Some(receive);
    }

    fn too_much(&self, length: u64) {
        let what = format!("the sender sent more than the {length} bytes it promised");
        self.fail(io::Error::new(io::ErrorKind::InvalidData, what));
    }

    fn progress(&self, received: u64, length: u64) {
        let told = {
            let mut state = self.state.borrow_mut();
            state.received = received;
            state.options.progress.take()
        };
        if let Some(mut progress) = told {
            progress(received, length);
            self.state.borrow_mut().options.progress = Some(progress);
        }
    }

    /// The receive is over.
    fn arrived(self: &Rc<Self>, transport: &Transport, length: u64, outcome: ReceiveOutcome) {
        self.state.borrow_mut().received = outcome.received;
        match (outcome.end, outcome.error) {
            (End::Failed, Some(error)) => self.fail(io::Error::new(
                error.kind(),
                format!("cannot write to {}: {error}", self.target.display()),
            )),
            // The end itself is told by `eof_received` or `connection_lost`.
            (_, Some(_)) => {}
            (_, None) => {
                self.state.borrow_mut().whole = outcome.received == length;
                // What came at once behind the file is told of first.
                let (job, of) = (Rc::clone(self), transport.clone());
                let place = Callback::once(move |_, _| job.place(&of));
                drop(transport.proactor().submit(Op::Nop, place));
            }
        }
    }

    /// Puts the file in its place, on a worker; then tells the sender.
    fn place(self: &Rc<Self>, transport: &Transport) {
        let (replacement, sync) = {
            let mut state = self.state.borrow_mut();
            if state.is_over() {
                return;
            }
            state.placing = true;
            (state.replacement.take(), !state.options.no_sync)
        };
        let Some(replacement) = replacement else {
            return;
        };
        let (job, of) = (Rc::clone(self), transport.clone());
        worker::run(
            &transport.proactor(),
            move || replacement.replace(sync),
            move |placed| match placed {
                Ok(_) => job.placed(&of),
                Err(error) => job.misplaced(&error),
            },
        );
    }

    fn placed(&self, transport: &Transport) {
        let (bytes, time) = {
            let state = self.state.borrow();
            (state.received, state.started.elapsed())
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
                Some(_) if state.whole => return,
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
        let (transport, replacement, receive, answer) = {
            let mut state = self.state.borrow_mut();
            // A file that is being put in its place arrives, whoever gives up now.
            if state.is_over() || state.placing {
                return;
            }
            let answer = frame::refusal(&error.to_string());
            state.result = Some(Err(error));
            state.listener = None;
            let (replacement, receive) = (state.replacement.take(), state.receive.take());
            (state.transport.clone(), replacement, receive, answer)
        };
        drop(replacement);
        if let Some(receive) = receive {
            receive.cancel();
        }
        let told = match &transport {
            Some(transport) => transport.write(answer).and_then(|()| transport.write_eof()),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        match transport {
            // What it still sends is thrown away, or else the reset would overtake the answer.
            Some(transport) if told.is_ok() => {
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
