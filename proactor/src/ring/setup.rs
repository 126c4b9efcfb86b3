//! Opening the ring: flags from the newest kernel's downwards, what the kernel offers, and whether
//! a refusal means "not here" or "not now".

use std::io;

use io_uring::{IoUring, opcode, register};

use crate::builder::Builder;
use crate::probe::Feature;

use super::queues::Queues;

/// Why a ring could not be opened.
pub(crate) enum OpenError {
    /// io_uring can't be had here: another backend may do.
    Unavailable(io::Error),
    /// Something has run out: an error on every backend.
    Exhausted(io::Error),
}

impl OpenError {
    fn from_setup(error: io::Error) -> OpenError {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => OpenError::Exhausted(error),
            _ => OpenError::Unavailable(error),
        }
    }
}

/// Optional features that change how operations are run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    pub(super) multishot_accept: bool,
    pub(super) multishot_recv: bool,
    pub(super) skip_success: bool,
    /// What completes waits for the loop to enter the kernel.
    pub(super) deferred: bool,
}

type Setup = fn(&mut io_uring::Builder);

/// What is asked for, newest first. Each kernel takes the first that it knows.
///
/// `DEFER_TASKRUN` slows linked chains (their completions wait for the loop to enter the kernel)
/// and speeds small requests. It is asked for because chains carry cold data here, where a disk is
/// what takes the time, and small requests are the many.
const SETUPS: [(&str, Setup); 4] = [
    ("deferred task work, no SQ array (6.6)", |b| {
        deferred(b);
        b.setup_no_sqarray();
    }),
    ("deferred task work (6.1)", deferred),
    ("cooperative task work (5.19)", |b| {
        b.setup_coop_taskrun().setup_taskrun_flag();
        b.setup_submit_all();
    }),
    ("plain (5.10)", |_| {}),
];

fn deferred(b: &mut io_uring::Builder) {
    b.setup_single_issuer().setup_defer_taskrun();
    b.setup_taskrun_flag().setup_submit_all();
}

/// Completions may outnumber submissions by far: each multishot operation makes many.
const CQ_FACTOR: u32 = 8;

pub(super) fn open(settings: &Builder) -> Result<(Queues, Found, Vec<Feature>), OpenError> {
    #[cfg(feature = "simulation")]
    if let Some(new) = crate::sim::new_ring() {
        let found = Found {
            multishot_accept: new,
            multishot_recv: new,
            skip_success: new,
            deferred: false,
        };
        let ring = crate::sim::Ring::new(settings.entries);
        return Ok((Queues::Simulated(ring), found, Vec::new()));
    }
    let (ring, name) = setup(settings.entries)?;
    log::debug!("ring opened: {name}");
    let (found, features) = examine(&ring, name, settings)?;
    check_enter(&ring)?;
    Ok((Queues::Kernel(ring), found, features))
}

/// A ring with deferred task work, to try the kernel out.
pub(super) fn open_small() -> io::Result<Queues> {
    let mut builder = IoUring::builder();
    deferred(&mut builder);
    builder.build(2).map(Queues::Kernel)
}

fn setup(entries: u32) -> Result<(IoUring, &'static str), OpenError> {
    let mut entries = entries;
    loop {
        let mut last = io::Error::from_raw_os_error(libc::EINVAL);
        for (name, setup) in SETUPS {
            let mut builder = IoUring::builder();
            builder.setup_cqsize(entries * CQ_FACTOR).setup_clamp();
            builder.dontfork();
            setup(&mut builder);
            match builder.build(entries) {
                Ok(ring) => return Ok((ring, name)),
                // A kernel that doesn't know a flag.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => last = e,
                Err(e) => {
                    last = e;
                    break;
                }
            }
        }
        // Before 5.12, and on 6.18 again, the ring of a user without privileges counts towards
        // RLIMIT_MEMLOCK: a smaller one may fit.
        if last.raw_os_error() == Some(libc::ENOMEM) && entries > 32 {
            entries /= 4;
            continue;
        }
        return Err(OpenError::from_setup(last));
    }
}

/// The operations that the backend can't do without.
const NEEDED: [(&str, u8); 12] = [
    ("SPLICE", opcode::Splice::CODE),
    ("SEND", opcode::Send::CODE),
    ("SENDMSG", opcode::SendMsg::CODE),
    ("RECV", opcode::Recv::CODE),
    ("ACCEPT", opcode::Accept::CODE),
    ("CONNECT", opcode::Connect::CODE),
    ("POLL_ADD", opcode::PollAdd::CODE),
    ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
    ("OPENAT2", opcode::OpenAt2::CODE),
    ("READ", opcode::Read::CODE),
    ("WRITE", opcode::Write::CODE),
    ("WRITEV", opcode::Writev::CODE),
];

/// Refuses a kernel that lacks one of these.
fn check_operations(is_supported: impl Fn(u8) -> bool) -> Result<(), OpenError> {
    match NEEDED.iter().find(|(_, code)| !is_supported(*code)) {
        Some((name, _)) => Err(lacks(&format!("the operation IORING_OP_{name}"))),
        None => Ok(()),
    }
}

/// Finds out what there is; refuses a kernel that lacks what the backend can't do without.
fn examine(
    ring: &IoUring,
    setup: &'static str,
    settings: &Builder,
) -> Result<(Found, Vec<Feature>), OpenError> {
    let params = ring.params();
    let mut probe = register::Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|e| refused("IORING_REGISTER_PROBE", &e))?;
    check_operations(|code| probe.is_supported(code))?;
    for (name, found) in [
        ("IORING_FEAT_NODROP", params.is_feature_nodrop()),
        ("IORING_FEAT_FAST_POLL", params.is_feature_fast_poll()),
        ("IORING_FEAT_RW_CUR_POS", params.is_feature_rw_cur_pos()),
    ] {
        if !found {
            return Err(lacks(name));
        }
    }
    let workers = u32::try_from(settings.workers).unwrap_or(u32::MAX);
    let capped = ring
        .submitter()
        .register_iowq_max_workers(&mut [workers, workers])
        .is_ok();
    // Flags of an operation can't be probed; operations of the same kernel can.
    let since_5_19 = probe.is_supported(opcode::Socket::CODE);
    let since_6_0 = probe.is_supported(opcode::SendZc::CODE);
    let found = Found {
        multishot_accept: since_5_19,
        multishot_recv: since_6_0,
        skip_success: params.is_feature_skip_cqe_on_success(),
        deferred: setup.starts_with("deferred"),
    };
    let feature = |name, since, found, used_for| Feature {
        name,
        since,
        found,
        used_for,
    };
    let features = vec![
        feature("SPLICE", "5.7", true, "file → pipe → socket chains"),
        feature("FAST_POLL", "5.7", true, "sockets pend without a worker"),
        feature("OPENAT2", "5.6", true, "opening below a directory"),
        feature(
            "IOWQ_MAX_WORKERS",
            "5.15",
            capped,
            "a bound on the kernel's workers",
        ),
        feature(
            "CQE_SKIP_SUCCESS",
            "5.17",
            found.skip_success,
            "no completion for a wait that a drain follows",
        ),
        feature(
            "COOP_TASKRUN",
            "5.19",
            !setup.starts_with("plain"),
            "no interrupts of the loop for completions",
        ),
        feature(
            "ACCEPT_MULTISHOT",
            "5.19",
            since_5_19,
            "one operation for many connections",
        ),
        feature(
            "PBUF_RING",
            "5.19",
            since_5_19,
            "buffers only for connections that receive",
        ),
        feature(
            "RECV_MULTISHOT",
            "6.0",
            since_6_0,
            "one operation for a connection's receives",
        ),
        feature(
            "DEFER_TASKRUN",
            "6.1",
            found.deferred,
            "completions in batches, when the loop asks",
        ),
        feature(
            "NO_SQARRAY",
            "6.6",
            setup.contains("no SQ array"),
            "cheaper submissions",
        ),
    ];
    Ok((found, features))
}

/// A seccomp filter may let the set-up through and not the rest.
fn check_enter(ring: &IoUring) -> Result<(), OpenError> {
    ring.submit()
        .map(drop)
        .map_err(|e| refused("io_uring_enter", &e))
}

fn refused(call: &str, error: &io::Error) -> OpenError {
    let kind = error.kind();
    OpenError::Unavailable(io::Error::new(kind, format!("{call} was refused: {error}")))
}

fn lacks(what: &str) -> OpenError {
    OpenError::Unavailable(io::Error::new(
        io::ErrorKind::Unsupported,
        format!("this kernel's io_uring lacks {what}; Linux 5.10 has all that is needed"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_that_is_needed_is_missed() {
        assert!(check_operations(|_| true).is_ok());
        for (name, missing) in NEEDED {
            let Err(OpenError::Unavailable(error)) = check_operations(|code| code != missing)
            else {
                panic!("{name} was not missed");
            };
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
            let said = error.to_string();
            assert!(said.contains(&format!("IORING_OP_{name};")), "{said}");
        }
    }
}
