//! One value on its way to a future, from a callback or another thread: the joint between the
//! callback core and its asynchronous faces.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

enum Slot<T> {
    Empty(Option<Waker>),
    Full(T),
    /// The sender is gone, or the value was taken.
    Closed,
}

/// Gives the value. Dropped without having done so, it ends the wait all the same.
pub(crate) struct Sender<T>(Arc<Mutex<Slot<T>>>);

/// Waits for the value.
pub(crate) struct Receiver<T>(Arc<Mutex<Slot<T>>>);

pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Arc::new(Mutex::new(Slot::Empty(None)));
    (Sender(Arc::clone(&slot)), Receiver(slot))
}

impl<T> Sender<T> {
    pub(crate) fn send(self, value: T) {
        self.put(Slot::Full(value));
    }

    fn put(&self, value: Slot<T>) {
        let before = {
            let mut slot = self.0.lock().unwrap_or_else(|e| e.into_inner());
            match *slot {
                Slot::Empty(_) => std::mem::replace(&mut *slot, value),
                Slot::Full(_) | Slot::Closed => return,
            }
        };
        // The waker is somebody else's code: it runs without the lock.
        if let Slot::Empty(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.put(Slot::Closed);
    }
}

impl<T> Receiver<T> {
    /// The value; `None` if it will never come, or was taken before.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut slot = self.0.lock().unwrap_or_else(|e| e.into_inner());
        match &mut *slot {
            Slot::Empty(waker) => {
                // Cloning a waker is its owner's code too, but must not wake.
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            Slot::Full(_) | Slot::Closed => match std::mem::replace(&mut *slot, Slot::Closed) {
                Slot::Full(value) => Poll::Ready(Some(value)),
                _ => Poll::Ready(None),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll<T>(receiver: &mut Receiver<T>, count: &Arc<Count>) -> Poll<Option<T>> {
        let waker = Waker::from(Arc::clone(count));
        receiver.poll(&mut Context::from_waker(&waker))
    }

    #[test]
    fn the_value_comes_once_and_wakes_once() {
        let count = Arc::new(Count::default());
        let (sender, mut receiver) = channel();
        assert_eq!(poll(&mut receiver, &count), Poll::Pending);
        assert_eq!(poll(&mut receiver, &count), Poll::Pending);
        sender.send(7);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(poll(&mut receiver, &count), Poll::Ready(Some(7)));
        assert_eq!(poll(&mut receiver, &count), Poll::Ready(None));
    }

    #[test]
    fn the_last_waker_is_woken() {
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (sender, mut receiver) = channel::<()>();
        assert!(poll(&mut receiver, &first).is_pending());
        assert!(poll(&mut receiver, &second).is_pending());
        drop(sender);
        assert_eq!(first.0.load(Ordering::Relaxed), 0);
        assert_eq!(second.0.load(Ordering::Relaxed), 1);
        assert_eq!(poll(&mut receiver, &first), Poll::Ready(None));
    }

    #[test]
    fn nobody_need_wait() {
        let (sender, receiver) = channel();
        drop(receiver);
        sender.send(());
    }
}
