//! Work that may wait for a disk, done where nobody waits for it.

use std::any::Any;
use std::io;

use crate::proactor::{Callback, Handle, Op, Output};

/// Does `work` on a worker thread, and calls back with what it gave, once; never where the
/// proactor goes away first.
pub(crate) fn run<T: Send + 'static>(
    proactor: &Handle,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
    done: impl FnOnce(io::Result<T>) + 'static,
) {
    let work = move || Ok(Box::new(work()?) as Box<dyn Any + Send>);
    let callback = Callback::once(move |_, completion| {
        done(match completion.result {
            Ok(Output::Worked(result)) => match result.downcast::<T>() {
                Ok(result) => Ok(*result),
                Err(_) => Err(io::Error::other("a worker gave something else")),
            },
            Ok(other) => Err(io::Error::other(format!("a worker gave {other:?}"))),
            Err(e) => Err(e),
        });
    });
    // Only a proactor that is going away refuses.
    drop(proactor.submit(Op::Work(Box::new(work)), callback));
}
