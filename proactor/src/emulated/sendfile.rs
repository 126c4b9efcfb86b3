//! Transfers of files: drives the machine of `transfer.rs` by readiness and workers, and moves
//! pipes from those who wait to those who can use one.

use crate::backend::{Context, TURN_BUDGET};
use crate::fd::Fd;
use crate::op::{Completion, Op, Output, SendFile, SendFileEnd, Token};
use crate::pipe::Lessee;
use crate::transfer::{Next, Transfer, unfit};

use super::direct::{self, Try};
use super::flight::{Body, Wait};
use super::poller::Direction;
use super::{Emulated, finish};

impl Body {
    /// Where this stands in line.
    pub(super) fn home(&self) -> Option<(&Fd, Direction)> {
        match self {
            Body::Op(op) => direct::home(op),
            Body::Transfer(transfer) => Some((&transfer.op().socket, Direction::Write)),
            Body::Away => None,
        }
    }
}

fn ended(end: SendFileEnd) -> Try {
    Try::Done {
        result: Ok(Output::Sent(end)),
        transferred: 0,
        short: false,
    }
}

impl Emulated {
    pub(super) fn start_transfer(&mut self, cx: &mut Context, token: Token, op: SendFile) {
        if let Some(end) = unfit(&op) {
            let completion = Completion::ok(Op::SendFile(op), Output::Sent(end), 0);
            cx.complete(token, completion);
            return;
        }
        let registration = self.poller.find(&op.socket);
        let free = registration.is_none_or(|r| r.side(Direction::Write).is_free());
        let mut transfer = Transfer::new(op);
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
            return match transfer.advance(&mut cx.pipes, TURN_BUDGET) {
                Next::Fill => Try::Fill,
                Next::Writable => Try::Home,
                // A worker may have found it empty, and the edge come, before we hear of it.
                Next::Readable if direct::is_ready(&transfer.op().file, Direction::Read) => {
                    Try::Again
                }
                Next::Readable => Try::Guest(transfer.op().file.clone(), Direction::Read),
                Next::Yield => Try::Again,
                Next::Done(end) => ended(end),
                Next::NeedPipe => {
                    if self.take_pipe(cx, transfer) {
                        continue;
                    }
                    ended(SendFileEnd::NoPipe)
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
        if transfer.pipe().is_some() && transfer.op().offset.is_some() {
            flight.stall = Some(self.stalls);
            self.stalled.insert(self.stalls, token);
            self.stalls += 1;
        }
    }
}
