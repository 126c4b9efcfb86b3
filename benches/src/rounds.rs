//! Rounds in which all servers take turns, and what comes of them.

use std::io;

use serde::{Deserialize, Serialize};

use crate::child::Server;

/// What a benchmark found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures<R> {
    pub rows: Vec<R>,
    /// Servers that are not installed.
    pub missing: Vec<String>,
    /// What could not be measured, and why.
    pub failed: Vec<String>,
}

impl<R> Default for Figures<R> {
    fn default() -> Self {
        Figures {
            rows: Vec::new(),
            missing: Vec::new(),
            failed: Vec::new(),
        }
    }
}

impl<R> Figures<R> {
    pub fn missing(missing: Vec<String>) -> Self {
        Figures {
            missing,
            ..Self::default()
        }
    }

    /// Says that something failed, and keeps it for the report.
    pub fn fail(&mut self, what: String) {
        println!("failed: {what}");
        self.failed.push(what);
    }
}

/// Each server once a round, every other round in the opposite order. One that fails is left out
/// from then on, and gets no samples.
pub fn interleave<S, R>(
    servers: &[&Server],
    rounds: usize,
    cell: &str,
    figures: &mut Figures<R>,
    mut run: impl FnMut(&Server) -> io::Result<S>,
) -> Vec<Vec<S>> {
    let mut samples: Vec<Option<Vec<S>>> = servers.iter().map(|_| Some(Vec::new())).collect();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..servers.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let Some(taken) = &mut samples[at] else {
                continue;
            };
            match run(servers[at]) {
                Ok(sample) => taken.push(sample),
                Err(e) => {
                    figures.fail(format!("{}, {cell}: {e}", servers[at].name));
                    samples[at] = None;
                }
            }
        }
    }
    samples.into_iter().map(Option::unwrap_or_default).collect()
}
