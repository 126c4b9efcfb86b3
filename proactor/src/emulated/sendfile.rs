//! Transfers of files: drives the machine of `transfer.rs` by readiness and workers, and moves
//! pipes from those who wait to those who can use one.

use crate::backend::Context;
use crate::fd::Fd;
use crate::job::{End, Job, is_stream};
use crate::op::Token;
use crate::pipe::Lessee;
use crate::transfer::{Next, Transfer};

use super::direct::{self, Try};
use super::flight::{Body, Wait};
use super::poller::Direction;
use super::{Emulated, finish};

impl Body {
    /// Where this stands in line.
    pub(super) fn home(&self) -> Option<(&Fd, Direction)> {
        match self {
            Body::Op(op) => direct::home(op),
            Body::Transfer(transfer) => Some(home(transfer)),
            Body::Away => None,
        }
    }
}

/// Where a transfer stands in line: at the stream that it writes to, or else at the one that it
/// reads.
fn home(transfer: &Transfer) -> (&Fd, Direction) {
    let target = transfer.target();
    if is_stream(target) {
        (target, Direction::Write)
    } else {
        (transfer.source(), Direction::Read)
    }
}

fn ended(transfer: &Transfer, end: End) -> Try {
    Try::Done {
        result: Ok(transfer.output(end)),
        transferred: 0,
        short: false,
    }
}

impl Emulated {
    pub(super) fn start_transfer(&mut self, cx: &mut Context, token: Token, job: Job) {
        let mut transfer = match Transfer::new(job) {
            Ok(transfer) => transfer,
            Err(completion) => return cx.complete(token, *completion),
        };
        let (fd, direction) = home(&transfer);
        let registration = self.poller.find(fd);
        // What has its head to write needs no source that is ready: a fill will tell.
        let free = registration.is_none_or(|r| {
            let side = r.side(direction);
            side.is_free() || (direction == Direction::Read && side.waiters.is_empty())
        });
        // A socket that takes nothing now gets no pipe, and no worker.
        let tried = free.then(|| self.drive(cx, &mut transfer));
        let body = Body::Transfer(Box::new(transfer));
        match tried {
            Some(Try::Done { result, .. }) => finish(cx, token, body, result, 0),
            tried => self.enqueue(cx, token, body, tried),
        }
    }

    /// Lets a transfer do what can be done directly.
    pub(super) fn drive(&mut self, cx: &mut Context, transfer: &mut Transfer) -> Try {
        loop {
            return match cx.advance(transfer) {
                Next::Fill | Next::Drain => Try::Step,
                Next::Writable => Try::Home,
                // A worker may have found it empty, and the edge come, before we hear of it.
                Next::Readable if direct::is_ready(transfer.source(), Direction::Read) => {
                    Try::Again
                }
                Next::Readable if is_stream(transfer.target()) => {
                    Try::Guest(transfer.source().clone(), Direction::Read)
                }
                Next::Readable => Try::Home,
                Next::Yield => Try::Again,
                Next::Done(end) => ended(transfer, end),
                Next::NeedPipe => {
                    if self.take_pipe(cx, transfer) {
                        continue;
                    }
                    ended(transfer, End::NoPipe)
                }
            };
        }
    }

    /// Has the transfer that has waited longest with a pipe give it to another.
    fn take_pipe(&mut self, cx: &mut Context, transfer: &mut Transfer) -> bool {
        while let Some((_, token)) = self.stalled.pop_first() {
            let Some(flight) = self.flights.get(token) else {
                continue;
            };
            flight.stall = None;
            let Body::Transfer(victim) = &mut flight.body else {
                continue;
            };
            if !victim.give_up_pipe(&mut cx.pipes) {
                continue;
            }
            cx.counters.pipes_taken += 1;
            if let Some(pipe) = cx.pipes.lease(Lessee::Direct) {
                transfer.set_pipe(pipe);
                return true;
            }
        }
        false
    }

    /// Remembers a transfer that waits with a pipe, if that is what it does.
    pub(super) fn mark_stalled(&mut self, token: Token) {
        let Some(flight) = self.flights.get(token) else {
            return;
        };
        let Body::Transfer(transfer) = &flight.body else {
            return;
        };
        debug_assert_eq!(flight.wait, Wait::Home);
        if transfer.may_give_up_pipe() {
            flight.stall = Some(self.stalls);
            self.stalled.insert(self.stalls, token);
            self.stalls += 1;
        }
    }
}
