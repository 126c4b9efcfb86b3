//! Deterministic simulation: random programs on a simulated kernel, and a model of what they must
//! bring.

#![allow(dead_code)]

pub mod arrivals;
pub mod content;
pub mod log;
pub mod model;
pub mod peer;
pub mod program;
pub mod receives;
pub mod relays;
pub mod run;
pub mod several;
pub mod side;

use std::panic::{AssertUnwindSafe, catch_unwind};

use spliceport::proactor::sim::{Conditions, Faults, Simulation};
use spliceport::proactor::{BackendChoice, Proactor};

use arrivals::ArrivalsProgram;
use program::Program;
use relays::JoinedProgram;

/// What one seed brought.
pub struct Result {
    pub problems: Vec<String>,
    pub digest: u64,
    pub trace: Vec<String>,
    pub faults: Faults,
}

/// The backend whose code a seed runs.
pub fn backend(seed: u64) -> BackendChoice {
    match seed % 2 {
        0 => BackendChoice::Ring,
        _ => BackendChoice::Emulated,
    }
}

/// A kind of random programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One connection, all that its user can do.
    Connection,
    /// Two, and a relay.
    Relay,
    /// Several, that are accepted and made.
    Arrivals,
}

impl Kind {
    /// The program of a seed, in words.
    pub fn describe(self, seed: u64) -> String {
        match self {
            Kind::Connection => format!("{:#?}", Program::from_seed(seed)),
            Kind::Relay => format!("{:#?}", JoinedProgram::from_seed(seed)),
            Kind::Arrivals => format!("{:#?}", ArrivalsProgram::from_seed(seed)),
        }
    }

    /// Runs the program of a seed in the world of that seed.
    pub fn run(self, seed: u64, record: bool) -> Result {
        self.run_under(Conditions::from_seed(seed), seed, record)
    }

    /// The same under other conditions.
    pub fn run_under(self, conditions: Conditions, seed: u64, record: bool) -> Result {
        match self {
            Kind::Connection => {
                let program = Program::from_seed(seed);
                run_program(&program, seed, conditions, record)
            }
            Kind::Relay => {
                let program = JoinedProgram::from_seed(seed);
                in_world(seed, conditions, record, |simulation| {
                    relays::simulate(&program, simulation, seed)
                })
            }
            Kind::Arrivals => {
                let program = ArrivalsProgram::from_seed(seed);
                in_world(seed, conditions, record, |simulation| {
                    arrivals::simulate(&program, simulation, seed)
                })
            }
        }
    }
}

/// Runs a program of one connection in a world of that seed, under these conditions.
pub fn run_program(program: &Program, seed: u64, conditions: Conditions, record: bool) -> Result {
    in_world(seed, conditions, record, |simulation| {
        simulate(program, simulation, seed)
    })
}

fn in_world(
    seed: u64,
    conditions: Conditions,
    record: bool,
    run: impl Fn(&Simulation) -> Vec<String>,
) -> Result {
    let before = open_descriptors();
    let simulation = Simulation::new(seed, conditions);
    if record {
        simulation.record();
    }
    let run = || run(&simulation);
    let mut problems = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        vec![format!("a panic: {}", text.unwrap_or_default())]
    });
    let after = open_descriptors();
    if after != before {
        problems.push(format!("{before} descriptors before, {after} after"));
    }
    Result {
        problems,
        digest: simulation.digest(),
        trace: simulation.trace(),
        faults: simulation.faults(),
    }
}

/// The proactor that a program asks for.
fn build(program: &Program, backend: BackendChoice) -> Proactor {
    Proactor::builder()
        .backend(backend)
        .pipes(program.pipes)
        .pipe_size(program.pipe_size)
        .entries(program.entries)
        .recv_buffers(program.recv_buffers.0, program.recv_buffers.1)
        .build()
        .unwrap()
}

fn simulate(program: &Program, simulation: &Simulation, seed: u64) -> Vec<String> {
    let proactor = build(program, backend(seed));
    let connection = peer::local(program);
    let run = run::Run::new(program, proactor, connection, Some(simulation), seed);
    let report = run.finish(program);
    model::check(program, &report, simulation.faults())
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
