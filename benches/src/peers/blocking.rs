//! Blocking calls, a thread for each connection: sendfile(2), and a splice(2) loop with a pipe of
//! 1 MiB, which is the limit for one connection.

use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use super::syscall::{self, check};

fn each(listener: TcpListener, run: fn(TcpStream) -> io::Result<()>) -> ! {
    loop {
        if let Ok((stream, _)) = listener.accept() {
            // An error is the peer's end.
            std::thread::spawn(move || run(stream));
        }
    }
}

/// What a thread sends; set once, before the first is started.
static PLAN: std::sync::OnceLock<(&'static File, u64)> = std::sync::OnceLock::new();

fn plan() -> (&'static File, u64) {
    *PLAN.get().expect("set before the first thread is started")
}

/// sendfile(2) on a blocking socket.
pub fn sendfile(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    PLAN.get_or_init(|| (file, size));
    each(listener, |stream| {
        let (file, size) = plan();
        loop {
            let mut at = 0;
            while at < size {
                let left = size - at;
                syscall::sendfile(&stream, file, &mut at, left)?;
            }
        }
    })
}

/// splice(2) through a pipe of 1 MiB.
pub fn splice(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    PLAN.get_or_init(|| (file, size));
    each(listener, |stream| {
        let (file, size) = plan();
        let (read, write) = syscall::pipe()?;
        let none = std::ptr::null_mut();
        loop {
            let mut at: libc::off_t = 0;
            while (at as u64) < size {
                let len = (size - at as u64).min(1 << 20) as usize;
                let (from, to) = (file.as_raw_fd(), write.as_raw_fd());
                // SAFETY: the offset is on this stack frame.
                let moved =
                    unsafe { libc::splice(from, &raw mut at, to, none, len, libc::SPLICE_F_MOVE) };
                let mut left = check(moved)?;
                while left > 0 {
                    let (from, to) = (read.as_raw_fd(), stream.as_raw_fd());
                    // SAFETY: no offsets.
                    left -= check(unsafe {
                        libc::splice(from, none, to, none, left, libc::SPLICE_F_MOVE)
                    })?;
                }
            }
        }
    })
}
