//! [`Probe`]: which backend runs, why, and what this system offers, in words to act upon.

use std::fs;
use std::io;

use crate::proactor::BackendKind;

/// What was found when the backend was chosen.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Probe {
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// The backend that runs.
    pub backend: BackendKind,
    /// Why that one, in a sentence.
    pub reason: String,
    /// Why io_uring could not be had, if it was tried and refused.
    pub ring_refused: Option<Refusal>,
    /// What io_uring offers here; empty where it could not be had.
    pub features: Vec<Feature>,
    /// Limits that bear on what a server can do.
    pub limits: Limits,
}

/// Why io_uring could not be had.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What happened: the call and its error.
    pub what: String,
    /// What a person can do about it.
    pub advice: String,
}

/// One thing that a kernel may or may not offer.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// Its name, as liburing's documentation has it.
    pub name: &'static str,
    /// The first kernel with it.
    pub since: &'static str,
    /// Whether it is there.
    pub found: bool,
    /// What it is used for here.
    pub used_for: &'static str,
}

/// Limits of the system and the process; `None` where there is none or it can't be read.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Limits {
    /// RLIMIT_MEMLOCK (soft), in bytes: rings of users without privileges count towards it before
    /// Linux 5.12, and again in newer ones (seen on 6.18).
    pub memlock: Option<u64>,
    /// RLIMIT_NOFILE (soft): descriptors.
    pub open_files: Option<u64>,
    /// `fs.pipe-max-size`, in bytes.
    pub pipe_max_size: Option<u64>,
    /// `fs.pipe-user-pages-soft`, in pages over all of a user's pipes; 0 means no limit.
    pub pipe_user_pages_soft: Option<u64>,
    /// `kernel.io_uring_disabled`: 0 for all, 1 for the privileged, 2 for no one.
    pub io_uring_disabled: Option<u64>,
}

impl Limits {
    /// Reads them.
    pub fn read() -> Limits {
        let sysctl = |path: &str| {
            let text = fs::read_to_string(format!("/proc/sys/{path}")).ok()?;
            text.trim().parse().ok()
        };
        Limits {
            memlock: crate::sys::soft_limit(libc::RLIMIT_MEMLOCK),
            open_files: crate::sys::soft_limit(libc::RLIMIT_NOFILE),
            pipe_max_size: sysctl("fs/pipe-max-size"),
            pipe_user_pages_soft: sysctl("fs/pipe-user-pages-soft"),
            io_uring_disabled: sysctl("kernel/io_uring_disabled"),
        }
    }
}

/// The kernel's release.
pub(crate) fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|s| s.trim().to_owned())
        .unwrap_or_else(|_| "unknown".to_owned())
}

/// What to tell a person about io_uring_setup(2)'s error.
pub(crate) fn refusal(error: &io::Error, limits: &Limits) -> Refusal {
    let disabled = limits.io_uring_disabled.unwrap_or(0);
    let advice = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if disabled == 2 => {
            "the sysctl kernel.io_uring_disabled is 2 (off for everyone); an administrator can \
             set it to 0"
                .to_owned()
        }
        Some(libc::EPERM | libc::EACCES) if disabled == 1 => {
            "the sysctl kernel.io_uring_disabled is 1 (privileged processes alone); set it to 0, \
             or let this process's group be kernel.io_uring_group"
                .to_owned()
        }
        Some(libc::EPERM | libc::EACCES) => {
            "a seccomp filter or security module denies it, as Docker's default profile does: \
             allow io_uring_setup, io_uring_enter and io_uring_register in the profile"
                .to_owned()
        }
        Some(libc::ENOSYS) => {
            "this kernel has no io_uring (it came with Linux 5.1), or a container's seccomp \
             profile hides it, as podman's does: allow io_uring_setup, io_uring_enter and \
             io_uring_register in the profile"
                .to_owned()
        }
        Some(libc::ENOMEM) => format!(
            "the ring's memory counts towards RLIMIT_MEMLOCK on this kernel, which is {}: raise \
             it (ulimit -l, LimitMEMLOCK=), or ask for fewer entries",
            limits
                .memlock
                .map_or("unlimited".to_owned(), |n| format!("{n} bytes"))
        ),
        _ => "see io_uring_setup(2)".to_owned(),
    };
    Refusal {
        what: format!("io_uring_setup: {error}"),
        advice,
    }
}
