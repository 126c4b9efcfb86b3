//! Clients that ask and never read: processes of their own, which hold their connections until they
//! are ended. Several, since one may not have descriptors for all.

use std::io::{self, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::child::{Helper, Server};
use crate::peers::syscall::check;

pub const ROLE: &str = "--stall";

/// Stalled clients; gone when dropped.
pub struct Stalled(#[allow(dead_code, reason = "held for their end")] Vec<Helper>);

/// Connections of one process.
const EACH: usize = 2500;

impl Stalled {
    /// Connects `count` times and asks for `path` on each; returns once all have been answered to
    /// the first byte. Each takes in at most about `queue` bytes that it does not read; 0 is what
    /// the kernel lets it.
    pub fn start(server: &Server, path: &str, count: usize, queue: usize) -> io::Result<Stalled> {
        let mut all = Vec::new();
        for first in (0..count).step_by(EACH) {
            let args = [
                server.address.to_string(),
                path.to_owned(),
                (count - first).min(EACH).to_string(),
                queue.to_string(),
            ];
            let mut clients = Helper::start(ROLE, &args)?;
            if clients.line()?.trim() != "ready" {
                return Err(io::Error::other(
                    "the stalled clients failed; what they said is above",
                ));
            }
            all.push(clients);
        }
        Ok(Stalled(all))
    }
}

/// Connects, with a queue of so many bytes for what arrives, if not 0: the kernel must know before
/// it tells the server of its window.
fn connect(address: SocketAddrV4, queue: libc::c_int) -> io::Result<TcpStream> {
    if queue == 0 {
        return TcpStream::connect(address);
    }
    let name = libc::sockaddr_in {
        sin_family: libc::AF_INET as _,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*address.ip()).to_be(),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: the fresh descriptor is ours; the kernel reads an integer and an address of the
    // lengths that it is told, on this stack frame.
    let socket = unsafe {
        let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        let fd = check(libc::socket(libc::AF_INET, flags, 0) as isize)?;
        let socket = OwnedFd::from_raw_fd(fd as i32);
        let (fd, pointer) = (socket.as_raw_fd(), (&raw const queue).cast());
        let len = size_of_val(&queue) as libc::socklen_t;
        check(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, pointer, len) as isize)?;
        let len = size_of_val(&name) as libc::socklen_t;
        check(libc::connect(fd, (&raw const name).cast(), len) as isize)?;
        socket
    };
    Ok(socket.into())
}

/// The role: `ADDRESS PATH COUNT QUEUE`.
pub fn role(args: &[String]) -> io::Result<()> {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "ADDRESS PATH COUNT QUEUE");
    let [address, path, count, queue] = args else {
        return Err(usage());
    };
    let address: SocketAddrV4 = address.parse().map_err(|_| usage())?;
    let count: usize = count.parse().map_err(|_| usage())?;
    let queue: libc::c_int = queue.parse().map_err(|_| usage())?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = connect(address, queue)?;
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
