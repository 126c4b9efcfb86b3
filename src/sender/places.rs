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
    late: Vec<Late>,
    /// Of one of them some has left, and the rest never will: nothing may follow it.
    broken: bool,
}

/// What is for the proactor, once a thread's turn is over.
enum Late {
    Order(Order),
    Cancel(u64),
}

impl Late {
    fn post(self, remote: &Remote) {
        // If the proactor is gone, the promise is dropped with the order, and that tells.
        let _ = match self {
            Late::Order(order) => {
                remote.post(move |proactor| Loans::of(proactor).take(proactor, order))
            }
            Late::Cancel(id) => remote.post(move |proactor| Loans::of(proactor).cancel(id)),
        };
    }
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
            place.late.push(Late::Order(order));
            return;
        }
        Late::Order(order).post(remote);
    }

    /// Cancels an order that was handed over, wherever it is by now.
    pub(super) fn cancel(&self, remote: &Remote, identity: Identity, id: u64) {
        let mut places = self.lock();
        if let Some(place) = places.get_mut(&identity)
            && place.direct
        {
            let is_it = |late: &Late| matches!(late, Late::Order(order) if order.id == id);
            let Some(at) = place.late.iter().position(is_it) else {
                // It may be on its way: this must not overtake it.
                place.late.push(Late::Cancel(id));
                return;
            };
            let late = place.late.remove(at);
            drop(places);
            if let Late::Order(order) = late {
                order.promise.keep(SendOutcome::cancelled());
            }
            return;
        }
        drop(places);
        Late::Cancel(id).post(remote);
    }
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
        Late::Order(rest).post(&self.remote);
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
            for late in late {
                late.post(&self.remote);
            }
        }
    }
}

/// The place of a send that is at the proactor, or on its way to it.
pub(super) struct Ticket {
    places: Arc<Places>,
    identity: Identity,
}

impl Ticket {
    fn is_broken(&self) -> bool {
        let places = self.places.lock();
        places.get(&self.identity).is_some_and(|place| place.broken)
    }

    /// What was started meanwhile must not be sent.
    fn breaks(&self) {
        if let Some(place) = self.places.lock().get_mut(&self.identity) {
            place.broken = true;
        }
    }
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

/// Tells a send's future of its end; by then its socket is free. Dropped, it tells that the proactor
/// is gone.
pub(super) struct Promise {
    /// Both are there until it is kept.
    ticket: Option<Ticket>,
    sender: Option<Sender<SendOutcome>>,
    before: Before,
}

impl Promise {
    pub(super) fn new(ticket: Ticket, before: Before, sender: Sender<SendOutcome>) -> Promise {
        Promise {
            ticket: Some(ticket),
            sender: Some(sender),
            before,
        }
    }

    /// Whether some of the send has left already.
    pub(super) fn has_begun(&self) -> bool {
        self.before.sent > 0
    }

    /// Whether a send that it was started behind has ended with some but not all of it sent.
    pub(super) fn is_behind_a_break(&self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::is_broken)
    }

    pub(super) fn keep(mut self, outcome: SendOutcome) {
        self.tell(outcome);
    }

    fn tell(&mut self, mut outcome: SendOutcome) {
        let (Some(ticket), Some(sender)) = (self.ticket.take(), self.sender.take()) else {
            return;
        };
        outcome.sent += self.before.sent;
        outcome.routes.insert_all(self.before.routes);
        if outcome.sent > 0 && !outcome.is_success() {
            ticket.breaks();
        }
        drop(ticket);
        sender.send(outcome);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.tell(SendOutcome::abandoned());
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use proactor::{Fd, Proactor};

    use super::*;
    use crate::oneshot::{self, Receiver};
    use crate::send::End;
    use crate::sender::request::{Settings, failed};
    use crate::source::Source;

    fn order(places: &Arc<Places>, id: u64, socket: &UnixStream) -> (Order, Receiver<SendOutcome>) {
        let socket = Fd::new(OwnedFd::from(socket.try_clone().unwrap()));
        let identity = socket.identity().unwrap();
        let (tell, receiver) = oneshot::channel();
        let promise = Promise::new(places.expect(identity), Before::default(), tell);
        let order = Order {
            id,
            identity,
            socket,
            // More than there is room for.
            source: Source::bytes(vec![7; 8_000_000]),
            settings: Settings::default(),
            promise,
        };
        (order, receiver)
    }

    fn outcome(proactor: &Proactor, mut receiver: Receiver<SendOutcome>) -> SendOutcome {
        let told = std::future::poll_fn(|cx| receiver.poll(cx));
        proactor.block_on(told).unwrap().unwrap()
    }

    #[test]
    fn a_cancel_does_not_overtake_what_it_is_for() {
        let proactor = Proactor::new().unwrap();
        let (places, remote) = (Loans::of(&proactor).places(), proactor.remote());
        let (socket, _peer) = UnixStream::pair().unwrap();
        let (late, receiver) = order(&places, 1, &socket);
        let (identity, id) = (late.identity, late.id);
        places.lock().remove(&identity);
        let turn = places.enter(&remote, identity).unwrap();
        places.lock().get_mut(&identity).unwrap().orders = 1;
        // Its turn is over: the order is taken out, and on its way, when it is cancelled.
        places.cancel(&remote, identity, id);
        Late::Order(late).post(&remote);
        drop(turn);
        let outcome = outcome(&proactor, receiver);
        assert_eq!(outcome.end, End::Cancelled);
        assert!(places.lock().is_empty());
    }

    #[test]
    fn what_is_late_is_cancelled_where_it_waits() {
        let proactor = Proactor::new().unwrap();
        let (places, remote) = (Loans::of(&proactor).places(), proactor.remote());
        let (socket, _peer) = UnixStream::pair().unwrap();
        let identity = proactor::net::identity(&socket).unwrap().0;
        let turn = places.enter(&remote, identity).unwrap();
        let (late, receiver) = order(&places, 1, &socket);
        places.hand_over(&remote, late);
        places.cancel(&remote, identity, 1);
        let outcome = outcome(&proactor, receiver);
        assert_eq!((outcome.end, outcome.sent), (End::Cancelled, 0));
        drop(turn);
        assert!(places.lock().is_empty());
    }

    #[test]
    fn nothing_follows_what_was_broken_off() {
        let proactor = Proactor::new().unwrap();
        let (places, remote) = (Loans::of(&proactor).places(), proactor.remote());
        let (socket, _peer) = UnixStream::pair().unwrap();
        let (broken, first) = order(&places, 1, &socket);
        let (behind, second) = order(&places, 2, &socket);
        let mut cut = failed(std::io::ErrorKind::TimedOut.into());
        cut.sent = 10;
        broken.promise.keep(cut);
        assert_eq!(outcome(&proactor, first).sent, 10);
        places.hand_over(&remote, behind);
        let outcome = outcome(&proactor, second);
        assert_eq!((outcome.end, outcome.sent), (End::Cancelled, 0));
        assert!(places.lock().is_empty());
    }
}
