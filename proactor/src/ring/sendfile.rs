//! Transfers of files on the ring: drives the machine of `transfer.rs`, submits its linked chains,
//! and moves pipes from those who wait to those who can use one.

use std::io;

use crate::backend::Context;
use crate::job::End;
use crate::op::Token;
use crate::pipe::Lessee;
use crate::transfer::{Next, Transfer};

use super::flight::{Flight, Step, Task, cancel};
use super::{Ring, cancelled_error, is_refused, no_worker};

impl Ring {
    /// One of a transfer's submissions has been answered.
    pub(super) fn transfer_step(
        &mut self,
        cx: &mut Context,
        token: Token,
        step: Step,
        result: i32,
    ) {
        let skip_success = self.found.skip_success;
        let Some(flight) = self.flight(token) else {
            return;
        };
        let filling = flight.is_outstanding(Step::Fill);
        // Behind a fill, a drain ends with that.
        let alone = step == Step::Drain && flight.outstanding == 0;
        // A wait that was cancelled to get at the pipe cancels the drain behind it.
        let refused = (step == Step::Fill || alone) && is_refused(flight, result);
        let refused = refused && !flight.reclaim;
        let Task::Transfer(transfer) = &mut flight.task else {
            return;
        };
        match step {
            Step::Fill => {
                transfer.filled(match refused {
                    true => Err(no_worker()),
                    false => outcome(result),
                });
                if let Some(drain) = flight.early_drain.take() {
                    drained(transfer, drain);
                }
            }
            Step::Drain if filling => flight.early_drain = Some(result),
            Step::Drain if refused && transfer.job().drains_away() => {
                transfer.step_failed(no_worker());
            }
            Step::Drain => {
                drained(transfer, result);
                if skip_success {
                    flight.outstanding &= !(Step::Poll as u8);
                }
            }
            // A wait that is silent about success and fails silences the drain linked to it.
            Step::Poll if skip_success && result < 0 => {
                flight.outstanding &= !(Step::Drain as u8);
            }
            Step::Poll | Step::Main => {}
        }
        if flight.outstanding == 0 {
            match refused {
                // Without a worker, what is in the pipe is drained by direct calls.
                true => self.drive(cx, token),
                false => self.settled(cx, token),
            }
        }
    }

    /// The kernel has nothing of a transfer in its hands: decide what comes next.
    pub(super) fn settled(&mut self, cx: &mut Context, token: Token) {
        let skip_success = self.found.skip_success;
        let Some(flight) = self.flight(token) else {
            return;
        };
        let cancelled = flight.cancelled;
        let reclaim = std::mem::take(&mut flight.reclaim);
        let Task::Transfer(transfer) = &mut flight.task else {
            return;
        };
        if cancelled {
            self.end_cancelled(cx, token);
            return;
        }
        if transfer.job().fills_away() && transfer.has_rest() {
            if (reclaim || cx.pipes.is_scarce()) && transfer.give_up_pipe(&mut cx.pipes) {
                cx.counters.pipes_taken += 1;
                self.wait_writable(token);
                return;
            }
            let socket = transfer.target().clone();
            if self.wait_for_room(token, &socket) {
                self.mark_stalled(token);
                return;
            }
            let Some(flight) = self.flight(token) else {
                return;
            };
            if let Some([wait, drain]) = flight.wait_and_drain(skip_success) {
                self.starvation.expect();
                self.push(wait, Some(drain));
                self.mark_stalled(token);
            }
            return;
        }
        self.drive(cx, token);
    }

    pub(super) fn end_cancelled(&mut self, cx: &mut Context, token: Token) {
        let Some(flight) = self.flight(token) else {
            return;
        };
        let Task::Transfer(transfer) = &flight.task else {
            self.finish(cx, token, Err(cancelled_error()), 0);
            return;
        };
        let result = if transfer.is_complete() {
            Ok(transfer.output(End::Complete))
        } else {
            Err(cancelled_error())
        };
        self.finish(cx, token, result, 0);
    }

    /// Lets a transfer do what can be done directly, and submits what can't.
    pub(super) fn drive(&mut self, cx: &mut Context, token: Token) {
        let end = loop {
            let Some(flight) = self.flight(token) else {
                return;
            };
            let Task::Transfer(transfer) = &mut flight.task else {
                return;
            };
            let before = transfer.moved();
            match cx.advance(transfer) {
                Next::Done(end) => break end,
                Next::Yield => {
                    let has_rest = transfer.has_rest();
                    match transfer.moved() > before {
                        true => self.served.push_back(token),
                        false => self.runnable.push_back(token),
                    }
                    if has_rest {
                        self.mark_stalled(token);
                    }
                    return;
                }
                Next::Writable => {
                    let has_rest = transfer.has_rest();
                    self.wait_writable(token);
                    if has_rest {
                        self.mark_stalled(token);
                    }
                    return;
                }
                Next::Readable => {
                    let source = transfer.source().clone();
                    let entry = flight.wait_for(&source, libc::POLLIN);
                    self.push(entry, None);
                    return;
                }
                Next::Fill => {
                    if let Some([fill, drain]) = flight.chain() {
                        self.push(fill, Some(drain));
                        self.starvation.expect();
                        cx.counters.chains += 1;
                        return;
                    }
                    break End::SourceFailed(io::Error::from_raw_os_error(libc::EOVERFLOW));
                }
                Next::Drain => {
                    if let Some(entry) = flight.drain_alone() {
                        self.push(entry, None);
                        self.starvation.expect();
                        cx.counters.chains += 1;
                        return;
                    }
                    break End::TargetFailed(io::Error::from_raw_os_error(libc::EOVERFLOW));
                }
                Next::NeedPipe => {
                    if !self.take_pipe(cx, token) {
                        break End::NoPipe;
                    }
                }
            }
        };
        let Some(flight) = self.flight(token) else {
            return;
        };
        let Task::Transfer(transfer) = &flight.task else {
            return;
        };
        let output = transfer.output(end);
        self.finish(cx, token, Ok(output), 0);
    }

    pub(super) fn wait_writable(&mut self, token: Token) {
        let Some(flight) = self.flight(token) else {
            return;
        };
        let Task::Transfer(transfer) = &flight.task else {
            return;
        };
        let socket = transfer.target().clone();
        if self.wait_for_room(token, &socket) {
            return;
        }
        if let Some(flight) = self.flight(token) {
            let entry = flight.wait_for(&socket, libc::POLLOUT);
            self.push(entry, None);
        }
    }

    /// Remembers a transfer that waits, for room or for its turn, with a rest in its pipe.
    pub(super) fn mark_stalled(&mut self, token: Token) {
        if self.stalled.len() >= 64 {
            let mut stalled = std::mem::take(&mut self.stalled);
            stalled.retain(|token| {
                self.flight(*token)
                    .is_some_and(|f| matches!(&f.task, Task::Transfer(t) if t.has_rest()))
            });
            self.stalled = stalled;
        }
        if !self.stalled.contains(&token) {
            self.stalled.push_back(token);
        }
    }

    /// Gets a pipe for a transfer from one that waits for its peer. A wait that is linked with a
    /// drain must be cancelled first: that pipe will be there for the next.
    pub(super) fn take_pipe(&mut self, cx: &mut Context, token: Token) -> bool {
        while let Some(victim) = self.stalled.pop_front() {
            if victim == token {
                continue;
            }
            let Some(flight) = self.flight(victim) else {
                continue;
            };
            let outstanding = flight.outstanding;
            let linked = flight.is_outstanding(Step::Poll) && flight.is_outstanding(Step::Drain);
            let Task::Transfer(transfer) = &mut flight.task else {
                continue;
            };
            // It waits, for room (at the ring or at the epoll) or for its turn, and does nothing else.
            let waits = outstanding == Step::Poll as u8 || outstanding == 0;
            if waits && transfer.give_up_pipe(&mut cx.pipes) {
                cx.counters.pipes_taken += 1;
                let pipe = cx.pipes.lease(Lessee::Direct);
                let Some(Flight {
                    task: Task::Transfer(transfer),
                    ..
                }) = self.flight(token)
                else {
                    return false;
                };
                return pipe.map(|pipe| transfer.set_pipe(pipe)).is_some();
            }
            if linked && transfer.may_give_up_pipe() && !flight.reclaim {
                flight.reclaim = true;
                self.push(cancel(victim, Step::Poll), None);
                return false;
            }
        }
        false
    }
}

fn outcome(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// Takes a drain's answer in. One from an empty pipe (the fill brought nothing) says nothing.
fn drained(transfer: &mut Transfer, result: i32) {
    if transfer.piped() > 0 || !transfer.job().head().is_empty() {
        transfer.drained(outcome(result));
    }
}
