//! The load of proxies and of servers that files are sent to: a process of its own that is the
//! source, and the sink as well where there is one. What it sends comes from a file in memory, by
//! sendfile(2), and what it receives is thrown away: it copies nothing, and never sleeps.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::FromRawFd;
use std::time::{Duration, Instant};

use crate::child::{Helper, Server};
use crate::drain::{self, Received};
use crate::measure::Window;
use crate::peers::syscall::{self, check};
use crate::poll::Clients;

pub const ROLE: &str = "--pump";

/// What is sent at once.
const BLOCK: u64 = 1 << 20;

/// Which way the bytes go.
#[derive(Clone, Copy)]
pub enum Way {
    /// To the server, where they stay. They count as they are sent.
    In,
    /// Through the server to a sink at an address. They count as they are received.
    Through(SocketAddr),
    /// The same, and back.
    Both(SocketAddr),
}

/// Starts to send for a while; it finishes with what went through.
pub fn start(
    server: &Server,
    way: Way,
    connections: usize,
    warm: Duration,
    time: Duration,
) -> io::Result<Helper> {
    let (way, sink) = match way {
        Way::In => ("in", None),
        Way::Through(sink) => ("through", Some(sink)),
        Way::Both(sink) => ("both", Some(sink)),
    };
    let numbers = [
        connections as u128,
        warm.as_millis(),
        time.as_millis(),
        u128::from(server.id()),
    ];
    let mut args = vec![way.to_owned(), server.address.to_string()];
    args.push(sink.map_or("-".into(), |sink| sink.to_string()));
    args.extend(numbers.iter().map(u128::to_string));
    Helper::start(ROLE, &args)
}

/// The role: `WAY ADDRESS SINK CONNECTIONS WARM TIME PID`, times in milliseconds.
pub fn role(args: &[String]) -> io::Result<Received> {
    let usage = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "WAY ADDRESS SINK CONNECTIONS WARM TIME PID",
        )
    };
    let [way, address, sink, numbers @ ..] = args else {
        return Err(usage());
    };
    let numbers: Vec<u64> = numbers.iter().filter_map(|n| n.parse().ok()).collect();
    let [connections, warm, time, pid] = numbers[..] else {
        return Err(usage());
    };
    let address: SocketAddr = address.parse().map_err(|_| usage())?;
    let count = connections as usize;
    let (mut senders, mut receivers) = match way.as_str() {
        "in" => (connect(address, count)?, Vec::new()),
        _ => joined(address, sink.parse().map_err(|_| usage())?, count)?,
    };
    if way == "both" {
        // A second descriptor is watched on its own, for the other direction.
        let (forth, back) = (clone(&receivers)?, clone(&senders)?);
        senders.extend(forth);
        receivers.extend(back);
    }
    let (count, uploads) = (senders.len(), receivers.is_empty());
    senders.append(&mut receivers);
    let mut clients = Clients::watch(senders, |index| match index < count {
        true => libc::EPOLLOUT,
        false => libc::EPOLLIN,
    })?;
    let block = block()?;
    let mut step = |clients: &Clients, index: usize| {
        if index >= count {
            return Ok(clients.discard(index)?.unwrap_or(0));
        }
        match syscall::sendfile(&clients.streams[index], &block, &mut 0, BLOCK) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Ok(sent) if uploads => Ok(sent as u64),
            Ok(_) => Ok(0),
            Err(e) => Err(e),
        }
    };
    let (warm, time) = (Duration::from_millis(warm), Duration::from_millis(time));
    drain::count(&mut clients, warm, None, &mut step)?;
    let window = Window::open(pid as u32);
    drain::count(&mut clients, time, Some(window), &mut step)
}

fn connect(address: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    (0..count).map(|_| TcpStream::connect(address)).collect()
}

fn clone(streams: &[TcpStream]) -> io::Result<Vec<TcpStream>> {
    streams.iter().map(TcpStream::try_clone).collect()
}

/// Connections to a proxy, and those that the proxy then makes to the sink.
fn joined(
    proxy: SocketAddr,
    sink: SocketAddr,
    count: usize,
) -> io::Result<(Vec<TcpStream>, Vec<TcpStream>)> {
    let listener = TcpListener::bind(sink)?;
    listener.set_nonblocking(true)?;
    let (sources, mut sinks) = (connect(proxy, count)?, Vec::new());
    let end = Instant::now() + Duration::from_secs(5);
    while sinks.len() < count {
        match listener.accept() {
            Ok((stream, _)) => sinks.push(stream),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(e) => return Err(e),
        }
    }
    Ok((sources, sinks))
}

/// A file in memory with what is sent.
fn block() -> io::Result<File> {
    // SAFETY: the name ends with a zero; a fresh descriptor is ours.
    let mut file = unsafe {
        let fd = check(libc::memfd_create(c"block".as_ptr(), libc::MFD_CLOEXEC) as isize)?;
        File::from_raw_fd(fd as i32)
    };
    let bytes: Vec<u8> = (0..BLOCK).map(|i| ((i * 31) >> 3) as u8).collect();
    io::Write::write_all(&mut file, &bytes)?;
    Ok(file)
}
