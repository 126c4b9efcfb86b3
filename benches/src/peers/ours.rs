//! Our side: a server that sends one file to each connection, over and over.

use std::fs::File;
use std::io;
use std::net::TcpListener;

use spliceport::proactor::BackendChoice::{self, Emulated, Ring};
use spliceport::proactor::{Fd, Proactor};
use spliceport::{
    Listener, Protocol, Route, RouteChoice, SendOptions, SendOutcome, Source, Transport,
    TransportOptions,
};

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
    let proactor = Proactor::builder().backend(backend).build()?;
    let file = Fd::from(file.try_clone()?);
    let plan = Plan { file, size, route };
    let factory = move |_: &Fd| Some(Box::new(plan.clone()) as Box<dyn Protocol>);
    let listening = Fd::nonblocking(listener)?;
    let _listener = Listener::from_fd(&proactor, listening, TransportOptions::default(), factory)?;
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
