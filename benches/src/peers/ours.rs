//! Our side: a server that sends one file to each connection, over and over; a proxy; and one that
//! receives files.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};

use spliceport::proactor::BackendChoice::{self, Emulated, Ring};
use spliceport::proactor::{Address, Fd, Proactor};
use spliceport::{
    Listener, Protocol, ReceiveOptions, ReceiveOutcome, RelayOptions, Route, RouteChoice,
    SendOptions, SendOutcome, Sink, Source, Transport, TransportOptions, connect, relay,
};

use super::Targets;

/// What is sent to each connection.
#[derive(Clone)]
struct Plan {
    file: Fd,
    size: u64,
    route: RouteChoice,
}

impl Protocol for Plan {
    fn connection_made(&mut self, transport: &Transport) {
        send(transport, self.clone());
    }

    fn data_received(&mut self, _transport: &Transport, _data: &[u8]) {}
}

fn send(transport: &Transport, plan: Plan) {
    let source = Source::file(plan.file.clone(), 0..plan.size);
    let options = SendOptions::default().route(plan.route);
    let done = move |transport: &Transport, outcome: SendOutcome| {
        // A failure is the peer's end.
        if outcome.is_success() {
            send(transport, plan);
        }
    };
    transport.send_file(source, options, done);
}

fn serve(
    listener: TcpListener,
    file: &File,
    size: u64,
    backend: BackendChoice,
    route: RouteChoice,
) -> io::Result<()> {
    let file = Fd::from(file.try_clone()?);
    let plan = Plan { file, size, route };
    listen(listener, backend, TransportOptions::default(), move || {
        Some(plan.clone())
    })
}

/// Runs a server whose connections have a protocol each.
fn listen<P: Protocol + 'static>(
    listener: TcpListener,
    backend: BackendChoice,
    options: TransportOptions,
    protocol: impl Fn() -> Option<P> + 'static,
) -> io::Result<()> {
    let proactor = Proactor::builder().backend(backend).build()?;
    let factory = move |_: &Fd| Some(Box::new(protocol()?) as Box<dyn Protocol>);
    let listening = Fd::nonblocking(listener)?;
    let _listener = Listener::from_fd(&proactor, listening, options, factory)?;
    proactor.run()
}

pub fn ring_auto(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    serve(listener, file, size, Ring, RouteChoice::Auto)
}

pub fn ring_inline(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    let route = RouteChoice::Force(Route::Inline);
    serve(listener, file, size, Ring, route)
}

pub fn ring_chain(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    let route = RouteChoice::Force(Route::Chain);
    serve(listener, file, size, Ring, route)
}

pub fn ring_copy(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    let route = RouteChoice::Force(Route::Copy);
    serve(listener, file, size, Ring, route)
}

pub fn emulated_auto(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    serve(listener, file, size, Emulated, RouteChoice::Auto)
}

pub fn emulated_sendfile(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    let route = RouteChoice::Force(Route::Sendfile);
    serve(listener, file, size, Emulated, route)
}

/// One side of a relay; it reads nothing before both are joined.
#[derive(Clone)]
struct Side {
    /// Where the other is to be connected to.
    upstream: Option<Address>,
}

impl Protocol for Side {
    fn connection_made(&mut self, near: &Transport) {
        let Some(upstream) = &self.upstream else {
            return;
        };
        let (proactor, near) = (near.proactor(), near.clone());
        let joined = move |far: io::Result<Transport>| match far {
            Ok(far) => drop(relay(&near, &far, RelayOptions::new(), |_| {})),
            Err(_) => near.abort(),
        };
        let options = TransportOptions::new().reading(false);
        let far = Side { upstream: None };
        connect(proactor, upstream, options, Box::new(far), joined);
    }

    fn data_received(&mut self, _transport: &Transport, _data: &[u8]) {}
}

fn pass_on(listener: TcpListener, upstream: SocketAddr, backend: BackendChoice) -> io::Result<()> {
    let upstream = Some(Address::from(upstream));
    let side = Side { upstream };
    let options = TransportOptions::new().reading(false);
    listen(listener, backend, options, move || Some(side.clone()))
}

pub fn relay_ring(listener: TcpListener, upstream: SocketAddr) -> io::Result<()> {
    pass_on(listener, upstream, Ring)
}

pub fn relay_emulated(listener: TcpListener, upstream: SocketAddr) -> io::Result<()> {
    pass_on(listener, upstream, Emulated)
}

/// What is received on each connection.
#[derive(Clone)]
struct Incoming {
    file: Fd,
    size: u64,
}

impl Protocol for Incoming {
    fn connection_made(&mut self, transport: &Transport) {
        receive(transport, self.clone());
    }

    fn data_received(&mut self, _transport: &Transport, _data: &[u8]) {}
}

fn receive(transport: &Transport, incoming: Incoming) {
    let sink = Sink::file(incoming.file.clone(), 0..incoming.size);
    let done = move |transport: &Transport, outcome: ReceiveOutcome| {
        // A failure is the peer's end.
        if outcome.is_success() {
            receive(transport, incoming);
        }
    };
    transport.receive_file(sink, ReceiveOptions::new(), done);
}

fn take(
    listener: TcpListener,
    targets: &'static Targets,
    size: u64,
    backend: BackendChoice,
) -> io::Result<()> {
    listen(listener, backend, TransportOptions::default(), move || {
        let file = Fd::from(targets.next().ok()?);
        Some(Incoming { file, size })
    })
}

pub fn upload_ring(listener: TcpListener, targets: &'static Targets, size: u64) -> io::Result<()> {
    take(listener, targets, size, Ring)
}

pub fn upload_emulated(
    listener: TcpListener,
    targets: &'static Targets,
    size: u64,
) -> io::Result<()> {
    take(listener, targets, size, Emulated)
}
