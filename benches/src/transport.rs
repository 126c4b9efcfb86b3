//! One way, hot files, by size and number of connections: our routes on both backends beside other
//! runtimes and loops over the bare calls. Each server is a process; all take turns in each round.

use std::error::Error;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::child::{Helper, Server};
use crate::drain::{self, Received};
use crate::measure::{self, Spread};
use crate::peers;
use crate::report;
use crate::rounds::{Figures, interleave};
use crate::setup::{Options, Scratch};

/// What one server did in one cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub server: String,
    pub size: u64,
    pub connections: usize,
    pub gigabytes_per_second: Spread,
    pub cpu_seconds_per_gigabyte: Spread,
    pub user_seconds_per_gigabyte: f64,
    pub system_seconds_per_gigabyte: f64,
    /// Shares of time: the server's processor busy, in interrupts, and the receiving side busy.
    pub core_busy: f64,
    pub core_interrupts: f64,
    pub load_busy: f64,
    pub peak_bytes: u64,
    pub threads: usize,
    pub system_calls_per_gigabyte: Option<f64>,
}

/// A size and a number of connections, and how much is measured there.
pub struct Cell {
    pub size: u64,
    pub connections: usize,
    /// Our routes by force too, loops that aren't corked, and the system calls.
    pub deep: bool,
}

/// How long it takes.
#[derive(Clone, Copy)]
pub struct Pace {
    pub rounds: usize,
    pub warm: Duration,
    pub time: Duration,
}

/// What is sent before this isn't counted: until the queues of all sockets have grown, which at 64
/// connections takes 0.2 to 0.4 s, some servers are faster than they are from then on.
const SETTLED: Duration = Duration::from_millis(400);

impl Pace {
    /// For so many connections; `rounds` is for the full mode.
    pub fn of(quick: bool, connections: usize, rounds: usize) -> Pace {
        Pace {
            rounds: if quick { 2 } else { rounds },
            warm: match connections {
                1 => SETTLED / 4,
                _ => SETTLED,
            },
            time: Duration::from_millis(if quick { 120 } else { 200 }),
        }
    }
}

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

/// Sizes for which there are goals for one connection.
pub const LARGE: [u64; 4] = [M, 16 * M, 256 * M, G];

/// Numbers of connections, and the sizes that are measured with them.
type Plan = &'static [(usize, &'static [u64])];

fn plan(quick: bool) -> Plan {
    match quick {
        true => &[(1, &[M]), (64, &[16 * K])],
        false => &[
            (1, &[4 * K, 16 * K, 64 * K, 256 * K, M, 16 * M, 256 * M, G]),
            (8, &[16 * K, M, G]),
            (64, &[4 * K, 16 * K, 64 * K, 256 * K, M, 16 * M, G]),
            (512, &[16 * K, M, 16 * M]),
        ],
    }
}

/// How many cells the full mode has.
pub fn full() -> usize {
    plan(false).iter().map(|(_, sizes)| sizes.len()).sum()
}

fn cells(quick: bool) -> Vec<Cell> {
    let deep = |connections, size| !quick && [(1, M), (64, 16 * K)].contains(&(connections, size));
    let cell = |connections, size| Cell {
        size,
        connections,
        deep: deep(connections, size),
    };
    let of = |(connections, sizes): &(usize, &'static [u64])| {
        let connections = *connections;
        sizes.iter().map(move |&size| cell(connections, size))
    };
    plan(quick).iter().flat_map(of).collect()
}

/// Our routes by force, and loops that leave TCP's options alone: measured where a cell is deep.
fn is_extra(name: &str) -> bool {
    let ours = name.starts_with("ring,") || name.starts_with("emulated,");
    ours && !name.ends_with("auto") || name.ends_with("not corked")
}

/// Runs it.
pub fn run(options: &Options) -> Result<Figures<Row>, Box<dyn Error>> {
    let mut figures = Figures::default();
    let mut cells = cells(options.quick);
    cells.sort_by_key(|cell| cell.size);
    for same_size in cells.chunk_by(|a, b| a.size == b.size) {
        let scratch = Scratch::new("transport")?;
        let size = same_size[0].size;
        let file = scratch.file("file", size)?;
        let deep = same_size.iter().any(|cell| cell.deep);
        let wanted = |name: &str| {
            options.wants(name) && (deep || !is_extra(name)) && name != "epoll + read + write"
        };
        let servers = start(&file, size, wanted)?;
        for cell in same_size {
            let here: Vec<&Server> = servers
                .iter()
                .filter(|s| cell.deep || !is_extra(&s.name))
                .collect();
            // Where most is aimed at, more rounds.
            let aimed = cell.connections == 1 && LARGE.contains(&size);
            let pace = Pace::of(options.quick, cell.connections, if aimed { 5 } else { 3 });
            measure(&here, cell, pace, &mut figures);
        }
    }
    Ok(figures)
}

/// Starts the peers that send a file one way.
pub fn start(file: &Path, size: u64, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<Server>> {
    let names = peers::STREAMS.iter().map(|(name, _)| *name);
    names
        .filter(|name| wanted(name))
        .map(|name| Server::peer("stream", name, file, size))
        .collect()
}

/// All servers in one cell, interleaved.
pub fn measure(servers: &[&Server], cell: &Cell, pace: Pace, figures: &mut Figures<Row>) {
    let what = format!(
        "{}, {} connections",
        report::size(cell.size),
        cell.connections
    );
    let rows = compare(servers, cell, &what, pace, figures, |server, warm, time| {
        drain::start(server, cell.connections, warm, time)
    });
    figures.rows.extend(rows);
}

/// All servers under the same load, interleaved: a row for each that stood it.
pub fn compare<R>(
    servers: &[&Server],
    cell: &Cell,
    what: &str,
    pace: Pace,
    figures: &mut Figures<R>,
    load: impl Fn(&Server, Duration, Duration) -> io::Result<Helper>,
) -> Vec<Row> {
    for server in servers {
        measure::reset_peak(server.id());
    }
    let samples = interleave(servers, pace.rounds, what, figures, |server| {
        load(server, pace.warm, pace.time)?.finish()
    });
    let mut rows = Vec::new();
    for (server, samples) in servers.iter().zip(&samples) {
        if !samples.is_empty() {
            let count = || drain::system_calls(server, |warm, time| load(server, warm, time));
            let calls = cell.deep.then(count).flatten();
            rows.push(row(&server.name, cell, samples, calls));
        }
    }
    println!("\n{what}");
    println!(
        "{:31} {:>6} {:>13} {:>6} {:>8} {:>5} {:>5} {:>5} {:>5} {:>8} {:>4} {:>9}",
        "",
        "GB/s",
        "(min - max)",
        "ring's",
        "CPU s/GB",
        "user",
        "core",
        "irq",
        "load",
        "peak MiB",
        "thr",
        "calls/GB"
    );
    let all: Vec<&Row> = rows.iter().collect();
    for row in &rows {
        print(row, times(&all, row));
    }
    rows
}

fn row(server: &str, cell: &Cell, samples: &[Received], calls: Option<f64>) -> Row {
    let spread = |figure: &dyn Fn(&Received) -> f64| Spread::of(samples.iter().map(figure));
    let gigabytes = |r: &Received| r.bytes as f64 / 1e9;
    Row {
        server: server.to_owned(),
        size: cell.size,
        connections: cell.connections,
        gigabytes_per_second: spread(&Received::gigabytes_per_second),
        cpu_seconds_per_gigabyte: spread(&Received::cpu_per_gigabyte),
        user_seconds_per_gigabyte: spread(&|r| r.used.user / gigabytes(r)).median,
        system_seconds_per_gigabyte: spread(&|r| r.used.system / gigabytes(r)).median,
        core_busy: spread(&|r| r.used.core).median,
        core_interrupts: spread(&|r| r.used.interrupts).median,
        load_busy: spread(&|r| r.busy).median,
        peak_bytes: samples.iter().map(|r| r.used.peak).max().unwrap_or(0),
        threads: samples.iter().map(|r| r.used.threads).max().unwrap_or(0),
        system_calls_per_gigabyte: calls,
    }
}

/// How many times as fast ours is on the ring, by itself, in the same cell.
pub fn times(cell: &[&Row], row: &Row) -> Option<f64> {
    let ours = cell.iter().find(|r| r.server == "ring, auto")?;
    Some(ours.gigabytes_per_second.median / row.gigabytes_per_second.median)
}

fn print(row: &Row, times: Option<f64>) {
    let Spread { median, min, max } = row.gigabytes_per_second;
    println!(
        "{:31} {median:6.2} {:>13} {:>6} {:8.3} {:5.3} {:5.2} {:5.2} {:5.2} {:8.1} {:4} {:>9}",
        row.server,
        format!("({min:.2} - {max:.2})"),
        times.map_or("-".into(), |n| format!("{n:.2}")),
        row.cpu_seconds_per_gigabyte.median,
        row.user_seconds_per_gigabyte,
        row.core_busy,
        row.core_interrupts,
        row.load_busy,
        row.peak_bytes as f64 / f64::from(1 << 20),
        row.threads,
        row.system_calls_per_gigabyte
            .map_or("-".into(), |n| format!("{n:.0}")),
    );
}
