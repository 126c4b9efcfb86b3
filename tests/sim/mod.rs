//! Deterministic simulation: random programs on a simulated kernel, and a model of what they must
//! bring.

#![allow(dead_code)]

pub mod content;
pub mod log;
pub mod model;
pub mod peer;
pub mod program;
pub mod receives;
pub mod run;

use std::panic::{AssertUnwindSafe, catch_unwind};

use spliceport::proactor::sim::{Conditions, Simulation};
use spliceport::proactor::{BackendChoice, Proactor};

use program::Program;

/// What one seed brought.
pub struct Result {
    pub problems: Vec<String>,
    pub digest: u64,
    pub trace: Vec<String>,
}

/// The backend whose code a seed runs.
pub fn backend(seed: u64) -> BackendChoice {
    match seed % 2 {
        0 => BackendChoice::Ring,
        _ => BackendChoice::Emulated,
    }
}

/// Runs the program of a seed in the world of that seed.
pub fn run(seed: u64, record: bool) -> Result {
    let program = Program::from_seed(seed);
    let before = open_descriptors();
    let simulation = Simulation::new(seed, Conditions::from_seed(seed));
    if record {
        simulation.record();
    }
    let run = || simulate(&program, &simulation, seed);
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
    }
}

fn simulate(program: &Program, simulation: &Simulation, seed: u64) -> Vec<String> {
    let proactor = Proactor::builder()
        .backend(backend(seed))
        .pipes(program.pipes)
        .pipe_size(program.pipe_size)
        .entries(program.entries)
        .recv_buffers(program.recv_buffers.0, program.recv_buffers.1)
        .build()
        .unwrap();
    let connection = peer::local(program);
    let run = run::Run::new(program, proactor, connection, Some(simulation), seed);
    let report = run.finish(program);
    model::check(program, &report, simulation.faults())
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
