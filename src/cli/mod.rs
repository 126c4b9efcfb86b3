//! The program's command line.

mod address;
mod args;
mod content;
mod error;
mod line_queue;
mod messages;
mod operation;
mod probe;
mod progress;
mod receive;
mod send;
mod serve;
mod settings;
mod signals;

use std::cell::RefCell;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::proactor::net::{self, ListenOptions};
use crate::proactor::{Address, BackendChoice, Fd, Proactor};

use args::Command;
use error::Failure;
use settings::Refused;
use signals::Stop;

/// Runs the program with the process's arguments. The exit code is 0 for success, 1 for a
/// failure, 2 for a wrong call.
pub fn main() -> ExitCode {
    let call: Vec<_> = std::env::args_os().collect();
    let read = settings::read(&call);
    messages::begin();
    let (args, settings) = match read {
        Ok(read) => read,
        // Help is no error: clap knows.
        Err(Refused::Call(error)) => error.exit(),
        Err(Refused::File(failure)) => return end(Err(failure)),
    };
    end(match &args.command {
        Command::Serve(serve) => serve::run(serve, settings, call),
        Command::Send(send) => send::run(send),
        Command::Receive(receive) => receive::run(receive),
        Command::Probe(probe) => probe::run(probe),
    })
}

fn end(done: Result<(), Failure>) -> ExitCode {
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            messages::say(&format!("error: {failure}\n"));
            ExitCode::from(failure.code())
        }
    };
    messages::finish();
    code
}

/// A proactor for this thread.
fn proactor(backend: BackendChoice) -> Result<Proactor, Failure> {
    Proactor::builder()
        .backend(backend)
        .build()
        .map_err(|e| match backend {
            BackendChoice::Ring => Failure::new(format!(
                "io_uring can't be used: {e} (--backend auto or emulated works without it)"
            )),
            _ => Failure::new(format!("the loop can't be started: {e}")),
        })
}

/// Runs a loop until there is a result. The first request to stop cancels, the second ends it at
/// once.
fn run_to_end<T>(
    proactor: &Proactor,
    stop: &Stop,
    result: &RefCell<Option<io::Result<T>>>,
    cancel: impl Fn(),
) -> io::Result<T> {
    let mut cancelled = false;
    loop {
        if let Some(result) = result.borrow_mut().take() {
            return result;
        }
        match stop.requests() {
            0 => {}
            1 if cancelled => {}
            1 => {
                cancelled = true;
                cancel();
                continue;
            }
            _ => {
                if !cancelled {
                    cancel();
                }
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        proactor.run_once(None)?;
    }
}

/// The file of a Unix socket that this process listens on; removed in the end.
struct SocketFile(PathBuf);

impl SocketFile {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.0) {
            log::warn!("{} can't be removed: {e}", self.0.display());
        }
    }
}

/// Listens. A Unix socket's file that nobody listens on any more gives way.
fn listen(address: &Address, options: &ListenOptions) -> io::Result<(Fd, Option<SocketFile>)> {
    let Address::Unix(unix) = address else {
        return Ok((net::listen(address, options)?, None));
    };
    let Some(path) = unix.as_pathname() else {
        return Ok((net::listen(address, options)?, None));
    };
    let socket = match net::listen(address, options) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
            std::fs::remove_file(path)?;
            net::listen(address, options)
        }
        other => other,
    }?;
    Ok((socket, Some(SocketFile(path.to_owned()))))
}

/// Whether a path is a socket's, and whoever made it is gone.
fn is_abandoned(path: &Path) -> bool {
    let is_socket = path
        .symlink_metadata()
        .is_ok_and(|m| m.file_type().is_socket());
    let refuses = |e: io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).is_err_and(refuses)
}
