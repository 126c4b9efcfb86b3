//! The same programs on the ring, on the emulated port and on simulated kernels below both.
//!
//! Over TCP on the real kernel, every other program over Unix sockets; over Unix sockets on the
//! simulated one. Two kinds of programs:
//!
//! - Of what is determinate, all is compared: the same bytes arrive, each send ends in the same way
//!   with the same count, and is told of in the same order.
//! - With cancels, deadlines, pauses, limits, aborts, closes, receives, and peers that read slowly,
//!   end their side, go away or reset the connection, each run must be as the model says
//!   (`tests/sim/model.rs`), and runs are compared where one kernel can't differ from another. What
//!   may differ is what depends on when something came: how far a send or a receive was that was
//!   cancelled, whose time was over, or whose connection ended; what a stream had brought by then, if
//!   the peer's socket took less; whether `PeerGone` was `ECONNRESET` or `EPIPE`; whether a connection
//!   ended before it was aborted or the proactor dropped; and after such a difference, what was refused
//!   or broken for it.
//!
//! Not compared: in which portions bytes arrive, when writing is paused, which routes were taken.

mod sim;

use sim::log::{Log, Note};
use sim::peer::{Peer, local, tcp};
use sim::program::{From, Program};
use sim::run::Run;
use sim::side::Side;
use spliceport::End;
use spliceport::proactor::sim::{Conditions, Faults, Simulation};
use spliceport::proactor::{BackendChoice, Fd, Proactor};

/// What is the same on each kernel.
#[derive(PartialEq, Eq, Debug)]
struct Seen {
    arrived: Vec<u8>,
    notes: Vec<Note>,
    sends: Vec<(u64, End, Option<std::io::ErrorKind>)>,
    problems: Vec<String>,
}

fn seen(report: Side) -> Seen {
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

fn really(program: &Program, seed: u64, backend: BackendChoice) -> Side {
    let proactor = build(program, backend);
    Run::new(program, proactor, connection(program, seed), None, seed).finish(program)
}

fn connection(program: &Program, seed: u64) -> (Fd, Peer) {
    match seed % 2 {
        0 => tcp(),
        _ => local(program),
    }
}

fn simulated(program: &Program, seed: u64, backend: BackendChoice) -> Side {
    let mut conditions = Conditions::from_seed(seed);
    // Faults that show.
    conditions.source_error = 0;
    conditions.sink_error = 0;
    conditions.socket_error = 0;
    conditions.refusal = 0;
    let simulation = Simulation::new(seed, conditions);
    let proactor = build(program, backend);
    let run = Run::new(program, proactor, local(program), Some(&simulation), seed);
    run.finish(program)
}

/// All four; the simulated port, which the others are compared with, is the first.
fn runs(program: &Program, seed: u64) -> [(&'static str, Side); 4] {
    let denied = std::env::var_os("SPLICEPORT_TEST_DENIED").is_some_and(|value| value == "1");
    let ring = if denied {
        BackendChoice::Auto
    } else {
        BackendChoice::Ring
    };
    [
        (
            "simulated port",
            simulated(program, seed, BackendChoice::Emulated),
        ),
        (
            "simulated ring",
            simulated(program, seed, BackendChoice::Ring),
        ),
        ("emulated", really(program, seed, BackendChoice::Emulated)),
        ("ring", really(program, seed, ring)),
    ]
}

/// The seeds: so many, or those that the variables name.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap());
    let from = number("SPLICEPORT_FROM").unwrap_or(0);
    match number("SPLICEPORT_SEED") {
        Some(seed) => seed..seed + 1,
        None => from..from + number("SPLICEPORT_SEEDS").unwrap_or(usual),
    }
}

#[test]
fn each_backend_does_the_same() {
    for seed in seeds(60) {
        let program = Program::determinate(seed);
        let [expected, others @ ..] = runs(&program, seed).map(|(name, side)| (name, seen(side)));
        let expected = expected.1;
        assert!(expected.problems.is_empty(), "{seed}: {expected:?}");
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

/// An end that came of the source or the destination alone.
fn is_own(end: End) -> bool {
    matches!(
        end,
        End::Complete | End::EndOfFile | End::Truncated | End::Failed
    )
}

/// How a send or receive ended, where no kernel can have it end otherwise: with its count, where that
/// is so too.
type Certain = Option<(End, Option<u64>, Option<std::io::ErrorKind>)>;

fn certain_sends(side: &Side) -> Vec<Certain> {
    let sends = side.log.sends.borrow();
    let certain = sends.iter().map(|send| {
        let outcome = send.outcome.as_ref()?;
        let fed = send.plan.from == From::SlowPipe && outcome.end != End::Complete;
        let own = is_own(outcome.end) && !send.truncated && !fed;
        own.then_some((outcome.end, Some(outcome.sent), outcome.error))
    });
    certain.collect()
}

/// Of receives: how far one is depends on what had been delivered before it began, so that only the
/// refusal of a destination is certain.
fn certain_receives(side: &Side) -> Vec<Certain> {
    let receives = side.log.receives.borrow();
    let certain = receives.iter().map(|receive| {
        let ended = receive.ended.as_ref()?;
        (ended.end == End::Failed).then_some((End::Failed, None, ended.error))
    });
    certain.collect()
}

/// In which order those were told of that are certain in both.
fn order(
    log: &Log,
    mine: &[Certain],
    others: &[Certain],
    of: fn(&Note) -> Option<usize>,
) -> Vec<usize> {
    let certain = |all: &[Certain], at: usize| all.get(at).is_some_and(Option::is_some);
    let notes = log.notes.borrow();
    notes
        .iter()
        .filter_map(of)
        .filter(|at| certain(mine, *at) && certain(others, *at))
        .collect()
}

fn differ(a: &[Certain], b: &[Certain]) -> Option<usize> {
    let differs = |(a, b): (&Certain, &Certain)| a.is_some() && b.is_some() && a != b;
    a.iter().zip(b).position(differs)
}

/// What is not the same on two kernels, and must be.
fn differences(got: &Side, expected: &Side) -> Vec<String> {
    let mut problems = Vec::new();
    let [sends, expected_sends] = [got, expected].map(certain_sends);
    let [receives, expected_receives] = [got, expected].map(certain_receives);
    type Kind<'a> = (
        &'a str,
        &'a [Certain],
        &'a [Certain],
        fn(&Note) -> Option<usize>,
    );
    let kinds: [Kind<'_>; 2] = [
        ("send", &sends, &expected_sends, |note| match note {
            Note::Sent(number) => Some(*number),
            _ => None,
        }),
        (
            "receive",
            &receives,
            &expected_receives,
            |note| match note {
                Note::FileReceived(number) => Some(*number),
                _ => None,
            },
        ),
    ];
    for (what, mine, others, of) in kinds {
        if let Some(at) = differ(mine, others) {
            problems.push(format!("{what} {at}: {:?}, not {:?}", mine[at], others[at]));
        }
        let [told, expected_told] = [
            order(&got.log, mine, others, of),
            order(&expected.log, others, mine, of),
        ];
        if told != expected_told {
            problems.push(format!(
                "{what}s were told of as {told:?}, not {expected_told:?}"
            ));
        }
    }
    let ends = |side: &Side| -> Vec<_> {
        let sends = side.log.sends.borrow();
        let outcomes = sends.iter().map(|send| {
            let outcome = send.outcome.as_ref()?;
            Some((outcome.sent, outcome.end))
        });
        outcomes.collect()
    };
    let all_same = ends(got) == ends(expected);
    let lost = |side: &Side| -> Option<_> {
        let notes = side.log.notes.borrow();
        notes.iter().find_map(|note| match note {
            Note::Lost(kind) => Some(*kind),
            _ => None,
        })
    };
    // An abort, or a drop of the proactor, may have come before the end or after it.
    let gone = [got, expected]
        .iter()
        .any(|side| side.peer_closed || side.proactor_dropped || side.log.aborted.get());
    if all_same && !gone && lost(got) != lost(expected) {
        problems.push(format!("lost by {:?}, not {:?}", lost(got), lost(expected)));
    }
    let shorter = got.log.received.borrow();
    let longer = expected.log.received.borrow();
    if !shorter.starts_with(&longer) && !longer.starts_with(&shorter) {
        problems.push("other bytes were received".to_owned());
    }
    problems
}

#[test]
fn nothing_differs_but_what_may() {
    for seed in seeds(40) {
        let program = Program::real(seed);
        let runs = runs(&program, seed);
        for (name, side) in &runs {
            let mut problems = sim::model::check(&program, side, Faults::default());
            problems.extend(differences(side, &runs[0].1));
            assert!(
                problems.is_empty(),
                "{name}, SPLICEPORT_SEED={seed}: {problems:#?}\n{program:#?}"
            );
        }
    }
}
