//! The emulated completion port: IOCP's shape on readiness. Descriptors are associated with the
//! port ([`poller`]), operations are overlapped ([`flight`]), the poller and the workers bring
//! completions, and the loop takes them in batches.
//!
//! An operation is tried at once, as a call that doesn't wait ([`direct`]). If that says `EAGAIN`
//! it stands in line at its descriptor, its *home*, one line for each direction, until it is over:
//! so operations of one direction run in the order of their submission. What may block goes to a
//! worker. Transfers of files are in [`sendfile`].

mod direct;
mod flight;
mod line;
mod poller;
mod sendfile;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::backend::{Backend, Context};
use crate::fd::Fd;
use crate::job::End;
use crate::net;
use crate::op::{Completion, Interest, Op, Output, Token};
use crate::port::Done;
use crate::transfer::Transfer;

use crate::epoll::{ERR, HUP};
use flight::{Body, Flight, Flights, Wait};
use poller::{Direction, Poller, Side, Slot};

pub(crate) struct Emulated {
    poller: Poller,
    flights: Flights,
    /// Lines to be looked at in the next turn.
    scheduled: Vec<Side>,
    /// Receives for which there was no buffer, longest first.
    starved: VecDeque<Token>,
    /// Transfers that wait with a pipe in their hands, by the order in which they began to.
    stalled: BTreeMap<u64, Token>,
    stalls: u64,
    /// The last wait left the poller alone, since there were completions to deliver.
    skipped: bool,
}

impl Emulated {
    pub(crate) fn open() -> io::Result<Emulated> {
        Ok(Emulated {
            poller: Poller::new()?,
            flights: Flights::default(),
            scheduled: Vec::new(),
            starved: VecDeque::new(),
            stalled: BTreeMap::new(),
            stalls: 0,
            skipped: false,
        })
    }

    /// Waits for readiness as such. An edge tells of changes alone, so what there is now is asked
    /// for first.
    fn poll(&mut self, cx: &mut Context, token: Token, op: Op) {
        let Op::Poll { fd, interest } = &op else {
            return;
        };
        let found = match direct::poll_now(fd, interest.0) {
            Ok(0) => self.poller.register(fd).map(Err),
            other => other.map(Ok),
        };
        let result = match found {
            Ok(Err(slot)) => match self.poller.get(slot) {
                Some(registration) if registration.pollable => {
                    registration.polls.push(token);
                    let flight = Flight::new(None, Wait::Poll(slot), Body::Op(op));
                    self.flights.insert(token, flight);
                    return;
                }
                // What can't be waited for is always ready (poll(2)).
                _ => Ok(Output::Ready(*interest)),
            },
            Ok(Ok(events)) => Ok(Output::Ready(Interest(events))),
            Err(e) => Err(e),
        };
        finish(cx, token, Body::Op(op), result, 0);
    }

    /// Tells those who wait for readiness of an edge.
    fn tell(&mut self, cx: &mut Context, slot: Slot, events: i16) {
        let Some(registration) = self.poller.get(slot) else {
            return;
        };
        let flights = &mut self.flights;
        registration.polls.retain(|token| {
            let Some(Body::Op(Op::Poll { interest, .. })) = flights.get(*token).map(|f| &f.body)
            else {
                return false;
            };
            let found = events & (interest.0 | ERR | HUP);
            if found == 0 {
                return true;
            }
            if let Some(flight) = flights.remove(*token) {
                let output = Ok(Output::Ready(Interest(found)));
                finish(cx, *token, flight.body, output, 0);
            }
            false
        });
    }

    /// Notes how many are scheduled when the turn has nothing left to give.
    fn note_served(&self, cx: &Context, served: &mut Option<usize>) {
        if cx.direct_left == 0 && served.is_none() {
            *served = Some(self.scheduled.len());
        }
    }

    /// Lets receives go on that waited for a buffer.
    fn feed(&mut self, cx: &mut Context) {
        for _ in 0..self.starved.len() {
            if !cx.bufs.has_free() {
                break;
            }
            let Some(token) = self.starved.pop_front() else {
                return;
            };
            let Some(flight) = self.flights.get(token) else {
                continue;
            };
            flight.wait = Wait::Home;
            let home = flight.home;
            if self.step(cx, token, false) {
                self.kick(home);
            }
        }
        if !self.starved.is_empty() {
            cx.bufs.set_starved();
        }
    }
}

/// Delivers an operation's last completion. A transfer counts for itself.
fn finish(cx: &mut Context, token: Token, body: Body, result: io::Result<Output>, n: u64) {
    let (op, transferred) = match body {
        Body::Op(op) => (op, n),
        Body::Transfer(transfer) => transfer.finish(&mut cx.pipes),
        Body::Away => {
            debug_assert!(false, "an operation ends where it is");
            return;
        }
    };
    let completion = Completion {
        result,
        transferred,
        op: Some(op),
    };
    cx.complete(token, completion);
}

fn cancelled() -> io::Error {
    io::Error::from_raw_os_error(libc::ECANCELED)
}

impl Backend for Emulated {
    fn submit(&mut self, cx: &mut Context, token: Token, op: Op) {
        match op {
            Op::Close { fd } => {
                drop(fd);
                cx.complete(token, Completion::ok(Op::Nop, Output::Done, 0));
            }
            Op::Shutdown { ref socket, how } => {
                let result = net::shutdown(socket, how).map(|()| Output::Done);
                finish(cx, token, Body::Op(op), result, 0);
            }
            Op::Poll { .. } => self.poll(cx, token, op),
            Op::SendFile(op) => self.start_transfer(cx, token, op.into()),
            Op::Forward(op) => self.start_transfer(cx, token, op.into()),
            op => self.start(cx, token, op),
        }
    }

    fn cancel(&mut self, cx: &mut Context, token: Token) {
        let Some(flight) = self.flights.get(token) else {
            return;
        };
        let body = match flight.wait {
            Wait::Worker => cx.workers.remove(token).map(Body::Op),
            Wait::Step => cx.workers.remove_step(token).map(Body::Transfer),
            _ => Some(std::mem::replace(&mut flight.body, Body::Away)),
        };
        let Some(body) = body else {
            // A worker can't be interrupted.
            flight.cancelled = true;
            return;
        };
        if let Some(flight) = self.retire(token) {
            finish(cx, token, body, Err(cancelled()), 0);
            self.kick(flight.home);
            if let Wait::Guest(side) = flight.wait {
                self.kick(Some(side));
            }
        }
    }

    fn wait(&mut self, cx: &mut Context, block: bool) -> io::Result<()> {
        // A buffer may have come back with a wake-up that was read together with another.
        if !self.starved.is_empty() {
            self.feed(cx);
        }
        // Completions at hand go first: what they lead to is often all that there is to do, and
        // the next turn looks. No descriptor waits for more than that one turn.
        self.skipped = !cx.ready.is_empty() && !self.skipped;
        cx.begin_turn();
        let turn = std::mem::take(&mut self.scheduled);
        let idle = turn.is_empty();
        // Those who found nothing left to them in this turn go before those who did in the next.
        let mut served = None;
        for side in turn {
            if let Some(state) = self.poller.side(side) {
                state.scheduled = false;
                self.run(cx, side);
            }
            self.note_served(cx, &mut served);
        }
        if !self.skipped {
            let block = block && cx.ready.is_empty() && idle;
            cx.counters.waits += 1;
            for index in 0..self.poller.wait(block)? {
                let Some((slot, events)) = self.poller.event(index) else {
                    continue;
                };
                self.tell(cx, slot, events);
                for direction in [Direction::Read, Direction::Write] {
                    self.run(cx, Side { slot, direction });
                }
                self.note_served(cx, &mut served);
            }
        }
        if let Some(served) = served {
            self.scheduled.rotate_left(served);
        }
        self.feed(cx);
        Ok(())
    }

    fn flush(&mut self, _cx: &mut Context) -> io::Result<bool> {
        Ok(!self.scheduled.is_empty())
    }

    fn done(&mut self, cx: &mut Context, done: Done) {
        let Some(flight) = self.flights.get(done.token) else {
            // Work, which is the proactor's own.
            cx.complete(done.token, done.into());
            return;
        };
        let home = flight.home;
        flight.body = Body::Op(done.op);
        flight.wait = Wait::Home;
        // Only a splice finds its pipe unready there.
        let unready = matches!(&done.result, Err(e) if e.kind() == io::ErrorKind::WouldBlock);
        let over = match (unready && home.is_some(), flight.cancelled) {
            (true, false) => self.step(cx, done.token, false),
            (true, true) => {
                self.end(cx, done.token, Err(cancelled()), 0);
                true
            }
            (false, _) => {
                self.end(cx, done.token, done.result, done.transferred);
                true
            }
        };
        if over {
            self.kick(home);
        }
    }

    fn stepped(&mut self, cx: &mut Context, token: Token, transfer: Box<Transfer>) {
        let Some(flight) = self.flights.get(token) else {
            transfer.finish(&mut cx.pipes);
            return;
        };
        let home = flight.home;
        // All that was to be moved was, before the cancel could be heard.
        let whole = transfer.is_complete();
        let output = whole.then(|| transfer.output(End::Complete));
        flight.body = Body::Transfer(transfer);
        flight.wait = Wait::Home;
        let over = if flight.cancelled {
            self.end(cx, token, output.ok_or_else(cancelled), 0);
            true
        } else {
            self.step(cx, token, false)
        };
        if over {
            self.kick(home);
        }
    }

    fn watch(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.poller.watch(fd)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }

    fn forget(&mut self, fd: &Fd) {
        self.poller.forget(fd);
    }

    fn abandon(&mut self) -> usize {
        // What workers hold is theirs to free; there is nothing that the kernel writes to.
        self.flights.len()
    }
}
