//! Operations that wait for a worker of the kernel's, and the kernel can start none.
//!
//! Where RLIMIT_NPROC leaves no thread for io-wq, kernels cancel what needs one, unasked; older ones
//! go on trying for ever (seen on Debian's 5.10), and the operation waits with them. So while
//! something is out that may need a worker, one timeout stands at the ring. What has waited from
//! one of its ends to the next, while this process may start no thread either, is cancelled, and
//! ends as it does on newer kernels (`is_refused`).
//!
//! Nothing is lost by a cancel at the wrong moment: what a worker has in its hands is finished or
//! begun again.

use std::thread;

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Timespec;

use crate::op::{Op, Token};

use super::Ring;
use super::flight::{Flight, Step, TICK, Task, cancel};

/// Of the ring's own timeout. What is starved goes on after one to two of these.
static PERIOD: Timespec = Timespec::new().sec(1);

#[derive(Default)]
pub(super) struct Starvation {
    /// Something may need a worker.
    due: bool,
    /// The timeout is under way.
    armed: bool,
}

impl Starvation {
    /// Something is submitted that may need a worker.
    pub(super) fn expect(&mut self) {
        self.due = true;
    }

    /// The timeout, when one is to be started.
    pub(super) fn arm(&mut self) -> Option<Entry> {
        let start = self.due && !self.armed;
        self.armed |= start;
        start.then(|| opcode::Timeout::new(&PERIOD).build().user_data(TICK))
    }
}

/// Whether the kernel may give an operation to a worker: what has a file at one of its ends. The
/// others wait by polls.
pub(super) fn may_need_worker(op: &Op) -> bool {
    matches!(
        op,
        Op::Read { .. } | Op::Write { .. } | Op::Splice { .. } | Op::Open(_) | Op::Sync { .. }
    )
}

impl Flight {
    /// The steps that may be waiting for a worker.
    fn away(&self) -> impl Iterator<Item = Step> + use<> {
        let plain = matches!(&self.task, Task::Op(op) if may_need_worker(op));
        self.outstanding_steps().filter(move |step| match step {
            Step::Fill | Step::Drain => true,
            Step::Main => plain,
            Step::Poll => false,
        })
    }
}

impl Ring {
    /// The timeout has ended.
    pub(super) fn look_for_starved(&mut self) {
        let mut waiting: Vec<(Token, Step)> = Vec::new();
        let mut any = false;
        for flight in self.flights.iter_mut().flatten() {
            let mut steps = flight.away().peekable();
            if steps.peek().is_none() {
                continue;
            }
            any = true;
            if std::mem::replace(&mut flight.waited, true) && !flight.cancelled {
                waiting.extend(steps.map(|step| (flight.token, step)));
            }
        }
        self.starvation = Starvation {
            due: any,
            armed: false,
        };
        if waiting.is_empty() || may_start_thread() {
            return;
        }
        log::warn!(
            "no thread can be started (RLIMIT_NPROC): {} operations that wait for one of the \
             kernel's are cancelled",
            waiting.len()
        );
        for (token, step) in waiting {
            self.push(cancel(token, step), None);
        }
    }
}

/// Whether the process may have one more thread: the kernel's workers count as its own.
fn may_start_thread() -> bool {
    let started = thread::Builder::new().stack_size(16 << 10).spawn(|| ());
    started.map(|thread| drop(thread.join())).is_ok()
}
