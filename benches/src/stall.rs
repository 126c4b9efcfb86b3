//! Clients that ask and never read: a process of its own, which holds its connections until it is
//! ended.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::child::{Helper, Server};

pub const ROLE: &str = "--stall";

/// Stalled clients; gone when dropped.
pub struct Stalled(#[allow(dead_code, reason = "held for its end")] Helper);

impl Stalled {
    /// Connects `count` times and asks for `path` on each; returns once all have been answered to
    /// the first byte.
    pub fn start(server: &Server, path: &str, count: usize) -> io::Result<Stalled> {
        let args = [
            server.address.to_string(),
            path.to_owned(),
            count.to_string(),
        ];
        let mut clients = Helper::start(ROLE, &args)?;
        match clients.line()?.trim() {
            "ready" => Ok(Stalled(clients)),
            _ => Err(io::Error::other(
                "the stalled clients failed; what they said is above",
            )),
        }
    }
}

/// The role: `ADDRESS PATH COUNT`.
pub fn role(args: &[String]) -> io::Result<()> {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "ADDRESS PATH COUNT");
    let [address, path, count] = args else {
        return Err(usage());
    };
    let address: SocketAddr = address.parse().map_err(|_| usage())?;
    let count: usize = count.parse().map_err(|_| usage())?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(request.as_bytes())?;
        streams.push(stream);
    }
    for stream in &streams {
        let mut first = [0];
        stream.peek(&mut first)?;
    }
    println!("ready");
    // Until the parent ends it, or has ended.
    loop {
        std::thread::park();
    }
}
