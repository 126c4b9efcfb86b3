//! The few calls that std has no name for.

use std::fs::File;
use std::os::fd::FromRawFd;

pub fn eventfd() -> File {
    // SAFETY: the kernel makes a descriptor that is ours alone.
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
        assert!(fd >= 0);
        File::from_raw_fd(fd)
    }
}

pub fn memory_file() -> File {
    // SAFETY: the name is a C string; the kernel makes a descriptor that is ours alone.
    unsafe {
        let fd = libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0);
        File::from_raw_fd(fd)
    }
}

/// As many descriptors as may be, at least so many.
pub fn raise_descriptor_limit(wanted: u64) {
    set_soft_limit(libc::RLIMIT_NOFILE, 2 * wanted);
    assert!(set_soft_limit(libc::RLIMIT_NOFILE, 2 * wanted) >= wanted);
}

/// A field of a TCP socket's `struct tcp_info` (linux/tcp.h), at its place in bytes.
fn tcp_info(socket: &impl std::os::fd::AsRawFd, at: usize) -> u32 {
    let mut info = [0_u32; 64];
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to the array.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    assert_eq!(result, 0);
    assert!(len as usize > at, "this kernel does not tell");
    info[at / 4]
}

/// Segments that a TCP socket has sent and the peer has not acknowledged.
pub fn segments_in_flight(socket: &impl std::os::fd::AsRawFd) -> u32 {
    tcp_info(socket, 24)
}

/// Bytes that a TCP socket has taken and not sent.
pub fn bytes_not_sent(socket: &impl std::os::fd::AsRawFd) -> u32 {
    tcp_info(socket, 144)
}

/// Segments with data that a TCP socket has received.
pub fn data_segments_received(socket: &impl std::os::fd::AsRawFd) -> u32 {
    tcp_info(socket, 152)
}

/// Takes a file that has been written to the disk out of the page cache.
pub fn forget_cached(file: &File) {
    use std::os::fd::AsRawFd;
    // SAFETY: takes and touches no memory.
    let result = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(result, 0);
}

pub fn make_fifo(path: &std::path::Path) {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is a C string.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

/// Makes these system calls of this thread, and of those that it starts, fail from now on.
pub fn refuse(calls: &[i64], errno: i32) {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let filter = SeccompFilter::new(
        calls.iter().map(|call| (*call, Vec::new())).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// Makes this process one of a user without privileges whom nobody else is. For a process of its
/// own.
pub fn become_nobody() {
    let user = 1_000_000 + std::process::id();
    // SAFETY: plain calls; the group first, while it is allowed.
    unsafe {
        assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
        assert_eq!(libc::setresgid(user, user, user), 0);
        assert_eq!(libc::setresuid(user, user, user), 0);
    }
}

/// Whether this is root, who may do what the test needs; says so if not.
pub fn is_root(what: &str) -> bool {
    // SAFETY: takes nothing and can't fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        super::not_run(format_args!("{what} takes root"));
    }
    root
}

/// Sets the soft limit of a resource of this process; returns what it was.
pub fn set_soft_limit(resource: libc::__rlimit_resource_t, to: u64) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: reads and writes the struct on this stack frame.
    unsafe {
        assert_eq!(libc::getrlimit(resource, &raw mut limit), 0);
        let before = limit.rlim_cur;
        limit.rlim_cur = to.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(resource, &raw const limit), 0);
        before
    }
}

/// A pipe's size in bytes, or a new one where `wanted` is given; `None` where that is refused.
pub fn pipe_size(pipe: &impl std::os::fd::AsRawFd, wanted: Option<i32>) -> Option<i32> {
    // SAFETY: takes and touches no memory.
    let size = unsafe {
        match wanted {
            Some(size) => libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, size),
            None => libc::fcntl(pipe.as_raw_fd(), libc::F_GETPIPE_SZ),
        }
    };
    (size >= 0).then_some(size)
}

/// Takes at most `len` bytes of a stream and throws them away, uncopied where the kernel can.
pub fn discard(from: &impl std::os::fd::AsRawFd, len: u64) -> std::io::Result<u64> {
    static NOWHERE: std::sync::OnceLock<File> = std::sync::OnceLock::new();
    let nowhere = NOWHERE.get_or_init(|| File::options().write(true).open("/dev/null").unwrap());
    let (from, len) = (from.as_raw_fd(), len.min(1 << 30) as usize);
    // SAFETY: with `MSG_TRUNC` a TCP socket's bytes are dropped and no memory is touched; splice(2)
    // is given no offsets.
    let n = unsafe {
        let n = libc::recv(from, std::ptr::null_mut(), len, libc::MSG_TRUNC);
        if n >= 0 {
            n
        } else {
            use std::os::fd::AsRawFd;
            let (none, to) = (std::ptr::null_mut(), nowhere.as_raw_fd());
            libc::splice(from, none, to, none, len, 0)
        }
    };
    u64::try_from(n).map_err(|_| std::io::Error::last_os_error())
}

/// Has a signal counted and nothing else: the calls that it interrupts are not restarted. For a
/// process of its own.
pub fn count_signal(signal: i32, counter: &'static std::sync::atomic::AtomicUsize) {
    use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
    static COUNTER: AtomicPtr<AtomicUsize> = AtomicPtr::new(std::ptr::null_mut());
    extern "C" fn count(_: i32) {
        // SAFETY: set below, before there is a handler, to what lives for ever.
        let counter = unsafe { &*COUNTER.load(Ordering::Relaxed) };
        counter.fetch_add(1, Ordering::Relaxed);
    }
    COUNTER.store((&raw const *counter).cast_mut(), Ordering::SeqCst);
    // SAFETY: the handler does nothing that a signal handler may not do; `sa_flags` of 0 restarts
    // no call.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count as extern "C" fn(i32) as usize;
        assert_eq!(
            libc::sigaction(signal, &raw const action, std::ptr::null_mut()),
            0
        );
    }
}

/// Lets a signal do what it does by default. For a process of its own.
pub fn default_signal(signal: i32) {
    // SAFETY: no handler of ours is involved.
    let before = unsafe { libc::signal(signal, libc::SIG_DFL) };
    assert_ne!(before, libc::SIG_ERR);
}

pub fn this_thread() -> libc::pthread_t {
    // SAFETY: takes nothing and can't fail.
    unsafe { libc::pthread_self() }
}

/// Sends a signal to a thread, which must not have ended.
pub fn signal_thread(thread: libc::pthread_t, signal: i32) {
    // SAFETY: the caller keeps the thread from ending.
    let result = unsafe { libc::pthread_kill(thread, signal) };
    assert_eq!(result, 0);
}

/// Whether `TCP_CORK` is on.
pub fn is_corked(socket: &impl std::os::fd::AsRawFd) -> bool {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into the value on this stack frame.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CORK,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    assert_eq!(result, 0);
    value != 0
}
