//! `spliceport send`.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::rc::Rc;

use crate::Routes;
use crate::proactor::{Address, Fd, Proactor};
use crate::streamer::{SenderOptions, Sent, send};

use super::address;
use super::args::{self, Send};
use super::error::Failure;
use super::progress::{Bar, summary};
use super::signals::{self, Stop};

pub(super) fn run(args: &Send) -> Result<(), Failure> {
    let path = args.file.display();
    let failed = |e: &io::Error| Failure::io(format!("cannot send {path}"), e);
    // A FIFO must not make this wait: it can't be sent anyway.
    let metadata = std::fs::metadata(&args.file).map_err(|e| failed(&e))?;
    if !metadata.is_file() {
        return Err(Failure::new(format!(
            "cannot send {path}: it is no regular file, so its length can't be promised"
        )));
    }
    let file = Fd::new(File::open(&args.file).map_err(|e| failed(&e))?);
    let addresses = address::resolve(&args.address)?;
    let proactor = super::proactor(args.backend.backend)?;
    let stop = signals::watch().map_err(|e| Failure::io("cannot watch for signals", &e))?;
    stop.wakes(&proactor);

    let mut result = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
    for address in &addresses {
        let bar = Bar::new(metadata.len());
        result = send_to(args, &proactor, &stop, file.clone(), address, &bar);
        bar.clear();
        match &result {
            // The next address of the host may be the one that listens.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
            _ => break,
        }
    }
    let sent = result.map_err(|e| {
        let what = format!("cannot send {path} to {}", args.address);
        match e.kind() {
            io::ErrorKind::TimedOut => Failure::new(format!("{what}: it took too long")),
            io::ErrorKind::Interrupted => Failure::new(format!("{what}: stopped by a signal")),
            _ => Failure::io(what, &e),
        }
    })?;
    eprintln!(
        "sent {}, route {}, backend {}",
        summary(sent.bytes, sent.time),
        routes(sent.routes),
        proactor.backend()
    );
    Ok(())
}

fn send_to(
    args: &Send,
    proactor: &Proactor,
    stop: &Stop,
    file: Fd,
    address: &Address,
    bar: &Bar,
) -> io::Result<Sent> {
    let progress = bar.progress().map(|mut progress| {
        let told = move |sent| progress(sent, None);
        Box::new(told) as Box<dyn FnMut(u64)>
    });
    let options = SenderOptions {
        route: args.route.route,
        rate: args.rate,
        timeout: args.timeout,
        progress,
    };
    let result = Rc::new(RefCell::new(None));
    let into = Rc::clone(&result);
    let sending = send(proactor, file, address, options, move |sent| {
        *into.borrow_mut() = Some(sent);
    })?;
    super::run_to_end(proactor, stop, &result, || sending.cancel())
}

/// How the bytes travelled, in words.
fn routes(routes: Routes) -> String {
    let names: Vec<_> = routes.iter().map(args::route_name).collect();
    if names.is_empty() {
        return "none needed".to_owned();
    }
    names.join(" and ")
}
