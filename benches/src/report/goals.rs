//! What was aimed at, and whether it was reached: computed from the figures, never written by hand.
//!
//! Where the load's processor is what limits (its busy share is near 1), throughput says nothing of
//! the server, and processor time is compared instead.

use super::{All, size};
use crate::{cold, requests, stalled, transport, web};

/// The load is the limit from this busy share on.
const LIMIT: f64 = 0.95;

/// One aim.
pub struct Goal {
    pub what: String,
    pub figure: String,
    /// Nothing if it wasn't measured.
    pub met: Option<bool>,
    /// What the floor says, or what the figure needs to be understood.
    pub note: String,
}

const RUNTIMES: [&str; 7] = [
    "tokio",
    "tokio, sendfile",
    "tokio, io::copy",
    "tokio-uring",
    "compio",
    "compio, splice",
    "monoio",
];

/// All aims, in the order in which they were set.
pub fn all(figures: &All) -> Vec<Goal> {
    let mut goals = Vec::new();
    one_connection(figures, &mut goals);
    large_files(figures, &mut goals);
    small_files(figures, &mut goals);
    runtimes(figures, &mut goals);
    stalled_clients(figures, &mut goals);
    cold_files(figures, &mut goals);
    emulated(figures, &mut goals);
    // A floor that one round brought above what was reached forbids nothing.
    for goal in goals.iter_mut().filter(|goal| goal.met == Some(true)) {
        goal.note = goal.note.replace("impossible here: ", "");
    }
    goals
}

/// The limit: two system calls for each piece.
const SPLICE: &str = "splice loop, 1 MiB pipe";

fn transport<'a>(
    all: &'a All,
    server: &str,
    size: u64,
    connections: usize,
) -> Option<&'a transport::Row> {
    let mut rows = all.transport.rows.iter();
    rows.find(|r| r.server == server && r.size == size && r.connections == connections)
}

fn requests<'a>(
    all: &'a All,
    server: &str,
    size: u64,
    connections: usize,
) -> Option<&'a requests::Row> {
    let mut rows = all.requests.rows.iter().filter(|r| r.files == 1);
    rows.find(|r| r.server == server && r.size == size && r.connections == connections)
}

/// A ratio that must be at least, or at most, some value.
fn ratio(what: String, found: Option<f64>, at_least: bool, bound: f64, note: String) -> Goal {
    let met = found.map(|f| if at_least { f >= bound } else { f <= bound });
    Goal {
        what,
        figure: found.map_or("not measured".into(), |f| format!("{f:.2}")),
        met,
        note,
    }
}

fn one_connection(all: &All, goals: &mut Vec<Goal>) {
    let mut sizes: Vec<u64> = all
        .transport
        .rows
        .iter()
        .filter(|r| r.connections == 1 && r.size >= 1 << 20)
        .map(|r| r.size)
        .collect();
    sizes.dedup();
    sizes.sort_unstable();
    sizes.dedup();
    let speed =
        |server: &str, size| transport(all, server, size, 1).map(|r| r.gigabytes_per_second.median);
    let cpu = |server: &str, size| {
        transport(all, server, size, 1).map(|r| r.cpu_seconds_per_gigabyte.median)
    };
    for at in sizes {
        let against = |server: &str| Some(speed("ring, auto", at)? / speed(server, at)?);
        let what = format!(
            "one connection, {}: GB/s at least 0.95 of the splice loop",
            size(at)
        );
        let (ours, limit) = (speed("ring, auto", at), speed(SPLICE, at));
        let note = Option::zip(ours, limit).map(|(a, b)| format!("{a:.2} of {b:.2} GB/s"));
        goals.push(ratio(
            what,
            against(SPLICE),
            true,
            0.95,
            note.unwrap_or_default(),
        ));
        for other in ["blocking sendfile(2)", "epoll + sendfile(2)"] {
            let what = format!(
                "one connection, {}: GB/s at least 1.25 of {other}",
                size(at)
            );
            let floor = Option::zip(speed(SPLICE, at), speed(other, at)).map(|(a, b)| a / b);
            let note = match floor {
                Some(floor) if floor < 1.25 => {
                    format!("impossible here: the splice loop itself is at {floor:.2}")
                }
                Some(floor) => format!("the splice loop is at {floor:.2}"),
                None => String::new(),
            };
            goals.push(ratio(what, against(other), true, 1.25, note));
            let what = format!("one connection, {}: less CPU per GB than {other}", size(at));
            let found = Option::zip(cpu("ring, auto", at), cpu(other, at)).map(|(a, b)| a / b);
            let floor = Option::zip(cpu(SPLICE, at), cpu(other, at)).map(|(a, b)| a / b);
            let note = floor
                .map(|f| format!("the splice loop is at {f:.2}"))
                .unwrap_or_default();
            let mut goal = ratio(what, found, false, 1.0, note);
            goal.met = found.map(|f| f < 1.0);
            goals.push(goal);
        }
    }
}

fn large_files(all: &All, goals: &mut Vec<Goal>) {
    for (at, bound) in [(1 << 20, 1.3), (128 << 10, 1.2)] {
        let cpu = |server| requests(all, server, at, 64).map(|r| r.cpu_micros_per_request.median);
        let found = Option::zip(cpu(web::NGINX), cpu(web::RING)).map(|(nginx, ours)| nginx / ours);
        let what = format!(
            "64 connections, {} files: GB/s per CPU second at least {bound} of nginx's",
            size(at)
        );
        let bare = [SPLICE, "blocking sendfile(2)", "epoll + sendfile(2)"].map(|server| {
            let row = transport(all, server, at, 64)?;
            Some(row.cpu_seconds_per_gigabyte.median * at as f64 / 1e3)
        });
        let bare = bare.into_iter().flatten().min_by(f64::total_cmp);
        let note = match (cpu(web::RING), cpu(web::NGINX), bare) {
            (Some(ours), Some(theirs), Some(bare)) => {
                let most = theirs / bare;
                let says = match most < bound {
                    true => "impossible here: the leanest bare loop, one way and without requests,",
                    false => "the leanest bare loop, one way and without requests,",
                };
                format!(
                    "{ours:.1} against {theirs:.1} µs a request; {says} takes {bare:.1} µs, {most:.2}"
                )
            }
            (Some(ours), Some(theirs), None) => {
                format!("{ours:.1} against {theirs:.1} µs a request")
            }
            _ => String::new(),
        };
        goals.push(ratio(what, found, true, bound, note));
    }
}

fn small_files(all: &All, goals: &mut Vec<Goal>) {
    let others = [
        (web::NGINX, 0.4),
        (web::NGINX_CACHE, 0.6),
        (web::LIGHTTPD, 0.75),
    ];
    for at in [1 << 10, 16 << 10] {
        let row = |server: &str| requests(all, server, at, 64);
        let cpu = |server: &str| row(server).map(|r| r.cpu_micros_per_request.median);
        let floors = ["floor, io_uring", "floor, epoll"].map(cpu);
        let floor = floors.into_iter().flatten().min_by(f64::total_cmp);
        for (other, bound) in others {
            let what = format!(
                "64 connections, {} files: CPU per request at most {bound} of {other}'s",
                size(at)
            );
            let found = Option::zip(cpu(web::RING), cpu(other)).map(|(a, b)| a / b);
            let note = match (cpu(web::RING), cpu(other), floor) {
                (Some(ours), Some(theirs), Some(floor)) => {
                    let share = floor / theirs;
                    let says = match share > bound {
                        true => "impossible here: the floor, without HTTP and files,",
                        false => "the floor, without HTTP and files,",
                    };
                    format!(
                        "{ours:.1} against {theirs:.1} µs; {says} takes {floor:.1} µs, {share:.2}"
                    )
                }
                _ => String::new(),
            };
            goals.push(ratio(what, found, false, bound, note));
        }
        for (other, _) in others {
            let what = format!(
                "64 connections, {} files: requests/s ahead of {other}",
                size(at)
            );
            let rows = Option::zip(row(web::RING), row(other));
            let found =
                rows.map(|(a, b)| a.requests_per_second.median / b.requests_per_second.median);
            let note = rows.map(|(ours, theirs)| {
                let limit = match ours.load_busy >= LIMIT {
                    true => "; the load's processor is the limit",
                    false => "",
                };
                format!(
                    "{:.0} against {:.0}; load busy {:.2}, server's processor {:.2}{limit}",
                    ours.requests_per_second.median,
                    theirs.requests_per_second.median,
                    ours.load_busy,
                    ours.core_busy
                )
            });
            goals.push(ratio(what, found, true, 1.0, note.unwrap_or_default()));
        }
        let what = format!(
            "64 connections, {} files: the emulated backend's CPU at most 1.0 of lighttpd's",
            size(at)
        );
        let pair = Option::zip(cpu(web::EMULATED), cpu(web::LIGHTTPD));
        let note = pair
            .map(|(a, b)| format!("{a:.1} against {b:.1} µs"))
            .unwrap_or_default();
        goals.push(ratio(what, pair.map(|(a, b)| a / b), false, 1.0, note));
    }
}

/// How far one is ahead of another in one cell.
struct Ahead {
    cell: String,
    ratio: f64,
    /// By processor time, since the load is the limit.
    by_cpu: bool,
}

fn ahead_one_way(all: &All, ours: &str, other: &str) -> Vec<Ahead> {
    let cells = all.transport.rows.iter().filter(|r| r.server == other);
    let compare = |theirs: &transport::Row| {
        let ours = transport(all, ours, theirs.size, theirs.connections)?;
        let by_cpu = ours.load_busy >= LIMIT;
        let ratio = match by_cpu {
            true => theirs.cpu_seconds_per_gigabyte.median / ours.cpu_seconds_per_gigabyte.median,
            false => ours.gigabytes_per_second.median / theirs.gigabytes_per_second.median,
        };
        let cell = format!("{} × {}", size(theirs.size), theirs.connections);
        Some(Ahead {
            cell,
            ratio,
            by_cpu,
        })
    };
    cells.filter_map(compare).collect()
}

fn ahead_http(all: &All, ours: &str, other: &str) -> Vec<Ahead> {
    let cells = all.requests.rows.iter().filter(|r| r.server == other);
    let compare = |theirs: &requests::Row| {
        let ours = requests(all, ours, theirs.size, theirs.connections)?;
        let by_cpu = ours.load_busy >= LIMIT;
        let ratio = match by_cpu {
            true => theirs.cpu_micros_per_request.median / ours.cpu_micros_per_request.median,
            false => ours.requests_per_second.median / theirs.requests_per_second.median,
        };
        let cell = format!("{} × {}", size(theirs.size), theirs.connections);
        Some(Ahead {
            cell,
            ratio,
            by_cpu,
        })
    };
    cells.filter_map(compare).collect()
}

fn in_each_cell(what: String, cells: &[Ahead], goals: &mut Vec<Goal>) {
    if cells.is_empty() {
        return;
    }
    let ahead = cells.iter().filter(|c| c.ratio >= 1.0).count();
    let behind: Vec<String> = cells
        .iter()
        .filter(|c| c.ratio < 1.0)
        .map(|c| format!("{} {:.2}", c.cell, c.ratio))
        .collect();
    let worst = cells
        .iter()
        .map(|c| c.ratio)
        .min_by(f64::total_cmp)
        .unwrap_or(0.0);
    let by_cpu = cells.iter().filter(|c| c.by_cpu).count();
    let mut note = match behind.is_empty() {
        true => String::new(),
        false => format!("behind: {}", behind.join(", ")),
    };
    if by_cpu > 0 {
        note += &format!(" ({by_cpu} by CPU, where the load is the limit)");
    }
    goals.push(Goal {
        what,
        figure: format!("{ahead} of {} cells, worst {worst:.2}", cells.len()),
        met: Some(ahead == cells.len()),
        note: note.trim().to_owned(),
    });
}

fn runtimes(all: &All, goals: &mut Vec<Goal>) {
    for runtime in RUNTIMES {
        let cells = ahead_one_way(all, "ring, auto", runtime);
        in_each_cell(
            format!("one way, ahead of {runtime} in each cell"),
            &cells,
            goals,
        );
    }
    for runtime in RUNTIMES {
        let cells = ahead_http(all, web::RING, runtime);
        in_each_cell(
            format!("requests, ahead of {runtime} in each cell"),
            &cells,
            goals,
        );
    }
}

fn stalled_clients(all: &All, goals: &mut Vec<Goal>) {
    let ours = |r: &&stalled::Row| r.server == web::RING || r.server == web::EMULATED;
    for row in all.stalled.rows.iter().filter(ours) {
        let whose = match row.remote {
            true => " with small queues of their own",
            false => "",
        };
        let of = format!("{} stalled{whose}, {}", row.stalled, row.server);
        let of_all = |bytes: f64| bytes * row.stalled as f64 / 1e9;
        let mut note = format!(
            "{:.2} of {:.2} GB/s",
            row.beside_gigabytes_per_second.median, row.alone_gigabytes_per_second.median
        );
        if let Some(own) = row.server_socket_bytes_per_stalled {
            let clients = row.socket_bytes_per_stalled - own;
            note += &format!(
                "; TCP holds {:.1} GB for the server and {:.1} for the clients",
                of_all(own),
                of_all(clients.max(0.0))
            );
        }
        goals.push(ratio(
            format!("{of}: the live one keeps 0.9"),
            Some(row.kept),
            true,
            0.9,
            note,
        ));
        goals.push(Goal {
            what: format!("{of}: no thread more"),
            figure: format!("{} → {}", row.threads_alone, row.threads_beside),
            met: Some(row.threads_beside <= row.threads_alone),
            note: String::new(),
        });
        if row.stalled < 10_000 {
            continue;
        }
        goals.push(Goal {
            what: format!("{of}: at most 2 KiB of user memory each"),
            figure: format!("{:.0} B", row.user_bytes_per_stalled),
            met: Some(row.user_bytes_per_stalled <= 2048.0),
            note: String::new(),
        });
        let server = row.server_socket_bytes_per_stalled;
        goals.push(Goal {
            what: format!("{of}: at most 256 KiB of socket memory each"),
            figure: server.map_or("not measured".into(), |b| format!("{:.0} KiB", b / 1024.0)),
            met: server.map(|b| b <= 262_144.0),
            note: format!(
                "the server's side; both ends, which are on one machine here: {:.0} KiB",
                row.socket_bytes_per_stalled / 1024.0
            ),
        });
    }
}

fn cold_files(all: &All, goals: &mut Vec<Goal>) {
    let ours = |r: &&cold::Row| r.server == web::RING || r.server == web::EMULATED;
    for row in all.cold.rows.iter().filter(ours) {
        let what = format!(
            "cold files ({}), hot {}, {}: p99 at most 1.5 of what it is without",
            row.beside,
            size(row.size),
            row.server
        );
        let beside = row
            .beside_p99_micros
            .map_or("none answered".into(), |p| format!("{p:.0} µs"));
        let mut note = format!("{:.0} µs → {beside}", row.alone_p99_micros);
        if let Some(floor) = row.elsewhere_p99_micros {
            let share = floor / row.alone_p99_micros;
            let says = match share > 1.5 {
                true => "impossible here: with",
                false => "with",
            };
            let rates = Option::zip(
                row.cold_megabytes_per_second,
                row.elsewhere_megabytes_per_second,
            );
            let rates = rates.map(|(ours, other)| format!(" ({other:.0} MB/s; here {ours:.0})"));
            note += &format!(
                "; {says} another process on the same processor serving the cold files{}, {share:.2}",
                rates.unwrap_or_default()
            );
        }
        let mut goal = ratio(what, row.ratio, false, 1.5, note);
        if row.ratio.is_none() {
            goal.figure = "blocked".into();
            goal.met = Some(false);
        }
        goals.push(goal);
    }
}

fn emulated(all: &All, goals: &mut Vec<Goal>) {
    let cells = ahead_one_way(all, "emulated, auto", "epoll + sendfile(2)");
    in_each_cell(
        "emulated, one way: at least epoll + sendfile(2)".into(),
        &cells,
        goals,
    );
    let cells = ahead_http(all, web::EMULATED, "epoll + sendfile(2)");
    in_each_cell(
        "emulated, requests: at least epoll + sendfile(2)".into(),
        &cells,
        goals,
    );
}
