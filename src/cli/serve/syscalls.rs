//! The system calls that serving needs, on either backend; all others give `ENOSYS`, for which the
//! C library and the proactor have their other ways.
//!
//! No program is executed, no process made, no socket but a local one (which tells the service
//! manager how we are). What a call may name is [Landlock's](super::sandbox) to say.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Is,
    SeccompCondition as Condition, SeccompFilter, SeccompRule as Rule, apply_filter_all_threads,
};

/// Allowed with any arguments.
const ALLOWED: &[i64] = &[
    // Bytes.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_tee,
    libc::SYS_pipe2,
    // Files.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_fadvise64,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_unlinkat,
    // Uploads.
    libc::SYS_linkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    CACHESTAT,
    // Connections that there are, or that come.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    // Local sockets are all that can be made: see below.
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // Waiting.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_ppoll,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    // Threads and memory.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_membarrier,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    // What newer architectures do without.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
];

/// cachestat(2), Linux 6.5: the same number on every architecture.
const CACHESTAT: i64 = 451;

/// Lets this process make no other calls from now on, in all of its threads.
///
/// # Errors
/// The kernel has no seccomp, or this architecture has no filter.
pub(super) fn restrict() -> Result<(), Error> {
    apply_filter_all_threads(&program()?)
}

fn program() -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<Rule>> = ALLOWED.iter().map(|call| (*call, vec![])).collect();
    let thread = libc::CLONE_THREAD as u64;
    let new_thread = Condition::new(0, Len::Qword, Is::MaskedEq(thread), thread)?;
    // The flags of clone3(2) are in memory, which no filter sees: without it, it is clone(2).
    rules.insert(libc::SYS_clone, vec![Rule::new(vec![new_thread])?]);
    let local = libc::AF_UNIX as u64;
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        let local = Condition::new(0, Len::Dword, Is::Eq, local)?;
        rules.insert(call, vec![Rule::new(vec![local])?]);
    }
    SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::ENOSYS as u32),
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

// Miri has no seccomp.
#[cfg(all(test, not(miri)))]
mod tests {
    use std::io;
    use std::net::TcpListener;
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_serving_does_not_need_is_unknown() {
        // In a thread of its own, which alone has the filter.
        let filtered = std::thread::spawn(|| {
            seccompiler::apply_filter(&program().unwrap()).unwrap();
            let unknown = |result: Option<io::Error>, what: &str| {
                let errno = result.and_then(|e| e.raw_os_error());
                assert_eq!(errno, Some(libc::ENOSYS), "{what}");
            };
            unknown(Command::new("/bin/true").spawn().err(), "a program");
            unknown(TcpListener::bind("127.0.0.1:0").err(), "a TCP socket");
            let made = rustix::fs::mkdirat(rustix::fs::CWD, "/none", 0o700.into());
            unknown(made.err().map(Into::into), "a directory");
            unknown(std::os::unix::fs::chroot("/").err(), "another root");
            // What it does need.
            assert!(UnixDatagram::unbound().is_ok());
            assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
        });
        filtered.join().expect("it holds");
    }
}
