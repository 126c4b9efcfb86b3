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
