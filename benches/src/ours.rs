//! Our side: a server that sends one file to each connection a number of times.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::TcpListener;
use std::rc::Rc;

use spliceport::proactor::{BackendChoice, Fd, Proactor};
use spliceport::{
    Listener, Protocol, RouteChoice, SendOptions, SendOutcome, Source, Transport, TransportOptions,
};

/// What is sent to each connection.
#[derive(Clone)]
struct Plan {
    file: Fd,
    size: u64,
    route: RouteChoice,
    repeat: u64,
    /// Connections that are not finished.
    open: Rc<Cell<usize>>,
    failed: Rc<RefCell<Option<String>>>,
}

struct Sender(Plan);

impl Protocol for Sender {
    fn connection_made(&mut self, transport: &Transport) {
        send(transport, self.0.clone(), self.0.repeat);
    }

    fn data_received(&mut self, _transport: &Transport, _data: &[u8]) {}

    fn connection_lost(&mut self, _error: Option<io::Error>) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

fn send(transport: &Transport, plan: Plan, left: u64) {
    if left == 0 {
        transport.close();
        return;
    }
    let source = Source::file(plan.file.clone(), 0..plan.size);
    let options = SendOptions::default().route(plan.route);
    let done = move |transport: &Transport, outcome: SendOutcome| {
        if outcome.is_success() {
            send(transport, plan, left - 1);
        } else {
            *plan.failed.borrow_mut() = Some(format!("{outcome:?}"));
        }
    };
    transport.send_file(source, options, done);
}

/// Serves `connections` connections, each `repeat` times the file.
pub fn serve(
    listener: &TcpListener,
    connections: usize,
    file: &Fd,
    size: u64,
    repeat: u64,
    backend: BackendChoice,
    route: RouteChoice,
) -> io::Result<()> {
    let proactor = Proactor::builder().backend(backend).build()?;
    let plan = Plan {
        file: file.clone(),
        size,
        route,
        repeat,
        open: Rc::new(Cell::new(connections)),
        failed: Rc::default(),
    };
    let factory = {
        let plan = plan.clone();
        move |_: &Fd| Some(Box::new(Sender(plan.clone())) as Box<dyn Protocol>)
    };
    let listening = Fd::nonblocking(listener.try_clone()?)?;
    let _listener = Listener::from_fd(&proactor, listening, TransportOptions::default(), factory)?;
    while plan.open.get() > 0 {
        proactor.run_once(None)?;
    }
    match plan.failed.take() {
        Some(what) => Err(io::Error::other(format!("a send failed: {what}"))),
        None => Ok(()),
    }
}
