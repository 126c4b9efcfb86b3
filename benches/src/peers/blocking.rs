//! Blocking calls, a thread for each connection: sendfile(2), read(2) and write(2), and splice(2)
//! loops with a pipe of 1 MiB, which are the limit for one connection.

use std::fs::File;
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::syscall::{self, check};
use super::{BLOCK, Targets};

fn each(
    listener: TcpListener,
    run: impl Fn(TcpStream) -> io::Result<()> + Copy + Send + 'static,
) -> ! {
    loop {
        if let Ok((stream, _)) = listener.accept() {
            // An error is the peer's end.
            std::thread::spawn(move || {
                stream.set_nodelay(true)?;
                run(stream)
            });
        }
    }
}

/// sendfile(2) on a blocking socket.
pub fn sendfile(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    each(listener, move |stream| {
        syscall::cork(&stream)?;
        send_file(&stream, file, size)
    })
}

pub fn sendfile_plain(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    each(listener, move |stream| send_file(&stream, file, size))
}

fn send_file(stream: &TcpStream, file: &File, size: u64) -> io::Result<()> {
    loop {
        let mut at = 0;
        while at < size {
            let left = size - at;
            syscall::sendfile(stream, file, &mut at, left)?;
        }
    }
}

/// splice(2) through a pipe of 1 MiB.
pub fn splice(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    each(listener, move |stream| {
        syscall::cork(&stream)?;
        splice_file(&stream, file, size)
    })
}

pub fn splice_plain(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    each(listener, move |stream| splice_file(&stream, file, size))
}

fn splice_file(stream: &TcpStream, file: &File, size: u64) -> io::Result<()> {
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
                left -= syscall::splice(&read, stream, None, left, 0)?;
            }
        }
    }
}

/// read(2) and write(2) into a file.
pub fn upload(listener: TcpListener, targets: &'static Targets, size: u64) -> io::Result<()> {
    each(listener, move |mut stream| {
        let file = targets.next()?;
        let mut buffer = vec![0; BLOCK];
        loop {
            let mut at = 0;
            while at < size {
                let len = (size - at).min(BLOCK as u64) as usize;
                let n = stream.read(&mut buffer[..len])?;
                if n == 0 {
                    return Ok(());
                }
                file.write_all_at(&buffer[..n], at)?;
                at += n as u64;
            }
        }
    })
}

/// splice(2) through a pipe of 1 MiB into a file.
pub fn upload_splice(
    listener: TcpListener,
    targets: &'static Targets,
    size: u64,
) -> io::Result<()> {
    each(listener, move |stream| {
        let file = targets.next()?;
        let (read, write) = syscall::pipe()?;
        loop {
            let mut at: libc::off_t = 0;
            while (at as u64) < size {
                let len = (size - at as u64).min(1 << 20) as usize;
                let mut left = syscall::splice(&stream, &write, None, len, 0)?;
                if left == 0 {
                    return Ok(());
                }
                while left > 0 {
                    left -= syscall::splice(&read, &file, Some(&mut at), left, 0)?;
                }
            }
        }
    })
}
