//! The worker pool: threads for what would block the loop. Bounded, started as needed, ended when
//! idle. A full pool makes no one wait but the operation itself, in a queue.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::exec;
use crate::op::{Op, Token};
use crate::port::{Done, Packet, Port};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, thread};
use crate::transfer::Transfer;
use crate::{sim, sys};

/// What a worker does.
enum Job {
    /// Runs an operation that may block.
    Run(Token, Op),
    /// Makes the call that a transfer is due to make away from the loop.
    Step(Token, Box<Transfer>),
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    /// Signalled when a thread ends.
    ended: Condvar,
    port: Arc<Port>,
}

struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

/// The loop's side of the pool.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    limit: usize,
    /// In a simulated worker's hands.
    #[cfg(feature = "simulation")]
    begun: Vec<Job>,
}

impl Workers {
    /// How long a thread waits for work before it ends.
    const IDLE: Duration = Duration::from_secs(5);
    /// How long a closing pool waits for its threads.
    const CLOSE: Duration = Duration::from_millis(500);

    pub(crate) fn new(port: Arc<Port>, limit: usize) -> Workers {
        Workers {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    jobs: VecDeque::new(),
                    threads: 0,
                    idle: 0,
                    closed: false,
                }),
                work: Condvar::new(),
                ended: Condvar::new(),
                port,
            }),
            limit: limit.max(1),
            #[cfg(feature = "simulation")]
            begun: Vec::new(),
        }
    }

    /// Runs an operation on a worker; its packet goes to the port.
    pub(crate) fn run(&self, token: Token, op: Op) {
        self.push(Job::Run(token, op));
    }

    /// Has a transfer make its call ([`Transfer::step_away`]) on a worker.
    pub(crate) fn step(&self, token: Token, transfer: Box<Transfer>) {
        self.push(Job::Step(token, transfer));
    }

    fn push(&self, job: Job) {
        let mut state = self.shared.lock();
        state.jobs.push_back(job);
        if sim::is_active() {
            sim::count_jobs(1);
            return;
        }
        if state.idle >= state.jobs.len() || state.threads >= self.limit {
            self.shared.work.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name("proactor-worker".into());
        if let Err(e) = thread.spawn(move || shared.work()) {
            self.shared.lock().threads -= 1;
            self.without_threads(&e);
        }
    }

    /// No thread could be started: those that there are take the job, or it fails.
    fn without_threads(&self, error: &std::io::Error) {
        let mut state = self.shared.lock();
        if state.threads > 0 {
            return;
        }
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        for job in jobs {
            let error = std::io::Error::new(
                error.kind(),
                format!("no worker thread could be started: {error}"),
            );
            self.shared.finish(match job {
                Job::Run(token, op) => Packet::Done(Done {
                    token,
                    op,
                    transferred: 0,
                    result: Err(error),
                }),
                Job::Step(token, mut transfer) => {
                    transfer.step_failed(error);
                    Packet::Stepped(token, transfer)
                }
            });
        }
    }

    /// Takes an operation out whose turn has not come.
    pub(crate) fn remove(&self, token: Token) -> Option<Op> {
        match self.take(|job| matches!(job, Job::Run(t, _) if *t == token))? {
            Job::Run(_, op) => Some(op),
            Job::Step(..) => None,
        }
    }

    /// Takes a transfer out whose turn has not come.
    pub(crate) fn remove_step(&self, token: Token) -> Option<Box<Transfer>> {
        match self.take(|job| matches!(job, Job::Step(t, _) if *t == token))? {
            Job::Step(_, transfer) => Some(transfer),
            Job::Run(..) => None,
        }
    }

    fn take(&self, wanted: impl FnMut(&Job) -> bool) -> Option<Job> {
        let mut state = self.shared.lock();
        let at = state.jobs.iter().position(wanted)?;
        sim::count_jobs(-1);
        state.jobs.remove(at)
    }

    /// Lets threads that wait for work end now.
    #[cfg(all(test, loom))]
    pub(crate) fn expire(&self) {
        let _state = self.shared.lock();
        self.shared.work.expire();
    }

    /// Does what simulated workers do now, on this thread. A job that was begun can't be taken out
    /// any more, and its packet comes later.
    #[cfg(feature = "simulation")]
    pub(crate) fn simulate(&mut self) {
        for job in std::mem::take(&mut self.begun) {
            self.shared.run(job);
            sim::count_jobs(-1);
        }
        let mut state = self.shared.lock();
        while let Some(at) = sim::pick_job(state.jobs.len()) {
            self.begun.extend(state.jobs.remove(at));
        }
    }

    pub(crate) fn threads(&self) -> usize {
        self.shared.lock().threads
    }

    /// Ends the threads; waits for those that have nothing to wait for themselves. One that hangs
    /// in the kernel ends when that lets it go, and what it owns is freed then.
    pub(crate) fn close(&self) {
        let end = Instant::now() + Self::CLOSE;
        let mut state = self.shared.lock();
        state.closed = true;
        let jobs = std::mem::take(&mut state.jobs);
        sim::count_jobs(-(jobs.len() as isize));
        self.shared.work.notify_all();
        while state.threads > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                log::warn!("{} worker threads are still blocked", state.threads);
                break;
            }
            state = self
                .shared
                .ended
                .wait_timeout(state, left)
                .unwrap_or_else(|e| e.into_inner())
                .0;
        }
        drop(state);
        drop(jobs);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn work(&self) {
        sys::block_all_signals();
        while let Some(job) = self.next() {
            self.run(job);
        }
    }

    fn run(&self, job: Job) {
        self.finish(match job {
            Job::Run(token, op) => Packet::Done(exec::blocking(token, op)),
            Job::Step(token, mut transfer) => {
                transfer.step_away();
                Packet::Stepped(token, transfer)
            }
        });
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        let job = loop {
            if let Some(job) = state.jobs.pop_front() {
                break Some(job);
            }
            if state.closed {
                break None;
            }
            state.idle += 1;
            let (again, timeout) = self
                .work
                .wait_timeout(state, Workers::IDLE)
                .unwrap_or_else(|e| e.into_inner());
            state = again;
            state.idle -= 1;
            if timeout.timed_out() && state.jobs.is_empty() {
                break None;
            }
        };
        if job.is_none() {
            state.threads -= 1;
            self.ended.notify_all();
        }
        job
    }

    /// Posts a packet. A loop that is gone doesn't want it: what it owns is freed here.
    fn finish(&self, packet: Packet) {
        self.port.post(packet);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::op::Output;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    fn token(index: u32) -> Token {
        Token {
            index,
            generation: 0,
        }
    }

    /// Takes the packets of `count` operations, in the order of their completion.
    fn done(port: &Port, count: usize) -> Vec<Done> {
        let mut all = Vec::new();
        let mut packets = VecDeque::new();
        while all.len() < count {
            assert!(port.wake.is_set_within(Duration::from_secs(20)));
            port.take(&mut packets);
            for packet in packets.drain(..) {
                match packet {
                    Packet::Done(done) => all.push(done),
                    _ => panic!("not an operation"),
                }
            }
        }
        all
    }

    #[test]
    fn it_queues_and_is_bounded() {
        let port = Port::new().unwrap();
        let workers = Workers::new(Arc::clone(&port), 3);
        let (now, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let count = if cfg!(miri) { 20 } else { 100 };
        for index in 0..count {
            let (now, peak) = (Arc::clone(&now), Arc::clone(&peak));
            let work = move || {
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(Box::new(index) as Box<_>)
            };
            workers.run(token(index), Op::Work(Box::new(work)));
        }
        let done = done(&port, count as usize);
        for done in &done {
            let Ok(Output::Worked(n)) = &done.result else {
                panic!()
            };
            assert_eq!(n.downcast_ref(), Some(&done.token.index));
        }
        assert!(peak.load(Ordering::SeqCst) <= 3);
        assert!(workers.threads() <= 3);
        workers.close();
        assert_eq!(workers.threads(), 0);
    }

    #[test]
    fn what_waits_can_be_taken_out() {
        let port = Port::new().unwrap();
        let workers = Workers::new(Arc::clone(&port), 1);
        let (go, wait) = mpsc::channel::<()>();
        let (up, is_up) = mpsc::channel::<()>();
        let work = move || {
            up.send(()).unwrap();
            let _ = wait.recv();
            Ok(Box::new(()) as Box<_>)
        };
        workers.run(token(0), Op::Work(Box::new(work)));
        is_up.recv().unwrap();
        workers.run(token(1), Op::Nop);
        assert!(workers.remove(token(0)).is_none(), "it is under way");
        assert!(workers.remove_step(token(1)).is_none());
        assert!(matches!(workers.remove(token(1)), Some(Op::Nop)));
        assert!(workers.remove(token(1)).is_none());
        go.send(()).unwrap();
        assert_eq!(done(&port, 1)[0].token, token(0));
        // What is left at the end is dropped.
        let owned = Arc::new(());
        let (hold, held) = mpsc::channel::<()>();
        let wait = move || {
            let _ = held.recv();
            Ok(Box::new(()) as Box<_>)
        };
        workers.run(token(2), Op::Work(Box::new(wait)));
        let own = Arc::clone(&owned);
        let never = move || {
            let _own = own;
            panic!("it was dropped")
        };
        workers.run(token(3), Op::Work(Box::new(never)));
        drop(hold);
        workers.close();
        assert_eq!(Arc::strong_count(&owned), 1);
    }
}
