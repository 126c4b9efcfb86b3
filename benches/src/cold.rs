//! Hot requests beside cold ones: beside 64 reads of a file system that does not answer, which is
//! the oldest objection to sendfile ("it can block"), and beside 64 clients whose files are always
//! on the disk. Needs root, for the FUSE mount.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::child::Server;
use crate::chill::Cold;
use crate::load::{self, Report};
use crate::measure::Spread;
use crate::rounds::Figures;
use crate::setup::{Options, Scratch};
use crate::stuck::Stuck;
use crate::web;

/// Cold reads under way.
const COLD: usize = 64;
/// Hot connections.
const HOT: usize = 16;

/// What one server did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub server: String,
    pub size: u64,
    /// Beside what: [`STUCK`] or [`DROPPED`].
    pub beside: String,
    pub alone_p99_micros: f64,
    /// None if no request was answered.
    pub beside_p99_micros: Option<f64>,
    pub ratio: Option<f64>,
    pub alone_requests_per_second: f64,
    pub beside_requests_per_second: f64,
    /// Reads that waited in the file system, where that is known.
    pub reads_waiting: Option<usize>,
}

pub const STUCK: &str = "stuck file system";
pub const DROPPED: &str = "dropped page cache";

/// Runs it.
pub fn run(options: &Options) -> Result<Figures<Row>, Box<dyn Error>> {
    let (rounds, time, sizes): (_, _, &[u64]) = match options.quick {
        true => (3, Duration::from_millis(300), &[16]),
        false => (5, Duration::from_millis(500), &[1, 16, 128]),
    };
    let scratch = Scratch::new("cold")?;
    for size in sizes {
        scratch.file(&format!("{size}k.bin"), size << 10)?;
    }
    for n in 0..COLD {
        scratch.file(&format!("cold-{n}"), 1 << 20)?;
    }
    let files = scratch.files();
    fs::create_dir_all(files.join("stuck"))?;
    let stuck = Stuck::mount(&files.join("stuck"))?;
    let result = measure(&stuck, &scratch, options, sizes, rounds, time);
    stuck.release();
    result
}

fn measure(
    stuck: &Stuck,
    scratch: &Scratch,
    options: &Options,
    sizes: &[u64],
    rounds: usize,
    time: Duration,
) -> Result<Figures<Row>, Box<dyn Error>> {
    let files = scratch.files();
    let wanted = |name: &str| name != web::NGINX_CACHE;
    let (servers, missing) = web::start_all(&files, &scratch.state(), options, wanted)?;
    let mut figures = Figures::missing(missing);
    println!(
        "\n{:22} {:18} {:>8} {:>13} {:>13} {:>7} {:>11} {:>12} {:>6}",
        "",
        "beside",
        "hot",
        "alone p99 us",
        "beside p99",
        "ratio",
        "alone req/s",
        "beside req/s",
        "waits"
    );
    let mut next = 0;
    for &size in sizes {
        for server in &servers {
            let mut rows = vec![Beside::Stuck(stuck, &mut next)];
            if size == 16 {
                rows.push(Beside::Dropped(&files));
            }
            for beside in rows {
                match one(server, beside, size << 10, rounds, time) {
                    Ok(row) => {
                        print(&row);
                        figures.rows.push(row);
                    }
                    Err(e) => figures.fail(format!("{}, {size} KiB: {e}", server.name)),
                }
            }
        }
    }
    Ok(figures)
}

/// What goes on beside the hot requests.
enum Beside<'a> {
    /// Reads that don't return, each of a file that was never asked for: the number of the last.
    Stuck(&'a Stuck, &'a mut usize),
    /// Reads from the disk.
    Dropped(&'a Path),
}

fn one(
    server: &Server,
    mut beside: Beside<'_>,
    size: u64,
    rounds: usize,
    time: Duration,
) -> io::Result<Row> {
    let path = format!("/{}k.bin", size >> 10);
    load::run(server, &path, HOT, time)?;
    let (mut alone, mut with) = (Vec::new(), Vec::new());
    let mut waiting = None;
    for _ in 0..rounds {
        // A server that is blocked is so each time.
        if with.iter().filter(|r: &&Report| r.requests == 0).count() == 2 {
            break;
        }
        alone.push(load::run(server, &path, HOT, time)?);
        // A server that is blocked answers no one: that is a figure, not a failure.
        let hot = || load::run_or_nothing(server, &path, HOT, time);
        match &mut beside {
            Beside::Stuck(stuck, next) => {
                stuck.hold();
                let clients = ask_stuck(server, next)?;
                // A server that blocks has one read under way, one that doesn't as many as it has
                // workers.
                let end = Instant::now() + Duration::from_secs(2);
                while stuck.waiting() == 0 && Instant::now() < end {
                    std::thread::sleep(Duration::from_millis(5));
                }
                std::thread::sleep(Duration::from_millis(100));
                waiting = waiting.max(Some(stuck.waiting()));
                with.push(hot());
                stuck.release();
                drop(clients);
            }
            Beside::Dropped(files) => {
                let _clients = Cold::start(server, files, COLD)?;
                with.push(hot());
            }
        }
        std::thread::sleep(Duration::from_millis(150));
    }
    let median =
        |all: &[Report], figure: &dyn Fn(&Report) -> f64| Spread::of(all.iter().map(figure)).median;
    let p99 = |r: &Report| {
        if r.requests == 0 {
            f64::INFINITY
        } else {
            r.p99_micros
        }
    };
    let alone_p99_micros = median(&alone, &p99);
    let beside_p99_micros = Some(median(&with, &p99)).filter(|p99| p99.is_finite());
    Ok(Row {
        server: server.name.clone(),
        size,
        beside: match beside {
            Beside::Stuck(..) => STUCK,
            Beside::Dropped(_) => DROPPED,
        }
        .to_owned(),
        alone_p99_micros,
        beside_p99_micros,
        ratio: beside_p99_micros.map(|p99| p99 / alone_p99_micros),
        alone_requests_per_second: median(&alone, &Report::requests_per_second),
        beside_requests_per_second: median(&with, &Report::requests_per_second),
        reads_waiting: waiting,
    })
}

fn ask_stuck(server: &Server, next: &mut usize) -> io::Result<Vec<TcpStream>> {
    let ask = |_| {
        *next += 1;
        let mut client = TcpStream::connect(server.address)?;
        write!(client, "GET /stuck/{next} HTTP/1.1\r\nHost: cold\r\n\r\n")?;
        Ok(client)
    };
    (0..COLD).map(ask).collect()
}

fn print(row: &Row) {
    let or_none = |n: Option<f64>, digits| n.map_or("none".into(), |n| format!("{n:.digits$}"));
    println!(
        "{:22} {:18} {:>8} {:13.0} {:>13} {:>7} {:11.0} {:12.0} {:>6}",
        row.server,
        row.beside,
        crate::report::size(row.size),
        row.alone_p99_micros,
        or_none(row.beside_p99_micros, 0),
        or_none(row.ratio, 2),
        row.alone_requests_per_second,
        row.beside_requests_per_second,
        row.reads_waiting.map_or("-".into(), |n| n.to_string()),
    );
}
