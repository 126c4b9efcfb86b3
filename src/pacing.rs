//! Pacing: how much of a send may leave now, and when more may. A bucket of tokens, a byte each,
//! that fills at the send's rate.

use std::time::{Duration, Instant};

pub(crate) struct Pacing {
    /// Bytes per second.
    rate: u64,
    tokens: u64,
    /// Up to when tokens have been given.
    at: Instant,
}

impl Pacing {
    pub(crate) fn new(bytes_per_second: u64, now: Instant) -> Pacing {
        let mut pacing = Pacing {
            rate: bytes_per_second.max(1),
            tokens: 0,
            at: now,
        };
        pacing.tokens = pacing.quantum();
        pacing
    }

    /// The least that is sent at a time where there is as much: a fiftieth of a second's worth.
    fn quantum(&self) -> u64 {
        (self.rate / 50).max(1)
    }

    /// How many of `want` bytes may leave now (at least one); else when to ask again.
    pub(crate) fn allow(&mut self, now: Instant, want: u64) -> Result<u64, Instant> {
        self.fill(now);
        let need = want.min(self.quantum());
        if self.tokens >= need {
            return Ok(self.tokens.min(want));
        }
        let wait = u128::from(need - self.tokens) * 1_000_000_000 / u128::from(self.rate) + 1;
        Err(self.at + Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    /// Takes the tokens of bytes that have left.
    pub(crate) fn spend(&mut self, bytes: u64) {
        self.tokens = self.tokens.saturating_sub(bytes);
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_nanos();
        let gained = elapsed * u128::from(self.rate) / 1_000_000_000;
        let cap = 2 * self.quantum();
        let full = u128::from(cap - self.tokens.min(cap));
        if gained >= full {
            self.tokens = self.tokens.max(cap);
            self.at = now;
        } else {
            // What doesn't make a whole byte yet counts the next time.
            let spent = gained * 1_000_000_000 / u128::from(self.rate);
            self.tokens += gained as u64;
            self.at += Duration::from_nanos(spent as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a sender that always has more sends in `time`.
    fn run(rate: u64, time: Duration, most: u64) -> u64 {
        let start = Instant::now();
        let mut now = start;
        let mut pacing = Pacing::new(rate, start);
        let mut sent = 0;
        while now < start + time {
            match pacing.allow(now, most) {
                Ok(n) => {
                    assert!(n > 0 && n <= most);
                    pacing.spend(n);
                    sent += n;
                }
                Err(at) => {
                    assert!(at > now, "waiting ends");
                    now = at;
                }
            }
        }
        sent
    }

    #[test]
    fn a_second_brings_the_rate() {
        for rate in [1, 10, 1000, 1_000_000, 12_345_678, 10_000_000_000] {
            let sent = run(rate, Duration::from_secs(1), u64::MAX);
            assert!(sent >= rate * 9 / 10, "{sent} of {rate}");
            assert!(sent <= rate * 11 / 10 + 1, "{sent} of {rate}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "ten thousand pieces")]
    fn small_pieces_bring_the_rate_too() {
        let sent = run(1_000_000, Duration::from_secs(1), 100);
        assert!((900_000..=1_100_000).contains(&sent), "{sent}");
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let start = Instant::now();
        let mut pacing = Pacing::new(1000, start);
        let allowed = pacing.allow(start + Duration::from_secs(100), 1000);
        assert!(allowed.is_ok_and(|n| n <= 100));
    }
}
