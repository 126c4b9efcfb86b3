//! One live client beside many that asked for 64 MiB and read nothing: its throughput against what
//! it had alone, the server's threads and memory, and what the sockets hold.

use std::error::Error;
use std::fs;
use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::child::Server;
use crate::load;
use crate::measure::{self, Spread};
use crate::rounds::{Figures, interleave};
use crate::setup::{self, Options, Scratch};
use crate::stall::Stalled;
use crate::web;

const PATH: &str = "/64m.bin";

/// Before this isn't counted, the live client's queue grows.
const WARM: Duration = Duration::from_millis(150);

/// What a client takes in that is to count as being on another machine: as little as goes.
const REMOTE_QUEUE: usize = 4096;

/// What one server did beside so many stalled clients.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub server: String,
    pub stalled: usize,
    /// Their own queues are small: as if they were on other machines, whose memory those would be.
    pub remote: bool,
    pub alone_gigabytes_per_second: Spread,
    pub beside_gigabytes_per_second: Spread,
    /// Of the throughput alone, in each round.
    pub kept: Spread,
    pub threads_alone: usize,
    pub threads_beside: usize,
    pub user_bytes_per_stalled: f64,
    /// Of the server's sockets, as `ss` tells it.
    pub server_socket_bytes_per_stalled: Option<f64>,
    /// Of both ends, which are on this machine: the kernel's own count.
    pub socket_bytes_per_stalled: f64,
}

/// Servers that want two descriptors for each client: they open the file for each, or (lighttpd) take
/// no more connections than half of them.
const TWO_EACH: [&str; 4] = [web::NGINX, web::LIGHTTPD, web::STATIC, web::MINISERVE];

/// Descriptors that a server needs for other things.
const SPARE: u64 = 200;

/// How many stalled clients, and whether with small queues.
type Count = (usize, bool);

/// What is measured, and in how many rounds of how long.
fn plan(quick: bool) -> (&'static [Count], usize, Duration) {
    match quick {
        true => (&[(2000, false)], 2, Duration::from_millis(200)),
        false => (
            &[
                (1000, false),
                (2000, false),
                (10_000, false),
                (10_000, true),
            ],
            3,
            Duration::from_millis(400),
        ),
    }
}

/// Runs it.
pub fn run(options: &Options) -> Result<Figures<Row>, Box<dyn Error>> {
    let (counts, rounds, time) = plan(options.quick);
    let scratch = Scratch::new("stalled")?;
    scratch.file("64m.bin", 64 << 20)?;
    let mut figures = Figures::default();
    for &(stalled, remote) in counts {
        let whose = if remote { ", with small queues" } else { "" };
        let what = format!("{stalled} stalled clients{whose}");
        let short = setup::descriptors() < 2 * stalled as u64 + SPARE;
        let wanted = |name: &str| match (options.quick, remote) {
            (true, _) => [web::RING, web::EMULATED, web::NGINX, web::LIGHTTPD].contains(&name),
            (_, true) => [web::RING, web::EMULATED, web::NGINX_CACHE].contains(&name),
            _ => web::usual(name),
        };
        for name in TWO_EACH
            .into_iter()
            .filter(|name| short && wanted(name) && options.wants(name))
        {
            let had = setup::descriptors();
            let why = "it wants two descriptors for each, which is more than there are";
            figures.fail(format!("{name}, {what}: {why} ({had})"));
        }
        let wanted = |name: &str| wanted(name) && !(short && TWO_EACH.contains(&name));
        // Fresh ones, since what a server once had it may keep.
        let (servers, missing) =
            web::start_all(&scratch.files(), &scratch.state(), options, wanted)?;
        if figures.missing.is_empty() {
            figures.missing = missing;
        }
        let servers: Vec<&Server> = servers.iter().collect();
        let samples = interleave(&servers, rounds, &what, &mut figures, |server| {
            sample(server, stalled, remote, time)
        });
        println!("\n{what}");
        println!(
            "{:26} {:>10} {:>11} {:>6} {:>13} {:>9} {:>8} {:>12} {:>10}",
            "",
            "alone GB/s",
            "beside GB/s",
            "kept",
            "(min - max)",
            "threads",
            "user B",
            "server KiB",
            "both KiB"
        );
        for (server, samples) in servers.iter().zip(&samples) {
            // What a server holds for its clients is told by its first: later ones find what those
            // have left.
            let Some(first) = samples.first() else {
                continue;
            };
            let spread = |figure: fn(&Sample) -> f64| Spread::of(samples.iter().map(figure));
            let threads = samples.iter().map(|s| s.threads.1);
            let per = |bytes: f64| bytes / stalled as f64;
            let row = Row {
                server: server.name.clone(),
                stalled,
                remote,
                alone_gigabytes_per_second: spread(|s| s.alone),
                beside_gigabytes_per_second: spread(|s| s.beside),
                kept: spread(|s| s.beside / s.alone),
                threads_alone: first.threads.0,
                threads_beside: threads.max().unwrap_or(0),
                user_bytes_per_stalled: per(first.user),
                server_socket_bytes_per_stalled: first.own_sockets.map(per),
                socket_bytes_per_stalled: per(first.sockets),
            };
            print(&row);
            figures.rows.push(row);
        }
    }
    Ok(figures)
}

/// One server in one round: alone, and beside stalled clients, which are gone afterwards.
struct Sample {
    /// GB/s.
    alone: f64,
    beside: f64,
    /// Alone and beside.
    threads: (usize, usize),
    /// What all stalled ones have added, in bytes.
    user: f64,
    own_sockets: Option<f64>,
    sockets: f64,
}

fn sample(server: &Server, stalled: usize, remote: bool, time: Duration) -> io::Result<Sample> {
    let live = || load::run_after(server, PATH.into(), 1, WARM, time);
    let alone = live()?.gigabytes_per_second();
    let threads = || measure::threads(server.id()).len();
    let (threads_alone, user, sockets, own) = (
        threads(),
        user_memory(server),
        socket_memory(),
        server_sockets(server),
    );
    let queue = if remote { REMOTE_QUEUE } else { 0 };
    let clients = Stalled::start(server, PATH, stalled, queue)?;
    // Time for what is to be sent to them to be sent.
    std::thread::sleep(Duration::from_secs(1));
    let added = |before: f64, after: f64| (after - before).max(0.0);
    let sample = Sample {
        alone,
        user: added(user, user_memory(server)),
        own_sockets: Option::zip(own, server_sockets(server)).map(|(b, a)| added(b, a)),
        sockets: added(sockets, socket_memory()),
        beside: load::or_nothing(live(), time).gigabytes_per_second(),
        threads: (threads_alone, threads()),
    };
    drop(clients);
    // Time for the server to see that they are gone, and for the kernel to free what they held.
    let end = Instant::now() + Duration::from_secs(4);
    std::thread::sleep(Duration::from_millis(200));
    while socket_memory() > sockets + f64::from(64 << 20) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(100));
    Ok(sample)
}

/// Memory of the server's processes that is no file's.
fn user_memory(server: &Server) -> f64 {
    let processes = measure::processes(server.id());
    let of = |id: &u32| measure::status(*id, "RssAnon:");
    processes.iter().map(of).sum::<u64>() as f64
}

fn print(row: &Row) {
    println!(
        "{:26} {:10.2} {:11.2} {:6.2} {:>13} {:>9} {:8.0} {:>12} {:10.0}",
        row.server,
        row.alone_gigabytes_per_second.median,
        row.beside_gigabytes_per_second.median,
        row.kept.median,
        format!("({:.2} - {:.2})", row.kept.min, row.kept.max),
        format!("{} / {}", row.threads_alone, row.threads_beside),
        row.user_bytes_per_stalled,
        row.server_socket_bytes_per_stalled
            .map_or("-".into(), |b| format!("{:.0}", b / 1024.0)),
        row.socket_bytes_per_stalled / 1024.0,
    );
}

/// Memory of all TCP sockets of this system.
fn socket_memory() -> f64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let pages = text
        .lines()
        .find(|line| line.starts_with("TCP:"))
        .and_then(|line| line.split_whitespace().last())
        .and_then(|pages| pages.parse::<f64>().ok());
    // SAFETY: takes and touches no memory.
    pages.unwrap_or(0.0) * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as f64
}

/// Memory of the server's sockets, as the kernel tells it through `ss`: received and not read, kept
/// for a while, queued to be sent, and in the backlog.
fn server_sockets(server: &Server) -> Option<f64> {
    let filter = format!("sport = :{}", server.address.port());
    let output = Command::new("ss").args(["-tmnH", &filter]).output().ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut sum = 0.0;
    for fields in text.split("skmem:(").skip(1) {
        let fields = fields.split(')').next().unwrap_or("");
        for field in fields.split(',') {
            let at = field
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(field.len());
            let (name, number) = field.split_at(at);
            if matches!(name, "r" | "f" | "w" | "bl") {
                sum += number.parse().unwrap_or(0.0);
            }
        }
    }
    Some(sum)
}
