//! The published report: from the figures of all benchmarks.

mod environment;
mod goals;
mod markdown;
mod plot;
mod relay;

use std::error::Error;
use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use environment::{Environment, tcp_mem};

use crate::rounds::Figures;
use crate::{cold, requests, stalled, transport};

/// All that was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct All {
    pub environment: Environment,
    pub transport: Figures<transport::Row>,
    pub requests: Figures<requests::Row>,
    pub stalled: Figures<stalled::Row>,
    pub cold: Figures<cold::Row>,
    pub relay: Figures<crate::relay::Row>,
    pub claims: Figures<transport::Row>,
}

impl All {
    /// What an earlier run has written.
    pub fn read(dir: &Path) -> Result<All, Box<dyn Error>> {
        fn part<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<T, Box<dyn Error>> {
            let path = dir.join(name).with_extension("json");
            let text = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()).into())
        }
        Ok(All {
            environment: part(dir, "environment")?,
            transport: part(dir, "transport")?,
            requests: part(dir, "requests")?,
            stalled: part(dir, "stalled")?,
            cold: part(dir, "cold")?,
            relay: part(dir, "relay")?,
            claims: part(dir, "claims")?,
        })
    }

    /// The goals and the set-up, in Markdown.
    pub fn summary(&self) -> String {
        markdown::summary(self)
    }

    /// Writes the figures, the plots and the report.
    pub fn write(&self, dir: &Path) -> Result<(), Box<dyn Error>> {
        fn part<T: Serialize>(dir: &Path, name: &str, what: &T) -> Result<(), Box<dyn Error>> {
            let path = dir.join(name).with_extension("json");
            fs::write(&path, serde_json::to_string_pretty(what)? + "\n")
                .map_err(|e| format!("{}: {e}", path.display()).into())
        }
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        part(dir, "environment", &self.environment)?;
        part(dir, "transport", &self.transport)?;
        part(dir, "requests", &self.requests)?;
        part(dir, "stalled", &self.stalled)?;
        part(dir, "cold", &self.cold)?;
        part(dir, "relay", &self.relay)?;
        part(dir, "claims", &self.claims)?;
        let plots = self.plot(dir)?;
        fs::write(dir.join("report.md"), markdown::write(self, &plots))?;
        println!("\nwritten: {}", dir.join("report.md").display());
        Ok(())
    }

    /// Draws the plots: their files and titles.
    fn plot(&self, dir: &Path) -> Result<Vec<(&'static str, &'static str)>, Box<dyn Error>> {
        let mut plots = Vec::new();
        let one = |r: &&transport::Row| r.connections == 1 && !r.server.contains("ring, c");
        let rows: Vec<&transport::Row> = self.transport.rows.iter().filter(one).collect();
        let figures: Vec<(&str, u64, f64)> = rows
            .iter()
            .map(|r| (r.server.as_str(), r.size, r.gigabytes_per_second.median))
            .collect();
        let name = ("transport.svg", "One way, one connection: GB/s by size");
        if lines(dir, name, "GB/s", &figures)? {
            plots.push(name);
        }
        let many = self.requests.rows.iter();
        let many = many.filter(|r| r.connections == 64 && r.files == 1);
        let figures: Vec<(&str, u64, f64)> = many
            .filter(|r| r.size <= 128 << 10)
            .map(|r| (r.server.as_str(), r.size, r.cpu_micros_per_request.median))
            .collect();
        let name = ("requests.svg", "Requests on 64 connections: CPU µs by size");
        if lines(dir, name, "CPU µs per request", &figures)? {
            plots.push(name);
        }
        let name = ("stalled.svg", "Throughput kept beside stalled clients");
        let bars: Vec<(String, f64)> = self
            .stalled
            .rows
            .iter()
            .map(|r| (format!("{} beside {}", r.server, r.stalled), r.kept.median))
            .collect();
        if !bars.is_empty() {
            plot::bars(&dir.join(name.0), name.1, "of the throughput alone", &bars)?;
            plots.push(name);
        }
        let name = (
            "claims.svg",
            "Files of 16 MiB in an event loop, 64 connections: GB/s",
        );
        let many = self.claims.rows.iter().filter(|r| r.connections == 64);
        let bars: Vec<(String, f64)> = many
            .map(|r| (r.server.clone(), r.gigabytes_per_second.median))
            .collect();
        if !bars.is_empty() {
            plot::bars(&dir.join(name.0), name.1, "GB/s", &bars)?;
            plots.push(name);
        }
        Ok(plots)
    }
}

/// Draws lines by size, ours first; false if there is nothing to draw.
fn lines(
    dir: &Path,
    (file, title): (&str, &str),
    unit: &str,
    figures: &[(&str, u64, f64)],
) -> Result<bool, Box<dyn Error>> {
    let mut sizes: Vec<u64> = figures.iter().map(|(_, size, _)| *size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut names: Vec<&str> = Vec::new();
    for (name, ..) in figures {
        if !names.contains(name) {
            names.push(name);
        }
    }
    names.sort_by_key(|name| {
        let ours = [
            "ring, auto",
            "emulated, auto",
            crate::web::RING,
            crate::web::EMULATED,
        ];
        ours.iter().position(|n| n == name).unwrap_or(ours.len())
    });
    let line = |name: &str| {
        let own = figures.iter().filter(|(server, ..)| *server == name);
        let points = own.filter_map(|(_, size, y)| Some((sizes.binary_search(size).ok()?, *y)));
        (name.to_owned(), points.collect())
    };
    let series: Vec<plot::Series> = names.iter().map(|name| line(name)).collect();
    let places: Vec<String> = sizes.iter().map(|s| size(*s)).collect();
    if places.is_empty() {
        return Ok(false);
    }
    plot::lines(&dir.join(file), title, unit, &places, &series)?;
    Ok(true)
}

/// A number of bytes as people say it.
pub fn size(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 => format!("{} GiB", b >> 30),
        b if b >= 1 << 20 => format!("{} MiB", b >> 20),
        b => format!("{} KiB", b >> 10),
    }
}
