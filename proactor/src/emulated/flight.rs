//! Operations under way: who waits where, by token.

use crate::op::{Op, Token};
use crate::transfer::Transfer;

use super::poller::{Side, Slot};

/// What an operation is while it is under way.
pub(super) enum Body {
    Op(Op),
    Transfer(Box<Transfer>),
    /// In a worker's hands, or being tried at this moment.
    Away,
}

/// What an operation waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    /// For its turn, or an edge, at its home; or for the next turn of the loop.
    Home,
    /// For an edge at another descriptor, as a guest among those at home there.
    Guest(Side),
    /// For readiness as such.
    Poll(Slot),
    /// For a receive buffer.
    Buffer,
    /// For a worker that runs it.
    Worker,
    /// For a worker that makes the transfer's next call.
    Step,
}

pub(super) struct Flight {
    generation: u32,
    pub(super) body: Body,
    pub(super) wait: Wait,
    /// Where it stands in line from its start to its end: those behind it wait for that. File
    /// operations have none.
    pub(super) home: Option<Side>,
    /// Its place among the transfers whose pipe others may have.
    pub(super) stall: Option<u64>,
    /// It has been tried before.
    pub(super) begun: bool,
    /// To end when the worker gives it back.
    pub(super) cancelled: bool,
}

impl Flight {
    pub(super) fn new(home: Option<Side>, wait: Wait, body: Body) -> Flight {
        Flight {
            generation: 0,
            body,
            wait,
            home,
            stall: None,
            begun: false,
            cancelled: false,
        }
    }
}

/// The table: by the index of tokens, which are dense.
#[derive(Default)]
pub(super) struct Flights {
    slots: Vec<Option<Flight>>,
    len: usize,
}

impl Flights {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, token: Token, mut flight: Flight) {
        let index = token.index as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        debug_assert!(self.slots[index].is_none());
        flight.generation = token.generation;
        self.slots[index] = Some(flight);
        self.len += 1;
    }

    pub(super) fn get(&mut self, token: Token) -> Option<&mut Flight> {
        let slot = self.slots.get_mut(token.index as usize)?;
        slot.as_mut().filter(|f| f.generation == token.generation)
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<Flight> {
        self.get(token)?;
        self.len -= 1;
        self.slots[token.index as usize].take()
    }
}
