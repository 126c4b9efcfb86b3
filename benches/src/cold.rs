//! Hot requests beside cold ones: beside 64 reads of a file system that does not answer, which is
//! the oldest objection to sendfile ("it can block"), and beside 64 clients whose files are always
//! on the disk. Needs root, for the FUSE mount.
//!
//! Server and disk share one processor, load and cold clients the other. So a hot request's time is
//! over when the kernel has its response for the load, whoever has the load's processor then; and
//! what the server's processor costs whoever shares it is measured too: the *floor* is the same
//! server's p99 while the cold clients are served by another process of its kind.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::net::TcpStream;
use std::path::PathBuf;
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
    /// The same where the cold clients are another process's, which has the same processor.
    #[serde(default)]
    pub elsewhere_p99_micros: Option<f64>,
    /// What the cold clients were sent meanwhile, by this server and by the other.
    #[serde(default)]
    pub cold_megabytes_per_second: Option<f64>,
    #[serde(default)]
    pub elsewhere_megabytes_per_second: Option<f64>,
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
        "\n{:22} {:18} {:>8} {:>13} {:>13} {:>7} {:>11} {:>12} {:>6} {:>8} {:>9} {:>8}",
        "",
        "beside",
        "hot",
        "alone p99 us",
        "beside p99",
        "ratio",
        "alone req/s",
        "beside req/s",
        "waits",
        "cold MB/s",
        "floor p99",
        "MB/s"
    );
    let mut next = 0;
    for &size in sizes {
        for server in &servers {
            let mut rows = vec![Beside::Stuck(stuck, &mut next)];
            if size == 16 {
                let state = scratch.state();
                match web::start_twin(server, &files, &state) {
                    Ok(twin) => rows.push(Beside::Dropped(files.clone(), state, twin)),
                    Err(e) => figures.fail(format!("{}, a second one: {e}", server.name)),
                }
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
    /// Reads from the disk: of the files in the first directory; the second is for what is kept;
    /// and another process that can do the same.
    Dropped(PathBuf, PathBuf, Server),
}

fn one(
    server: &Server,
    mut beside: Beside<'_>,
    size: u64,
    rounds: usize,
    time: Duration,
) -> io::Result<Row> {
    let path = format!("/{}k.bin", size >> 10);
    let hot = || load::run_to_arrival(server, &path, HOT, time);
    hot()?;
    let (mut alone, mut with, mut elsewhere) = (Vec::new(), Vec::new(), Vec::new());
    let (mut cold, mut cold_elsewhere) = (Vec::new(), Vec::new());
    let mut waiting = None;
    for _ in 0..rounds {
        // A server that is blocked is so each time.
        if with.iter().filter(|r: &&Report| r.requests == 0).count() == 2 {
            break;
        }
        alone.push(hot()?);
        // A server that is blocked answers no one: that is a figure, not a failure.
        let hot = || load::or_nothing(hot(), time);
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
            Beside::Dropped(files, state, twin) => {
                let clients = Cold::start(server, files, state, COLD)?;
                with.push(hot());
                cold.push(clients.megabytes_per_second());
                drop(clients);
                std::thread::sleep(Duration::from_millis(150));
                let clients = Cold::start(twin, files, state, COLD)?;
                elsewhere.push(hot());
                cold_elsewhere.push(clients.megabytes_per_second());
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
    let middle = |all: Vec<f64>| (!all.is_empty()).then(|| Spread::of(all).median);
    Ok(Row {
        server: server.name.clone(),
        size,
        beside: match beside {
            Beside::Stuck(..) => STUCK,
            Beside::Dropped(..) => DROPPED,
        }
        .to_owned(),
        alone_p99_micros,
        beside_p99_micros,
        ratio: beside_p99_micros.map(|p99| p99 / alone_p99_micros),
        elsewhere_p99_micros: (!elsewhere.is_empty())
            .then(|| median(&elsewhere, &p99))
            .filter(|p99| p99.is_finite()),
        cold_megabytes_per_second: middle(cold),
        elsewhere_megabytes_per_second: middle(cold_elsewhere),
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
        "{:22} {:18} {:>8} {:13.0} {:>13} {:>7} {:11.0} {:12.0} {:>6} {:>8} {:>9} {:>8}",
        row.server,
        row.beside,
        crate::report::size(row.size),
        row.alone_p99_micros,
        or_none(row.beside_p99_micros, 0),
        or_none(row.ratio, 2),
        row.alone_requests_per_second,
        row.beside_requests_per_second,
        row.reads_waiting.map_or("-".into(), |n| n.to_string()),
        or_none(row.cold_megabytes_per_second, 0),
        or_none(row.elsewhere_p99_micros, 0),
        or_none(row.elsewhere_megabytes_per_second, 0),
    );
}
