//! `spliceport probe`.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

use crate::proactor::Probe;

use super::args;
use super::error::Failure;

pub(super) fn run(args: &args::Probe) -> Result<(), Failure> {
    let proactor = super::proactor(args.backend.backend)?;
    let report = Report::of(proactor.probe());
    let text = if args.json {
        let json = serde_json::to_string_pretty(&report);
        json.map_err(|e| Failure::new(format!("cannot write JSON: {e}")))? + "\n"
    } else {
        report.to_string()
    };
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        // Whoever read it has read enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| Failure::io("cannot write to standard output", &e)),
    }
}

/// A probe, as it is printed.
#[derive(Serialize)]
struct Report<'a> {
    version: &'static str,
    kernel: &'a str,
    backend: String,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<Refusal<'a>>,
    features: Vec<Feature>,
    limits: Limits,
}

#[derive(Serialize)]
struct Refusal<'a> {
    what: &'a str,
    advice: &'a str,
}

#[derive(Serialize)]
struct Feature {
    name: &'static str,
    since: &'static str,
    found: bool,
    used_for: &'static str,
}

/// `null` where there is no limit, or it can't be read.
#[derive(Serialize)]
struct Limits {
    memlock_bytes: Option<u64>,
    open_files: Option<u64>,
    pipe_max_size_bytes: Option<u64>,
    pipe_user_pages_soft: Option<u64>,
    io_uring_disabled: Option<u64>,
}

impl<'a> Report<'a> {
    fn of(probe: &'a Probe) -> Report<'a> {
        Report {
            version: env!("CARGO_PKG_VERSION"),
            kernel: &probe.kernel,
            backend: probe.backend.to_string(),
            reason: &probe.reason,
            refusal: probe.ring_refused.as_ref().map(|refusal| Refusal {
                what: &refusal.what,
                advice: &refusal.advice,
            }),
            features: probe
                .features
                .iter()
                .map(|f| Feature {
                    name: f.name,
                    since: f.since,
                    found: f.found,
                    used_for: f.used_for,
                })
                .collect(),
            limits: Limits {
                memlock_bytes: probe.limits.memlock,
                open_files: probe.limits.open_files,
                pipe_max_size_bytes: probe.limits.pipe_max_size,
                pipe_user_pages_soft: probe.limits.pipe_user_pages_soft,
                io_uring_disabled: probe.limits.io_uring_disabled,
            },
        }
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "spliceport {} on Linux {}", self.version, self.kernel)?;
        match &self.refusal {
            None => writeln!(f, "backend: {} ({})", self.backend, self.reason)?,
            Some(refusal) => {
                writeln!(f, "backend: {} (io_uring can't be had)", self.backend)?;
                writeln!(f, "\nwhat happened: {}", refusal.what)?;
                writeln!(f, "what to do: {}", refusal.advice)?;
            }
        }
        if !self.features.is_empty() {
            writeln!(f, "\nfeatures of io_uring")?;
            let width = |get: fn(&Feature) -> &str| {
                let widths = self.features.iter().map(|feature| get(feature).len());
                widths.max().unwrap_or(0)
            };
            let names = width(|feature| feature.name);
            let sinces = width(|feature| feature.since);
            for feature in &self.features {
                let Feature {
                    name,
                    since,
                    used_for,
                    found,
                } = feature;
                let found = if *found { "found  " } else { "missing" };
                writeln!(
                    f,
                    "  {found}  {name:names$}  since {since:sinces$}  {used_for}"
                )?;
            }
        }
        writeln!(f, "\nlimits")?;
        let limits = &self.limits;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, value: Option<u64>, none: &str| {
            let value = value.map_or_else(|| none.to_owned(), |n| n.to_string());
            writeln!(f, "  {name:32}  {value}")
        };
        let unknown = "can't be read";
        row(
            f,
            "RLIMIT_MEMLOCK (bytes)",
            limits.memlock_bytes,
            "unlimited",
        )?;
        row(f, "RLIMIT_NOFILE", limits.open_files, "unlimited")?;
        row(
            f,
            "fs.pipe-max-size (bytes)",
            limits.pipe_max_size_bytes,
            unknown,
        )?;
        row(
            f,
            "fs.pipe-user-pages-soft (pages)",
            limits.pipe_user_pages_soft,
            unknown,
        )?;
        row(
            f,
            "kernel.io_uring_disabled",
            limits.io_uring_disabled,
            "absent (allowed)",
        )
    }
}
