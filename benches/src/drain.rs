//! The receiving side of a transfer one way: a process of its own, so that its processor time is
//! not the server's. It throws away all that comes on a number of connections, and counts during a
//! window of time. It never sleeps, so that no server pays for waking it, which over a network none
//! would.

use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::child::{Helper, Server};
use crate::measure::{self, Used, Window};
use crate::poll::Clients;

pub const ROLE: &str = "--drain";

/// What was received, and what the server used for it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Received {
    pub bytes: u64,
    /// Share of the time in which there was something to do: near 1, it is this side that limits.
    pub busy: f64,
    pub used: Used,
}

impl Received {
    pub fn gigabytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.used.seconds / 1e9
    }

    pub fn cpu_per_gigabyte(&self) -> f64 {
        self.used.cpu / (self.bytes as f64 / 1e9)
    }
}

/// Starts to receive for a while; it finishes with what was [`Received`].
pub fn start(
    server: &Server,
    connections: usize,
    warm: Duration,
    time: Duration,
) -> io::Result<Helper> {
    let numbers = [
        connections as u128,
        warm.as_millis(),
        time.as_millis(),
        u128::from(server.id()),
    ];
    let mut args = vec![server.address.to_string()];
    args.extend(numbers.iter().map(u128::to_string));
    Helper::start(ROLE, &args)
}

/// System calls of the server for a gigabyte, from a run of its own under a load that is started for
/// so long to warm up and so long to count.
pub fn system_calls(
    server: &Server,
    load: impl FnOnce(Duration, Duration) -> io::Result<Helper>,
) -> Option<f64> {
    let (warm, time) = (Duration::from_millis(100), Duration::from_millis(450));
    let load = load(warm, time).ok()?;
    std::thread::sleep(warm + Duration::from_millis(100));
    let rate = measure::system_calls(server.id(), Duration::from_millis(200));
    let received: Received = load.finish().ok()?;
    Some(rate? / received.gigabytes_per_second())
}

/// The role: `ADDRESS CONNECTIONS WARM TIME PID`, times in milliseconds.
pub fn role(args: &[String]) -> io::Result<Received> {
    let usage = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "ADDRESS CONNECTIONS WARM TIME PID",
        )
    };
    let [address, numbers @ ..] = args else {
        return Err(usage());
    };
    let numbers: Vec<u64> = numbers.iter().filter_map(|n| n.parse().ok()).collect();
    let [connections, warm, time, pid] = numbers[..] else {
        return Err(usage());
    };
    let address = address.parse().map_err(|_| usage())?;
    let mut clients = Clients::connect(address, connections as usize)?;
    let mut discard = |clients: &Clients, index| Ok(clients.discard(index)?.unwrap_or(0));
    let (warm, time) = (Duration::from_millis(warm), Duration::from_millis(time));
    count(&mut clients, warm, None, &mut discard)?;
    let window = Window::open(pid as u32);
    count(&mut clients, time, Some(window), &mut discard)
}

/// Has each connection that is ready do its step, for a while, and adds up the bytes that the steps
/// count.
pub fn count(
    clients: &mut Clients,
    time: Duration,
    window: Option<Window>,
    step: &mut impl FnMut(&Clients, usize) -> io::Result<u64>,
) -> io::Result<Received> {
    let (mut bytes, mut idle) = (0, Duration::ZERO);
    let mut ready = Vec::new();
    let start = Instant::now();
    loop {
        let looked = Instant::now();
        // A server that reads a whole file first may take longer to begin.
        if looked - start
            >= if bytes > 0 {
                time
            } else {
                time.max(Duration::from_secs(5))
            }
        {
            break;
        }
        clients.ready(&mut ready)?;
        if ready.is_empty() {
            idle += looked.elapsed();
        }
        for &index in &ready {
            bytes += step(clients, index)?;
        }
    }
    let busy = 1.0 - idle.as_secs_f64() / start.elapsed().as_secs_f64();
    let Some(window) = window else {
        return Ok(Received::default());
    };
    let used = window.close();
    if bytes == 0 {
        let what = format!("nothing went in {:?}", start.elapsed());
        return Err(io::Error::new(io::ErrorKind::TimedOut, what));
    }
    Ok(Received { bytes, busy, used })
}
