//! Counters: what a proactor did, as plain numbers.

/// What a proactor has done since it was made, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Operations submitted.
    pub submitted: u64,
    /// Completions delivered.
    pub completed: u64,
    /// Operations under way.
    pub in_flight: usize,
    /// Cancels asked for.
    pub cancels: u64,
    /// Callbacks that panicked.
    pub panics: u64,
    /// System calls that entered the ring, or waited at the emulated port's poller.
    pub waits: u64,
    /// Times that the ring was left with more completions than its queue has room for. The kernel
    /// keeps them until there is some.
    pub overflows: u64,
    /// Linked chains submitted to the ring, or fills given to a worker.
    pub chains: u64,
    /// Times that a waiting transfer had to give its pipe to another.
    pub pipes_taken: u64,
    /// The most pipes that may be in use at a time
    /// ([`Builder::pipes`](crate::Builder::pipes)).
    pub pipes_limit: usize,
    /// Pipes in use.
    pub pipes_leased: usize,
    /// Pipes open, empty and waiting to be used.
    pub pipes_idle: usize,
    /// Threads of the worker pool. (The ring's own workers are the kernel's.)
    pub workers: usize,
}

/// The part of [`Stats`] that is counted as things happen.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) submitted: u64,
    pub(crate) completed: u64,
    pub(crate) cancels: u64,
    pub(crate) panics: u64,
    pub(crate) waits: u64,
    pub(crate) overflows: u64,
    pub(crate) chains: u64,
    pub(crate) pipes_taken: u64,
}
