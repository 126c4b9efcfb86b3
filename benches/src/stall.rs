//! Clients that ask and never read: a process of its own, which holds its connections until its
//! standard input ends.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

/// The first argument that makes a benchmark's program the stalled clients.
const ROLE: &str = "--stall";

/// Stalled clients; gone when dropped.
pub struct Stalled(Child);

impl Stalled {
    /// Connects `count` times and asks for `path` on each; returns once all have been answered to
    /// the first byte.
    pub fn start(address: SocketAddr, path: &str, count: usize) -> io::Result<Stalled> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([ROLE, &address.to_string(), path, &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let stalled = Stalled(child);
        if line.trim() != "ready" {
            return Err(io::Error::other("the stalled clients failed"));
        }
        Ok(stalled)
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// To be called first by every benchmark's `main`: does not return in the stalled clients.
pub fn become_stalled_if_asked() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).map(String::as_str) != Some(ROLE) {
        return;
    }
    crate::measure::pin(1);
    match stall(&args) {
        Ok(()) => std::process::exit(0),
        Err(e) => {
            eprintln!("stall: {e}");
            std::process::exit(1);
        }
    }
}

fn stall(args: &[String]) -> io::Result<()> {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "ADDRESS PATH COUNT");
    let [_, _, address, path, count] = args else {
        return Err(usage());
    };
    let address: SocketAddr = address.parse().map_err(|_| usage())?;
    let count: usize = count.parse().map_err(|_| usage())?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(request.as_bytes())?;
        streams.push(stream);
    }
    for stream in &streams {
        let mut first = [0];
        stream.peek(&mut first)?;
    }
    println!("ready");
    // Until the parent lets go.
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
