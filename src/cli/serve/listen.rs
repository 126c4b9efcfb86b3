//! The listening sockets: one for each thread, bound before the process gives up its rights, or
//! given to it by who started it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use listenfd::ListenFd;

use crate::cli::address;
use crate::cli::args::Serve;
use crate::cli::error::Failure;
use crate::cli::operation::Operation;
use crate::cli::{SocketFile, listen};
use crate::proactor::net::{self, ListenOptions};
use crate::proactor::{Address, Fd};

use super::user;

/// Where connections come from.
pub(super) struct Doors {
    /// One for each thread: its own, or the same socket again.
    pub(super) sockets: Vec<Fd>,
    pub(super) bound: Address,
    /// The Unix socket's file, removed at the end.
    pub(super) file: Option<SocketFile>,
}

/// Listens, for so many threads; on the sockets that systemd passes, where it does
/// (sd_listen_fds(3)).
pub(super) fn open(args: &Serve, threads: usize) -> Result<Doors, Failure> {
    match inherited()? {
        sockets if sockets.is_empty() => bind(args, threads),
        sockets => {
            if is_for_file(&args.operation) && !scrapers_have_file(&args.operation) {
                log::warn!(
                    "--socket-mode and --socket-owner do nothing here: the socket was passed, and its \
                     unit says whose it is (SocketMode=, SocketUser=)"
                );
            }
            share(sockets, threads)
        }
    }
}

/// The sockets that were passed to this process.
fn inherited() -> Result<Vec<Fd>, Failure> {
    let mut passed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        let failed = |e: &io::Error| {
            Failure::new(format!(
                "the socket {index} of LISTEN_FDS can't be used: {e}; a socket unit needs \
                 ListenStream="
            ))
        };
        let tcp = passed.take_tcp_listener(index);
        let socket = match tcp {
            Ok(socket) => socket.map(OwnedFd::from),
            Err(_) => {
                let unix = passed.take_unix_listener(index);
                unix.map_err(|e| failed(&e))?.map(OwnedFd::from)
            }
        };
        let Some(socket) = socket else { continue };
        let socket = Fd::new(socket);
        if !net::is_listening(&socket) {
            return Err(failed(&io::Error::other("it does not listen")));
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

/// Spreads sockets over the threads; each is somebody's.
fn share(sockets: Vec<Fd>, threads: usize) -> Result<Doors, Failure> {
    if sockets.len() > threads {
        let count = sockets.len();
        return Err(Failure::usage(format!(
            "{count} sockets were passed for {threads} threads: use --threads {count} or more"
        )));
    }
    let failed = |e: io::Error| Failure::io("the passed socket has no address", &e);
    let bound = net::local_address(&sockets[0]).map_err(failed)?;
    Ok(Doors {
        sockets: sockets.iter().cycle().take(threads).cloned().collect(),
        bound,
        file: None,
    })
}

fn bind(args: &Serve, threads: usize) -> Result<Doors, Failure> {
    let address = address::resolve(&args.listen)?.swap_remove(0);
    let failed = |e: io::Error| cannot_listen(&args.listen, &address, &e);
    let options = ListenOptions {
        reuse_port: threads > 1,
        ..ListenOptions::default()
    };
    if let Address::Inet(_) = address
        && threads > 1
        && address::port(&address) != Some(0)
    {
        // With SO_REUSEPORT, another process of ours that listens there would go unnoticed.
        drop(net::listen(&address, &ListenOptions::default()).map_err(failed)?);
    }
    let (socket, file) = listen(&address, &options).map_err(failed)?;
    match &file {
        Some(file) => give(&args.operation, file.path())?,
        None if is_for_file(&args.operation) && !scrapers_have_file(&args.operation) => {
            return Err(Failure::usage(format!(
                "--socket-mode and --socket-owner are for a Unix socket's file, and {} has none: \
                 use --listen unix:PATH",
                args.listen
            )));
        }
        None => {}
    }
    let bound = net::local_address(&socket).map_err(failed)?;
    let mut sockets = vec![socket.clone()];
    for _ in 1..threads {
        sockets.push(match &bound {
            Address::Inet(_) => net::listen(&bound, &options).map_err(failed)?,
            Address::Unix(_) => socket.clone(),
        });
    }
    Ok(Doors {
        sockets,
        bound,
        file,
    })
}

fn cannot_listen(text: &str, address: &Address, error: &io::Error) -> Failure {
    let what = format!("cannot listen on {text}");
    match address::port(address) {
        Some(port) if error.kind() == io::ErrorKind::PermissionDenied => {
            // Linux's own limit, and what it is unless somebody has changed it.
            let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
            let first = first.ok().and_then(|text| text.trim().parse().ok());
            let first = first.unwrap_or(1024_u16).max(port.saturating_add(1));
            Failure::new(format!(
                "{what}: {error}; ports below {first} are for root: choose one from there on, \
                 start it as root with --user, or have systemd pass the socket"
            ))
        }
        _ => Failure::io(what, error),
    }
}

/// Whether something is asked for that only a socket's file can have.
fn is_for_file(operation: &Operation) -> bool {
    operation.socket_mode.is_some() || operation.socket_owner.is_some()
}

fn scrapers_have_file(operation: &Operation) -> bool {
    let address = operation.metrics.as_deref().unwrap_or_default();
    address.starts_with("unix:") && !address.starts_with("unix:@")
}

/// Gives a Unix socket's file the owner and the mode that are asked for.
pub(super) fn give(operation: &Operation, path: &Path) -> Result<(), Failure> {
    let failed = |what: &str, e: io::Error| {
        Failure::io(
            format!("cannot change the {what} of {}", path.display()),
            &e,
        )
    };
    if let Some(owner) = &operation.socket_owner {
        let account = user::find("--socket-owner", owner)?;
        let (uid, gid) = (account.uid().as_raw(), account.gid().as_raw());
        chown(path, Some(uid), Some(gid)).map_err(|e| failed("owner", e))?;
    }
    if let Some(mode) = operation.socket_mode {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, mode).map_err(|e| failed("mode", e))?;
    }
    Ok(())
}
