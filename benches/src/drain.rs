//! The receiving side: a process of its own, so that its CPU time is not the server's. It connects
//! a number of times, reads and throws away (`MSG_TRUNC`: without copying) until each connection
//! ends, and then exits. It never sleeps, so that no server pays for waking it, which over a
//! network none would.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The first argument that makes a benchmark's program the receiving side.
const ROLE: &str = "--drain";

/// Starts the receiving side, as this same program.
pub fn start(address: SocketAddr, connections: usize) -> io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .args([ROLE, &address.to_string(), &connections.to_string()])
        .stdin(Stdio::null())
        .spawn()
}

/// To be called first by every benchmark's `main`: does not return in the receiving side.
pub fn become_drain_if_asked() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(ROLE) {
        return;
    }
    let address = args.next().and_then(|a| a.parse().ok());
    let connections = args.next().and_then(|n| n.parse().ok());
    let (Some(address), Some(connections)) = (address, connections) else {
        eprintln!("{ROLE} takes an address and a number");
        std::process::exit(2);
    };
    crate::measure::pin(1);
    match drain(address, connections) {
        Ok(()) => std::process::exit(0),
        Err(e) => {
            eprintln!("drain: {e}");
            std::process::exit(1);
        }
    }
}

fn drain(address: SocketAddr, connections: usize) -> io::Result<()> {
    // SAFETY: takes and touches no memory.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if epoll < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut streams = Vec::new();
    for index in 0..connections {
        let stream = TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: index as u64,
        };
        // SAFETY: the event is on this stack frame.
        if unsafe {
            libc::epoll_ctl(
                epoll,
                libc::EPOLL_CTL_ADD,
                stream.as_raw_fd(),
                &raw mut event,
            )
        } < 0
        {
            return Err(io::Error::last_os_error());
        }
        streams.push(Some(stream));
    }
    let mut open = connections;
    let mut last = Instant::now();
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 256];
    while open > 0 {
        // SAFETY: the kernel writes at most as many events as the vector has.
        let n = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), events.len() as i32, 0) };
        if n > 0 {
            last = Instant::now();
        } else if last.elapsed() > Duration::from_secs(30) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        for event in &events[..n.max(0) as usize] {
            let slot = &mut streams[event.u64 as usize];
            let Some(stream) = slot else { continue };
            // SAFETY: with MSG_TRUNC, TCP throws the bytes away and writes nothing (tcp(7)).
            let got = unsafe {
                libc::recv(
                    stream.as_raw_fd(),
                    std::ptr::null_mut(),
                    8 << 20,
                    libc::MSG_TRUNC,
                )
            };
            let again = io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock;
            if got == 0 || got < 0 && !again {
                *slot = None;
                open -= 1;
            }
        }
    }
    Ok(())
}
