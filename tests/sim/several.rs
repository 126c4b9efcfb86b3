//! What runs of several connections have in common: turns of their loop, and rest.

use std::time::Duration;

use spliceport::proactor::Proactor;
use spliceport::proactor::sim::{Rng, Simulation};

use super::side::Side;

/// Where several connections run.
pub struct Stage<'a> {
    pub simulation: &'a Simulation,
    pub proactor: Proactor,
    pub rng: Rng,
    pub problems: Vec<String>,
}

impl<'a> Stage<'a> {
    pub fn new(simulation: &'a Simulation, proactor: Proactor, seed: u64) -> Stage<'a> {
        Stage {
            simulation,
            proactor,
            rng: Rng::new(seed ^ 0xd1ce),
            problems: Vec::new(),
        }
    }
}

/// A run of several connections.
pub trait Several<'a> {
    fn stage(&mut self) -> &mut Stage<'a>;

    fn sides(&self) -> impl Iterator<Item = &Side>;

    /// Is called after each turn.
    fn turned(&mut self) {}

    fn turn(&mut self, timeout: Duration) {
        if self.stage().rng.chance(500) {
            for side in self.sides() {
                side.log.drain_sinks();
            }
        }
        let stage = self.stage();
        if let Err(e) = stage.proactor.run_once(Some(timeout)) {
            stage.problems.push(format!("the loop: {e}"));
        }
        self.turned();
    }

    /// Numbers of which one changes when something happens.
    fn progress(&mut self) -> (u64, u64, u64) {
        let seen = |side: &Side| side.log.calls.get() + side.arrived.len() as u64;
        let seen = self.sides().map(seen).sum();
        let stage = self.stage();
        let completed = stage.proactor.stats().completed;
        (seen, completed, stage.simulation.events())
    }

    /// Runs turns until none brings anything; with `sleep`, until time brings nothing either.
    fn quieten(&mut self, sleep: bool, mut each: impl FnMut(&mut Self)) {
        let (mut idle, mut turns) = (0, 0);
        while idle < 40 {
            turns += 1;
            if turns > 200_000 {
                let what = "it never comes to rest".to_owned();
                return self.stage().problems.push(what);
            }
            let before = self.progress();
            each(self);
            self.turn(match sleep && idle > 8 {
                true => Duration::from_secs(60),
                false => Duration::ZERO,
            });
            idle = if self.progress() == before {
                idle + 1
            } else {
                0
            };
        }
    }
}
