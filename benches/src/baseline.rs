//! The servers that ours is measured against, as tight as they can be written: what a C programmer
//! would do with the same kernel.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn accept(listener: &TcpListener, connections: usize) -> io::Result<Vec<TcpStream>> {
    (0..connections)
        .map(|_| listener.accept().map(|(stream, _)| stream))
        .collect()
}

/// sendfile(2) on a blocking socket, one connection after the other.
pub fn blocking_sendfile(
    listener: &TcpListener,
    connections: usize,
    file: &File,
    size: u64,
    repeat: u64,
) -> io::Result<()> {
    for stream in accept(listener, connections)? {
        for _ in 0..repeat {
            let mut at: libc::off_t = 0;
            while (at as u64) < size {
                let len = (size - at as u64) as usize;
                // SAFETY: the offset is on this stack frame.
                check(unsafe {
                    libc::sendfile(stream.as_raw_fd(), file.as_raw_fd(), &raw mut at, len)
                })?;
            }
        }
    }
    Ok(())
}

/// splice(2) through a pipe of 1 MiB, blocking, one connection after the other: the limit.
pub fn blocking_splice(
    listener: &TcpListener,
    connections: usize,
    file: &File,
    size: u64,
    repeat: u64,
) -> io::Result<()> {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two descriptors, which are ours from then on.
    let (read, write) = unsafe {
        check(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) as isize)?;
        check(libc::fcntl(ends[1], libc::F_SETPIPE_SZ, 1 << 20) as isize)?;
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    };
    for stream in accept(listener, connections)? {
        for _ in 0..repeat {
            let mut at: libc::off_t = 0;
            while (at as u64) < size {
                let len = (size - at as u64).min(1 << 20) as usize;
                // SAFETY: the offset is on this stack frame.
                let mut left = check(unsafe {
                    libc::splice(
                        file.as_raw_fd(),
                        &raw mut at,
                        write.as_raw_fd(),
                        std::ptr::null_mut(),
                        len,
                        libc::SPLICE_F_MOVE,
                    )
                })?;
                while left > 0 {
                    // SAFETY: no offsets.
                    left -= check(unsafe {
                        libc::splice(
                            read.as_raw_fd(),
                            std::ptr::null_mut(),
                            stream.as_raw_fd(),
                            std::ptr::null_mut(),
                            left,
                            libc::SPLICE_F_MOVE,
                        )
                    })?;
                }
            }
        }
    }
    Ok(())
}

/// sendfile(2) on readiness, as nginx and lighttpd do it.
pub fn epoll_sendfile(
    listener: &TcpListener,
    connections: usize,
    file: &File,
    size: u64,
    repeat: u64,
) -> io::Result<()> {
    struct Connection {
        stream: TcpStream,
        at: libc::off_t,
        rounds: u64,
    }
    // SAFETY: a fresh descriptor, ours.
    let epoll = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) };
    let mut connected: Vec<Option<Connection>> = Vec::new();
    for (index, stream) in accept(listener, connections)?.into_iter().enumerate() {
        stream.set_nonblocking(true)?;
        let mut event = libc::epoll_event {
            events: (libc::EPOLLOUT | libc::EPOLLET) as u32,
            u64: index as u64,
        };
        // SAFETY: the event is on this stack frame.
        check(unsafe {
            libc::epoll_ctl(
                epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                stream.as_raw_fd(),
                &raw mut event,
            ) as isize
        })?;
        connected.push(Some(Connection {
            stream,
            at: 0,
            rounds: repeat,
        }));
    }
    let mut open = connections;
    let mut turn: VecDeque<usize> = VecDeque::new();
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 256];
    while open > 0 {
        let timeout = if turn.is_empty() { 30_000 } else { 0 };
        // SAFETY: the kernel writes at most as many events as the vector has.
        let n = check(unsafe {
            libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), 256, timeout) as isize
        })?;
        turn.extend(events[..n].iter().map(|event| event.u64 as usize));
        for _ in 0..turn.len() {
            let Some(index) = turn.pop_front() else { break };
            let Some(connection) = &mut connected[index] else {
                continue;
            };
            // One file, or what fits, a turn.
            loop {
                let len = (size - connection.at as u64).min(2 << 20) as usize;
                // SAFETY: the offset is part of the connection, which outlives the call.
                let result = check(unsafe {
                    libc::sendfile(
                        connection.stream.as_raw_fd(),
                        file.as_raw_fd(),
                        &raw mut connection.at,
                        len,
                    )
                });
                match result {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e),
                    Ok(_) => {}
                }
                if connection.at as u64 == size {
                    connection.at = 0;
                    connection.rounds -= 1;
                    if connection.rounds == 0 {
                        connected[index] = None;
                        open -= 1;
                    } else {
                        turn.push_back(index);
                    }
                    break;
                }
            }
        }
    }
    Ok(())
}
