//! [`Places`]: which sockets a proactor's senders are busy with, seen from every thread: what is
//! started behind a send must not overtake it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard};

use proactor::Remote;

use super::loans::{Loans, Order};
use crate::oneshot::Sender;
use crate::route::Routes;
use crate::send::SendOutcome;

/// What tells a socket from others.
pub(super) type Identity = (u64, u64);

/// Where a socket is busy.
#[derive(Default)]
struct Place {
    /// Sends at the proactor, or on their way to it.
    orders: usize,
    /// Somebody is sending from his own thread.
    direct: bool,
    /// What has come meanwhile.
    late: Vec<Order>,
}

/// The sockets with sends under way.
#[derive(Default)]
pub(super) struct Places(Mutex<HashMap<Identity, Place>>);

impl Places {
    fn lock(&self) -> MutexGuard<'_, HashMap<Identity, Place>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A socket for a thread to send over by itself; `None` where sends are under way.
    pub(super) fn enter(self: &Arc<Self>, remote: &Remote, identity: Identity) -> Option<Turn> {
        match self.lock().entry(identity) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(place) => place.insert(Place::default()).direct = true,
        }
        Some(Turn {
            places: Arc::clone(self),
            remote: remote.clone(),
            identity,
        })
    }

    /// Counts a send that is going to the proactor.
    pub(super) fn expect(self: &Arc<Self>, identity: Identity) -> Ticket {
        self.lock().entry(identity).or_default().orders += 1;
        Ticket {
            places: Arc::clone(self),
            identity,
        }
    }

    /// Hands an order to the proactor, behind those of its socket that came before.
    pub(super) fn hand_over(&self, remote: &Remote, order: Order) {
        if let Some(place) = self.lock().get_mut(&order.identity)
            && place.direct
        {
            place.late.push(order);
            return;
        }
        post(remote, order);
    }

    /// Takes an order out that has not been handed over yet.
    pub(super) fn take_late(&self, id: u64) -> Option<Order> {
        self.lock().values_mut().find_map(|place| {
            let at = place.late.iter().position(|order| order.id == id)?;
            Some(place.late.remove(at))
        })
    }
}

fn post(remote: &Remote, order: Order) {
    // If the proactor is gone, the promise is dropped with the order, and that tells.
    let _ = remote.post(move |proactor| Loans::of(proactor).take(proactor, order));
}

/// A thread's turn to send over a socket by itself. When it is over, what has come meanwhile is
/// handed to the proactor.
pub(super) struct Turn {
    places: Arc<Places>,
    remote: Remote,
    identity: Identity,
}

impl Turn {
    /// Ends it with the rest of what was to be sent, which goes first.
    pub(super) fn leave(self, rest: Order) {
        post(&self.remote, rest);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        loop {
            let late = {
                let mut places = self.places.lock();
                let Entry::Occupied(mut place) = places.entry(self.identity) else {
                    return;
                };
                if place.get().late.is_empty() {
                    place.get_mut().direct = false;
                    if place.get().orders == 0 {
                        place.remove();
                    }
                    return;
                }
                std::mem::take(&mut place.get_mut().late)
            };
            // Without the lock: one that is refused is dropped, and gives its place up.
            for order in late {
                post(&self.remote, order);
            }
        }
    }
}

/// The place of a send that is at the proactor, or on its way to it.
pub(super) struct Ticket {
    places: Arc<Places>,
    identity: Identity,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut places = self.places.lock();
        if let Entry::Occupied(mut place) = places.entry(self.identity) {
            place.get_mut().orders -= 1;
            if place.get().orders == 0 && !place.get().direct {
                place.remove();
            }
        }
    }
}

/// What a send did before it came to the proactor.
#[derive(Default)]
pub(super) struct Before {
    pub(super) sent: u64,
    pub(super) routes: Routes,
}

/// Tells a send's future of its end; by then its socket is free.
pub(super) struct Promise {
    ticket: Ticket,
    before: Before,
    sender: Sender<SendOutcome>,
}

impl Promise {
    pub(super) fn new(ticket: Ticket, before: Before, sender: Sender<SendOutcome>) -> Promise {
        Promise {
            ticket,
            before,
            sender,
        }
    }

    /// Whether some of the send has left already.
    pub(super) fn has_begun(&self) -> bool {
        self.before.sent > 0
    }

    pub(super) fn keep(self, mut outcome: SendOutcome) {
        let Promise {
            ticket,
            before,
            sender,
        } = self;
        drop(ticket);
        outcome.sent += before.sent;
        outcome.routes.insert_all(before.routes);
        sender.send(outcome);
    }
}
