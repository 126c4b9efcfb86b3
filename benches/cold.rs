//! Hot requests beside 64 reads of a file system that does not answer: the thread's own objection
//! to sendfile, "it can block".
//!
//! Needs root, for the FUSE mount. `cargo bench --bench cold -- --quick` takes about a minute;
//! `--json FILE` writes the figures.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use spliceport_benches::load::{self, Report};
use spliceport_benches::measure::Spread;
use spliceport_benches::servers::{Server, start_all};
use spliceport_benches::setup::{Options, Scratch};
use spliceport_benches::stuck::Stuck;

/// Reads under way that do not return.
const STUCK: usize = 64;

#[derive(Serialize)]
struct Row {
    server: String,
    size: usize,
    alone_p99_micros: f64,
    beside_p99_micros: f64,
    ratio: f64,
    alone_requests_per_second: f64,
    beside_requests_per_second: f64,
    reads_waiting: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    load::become_load_if_asked();
    let options = Options::from_args();
    let (rounds, time) = match options.quick {
        true => (3, Duration::from_millis(600)),
        false => (7, Duration::from_millis(1500)),
    };
    let scratch = Scratch::new("cold")?;
    let (files, state) = (scratch.files(), scratch.state());
    fs::create_dir_all(files.join("stuck"))?;
    for size in [1, 16, 128] {
        fs::write(files.join(format!("{size}.bin")), vec![b'x'; size << 10])?;
    }
    let rows = measure(&files, &state, rounds, time)?;
    options.write(&rows)?;
    Ok(())
}

fn measure(
    files: &Path,
    state: &Path,
    rounds: usize,
    time: Duration,
) -> Result<Vec<Row>, Box<dyn Error>> {
    let stuck = Stuck::mount(&files.join("stuck"))?;
    let mut rows = Vec::new();
    let mut next = 0;
    {
        let (servers, missing) = start_all(files, state)?;
        for name in missing {
            println!("not installed, so not measured: {name}");
        }
        println!(
            "{:26} {:>6} {:>13} {:>13} {:>7} {:>11} {:>12} {:>6}",
            "",
            "KiB",
            "alone p99 us",
            "beside p99",
            "ratio",
            "alone req/s",
            "beside req/s",
            "waits"
        );
        for size in [1, 16, 128] {
            for server in &servers {
                rows.push(one(server, &stuck, &mut next, size, rounds, time)?);
            }
        }
    }
    stuck.release();
    Ok(rows)
}

fn one(
    server: &Server,
    stuck: &Stuck,
    next: &mut usize,
    size: usize,
    rounds: usize,
    time: Duration,
) -> Result<Row, Box<dyn Error>> {
    let path = format!("/{size}.bin");
    let hot = || load::run(server.address, &path, 16, time);
    hot()?;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let mut waiting = 0;
    for _ in 0..rounds {
        alone.push(hot()?);
        stuck.hold();
        let clients: Vec<TcpStream> = (0..STUCK)
            .map(|_| {
                *next += 1;
                let mut client = TcpStream::connect(server.address)?;
                write!(client, "GET /stuck/{next} HTTP/1.1\r\nHost: cold\r\n\r\n")?;
                Ok(client)
            })
            .collect::<std::io::Result<_>>()?;
        // A server that blocks has one read under way, one that doesn't as many as it has workers.
        let end = Instant::now() + Duration::from_secs(2);
        while stuck.waiting() == 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(100));
        waiting = waiting.max(stuck.waiting());
        // A server that is blocked answers no one: that is a figure, not a failure.
        beside.push(load::run_or_nothing(server.address, &path, 16, time));
        stuck.release();
        drop(clients);
        std::thread::sleep(Duration::from_millis(200));
    }
    let median =
        |all: &[Report], figure: fn(&Report) -> f64| Spread::of(all.iter().map(figure)).median;
    let p99 = |r: &Report| {
        if r.requests == 0 {
            f64::INFINITY
        } else {
            r.p99_micros as f64
        }
    };
    let rate = |r: &Report| r.requests as f64 / r.seconds;
    let row = Row {
        server: server.name.clone(),
        size: size << 10,
        alone_p99_micros: median(&alone, p99),
        beside_p99_micros: median(&beside, p99),
        ratio: median(&beside, p99) / median(&alone, p99),
        alone_requests_per_second: median(&alone, rate),
        beside_requests_per_second: median(&beside, rate),
        reads_waiting: waiting,
    };
    println!(
        "{:26} {size:>6} {:13.0} {:13.0} {:7.2} {:11.0} {:12.0} {:>6}",
        row.server,
        row.alone_p99_micros,
        row.beside_p99_micros,
        row.ratio,
        row.alone_requests_per_second,
        row.beside_requests_per_second,
        row.reads_waiting,
    );
    Ok(row)
}
