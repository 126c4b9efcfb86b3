//! Runs a program: on a simulated kernel or on the real one, on one thread, its peer included.

use std::rc::Rc;
use std::time::{Duration, Instant};

use spliceport::proactor::sim::{Rng, Simulation};
use spliceport::proactor::{Fd, Proactor};

use super::log::Log;
use super::peer::Peer;
use super::program::{Action, Appetite, Program};
use super::side::Side;

/// More bytes than any program sends.
const ENDLESS: usize = 64 << 20;

/// A run under way.
pub struct Run<'a> {
    simulation: Option<&'a Simulation>,
    pub proactor: Option<Proactor>,
    log: Rc<Log>,
    side: Side,
    rng: Rng,
}

impl<'a> Run<'a> {
    pub fn new(
        program: &Program,
        proactor: Proactor,
        connection: (Fd, Peer),
        simulation: Option<&'a Simulation>,
        seed: u64,
    ) -> Run<'a> {
        let side = Side::open(program, &proactor, connection);
        Run {
            simulation,
            proactor: Some(proactor),
            log: Rc::clone(&side.log),
            side,
            rng: Rng::new(seed ^ 0xd1ce),
        }
    }

    /// Does all that the program says, then ends the connection in an orderly way, and lets go.
    pub fn finish(mut self, program: &Program) -> Side {
        for action in &program.actions {
            self.perform(action);
            if self.proactor.is_none() {
                break;
            }
            // What follows at once meets a connection that has not had a turn.
            if self.rng.chance(700) {
                self.turns(1);
            }
        }
        self.wind_up();
        self.side
    }

    fn perform(&mut self, action: &Action) {
        if let Some(simulation) = self.simulation {
            simulation.note("action", 0, 0);
        }
        if self.side.perform(action) {
            return;
        }
        match action {
            Action::Turns(n) => self.turns(*n),
            Action::Sleep(time) if self.simulation.is_some() => self.turn(Some(*time)),
            Action::Settle => self.settle(),
            Action::DropProactor => self.drop_proactor(),
            _ => {}
        }
    }

    fn turns(&mut self, n: u32) {
        for _ in 0..n {
            self.side.feels_like_reading(&mut self.rng);
            self.turn(Some(Duration::ZERO));
        }
    }

    fn turn(&mut self, timeout: Option<Duration>) {
        if self.rng.chance(500) {
            self.log.drain_sinks();
        }
        if let Some(proactor) = &self.proactor
            && let Err(e) = proactor.run_once(timeout)
        {
            self.log.problem(format!("the loop: {e}"));
        }
    }

    /// A number that changes when something happens.
    fn progress(&self) -> (u64, usize, u64, u64) {
        let done = self.proactor.as_ref().map_or(0, |p| p.stats().completed);
        let events = self.simulation.map_or(0, Simulation::events);
        (self.log.calls.get(), self.side.arrived.len(), done, events)
    }

    /// Runs turns until none brings anything. In real time that takes a little time.
    fn quieten(&mut self, mut each: impl FnMut(&mut Self)) {
        let mut idle = 0;
        let mut turns = 0;
        let pause = match self.simulation {
            Some(_) => Duration::ZERO,
            None => Duration::from_millis(2),
        };
        while idle < if self.simulation.is_some() { 40 } else { 5 } {
            turns += 1;
            if turns > 200_000 || self.side.arrived.len() > ENDLESS {
                return self.log.problem("it never comes to rest");
            }
            let before = self.progress();
            each(self);
            self.turn(Some(pause));
            idle = if self.progress() == before {
                idle + 1
            } else {
                0
            };
        }
    }

    /// Nothing goes on without the peer or time: then what is due must have been done.
    fn settle(&mut self) {
        let appetite = self.side.appetite;
        self.quieten(|run| {
            if appetite == Appetite::Eager {
                run.side.reads(usize::MAX);
            }
        });
        // On a real kernel a worker may take its time.
        if self.proactor.is_none() || self.simulation.is_none() {
            return;
        }
        let (Some(transport), Some(queued)) = (self.log.transport(), self.side.check_at_rest())
        else {
            return;
        };
        // Just below what is queued a limit pauses, and at it it does not.
        if queued > 1 && !self.log.paused.get() {
            for high in [queued - 1, queued] {
                self.log.act(&Action::Limits(Some(high), None));
                self.quieten(|_| {});
                let over = transport.write_buffer_size() > high;
                if over && !self.log.paused.get() && !transport.is_closing() {
                    self.log.problem(format!(
                        "{queued} bytes are queued above {high}, and writing is not paused"
                    ));
                }
            }
        }
        if let Some(simulation) = self.simulation
            && let Some(socket) = &self.side.socket
            && simulation.is_corked(socket)
            && has_room(socket)
        {
            self.log.problem("bytes are held back for nothing");
        }
    }

    /// Ends everything in an orderly way, checks that it does end, and lets go of all.
    fn wind_up(&mut self) {
        if let Some(simulation) = self.simulation
            && self.rng.chance(500)
        {
            simulation.calm();
        }
        if self.proactor.is_some() {
            self.side.ends_feeds();
            if self.rng.chance(300) {
                // All that is queued leaves without being asked to.
                self.log.act(&Action::ResumeReading);
            }
            if self.log.transport().is_some() {
                if !self.log.closed.get() {
                    self.log.act(&Action::Close);
                }
                self.until_lost();
            } else if self.side.peer.is_pipe() {
                // Only the peer can end it: the writing end tells of that.
                self.side.closes();
                self.until_lost();
            } else if !self.log.half_open && !self.log.pauses && self.log.reading.get() {
                self.side.shuts();
                self.until_lost();
            } else {
                // Nobody can: it lives as long as the proactor.
                self.quieten(|run| {
                    run.side.reads(usize::MAX);
                });
            }
        }
        self.side.reads(usize::MAX);
        if self.proactor.is_some() {
            // Nothing more comes.
            self.quieten(|_| {});
        }
        if self.log.lost.get() {
            self.until_nothing_is_under_way();
        }
        *self.log.transport.borrow_mut() = None;
        self.side.socket = None;
        self.drop_proactor();
        // The peer sees the end now; on a real kernel, soon.
        let start = Instant::now();
        self.side.reads(usize::MAX);
        while self.simulation.is_none()
            && !self.side.arrived_all
            && self.side.peer.reader().is_some()
            && start.elapsed() < Duration::from_secs(20)
        {
            std::thread::yield_now();
            self.side.reads(usize::MAX);
        }
        self.side.proactor_dropped |= !self.log.lost.get();
    }

    fn until_lost(&mut self) {
        let start = Instant::now();
        let (mut idle, mut turns) = (0, 0);
        while !self.log.lost.get() {
            turns += 1;
            let before = self.progress();
            self.side.reads(usize::MAX);
            // Time passes only when nothing else happens.
            self.turn(match (self.simulation, idle) {
                (None, _) => Some(Duration::from_millis(1)),
                (Some(_), 0..8) => Some(Duration::ZERO),
                (Some(_), _) => Some(Duration::from_secs(60)),
            });
            idle = if self.progress() == before {
                idle + 1
            } else {
                0
            };
            let stuck = match self.simulation {
                Some(_) => idle > 400 || turns > 200_000 || self.side.arrived.len() > ENDLESS,
                None => start.elapsed() > Duration::from_secs(20),
            };
            if stuck {
                return self.log.problem("the connection does not end");
            }
        }
    }

    fn until_nothing_is_under_way(&mut self) {
        let start = Instant::now();
        let mut turns = 0;
        while let Some(proactor) = &self.proactor {
            let stats = proactor.stats();
            if stats.in_flight == 0 && stats.pipes_leased == 0 {
                return;
            }
            turns += 1;
            if turns > 400 && (self.simulation.is_some() || start.elapsed().as_secs() > 20) {
                return self.log.problem(format!("left over: {stats:?}"));
            }
            self.turn(Some(Duration::from_millis(1)));
        }
    }

    fn drop_proactor(&mut self) {
        if let Some(proactor) = self.proactor.take() {
            self.side.proactor_dropped |= !self.log.lost.get();
            drop(proactor);
        }
    }
}

/// Whether the socket would take more.
fn has_room(socket: &Fd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    let zero = rustix::event::Timespec::default();
    matches!(poll(&mut fds, Some(&zero)), Ok(1)) && fds[0].revents().contains(PollFlags::OUT)
}
