//! One live client beside many that asked for 64 MiB and read nothing: its throughput against what
//! it had alone, the server's threads and memory, and what the sockets hold.

use std::error::Error;
use std::fs;
use std::io;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::child::Server;
use crate::load;
use crate::measure::{self, Spread};
use crate::rounds::Figures;
use crate::setup::{Options, Scratch};
use crate::stall::Stalled;
use crate::web;

const PATH: &str = "/64m.bin";

/// What a client takes in that is to count as being on another machine: as little as goes.
const REMOTE_QUEUE: usize = 4096;

/// What one server did beside so many stalled clients.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub server: String,
    pub stalled: usize,
    /// Their own queues are small: as if they were on other machines, whose memory those would be.
    #[serde(default)]
    pub remote: bool,
    pub alone_gigabytes_per_second: Spread,
    pub beside_gigabytes_per_second: Spread,
    pub kept: f64,
    pub threads_alone: usize,
    pub threads_beside: usize,
    pub user_bytes_per_stalled: f64,
    /// Of the server's sockets, as `ss` tells it.
    pub server_socket_bytes_per_stalled: Option<f64>,
    /// Of both ends, which are on this machine: the kernel's own count.
    pub socket_bytes_per_stalled: f64,
}

/// Runs it.
pub fn run(options: &Options) -> Result<Figures<Row>, Box<dyn Error>> {
    type Counts = [(usize, bool)];
    let (counts, rounds, time): (&Counts, usize, Duration) = match options.quick {
        true => (
            &[(1000, false), (2000, false)],
            3,
            Duration::from_millis(250),
        ),
        false => (
            &[
                (1000, false),
                (2000, false),
                (10_000, false),
                (10_000, true),
            ],
            5,
            Duration::from_millis(500),
        ),
    };
    let scratch = Scratch::new("stalled")?;
    scratch.file("64m.bin", 64 << 20)?;
    let (servers, missing) =
        web::start_all(&scratch.files(), &scratch.state(), options, web::usual)?;
    let mut figures = Figures::missing(missing);
    for &(stalled, remote) in counts {
        let whose = if remote { ", with small queues" } else { "" };
        println!("\n{stalled} stalled clients{whose}");
        println!(
            "{:26} {:>10} {:>11} {:>6} {:>9} {:>8} {:>12} {:>10}",
            "", "alone GB/s", "beside GB/s", "kept", "threads", "user B", "server KiB", "both KiB"
        );
        for server in &servers {
            match one(server, stalled, remote, rounds, time) {
                Ok(row) => {
                    print(&row);
                    figures.rows.push(row);
                }
                Err(e) => figures.fail(format!("{}, {stalled} stalled{whose}: {e}", server.name)),
            }
        }
    }
    Ok(figures)
}

fn one(
    server: &Server,
    stalled: usize,
    remote: bool,
    rounds: usize,
    time: Duration,
) -> io::Result<Row> {
    let live = || {
        let run = |_| load::run_or_nothing(server, PATH, 1, time).gigabytes_per_second();
        Spread::of((0..rounds).map(run))
    };
    load::run(server, PATH, 1, time)?;
    let alone = live();
    let memory = || {
        let processes = measure::processes(server.id());
        let user: u64 = processes
            .iter()
            .map(|id| measure::status(*id, "RssAnon:"))
            .sum();
        user as f64
    };
    let (threads_alone, user, sockets, own) = (
        measure::threads(server.id()).len(),
        memory(),
        socket_memory(),
        server_sockets(server),
    );
    let queue = if remote { REMOTE_QUEUE } else { 0 };
    let clients = Stalled::start(server, PATH, stalled, queue)?;
    // Time for what is to be sent to them to be sent.
    std::thread::sleep(Duration::from_secs(1));
    let per = |before: f64, after: f64| (after - before).max(0.0) / stalled as f64;
    let (user, sockets) = (per(user, memory()), per(sockets, socket_memory()));
    let own = Option::zip(own, server_sockets(server)).map(|(before, after)| per(before, after));
    let beside = live();
    let threads_beside = measure::threads(server.id()).len();
    drop(clients);
    // Time for the server to see that they are gone, and for the kernel to free what they held.
    std::thread::sleep(Duration::from_millis(if stalled > 5000 {
        2000
    } else {
        700
    }));
    Ok(Row {
        server: server.name.clone(),
        stalled,
        remote,
        alone_gigabytes_per_second: alone,
        beside_gigabytes_per_second: beside,
        kept: beside.median / alone.median,
        threads_alone,
        threads_beside,
        user_bytes_per_stalled: user,
        server_socket_bytes_per_stalled: own,
        socket_bytes_per_stalled: sockets,
    })
}

fn print(row: &Row) {
    println!(
        "{:26} {:10.2} {:11.2} {:6.2} {:>9} {:8.0} {:>12} {:10.0}",
        row.server,
        row.alone_gigabytes_per_second.median,
        row.beside_gigabytes_per_second.median,
        row.kept,
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
