//! Clients whose files are never cached: before each request, the kernel is asked to forget the
//! file. A process of its own, which goes on until it is ended, and sleeps while it waits, since it
//! shares its processor with the load that is measured.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::child::{Helper, Server};
use crate::load;
use crate::poll::Clients;

pub const ROLE: &str = "--chill";

/// Cold clients; gone when dropped.
pub struct Cold(#[allow(dead_code, reason = "held for its end")] Helper);

impl Cold {
    /// Connects `count` times; the n-th connection asks for `/cold-n` of the directory again and
    /// again.
    pub fn start(server: &Server, dir: &Path, count: usize) -> io::Result<Cold> {
        let dir = dir.to_string_lossy().into_owned();
        let args = [server.address.to_string(), dir, count.to_string()];
        let mut clients = Helper::start(ROLE, &args)?;
        match clients.line()?.trim() {
            "ready" => Ok(Cold(clients)),
            _ => Err(io::Error::other(
                "the cold clients failed; what they said is above",
            )),
        }
    }
}

/// The role: `ADDRESS DIR COUNT`.
pub fn role(args: &[String]) -> io::Result<()> {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "ADDRESS DIR COUNT");
    let [address, dir, count] = args else {
        return Err(usage());
    };
    let address: SocketAddr = address.parse().map_err(|_| usage())?;
    let count: usize = count.parse().map_err(|_| usage())?;
    let request = |n| format!("GET /cold-{n} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes();
    let files: io::Result<Vec<File>> = (0..count)
        .map(|n| File::open(Path::new(dir).join(format!("cold-{n}"))))
        .collect();
    let files = files?;
    let ask = |clients: &mut Clients, n: usize| {
        // SAFETY: takes and touches no memory.
        unsafe { libc::posix_fadvise(files[n].as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        clients.streams[n].write_all(&request(n))
    };
    let lengths: io::Result<Vec<u64>> = (0..count)
        .map(|n| load::response_length(address, &request(n)))
        .collect();
    let lengths = lengths?;
    let mut left = lengths.clone();
    let mut clients = Clients::connect(address, count)?;
    for n in 0..count {
        ask(&mut clients, n)?;
    }
    println!("ready");
    let mut ready = Vec::new();
    loop {
        clients.wait(&mut ready)?;
        for &n in &ready {
            left[n] -= clients.discard(n)?.unwrap_or(0).min(left[n]);
            if left[n] == 0 {
                left[n] = lengths[n];
                ask(&mut clients, n)?;
            }
        }
    }
}
