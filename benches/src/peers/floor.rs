//! What the kernel allows on this machine: whatever arrives is answered with the same bytes, which
//! are ready in memory. Nothing is parsed, no file is touched, nothing can end but the process.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::syscall::{self, Epoll};

/// recv(2) and send(2) on readiness.
pub fn epoll(listener: TcpListener, answer: &'static [u8]) -> io::Result<()> {
    struct Connection {
        stream: TcpStream,
        unsent: usize,
    }
    const LISTENER: usize = usize::MAX;
    let epoll = Epoll::new()?;
    listener.set_nonblocking(true)?;
    epoll.add(&listener, libc::EPOLLIN, LISTENER)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut events = syscall::events();
    let mut request = [0; 4096];
    loop {
        for event in epoll.wait(&mut events, -1)? {
            let (token, what) = (event.u64 as usize, event.events as i32);
            if token == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET;
                    epoll.add(&stream, events, connections.len())?;
                    connections.push(Some(Connection { stream, unsent: 0 }));
                }
                continue;
            }
            let Some(connection) = &mut connections[token] else {
                continue;
            };
            if connection.unsent == 0 && what & libc::EPOLLIN != 0 {
                let fd = connection.stream.as_raw_fd();
                // SAFETY: the kernel writes at most the array.
                let got = unsafe { libc::recv(fd, request.as_mut_ptr().cast(), request.len(), 0) };
                match got {
                    n if n > 0 => connection.unsent = answer.len(),
                    n if n < 0
                        && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => {}
                    _ => {
                        connections[token] = None;
                        continue;
                    }
                }
            }
            while connection.unsent > 0 {
                let rest = &answer[answer.len() - connection.unsent..];
                match syscall::send(&connection.stream, rest, 0) {
                    Ok(n) => connection.unsent -= n,
                    Err(_) => break,
                }
            }
        }
    }
}

const GROUP: u16 = 0;
const BUFFERS: u16 = 1024;
const BUFFER: usize = 1024;
const ACCEPT: u64 = u64::MAX;
const SENT: u64 = 1 << 32;

/// io_uring as it is meant: multishot accept into the ring's own descriptors, multishot receive into
/// provided buffers, one system call for all that is ready.
pub fn ring(listener: TcpListener, answer: &'static [u8]) -> io::Result<()> {
    let mut ring: IoUring<squeue::Entry, cqueue::Entry> = IoUring::builder()
        .setup_cqsize(8192)
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(1024)?;
    ring.submitter().register_files_sparse(4096)?;
    let mut buffers = Buffers::register(&ring)?;
    push(
        &mut ring,
        opcode::AcceptMulti::new(Fd(listener.as_raw_fd()))
            .allocate_file_index(true)
            .build()
            .user_data(ACCEPT),
    );
    let receive = |slot: u32| {
        opcode::RecvMulti::new(Fixed(slot), GROUP)
            .build()
            .user_data(u64::from(slot))
    };
    loop {
        ring.submit_and_wait(1)?;
        let done: Vec<(u64, i32, u32)> = ring
            .completion()
            .map(|c| (c.user_data(), c.result(), c.flags()))
            .collect();
        for (token, result, flags) in done {
            if token == ACCEPT {
                if let Ok(slot) = u32::try_from(result) {
                    push(&mut ring, receive(slot));
                }
            } else if token & SENT == 0 {
                let slot = token as u32;
                if let Some(buffer) = cqueue::buffer_select(flags) {
                    buffers.give_back(buffer);
                }
                if result > 0 {
                    let send = opcode::Send::new(Fixed(slot), answer.as_ptr(), answer.len() as u32)
                        .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
                        .build()
                        .user_data(SENT | token);
                    push(&mut ring, send);
                    if !cqueue::more(flags) {
                        push(&mut ring, receive(slot));
                    }
                } else if result == -libc::ENOBUFS {
                    push(&mut ring, receive(slot));
                } else {
                    let close = opcode::Close::new(Fixed(slot)).build();
                    push(&mut ring, close.user_data(SENT));
                }
            }
        }
    }
}

fn push(ring: &mut IoUring, entry: squeue::Entry) {
    loop {
        // SAFETY: what entries point to is static, or outlives the process's only loop.
        if unsafe { ring.submission().push(&entry) }.is_ok() {
            return;
        }
        let _ = ring.submit();
    }
}

/// Receive buffers that the kernel takes by itself.
struct Buffers {
    entries: *mut BufRingEntry,
    memory: Vec<u8>,
    tail: u16,
}

impl Buffers {
    fn register(ring: &IoUring) -> io::Result<Buffers> {
        let bytes = usize::from(BUFFERS) * size_of::<BufRingEntry>();
        // SAFETY: fresh memory of the kernel's choosing; it stays until the process ends.
        let entries = unsafe {
            let (access, kind) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_ANONYMOUS | libc::MAP_PRIVATE,
            );
            let at = libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0);
            if at == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            ring.submitter()
                .register_buf_ring_with_flags(at as u64, BUFFERS, GROUP, 0)?;
            at.cast()
        };
        let memory = vec![0; usize::from(BUFFERS) * BUFFER];
        let mut buffers = Buffers {
            entries,
            memory,
            tail: 0,
        };
        for id in 0..BUFFERS {
            buffers.give_back(id);
        }
        Ok(buffers)
    }

    fn give_back(&mut self, id: u16) {
        let at = self.memory[usize::from(id) * BUFFER..].as_ptr();
        // SAFETY: the index is below the ring's length; the kernel reads an entry only once the tail
        // is past it; the tail lies in the first entry, and is shared with the kernel.
        unsafe {
            let entry = &mut *self.entries.add(usize::from(self.tail % BUFFERS));
            entry.set_addr(at as u64);
            entry.set_len(BUFFER as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(self.entries).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}
