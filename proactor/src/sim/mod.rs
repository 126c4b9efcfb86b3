//! A simulated kernel, for tests: one seed decides all that a kernel may decide.
//!
//! Below both backends lie the same few things: system calls that move bytes, epoll, io_uring's two
//! queues, threads, the clock. While a [`Simulation`] lives on a thread, the proactors of that thread
//! get these from it. Their own code is what runs, every line of it, on one thread:
//!
//! - calls that move bytes are made, on real descriptors, but may move fewer bytes than they could,
//!   find no room, or fail (`calls.rs`);
//! - the ring's submissions are carried out by a kernel of ours (`ring.rs`): in any order, with
//!   links, skipped completions, and cancels that win the race or lose it;
//! - epoll's events come late and in any order, a worker's job is run when its time has come, on the
//!   same thread (`world.rs`);
//! - time stands still until all wait for it, and passes at once then.
//!
//! Not simulated are kernels that can start no worker: the ring's timeout that looks for operations
//! which wait for one (`ring/starvation.rs`) is not armed here. What it asks is whether this process
//! may start a thread, and it must pass time that a simulation lets stand still;
//! `tests/starved.rs` shows it where limits bind.
//!
//! What real descriptors do in one thread follows from the calls alone; everything else follows from
//! the seed. So a run can be repeated: [`Simulation::digest`] tells whether one was.
//!
//! Compiled in with the feature `simulation` alone; `absent.rs` stands in its place otherwise.

mod calls;
#[allow(
    unsafe_code,
    reason = "it does what the kernel does with what entries point to"
)]
mod ring;
mod rng;
mod world;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

pub(crate) use calls::*;
pub(crate) use ring::Ring;
pub use rng::Rng;
pub(crate) use world::Pending;
use world::World;
pub use world::{Conditions, Faults};

use crate::fd::Fd;

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Looks at this thread's world, if there is one.
fn with<T>(f: impl FnOnce(&mut World) -> T) -> Option<T> {
    WORLD.with(|world| world.borrow_mut().as_mut().map(f))
}

/// The simulated kernel of this thread, until it is dropped. Proactors that are built meanwhile live
/// in it, and must be dropped before it.
pub struct Simulation {
    /// It is the thread's.
    _here: PhantomData<*const ()>,
}

impl Simulation {
    /// A world whose every decision follows from `seed`, under these conditions.
    ///
    /// # Panics
    /// When the thread has one already.
    pub fn new(seed: u64, conditions: Conditions) -> Simulation {
        WORLD.with(|world| {
            let before = world.borrow_mut().replace(World::new(seed, conditions));
            assert!(before.is_none(), "two simulations on one thread");
        });
        Simulation { _here: PhantomData }
    }

    /// From now on nothing fails, no call is cut short, and no event is late.
    pub fn calm(&self) {
        with(|world| {
            let Conditions { tcp, new_ring, .. } = world.conditions;
            world.conditions = Conditions {
                tcp,
                new_ring,
                ..Conditions::fair()
            };
        });
    }

    /// How much time has passed.
    pub fn elapsed(&self) -> Duration {
        with(|world| world.elapsed).unwrap_or_default()
    }

    /// What has been made to fail.
    pub fn faults(&self) -> Faults {
        with(|world| world.faults).unwrap_or_default()
    }

    /// A number that is the same after the same decisions, and hardly ever after others.
    pub fn digest(&self) -> u64 {
        with(|world| world.digest).unwrap_or_default()
    }

    /// How many things have happened; time that passes is none.
    pub fn events(&self) -> u64 {
        with(|world| world.events).unwrap_or_default()
    }

    /// Keeps the decisions, in words, from now on.
    pub fn record(&self) {
        with(|world| world.trace = Some(Vec::new()));
    }

    /// The decisions since [`record`](Simulation::record).
    pub fn trace(&self) -> Vec<String> {
        with(|world| world.trace.clone())
            .flatten()
            .unwrap_or_default()
    }

    /// Notes something of the test's own among the decisions.
    pub fn note(&self, what: &'static str, a: i64, b: i64) {
        with(|world| world.note(what, a, b));
    }

    /// How often bytes were to move over a socket of which nobody could know that it is connected.
    pub fn misuses(&self) -> u64 {
        with(|world| world.misuses).unwrap_or_default()
    }

    /// Whether a socket holds bytes back for what was said to follow them (`MSG_MORE`).
    pub fn is_corked(&self, socket: &Fd) -> bool {
        with(|world| world.is_corked(socket)).unwrap_or_default()
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        let world = WORLD.with(|world| world.borrow_mut().take());
        drop(world);
    }
}

/// Whether all that was written to a file has been brought to the disk; `None` where nothing is
/// simulated.
pub fn is_synced(file: impl AsFd) -> Option<bool> {
    with(|world| world.is_synced(file.as_fd()))
}

/// The simulated time, where it is simulated.
pub(crate) fn now() -> Option<Instant> {
    with(|world| world.now())
}

/// Whether the ring knows what newer kernels do, where it is simulated.
pub(crate) fn new_ring() -> Option<bool> {
    with(|world| world.conditions.new_ring)
}

/// Whether the proactors of this thread are simulated.
pub(crate) fn is_active() -> bool {
    with(|_| ()).is_some()
}
