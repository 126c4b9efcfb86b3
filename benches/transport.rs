//! One way, hot files, by size and number of connections: each of our routes, on both backends,
//! beside sendfile(2) and splice(2) in a loop of their own. All are interleaved in one run, with
//! the server on one processor and the receiving side on another; medians of the rounds.
//!
//! `cargo bench --bench transport -- --quick` takes about a minute. `--json FILE` writes the figures.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::net::TcpListener;

use serde::Serialize;
use spliceport::proactor::{BackendChoice, Fd};
use spliceport::{Route, RouteChoice};
use spliceport_benches::measure::{Sample, Spread, pin};
use spliceport_benches::setup::{Options, Scratch};
use spliceport_benches::{baseline, drain, ours};

#[derive(Clone, Copy)]
enum Server {
    BlockingSendfile,
    BlockingSplice,
    EpollSendfile,
    Ours(BackendChoice, RouteChoice),
}

const SERVERS: [(&str, Server); 10] = {
    use BackendChoice::{Emulated, Ring};
    use RouteChoice::{Auto, Force};
    [
        ("splice loop, 1 MiB pipe", Server::BlockingSplice),
        ("blocking sendfile(2)", Server::BlockingSendfile),
        ("epoll + sendfile(2)", Server::EpollSendfile),
        ("ring, auto", Server::Ours(Ring, Auto)),
        ("ring, inline", Server::Ours(Ring, Force(Route::Inline))),
        ("ring, chain", Server::Ours(Ring, Force(Route::Chain))),
        ("ring, copy", Server::Ours(Ring, Force(Route::Copy))),
        ("emulated, auto", Server::Ours(Emulated, Auto)),
        (
            "emulated, inline",
            Server::Ours(Emulated, Force(Route::Inline)),
        ),
        (
            "emulated, sendfile",
            Server::Ours(Emulated, Force(Route::Sendfile)),
        ),
    ]
};

#[derive(Serialize)]
struct Row {
    server: &'static str,
    size: u64,
    connections: usize,
    gigabytes_per_second: Spread,
    cpu_seconds_per_gigabyte: Spread,
}

fn main() -> Result<(), Box<dyn Error>> {
    drain::become_drain_if_asked();
    let options = Options::from_args();
    pin(0);
    let (sizes, connections, rounds, volume): (&[u64], &[usize], usize, u64) = if options.quick {
        (&[16 << 10, 128 << 10, 1 << 20], &[1, 64], 3, 256 << 20)
    } else {
        (
            &[
                4 << 10,
                16 << 10,
                32 << 10,
                64 << 10,
                256 << 10,
                1 << 20,
                16 << 20,
            ],
            &[1, 8, 64, 512],
            5,
            1 << 30,
        )
    };
    let scratch = Scratch::new("transport")?;
    let rows = sizes.iter().try_fold(Vec::new(), |mut rows, &size| {
        let path = scratch.files().join("file");
        let mut file = File::create(&path)?;
        let block: Vec<u8> = (0..size.min(1 << 20))
            .map(|i| ((i * 31) >> 3) as u8)
            .collect();
        for _ in 0..size.div_ceil(1 << 20) {
            file.write_all(&block)?;
        }
        file.sync_all()?;
        let file = File::open(&path)?;
        for &connections in connections {
            rows.extend(cell(&file, size, connections, rounds, volume)?);
        }
        Ok::<_, io::Error>(rows)
    })?;
    options.write(&rows)?;
    Ok(())
}

/// All servers at one size and number of connections, interleaved.
fn cell(
    file: &File,
    size: u64,
    connections: usize,
    rounds: usize,
    volume: u64,
) -> io::Result<Vec<Row>> {
    // At small sizes the count of files is what takes the time.
    let volume = volume.min(size * 40_000);
    let repeat = (volume / size / connections as u64).max(1);
    let mut samples = vec![Vec::new(); SERVERS.len()];
    for round in 0..=rounds {
        for (at, (name, server)) in SERVERS.iter().enumerate() {
            let sample = run(*server, file, size, connections, repeat)
                .map_err(|e| io::Error::new(e.kind(), format!("{name}: {e}")))?;
            // The first round warms up.
            if round > 0 {
                samples[at].push(sample);
            }
        }
    }
    println!("\n{size} bytes, {connections} connections, {repeat} files each");
    println!(
        "{:28} {:>8} {:>17} {:>10}",
        "", "GB/s", "(min - max)", "CPU s/GB"
    );
    let rows = SERVERS.iter().zip(samples).map(|((server, _), samples)| {
        let row = Row {
            server,
            size,
            connections,
            gigabytes_per_second: Spread::of(samples.iter().map(Sample::gigabytes_per_second)),
            cpu_seconds_per_gigabyte: Spread::of(samples.iter().map(Sample::cpu_per_gigabyte)),
        };
        let Spread { median, min, max } = row.gigabytes_per_second;
        let cpu = row.cpu_seconds_per_gigabyte.median;
        println!(
            "{server:28} {median:8.2} {:>17} {cpu:10.3}",
            format!("({min:.2} - {max:.2})")
        );
        row
    });
    Ok(rows.collect())
}

fn run(
    server: Server,
    file: &File,
    size: u64,
    connections: usize,
    repeat: u64,
) -> io::Result<Sample> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = drain::start(listener.local_addr()?, connections)?;
    let bytes = size * repeat * connections as u64;
    let sample = Sample::of(bytes, || {
        match server {
            Server::BlockingSendfile => {
                baseline::blocking_sendfile(&listener, connections, file, size, repeat)
            }
            Server::BlockingSplice => {
                baseline::blocking_splice(&listener, connections, file, size, repeat)
            }
            Server::EpollSendfile => {
                baseline::epoll_sendfile(&listener, connections, file, size, repeat)
            }
            Server::Ours(backend, route) => {
                let file = Fd::from(file.try_clone()?);
                ours::serve(&listener, connections, &file, size, repeat, backend, route)
            }
        }?;
        match client.wait()?.success() {
            true => Ok(()),
            false => Err(io::Error::other("the receiving side failed")),
        }
    });
    if sample.is_err() {
        let _ = client.kill();
        let _ = client.wait();
    }
    sample
}
