//! The serving threads: each has a loop and a server of its own, and is asked by post.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::cli::error::Failure;
use crate::cli::line_queue::Queue;
use crate::cli::signals::Stop;
use crate::proactor::{BackendChoice, BackendKind, Fd, Proactor, Remote};
use crate::streamer::{Limits, Observer, Server, ServerOptions, Site};

use super::access_log::{Lines, LogFormat};
use super::metrics::{Board, Seat};

/// What every thread serves with.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) backend: BackendChoice,
    pub(super) root: Fd,
    pub(super) options: ServerOptions,
    pub(super) log: Option<Arc<Queue>>,
    pub(super) log_format: LogFormat,
    pub(super) stop: Stop,
    pub(super) stop_timeout: Duration,
    /// Where figures are asked for, if they are.
    pub(super) board: Option<Arc<Board>>,
}

/// A thread that has begun, as others know it.
pub(super) struct Begun {
    pub(super) backend: BackendKind,
    pub(super) thread: Arc<ThreadHandle>,
}

/// Something to be done by a thread with its server.
type Call = Box<dyn FnOnce(&Proactor, &mut Serving) + Send>;

/// Gives a thread something to do.
pub(super) struct ThreadHandle {
    /// Which of the threads it is.
    pub(super) index: usize,
    calls: mpsc::Sender<Call>,
    waiting: Arc<AtomicBool>,
    remote: Remote,
}

impl ThreadHandle {
    /// Has the thread call `call` between two turns of its loop. One that has ended doesn't.
    pub(super) fn tell(&self, call: impl FnOnce(&Proactor, &mut Serving) + Send + 'static) {
        if self.calls.send(Box::new(call)).is_ok() {
            self.waiting.store(true, Ordering::Release);
            let _ = self.remote.post(|_| {});
        }
    }
}

/// What a thread serves with, as it may be changed.
pub(super) struct Serving {
    pub(super) server: Server,
    stop_timeout: Duration,
    seat: Option<Seat>,
}

impl Serving {
    /// Says how things stand, where that is asked for; `ended` where they stay so.
    pub(super) fn say(&self, proactor: &Proactor, ended: bool) {
        if let Some(seat) = &self.seat {
            seat.say(proactor, &self.server, ended);
        }
    }

    /// Takes limits that the configuration has now.
    pub(super) fn set_limits(&mut self, limits: Limits, stop_timeout: Duration) {
        self.server.set_limits(limits);
        self.stop_timeout = stop_timeout;
    }

    /// Takes what the configuration has responses say and bring now.
    pub(super) fn set_site(&mut self, site: Site) {
        self.server.set_site(site);
    }
}

/// One thread: a proactor and its server, until the stop. It says when connections are accepted.
pub(super) fn serve(
    plan: Plan,
    index: usize,
    socket: Fd,
    ready: mpsc::Sender<Begun>,
) -> Result<(), Failure> {
    let proactor = crate::cli::proactor(plan.backend)?;
    let server = Server::from_socket(&proactor, plan.root, socket, plan.options);
    let server = server.map_err(|e| Failure::io("cannot accept connections", &e))?;
    let lines = plan
        .log
        .map(|log| Rc::new(Lines::new(log, plan.log_format)));
    if let Some(lines) = &lines {
        server.observe(Rc::clone(lines) as Rc<dyn Observer>);
    }
    let seat = plan.board.map(|board| Seat::take(board, index, &server));
    plan.stop.wakes(&proactor);
    let (calls, inbox) = mpsc::channel::<Call>();
    let waiting = Arc::<AtomicBool>::default();
    let thread = ThreadHandle {
        index,
        calls,
        waiting: Arc::clone(&waiting),
        remote: proactor.remote(),
    };
    let mut serving = Serving {
        server,
        stop_timeout: plan.stop_timeout,
        seat,
    };
    serving.say(&proactor, false);
    let backend = proactor.backend();
    let thread = Arc::new(thread);
    let _ = ready.send(Begun { backend, thread });
    drop(ready);
    let turn = |timeout, serving: &mut Serving| {
        let turn = proactor.run_once(timeout);
        turn.map_err(|e| Failure::io("the loop can't go on", &e))?;
        if let Some(lines) = &lines {
            lines.flush();
        }
        // Looked at once a turn: a load is all that this costs where nothing is asked.
        if waiting.load(Ordering::Acquire) {
            waiting.store(false, Ordering::Release);
            while let Ok(call) = inbox.try_recv() {
                call(&proactor, serving);
            }
        }
        Ok(())
    };
    while plan.stop.requests() == 0 {
        turn(None, &mut serving)?;
    }
    let ended = finish(&plan.stop, &mut serving, turn);
    serving.say(&proactor, true);
    ended
}

/// The end: transfers under way are finished, within a time.
fn finish(
    stop: &Stop,
    serving: &mut Serving,
    mut turn: impl FnMut(Option<Duration>, &mut Serving) -> Result<(), Failure>,
) -> Result<(), Failure> {
    serving.server.stop();
    let begun = Instant::now();
    while serving.server.connections() > 0 {
        // A time that can't be told never comes.
        let end = begun.checked_add(serving.stop_timeout);
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let asked_again = stop.requests() > 1;
        if left.is_some_and(|left| left.is_zero()) || asked_again {
            let cut = serving.server.connections();
            serving.server.abort();
            // Their ends are told to them.
            turn(Some(Duration::ZERO), serving)?;
            return Err(Failure::new(if asked_again {
                format!("stopped at once, by the second signal: {cut} connections were cut")
            } else {
                format!(
                    "stopped after {:?} (--stop-timeout): {cut} connections were cut",
                    serving.stop_timeout
                )
            }));
        }
        turn(left, serving)?;
    }
    Ok(())
}

/// Does a thread's work. Where that fails, or panics, all threads are to stop: they are of no use
/// without it.
pub(super) fn or_stop(
    stop: &Stop,
    work: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    struct Stops<'a>(&'a Stop);
    impl Drop for Stops<'_> {
        fn drop(&mut self) {
            self.0.request_once();
        }
    }
    let stops = Stops(stop);
    work()?;
    std::mem::forget(stops);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_fails_stops_all() {
        let stop = Stop::default();
        assert!(or_stop(&stop, || Ok(())).is_ok());
        assert_eq!(stop.requests(), 0);
        let panics = std::panic::AssertUnwindSafe(|| or_stop(&stop, || panic!("on purpose")));
        assert!(std::panic::catch_unwind(panics).is_err());
        assert_eq!(stop.requests(), 1);
        // Others that fail by that do not ask once more.
        assert!(or_stop(&stop, || Err(Failure::new("on purpose"))).is_err());
        assert_eq!(stop.requests(), 1);
    }
}
