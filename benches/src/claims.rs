//! What was claimed for sending files in an event loop: sendfile instead of read and write, three
//! times the throughput and less memory. The same work in loops of both kinds: Python's asyncio,
//! for which it was said, loops in Rust on epoll, and ours.

use std::error::Error;

use crate::child::Server;
use crate::rounds::Figures;
use crate::setup::{Options, Scratch};
use crate::transport::{self, Cell, Pace, Row};
use crate::web;

const ASYNCIO: [(&str, &str); 3] = [
    ("asyncio, whole file + write", "read-all"),
    ("asyncio, read + write", "read-write"),
    ("asyncio, loop.sendfile", "sendfile"),
];

const LOOPS: [&str; 5] = [
    "epoll + read + write",
    "tokio, io::copy",
    "epoll + sendfile(2)",
    "ring, auto",
    "emulated, auto",
];

/// Runs it.
pub fn run(options: &Options) -> Result<Figures<Row>, Box<dyn Error>> {
    let size = 16 << 20;
    let scratch = Scratch::new("claims")?;
    let file = scratch.file("file", size)?;
    let mut figures = Figures::default();
    let mut servers = Vec::new();
    match web::find("python3") {
        Some(python) => {
            for (name, way) in ASYNCIO.iter().filter(|(name, _)| options.wants(name)) {
                let server = Server::start(name, &python, |address| {
                    let (host, port) = (address.ip().to_string(), address.port().to_string());
                    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/asyncio_sender.py");
                    let file = file.to_string_lossy();
                    let args = [script, way, &host, &port, &file, &size.to_string()];
                    Ok(args.map(str::to_owned).to_vec())
                });
                match server {
                    Ok(server) => servers.push(server),
                    Err(e) => figures.fail(e.to_string()),
                }
            }
        }
        None => figures.missing.push("asyncio (python3)".into()),
    }
    servers.extend(transport::start(&file, size, |name| {
        LOOPS.contains(&name) && options.wants(name)
    })?);
    let servers: Vec<&Server> = servers.iter().collect();
    let connections: &[usize] = if options.quick { &[64] } else { &[1, 64] };
    for &connections in connections {
        let cell = Cell {
            size,
            connections,
            deep: !options.quick,
        };
        let pace = Pace::of(options.quick, connections, 3);
        transport::measure(&servers, &cell, pace, &mut figures);
    }
    Ok(figures)
}
