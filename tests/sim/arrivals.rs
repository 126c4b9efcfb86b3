//! How connections come to be, in random programs: strangers who come to a listener of ours, and
//! connections that are made to others. Once made, each is as any other connection.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::rc::Rc;
use std::time::Duration;

use spliceport::proactor::net::{Address, ListenOptions};
use spliceport::proactor::sim::{Faults, Rng, Simulation};
use spliceport::{ConnectHandle, Listener, Transport, connect};

use super::log::{Log, User};
use super::model;
use super::peer::Peer;
use super::program::{Action, Program};
use super::several::{Several, Stage};
use super::side::Side;

/// One thing that is done.
#[derive(Clone, Debug)]
pub enum Step {
    Listen,
    CloseListener,
    /// A stranger comes, and is refused or not.
    Comes(Box<Program>, bool),
    /// A connection is made.
    Connect(Box<ConnectPlan>),
    /// Of one of the connections that are being made.
    CancelConnect(usize),
    /// By the user or peer of one of the connections.
    On(usize, Action),
    Loop(Action),
}

/// Whom a connection is made to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whom {
    /// Who takes it.
    Takes,
    /// Who listens, and goes away without taking it.
    GoesAway,
    Nobody,
}

/// A connection to be made.
#[derive(Clone, Debug)]
pub struct ConnectPlan {
    pub whom: Whom,
    pub program: Program,
    /// Done in the callback.
    pub then: Vec<Action>,
}

/// Connections that come and are made.
#[derive(Clone, Debug)]
pub struct ArrivalsProgram {
    /// Says how the proactor is built.
    pub built: Program,
    pub steps: Vec<Step>,
}

impl ArrivalsProgram {
    /// The program of a seed.
    pub fn from_seed(seed: u64) -> ArrivalsProgram {
        let mut rng = Rng::new(seed.wrapping_mul(0x9e37_79b9) ^ 0x0a44_17a1);
        let rng = &mut rng;
        let violent = rng.chance(300);
        let receives = rng.chance(200);
        let built = Program::socket(rng);
        let steps = (0..rng.between(4, 30))
            .map(|_| match rng.below(100) {
                0..8 => Step::Listen,
                8..10 => Step::CloseListener,
                10..25 => Step::Comes(Box::new(Program::socket(rng)), rng.chance(150)),
                25..37 => Step::Connect(Box::new(ConnectPlan {
                    whom: *rng.pick(&[Whom::Takes, Whom::Takes, Whom::GoesAway, Whom::Nobody]),
                    program: Program::socket(rng),
                    then: (0..rng.below(3))
                        .map(|_| Action::random(rng, violent, receives))
                        .collect(),
                })),
                37..42 => Step::CancelConnect(rng.index(8)),
                42..60 => Step::Loop(Action::Turns(rng.between(1, 6) as u32)),
                60..63 => Step::Loop(Action::Settle),
                _ => match Action::random(rng, violent, receives) {
                    action @ (Action::Turns(_) | Action::Settle | Action::Sleep(_)) => {
                        Step::Loop(action)
                    }
                    Action::DropProactor => Step::CloseListener,
                    action => Step::On(rng.index(6), action),
                },
            })
            .collect();
        ArrivalsProgram { built, steps }
    }
}

/// What becomes of one who comes, or of a connection that is being made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Waits,
    /// A transport runs over it.
    Taken,
    Refused,
    /// The listener was closed first, or there is no connection.
    Over,
}

/// One connection, from its beginning.
struct Arrival {
    side: Side,
    program: Program,
    fate: Rc<Cell<Fate>>,
    making: Option<Making>,
}

/// A connection that is being made.
struct Making {
    whom: Whom,
    handle: ConnectHandle,
    /// The peer's, until it takes the connection.
    listener: Option<UnixListener>,
    cancelled: bool,
    told: Rc<Cell<Option<Result<(), io::ErrorKind>>>>,
}

/// Who waits to be accepted, in order: what is to become of them.
type Waiting = Rc<RefCell<VecDeque<(Rc<Cell<Fate>>, Rc<Log>, bool)>>>;

struct Run<'a> {
    stage: Stage<'a>,
    listener: Option<(Listener, SocketAddr, Waiting)>,
    arrivals: Vec<Arrival>,
    names: usize,
}

impl<'a> Several<'a> for Run<'a> {
    fn stage(&mut self) -> &mut Stage<'a> {
        &mut self.stage
    }

    fn sides(&self) -> impl Iterator<Item = &Side> {
        self.arrivals.iter().map(|arrival| &arrival.side)
    }
}

/// Runs the program of a seed; says all that is wrong with what came.
pub fn simulate(program: &ArrivalsProgram, simulation: &Simulation, seed: u64) -> Vec<String> {
    let mut run = Run {
        stage: Stage::new(
            simulation,
            super::build(&program.built, super::backend(seed)),
            seed,
        ),
        listener: None,
        arrivals: Vec::new(),
        names: 0,
    };
    run.listen(program);
    for step in &program.steps {
        run.perform(program, step);
        if run.stage.rng.chance(700) {
            run.turns(1);
        }
    }
    run.wind_up();
    run.check(simulation.faults())
}

impl Run<'_> {
    fn perform(&mut self, program: &ArrivalsProgram, step: &Step) {
        self.stage.simulation.note("action", 0, 0);
        match step {
            Step::Listen if self.listener.is_none() => self.listen(program),
            Step::Listen => {}
            Step::CloseListener => self.close_listener(),
            Step::Comes(of, refused) => {
                // A listener's connections have its options.
                let mut of = Program::clone(of);
                of.reading = program.built.reading;
                of.limits = program.built.limits;
                self.comes(&of, *refused);
            }
            Step::Connect(plan) => self.connect(plan),
            Step::CancelConnect(which) => {
                let mut making: Vec<_> = self
                    .arrivals
                    .iter_mut()
                    .filter_map(|arrival| arrival.making.as_mut())
                    .collect();
                let count = making.len().max(1);
                if let Some(making) = making.get_mut(which % count) {
                    making.cancelled |= making.told.get().is_none();
                    making.handle.cancel();
                }
            }
            Step::On(which, action) => {
                let count = self.arrivals.len().max(1);
                if let Some(arrival) = self.arrivals.get_mut(which % count) {
                    arrival.side.perform(action);
                }
            }
            Step::Loop(Action::Turns(n)) => self.turns(*n),
            Step::Loop(Action::Sleep(time)) => self.turn(*time),
            Step::Loop(_) => self.settle(),
        }
    }

    /// A name that nobody has.
    fn name(&mut self) -> SocketAddr {
        self.names += 1;
        let name = format!("spliceport-{}-{}", std::process::id(), self.names);
        SocketAddr::from_abstract_name(name).unwrap()
    }

    fn listen(&mut self, program: &ArrivalsProgram) {
        let name = self.name();
        let waiting = Waiting::default();
        let queue = Rc::clone(&waiting);
        let options = Side::options(&program.built);
        let listener = Listener::bind(
            &self.stage.proactor,
            &Address::Unix(Box::new(name.clone())),
            &ListenOptions::default(),
            options,
            move |_| {
                // They are accepted in the order in which they came.
                let (fate, log, refused) = queue.borrow_mut().pop_front()?;
                fate.set(if refused { Fate::Refused } else { Fate::Taken });
                (!refused).then(|| Box::new(User(log)) as Box<_>)
            },
        );
        self.listener = Some((listener.unwrap(), name, waiting));
    }

    fn close_listener(&mut self) {
        let Some((listener, _, waiting)) = self.listener.take() else {
            return;
        };
        drop(listener);
        for (fate, ..) in waiting.borrow_mut().drain(..) {
            fate.set(Fate::Over);
        }
    }

    fn comes(&mut self, program: &Program, refused: bool) {
        let Some((_, name, waiting)) = &self.listener else {
            return;
        };
        let stream = UnixStream::connect_addr(name).unwrap();
        stream.set_nonblocking(true).unwrap();
        let side = Side::expected(program, Peer::Socket(stream));
        let fate = Rc::new(Cell::new(Fate::Waits));
        let entry = (Rc::clone(&fate), Rc::clone(&side.log), refused);
        waiting.borrow_mut().push_back(entry);
        self.arrivals.push(Arrival {
            side,
            program: program.clone(),
            fate,
            making: None,
        });
    }

    fn connect(&mut self, plan: &ConnectPlan) {
        let name = self.name();
        let listener = (plan.whom != Whom::Nobody).then(|| {
            let listener = UnixListener::bind_addr(&name).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        });
        let side = Side::expected(&plan.program, Peer::Closed);
        let fate = Rc::new(Cell::new(Fate::Waits));
        let told = Rc::new(Cell::new(None));
        let (log, cell, becomes) = (Rc::clone(&side.log), Rc::clone(&told), Rc::clone(&fate));
        let then = plan.then.clone();
        let on_connected = move |result: io::Result<Transport>| {
            log.inside(|| {
                if cell.get().is_some() {
                    log.problem("a connect was told of twice");
                }
                if !log.notes.borrow().is_empty() {
                    log.problem("connection_made came before the connect was told of");
                }
                cell.set(Some(result.as_ref().map(drop).map_err(io::Error::kind)));
                becomes.set(if result.is_ok() {
                    Fate::Taken
                } else {
                    Fate::Over
                });
                if let Ok(transport) = result {
                    log.adopt(&transport);
                    log.act_inside(&then);
                }
            });
        };
        let log = Rc::clone(&side.log);
        log.in_call.set(true);
        let handle = connect(
            &self.stage.proactor,
            &Address::Unix(Box::new(name)),
            Side::options(&plan.program),
            Box::new(User(Rc::clone(&log))),
            on_connected,
        );
        log.in_call.set(false);
        self.arrivals.push(Arrival {
            side,
            program: plan.program.clone(),
            fate,
            making: Some(Making {
                whom: plan.whom,
                handle,
                listener,
                cancelled: false,
                told,
            }),
        });
    }

    /// Peers who listen take the connections, or go away.
    fn peers_take(&mut self, all: bool) {
        for arrival in &mut self.arrivals {
            let Some(making) = &mut arrival.making else {
                continue;
            };
            let Some(listener) = &making.listener else {
                continue;
            };
            if !all && self.stage.rng.chance(500) {
                continue;
            }
            if making.whom == Whom::GoesAway {
                arrival.side.peer_shut = true;
                arrival.side.peer_closed = true;
                making.listener = None;
            } else if let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true).unwrap();
                arrival.side.peer = Peer::Socket(stream);
                making.listener = None;
            }
        }
    }

    fn turns(&mut self, n: u32) {
        for _ in 0..n {
            self.peers_take(false);
            for arrival in &mut self.arrivals {
                arrival.side.feels_like_reading(&mut self.stage.rng);
            }
            self.turn(Duration::ZERO);
        }
    }

    /// With a little time, whoever came is accepted, and whatever is to be made is made.
    fn settle(&mut self) {
        self.quieten(true, |run| {
            run.peers_take(true);
            for arrival in &mut run.arrivals {
                arrival.side.feels_like_reading(&mut run.stage.rng);
            }
        });
        if let Some((_, _, waiting)) = &self.listener
            && !waiting.borrow().is_empty()
        {
            let count = waiting.borrow().len();
            self.stage
                .problems
                .push(format!("{count} wait to be accepted"));
        }
        for arrival in &self.arrivals {
            if arrival.fate.get() == Fate::Waits && arrival.making.is_some() {
                self.stage
                    .problems
                    .push("a connect does not end".to_owned());
            }
            if arrival.fate.get() == Fate::Taken {
                arrival.side.check_at_rest();
            }
        }
    }

    fn wind_up(&mut self) {
        if self.stage.rng.chance(500) {
            self.stage.simulation.calm();
        }
        if self.stage.rng.chance(300) {
            self.settle();
        }
        self.close_listener();
        self.quieten(true, |run| {
            run.peers_take(true);
            for arrival in &mut run.arrivals {
                let log = &arrival.side.log;
                if !log.closed.get() {
                    log.act(&Action::Close);
                }
                arrival.side.ends_feeds();
                arrival.side.reads(usize::MAX);
            }
        });
        let over = |arrival: &Arrival| match arrival.fate.get() {
            Fate::Taken => arrival.side.log.lost.get(),
            Fate::Waits => false,
            Fate::Refused | Fate::Over => true,
        };
        let stats = self.stage.proactor.stats();
        if self.arrivals.iter().all(over) && (stats.in_flight > 0 || stats.pipes_leased > 0) {
            self.stage.problems.push(format!("left over: {stats:?}"));
        }
    }

    /// Lets go of everything, and says what is wrong.
    fn check(self, faults: Faults) -> Vec<String> {
        let Run {
            stage,
            mut arrivals,
            ..
        } = self;
        let Stage {
            simulation,
            proactor,
            mut problems,
            ..
        } = stage;
        if simulation.misuses() > 0 {
            problems.push("a connection was used before it was made".to_owned());
        }
        for Arrival { side, making, .. } in &mut arrivals {
            *side.log.transport.borrow_mut() = None;
            side.socket = None;
            side.proactor_dropped = !side.log.lost.get();
            if let Some(making) = making {
                making.listener = None;
            }
        }
        drop(proactor);
        for (at, arrival) in arrivals.iter_mut().enumerate() {
            let Arrival { side, fate, .. } = arrival;
            side.reads(usize::MAX);
            side.peer = Peer::Closed;
            let mut found = Vec::new();
            match fate.get() {
                Fate::Taken => found = model::check(&arrival.program, side, faults),
                Fate::Waits => found.push("nothing became of it".to_owned()),
                Fate::Refused | Fate::Over => {
                    if !side.log.notes.borrow().is_empty() || !side.arrived.is_empty() {
                        found.push("there is no connection, and it was told of".to_owned());
                    }
                    found.extend(side.log.problems.borrow().iter().cloned());
                }
            }
            if let Some(making) = &arrival.making
                && !making.fits(faults)
            {
                let told = making.told.get();
                found.push(format!("{told:?} from {:?}", making.whom));
            }
            problems.extend(
                found
                    .into_iter()
                    .map(|what| format!("connection {at}: {what}")),
            );
        }
        problems
    }
}

impl Making {
    /// Whether the connect can have ended so.
    fn fits(&self, faults: Faults) -> bool {
        match self.told.get() {
            None => false,
            Some(Ok(())) => self.whom != Whom::Nobody,
            Some(Err(io::ErrorKind::ConnectionAborted)) => self.cancelled,
            Some(Err(io::ErrorKind::ConnectionRefused)) => {
                self.whom != Whom::Takes || faults.sockets > 0
            }
            // It stood when its peer went away.
            Some(Err(io::ErrorKind::ConnectionReset)) if self.whom == Whom::GoesAway => true,
            Some(Err(_)) => faults.sockets > 0,
        }
    }
}
