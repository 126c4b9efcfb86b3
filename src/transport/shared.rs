//! What the connections of one proactor share: buffers, and the register of those that stand, by
//! which they are kept, and told of the proactor's end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::BytesMut;
use proactor::{Attachment, BackendKind, Proactor};

use super::conn::Conn;
use crate::stats::TransportStats;

pub(crate) struct Shared {
    pub(crate) backend: BackendKind,
    /// There are pipes to be had, some time at least.
    pub(super) pipes: bool,
    /// Operations of many bytes under way.
    pub(super) large: Cell<usize>,
    /// What is counted; the connections are in the register.
    pub(super) stats: RefCell<TransportStats>,
    buffers: RefCell<Vec<BytesMut>>,
    conns: RefCell<Vec<Option<Rc<Conn>>>>,
    free: RefCell<Vec<usize>>,
}

impl Shared {
    /// The size of a pooled buffer.
    pub(crate) const BUFFER: usize = 64 << 10;
    /// What it really has room for: with it, the headers and tags of TLS records that hold as much.
    const ROOM: usize = Shared::BUFFER + 1024;
    /// The most buffers kept while no one uses them: as many as one turn of a busy loop needs. Only
    /// the pages that were ever written to take memory.
    const IDLE: usize = 256;

    pub(crate) fn of(proactor: &Proactor) -> Rc<Shared> {
        proactor.attachment(|proactor| Shared {
            backend: proactor.backend(),
            pipes: proactor.stats().pipes_limit > 0,
            large: Cell::new(0),
            stats: RefCell::default(),
            buffers: RefCell::default(),
            conns: RefCell::default(),
            free: RefCell::default(),
        })
    }

    pub(crate) fn stats(&self) -> TransportStats {
        let connections = self.conns.borrow().len() - self.free.borrow().len();
        let mut stats = *self.stats.borrow();
        stats.connections = connections;
        stats
    }

    /// An empty buffer with room for [`Shared::BUFFER`] bytes.
    pub(crate) fn buffer(&self) -> BytesMut {
        self.buffers
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| BytesMut::with_capacity(Shared::ROOM))
    }

    /// Takes a buffer back.
    pub(crate) fn recycle(&self, mut buffer: BytesMut) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < Shared::IDLE {
            buffer.clear();
            // What was taken off at its front is room again; no other size comes in here.
            if buffer.try_reclaim(Shared::ROOM) {
                buffers.push(buffer);
            }
        }
    }

    /// Keeps a connection until it is let go.
    pub(crate) fn keep(&self, conn: Rc<Conn>) -> usize {
        let mut conns = self.conns.borrow_mut();
        if let Some(at) = self.free.borrow_mut().pop() {
            conns[at] = Some(conn);
            at
        } else {
            conns.push(Some(conn));
            conns.len() - 1
        }
    }

    /// Lets a connection go; its caller holds it still.
    pub(crate) fn let_go(&self, at: usize) {
        let gone = self.conns.borrow_mut()[at].take();
        if gone.is_some() {
            self.free.borrow_mut().push(at);
        }
    }

    fn all(&self) -> Vec<Rc<Conn>> {
        self.conns.borrow().iter().flatten().cloned().collect()
    }
}

impl Attachment for Shared {
    fn closing(self: Rc<Self>, _proactor: &Proactor) {
        for conn in self.all() {
            conn.proactor_closing();
        }
    }

    fn closed(self: Rc<Self>) {
        for conn in self.all() {
            conn.proactor_closed();
        }
    }
}
