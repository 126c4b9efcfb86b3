//! What comes in: passed on by a proxy, one way and both ways, and written into files that are
//! overwritten in place. Ours on both backends beside tokio and loops over the bare calls.

use std::error::Error;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::child::Server;
use crate::peers;
use crate::pump::{self, Way};
use crate::report;
use crate::rounds::Figures;
use crate::setup::{Options, Scratch};
use crate::transport::{self, Cell, Pace};

/// What the servers do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Work {
    OneWay,
    BothWays,
    Upload,
}

/// What one server did in one cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub work: Work,
    /// The size is that of a file; a relay's stream has none.
    #[serde(flatten)]
    pub row: transport::Row,
}

impl Row {
    /// The cell in words.
    pub fn title(&self) -> String {
        title(self.work, self.row.size, self.row.connections)
    }
}

fn title(work: Work, size: u64, connections: usize) -> String {
    let what = match work {
        Work::OneWay => "Relayed one way".into(),
        Work::BothWays => "Relayed both ways".into(),
        Work::Upload => format!("Files of {} received", report::size(size)),
    };
    format!("{what}, {connections} connections")
}

/// Files that are received, and as many of them as there are connections at most.
const SIZE: u64 = 64 << 20;
const FILES: usize = 8;

/// Runs it.
pub fn run(options: &Options) -> Result<Figures<Row>, Box<dyn Error>> {
    let mut figures = Figures::default();
    // An address from which nobody connects, so that it is free whenever a load wants it.
    let sink = TcpListener::bind(("127.0.0.2", 0))?.local_addr()?;
    let upstream = sink.to_string();
    let relays = start("relay", peers::RELAYS, Path::new(&upstream), 0, options)?;
    let connections: &[usize] = if options.quick { &[1] } else { &[1, 64] };
    for work in [Work::OneWay, Work::BothWays] {
        for &connections in connections
            .iter()
            .filter(|_| !options.quick || work == Work::OneWay)
        {
            let way = match work {
                Work::BothWays => Way::Both(sink),
                _ => Way::Through(sink),
            };
            measure(&relays, work, way, 0, connections, options, &mut figures);
        }
    }
    drop(relays);
    let scratch = Scratch::new("uploads")?;
    for file in 0..FILES {
        scratch.file(&file.to_string(), SIZE)?;
    }
    let uploads = start("upload", peers::UPLOADS, &scratch.files(), SIZE, options)?;
    let connections: &[usize] = if options.quick { &[1] } else { &[1, FILES] };
    for &connections in connections {
        measure(
            &uploads,
            Work::Upload,
            Way::In,
            SIZE,
            connections,
            options,
            &mut figures,
        );
    }
    Ok(figures)
}

fn start<T>(
    kind: &str,
    peers: &[(&str, T)],
    path: &Path,
    size: u64,
    options: &Options,
) -> std::io::Result<Vec<Server>> {
    let names = peers.iter().map(|(name, _)| *name);
    names
        .filter(|name| options.wants(name))
        .map(|name| Server::peer(kind, name, path, size))
        .collect()
}

fn measure(
    servers: &[Server],
    work: Work,
    way: Way,
    size: u64,
    connections: usize,
    options: &Options,
    figures: &mut Figures<Row>,
) {
    let servers: Vec<&Server> = servers.iter().collect();
    let cell = Cell {
        size,
        connections,
        deep: !options.quick && connections == 1 && work != Work::BothWays,
    };
    let what = title(work, size, connections);
    let pace = Pace {
        // Two connections behind each other take longer to find their windows.
        warm: Duration::from_millis(200),
        ..Pace::of(options.quick, connections, 3)
    };
    let rows = transport::compare(
        &servers,
        &cell,
        &what,
        pace,
        figures,
        |server, warm, time| pump::start(server, way, connections, warm, time),
    );
    figures
        .rows
        .extend(rows.into_iter().map(|row| Row { work, row }));
}
