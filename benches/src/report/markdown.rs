//! The report as Markdown: the aims, what was measured, and where.

use std::fmt::Write as _;

use super::{All, goals, relay, size};
use crate::rounds::Figures;
use crate::{cold, requests, stalled, transport};

/// Writes the report.
pub fn write(all: &All, plots: &[(&str, &str)]) -> String {
    let mut out = String::new();
    let text = &mut out;
    let kind = if all.environment.quick {
        "quick"
    } else {
        "full"
    };
    line(text, "# Benchmarks: the report of a run\n");
    line(
        text,
        &format!(
            "A {kind} run of {:.0} minutes, written by `cargo bench -- --report`; how to read and \
             repeat it is in [the README](../README.md). All figures are medians of interleaved \
             rounds of this one run. CPU time is that of the server's processes with their threads \
             and io_uring's workers; *core* is the busy share of its processor, whoever used it, \
             *irq* the share that went to interrupts, *load* the share of the time in which the \
             load had something to do (near 1 it is the load that limits). *Calls* are system calls: \
             what is submitted to a ring is none.\n",
            all.environment.minutes
        ),
    );
    write_goals(text, all);
    if !plots.is_empty() {
        line(text, "\n## Plots\n");
        for (file, title) in plots {
            line(text, &format!("![{title}]({file})\n"));
        }
    }
    one_way(text, "Transport, one way", &all.transport);
    write_requests(text, &all.requests);
    write_stalled(text, &all.stalled);
    write_cold(text, &all.cold);
    relay::write(text, &all.relay);
    write_claims(text, &all.claims);
    write_environment(text, all);
    out
}

/// What a run comes to, for who asked for no report: the goals and the set-up.
pub fn summary(all: &All) -> String {
    let mut text = String::new();
    write_goals(&mut text, all);
    write_environment(&mut text, all);
    text
}

pub fn line(text: &mut String, what: &str) {
    text.push_str(what);
    text.push('\n');
}

fn row(text: &mut String, cells: &[String]) {
    line(text, &format!("| {} |", cells.join(" | ")));
}

/// The head of a table: the first column is text, the others are numbers.
fn head(text: &mut String, names: &[&str]) {
    line(text, &format!("| {} |", names.join(" | ")));
    line(text, &format!("|---|{}", "--:|".repeat(names.len() - 1)));
}

fn write_goals(text: &mut String, all: &All) {
    let goals = goals::all(all);
    let count = |met| goals.iter().filter(|g| g.met == met).count();
    line(text, "## The goals\n");
    line(
        text,
        &format!(
            "{} met, {} not met, {} not measured or not to be told. Ratios of medians, unless it \
             says otherwise. Where the load is the limit, throughput says nothing of a server, and \
             CPU time is compared. *Within the spread*: the slowest round of one and the fastest of \
             the other would say the opposite. *Impossible here*: the floor misses it in its best \
             round, and is not beaten.\n",
            count(Some(true)),
            count(Some(false)),
            count(None)
        ),
    );
    line(text, "| goal | figure | met | |");
    line(text, "|---|--:|---|---|");
    for goal in goals {
        let met = match (goal.met, goal.close) {
            (Some(true), false) => "yes",
            (Some(true), true) => "yes, within the spread",
            (Some(false), false) => "**no**",
            (Some(false), true) => "**no**, within the spread",
            (None, _) => "—",
        };
        row(text, &[goal.what, goal.figure, met.into(), goal.note]);
    }
}

/// What was not measured, behind the tables.
pub fn after<R>(text: &mut String, figures: &Figures<R>) {
    if !figures.missing.is_empty() {
        let missing = figures.missing.join(", ");
        line(
            text,
            &format!("\nNot installed, so not measured: {missing}."),
        );
    }
    for what in &figures.failed {
        line(text, &format!("\nCould not be measured: {what}."));
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

fn or_dash(figure: Option<f64>, digits: usize) -> String {
    figure.map_or("—".into(), |n| format!("{n:.digits$}"))
}

fn one_way(text: &mut String, title: &str, figures: &Figures<transport::Row>) {
    if figures.rows.is_empty() {
        return;
    }
    line(text, &format!("\n## {title}\n"));
    let same =
        |a: &transport::Row, b: &transport::Row| (a.size, a.connections) == (b.size, b.connections);
    for cell in figures.rows.chunk_by(same) {
        let of = format!(
            "{}, {} connections",
            size(cell[0].size),
            cell[0].connections
        );
        line(text, &format!("\n### {of}\n"));
        bytes_moved(text, cell);
    }
    after(text, figures);
}

/// The table of a cell in which bytes were moved.
pub fn bytes_moved<'r>(text: &mut String, rows: impl IntoIterator<Item = &'r transport::Row>) {
    let rows: Vec<&transport::Row> = rows.into_iter().collect();
    head(
        text,
        &[
            "",
            "GB/s",
            "min – max",
            "ring's, times",
            "CPU s/GB",
            "user",
            "system",
            "core",
            "irq",
            "load",
            "peak MiB",
            "threads",
            "calls/GB",
        ],
    );
    for r in &rows {
        let speed = r.gigabytes_per_second;
        row(
            text,
            &[
                r.server.clone(),
                format!("{:.2}", speed.median),
                format!("{:.2} – {:.2}", speed.min, speed.max),
                or_dash(transport::times(&rows, r), 2),
                format!("{:.3}", r.cpu_seconds_per_gigabyte.median),
                format!("{:.3}", r.user_seconds_per_gigabyte),
                format!("{:.3}", r.system_seconds_per_gigabyte),
                format!("{:.2}", r.core_busy),
                format!("{:.2}", r.core_interrupts),
                format!("{:.2}", r.load_busy),
                mib(r.peak_bytes),
                r.threads.to_string(),
                or_dash(r.system_calls_per_gigabyte, 0),
            ],
        );
    }
}

fn write_requests(text: &mut String, figures: &Figures<requests::Row>) {
    if figures.rows.is_empty() {
        return;
    }
    line(text, "\n## Request and response\n");
    let title = |r: &requests::Row| requests::title(r.size, r.connections, r.files);
    let same = |a: &requests::Row, b: &requests::Row| title(a) == title(b);
    for cell in figures.rows.chunk_by(same) {
        let of = title(&cell[0]);
        line(text, &format!("\n### {of}\n"));
        head(
            text,
            &[
                "",
                "requests/s",
                "min – max",
                "CPU µs",
                "min – max",
                "of ring's",
                "user",
                "core",
                "irq",
                "load",
                "p50 µs",
                "p99",
                "p99.9",
                "peak MiB",
                "threads",
                "calls",
                "wrk req/s",
                "CPU µs",
                "core",
            ],
        );
        for r in cell {
            let (rate, cpu) = (r.requests_per_second, r.cpu_micros_per_request);
            row(
                text,
                &[
                    r.server.clone(),
                    format!("{:.0}", rate.median),
                    format!("{:.0} – {:.0}", rate.min, rate.max),
                    format!("{:.2}", cpu.median),
                    format!("{:.2} – {:.2}", cpu.min, cpu.max),
                    or_dash(requests::share(cell, r), 2),
                    format!("{:.2}", r.user_micros_per_request),
                    format!("{:.2}", r.core_busy),
                    format!("{:.2}", r.core_interrupts),
                    format!("{:.2}", r.load_busy),
                    format!("{:.0}", r.p50_micros),
                    format!("{:.0}", r.p99_micros),
                    format!("{:.0}", r.p999_micros),
                    mib(r.peak_bytes),
                    r.threads.to_string(),
                    or_dash(r.system_calls_per_request, 2),
                    or_dash(r.wrk.map(|w| w.requests_per_second), 0),
                    or_dash(r.wrk.map(|w| w.cpu_micros_per_request), 2),
                    or_dash(r.wrk.map(|w| w.core_busy), 2),
                ],
            );
        }
    }
    after(text, figures);
}

fn write_stalled(text: &mut String, figures: &Figures<stalled::Row>) {
    if figures.rows.is_empty() {
        return;
    }
    line(text, "\n## Stalled clients\n");
    line(
        text,
        "Each asked for 64 MiB and read nothing; one reads. In each round each server is measured \
         alone and then beside its stalled clients, which end with the round; *kept* is the median of \
         the rounds' ratios. Memory is for each stalled one, of a server that had none before. TCP's \
         memory is bounded for all ends on a machine (tcp_mem), and here the clients' are on the \
         server's: where it says so, their queues are as small as goes, as if they were on others.\n",
    );
    head(
        text,
        &[
            "",
            "stalled",
            "alone GB/s",
            "beside GB/s",
            "min – max",
            "kept",
            "min – max",
            "threads",
            "user B",
            "server's sockets KiB",
            "both ends KiB",
        ],
    );
    for r in &figures.rows {
        let beside = r.beside_gigabytes_per_second;
        let kib = |bytes: f64| bytes / 1024.0;
        row(
            text,
            &[
                r.server.clone(),
                match r.remote {
                    true => format!("{}, small queues", r.stalled),
                    false => r.stalled.to_string(),
                },
                format!("{:.2}", r.alone_gigabytes_per_second.median),
                format!("{:.2}", beside.median),
                format!("{:.2} – {:.2}", beside.min, beside.max),
                format!("{:.2}", r.kept.median),
                format!("{:.2} – {:.2}", r.kept.min, r.kept.max),
                format!("{} → {}", r.threads_alone, r.threads_beside),
                format!("{:.0}", r.user_bytes_per_stalled),
                or_dash(r.server_socket_bytes_per_stalled.map(kib), 0),
                format!("{:.0}", kib(r.socket_bytes_per_stalled)),
            ],
        );
    }
    after(text, figures);
}

fn write_cold(text: &mut String, figures: &Figures<cold::Row>) {
    if figures.rows.is_empty() {
        return;
    }
    line(text, "\n## Cold files\n");
    line(
        text,
        "Requests for a hot file on 16 connections, alone and beside 64 cold ones. A request's time \
         ends when the kernel has the response for the load. In each round each server is measured \
         alone and then beside the cold ones; the ratio is the median of the rounds'. *Another*, to \
         compare: the same server while the cold files are served by another process of its kind on \
         the same processor, which the scheduler divides between them.\n",
    );
    head(
        text,
        &[
            "",
            "beside",
            "hot file",
            "alone p99 µs",
            "beside p99 µs",
            "ratio",
            "min – max",
            "alone req/s",
            "beside req/s",
            "reads that waited",
            "cold MB/s",
            "another: p99 µs",
            "its cold MB/s",
        ],
    );
    for r in &figures.rows {
        let p99 = r.beside_p99_micros.map(|p| format!("{p:.0}"));
        row(
            text,
            &[
                r.server.clone(),
                r.beside.clone(),
                size(r.size),
                format!("{:.0}", r.alone_p99_micros),
                p99.unwrap_or("none answered".into()),
                or_dash(r.ratio.map(|r| r.median), 2),
                r.ratio
                    .map_or("—".into(), |r| format!("{:.2} – {:.2}", r.min, r.max)),
                format!("{:.0}", r.alone_requests_per_second),
                format!("{:.0}", r.beside_requests_per_second),
                r.reads_waiting.map_or("—".into(), |n| n.to_string()),
                or_dash(r.cold_megabytes_per_second, 0),
                or_dash(r.elsewhere_p99_micros, 0),
                or_dash(r.elsewhere_megabytes_per_second, 0),
            ],
        );
    }
    after(text, figures);
}

fn write_claims(text: &mut String, figures: &Figures<transport::Row>) {
    if figures.rows.is_empty() {
        return;
    }
    line(text, "\n## What was claimed: three times?\n");
    line(
        text,
        "Sending files in an event loop by sendfile instead of by read and write was said to be \
         three times as fast, with less memory. In loops of one thread, files of 16 MiB, each \
         against reading and writing in the same kind of loop:\n",
    );
    let find = |server: &str, connections| {
        let mut rows = figures.rows.iter();
        rows.find(|r| r.server == server && r.connections == connections)
    };
    let pairs = [
        ("asyncio, loop.sendfile", "asyncio, read + write"),
        ("asyncio, loop.sendfile", "asyncio, whole file + write"),
        ("epoll + sendfile(2)", "epoll + read + write"),
        ("ring, auto", "epoll + read + write"),
        ("emulated, auto", "epoll + read + write"),
        ("ring, auto", "asyncio, read + write"),
        ("ring, auto", "asyncio, loop.sendfile"),
    ];
    head(
        text,
        &[
            "",
            "connections",
            "GB/s",
            "times",
            "CPU s/GB, times",
            "peak MiB",
            "three times?",
        ],
    );
    for (ours, theirs) in pairs {
        for connections in [1, 64] {
            let Some((a, b)) = Option::zip(find(ours, connections), find(theirs, connections))
            else {
                continue;
            };
            let speed = a.gigabytes_per_second.median / b.gigabytes_per_second.median;
            let cpu = a.cpu_seconds_per_gigabyte.median / b.cpu_seconds_per_gigabyte.median;
            row(
                text,
                &[
                    format!("{ours} against {theirs}"),
                    connections.to_string(),
                    format!(
                        "{:.2} : {:.2}",
                        a.gigabytes_per_second.median, b.gigabytes_per_second.median
                    ),
                    format!("{speed:.2}"),
                    format!("{cpu:.2}"),
                    format!("{} : {}", mib(a.peak_bytes), mib(b.peak_bytes)),
                    if speed >= 3.0 { "yes" } else { "no" }.into(),
                ],
            );
        }
    }
    one_way(text, "The same loops, in full", figures);
}

fn write_environment(text: &mut String, all: &All) {
    line(text, "\n## Set-up\n");
    line(text, "| | |\n|---|---|");
    for (name, value) in &all.environment.facts {
        let _ = writeln!(text, "| {name} | {value} |");
    }
    for note in &all.environment.notes {
        line(text, &format!("\nNote: {note}."));
    }
}
