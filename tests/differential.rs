//! The same programs on the ring, on the emulated port and on simulated kernels below both: the same
//! bytes arrive, each send ends in the same way with the same count, and is told of in the same order.
//!
//! Over TCP on the real kernel, over Unix sockets on the simulated one. What is not determinate is not
//! compared, and not in the programs: how far a send was when a cancel, an end or a deadline came, in
//! which portions bytes arrive, when writing is paused, which routes were taken.

mod sim;

use sim::log::Note;
use sim::peer::{local, tcp};
use sim::program::Program;
use sim::run::{Report, Run};
use spliceport::End;
use spliceport::proactor::sim::{Conditions, Simulation};
use spliceport::proactor::{BackendChoice, Proactor};

/// What is the same on each kernel.
#[derive(PartialEq, Eq, Debug)]
struct Seen {
    arrived: Vec<u8>,
    notes: Vec<Note>,
    sends: Vec<(u64, End, Option<std::io::ErrorKind>)>,
    problems: Vec<String>,
}

fn seen(report: Report) -> Seen {
    let log = &report.log;
    let (notes, sends) = (log.notes.borrow(), log.sends.borrow());
    // What is asked for behind a send that breaks the connection may come before that or after it.
    let broken = notes.iter().find_map(|note| match note {
        Note::Lost(Some(kind)) => sends.iter().rposition(|send| {
            let outcome = send.outcome.as_ref();
            outcome.is_some_and(|outcome| outcome.error == Some(*kind))
        }),
        _ => None,
    });
    let determinate = broken.map_or(sends.len(), |last| last + 1);
    let told = |note: &&Note| match note {
        Note::Made | Note::Lost(_) => true,
        // One that is refused is told of at once.
        Note::Sent(number) => *number < determinate && !sends[*number].late,
        _ => false,
    };
    let ends = sends[..determinate].iter().filter_map(|send| {
        let outcome = send.outcome.as_ref()?;
        Some((outcome.sent, outcome.end, outcome.error))
    });
    Seen {
        notes: notes.iter().filter(told).cloned().collect(),
        sends: ends.collect(),
        problems: log.problems.borrow().clone(),
        arrived: report.arrived,
    }
}

fn build(program: &Program, backend: BackendChoice) -> Proactor {
    Proactor::builder()
        .backend(backend)
        .pipes(program.pipes)
        .pipe_size(program.pipe_size)
        .entries(program.entries)
        .build()
        .unwrap()
}

fn really(seed: u64, backend: BackendChoice) -> Seen {
    let program = Program::determinate(seed);
    let proactor = build(&program, backend);
    seen(Run::new(&program, proactor, tcp(), None, seed).finish(&program))
}

fn simulated(seed: u64, backend: BackendChoice) -> Seen {
    let program = Program::determinate(seed);
    let mut conditions = Conditions::from_seed(seed);
    // Faults that show.
    conditions.source_error = 0;
    conditions.socket_error = 0;
    conditions.refusal = 0;
    let simulation = Simulation::new(seed, conditions);
    let proactor = build(&program, backend);
    let run = Run::new(&program, proactor, local(&program), Some(&simulation), seed);
    seen(run.finish(&program))
}

#[test]
fn each_backend_does_the_same() {
    let denied = std::env::var_os("SPLICEPORT_TEST_DENIED").is_some_and(|value| value == "1");
    let ring = if denied {
        BackendChoice::Auto
    } else {
        BackendChoice::Ring
    };
    let count = std::env::var("SPLICEPORT_SEEDS").map_or(60, |n| n.parse().unwrap());
    for seed in 0..count {
        let expected = simulated(seed, BackendChoice::Emulated);
        assert!(expected.problems.is_empty(), "{seed}: {expected:?}");
        let others = [
            ("simulated ring", simulated(seed, BackendChoice::Ring)),
            ("emulated", really(seed, BackendChoice::Emulated)),
            ("ring", really(seed, ring)),
        ];
        for (name, got) in others {
            assert_eq!(got.notes, expected.notes, "{name}, seed {seed}");
            assert_eq!(got.sends, expected.sends, "{name}, seed {seed}");
            assert_eq!(got.problems, expected.problems, "{name}, seed {seed}");
            // A reset overtakes what the peer has not read yet.
            let reset = expected
                .notes
                .iter()
                .any(|n| matches!(n, Note::Lost(Some(_))));
            assert!(
                got.arrived == expected.arrived
                    || reset && expected.arrived.starts_with(&got.arrived),
                "{name}, seed {seed}: {} bytes, and {} on the simulated port",
                got.arrived.len(),
                expected.arrived.len()
            );
        }
    }
}
