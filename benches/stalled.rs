//! One live client beside many that asked for 64 MiB and read nothing: its throughput against what
//! it had alone, the server's threads and memory, and what the sockets hold.
//!
//! `cargo bench --bench stalled -- --quick` takes about a minute. `--json FILE` writes the figures.

use std::error::Error;
use std::fs;
use std::time::Duration;

use serde::Serialize;
use spliceport_benches::load;
use spliceport_benches::measure::Spread;
use spliceport_benches::servers::{Server, start_all};
use spliceport_benches::setup::{Options, Scratch};
use spliceport_benches::stall::{Stalled, become_stalled_if_asked};

#[derive(Serialize)]
struct Row {
    server: String,
    stalled: usize,
    alone_gigabytes_per_second: Spread,
    beside_gigabytes_per_second: Spread,
    kept: f64,
    threads_alone: usize,
    threads_beside: usize,
    user_bytes_per_stalled: f64,
    /// Of both ends: the receiving sockets are on this machine too.
    socket_bytes_per_stalled: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    load::become_load_if_asked();
    become_stalled_if_asked();
    let options = Options::from_args();
    let (counts, rounds, time): (&[usize], usize, Duration) = if options.quick {
        (&[1000], 3, Duration::from_millis(700))
    } else {
        (&[1000, 2000, 10_000], 5, Duration::from_millis(1500))
    };
    let scratch = Scratch::new("stalled")?;
    let (files, state) = (scratch.files(), scratch.state());
    fs::write(files.join("64m.bin"), vec![b'x'; 64 << 20])?;
    let rows = measure(&files, &state, counts, rounds, time)?;
    options.write(&rows)?;
    Ok(())
}

fn measure(
    files: &std::path::Path,
    state: &std::path::Path,
    counts: &[usize],
    rounds: usize,
    time: Duration,
) -> Result<Vec<Row>, Box<dyn Error>> {
    let (servers, missing) = start_all(files, state)?;
    for name in missing {
        println!("not installed, so not measured: {name}");
    }
    let mut rows = Vec::new();
    for &stalled in counts {
        println!("\n{stalled} stalled clients");
        println!(
            "{:26} {:>10} {:>11} {:>6} {:>9} {:>14} {:>14}",
            "",
            "alone GB/s",
            "beside GB/s",
            "kept",
            "threads",
            "user B/stalled",
            "sock KiB/stalled"
        );
        for server in &servers {
            let row =
                one(server, stalled, rounds, time).map_err(|e| format!("{}: {e}", server.name))?;
            println!(
                "{:26} {:10.2} {:11.2} {:6.2} {:>9} {:14.0} {:14.0}",
                row.server,
                row.alone_gigabytes_per_second.median,
                row.beside_gigabytes_per_second.median,
                row.kept,
                format!("{} / {}", row.threads_alone, row.threads_beside),
                row.user_bytes_per_stalled,
                row.socket_bytes_per_stalled / 1024.0,
            );
            rows.push(row);
        }
    }
    Ok(rows)
}

fn one(server: &Server, stalled: usize, rounds: usize, time: Duration) -> std::io::Result<Row> {
    let live = || {
        let figures = (0..rounds).map(|_| {
            let report = load::run(server.address, "/64m.bin", 1, time)?;
            Ok(report.bytes as f64 / report.seconds / 1e9)
        });
        figures
            .collect::<std::io::Result<Vec<f64>>>()
            .map(Spread::of)
    };
    let alone = live()?;
    let (threads_alone, memory, sockets) = (threads(server), resident(server), socket_memory());
    let clients = Stalled::start(server.address, "/64m.bin", stalled)?;
    // Time for what is to be sent to them to be sent.
    std::thread::sleep(Duration::from_secs(1));
    let per = |before: f64, after: f64| (after - before).max(0.0) / stalled as f64;
    let user = per(memory, resident(server));
    let socket = per(sockets, socket_memory());
    let beside = live()?;
    let threads_beside = threads(server);
    drop(clients);
    std::thread::sleep(Duration::from_millis(500));
    Ok(Row {
        server: server.name.clone(),
        stalled,
        alone_gigabytes_per_second: alone,
        beside_gigabytes_per_second: beside,
        kept: beside.median / alone.median,
        threads_alone,
        threads_beside,
        user_bytes_per_stalled: user,
        socket_bytes_per_stalled: socket,
    })
}

/// The server's process and its children.
fn processes(server: &Server) -> Vec<u32> {
    let id = server.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    std::iter::once(id)
        .chain(children.split_whitespace().filter_map(|c| c.parse().ok()))
        .collect()
}

fn threads(server: &Server) -> usize {
    let count = |id: &u32| fs::read_dir(format!("/proc/{id}/task")).map_or(0, Iterator::count);
    processes(server).iter().map(count).sum()
}

fn resident(server: &Server) -> f64 {
    let pages = |id: &u32| -> f64 {
        let statm = fs::read_to_string(format!("/proc/{id}/statm")).unwrap_or_default();
        statm
            .split(' ')
            .nth(1)
            .and_then(|p| p.parse().ok())
            .unwrap_or(0.0)
    };
    processes(server).iter().map(pages).sum::<f64>() * 4096.0
}

/// Memory of all TCP sockets of this system.
fn socket_memory() -> f64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let pages = text
        .lines()
        .find(|line| line.starts_with("TCP:"))
        .and_then(|line| line.split_whitespace().last())
        .and_then(|pages| pages.parse::<f64>().ok());
    pages.unwrap_or(0.0) * 4096.0
}
