//! `spliceport serve`.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZero;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::proactor::net::{self, ListenOptions};
use crate::proactor::{Address, BackendChoice, BackendKind, Fd, Proactor};
use crate::streamer::{Server, ServerOptions, Uploads};

use super::address;
use super::args::Serve;
use super::error::Failure;
use super::signals::{self, Stop};

/// What every thread serves with.
#[derive(Clone)]
struct Plan {
    backend: BackendChoice,
    root: Fd,
    options: ServerOptions,
    stop: Stop,
    stop_timeout: Duration,
}

/// Where a thread's connections come from.
enum Door {
    /// An address that every thread listens on for itself.
    Own(Address, ListenOptions),
    /// A listening socket that all share.
    Shared(Fd),
}

pub(super) fn run(args: &Serve) -> Result<(), Failure> {
    raise_open_files();
    let root = open_root(args)?;
    let address = address::resolve(&args.listen)?.swap_remove(0);
    let cpus = || thread::available_parallelism().map_or(1, NonZero::get);
    let threads = args.threads.map_or_else(cpus, usize::from);
    let failed = |e: io::Error| Failure::io(format!("cannot listen on {}", args.listen), &e);
    let stop = signals::watch().map_err(|e| Failure::io("cannot watch for signals", &e))?;
    let plan = Plan {
        backend: args.backend.backend,
        root,
        options: ServerOptions {
            route: args.route.route,
            idle_timeout: args.idle_timeout,
            header_timeout: args.header_timeout,
            send_timeout: args.send_timeout,
            site: args.content.site()?,
            uploads: uploads(args)?,
            ..ServerOptions::default()
        },
        stop,
        stop_timeout: args.stop_timeout,
    };

    let (socket, _socket_file) = listen(&address, threads).map_err(failed)?;
    let bound = net::local_address(&socket).map_err(failed)?;
    let mut doors = vec![];
    for _ in 1..threads {
        doors.push(match &bound {
            Address::Inet(_) => {
                let options = listen_options(threads);
                Door::Own(bound.clone(), options)
            }
            Address::Unix(_) => Door::Shared(socket.clone()),
        });
    }
    doors.push(Door::Shared(socket));

    let (ready, all_ready) = mpsc::channel();
    let mut running = vec![];
    for (index, door) in doors.into_iter().enumerate() {
        let (plan, ready) = (plan.clone(), ready.clone());
        let spawned = thread::Builder::new()
            .name(format!("serve-{index}"))
            .spawn(move || or_stop(&plan.stop, || serve(&plan, door, ready)));
        running.push(spawned.map_err(|e| Failure::io("cannot start a thread", &e))?);
    }
    drop(ready);
    let mut backend = None;
    while let Ok(kind) = all_ready.recv() {
        // The channel ends when each thread has either said this or failed.
        backend = Some(kind);
    }
    let mut result = Ok(());
    if plan.stop.requests() == 0
        && let Some(backend) = backend
    {
        let mut stdout = io::stdout().lock();
        let line = writeln!(stdout, "listening on http://{bound} (backend {backend})");
        if let Err(e) = line.and_then(|()| stdout.flush()) {
            log::warn!("standard output can't be written to: {e}");
        }
    }
    for thread in running {
        let ended = thread.join();
        let ended = ended.unwrap_or_else(|_| Err(Failure::new("a thread panicked")));
        result = result.and(ended);
    }
    result
}

/// The environment variable that may hold the token.
const TOKEN: &str = "SPLICEPORT_UPLOAD_TOKEN";

/// Who may upload, if anybody may.
fn uploads(args: &Serve) -> Result<Option<Uploads>, Failure> {
    if !args.upload {
        return Ok(None);
    }
    let token = match (&args.upload_token, &args.upload_token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path)
                .map_err(|e| Failure::io(format!("cannot read {}", path.display()), &e))?;
            text.lines().next().unwrap_or_default().trim().to_owned()
        }
        (None, None) => std::env::var(TOKEN).map_err(|_| {
            Failure::new(format!(
                "uploads need a token: name a file that holds one with --upload-token-file, or \
                 set {TOKEN}"
            ))
        })?,
    };
    let uploads = Uploads::new(args.upload_limit, &token);
    uploads
        .map(Some)
        .map_err(|e| Failure::io("the upload token can't be used", &e))
}

/// Allows this process as many descriptors as it may allow itself: each connection has one, and
/// the usual soft limit of 1024 is there for programs that use select(2).
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(e) = setrlimit(Resource::Nofile, raised) {
        log::debug!("the limit of open files stays as it is: {e}");
    }
}

fn open_root(args: &Serve) -> Result<Fd, Failure> {
    let path = args.directory.display();
    let failed = |e: io::Error| Failure::io(format!("cannot open the directory {path}"), &e);
    let root = File::open(&args.directory).map_err(failed)?;
    if !root.metadata().map_err(failed)?.is_dir() {
        return Err(Failure::new(format!(
            "{path} is no directory: name the directory whose files are to be served"
        )));
    }
    Ok(Fd::new(root))
}

fn listen_options(threads: usize) -> ListenOptions {
    ListenOptions {
        reuse_port: threads > 1,
        ..ListenOptions::default()
    }
}

/// The first listening socket; and the socket's file, which goes with the guard.
fn listen(address: &Address, threads: usize) -> io::Result<(Fd, Option<super::SocketFile>)> {
    if let Address::Inet(_) = address
        && threads > 1
        && address::port(address) != Some(0)
    {
        // With SO_REUSEPORT, another process of ours that listens there would go unnoticed.
        drop(net::listen(address, &ListenOptions::default())?);
    }
    super::listen(address, &listen_options(threads))
}

/// Does a thread's work. Where that fails, or panics, all threads are to stop: they are of no use
/// without it.
fn or_stop(stop: &Stop, work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    struct Stops<'a>(&'a Stop);
    impl Drop for Stops<'_> {
        fn drop(&mut self) {
            self.0.request_once();
        }
    }
    let stops = Stops(stop);
    work()?;
    std::mem::forget(stops);
    Ok(())
}

/// One thread: a proactor and its server, until the stop.
fn serve(plan: &Plan, door: Door, ready: mpsc::Sender<BackendKind>) -> Result<(), Failure> {
    let proactor = super::proactor(plan.backend)?;
    let root = plan.root.clone();
    let options = plan.options.clone();
    let server = match door {
        Door::Own(address, listen) => {
            let server = Server::bind(&proactor, root, &address, &listen, options);
            server.map_err(|e| Failure::io(format!("cannot listen on {address}"), &e))?
        }
        Door::Shared(socket) => {
            let server = Server::from_socket(&proactor, root, socket, options);
            server.map_err(|e| Failure::io("cannot accept connections", &e))?
        }
    };
    plan.stop.wakes(&proactor);
    let _ = ready.send(proactor.backend());
    drop(ready);
    run_server(plan, &proactor, &server)
}

fn run_server(plan: &Plan, proactor: &Proactor, server: &Server) -> Result<(), Failure> {
    let turn = |timeout| {
        let turn = proactor.run_once(timeout);
        turn.map(drop)
            .map_err(|e| Failure::io("the loop can't go on", &e))
    };
    while plan.stop.requests() == 0 {
        turn(None)?;
    }
    server.stop();
    // A time that can't be told never comes.
    let end = Instant::now().checked_add(plan.stop_timeout);
    while server.connections() > 0 {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let asked_again = plan.stop.requests() > 1;
        if left.is_some_and(|left| left.is_zero()) || asked_again {
            let cut = server.connections();
            server.abort();
            // Their ends are told to them.
            turn(Some(Duration::ZERO))?;
            return Err(Failure::new(if asked_again {
                format!("stopped at once, by the second signal: {cut} connections were cut")
            } else {
                format!(
                    "stopped after {:?} (--stop-timeout): {cut} connections were cut",
                    plan.stop_timeout
                )
            }));
        }
        turn(left)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_fails_stops_all() {
        let stop = Stop::default();
        assert!(or_stop(&stop, || Ok(())).is_ok());
        assert_eq!(stop.requests(), 0);
        let panics = std::panic::AssertUnwindSafe(|| or_stop(&stop, || panic!("on purpose")));
        assert!(std::panic::catch_unwind(panics).is_err());
        assert_eq!(stop.requests(), 1);
        // Others that fail by that do not ask once more.
        assert!(or_stop(&stop, || Err(Failure::new("on purpose"))).is_err());
        assert_eq!(stop.requests(), 1);
    }
}
