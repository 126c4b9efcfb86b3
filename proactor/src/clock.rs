//! The clock that timeouts are measured by.

use std::time::Instant;

/// The present, as timeouts, deadlines and pacing see it: the monotonic clock, or a simulation's
/// (feature `simulation`), where there is one on this thread.
pub fn now() -> Instant {
    #[cfg(feature = "simulation")]
    if let Some(now) = crate::sim::now() {
        return now;
    }
    Instant::now()
}
