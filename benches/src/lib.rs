//! Benchmarks that compare within one run: our transport and our server beside other runtimes, other
//! servers and bare loops, on loopback, with medians of interleaved rounds.
//!
//! One program: it measures, and is started again by itself as each of the peers and clients.

#![allow(missing_docs, reason = "a package of the workspace's own")]

mod child;
mod chill;
mod claims;
mod cold;
mod drain;
mod load;
mod measure;
mod peers;
mod poll;
mod pump;
mod relay;
mod report;
mod requests;
mod rounds;
mod setup;
mod stall;
mod stalled;
#[path = "../../tests/common/stuck.rs"]
mod stuck;
mod transport;
mod web;

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::time::Instant;

use serde::Serialize;

use report::{All, Environment};
use rounds::Figures;
use setup::Options;

const BENCHES: [&str; 6] = [
    "transport",
    "requests",
    "stalled",
    "cold",
    "relay",
    "claims",
];

/// The program.
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.split_first() {
        Some((role, rest)) if role == peers::ROLE => peers::run(rest).map_err(Into::into),
        Some((role, rest)) if role == drain::ROLE => client(90, || drain::role(rest)),
        Some((role, rest)) if role == pump::ROLE => client(90, || pump::role(rest)),
        Some((role, rest)) if role == load::ROLE => client(90, || load::role(rest)),
        Some((role, rest)) if role == stall::ROLE => client(300, || stall::role(rest)),
        Some((role, rest)) if role == chill::ROLE => client(300, || chill::role(rest)),
        _ => match Options::parse(&args, &BENCHES) {
            Ok(options) => compare(&options),
            Err(what) => {
                eprintln!("{what}\n{}", setup::USAGE);
                return ExitCode::from(2);
            }
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{}: {e}", args.first().map_or("benchmarks", String::as_str));
            ExitCode::FAILURE
        }
    }
}

/// A client's role, for so many seconds at most, whatever a server does.
fn client<R: Serialize>(
    limit: u32,
    role: impl FnOnce() -> io::Result<R>,
) -> Result<(), Box<dyn Error>> {
    // SAFETY: takes and touches no memory; SIGALRM ends the process.
    unsafe { libc::alarm(limit) };
    println!("{}", serde_json::to_string(&role()?)?);
    Ok(())
}

fn compare(options: &Options) -> Result<(), Box<dyn Error>> {
    if options.render {
        return All::read(&options.results)?.write(&options.results);
    }
    // Before anything is measured, since a compiler takes both processors.
    web::our_program()?;
    setup::end_cleanly();
    let tcp_mem = report::tcp_mem();
    let notes = setup::prepare();
    for note in &notes {
        println!("note: {note}");
    }
    let start = Instant::now();
    let mut all = All {
        environment: Environment::now(options.quick, notes, tcp_mem),
        ..All::default()
    };
    if options.runs("transport") {
        all.transport = transport::run(options)?;
    }
    if options.runs("requests") {
        all.requests = requests::run(options)?;
    }
    if options.runs("stalled") {
        all.stalled = stalled::run(options)?;
    }
    if options.runs("cold") {
        all.cold = cold::run(options).unwrap_or_else(|e| {
            let mut figures = Figures::default();
            figures.fail(format!("cold files: {e}"));
            figures
        });
    }
    if options.runs("relay") {
        all.relay = relay::run(options)?;
    }
    if options.runs("claims") {
        all.claims = claims::run(options)?;
    }
    all.environment.minutes = start.elapsed().as_secs_f64() / 60.0;
    println!("\n{:.1} minutes", all.environment.minutes);
    println!("\n{}", all.summary());
    if options.report {
        all.write(&options.results)?;
    }
    Ok(())
}
