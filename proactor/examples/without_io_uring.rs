//! Runs a program to which io_uring is denied, as containers' seccomp profiles do:
//!
//! ```sh
//! cargo run -p spliceport-proactor --example without_io_uring -- EPERM spliceport probe
//! ```
//!
//! `EPERM` is Docker's answer, `ENOSYS` podman's.

use std::error::Error;
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let errno = match args.next().as_deref().and_then(|a| a.to_str()) {
        Some("EPERM") => libc::EPERM,
        Some("ENOSYS") => libc::ENOSYS,
        _ => return Err("usage: without_io_uring EPERM|ENOSYS PROGRAM [ARGUMENT ...]".into()),
    };
    let program = args.next().ok_or("no program named")?;
    let denied = [
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
    ];
    let filter = SeccompFilter::new(
        denied.into_iter().map(|call| (call, Vec::new())).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    let program_of_filter: BpfProgram = filter.try_into()?;
    apply_filter(&program_of_filter)?;
    let error = Command::new(&program).args(args).exec();
    Err(format!("{}: {error}", program.to_string_lossy()).into())
}
