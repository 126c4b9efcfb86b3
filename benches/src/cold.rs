//! Hot requests beside cold ones: beside 64 reads of a file system that does not answer, which is
//! the oldest objection to sendfile ("it can block"), and beside 64 clients whose files are always
//! on the disk. Needs root, for the FUSE mount.
//!
//! Server and disk share one processor, load and cold clients the other. So a hot request's time is
//! over when the kernel has its response for the load, whoever has the load's processor then. As a
//! comparison, it is measured too how the same server does while the cold clients are served by
//! another process of its kind on the same processor: then it is the kernel's scheduler that
//! divides the processor between the two.

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
use crate::rounds::{Figures, interleave};
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
    /// None if no request was answered in more than half of the rounds.
    pub beside_p99_micros: Option<f64>,
    /// Of p99, in each round whose requests were answered; none as above.
    pub ratio: Option<Spread>,
    /// Rounds in which no request was answered.
    pub unanswered: usize,
    /// The same where the cold clients are another process's, which has the same processor.
    pub elsewhere_p99_micros: Option<f64>,
    /// What the cold clients were sent meanwhile, by this server and by the other.
    pub cold_megabytes_per_second: Option<f64>,
    pub elsewhere_megabytes_per_second: Option<f64>,
    pub alone_requests_per_second: f64,
    pub beside_requests_per_second: f64,
    /// Reads that waited in the file system, where that is known.
    pub reads_waiting: Option<usize>,
}

pub const STUCK: &str = "stuck file system";
pub const DROPPED: &str = "dropped page cache";

/// Sizes of hot files in KiB. Beside files that are not cached it is one.
pub const SIZES: [u64; 3] = [1, 16, 128];
pub const MIDDLE: u64 = 16;

/// Before this isn't counted, queues grow.
const WARM: Duration = Duration::from_millis(100);

/// Runs it.
pub fn run(options: &Options) -> Result<Figures<Row>, Box<dyn Error>> {
    let scratch = Scratch::new("cold")?;
    for size in SIZES {
        scratch.file(&format!("{size}k.bin"), size << 10)?;
    }
    for n in 0..COLD {
        scratch.file(&format!("cold-{n}"), 1 << 20)?;
    }
    let files = scratch.files();
    fs::create_dir_all(files.join("stuck"))?;
    let stuck = Stuck::mount(&files.join("stuck"))?;
    let result = measure(&stuck, &scratch, options);
    stuck.release();
    result
}

fn measure(
    stuck: &Stuck,
    scratch: &Scratch,
    options: &Options,
) -> Result<Figures<Row>, Box<dyn Error>> {
    let (rounds, time, sizes): (_, _, &[u64]) = match options.quick {
        true => (2, Duration::from_millis(200), &[MIDDLE]),
        false => (3, Duration::from_millis(500), &SIZES),
    };
    let (files, state) = (scratch.files(), scratch.state());
    let wanted = |name: &str| match options.quick {
        true => ![web::NGINX_CACHE, web::STATIC, web::MINISERVE].contains(&name),
        false => name != web::NGINX_CACHE,
    };
    let (servers, missing) = web::start_all(&files, &state, options, wanted)?;
    let mut figures = Figures::missing(missing);
    let mut twins = Vec::new();
    for server in servers.iter().filter(|_| !options.quick) {
        match web::start_twin(server, &files, &state) {
            Ok(twin) => twins.push(twin),
            Err(e) => figures.fail(format!("{}, a second one: {e}", server.name)),
        }
    }
    let servers: Vec<&Server> = servers.iter().collect();
    let mut next = 0;
    for &size in sizes {
        let hot = |server: &Server| {
            let path = format!("/{size}k.bin");
            load::run_to_arrival(server, &path, HOT, WARM, time)
        };
        let what = format!("{size} KiB beside a {STUCK}");
        let samples = interleave(&servers, rounds, &what, &mut figures, |server| {
            beside_stuck(server, stuck, &mut next, || hot(server), time)
        });
        rows(&servers, size, STUCK, &samples, &mut figures);
        if size != MIDDLE {
            continue;
        }
        let what = format!("{size} KiB beside a {DROPPED}");
        let samples = interleave(&servers, rounds, &what, &mut figures, |server| {
            let twin = twins.iter().find(|twin| twin.name == server.name);
            beside_dropped(server, twin, &files, &state, || hot(server), time)
        });
        rows(&servers, size, DROPPED, &samples, &mut figures);
    }
    Ok(figures)
}

/// One server in one round: alone, then beside the cold ones.
struct Sample {
    alone: Report,
    beside: Report,
    waiting: Option<usize>,
    /// Megabytes a second of the cold clients.
    cold: Option<f64>,
    /// The same with the other process.
    elsewhere: Option<(Report, f64)>,
}

/// So that what is over is over.
const PAUSE: Duration = Duration::from_millis(150);

/// Beside reads that don't return, each of a file that was never asked for: the number of the last.
fn beside_stuck(
    server: &Server,
    stuck: &Stuck,
    next: &mut usize,
    hot: impl Fn() -> io::Result<Report>,
    time: Duration,
) -> io::Result<Sample> {
    let alone = hot()?;
    stuck.hold();
    let clients = ask_stuck(server, next)?;
    // A server that blocks has one read under way, one that doesn't as many as it has workers.
    let end = Instant::now() + Duration::from_secs(2);
    while stuck.waiting() == 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    let waiting = Some(stuck.waiting());
    // A server that is blocked answers no one: that is a figure, not a failure.
    let beside = load::or_nothing(hot(), time);
    stuck.release();
    drop(clients);
    std::thread::sleep(PAUSE);
    Ok(Sample {
        alone,
        beside,
        waiting,
        cold: None,
        elsewhere: None,
    })
}

/// Beside reads from the disk, of the files of `files`, by the server itself and then by another
/// process that can do the same.
fn beside_dropped(
    server: &Server,
    twin: Option<&Server>,
    files: &Path,
    state: &Path,
    hot: impl Fn() -> io::Result<Report>,
    time: Duration,
) -> io::Result<Sample> {
    let alone = hot()?;
    let beside = |cold: &Server| {
        let clients = Cold::start(cold, files, state, COLD)?;
        let report = load::or_nothing(hot(), time);
        let rate = clients.megabytes_per_second();
        drop(clients);
        std::thread::sleep(PAUSE);
        Ok::<_, io::Error>((report, rate))
    };
    let (report, cold) = beside(server)?;
    Ok(Sample {
        alone,
        beside: report,
        waiting: None,
        cold: Some(cold),
        elsewhere: twin.map(beside).transpose()?,
    })
}

fn rows(
    servers: &[&Server],
    size: u64,
    beside: &str,
    samples: &[Vec<Sample>],
    figures: &mut Figures<Row>,
) {
    println!("\nhot files of {size} KiB beside a {beside}");
    println!(
        "{:22} {:>13} {:>13} {:>7} {:>15} {:>11} {:>12} {:>6} {:>8} {:>11} {:>8}",
        "",
        "alone p99 us",
        "beside p99",
        "ratio",
        "(min - max)",
        "alone req/s",
        "beside req/s",
        "waits",
        "cold MB/s",
        "another p99",
        "MB/s"
    );
    for (server, samples) in servers.iter().zip(samples) {
        if !samples.is_empty() {
            let row = row(&server.name, size << 10, beside, samples);
            print(&row);
            figures.rows.push(row);
        }
    }
}

fn row(server: &str, size: u64, beside: &str, samples: &[Sample]) -> Row {
    let spread = |figure: &dyn Fn(&Sample) -> f64| Spread::of(samples.iter().map(figure));
    let p99 = |r: &Report| match r.requests {
        0 => f64::INFINITY,
        _ => r.p99_micros,
    };
    let middle = |figure: &dyn Fn(&Sample) -> Option<f64>| {
        let all: Vec<f64> = samples.iter().filter_map(figure).collect();
        let median = (!all.is_empty()).then(|| Spread::of(all).median);
        median.filter(|median| median.is_finite())
    };
    let answered: Vec<f64> = samples
        .iter()
        .filter(|s| s.beside.requests > 0)
        .map(|s| s.beside.p99_micros / s.alone.p99_micros)
        .collect();
    let unanswered = samples.len() - answered.len();
    Row {
        server: server.to_owned(),
        size,
        beside: beside.to_owned(),
        alone_p99_micros: spread(&|s| s.alone.p99_micros).median,
        beside_p99_micros: middle(&|s| Some(p99(&s.beside))),
        ratio: (answered.len() > unanswered).then(|| Spread::of(answered)),
        unanswered,
        elsewhere_p99_micros: middle(&|s| s.elsewhere.map(|(report, _)| p99(&report))),
        cold_megabytes_per_second: middle(&|s| s.cold),
        elsewhere_megabytes_per_second: middle(&|s| s.elsewhere.map(|(_, rate)| rate)),
        alone_requests_per_second: spread(&|s| s.alone.requests_per_second()).median,
        beside_requests_per_second: spread(&|s| s.beside.requests_per_second()).median,
        reads_waiting: samples.iter().filter_map(|s| s.waiting).max(),
    }
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
    let ratios = row.ratio.map(|r| format!("({:.2} - {:.2})", r.min, r.max));
    println!(
        "{:22} {:13.0} {:>13} {:>7} {:>15} {:11.0} {:12.0} {:>6} {:>8} {:>11} {:>8}",
        row.server,
        row.alone_p99_micros,
        or_none(row.beside_p99_micros, 0),
        or_none(row.ratio.map(|r| r.median), 2),
        ratios.unwrap_or_default(),
        row.alone_requests_per_second,
        row.beside_requests_per_second,
        row.reads_waiting.map_or("-".into(), |n| n.to_string()),
        or_none(row.cold_megabytes_per_second, 0),
        or_none(row.elsewhere_p99_micros, 0),
        or_none(row.elsewhere_megabytes_per_second, 0),
    );
}
