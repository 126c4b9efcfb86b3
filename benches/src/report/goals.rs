//! What was aimed at, and whether it was reached: a fixed list, decided by the figures, never by hand.
//!
//! Where the load's processor is what limits (its busy share is near 1), throughput says nothing of
//! the server, and processor time is compared instead.

use super::{All, size};
use crate::measure::Spread;
use crate::requests::FEW;
use crate::{cold, requests, stalled, transport, web};

/// The load is the limit from this busy share on.
const LIMIT: f64 = 0.95;

/// One aim.
pub struct Goal {
    pub what: String,
    pub figure: String,
    /// Nothing if it wasn't measured, or if the load was the limit.
    pub met: Option<bool>,
    /// Whether the rounds' spread leaves room for the opposite.
    pub close: bool,
    /// What the floor says, or what the figure needs to be understood.
    pub note: String,
}

/// What a ratio has to be.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

impl Bound {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Bound::AtLeast(bound) => ratio >= bound,
            Bound::AtMost(bound) => ratio <= bound,
            Bound::Below(bound) => ratio < bound,
        }
    }

    /// The end of a spread that is nearest to what is aimed at.
    fn best(self, ratio: Spread) -> f64 {
        match self {
            Bound::AtLeast(_) => ratio.max,
            Bound::AtMost(_) | Bound::Below(_) => ratio.min,
        }
    }

    fn better(self, one: f64, other: f64) -> bool {
        match self {
            Bound::AtLeast(_) => one > other,
            Bound::AtMost(_) | Bound::Below(_) => one < other,
        }
    }
}

/// A ratio of medians, and how far the rounds leave it room: the worst of one over the best of the
/// other, and the other way round.
fn over(one: Spread, other: Spread) -> Spread {
    Spread {
        median: one.median / other.median,
        min: one.min / other.max,
        max: one.max / other.min,
    }
}

/// What is leaner than any server could be, in words, and its ratio.
type Floor = Option<(String, Spread)>;

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
    (size, connections, files): (u64, usize, u64),
) -> Option<&'a requests::Row> {
    let mut rows = all.requests.rows.iter().filter(|r| r.files == files);
    rows.find(|r| r.server == server && r.size == size && r.connections == connections)
}

fn unmeasured(what: String) -> Goal {
    Goal {
        what,
        figure: "not measured".into(),
        met: None,
        close: false,
        note: String::new(),
    }
}

/// A ratio that has a bound. It is told as impossible only if the floor's best rounds miss the bound
/// as well, and what was measured does not beat the floor.
fn ratio(what: String, found: Option<Spread>, bound: Bound, floor: Floor, note: String) -> Goal {
    let Some(found) = found else {
        return unmeasured(what);
    };
    let met = bound.holds(found.median);
    let floor = floor.map(|(name, floor)| {
        let impossible =
            !met && !bound.holds(bound.best(floor)) && !bound.better(found.median, floor.median);
        let says = if impossible { "impossible here: " } else { "" };
        format!("{says}{name} is at {:.2}", floor.median)
    });
    let notes = [(!note.is_empty()).then_some(note), floor];
    Goal {
        what,
        figure: format!("{:.2}", found.median),
        met: Some(met),
        close: bound.holds(found.min) != bound.holds(found.max),
        note: notes.into_iter().flatten().collect::<Vec<_>>().join("; "),
    }
}

fn one_connection(all: &All, goals: &mut Vec<Goal>) {
    let row = |server: &str, size| transport(all, server, size, 1);
    let speed = |server: &str, size| row(server, size).map(|r| r.gigabytes_per_second);
    let cpu = |server: &str, size| row(server, size).map(|r| r.cpu_seconds_per_gigabyte);
    let splice = || "the splice loop".to_owned();
    for at in transport::LARGE {
        let ours = speed("ring, auto", at);
        let against = |other: Option<Spread>| Some(over(ours?, other?));
        let note = Option::zip(ours, speed(SPLICE, at))
            .map(|(a, b)| format!("{:.2} of {:.2} GB/s", a.median, b.median));
        goals.push(ratio(
            format!(
                "one connection, {}: GB/s at least 0.95 of the splice loop",
                size(at)
            ),
            against(speed(SPLICE, at)),
            Bound::AtLeast(0.95),
            None,
            note.unwrap_or_default(),
        ));
        for other in ["blocking sendfile(2)", "epoll + sendfile(2)"] {
            let floor = Option::zip(speed(SPLICE, at), speed(other, at));
            goals.push(ratio(
                format!(
                    "one connection, {}: GB/s at least 1.25 of {other}",
                    size(at)
                ),
                against(speed(other, at)),
                Bound::AtLeast(1.25),
                floor.map(|(a, b)| (splice(), over(a, b))),
                String::new(),
            ));
            let found = Option::zip(cpu("ring, auto", at), cpu(other, at));
            let floor = Option::zip(cpu(SPLICE, at), cpu(other, at));
            goals.push(ratio(
                format!("one connection, {}: less CPU per GB than {other}", size(at)),
                found.map(|(a, b)| over(a, b)),
                Bound::Below(1.0),
                floor.map(|(a, b)| (splice(), over(a, b))),
                String::new(),
            ));
        }
    }
}

fn large_files(all: &All, goals: &mut Vec<Goal>) {
    for (at, bound) in [(1 << 20, 1.3), (128 << 10, 1.2)] {
        let cpu = |server| requests(all, server, (at, 64, 1)).map(|r| r.cpu_micros_per_request);
        let (ours, theirs) = (cpu(web::RING), cpu(web::NGINX));
        let bare = [SPLICE, "blocking sendfile(2)", "epoll + sendfile(2)"].map(|server| {
            let of = transport(all, server, at, 64)?.cpu_seconds_per_gigabyte;
            let micros = |seconds: f64| seconds * at as f64 / 1e3;
            Some(Spread {
                median: micros(of.median),
                min: micros(of.min),
                max: micros(of.max),
            })
        });
        let bare = bare.into_iter().flatten();
        let bare = bare.min_by(|a, b| a.median.total_cmp(&b.median));
        let floor = Option::zip(theirs, bare).map(|(theirs, bare)| {
            let name = format!(
                "the leanest bare loop, one way and without requests ({:.1} µs),",
                bare.median
            );
            (name, over(theirs, bare))
        });
        let pair = Option::zip(theirs, ours);
        goals.push(ratio(
            format!(
                "64 connections, {} files: GB/s per CPU second at least {bound} of nginx's",
                size(at)
            ),
            pair.map(|(theirs, ours)| over(theirs, ours)),
            Bound::AtLeast(bound),
            floor,
            pair.map(|(theirs, ours)| {
                format!(
                    "{:.1} against {:.1} µs a request",
                    ours.median, theirs.median
                )
            })
            .unwrap_or_default(),
        ));
    }
}

/// Against whom small files are compared, and the share of their CPU time that is aimed at.
const SMALL: [(&str, f64); 3] = [
    (web::NGINX, 0.4),
    (web::NGINX_CACHE, 0.6),
    (web::LIGHTTPD, 0.75),
];

fn small_files(all: &All, goals: &mut Vec<Goal>) {
    for at in [1 << 10, 16 << 10] {
        cpu_of_small(all, (at, 64, 1), goals);
        let row = |server: &str| requests(all, server, (at, 64, 1));
        for (other, _) in SMALL {
            let what = format!(
                "64 connections, {} files: requests/s ahead of {other}",
                size(at)
            );
            let Some((ours, theirs)) = Option::zip(row(web::RING), row(other)) else {
                goals.push(unmeasured(what));
                continue;
            };
            let (a, b) = (ours.requests_per_second, theirs.requests_per_second);
            let note = format!(
                "{:.0} against {:.0}; load busy {:.2}, server's processor {:.2}",
                a.median, b.median, ours.load_busy, ours.core_busy
            );
            let bound = Bound::AtLeast(1.0);
            let mut goal = ratio(what, Some(over(a, b)), bound, None, note);
            if ours.load_busy >= LIMIT {
                goal.note += "; the load's processor is the limit";
                goal.met = goal.met.filter(|met| *met);
            }
            goals.push(goal);
        }
        let cpu = |server: &str| row(server).map(|r| r.cpu_micros_per_request);
        let pair = Option::zip(cpu(web::EMULATED), cpu(web::LIGHTTPD));
        goals.push(ratio(
            format!(
                "64 connections, {} files: the emulated backend's CPU at most 1.0 of lighttpd's",
                size(at)
            ),
            pair.map(|(a, b)| over(a, b)),
            Bound::AtMost(1.0),
            None,
            pair.map(|(a, b)| format!("{:.1} against {:.1} µs", a.median, b.median))
                .unwrap_or_default(),
        ));
    }
    for at in [4 << 10, 16 << 10] {
        cpu_of_small(all, (at, 64, FEW), goals);
    }
}

fn cpu_of_small(all: &All, cell: (u64, usize, u64), goals: &mut Vec<Goal>) {
    let cpu = |server: &str| requests(all, server, cell).map(|r| r.cpu_micros_per_request);
    let floors = ["floor, io_uring", "floor, epoll"].map(cpu);
    let floors = floors.into_iter().flatten();
    let floor = floors.min_by(|a, b| a.median.total_cmp(&b.median));
    for (other, bound) in SMALL {
        let pair = Option::zip(cpu(web::RING), cpu(other));
        let floor = Option::zip(floor, cpu(other)).map(|(floor, theirs)| {
            let name = format!(
                "the floor, without HTTP and files ({:.1} µs),",
                floor.median
            );
            (name, over(floor, theirs))
        });
        goals.push(ratio(
            format!(
                "{}: CPU per request at most {bound} of {other}'s",
                requests::title(cell.0, cell.1, cell.2)
            ),
            pair.map(|(ours, theirs)| over(ours, theirs)),
            Bound::AtMost(bound),
            floor,
            pair.map(|(a, b)| format!("{:.1} against {:.1} µs", a.median, b.median))
                .unwrap_or_default(),
        ));
    }
}

/// How far one is ahead of another in one cell.
struct Ahead {
    cell: String,
    ratio: Spread,
    /// By processor time, since the load is the limit.
    by_cpu: bool,
}

fn ahead_one_way(all: &All, ours: &str, other: &str) -> Vec<Ahead> {
    let cells = all.transport.rows.iter().filter(|r| r.server == other);
    let compare = |theirs: &transport::Row| {
        let ours = transport(all, ours, theirs.size, theirs.connections)?;
        let by_cpu = ours.load_busy >= LIMIT;
        let ratio = match by_cpu {
            true => over(
                theirs.cpu_seconds_per_gigabyte,
                ours.cpu_seconds_per_gigabyte,
            ),
            false => over(ours.gigabytes_per_second, theirs.gigabytes_per_second),
        };
        Some(Ahead {
            cell: format!("{} × {}", size(theirs.size), theirs.connections),
            ratio,
            by_cpu,
        })
    };
    cells.filter_map(compare).collect()
}

fn ahead_http(all: &All, ours: &str, other: &str) -> Vec<Ahead> {
    let cells = all.requests.rows.iter().filter(|r| r.server == other);
    let compare = |theirs: &requests::Row| {
        let cell = (theirs.size, theirs.connections, theirs.files);
        let ours = requests(all, ours, cell)?;
        let by_cpu = ours.load_busy >= LIMIT;
        let ratio = match by_cpu {
            true => over(theirs.cpu_micros_per_request, ours.cpu_micros_per_request),
            false => over(ours.requests_per_second, theirs.requests_per_second),
        };
        let files = match theirs.files {
            1 => String::new(),
            n => format!(" ({n} files)"),
        };
        Some(Ahead {
            cell: format!("{} × {}{files}", size(theirs.size), theirs.connections),
            ratio,
            by_cpu,
        })
    };
    cells.filter_map(compare).collect()
}

/// Ahead in all cells that were measured, of so many that there are.
fn in_each_cell(what: String, cells: &[Ahead], full: usize, goals: &mut Vec<Goal>) {
    if cells.is_empty() {
        goals.push(unmeasured(what));
        return;
    }
    let (ahead, behind): (Vec<&Ahead>, Vec<&Ahead>) =
        cells.iter().partition(|c| c.ratio.median >= 1.0);
    let worst = cells.iter().map(|c| c.ratio.median);
    let worst = worst.min_by(f64::total_cmp).unwrap_or(0.0);
    let mut notes = Vec::new();
    if !behind.is_empty() {
        let told = |c: &&Ahead| {
            let Spread { median, min, max } = c.ratio;
            format!("{} {median:.2} ({min:.2} – {max:.2})", c.cell)
        };
        let told: Vec<String> = behind.iter().map(told).collect();
        notes.push(format!("behind: {}", told.join(", ")));
    }
    let by_cpu = cells.iter().filter(|c| c.by_cpu).count();
    if by_cpu > 0 {
        notes.push(format!("{by_cpu} by CPU, where the load is the limit"));
    }
    if cells.len() < full {
        notes.push(format!("the full mode has {full} cells"));
    }
    goals.push(Goal {
        what,
        figure: format!("{} of {} cells, worst {worst:.2}", ahead.len(), cells.len()),
        met: Some(behind.is_empty()),
        close: match behind.is_empty() {
            true => ahead.iter().any(|c| c.ratio.min < 1.0),
            false => behind.iter().all(|c| c.ratio.max >= 1.0),
        },
        note: notes.join("; "),
    });
}

fn runtimes(all: &All, goals: &mut Vec<Goal>) {
    let loops = [
        "tokio, sendfile",
        "tokio, io::copy",
        "tokio-uring",
        "compio",
        "compio, splice",
        "monoio",
    ];
    for (ours, whose) in [("ring, auto", ""), ("emulated, auto", "emulated, ")] {
        for runtime in loops {
            let cells = ahead_one_way(all, ours, runtime);
            let what = format!("{whose}one way, ahead of {runtime} in each cell");
            in_each_cell(what, &cells, transport::full(), goals);
        }
    }
    for (ours, whose) in [(web::RING, ""), (web::EMULATED, "emulated, ")] {
        for runtime in ["tokio", "tokio-uring", "compio", "monoio"] {
            let cells = ahead_http(all, ours, runtime);
            let what = format!("{whose}requests, ahead of {runtime} in each cell");
            in_each_cell(what, &cells, requests::full(), goals);
        }
    }
}

/// A figure that is what it is in one measurement.
fn plain(what: String, figure: String, met: Option<bool>, note: String) -> Goal {
    Goal {
        what,
        figure,
        met,
        close: false,
        note,
    }
}

fn stalled_clients(all: &All, goals: &mut Vec<Goal>) {
    let find = |server: &str, count, remote| {
        let mut rows = all.stalled.rows.iter();
        rows.find(|r| r.server == server && r.stalled == count && r.remote == remote)
    };
    for count in [2000, 10_000] {
        for server in [web::RING, web::EMULATED] {
            let row = find(server, count, false);
            let of = format!("{count} stalled, {server}");
            goals.push(ratio(
                format!("{of}: the live one keeps 0.9"),
                row.map(|r| r.kept),
                Bound::AtLeast(0.9),
                None,
                row.map(|r| kept_note(r, find(server, count, true)))
                    .unwrap_or_default(),
            ));
            goals.push(plain(
                format!("{of}: no thread more"),
                row.map_or("not measured".into(), |r| {
                    format!("{} → {}", r.threads_alone, r.threads_beside)
                }),
                row.map(|r| r.threads_beside <= r.threads_alone),
                String::new(),
            ));
            if count < 10_000 {
                continue;
            }
            goals.push(plain(
                format!("{of}: at most 2 KiB of user memory each"),
                row.map_or("not measured".into(), |r| {
                    format!("{:.0} B", r.user_bytes_per_stalled)
                }),
                row.map(|r| r.user_bytes_per_stalled <= 2048.0),
                String::new(),
            ));
            let own = row.and_then(|r| r.server_socket_bytes_per_stalled);
            goals.push(plain(
                format!("{of}: at most 256 KiB of socket memory each"),
                own.map_or("not measured".into(), |b| format!("{:.0} KiB", b / 1024.0)),
                own.map(|b| b <= 262_144.0),
                row.map(|r| {
                    let both = r.socket_bytes_per_stalled / 1024.0;
                    format!(
                        "the server's side; both ends, which are on one machine here: {both:.0} KiB"
                    )
                })
                .unwrap_or_default(),
            ));
        }
    }
}

fn kept_note(row: &stalled::Row, remote: Option<&stalled::Row>) -> String {
    let mut note = format!(
        "{:.2} of {:.2} GB/s",
        row.beside_gigabytes_per_second.median, row.alone_gigabytes_per_second.median
    );
    if let Some(own) = row.server_socket_bytes_per_stalled {
        let of_all = |bytes: f64| bytes.max(0.0) * row.stalled as f64 / 1e9;
        note += &format!(
            "; TCP holds {:.1} GB for the server and {:.1} for the clients",
            of_all(own),
            of_all(row.socket_bytes_per_stalled - own)
        );
    }
    if let Some(remote) = remote {
        let kept = remote.kept.median;
        note += &format!("; where the clients' own queues are small, it keeps {kept:.2}");
    }
    note
}

fn cold_files(all: &All, goals: &mut Vec<Goal>) {
    let cells = cold::SIZES
        .map(|kib| (cold::STUCK, kib))
        .into_iter()
        .chain([(cold::DROPPED, cold::MIDDLE)]);
    for (beside, kib) in cells {
        for server in [web::RING, web::EMULATED] {
            let at = kib << 10;
            let what = format!(
                "cold files ({beside}), hot {}, {server}: p99 at most 1.5 of what it is without",
                size(at)
            );
            let mut rows = all.cold.rows.iter();
            let row = rows.find(|r| r.server == server && r.beside == beside && r.size == at);
            let Some(row) = row else {
                goals.push(unmeasured(what));
                continue;
            };
            let mut goal = ratio(what, row.ratio, Bound::AtMost(1.5), None, cold_note(row));
            if row.ratio.is_none() {
                goal.figure = "blocked".into();
                goal.note = cold_note(row);
            }
            if row.unanswered > 0 {
                goal.met = Some(false);
                goal.note += &format!("; {} rounds without an answer", row.unanswered);
            }
            goals.push(goal);
        }
    }
}

fn cold_note(row: &cold::Row) -> String {
    let beside = row
        .beside_p99_micros
        .map_or("none answered".into(), |p| format!("{p:.0} µs"));
    let mut note = format!("{:.0} µs → {beside}", row.alone_p99_micros);
    if let Some(elsewhere) = row.elsewhere_p99_micros {
        let rates = Option::zip(
            row.cold_megabytes_per_second,
            row.elsewhere_megabytes_per_second,
        );
        let rates = rates.map(|(ours, other)| format!(" ({other:.0} MB/s; here {ours:.0})"));
        note += &format!(
            "; to compare: {:.2} where another process on the same processor serves the cold files{}",
            elsewhere / row.alone_p99_micros,
            rates.unwrap_or_default()
        );
    }
    note
}

fn emulated(all: &All, goals: &mut Vec<Goal>) {
    let cells = ahead_one_way(all, "emulated, auto", "epoll + sendfile(2)");
    let what = "emulated, one way: at least epoll + sendfile(2)".into();
    in_each_cell(what, &cells, transport::full(), goals);
    let cells = ahead_http(all, web::EMULATED, "epoll + sendfile(2)");
    let what = "emulated, requests: at least epoll + sendfile(2)".into();
    in_each_cell(what, &cells, requests::full(), goals);
}
