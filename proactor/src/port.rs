//! The completion port proper: the queue that other threads post packets to, and the eventfd that
//! wakes the loop for them (IOCP's `PostQueuedCompletionStatus`).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::Proactor;
use crate::op::{Completion, Op, Output, Token};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard};
use crate::transfer::Transfer;
use crate::wake::Wake;

/// A closure to be run on the loop.
pub(crate) type Call = Box<dyn FnOnce(&Proactor) + Send>;

/// What a thread posts.
pub(crate) enum Packet {
    /// A worker has run an operation.
    Done(Done),
    /// A worker has made a transfer's call.
    Stepped(Token, Box<Transfer>),
    /// Someone wants a closure run on the loop.
    Call(Call),
}

/// An operation that a worker has run.
pub(crate) struct Done {
    pub(crate) token: Token,
    pub(crate) op: Op,
    pub(crate) transferred: u64,
    pub(crate) result: io::Result<Output>,
}

impl From<Done> for Completion {
    fn from(done: Done) -> Completion {
        Completion {
            result: done.result,
            transferred: done.transferred,
            op: Some(done.op),
        }
    }
}

/// The queue and its eventfd.
pub(crate) struct Port {
    packets: Mutex<VecDeque<Packet>>,
    pub(crate) wake: Wake,
    /// The eventfd has been set since the loop last looked: once is enough.
    notified: AtomicBool,
    stop: AtomicBool,
    /// The loop is gone: packets are refused.
    closed: AtomicBool,
    /// Another loop waits at the proactor's descriptor.
    embedded: AtomicBool,
}

impl Port {
    pub(crate) fn new() -> io::Result<Arc<Port>> {
        Ok(Arc::new(Port {
            packets: Mutex::new(VecDeque::new()),
            wake: Wake::new()?,
            notified: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            embedded: AtomicBool::new(false),
        }))
    }

    /// Queues a packet and wakes the loop; false, and the packet dropped, when the loop is gone.
    pub(crate) fn post(&self, packet: Packet) -> bool {
        let mut packets = self.lock();
        if self.closed.load(Ordering::Relaxed) {
            // Dropping it may run its owner's code: not under the lock.
            drop(packets);
            return false;
        }
        packets.push_back(packet);
        drop(packets);
        self.notify();
        true
    }

    /// Whether the loop is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(&self) {
        self.stop.swap(true, Ordering::AcqRel);
        self.notify();
    }

    /// Whether a stop was asked for; asking takes it back.
    pub(crate) fn take_stop(&self) -> bool {
        self.stop.swap(false, Ordering::AcqRel)
    }

    /// Takes all packets out. The flag is cleared before the queue is looked at, so that
    /// a packet posted meanwhile sets the eventfd again.
    pub(crate) fn take(&self, into: &mut VecDeque<Packet>) {
        if !self.notified.load(Ordering::Acquire) {
            return;
        }
        // Not set: whoever set the flag has yet to come to the eventfd. Then the flag stays, so
        // that the eventfd, which will end a wait, is cleared after that.
        if self.wake.clear() {
            // A swap, to acquire what those did who found the flag set and left it at that: their
            // stop must be seen by the `take_stop` that follows.
            self.notified.swap(false, Ordering::AcqRel);
        }
        std::mem::swap(&mut *self.lock(), into);
    }

    pub(crate) fn close(&self) -> VecDeque<Packet> {
        let mut packets = self.lock();
        self.closed.store(true, Ordering::Relaxed);
        std::mem::take(&mut *packets)
    }

    /// Readable when there is something to take.
    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Makes the eventfd readable, so that a loop that is to come back at once is told to.
    pub(crate) fn notify(&self) {
        if !self.notified.swap(true, Ordering::AcqRel) {
            self.wake.set();
        }
    }

    pub(crate) fn set_embedded(&self) {
        self.embedded.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_embedded(&self) -> bool {
        self.embedded.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Packet>> {
        self.packets.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::time::Duration;

    fn readable(port: &Port) -> bool {
        port.wake.is_set_within(Duration::ZERO)
    }

    fn call() -> Packet {
        Packet::Call(Box::new(|_| {}))
    }

    #[test]
    #[cfg_attr(miri, ignore = "poll(2)")]
    fn a_packet_makes_it_readable_until_it_is_taken() {
        let port = Port::new().unwrap();
        let mut into = VecDeque::new();
        for _ in 0..3 {
            assert!(!readable(&port));
            assert!(port.post(call()));
            assert!(port.post(call()));
            assert!(readable(&port));
            port.take(&mut into);
            assert_eq!(into.drain(..).count(), 2);
            assert!(!readable(&port));
        }
        assert!(port.post(call()));
        assert_eq!(port.close().len(), 1);
        assert!(!port.post(call()));
    }

    /// A thread has set the flag and is about to set the eventfd. That must be cleared some
    /// time: else the eventfd stays readable, and the loop never sleeps again.
    #[test]
    #[cfg_attr(miri, ignore = "poll(2)")]
    fn a_late_wake_is_cleared() {
        let port = Port::new().unwrap();
        let mut into = VecDeque::new();
        port.notified.store(true, Ordering::SeqCst);
        port.lock().push_back(call());
        port.take(&mut into);
        assert_eq!(into.drain(..).count(), 1);
        port.wake.set();
        assert!(readable(&port));
        port.take(&mut into);
        assert!(!readable(&port));
        // And the next is announced again.
        assert!(port.post(call()));
        assert!(readable(&port));
    }
}
