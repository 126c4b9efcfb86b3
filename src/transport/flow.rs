//! The write limits: when a protocol is told to pause, and when to go on. A state machine without
//! side effects.

use std::io;

/// What the protocol is to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Signal {
    Pause,
    Resume,
}

#[derive(Debug)]
pub(crate) struct Flow {
    low: usize,
    high: usize,
    paused: bool,
}

impl Default for Flow {
    fn default() -> Flow {
        Flow {
            low: Flow::HIGH / 4,
            high: Flow::HIGH,
            paused: false,
        }
    }
}

impl Flow {
    /// The high limit that asyncio has.
    const HIGH: usize = 64 << 10;

    /// Sets the limits; on an error they stay as they were.
    pub(crate) fn set_limits(&mut self, high: Option<usize>, low: Option<usize>) -> io::Result<()> {
        let high = high.unwrap_or_else(|| low.map_or(Flow::HIGH, |low| low.saturating_mul(4)));
        let low = low.unwrap_or(high / 4);
        if low > high {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the low write limit, {low}, is above the high one, {high}"),
            ));
        }
        (self.low, self.high) = (low, high);
        Ok(())
    }

    /// Low, high.
    pub(crate) fn limits(&self) -> (usize, usize) {
        (self.low, self.high)
    }

    /// Whether the protocol ought to be paused and isn't, should `pressure` last.
    pub(crate) fn is_over(&self, pressure: u64) -> bool {
        !self.paused && pressure > self.high as u64
    }

    /// The pressure has lasted: pauses, if it is too high.
    pub(crate) fn lasted(&mut self, pressure: u64) -> Option<Signal> {
        if !self.is_over(pressure) {
            return None;
        }
        self.paused = true;
        Some(Signal::Pause)
    }

    /// The pressure may have fallen: resumes, if it is low enough.
    pub(crate) fn fell(&mut self, pressure: u64) -> Option<Signal> {
        if !self.paused || pressure > self.low as u64 {
            return None;
        }
        self.paused = false;
        Some(Signal::Resume)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_above_high_and_resumes_at_low_once_each() {
        let mut flow = Flow::default();
        assert_eq!(flow.limits(), (16 << 10, 64 << 10));
        assert_eq!(flow.lasted(64 << 10), None);
        assert_eq!(flow.lasted((64 << 10) + 1), Some(Signal::Pause));
        assert_eq!(flow.lasted(1 << 20), None);
        assert_eq!(flow.fell((16 << 10) + 1), None);
        assert_eq!(flow.fell(16 << 10), Some(Signal::Resume));
        assert_eq!(flow.fell(0), None);
        assert_eq!(flow.lasted(1 << 20), Some(Signal::Pause));
    }

    #[test]
    fn limits_have_the_defaults_of_asyncio() {
        let mut flow = Flow::default();
        flow.set_limits(Some(100), None).unwrap();
        assert_eq!(flow.limits(), (25, 100));
        flow.set_limits(None, Some(100)).unwrap();
        assert_eq!(flow.limits(), (100, 400));
        flow.set_limits(None, None).unwrap();
        assert_eq!(flow.limits(), (16 << 10, 64 << 10));
        let error = flow.set_limits(Some(1), Some(2)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(flow.limits(), (16 << 10, 64 << 10));
    }

    #[test]
    fn a_high_limit_of_zero_pauses_at_any_byte() {
        let mut flow = Flow::default();
        flow.set_limits(Some(0), None).unwrap();
        assert_eq!(flow.lasted(0), None);
        assert_eq!(flow.lasted(1), Some(Signal::Pause));
        assert_eq!(flow.fell(1), None);
        assert_eq!(flow.fell(0), Some(Signal::Resume));
    }

    #[test]
    fn new_limits_count_at_the_next_look() {
        let mut flow = Flow::default();
        assert_eq!(flow.lasted(100 << 10), Some(Signal::Pause));
        flow.set_limits(Some(800 << 10), None).unwrap();
        assert_eq!(flow.fell(100 << 10), Some(Signal::Resume));
        flow.set_limits(Some(10), None).unwrap();
        assert!(flow.is_over(100 << 10));
    }
}
