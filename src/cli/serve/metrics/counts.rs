//! What a thread's server answered, counted as it happens: plain numbers of that thread.

use std::cell::RefCell;

use crate::streamer::{Ending, Exchange, Observer};

use super::histogram::Histogram;

/// Upper bounds of the durations that are told apart, in nanoseconds.
pub(super) const DURATIONS: [u64; 20] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
    120_000_000_000,
    300_000_000_000,
];

/// Upper bounds of the sizes that are told apart, in bytes.
pub(super) const SIZES: [u64; 13] = {
    let mut bounds = [256; 13];
    let mut at = 1;
    while at < bounds.len() {
        bounds[at] = bounds[at - 1] * 4;
        at += 1;
    }
    bounds
};

/// The names of [`Counts::endings`], in their order.
pub(super) const ENDINGS: [&str; 5] = ["whole", "peer_gone", "timed_out", "failed", "stopped"];

/// What a server answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Connections that were accepted, whatever became of them.
    pub(super) accepted: u64,
    /// Those above the limit that were told so, and those that were closed unheard.
    pub(super) told: u64,
    pub(super) unheard: u64,
    /// Connections that are over.
    pub(super) closed: u64,
    /// Requests taken up.
    pub(super) taken: u64,
    /// Requests that are over.
    pub(super) over: u64,
    pub(super) answers: Vec<Answers>,
    pub(super) header_bytes: u64,
    pub(super) content_bytes: u64,
    /// In nanoseconds.
    pub(super) durations: Histogram<{ DURATIONS.len() }>,
    /// In bytes of content.
    pub(super) sizes: Histogram<{ SIZES.len() }>,
    pub(super) endings: [u64; ENDINGS.len()],
}

/// The number of requests with this method that were answered with this status. There are as many
/// as there are pairs of methods and statuses that the server knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answers {
    /// `None` for those that HTTP doesn't define.
    pub(super) method: Option<&'static str>,
    /// `None` where there was no response.
    pub(super) status: Option<u16>,
    pub(super) count: u64,
}

impl Counts {
    fn exchange(&mut self, exchange: &Exchange<'_>) {
        self.over += 1;
        self.answered(exchange.method, exchange.status, 1);
        self.header_bytes += exchange.header_bytes;
        self.content_bytes += exchange.content_bytes;
        let nanoseconds = u64::try_from(exchange.duration.as_nanos()).unwrap_or(u64::MAX);
        self.durations.record(&DURATIONS, nanoseconds);
        self.sizes.record(&SIZES, exchange.content_bytes);
        self.endings[match exchange.ending {
            Ending::Whole => 0,
            Ending::PeerGone => 1,
            Ending::TimedOut => 2,
            Ending::Failed => 3,
            Ending::Stopped => 4,
        }] += 1;
    }

    fn answered(&mut self, method: Option<&'static str>, status: Option<u16>, count: u64) {
        let same = |a: &&mut Answers| a.status == status && a.method == method;
        match self.answers.iter_mut().find(same) {
            Some(answers) => answers.count += count,
            None => self.answers.push(Answers {
                method,
                status,
                count,
            }),
        }
    }

    /// Adds those of another thread.
    pub(super) fn add(&mut self, other: &Counts) {
        self.accepted += other.accepted;
        self.told += other.told;
        self.unheard += other.unheard;
        self.closed += other.closed;
        self.taken += other.taken;
        self.over += other.over;
        for answers in &other.answers {
            self.answered(answers.method, answers.status, answers.count);
        }
        self.header_bytes += other.header_bytes;
        self.content_bytes += other.content_bytes;
        self.durations.add(&other.durations);
        self.sizes.add(&other.sizes);
        for (ending, more) in self.endings.iter_mut().zip(other.endings) {
            *ending += more;
        }
    }
}

/// Counts what a server tells of.
#[derive(Default)]
pub(super) struct Counting(RefCell<Counts>);

impl Counting {
    pub(super) fn counts(&self) -> Counts {
        self.0.borrow().clone()
    }
}

impl Observer for Counting {
    fn connection_made(&self, admitted: bool) {
        let mut counts = self.0.borrow_mut();
        counts.accepted += 1;
        counts.told += u64::from(!admitted);
    }

    fn connection_refused(&self) {
        let mut counts = self.0.borrow_mut();
        counts.accepted += 1;
        counts.unheard += 1;
        counts.closed += 1;
    }

    fn connection_lost(&self) {
        self.0.borrow_mut().closed += 1;
    }

    fn request_taken(&self) {
        self.0.borrow_mut().taken += 1;
    }

    fn exchange_over(&self, exchange: &Exchange<'_>) {
        self.0.borrow_mut().exchange(exchange);
    }

    fn wants_head(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_summed() {
        let mut a = Counts::default();
        let mut b = Counts::default();
        a.answered(Some("GET"), Some(200), 2);
        b.answered(Some("GET"), Some(404), 1);
        b.answered(Some("GET"), Some(200), 3);
        b.sizes.record(&SIZES, 256);
        b.endings[1] = 4;
        a.add(&b);
        assert_eq!(a.answers.len(), 2);
        assert_eq!(a.answers[0].count, 5);
        assert_eq!(a.sizes.count(), 1);
        assert_eq!(a.endings, [0, 4, 0, 0, 0]);
        assert_eq!(SIZES[12], 4 << 30);
    }
}
