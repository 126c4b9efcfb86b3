//! Clients whose files are never cached: before each request, the kernel is asked to forget the
//! file. A process of its own, which goes on until it is ended, and sleeps while it waits, since it
//! shares its processor with the load that is measured.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::child::{Helper, Server};
use crate::load;
use crate::poll::Clients;

pub const ROLE: &str = "--chill";

/// Cold clients; gone when dropped.
pub struct Cold {
    /// Where they write how many bytes have come.
    count: PathBuf,
    since: (Instant, u64),
    #[allow(dead_code, reason = "held for its end")]
    clients: Helper,
}

impl Cold {
    /// Connects `count` times; the n-th connection asks for `/cold-n` of the directory again and
    /// again. What is counted is kept in `state`.
    pub fn start(server: &Server, dir: &Path, state: &Path, count: usize) -> io::Result<Cold> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let counted = state.join("cold-count");
        let address = server.address.to_string();
        let args = [address, text(dir), text(&counted), count.to_string()];
        let mut clients = Helper::start(ROLE, &args)?;
        match clients.line()?.trim() {
            "ready" => Ok(Cold {
                since: (Instant::now(), read(&counted)),
                count: counted,
                clients,
            }),
            _ => Err(io::Error::other(
                "the cold clients failed; what they said is above",
            )),
        }
    }

    /// What they were sent since they are ready.
    pub fn megabytes_per_second(&self) -> f64 {
        let (start, before) = self.since;
        (read(&self.count) - before) as f64 / 1e6 / start.elapsed().as_secs_f64()
    }
}

fn read(count: &Path) -> u64 {
    let bytes = fs::read(count).unwrap_or_default();
    bytes.try_into().map_or(0, u64::from_ne_bytes)
}

/// The role: `ADDRESS DIR FILE COUNT`; bytes are counted in FILE.
pub fn role(args: &[String]) -> io::Result<()> {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "ADDRESS DIR FILE COUNT");
    let [address, dir, counted, count] = args else {
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
    let (counted, mut bytes) = (File::create(counted)?, 0_u64);
    counted.write_all_at(&bytes.to_ne_bytes(), 0)?;
    let mut clients = Clients::connect(address, count)?;
    for n in 0..count {
        ask(&mut clients, n)?;
    }
    println!("ready");
    let mut ready = Vec::new();
    loop {
        clients.wait(&mut ready)?;
        for &n in &ready {
            let got = clients.discard(n)?.unwrap_or(0).min(left[n]);
            left[n] -= got;
            bytes += got;
            if left[n] == 0 {
                left[n] = lengths[n];
                ask(&mut clients, n)?;
                counted.write_all_at(&bytes.to_ne_bytes(), 0)?;
            }
        }
    }
}
