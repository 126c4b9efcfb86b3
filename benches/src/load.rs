//! A keep-alive HTTP load as cheap as it can be, so that the server is what is measured: a process
//! of its own on the other processor. It reads one response in full to learn its length, and from
//! then on counts bytes and throws them away (`MSG_TRUNC`: without copying). It never sleeps, so
//! that no server pays for waking it, which over a network none would. Every response must be as
//! long as the first; bounded in time.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The first argument that makes a benchmark's program the load.
const ROLE: &str = "--load";

/// What the load saw.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Report {
    pub requests: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub p50_micros: u64,
    pub p99_micros: u64,
    pub p999_micros: u64,
    /// Share of the time in which the load had something to do: near 1, it is the load that
    /// limits.
    pub busy: f64,
}

/// Runs a load and waits for its end.
pub fn run(
    address: SocketAddr,
    path: &str,
    connections: usize,
    time: Duration,
) -> io::Result<Report> {
    let output = Command::new(std::env::current_exe()?)
        .args([
            ROLE,
            &address.to_string(),
            path,
            &connections.to_string(),
            &time.as_millis().to_string(),
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!(
            "the load on {address}{path} failed"
        )));
    }
    serde_json::from_slice(&output.stdout).map_err(io::Error::other)
}

/// As [`run`]; a server that answers nothing in the time is reported as that.
pub fn run_or_nothing(
    address: SocketAddr,
    path: &str,
    connections: usize,
    time: Duration,
) -> Report {
    run(address, path, connections, time).unwrap_or(Report {
        requests: 0,
        bytes: 0,
        seconds: time.as_secs_f64(),
        p50_micros: 0,
        p99_micros: 0,
        p999_micros: 0,
        busy: 0.0,
    })
}

/// To be called first by every benchmark's `main`: does not return in the load.
pub fn become_load_if_asked() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).map(String::as_str) != Some(ROLE) {
        return;
    }
    crate::measure::pin(1);
    let report = parse(&args)
        .and_then(|(address, path, connections, time)| load(address, path, connections, time));
    match report {
        Ok(report) => {
            println!(
                "{}",
                serde_json::to_string(&report).expect("a report is plain data")
            );
            std::process::exit(0);
        }
        Err(e) => {
            eprintln!("load: {e}");
            std::process::exit(1);
        }
    }
}

fn parse(args: &[String]) -> io::Result<(SocketAddr, &str, usize, Duration)> {
    let usage = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "ADDRESS PATH CONNECTIONS MILLISECONDS",
        )
    };
    let [_, _, address, path, connections, millis] = args else {
        return Err(usage());
    };
    Ok((
        address.parse().map_err(|_| usage())?,
        path,
        connections.parse().map_err(|_| usage())?,
        Duration::from_millis(millis.parse().map_err(|_| usage())?),
    ))
}

struct Connection {
    stream: TcpStream,
    left: u64,
    asked: Instant,
}

fn load(address: SocketAddr, path: &str, connections: usize, time: Duration) -> io::Result<Report> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes();
    let length = response_length(address, &request)?;
    // SAFETY: a fresh descriptor, ours.
    let epoll = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) };
    let mut all = Vec::new();
    for index in 0..connections {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: index as u64,
        };
        // SAFETY: the event is on this stack frame.
        if unsafe {
            libc::epoll_ctl(
                epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                stream.as_raw_fd(),
                &raw mut event,
            )
        } < 0
        {
            return Err(io::Error::last_os_error());
        }
        all.push(Connection {
            stream,
            left: 0,
            asked: Instant::now(),
        });
    }
    let mut histogram =
        Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3).map_err(io::Error::other)?;
    let mut bytes = 0;
    let mut idle = Duration::ZERO;
    let start = Instant::now();
    for connection in &mut all {
        ask(connection, &request, length)?;
    }
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 512];
    while start.elapsed() < time {
        let looked = Instant::now();
        // SAFETY: the kernel writes at most as many events as the vector has.
        let n = unsafe { libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), 512, 0) };
        if n == 0 {
            idle += looked.elapsed();
        }
        for event in &events[..n.max(0) as usize] {
            let connection = &mut all[event.u64 as usize];
            // SAFETY: with MSG_TRUNC, TCP throws the bytes away and writes nothing (tcp(7)).
            let got = unsafe {
                libc::recv(
                    connection.stream.as_raw_fd(),
                    std::ptr::null_mut(),
                    8 << 20,
                    libc::MSG_TRUNC | libc::MSG_DONTWAIT,
                )
            };
            match got {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n if n < 0 => {
                    let e = io::Error::last_os_error();
                    if e.kind() != io::ErrorKind::WouldBlock {
                        return Err(e);
                    }
                }
                n if n as u64 > connection.left => {
                    return Err(io::Error::other("a response is longer than the first"));
                }
                n => {
                    bytes += n as u64;
                    connection.left -= n as u64;
                }
            }
            if connection.left == 0 {
                let micros = connection.asked.elapsed().as_micros() as u64;
                histogram
                    .record(micros.min(3_600_000_000))
                    .map_err(io::Error::other)?;
                ask(connection, &request, length)?;
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Report {
        requests: histogram.len(),
        bytes,
        seconds,
        p50_micros: histogram.value_at_quantile(0.5),
        p99_micros: histogram.value_at_quantile(0.99),
        p999_micros: histogram.value_at_quantile(0.999),
        busy: 1.0 - idle.as_secs_f64() / seconds,
    })
}

fn ask(connection: &mut Connection, request: &[u8], length: u64) -> io::Result<()> {
    connection.left = length;
    connection.asked = Instant::now();
    connection.stream.write_all(request)
}

/// Fetches once, checks the answer, and gives its whole length.
fn response_length(address: SocketAddr, request: &[u8]) -> io::Result<u64> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
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
