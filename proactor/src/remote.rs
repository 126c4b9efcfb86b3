//! [`Remote`]: what other threads may do with a proactor.

use crate::Proactor;
use crate::port::{Packet, Port};
use crate::sync::Arc;

/// A handle for other threads: IOCP's `PostQueuedCompletionStatus`. It doesn't keep the proactor
/// alive.
#[derive(Clone)]
pub struct Remote {
    port: Arc<Port>,
}

impl Remote {
    pub(crate) fn new(port: Arc<Port>) -> Remote {
        Remote { port }
    }

    /// Runs a closure on the proactor's thread, from its loop; in the order of posting, per
    /// posting thread. A wait ends for it.
    ///
    /// # Errors
    /// [`Gone`], with the closure dropped, when the proactor no longer exists. A closure that was
    /// accepted is dropped without being run if the proactor is dropped before its turn.
    pub fn post(&self, call: impl FnOnce(&Proactor) + Send + 'static) -> Result<(), Gone> {
        match self.port.post(Packet::Call(Box::new(call))) {
            true => Ok(()),
            false => Err(Gone),
        }
    }

    /// Whether the proactor no longer exists.
    pub fn is_gone(&self) -> bool {
        self.port.is_closed()
    }

    /// Makes [`Proactor::run`] return, now or when it is called next.
    pub fn stop(&self) {
        self.port.stop();
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Remote")
    }
}

/// The proactor no longer exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the proactor no longer exists")
    }
}

impl std::error::Error for Gone {}
