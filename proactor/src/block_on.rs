//! [`Proactor::block_on`]: an executor for one future, in the proactor's own loop.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crate::{Proactor, Remote};

/// Ends the loop's wait. On the loop's own thread a note is enough: it is looked at before each
/// wait.
struct LoopWaker {
    woken: AtomicBool,
    thread: ThreadId,
    remote: Remote,
}

impl Wake for LoopWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let first = !self.woken.swap(true, Ordering::AcqRel);
        if first && thread::current().id() != self.thread {
            // A proactor that is gone waits for nothing.
            let _ = self.remote.post(|_| {});
        }
    }
}

impl Proactor {
    /// Runs the loop until a future is ready, and returns what it gives. The future may wait for
    /// this proactor's callbacks, and for other threads.
    ///
    /// # Errors
    /// As [`run_once`](Proactor::run_once)'s, with the future dropped.
    ///
    /// ```
    /// let proactor = proactor::Proactor::new()?;
    /// assert_eq!(proactor.block_on(async { 6 * 7 })?, 42);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn block_on<F: Future>(&self, future: F) -> io::Result<F::Output> {
        let state = Arc::new(LoopWaker {
            woken: AtomicBool::new(true),
            thread: thread::current().id(),
            remote: self.remote(),
        });
        let waker = Waker::from(Arc::clone(&state));
        let mut cx = Context::from_waker(&waker);
        let mut future = pin!(future);
        loop {
            if state.woken.swap(false, Ordering::AcqRel)
                && let Poll::Ready(output) = future.as_mut().poll(&mut cx)
            {
                return Ok(output);
            }
            let woken = state.woken.load(Ordering::Acquire);
            self.run_once(woken.then_some(Duration::ZERO))?;
        }
    }
}

// Miri has no proactor.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[test]
    fn another_thread_ends_the_wait() {
        let proactor = Proactor::new().unwrap();
        let mut started = false;
        let told = Arc::new(AtomicBool::new(false));
        let future = poll_fn(|cx| {
            if !std::mem::replace(&mut started, true) {
                let (told, waker) = (Arc::clone(&told), cx.waker().clone());
                thread::spawn(move || {
                    told.store(true, Ordering::Release);
                    waker.wake();
                });
            }
            match told.load(Ordering::Acquire) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        proactor.block_on(future).unwrap();
    }

    #[test]
    fn a_future_that_wakes_itself_lets_the_loop_run() {
        let proactor = Proactor::new().unwrap();
        let mut left = 1000;
        let future = poll_fn(|cx| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        proactor.block_on(future).unwrap();
        assert_eq!(left, 0);
    }
}
