//! `spliceport receive`.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

use crate::proactor::net::ListenOptions;
use crate::streamer::{ReceiverOptions, receive};

use super::address;
use super::args::Receive;
use super::error::Failure;
use super::progress::{Bar, summary};
use super::signals;

pub(super) fn run(args: &Receive) -> Result<(), Failure> {
    let path = args.file.display();
    let address = address::resolve(&args.address)?.swap_remove(0);
    let stop = signals::watch().map_err(|e| Failure::io("cannot watch for signals", &e))?;
    let proactor = super::proactor(args.backend.backend)?;
    stop.wakes(&proactor);
    let (socket, _socket_file) = super::listen(&address, &ListenOptions::default())
        .map_err(|e| Failure::io(format!("cannot listen on {}", args.address), &e))?;

    let bar = Bar::new(0);
    let progress = bar.progress().map(|mut progress| {
        let told = move |received, of| progress(received, Some(of));
        Box::new(told) as Box<dyn FnMut(u64, u64)>
    });
    let options = ReceiverOptions {
        no_sync: args.no_sync,
        timeout: args.timeout,
        progress,
    };
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::TimedOut => Failure::new(format!("cannot receive {path}: it took too long")),
        io::ErrorKind::Interrupted => {
            Failure::new(format!("cannot receive {path}: stopped by a signal"))
        }
        io::ErrorKind::IsADirectory => Failure::new(format!(
            "cannot receive {path}: it is a directory; name the file to make in it"
        )),
        _ => Failure::io(format!("cannot receive {path}"), &e),
    };
    let result = Rc::new(RefCell::new(None));
    let into = Rc::clone(&result);
    let receiving = receive(&proactor, socket, &args.file, options, move |received| {
        *into.borrow_mut() = Some(received);
    })
    .map_err(failed)?;

    let bound = receiving.local_addr().map_err(failed)?;
    let mut stdout = io::stdout().lock();
    let backend = proactor.backend();
    let line = writeln!(stdout, "listening on {bound} (backend {backend})");
    if let Err(e) = line.and_then(|()| stdout.flush()) {
        log::warn!("standard output can't be written to: {e}");
    }
    drop(stdout);

    let received = super::run_to_end(&proactor, &stop, &result, || receiving.cancel());
    bar.clear();
    let received = received.map_err(failed)?;
    eprintln!(
        "received {}, backend {backend}",
        summary(received.bytes, received.time)
    );
    Ok(())
}
