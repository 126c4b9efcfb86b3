//! Lines: how an operation that has to wait stands at its home, is tried again when its turn
//! comes, and gets out of the way when it is over.
//!
//! The first in a line is the one being worked on. It waits for an edge there, or elsewhere: as a
//! guest at another descriptor, for a buffer, for a worker; those behind it wait for its end.
//! A line is run when its descriptor becomes ready ([`Emulated::run`]), and from the loop's next
//! turn when someone has to be looked at for another reason ([`Emulated::schedule`]).

use std::io;

use crate::backend::Context;
use crate::fd::Fd;
use crate::op::{Op, Output, Token};

use super::direct::{self, Try};
use super::flight::{Body, Flight, Wait};
use super::poller::{Direction, Side};
use super::{Emulated, finish};

impl Emulated {
    /// Starts an operation that is neither a transfer nor quick.
    pub(super) fn start(&mut self, cx: &mut Context, token: Token, mut op: Op) {
        let Some((fd, direction)) = direct::home(&op) else {
            let tried = direct::attempt(cx, token, &mut op, false, false);
            if let Try::Done {
                result,
                transferred,
                ..
            } = tried
            {
                finish(cx, token, Body::Op(op), result, transferred);
            } else {
                self.flights
                    .insert(token, Flight::new(None, Wait::Worker, Body::Op(op)));
                self.settle(cx, token, Try::Worker);
            }
            return;
        };
        let (free, plain) = match self.poller.find(fd) {
            None => (true, false),
            Some(registration) => (
                registration.side(direction).is_free(),
                registration.is_plain(),
            ),
        };
        let tried = if free && !self.must_queue(&op) {
            Some(direct::attempt(cx, token, &mut op, false, plain))
        } else {
            None
        };
        if let Some(Try::Done {
            result,
            transferred,
            short,
        }) = tried
        {
            if short
                && plain
                && let Some((fd, direction)) = direct::home(&op)
                && let Some(registration) = self.poller.find(fd)
            {
                registration.side(direction).ready = false;
            }
            finish(cx, token, Body::Op(op), result, transferred);
            return;
        }
        self.enqueue(cx, token, Body::Op(op), tried);
    }

    /// Whether others wait at the other descriptor of a splice.
    fn must_queue(&mut self, op: &Op) -> bool {
        direct::other_side(op).is_some_and(|(fd, direction)| {
            let registration = self.poller.find(fd);
            registration.is_some_and(|r| !r.side(direction).is_free())
        })
    }

    /// Puts an operation in line at its home; `tried` is what its first try came to.
    pub(super) fn enqueue(
        &mut self,
        cx: &mut Context,
        token: Token,
        body: Body,
        tried: Option<Try>,
    ) {
        let registered = match body.home() {
            Some((fd, direction)) => self
                .poller
                .register(fd)
                .map(|slot| Side { slot, direction }),
            None => Err(io::ErrorKind::InvalidInput.into()),
        };
        let home = match registered {
            Ok(home) => home,
            Err(e) => {
                finish(cx, token, body, Err(e), 0);
                return;
            }
        };
        let mut flight = Flight::new(Some(home), Wait::Home, body);
        flight.begun = tried.is_some();
        self.flights.insert(token, flight);
        if let Some(state) = self.poller.side(home) {
            state.waiters.push(token);
            // A splice that has to wait for its other descriptor alone finds that out when run.
            if tried.is_none() && state.ready && state.waiters.first() == Some(token) {
                self.schedule(home);
            }
        }
        if let Some(tried) = tried {
            self.settle(cx, token, tried);
        }
    }

    /// Has a line looked at in the next turn.
    fn schedule(&mut self, side: Side) {
        if let Some(state) = self.poller.side(side)
            && !state.scheduled
        {
            state.scheduled = true;
            self.scheduled.push(side);
        }
    }

    /// As [`schedule`](Emulated::schedule), if there is someone in line who may go on.
    pub(super) fn kick(&mut self, side: Option<Side>) {
        if let Some(side) = side
            && let Some(state) = self.poller.side(side)
            && state.ready
            && !state.waiters.is_empty()
        {
            self.schedule(side);
        }
    }

    /// Lets those in a line go on, until the descriptor isn't ready.
    pub(super) fn run(&mut self, cx: &mut Context, side: Side) {
        loop {
            let Some(state) = self.poller.side(side) else {
                return;
            };
            let Some(token) = state.waiters.first() else {
                return;
            };
            if !state.ready || state.scheduled {
                return;
            }
            let Some(flight) = self.flights.get(token) else {
                debug_assert!(false, "who stands in line is under way");
                return;
            };
            match flight.wait {
                Wait::Guest(guest) if guest == side => {
                    state.waiters.remove(token);
                    flight.wait = Wait::Home;
                    let home = flight.home;
                    if self.step(cx, token, true) {
                        self.kick(home);
                    }
                }
                Wait::Home if flight.home == Some(side) => {
                    if !self.step(cx, token, false) {
                        return;
                    }
                }
                // The first is at work elsewhere.
                _ => return,
            }
        }
    }

    /// Tries an operation that is in line; true if it is over. A `guest` has waited its turn at
    /// its other descriptor.
    pub(super) fn step(&mut self, cx: &mut Context, token: Token, guest: bool) -> bool {
        let Some(flight) = self.flights.get(token) else {
            return false;
        };
        let home = flight.home;
        let begun = std::mem::replace(&mut flight.begun, true);
        let mut body = std::mem::replace(&mut flight.body, Body::Away);
        if let Some(place) = flight.stall.take() {
            self.stalled.remove(&place);
        }
        let tried = match &mut body {
            Body::Op(op) => {
                let registration = home.and_then(|home| self.poller.get(home.slot));
                let plain = registration.is_some_and(|r| r.is_plain());
                match direct::other_side(op) {
                    Some((fd, direction)) if !guest && self.must_queue(op) => {
                        Try::Behind(fd.clone(), direction)
                    }
                    _ => direct::attempt(cx, token, op, begun, plain),
                }
            }
            Body::Transfer(transfer) => self.drive(cx, transfer),
            Body::Away => return false,
        };
        if let Some(flight) = self.flights.get(token) {
            flight.body = body;
        }
        let done = matches!(tried, Try::Done { .. });
        self.settle(cx, token, tried);
        done
    }

    /// Acts on what a try of an operation under way came to.
    fn settle(&mut self, cx: &mut Context, token: Token, tried: Try) {
        let Some(flight) = self.flights.get(token) else {
            return;
        };
        let home = flight.home;
        let registration = home.and_then(|home| self.poller.get(home.slot));
        match tried {
            Try::Done {
                result,
                transferred,
                short,
            } => {
                if let (Some(registration), Some(home)) = (registration, home)
                    && short
                    && registration.is_plain()
                {
                    registration.side(home.direction).ready = false;
                }
                self.end(cx, token, result, transferred);
            }
            Try::Home => {
                flight.wait = Wait::Home;
                match (registration, home) {
                    (Some(registration), Some(home)) if registration.pollable => {
                        registration.side(home.direction).ready = false;
                        self.mark_stalled(token);
                    }
                    _ => self.end(cx, token, Err(io::ErrorKind::WouldBlock.into()), 0),
                }
            }
            Try::Guest(fd, direction) => self.be_guest(cx, token, &fd, direction, true),
            Try::Behind(fd, direction) => self.be_guest(cx, token, &fd, direction, false),
            Try::Worker => {
                if let Body::Op(op) = std::mem::replace(&mut flight.body, Body::Away) {
                    flight.wait = Wait::Worker;
                    cx.workers.run(token, op);
                }
            }
            Try::Step => {
                if let Body::Transfer(transfer) = std::mem::replace(&mut flight.body, Body::Away) {
                    flight.wait = Wait::Step;
                    cx.counters.chains += 1;
                    cx.workers.step(token, transfer);
                }
            }
            Try::Again => {
                flight.wait = Wait::Home;
                self.mark_stalled(token);
                if let Some(home) = home {
                    // Those that are not ready are not run.
                    if let Some(state) = self.poller.side(home) {
                        state.ready = true;
                    }
                    self.schedule(home);
                }
            }
            Try::NoBuffer => {
                flight.wait = Wait::Buffer;
                self.starved.push_back(token);
                cx.bufs.set_starved();
            }
        }
    }

    /// Lets an operation wait at another descriptor than its home; `unready` if that has just been
    /// found out.
    fn be_guest(
        &mut self,
        cx: &mut Context,
        token: Token,
        fd: &Fd,
        direction: Direction,
        unready: bool,
    ) {
        let side = match self.poller.register(fd) {
            Ok(slot) => Side { slot, direction },
            Err(e) => return self.end(cx, token, Err(e), 0),
        };
        let (Some(flight), Some(registration)) =
            (self.flights.get(token), self.poller.get(side.slot))
        else {
            return;
        };
        if !registration.pollable {
            return self.end(cx, token, Err(io::ErrorKind::WouldBlock.into()), 0);
        }
        flight.wait = Wait::Guest(side);
        let state = registration.side(direction);
        state.ready &= !unready;
        state.waiters.push(token);
    }

    /// Takes an operation out of all lines and lists.
    pub(super) fn retire(&mut self, token: Token) -> Option<Flight> {
        let flight = self.flights.remove(token)?;
        if let Some(place) = flight.stall {
            self.stalled.remove(&place);
        }
        let guest = match flight.wait {
            Wait::Guest(side) => Some(side),
            _ => None,
        };
        for side in [flight.home, guest].into_iter().flatten() {
            if let Some(state) = self.poller.side(side) {
                state.waiters.remove(token);
            }
        }
        match flight.wait {
            Wait::Poll(slot) => {
                if let Some(registration) = self.poller.get(slot) {
                    registration.polls.retain(|t| *t != token);
                }
            }
            Wait::Buffer => self.starved.retain(|t| *t != token),
            _ => {}
        }
        Some(flight)
    }

    /// Ends an operation under way.
    pub(super) fn end(
        &mut self,
        cx: &mut Context,
        token: Token,
        result: io::Result<Output>,
        n: u64,
    ) {
        if let Some(flight) = self.retire(token) {
            finish(cx, token, flight.body, result, n);
        }
    }
}
