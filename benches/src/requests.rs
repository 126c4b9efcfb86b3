//! Request and response over keep-alive connections: `spliceport serve` with one thread on each
//! backend beside other servers, small servers on other runtimes, and the floor, by size of file and
//! number of connections. All take turns in each round.

use std::error::Error;
use std::io;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::child::Server;
use crate::load::{self, Files, Report};
use crate::measure::{self, LOAD_CORE, Spread, Window};
use crate::peers;
use crate::report;
use crate::rounds::{Figures, interleave};
use crate::setup::{Options, Scratch};
use crate::transport::Pace;
use crate::web;

/// What one server did in one cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub server: String,
    pub size: u64,
    pub connections: usize,
    /// Of which each request asks for any.
    pub files: u64,
    pub requests_per_second: Spread,
    pub gigabytes_per_second: f64,
    pub cpu_micros_per_request: Spread,
    pub user_micros_per_request: f64,
    /// Shares of time: the server's processor busy, in interrupts, and the load busy.
    pub core_busy: f64,
    pub core_interrupts: f64,
    pub load_busy: f64,
    pub p50_micros: f64,
    pub p99_micros: f64,
    pub p999_micros: f64,
    pub peak_bytes: u64,
    pub threads: usize,
    pub system_calls_per_request: Option<f64>,
    /// What wrk counted, in a run of its own: an independent check.
    pub wrk: Option<Wrk>,
}

/// What wrk counted, and what the server used meanwhile.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Wrk {
    pub requests_per_second: f64,
    pub cpu_micros_per_request: f64,
    /// Share of the server's processor: far from 1, it is wrk that limits.
    pub core_busy: f64,
}

/// What is measured.
#[derive(Clone, Copy)]
pub struct Cell {
    pub size: u64,
    pub connections: usize,
    /// Of which each request asks for any.
    pub files: u64,
    rounds: usize,
    /// The system calls and wrk too.
    deep: bool,
}

/// Files that all servers keep open, or have in their caches, whatever their limits.
pub const FEW: u64 = 200;

/// Files that only servers keep open whose caches are large: ours takes half of its descriptors.
const MANY: u64 = 10_000;

/// Sizes for which there are goals, in KiB.
const AIMED: [u64; 4] = [1, 16, 128, 1024];

/// Cells with one file, sizes in KiB.
fn one_file(quick: bool) -> Vec<Cell> {
    let plan: &[(u64, &[usize])] = match quick {
        true => &[(1, &[64])],
        false => &[
            (1, &[1, 64, 512]),
            (4, &[64]),
            (16, &[1, 64, 512]),
            (32, &[64]),
            (64, &[64]),
            (128, &[1, 64, 512]),
            (256, &[64]),
            (1024, &[1, 64, 512]),
        ],
    };
    let cell = |size, connections| Cell {
        size: size << 10,
        connections,
        files: 1,
        // Where most is aimed at, more rounds.
        rounds: match (quick, connections) {
            (true, _) => 2,
            (false, 64) if AIMED.contains(&size) => 5,
            _ => 3,
        },
        deep: !quick && connections == 64 && (size == 1 || size == 128),
    };
    let of = |(size, connections): &(u64, &'static [usize])| {
        let size = *size;
        connections.iter().map(move |&n| cell(size, n))
    };
    plan.iter().flat_map(of).collect()
}

/// Cells whose requests ask for any of several files.
fn several_files(quick: bool) -> Vec<Cell> {
    let plan: &[(u64, u64)] = match quick {
        true => &[(4, FEW)],
        false => &[(4, FEW), (16, FEW), (4, MANY)],
    };
    let cell = |&(size, files): &(u64, u64)| Cell {
        size: size << 10,
        connections: 64,
        files,
        rounds: match quick {
            true => 2,
            false if files == FEW => 5,
            false => 3,
        },
        deep: !quick,
    };
    plan.iter().map(cell).collect()
}

/// How many cells of the full mode the runtimes' small servers are in.
pub fn full() -> usize {
    let few = several_files(false)
        .iter()
        .filter(|c| c.files == FEW)
        .count();
    one_file(false).len() + few
}

/// What a cell is called.
pub fn title(size: u64, connections: usize, files: u64) -> String {
    let what = format!("{}, {connections} connections", report::size(size));
    match files {
        1 => what,
        _ => format!("{what}, any of {files} files"),
    }
}

/// Runs it.
pub fn run(options: &Options) -> Result<Figures<Row>, Box<dyn Error>> {
    let cells = one_file(options.quick);
    let scratch = Scratch::new("requests")?;
    for cell in &cells {
        scratch.file(&name(cell.size), cell.size)?;
    }
    let files = scratch.files();
    let (mut servers, missing) = web::start_all(&files, &scratch.state(), options, web::usual)?;
    servers.extend(runtimes(&files, options)?);
    let mut figures = Figures::missing(missing);
    for same_size in cells.chunk_by(|a, b| a.size == b.size) {
        let floors = floors(&files.join(name(same_size[0].size)), options)?;
        let all: Vec<&Server> = servers.iter().chain(&floors).collect();
        for cell in same_size {
            measure(&all, cell, options.quick, &mut figures);
        }
    }
    drop(servers);
    for cell in several_files(options.quick) {
        let scratch = Scratch::new("several")?;
        scratch.many(cell.files, cell.size)?;
        let (files, state) = (scratch.files(), scratch.state());
        let (mut servers, _) = web::start_all(&files, &state, options, web::usual)?;
        // The small servers keep all open, which they couldn't of any number.
        if cell.files == FEW {
            servers.extend(runtimes(&files, options)?);
            servers.extend(floors(&files.join("00000.bin"), options)?);
        }
        let servers: Vec<&Server> = servers.iter().collect();
        measure(&servers, &cell, options.quick, &mut figures);
    }
    Ok(figures)
}

/// The small servers on other runtimes.
fn runtimes(files: &Path, options: &Options) -> io::Result<Vec<Server>> {
    let wanted = peers::HTTPS.iter().filter(|(name, _)| options.wants(name));
    wanted
        .map(|(name, _)| Server::peer("http", name, files, 0))
        .collect()
}

/// What answers with a file's content from memory.
fn floors(file: &Path, options: &Options) -> io::Result<Vec<Server>> {
    let wanted = peers::FLOORS.iter().filter(|(name, _)| options.wants(name));
    wanted
        .map(|(name, _)| Server::peer("answer", name, file, 0))
        .collect()
}

fn name(size: u64) -> String {
    format!("{}k.bin", size >> 10)
}

/// All servers in one cell, interleaved.
fn measure(servers: &[&Server], cell: &Cell, quick: bool, figures: &mut Figures<Row>) {
    let Cell {
        size,
        connections,
        files,
        rounds,
        deep,
    } = *cell;
    let Pace { warm, time, .. } = Pace::of(quick, connections, rounds);
    let path = match files {
        1 => format!("/{}", name(size)),
        _ => "/*.bin".to_owned(),
    };
    let asked = Files {
        path: &path,
        count: files,
    };
    for server in servers {
        measure::reset_peak(server.id());
    }
    let what = title(size, connections, files);
    let samples = interleave(servers, rounds, &what, figures, |server| {
        load::run_after(server, asked, connections, warm, time)
    });
    let mut rows = Vec::new();
    for (server, samples) in servers.iter().zip(&samples) {
        if samples.is_empty() {
            continue;
        }
        let mut row = row(&server.name, cell, samples);
        if deep {
            row.system_calls_per_request = load::system_calls(server, asked, connections);
            if files == 1 {
                row.wrk = wrk(server, &path, connections);
            }
        }
        rows.push(row);
    }
    println!("\n{what}");
    println!(
        "{:26} {:>8} {:>6} {:>7} {:>15} {:>6} {:>5} {:>5} {:>5} {:>5} {:>7} {:>7} {:>7} {:>8} {:>4} {:>6} {:>8} {:>7}",
        "",
        "req/s",
        "GB/s",
        "CPU us",
        "(min - max)",
        "ring's",
        "user",
        "core",
        "irq",
        "load",
        "p50 us",
        "p99",
        "p99.9",
        "peak MiB",
        "thr",
        "calls",
        "wrk",
        "CPU us"
    );
    for row in &rows {
        print(row, share(&rows, row));
    }
    figures.rows.extend(rows);
}

/// Its processor time a request, of that of ours on the ring in the same cell.
pub fn share(cell: &[Row], row: &Row) -> Option<f64> {
    let ours = cell.iter().find(|r| r.server == web::RING)?;
    Some(row.cpu_micros_per_request.median / ours.cpu_micros_per_request.median)
}

fn row(server: &str, cell: &Cell, samples: &[Report]) -> Row {
    let spread = |figure: &dyn Fn(&Report) -> f64| Spread::of(samples.iter().map(figure));
    Row {
        server: server.to_owned(),
        size: cell.size,
        connections: cell.connections,
        files: cell.files,
        requests_per_second: spread(&Report::requests_per_second),
        gigabytes_per_second: spread(&Report::gigabytes_per_second).median,
        cpu_micros_per_request: spread(&Report::cpu_micros_per_request),
        user_micros_per_request: spread(&|r| r.used.user * 1e6 / r.requests as f64).median,
        core_busy: spread(&|r| r.used.core).median,
        core_interrupts: spread(&|r| r.used.interrupts).median,
        load_busy: spread(&|r| r.busy).median,
        p50_micros: spread(&|r| r.p50_micros).median,
        p99_micros: spread(&|r| r.p99_micros).median,
        p999_micros: spread(&|r| r.p999_micros).median,
        peak_bytes: samples.iter().map(|r| r.used.peak).max().unwrap_or(0),
        threads: samples.iter().map(|r| r.used.threads).max().unwrap_or(0),
        system_calls_per_request: None,
        wrk: None,
    }
}

fn print(row: &Row, share: Option<f64>) {
    let Spread { median, min, max } = row.cpu_micros_per_request;
    let or_dash = |n: Option<f64>, digits| n.map_or("-".into(), |n| format!("{n:.digits$}"));
    println!(
        "{:26} {:8.0} {:6.2} {median:7.2} {:>15} {:>6} {:5.2} {:5.2} {:5.2} {:5.2} {:7.1} {:7.1} {:7.1} {:8.1} {:4} {:>6} {:>8} {:>7}",
        row.server,
        row.requests_per_second.median,
        row.gigabytes_per_second,
        format!("({min:.2} - {max:.2})"),
        or_dash(share, 2),
        row.user_micros_per_request,
        row.core_busy,
        row.core_interrupts,
        row.load_busy,
        row.p50_micros,
        row.p99_micros,
        row.p999_micros,
        row.peak_bytes as f64 / f64::from(1 << 20),
        row.threads,
        or_dash(row.system_calls_per_request, 2),
        or_dash(row.wrk.map(|w| w.requests_per_second), 0),
        or_dash(row.wrk.map(|w| w.cpu_micros_per_request), 2),
    );
}

/// As wrk counts; nothing where it is not installed. The server's processor time is that of all that
/// wrk sends, connecting included.
fn wrk(server: &Server, path: &str, connections: usize) -> Option<Wrk> {
    let wrk = web::find("wrk")?;
    let window = Window::open(server.id());
    let output = Command::new("taskset")
        .args(["-c", &LOAD_CORE.to_string()])
        .arg(wrk)
        .args(["-t1", &format!("-c{connections}"), "-d1s"])
        .arg(format!("http://{}{path}", server.address))
        .output()
        .ok()?;
    let used = window.close();
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().find_map(|l| l.strip_prefix("Requests/sec:"))?;
    let count = text.lines().find_map(|l| l.split_once(" requests in "))?.0;
    let count: f64 = count.trim().parse().ok()?;
    Some(Wrk {
        requests_per_second: rate.trim().parse().ok()?,
        cpu_micros_per_request: used.cpu * 1e6 / count,
        core_busy: used.core,
    })
}
