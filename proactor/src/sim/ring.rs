//! The kernel's side of io_uring: takes submission queue entries, carries them out in an order of
//! its own, and brings completion queue entries.
//!
//! What was observed of the real one, oddities included, is done here as it is done there:
//! - a link ends with a request that fails, a hard link does not;
//! - a wait that was to be silent about success and fails silences those linked behind it;
//! - a wait for readiness ends for `POLLRDHUP`, whatever it asked for;
//! - a cancel finds neither a request that stands behind another in a chain nor one that is just
//!   being woken, and one in a worker's hands may be done all the same;
//! - an interrupted splice ends with the kernel's own `ERESTARTSYS`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};

use bytes::Bytes;
use io_uring::opcode;
use io_uring::squeue::Entry;

use super::with;
use super::world::World;
use crate::net;
use crate::sys;

/// io_uring.h: `IOSQE_*`.
const LINK: u8 = 1 << 2;
const HARDLINK: u8 = 1 << 3;
const SKIP_SUCCESS: u8 = 1 << 6;
/// `IORING_CQE_F_*`.
const F_BUFFER: u32 = 1;
const F_MORE: u32 = 2;
/// `IORING_ACCEPT_MULTISHOT`, `IORING_RECV_MULTISHOT`.
const ACCEPT_MULTISHOT: u16 = 1;
const RECV_MULTISHOT: u16 = 2;
/// `IORING_FSYNC_DATASYNC`.
const DATASYNC: u32 = 1;
const ERESTARTSYS: i32 = 512;

/// io_uring.h: `struct io_uring_sqe`. Unions are named after the member that is used here.
#[repr(C)]
#[derive(Clone, Copy)]
struct Sqe {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    /// Also `off_out` of a splice, `addr2` of others.
    off: u64,
    /// Also `splice_off_in`.
    addr: u64,
    len: u32,
    op_flags: u32,
    user_data: u64,
    buf_group: u16,
    personality: u16,
    splice_fd_in: i32,
    rest: [u64; 2],
}

const _: () = assert!(size_of::<Sqe>() == size_of::<Entry>());

struct Request {
    sqe: Sqe,
    /// It has been looked at.
    begun: bool,
}

/// A completion: user data, result, flags.
pub(crate) type Completed = (u64, i32, u32);

/// What became of a request that was looked at.
enum Step {
    /// It waits.
    Pending,
    /// It is over.
    Over(i32, u32),
    /// It has brought something, and goes on.
    More(i32, u32),
}

/// The buffer ring that was registered.
struct Provided {
    entries: *const Buffer,
    mask: u16,
    head: u16,
}

/// io_uring.h: `struct io_uring_buf`; the last member of the first one is the ring's tail.
#[repr(C)]
#[derive(Clone, Copy)]
struct Buffer {
    addr: u64,
    len: u32,
    id: u16,
    tail: u16,
}

/// The simulated ring.
pub(crate) struct Ring {
    capacity: usize,
    submitted: VecDeque<Sqe>,
    /// Requests under way, each with those linked behind it.
    chains: Vec<VecDeque<Request>>,
    completed: VecDeque<Completed>,
    buffers: Option<Provided>,
}

/// Turns a call's outcome into a completion's result.
fn outcome(result: io::Result<usize>) -> i32 {
    match result {
        Ok(n) => n as i32,
        Err(e) => -e.raw_os_error().unwrap_or(match e.kind() {
            io::ErrorKind::WouldBlock => libc::EAGAIN,
            _ => libc::EIO,
        }),
    }
}

/// A result, or that the request waits.
fn unless_again(result: io::Result<usize>) -> Step {
    match outcome(result) {
        again if again == -libc::EAGAIN => Step::Pending,
        other => Step::Over(other, 0),
    }
}

impl Sqe {
    fn fd(&self) -> BorrowedFd<'_> {
        borrow(self.fd)
    }
}

fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: who submits a request keeps its descriptors open until its completion, as with the
    // real ring; the borrow ends with the call that it is for.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

fn chance(f: impl FnOnce(&mut World) -> bool) -> bool {
    with(f).unwrap_or(false)
}

impl Ring {
    pub(crate) fn new(capacity: u32) -> Ring {
        Ring {
            capacity: capacity as usize,
            submitted: VecDeque::new(),
            chains: Vec::new(),
            completed: VecDeque::new(),
            buffers: None,
        }
    }

    /// Entries for which there is room.
    pub(crate) fn room(&self) -> usize {
        self.capacity - self.submitted.len()
    }

    /// Takes an entry.
    ///
    /// # Safety
    /// As for the real ring's: what it points to stays valid until its completion.
    pub(crate) unsafe fn push(&mut self, entry: &Entry) {
        // SAFETY: the entry is a `struct io_uring_sqe`, and so is `Sqe` (checked by size above).
        let sqe = unsafe { std::ptr::from_ref(entry).cast::<Sqe>().read() };
        self.submitted.push_back(sqe);
    }

    /// Registers the ring of provided buffers.
    ///
    /// # Safety
    /// As for the real ring's: the memory must stay as long as this.
    pub(crate) unsafe fn register_buffers(&mut self, address: u64, count: u16) {
        self.buffers = Some(Provided {
            entries: address as *const Buffer,
            mask: count - 1,
            head: 0,
        });
    }

    /// Takes submissions in, and lets things happen; with `wait`, until something has.
    pub(crate) fn enter(&mut self, wait: bool) -> io::Result<()> {
        self.take_submissions();
        let rounds = if wait { 32 } else { 1 };
        for _ in 0..rounds {
            with(World::tick);
            self.run();
            if !self.completed.is_empty() {
                return Ok(());
            }
        }
        if wait {
            with(World::sleep);
        }
        Ok(())
    }

    /// Gives completions out, in their order; not necessarily all.
    pub(crate) fn reap(&mut self, into: &mut Vec<Completed>) {
        while let Some(completed) = self.completed.pop_front() {
            into.push(completed);
            if chance(World::is_late) {
                break;
            }
        }
    }

    pub(crate) fn has_completed(&self) -> bool {
        !self.completed.is_empty()
    }

    fn take_submissions(&mut self) {
        while !self.submitted.is_empty() {
            let mut chain = VecDeque::new();
            while let Some(sqe) = self.submitted.pop_front() {
                let linked = sqe.flags & (LINK | HARDLINK) != 0;
                chain.push_back(Request { sqe, begun: false });
                if !linked {
                    break;
                }
            }
            self.chains.push(chain);
            // The kernel takes what it has memory for: the rest when it is entered again.
            if chance(|world| world.rng.chance(world.conditions.late / 8)) {
                return;
            }
        }
    }

    /// Looks at each of the chains once, in any order; late ones not at all.
    fn run(&mut self) {
        for _ in 0..self.chains.len() {
            let count = self.chains.len();
            let at = with(|world| (!world.is_late()).then(|| world.rng.index(count)));
            if let Some(Some(at)) = at
                && at < self.chains.len()
            {
                self.look(at);
            }
        }
    }

    fn look(&mut self, at: usize) {
        let mut chain = self.chains.swap_remove(at);
        loop {
            let before = chain.len();
            let Some(rest) = self.advance(chain) else {
                return;
            };
            chain = rest;
            // What is behind goes on by itself, or a little later.
            if chain.len() == before || chance(World::is_late) {
                break;
            }
        }
        self.chains.push(chain);
    }

    /// Lets the first request of a chain go on; gives back what is left of the chain.
    fn advance(&mut self, mut chain: VecDeque<Request>) -> Option<VecDeque<Request>> {
        let request = chain.front_mut()?;
        let sqe = request.sqe;
        match self.carry_out(request) {
            Step::Pending => Some(chain),
            Step::More(result, flags) => {
                self.complete(&sqe, result, flags | F_MORE);
                Some(chain)
            }
            Step::Over(result, flags) => self.end(chain, result, flags),
        }
    }

    /// The first request of a chain is over.
    fn end(
        &mut self,
        mut chain: VecDeque<Request>,
        result: i32,
        flags: u32,
    ) -> Option<VecDeque<Request>> {
        let Request { sqe, .. } = chain.pop_front()?;
        let moves = [
            opcode::Splice::CODE,
            opcode::Read::CODE,
            opcode::Write::CODE,
        ];
        let short = moves.contains(&sqe.opcode) && result >= 0 && (result as u32) < sqe.len;
        let failed = result < 0 || short;
        if failed || sqe.flags & SKIP_SUCCESS == 0 {
            self.complete(&sqe, result, flags);
        }
        if failed && sqe.flags & LINK != 0 {
            let silent = sqe.flags & SKIP_SUCCESS != 0;
            for Request { sqe, .. } in chain.drain(..) {
                if !silent {
                    self.complete(&sqe, -libc::ECANCELED, 0);
                }
            }
        }
        (!chain.is_empty()).then_some(chain)
    }

    fn complete(&mut self, sqe: &Sqe, result: i32, flags: u32) {
        with(|world| world.note("cqe", i64::from(sqe.opcode), result.into()));
        self.completed.push_back((sqe.user_data, result, flags));
    }

    fn carry_out(&mut self, request: &mut Request) -> Step {
        let sqe = request.sqe;
        let interruptible = [
            opcode::Splice::CODE,
            opcode::Send::CODE,
            opcode::SendMsg::CODE,
            opcode::Recv::CODE,
        ];
        let first = !std::mem::replace(&mut request.begun, true);
        if first
            && interruptible.contains(&sqe.opcode)
            && chance(|world| world.rng.chance(world.conditions.interrupted))
        {
            let linked = sqe.opcode == opcode::Splice::CODE;
            let errno = chance(|world| linked && world.rng.chance(500));
            let errno = if errno { ERESTARTSYS } else { libc::EINTR };
            return Step::Over(-errno, 0);
        }
        match sqe.opcode {
            opcode::Splice::CODE => {
                let offset = |at: u64| (at != u64::MAX).then_some(at);
                Step::Over(
                    outcome(sys::splice(
                        borrow(sqe.splice_fd_in),
                        offset(sqe.addr),
                        sqe.fd(),
                        offset(sqe.off),
                        sqe.len as usize,
                        sqe.op_flags & libc::SPLICE_F_MORE != 0,
                    )),
                    0,
                )
            }
            opcode::Send::CODE => {
                let bytes = self.bytes(&sqe);
                let more = sqe.op_flags as i32 & libc::MSG_MORE != 0;
                Step::Over(outcome(sys::send(sqe.fd(), bytes, more)), 0)
            }
            opcode::SendMsg::CODE => {
                // SAFETY: whoever submitted it keeps the header until its completion.
                let message = unsafe { &*(sqe.addr as *const libc::msghdr) };
                let bufs = gather(message.msg_iov, message.msg_iovlen);
                let more = sqe.op_flags as i32 & libc::MSG_MORE != 0;
                Step::Over(outcome(sys::send_vectored(sqe.fd(), &bufs, more, false)), 0)
            }
            opcode::Writev::CODE => {
                let bufs = gather(sqe.addr as *const libc::iovec, sqe.len as usize);
                Step::Over(outcome(sys::send_vectored(sqe.fd(), &bufs, false, true)), 0)
            }
            opcode::Write::CODE => Step::Over(
                outcome(sys::write_at(sqe.fd(), self.bytes(&sqe), sqe.off as i64)),
                0,
            ),
            opcode::Read::CODE => {
                // SAFETY: the buffer is the request's until its completion.
                let result = unsafe {
                    sys::read_raw(
                        sqe.fd(),
                        sqe.addr as *mut u8,
                        sqe.len as usize,
                        sqe.off as i64,
                        0,
                    )
                };
                Step::Over(outcome(result), 0)
            }
            opcode::Recv::CODE if sqe.ioprio & RECV_MULTISHOT != 0 => {
                self.receive_into_provided(&sqe)
            }
            opcode::Recv::CODE => {
                // SAFETY: the buffer is the request's until its completion.
                let result =
                    unsafe { sys::recv_raw(sqe.fd(), sqe.addr as *mut u8, sqe.len as usize) };
                unless_again(result)
            }
            opcode::Accept::CODE => {
                let result = net::accept(sqe.fd())
                    .and_then(|fd| fd.into_owned().map_err(|_| io::ErrorKind::Other.into()))
                    .map(|fd| fd.into_raw_fd() as usize);
                let multishot = sqe.ioprio & ACCEPT_MULTISHOT != 0;
                match unless_again(result) {
                    // As a receive's, it may end for reasons of the kernel's own.
                    Step::Over(fd, flags)
                        if fd >= 0
                            && multishot
                            && !chance(|world| world.rng.chance(world.conditions.interrupted)) =>
                    {
                        Step::More(fd, flags)
                    }
                    other => other,
                }
            }
            opcode::Connect::CODE => connect(&sqe, first),
            opcode::PollAdd::CODE => {
                // Ended by the peer's end of sending too, whatever was asked for.
                let asked = sqe.op_flags as i16 | libc::POLLRDHUP;
                match sys::poll(sqe.fd(), asked, Some(std::time::Duration::ZERO)) {
                    Ok(0) => Step::Pending,
                    other => Step::Over(outcome(other.map(|events| events as u16 as usize)), 0),
                }
            }
            opcode::OpenAt2::CODE => {
                // SAFETY: path and `struct open_how` are the request's until its completion.
                let result = unsafe {
                    libc::syscall(
                        libc::SYS_openat2,
                        sqe.fd,
                        sqe.addr as *const libc::c_char,
                        sqe.off as *const u8,
                        sqe.len as usize,
                    )
                };
                Step::Over(outcome(sys::check(result)), 0)
            }
            opcode::Fsync::CODE => {
                let data_only = sqe.op_flags & DATASYNC != 0;
                Step::Over(outcome(sys::sync(sqe.fd(), data_only).map(|()| 0)), 0)
            }
            opcode::AsyncCancel::CODE => Step::Over(self.cancel(sqe.addr), 0),
            _ => Step::Over(-libc::EINVAL, 0),
        }
    }

    fn bytes(&self, sqe: &Sqe) -> &[u8] {
        // SAFETY: the buffer is the request's until its completion, and only read.
        unsafe { std::slice::from_raw_parts(sqe.addr as *const u8, sqe.len as usize) }
    }

    /// A multishot receive: into the next of the provided buffers.
    fn receive_into_provided(&mut self, sqe: &Sqe) -> Step {
        let Some(provided) = &mut self.buffers else {
            return Step::Over(-libc::ENOBUFS, 0);
        };
        match sys::poll(sqe.fd(), libc::POLLIN, Some(std::time::Duration::ZERO)) {
            Ok(0) => return Step::Pending,
            Ok(_) => {}
            Err(e) => return Step::Over(outcome(Err(e)), 0),
        }
        let entry = |index: u16| {
            let at = usize::from(index & provided.mask);
            // SAFETY: the index is within the ring, which lives as long as this is registered.
            unsafe { provided.entries.add(at).read() }
        };
        if provided.head == entry(0).tail {
            return Step::Over(-libc::ENOBUFS, 0);
        }
        let Buffer { addr, len, id, .. } = entry(provided.head);
        let flags = F_BUFFER | u32::from(id) << 16;
        // In a worker it keeps the buffer that it picked, also where it brings nothing.
        if chance(|world| world.rng.chance(world.conditions.interrupted / 2)) {
            provided.head = provided.head.wrapping_add(1);
            return Step::Over(-libc::EINTR, flags);
        }
        // SAFETY: a buffer that was provided is the kernel's until it comes back in a completion.
        let result = unsafe { sys::recv_raw(sqe.fd(), addr as *mut u8, len as usize) };
        match unless_again(result) {
            Step::Over(n, _) if n > 0 => {
                provided.head = provided.head.wrapping_add(1);
                // It may end for reasons of the kernel's own, such as a full completion queue.
                if chance(|world| world.rng.chance(world.conditions.interrupted)) {
                    Step::Over(n, flags)
                } else {
                    Step::More(n, flags)
                }
            }
            other => other,
        }
    }

    /// Cancels the request with that user data, or does not.
    fn cancel(&mut self, user_data: u64) -> i32 {
        // One that stands behind another is not found.
        let is_it =
            |chain: &VecDeque<Request>| chain.front().is_some_and(|r| r.sqe.user_data == user_data);
        let Some(at) = self.chains.iter().position(is_it) else {
            return -libc::ENOENT;
        };
        let Some(request) = self.chains[at].front() else {
            return -libc::ENOENT;
        };
        let on_worker = [
            opcode::Splice::CODE,
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::Fsync::CODE,
            opcode::OpenAt2::CODE,
        ]
        .contains(&request.sqe.opcode);
        if chance(|world| world.rng.chance(world.conditions.cancel_lost)) {
            // It is being woken, or a worker has it and can't be stopped.
            return if on_worker {
                -libc::EALREADY
            } else {
                -libc::ENOENT
            };
        }
        let chain = self.chains.swap_remove(at);
        let interrupted = on_worker && chance(|world| world.rng.chance(500));
        let errno = if interrupted {
            libc::EINTR
        } else {
            libc::ECANCELED
        };
        if let Some(rest) = self.end(chain, -errno, 0) {
            self.chains.push(rest);
        }
        0
    }
}

fn connect(sqe: &Sqe, first: bool) -> Step {
    if !first {
        return match sys::poll(sqe.fd(), libc::POLLOUT, Some(std::time::Duration::ZERO)) {
            Ok(0) => Step::Pending,
            _ => Step::Over(-net::pending_error(sqe.fd()).unwrap_or(libc::EIO), 0),
        };
    }
    let result = super::before_connect().and_then(|()| {
        // SAFETY: the address is the request's until its completion.
        sys::check(unsafe {
            libc::connect(
                sqe.fd,
                sqe.addr as *const libc::sockaddr,
                sqe.off as libc::socklen_t,
            )
        })?;
        super::after_connect(sqe.fd()).map(|()| 0)
    });
    match outcome(result) {
        errno if errno == -libc::EINPROGRESS => Step::Pending,
        other => Step::Over(other, 0),
    }
}

/// The buffers of a vectored call.
fn gather(iov: *const libc::iovec, len: usize) -> Vec<Bytes> {
    // SAFETY: the vector and what it points to are the request's until its completion.
    let iov = unsafe { std::slice::from_raw_parts(iov, len) };
    iov.iter()
        .map(|iov| {
            // SAFETY: as above.
            Bytes::copy_from_slice(unsafe {
                std::slice::from_raw_parts(iov.iov_base.cast::<u8>(), iov.iov_len)
            })
        })
        .collect()
}
