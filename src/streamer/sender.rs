//! Sends one file over one connection, as [`frame`] says.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::fs::{self, FileType};

use crate::proactor::{Address, Callback, Fd, Handle, Op, Proactor, Token};
use crate::{
    ConnectHandle, End, Protocol, RouteChoice, Routes, SendOptions, SendOutcome, Source, Transport,
    TransportOptions, connect,
};

use super::frame::{self, Answer};

/// How to [`send`].
#[derive(Default)]
#[non_exhaustive]
pub struct SenderOptions {
    /// How the file travels.
    pub route: RouteChoice,
    /// The most bytes in a second.
    pub rate: Option<u64>,
    /// How long all of it may take.
    pub timeout: Option<Duration>,
    /// Is told how many bytes have been sent.
    pub progress: Option<Box<dyn FnMut(u64)>>,
}

/// A file that has arrived.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Sent {
    /// Its length.
    pub bytes: u64,
    /// From the connection to the receiver's confirmation.
    pub time: Duration,
    /// Which routes carried bytes.
    pub routes: Routes,
}

/// A transfer under way; dropping it changes nothing.
pub struct Sending {
    job: Rc<Job>,
}

impl Sending {
    /// Gives up: the callback gets an error of kind `Interrupted`, unless it was called before.
    pub fn cancel(&self) {
        self.job.fail(io::ErrorKind::Interrupted.into());
    }
}

type Done = Box<dyn FnOnce(io::Result<Sent>)>;

struct Job {
    length: u64,
    state: RefCell<State>,
}

struct State {
    file: Option<Fd>,
    options: SenderOptions,
    transport: Option<Transport>,
    connecting: Option<ConnectHandle>,
    done: Option<Done>,
    /// The time limit's timer.
    deadline: Option<(Handle, Token)>,
    started: Instant,
    /// What became of the file's bytes on our side.
    outcome: Option<SendOutcome>,
    answer: Vec<u8>,
}

/// Sends a regular file to a receiver (see [`receive`](super::receive)). `done` is called once,
/// from the loop: with success only after the receiver has confirmed that the file is in its
/// place.
///
/// # Errors
/// fstat(2)'s; `InvalidInput` where it is no regular file.
pub fn send(
    proactor: &Proactor,
    file: Fd,
    address: &Address,
    options: SenderOptions,
    done: impl FnOnce(io::Result<Sent>) + 'static,
) -> io::Result<Sending> {
    let stat = fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        let what = "it is no regular file, so its length can't be promised";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let timeout = options.timeout;
    let job = Rc::new(Job {
        length: u64::try_from(stat.st_size).unwrap_or(0),
        state: RefCell::new(State {
            file: Some(file),
            options,
            transport: None,
            connecting: None,
            done: Some(Box::new(done)),
            deadline: None,
            started: Instant::now(),
            outcome: None,
            answer: Vec::new(),
        }),
    });
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
    let for_connect = Rc::clone(&job);
    let protocol = Box::new(Link(Rc::clone(&job)));
    let connecting = connect(
        proactor,
        address,
        TransportOptions::default(),
        protocol,
        move |connected| match connected {
            Ok(transport) => for_connect.connected(&transport),
            Err(error) => for_connect.fail(error),
        },
    );
    job.state.borrow_mut().connecting = Some(connecting);
    Ok(Sending { job })
}

struct Link(Rc<Job>);

impl Protocol for Link {
    fn connection_made(&mut self, transport: &Transport) {
        self.0.start(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.0.answered(transport, data);
    }

    fn connection_lost(&mut self, error: Option<io::Error>) {
        let what = "the receiver ended the connection before it confirmed the file: it has not \
                    arrived, or not wholly";
        self.0.fail(match error {
            None => io::Error::new(io::ErrorKind::UnexpectedEof, what),
            Some(error) => io::Error::new(error.kind(), format!("{what} ({error})")),
        });
    }
}

impl Job {
    fn connected(&self, transport: &Transport) {
        let over = {
            let mut state = self.state.borrow_mut();
            state.transport = Some(transport.clone());
            state.started = Instant::now();
            state.done.is_none()
        };
        if over {
            transport.abort();
        }
    }

    fn start(self: &Rc<Self>, transport: &Transport) {
        let (file, progress, options) = {
            let mut state = self.state.borrow_mut();
            let options = SendOptions::new()
                .route(state.options.route)
                .rate(state.options.rate.unwrap_or(0));
            (state.file.take(), state.options.progress.take(), options)
        };
        let Some(file) = file else { return };
        let options = match progress {
            Some(mut progress) => options.progress(move |_, sent| progress(sent)),
            None => options,
        };
        if let Err(error) = transport.write(frame::header(self.length)) {
            return self.fail(error);
        }
        let job = Rc::clone(self);
        let source = Source::file(file, 0..self.length);
        transport.send_file(source, options, move |transport, outcome| {
            job.sent(transport, outcome);
        });
    }

    fn sent(&self, transport: &Transport, outcome: SendOutcome) {
        match outcome.end {
            End::Complete | End::EndOfFile => {
                self.state.borrow_mut().outcome = Some(outcome);
                self.conclude(transport);
            }
            End::Truncated => {
                let what = format!(
                    "the file became shorter: {} of {} bytes were sent",
                    outcome.sent, self.length
                );
                self.fail(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
            // Why the receiver went away may be in the answer that is still to be read.
            End::PeerGone | End::Closing | End::Cancelled => {
                log::debug!("the sending ended: {outcome:?}");
            }
            _ => {
                if let Err(error) = outcome.into_result() {
                    self.fail(error.into());
                }
            }
        }
    }

    fn answered(&self, transport: &Transport, data: &[u8]) {
        self.state.borrow_mut().answer.extend_from_slice(data);
        self.conclude(transport);
    }

    /// Ends it, if there is an answer and, where that is good news, nothing left to send.
    fn conclude(&self, transport: &Transport) {
        let (answer, sent) = {
            let state = self.state.borrow();
            let sent = state.outcome.as_ref().map(|o| o.routes);
            (frame::parse_answer(&state.answer), sent)
        };
        match (answer, sent) {
            (None, _) => {}
            (Some(Answer::Confirmed(n)), Some(routes)) if n == self.length => {
                let time = self.state.borrow().started.elapsed();
                transport.close();
                self.finish(Ok(Sent {
                    bytes: self.length,
                    time,
                    routes,
                }));
            }
            (Some(Answer::Confirmed(n)), None) if n == self.length => {}
            (Some(Answer::Refused(what)), _) => {
                self.fail(io::Error::other(format!("the receiver says: {what}")));
            }
            (Some(Answer::Confirmed(_) | Answer::Unknown), _) => {
                let what = "what listens there is no spliceport receiver";
                self.fail(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
    }

    fn fail(&self, error: io::Error) {
        let (transport, connecting) = {
            let mut state = self.state.borrow_mut();
            if state.done.is_none() {
                return;
            }
            (state.transport.take(), state.connecting.take())
        };
        match (transport, connecting) {
            (Some(transport), _) => transport.abort(),
            (None, Some(connecting)) => connecting.cancel(),
            (None, None) => {}
        }
        self.finish(Err(error));
    }

    fn finish(&self, result: io::Result<Sent>) {
        let (done, deadline) = {
            let mut state = self.state.borrow_mut();
            state.transport = None;
            (state.done.take(), state.deadline.take())
        };
        if let Some((proactor, token)) = deadline {
            proactor.cancel(token);
        }
        if let Some(done) = done {
            done(result);
        }
    }
}
