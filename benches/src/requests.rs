//! Request and response over keep-alive connections: `spliceport serve` with one thread on each
//! backend beside other servers, small servers on other runtimes, and the floor, by size of file and
//! number of connections. All take turns in each round.

use std::error::Error;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::child::Server;
use crate::load::{self, Files, Report};
use crate::measure::{self, LOAD_CORE, Spread};
use crate::peers;
use crate::report;
use crate::rounds::{Figures, interleave};
use crate::setup::{Options, Scratch};
use crate::web;

/// What one server did in one cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub server: String,
    pub size: u64,
    pub connections: usize,
    /// Of which each request asks for any.
    #[serde(default = "one_file")]
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
    pub wrk_requests_per_second: Option<f64>,
}

struct Cell {
    size: u64,
    connections: usize,
    files: u64,
    /// The system calls and wrk too.
    deep: bool,
}

fn cells(quick: bool) -> Vec<Cell> {
    let plan: &[(u64, &[usize])] = match quick {
        true => &[(1, &[64]), (16, &[64]), (128, &[64]), (1024, &[64])],
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
        deep: connections == 64 && (size == 1 || size == 128 && !quick),
    };
    let of = |(size, connections): &(u64, &'static [usize])| {
        let size = *size;
        connections.iter().map(move |&n| cell(size, n))
    };
    plan.iter().flat_map(of).collect()
}

/// What the figures of earlier runs are of.
fn one_file() -> u64 {
    1
}

/// What a cell is called.
pub fn title(size: u64, connections: usize, files: u64) -> String {
    let what = format!("{}, {connections} connections", report::size(size));
    match files {
        1 => what,
        _ => format!("{what}, any of {files} files"),
    }
}

/// Before this isn't counted, caches fill and queues grow.
const WARM: Duration = Duration::from_millis(100);

/// Runs it.
pub fn run(options: &Options) -> Result<Figures<Row>, Box<dyn Error>> {
    let (rounds, time) = match options.quick {
        true => (3, Duration::from_millis(200)),
        false => (5, Duration::from_millis(320)),
    };
    let cells = cells(options.quick);
    let scratch = Scratch::new("requests")?;
    for cell in &cells {
        scratch.file(&name(cell.size), cell.size)?;
    }
    let files = scratch.files();
    let (mut servers, missing) = web::start_all(&files, &scratch.state(), options, web::usual)?;
    for (name, _) in peers::HTTPS.iter().filter(|(name, _)| options.wants(name)) {
        servers.push(Server::peer("http", name, &files, 0)?);
    }
    let mut figures = Figures::missing(missing);
    for same_size in cells.chunk_by(|a, b| a.size == b.size) {
        let file = files.join(name(same_size[0].size));
        let wanted = peers::FLOORS.iter().filter(|(name, _)| options.wants(name));
        let floors: Result<Vec<Server>, _> = wanted
            .map(|(name, _)| Server::peer("answer", name, &file, 0))
            .collect();
        let floors = floors?;
        let all: Vec<&Server> = servers.iter().chain(&floors).collect();
        for cell in same_size {
            measure(&all, cell, rounds, time, &mut figures);
        }
    }
    drop(servers);
    let sizes: &[u64] = if options.quick { &[4] } else { &[4, 64] };
    for size in sizes {
        let cell = Cell {
            size: size << 10,
            connections: 64,
            files: MANY,
            deep: true,
        };
        many(options, &cell, rounds, time, &mut figures)?;
    }
    Ok(figures)
}

/// More files than servers keep open: ours 256 by default, nginx 1000 with the `open_file_cache` that
/// it gets here.
const MANY: u64 = 10_000;

/// The web servers with many files. The runtimes' small servers keep all of them open.
fn many(
    options: &Options,
    cell: &Cell,
    rounds: usize,
    time: Duration,
    figures: &mut Figures<Row>,
) -> Result<(), Box<dyn Error>> {
    let scratch = Scratch::new("many")?;
    scratch.many(cell.files, cell.size)?;
    let (files, state) = (scratch.files(), scratch.state());
    let (servers, _) = web::start_all(&files, &state, options, web::usual)?;
    let servers: Vec<&Server> = servers.iter().collect();
    measure(&servers, cell, rounds, time, figures);
    Ok(())
}

fn name(size: u64) -> String {
    format!("{}k.bin", size >> 10)
}

/// All servers in one cell, interleaved.
fn measure(
    servers: &[&Server],
    cell: &Cell,
    rounds: usize,
    time: Duration,
    figures: &mut Figures<Row>,
) {
    let Cell {
        size,
        connections,
        files,
        deep,
    } = *cell;
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
        load::run_after(server, asked, connections, WARM, time)
    });
    println!("\n{what}");
    println!(
        "{:26} {:>8} {:>6} {:>7} {:>15} {:>5} {:>5} {:>5} {:>5} {:>7} {:>7} {:>7} {:>8} {:>4} {:>6} {:>8}",
        "",
        "req/s",
        "GB/s",
        "CPU us",
        "(min - max)",
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
        "wrk"
    );
    for (server, samples) in servers.iter().zip(&samples) {
        if samples.is_empty() {
            continue;
        }
        let mut row = row(&server.name, cell, samples);
        if deep {
            row.system_calls_per_request = load::system_calls(server, asked, connections);
            if files == 1 {
                row.wrk_requests_per_second = wrk(server, &path, connections);
            }
        }
        print(&row);
        figures.rows.push(row);
    }
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
        wrk_requests_per_second: None,
    }
}

fn print(row: &Row) {
    let Spread { median, min, max } = row.cpu_micros_per_request;
    let or_dash = |n: Option<f64>, digits| n.map_or("-".into(), |n| format!("{n:.digits$}"));
    println!(
        "{:26} {:8.0} {:6.2} {median:7.2} {:>15} {:5.2} {:5.2} {:5.2} {:5.2} {:7.1} {:7.1} {:7.1} {:8.1} {:4} {:>6} {:>8}",
        row.server,
        row.requests_per_second.median,
        row.gigabytes_per_second,
        format!("({min:.2} - {max:.2})"),
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
        or_dash(row.wrk_requests_per_second, 0),
    );
}

/// Requests per second as wrk counts them; nothing where it is not installed.
fn wrk(server: &Server, path: &str, connections: usize) -> Option<f64> {
    let wrk = web::find("wrk")?;
    let output = Command::new("taskset")
        .args(["-c", &LOAD_CORE.to_string()])
        .arg(wrk)
        .args(["-t1", &format!("-c{connections}"), "-d1s"])
        .arg(format!("http://{}{path}", server.address))
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|l| l.strip_prefix("Requests/sec:"))?;
    line.trim().parse().ok()
}
