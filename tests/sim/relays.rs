//! Relays in random programs: two connections, each with its user and its peer, that are joined at
//! some point, and what must be true of that.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use spliceport::proactor::sim::{Faults, Rng, Simulation};
use spliceport::{End, RelayHandle, RelayOptions, Route, RouteChoice, Routes, relay};

use super::log::Entry;
use super::model;
use super::program::{self, Action, Appetite, Program};
use super::receives::Receiving;
use super::several::{Several, Stage};
use super::side::{PEER, Relayed, Side};

/// One thing that is done.
#[derive(Clone, Debug)]
pub enum Step {
    /// By a user or a peer.
    On(usize, Action),
    /// By the loop, or by nobody.
    Loop(Action),
    Join,
    CancelRelay,
}

/// Two connections that are joined.
#[derive(Clone, Debug)]
pub struct JoinedProgram {
    /// What is said of connections in them; the first says how the proactor is built.
    pub ends: [Program; 2],
    pub idle: Option<Duration>,
    pub route: RouteChoice,
    pub steps: Vec<Step>,
}

impl JoinedProgram {
    /// The program of a seed.
    pub fn from_seed(seed: u64) -> JoinedProgram {
        let mut rng = Rng::new(seed.wrapping_mul(0x9e37_79b9) ^ 0x0be1_a7ed);
        let rng = &mut rng;
        let ends = [Program::socket(rng), Program::socket(rng)];
        let violent = rng.chance(300);
        let receives = rng.chance(300);
        let idle = rng
            .chance(200)
            .then(|| Duration::from_micros(1 << rng.below(25)));
        let mut steps: Vec<Step> = (0..rng.between(0, 10))
            .map(|_| step(rng, violent, receives))
            .collect();
        steps.push(Step::Join);
        for _ in 0..rng.between(0, 24) {
            let step = match rng.below(100) {
                // What a relay is for.
                0..25 => Step::On(rng.index(2), Action::PeerWrites(program::size(rng))),
                25..30 => Step::On(rng.index(2), Action::PeerReads(program::size(rng))),
                30..50 => Step::Loop(Action::Turns(rng.between(1, 12) as u32)),
                50..60 => Step::Loop(Action::Settle),
                60..63 => Step::On(rng.index(2), Action::PeerShuts),
                63 if violent => Step::CancelRelay,
                64 if violent => Step::On(rng.index(2), Action::PeerCloses),
                // Shorter than it may be idle.
                65..80 if idle.is_some() => Step::Loop(Action::Sleep(
                    idle.unwrap_or_default() * rng.between(1, 3) as u32 / 4,
                )),
                _ => step(rng, violent, receives),
            };
            steps.push(step);
        }
        JoinedProgram {
            ends,
            idle,
            route: *rng.pick(&[
                RouteChoice::Auto,
                RouteChoice::Auto,
                RouteChoice::Force(Route::Copy),
                RouteChoice::Force(Route::Chain),
            ]),
            steps,
        }
    }
}

fn step(rng: &mut Rng, violent: bool, receives: bool) -> Step {
    let side = rng.index(2);
    loop {
        return match Action::random(rng, violent, receives) {
            Action::DropProactor => continue,
            action @ (Action::Turns(_) | Action::Settle | Action::Sleep(_)) => Step::Loop(action),
            action => Step::On(side, action),
        };
    }
}

/// What a relay was told to have come to.
struct Told {
    flows: [Flowed; 2],
    after: Duration,
    at: Instant,
}

struct Flowed {
    bytes: u64,
    end: End,
    error: Option<io::ErrorKind>,
    routes: Routes,
}

/// A relay under way or over.
struct Joint {
    handle: RelayHandle,
    told: Rc<RefCell<Option<Told>>>,
    cancelled: bool,
    /// How much had gone over it, and since when that is so.
    bytes: (u64, u64),
    last: Instant,
    /// The longest time in which nothing went.
    idle: Duration,
    /// One of the two could not be joined from the start.
    late: bool,
}

impl Joint {
    /// Looks at how much has gone over it.
    fn look(&mut self) {
        let Some(bytes) = self.handle.bytes() else {
            return;
        };
        let now = spliceport::proactor::now();
        self.idle = self.idle.max(now - self.last);
        if bytes != self.bytes {
            (self.bytes, self.last) = (bytes, now);
        }
    }
}

/// A run under way.
struct Run<'a> {
    stage: Stage<'a>,
    sides: [Side; 2],
    joint: Option<Joint>,
}

impl<'a> Several<'a> for Run<'a> {
    fn stage(&mut self) -> &mut Stage<'a> {
        &mut self.stage
    }

    fn sides(&self) -> impl Iterator<Item = &Side> {
        self.sides.iter()
    }

    fn turned(&mut self) {
        if let Some(joint) = &mut self.joint {
            joint.look();
        }
    }
}

/// Runs the program of a seed; says all that is wrong with what came.
pub fn simulate(program: &JoinedProgram, simulation: &Simulation, seed: u64) -> Vec<String> {
    let proactor = super::build(&program.ends[0], super::backend(seed));
    let sides = [0, 1].map(|at| {
        let end = &program.ends[at];
        let mut side = Side::open(end, &proactor, super::peer::local(end));
        side.tag = PEER - at;
        side
    });
    // Contents are told apart by their tags.
    sides[1].log.tags.set(1 << 20);
    let mut run = Run {
        stage: Stage::new(simulation, proactor, seed),
        sides,
        joint: None,
    };
    for step in &program.steps {
        run.perform(program, step);
        if run.stage.rng.chance(700) {
            run.turns(1);
        }
    }
    run.wind_up();
    run.check(program, simulation.faults())
}

impl Run<'_> {
    fn perform(&mut self, program: &JoinedProgram, step: &Step) {
        self.stage.simulation.note("action", 0, 0);
        match step {
            Step::On(side, action) => {
                self.sides[*side].perform(action);
            }
            Step::Loop(Action::Turns(n)) => self.turns(*n),
            Step::Loop(Action::Sleep(time)) => self.turn(*time),
            Step::Loop(_) => self.settle(),
            Step::Join => self.join(program),
            Step::CancelRelay => {
                if let Some(joint) = &mut self.joint {
                    joint.cancelled |= joint.told.borrow().is_none();
                    self.sides[0].log.in_call.set(true);
                    joint.handle.cancel();
                    self.sides[0].log.in_call.set(false);
                }
            }
        }
    }

    fn join(&mut self, program: &JoinedProgram) {
        let transports = [0, 1].map(|side| self.sides[side].log.transport());
        let [Some(a), Some(b)] = transports else {
            return;
        };
        let late = a.is_closing() || b.is_closing() || self.eof_asked();
        let mut options = RelayOptions::new().route(program.route);
        if let Some(idle) = program.idle {
            options = options.idle(idle);
        }
        let told = Rc::new(RefCell::new(None));
        let since = spliceport::proactor::now();
        let (cell, log) = (Rc::clone(&told), Rc::clone(&self.sides[0].log));
        let on_end = move |outcome: spliceport::RelayOutcome| {
            if log.in_call.get() {
                log.problem("a relay was told of inside a call");
            }
            let flows = [outcome.forth, outcome.back].map(|flow| Flowed {
                bytes: flow.bytes,
                end: flow.end,
                error: flow.error.map(|e| e.kind()),
                routes: flow.routes,
            });
            let at = spliceport::proactor::now();
            let after = at - since;
            if cell
                .borrow_mut()
                .replace(Told { flows, after, at })
                .is_some()
            {
                log.problem("a relay was told of twice");
            }
        };
        for side in &self.sides {
            side.log.in_call.set(true);
            side.log.relayed.set(true);
            side.log.entries.borrow_mut().push(Entry::Relayed);
        }
        let handle = relay(&a, &b, options, on_end);
        for side in &self.sides {
            side.log.in_call.set(false);
        }
        self.joint = Some(Joint {
            handle,
            told,
            cancelled: false,
            bytes: (0, 0),
            last: since,
            idle: Duration::ZERO,
            late,
        });
    }

    fn eof_asked(&self) -> bool {
        self.sides.iter().any(|side| side.log.eof_asked.get())
    }

    fn turns(&mut self, n: u32) {
        for _ in 0..n {
            for side in &mut self.sides {
                side.feels_like_reading(&mut self.stage.rng);
            }
            self.turn(Duration::ZERO);
        }
    }

    /// Without the peers or time nothing goes on: whatever has been sent to a relay has arrived,
    /// where nothing else is before it.
    fn settle(&mut self) {
        self.quieten(false, |run| {
            for side in &mut run.sides {
                if side.appetite == Appetite::Eager {
                    side.reads(usize::MAX);
                }
            }
        });
        let Some(joint) = &self.joint else { return };
        let over = joint.told.borrow().is_some();
        let closed = |side: &Side| side.log.closed.get() || side.peer_closed;
        if over || joint.cancelled || joint.late || self.sides.iter().any(closed) {
            return;
        }
        let Some((forth, back)) = joint.handle.bytes() else {
            return self
                .stage
                .problems
                .push("a relay is over, and nobody was told".to_owned());
        };
        let bytes = [forth as usize, back as usize];
        if self.stage.simulation.faults() != Faults::default() {
            return;
        }
        for from in [0, 1] {
            let (source, target) = (&self.sides[from], &self.sides[1 - from]);
            let receives = source
                .log
                .receives
                .borrow()
                .iter()
                .any(Receiving::is_queued);
            let sends = target.log.sends.borrow();
            let sends = sends.iter().any(|send| send.outcome.is_none());
            let broken = [source, target].iter().any(|s| model::any_breaks(&s.log));
            if receives || sends || broken || target.appetite != Appetite::Eager {
                continue;
            }
            let due = source.peer_sent - source.log.received.borrow().len();
            if bytes[from] != due {
                self.stage.problems.push(format!(
                    "{} of {due} bytes were relayed from {from}",
                    bytes[from]
                ));
            } else if source.peer_shut && !target.arrived_all {
                self.stage
                    .problems
                    .push(format!("the end from {from} was not passed on"));
            }
        }
    }

    /// Ends all in an orderly way: each peer's stream, then what is left.
    fn wind_up(&mut self) {
        if self.stage.rng.chance(500) {
            self.stage.simulation.calm();
        }
        for side in &mut self.sides {
            side.shuts();
        }
        let both = |run: &mut Self| {
            for side in &mut run.sides {
                side.ends_feeds();
                side.reads(usize::MAX);
            }
        };
        self.quieten(true, both);
        let told = self
            .joint
            .as_ref()
            .map(|joint| joint.told.borrow().is_some());
        if told == Some(false) {
            self.stage
                .problems
                .push("the relay does not end".to_owned());
        }
        for side in &self.sides {
            if told.is_some() && !side.log.lost.get() {
                side.log.problem("a connection outlives its relay");
            }
            if !side.log.closed.get() && !side.log.lost.get() {
                side.log.act(&Action::Close);
            }
        }
        self.quieten(true, both);
        let stats = self.stage.proactor.stats();
        let lost = self.sides.iter().all(|side| side.log.lost.get());
        if lost && (stats.in_flight > 0 || stats.pipes_leased > 0) {
            self.stage.problems.push(format!("left over: {stats:?}"));
        }
    }

    /// Lets go of everything, and says what is wrong.
    fn check(self, program: &JoinedProgram, faults: Faults) -> Vec<String> {
        let Run {
            stage,
            mut sides,
            joint,
        } = self;
        let Stage {
            proactor,
            mut problems,
            ..
        } = stage;
        for side in &mut sides {
            *side.log.transport.borrow_mut() = None;
            side.socket = None;
            side.proactor_dropped = !side.log.lost.get();
        }
        drop(proactor);
        for side in &mut sides {
            side.reads(usize::MAX);
            side.peer = super::peer::Peer::Closed;
        }
        let told = joint
            .as_ref()
            .and_then(|joint| joint.told.borrow_mut().take());
        for from in [0, 1] {
            let source = &sides[from];
            let before = source.log.received.borrow().len();
            let flow = told.as_ref().map(|told| &told.flows[from]);
            let relayed = joint.as_ref().map(|_| Relayed {
                tag: source.tag,
                from: before,
                bytes: flow.map_or(source.peer_sent - before, |flow| flow.bytes as usize),
                told: flow.is_some(),
                whole: flow.is_some_and(|flow| flow.end == End::EndOfFile),
                failed: !told
                    .as_ref()
                    .is_some_and(|told| told.flows.iter().all(|flow| flow.end == End::EndOfFile)),
            });
            sides[1 - from].relayed = relayed;
        }
        if let (Some(joint), Some(told)) = (&joint, &told) {
            for from in [0, 1] {
                if let Err(what) = fits(program, &sides, joint, told, from, faults) {
                    let flow = &told.flows[from];
                    problems.push(format!(
                        "from {from}: {what}: {} bytes, {:?}, {:?} after {:?}; {} were sent, {} not \
                         relayed",
                        flow.bytes,
                        flow.end,
                        flow.error,
                        told.after,
                        sides[from].peer_sent,
                        sides[from].log.received.borrow().len(),
                    ));
                }
            }
        }
        for (at, side) in sides.iter().enumerate() {
            let of = model::check(&program.ends[at], side, faults);
            problems.extend(
                of.into_iter()
                    .map(|what| format!("connection {at}: {what}")),
            );
        }
        problems
    }
}

/// Whether one direction can have come to this.
fn fits(
    program: &JoinedProgram,
    sides: &[Side; 2],
    joint: &Joint,
    told: &Told,
    from: usize,
    faults: Faults,
) -> Result<(), &'static str> {
    let flow = &told.flows[from];
    let source = &sides[from];
    let before = source.log.received.borrow().len();
    let all = source.peer_sent - before;
    if flow.bytes as usize > all {
        return Err("more was relayed than was sent");
    }
    if flow.routes.is_empty() != (flow.bytes == 0) {
        return Err("the routes don't say what happened");
    }
    if flow.error.is_some() == (flow.end == End::EndOfFile) {
        return Err("an error and a success");
    }
    let closed = sides.iter().any(|side| side.log.closed.get());
    let lost =
        |side: &Side| side.peer_closed || model::any_breaks(&side.log) || side.log.aborted.get();
    let broken = faults.sockets > 0 || sides.iter().any(lost);
    let other = told.flows[1 - from].end;
    let ended = match flow.end {
        End::EndOfFile => closed || broken || source.peer_shut && flow.bytes as usize == all,
        End::PeerGone => broken,
        End::Cancelled => joint.cancelled || closed || broken || other != End::EndOfFile,
        End::TimedOut => {
            let longest = joint.idle.max(told.at - joint.last);
            program.idle.is_some_and(|idle| longest >= idle)
        }
        End::Closing => {
            joint.late || closed || broken || sides.iter().any(|s| s.log.eof_asked.get())
        }
        _ => false,
    };
    // A direction fails the other one with it, not because of it.
    let cause = |end| !matches!(end, End::EndOfFile | End::Cancelled);
    let reason = joint.cancelled || closed || broken || cause(flow.end) || cause(other);
    if !ended || (flow.end == End::Cancelled && !reason) {
        return Err("it can't have ended so");
    }
    Ok(())
}
