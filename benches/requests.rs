//! Request and response over keep-alive connections: `spliceport serve` with one thread on each
//! backend beside nginx, lighttpd and others, by size of file and number of connections. The server
//! runs on one processor and the load on the other; rounds are interleaved, figures are medians.
//!
//! `cargo bench --bench requests -- --quick` takes about a minute. `--json FILE` writes the figures.

use std::error::Error;
use std::time::Duration;

use serde::Serialize;
use spliceport_benches::load::{self, Report};
use spliceport_benches::measure::Spread;
use spliceport_benches::servers::{Server, first_cpu_busy, start_all};
use spliceport_benches::setup::{Options, Scratch};

#[derive(Serialize)]
struct Row {
    server: String,
    size: usize,
    connections: usize,
    requests_per_second: Spread,
    gigabytes_per_second: f64,
    cpu_micros_per_request: Spread,
    core_busy: f64,
    load_busy: f64,
    p50_micros: f64,
    p99_micros: f64,
    p999_micros: f64,
}

struct Sample {
    report: Report,
    cpu: f64,
    busy: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    load::become_load_if_asked();
    let options = Options::from_args();
    let (sizes, connections, rounds, time): (&[usize], &[usize], usize, Duration) = if options.quick
    {
        (&[1, 16, 128, 1024], &[64], 3, Duration::from_millis(800))
    } else {
        (
            &[1, 4, 16, 32, 64, 128, 256, 1024],
            &[1, 64, 512],
            5,
            Duration::from_millis(1500),
        )
    };
    let scratch = Scratch::new("requests")?;
    let (files, state) = (scratch.files(), scratch.state());
    for size in sizes {
        let body: Vec<u8> = (0..size << 10).map(|i| ((i * 31) >> 3) as u8).collect();
        std::fs::write(files.join(format!("{size}.bin")), body)?;
    }
    let rows = measure(&files, &state, sizes, connections, rounds, time)?;
    options.write(&rows)?;
    Ok(())
}

fn measure(
    files: &std::path::Path,
    state: &std::path::Path,
    sizes: &[usize],
    connections: &[usize],
    rounds: usize,
    time: Duration,
) -> Result<Vec<Row>, Box<dyn Error>> {
    let (servers, missing) = start_all(files, state)?;
    for name in missing {
        println!("not installed, so not measured: {name}");
    }
    let mut rows = Vec::new();
    for &size in sizes {
        for &connections in connections {
            let mut samples: Vec<Vec<Sample>> = servers.iter().map(|_| Vec::new()).collect();
            for round in 0..=rounds {
                for (server, samples) in servers.iter().zip(&mut samples) {
                    // The first round warms up, and is short.
                    let time = if round == 0 { time / 4 } else { time };
                    let sample = run(server, size, connections, time)
                        .map_err(|e| format!("{}, {size} KiB, {connections}: {e}", server.name))?;
                    if round > 0 {
                        samples.push(sample);
                    }
                }
            }
            println!("\n{size} KiB, {connections} connections");
            println!(
                "{:26} {:>9} {:>6} {:>8} {:>17} {:>5} {:>5} {:>7} {:>7} {:>7}",
                "",
                "req/s",
                "GB/s",
                "CPU us",
                "(min - max)",
                "core",
                "load",
                "p50 us",
                "p99",
                "p99.9"
            );
            for (server, samples) in servers.iter().zip(samples) {
                rows.push(row(&server.name, size, connections, &samples));
            }
        }
    }
    Ok(rows)
}

fn run(
    server: &Server,
    size: usize,
    connections: usize,
    time: Duration,
) -> std::io::Result<Sample> {
    let (cpu, busy) = (server.cpu_seconds(), first_cpu_busy());
    let report = load::run(server.address, &format!("/{size}.bin"), connections, time)?;
    Ok(Sample {
        report,
        cpu: server.cpu_seconds() - cpu,
        busy: first_cpu_busy() - busy,
    })
}

fn row(server: &str, size: usize, connections: usize, samples: &[Sample]) -> Row {
    let spread = |figure: fn(&Sample) -> f64| Spread::of(samples.iter().map(figure));
    let row = Row {
        server: server.to_owned(),
        size: size << 10,
        connections,
        requests_per_second: spread(|s| s.report.requests as f64 / s.report.seconds),
        gigabytes_per_second: spread(|s| s.report.bytes as f64 / s.report.seconds / 1e9).median,
        cpu_micros_per_request: spread(|s| s.cpu * 1e6 / s.report.requests as f64),
        core_busy: spread(|s| s.busy / s.report.seconds).median,
        load_busy: spread(|s| s.report.busy).median,
        p50_micros: spread(|s| s.report.p50_micros as f64).median,
        p99_micros: spread(|s| s.report.p99_micros as f64).median,
        p999_micros: spread(|s| s.report.p999_micros as f64).median,
    };
    let Spread { median, min, max } = row.cpu_micros_per_request;
    println!(
        "{server:26} {:9.0} {:6.2} {median:8.2} {:>17} {:5.2} {:5.2} {:7.0} {:7.0} {:7.0}",
        row.requests_per_second.median,
        row.gigabytes_per_second,
        format!("({min:.2} - {max:.2})"),
        row.core_busy,
        row.load_busy,
        row.p50_micros,
        row.p99_micros,
        row.p999_micros,
    );
    row
}
