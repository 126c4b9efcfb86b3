//! [`Appetite`]: how much may wait unsent in the kernel for a peer.
//!
//! A peer that reads nothing pins whatever its socket's queue takes, some 4 MB, and when many do
//! so TCP as a whole runs short of memory and everyone slows down. `TCP_NOTSENT_LOWAT` bounds what
//! waits; but a bound that is too low costs a fast peer most of its throughput. So a peer starts
//! with a low bound, the lower the more are waiting, and earns a higher one by reading.

use proactor::{Fd, net};

/// What a socket's unsent bytes are bounded by at present; 0 is not at all.
#[derive(Default)]
pub(super) struct Appetite {
    bound: u32,
    /// What was brought to the peer since the bound is what it is.
    taken: u64,
}

/// Sends of fewer bytes can't pin much.
const MATTERS: u64 = 64 << 10;

/// What all the peers of a proactor that have not read yet may have waiting.
const BUDGET: usize = 96 << 20;

/// The bounds for a peer that has not read yet, by how many are waiting: at least, at most.
const UNPROVEN: (usize, usize) = (16 << 10, 1 << 20);

/// The bound for a peer that reads.
const PROVEN: u32 = 1 << 20;

impl Appetite {
    /// Whether an operation of so many bytes is one to be bounded.
    pub(super) fn matters(len: u64) -> bool {
        len > MATTERS
    }

    /// Before an operation that matters, with so many others under way.
    pub(super) fn begin(&mut self, socket: &Fd, others: usize) {
        if self.bound == 0 {
            let share = (BUDGET / (others + 1)).clamp(UNPROVEN.0, UNPROVEN.1);
            self.set(socket, share as u32);
        }
    }

    /// An operation has brought so many bytes to the peer. Of those that all have brought, more
    /// than may wait were read.
    pub(super) fn took(&mut self, socket: &Fd, n: u64) {
        self.taken = self.taken.saturating_add(n);
        if self.bound > 0 && self.bound < PROVEN && self.taken > u64::from(self.bound) {
            self.set(socket, self.bound.saturating_mul(4).min(PROVEN));
        }
    }

    fn set(&mut self, socket: &Fd, bound: u32) {
        self.bound = bound;
        self.taken = 0;
        if let Err(e) = net::set_notsent_lowat(socket, bound) {
            log::debug!("what waits unsent could not be bounded: {e}");
        }
    }
}
