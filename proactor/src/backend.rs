//! What a backend is to the [`Proactor`](crate::Proactor), and what the two share.

use crate::sync::Arc;
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use crate::buf::BufGroup;
use crate::fd::Fd;
use crate::op::{Completion, Op, Token};
use crate::pipe::PipePool;
use crate::pool::Workers;
use crate::port::{Done, Port};
use crate::stats::Counters;
use crate::transfer::{Next, Transfer};

/// A completion on its way to its callback.
pub(crate) struct Event {
    pub(crate) token: Token,
    pub(crate) completion: Completion,
}

/// What a backend works with: the parts that are the same whatever runs below.
pub(crate) struct Context {
    pub(crate) pipes: PipePool,
    pub(crate) bufs: Arc<BufGroup>,
    pub(crate) port: Arc<Port>,
    pub(crate) workers: Workers,
    /// Completions, in the order of their delivery.
    pub(crate) ready: VecDeque<Event>,
    pub(crate) counters: Counters,
    /// What transfers may still move in this turn by direct calls.
    pub(crate) direct_left: usize,
}

impl Context {
    /// Begins a turn: transfers may move [`DIRECT_TURN`] bytes in all by direct calls.
    pub(crate) fn begin_turn(&mut self) {
        self.direct_left = DIRECT_TURN;
    }

    /// Lets a transfer do what can be done directly, within what is left to all in this turn. One
    /// that is nearly done is always let go on.
    pub(crate) fn advance(&mut self, transfer: &mut Transfer) -> Next {
        let budget = match self.direct_left {
            0 if transfer.is_bulky() => return Next::Yield,
            0 => DIRECT_TURN,
            left => left,
        };
        let before = transfer.moved();
        let next = transfer.advance(&mut self.pipes, budget);
        let moved = (transfer.moved() - before) as usize;
        let cost = match transfer.job().fills_away() {
            true => moved.saturating_mul(FROM_DISK),
            false => moved,
        };
        self.direct_left = self.direct_left.saturating_sub(cost);
        next
    }

    /// Queues a completion for delivery.
    pub(crate) fn complete(&mut self, token: Token, completion: Completion) {
        self.ready.push_back(Event { token, completion });
    }
}

/// The bytes that direct transfers move in a turn, all together, before the loop looks again at
/// what has come: at some 10 GB/s, a request for little waits about 0.4 ms for those who want much.
/// With 1 MiB, files of that size cost 4 to 10 % more on 64 connections.
pub(crate) const DIRECT_TURN: usize = 4 << 20;

/// How many bytes of the budget a byte costs that came from the disk: to send it takes so much
/// longer, since neither it nor what the kernel keeps of its page is in a processor's cache.
const FROM_DISK: usize = 8;

/// The machinery that runs operations. It is called by the proactor alone, runs no code of its
/// users, and delivers through [`Context::complete`]: exactly one completion that gives the
/// operation back for each `submit`, before it any number without for multishot operations.
pub(crate) trait Backend {
    /// Starts an operation. Tokens' indices are small and dense: at most one operation is under
    /// way for each. A failure is a completion like any other.
    fn submit(&mut self, cx: &mut Context, token: Token, op: Op);

    /// Asks an operation to end; its completion follows. Nothing happens if the token names none.
    /// Never lost for want of room in a queue.
    fn cancel(&mut self, cx: &mut Context, token: Token);

    /// Hands over to the kernel what waits for that, and collects completions. With `block`, waits
    /// for at least one, or for a watched descriptor, or a signal; returning early is allowed.
    fn wait(&mut self, cx: &mut Context, block: bool) -> io::Result<()>;

    /// Hands over to the kernel what waits for that, and nothing else, so that `fd` tells of all
    /// that comes. True if there is work that no event of the kernel's will announce.
    fn flush(&mut self, cx: &mut Context) -> io::Result<bool>;

    /// Takes a transfer back whose call a worker has made.
    fn stepped(&mut self, cx: &mut Context, token: Token, transfer: Box<Transfer>);

    /// Whether an operation is to run on a worker of the pool from the start, and never to be
    /// submitted here.
    fn leaves_to_workers(&self, op: &Op) -> bool {
        let _ = op;
        false
    }

    /// Takes an operation back that a worker has run.
    fn done(&mut self, cx: &mut Context, done: Done) {
        cx.complete(done.token, done.into());
    }

    /// Watches a descriptor for good (the port's eventfd, the timer): its readability ends `wait`.
    /// Whoever reads the descriptor does so after each `wait`.
    fn watch(&mut self, fd: BorrowedFd<'_>) -> io::Result<()>;

    /// Readable when `wait` would find something.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Drops what is kept of a descriptor that no operation uses any more, though what is behind it
    /// may stay open elsewhere.
    fn forget(&mut self, _fd: &Fd) {}

    /// Gives up on what is still under way: keeps the memory that the kernel may yet touch from
    /// ever being freed. Returns the number of operations.
    fn abandon(&mut self) -> usize;
}
