//! [`Loans`]: the sockets that are lent to a proactor at present, each with a transport for the time
//! of its loan. A loan begins with the first send over a socket, and ends when there is none left;
//! then the socket is given back, and only then those who wait for the last sends are told, so that
//! they find it as they left it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use proactor::{Attachment, Fd, Proactor};

use super::places::{Identity, Places, Promise};
use super::request::{Settings, failed};
use crate::protocol::Protocol;
use crate::send::{SendHandle, SendOutcome};
use crate::source::Source;
use crate::transport::{Transport, TransportOptions};

/// A send that was asked for.
pub(super) struct Order {
    pub(super) id: u64,
    pub(super) identity: Identity,
    pub(super) socket: Fd,
    pub(super) source: Source,
    pub(super) settings: Settings,
    pub(super) promise: Promise,
}

struct Loan {
    transport: Transport,
    /// Sends that are not over.
    sends: usize,
    /// Those who are to be told once the socket is given back.
    told: Vec<(Promise, SendOutcome)>,
    /// Sends that came when the loan was ending already.
    late: Vec<Order>,
}

/// A proactor's loans.
#[derive(Default)]
pub(super) struct Loans {
    loans: RefCell<HashMap<Identity, Loan>>,
    sends: RefCell<HashMap<u64, SendHandle>>,
    places: Arc<Places>,
}

/// The transports are told of the proactor's end themselves.
impl Attachment for Loans {
    fn closing(self: Rc<Self>, _: &Proactor) {}

    fn closed(self: Rc<Self>) {}
}

impl Loans {
    pub(super) fn of(proactor: &Proactor) -> Rc<Loans> {
        proactor.attachment(|_| Loans::default())
    }

    /// Where its senders are busy.
    pub(super) fn places(&self) -> Arc<Places> {
        Arc::clone(&self.places)
    }

    /// Begins a send, or queues it.
    pub(super) fn take(self: Rc<Self>, proactor: &Proactor, order: Order) {
        if order.promise.is_behind_a_break() {
            return order.promise.keep(SendOutcome::cancelled());
        }
        let identity = order.identity;
        let mut loans = self.loans.borrow_mut();
        let transport = match loans.get_mut(&identity) {
            Some(loan) if loan.transport.is_closing() => {
                loan.late.push(order);
                return;
            }
            Some(loan) => {
                loan.sends += 1;
                loan.transport.clone()
            }
            None => match self.lend(proactor, identity, order.socket) {
                Ok(transport) => {
                    let loan = Loan {
                        transport: transport.clone(),
                        sends: 1,
                        told: Vec::new(),
                        late: Vec::new(),
                    };
                    loans.insert(identity, loan);
                    transport
                }
                Err(e) => {
                    drop(loans);
                    return order.promise.keep(failed(e));
                }
            },
        };
        drop(loans);
        let (id, promise) = (order.id, order.promise);
        let loans = Rc::clone(&self);
        let handle = transport.send_file(
            order.source,
            order.settings.into_options(promise.has_begun()),
            move |transport, outcome| loans.sent(identity, id, transport, promise, outcome),
        );
        self.sends.borrow_mut().insert(id, handle);
    }

    fn lend(
        self: &Rc<Self>,
        proactor: &Proactor,
        identity: Identity,
        socket: Fd,
    ) -> io::Result<Transport> {
        let borrower = Borrower {
            loans: Rc::clone(self),
            proactor: proactor.handle(),
            identity,
        };
        let options = TransportOptions::new().lent(true);
        Transport::new(proactor, socket, Box::new(borrower), &options)
    }

    pub(super) fn cancel(&self, id: u64) {
        let handle = self.sends.borrow().get(&id).cloned();
        if let Some(handle) = handle {
            return handle.cancel();
        }
        // It may wait for a loan to end.
        let mut loans = self.loans.borrow_mut();
        let late = loans.values_mut().find_map(|loan| {
            let at = loan.late.iter().position(|order| order.id == id)?;
            Some(loan.late.remove(at))
        });
        drop(loans);
        if let Some(order) = late {
            order.promise.keep(SendOutcome::cancelled());
        }
    }

    /// A send is over. Its end is told at once only where others follow: else once the socket is
    /// given back.
    fn sent(
        &self,
        identity: Identity,
        id: u64,
        transport: &Transport,
        promise: Promise,
        outcome: SendOutcome,
    ) {
        self.sends.borrow_mut().remove(&id);
        let mut loans = self.loans.borrow_mut();
        if let Some(loan) = loans.get_mut(&identity) {
            loan.sends -= 1;
            let last = loan.sends == 0;
            let broken = !outcome.is_success() && (outcome.sent > 0 || promise.has_begun());
            if last || broken {
                loan.told.push((promise, outcome));
                if last {
                    transport.close();
                }
                return;
            }
        }
        drop(loans);
        promise.keep(outcome);
    }

    /// A socket is given back. Where sends have come meanwhile, it is lent again; until then its
    /// place is kept, so that none overtakes another.
    fn ended(&self, proactor: &proactor::Handle, identity: Identity) {
        let mut loans = self.loans.borrow_mut();
        let Some(loan) = loans.get_mut(&identity) else {
            return;
        };
        let told = std::mem::take(&mut loan.told);
        if loan.late.is_empty() {
            loans.remove(&identity);
        } else if let Some(remote) = proactor.remote() {
            let _ = remote.post(move |proactor| Loans::of(proactor).again(proactor, identity));
        }
        drop(loans);
        for (promise, outcome) in told {
            promise.keep(outcome);
        }
    }

    fn again(self: Rc<Self>, proactor: &Proactor, identity: Identity) {
        let loan = self.loans.borrow_mut().remove(&identity);
        for order in loan.into_iter().flat_map(|loan| loan.late) {
            Rc::clone(&self).take(proactor, order);
        }
    }
}

/// The protocol of a lent socket.
struct Borrower {
    loans: Rc<Loans>,
    proactor: proactor::Handle,
    identity: Identity,
}

impl Protocol for Borrower {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, _: Option<io::Error>) {
        self.loans.ended(&self.proactor, self.identity);
    }
}
