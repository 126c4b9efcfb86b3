//! A keep-alive HTTP load as cheap as it can be, so that the server is what is measured: a process
//! of its own on the other processor. It reads one response in full to learn its length, and from
//! then on counts bytes and throws them away. It never sleeps, so that no server pays for waking it,
//! which over a network none would. Every response must be as long as the first; bounded in time.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::child::{Helper, Server};
use crate::measure::{self, Used, Window};
use crate::poll::Clients;

pub const ROLE: &str = "--load";

/// What the load saw, and what the server used.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub requests: u64,
    pub bytes: u64,
    pub p50_micros: f64,
    pub p99_micros: f64,
    pub p999_micros: f64,
    /// Share of the time in which the load had something to do: near 1, it is the load that
    /// limits.
    pub busy: f64,
    pub used: Used,
}

impl Report {
    pub fn requests_per_second(&self) -> f64 {
        self.requests as f64 / self.used.seconds
    }

    pub fn gigabytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.used.seconds / 1e9
    }

    pub fn cpu_micros_per_request(&self) -> f64 {
        self.used.cpu * 1e6 / self.requests as f64
    }
}

/// What is asked for: a path, or one for each of many files, with `*` for their numbers, of five digits.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    pub path: &'a str,
    pub count: u64,
}

impl<'a> From<&'a str> for Files<'a> {
    fn from(path: &'a str) -> Files<'a> {
        Files { path, count: 1 }
    }
}

/// Until when a response takes its time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// The load has taken all of it.
    Taken,
    /// All of it has arrived at the load's socket, whoever has the load's processor then.
    Arrived,
}

fn start(
    server: &Server,
    files: Files<'_>,
    connections: usize,
    warm: Duration,
    time: Duration,
    until: Until,
) -> io::Result<Helper> {
    let numbers = [
        connections as u128,
        warm.as_millis(),
        time.as_millis(),
        u128::from(server.id()),
        u128::from(files.count),
        u128::from(until == Until::Arrived),
    ];
    let mut args = vec![server.address.to_string(), files.path.to_owned()];
    args.extend(numbers.iter().map(u128::to_string));
    Helper::start(ROLE, &args)
}

/// Runs a load for a while to warm up and a while to count, and waits for its end.
pub fn run_after(
    server: &Server,
    files: Files<'_>,
    connections: usize,
    warm: Duration,
    time: Duration,
) -> io::Result<Report> {
    answered(
        start(server, files, connections, warm, time, Until::Taken)?,
        server,
        time,
    )
}

/// As [`run_after`]; a response's time is over when the kernel has all of it for the load, so that what
/// else goes on at the load's processor does not count.
pub fn run_to_arrival(
    server: &Server,
    path: &str,
    connections: usize,
    warm: Duration,
    time: Duration,
) -> io::Result<Report> {
    answered(
        start(server, path.into(), connections, warm, time, Until::Arrived)?,
        server,
        time,
    )
}

fn answered(load: Helper, server: &Server, time: Duration) -> io::Result<Report> {
    let report: Report = load.finish()?;
    if report.requests == 0 {
        let what = format!("{} answered nothing in {time:?}", server.name);
        return Err(io::Error::new(io::ErrorKind::TimedOut, what));
    }
    Ok(report)
}

/// What a run told, or that nothing was answered.
pub fn or_nothing(told: io::Result<Report>, time: Duration) -> Report {
    let used = Used {
        seconds: time.as_secs_f64(),
        ..Used::default()
    };
    told.unwrap_or(Report {
        used,
        ..Report::default()
    })
}

/// System calls of the server for a request, from a run of its own.
pub fn system_calls(server: &Server, files: Files<'_>, connections: usize) -> Option<f64> {
    let time = Duration::from_millis(500);
    let load = start(server, files, connections, time / 8, time, Until::Taken).ok()?;
    std::thread::sleep(Duration::from_millis(180));
    let rate = measure::system_calls(server.id(), Duration::from_millis(200));
    let report: Report = load.finish().ok()?;
    Some(rate? / report.requests_per_second())
}

/// The role: `ADDRESS PATH CONNECTIONS WARM TIME PID FILES ARRIVED`, times in milliseconds; the
/// last is 1 where responses are over when they have arrived.
pub fn role(args: &[String]) -> io::Result<Report> {
    let what = "ADDRESS PATH CONNECTIONS WARM TIME PID FILES ARRIVED";
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, what);
    let [address, path, numbers @ ..] = args else {
        return Err(usage());
    };
    let numbers: Vec<u64> = numbers.iter().filter_map(|n| n.parse().ok()).collect();
    let [connections, warm, time, pid, files, arrived] = numbers[..] else {
        return Err(usage());
    };
    let address = address.parse().map_err(|_| usage())?;
    let request = |number: u64| {
        let path = path.replace('*', &format!("{number:05}"));
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes()
    };
    let mut load = Load {
        length: response_length(address, &request(0))?,
        clients: Clients::connect(address, connections as usize)?,
        under_way: vec![(0, Duration::ZERO); connections as usize],
        requests: (0..files.max(1)).map(request).collect(),
        chance: 1,
        until: match arrived {
            1 => Until::Arrived,
            _ => Until::Taken,
        },
    };
    if load.until == Until::Arrived {
        load.clients.stamp()?;
    }
    for index in 0..load.under_way.len() {
        load.ask(index)?;
    }
    load.count(Duration::from_millis(warm), None)?;
    load.count(Duration::from_millis(time), Some(pid as u32))
}

struct Load {
    /// One for each file.
    requests: Vec<Vec<u8>>,
    /// The state of the numbers that choose among them.
    chance: u64,
    /// Of each response, with its head.
    length: u64,
    clients: Clients,
    /// For each connection what is to come of its response, and when it was asked for, by the
    /// system's clock: the one that the kernel stamps arrivals with.
    under_way: Vec<(u64, Duration)>,
    until: Until,
}

fn system_time() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default()
}

impl Load {
    fn ask(&mut self, index: usize) -> io::Result<()> {
        // Marsaglia's xorshift: any of the files, as likely as each other.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let request = &self.requests[(self.chance % self.requests.len() as u64) as usize];
        self.under_way[index] = (self.length, system_time());
        self.clients.streams[index].write_all(request)
    }

    fn count(&mut self, time: Duration, server: Option<u32>) -> io::Result<Report> {
        let mut nanos = Histogram::<u64>::new_with_bounds(100, 3_600_000_000_000, 3)
            .map_err(io::Error::other)?;
        let (mut bytes, mut idle) = (0, Duration::ZERO);
        let mut ready = Vec::new();
        let window = server.map(Window::open);
        let start = Instant::now();
        loop {
            let looked = Instant::now();
            if looked - start >= time {
                break;
            }
            self.clients.ready(&mut ready)?;
            if ready.is_empty() {
                idle += looked.elapsed();
            }
            for &index in &ready {
                let (got, arrived) = match self.until {
                    Until::Taken => (self.clients.discard(index)?.unwrap_or(0), None),
                    Until::Arrived => self.clients.discard_stamped(index)?.unwrap_or_default(),
                };
                let (left, asked) = &mut self.under_way[index];
                if got > *left {
                    return Err(io::Error::other("a response is longer than the first"));
                }
                bytes += got;
                *left -= got;
                if *left == 0 {
                    let over = arrived.unwrap_or_else(system_time);
                    let took = over.saturating_sub(*asked).as_nanos() as u64;
                    let took = took.min(3_600_000_000_000);
                    nanos.record(took).map_err(io::Error::other)?;
                    self.ask(index)?;
                }
            }
        }
        let busy = 1.0 - idle.as_secs_f64() / start.elapsed().as_secs_f64();
        let used = window.map(Window::close).unwrap_or_default();
        let micros = |quantile| nanos.value_at_quantile(quantile) as f64 / 1e3;
        Ok(Report {
            requests: nanos.len(),
            bytes,
            p50_micros: micros(0.5),
            p99_micros: micros(0.99),
            p999_micros: micros(0.999),
            busy,
            used,
        })
    }
}

/// Fetches once, checks the answer, and gives its whole length.
pub fn response_length(address: SocketAddr, request: &[u8]) -> io::Result<u64> {
    let mut stream = TcpStream::connect(address)?;
    // Longer than any server takes for one file, unless it is blocked.
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    let mut block = vec![0; 64 << 10];
    loop {
        let n = stream.read(&mut block)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&block[..n]);
        let Some(head) = answer.windows(4).position(|w| w == b"\r\n\r\n") else {
            continue;
        };
        let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
        if !text.starts_with("http/1.1 200") {
            return Err(io::Error::other(format!("not a file: {text}")));
        }
        let body: u64 = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
            .ok_or_else(|| io::Error::other("no Content-Length"))?;
        return Ok(head as u64 + 4 + body);
    }
}
