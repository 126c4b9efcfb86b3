//! The transport on a simulated kernel: each seed is a program, a peer, and a kernel's every
//! decision. Of three kinds: connections, relays, arrivals.
//!
//! A seed that fails is printed, with its kind. It is run again, with all that happened, by
//! `SPLICEPORT_SEED=12345 cargo test --test simulation relays`, for example. More than the usual
//! seeds are run by `SPLICEPORT_SEEDS=1000000` (so many) or `SPLICEPORT_SECONDS=3600` (so long), from
//! `SPLICEPORT_FROM=` on.

mod sim;

use std::time::{Duration, Instant};

use sim::Kind;
use sim::program::{Action, From, Program, SendPlan};
use spliceport::proactor::sim::{Conditions, Rng};
use spliceport::{Route, RouteChoice};

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|e| panic!("{name}={value}: {e}")),
    )
}

/// One thread at a time: descriptors are counted, and their numbers are part of a run.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// Runs the usual seeds, or those that the variables name.
fn seeds_hold(kind: Kind, usual: u64) {
    let _alone = alone();
    if let Some(seed) = number("SPLICEPORT_SEED") {
        println!("{}", kind.describe(seed));
        let result = kind.run(seed, true);
        for line in &result.trace {
            println!("{line}");
        }
        assert!(result.problems.is_empty(), "{:#?}", result.problems);
        return;
    }
    let from = number("SPLICEPORT_FROM").unwrap_or(0);
    let limit = number("SPLICEPORT_SECONDS").map(Duration::from_secs);
    let seeds = number("SPLICEPORT_SEEDS").unwrap_or(match limit {
        Some(_) => u64::MAX - from,
        None => usual,
    });
    let start = Instant::now();
    let most = match number("SPLICEPORT_STOP") {
        Some(_) => 1,
        None => 10,
    };
    let verbose = number("SPLICEPORT_VERBOSE").is_some();
    let mut failed = Vec::new();
    for seed in from..from + seeds {
        if limit.is_some_and(|limit| start.elapsed() > limit) {
            println!("{} seeds held", seed - from);
            break;
        }
        if verbose {
            eprintln!("seed {seed}");
        }
        let result = kind.run(seed, false);
        if !result.problems.is_empty() {
            eprintln!("SPLICEPORT_SEED={seed} {kind:?} {:?}", sim::backend(seed));
            for problem in &result.problems {
                eprintln!("    {problem}");
            }
            failed.push(seed);
            if failed.len() >= most {
                break;
            }
        }
    }
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}

fn repeats(kind: Kind) {
    let _alone = alone();
    for seed in 0..100 {
        let (first, second) = (kind.run(seed, true), kind.run(seed, true));
        assert_eq!(first.trace, second.trace, "{kind:?}, seed {seed}");
        assert_eq!(first.digest, second.digest, "{kind:?}, seed {seed}");
    }
}

#[test]
fn seeds_hold_of_connections() {
    seeds_hold(Kind::Connection, 2000);
}

#[test]
fn seeds_hold_of_relays() {
    seeds_hold(Kind::Relay, 1000);
}

#[test]
fn seeds_hold_of_arrivals() {
    seeds_hold(Kind::Arrivals, 500);
}

/// A send of all that there is, of which nothing more is said.
fn whole(from: From, size: usize) -> SendPlan {
    SendPlan {
        from,
        size,
        start: 0,
        len: Some(size as u64),
        route: RouteChoice::Auto,
        native_only: false,
        keep_connection: true,
        timeout: None,
        rate: None,
        progress: false,
        weight: None,
        then: Vec::new(),
    }
}

/// A send behind a write, and after each number of turns its end, or that of all: whatever the kernel
/// has in hand then.
#[test]
fn an_end_at_every_step() {
    const STEPS: u64 = 24;
    let _alone = alone();
    let forced = [Route::Copy, Route::Inline, Route::Chain, Route::Sendfile];
    let forced = forced.map(|route| (From::File, RouteChoice::Force(route)));
    let others = [
        From::File,
        From::Position,
        From::BufReader,
        From::Reader,
        From::Bytes,
        From::Pipe,
        From::SlowPipe,
        From::Socket,
    ];
    let sends = others.map(|from| (from, RouteChoice::Auto));
    let mut seed = 0;
    for (from, route) in forced.into_iter().chain(sends) {
        for (end, keep_connection) in [
            (Action::Cancel(0), true),
            (Action::Cancel(0), false),
            (Action::Abort, false),
            (Action::DropProactor, false),
        ] {
            // Each on both backends, whose turn it is by seeds.
            for step in (0..STEPS).flat_map(|step| [step, step]) {
                let mut program = Program::socket(&mut Rng::new(seed));
                let send = SendPlan {
                    route,
                    keep_connection,
                    ..whole(from, 60_000)
                };
                program.actions = vec![
                    Action::Together(vec![Action::Write(100), Action::Send(send)]),
                    Action::PeerReads(20_000),
                    Action::Turns(step as u32),
                    end.clone(),
                    Action::Settle,
                ];
                let result = sim::run_program(&program, seed, Conditions::from_seed(seed), false);
                let what = || format!("{from:?} {route:?} {end:?} at {step}, seed {seed}");
                assert!(
                    result.problems.is_empty(),
                    "{}: {:?}",
                    what(),
                    result.problems
                );
                seed += 1;
            }
        }
    }
}

/// What is rare among the usual seeds is met often under a kernel that lets much fail, on each
/// backend, and what must hold does.
#[test]
fn every_fault_is_met() {
    let _alone = alone();
    let mut met = [[0; 6]; 2];
    for kind in [Kind::Connection, Kind::Relay, Kind::Arrivals] {
        for seed in 0..400 {
            let mut conditions = Conditions::from_seed(seed);
            // One at a time, since the first ends most of what there is.
            match seed / 2 % 4 {
                0 => conditions.source_error = 100,
                1 => conditions.sink_error = 700,
                2 => conditions.socket_error = 60,
                _ => conditions.refusal = 300,
            }
            let result = kind.run_under(conditions, seed, false);
            assert!(
                result.problems.is_empty(),
                "{kind:?} {seed}: {:?}",
                result.problems
            );
            let faults = result.faults;
            let of_kinds = [
                faults.sources,
                faults.sinks,
                faults.sockets,
                faults.accepts,
                faults.refusals,
                faults.pipes,
            ];
            for (met, more) in met[seed as usize % 2].iter_mut().zip(of_kinds) {
                *met += more;
            }
        }
    }
    println!("{met:?}");
    assert!(met.as_flattened().iter().all(|met| *met >= 5), "{met:?}");
}

/// What was told to be held back for a send that is then cancelled, before the kernel has looked at
/// it, is pushed out: whether the kernel is early or late.
#[test]
fn nothing_is_held_back_for_what_was_cancelled() {
    let _alone = alone();
    for seed in 0..400 {
        let mut program = Program::socket(&mut Rng::new(seed));
        program.send_buffer = None;
        program.actions = vec![
            // What is paced leaves by itself.
            Action::Send(SendPlan {
                rate: Some(40_000),
                ..whole(From::File, 1)
            }),
            Action::Send(whole(From::BufReader, 9)),
            Action::Turns(seed as u32 / 2 % 8),
            Action::Cancel(1),
            Action::Settle,
        ];
        let mut conditions = Conditions::fair();
        conditions.late = 600;
        let result = sim::run_program(&program, seed, conditions, false);
        assert!(result.problems.is_empty(), "{seed}: {:?}", result.problems);
    }
}

#[test]
fn a_seed_is_the_same_run_each_time() {
    repeats(Kind::Connection);
    repeats(Kind::Relay);
    repeats(Kind::Arrivals);
}
